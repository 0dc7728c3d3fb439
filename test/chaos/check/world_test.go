package check

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/firnlog/firn/test/chaos/history"
)

// world makes histories of a log that does nothing wrong: requests overlap,
// answers get lost, producers that are not idempotent repeat records, groups
// are rebalanced and lose answers to commits.
type world struct {
	rnd       *rand.Rand
	events    []history.Event
	time      int64
	process   int32
	logs      [][]history.Value // by key
	producers []*producer
	readers   []*reader
	committed map[groupKey]int64 // of members
	holder    map[groupKey]*reader
}

type producer struct {
	number  int32
	traits  history.Traits
	sent    int64
	flight  []history.Event // sent, in order
	landed  []history.Event // what will be answered
	retries bool
}

type reader struct {
	number int32
	group  string
	next   map[int32]int64
}

const (
	idempotent = history.All | history.Idempotent | history.Ordered
	plain      = history.All
	leaderOnly = history.Traits(0)
)

func newWorld(seed uint64, keys int) *world {
	w := &world{rnd: rand.New(rand.NewPCG(seed, 6)), logs: make([][]history.Value, keys), committed: map[groupKey]int64{}, holder: map[groupKey]*reader{}}
	for k := range keys {
		w.emit(history.Event{Kind: history.Partition, Key: int32(k), Text: "topic", Number: int32(k)})
	}
	for _, traits := range []history.Traits{idempotent, idempotent, plain, plain, leaderOnly} {
		p := &producer{number: w.client("producer", "", traits), traits: traits}
		p.retries = traits == plain && len(w.producers) == 3
		w.producers = append(w.producers, p)
	}
	for range 2 {
		r := w.reader("", 0)
		for k := range keys {
			w.emit(history.Event{Kind: history.Assign, Process: r.number, Key: int32(k)})
			w.begin(r, int32(k), int64(0))
		}
		w.readers = append(w.readers, r)
	}
	for range 3 {
		w.readers = append(w.readers, w.reader("group", 0))
	}
	return w
}

func (w *world) emit(e history.Event) {
	w.time += 1 + w.rnd.Int64N(1000)
	e.Time = w.time
	w.events = append(w.events, e)
}

func (w *world) client(name, group string, traits history.Traits) int32 {
	w.process++
	w.emit(history.Event{Kind: history.Client, Process: w.process, Text: fmt.Sprintf("%s-%d", name, w.process), Group: group, Traits: traits})
	return w.process
}

func (w *world) reader(group string, traits history.Traits) *reader {
	return &reader{number: w.client("reader", group, traits), group: group, next: map[int32]int64{}}
}

func (w *world) begin(r *reader, k int32, at int64) {
	w.emit(history.Event{Kind: history.Position, Process: r.number, Key: k, Offset: at})
	r.next[k] = max(at, 0)
}

// run takes that many steps, answers what is under way, and reads everything.
func (w *world) run(steps int) []history.Event {
	for i := range steps {
		switch n := w.rnd.IntN(20); {
		case n < 7:
			w.send()
		case n < 11:
			w.land()
		case n < 15:
			w.answer()
		case n < 18:
			w.poll(w.readers[w.rnd.IntN(len(w.readers))])
		case n < 19:
			w.commit()
		default:
			w.rebalance()
		}
		if i%100 == 0 {
			w.emit(history.Event{Kind: history.Leader, Key: 0, Broker: int32(1 + w.rnd.IntN(3)), Epoch: int32(i)})
		}
	}
	for _, p := range w.producers {
		for len(p.flight) > 0 {
			w.landOf(p)
		}
		for len(p.landed) > 0 {
			w.answerOf(p)
		}
	}
	r := w.reader("", history.Final)
	for k := range w.logs {
		w.begin(r, int32(k), 0)
		for r.next[int32(k)] < int64(len(w.logs[k])) {
			w.pollKey(r, int32(k))
		}
		w.emit(history.Event{Kind: history.End, Key: int32(k), Offset: int64(len(w.logs[k]))})
	}
	return w.events
}

