package commitlog

import (
	"fmt"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/record"
)

// journaled names the log's partition in the journal.
func (l *Log) journaled() journal.Partition {
	return journal.Partition{Topic: l.id, Index: l.deps.Partition}
}

// trustJournal takes the journal's word for up to where the segments are
// durable, and removes those whose beginning is in the journal only: their
// names had been made durable, and not that of the segment before.
func (r *recovery) trustJournal() error {
	l := r.l
	r.synced = l.meta.RecoveryPoint
	if l.deps.Journal == nil {
		return nil
	}
	r.synced = max(r.synced, l.deps.Journal.Synced(l.journaled()))
	if len(r.segs) == 0 || len(r.refs) == 0 {
		return nil
	}
	if first := r.segs[0].base; first <= r.synced || first <= r.refs[0].Base {
		return nil
	}
	for _, s := range r.segs {
		if err := r.remove(s); err != nil {
			return err
		}
	}
	r.segs = nil
	return nil
}

// journalGoesOn says whether the journal has records that begin at an offset,
// or in the middle of which it is.
func (r *recovery) journalGoesOn(next record.Offset) bool {
	for _, ref := range r.refs {
		if ref.Base <= next && next < ref.End {
			return true
		}
	}
	return false
}

// batchesFrom is where a segment has to begin that is filled from the journal
// and holds an offset: the log's start may be in the middle of a batch.
func (r *recovery) batchesFrom(o record.Offset) record.Offset {
	for _, ref := range r.refs {
		if ref.Base <= o && o < ref.End {
			return ref.Base
		}
	}
	return o
}

// refill writes what the journal has from offset next on to the end of a
// segment, at byte pos, as much as belongs into one segment, and gives the
// segment's new size. The journal keeps these records until the segment is
// durable.
func (r *recovery) refill(s *segment, pos int64, next record.Offset) (int64, error) {
	l := r.l
	f, err := s.acquire()
	if err != nil {
		return pos, err
	}
	defer f.Release()
	for len(r.refs) > 0 {
		ref := r.refs[0]
		if ref.End <= next {
			r.refs = r.refs[1:]
			continue
		}
		if ref.Base > next {
			return pos, s.corrupt(pos, fmt.Errorf("%w: the log ends at offset %d, and the journal goes on at %d", ErrMissing, next, ref.Base))
		}
		b, err := l.deps.Journal.Read(ref)
		if err != nil {
			return pos, err
		}
		if b, err = within(b, next, ref.End); err != nil {
			return pos, err
		}
		if pos > 0 && pos+int64(len(b)) > l.cfg.Load().SegmentBytes {
			break
		}
		if _, err := l.disk.WriteAt(f.OS(), b, pos); err != nil {
			return pos, fmt.Errorf("writing what the journal has to %s: %w", s.path(logSuffix), err)
		}
		pos += int64(len(b))
		r.did.refilled(next, ref.End, len(b))
		next = ref.End
		refilledBytes.Add(len(b))
		r.refs = r.refs[1:]
	}
	return pos, nil
}

// within gives the batches of b that end after offset next, and by end.
func within(b []byte, next, end record.Offset) ([]byte, error) {
	from := int64(0)
	for pos := int64(0); pos < int64(len(b)); {
		h, err := record.ParseHeader(b[pos:])
		if err == nil && h.Size() > int64(len(b))-pos {
			err = record.ErrShort
		}
		if err != nil {
			return nil, fmt.Errorf("the journal's record of offset %d: %w", next, err)
		}
		if h.LastOffset() >= end {
			return b[from:pos], nil
		}
		if pos += h.Size(); h.LastOffset() < next {
			from = pos
		}
	}
	return b[from:], nil
}

// roll begins another segment for what the journal has and the last one has
// no room for.
func (r *recovery) roll() error {
	last := r.segs[len(r.segs)-1]
	s, err := r.l.newSegment(record.Offset(last.end.Load()))
	if err != nil {
		return err
	}
	segmentsOpen.Add(-1) // Open counts
	r.segs = append(r.segs, s)
	return nil
}

// Durable is up to where the log was known to be on disk when it was opened:
// what its segments and the journal say. What is in the segments beyond is
// durable after the next SyncData.
func (l *Log) Durable() record.Offset { return l.durable }
