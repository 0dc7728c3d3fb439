package tiering

import (
	"context"
	"fmt"
	"sort"

	"github.com/firnlog/firn/record"
)

// ColdTimestamp finds the first tiered record with a timestamp >= ts
// (milliseconds); record.NoTimestampOffset when there is none. Exact to the
// record: the manifest says which runs can hold it, the time index where in
// the run to begin, batch headers which batch, and the records the rest.
func (m *Manager) ColdTimestamp(ctx context.Context, id record.TopicID, tp record.TopicPartition, ts int64) (record.TimestampOffset, error) {
	p, v, err := m.whole(ctx, id, tp)
	if err != nil || v == nil {
		return record.NoTimestampOffset, err
	}
	entries := v.entries()
	for i := range entries {
		if entries[i].MaxTimestamp < ts {
			continue
		}
		res, found, err := m.searchRun(ctx, p, v, &entries[i], ts)
		if err != nil {
			return record.NoTimestampOffset, storageErr(tp, entries[i].Base, err)
		}
		if found {
			return res, nil
		}
	}
	return record.NoTimestampOffset, nil
}

// ColdMaxTimestamp finds the tiered record with the greatest timestamp, the
// first one where several have it.
func (m *Manager) ColdMaxTimestamp(ctx context.Context, id record.TopicID, tp record.TopicPartition) (record.TimestampOffset, error) {
	p, v, err := m.whole(ctx, id, tp)
	if err != nil || v == nil {
		return record.NoTimestampOffset, err
	}
	best := record.NoTimestampOffset
	entries := v.entries()
	for i := range entries {
		e := &entries[i]
		if e.MaxTimestamp <= best.Timestamp || e.MaxTSOffset < 0 {
			continue
		}
		if e.MaxTSOffset >= v.ptr.Start {
			epoch, err := m.epochAt(ctx, p, v, e)
			if err != nil {
				return record.NoTimestampOffset, storageErr(tp, e.MaxTSOffset, err)
			}
			best = record.TimestampOffset{Offset: e.MaxTSOffset, Timestamp: e.MaxTimestamp, Epoch: epoch}
			continue
		}
		// The first run, and that record of it was deleted: look at the rest.
		res, err := m.maxInRun(ctx, p, v, e)
		if err != nil {
			return record.NoTimestampOffset, storageErr(tp, e.Base, err)
		}
		if res.Timestamp > best.Timestamp {
			best = res
		}
	}
	return best, nil
}

// whole gives a partition with all of its entries; no view: nothing is tiered.
func (m *Manager) whole(ctx context.Context, id record.TopicID, tp record.TopicPartition) (*part, *view, error) {
	if p := m.part(id, tp.Partition); p != nil {
		if err := m.catchUp(ctx, p, 0); err != nil {
			return nil, nil, storageErr(tp, 0, err)
		}
	}
	start, end := m.ColdRange(id, tp)
	if p := m.part(id, tp.Partition); p != nil && start == end && p.view.Load() != nil {
		return nil, nil, nil
	}
	p, v, _, err := m.locate(ctx, id, tp, start)
	return p, v, err
}

// searchRun finds the first record of a run, at or after the start of the
// tiered part, with a timestamp >= ts.
func (m *Manager) searchRun(ctx context.Context, p *part, v *view, e *Entry, ts int64) (res record.TimestampOffset, found bool, err error) {
	from := max(v.ptr.Start, e.Base)
	err = m.eachBatch(ctx, p, v, e, func(r *run) int64 {
		pos := r.floor(from)
		// Everything before the last entry below ts is below ts.
		if i := sort.Search(len(r.Times), func(i int) bool { return r.Times[i].Timestamp >= ts }); i > 0 {
			pos = max(pos, r.floor(r.Times[i-1].Offset))
		}
		return pos
	}, func(b record.Batch) bool {
		return b.MaxTimestamp() >= ts && b.LastOffset() >= from
	}, func(b record.Batch) bool {
		res, found = firstAt(b, ts, from)
		return !found
	})
	return res, found, err
}

// maxInRun finds the record with the greatest timestamp among those of a run
// at or after the start of the tiered part.
func (m *Manager) maxInRun(ctx context.Context, p *part, v *view, e *Entry) (record.TimestampOffset, error) {
	best := record.NoTimestampOffset
	from := max(v.ptr.Start, e.Base)
	err := m.eachBatch(ctx, p, v, e, func(r *run) int64 {
		return r.floor(from)
	}, func(b record.Batch) bool {
		return b.MaxTimestamp() > best.Timestamp && b.LastOffset() >= from
	}, func(b record.Batch) bool {
		for o, ok := firstAt(b, best.Timestamp+1, from); ok; o, ok = firstAt(b, best.Timestamp+1, from) {
			if o.Timestamp <= best.Timestamp {
				break
			}
			best = o
		}
		return true
	})
	return best, err
}

// epochAt gives the leader epoch of the record with the run's greatest time.
func (m *Manager) epochAt(ctx context.Context, p *part, v *view, e *Entry) (record.Epoch, error) {
	r, err := m.cold.index(ctx, p, v.ptr.Cluster, e)
	if err != nil {
		return -1, err
	}
	i := sort.Search(len(r.Epochs), func(i int) bool { return r.Epochs[i].Start > e.MaxTSOffset })
	if i == 0 {
		return e.Epoch, nil
	}
	return r.Epochs[i-1].Epoch, nil
}

// eachBatch walks a run's batch headers from start on and hands each batch
// that want picks, whole, to use, until that returns false.
func (m *Manager) eachBatch(ctx context.Context, p *part, v *view, e *Entry, start func(*run) int64, want, use func(record.Batch) bool) error {
	r, err := m.cold.index(ctx, p, v.ptr.Cluster, e)
	if err != nil {
		return err
	}
	w := newWalker(ctx, m.cold, r)
	defer w.release()
	for pos := start(r); ; {
		b, err := w.header(pos)
		if err != nil || b == nil {
			return err
		}
		n := b.Size()
		if want(b) {
			whole := make([]byte, n)
			if _, err := w.ReadAt(whole, pos); err != nil {
				return err
			}
			if err := record.Batch(whole).CheckCRC(); err != nil {
				return fmt.Errorf("%w: batch at %d of %s: %w", ErrCorrupt, r.Position+pos, r.key, err)
			}
			if !use(record.Batch(whole)) {
				return nil
			}
		}
		pos += n
		w.forget((r.Position + pos) / int64(r.Block))
	}
}

// forget lets go of the blocks before no.
func (w *walker) forget(no int64) {
	kept := w.held[:0]
	for _, h := range w.held {
		if h.no < no {
			h.span.Release()
			continue
		}
		kept = append(kept, h)
	}
	w.held = kept
}
