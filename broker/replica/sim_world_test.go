package replica

import (
	"fmt"
	"time"

	"github.com/firnlog/firn/record"
)

// The world of the simulation: one partition, its replicas' brokers, an etcd of
// revisions that everybody sees late, and a network that loses, delays, doubles
// and reorders. Leader, Follower, Elect and the others are the real ones;
// everything around them is a model that is as bad as it may be.
//
// A run is a list of ops. An op that makes no sense where the world is does
// nothing, so every list is a run and any part of a failing one can be left
// out: that is how a failure is made small.

// rules are what a world is made of; they do not change in a run.
type rules struct {
	brokers   int
	factor    int
	minInsync int
	fsync     bool // firn.ack.policy
	unclean   bool // unclean.leader.election.enable
	without   guard
	plain     bool // only what spec/replication.tla has, in its steps
}

func (r rules) String() string {
	policy := "replicated"
	if r.fsync {
		policy = "fsync"
	}
	s := fmt.Sprintf("%d brokers, %d replicas, min.insync %d, %s, unclean %v", r.brokers, r.factor, r.minInsync, policy, r.unclean)
	if r.without != "" {
		s += fmt.Sprintf(", WITHOUT %q", r.without)
	}
	return s
}

// guard is what a mutation takes out; the table in docs/cluster.md has them.
type guard string

const (
	fetchLeaderEpoch guard = "leader epoch compared in a fetch"
	fetchBrokerEpoch guard = "broker epoch of a fetch is the unfenced one"
	fetchFromAfter   guard = "... also of a fetch from after the image"
	historyFirst     guard = "an end counts only where the histories agree"
	truncateByEpoch  guard = "truncation by epoch, not by high watermark"
	ownAnswer        guard = "an answer counts only for what is asked now"
	durableEnds      guard = "ends are durable ends"
	enteringCounts   guard = "high watermark over entering replicas too"
	unsureCounts     guard = "an ISR change of unknown outcome stays pending"
	minIsr           guard = "high watermark only while the ISR has min.insync.replicas"
	elrEmpty         guard = "high watermark only while the ELR is empty"
	entryFromBegin   guard = "entry only from the epoch's beginning on"
	recordRevision   guard = "record's revision compared by the leader"
	entryEpoch       guard = "broker epoch compared when a replica enters the ISR"
	controllerWrites guard = "record's revision compared by the controller"
	newEpoch         guard = "a new leader epoch for a new registration"
	ownImage         guard = "a broker leads by images in which it is unfenced"
	recordsFirst     guard = "unfenced only after the records are written"
	isrDisk          guard = "ISR left on loss of the disk"
	elrDisk          guard = "ELR left on loss of the disk"
	bootSticks       guard = "loss of the page cache known until it is taken in"
	removalEpoch     guard = "a new leader epoch when replicas are removed"
	emptyEpoch       guard = "an epoch without records is forgotten by who follows"
	beginsBehind     guard = "histories that cannot be compared differ"
	removalMin       guard = "replicas removed only if min.insync.replicas of the ISR stay"
)

const (
	maxBrokers = 5
	maxRecords = 6 // of one answer
	maxNet     = 40
	simLag     = 100 * time.Millisecond // replica.lag.time.max.ms
)

type registration struct {
	epoch      int64 // creation revision, 0 for none
	disk, boot int
	leaving    bool
	newBoot    bool // what a broker that forgets would say of its page cache
}

type unfencing struct {
	epoch      int64
	disk, boot int
}

// snapshot is etcd at one revision.
type snapshot struct {
	rev       int64
	rec       Record
	reg       [maxBrokers]registration
	unf       [maxBrokers]unfencing
	ctl       record.BrokerID // who holds the controller key, None for nobody
	ctlEpoch  int64
	minInsync int
	decided   int // as many replicas as whoever wrote the record thought were needed
}

func (s *snapshot) eligible(id record.BrokerID) bool {
	return s.reg[id].epoch != 0 && s.reg[id].epoch == s.unf[id].epoch
}

