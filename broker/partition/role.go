package partition

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// role is what this replica is at present: the leader, a follower, or neither
// while the metadata does not say.
type role struct {
	// mu guards what follows. It is taken after Partition.mu, and nothing is
	// waited for under it.
	mu       sync.Mutex
	leader   *replica.Leader
	follower *replica.Follower
	begins   bool          // the log is about to begin elsewhere: nothing is asked until it does
	durable  record.Offset // up to where the log survives, by the topic's ack policy
	// unstable are the marks above the high watermark whose last stable offset
	// is below their end; passed is the last one that it went by. There is one
	// per place where a transaction begins or ends.
	unstable []journal.Mark
	passed   journal.Mark
}

// now is the time for package replica.
func (p *Partition) now() int64 { return int64(p.deps.Now().Sub(p.born)) }

// alone is the record of a partition that has no other replica.
func (p *Partition) alone() replica.Record {
	self := []record.BrokerID{p.deps.Broker}
	return replica.Record{Leader: p.deps.Broker, Epoch: p.deps.Epoch, Replicas: self, ISR: self}
}

// Lead makes this replica the leader that rec says it is, or tells it a newer
// record of its leader epoch. The log's end is where a new epoch begins.
func (p *Partition) Lead(rec replica.Record) {
	out, enough := p.lead(rec)
	if !enough {
		p.waiters.abort(fmt.Errorf("%w: partition %v", kerr.NotEnoughReplicasAfterAppend, p.tp))
	}
	p.told(out)
}

func (p *Partition) lead(rec replica.Record) (out replica.Outcome, enough bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &p.role
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case rec.Epoch < record.Epoch(p.epoch.Load()): // from before
	case r.leader != nil && r.leader.Record().Epoch == rec.Epoch:
		out = r.leader.Learned(rec, p.now())
	default:
		cfg := p.cfg.Load()
		p.epoch.Store(int32(rec.Epoch))
		p.log.AssignEpoch(rec.Epoch, p.log.End())
		p.release()
		r.follower = nil
		// What is in object storage was below a high watermark, and the caller has
		// seen to it that the log continues it.
		hw := max(record.Offset(p.hw.Load()), min(record.Offset(p.tieredEnd.Load()), p.log.End()))
		r.leader = replica.NewLeader(replica.LeaderConfig{
			Self: p.deps.Broker, Record: rec,
			EpochStart: p.log.End(), Durable: r.durable, HighWatermark: hw,
			MinInsync: cfg.MinInsync, MaxLag: cfg.ReplicaLag,
		}, p.now())
		out.Moved = true
	}
	p.tellLocked(out)
	return out, r.leader == nil || r.leader.MayAppend()
}

// Follow makes this replica a follower under rec's leader epoch. Those who wait
// for records to be acknowledged get kerr.NotLeaderForPartition. An error is
// that of the disk.
func (p *Partition) Follow(rec replica.Record) error {
	begun, err := p.follow(rec)
	if begun {
		p.waiters.abort(p.notLeader())
	}
	return err
}

func (p *Partition) follow(rec replica.Record) (begun bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &p.role
	r.mu.Lock()
	current := record.Epoch(p.epoch.Load())
	if rec.Epoch < current || r.follower != nil && rec.Epoch == current || p.usable() != nil {
		r.mu.Unlock()
		return false, nil
	}
	p.epoch.Store(int32(rec.Epoch))
	p.release()
	r.leader, r.follower = nil, replica.NewFollower(rec, record.Offset(p.hw.Load()))
	known := p.learntTiered()
	d := r.follower.Begin(p.log, p.tieredFor(known))
	r.mu.Unlock()
	if err := p.decided(d, nil, nil, known); err != nil {
		r.mu.Lock()
		r.follower = nil
		r.mu.Unlock()
		return true, err
	}
	return true, nil
}

// setReplication takes over what of the settings is for the leader.
func (p *Partition) setReplication(cfg *Config) {
	p.withLeader(func(l *replica.Leader) replica.Outcome {
		l.SetMaxLag(cfg.ReplicaLag)
		return l.SetMinInsync(cfg.MinInsync, p.now())
	})
}

