package group

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/time/rate"
)

const queueBytes = 64 << 20 // of waiting commits per partition; beyond that they are refused

type phase int8

const (
	loading phase = iota
	active
	closed
)

// shard is one loaded partition of __consumer_offsets and its groups.
//
// Requests are decided under mu and never wait for the log there: what is to
// be written is queued in the order it was decided, and the shard's one
// writer takes as much of the queue as is there, appends it as one batch
// without mu, and then, under mu and in the same order, applies it and tells
// the cores. So the log's order is the order of decisions, memory never shows
// an offset that is not durable, and one slow append is shared by everybody
// who queued behind it.
type shard struct {
	c         *Coordinator
	partition int32
	log       Log
	wake      chan struct{} // something was queued, or closed
	done      chan struct{} // the writer has ended
	retention *timer

	mu     sync.Mutex // protects the fields below; see durable for its exception
	phase  phase
	rules  rules // what the cores decide by
	groups map[string]*groupState
	queue  []op
	queued int64 // bytes in queue

	// durable is what the log says. Only the writer changes it, under mu, and
	// therefore may read it without. Before active, Load has it alone.
	durable map[string]*durable
	live    int64 // bytes that a snapshot would take, about

	appended int64 // bytes since the last snapshot; the writer's
}

// groupState is a group's core with what the shard keeps beside it.
type groupState struct {
	core    *classic
	timer   *timer
	armed   time.Time // when timer fires; zero: it does not run
	waiting int       // operations of the group in the queue or at the log
	bytes   int       // as counted in the coordinator's total
	members int       // as counted in the gauge
	lines   *rate.Limiter
	deleted bool // what is queued of its metadata must not follow the tombstone; the writer's
}

// A client that joins in a loop would fill the log: of each group it gets these
// many lines; the rest is there at the level of debugging.
const (
	linesPerSecond = 0.2
	linesAtOnce    = 20
)

// durable is a group as the log has it.
type durable struct {
	meta    []byte // last GroupMetadataValue, nil for none
	offsets map[string]map[int32]*offsetValue
	count   int // of offsets
}

// op is one entry of the queue.
type op struct {
	entries []entry
	bytes   int64
	group   *groupState                                       // whose core done tells; may be nil
	done    func(now time.Time, err *kerr.Error, fx *effects) // under mu; may be nil
	after   func(err *kerr.Error)                             // without locks; may be nil
	run     func()                                            // instead of entries: work of the writer, alone
}

func newShard(c *Coordinator, partition int32, log Log) *shard {
	s := &shard{
		c: c, partition: partition, log: log, rules: c.config().rules(), wake: make(chan struct{}, 1), done: make(chan struct{}),
		groups: map[string]*groupState{}, durable: map[string]*durable{},
	}
	s.retention = newTimer(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.phase == active {
			s.push(op{run: s.expire})
			c.timers.soonest(s.retention, c.deps.Now().Add(c.config().RetentionCheck))
		}
	})
	return s
}

// available says why the shard cannot answer, nil if it can. mu is held.
func (s *shard) available() *kerr.Error {
	switch s.phase {
	case loading:
		return kerr.CoordinatorLoadInProgress
	case closed:
		return kerr.NotCoordinator
	}
	return nil
}

// submit queues work that is not of one request.
func (s *shard) submit(o op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != closed {
		s.push(o)
	}
}

