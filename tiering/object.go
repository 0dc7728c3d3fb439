package tiering

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/firnlog/firn/record"
)

// An object (docs/formats/object.md): runs, then the footer, then a trailer.
//
//	0                    dataLen                               size-32  size
//	┌───────┬───────┬───┬──────┬─────────┬─────────┬───┬─────────┬─────┐
//	│ run 0 │ run 1 │ … │ head │section 0│section 1│ … │ (footer)│trail│
//	└───────┴───────┴───┴──────┴─────────┴─────────┴───┴─────────┴─────┘
//
// A run is the record batches of one sealed segment, byte for byte. A section
// says everything of one run and has its own checksum, so that a reader who
// knows its place from the manifest fetches it alone. Integers in the trailer
// are big-endian, in head and sections mostly variable-length (LEB128; signed
// ones in zigzag).
//
//	trailer:  0         8         16        20       22      24         32
//	          ┌─────────┬─────────┬─────────┬────────┬───────┬──────────┐
//	          │data     │footer   │footer   │version │ zero  │"FIRNOBJT"│
//	          │length 8 │length 8 │crc32c 4 │  1   2 │     2 │          │
//	          └─────────┴─────────┴─────────┴────────┴───────┴──────────┘
//	head:     "FIRNOBJH" version2 crc32c4(rest of head) cluster object16
//	          created8(ms) block4 count { sectionLength }
//	section:  crc32c4(rest) topic id16 partition4 base8 end8 maxTimestamp8
//	          maxTimestampOffset8 position8 length8 runCrc32c4 block4 dataLength8
//	          batches records
//	          count { blockCrc32c4 } count { Δoffset Δposition }
//	          count { Δtimestamp Δoffset } count { epoch start }
//	          count { producer first last } producers
//
// Blocks cut [0, dataLen) at multiples of the block size; a section has the
// checksums of those that its run touches, so that each can be fetched and
// checked by itself.
const (
	trailerMagic = "FIRNOBJT"
	headMagic    = "FIRNOBJH"
	// ObjectVersion is the version of the object format written.
	ObjectVersion = 1
	trailerSize   = 32
	maxSection    = 64 << 20 // bytes; an index of a run of many GiB
	minBlock      = 4 << 10
	maxBlock      = 64 << 20
	indexEvery    = 8 << 10 // bytes of run between index entries
	maxName       = 255
)

// Run is one run of an object as its section describes it.
type Run struct {
	Topic        string
	TopicID      record.TopicID
	Partition    record.PartitionID
	Base, End    record.Offset // records are [Base, End)
	MaxTimestamp int64         // milliseconds, -1 for none
	MaxTSOffset  record.Offset // of the first record that has it, -1 for none
	Position     int64         // in the object
	Length       int64         // bytes
	Sum          uint32        // CRC-32C of the run
	Block        int           // bytes
	DataLen      int64         // of all runs of the object
	Batches      int64
	Records      int64
	BlockSums    []uint32            // of blocks Position/Block … (Position+Length-1)/Block
	Offsets      []record.IndexEntry // positions in the run; the first batch is always there
	// Times: all records before Offset have timestamps of at most Timestamp.
	Times     []record.TimeEntry
	Epochs    []record.EpochStart
	Aborted   []record.AbortedTxn
	Producers []byte // producer state at End, as commitlog encodes it
}

// firstBlock is the number of the block that the run begins in.
func (r *Run) firstBlock() int64 { return r.Position / int64(r.Block) }

func (r *Run) lastBlock() int64 { return (r.Position + r.Length - 1) / int64(r.Block) }

// blockRange gives block i's place in the object.
func (r *Run) blockRange(i int64) (off int64, n int) {
	off = i * int64(r.Block)
	return off, int(min(int64(r.Block), r.DataLen-off))
}

// memory is about what the decoded run takes, in bytes.
func (r *Run) memory() int64 {
	return int64(256 + 4*len(r.BlockSums) + 16*(len(r.Offsets)+len(r.Times)+len(r.Epochs)) + 24*len(r.Aborted) + len(r.Producers))
}

func appendSection(b []byte, r *Run) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = appendBlob(b, r.Topic)
	b = append(b, r.TopicID[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(r.Partition))
	for _, v := range []int64{int64(r.Base), int64(r.End), r.MaxTimestamp, int64(r.MaxTSOffset), r.Position, r.Length} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	b = binary.BigEndian.AppendUint32(b, r.Sum)
	b = binary.BigEndian.AppendUint32(b, uint32(r.Block))
	b = binary.BigEndian.AppendUint64(b, uint64(r.DataLen))
	b = uvar(uvar(b, r.Batches), r.Records)
	b = uvar(b, int64(len(r.BlockSums)))
	for _, s := range r.BlockSums {
		b = binary.BigEndian.AppendUint32(b, s)
	}
	b = uvar(b, int64(len(r.Offsets)))
	prev := record.IndexEntry{Offset: r.Base}
	for _, e := range r.Offsets {
		b = uvar(uvar(b, int64(e.Offset-prev.Offset)), e.Position-prev.Position)
		prev = e
	}
	b = uvar(b, int64(len(r.Times)))
	prevT := record.TimeEntry{Offset: r.Base}
	for _, e := range r.Times {
		b = uvar(svar(b, e.Timestamp-prevT.Timestamp), int64(e.Offset-prevT.Offset))
		prevT = e
	}
	b = uvar(b, int64(len(r.Epochs)))
	for _, e := range r.Epochs {
		b = svar(svar(b, int64(e.Epoch)), int64(e.Start))
	}
	b = uvar(b, int64(len(r.Aborted)))
	for _, a := range r.Aborted {
		b = svar(svar(svar(b, a.ProducerID), int64(a.FirstOffset)), int64(a.LastOffset))
	}
	b = appendBlob(b, r.Producers)
	sealed(b[start:])
	return b
}