func (s *snapshot) leaving(id record.BrokerID) bool { return s.reg[id].leaving }

// broker is a machine and, while up, a process on it.
type broker struct {
	id         record.BrokerID
	up         bool
	run        int // counts processes
	disk, boot int
	ranBoot    int // the boot in which a process ran last
	log        simLog
	hw         record.Offset
	agreed     record.Epoch // of the last time that it led, or a leader's history did not differ

	epoch    int64 // of its registration, as far as it knows
	img      int   // index into world.revs
	leader   *Leader
	follower *Follower
	leads    record.BrokerID // whom it follows
	asked    bool            // where the tiered part ends: at tiered, then
	tiered   record.Offset
	call     *Change // the ISR change whose outcome it waits for
	calls    int     // counts them
	promise  int     // min.insync.replicas, as far as it knows
	ctlEpoch int64   // of the controller key that it put, 0 for none
	took     [maxBrokers]int64
	owes     [maxBrokers]Loss // without recordsFirst: what the records do not say yet, plus one
}

type msgKind uint8

const (
	fetchRequest msgKind = iota
	fetchAnswer
	isrRequest
	isrAnswer
	ctlRequest
	ctlAnswer
)

var msgNames = [...]string{"fetch", "fetch answer", "ISR change", "ISR answer", "controller's write", "controller's answer"}

type msg struct {
	kind     msgKind
	from, to record.BrokerID
	run      int   // of the process that waits for the answer
	epoch    int64 // broker epoch; of a ctlRequest the controller key's
	ask      Ask
	answer   Answer
	recs     [maxRecords]entry
	n        int
	change   Change    // isrRequest
	call     int       // isrRequest, isrAnswer
	isr      ISRAnswer // isrAnswer
	rev      int64     // isrAnswer
	write    ctlWrite  // ctlRequest, ctlAnswer
	written  bool      // ctlAnswer
	min      int       // min.insync.replicas that a request was decided with
}

// ctlWrite is a write by the controller: a record, or an unfenced key.
type ctlWrite struct {
	what  string
	act   string            // its name in the spec
	set   []record.BrokerID // leaving, target
	rec   *Record
	take  record.BrokerID // whose registration it follows from, or None
	reg   registration    // that registration
	lossy bool            // it gives up what was acknowledged
}

type world struct {
	rules
	now       int64
	revs      []*snapshot
	brokers   []broker
	net       []*msg
	late      []*msg // on their way for long
	free      []*msg
	value     uint32
	committed simLog // what was below a high watermark
	tiered    record.Offset
	movers    []mover // by leader epoch

	lossEpoch record.Epoch // the history before it may have been given up
	lossOpen  bool         // nobody has led since
	need      []int        // of committed records: how many replicas were promised, at least
	lost      []int        // by value: how many copies of a record were lost

	bad     string // the first invariant that did not hold
	seen    *sightings
	print   func(format string, args ...any) // nil: nobody reads
	line    string                           // what happens, not printed yet
	healing bool
	steps   []string // of spec/replication.tla, if the rules are plain
}

type mover struct {
	id    record.BrokerID
	epoch int64
	set   bool
	hw    record.Offset
}

func newWorld(r rules, seen *sightings) *world {
	w := &world{rules: r, committed: newSimLog(), seen: seen, now: int64(time.Hour)}
	s := &snapshot{rev: 1, ctl: None, minInsync: r.minInsync}
	s.rec = Record{Leader: 0, Epoch: 1, PartitionEpoch: 1, Revision: 1}
	for i := range record.BrokerID(r.factor) {
		s.rec.Replicas = append(s.rec.Replicas, i)
	}
	s.rec.ISR = s.rec.Replicas
	s.decided = s.rec.MinInsync(r.minInsync)
	w.brokers = make([]broker, r.brokers)
	for i := range w.brokers {
		s.reg[i] = registration{epoch: 1}
		s.unf[i] = unfencing{epoch: 1}
		w.brokers[i] = broker{id: record.BrokerID(i), up: true, run: 1, log: newSimLog(), epoch: 1, leads: None}
	}
	s.ctl, s.ctlEpoch = 0, 1
	w.brokers[0].ctlEpoch = 1
	w.revs = []*snapshot{s}
	for i := range w.brokers {
		w.apply(&w.brokers[i])
	}
	return w
}

