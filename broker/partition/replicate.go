package partition

import (
	"errors"
	"fmt"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// errAskLater says that a leader's answer is of no use now.
var errAskLater = errors.New("the leader's answer is of no use")

// NextFetch gives what to ask the leader for; false while there is nothing to
// ask: this replica does not follow, or not all of its log is durable.
func (p *Partition) NextFetch() (ask replica.Ask, logStart record.Offset, ok bool) {
	r := &p.role
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.follower == nil || r.begins || p.closed.Load() {
		return replica.Ask{}, 0, false
	}
	if r.follower.Awaits() {
		p.learnTiered()
	}
	ask, ok = r.follower.Next(p.log, r.durable)
	return ask, p.log.Start(), ok
}

// Replicate does what the leader's answer asks for: appends its batches as they
// are (the last of them may be cut off), truncates, or starts anew. The batches
// are not kept. Unless it gives an error, it calls durable once all of the log
// survives, or with an error when it never will. Errors: what says to ask again
// later, kerr.CorruptMessage, and those of the disk.
func (p *Partition) Replicate(a replica.Answer, batches []byte, durable func(error)) error {
	list := entryLists.Get().(*[]commitlog.Entry)
	defer func() {
		clear(*list)
		entryLists.Put(list)
	}()
	var err error
	if *list, err = wholeEntries(batches, (*list)[:0]); err != nil {
		return fmt.Errorf("partition %v: %w", p.tp, err)
	}
	a.RecordsEnd = a.Ask.Offset
	if n := len(*list); n > 0 {
		a.RecordsEnd = (*list)[n-1].Batch.LastOffset() + 1
	}
	before := p.Extent(false)
	end, err := p.replicate(a, batches, *list)
	if p.Extent(false) != before {
		p.waiters.moved() // readers, who may ask a follower (KIP-392)
	}
	if err != nil {
		return err
	}
	p.synced.await(end, func() bool { return p.durableEnd() >= end }, durable)
	return nil
}

func (p *Partition) replicate(a replica.Answer, batches []byte, entries []commitlog.Entry) (end record.Offset, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.usable(); err != nil {
		return 0, err
	}
	r := &p.role
	r.mu.Lock()
	if r.follower == nil {
		r.mu.Unlock()
		return 0, fmt.Errorf("%w: partition %v does not follow", errAskLater, p.tp)
	}
	var known *record.TieredEnd
	if a.Result == replica.OutOfRange || a.Result == replica.Diverging {
		known = p.learntTiered()
		a.Tiered = p.tieredFor(known)
	}
	d := r.follower.Answered(p.log, a)
	r.mu.Unlock()
	if d.Action == replica.AwaitTiered {
		p.learnTiered()
		return 0, fmt.Errorf("%w: partition %v begins where its tiered part ends, and that is looked up", errAskLater, p.tp)
	}
	if d.Action == replica.BackOff || d.Action == replica.AwaitRecord {
		return 0, fmt.Errorf("%w: partition %v, epoch %d, offset %d, result %d", errAskLater, p.tp, a.Ask.Epoch, a.Ask.Offset, a.Result)
	}
	if err := p.decided(d, batches, entries, known); err != nil {
		return 0, err
	}
	return p.log.End(), nil
}

// decided does what a follower's decision says, with the batches that were
// answered, and what is known of the tiered end, nil for nothing. p.mu is held.
func (p *Partition) decided(d replica.Decision, batches []byte, entries []commitlog.Entry, known *record.TieredEnd) (err error) {
	end := p.log.End()
	switch d.Action {
	case replica.Append:
		err = p.appendReplicated(batches, entries)
	case replica.Truncate:
		if d.Offset < end {
			truncations.Inc()
			p.deps.Log.Info("a follower's log is cut to what its leader has", "partition", p.tp.String(), "epoch", p.epoch.Load(), "end", end, "to", d.Offset)
		}
		err = p.truncateLocked(d.Offset)
	case replica.StartAnew:
		restarts.Inc()
		p.deps.Log.Info("a follower's log starts anew", "partition", p.tp.String(), "epoch", p.epoch.Load(), "end", end, "start", d.Offset)
		if known == nil || known.End != d.Offset {
			known = &record.TieredEnd{End: d.Offset}
		}
		err = p.beginLocked(known)
	default:
		return nil
	}
	if err == nil && d.LogStart > p.log.Start() {
		if err = p.log.SetLogStart(min(d.LogStart, p.log.End())); err == nil {
			_, err = p.dropBelowStart()
		}
	}
	if err != nil {
		return err
	}
	p.role.mu.Lock()
	p.setHighWatermark(min(d.HighWatermark, p.log.End()))
	p.role.mu.Unlock()
	return nil
}

// durableEnd is up to where the log survives, by the topic's ack policy.
func (p *Partition) durableEnd() record.Offset {
	p.role.mu.Lock()
	defer p.role.mu.Unlock()
	return p.role.durable
}
