package check

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/firnlog/firn/test/chaos/history"
)

// Checker takes a history event by event. What it keeps grows with the records
// that were sent and read (about 64 bytes of each) and with the jumps that
// consumers made, not with how often something was read.
type Checker struct {
	report    Report
	processes []*process // by number; nil for one that was not declared
	keys      []*key     // by number; nil likewise
	groups    map[groupKey]*register
	gaps      []gap
}

// process is one client.
type process struct {
	number  int32
	client  string
	group   string
	traits  history.Traits
	sends   chunks[send]
	cursors map[int32]*cursor // by key; of consumers
}

func (p *process) is(t history.Traits) bool { return p.traits&t != 0 }

func (p *process) String() string { return fmt.Sprintf("client %s (process %d)", p.client, p.number) }

// send is one record on its way.
type send struct {
	offset int64  // where it was first known to be; -1 for nowhere yet
	floor  int64  // the greatest offset of its key acknowledged before it was sent
	line   uint32 // of the Send
	key    int32
	state  sendState
	polled bool
}

type sendState uint8

const (
	sent sendState = iota
	acked
	failed
	unknown
)

// key is one partition.
type key struct {
	name    string
	log     map[int64]*[pageSize]slot // by offset / pageSize
	last    *[pageSize]slot           // the page used last, which is number lastNo
	lastNo  int64
	pages   []int64 // the numbers of log's pages, in order; at the end
	floor   int64   // the greatest offset acknowledged so far, -1 for none
	highest int64   // the greatest offset polled, -1 for none
	mark    int64   // the greatest high watermark seen
	markAt  int64   // in that line
	ended   bool
	start   int64 // with ended: what is there, [start, end)
	end     int64
	deleted bool
}

const pageSize = 512

// slot is what is known of one offset.
type slot struct {
	value history.Value
	line  uint32 // that said it first
	known bool
	acked bool // by somebody with acks=all
	// polled by anybody; at the end by the reader of everything
	polled, final bool
	served        bool // polled by a client
}

// cursor is where a consumer is in a partition.
type cursor struct {
	last     int64 // the offset before the one to come; unknownPosition until it is known
	assigned int64 // the line of the assignment, while the consumer asks where to begin
}

const unknownPosition = -2

// gap is a jump of a consumer over [from, to).
type gap struct {
	key, process int32
	internal     bool
	line, time   int64
	from, to     int64
}

// New gives a checker that has seen nothing.
func New() *Checker { return &Checker{groups: map[groupKey]*register{}} }

// ErrHistory says that a history contradicts itself: its recorder is wrong,
// whatever the brokers did.
var ErrHistory = errors.New("not a history")

// Event takes the next event.
func (c *Checker) Event(line int64, e *history.Event) error {
	c.report.Events++
	switch e.Kind {
	case history.Client:
		return c.client(line, e)
	case history.Partition:
		return c.partition(line, e)
	case history.Leader, history.Fault, history.Heal:
		return nil
	}
	if int(e.Key) >= len(c.keys) || c.keys[e.Key] == nil {
		return fmt.Errorf("%w: line %d: partition %d was not declared", ErrHistory, line, e.Key)
	}
	k := c.keys[e.Key]
	switch e.Kind {
	case history.End:
		k.ended, k.start, k.end = true, e.Start, e.Offset
		return nil
	case history.Delete:
		k.deleted = true
		return nil
	}
	if int(e.Process) >= len(c.processes) || c.processes[e.Process] == nil {
		return fmt.Errorf("%w: line %d: process %d was not declared", ErrHistory, line, e.Process)
	}
	p := c.processes[e.Process]
	switch e.Kind {
	case history.Send:
		return c.send(line, e, p, k)
	case history.Acked, history.Failed, history.Unknown:
		return c.answer(line, e, p, k)
	case history.Poll:
		c.poll(line, e, p, k)
	case history.Assign:
		c.revoke(e, p)
		p.cursors[e.Key] = &cursor{last: unknownPosition, assigned: line}
		if p.group != "" {
			c.register(p.group, e.Key).asked++
		}
	case history.Position:
		c.position(line, e, p)
	case history.Revoke:
		c.revoke(e, p)
	case history.Commit:
		c.report.Commits++
		c.register(p.group, e.Key).commit(line, e)
	case history.Committed:
		c.report.Committed++
		if !c.register(p.group, e.Key).committed(line, e) {
			return fmt.Errorf("%w: line %d: a commit is acknowledged that was not sent", ErrHistory, line)
		}
	default:
		return fmt.Errorf("%w: line %d: %v", ErrHistory, line, e.Kind)
	}
	return nil
}