func (w *world) send() {
	p := w.producers[w.rnd.IntN(len(w.producers))]
	e := history.Event{Kind: history.Send, Process: p.number, Key: int32(w.rnd.IntN(len(w.logs))), Value: history.MakeValue(p.number, p.sent)}
	p.sent++
	w.emit(e)
	p.flight = append(p.flight, e)
}

func (w *world) land() {
	if p := w.producers[w.rnd.IntN(len(w.producers))]; len(p.flight) > 0 {
		w.landOf(p)
	}
}

// landOf lets the oldest send that is under way arrive.
func (w *world) landOf(p *producer) {
	e := p.flight[0]
	p.flight = p.flight[1:]
	e.Kind = history.Acked
	there := true
	switch n := w.rnd.IntN(20); {
	case n == 0:
		e.Kind, e.Text = history.Unknown, "timed out"
	case n == 1:
		e.Kind, e.Text, there = history.Unknown, "timed out", false
	case n == 2 && p.traits&history.Idempotent == 0:
		e.Kind, e.Text, there = history.Failed, "too large", false
	case n == 3 && p.retries:
		w.logs[e.Key] = append(w.logs[e.Key], e.Value) // its answer was lost
	}
	if there {
		if e.Kind == history.Acked {
			e.Offset = int64(len(w.logs[e.Key]))
		}
		w.logs[e.Key] = append(w.logs[e.Key], e.Value)
	}
	p.landed = append(p.landed, e)
}

func (w *world) answer() {
	if p := w.producers[w.rnd.IntN(len(w.producers))]; len(p.landed) > 0 {
		w.answerOf(p)
	}
}

func (w *world) answerOf(p *producer) {
	i := w.rnd.IntN(len(p.landed))
	w.emit(p.landed[i])
	p.landed = slices.Delete(p.landed, i, i+1)
}

func (w *world) poll(r *reader) {
	for k := range int32(len(w.logs)) {
		if _, mine := r.next[k]; mine && w.rnd.IntN(2) == 0 {
			w.pollKey(r, k)
		}
	}
}

func (w *world) pollKey(r *reader, k int32) {
	log, from := w.logs[k], r.next[k]
	e := history.Event{Kind: history.Poll, Process: r.number, Key: k, High: int64(len(log))}
	for o := from; o < min(int64(len(log)), from+1+w.rnd.Int64N(8)); o++ {
		e.Records = append(e.Records, history.Record{Offset: o, Value: log[o]})
	}
	if len(e.Records) > 0 {
		r.next[k] += int64(len(e.Records))
		w.emit(e)
	}
}

func (w *world) commit() {
	k := int32(w.rnd.IntN(len(w.logs)))
	at := groupKey{"group", k}
	r := w.holder[at]
	if r == nil {
		return
	}
	e := history.Event{Kind: history.Commit, Process: r.number, Key: k, Offset: r.next[k]}
	w.emit(e)
	n := w.rnd.IntN(10)
	if n != 0 {
		w.committed[at] = e.Offset
	}
	if n > 1 {
		e.Kind = history.Committed
		w.emit(e)
	}
}

// rebalance takes a partition from a member and gives it to one.
func (w *world) rebalance() {
	k := int32(w.rnd.IntN(len(w.logs)))
	at := groupKey{"group", k}
	if r := w.holder[at]; r != nil {
		w.emit(history.Event{Kind: history.Revoke, Process: r.number, Key: k})
		delete(r.next, k)
		delete(w.holder, at)
	}
	r := w.readers[2+w.rnd.IntN(3)]
	w.emit(history.Event{Kind: history.Assign, Process: r.number, Key: k})
	if w.rnd.IntN(8) == 0 {
		w.emit(history.Event{Kind: history.Revoke, Process: r.number, Key: k}) // before it knew where to begin
		return
	}
	w.send() // something happens meanwhile
	offset, ok := w.committed[at]
	if !ok {
		offset = -1
	}
	w.begin(r, k, offset)
	w.holder[at] = r
}
