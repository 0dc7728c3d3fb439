package commitlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"sort"
	"time"

	"github.com/firnlog/firn/record"
)

// ErrOutOfRange says that an offset is not in this folder: below its first
// segment or above its end.
var ErrOutOfRange = errors.New("commitlog: offset is not here")

// Run is what Read found: a range of one segment's file.
type Run struct {
	Span record.Span   // the caller releases it; Size 0: nothing, and nothing to release
	Next record.Offset // no record at or above it is in the span
}

// floorSegment gives the index of the last segment with a base <= o, 0 for none.
func floorSegment(segs []*segment, o record.Offset) int {
	return max(sort.Search(len(segs), func(i int) bool { return segs[i].base > o })-1, 0)
}

// retry runs f again when the segment it looked at was deleted meanwhile, or
// the log was cut back: what f saw may then be half the one and half the other.
func (l *Log) retry(f func() error) error {
	for range 8 {
		cuts := l.cuts.Load()
		err := f()
		if torn := l.cuts.Load() != cuts || err != nil && cuts%2 == 1; !torn && !errors.Is(err, errGone) {
			return err
		}
	}
	return fmt.Errorf("%w: segments are deleted faster than they can be read", ErrOutOfRange)
}

// Read gives batches from the one that contains from, of one segment, all of
// whose offsets are below limit, about maxBytes of them: the last batch may
// be cut only when nothing better is known. With minOne the first batch is
// whole even when it is larger; otherwise a first batch that does not fit
// gives nothing.
//
// What is given was written by this process, or its checksums have been
// compared: a damaged batch is never part of it. What comes before the damage
// is given; from there on, the error is a *CorruptError.
func (l *Log) Read(from record.Offset, maxBytes int64, limit record.Offset, minOne bool) (run Run, err error) {
	maxBytes = min(maxBytes, MaxSegmentBytes)
	err = l.retry(func() error {
		run.Span.Release() // of a log that was cut back since
		run, err = l.read(from, maxBytes, limit, minOne)
		return err
	})
	if err != nil {
		run.Span.Release()
		run = Run{}
	}
	if err != nil && errors.Is(err, record.ErrCorrupt) {
		corruptReads.Inc()
	}
	return run, err
}

func (l *Log) read(from record.Offset, maxBytes int64, limit record.Offset, minOne bool) (Run, error) {
	tail := l.tail.Load()
	segs := *l.segs.Load()
	limit = min(limit, tail.offset)
	if from < segs[0].base || from > tail.offset {
		return Run{}, fmt.Errorf("%w: %d is not in [%d,%d]", ErrOutOfRange, from, segs[0].base, tail.offset)
	}
	if from >= limit {
		return Run{Next: from}, nil
	}
	s := segs[floorSegment(segs, from)]
	f, err := s.acquire()
	if err != nil {
		return Run{}, err
	}
	run, err := s.run(f, tail, from, maxBytes, limit, minOne)
	if err != nil || run.Span.Len == 0 {
		f.Release()
		return run, err
	}
	run.Span.File = f
	return run, nil
}

// run is Read of one segment, which must hold from; the span lacks its file.
func (s *segment) run(r io.ReaderAt, tail *mark, from record.Offset, maxBytes int64, limit record.Offset, minOne bool) (Run, error) {
	size, end := s.extent(tail)
	e, err := s.floorOffset(from)
	if err != nil {
		return Run{}, err
	}
	if int64(e.pos) < s.known.below.Load() {
		if size, end, err = s.vouch(r, e, from, limit, maxBytes, size, end); err != nil {
			return Run{}, err
		}
	}
	pos, first, err := s.locate(r, e, from, size)
	if err != nil {
		return Run{}, err
	}
	if first == 0 {
		return Run{}, s.corrupt(size, fmt.Errorf("%w: nothing holds offset %d of [%d,%d)", record.ErrCorrupt, from, s.base, end))
	}
	upto, end, err := s.boundary(r, size, end, limit)
	if err != nil || pos >= upto {
		return Run{Next: end}, err
	}
	if first > maxBytes {
		if !minOne {
			return Run{Next: from}, nil
		}
		maxBytes = first
	}
	if pos+maxBytes < upto {
		if upto, end, err = s.cut(r, pos, pos+maxBytes, upto); err != nil {
			return Run{}, err
		}
	}
	return Run{Span: record.Span{Off: pos, Len: upto - pos}, Next: end}, nil
}

