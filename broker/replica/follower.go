package replica

import "github.com/firnlog/firn/record"

// Log is what has to be known of a replica's log. A *commitlog.Log is one.
type Log interface {
	Start() record.Offset
	End() record.Offset
	// EpochAt is the leader epoch of the record at an offset, -1 when unknown.
	EpochAt(record.Offset) record.Epoch
	// EpochEnd is the greatest epoch not above the one given, and where it
	// ended: where the next began, or the log's end. If all are above, any epoch
	// and where the first began; -1, -1 if the one given is above all.
	EpochEnd(record.Epoch) (record.Epoch, record.Offset)
}

// Follower is one leader epoch of one partition at a replica that follows. Make
// one with NewFollower for each new leader epoch, and do first what Begin says.
// From then on the log changes only as a Decision says.
type Follower struct {
	epoch  record.Epoch
	hw     record.Offset
	awaits bool // Begin gave AwaitTiered, and is to be called again
}

// NewFollower begins to follow under r's leader epoch. hw is the high watermark
// that the replica knew until now.
func NewFollower(r Record, hw record.Offset) *Follower { return &Follower{epoch: r.Epoch, hw: hw} }

// HighWatermark is what the replica knows of it, never above the log's end once
// what was decided is done.
func (f *Follower) HighWatermark() record.Offset { return f.hw }

// Awaits says that Begin is to be called again, with where the tiered part ends.
func (f *Follower) Awaits() bool { return f.awaits }

// Ask is what the next fetch asks for.
type Ask struct {
	Epoch     record.Epoch  // current leader epoch
	Offset    record.Offset // where the log ends, all of it durable
	LastEpoch record.Epoch  // of the last record, -1 when there is none (KIP-595)
}

// Next gives the next fetch; false while not all of the log is durable, since
// the offset of a fetch is an acknowledgement, and while Begin is to be called
// again.
func (f *Follower) Next(log Log, durable record.Offset) (Ask, bool) {
	end := log.End()
	if durable < end || f.awaits {
		return Ask{}, false
	}
	return Ask{Epoch: f.epoch, Offset: end, LastEpoch: lastEpoch(log)}, true
}

// Result says what an Answer is.
type Result uint8

const (
	// Read: records from the offset asked for, perhaps none.
	Read Result = iota
	// Diverging: the leader's history is another one (KIP-595).
	Diverging
	// OutOfRange: what the leader has on its disk begins behind the offset
	// (OFFSET_OUT_OF_RANGE, OFFSET_MOVED_TO_TIERED_STORAGE).
	OutOfRange
	// Fenced: there is a newer leader epoch (FENCED_LEADER_EPOCH).
	Fenced
	// NotYet: the broker does not know that it leads under this epoch, or no
	// longer does (UNKNOWN_LEADER_EPOCH, NOT_LEADER_OR_FOLLOWER).
	NotYet
	// Failed: anything else.
	Failed
)

// Answer is a leader's answer to one partition of a fetch.
type Answer struct {
	Ask    Ask // what it answers
	Result Result
	// HighWatermark is the leader's, for Read.
	HighWatermark record.Offset
	// RecordsEnd is where the records that came end, for Read; Ask.Offset when
	// none came.
	RecordsEnd record.Offset
	// DivergingEpoch and DivergingEnd are what Diverges gave at the leader.
	DivergingEpoch record.Epoch
	DivergingEnd   record.Offset
	// LogStart is where the leader's log begins, what is in the object store
	// counted; -1 when the answer does not say.
	LogStart record.Offset
	// Tiered is where what is in the object store ends, 0 for nothing,
	// TieredUnknown while that is not known; for OutOfRange and Diverging. It may be
	// of a while ago: what the store had then it has still, or it is deleted.
	Tiered record.Offset
}

// TieredUnknown says that it has to be learnt first where the tiered part ends.
const TieredUnknown record.Offset = -1

// Action is what to do with an answer.
type Action uint8

const (
	// Ignore: it answers something that was not asked, or not any more. Ask
	// again.
	Ignore Action = iota
	// Append the records, if any came, set the high watermark, delete what is
	// below Decision.LogStart, and ask again.
	Append
	// Truncate the log to Decision.Offset, durably, and ask again.
	Truncate
	// StartAnew: drop all that is on the disk and begin an empty log at
	// Decision.Offset, with epochs and producers from the object that ends there,
	// if one does. From Decision.LogStart up to there it is in the object store.
	StartAnew
	// BackOff: ask again later.
	BackOff
	// AwaitRecord: a newer record is on its way, ask nothing under this one.
	AwaitRecord
	// AwaitTiered: learn where the tiered part ends; then call Begin again if it
	// was Begin that said so, else ask the leader again.
	AwaitTiered
)

