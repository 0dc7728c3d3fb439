package check

import (
	"math/rand/v2"
	"slices"

	"github.com/firnlog/firn/test/chaos/history"
)

// plant puts one anomaly into a clean history. It gives false where there is
// no place for it. What else follows from it is in also.
type plant struct {
	kind Kind
	also []Kind
	put  func(rnd *rand.Rand, h *planted) bool
}

// planted is a history that is being spoilt, and what a plant needs to know.
type planted struct {
	events []history.Event
	traits map[int32]history.Traits
	group  map[int32]string
	polls  []int // places of polls
	acked  []int // places of acknowledgements with acks=all
	sends  map[history.Value]int
	state  map[history.Value]history.Kind // Acked, Failed or Unknown
	read   map[history.Value]bool
	end    map[int32]int // places of End
	final  map[int32]int // places of the last poll of the reader of everything
}

func newPlanted(events []history.Event) *planted {
	h := &planted{traits: map[int32]history.Traits{}, group: map[int32]string{}, sends: map[history.Value]int{}, state: map[history.Value]history.Kind{},
		read: map[history.Value]bool{}, end: map[int32]int{}, final: map[int32]int{}}
	for i, e := range events {
		e.Records = slices.Clone(e.Records)
		h.events = append(h.events, e)
		switch e.Kind {
		case history.Client:
			h.traits[e.Process], h.group[e.Process] = e.Traits, e.Group
		case history.Send:
			h.sends[e.Value] = i
		case history.Acked, history.Failed, history.Unknown:
			h.state[e.Value] = e.Kind
			if e.Kind == history.Acked && h.traits[e.Process]&history.All != 0 {
				h.acked = append(h.acked, i)
			}
		case history.Poll:
			h.polls = append(h.polls, i)
			for _, r := range e.Records {
				h.read[r.Value] = true
			}
			if h.traits[e.Process]&history.Final != 0 {
				h.final[e.Key] = i
			}
		case history.End:
			h.end[e.Key] = i
		}
	}
	return h
}

func pick(rnd *rand.Rand, from []int) int { return from[rnd.IntN(len(from))] }

// each calls f with every poll of a partition.
func (h *planted) each(key int32, f func(e *history.Event)) {
	for _, i := range h.polls {
		if h.events[i].Key == key {
			f(&h.events[i])
		}
	}
}

// appendToEnd makes v the last record of a partition.
func (h *planted) appendToEnd(key int32, v history.Value) bool {
	i, ok := h.final[key]
	if !ok {
		return false
	}
	e, end := &h.events[i], &h.events[h.end[key]]
	e.Records = append(e.Records, history.Record{Offset: end.Offset, Value: v})
	e.High++
	end.Offset++
	return true
}

// find gives a value of which is says yes, sought from a random place.
func (h *planted) find(rnd *rand.Rand, is func(e *history.Event) bool) (*history.Event, bool) {
	from := rnd.IntN(len(h.events))
	for i := range h.events {
		if e := &h.events[(from+i)%len(h.events)]; is(e) {
			return e, true
		}
	}
	return nil, false
}

// exchange puts each of two values of a partition where the other was.
func (h *planted) exchange(a, b history.Value) {
	at := map[history.Value]int64{}
	for _, i := range h.acked {
		at[h.events[i].Value] = h.events[i].Offset
	}
	for _, i := range h.acked {
		switch e := &h.events[i]; e.Value {
		case a:
			e.Offset = at[b]
		case b:
			e.Offset = at[a]
		}
	}
	for _, i := range h.polls {
		for j := range h.events[i].Records {
			switch r := &h.events[i].Records[j]; r.Value {
			case a:
				r.Value = b
			case b:
				r.Value = a
			}
		}
	}
}