// extent gives the size and the end of the segment as of tail.
func (s *segment) extent(tail *mark) (int64, record.Offset) {
	if s == tail.seg {
		return tail.pos, tail.offset
	}
	return s.size.Load(), record.Offset(s.end.Load())
}

// boundary gives the position before which every batch lies wholly below
// limit, and the offset there, in a segment of that size and end.
func (s *segment) boundary(r io.ReaderAt, size int64, end, limit record.Offset) (int64, record.Offset, error) {
	if limit >= end {
		return size, end, nil
	}
	e, err := s.floorOffset(limit)
	if err != nil {
		return 0, 0, err
	}
	pos, next := int64(e.pos), s.base+record.Offset(e.rel)
	err = s.walk(r, pos, size, func(h record.Batch, at int64) bool {
		if h.LastOffset() >= limit {
			return false
		}
		pos, next = at+h.Size(), h.LastOffset()+1
		return true
	})
	return pos, next, err
}

// locate gives the position and size of the first batch from index entry e on
// that ends at or after from, size 0 when there is none before position upto.
func (s *segment) locate(r io.ReaderAt, e offsetEntry, from record.Offset, upto int64) (pos, size int64, err error) {
	err = s.walk(r, int64(e.pos), upto, func(h record.Batch, at int64) bool {
		if h.LastOffset() < from {
			return true
		}
		pos, size = at, h.Size()
		return false
	})
	return pos, size, err
}

// cut gives the last boundary of batches in (pos, want], of which there is at
// least one, and the offset there.
func (s *segment) cut(r io.ReaderAt, pos, want, upto int64) (int64, record.Offset, error) {
	e, err := s.floorPosition(want)
	if err != nil {
		return 0, 0, err
	}
	from := max(pos, int64(e.pos))
	end, next := from, s.base+record.Offset(e.rel)
	err = s.walk(r, from, upto, func(h record.Batch, at int64) bool {
		if at+h.Size() > want {
			return false
		}
		end, next = at+h.Size(), h.LastOffset()+1
		return true
	})
	return end, next, err
}

// Aborted gives the aborted transactions that touch [from, to).
func (l *Log) Aborted(from, to record.Offset) (out []record.AbortedTxn, err error) {
	err = l.retry(func() error {
		out = nil
		segs := *l.segs.Load()
		for i := floorSegment(segs, from); i < len(segs); i++ {
			info, err := segs[i].loadInfo()
			if err == nil && segs[i].damage.openTxn.Load() {
				err = segs[i].damage.err()
			}
			if err != nil {
				return err
			}
			for _, t := range info.aborted {
				if t.LastOffset >= from && t.FirstOffset < to {
					out = append(out, t)
				}
			}
		}
		return nil
	})
	return out, err
}

// OffsetForTimestamp finds the first record at or after from, and before
// limit, with a timestamp >= ts (milliseconds).
func (l *Log) OffsetForTimestamp(ts int64, from, limit record.Offset) (found record.TimestampOffset, err error) {
	err = l.retry(func() error {
		found = record.NoTimestampOffset
		tail := l.tail.Load()
		segs := *l.segs.Load()
		for _, s := range segs[floorSegment(segs, from):] {
			if s.base >= limit {
				return nil
			}
			t, ok, err := s.searchTime(ts, from, tail)
			if err != nil {
				return err
			}
			if ok {
				if t.Offset < limit {
					found = t
				}
				return nil
			}
		}
		return nil
	})
	return found, err
}

func (s *segment) searchTime(ts int64, from record.Offset, tail *mark) (record.TimestampOffset, bool, error) {
	none := record.NoTimestampOffset
	info, err := s.loadInfo()
	if err != nil {
		return none, false, err
	}
	if info.MaxTimestamp < ts {
		return none, false, s.damage.err()
	}
	size, _ := s.extent(tail)
	times, err := s.timeIndex()
	if err != nil {
		return none, false, err
	}
	at := from
	if e, ok := floorTime(times, ts); ok {
		at = max(at, s.base+record.Offset(e.rel))
	}
	e, err := s.floorOffset(at)
	if err != nil {
		return none, false, err
	}
	f, err := s.acquire()
	if err != nil {
		return none, false, err
	}
	defer f.Release()
	found, ok := none, false
	var inner error
	err = s.walkSound(f, e, size, func(h record.Batch, pos int64) bool {
		if h.MaxTimestamp() < ts || h.LastOffset() < from {
			return true
		}
		var b record.Batch
		if b, inner = readSound(f, pos); inner == nil {
			found, ok, inner = b.FirstAtOrAfter(ts, from, MaxBatchBytes)
		}
		if inner != nil {
			inner = s.damaged(pos, inner)
		}
		return !ok && inner == nil
	})
	return found, ok, errors.Join(err, inner)
}

