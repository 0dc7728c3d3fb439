package partition

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// A replica of a tiered topic that has nothing, or that lags behind what its
// leader has on disk, begins where the tiered part ends (KIP-405): what is in the
// object store it need not copy. So does a leader that lacks some of that, or has
// other records there: its offsets are not used twice.

const (
	learnTimeout = 30 * time.Second // of one look-up of the tiered end
	// A look-up that failed is not repeated before firstLearnPause has passed,
	// then twice as long, up to lastLearnPause.
	firstLearnPause = 100 * time.Millisecond
	lastLearnPause  = 5 * time.Second
	// withoutFooter is after how many tries of a look-up in a row, in which only
	// the object could not be read, a follower begins without what is in it:
	// producers' batches are then not recognised when they are sent a second time,
	// as after a loss of the local snapshots.
	withoutFooter = 8
)

// beginning is what a follower learns of the tiered end, in the background.
type beginning struct {
	mu      sync.Mutex
	stopped bool
	cancel  context.CancelFunc // of the look-up under way, nil: there is none
	work    sync.WaitGroup
	known   *record.TieredEnd // learnt, and not used yet
	tries   int               // that failed in a row
	nextTry time.Time
}

// stop ends a look-up under way.
func (b *beginning) stop() {
	b.mu.Lock()
	b.stopped = true
	if b.cancel != nil {
		b.cancel()
	}
	b.mu.Unlock()
	b.work.Wait()
}

// hasTier says whether there may be a tiered part.
func (p *Partition) hasTier() bool { return p.cfg.Load().Tiered && p.deps.Cold != nil }

// learntTiered takes what was learnt of the tiered end, nil if nothing was. It
// counts once: by the next time it may have moved.
func (p *Partition) learntTiered() *record.TieredEnd {
	b := &p.beginning
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.known
	b.known = nil
	return known
}

// tieredFor is the tiered end as package replica takes it.
func (p *Partition) tieredFor(known *record.TieredEnd) record.Offset {
	switch {
	case !p.hasTier():
		return 0
	case known == nil:
		return replica.TieredUnknown
	}
	return known.End
}

// learnTiered looks up where the tiered part ends, unless somebody does, or has
// and it was not used yet, or tried a moment ago.
func (p *Partition) learnTiered() {
	b := &p.beginning
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped || b.cancel != nil || b.known != nil || !p.hasTier() || time.Now().Before(b.nextTry) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), learnTimeout)
	b.cancel = cancel
	b.work.Go(func() {
		defer cancel()
		end, err := p.deps.Cold.ColdEnd(ctx, p.id, p.tp)
		if p.learnt(end, err) {
			p.beginAgain()
		}
	})
}

// learnt notes the outcome of a look-up, and says whether it is one.
func (p *Partition) learnt(end record.TieredEnd, err error) bool {
	b := &p.beginning
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cancel = nil
	if err == nil && b.tries+1 < withoutFooter {
		err = end.Missing
	}
	if err == nil {
		b.known, b.tries, b.nextTry = &end, 0, time.Time{}
		return true
	}
	if !b.stopped {
		tieredLookupFailures.Inc()
		if b.tries++; b.tries == 1 {
			p.deps.Log.Warn("a follower has to begin where the tiered part ends, which cannot be looked up; it is tried again", "partition", p.tp.String(), "error", err)
		}
		b.nextTry = time.Now().Add(min(firstLearnPause<<min(b.tries-1, 10), lastLearnPause))
	}
	return false
}

// beginAgain lets a follower begin that could not before.
func (p *Partition) beginAgain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &p.role
	r.mu.Lock()
	if r.follower == nil || !r.follower.Awaits() || p.usable() != nil {
		r.mu.Unlock()
		return // the leader's next answer asks for what was learnt
	}
	known := p.learntTiered()
	if known == nil {
		r.mu.Unlock()
		return
	}
	d := r.follower.Begin(p.log, known.End)
	r.begins = true
	r.mu.Unlock()
	err := p.decided(d, nil, nil, known)
	r.mu.Lock()
	r.begins = false
	r.mu.Unlock()
	if err != nil {
		p.deps.Log.Warn("a follower could not begin where the tiered part ends; it asks its leader", "partition", p.tp.String(), "error", err)
	}
}

// Continues says whether a replica that is to lead has all that is tiered, as
// far as end says: its log reaches the tiered end, and the record before it is of
// the same leader epoch, so that all before are the same, too.
func (p *Partition) Continues(end record.TieredEnd) bool {
	switch {
	case p.log.End() < end.End:
		return false
	case end.Start == end.End:
		return true
	case len(end.Epochs) == 0:
		return false // to be looked up
	}
	own := p.log.EpochAt(end.End - 1)
	return own < 0 || own == end.Epochs[len(end.Epochs)-1].Epoch // below 0: its log began there, and the epoch is forgotten
}

// BeginAtTiered lets a replica that is to lead begin at the tiered end, unless
// it continues what is tiered. Only after an unclean election, or a loss of the
// disk, it does not. Errors: kerr.KafkaStorageError.
func (p *Partition) BeginAtTiered(end record.TieredEnd) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.usable() != nil || end.Start < end.End && len(end.Epochs) == 0 && p.log.End() >= end.End || p.Continues(end) {
		return nil
	}
	p.deps.Log.Warn("a leader's log lacks some of what is in object storage, or differs; it goes on after that", "partition", p.tp.String(), "local_end", p.log.End(), "tiered_end", end.End)
	if err := p.beginLocked(&end); err != nil {
		return err
	}
	p.role.mu.Lock()
	p.setHighWatermark(end.End)
	p.role.mu.Unlock()
	return nil
}

// beginLocked drops all of the log and begins at end.End, with what is known of
// what is before. p.mu is held.
func (p *Partition) beginLocked(end *record.TieredEnd) error {
	if p.hasTier() {
		tieredBeginnings.Inc()
	}
	if end.Missing != nil {
		blindBeginnings.Inc()
		p.deps.Log.Warn("a log begins at the tiered end without producers' state and older leader epochs, since the object cannot be read", "partition", p.tp.String(), "tiered_end", end.End, "error", end.Missing)
	}
	err := p.startAtLocked(end.End, end.Epochs, end.Producers)
	if errors.Is(err, commitlog.ErrFormat) && (end.Epochs != nil || end.Producers != nil) {
		blindBeginnings.Inc()
		p.deps.Log.Error("a log begins at the tiered end without what the object says of producers and leader epochs, since that does not fit", "partition", p.tp.String(), "tiered_end", end.End, "error", err)
		err = p.startAtLocked(end.End, nil, nil)
	}
	if err == nil && end.Start < end.End {
		raise(&p.tieredEnd, int64(end.End))
	}
	return err
}
