package replica

import (
	"testing"

	"github.com/firnlog/firn/record"
)

// aLog has ends[i] records in all up to the end of epochs[i], from offset 0.
func aLog(epochEnds ...[2]int) *simLog {
	l := newSimLog()
	for _, e := range epochEnds {
		for int(l.End()) < e[1] {
			l.append(entry{record.Epoch(e[0]), uint32(l.End())})
		}
	}
	return &l
}

func aFollower(epoch record.Epoch, hw record.Offset) *Follower {
	return NewFollower(Record{Leader: 1, Epoch: epoch, Replicas: ids(1, 2)}, hw)
}

func TestFetchesFromDurableEnd(t *testing.T) {
	l := aLog([2]int{1, 10}, [2]int{3, 15})
	f := aFollower(4, 0)
	if _, ok := f.Next(l, 14); ok {
		t.Error("asks though not all is durable")
	}
	ask, ok := f.Next(l, 15)
	if !ok || ask != (Ask{Epoch: 4, Offset: 15, LastEpoch: 3}) {
		t.Errorf("%v %+v", ok, ask)
	}
	empty := newSimLog()
	if ask, _ := f.Next(&empty, 0); ask != (Ask{Epoch: 4, Offset: 0, LastEpoch: -1}) {
		t.Errorf("%+v", ask)
	}
}

func TestBegin(t *testing.T) {
	empty := newSimLog()
	if d := aFollower(4, 0).Begin(&empty, 40); d != (Decision{Action: StartAnew, Offset: 40, HighWatermark: 40}) {
		t.Errorf("%+v", d)
	}
	if d := aFollower(4, 0).Begin(&empty, 0); d != (Decision{Action: Truncate}) {
		t.Errorf("%+v", d)
	}
	f := aFollower(4, 0)
	if d := f.Begin(&empty, TieredUnknown); d.Action != AwaitTiered {
		t.Errorf("%+v", d)
	}
	if ask, ok := f.Next(&empty, 0); ok {
		t.Errorf("before it knows where to begin it asks %+v", ask)
	}
	f.Begin(&empty, 0)
	if _, ok := f.Next(&empty, 0); !ok {
		t.Error("it knows where to begin, and asks nothing")
	}
	l := aLog([2]int{1, 10})
	if d := aFollower(4, 7).Begin(l, 40); d != (Decision{Action: Truncate, Offset: 10, HighWatermark: 7}) {
		t.Errorf("%+v", d) // it may have what the leader has still
	}
}

func TestAnswered(t *testing.T) {
	log := aLog([2]int{1, 10}, [2]int{3, 15})
	ask := Ask{Epoch: 4, Offset: 15, LastEpoch: 3}
	for _, c := range []struct {
		name string
		a    Answer
		want Decision
	}{
		{"records", Answer{Ask: ask, Result: Read, HighWatermark: 30, RecordsEnd: 20, LogStart: 5}, Decision{Append, 0, 5, 20}},
		{"nothing new", Answer{Ask: ask, Result: Read, HighWatermark: 8, RecordsEnd: 15, LogStart: -1}, Decision{Append, 0, -1, 8}},
		{"the leader's high watermark is behind", Answer{Ask: ask, Result: Read, HighWatermark: 2, RecordsEnd: 15}, Decision{Append, 0, 0, 6}},
		{"same epoch, shorter", Answer{Ask: ask, Result: Diverging, DivergingEpoch: 3, DivergingEnd: 12}, Decision{Truncate, 12, 0, 6}},
		{"older epoch, ended later there", Answer{Ask: ask, Result: Diverging, DivergingEpoch: 2, DivergingEnd: 14}, Decision{Truncate, 10, 0, 6}},
		{"older epoch, ended earlier there", Answer{Ask: ask, Result: Diverging, DivergingEpoch: 1, DivergingEnd: 4}, Decision{Truncate, 4, 0, 4}},
		{"nothing in common", Answer{Ask: ask, Result: Diverging, DivergingEpoch: 1, DivergingEnd: 0}, Decision{Truncate, 0, 0, 0}},
		{"cannot be compared", Answer{Ask: ask, Result: Diverging, DivergingEpoch: -1, DivergingEnd: 3, LogStart: 3, Tiered: 9}, Decision{StartAnew, 9, 3, 9}},
		{"cannot be compared, and nobody knows where it begins", Answer{Ask: ask, Result: Diverging, DivergingEpoch: -1, DivergingEnd: -1, LogStart: -1}, Decision{BackOff, 0, 0, 6}},
		{"differs, but nothing to cut", Answer{Ask: ask, Result: Diverging, DivergingEpoch: 3, DivergingEnd: 15}, Decision{BackOff, 0, 0, 6}},
		{"behind the leader's log", Answer{Ask: ask, Result: OutOfRange, LogStart: 20}, Decision{StartAnew, 20, 20, 20}},
		{"behind the leader's disk", Answer{Ask: ask, Result: OutOfRange, LogStart: 3, Tiered: 25}, Decision{StartAnew, 25, 3, 25}},
		{"out of range without a reason", Answer{Ask: ask, Result: OutOfRange, LogStart: 3, Tiered: 5}, Decision{BackOff, 0, 0, 6}},
		{"behind the leader's disk, and nobody knows where to begin", Answer{Ask: ask, Result: OutOfRange, LogStart: 3, Tiered: TieredUnknown}, Decision{AwaitTiered, 0, 0, 6}},
		{"cannot be compared, likewise", Answer{Ask: ask, Result: Diverging, DivergingEpoch: -1, DivergingEnd: 3, LogStart: 3, Tiered: TieredUnknown}, Decision{AwaitTiered, 0, 0, 6}},
		{"to cut, whatever is tiered", Answer{Ask: ask, Result: Diverging, DivergingEpoch: 3, DivergingEnd: 12, Tiered: TieredUnknown}, Decision{Truncate, 12, 0, 6}},
		{"fenced", Answer{Ask: ask, Result: Fenced}, Decision{AwaitRecord, 0, 0, 6}},
		{"not yet", Answer{Ask: ask, Result: NotYet}, Decision{BackOff, 0, 0, 6}},
		{"failed", Answer{Ask: ask, Result: Failed}, Decision{BackOff, 0, 0, 6}},
		{"of another epoch", Answer{Ask: Ask{3, 15, 3}, Result: Diverging, DivergingEpoch: 1}, Decision{Ignore, 0, 0, 6}},
		{"of another offset", Answer{Ask: Ask{4, 10, 1}, Result: Read, RecordsEnd: 15, HighWatermark: 15}, Decision{Ignore, 0, 0, 6}},
		{"of another log", Answer{Ask: Ask{4, 15, 2}, Result: Diverging, DivergingEpoch: 1}, Decision{Ignore, 0, 0, 6}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := aFollower(4, 6)
			if got := f.Answered(log, c.a); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if f.HighWatermark() != c.want.HighWatermark {
				t.Errorf("high watermark %d", f.HighWatermark())
			}
		})
	}
}