func (w *world) etcd() *snapshot { return w.revs[len(w.revs)-1] }

// put makes a new revision of etcd, which change may change.
func (w *world) put(change func(*snapshot)) *snapshot {
	s := *w.etcd()
	s.rev++
	change(&s)
	w.revs = append(w.revs, &s)
	return &s
}

func (w *world) image(b *broker) *snapshot { return w.revs[b.img] }

func (w *world) durable(b *broker) record.Offset {
	if w.fsync {
		return b.log.synced
	}
	return b.log.End()
}

func (w *world) say(format string, args ...any) {
	if w.print == nil {
		return
	}
	if w.line != "" {
		w.print("%s", w.line)
		w.line = ""
	}
	if format != "" {
		w.print(format, args...)
	}
}

func (w *world) fail(format string, args ...any) {
	if w.bad == "" {
		w.bad = fmt.Sprintf(format, args...)
		w.say("VIOLATION: %s", w.bad)
	}
}

// send puts a message on its way; when there are too many, one is lost.
func (w *world) send(m *msg) {
	if len(w.net) >= maxNet {
		w.free = append(w.free, w.take(0))
	}
	w.net = append(w.net, m)
}

func (w *world) msg(kind msgKind) *msg {
	if n := len(w.free); n > 0 {
		m := w.free[n-1]
		w.free = w.free[:n-1]
		*m = msg{kind: kind}
		return m
	}
	return &msg{kind: kind}
}

// take removes the i-th message.
func (w *world) take(i int) *msg {
	m := w.net[i]
	last := len(w.net) - 1
	w.net[i] = w.net[last]
	w.net = w.net[:last]
	return m
}

func (w *world) deliver(m *msg) {
	switch m.kind {
	case fetchRequest:
		w.serve(&w.brokers[m.to], m)
	case isrRequest:
		w.changeISR(m)
	case ctlRequest:
		w.controllerWrites(m)
	default:
		b := &w.brokers[m.to]
		if !b.up || b.run != m.run {
			return // its connection is gone
		}
		switch m.kind {
		case fetchAnswer:
			w.answered(b, m)
		case isrAnswer:
			if b.leader != nil && b.call != nil && b.calls == m.call {
				w.isrAnswered(b, m.isr, m.rev)
			}
		case ctlAnswer:
			if m.written && m.write.take != None && m.write.rec != nil {
				b.took[m.write.take] = m.write.reg.epoch
			}
		}
	}
}

// apply has b follow from its image what it is: leader, follower, or neither.
func (w *world) apply(b *broker) {
	s := w.image(b)
	r := s.rec
	if r.Leader == b.id {
		r.Unfenced = make([]int64, len(r.Replicas))
		for i, id := range r.Replicas {
			r.Unfenced[i] = s.unf[id].epoch
		}
	}
	mine := s.unf[b.id].epoch == b.epoch
	if !w.plain { // in the spec a broker whose lease is gone goes on until it registers
		mine = mine && s.reg[b.id].epoch == b.epoch
	}
	if w.without == ownImage {
		mine = true
	}
	if !b.up || !mine {
		b.rest()
		return
	}
	switch {
	case !r.HasReplica(b.id):
		b.rest()
		if b.log.End() > 0 {
			w.say("    broker %d is no replica any more and drops its log", b.id)
			b.log, b.hw = newSimLog(), 0
		}
	case r.Leader == b.id:
		if b.leader != nil && b.leader.Record().Epoch == r.Epoch {
			b.promise = min(b.promise, s.minInsync) // what moves may have moved by the one or the other
			b.leader.Learned(r, w.now)
			w.faultyLeader(b)
			b.leader.SetMinInsync(w.minOf(s), w.now)
		} else {
			b.promise = s.minInsync
			w.lead(b, r, s)
		}
		w.commit(b)
		b.promise = s.minInsync
	case r.Leader != None:
		if b.follower == nil || b.follower.epoch != r.Epoch {
			b.rest()
			b.follower, b.leads = NewFollower(r, b.hw), r.Leader
			if w.without == truncateByEpoch && b.hw < b.log.End() {
				b.log.cut(b.hw)
			}
			if w.without == emptyEpoch {
				b.follower.Begin(&b.log, w.tiered)
			} else {
				w.act(b, b.follower.Begin(&b.log, w.tieredFor(b)))
			}
		}
	default:
		b.rest()
	}
}

