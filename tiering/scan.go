package tiering

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"

	"github.com/firnlog/firn/record"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// blockHash checksums the data of an object block by block as it goes by.
type blockHash struct {
	block int
	n     int64 // bytes so far
	cur   uint32
	sums  []uint32 // of the whole blocks so far
}

func (h *blockHash) write(p []byte) {
	for len(p) > 0 {
		k := min(len(p), h.block-int(h.n%int64(h.block)))
		h.cur = crc32.Update(h.cur, castagnoli, p[:k])
		h.n += int64(k)
		p = p[k:]
		if h.n%int64(h.block) == 0 {
			h.sums, h.cur = append(h.sums, h.cur), 0
		}
	}
}

func (h *blockHash) finish() []uint32 {
	if h.n%int64(h.block) != 0 {
		return append(h.sums, h.cur)
	}
	return h.sums
}

// scanned is a run as it was read from the local log: what its section says,
// and where its bytes are in the local file.
type scanned struct {
	run  *Run
	data io.ReaderAt
	skip int64 // bytes of the file before the run
	last record.Epoch
}

// scanner walks the batches of one segment, checks each and builds the run's
// indexes from what it sees: the local indexes are not trusted.
type scanner struct {
	s         *scanned
	h         *blockHash
	indexAt   int64 // position from which the next index entry is due
	maxBefore int64 // greatest timestamp so far
	maxBase   int64 // position of the batch that brought it
	maxLen    int64
}

// maxBatch bounds one batch read for checking, in bytes.
const maxBatch = 1 << 30

// scan checks every batch of f that ends at from or later: lengths, order of
// offsets, checksums. record.ErrCorrupt (wrapped) when one is bad. The run's
// position is where h stands.
func scan(f *record.SealedFiles, tp record.TopicPartition, id record.TopicID, from record.Offset, h *blockHash) (*scanned, error) {
	s := &scanned{data: f.Data, run: &Run{
		Topic: tp.Topic, TopicID: id, Partition: tp.Partition, Base: max(from, f.Base), End: f.End,
		MaxTimestamp: -1, MaxTSOffset: -1, Position: h.n, Block: h.block,
		Aborted: f.Aborted, Epochs: f.Epochs, Producers: f.Producers,
	}}
	sc := &scanner{s: s, h: h, maxBefore: -1}
	buf := make([]byte, 0, 1<<20)
	next := f.Base
	for pos := int64(0); pos < f.Bytes; {
		var err error
		if buf, err = fill(buf, f, pos, record.HeaderSize); err != nil {
			return nil, segErr(tp, f, pos, err)
		}
		head, err := record.ParseHeader(buf)
		if err != nil {
			return nil, segErr(tp, f, pos, err)
		}
		n := head.Size()
		if n > f.Bytes-pos || n > maxBatch {
			return nil, segErr(tp, f, pos, fmt.Errorf("%w: batch of %d bytes, %d are left", record.ErrShort, n, f.Bytes-pos))
		}
		if buf, err = fill(buf, f, pos, int(n)); err != nil {
			return nil, segErr(tp, f, pos, err)
		}
		b := record.Batch(buf[:n])
		if err := b.CheckCRC(); err != nil {
			return nil, segErr(tp, f, pos, err)
		}
		if b.BaseOffset() < next || b.LastOffset() >= f.End {
			return nil, segErr(tp, f, pos, fmt.Errorf("%w: batch of offsets [%d, %d] where [%d, %d) is left", record.ErrCorrupt, b.BaseOffset(), b.LastOffset(), next, f.End))
		}
		next = b.LastOffset() + 1
		if next <= from {
			s.skip = pos + n
		} else if b.BaseOffset() < from {
			return nil, segErr(tp, f, pos, fmt.Errorf("%w: offset %d, up to which the log is tiered, is inside of the batch of [%d, %d]", record.ErrCorrupt, from, b.BaseOffset(), b.LastOffset()))
		} else {
			sc.batch(b)
		}
		pos += n
		buf = buf[:copy(buf, buf[n:])]
	}
	if s.run.Batches == 0 {
		return nil, segErr(tp, f, f.Bytes, fmt.Errorf("%w: no batch from offset %d on", record.ErrCorrupt, from))
	}
	return s, sc.finish()
}

func segErr(tp record.TopicPartition, f *record.SealedFiles, pos int64, err error) error {
	return fmt.Errorf("segment %d of %v, byte %d: %w", f.Base, tp, pos, err)
}

// fill makes buf, which begins at byte pos of the segment, n bytes long at
// least, reading ahead as far as its room goes.
func fill(buf []byte, f *record.SealedFiles, pos int64, n int) ([]byte, error) {
	if len(buf) >= n {
		return buf, nil
	}
	if int64(n) > f.Bytes-pos {
		return buf, fmt.Errorf("%w: %d bytes wanted, %d are left", record.ErrShort, n, f.Bytes-pos)
	}
	if cap(buf) < n {
		buf = append(make([]byte, 0, n+n/4), buf...)
	}
	have := len(buf)
	want := int(min(int64(cap(buf)), f.Bytes-pos))
	buf = buf[:want]
	got, err := f.Data.ReadAt(buf[have:], pos+int64(have))
	if have+got < want {
		if err == nil || errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: the file ends %d bytes early", record.ErrShort, want-have-got)
		}
		return buf[:have+got], err
	}
	return buf, nil
}

