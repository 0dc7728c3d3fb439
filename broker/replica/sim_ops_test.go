package replica

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/firnlog/firn/record"
)

// op is one step of a run: what happens, to whom, and how.
type op struct {
	kind opKind
	a    uint8 // mostly a broker
	k    uint8
}

type opKind uint8

const (
	opDeliver opKind = iota
	opDrop
	opDuplicate
	opHold
	opRelease
	opProduce
	opSync
	opFetch
	opLearn
	opWant
	opGiveUp
	opControl
	opCampaign
	opExpire
	opCrash
	opPowerLoss
	opPowerLossOfAll
	opDiskLoss
	opStart
	opRegister
	opTime
	opMinInsync
	opReassign
	opShuffle
	opCancel
	opPreferred
	opLeave
	opTier
	opTrim
	opDelete
	opKinds
)

var opNames = [opKinds]string{
	"deliver", "drop", "deliver twice", "hold", "release", "produce", "sync", "fetch", "learn", "want", "give up", "control", "campaign",
	"expire", "crash", "power loss", "power loss of all", "disk loss", "start", "register", "time", "min.insync",
	"reassign", "shuffle", "cancel", "preferred", "leave", "tier", "trim", "delete records",
}

// weights say how often each happens.
var weights = [opKinds]int{
	opDeliver: 1500, opDrop: 40, opDuplicate: 100, opHold: 25, opRelease: 20, opProduce: 250, opSync: 500, opFetch: 900, opLearn: 500, opWant: 400,
	opGiveUp: 40, opControl: 400, opCampaign: 100, opExpire: 12, opCrash: 8, opPowerLoss: 4, opPowerLossOfAll: 1,
	opDiskLoss: 3, opStart: 150, opRegister: 60, opTime: 200, opMinInsync: 6, opReassign: 8, opShuffle: 25, opCancel: 6,
	opPreferred: 40, opLeave: 4, opTier: 25, opTrim: 25, opDelete: 5,
}

// someOps draws a run of n steps, in which some kinds of steps are more likely
// than usual, some less, and some do not happen: that finds what an average
// mixture never meets. Those of likely are ten times as likely.
func someOps(rnd *rand.Rand, n int, likely ...opKind) []op {
	var upTo [opKinds]int
	total := 0
	for k, weight := range weights {
		weight *= 10
		switch {
		case slices.Contains(likely, opKind(k)):
			weight *= 10
		case weight < 1000: // what a run can do without
			weight = weight * [...]int{0, 3, 10, 10, 30, 60}[rnd.IntN(6)] / 10
		}
		total += weight
		upTo[k] = total
	}
	ops := make([]op, n)
	for i := range ops {
		x := rnd.IntN(total)
		k := 0
		for upTo[k] <= x {
			k++
		}
		ops[i] = op{opKind(k), uint8(rnd.Uint32()), uint8(rnd.Uint32())}
	}
	return ops
}