func (c *Checker) client(line int64, e *history.Event) error {
	for int(e.Process) >= len(c.processes) {
		c.processes = append(c.processes, nil)
	}
	if c.processes[e.Process] != nil {
		return fmt.Errorf("%w: line %d: process %d begins again", ErrHistory, line, e.Process)
	}
	c.processes[e.Process] = &process{number: e.Process, client: e.Text, group: e.Group, traits: e.Traits, cursors: map[int32]*cursor{}}
	return nil
}

// maxKeys bounds what a damaged history can make the checker allocate.
const maxKeys = 1 << 20

func (c *Checker) partition(line int64, e *history.Event) error {
	if e.Key >= maxKeys {
		return fmt.Errorf("%w: line %d: partition %d is one too many", ErrHistory, line, e.Key)
	}
	for int(e.Key) >= len(c.keys) {
		c.keys = append(c.keys, nil)
	}
	if c.keys[e.Key] != nil {
		return fmt.Errorf("%w: line %d: partition %d is declared again", ErrHistory, line, e.Key)
	}
	c.report.Keys++
	c.keys[e.Key] = &key{name: fmt.Sprintf("%s-%d", e.Text, e.Number), log: map[int64]*[pageSize]slot{}, lastNo: -1, floor: -1, highest: -1}
	return nil
}

func (c *Checker) send(line int64, e *history.Event, p *process, k *key) error {
	if e.Value.Process() != e.Process || e.Value.Count() != p.sends.len() {
		return fmt.Errorf("%w: line %d: process %d sends %v as its %dth record", ErrHistory, line, e.Process, e.Value, p.sends.len())
	}
	c.report.Sends++
	p.sends.add(send{offset: -1, floor: k.floor, line: uint32(line), key: e.Key})
	return nil
}

// sendOf finds a record's send; nil for one that was never sent.
func (c *Checker) sendOf(v history.Value) (*process, *send) {
	if v < 0 || int(v.Process()) >= len(c.processes) || c.processes[v.Process()] == nil {
		return nil, nil
	}
	p := c.processes[v.Process()]
	if v.Count() >= p.sends.len() {
		return nil, nil
	}
	return p, p.sends.at(v.Count())
}

func (c *Checker) answer(line int64, e *history.Event, p *process, k *key) error {
	of, s := c.sendOf(e.Value)
	if s == nil || of != p || s.key != e.Key || s.state != sent {
		return fmt.Errorf("%w: line %d: process %d is answered for %v, which it did not send there or was answered for", ErrHistory, line, e.Process, e.Value)
	}
	switch e.Kind {
	case history.Failed:
		s.state = failed
		c.report.Failed++
	case history.Unknown:
		s.state = unknown
		c.report.Unknown++
	default:
		s.state = acked
		c.report.Acked++
		// Without acks=all the answer is no promise, and of a record that is
		// gone nothing may be concluded.
		if e.Offset >= 0 && p.is(history.All) {
			c.observe(line, e, k, e.Offset, e.Value).acked = true
			k.floor = max(k.floor, e.Offset)
		}
	}
	return nil
}

// at gives the slot of an offset, made if there is none.
func (k *key) at(offset int64) *slot {
	no := offset / pageSize
	if no != k.lastNo {
		page := k.log[no]
		if page == nil {
			page = &[pageSize]slot{}
			k.log[no] = page
		}
		k.last, k.lastNo = page, no
	}
	return &k.last[offset%pageSize]
}

