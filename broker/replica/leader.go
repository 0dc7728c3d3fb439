package replica

import (
	"cmp"
	"slices"
	"time"

	"github.com/firnlog/firn/record"
)

// refusedPause is how long a Leader waits after a refused ISR change before it
// wants another, and before it wants that replica in again: what refused it
// (a registration that the controller has not taken in, a lease that is lost)
// takes about that long to change.
const refusedPause = 250 * time.Millisecond

// Leader is one leader epoch of one partition, at its leader. Make one with
// NewLeader when the metadata says that this broker leads under a new epoch, and
// drop it when it says anything else. The zero value is of no use.
//
// Invariants: hw ≤ durable ≤ end, except that hw may be above durable until
// what an unclean election left is synced; hw never goes down; hw goes up only
// to what all of the ISR, and all whose entry is under way, have durably.
type Leader struct {
	self  record.BrokerID
	rec   Record // the newest known
	start record.Offset
	end   record.Offset // of the log
	own   record.Offset // own durable end
	hw    record.Offset

	minInsync int           // as configured
	maxLag    time.Duration // replica.lag.time.max.ms
	peers     []peer        // the other replicas, as rec.Replicas has them

	sent    bool // a change based on rec is being written
	unsure  bool // one based on rec has an unknown outcome: it may be written at any time
	pauseTo int64
}

// peer is what a Leader knows of another replica.
type peer struct {
	id         record.BrokerID
	unfenced   int64         // its broker epoch, 0 for none
	end        record.Offset // durable, by its last fetch in this leader and broker epoch; -1 before the first
	start      record.Offset // of its log, by that fetch
	fetchedAt  int64         // time of its last fetch
	leaderEnd  record.Offset // end of the leader's log at its last fetch
	caughtUpAt int64         // when it had last all that the leader had
	pauseTo    int64         // it was refused, and is not wanted in before
	inISR      bool          // by the record
	entering   bool          // by a change that is, or may be, under way
}

// LeaderConfig is what a Leader begins with.
type LeaderConfig struct {
	Self   record.BrokerID
	Record Record // Record.Leader is Self
	// EpochStart is where the leader epoch begins: the end of the log. The log
	// has to have it assigned before a fetch is answered.
	EpochStart record.Offset
	// Durable is up to where the log survives, by the topic's ack policy.
	Durable record.Offset
	// HighWatermark is what the replica knew of it until now.
	HighWatermark record.Offset
	MinInsync     int           // min.insync.replicas as configured
	MaxLag        time.Duration // replica.lag.time.max.ms
}

// NewLeader begins a leader epoch. The high watermark stands until all of the
// ISR have fetched in this epoch.
func NewLeader(c LeaderConfig, now int64) *Leader {
	l := &Leader{
		self: c.Self, start: c.EpochStart, end: c.EpochStart, own: min(c.Durable, c.EpochStart),
		hw: min(c.HighWatermark, c.EpochStart), minInsync: c.MinInsync, maxLag: c.MaxLag,
	}
	l.adopt(c.Record, now)
	l.advance()
	return l
}

// Outcome is what an event changed.
type Outcome struct {
	// Moved says that the high watermark went up.
	Moved bool
	// Wants says that Wanted should be asked.
	Wants bool
}

// HighWatermark is the offset below which every record is on every in-sync
// replica, durably.
func (l *Leader) HighWatermark() record.Offset { return l.hw }

// EpochStart is where the leader epoch began.
func (l *Leader) EpochStart() record.Offset { return l.start }

// Record is the newest record known. Do not change it.
func (l *Leader) Record() Record { return l.rec }

// Appended says that the log ends at end.
func (l *Leader) Appended(end record.Offset) { l.end = max(l.end, end) }

// Durable says that what the leader has survives up to end.
func (l *Leader) Durable(end record.Offset) Outcome {
	l.own = max(l.own, end)
	l.end = max(l.end, end)
	return Outcome{Moved: l.advance()}
}

// Fetch is what a replica's fetch says.
type Fetch struct {
	Replica     record.BrokerID
	BrokerEpoch int64         // of its registration (KIP-903), > 0
	Epoch       record.Epoch  // current leader epoch, by the request
	Offset      record.Offset // where it goes on: its durable end
	LogStart    record.Offset // where its log begins, what is in the object store counted
}