func TestAllDiffersAboveTheStart(t *testing.T) {
	log := aLog([2]int{1, 10}, [2]int{3, 15})
	log.delete(8)
	got := aFollower(4, 12).Answered(log, Answer{Ask: Ask{4, 15, 3}, Result: Diverging, DivergingEpoch: 1, DivergingEnd: 5})
	if got != (Decision{StartAnew, 5, 5, 5}) {
		t.Errorf("%+v", got)
	}
}

// TestDiffersBelowTheStart is a log that is empty behind deleted records, and a
// leader of an unclean election that had others there.
func TestDiffersBelowTheStart(t *testing.T) {
	log := aLog([2]int{1, 10}, [2]int{3, 15})
	log.delete(15)
	got := aFollower(4, 15).Answered(log, Answer{Ask: Ask{4, 15, 3}, Result: Diverging, DivergingEpoch: 2, DivergingEnd: 20, LogStart: 2, Tiered: 6})
	if got != (Decision{StartAnew, 6, 2, 6}) {
		t.Errorf("%+v", got)
	}
}

func TestDiverges(t *testing.T) {
	log := aLog([2]int{1, 10}, [2]int{3, 15}, [2]int{6, 20})
	trimmed := aLog([2]int{1, 10}, [2]int{3, 15}, [2]int{6, 20})
	trimmed.delete(12) // knows epochs 3 and 6
	edge := aLog([2]int{1, 10}, [2]int{3, 15}, [2]int{6, 20})
	edge.delete(15) // knows epoch 6
	begun := newSimLog()
	begun.assignEpoch(4, 0)
	for _, c := range []struct {
		name     string
		log      *simLog
		last     record.Epoch
		offset   record.Offset
		epoch    record.Epoch
		end      record.Offset
		diverges bool
	}{
		{"all", log, 6, 20, 6, 20, false},
		{"behind", log, 3, 12, 3, 15, false},
		{"at an epoch's end", log, 1, 10, 1, 10, false},
		{"an epoch longer than the leader's", log, 3, 17, 3, 15, true},
		{"an epoch that the leader has not", log, 2, 12, 1, 10, true},
		{"beyond the end", log, 6, 21, 6, 20, true},
		{"empty", log, -1, 0, -1, 0, false},
		{"not known, beyond the end", log, -1, 21, -1, 0, true},
		{"an epoch of which a part is deleted", trimmed, 3, 14, 3, 15, false},
		{"an epoch that is deleted", trimmed, 1, 14, -1, 12, true},
		{"all below the start", trimmed, 1, 12, -1, 12, false},
		{"from where the log begins", edge, 3, 15, -1, 15, false},
		{"before the first record of a leader's first epoch", &begun, 2, 7, -1, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			epoch, end, diverges := Diverges(c.log, c.last, c.offset)
			if diverges != c.diverges || diverges && (epoch != c.epoch || end != c.end) {
				t.Errorf("%d ends at %d, diverges %v; want %d, %d, %v", epoch, end, diverges, c.epoch, c.end, c.diverges)
			}
		})
	}
}