// observe takes in that value v is at an offset, as an acknowledgement or a
// poll says, and gives the offset's slot.
func (c *Checker) observe(line int64, e *history.Event, k *key, offset int64, v history.Value) *slot {
	at := k.at(offset)
	first := !at.known
	if first {
		at.known, at.value, at.line = true, v, uint32(line)
	} else if at.value != v {
		c.add(InconsistentOffset, line, e.Time, k, "offset %d holds %v, and according to line %d %v", offset, v, at.line, at.value)
	}
	p, s := c.sendOf(v)
	if s == nil || c.keys[s.key] != k {
		return at // a phantom, which poll tells
	}
	if s.offset >= 0 && s.offset != offset {
		if p.is(history.Idempotent) {
			c.add(Duplicate, line, e.Time, k, "%v of idempotent %v, sent once in line %d, is at offset %d and at %d", v, p, s.line, s.offset, offset)
		} else if first {
			c.report.Repeats++
		}
		return at
	}
	if s.offset < 0 {
		s.offset = offset
		if p.is(history.All) && offset <= s.floor {
			c.add(NonmonotonicSend, line, e.Time, k, "%v was sent (line %d) after offset %d was acknowledged, and is at %d", v, s.line, s.floor, offset)
		}
	}
	return at
}

func (c *Checker) poll(line int64, e *history.Event, p *process, k *key) {
	if e.High > k.mark {
		k.mark, k.markAt = e.High, line
	}
	if len(e.Records) == 0 {
		return
	}
	c.report.Polls++
	c.report.Records += int64(len(e.Records))
	cur := p.cursors[e.Key]
	for i, r := range e.Records {
		if r.Offset < 0 {
			c.add(Phantom, line, e.Time, k, "%v at offset %d", r.Value, r.Offset)
			continue
		}
		if e.High >= 0 && r.Offset >= e.High {
			c.add(TornWatermark, line, e.Time, k, "%v read offset %d with a high watermark of %d", p, r.Offset, e.High)
		}
		if cur != nil {
			c.step(line, e, p, k, cur, r.Offset, i > 0)
		}
		at := c.observe(line, e, k, r.Offset, r.Value)
		if of, s := c.sendOf(r.Value); s == nil {
			c.add(Phantom, line, e.Time, k, "offset %d holds %v, which nobody had sent", r.Offset, r.Value)
		} else if s.polled = true; c.keys[s.key] != k {
			c.add(Phantom, line, e.Time, k, "offset %d holds %v, which %v sent to %s", r.Offset, r.Value, of, c.keys[s.key].name)
		}
		at.polled = true
		at.final = at.final || p.is(history.Final)
		at.served = at.served || !p.is(history.Disk)
		k.highest = max(k.highest, r.Offset)
	}
}

// step moves a consumer on to an offset.
func (c *Checker) step(line int64, e *history.Event, p *process, k *key, cur *cursor, offset int64, internal bool) {
	switch {
	case cur.last == unknownPosition:
	case offset <= cur.last && internal:
		c.add(IntNonmonotonicPoll, line, e.Time, k, "%v was given offset %d after %d", p, offset, cur.last)
	case offset <= cur.last:
		c.add(NonmonotonicPoll, line, e.Time, k, "%v was given offset %d, and had been at %d", p, offset, cur.last+1)
	case offset > cur.last+1:
		c.gaps = append(c.gaps, gap{key: e.Key, process: e.Process, internal: internal, line: line, time: e.Time, from: cur.last + 1, to: offset})
	}
	cur.last = offset
}

func (c *Checker) position(line int64, e *history.Event, p *process) {
	cur := p.cursors[e.Key]
	if cur == nil {
		cur = &cursor{}
		p.cursors[e.Key] = cur
	}
	cur.last = max(e.Offset, 0) - 1
	if p.group == "" || cur.assigned == 0 {
		return
	}
	reg := c.register(p.group, e.Key)
	if why := reg.fetched(cur.assigned, line, e.Offset); why != "" {
		c.add(LostCommit, line, e.Time, c.keys[e.Key], "%v of group %s begins at offset %d: %s", p, p.group, e.Offset, why)
	}
	cur.assigned = 0
	reg.asked--
}

func (c *Checker) revoke(e *history.Event, p *process) {
	if cur := p.cursors[e.Key]; cur != nil && cur.assigned > 0 && p.group != "" {
		c.register(p.group, e.Key).asked-- // it never asked
	}
	delete(p.cursors, e.Key)
}

func (c *Checker) add(kind Kind, line, time int64, k *key, format string, args ...any) {
	c.report.Add(Anomaly{Kind: kind, Line: line, Time: time, Where: k.name, What: fmt.Sprintf(format, args...)})
}