// Fetched takes in a fetch by another replica whose history does not differ:
// the caller has asked Diverges first. counted is false, and nothing changed,
// for who is no replica, another leader epoch, a broker epoch that is not the
// replica's unfenced one, and an offset beyond the log's end. The caller
// answers the request all the same, or with the error that is due.
//
// A broker epoch says which bytes a fetch speaks of. An earlier one may be of a
// disk that is lost. A later one is of a broker that came back: perhaps it is
// no longer in the ISR, and the image that says so has not come yet.
//
// The replica is caught up if it has what the leader had at its last fetch, or
// has now (KIP-16; Kafka's Replica.updateFetchStateOrThrow).
func (l *Leader) Fetched(f Fetch, now int64) (out Outcome, counted bool) {
	p := l.peer(f.Replica)
	if p == nil || f.Epoch != l.rec.Epoch || f.BrokerEpoch != p.unfenced || f.Offset > l.end {
		return Outcome{}, false
	}
	switch {
	case f.Offset >= l.end:
		p.caughtUpAt = max(p.caughtUpAt, now)
	case p.end >= 0 && f.Offset >= p.leaderEnd:
		p.caughtUpAt = max(p.caughtUpAt, p.fetchedAt)
	}
	p.end, p.start, p.fetchedAt, p.leaderEnd = f.Offset, f.LogStart, now, l.end
	if p.inISR || p.entering {
		return Outcome{Moved: f.Offset > l.hw && l.advance()}, true
	}
	return Outcome{Wants: l.mayWant(now) && l.ready(p, now)}, true
}

// Learned takes in the record of a newer image, be it the same record with
// other Unfenced. An older record is ignored, and so is one of another leader
// epoch: that ends this Leader, which is the caller's to do.
func (l *Leader) Learned(r Record, now int64) Outcome {
	switch {
	case r.Revision < l.rec.Revision || r.Epoch != l.rec.Epoch || r.Leader != l.self:
		return Outcome{}
	case r.Revision > l.rec.Revision:
		l.adopt(r, now)
	default:
		l.unfence(r)
	}
	return Outcome{Moved: l.advance(), Wants: l.mayWant(now)}
}

// SetMinInsync changes min.insync.replicas.
func (l *Leader) SetMinInsync(n int, now int64) Outcome {
	l.minInsync = n
	return Outcome{Moved: l.advance(), Wants: l.mayWant(now)}
}

// SetMaxLag changes replica.lag.time.max.ms.
func (l *Leader) SetMaxLag(d time.Duration) { l.maxLag = d }

// Change is an ISR change that a leader wants: of the record only ISR, ELR and
// PartitionEpoch differ from the one it is based on.
type Change struct {
	// Record is what is to be written. It may be written only if the record in
	// etcd has Record.Revision.
	Record Record
	// Entering is who enters the ISR, or None; only if both its registration and
	// its unfenced key have the broker epoch EnteringEpoch (KIP-903).
	Entering      record.BrokerID
	EnteringEpoch int64
}

// Wanted gives the change that is to be written now, if there is one: the
// caller writes it and tells ISRAnswered. Ask it when an Outcome says so, and
// every half of replica.lag.time.max.ms. Until the answer there is no other.
//
// Who was not caught up for replica.lag.time.max.ms leaves; one replica may
// enter: one outside of the ISR that has all below the high watermark and all
// that there was when this leader epoch began, if mayEnter says so (registered
// and unfenced under that broker epoch, not leaving: KIP-841). Entering replicas
// come one after another so that one that is refused holds up nobody. An ISR of
// min.insync.replicas takes who is in the ELR out of it.
func (l *Leader) Wanted(now int64, mayEnter func(id record.BrokerID, brokerEpoch int64) bool) (Change, bool) {
	if !l.mayWant(now) {
		return Change{}, false
	}
	c := Change{Entering: None}
	for i := range l.peers {
		if p := &l.peers[i]; l.ready(p, now) && mayEnter(p.id, p.unfenced) {
			c.Entering, c.EnteringEpoch = p.id, p.unfenced
			p.entering = true
			break
		}
	}
	isr := make([]record.BrokerID, 0, len(l.rec.Replicas))
	for _, id := range l.rec.Replicas {
		if id == l.self || id == c.Entering {
			isr = append(isr, id)
		} else if p := l.peer(id); p.inISR && !l.lags(p, now) {
			isr = append(isr, id)
		}
	}
	c.Record = l.rec.withISR(isr, l.minInsync)
	// After an unknown outcome the record is written anew even as it is: no
	// earlier attempt can succeed then.
	if !l.unsure && sameMembers(c.Record.ISR, l.rec.ISR) && sameMembers(c.Record.ELR, l.rec.ELR) {
		return Change{}, false
	}
	c.Record.PartitionEpoch++
	l.sent = true
	return c, true
}

