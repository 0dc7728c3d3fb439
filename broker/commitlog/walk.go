package commitlog

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/firnlog/firn/record"
)

const walkWindow = 4 << 10

var walkBuffers = sync.Pool{New: func() any { b := make([]byte, walkWindow); return &b }}

// walk calls f with the header of each batch from the batch boundary pos on
// until limit, where a batch must end, or until f returns false. It reads
// headers through a small window and no records. The header is overwritten
// by the next call. Damage is a *CorruptError.
func (s *segment) walk(r io.ReaderAt, pos, limit int64, f func(h record.Batch, pos int64) bool) error {
	bp := walkBuffers.Get().(*[]byte)
	defer walkBuffers.Put(bp)
	var win []byte
	var winAt int64
	for pos < limit {
		if off := pos - winAt; off < 0 || off+record.HeaderSize > int64(len(win)) {
			want := min(int64(walkWindow), limit-pos)
			n, err := r.ReadAt((*bp)[:want], pos)
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("reading %s at byte %d: %w", s.path(logSuffix), pos, err)
			}
			win, winAt = (*bp)[:n], pos
		}
		h, err := record.ParseHeader(win[pos-winAt:])
		if err != nil {
			return s.corrupt(pos, err)
		}
		if h.Size() > limit-pos {
			return s.corrupt(pos, fmt.Errorf("%w: a batch of %d bytes, %d are left", record.ErrShort, h.Size(), limit-pos))
		}
		if !f(h[:record.HeaderSize:record.HeaderSize], pos) {
			return nil
		}
		pos += h.Size()
	}
	return nil
}

// readSound is readBatch with the checksum compared.
func readSound(r io.ReaderAt, pos int64) (record.Batch, error) {
	b, err := readBatch(r, pos)
	if err == nil {
		err = b.CheckCRC()
	}
	return b, err
}

// readBatch reads one whole batch.
func readBatch(r io.ReaderAt, pos int64) (record.Batch, error) {
	var head [record.HeaderSize]byte
	if _, err := r.ReadAt(head[:], pos); err != nil {
		return nil, err
	}
	h, err := record.ParseHeader(head[:])
	if err != nil {
		return nil, err
	}
	if h.Size() > maxStoredBatch {
		return nil, fmt.Errorf("%w: batch of %d bytes", record.ErrCorrupt, h.Size())
	}
	b := make(record.Batch, h.Size())
	if _, err := r.ReadAt(b, pos); err != nil {
		return nil, err
	}
	return b, nil
}

// maxStoredBatch bounds what a damaged length field can make us allocate.
const maxStoredBatch = 1 << 30

// errUndecided says that a search for valid batches was given up.
var errUndecided = errors.New("commitlog: too much looks like a batch")

// findValid looks in [from, size) for a whole batch with a good checksum and
// a base offset of at least least, at any byte. That there is one says that
// what lies before it is not a torn tail. It compares checksums of at most
// *budget bytes, which it counts down: records can be made so that every few
// bytes look like the header of a batch that goes on to the end. When the
// budget does not last it gives errUndecided.
func findValid(r io.ReaderAt, from, size int64, least record.Offset, budget *int64) (pos int64, found bool, err error) {
	const window = 1 << 20
	buf := make([]byte, min(window, max(size-from, 0)))
	c := checkers.Get().(*checker)
	defer checkers.Put(c)
	for at := from; at+record.HeaderSize <= size; {
		n, err := r.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, false, err
		}
		win := buf[:n]
		last := len(win) - record.HeaderSize
		for i := 0; i <= last; i++ {
			if win[i+16] != 2 || win[i] != 0 || !plausible(win[i:], size-at-int64(i), least) {
				continue
			}
			if *budget -= record.Batch(win[i:]).Size(); *budget < 0 {
				return 0, false, errUndecided
			}
			c.win = nil
			_, err := c.batch(r, at+int64(i), size)
			if err == nil {
				return at + int64(i), true, nil
			}
			if !errors.Is(err, record.ErrCorrupt) {
				return 0, false, err
			}
		}
		if last < 0 {
			break
		}
		at += int64(last) + 1
	}
	return 0, false, nil
}

// plausible says whether b, of which left bytes are there, begins with what
// could be the header of a batch that this log holds at or above offset
// least: the checks that cost nothing.
func plausible(b []byte, left int64, least record.Offset) bool {
	h, err := record.ParseHeader(b)
	if err != nil || h.Size() > left || h.Size() > maxStoredBatch {
		return false
	}
	if o := h.BaseOffset(); o < least || o > least+1<<31 {
		return false
	}
	// Nothing that is stored has another codec, or more records than offsets;
	// fewer only where compaction was.
	return h.LeaderEpoch() >= -1 && h.Codec() <= record.Zstd && h.NumRecords() >= 0 && int64(h.NumRecords()) <= int64(h.LastOffsetDelta())+1
}
