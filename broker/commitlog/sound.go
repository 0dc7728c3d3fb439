package commitlog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/firnlog/firn/record"
)

// Bits flip while a file lies on disk, and a segment that was closed properly
// is opened without being read. So every byte that this process neither wrote
// nor scanned is compared with its batch's checksum once, before it is handed
// out for the first time. What was compared is remembered per segment, in
// memory only: after a restart it is compared again.

// maxAreas bounds what one segment remembers. Readers that go forward need
// one area each; what is forgotten is only compared again.
const maxAreas = 64

// area is a run of whole batches that were found to be sound.
type area struct {
	from, to int64
	next     record.Offset // base offset of the batch that begins at to
}

// soundness says which bytes of a segment may be handed out. All of them, for
// the zero value. Anyone may call it at any time; nothing in it waits.
type soundness struct {
	below atomic.Int64           // bytes before it are sound only inside areas; 0: all are
	areas atomic.Pointer[[]area] // ascending, neither overlapping nor touching; never changed in place
}

// doubt forgets everything about the first size bytes.
func (k *soundness) doubt(size int64) {
	k.areas.Store(nil)
	k.below.Store(size)
}

// trust says that everything is sound.
func (k *soundness) trust() {
	k.below.Store(0)
	k.areas.Store(nil)
}

// at gives the area that holds the byte at pos.
func (k *soundness) at(pos int64) (area, bool) {
	p := k.areas.Load()
	if p == nil {
		return area{}, false
	}
	all := *p
	i := sort.Search(len(all), func(i int) bool { return all[i].to > pos })
	if i == len(all) || all[i].from > pos {
		return area{}, false
	}
	return all[i], true
}

// add takes in an area that was found to be sound.
func (k *soundness) add(a area) {
	if a.from >= a.to || k.below.Load() == 0 {
		return
	}
	for {
		old := k.areas.Load()
		var all []area
		if old != nil {
			all = *old
		}
		merged := join(all, a)
		if below := k.below.Load(); merged[0].from == 0 && merged[0].to >= below {
			k.trust()
			return
		}
		if k.areas.CompareAndSwap(old, &merged) {
			return
		}
	}
}

// join gives all with a in it: areas that touch become one, and when there
// are too many the smallest one but a is forgotten.
func join(all []area, a area) []area {
	i := sort.Search(len(all), func(i int) bool { return all[i].to >= a.from })
	j := i
	for j < len(all) && all[j].from <= a.to {
		if all[j].to > a.to {
			a.to, a.next = all[j].to, all[j].next
		}
		a.from = min(a.from, all[j].from)
		j++
	}
	out := slices.Concat(all[:i], []area{a}, all[j:])
	if len(out) <= maxAreas {
		return out
	}
	least := -1
	for n, o := range out {
		if n != i && (least < 0 || o.to-o.from < out[least].to-out[least].from) {
			least = n
		}
	}
	return slices.Delete(out, least, least+1)
}

// vouch sees to it that the batches a read needs are sound: from index entry
// e, which is at or before the batch that holds from, until maxBytes after
// that batch's start, or the first batch at or above limit. It gives how far
// the segment, which has size bytes and ends at offset end, can be read from
// e on. Damage is an error only when it comes before the end of the batch
// that holds from; what is sound before other damage can be read.
func (s *segment) vouch(r io.ReaderAt, e offsetEntry, from, limit record.Offset, maxBytes, size int64, end record.Offset) (int64, record.Offset, error) {
	below := s.known.below.Load()
	start := s.areaFrom(e)
	if start.to >= below {
		return size, end, nil
	}
	want := int64(-1)
	if start.next > from {
		pos, first, err := s.locate(r, e, from, start.to)
		if err != nil {
			return 0, 0, err
		}
		if want = pos + max(maxBytes, first); want <= start.to || start.next >= limit {
			return start.to, start.next, nil
		}
	}
	a, err := s.check(r, start, min(size, below), func(h record.Batch, pos int64) bool {
		if want < 0 && h.LastOffset() >= from {
			want = pos + max(maxBytes, h.Size())
		}
		return (want < 0 || pos+h.Size() < want) && h.LastOffset() < limit
	})
	switch {
	case err != nil && a.next <= from:
		return 0, 0, s.damaged(a.to, err)
	case err == nil && a.to >= below:
		return size, end, nil
	}
	return a.to, a.next, nil
}

// areaFrom gives what is known to be sound from index entry e on.
func (s *segment) areaFrom(e offsetEntry) area {
	a := area{from: int64(e.pos), to: int64(e.pos), next: s.base + record.Offset(e.rel)}
	if have, ok := s.known.at(a.from); ok {
		a.to, a.next = have.to, have.next
	}
	return a
}

// check compares the batches from a.to on, where offset a.next must follow,
// with their checksums, and with the offset and the epoch they must have,
// which no checksum covers. It calls more with each header, until that
// returns false or limit is reached, and gives a with the sound batches
// added. The error, if any, is about the batch at the position where the
// result ends.
func (s *segment) check(r io.ReaderAt, a area, limit int64, more func(h record.Batch, pos int64) bool) (area, error) {
	began := a.to
	_, err := scan(r, a.to, limit, func(h record.Batch, pos int64) (bool, error) {
		if err := s.admit(h, a.next); err != nil {
			return false, err
		}
		a.to, a.next = pos+h.Size(), h.LastOffset()+1
		return more(h, pos), nil
	})
	checkedBytes.Add(int(a.to - began))
	if a.to > began {
		s.known.add(a)
	}
	return a, err
}

