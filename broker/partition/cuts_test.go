package partition

import "github.com/firnlog/firn/record"

// What a follower does to its log, as calls of their own. The replica leads, as
// if it were alone, so that what is durable is below the high watermark.

func (p *Partition) AppendReplicated(batches []byte) (end record.Offset, err error) {
	entries, err := wholeEntries(batches, nil)
	if err != nil {
		return p.log.End(), err
	}
	p.mu.Lock()
	if err = p.usable(); err == nil {
		err = p.appendReplicated(batches, entries)
	}
	end = p.log.End()
	p.mu.Unlock()
	p.waiters.advance(record.Offset(p.hw.Load()))
	return end, err
}

func (p *Partition) Truncate(to record.Offset) (end record.Offset, err error) {
	err = p.cut(func() error { return p.truncateLocked(to) })
	return p.log.End(), err
}

func (p *Partition) StartAt(start record.Offset, epochs []record.EpochStart, producers []byte) error {
	return p.cut(func() error { return p.startAtLocked(start, epochs, producers) })
}

// cut makes the replica lead anew after f: no leader's log becomes shorter.
func (p *Partition) cut(f func() error) error {
	p.mu.Lock()
	err := p.usable()
	if err == nil {
		err = f()
	}
	p.role.mu.Lock()
	p.role.leader = nil
	p.role.mu.Unlock()
	p.mu.Unlock()
	rec := p.alone()
	rec.Epoch = record.Epoch(p.epoch.Load())
	p.Lead(rec)
	return err
}
