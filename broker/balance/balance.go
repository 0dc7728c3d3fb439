// Package balance plans where replicas should be: from what brokers and
// partitions there are, and what they carry, to the moves that make brokers
// even. It is pure: the same Cluster gives the same Plan. Who carries a plan
// out, how fast, and whether at all, is not decided here.
//
// # The score
//
// A broker carries four loads: replicas, leaderships (of partitions whose first
// replica it has), bytes on disk, and traffic (bytes per second: what each
// replica takes in, and what the leader gives to consumers and to the other
// replicas). For each load, a broker whose share is within a tolerance of the
// mean is even: 5 % for replicas and leaderships, 10 % for bytes, 20 % for
// traffic, which is the one that changes by itself. What lies beyond the
// tolerance, as a part of the mean, is squared, and the score is the sum of that
// over all loads and brokers: 0 is best. Where the mean is less than 1 GiB of
// bytes, or 1 MB/s of traffic, those take its place, so that nobody moves
// replicas for the sake of next to nothing. A partition adds 1 for each rack
// that one of its replicas could be in besides, and is not.
//
// # The plan
//
// It is made of steps: a replica goes to another broker, or another of a
// partition's replicas becomes its first. A step lowers the score by Least or
// more, so that there is an end to it: the score is never below 0. There is no
// way back either: applied, a plan leaves a cluster for which no step is left,
// and the next plan is empty for as long as the loads stay what they are.
//
// No step takes a partition to fewer racks, nor a replica to a broker that may
// not be given any. Drained brokers come first: everything goes from them,
// whatever that does to the score, to as many racks as can be had without them.
package balance

import (
	"slices"

	"github.com/firnlog/firn/record"
)

// Least is by how much a step lowers the score at least. With 100 brokers of
// 300 replicas each, a replica goes from a broker that has 6.5 % more than the
// mean, and not from one that has 6.
const Least = 1e-4

// Broker is one that is there, or that has replicas.
type Broker struct {
	ID   record.BrokerID
	Rack string
	// Usable says that it may be given replicas and leaderships: it is alive,
	// is not about to stop, and is not drained. The mean is that of usable ones;
	// from those that are neither usable nor drained nothing is taken.
	Usable  bool
	Drained bool // it is to have no replicas; never usable
}

// Partition is one partition and what it carries.
type Partition struct {
	record.TopicPartition
	// Replicas are its brokers, the first of which is to lead it. Where they are
	// being changed, those that will be.
	Replicas []record.BrokerID
	Fixed    bool // it counts, and is not moved
	Carried
}

// Cluster is what a plan is made for. Brokers have distinct ids, a partition's
// replicas distinct brokers, all of which are among Brokers.
type Cluster struct {
	Brokers    []Broker
	Partitions []Partition
}

// Move is what is to become of one partition's replicas.
type Move struct {
	record.TopicPartition
	From, To []record.BrokerID // the first one is to lead
	Bytes    int64             // that are copied, about: 0 when only the order is another
}

// Load is what a broker carries.
type Load struct {
	Broker   record.BrokerID
	Replicas int
	Leaders  int
	Bytes    int64
	Traffic  int64 // bytes per second
}

// Plan are the moves that make a cluster even, drained brokers first, and then
// roughly what helps most. Each of them is of another partition, and leaves the
// cluster a valid one by itself.
type Plan struct {
	Moves []Move
	// Stuck are partitions with a replica on a drained broker that no other
	// broker can take, since each usable one has a replica already.
	Stuck         []record.TopicPartition
	Before, After []Load // as Cluster.Brokers
	ScoreBefore   float64
	ScoreAfter    float64
}

// Bytes is how much all moves copy, about.
func (p *Plan) Bytes() (n int64) {
	for i := range p.Moves {
		n += p.Moves[i].Bytes
	}
	return n
}

// Options say what a plan may do.
type Options struct {
	DrainOnly bool // empty drained brokers, and no more
	Limit     int  // moves at most; 0: no limit
}

// Make makes a plan. It does not change c.
func Make(c Cluster, o Options) Plan {
	s := newState(c, o.Limit)
	plan := Plan{Before: s.loads(), ScoreBefore: s.score()}
	plan.Stuck = s.drain()
	if !o.DrainOnly {
		s.even()
	}
	for _, i := range s.touched {
		from, to := c.Partitions[i].Replicas, s.replicas(i)
		if slices.Equal(from, to) {
			continue // there and back
		}
		m := Move{TopicPartition: c.Partitions[i].TopicPartition, From: slices.Clone(from), To: to}
		for _, id := range to {
			if !slices.Contains(from, id) {
				m.Bytes += c.Partitions[i].Bytes
			}
		}
		plan.Moves = append(plan.Moves, m)
	}
	plan.After, plan.ScoreAfter = s.loads(), s.score()
	return plan
}