// Finish judges what only the whole history tells, and gives the report.
func (c *Checker) Finish() *Report {
	for _, k := range c.keys {
		if k != nil {
			k.pages = slices.Sorted(maps.Keys(k.log))
		}
	}
	for _, g := range c.gaps {
		c.gap(g)
	}
	for _, p := range c.processes {
		if p != nil {
			c.finishSends(p)
		}
	}
	for _, k := range c.keys {
		if k != nil {
			c.finishKey(k)
		}
	}
	return &c.report
}

// gap tells the first known record that a jump went over, if there is one.
func (c *Checker) gap(g gap) {
	k := c.keys[g.key]
	first, _ := slices.BinarySearch(k.pages, g.from/pageSize)
	for _, no := range k.pages[first:] {
		for o := max(g.from, no*pageSize); o < min(g.to, (no+1)*pageSize); o++ {
			at := k.at(o)
			if !at.known {
				continue
			}
			kind := PollSkip
			if g.internal {
				kind = IntPollSkip
			}
			c.add(kind, g.line, g.time, k, "%v went from offset %d to %d over %v at %d, known from line %d", c.processes[g.process], g.from, g.to, at.value, o, at.line)
			return
		}
		if (no+1)*pageSize >= g.to {
			return
		}
	}
}

// finishSends looks at all records of a process, in the order it sent them.
func (c *Checker) finishSends(p *process) {
	before := map[int32]int64{} // by key: the offset of the send before
	for n := range p.sends.len() {
		s := p.sends.at(n)
		k, v := c.keys[s.key], history.MakeValue(p.number, n)
		if s.state == failed && s.polled {
			c.add(AbortedRead, int64(s.line), -1, k, "%v of %v was refused, and was read", v, p)
		}
		if s.offset < 0 {
			continue
		}
		if last, ok := before[s.key]; ok && p.is(history.Ordered) && s.offset <= last && s.offset > s.floor {
			c.add(IntNonmonotonicSend, int64(s.line), -1, k, "%v of %v is at offset %d, the record it sent before at %d", v, p, s.offset, last)
		}
		before[s.key] = s.offset
		if s.state == acked && p.is(history.All) && !k.deleted {
			c.present(k, v, s)
		}
	}
}

// present looks whether an acknowledged record was read.
func (c *Checker) present(k *key, v history.Value, s *send) {
	at := k.at(s.offset)
	switch {
	case at.value == v && at.polled, at.value != v && s.polled:
	case s.offset <= k.highest:
		c.add(LostWrite, int64(s.line), -1, k, "%v was acknowledged at offset %d and never read there, while offset %d was", v, s.offset, k.highest)
	case k.ended:
		c.add(Unseen, int64(s.line), -1, k, "%v was acknowledged at offset %d, and the partition ends at %d", v, s.offset, k.end)
	}
}

func (c *Checker) finishKey(k *key) {
	if !k.ended || k.deleted {
		return
	}
	c.report.Ended++
	if k.mark > k.end {
		c.add(TornWatermark, k.markAt, -1, k, "a high watermark of %d was seen, and the partition ends at %d", k.mark, k.end)
	}
	for _, no := range k.pages {
		page := k.log[no]
		for i := range page {
			at, offset := &page[i], no*pageSize+int64(i)
			// What came after the last reader, which nobody read, was sent by a
			// client that ended while its link was cut: its system goes on trying.
			late := offset >= k.end && !at.served
			if at.polled && !at.final && offset >= k.start && !late {
				c.add(DirtyRead, int64(at.line), -1, k, "%v was read at offset %d, which the whole partition, [%d, %d), does not have at the end", at.value, offset, k.start, k.end)
			}
		}
	}
}

// chunks is a list that grows without being copied.
type chunks[T any] struct {
	full [][]T
	n    int64
}

const chunkSize = 1024

func (c *chunks[T]) len() int64 { return c.n }

func (c *chunks[T]) add(v T) {
	if c.n%chunkSize == 0 {
		c.full = append(c.full, make([]T, 0, chunkSize))
	}
	last := &c.full[len(c.full)-1]
	*last = append(*last, v)
	c.n++
}

func (c *chunks[T]) at(i int64) *T { return &c.full[i/chunkSize][i%chunkSize] }