// withLeader tells the leader something, if this replica is it, and readers
// what it decided then. p.mu is not held.
func (p *Partition) withLeader(tell func(*replica.Leader) replica.Outcome) {
	r := &p.role
	r.mu.Lock()
	var out replica.Outcome
	if r.leader != nil {
		out = tell(r.leader)
		p.tellLocked(out)
	}
	r.mu.Unlock()
	p.told(out)
}

// Rest makes this replica neither leader nor follower, until the metadata says
// which: nothing is appended, and nothing is read.
func (p *Partition) Rest() {
	p.mu.Lock()
	p.role.mu.Lock()
	was := p.role.leader != nil || p.role.follower != nil
	p.role.leader, p.role.follower = nil, nil
	p.release()
	p.role.mu.Unlock()
	p.mu.Unlock()
	if was {
		p.waiters.abort(p.notLeader())
	}
}

// hold is what clients' appends wait for: the replica's next role.
type hold struct {
	over  chan struct{}
	until time.Time // they go on all the same
}

// Hold has clients' appends to a leader wait until it has another role, or until
// the time given: one that is about to hand over appends nothing more that
// the next one may not have, and that every follower would have to cut off.
func (p *Partition) Hold(until time.Time) {
	p.role.mu.Lock()
	defer p.role.mu.Unlock()
	if p.role.leader != nil {
		p.held.CompareAndSwap(nil, &hold{over: make(chan struct{}), until: until})
	}
}

// release ends what Hold began.
func (p *Partition) release() {
	if h := p.held.Swap(nil); h != nil {
		close(h.over)
	}
}

func (h *hold) wait() {
	left := time.Until(h.until)
	if left <= 0 {
		return
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-h.over:
	case <-t.C:
	}
}

func (p *Partition) notLeader() error {
	return fmt.Errorf("%w: partition %v has its leader elsewhere", kerr.NotLeaderForPartition, p.tp)
}

// Leads says whether this replica is the leader.
func (p *Partition) Leads() bool {
	p.role.mu.Lock()
	defer p.role.mu.Unlock()
	return p.role.leader != nil
}

// MayAppend is kerr.NotEnoughReplicas while fewer than min.insync.replicas are
// in sync: a batch with acks=all is refused then.
func (p *Partition) MayAppend() error {
	p.role.mu.Lock()
	defer p.role.mu.Unlock()
	if l := p.role.leader; l != nil && !l.MayAppend() {
		rec := l.Record()
		return fmt.Errorf("%w: partition %v has %d replicas in sync, %d are asked for by min.insync.replicas", kerr.NotEnoughReplicas, p.tp, len(rec.ISR), rec.MinInsync(p.cfg.Load().MinInsync))
	}
	return nil
}

// Settled says that the high watermark has reached what the leader had when it
// was elected: before, clients are not told where the partition ends (KIP-207).
func (p *Partition) Settled() bool {
	p.role.mu.Lock()
	defer p.role.mu.Unlock()
	l := p.role.leader
	return l == nil || l.HighWatermark() >= l.EpochStart()
}

