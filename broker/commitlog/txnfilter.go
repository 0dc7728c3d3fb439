package commitlog

import (
	"encoding/binary"
	"slices"

	"github.com/firnlog/firn/record"
)

// txnFilter follows transactions through the batches of one pass of a
// compaction, in order of offsets. Records of aborted transactions go at once;
// a marker may go when none of its transaction's records are left, and then
// only after the delay that tombstones have, so that a reader that is in the
// middle of the transaction still meets it (KIP-534).
type txnFilter struct {
	aborted []record.AbortedTxn  // not reached yet, by first offset
	open    map[int64]*abortedAt // aborted ones that were reached, by producer
	commits map[int64]struct{}   // producers with records of a transaction that is not aborted
	index   []record.AbortedTxn  // aborted ones that left a marker and may have readers
}

type abortedAt struct {
	txn  record.AbortedTxn
	seen bool // records of it were met
}

func newTxnFilter(aborted []record.AbortedTxn) *txnFilter {
	slices.SortFunc(aborted, func(a, b record.AbortedTxn) int { return int(min(max(a.FirstOffset-b.FirstOffset, -1), 1)) })
	return &txnFilter{aborted: aborted, open: map[int64]*abortedAt{}, commits: map[int64]struct{}{}}
}

func (t *txnFilter) reach(o record.Offset) {
	for len(t.aborted) > 0 && t.aborted[0].FirstOffset <= o {
		t.open[t.aborted[0].ProducerID] = &abortedAt{txn: t.aborted[0]}
		t.aborted = t.aborted[1:]
	}
}

// isAborted takes in a batch that is no marker.
func (t *txnFilter) isAborted(b record.Batch) bool {
	t.reach(b.LastOffset())
	if !b.IsTransactional() {
		return false
	}
	if a := t.open[b.ProducerID()]; a != nil {
		a.seen = true
		return true
	}
	t.commits[b.ProducerID()] = struct{}{}
	return false
}

// marker takes in a control batch and says whether its transaction has no
// records left. Control records that end no transaction always stay.
func (t *txnFilter) marker(b record.Batch) (over bool) {
	t.reach(b.LastOffset())
	switch id := b.ProducerID(); controlKind(b) {
	case controlAbort:
		a := t.open[id]
		delete(t.open, id)
		if a != nil && a.seen {
			t.index = append(t.index, a.txn)
			return false
		}
		return true
	case controlCommit:
		_, some := t.commits[id]
		delete(t.commits, id)
		return !some
	case controlEmpty:
		return true
	}
	return false
}

const (
	controlAbort  = 0
	controlCommit = 1
	controlEmpty  = -1 // the record was compacted away
	controlOther  = -2
)

func controlKind(b record.Batch) int16 {
	if b.NumRecords() == 0 {
		return controlEmpty
	}
	kind := int16(controlOther)
	_ = b.EachRecord(maxControlBytes, func(r *record.Record) bool { // one that cannot be read stays
		if len(r.Key) >= 4 {
			kind = int16(binary.BigEndian.Uint16(r.Key[2:]))
		}
		return false
	})
	return kind
}