// push queues o. mu is held.
func (s *shard) push(o op) {
	for i := range o.entries {
		o.bytes += o.entries[i].size()
	}
	s.queued += o.bytes
	if o.group != nil {
		o.group.waiting++
	}
	s.queue = append(s.queue, o)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// create makes a group that is not there yet. mu is held.
func (s *shard) create(id string, core *classic) *groupState {
	gs := &groupState{core: core, lines: rate.NewLimiter(linesPerSecond, linesAtOnce)}
	gs.timer = newTimer(func() { s.tick(gs) })
	s.groups[id] = gs
	s.c.groups.Add(1)
	metricGroups.Add(1)
	return gs
}

// forget drops a group from memory. mu is held.
func (s *shard) forget(gs *groupState) {
	delete(s.groups, gs.core.id)
	s.c.timers.cancel(gs.timer)
	s.c.groups.Add(-1)
	metricGroups.Add(-1)
	metricMembers.Add(float64(-gs.members))
	s.c.account(int64(-gs.bytes))
	gs.members, gs.bytes = 0, 0
}

// settle queues what a step of the core wants written and sets its timer.
// mu is held; after unlocking, the caller calls fx.send.
func (s *shard) settle(gs *groupState, fx *effects) { s.settleThen(gs, fx, nil) }

// settleThen calls after when the last write is done, and says whether there
// is one.
func (s *shard) settleThen(gs *groupState, fx *effects, after func(*kerr.Error)) (waits bool) {
	for i, w := range fx.writes {
		o := op{group: gs, entries: []entry{{group: gs.core.id, meta: w.meta.AppendTo(nil)}}}
		if token := w.token; token != 0 {
			o.done = func(now time.Time, err *kerr.Error, fx *effects) { gs.core.stored(now, token, err, fx) }
		}
		if i == len(fx.writes)-1 {
			o.after = after
			waits = after != nil
		}
		s.push(o)
	}
	fx.writes = nil
	if n := gs.core.bytes; n != gs.bytes {
		s.c.account(int64(n - gs.bytes))
		gs.bytes = n
	}
	if n := len(gs.core.members); n != gs.members {
		metricMembers.Add(float64(n - gs.members))
		gs.members = n
	}
	metricRebalances.Add(fx.rebalances)
	if fx.tooManyMembers {
		refusedMembers.Inc()
	}
	if fx.tooManyBytes {
		refusedSize.Inc()
	}
	fx.tooManyMembers, fx.tooManyBytes = false, false
	if next := gs.core.next; !next.IsZero() && (gs.armed.IsZero() || next.Before(gs.armed)) && s.groups[gs.core.id] == gs {
		gs.armed = next
		s.c.timers.soonest(gs.timer, next)
	}
	fx.rebalances = 0
	for i := range fx.notes {
		if n := &fx.notes[i]; n.group == "" {
			n.group, n.again = gs.core.id, !gs.lines.AllowN(s.c.deps.Now(), 1)
		}
	}
	return waits
}

// send logs the notes and calls the replies. No lock is held.
func (fx *effects) send(l *slog.Logger) {
	for _, n := range fx.notes {
		level := slog.LevelInfo
		if n.again {
			level = slog.LevelDebug
		}
		l.Log(context.Background(), level, n.msg, append([]any{"group", n.group}, n.args...)...)
	}
	for _, r := range fx.joins {
		r.to.reply(r.resp)
	}
	for _, r := range fx.syncs {
		r.to.reply(r.resp)
	}
}

func (s *shard) tick(gs *groupState) {
	var fx effects
	s.mu.Lock()
	if s.phase == active && s.groups[gs.core.id] == gs {
		gs.armed = time.Time{}
		gs.core.tick(s.c.deps.Now(), &fx)
		s.settle(gs, &fx)
	}
	s.mu.Unlock()
	fx.send(s.c.deps.Log)
}

// writer is the shard's one goroutine, from load to close.
func (s *shard) writer() {
	defer close(s.done)
	for {
		ops, open := s.take()
		switch {
		case !open:
			refuseAll(ops)
			return
		case len(ops) == 0:
			<-s.wake
			continue
		case ops[0].run != nil:
			ops[0].run()
		default:
			s.write(ops)
		}
		s.maybeSnapshot()
	}
}

// refuseAll ends operations that will not be written.
func refuseAll(ops []op) {
	for _, o := range ops {
		if o.after != nil {
			o.after(kerr.NotCoordinator)
		}
	}
}

// take cuts the next batch off the queue: operations up to MaxBatchBytes, or one
// that runs alone. When the shard is closed it gives all that is left.
func (s *shard) take() (ops []op, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == closed {
		ops, s.queue = s.queue, nil
		return ops, false
	}
	n, size := 0, int64(0)
	for n < len(s.queue) {
		o := &s.queue[n]
		if n > 0 && (o.run != nil || size+o.bytes > s.c.config().MaxBatchBytes) {
			break
		}
		size += o.bytes
		n++
		if o.run != nil {
			break
		}
	}
	ops = s.queue[:n:n]
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	s.queued -= size
	return ops, true
}

// write appends the entries of ops as one batch, applies them, and tells the
// cores and the waiting requests.
func (s *shard) write(ops []op) {
	var entries []entry
	for i := range ops {
		if o := &ops[i]; o.group == nil || !o.group.deleted || o.entries[0].isOffset {
			entries = append(entries, o.entries...)
		}
	}
	err := responseError(s.append(entries))
	now := s.c.deps.Now()
	var fx effects
	s.mu.Lock()
	if err == nil {
		for i := range entries {
			s.apply(&entries[i])
			s.simple(entries[i].group, now)
		}
	}
	for _, o := range ops {
		if o.group == nil {
			continue
		}
		o.group.waiting--
		if o.done != nil && s.phase == active && s.groups[o.group.core.id] == o.group {
			o.done(now, err, &fx)
			s.settle(o.group, &fx)
		}
	}
	s.mu.Unlock()
	fx.send(s.c.deps.Log)
	for _, o := range ops {
		if o.after != nil {
			o.after(err)
		}
	}
}

// append writes entries as one batch. Without entries it does nothing.
func (s *shard) append(entries []entry) error {
	if len(entries) == 0 {
		return nil
	}
	batch, err := encodeBatch(entries, s.c.deps.Now())
	if err == nil {
		n := int64(len(batch)) // the log may take the batch over
		if _, err = s.log.Append(batch); err == nil {
			s.appended += n
			metricAppended.Add(int(n))
			return nil
		}
	}
	metricAppendErrs.Inc()
	s.c.deps.Log.Warn("group records could not be appended", "partition", s.partition, "records", len(entries), "err", err)
	return err
}

// simple makes sure that a group which has only offsets is known. mu is held.
func (s *shard) simple(id string, now time.Time) {
	if s.phase == active && s.groups[id] == nil && s.durable[id] != nil {
		s.settle(s.create(id, newClassic(id, &s.rules, now)), &effects{})
	}
}

// apply changes durable by one entry of the log.
func (s *shard) apply(e *entry) {
	d := s.durable[e.group]
	if d == nil {
		if e.offset == nil && e.meta == nil {
			return
		}
		d = &durable{}
		s.durable[e.group] = d
	}
	if e.isOffset {
		s.applyOffset(d, e)
	} else {
		if d.meta != nil {
			s.grow(-(&entry{group: e.group, meta: d.meta}).size())
		}
		if d.meta = e.meta; d.meta != nil {
			s.grow(e.size())
		}
	}
	if d.meta == nil && d.count == 0 {
		delete(s.durable, e.group)
	}
}

func (s *shard) applyOffset(d *durable, e *entry) {
	parts := d.offsets[e.topic]
	if old := parts[e.partition]; old != nil {
		s.grow(-(&entry{group: e.group, isOffset: true, topic: e.topic, offset: old}).size())
		d.count--
		metricOffsets.Add(-1)
		delete(parts, e.partition)
	}
	if e.offset == nil {
		if parts != nil && len(parts) == 0 {
			delete(d.offsets, e.topic)
		}
		return
	}
	if parts == nil {
		if d.offsets == nil {
			d.offsets = map[string]map[int32]*offsetValue{}
		}
		parts = map[int32]*offsetValue{}
		d.offsets[e.topic] = parts
	}
	parts[e.partition] = e.offset
	d.count++
	metricOffsets.Add(1)
	s.grow(e.size())
}

func (s *shard) grow(n int64) {
	s.live += n
	s.c.account(n)
}

// close stops the shard: everything that waits is answered NOT_COORDINATOR.
// It returns when the writer has ended.
func (s *shard) close() {
	var fx effects
	s.mu.Lock()
	started := s.phase == active
	if s.phase == closed {
		s.mu.Unlock()
		return
	}
	s.phase = closed
	s.c.timers.cancel(s.retention)
	now := s.c.deps.Now()
	for _, gs := range s.groups {
		gs.core.unload(now, &fx)
		s.forget(gs)
	}
	s.mu.Unlock()
	fx.send(s.c.deps.Log)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	if started {
		<-s.done
		s.release()
	}
}

// release takes the shard's offsets out of the totals. Nobody uses durable
// any more.
func (s *shard) release() {
	for _, d := range s.durable {
		metricOffsets.Add(float64(-d.count))
	}
	s.c.account(-s.live)
	s.durable, s.live = nil, 0
}

// responseError turns an error of the log into what a client is told, as
// Kafka's coordinator does. Errors that are not of the protocol are storage
// errors.
func responseError(err error) *kerr.Error {
	if err == nil {
		return nil
	}
	var ke *kerr.Error
	if !errors.As(err, &ke) {
		return kerr.NotCoordinator
	}
	switch ke {
	case kerr.UnknownTopicOrPartition, kerr.NotEnoughReplicas, kerr.RequestTimedOut:
		return kerr.CoordinatorNotAvailable
	case kerr.NotLeaderForPartition, kerr.KafkaStorageError:
		return kerr.NotCoordinator
	case kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidFetchSize:
		return kerr.UnknownServerError
	}
	return ke
}

// errClosing ends work of the writer when the shard is closed.
var errClosing = errors.New("group: the partition is being unloaded")
