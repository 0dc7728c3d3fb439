package controller

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/broker/balance"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// BalanceConfig is how replicas are moved by themselves.
type BalanceConfig struct {
	On      bool          // firn.balance; off, drained brokers are emptied and nothing else is moved
	Delay   time.Duration // firn.balance.delay.ms
	Moves   int           // firn.balance.moves, ≥ 1
	Drained []int32       // firn.drained.brokers
}

// BalancerDeps are what a Balancer uses.
type BalancerDeps struct {
	Log    *slog.Logger
	Meta   Metadata
	Config func() BalanceConfig
	// Loads asks all brokers what partitions carry. What is not known of a
	// partition counts as nothing.
	Loads func(context.Context) balance.Loads
	Now   func() time.Time // nil: time.Now
}

const (
	// lookEvery is how often a Balancer looks whether moves can be begun, and
	// lookAtMost how soon after one look the next may follow.
	lookEvery  = 5 * time.Second
	lookAtMost = 250 * time.Millisecond
	// planFor is how long a plan is kept, and how long none is made after one
	// without moves, while brokers and configs are the same: loads change.
	planFor = time.Minute
)

// Balancer moves replicas, a few at a time, while its broker is the controller:
// off drained brokers, and so that brokers are even. It begins reassignments, as
// AlterPartitionReassignments does; Controller completes them.
type Balancer struct {
	deps BalancerDeps
	wake chan struct{} // capacity 1

	ctx  context.Context
	end  context.CancelFunc
	done sync.WaitGroup

	// Of the goroutine.
	brokers map[record.BrokerID]metastore.Broker // seen last
	since   time.Time                            // that they are these
	basis   basis                                // of the plan
	planned time.Time                            // zero: there is no plan
	queue   []balance.Move                       // of the plan, not begun yet
	more    bool                                 // the plan had moves: when all are begun, there may be others
	written int64                                // revision of the newest write
	why     string                               // nothing is begun, told last
}

// basis is what a plan holds for.
type basis struct {
	brokers   string // ids and epochs of those that may be given replicas
	drained   string
	drainOnly bool
}

// NewBalancer starts a Balancer.
func NewBalancer(deps BalancerDeps) *Balancer {
	b := newBalancer(deps)
	cancel := deps.Meta.OnChange(func(*metastore.Image) {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	})
	b.done.Go(func() {
		defer cancel()
		b.run()
	})
	return b
}

func newBalancer(deps BalancerDeps) *Balancer {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	b := &Balancer{deps: deps, wake: make(chan struct{}, 1)}
	b.ctx, b.end = context.WithCancel(context.Background())
	return b
}

// Close ends it, and waits. Moves that are under way go on.
func (b *Balancer) Close() {
	b.end()
	b.done.Wait()
}

func (b *Balancer) run() {
	every := time.NewTicker(lookEvery)
	defer every.Stop()
	for {
		select {
		case <-b.wake:
		case <-every.C:
		case <-b.ctx.Done():
			return
		}
		if err := b.look(); err != nil && b.ctx.Err() == nil {
			failures.Inc()
			b.deps.Log.Warn("moves of replicas could not be begun, trying again", "error", err)
		}
		select {
		case <-time.After(lookAtMost):
		case <-b.ctx.Done():
			return
		}
	}
}

// look begins moves if some can be begun.
func (b *Balancer) look() error {
	img, now := b.deps.Meta.Image(), b.deps.Now()
	epoch, is := b.deps.Meta.ControllerEpoch()
	if !is {
		b.brokers, b.planned, b.queue, b.why = nil, time.Time{}, nil, ""
		moving.Set(0)
		planned.Set(0)
		return nil
	}
	if img.Revision < b.written {
		return nil // the image that has it is on its way
	}
	if !maps.Equal(b.brokers, img.Brokers) {
		b.brokers, b.since = img.Brokers, now
	}
	cfg := b.deps.Config()
	s := survey(img, cfg, now.Sub(b.since))
	moving.Set(float64(s.underWay))
	b.tell(s.why)
	if s.why != "" {
		return nil
	}
	b.plan(img, cfg, s, now)
	planned.Set(float64(len(b.queue)))
	return b.begin(img, cfg, epoch, s.room)
}

// situation is what an image says of moves.
type situation struct {
	underWay  int
	room      int    // for further moves
	drainOnly bool   // only drained brokers are to be emptied
	why       string // no move is to be begun, "" when some are
}

// survey says whether moves may be begun, when the brokers have been the same
// for a time.
func survey(img *metastore.Image, cfg BalanceConfig, stable time.Duration) (s situation) {
	draining, behind, one := false, 0, ""
	for name, t := range img.Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if len(p.Adding)+len(p.Removing) > 0 {
				s.underWay++
				continue
			}
			for _, id := range p.Replicas {
				switch {
				case slices.Contains(cfg.Drained, int32(id)):
					draining = true
				case !slices.Contains(p.ISR, id):
					if behind++; one == "" || name < one {
						one = name
					}
				}
			}
		}
	}
	s.room = cfg.Moves - s.underWay
	s.drainOnly = !cfg.On || stable < cfg.Delay
	switch {
	case len(img.Brokers) < 2:
		s.why = "there is no other broker"
	case s.drainOnly && !draining:
		s.why = "drained brokers are empty, and balance is off"
		if cfg.On {
			s.why = "brokers came or went a moment ago"
		}
	case s.room <= 0:
		s.why = "as many moves as may be are under way"
	case behind > 0:
		s.why = fmt.Sprintf("%d replicas are not in sync, some of topic %s: that comes first", behind, one)
	}
	return s
}

