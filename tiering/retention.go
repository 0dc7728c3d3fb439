package tiering

import (
	"context"
	"fmt"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// retained gives the offset that the log may start at, by the policy over the
// whole log and by DeleteRecords: whole runs, the oldest first. localBytes is
// what is only on local disk. Pure.
func retained(v *view, pol Policy, logStart record.Offset, localBytes int64, now time.Time) record.Offset {
	start := max(v.ptr.Start, min(logStart, v.ptr.End))
	if !v.loaded {
		return start // what lies below the tail is not known: nothing expires
	}
	size := v.bytes + localBytes
	entries := v.entries()
	for i := range entries {
		e := &entries[i]
		if e.End <= start {
			size -= e.Length
			continue
		}
		stamp := e.MaxTimestamp
		if stamp < 0 {
			stamp = e.Object.Time().UnixMilli() // records without time: as old as the object
		}
		old := pol.Retention >= 0 && now.UnixMilli()-stamp > pol.Retention.Milliseconds()
		// Kafka's rule: a segment goes if what is left is still enough.
		large := pol.RetentionBytes >= 0 && size-e.Length >= pol.RetentionBytes
		if !old && !large {
			break
		}
		size -= e.Length
		start = e.End
	}
	return start
}

// retain moves the held partition's start if the policy or DeleteRecords says
// so: first the pointer, then the local log.
func (m *Manager) retain(p *part) error {
	v := p.view.Load()
	if v.rev == 0 || v.ptr.Start == v.ptr.End {
		return nil
	}
	start := m.retainedStart(p, v)
	if start <= v.ptr.Start {
		return nil
	}
	next := v.withStart(start)
	all := v.all
	if next.Manifest.IsZero() {
		all = next.Tail
	}
	if err := m.commit(p, next, all, m.deps.Now()); err != nil {
		return fmt.Errorf("retention of %v up to %d: %w", p.tp, start, err)
	}
	retentions.Inc()
	if p.hot.LogStart() < start {
		if err := p.hot.AdvanceLogStart(start); err != nil {
			return fmt.Errorf("retention of %v up to %d: %w", p.tp, start, err)
		}
	}
	return nil
}

// forsake deletes all that is tiered of the held partition, pointer first, as
// dropping its topic would. The log start is hot's business: it has moved to
// where the local log begins.
func (m *Manager) forsake(p *part) error {
	ctx, cancel := context.WithTimeout(p.ctx, collectTimeout)
	defer cancel()
	tp, err := m.readPointer(p)
	if err != nil {
		return fmt.Errorf("pointer of %v: %w", p.tp, err)
	}
	if tp.Revision != 0 {
		entry := metastore.TierPointerEntry{ID: p.key.id, Partition: p.key.p, TierPointer: tp}
		if err := m.dropPointers(ctx, []metastore.TierPointerEntry{entry}); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.copied = copyState{}
	p.mu.Unlock()
	return m.install(p, metastore.TierPointer{})
}

func (m *Manager) retainedStart(p *part, v *view) record.Offset {
	var local int64
	for _, s := range p.hot.Sealed(v.ptr.End) {
		if s.Base >= v.ptr.End {
			local += s.Bytes
		}
	}
	return retained(v, p.policyNow(), p.hot.LogStart(), local, m.deps.Now())
}