// tieredFor is what a follower knows of the tiered end: nothing, or where it was
// when the follower asked, which counts once.
func (w *world) tieredFor(b *broker) record.Offset {
	if w.plain {
		return w.tiered
	}
	t := TieredUnknown
	if b.asked {
		t, b.asked = b.tiered, false
	}
	return t
}

func (w *world) minOf(s *snapshot) int {
	if w.without == minIsr {
		return 1
	}
	return s.minInsync
}

func (b *broker) rest() { b.leader, b.follower, b.leads, b.call = nil, nil, None, nil }

func (w *world) lead(b *broker, r Record, s *snapshot) {
	b.rest()
	if w.tiered > b.log.local && (b.log.End() < w.tiered || b.log.sums[w.tiered] != w.committed.sums[w.tiered]) {
		// Only after an unclean election: it lacks what is in the object store.
		w.say("    broker %d begins at the tiered end %d", b.id, w.tiered)
		b.log.beginAt(w.tiered, min(w.tiered, b.log.start), &w.committed)
		b.hw = w.tiered
	}
	b.log.assignEpoch(r.Epoch, b.log.End())
	b.agreed = r.Epoch
	if w.lossOpen && r.Epoch >= w.lossEpoch {
		w.lossOpen = false
		b.log.synced = b.log.End() // so that it is known what is given up
		keep := max(w.tiered, w.committed.common(&b.log))
		w.say("    of what was acknowledged [%d, %d) is given up", keep, w.committed.End())
		w.committed.cut(keep)
		if keep < b.log.start { // what is deleted may have been anything
			w.committed.beginAt(b.log.start, 0, &b.log)
		}
		w.need = append(w.need[:keep], make([]int, w.committed.End()-keep)...)
		for o := range w.need {
			w.need[o] = 1 // what is left is on the new leader, for all that is known
		}
		b.hw = min(b.hw, w.committed.End())
	}
	b.leader = NewLeader(LeaderConfig{
		Self: b.id, Record: r, EpochStart: b.log.End(), Durable: w.durable(b), HighWatermark: b.hw,
		MinInsync: w.minOf(s), MaxLag: simLag,
	}, w.now)
	if w.without == entryFromBegin {
		b.leader.start = 0
	}
	w.faultyLeader(b)
	w.say("    broker %d leads epoch %d from %d, high watermark %d", b.id, r.Epoch, b.log.End(), b.hw)
}

// faultyLeader takes guards out of a Leader.
func (w *world) faultyLeader(b *broker) {
	if b.leader == nil {
		return
	}
	switch w.without {
	case elrEmpty:
		b.leader.rec.ELR = nil
	case enteringCounts:
		for i := range b.leader.peers {
			b.leader.peers[i].entering = false
		}
	}
}