// tell logs why nothing is moved, when that is another reason than before.
func (b *Balancer) tell(why string) {
	if why != b.why {
		b.deps.Log.Debug("moves of replicas", "none is begun because", why)
	}
	b.why = why
}

// plan sees to it that there is a plan for what img says.
func (b *Balancer) plan(img *metastore.Image, cfg BalanceConfig, s situation, now time.Time) {
	is := basis{drained: fmt.Sprint(cfg.Drained), drainOnly: s.drainOnly}
	for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
		is.brokers += fmt.Sprint(id, img.Brokers[id].Epoch, usable(img, cfg.Drained, id), ";")
	}
	if is == b.basis && !b.planned.IsZero() && now.Sub(b.planned) < planFor && (len(b.queue) > 0 || !b.more) {
		return
	}
	began := time.Now()
	plan := balance.Make(ClusterOf(img, cfg.Drained, b.deps.Loads(b.ctx)), balance.Options{DrainOnly: s.drainOnly})
	b.basis, b.planned, b.queue, b.more = is, now, plan.Moves, len(plan.Moves) > 0
	stuck.Set(float64(len(plan.Stuck)))
	score.Set(plan.ScoreBefore)
	planSeconds.UpdateDuration(began)
	if len(plan.Moves) > 0 {
		b.deps.Log.Info("replicas are to be moved", "moves", len(plan.Moves), "bytes", plan.Bytes(), "score", plan.ScoreBefore, "score after", plan.ScoreAfter, "took", time.Since(began))
	}
}

// begin begins the next moves of the plan, room at most.
func (b *Balancer) begin(img *metastore.Image, cfg BalanceConfig, epoch int64, room int) error {
	var changes []metastore.PartitionChange
	for len(b.queue) > 0 && len(changes) < room {
		m := b.queue[0]
		b.queue = b.queue[1:]
		if c, ok := moveOf(img, cfg, m); ok {
			changes = append(changes, c)
			b.deps.Log.Debug("replicas are moved", "partition", m.TopicPartition.String(), "from", m.From, "to", m.To, "bytes", m.Bytes)
		}
	}
	if len(changes) == 0 {
		return nil
	}
	revisions, err := b.deps.Meta.Lead(b.ctx, epoch, changes)
	for _, rev := range revisions {
		if b.written = max(b.written, rev); rev > 0 {
			movesBegun.Inc()
		}
	}
	return err
}

// moveOf gives the record with which a move begins; false when the partition, or
// a broker that it would go to, is not any more what it was when the move was
// planned.
func moveOf(img *metastore.Image, cfg BalanceConfig, m balance.Move) (metastore.PartitionChange, bool) {
	t := img.Topics[m.Topic]
	if t == nil || int(m.Partition) >= len(t.Partitions) {
		return metastore.PartitionChange{}, false
	}
	r := RecordOf(&t.Partitions[m.Partition])
	if r.Reassigning() || r.Leader == replica.None || !slices.Equal(r.Replicas, m.From) {
		return metastore.PartitionChange{}, false
	}
	for _, id := range m.To {
		if !r.HasReplica(id) && !usable(img, cfg.Drained, id) {
			return metastore.PartitionChange{}, false
		}
	}
	next, changed := replica.Reassign(r, m.To)
	return metastore.PartitionChange{Topic: t.ID, Partition: PartitionOf(m.Partition, next)}, changed
}

// usable says whether a broker may be given replicas.
func usable(img *metastore.Image, drained []int32, id record.BrokerID) bool {
	return img.Stays(id) && !slices.Contains(drained, int32(id))
}

// ClusterOf gives brokers and partitions as package balance has them, in an
// order that follows from the image.
func ClusterOf(img *metastore.Image, drained []int32, loads balance.Loads) balance.Cluster {
	ids := map[record.BrokerID]bool{}
	for id := range img.Brokers {
		ids[id] = true
	}
	var c balance.Cluster
	for _, name := range slices.Sorted(maps.Keys(img.Topics)) {
		for i := range img.Topics[name].Partitions {
			r := RecordOf(&img.Topics[name].Partitions[i])
			tp := record.TopicPartition{Topic: name, Partition: record.PartitionID(i)}
			p := balance.Partition{TopicPartition: tp, Replicas: r.Replicas, Fixed: r.Leader == replica.None, Carried: loads[tp]}
			if r.Reassigning() {
				p.Replicas, p.Fixed = r.Target(), true
			}
			for _, id := range p.Replicas {
				ids[id] = true
			}
			c.Partitions = append(c.Partitions, p)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		c.Brokers = append(c.Brokers, balance.Broker{ID: id, Rack: img.Brokers[id].Rack, Usable: usable(img, drained, id), Drained: slices.Contains(drained, int32(id))})
	}
	return c
}
