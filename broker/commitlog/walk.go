package commitlog

import (
	"encoding/binary"
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

// scan reads [0, size) batch by batch with checksum, and calls f with each;
// the batch is overwritten by the next call. It returns the position up to
// which all was well and why it stopped there, nil at size. An error of f
// stops the scan at the batch's start.
func scan(r io.ReaderAt, size int64, f func(b record.Batch, pos int64) error) (good int64, err error) {
	buf := make([]byte, min(size, 1<<20))
	var win []byte
	var winAt int64
	fill := func(pos, need int64) ([]byte, error) {
		if have := winAt + int64(len(win)) - pos; have < need {
			if need > int64(len(buf)) {
				buf = make([]byte, need)
			}
			n, err := r.ReadAt(buf[:min(int64(len(buf)), size-pos)], pos)
			if int64(n) < need {
				if err == nil || errors.Is(err, io.EOF) {
					err = record.ErrShort
				}
				return nil, err
			}
			win, winAt = buf[:n], pos
		}
		return win[pos-winAt:], nil
	}
	for pos := int64(0); pos < size; {
		if size-pos < record.HeaderSize {
			return pos, record.ErrShort
		}
		b, err := fill(pos, record.HeaderSize)
		if err != nil {
			return pos, err
		}
		h, err := record.ParseHeader(b)
		if err != nil {
			return pos, err
		}
		n := h.Size()
		if n > size-pos || n > maxStoredBatch {
			return pos, fmt.Errorf("%w: a batch of %d bytes, %d are left", record.ErrShort, n, size-pos)
		}
		if b, err = fill(pos, n); err != nil {
			return pos, err
		}
		batch := record.Batch(b[:n:n])
		if err := batch.CheckCRC(); err != nil {
			return pos, err
		}
		if err := f(batch, pos); err != nil {
			return pos, err
		}
		pos += n
	}
	return size, nil
}

// findValid looks in [from, size) for a whole batch with a good checksum and
// a base offset of at least least, at any byte. That there is one says that
// what lies before it is not a torn tail.
func findValid(r io.ReaderAt, from, size int64, least record.Offset) (pos int64, found bool, err error) {
	const window = 1 << 20
	buf := make([]byte, window)
	for at := from; at+record.HeaderSize <= size; {
		n, err := r.ReadAt(buf[:min(window, size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, false, err
		}
		win := buf[:n]
		last := len(win) - record.HeaderSize
		for i := 0; i <= last; i++ {
			if win[i+16] != 2 || win[i] != 0 {
				continue
			}
			if o := record.Offset(binary.BigEndian.Uint64(win[i:])); o < least || o > least+1<<31 {
				continue
			}
			h, err := record.ParseHeader(win[i:])
			if err != nil || h.Size() > size-at-int64(i) || h.Size() > maxStoredBatch {
				continue
			}
			b, err := readBatch(r, at+int64(i))
			if err != nil {
				return 0, false, err
			}
			if b.CheckCRC() == nil {
				return at + int64(i), true, nil
			}
		}
		if last < 0 {
			break
		}
		at += int64(last) + 1
	}
	return 0, false, nil
}