func (sc *scanner) batch(b record.Batch) {
	r := sc.s.run
	if r.Length >= sc.indexAt {
		r.Offsets = append(r.Offsets, record.IndexEntry{Offset: b.BaseOffset(), Position: r.Length})
		switch n := len(r.Times); {
		case r.Batches == 0:
		case n > 0 && sc.maxBefore == r.Times[n-1].Timestamp:
			r.Times[n-1].Offset = b.BaseOffset() // it holds up to here, too
		default:
			r.Times = append(r.Times, record.TimeEntry{Timestamp: sc.maxBefore, Offset: b.BaseOffset()})
		}
		sc.indexAt = r.Length + indexEvery
	}
	ts := b.MaxTimestamp()
	if b.NumRecords() == 0 {
		ts = -1 // compaction left the header only: no record has that time
	}
	if ts > sc.maxBefore {
		sc.maxBefore, sc.maxBase, sc.maxLen = ts, r.Length, b.Size()
		r.MaxTSOffset = b.BaseOffset()
	}
	sc.h.write(b)
	r.Sum = crc32.Update(r.Sum, castagnoli, b)
	r.Length += b.Size()
	r.Batches++
	r.Records += int64(max(b.NumRecords(), 0))
	sc.s.last = b.LeaderEpoch()
}

// maxInflate bounds the decompressed records of one batch, in bytes.
const maxInflate = 1 << 30

// finish finds the very record that has the greatest timestamp.
func (sc *scanner) finish() error {
	r := sc.s.run
	r.MaxTimestamp = sc.maxBefore
	if r.MaxTimestamp < 0 {
		r.MaxTimestamp, r.MaxTSOffset = -1, -1
		return nil
	}
	b := make([]byte, sc.maxLen)
	if err := readFull(sc.s.data, b, sc.s.skip+sc.maxBase); err != nil {
		return fmt.Errorf("batch at offset %d of %s-%d: %w", r.MaxTSOffset, r.Topic, r.Partition, err)
	}
	if o, ok := firstAt(record.Batch(b), r.MaxTimestamp, r.Base); ok {
		r.MaxTSOffset = o.Offset
	}
	return nil
}

// firstAt finds the first record at or after offset from with a timestamp of
// at least ts in a batch. Records that do not decompress (their checksum is
// right: the producer made them so) are taken as if the batch were one record.
func firstAt(b record.Batch, ts int64, from record.Offset) (record.TimestampOffset, bool) {
	res, found := record.NoTimestampOffset, false
	err := b.EachRecord(maxInflate, func(r *record.Record) bool {
		if r.Timestamp >= ts && r.Offset >= from {
			res, found = record.TimestampOffset{Offset: r.Offset, Timestamp: r.Timestamp, Epoch: b.LeaderEpoch()}, true
		}
		return !found
	})
	if err != nil && b.MaxTimestamp() >= ts && b.LastOffset() >= from {
		return record.TimestampOffset{Offset: max(b.BaseOffset(), from), Timestamp: b.MaxTimestamp(), Epoch: b.LeaderEpoch()}, true
	}
	return res, found
}

// source reads an object that is to be: the runs from their local files, then
// the footer. It hands out whole blocks, each compared with its checksum, so
// that bytes that changed since the scan never leave. An io.ReadSeeker.
type source struct {
	runs   []*scanned
	sums   []uint32
	block  int
	data   int64 // bytes of runs
	footer []byte
	pos    int64
	buf    []byte
	bufNo  int64 // block in buf, -1 none
}

func (s *source) size() int64 { return s.data + int64(len(s.footer)) }

// Seek follows io.Seeker.
func (s *source) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += s.pos
	case io.SeekEnd:
		off += s.size()
	}
	if off < 0 {
		return s.pos, fmt.Errorf("tiering: seek to byte %d", off)
	}
	s.pos = off
	return off, nil
}

// Read follows io.Reader. record.ErrCorrupt when local bytes changed.
func (s *source) Read(p []byte) (int, error) {
	if s.pos >= s.size() {
		return 0, io.EOF
	}
	if s.pos >= s.data {
		n := copy(p, s.footer[s.pos-s.data:])
		s.pos += int64(n)
		return n, nil
	}
	no := s.pos / int64(s.block)
	if no != s.bufNo {
		if err := s.load(no); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.buf[s.pos-no*int64(s.block):])
	s.pos += int64(n)
	return n, nil
}

func (s *source) load(no int64) error {
	s.bufNo = -1
	off := no * int64(s.block)
	n := int(min(int64(s.block), s.data-off))
	if cap(s.buf) < n {
		s.buf = make([]byte, n)
	}
	s.buf = s.buf[:n]
	// The run that holds byte off is the last that begins at or before it.
	i := sort.Search(len(s.runs), func(i int) bool { return s.runs[i].run.Position > off }) - 1
	for done := 0; done < n; i++ {
		r := s.runs[i]
		in := off + int64(done) - r.run.Position
		k := int(min(int64(n-done), r.run.Length-in))
		if err := readFull(r.data, s.buf[done:done+k], r.skip+in); err != nil {
			return fmt.Errorf("segment of %s-%d at %d: %w", r.run.Topic, r.run.Partition, r.run.Base, err)
		}
		done += k
	}
	if got := record.CRC32C(s.buf); got != s.sums[no] {
		return fmt.Errorf("%w: local bytes of block %d changed while they were uploaded", record.ErrCorrupt, no)
	}
	s.bufNo = no
	return nil
}