// AwaitSettled returns when the high watermark has reached what the leader had
// when it was elected: from then on all that was ever acknowledged is below it.
func (p *Partition) AwaitSettled(ctx context.Context) error {
	p.role.mu.Lock()
	l := p.role.leader
	if l == nil {
		p.role.mu.Unlock()
		return p.notLeader()
	}
	start := l.EpochStart()
	p.role.mu.Unlock()
	done := make(chan error, 1)
	cancel := p.AwaitHighWatermark(start, func(err error) { done <- err })
	defer cancel()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ReplicaFetched takes in that another replica asked for what comes after
// f.Offset, before which it has everything durably. last is the epoch of its
// last record, -1 for none.
func (p *Partition) ReplicaFetched(f replica.Fetch, last record.Epoch) {
	if _, _, differs := replica.Diverges(p.log, last, f.Offset); differs {
		return
	}
	p.withLeader(func(l *replica.Leader) replica.Outcome {
		out, _ := l.Fetched(f, p.now())
		return out
	})
}

// ReadReplica chooses who else may be read from at offset o, replica.None for
// nobody: see replica.Leader.ReadReplica. Only the leader chooses.
func (p *Partition) ReadReplica(o record.Offset, near func(record.BrokerID) bool) record.BrokerID {
	p.role.mu.Lock()
	defer p.role.mu.Unlock()
	if p.role.leader == nil {
		return replica.None
	}
	return p.role.leader.ReadReplica(o, near)
}

// WantedISR gives the change of the ISR that is to be written now, if there is
// one; ISRAnswered has to follow. mayEnter says whether a replica is registered
// and taken in under a broker epoch, and not leaving.
func (p *Partition) WantedISR(mayEnter func(record.BrokerID, int64) bool) (replica.Change, bool) {
	r := &p.role
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leader == nil {
		return replica.Change{}, false
	}
	return r.leader.Wanted(p.now(), mayEnter)
}

// ISRAnswered says what became of a change that WantedISR gave. revision is
// that of the record if it was written.
func (p *Partition) ISRAnswered(c replica.Change, a replica.ISRAnswer, revision int64) {
	p.withLeader(func(l *replica.Leader) (out replica.Outcome) {
		if l.Record().Epoch == c.Record.Epoch {
			out = l.ISRAnswered(c, a, revision, p.now())
		}
		return out
	})
}

// grownTo notes where the log ends: a follower may have on its disk what is not
// on the leader's yet.
func (p *Partition) grownTo(end record.Offset) {
	p.role.mu.Lock()
	defer p.role.mu.Unlock()
	if l := p.role.leader; l != nil {
		l.Appended(end)
	}
}

// durableTo notes that what was appended up to a mark survives. Call told with
// what it gives, without p.mu.
func (p *Partition) durableTo(m journal.Mark) (out replica.Outcome) {
	r := &p.role
	r.mu.Lock()
	defer r.mu.Unlock()
	r.durable = max(r.durable, m.End)
	if n := len(r.unstable); m.LastStable < m.End {
		if n > 0 && r.unstable[n-1].LastStable == m.LastStable {
			r.unstable[n-1].End = m.End
		} else {
			r.unstable = append(r.unstable, m)
		}
	} else if n > 0 || r.passed.End > 0 {
		r.unstable = append(r.unstable, m) // the end of a transaction
	}
	if r.leader != nil {
		out = r.leader.Durable(m.End)
		p.tellLocked(out)
	}
	return out
}

// cutTo takes back what was said of records that are no more: what is durable,
// readable and stable ends at the log's end. The journal has told all that it
// had to tell of them. p.mu is held.
func (p *Partition) cutTo(end record.Offset) {
	r := &p.role
	r.mu.Lock()
	defer r.mu.Unlock()
	r.durable = min(r.durable, end)
	for n := len(r.unstable); n > 0 && r.unstable[n-1].End > end; n-- {
		r.unstable = r.unstable[:n-1]
	}
	if stable := p.lastStable(); stable < end {
		r.passed = journal.Mark{End: end, LastStable: stable}
	} else if r.passed.End > end {
		r.passed = journal.Mark{}
	}
	lower(&p.hw, int64(end))
	lower(&p.lso, int64(p.lastStable()))
}

// tellLocked makes what the leader decided visible to readers. r.mu is held;
// told has to follow without it.
func (p *Partition) tellLocked(out replica.Outcome) {
	if out.Moved && p.role.leader != nil {
		p.setHighWatermark(p.role.leader.HighWatermark())
	}
}

// setHighWatermark moves high watermark and last stable offset, which never go
// back. role.mu is held.
func (p *Partition) setHighWatermark(hw record.Offset) {
	r := &p.role
	stable := hw
	for len(r.unstable) > 0 && r.unstable[0].End <= hw {
		r.passed, r.unstable = r.unstable[0], r.unstable[1:]
	}
	if r.passed.LastStable == r.passed.End {
		r.passed = journal.Mark{}
	} else {
		stable = min(stable, r.passed.LastStable)
	}
	if len(r.unstable) > 0 {
		stable = min(stable, r.unstable[0].LastStable)
	}
	if r.follower != nil {
		// The high watermark may be ahead of what is durable here, of which no mark
		// tells yet whether it is stable.
		stable = min(stable, r.durable)
	}
	raise(&p.hw, int64(hw))
	raise(&p.lso, int64(stable))
}

// told wakes those whom an outcome concerns. No lock is held.
func (p *Partition) told(out replica.Outcome) {
	if out.Moved {
		p.waiters.advance(record.Offset(p.hw.Load()))
	}
	if out.Wants && p.deps.ISRWanted != nil {
		p.deps.ISRWanted(p)
	}
}