// serve is the leader's side of a fetch.
func (w *world) serve(b *broker, m *msg) {
	if !b.up {
		return
	}
	a := w.msg(fetchAnswer)
	a.from, a.to, a.run = b.id, m.from, m.run
	a.answer = Answer{Ask: m.ask, Result: NotYet, LogStart: -1}
	taken := false
	defer func() {
		if w.print != nil {
			w.say("    broker %d answers %d at %d: %s", b.id, m.from, m.ask.Offset, describe(a))
		}
		if w.plain && !taken {
			return
		}
		w.send(a)
	}()
	l := b.leader
	if l == nil {
		return
	}
	epoch := m.ask.Epoch
	if w.without == fetchLeaderEpoch {
		epoch = l.rec.Epoch
	}
	switch {
	case epoch < l.rec.Epoch:
		a.answer.Result = Fenced
		return
	case epoch > l.rec.Epoch, !l.rec.HasReplica(m.from):
		return
	}
	f := Fetch{Replica: m.from, BrokerEpoch: m.epoch, Epoch: epoch, Offset: m.ask.Offset}
	if w.without == historyFirst {
		w.fetched(b, f)
	}
	a.answer.LogStart = b.log.start
	if m.ask.Offset < b.log.local {
		a.answer.Result = OutOfRange
		return
	}
	de, end, diverges := Diverges(&b.log, m.ask.LastEpoch, m.ask.Offset)
	if w.without == beginsBehind && de < 0 && m.ask.LastEpoch >= 0 { // as KIP-101 has it
		de, end = b.log.EpochEnd(m.ask.LastEpoch)
		diverges = de < m.ask.LastEpoch || end < m.ask.Offset
	}
	if w.without == truncateByEpoch {
		de, end, diverges = l.rec.Epoch, b.log.End(), m.ask.Offset > b.log.End()
	}
	if p := l.peer(m.from); w.plain && (p == nil || m.epoch != p.unfenced) {
		return
	}
	taken = true
	if w.plain {
		defer w.did("Fetched", b, "from", m.from, "le", int(m.ask.Epoch), "off", int(m.ask.Offset))
	}
	if diverges {
		a.answer.Result, a.answer.DivergingEpoch, a.answer.DivergingEnd = Diverging, de, end
		w.seen.diverged++
		return
	}
	w.fetched(b, f)
	a.n = min(maxRecords, int(b.log.End()-m.ask.Offset))
	copy(a.recs[:a.n], b.log.recs[m.ask.Offset:])
	a.answer.Result = Read
	a.answer.RecordsEnd = m.ask.Offset + record.Offset(a.n)
	a.answer.HighWatermark = l.HighWatermark()
}

func (w *world) fetched(b *broker, f Fetch) {
	if p := b.leader.peer(f.Replica); p != nil && (w.without == fetchBrokerEpoch || w.without == fetchFromAfter && f.BrokerEpoch > p.unfenced) {
		p.unfenced = f.BrokerEpoch
	}
	if _, counted := b.leader.Fetched(f, w.now); !counted {
		w.seen.uncounted++
	}
	w.faultyLeader(b)
	w.commit(b)
}

func describe(m *msg) string {
	switch a := m.answer; a.Result {
	case Read:
		return fmt.Sprintf("%d records, high watermark %d", m.n, a.HighWatermark)
	case Diverging:
		return fmt.Sprintf("differs, epoch %d ends at %d", a.DivergingEpoch, a.DivergingEnd)
	case OutOfRange:
		return fmt.Sprintf("out of range, log begins at %d", a.LogStart)
	case Fenced:
		return "fenced epoch"
	}
	return "not yet, or no longer, leader"
}

// answered is the follower's side.
func (w *world) answered(b *broker, m *msg) {
	if b.follower == nil {
		return
	}
	a := m.answer
	if w.without == ownAnswer && a.Result == Diverging {
		a.Ask = Ask{b.follower.epoch, b.log.End(), lastEpoch(&b.log)}
	}
	before := b.log.End()
	if a.Result == OutOfRange || a.Result == Diverging {
		a.Tiered = w.tieredFor(b)
	}
	d := b.follower.Answered(&b.log, a)
	if d.Action == Append {
		for i := range m.n {
			if !b.log.append(m.recs[i]) {
				return
			}
		}
		b.agreed = max(b.agreed, a.Ask.Epoch)
	}
	w.act(b, d)
	if w.plain && (d.Action == Append || d.Action == Truncate || d.Action == StartAnew) {
		w.did("Answered", b, "le", int(a.Ask.Epoch), "off", int(a.Ask.Offset))
	}
	if w.print != nil && b.log.End() != before {
		w.say("    broker %d has %d to %d, high watermark %d", b.id, b.log.start, b.log.End(), b.hw)
	}
}

