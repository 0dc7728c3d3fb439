package replica

import (
	"slices"
	"sort"

	"github.com/firnlog/firn/record"
)

// entry is a record of the simulation: no two that a producer sent are equal.
type entry struct {
	epoch record.Epoch
	value uint32
}

// simLog is a model of a replica's log, with commitlog's way of keeping epochs.
// It remembers what is below its start, so that sums can be compared, but reads
// nothing from there.
type simLog struct {
	start  record.Offset // what is below is deleted
	local  record.Offset // what is below is in the object store only
	recs   []entry
	sums   []uint64 // sums[o] is of all records below offset o
	epochs []record.EpochStart
	synced record.Offset // what a power loss leaves
}

func newSimLog() simLog { return simLog{sums: []uint64{0}} }

func (l *simLog) Start() record.Offset { return l.start }
func (l *simLog) End() record.Offset   { return record.Offset(len(l.recs)) }

func (l *simLog) EpochAt(o record.Offset) record.Epoch {
	i := sort.Search(len(l.epochs), func(i int) bool { return l.epochs[i].Start > o })
	if i == 0 {
		return -1
	}
	return l.epochs[i-1].Epoch
}

func (l *simLog) EpochEnd(e record.Epoch) (record.Epoch, record.Offset) {
	n := len(l.epochs)
	if e == -1 || n == 0 || e > l.epochs[n-1].Epoch {
		return -1, -1
	}
	if e == l.epochs[n-1].Epoch {
		return e, l.End()
	}
	i := sort.Search(n, func(i int) bool { return l.epochs[i].Epoch > e })
	if i == 0 {
		return e, max(l.epochs[0].Start, l.start)
	}
	return l.epochs[i-1].Epoch, l.epochs[i].Start
}

func (l *simLog) assignEpoch(e record.Epoch, start record.Offset) {
	n := len(l.epochs)
	if n > 0 && e <= l.epochs[n-1].Epoch {
		return
	}
	for n > 0 && l.epochs[n-1].Start >= start {
		n--
	}
	l.epochs = append(l.epochs[:n], record.EpochStart{Epoch: e, Start: start})
}

// append adds a record; false if the log has a newer epoch.
func (l *simLog) append(e entry) bool {
	if n := len(l.epochs); n > 0 && e.epoch < l.epochs[n-1].Epoch {
		return false
	}
	l.assignEpoch(e.epoch, l.End())
	l.add(e)
	return true
}

func (l *simLog) add(e entry) {
	l.recs = append(l.recs, e)
	h := (l.sums[len(l.sums)-1] ^ uint64(e.epoch)<<32 ^ uint64(e.value)) * 0x9e3779b97f4a7c15
	l.sums = append(l.sums, h^h>>29)
}

// cut leaves what is below offset to.
func (l *simLog) cut(to record.Offset) {
	l.recs, l.sums = l.recs[:to], l.sums[:to+1]
	n := len(l.epochs)
	for n > 0 && l.epochs[n-1].Start >= to {
		n--
	}
	l.epochs = l.epochs[:n]
	l.synced = min(l.synced, to)
	l.start, l.local = min(l.start, to), min(l.local, to)
}

// beginAt is an empty log at offset o. Every other one knows what an object's
// footer says of the epochs of its last few records, the others nothing.
func (l *simLog) beginAt(o, start record.Offset, of *simLog) {
	*l = simLog{
		start: start, local: o, synced: o,
		recs: slices.Clone(of.recs[:o]), sums: slices.Clone(of.sums[:o+1]),
	}
	for i := max(0, o-3); i < o && o%2 == 0; i++ {
		l.assignEpoch(of.recs[i].epoch, i)
	}
}

// delete moves the start of the log and forgets epochs that ended before it.
func (l *simLog) delete(to record.Offset) {
	if to <= l.start {
		return
	}
	l.start, l.local = to, max(l.local, to)
	for len(l.epochs) > 1 && l.epochs[1].Start <= to {
		l.epochs = l.epochs[1:]
	}
}

// forget has what is below the start, which nobody can read, be as of has it.
func (l *simLog) forget(of *simLog) {
	if l.start > of.End() || l.sums[l.start] == of.sums[l.start] {
		return
	}
	recs := slices.Concat(of.recs[:l.start], l.recs[l.start:])
	l.recs, l.sums = nil, []uint64{0}
	for _, e := range recs {
		l.add(e)
	}
}

// common is how many records l and o begin with that are the same.
func (l *simLog) common(o *simLog) record.Offset {
	n := min(len(l.recs), len(o.recs))
	return record.Offset(sort.Search(n, func(i int) bool { return l.sums[i+1] != o.sums[i+1] }))
}