func (w *world) step(o op) {
	b := w.actor(o)
	k := int(o.k)
	if w.print != nil {
		w.line = fmt.Sprintf("%-14s %s", opNames[o.kind], w.detail(o, b))
		if !w.healing {
			w.say("")
		}
	}
	switch o.kind {
	case opDeliver, opDuplicate, opDrop, opHold:
		w.stepNet(o)
	case opRelease:
		if n := len(w.late); n > 0 {
			m := *w.late[int(o.a)%n]
			w.deliver(&m)
		}
	case opProduce:
		w.produce(b, k)
	case opSync:
		w.sync(b)
	case opFetch:
		w.fetch(b)
	case opLearn:
		w.learn(b, k)
	case opWant:
		w.want(b)
	case opGiveUp:
		if b.leader != nil && b.call != nil {
			w.seen.unknown++
			w.isrAnswered(b, Unknown, 0)
			w.did("Unsure", nil, "b", b.id)
		}
	case opControl, opReassign, opShuffle, opCancel, opPreferred:
		w.control(b, o.kind, k)
	case opCampaign:
		w.campaign(b)
	case opExpire:
		w.expire(b, k)
	case opCrash:
		w.crash(b, k)
	case opPowerLoss:
		w.powerLoss(b, k)
	case opPowerLossOfAll:
		for i := range w.brokers {
			w.powerLoss(&w.brokers[i], k+i)
		}
	case opDiskLoss:
		w.crash(b, k)
		b.disk++
		w.loses(b)
		b.log, b.hw, b.agreed = newSimLog(), 0, 0
		w.did("LoseDisk", nil, "b", b.id)
	case opStart:
		if !b.up {
			b.up = true
			b.run++
			if w.fsync {
				b.log.synced = b.log.End()
			}
			w.register(b)
		}
	case opRegister:
		if b.up && w.image(b).reg[b.id].epoch != b.epoch {
			w.register(b)
		}
	case opTime:
		w.now += int64(time.Duration(1+k%40) * time.Millisecond)
	case opMinInsync:
		if m := 1 + k%3; m != w.etcd().minInsync {
			w.put(func(s *snapshot) { s.minInsync = m })
			w.did("ChangeMinInsync", nil, "min", m)
		}
	case opLeave:
		if b.up && w.etcd().reg[b.id].epoch == b.epoch {
			w.put(func(s *snapshot) { s.reg[b.id].leaving = true })
		}
	case opTier:
		if end := w.committed.End(); !w.lossOpen && end > w.tiered {
			w.tiered += record.Offset(k) % (end - w.tiered + 1)
		}
	case opTrim:
		if to := min(b.hw, w.tiered); b.up && b.agreed >= w.lossEpoch && to > b.log.local {
			b.log.local = to
			w.say("    broker %d's disk begins at %d", b.id, to)
		}
	case opDelete:
		if b.leader != nil {
			b.log.delete(b.hw * record.Offset(k) / 256)
			w.say("    broker %d's log begins at %d", b.id, b.log.start)
		}
	}
	w.check()
}

// actor is the first broker from o.a on that can do o, or the o.a-th.
func (w *world) actor(o op) *broker {
	n := len(w.brokers)
	for i := range n {
		b := &w.brokers[(int(o.a)+i)%n]
		can := true
		switch o.kind {
		case opProduce, opDelete:
			can = b.leader != nil
		case opWant:
			can = b.leader != nil && b.call == nil
		case opGiveUp:
			can = b.call != nil
		case opFetch:
			can = b.follower != nil && w.durable(b) == b.log.End()
		case opSync:
			can = b.up && b.log.synced < b.log.End()
		case opLearn:
			can = b.up && b.img < len(w.revs)-1
		case opControl, opReassign, opShuffle, opCancel, opPreferred:
			can = b.up && b.ctlEpoch != 0
		case opCampaign, opCrash, opExpire, opPowerLoss, opDiskLoss:
			can = b.up
		case opStart:
			can = !b.up
		case opRegister:
			can = b.up && w.image(b).reg[b.id].epoch != b.epoch
		}
		if can {
			return b
		}
	}
	return &w.brokers[int(o.a)%n]
}

func (w *world) detail(o op, b *broker) string {
	switch o.kind {
	case opRelease:
		if n := len(w.late); n > 0 {
			m := w.late[int(o.a)%n]
			return fmt.Sprintf("%s from %d to %d, epoch %d at %d", msgNames[m.kind], m.from, m.to, m.ask.Epoch, m.ask.Offset)
		}
		return ""
	case opDeliver, opDrop, opDuplicate, opHold:
		if len(w.net) == 0 {
			return ""
		}
		m := w.net[w.pick(o)]
		return fmt.Sprintf("%s from %d to %d, epoch %d at %d", msgNames[m.kind], m.from, m.to, m.ask.Epoch, m.ask.Offset)
	case opTime, opMinInsync, opTier, opPowerLossOfAll:
		return ""
	}
	return fmt.Sprintf("broker %d", b.id)
}

func (w *world) pick(o op) int { return (int(o.a)<<8 | int(o.k)) % len(w.net) }

func (w *world) stepNet(o op) {
	if len(w.net) == 0 {
		return
	}
	i := w.pick(o)
	if o.kind == opDuplicate && w.net[i].kind <= fetchAnswer {
		m := *w.net[i] // the original may be overwritten by what it causes
		w.deliver(&m)
		return
	}
	m := w.take(i)
	switch {
	case o.kind == opDeliver:
		w.deliver(m)
	case o.kind == opHold && m.kind <= fetchAnswer:
		if len(w.late) < 4 {
			w.late = append(w.late, m)
			return
		}
		at := &w.late[int(o.k)%len(w.late)]
		m, *at = *at, m
	}
	w.free = append(w.free, m)
}

