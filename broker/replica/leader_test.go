package replica

import (
	"testing"
	"time"

	"github.com/firnlog/firn/record"
)

func ids(of ...record.BrokerID) []record.BrokerID { return of }

// aLeader is broker 1 that leads 1, 2 and 3 under epoch 5, from offset 100 on,
// min.insync.replicas 2, at time 0.
func aLeader(r Record) *Leader {
	return NewLeader(LeaderConfig{Self: 1, Record: r, EpochStart: 100, Durable: 100, HighWatermark: 90, MinInsync: 2, MaxLag: time.Second}, 0)
}

func aRecord() Record {
	return Record{Leader: 1, Epoch: 5, PartitionEpoch: 9, Revision: 1000, Replicas: ids(1, 2, 3), ISR: ids(1, 2, 3)}
}

func anyone(record.BrokerID, int64) bool { return true }

func fetched(t *testing.T, l *Leader, id record.BrokerID, o record.Offset, now time.Duration) Outcome {
	t.Helper()
	out, counted := l.Fetched(Fetch{Replica: id, BrokerEpoch: 7, Epoch: 5, Offset: o}, int64(now))
	if !counted {
		t.Fatalf("the fetch of %d at %d does not count", id, o)
	}
	return out
}

func wantHW(t *testing.T, l *Leader, hw record.Offset) {
	t.Helper()
	if got := l.HighWatermark(); got != hw {
		t.Errorf("high watermark %d, want %d", got, hw)
	}
}

func TestHighWatermarkIsLeastDurableEnd(t *testing.T) {
	l := aLeader(aRecord())
	l.Appended(120)
	fetched(t, l, 2, 110, 0)
	wantHW(t, l, 90) // 3 has not fetched
	if out := fetched(t, l, 3, 105, 0); !out.Moved {
		t.Error("nothing moved")
	}
	wantHW(t, l, 100) // the leader's own durable end
	l.Durable(120)
	wantHW(t, l, 105)
	fetched(t, l, 3, 120, 0)
	wantHW(t, l, 110)
	fetched(t, l, 2, 100, 0) // an end may go back, the high watermark not
	wantHW(t, l, 110)
}

func TestFetchesThatDoNotCount(t *testing.T) {
	l := aLeader(aRecord())
	fetched(t, l, 2, 100, 0)
	for name, f := range map[string]Fetch{
		"older leader epoch": {Replica: 3, BrokerEpoch: 7, Epoch: 4, Offset: 100},
		"newer leader epoch": {Replica: 3, BrokerEpoch: 7, Epoch: 6, Offset: 100},
		"no replica":         {Replica: 4, BrokerEpoch: 7, Epoch: 5, Offset: 100},
		"the leader":         {Replica: 1, BrokerEpoch: 7, Epoch: 5, Offset: 100},
		"older broker epoch": {Replica: 2, BrokerEpoch: 6, Epoch: 5, Offset: 100},
		"beyond the end":     {Replica: 3, BrokerEpoch: 7, Epoch: 5, Offset: 101},
	} {
		if out, counted := l.Fetched(f, 0); counted || out != (Outcome{}) {
			t.Errorf("%s: counted %v, %+v", name, counted, out)
		}
	}
	wantHW(t, l, 90)
}

func BenchmarkFetched(b *testing.B) {
	l := aLeader(aRecord())
	b.ReportAllocs()
	end := record.Offset(100)
	for i := 0; b.Loop(); i++ {
		end++
		l.Appended(end)
		l.Durable(end)
		l.Fetched(Fetch{Replica: 2, BrokerEpoch: 7, Epoch: 5, Offset: end}, int64(i))
		l.Fetched(Fetch{Replica: 3, BrokerEpoch: 7, Epoch: 5, Offset: end}, int64(i))
	}
	if l.HighWatermark() != end {
		b.Fatal("the high watermark stood still")
	}
}

// TestHotEventsAllocateNothing covers what happens for each fetch and append.
func TestHotEventsAllocateNothing(t *testing.T) {
	l := aLeader(aRecord())
	end, now := record.Offset(100), int64(0)
	if n := testing.AllocsPerRun(1000, func() {
		end++
		now++
		l.Appended(end)
		l.Durable(end)
		l.Fetched(Fetch{Replica: 2, BrokerEpoch: 7, Epoch: 5, Offset: end}, now)
		l.Fetched(Fetch{Replica: 3, BrokerEpoch: 7, Epoch: 5, Offset: end}, now)
		l.Ack(end)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	wantHW(t, l, end)
}
