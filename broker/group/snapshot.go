package group

import (
	"time"

	"github.com/firnlog/firn/record"
)

// maybeSnapshot keeps the log bounded: when more than SnapshotBytes, and at
// least twice the live state, were appended since the last snapshot, the live
// state is appended anew and the log before it is let go.
//
// A crash anywhere in between loses nothing: the snapshot only restates what
// the log says already, so a part of it is harmless, and the old log goes
// only after all of it was appended. Whatever is left of the old log in front
// of the snapshot is a suffix of it, in which the tombstone of a deleted key
// follows the key's values.
func (s *shard) maybeSnapshot() {
	if s.appended < s.c.config().SnapshotBytes || s.appended < 2*s.live {
		return
	}
	start := s.log.End()
	err := s.appendLive()
	if err == nil {
		err = s.log.TrimTo(start)
	}
	// A failure is tried again after as much as another snapshot's distance.
	s.appended = 0
	switch {
	case err == errClosing:
	case err != nil:
		s.c.deps.Log.Warn("group snapshot failed", "partition", s.partition, "start", start, "err", err)
	default:
		metricSnapshots.Inc()
		s.c.deps.Log.Debug("group snapshot", "partition", s.partition, "start", start, "bytes", s.live)
	}
}

// appendLive appends all of durable in batches, and between two of them what
// was queued meanwhile, so that nobody waits for the whole.
func (s *shard) appendLive() error {
	var chunk []entry
	var size int64
	flush := func() error {
		if err := s.append(chunk); err != nil {
			return err
		}
		chunk, size = chunk[:0], 0
		return s.drain()
	}
	// Changes made by drain are in the log behind start whether or not the
	// iteration sees them.
	for id, d := range s.durable {
		if d.meta != nil {
			e := entry{group: id, meta: d.meta}
			chunk, size = append(chunk, e), size+e.size()
		}
		for topic, parts := range d.offsets {
			for p, o := range parts {
				e := entry{group: id, isOffset: true, topic: topic, partition: p, offset: o}
				chunk, size = append(chunk, e), size+e.size()
				if size >= s.c.config().MaxBatchBytes {
					if err := flush(); err != nil {
						return err
					}
				}
			}
		}
		if size >= s.c.config().MaxBatchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return s.append(chunk)
}

// drain writes what is queued, up to the next operation that must run alone.
func (s *shard) drain() error {
	for {
		s.mu.Lock()
		stop := len(s.queue) == 0 || s.queue[0].run != nil
		closing := s.phase == closed
		s.mu.Unlock()
		if closing {
			return errClosing
		}
		if stop {
			return nil
		}
		ops, open := s.take()
		if !open {
			refuseAll(ops)
			return errClosing
		}
		s.write(ops)
	}
}

// expire writes tombstones for offsets that outlived their retention and for
// groups that have nothing left. It runs in the writer.
func (s *shard) expire() {
	s.mu.Lock()
	ids := make([]string, 0, len(s.groups))
	for id := range s.groups {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	var chunk []entry
	var size int64
	for i, id := range ids {
		for _, e := range s.expired(id, s.c.deps.Now()) {
			chunk, size = append(chunk, e), size+e.size()
		}
		if size >= s.c.config().MaxBatchBytes || i == len(ids)-1 {
			if s.tombstones(chunk) != nil {
				return // the next check tries again
			}
			chunk, size = nil, 0
		}
	}
}

// expired gives the tombstones that a group is due.
func (s *shard) expired(id string, now time.Time) []entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	gs := s.groups[id]
	if s.phase != active || gs == nil {
		return nil
	}
	var due []entry
	d := s.durable[id]
	left := 0
	if d != nil {
		left = d.count
		ms, retention := now.UnixMilli(), s.c.config().OffsetsRetention.Milliseconds()
		for topic, parts := range d.offsets {
			known := s.c.deps.TopicID(topic)
			for p, o := range parts {
				if o.stale(known) || gs.core.offsetExpired(topic, o, ms, retention) {
					due = append(due, entry{group: id, isOffset: true, topic: topic, partition: p})
				}
			}
		}
		left -= len(due)
		metricExpired.Add(len(due))
	}
	if left == 0 && gs.core.idle() && gs.waiting == 0 {
		due = append(due, entry{group: id})
	}
	return due
}

// tombstones appends deletions, in batches, applies them, and forgets the
// groups that were deleted and not used again meanwhile.
func (s *shard) tombstones(entries []entry) error {
	for len(entries) > 0 {
		n, size := 0, int64(0)
		for n < len(entries) && (n == 0 || size+entries[n].size() <= s.c.config().MaxBatchBytes) {
			size += entries[n].size()
			n++
		}
		if err := s.append(entries[:n]); err != nil {
			return err
		}
		s.bury(entries[:n])
		entries = entries[n:]
	}
	return nil
}

// bury applies tombstones that are in the log.
func (s *shard) bury(entries []entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range entries {
		e := &entries[i]
		s.apply(e)
		gs := s.groups[e.group]
		if !e.isOffset && gs != nil && gs.core.idle() && gs.waiting == 0 && s.durable[e.group] == nil {
			s.forget(gs)
		}
	}
}

// dropTopic deletes all offsets of a topic. It runs in the writer.
func (s *shard) dropTopic(name string, topic record.TopicID) {
	var due []entry
	for id, d := range s.durable {
		for p, o := range d.offsets[name] {
			if !o.stale(topic) {
				due = append(due, entry{group: id, isOffset: true, topic: name, partition: p})
			}
		}
	}
	_ = s.tombstones(due) // append has logged it; retention takes them later
}

// replay rebuilds durable from one batch of the log.
func (s *shard) replay(b record.Batch) error {
	s.appended += b.Size()
	return decodeBatch(s.partition, b, func(e entry) { s.apply(&e) })
}