func (w *world) produce(b *broker, k int) {
	if b.leader == nil || w.plain && w.value == maxRecords {
		return
	}
	if !b.leader.MayAppend() && k%4 > 0 { // acks=all, and sometimes acks=1
		w.seen.appendRefused++
		return
	}
	n := 1 + k%3
	if w.plain {
		n = 1
	}
	for range n {
		w.value++
		w.lost = append(w.lost, 0)
		b.log.append(entry{b.leader.rec.Epoch, w.value - 1})
	}
	b.leader.Appended(b.log.End())
	if !w.fsync || w.without == durableEnds {
		b.leader.Durable(b.log.End())
	}
	if w.print != nil {
		w.say("    broker %d ends at %d", b.id, b.log.End())
	}
	w.commit(b)
	w.did("Appended", b)
}

func (w *world) sync(b *broker) {
	if !b.up || b.log.synced == b.log.End() {
		return
	}
	b.log.synced = b.log.End()
	if b.leader != nil {
		b.leader.Durable(b.log.synced)
		w.commit(b)
	}
	if w.fsync {
		w.did("Synced", b)
	}
}

func (w *world) fetch(b *broker) {
	if b.follower == nil {
		return
	}
	if b.follower.awaits {
		w.act(b, b.follower.Begin(&b.log, w.tieredFor(b)))
	}
	durable := w.durable(b)
	if w.without == durableEnds {
		durable = b.log.End()
	}
	ask, ok := b.follower.Next(&b.log, durable)
	if !ok {
		return
	}
	m := w.msg(fetchRequest)
	m.from, m.to, m.run, m.epoch, m.ask = b.id, b.leads, b.run, b.epoch, ask
	w.send(m)
	w.did("Asked", nil, "b", b.id)
}

func (w *world) learn(b *broker, k int) {
	if !b.up || b.img == len(w.revs)-1 {
		return
	}
	if k%2 == 0 || w.plain {
		w.learnAll(b)
		return
	}
	b.img = min(b.img+1+k/64, len(w.revs)-1)
	w.apply(b)
}

// learnAll has b's image catch up.
func (w *world) learnAll(b *broker) {
	b.img = len(w.revs) - 1
	if w.plain && b.call != nil && w.etcd().rec.Revision > b.call.Record.Revision {
		b.call = nil // overtaken, as the newer record says
	}
	w.apply(b)
	w.did("Learned", nil, "b", b.id) // the record first, perhaps, then the configs
	w.did("Learned", b)
	if s := w.etcd(); s.ctl == b.id && s.ctlEpoch == b.ctlEpoch {
		w.did("LearnedAll", nil)
	}
}

func (w *world) want(b *broker) {
	if b.leader == nil || b.call != nil {
		return
	}
	s := w.image(b)
	c, ok := b.leader.Wanted(w.now, func(id record.BrokerID, epoch int64) bool {
		return s.eligible(id) && s.reg[id].epoch == epoch && !s.leaving(id) || w.without == entryEpoch
	})
	w.faultyLeader(b)
	if !ok {
		return
	}
	b.call = &c
	b.calls++
	m := w.msg(isrRequest)
	m.call = b.calls
	m.from, m.to, m.run, m.epoch, m.change, m.min = b.id, b.id, b.run, b.epoch, c, s.minInsync
	w.say("    broker %d wants ISR %v, ELR %v", b.id, c.Record.ISR, c.Record.ELR)
	w.send(m)
	enters := []record.BrokerID{}
	if c.Entering != None {
		enters = append(enters, c.Entering)
	}
	w.did("Wanted", nil, "b", b.id, "leaves", without(b.leader.rec.ISR, c.Record.ISR), "enters", enters)
}

func (w *world) campaign(b *broker) {
	if s := w.etcd(); b.up && s.ctl == None && s.reg[b.id].epoch == b.epoch {
		b.ctlEpoch = w.put(func(s *snapshot) { s.ctl, s.ctlEpoch = b.id, s.rev }).rev
		b.took, b.owes = [maxBrokers]int64{}, [maxBrokers]Loss{}
		if w.plain {
			w.did("TakenOver", nil)
			w.learnAll(b)
		}
	}
}