// act does what a Follower decided, beside appending.
func (w *world) act(b *broker, d Decision) {
	switch d.Action {
	case Append:
		b.hw = d.HighWatermark
		b.log.delete(d.LogStart)
		b.log.forget(&w.committed)
	case Truncate:
		if d.Offset < b.log.End() {
			w.seen.truncated++
			w.say("    broker %d truncates %d to %d", b.id, b.log.End(), d.Offset)
		}
		b.log.cut(d.Offset)
		b.hw = d.HighWatermark
	case StartAnew:
		w.seen.anew++
		if b.follower != nil && b.follower.epoch < w.lossEpoch && d.Offset > w.committed.End() {
			return // of a history that is given up
		}
		if d.Offset > w.committed.End() {
			w.fail("broker %d starts anew at %d, only %d is committed", b.id, d.Offset, w.committed.End())
			return
		}
		b.log.beginAt(d.Offset, d.LogStart, &w.committed)
		b.hw = d.HighWatermark
		w.say("    broker %d starts anew at %d", b.id, d.Offset)
	case AwaitTiered:
		w.seen.awaited++
		b.asked, b.tiered = true, w.tiered
	case Ignore, BackOff, AwaitRecord:
	}
}

// changeISR is etcd's side of a leader's write.
func (w *world) changeISR(m *msg) {
	s := w.etcd()
	c := m.change
	own := s.reg[m.from].epoch == m.epoch
	same := s.rec.Revision == c.Record.Revision
	enters := c.Entering == None || s.eligible(c.Entering) && s.reg[c.Entering].epoch == c.EnteringEpoch
	if w.without == entryEpoch {
		enters = true
	}
	if w.without == recordRevision {
		same = true
	}
	a := w.msg(isrAnswer)
	a.from, a.to, a.run, a.call = m.from, m.from, m.run, m.call
	b := &w.brokers[m.from]
	waits := b.up && b.run == m.run && b.leader != nil && b.call != nil && b.calls == m.call
	switch {
	case !same:
		a.isr = Refused
		w.seen.overtaken++
	case !own || !enters:
		a.isr = Refused
		w.seen.refused++
	default:
		a.isr = Written
		n := w.put(func(n *snapshot) {
			n.rec.ISR, n.rec.ELR = c.Record.ISR, c.Record.ELR
			n.rec.PartitionEpoch++
			n.rec.Revision = n.rev
		})
		a.rev = n.rev
		w.wrote(m.min)
		if c.Entering != None {
			w.seen.entered++
		} else {
			w.seen.shrunk++
		}
	}
	w.say("    etcd: ISR %v, ELR %v by %d: %s", c.Record.ISR, c.Record.ELR, m.from, [...]string{"written", "refused"}[a.isr])
	if !w.plain {
		w.send(a)
		return
	}
	switch { // the leader knows at once
	case a.isr == Written && waits:
		w.did("Written", nil, "b", m.from, "record", w.etcd().rec)
		w.isrAnswered(b, a.isr, a.rev)
		w.learnAll(b)
	case a.isr == Written:
		w.did("WrittenLate", nil, "record", w.etcd().rec)
	case waits && same:
		w.isrAnswered(b, a.isr, 0)
		w.did("Refused", nil, "b", m.from)
	}
}

func (w *world) isrAnswered(b *broker, a ISRAnswer, rev int64) {
	c := *b.call
	b.call = nil
	if w.without == unsureCounts && a == Unknown {
		a = Refused
	}
	b.leader.ISRAnswered(c, a, rev, w.now)
	w.faultyLeader(b)
	w.commit(b)
}