var plants = []plant{
	{LostWrite, []Kind{PollSkip, IntPollSkip}, func(rnd *rand.Rand, h *planted) bool {
		v := h.events[pick(rnd, h.acked)]
		if v.Offset >= h.events[h.end[v.Key]].Offset-1 || h.repeated(v.Value) {
			return false
		}
		h.each(v.Key, func(e *history.Event) {
			e.Records = slices.DeleteFunc(e.Records, func(r history.Record) bool { return r.Value == v.Value })
		})
		return true
	}},
	{Unseen, nil, func(rnd *rand.Rand, h *planted) bool {
		// Everything from an acknowledged record on is gone.
		first, ok := h.find(rnd, func(e *history.Event) bool {
			return e.Kind == history.Acked && h.traits[e.Process]&history.All != 0 && e.Offset >= h.events[h.end[e.Key]].Offset-20
		})
		if !ok {
			return false
		}
		end := &h.events[h.end[first.Key]]
		end.Offset = first.Offset
		h.each(first.Key, func(e *history.Event) {
			e.High = min(e.High, end.Offset)
			e.Records = slices.DeleteFunc(e.Records, func(r history.Record) bool { return r.Offset >= end.Offset })
		})
		return true
	}},
	{DirtyRead, []Kind{PollSkip, IntPollSkip}, func(rnd *rand.Rand, h *planted) bool {
		// The last reader misses a record that nobody was told of, and another reader saw.
		key := h.events[pick(rnd, h.polls)].Key
		var v history.Record
		h.each(key, func(e *history.Event) {
			for _, r := range e.Records {
				if h.state[r.Value] == history.Unknown && h.traits[e.Process]&history.Final == 0 {
					v = r
				}
			}
		})
		if v.Value == 0 {
			return false
		}
		h.each(key, func(e *history.Event) {
			if h.traits[e.Process]&history.Final != 0 {
				e.Records = slices.DeleteFunc(e.Records, func(r history.Record) bool { return r == v })
			}
		})
		return true
	}},
	{AbortedRead, nil, func(rnd *rand.Rand, h *planted) bool {
		e, ok := h.find(rnd, func(e *history.Event) bool { return e.Kind == history.Failed })
		return ok && h.appendToEnd(e.Key, e.Value)
	}},
	{Phantom, nil, func(rnd *rand.Rand, h *planted) bool {
		v := history.MakeValue(1, 1<<30)
		if rnd.IntN(2) == 0 {
			v = history.Damaged
		}
		return h.appendToEnd(h.events[pick(rnd, h.polls)].Key, v)
	}},
	{Phantom, nil, func(rnd *rand.Rand, h *planted) bool {
		// A record turns up in another partition, and not in its own.
		e, ok := h.find(rnd, func(e *history.Event) bool { return e.Kind == history.Unknown && !h.read[e.Value] })
		if !ok {
			return false
		}
		for key := range h.final {
			if key != e.Key {
				return h.appendToEnd(key, e.Value)
			}
		}
		return false
	}},
	{Duplicate, nil, func(rnd *rand.Rand, h *planted) bool {
		e := h.events[pick(rnd, h.acked)]
		return h.traits[e.Process]&history.Idempotent != 0 && h.appendToEnd(e.Key, e.Value)
	}},
	{InconsistentOffset, nil, func(rnd *rand.Rand, h *planted) bool {
		// One reader sees another record at an offset, one that is nowhere else.
		i := pick(rnd, h.polls)
		e, ok := h.find(rnd, func(e *history.Event) bool {
			return e.Kind == history.Unknown && !h.read[e.Value] && e.Key == h.events[i].Key && h.traits[e.Process] == leaderOnly && h.sends[e.Value] < i
		})
		if !ok || h.traits[h.events[i].Process]&history.Final != 0 {
			return false
		}
		h.events[i].Records[rnd.IntN(len(h.events[i].Records))].Value = e.Value
		return true
	}},
	{IntPollSkip, nil, func(rnd *rand.Rand, h *planted) bool {
		e := &h.events[pick(rnd, h.polls)]
		if len(e.Records) < 3 || h.traits[e.Process]&history.Final != 0 {
			return false
		}
		at := 1 + rnd.IntN(len(e.Records)-2)
		e.Records = slices.Delete(e.Records, at, at+1)
		return true
	}},
	{PollSkip, nil, func(rnd *rand.Rand, h *planted) bool {
		e := &h.events[pick(rnd, h.polls)]
		if len(e.Records) < 2 || h.traits[e.Process]&history.Final != 0 {
			return false
		}
		e.Records = e.Records[1:]
		return true
	}},
	{NonmonotonicPoll, nil, func(rnd *rand.Rand, h *planted) bool {
		i := pick(rnd, h.polls)
		if h.traits[h.events[i].Process]&history.Final != 0 {
			return false
		}
		h.events = slices.Insert(h.events, i, h.events[i])
		return true
	}},
	{IntNonmonotonicPoll, []Kind{IntPollSkip, PollSkip}, func(rnd *rand.Rand, h *planted) bool {
		e := &h.events[pick(rnd, h.polls)]
		if len(e.Records) < 2 {
			return false
		}
		at := rnd.IntN(len(e.Records) - 1)
		if at == 0 {
			at = len(e.Records) - 2
		}
		e.Records[at], e.Records[at+1] = e.Records[at+1], e.Records[at]
		return true
	}},
	{NonmonotonicSend, []Kind{IntNonmonotonicSend, Phantom}, func(rnd *rand.Rand, h *planted) bool {
		a := pick(rnd, h.acked)
		first := h.events[a]
		var later []history.Event
		for _, i := range h.acked {
			if e := h.events[i]; e.Key == first.Key && h.sends[e.Value] > a && e.Offset > first.Offset && !h.repeated(e.Value) {
				later = append(later, e)
			}
		}
		if len(later) == 0 || h.repeated(first.Value) {
			return false
		}
		h.exchange(first.Value, later[rnd.IntN(min(3, len(later)))].Value)
		return true
	}},
	{IntNonmonotonicSend, []Kind{Phantom}, func(rnd *rand.Rand, h *planted) bool {
		first := h.events[pick(rnd, h.acked)]
		if h.traits[first.Process]&history.Ordered == 0 {
			return false
		}
		// The next one of the same producer and partition, sent before that was acknowledged.
		for _, i := range h.acked {
			e := h.events[i]
			if e.Process == first.Process && e.Key == first.Key && e.Value > first.Value && e.Offset == first.Offset+1 && h.sends[e.Value] < h.place(first) {
				h.exchange(first.Value, e.Value)
				return true
			}
		}
		return false
	}},
	{LostCommit, []Kind{PollSkip, NonmonotonicPoll}, func(rnd *rand.Rand, h *planted) bool {
		e, ok := h.find(rnd, func(e *history.Event) bool {
			return e.Kind == history.Position && h.group[e.Process] != "" && e.Offset > 1
		})
		if !ok {
			return false
		}
		committed := map[int64]bool{}
		for _, c := range h.events {
			committed[c.Offset] = committed[c.Offset] || c.Kind == history.Commit && c.Key == e.Key
		}
		for e.Offset = 0; committed[e.Offset]; e.Offset++ {
		}
		return true
	}},
	{TornWatermark, nil, func(rnd *rand.Rand, h *planted) bool {
		e := &h.events[pick(rnd, h.polls)]
		e.High = e.Records[len(e.Records)-1].Offset
		return true
	}},
	{TornWatermark, nil, func(rnd *rand.Rand, h *planted) bool {
		e := &h.events[pick(rnd, h.polls)]
		e.High = h.events[h.end[e.Key]].Offset + 1
		return true
	}},
}

// place is where an acknowledgement is.
func (h *planted) place(ack history.Event) int {
	return slices.IndexFunc(h.events, func(e history.Event) bool { return e.Kind == history.Acked && e.Value == ack.Value })
}

// repeated says whether a value is at more than one offset.
func (h *planted) repeated(v history.Value) bool {
	at := map[int64]bool{}
	for _, i := range h.polls {
		for _, r := range h.events[i].Records {
			if r.Value == v {
				at[r.Offset] = true
			}
		}
	}
	return len(at) > 1
}