func (w *world) expire(b *broker, k int) {
	if w.etcd().reg[b.id].epoch == 0 || b.up && k%4 > 0 {
		return
	}
	if b.up {
		w.seen.zombies++
	}
	w.put(func(s *snapshot) {
		s.reg[b.id] = registration{}
		if s.ctl == b.id {
			s.ctl = None
		}
	})
	w.did("Expire", nil, "b", b.id)
}

func (w *world) register(b *broker) {
	w.put(func(s *snapshot) {
		b.epoch = s.rev
		s.reg[b.id] = registration{epoch: s.rev, disk: b.disk, boot: b.boot, newBoot: b.boot != b.ranBoot}
		if s.ctl == b.id {
			s.ctl = None // the lease of before is revoked
		}
	})
	b.ranBoot = b.boot
	b.ctlEpoch = 0
	b.call = nil
	w.did("Register", nil, "b", b.id)
	w.learnAll(b)
}

// crash ends the process. With the journal, a part of what was not synced may
// be gone, and the next start syncs the rest; without it the page cache has all.
func (w *world) crash(b *broker, k int) {
	if !b.up {
		return
	}
	b.up = false
	b.rest()
	b.epoch, b.ctlEpoch = 0, 0
	if w.fsync {
		w.lose(b, k)
	}
	w.restart(b, k)
	w.did("Crash", nil, "b", b.id, "end", int(b.log.End()), "hw", int(b.hw))
}

func (w *world) powerLoss(b *broker, k int) {
	b.boot++
	w.crash(b, k)
	if w.plain && w.fsync {
		return // a start has synced it
	}
	if !w.fsync {
		w.loses(b)
	}
	w.lose(b, k/2)
	b.log.synced = b.log.End()
	b.hw = min(b.hw, b.log.End())
	if !w.fsync {
		w.did("LoseCache", nil, "b", b.id, "end", int(b.log.End()), "hw", int(b.hw))
	}
}

// lose takes away a part of what is not synced.
func (w *world) lose(b *broker, k int) {
	if n := b.log.End() - b.log.synced; n > 0 {
		b.log.cut(b.log.synced + record.Offset(k)%(n+1))
	}
}

// restart is what the high watermark is after a start: what a checkpoint had of
// it, or nothing.
func (w *world) restart(b *broker, k int) {
	b.hw = min(b.hw, b.log.End())
	if k%3 > 0 {
		b.hw = b.log.start
	}
	w.say("    broker %d has %d to %d, high watermark %d", b.id, b.log.start, b.log.End(), b.hw)
}

// control is one step of the controller, if b believes to be it.
func (w *world) control(b *broker, kind opKind, k int) {
	s := w.image(b)
	if !b.up || b.ctlEpoch == 0 || s.ctl != b.id || s.ctlEpoch != b.ctlEpoch {
		return
	}
	v := View{Eligible: s.eligible, Leaving: s.leaving, MinInsync: s.minInsync, Unclean: w.unclean}
	c := ctlWrite{take: None}
	var next Record
	var changed bool
	switch kind {
	case opControl:
		for i := range w.brokers {
			id := record.BrokerID((i + k) % len(w.brokers))
			if b.owes[id] > 0 && s.eligible(id) {
				loss := b.owes[id] - 1
				b.owes[id] = 0
				w.takeInRecord(b, s, v, id, loss)
				return
			}
			if s.reg[id].epoch != 0 && !s.eligible(id) {
				w.takeIn(b, s, v, id)
				return
			}
		}
		c.what, c.act, c.set = "election", "Elect", []record.BrokerID{}
		if w.plain && k%16 == 0 { // somebody is leaving
			c.set = append(c.set, record.BrokerID(k/16%len(w.brokers)))
			v.Leaving = func(id record.BrokerID) bool { return id == c.set[0] }
		}
		if next, changed = Elect(s.rec, v); !changed {
			c.what, c.act = "reassignment completed", "Progress"
			pv := v
			if w.without == removalMin {
				pv.MinInsync = 1
			}
			next, changed = Progress(s.rec, pv)
			if w.without == removalEpoch && next.Leader == s.rec.Leader {
				next.Epoch = s.rec.Epoch
			}
		}
	case opReassign:
		c.what, c.act = "reassignment", "Reassign"
		var target []record.BrokerID
		for i := range 1 + k%3 {
			if id := record.BrokerID((k/3 + i*(1+k/27%2)) % len(w.brokers)); !slices.Contains(target, id) {
				target = append(target, id)
			}
		}
		c.set = target
		if !w.plain || !sameMembers(target, s.rec.Target()) {
			next, changed = Reassign(s.rec, target)
		}
	case opShuffle:
		c.what = "another order of the replicas"
		if n := len(s.rec.Replicas); !s.rec.Reassigning() {
			at := k % n
			next, changed = Reassign(s.rec, slices.Concat(s.rec.Replicas[at:], s.rec.Replicas[:at]))
		}
	case opCancel:
		c.what, c.act, c.set = "cancellation", "Reassign", s.rec.Original()
		if s.rec.Reassigning() {
			next, changed = Reassign(s.rec, s.rec.Original())
		}
	case opPreferred:
		c.what, c.act = "preferred leader", "Preferred"
		next, changed = Preferred(s.rec, v)
	}
	if changed {
		c.lossy = unclean(s.rec, next)
		c.rec = &next
		w.writeAsController(b, c)
	}
}