// MaxTimestamp finds the first record at or after from that has the greatest
// timestamp of all of them.
func (l *Log) MaxTimestamp(from record.Offset) (found record.TimestampOffset, err error) {
	err = l.retry(func() error {
		found = record.NoTimestampOffset
		tail := l.tail.Load()
		segs := *l.segs.Load()
		for _, s := range segs[floorSegment(segs, from):] {
			info, err := s.loadInfo()
			if err == nil {
				err = s.damage.err()
			}
			if err != nil {
				return err
			}
			sum := info.Summary
			if sum.MaxTimestamp >= 0 && sum.MaxTSOffset < from {
				if sum, err = s.maxFrom(from, tail); err != nil {
					return err
				}
			}
			if sum.MaxTimestamp > found.Timestamp && sum.MaxTSOffset < tail.offset {
				found = record.TimestampOffset{Offset: sum.MaxTSOffset, Timestamp: sum.MaxTimestamp, Epoch: l.EpochAt(sum.MaxTSOffset)}
			}
		}
		return nil
	})
	return found, err
}

// maxFrom finds the greatest timestamp of the segment's records from an
// offset on, by reading them.
func (s *segment) maxFrom(from record.Offset, tail *mark) (Summary, error) {
	sum := Summary{MaxTimestamp: -1, MaxTSOffset: -1}
	size, _ := s.extent(tail)
	e, err := s.floorOffset(from)
	if err != nil {
		return sum, err
	}
	f, err := s.acquire()
	if err != nil {
		return sum, err
	}
	defer f.Release()
	var inner error
	err = s.walkSound(f, e, size, func(h record.Batch, at int64) bool {
		if h.LastOffset() < from || h.MaxTimestamp() <= sum.MaxTimestamp {
			return true
		}
		var b record.Batch
		if b, inner = readSound(f, at); inner != nil {
			inner = s.damaged(at, inner)
			return false
		}
		inner = b.EachRecord(MaxBatchBytes, func(r *record.Record) bool {
			if r.Offset >= from && r.Timestamp > sum.MaxTimestamp {
				sum.MaxTimestamp, sum.MaxTSOffset = r.Timestamp, r.Offset
			}
			return true
		})
		if inner != nil {
			inner = s.damaged(at, inner)
		}
		return inner == nil
	})
	return sum, errors.Join(err, inner)
}

// EpochAt is the leader epoch that wrote offset o, -1 when unknown.
func (l *Log) EpochAt(o record.Offset) record.Epoch {
	epochs := *l.epochs.Load()
	i := sort.Search(len(epochs), func(i int) bool { return epochs[i].Start > o })
	if i == 0 {
		return -1
	}
	return epochs[i-1].Epoch
}

// EpochEnd gives the greatest epoch <= e and where it ended, as
// OffsetForLeaderEpoch answers (KIP-101, KIP-279): -1, -1 when e is unknown
// or above the last.
func (l *Log) EpochEnd(e record.Epoch) (record.Epoch, record.Offset) {
	epochs := *l.epochs.Load()
	n := len(epochs)
	if e == -1 || n == 0 || e > epochs[n-1].Epoch {
		return -1, -1
	}
	if e == epochs[n-1].Epoch {
		return e, l.End()
	}
	i := sort.Search(n, func(i int) bool { return epochs[i].Epoch > e })
	if i == 0 {
		return e, max(epochs[0].Start, l.Start())
	}
	return epochs[i-1].Epoch, epochs[i].Start
}