// ISRAnswer is what became of writing a Change.
type ISRAnswer uint8

const (
	// Written: it is the record now.
	Written ISRAnswer = iota
	// Refused: it was not written and will not be, whatever it was that did not
	// compare.
	Refused
	// Unknown: it may have been written, or may still be.
	Unknown
)

// ISRAnswered takes in what became of c. For Written, revision is the record's
// new one. An answer that is no longer waited for, since Learned told more,
// changes nothing.
//
// Until the record's revision has moved, a replica whose entry was tried counts
// for the high watermark (KIP-497's maximal ISR), unless every attempt is known
// to have failed.
func (l *Leader) ISRAnswered(c Change, a ISRAnswer, revision, now int64) Outcome {
	if !l.sent || c.Record.Revision != l.rec.Revision {
		return Outcome{}
	}
	l.sent = false
	switch a {
	case Written:
		r := c.Record
		r.Revision = revision
		l.adopt(r, now)
		return Outcome{Moved: l.advance(), Wants: true}
	case Refused:
		if p := l.peer(c.Entering); p != nil {
			p.entering = p.entering && l.unsure
			p.pauseTo = now + int64(refusedPause)
		} else {
			l.pauseTo = now + int64(refusedPause)
		}
	case Unknown:
		l.unsure = true
		l.pauseTo = now + int64(refusedPause)
	}
	return Outcome{Moved: l.advance(), Wants: l.mayWant(now)}
}

// MayAppend says whether a batch with acks=all may be appended: the ISR has
// min.insync.replicas. Otherwise it is NOT_ENOUGH_REPLICAS.
func (l *Leader) MayAppend() bool { return l.enough() }

// Ack is what can be answered to acks=all for what was appended.
type Ack uint8

const (
	// AckWaits: not yet.
	AckWaits Ack = iota
	// AckDone: all in-sync replicas have it, and they were enough.
	AckDone
	// AckTooFew: the ISR has become too small since the append:
	// NOT_ENOUGH_REPLICAS_AFTER_APPEND.
	AckTooFew
)

// Ack says what to answer for a batch that ends at end.
func (l *Leader) Ack(end record.Offset) Ack {
	switch {
	case l.hw >= end:
		return AckDone
	case !l.enough():
		return AckTooFew
	}
	return AckWaits
}

// ReadReplica chooses who else than the leader may be read from at offset o
// (KIP-392): of the in-sync replicas that near picks and that have o, by their
// last fetches, the one that has most; of several, who was caught up last; of
// several, the one with the greatest id (Kafka's ReplicaView.comparator). None
// if there is none. Who is not in sync might be ever further behind, and is
// not chosen (Kafka's ReplicaManager.findPreferredReadReplica).
func (l *Leader) ReadReplica(o record.Offset, near func(record.BrokerID) bool) record.BrokerID {
	var best *peer
	for i := range l.peers {
		p := &l.peers[i]
		if !p.inISR || p.end < o || p.start > o || !near(p.id) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(p.end, best.end), cmp.Compare(p.caughtUpAt, best.caughtUpAt), cmp.Compare(p.id, best.id)) > 0 {
			best = p
		}
	}
	if best == nil {
		return None
	}
	return best.id
}

// Peer is what a Leader knows of another replica, for metrics.
type Peer struct {
	End        record.Offset // durable, -1 if it did not fetch in this epoch
	CaughtUpAt int64         // when it had last all that the leader had
	InISR      bool
}