// Decision is what follows from an answer. HighWatermark holds once Action is
// done.
type Decision struct {
	Action        Action
	Offset        record.Offset // for Truncate and StartAnew
	LogStart      record.Offset // for Append and StartAnew: what is below is deleted, in the object store, too
	HighWatermark record.Offset
}

// Begin says what to do before the first fetch. tiered is where what is in the
// object store ends, as in Answer. A replica that has nothing, and knows nothing
// of what there was, starts anew there: what is there it need not copy. Any other truncates its log to the end that it has: a leader epoch that
// it began itself, and had no record in, is forgotten so; the new leader may
// have older ones to give (Kafka's UnifiedLog.truncateTo does the same).
func (f *Follower) Begin(log Log, tiered record.Offset) Decision {
	end, known := log.End(), lastEpoch(log) >= 0
	f.awaits = false
	if log.Start() == end || !known {
		switch {
		case tiered < 0:
			f.awaits = true
			return Decision{Action: AwaitTiered, HighWatermark: f.hw}
		case end < tiered, end == tiered && end > 0 && !known:
			return f.startAnew(tiered, log.Start())
		}
	}
	f.hw = min(f.hw, end)
	return Decision{Action: Truncate, Offset: end, HighWatermark: f.hw}
}

// Answered says what to do with an answer.
//
// Where the histories differ the log is cut to where the leader's epoch ended,
// or where it ended in the own log, whichever is less (KIP-101, KIP-279,
// KIP-595; Kafka's AbstractFetcherThread.getOffsetTruncationState). The high
// watermark is never a reason to cut: the new leader's may be lower than what
// is acknowledged. A log is dropped only for a leader whose own begins behind
// its end or cannot be compared with it, never because of an error that is not
// understood.
func (f *Follower) Answered(log Log, a Answer) Decision {
	end := log.End()
	if a.Ask.Epoch != f.epoch || a.Ask.Offset != end || a.Ask.LastEpoch != lastEpoch(log) {
		return Decision{Action: Ignore, HighWatermark: f.hw}
	}
	switch a.Result {
	case Read:
		f.hw = max(f.hw, min(a.HighWatermark, max(end, a.RecordsEnd)))
		return Decision{Action: Append, LogStart: min(a.LogStart, f.hw), HighWatermark: f.hw}
	case Diverging:
		return f.diverging(log, a)
	case OutOfRange:
		if a.Tiered < 0 || max(a.LogStart, a.Tiered) > end {
			return f.beginAt(a)
		}
	case Fenced:
		return Decision{Action: AwaitRecord, HighWatermark: f.hw}
	}
	return Decision{Action: BackOff, HighWatermark: f.hw}
}

func (f *Follower) diverging(log Log, a Answer) Decision {
	end := log.End()
	if a.DivergingEpoch < 0 {
		if a.LogStart < 0 || a.DivergingEnd < 0 { // nonsense
			return Decision{Action: BackOff, HighWatermark: f.hw}
		}
		return f.beginAt(a)
	}
	to := min(a.DivergingEnd, end)
	if _, own := log.EpochEnd(a.DivergingEpoch); own >= 0 {
		to = min(to, own)
	}
	switch {
	case to == end && a.DivergingEpoch < a.Ask.LastEpoch && a.LogStart >= 0:
		// Only the epoch before the log's start is known, and it differs: there is
		// nothing to cut, and nothing in common.
		return f.beginAt(a)
	case a.DivergingEnd < 0 || to == end: // nonsense, and nothing to gain
		return Decision{Action: BackOff, HighWatermark: f.hw}
	case to < log.Start(): // all that there is differs
		return f.startAnew(to, to)
	}
	f.hw = min(f.hw, to)
	return Decision{Action: Truncate, Offset: to, HighWatermark: f.hw}
}

// beginAt starts anew where the tiered part ends, or where the leader's log
// begins.
func (f *Follower) beginAt(a Answer) Decision {
	if a.Tiered < 0 {
		return Decision{Action: AwaitTiered, HighWatermark: f.hw}
	}
	return f.startAnew(max(a.LogStart, a.Tiered), a.LogStart)
}

// startAnew begins an empty log at offset o, which is not above the leader's
// high watermark: nothing above it is deleted or in the object store.
func (f *Follower) startAnew(o, logStart record.Offset) Decision {
	f.hw = o
	if logStart < 0 {
		logStart = o
	}
	return Decision{Action: StartAnew, Offset: o, LogStart: logStart, HighWatermark: f.hw}
}

// lastEpoch is the epoch of the last record, be it one that is no longer in the
// log; not of an epoch that began and had none.
func lastEpoch(log Log) record.Epoch {
	if log.End() == 0 {
		return -1
	}
	return log.EpochAt(log.End() - 1)
}