// describe gives a sealed segment's facts and, when it has no timestamps or
// they cannot all be known any more, when it was last written.
func (s *segment) describe() (record.Segment, time.Time, error) {
	seg := record.Segment{Base: s.base, End: record.Offset(s.end.Load()), Bytes: s.size.Load(), MaxTimestamp: -1, MaxTSOffset: -1}
	info, err := s.loadInfo()
	if err != nil {
		return seg, time.Time{}, err
	}
	if s.damage.err() == nil {
		seg.MaxTimestamp, seg.MaxTSOffset = info.MaxTimestamp, info.MaxTSOffset
	}
	if seg.MaxTimestamp >= 0 {
		return seg, time.Time{}, nil
	}
	st, err := os.Stat(s.path(logSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return seg, time.Time{}, errGone
	}
	if err != nil {
		return seg, time.Time{}, err
	}
	return seg, st.ModTime(), nil
}

// Sealed describes the sealed segments that hold offsets at or above from and
// lie wholly below limit, ascending. One that is damaged ends the list.
func (l *Log) Sealed(from, limit record.Offset) ([]record.Segment, error) {
	segs := *l.segs.Load()
	var out []record.Segment
	for _, s := range segs[floorSegment(segs, from) : len(segs)-1] {
		if record.Offset(s.end.Load()) <= from {
			continue
		}
		if record.Offset(s.end.Load()) > limit {
			break
		}
		seg, _, err := s.describe()
		if errors.Is(err, errGone) {
			continue
		}
		if err == nil {
			err = s.damage.err()
		}
		if err != nil {
			return out, err
		}
		out = append(out, seg)
	}
	return out, nil
}

// OpenSealed opens the sealed segment with that base offset for copying,
// after every batch's checksum was compared. A *CorruptError says where it is
// damaged; ErrOutOfRange, that there is no such sealed segment.
func (l *Log) OpenSealed(base record.Offset) (*record.SealedFiles, error) {
	segs := *l.segs.Load()
	i := floorSegment(segs, base)
	if s := segs[i]; s.base != base || i == len(segs)-1 {
		return nil, fmt.Errorf("%w: no sealed segment begins at %d", ErrOutOfRange, base)
	}
	s := segs[i]
	f, err := s.acquire()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOutOfRange, err)
	}
	out, err := s.export(f)
	if err != nil {
		f.Release()
		return nil, err
	}
	return out, nil
}

func (s *segment) export(f *record.File) (*record.SealedFiles, error) {
	size := s.size.Load()
	a, err := s.check(f.OS(), area{next: s.base}, size, func(record.Batch, int64) bool { return true })
	if end := record.Offset(s.end.Load()); err == nil && a.next != end {
		err = fmt.Errorf("%w: the segment ends at offset %d, want %d", record.ErrCorrupt, a.next, end)
	}
	if err != nil {
		if errors.Is(err, record.ErrCorrupt) {
			s.distrust(a)
		}
		return nil, s.damaged(a.to, err)
	}
	seg, _, err := s.describe()
	if err != nil {
		return nil, err
	}
	info, err := s.loadInfo()
	if err != nil {
		return nil, err
	}
	times, err := s.timeIndex()
	if err != nil {
		return nil, err
	}
	offsets, err := s.offsetIndex()
	if err != nil {
		return nil, err
	}
	return &record.SealedFiles{
		Segment:     seg,
		Data:        io.NewSectionReader(f.OS(), 0, seg.Bytes),
		OffsetIndex: publicOffsets(s.base, offsets),
		TimeIndex:   publicTimes(s.base, times),
		Producers:   s.producersAtEnd(),
		Aborted:     slices.Clone(info.aborted),
		Epochs:      s.log.epochsOf(seg.Base, seg.End),
		Close:       f.Release,
	}, nil
}

func (s *segment) offsetIndex() ([]offsetEntry, error) {
	for {
		if x := s.live.Load(); x != nil {
			return *x.offsets.Load(), nil
		}
		x, err := s.loadIndex()
		if err != nil {
			return nil, err
		}
		if x == nil {
			continue
		}
		raw, err := io.ReadAll(io.NewSectionReader(x.file.OS(), 0, math.MaxInt32))
		x.file.Release()
		if err != nil {
			return nil, err
		}
		_, _, entries, err := decodeOffsets(raw)
		return entries, err
	}
}

// producersAtEnd gives the encoded producer state at the segment's end, nil
// when there is none or it was lost; whoever restores then starts without.
func (s *segment) producersAtEnd() []byte {
	if x := s.live.Load(); x != nil && x.snapshot != nil {
		return x.snapshot
	}
	next := segment{log: s.log, base: record.Offset(s.end.Load())}
	raw, err := os.ReadFile(next.path(snapshotSuffix))
	if err != nil {
		return nil
	}
	if _, ps, err := DecodeSnapshot(raw); err != nil {
		return nil
	} else {
		ps.release()
		return raw
	}
}

// epochsOf gives the epochs of [base, end); the first may begin before base.
func (l *Log) epochsOf(base, end record.Offset) []record.EpochStart {
	var out []record.EpochStart
	for _, e := range *l.epochs.Load() {
		if e.Start >= end {
			break
		}
		if e.Start <= base {
			out = out[:0]
		}
		out = append(out, e)
	}
	return out
}