func unclean(old, next Record) bool {
	return next.Leader != None && !old.InISR(next.Leader) && !slices.Contains(old.ELR, next.Leader)
}

// takeIn has the controller take in the registration of id: first the record,
// then the unfenced key.
func (w *world) takeIn(b *broker, s *snapshot, v View, id record.BrokerID) {
	reg, unf := s.reg[id], s.unf[id]
	loss := LostNothing
	switch {
	case reg.disk != unf.disk:
		loss = LostDisk
	case w.without == bootSticks && reg.newBoot, w.without != bootSticks && reg.boot != unf.boot:
		loss = LostPageCache
	}
	if w.without == recordsFirst {
		b.owes[id] = loss + 1
	} else if b.took[id] != reg.epoch {
		if w.takeInRecord(b, s, v, id, loss) {
			return
		}
		if s.rec.HasReplica(id) {
			b.took[id] = reg.epoch
			if e := w.etcd(); e.ctl == b.id && e.ctlEpoch == b.ctlEpoch {
				w.did("TakenIn", nil, "b", id)
			}
		}
	}
	w.writeAsController(b, ctlWrite{what: fmt.Sprintf("unfencing %d", id), take: id, reg: reg})
}

// takeInRecord writes what a registration means for the record; false if that
// is nothing.
func (w *world) takeInRecord(b *broker, s *snapshot, v View, id record.BrokerID, loss Loss) bool {
	next, changed := w.takenIn(s.rec, id, loss, v)
	if !changed {
		return false
	}
	had := s.rec.InISR(id) || slices.Contains(s.rec.ELR, id)
	has := next.InISR(id) || slices.Contains(next.ELR, id)
	gone := loss == LostDisk || loss == LostPageCache && !w.fsync
	last := gone && had && has && loss == LostPageCache && len(s.rec.ISR)+len(s.rec.ELR) == 1
	c := ctlWrite{what: fmt.Sprintf("taking in %d (loss %d)", id, loss), rec: &next, take: id, reg: s.reg[id]}
	c.lossy = unclean(s.rec, next) || last || gone && next.Leader == id
	if last {
		w.seen.lastStays++
	}
	if gone {
		w.seen.takenInLost++
	}
	w.writeAsController(b, c)
	return true
}

func (w *world) takenIn(r Record, id record.BrokerID, loss Loss, v View) (Record, bool) {
	next, changed := TakenIn(r, id, loss, w.fsync, v)
	switch {
	case w.without == newEpoch && next.Leader == r.Leader:
		next.Epoch = r.Epoch
	case w.without == elrDisk && slices.Contains(r.ELR, id) && !next.InISR(id) && !slices.Contains(next.ELR, id):
		next.ELR = append(slices.Clone(next.ELR), id)
	case w.without == isrDisk && r.InISR(id) && !next.InISR(id):
		next.ISR = append(slices.Clone(next.ISR), id)
		next.ELR = without(next.ELR, next.ISR)
	}
	return next, changed
}

func (w *world) writeAsController(b *broker, c ctlWrite) {
	m := w.msg(ctlRequest)
	m.from, m.to, m.run, m.epoch, m.write, m.min = b.id, b.id, b.run, b.ctlEpoch, c, w.image(b).minInsync
	w.say("    controller %d: %s", b.id, c.what)
	if !w.plain {
		w.send(m)
		return
	}
	w.controllerWrites(m)
	for i, m := range w.net {
		if m.kind == ctlAnswer {
			w.deliver(w.take(i))
			break
		}
	}
}