// controllerWrites is etcd's side of a controller's write.
func (w *world) controllerWrites(m *msg) {
	s := w.etcd()
	c := m.write
	ok := s.ctl != None && s.ctlEpoch == m.epoch
	if c.rec != nil {
		ok = ok && s.rec.Revision == c.rec.Revision
	} else {
		ok = ok && s.reg[c.take].epoch == c.reg.epoch
	}
	if w.without == controllerWrites {
		ok = true
	}
	a := w.msg(ctlAnswer)
	a.from, a.to, a.run, a.write, a.written = m.from, m.from, m.run, c, ok
	w.send(a)
	w.say("    etcd: %s by %d: %v", c.what, m.from, ok)
	if !ok {
		w.seen.ctlRefused++
		return
	}
	n := w.put(func(n *snapshot) {
		if c.rec != nil {
			n.rec = *c.rec
			n.rec.Revision = n.rev
			return
		}
		n.unf[c.take] = unfencing{c.reg.epoch, c.reg.disk, c.reg.boot}
	})
	switch {
	case c.rec == nil && s.unf[c.take] != n.unf[c.take]:
		w.did("Unfenced", nil, "b", c.take)
	case c.rec == nil:
	case c.take != None:
		w.did("TakenIn", nil, "b", c.take, "record", n.rec)
	case c.act == "Elect":
		w.did(c.act, nil, "leaving", c.set, "record", n.rec)
	case c.act == "Reassign":
		w.did(c.act, nil, "target", c.set, "record", n.rec)
	default:
		w.did(c.act, nil, "record", n.rec)
	}
	if c.rec == nil {
		return
	}
	w.say("    record: leader %d, epoch %d.%d, replicas %v, ISR %v, ELR %v, adding %v, removing %v", n.rec.Leader, n.rec.Epoch, n.rec.PartitionEpoch, n.rec.Replicas, n.rec.ISR, n.rec.ELR, n.rec.Adding, n.rec.Removing)
	w.elected(s, n)
	if c.lossy {
		w.lossOpen, w.lossEpoch = true, max(w.lossEpoch, n.rec.Epoch)
		w.seen.unclean++
	}
	w.wrote(m.min)
}

func (w *world) elected(old, n *snapshot) {
	switch {
	case n.rec.Leader == old.rec.Leader:
	case n.rec.Leader == None:
		w.seen.leaderless++
	case old.rec.InISR(n.rec.Leader):
		w.seen.elected++
	case !w.lossOpen:
		w.seen.electedELR++
	}
	if old.rec.Reassigning() && !n.rec.Reassigning() {
		w.seen.reassigned++
	}
}

// wrote looks at the record after it was written by somebody who knew of a
// min.insync.replicas of decided: no more than that can be asked for.
func (w *world) wrote(decided int) {
	s := w.etcd()
	if bad := invalid(s.rec); bad != "" {
		w.fail("the record is not valid: %s: %+v", bad, s.rec)
	}
	s.decided = s.rec.MinInsync(decided)
	for o := range w.need {
		w.need[o] = min(w.need[o], s.decided)
	}
	w.survives(0)
}

// intact says that b has the bytes that its place in an ISR speaks of.
func (w *world) intact(b *broker) bool {
	unf := w.etcd().unf[b.id]
	return b.disk == unf.disk && (w.fsync || b.boot == unf.boot)
}

// survives checks of what is committed from offset o on that as many replicas
// may be elected as were promised, less those whose copy was lost.
func (w *world) survives(o int) {
	if w.lossOpen {
		return
	}
	s := w.etcd()
	electable := 0
	for _, of := range [2][]record.BrokerID{s.rec.ISR, s.rec.ELR} {
		for _, id := range of {
			if w.intact(&w.brokers[id]) {
				electable++
			}
		}
	}
	for ; o < len(w.need); o++ {
		if lost := w.lost[w.committed.recs[o].value]; electable+lost < w.need[o] {
			w.fail("invariant 1: of offset %d, which was promised to be on %d replicas, %d copies were lost, and %d may be elected (ISR %v, ELR %v)", o, w.need[o], lost, electable, s.rec.ISR, s.rec.ELR)
			return
		}
	}
}