// distrust says that the segment, which may have been trusted, was found to
// be sound in a and damaged after it.
func (s *segment) distrust(a area) {
	s.known.doubt(s.size.Load())
	s.known.add(a)
}

// damaged turns what check or scan found at pos into a *CorruptError; an
// error of reading stays one.
func (s *segment) damaged(pos int64, err error) error {
	if !errors.Is(err, record.ErrCorrupt) {
		return fmt.Errorf("reading %s at byte %d: %w", s.path(logSuffix), pos, err)
	}
	return s.corrupt(pos, err)
}

// walkSound is walk from index entry e on, for callers that act upon what is
// in the headers: batches that nobody has compared yet are, before f sees
// them.
func (s *segment) walkSound(r io.ReaderAt, e offsetEntry, limit int64, f func(h record.Batch, pos int64) bool) error {
	pos := int64(e.pos)
	if below := min(limit, s.known.below.Load()); pos < below {
		a := area{from: pos, to: pos, next: s.base + record.Offset(e.rel)}
		goOn := true
		a, err := s.check(r, a, below, func(h record.Batch, pos int64) bool {
			goOn = f(h, pos)
			return goOn
		})
		if err != nil {
			return s.damaged(a.to, err)
		}
		if !goOn {
			return nil
		}
		pos = a.to
	}
	return s.walk(r, pos, limit, f)
}

const checkWindow = 128 << 10

var checkers = sync.Pool{New: func() any { return &checker{buf: make([]byte, checkWindow)} }}

// checker reads batches one after the other and compares their checksums, in
// a buffer whose size does not depend on theirs.
type checker struct {
	buf   []byte
	win   []byte // what buf holds, from winAt on
	winAt int64
	head  [record.HeaderSize]byte
}

// scan reads the batches of [pos, limit) with checksums and calls f with the
// header of each, until f returns false or an error; the header is
// overwritten by the next call. It gives the position up to which all was
// well, and why it stopped there, nil at limit or when f said so. Damage, and
// a batch that does not end by limit, wrap record.ErrCorrupt.
func scan(r io.ReaderAt, pos, limit int64, f func(h record.Batch, pos int64) (bool, error)) (good int64, err error) {
	c := checkers.Get().(*checker)
	defer checkers.Put(c)
	c.win = nil
	for pos < limit {
		h, err := c.batch(r, pos, limit)
		if err != nil {
			return pos, err
		}
		n := h.Size()
		more, err := f(h, pos)
		if err != nil {
			return pos, err
		}
		if pos += n; !more {
			break
		}
	}
	return pos, nil
}

// fill gives the bytes from pos on, at least need of them; need is at most
// the buffer's size.
func (c *checker) fill(r io.ReaderAt, pos, need, limit int64) ([]byte, error) {
	if off := pos - c.winAt; off >= 0 && off+need <= int64(len(c.win)) {
		return c.win[off:], nil
	}
	c.win = nil
	n, err := r.ReadAt(c.buf[:min(int64(len(c.buf)), limit-pos)], pos)
	if int64(n) < need {
		if err == nil || errors.Is(err, io.EOF) {
			err = record.ErrShort
		}
		return nil, err
	}
	c.win, c.winAt = c.buf[:n], pos
	return c.win, nil
}

// batch gives the header of the batch at pos, whose checksum is right and
// which ends by limit.
func (c *checker) batch(r io.ReaderAt, pos, limit int64) (record.Batch, error) {
	if limit-pos < record.HeaderSize {
		return nil, fmt.Errorf("%w: %d bytes are left", record.ErrShort, limit-pos)
	}
	b, err := c.fill(r, pos, record.HeaderSize, limit)
	if err != nil {
		return nil, err
	}
	h, err := record.ParseHeader(b)
	if err != nil {
		return nil, err
	}
	n := h.Size()
	if n > limit-pos {
		return nil, fmt.Errorf("%w: a batch of %d bytes, %d are left", record.ErrShort, n, limit-pos)
	}
	if n > int64(len(c.buf)) {
		return c.large(r, pos, n)
	}
	if b, err = c.fill(r, pos, n, limit); err != nil {
		return nil, err
	}
	if err := record.Batch(b[:n]).CheckCRC(); err != nil {
		return nil, err
	}
	return record.Batch(b[:record.HeaderSize:record.HeaderSize]), nil
}

// crcStart is where a batch's checksum begins to cover it: at the attributes.
const crcStart = 21

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// large is batch for one that does not fit in the buffer.
func (c *checker) large(r io.ReaderAt, pos, n int64) (record.Batch, error) {
	sum := uint32(0)
	for at := int64(0); at < n; {
		b, err := c.fill(r, pos+at, 1, pos+n)
		if err != nil {
			return nil, err
		}
		if at == 0 {
			if len(b) < record.HeaderSize {
				return nil, record.ErrShort
			}
			copy(c.head[:], b)
			sum = crc32.Update(0, castagnoli, b[crcStart:])
		} else {
			sum = crc32.Update(sum, castagnoli, b)
		}
		at += int64(len(b))
	}
	c.win = nil
	h := record.Batch(c.head[:])
	if sum != h.CRC() {
		return nil, fmt.Errorf("%w: stored %08x, computed %08x, base offset %d", record.ErrChecksum, h.CRC(), sum, h.BaseOffset())
	}
	return h, nil
}