// Peer gives what is known of replica id; false if it is none, or the leader.
func (l *Leader) Peer(id record.BrokerID) (Peer, bool) {
	p := l.peer(id)
	if p == nil {
		return Peer{}, false
	}
	return Peer{p.end, p.caughtUpAt, p.inISR}, true
}

// Diverges says whether a replica's history, which at offset has a last record
// of epoch last (-1: not known, or none), differs from the leader's log, and if
// so what to answer (KIP-595's diverging epoch): the greatest epoch of the
// leader's that is not above last, and where that ended. The log has the
// leader's own epoch assigned.
//
// If the log knows of no record of such an epoch, since it began behind it, the
// histories cannot be compared: the answer is epoch -1 and the log's start. The
// end that KIP-101 has for this case, where the first known epoch began, would
// leave the replica with records below that differ from those in the object
// store.
func Diverges(log Log, last record.Epoch, offset record.Offset) (epoch record.Epoch, end record.Offset, diverges bool) {
	if last < 0 {
		return -1, log.Start(), offset > log.End()
	}
	epoch, end = log.EpochEnd(last)
	if epoch >= 0 && (end == 0 || log.EpochAt(end-1) != epoch) {
		// With nothing below the log's start to be read there is nothing to compare.
		return -1, log.Start(), offset > log.Start()
	}
	return epoch, end, epoch < last || end < offset
}

// adopt makes r the record.
func (l *Leader) adopt(r Record, now int64) {
	old := l.peers
	l.peers = make([]peer, 0, len(r.Replicas))
	for _, id := range r.Replicas {
		if id == l.self {
			continue
		}
		p := peer{id: id, end: -1, fetchedAt: now, caughtUpAt: now}
		if i := slices.IndexFunc(old, func(o peer) bool { return o.id == id }); i >= 0 {
			p = old[i]
		}
		if in := r.InISR(id); in != p.inISR {
			// Who enters has replica.lag.time.max.ms to catch up.
			p.inISR, p.caughtUpAt = in, max(p.caughtUpAt, now)
		}
		p.entering = false
		l.peers = append(l.peers, p)
	}
	l.rec = r
	l.sent, l.unsure = false, false
	l.unfence(r)
}

// unfence takes in the broker epochs of the replicas. The end of one that came
// back is what it says then.
func (l *Leader) unfence(r Record) {
	for i, id := range r.Replicas {
		if i >= len(r.Unfenced) {
			return
		}
		if p := l.peer(id); p != nil && p.unfenced != r.Unfenced[i] {
			p.unfenced, p.end = r.Unfenced[i], -1
		}
	}
	l.rec.Unfenced = r.Unfenced
}

// advance moves the high watermark as far as it may go, and says whether it
// did. While there is an ELR it stands: its members have all that is below.
func (l *Leader) advance() bool {
	if !l.enough() || len(l.rec.ELR) > 0 {
		return false
	}
	hw := l.own
	for i := range l.peers {
		if p := &l.peers[i]; p.inISR || p.entering {
			hw = min(hw, p.end)
		}
	}
	if hw <= l.hw {
		return false
	}
	l.hw = hw
	return true
}

// enough says whether the ISR has min.insync.replicas (KIP-966).
func (l *Leader) enough() bool { return len(l.rec.ISR) >= l.rec.MinInsync(l.minInsync) }

// mayWant says whether a change may be proposed now.
func (l *Leader) mayWant(now int64) bool { return !l.sent && now >= l.pauseTo }

// ready says whether p may enter the ISR, as far as the leader knows.
func (l *Leader) ready(p *peer, now int64) bool {
	return !p.inISR && p.end >= l.hw && p.end >= l.start && now >= p.pauseTo && now-p.fetchedAt <= int64(l.maxLag)
}

// lags says whether p has to leave the ISR (KIP-16; Kafka's
// ReplicaState.isCaughtUp).
func (l *Leader) lags(p *peer, now int64) bool {
	return p.end != l.end && now-p.caughtUpAt > int64(l.maxLag)
}

func (l *Leader) peer(id record.BrokerID) *peer {
	for i := range l.peers {
		if l.peers[i].id == id {
			return &l.peers[i]
		}
	}
	return nil
}