// decodeSection reads one section, all of b. Its slices do not alias b.
func decodeSection(b []byte) (*Run, error) {
	body, err := unseal(b, "run section")
	if err != nil {
		return nil, err
	}
	d := &dec{b: body}
	r := &Run{Topic: d.str(maxName), TopicID: d.id16(), Partition: record.PartitionID(d.u32())}
	r.Base, r.End = record.Offset(d.i64()), record.Offset(d.i64())
	r.MaxTimestamp, r.MaxTSOffset = d.i64(), record.Offset(d.i64())
	r.Position, r.Length = d.i64(), d.i64()
	r.Sum, r.Block, r.DataLen = d.u32(), int(d.u32()), d.i64()
	r.Batches, r.Records = d.uvar(), d.uvar()
	r.BlockSums = make([]uint32, d.count(4))
	for i := range r.BlockSums {
		r.BlockSums[i] = d.u32()
	}
	r.Offsets = make([]record.IndexEntry, d.count(2))
	prev := record.IndexEntry{Offset: r.Base}
	for i := range r.Offsets {
		prev.Offset += record.Offset(d.uvar())
		prev.Position += d.uvar()
		r.Offsets[i] = prev
	}
	r.Times = make([]record.TimeEntry, d.count(2))
	prevT := record.TimeEntry{Offset: r.Base}
	for i := range r.Times {
		prevT.Timestamp += d.svar()
		prevT.Offset += record.Offset(d.uvar())
		r.Times[i] = prevT
	}
	r.Epochs = make([]record.EpochStart, d.count(2))
	for i := range r.Epochs {
		r.Epochs[i] = record.EpochStart{Epoch: record.Epoch(d.svar()), Start: record.Offset(d.svar())}
	}
	r.Aborted = make([]record.AbortedTxn, d.count(3))
	for i := range r.Aborted {
		r.Aborted[i] = record.AbortedTxn{ProducerID: d.svar(), FirstOffset: record.Offset(d.svar()), LastOffset: record.Offset(d.svar())}
	}
	r.Producers = append([]byte(nil), d.blob()...)
	if err := d.end(); err != nil {
		return nil, err
	}
	return r, r.valid()
}

// valid holds for every run that is written; it is asked where bytes enter.
func (r *Run) valid() error {
	switch {
	case r.Base < 0 || r.End <= r.Base:
		return corruptf("run of offsets [%d, %d)", r.Base, r.End)
	case r.Block < minBlock || r.Block > maxBlock:
		return corruptf("block size %d", r.Block)
	case r.Position < 0 || r.Length < record.HeaderSize || r.DataLen < 0 || r.Length > r.DataLen || r.Position > r.DataLen-r.Length:
		return corruptf("run of %d bytes at %d of %d", r.Length, r.Position, r.DataLen)
	case int64(len(r.BlockSums)) != r.lastBlock()-r.firstBlock()+1:
		return corruptf("%d block checksums for %d bytes at %d", len(r.BlockSums), r.Length, r.Position)
	case len(r.Offsets) == 0 || r.Offsets[0].Position != 0:
		return corruptf("offset index does not begin with the first batch")
	}
	for i, e := range r.Offsets {
		if e.Offset < r.Base || e.Offset >= r.End || e.Position < 0 || e.Position > r.Length-record.HeaderSize ||
			i > 0 && (e.Offset <= r.Offsets[i-1].Offset || e.Position <= r.Offsets[i-1].Position) {
			return corruptf("offset index entry %d: offset %d at %d", i, e.Offset, e.Position)
		}
	}
	for i, e := range r.Times {
		if e.Offset < r.Base || e.Offset >= r.End || i > 0 && (e.Offset <= r.Times[i-1].Offset || e.Timestamp <= r.Times[i-1].Timestamp) {
			return corruptf("time index entry %d: %d at offset %d", i, e.Timestamp, e.Offset)
		}
	}
	return nil
}

// section is where a run's section lies in its object.
type section struct {
	pos int64
	len int
}