// loses counts the copies in b's log as lost.
func (w *world) loses(b *broker) {
	for _, e := range b.log.recs {
		w.lost[e.value]++
	}
}

// commit takes in a leader's high watermark.
func (w *world) commit(b *broker) {
	l := b.leader
	h, e := l.HighWatermark(), l.rec.Epoch
	for int(e) >= len(w.movers) {
		w.movers = append(w.movers, mover{})
	}
	mv := &w.movers[e]
	if h < b.hw || mv.set && mv.id == b.id && h < mv.hw {
		w.fail("invariant 4: the high watermark of epoch %d went down to %d at broker %d", e, h, b.id)
	}
	if h > b.hw {
		if mv.set && (mv.id != b.id || mv.epoch != b.epoch) {
			w.fail("invariant 4: broker %d (registration %d) and broker %d (registration %d) both moved the high watermark of epoch %d", mv.id, mv.epoch, b.id, b.epoch, e)
		}
		*mv = mover{b.id, b.epoch, true, h}
		w.seen.moved++
		if w.print != nil {
			w.say("    broker %d: high watermark of epoch %d is %d", b.id, e, h)
		}
	}
	b.hw = h
	if e < w.lossEpoch {
		return // of a history that is given up
	}
	if h > b.log.End() {
		w.fail("broker %d: high watermark %d, log ends at %d", b.id, h, b.log.End())
		return
	}
	if o := min(h, w.committed.End()); b.log.sums[o] != w.committed.sums[o] {
		w.fail("invariant 2: leader %d of epoch %d has other records below %d than were read before", b.id, e, o)
		return
	}
	first := len(w.need)
	need := l.rec.MinInsync(b.promise)
	for i := len(w.revs) - 1; w.revs[i].rec.Revision > l.rec.Revision; i-- { // what it does not know yet
		need = min(need, w.revs[i].decided)
	}
	for o := w.committed.End(); o < h; o++ {
		w.committed.append(b.log.recs[o])
		w.need = append(w.need, need)
	}
	w.survives(first)
}

// check is what must hold after every step.
func (w *world) check() {
	for i := range w.brokers {
		b := &w.brokers[i]
		if w.lossEpoch > 0 {
			b.log.forget(&w.committed)
		}
		switch {
		case b.hw > b.log.End():
			w.fail("broker %d: high watermark %d, log ends at %d", b.id, b.hw, b.log.End())
		case b.agreed < w.lossEpoch || w.lossOpen:
		case b.hw > w.committed.End() && w.lossEpoch == 0:
			w.fail("broker %d: high watermark %d, no leader went beyond %d", b.id, b.hw, w.committed.End())
		default:
			// After an unclean election a leader of before may have gone beyond.
			if o := min(b.hw, w.committed.End()); b.log.sums[o] != w.committed.sums[o] {
				w.fail("invariant 2: broker %d has other records below its high watermark %d than were read before", b.id, b.hw)
			}
		}
	}
	if w.lossOpen {
		return
	}
	s := w.etcd()
	for _, of := range [2][]record.BrokerID{s.rec.ISR, s.rec.ELR} {
		for _, id := range of {
			b := &w.brokers[id]
			if !w.intact(b) {
				continue
			}
			end := w.committed.End()
			if w.durable(b) < end {
				w.fail("invariant 1: broker %d may be elected and has %d durably, %d is acknowledged", id, w.durable(b), end)
			} else if b.log.sums[end] != w.committed.sums[end] {
				w.fail("invariant 1: broker %d may be elected and has other records below %d", id, end)
			}
		}
	}
}
