package balance

import (
	"slices"

	"github.com/firnlog/firn/record"
)

// The loads.
const (
	replicas = iota
	leaders
	bytes
	traffic
	dims
)

var (
	// tolerance is how far from the mean a load is even, as a part of it.
	tolerance = [dims]float64{0.05, 0.05, 0.10, 0.20}
	// least is what the mean counts for at least.
	least = [dims]float64{1, 1, 1 << 30, 1e6}
)

// load is one broker's, or what a step takes from one to another. All are whole
// numbers, below 2^53, so that sums do not depend on their order.
type load [dims]float64

func (l *load) add(o *load, sign float64) {
	for d := range l {
		l[d] += sign * o[d]
	}
}

// state is a cluster that steps are made in. Brokers and partitions are named
// by their index.
type state struct {
	c      Cluster
	limit  int // partitions that may be touched
	rack   []int
	racks  int // of usable brokers
	usable []int
	// anywhere are all of usable as targets.
	anywhere []target
	slots    [][]int32 // of each partition: its replicas
	on       [][]int32 // of each broker: the partitions that have a replica there
	load     []load
	costs    []load // what each adds to the score
	mean     load
	unit     load // what a load's distance from the mean is measured in
	isMoved  []bool
	touched  []int
}

func newState(c Cluster, limit int) *state {
	n := len(c.Brokers)
	s := &state{c: c, limit: limit, rack: make([]int, n), on: make([][]int32, n), load: make([]load, n), costs: make([]load, n),
		slots: make([][]int32, len(c.Partitions)), isMoved: make([]bool, len(c.Partitions))}
	if limit <= 0 {
		s.limit = len(c.Partitions)
	}
	index := make(map[record.BrokerID]int32, n)
	names, used := map[string]int{}, map[int]bool{}
	for i, b := range c.Brokers {
		index[b.ID] = int32(i)
		r, ok := names[b.Rack]
		if !ok {
			r = len(names)
			names[b.Rack] = r
		}
		s.rack[i] = r
		if b.Usable {
			s.usable, s.anywhere = append(s.usable, i), append(s.anywhere, target{b: i})
			used[r] = true
		}
	}
	s.racks = len(used)
	for i := range c.Partitions {
		p := &c.Partitions[i]
		s.slots[i] = make([]int32, len(p.Replicas))
		for j, id := range p.Replicas {
			b := index[id]
			s.slots[i][j] = b
			s.on[b] = append(s.on[b], int32(i))
			l := s.carried(i, j)
			s.load[b].add(&l, 1)
		}
	}
	s.measure()
	return s
}

// measure sets the mean. It stays the same while steps are among usable brokers.
func (s *state) measure() {
	s.mean = load{}
	for _, b := range s.usable {
		s.mean.add(&s.load[b], 1)
	}
	for d := range s.mean {
		s.mean[d] /= max(1, float64(len(s.usable)))
		s.unit[d] = max(s.mean[d], least[d])
	}
	for b := range s.load {
		s.carry(b, &load{}, 1)
	}
}

// carry adds to what broker b carries, or takes from it.
func (s *state) carry(b int, l *load, sign float64) {
	s.load[b].add(l, sign)
	for d := range dims {
		s.costs[b][d] = s.cost(d, s.load[b][d])
	}
}

// carried is what the replica of a partition in a slot carries.
func (s *state) carried(p, slot int) load {
	part := &s.c.Partitions[p]
	l := load{replicas: 1, bytes: float64(part.Bytes), traffic: float64(part.In)}
	if slot == 0 {
		lead := s.leading(p)
		l.add(&lead, 1)
	}
	return l
}

// leading is what leading a partition adds.
func (s *state) leading(p int) load {
	part := &s.c.Partitions[p]
	return load{leaders: 1, traffic: float64(part.Out + part.In*int64(len(part.Replicas)-1))}
}

// cost is what one load of one broker adds to the score.
func (s *state) cost(d int, x float64) float64 {
	off := x - s.mean[d]
	if off < 0 {
		off = -off
	}
	e := off/s.unit[d] - tolerance[d]
	if e <= 0 {
		return 0
	}
	return e * e
}

// score is that of the package comment.
func (s *state) score() (sum float64) {
	for _, b := range s.usable {
		for d := range dims {
			sum += s.costs[b][d]
		}
	}
	for p := range s.slots {
		sum += float64(max(0, s.wanted(p)-s.spread(p)))
	}
	return sum
}

// wanted is in how many racks a partition could be.
func (s *state) wanted(p int) int { return min(len(s.slots[p]), s.racks) }

// spread is in how many racks a partition is.
func (s *state) spread(p int) int { return s.spreadWith(p, -1, 0) }

// spreadWith is spread if the replica in a slot were on broker b.
func (s *state) spreadWith(p, slot int, b int) (n int) {
	rack := func(i int) int {
		if i == slot {
			return s.rack[b]
		}
		return s.rack[s.slots[p][i]]
	}
	for i := range s.slots[p] {
		first := true
		for j := range i {
			first = first && rack(j) != rack(i)
		}
		if first {
			n++
		}
	}
	return n
}

// over says whether a broker has more of anything than is even.
func (s *state) over(b int) bool {
	for d := range dims {
		if s.load[b][d] > s.mean[d] && s.costs[b][d] > 0 {
			return true
		}
	}
	return false
}

// mayMove says whether a partition may be moved, or moved further.
func (s *state) mayMove(p int) bool {
	return !s.c.Partitions[p].Fixed && (s.isMoved[p] || len(s.touched) < s.limit)
}

// touch notes that a partition is moved.
func (s *state) touch(p int) {
	if !s.isMoved[p] {
		s.isMoved[p] = true
		s.touched = append(s.touched, p)
	}
}

// place puts the replica in a slot on broker b.
func (s *state) place(p, slot, b int) {
	s.touch(p)
	a := int(s.slots[p][slot])
	l := s.carried(p, slot)
	s.carry(a, &l, -1)
	s.carry(b, &l, 1)
	s.slots[p][slot] = int32(b)
	at := slices.Index(s.on[a], int32(p))
	s.on[a] = slices.Delete(s.on[a], at, at+1)
	s.on[b] = append(s.on[b], int32(p))
}

// promote makes the replica in a slot the first.
func (s *state) promote(p, slot int) {
	s.touch(p)
	l, in := s.leading(p), s.slots[p]
	s.carry(int(in[0]), &l, -1)
	s.carry(int(in[slot]), &l, 1)
	in[0], in[slot] = in[slot], in[0]
}

// replicas gives a partition's brokers as they are now.
func (s *state) replicas(p int) []record.BrokerID {
	ids := make([]record.BrokerID, len(s.slots[p]))
	for i, b := range s.slots[p] {
		ids[i] = s.c.Brokers[b].ID
	}
	return ids
}

func (s *state) loads() []Load {
	out := make([]Load, len(s.c.Brokers))
	for i := range out {
		l := &s.load[i]
		out[i] = Load{Broker: s.c.Brokers[i].ID, Replicas: int(l[replicas]), Leaders: int(l[leaders]), Bytes: int64(l[bytes]), Traffic: int64(l[traffic])}
	}
	return out
}