// encodeFooter gives everything that follows the runs, and where in the
// object each run's section is.
func encodeFooter(cluster string, id ObjectID, createdMs int64, block int, dataLen int64, runs []*Run) ([]byte, []section, error) {
	var body []byte
	lens := make([]int, len(runs))
	for i, r := range runs {
		before := len(body)
		body = appendSection(body, r)
		if lens[i] = len(body) - before; lens[i] > maxSection {
			return nil, nil, fmt.Errorf("tiering: index of %s-%d [%d, %d) takes %d bytes", r.Topic, r.Partition, r.Base, r.End, lens[i])
		}
	}
	b := appendMagic(nil, headMagic, ObjectVersion)
	mark := len(b)
	b = append(b, 0, 0, 0, 0)
	b = appendBlob(b, cluster)
	b = append(b, id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(createdMs))
	b = binary.BigEndian.AppendUint32(b, uint32(block))
	b = uvar(b, int64(len(runs)))
	for _, n := range lens {
		b = uvar(b, int64(n))
	}
	sealed(b[mark:])
	places := make([]section, len(runs))
	at := dataLen + int64(len(b))
	for i, n := range lens {
		places[i] = section{pos: at, len: n}
		at += int64(n)
	}
	b = append(b, body...)
	n := len(b)
	sum := record.CRC32C(b)
	b = binary.BigEndian.AppendUint64(b, uint64(dataLen))
	b = binary.BigEndian.AppendUint64(b, uint64(n))
	b = binary.BigEndian.AppendUint32(b, sum)
	b = binary.BigEndian.AppendUint16(b, ObjectVersion)
	b = append(b, 0, 0)
	return append(b, trailerMagic...), places, nil
}

// Footer is an object's footer, decoded.
type Footer struct {
	Version   int
	Cluster   string
	ID        ObjectID
	CreatedMs int64
	Block     int
	DataLen   int64
	Runs      []*Run
}

// trailer is the fixed end of an object.
type trailer struct {
	dataLen, footerLen int64
	sum                uint32
}

// decodeTrailer reads the last trailerSize bytes of an object of size bytes.
func decodeTrailer(b []byte, size int64) (trailer, error) {
	if len(b) != trailerSize || string(b[24:]) != trailerMagic {
		return trailer{}, corruptf("object does not end in %s", trailerMagic)
	}
	t := trailer{
		dataLen:   int64(binary.BigEndian.Uint64(b)),
		footerLen: int64(binary.BigEndian.Uint64(b[8:])),
		sum:       binary.BigEndian.Uint32(b[16:]),
	}
	if v := binary.BigEndian.Uint16(b[20:]); v != ObjectVersion {
		return t, corruptf("object version %d is unknown", v)
	}
	if t.dataLen < 0 || t.footerLen < 0 || t.dataLen > size || t.footerLen > size || t.dataLen+t.footerLen+trailerSize != size {
		return t, corruptf("object of %d bytes says %d of data and %d of footer", size, t.dataLen, t.footerLen)
	}
	return t, nil
}

// decodeFooter reads the footer's bytes, of which t speaks.
func decodeFooter(b []byte, t trailer) (*Footer, error) {
	if got := record.CRC32C(b); got != t.sum {
		return nil, corruptf("footer checksum: stored %08x, computed %08x", t.sum, got)
	}
	d := &dec{b: b}
	d.magic(headMagic, ObjectVersion)
	sum, rest := d.u32(), d.b
	f := &Footer{Version: ObjectVersion, Cluster: d.str(maxName), ID: ObjectID(d.id16()), CreatedMs: d.i64(), Block: int(d.u32()), DataLen: t.dataLen}
	lens := make([]int, d.count(1))
	var total int64
	for i := range lens {
		lens[i] = int(d.uvar())
		total += int64(lens[i])
		if total > int64(len(b)) {
			d.fail("sections of %d bytes in a footer of %d", total, len(b))
		}
	}
	if d.err != nil {
		return nil, d.err
	}
	if got := record.CRC32C(rest[:len(rest)-len(d.b)]); got != sum {
		return nil, corruptf("footer head checksum: stored %08x, computed %08x", sum, got)
	}
	for i, n := range lens {
		r, err := decodeSection(d.take(n))
		if err != nil {
			return nil, fmt.Errorf("section %d: %w", i, err)
		}
		if r.DataLen != f.DataLen || r.Block != f.Block {
			return nil, corruptf("section %d: data of %d bytes in blocks of %d, the footer says %d and %d", i, r.DataLen, r.Block, f.DataLen, f.Block)
		}
		f.Runs = append(f.Runs, r)
	}
	return f, d.end()
}

// ReadFooter decodes the footer of an object of size bytes. ErrCorrupt when
// it is not an object or not intact; the runs are not read.
func ReadFooter(r io.ReaderAt, size int64) (*Footer, error) {
	if size < trailerSize {
		return nil, corruptf("object of %d bytes", size)
	}
	tb := make([]byte, trailerSize)
	if err := readFull(r, tb, size-trailerSize); err != nil {
		return nil, err
	}
	t, err := decodeTrailer(tb, size)
	if err != nil {
		return nil, err
	}
	fb := make([]byte, t.footerLen)
	if err := readFull(r, fb, t.dataLen); err != nil {
		return nil, err
	}
	return decodeFooter(fb, t)
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading %d bytes at %d: %w", len(p), off, err)
}
