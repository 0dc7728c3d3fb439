package balance

import (
	"cmp"
	"slices"

	"github.com/firnlog/firn/record"
)

// drain takes every replica from drained brokers that another can have, and
// gives the partitions of which it could not.
func (s *state) drain() (stuck []record.TopicPartition) {
	for p := range s.slots {
		for slot, b := range s.slots[p] {
			if !s.c.Brokers[b].Drained || s.c.Partitions[p].Fixed {
				continue
			}
			to := s.refuge(p, slot)
			if to < 0 {
				stuck = append(stuck, s.c.Partitions[p].TopicPartition)
				break
			}
			if s.mayMove(p) {
				s.place(p, slot, to)
			}
		}
	}
	s.measure()
	return stuck
}

// refuge is the best broker for a replica that has to go: in as many racks as
// can be, and then where it costs least. -1: there is none.
func (s *state) refuge(p, slot int) int {
	best, racks, least := -1, 0, 0.0
	l := s.carried(p, slot)
	for _, b := range s.usable {
		if slices.Contains(s.slots[p], int32(b)) {
			continue
		}
		n, more := s.spreadWith(p, slot, b), 0.0
		for d := range dims {
			// Not the cost: the mean is only known when all have gone.
			more += (2*s.load[b][d] + l[d]) * l[d] / (s.unit[d] * s.unit[d])
		}
		if best < 0 || n > racks || n == racks && more < least {
			best, racks, least = b, n, more
		}
	}
	return best
}

// even makes steps until none is left that helps.
func (s *state) even() {
	for moved := true; moved; {
		moved = false
		for _, a := range s.worstFirst() {
			moved = s.relieve(a) || moved
		}
		for p := range s.slots {
			moved = s.elect(p) || moved
		}
	}
}

// worstFirst lists the usable brokers, those that add most to the score first.
func (s *state) worstFirst() []int {
	out := slices.Clone(s.usable)
	costs := make([]float64, len(s.load))
	for _, b := range out {
		for d := range dims {
			if s.load[b][d] > s.mean[d] {
				costs[b] += s.costs[b][d]
			}
		}
	}
	slices.SortStableFunc(out, func(x, y int) int { return cmp.Compare(costs[y], costs[x]) })
	return out
}

// candidate is a replica that might go to another broker.
type candidate struct {
	p     int
	worth float64 // of the best step, for what it costs to copy
}

// relieve moves replicas from a broker to others, those that help most for the
// bytes that they are, first: until it has no longer too much, or if it has not,
// a small part, so that those who have too little get it from all.
func (s *state) relieve(a int) (moved bool) {
	var all []candidate
	over, left := s.over(a), 1+len(s.on[a])/50
	targets := s.targets(a)
	for _, p := range s.on[a] {
		if _, gain := s.best(int(p), a, targets); gain >= Least {
			all = append(all, candidate{int(p), gain / (1 + float64(s.c.Partitions[p].Bytes)/s.unit[bytes])})
		}
	}
	slices.SortStableFunc(all, func(x, y candidate) int { return cmp.Compare(y.worth, x.worth) })
	for _, c := range all {
		if over && !s.over(a) || !over && left == 0 {
			break
		}
		// What helped before may not any more, now that others have moved.
		if to, gain := s.best(c.p, a, targets); gain >= Least {
			s.place(c.p, slices.Index(s.slots[c.p], int32(a)), to)
			moved = true
			left--
		}
	}
	return moved
}

// target is a broker that a replica might go to.
type target struct {
	b    int
	rest float64 // no step to it, or to those after it, gains more than this and what the source gains
}

// targets lists the brokers that a step from a could lower the score for, those
// that carry least first: any, when a has too much of something; else those that
// have too little.
func (s *state) targets(a int) []target {
	over := s.over(a)
	var out []target
	carry := make([]float64, len(s.load))
	for _, b := range s.usable {
		lacks := 0.0
		for d := range dims {
			carry[b] += s.load[b][d] / s.unit[d]
			if s.load[b][d] < s.mean[d] {
				lacks += s.costs[b][d]
			}
		}
		if over || lacks > 0 {
			out = append(out, target{b, lacks})
		}
	}
	slices.SortStableFunc(out, func(x, y target) int { return cmp.Compare(carry[x.b], carry[y.b]) })
	for i := len(out) - 2; i >= 0; i-- {
		out[i].rest = max(out[i].rest, out[i+1].rest)
	}
	return out
}

// best finds the broker to which a partition's replica on a should go, and by
// how much that lowers the score; -1, 0 when it should stay.
func (s *state) best(p, a int, targets []target) (to int, gain float64) {
	to = -1
	if !s.mayMove(p) {
		return to, 0
	}
	spread := s.spread(p)
	more := spread < s.wanted(p) // it could be in another rack besides
	if more {
		targets = s.anywhere
	}
	if len(targets) == 0 {
		return to, 0
	}
	slot := slices.Index(s.slots[p], int32(a))
	l, freed := s.carried(p, slot), 0.0
	for d := range dims {
		if l[d] > 0 {
			freed += s.costs[a][d] - s.cost(d, s.load[a][d]-l[d])
		}
	}
	for _, t := range targets {
		if !more && freed+t.rest <= max(gain, Least/2) {
			break
		}
		if slices.Contains(s.slots[p], int32(t.b)) {
			continue
		}
		g := freed
		for d := range dims {
			if l[d] > 0 {
				g += s.costs[t.b][d] - s.cost(d, s.load[t.b][d]+l[d])
			}
		}
		if !more && g <= gain {
			continue
		}
		now := s.spreadWith(p, slot, t.b)
		if now < spread {
			continue
		}
		if g += float64(min(now, s.wanted(p)) - min(spread, s.wanted(p))); g >= Least && g > gain {
			to, gain = t.b, g
		}
	}
	return to, gain
}

// elect makes another replica the first, if that lowers the score.
func (s *state) elect(p int) bool {
	in := s.slots[p]
	if len(in) < 2 || !s.mayMove(p) || !s.c.Brokers[in[0]].Usable {
		return false
	}
	best, most := -1, 0.0
	a, l := int(in[0]), s.leading(p)
	for slot := 1; slot < len(in); slot++ {
		b := int(in[slot])
		if !s.c.Brokers[b].Usable {
			continue
		}
		g := 0.0
		for _, d := range []int{leaders, traffic} {
			g += s.costs[a][d] - s.cost(d, s.load[a][d]-l[d])
			g += s.costs[b][d] - s.cost(d, s.load[b][d]+l[d])
		}
		if g >= Least && g > most {
			best, most = slot, g
		}
	}
	if best < 0 {
		return false
	}
	s.promote(p, best)
	return true
}
