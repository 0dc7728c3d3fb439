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
	return Record{Leader: 1, Epoch: 5, PartitionEpoch: 9, Revision: 1000, Replicas: ids(1, 2, 3), ISR: ids(1, 2, 3), Unfenced: []int64{9, 7, 7}}
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
		"newer broker epoch": {Replica: 3, BrokerEpoch: 8, Epoch: 5, Offset: 100},
		"beyond the end":     {Replica: 3, BrokerEpoch: 7, Epoch: 5, Offset: 101},
	} {
		if out, counted := l.Fetched(f, 0); counted || out != (Outcome{}) {
			t.Errorf("%s: counted %v, %+v", name, counted, out)
		}
	}
	wantHW(t, l, 90)
}

func wanted(t *testing.T, l *Leader, now time.Duration) Change {
	t.Helper()
	c, ok := l.Wanted(int64(now), anyone)
	if !ok {
		t.Fatal("no change is wanted")
	}
	return c
}

func noneWanted(t *testing.T, l *Leader, now time.Duration) {
	t.Helper()
	if c, ok := l.Wanted(int64(now), anyone); ok {
		t.Fatalf("wanted: %+v", c)
	}
}

func wantSets(t *testing.T, r Record, isr, elr []record.BrokerID) {
	t.Helper()
	if !sameMembers(r.ISR, isr) || !sameMembers(r.ELR, elr) {
		t.Errorf("ISR %v, ELR %v; want %v and %v", r.ISR, r.ELR, isr, elr)
	}
}

// TestCaughtUp is KIP-16's: who has at each fetch what the leader had at the one
// before is in sync, however much is appended in between.
func TestCaughtUp(t *testing.T) {
	l := aLeader(aRecord())
	fetched(t, l, 2, 100, 0)
	fetched(t, l, 3, 100, 0)
	end := record.Offset(100)
	for now := time.Duration(0); now < 5*time.Second; now += 100 * time.Millisecond {
		fetched(t, l, 2, end, now) // all that there was 100 ms before
		end += 10
		l.Appended(end)
		if now == 900*time.Millisecond {
			noneWanted(t, l, now) // 3 has stood still for less than a second
		}
		if now < 1100*time.Millisecond {
			continue
		}
		if c := wanted(t, l, now); !sameMembers(c.Record.ISR, ids(1, 2)) || c.Record.Revision != 1000 || c.Record.PartitionEpoch != 10 || c.Entering != None {
			t.Errorf("wanted: %+v", c)
		}
		return
	}
}

func TestWhoHasAllIsInSyncWithoutFetching(t *testing.T) {
	l := aLeader(aRecord())
	fetched(t, l, 2, 100, 0)
	fetched(t, l, 3, 100, 0)
	noneWanted(t, l, time.Hour) // nothing is appended
}

func TestShrinkBelowMinimum(t *testing.T) {
	l := aLeader(aRecord())
	l.Appended(120)
	l.Durable(120)
	c := wanted(t, l, 2*time.Second)
	wantSets(t, c.Record, ids(1), ids(2, 3))
	noneWanted(t, l, 2*time.Second) // one at a time
	if out := l.ISRAnswered(c, Written, 1001, int64(2*time.Second)); out.Moved {
		t.Error("the high watermark moved with one replica of two")
	}
	wantHW(t, l, 90)
	if l.MayAppend() {
		t.Error("acks=all may be appended with one replica of two")
	}
	for end, want := range map[record.Offset]Ack{90: AckDone, 91: AckTooFew} {
		if got := l.Ack(end); got != want {
			t.Errorf("ack of %d: %d, want %d", end, got, want)
		}
	}
	// 2 comes back.
	if out := fetched(t, l, 2, 99, 3*time.Second); out.Wants {
		t.Error("wanted below the epoch's beginning")
	}
	if out := fetched(t, l, 2, 105, 3*time.Second); !out.Wants {
		t.Error("not wanted")
	}
	c = wanted(t, l, 3*time.Second)
	if c.Entering != 2 || c.EnteringEpoch != 7 || c.Record.Revision != 1001 {
		t.Errorf("wanted: %+v", c)
	}
	wantSets(t, c.Record, ids(1, 2), nil)
	fetched(t, l, 2, 110, 3*time.Second)
	wantHW(t, l, 90) // until it is written
	l.ISRAnswered(c, Written, 1002, int64(3*time.Second))
	wantHW(t, l, 110)
	if l.Ack(110) != AckDone || l.Ack(111) != AckWaits || !l.MayAppend() {
		t.Error("acks are not as they should be")
	}
}

func TestEnteringCounts(t *testing.T) {
	r := aRecord()
	r.ISR = ids(1, 2)
	l := aLeader(r)
	l.Appended(120)
	l.Durable(120)
	fetched(t, l, 2, 110, 0)
	fetched(t, l, 3, 110, 0)
	wantHW(t, l, 110)
	c := wanted(t, l, 0)
	if c.Entering != 3 {
		t.Fatalf("wanted: %+v", c)
	}
	fetched(t, l, 2, 120, 0)
	wantHW(t, l, 110) // waits for 3
	l.ISRAnswered(c, Refused, 0, 0)
	wantHW(t, l, 120)
	noneWanted(t, l, 0) // 3 is not asked for again at once
	fetched(t, l, 3, 120, time.Second)
	if c = wanted(t, l, time.Second); c.Entering != 3 {
		t.Errorf("wanted: %+v", c)
	}
}

// TestUnknownOutcome: a write that may still happen is counted with until a
// newer record makes it impossible.
func TestUnknownOutcome(t *testing.T) {
	r := aRecord()
	r.ISR = ids(1, 2)
	l := aLeader(r)
	l.Appended(120)
	l.Durable(120)
	fetched(t, l, 2, 110, 0)
	fetched(t, l, 3, 110, 0)
	first := wanted(t, l, 0)
	l.ISRAnswered(first, Unknown, 0, 0)
	fetched(t, l, 2, 120, 0)
	wantHW(t, l, 110)
	noneWanted(t, l, 0)
	fetched(t, l, 3, 110, time.Second)
	second := wanted(t, l, time.Second)
	l.ISRAnswered(second, Refused, 0, int64(time.Second))
	wantHW(t, l, 110) // the first may still be written
	third := wanted(t, l, time.Second)
	wantSets(t, third.Record, ids(1, 2), nil) // the record as it is, to make that impossible
	l.ISRAnswered(third, Written, 1001, int64(time.Second))
	wantHW(t, l, 120)
	if out := l.ISRAnswered(first, Written, 1001, int64(time.Second)); out != (Outcome{}) {
		t.Error("an answer that nobody waits for changed something")
	}
}

func TestRefusedSinceTheRecordIsNewer(t *testing.T) {
	l := aLeader(aRecord())
	l.Appended(120)
	l.Durable(120)
	fetched(t, l, 2, 120, 2*time.Second)
	c := wanted(t, l, 2*time.Second)
	l.ISRAnswered(c, Refused, 0, int64(2*time.Second))
	noneWanted(t, l, 2*time.Second)
	r := aRecord()
	r.Revision, r.ISR = 1007, ids(1, 2)
	if out := l.Learned(r, int64(3*time.Second)); !out.Moved {
		t.Error("nothing moved")
	}
	wantHW(t, l, 120)
	r.Revision, r.ISR = 1003, ids(1, 2, 3) // late
	l.Learned(r, 0)
	if l.Record().Revision != 1007 {
		t.Error("an older record was taken over")
	}
}

func TestLearnedBeforeTheAnswer(t *testing.T) {
	l := aLeader(aRecord())
	l.Appended(120)
	c := wanted(t, l, 2*time.Second)
	r := c.Record
	r.Revision = 1001
	l.Learned(r, int64(2*time.Second))
	r.Revision, r.ISR, r.ELR = 1002, ids(1, 3), ids(2)
	l.Learned(r, int64(2*time.Second))
	l.ISRAnswered(c, Written, 1001, int64(2*time.Second))
	if l.Record().Revision != 1002 {
		t.Errorf("record of revision %d", l.Record().Revision)
	}
}

// TestMinimumLowered: who is in the ELR has all that is acknowledged, so nothing
// is before the ELR is empty.
func TestMinimumLowered(t *testing.T) {
	r := aRecord()
	r.ISR, r.ELR = ids(1), ids(2)
	l := aLeader(r)
	l.Appended(120)
	l.Durable(120)
	out := l.SetMinInsync(1, 0)
	if out.Moved || !out.Wants {
		t.Errorf("%+v", out)
	}
	if !l.MayAppend() || l.Ack(120) != AckWaits {
		t.Error("acks are not as they should be")
	}
	c := wanted(t, l, 0)
	wantSets(t, c.Record, ids(1), nil)
	if out := l.ISRAnswered(c, Written, 1001, 0); !out.Moved {
		t.Error("nothing moved")
	}
	wantHW(t, l, 120)
}

func TestMinimumOfFewerReplicas(t *testing.T) {
	for _, c := range []struct {
		r          Record
		configured int
		want       int
	}{
		{Record{Replicas: ids(1, 2, 3)}, 2, 2},
		{Record{Replicas: ids(1)}, 2, 1},
		{Record{Replicas: ids(1, 2)}, 0, 1},
		{Record{Replicas: ids(2, 1), Adding: ids(2), Removing: ids(1)}, 2, 1},
		{Record{Replicas: ids(1, 2, 3), Adding: ids(2, 3)}, 2, 1},
		{Record{Replicas: ids(1, 2, 3, 4), Removing: ids(4)}, 3, 3},
	} {
		if got := c.r.MinInsync(c.configured); got != c.want {
			t.Errorf("%+v, configured %d: %d, want %d", c.r, c.configured, got, c.want)
		}
	}
}

// TestCameBack: a replica's fetches count again when the image that unfences it
// has come; its end of before counts no longer.
func TestCameBack(t *testing.T) {
	l := aLeader(aRecord())
	l.Appended(120)
	l.Durable(120)
	fetched(t, l, 2, 110, 0)
	fetched(t, l, 3, 105, 0)
	wantHW(t, l, 105)
	back := aRecord()
	back.Unfenced = []int64{9, 7, 12}
	l.Learned(back, 0)
	if p, _ := l.Peer(3); p.End != -1 || !p.InISR {
		t.Errorf("%+v", p)
	}
	if _, counted := l.Fetched(Fetch{Replica: 3, BrokerEpoch: 7, Epoch: 5, Offset: 120}, 0); counted {
		t.Error("a fetch from before counts")
	}
	wantHW(t, l, 105)
	if out, counted := l.Fetched(Fetch{Replica: 3, BrokerEpoch: 12, Epoch: 5, Offset: 120}, 0); !counted || !out.Moved {
		t.Errorf("%+v, counted %v", out, counted)
	}
	wantHW(t, l, 110)
}

func TestWhoMayNotEnter(t *testing.T) {
	r := aRecord()
	r.ISR = ids(1, 2)
	l := aLeader(r)
	fetched(t, l, 2, 100, 0)
	fetched(t, l, 3, 100, 0)
	var asked []record.BrokerID
	if c, ok := l.Wanted(0, func(id record.BrokerID, epoch int64) bool {
		asked = append(asked, id)
		return epoch != 7
	}); ok {
		t.Errorf("wanted: %+v", c)
	}
	if !sameMembers(asked, ids(3)) {
		t.Errorf("asked about %v", asked)
	}
	noneWanted(t, l, 2*time.Second) // it has not fetched for too long
}

func TestNewLeaderKnowsNothingOfOthers(t *testing.T) {
	l := aLeader(aRecord())
	if p, ok := l.Peer(2); !ok || p != (Peer{End: -1, InISR: true}) {
		t.Errorf("%+v", p)
	}
	if _, ok := l.Peer(1); ok {
		t.Error("the leader is its own follower")
	}
	alone := Record{Leader: 1, Epoch: 5, Revision: 3, Replicas: ids(1), ISR: ids(1)}
	wantHW(t, aLeader(alone), 100)
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

// Of those in sync that are near and have the offset, the one that has most; of
// equals who was caught up last; then the greatest id (KIP-392).
func TestReadReplica(t *testing.T) {
	r := aRecord()
	r.Replicas, r.ISR, r.Unfenced = ids(1, 2, 3, 4), ids(1, 2, 3), []int64{9, 7, 7, 7}
	l := aLeader(r)
	l.Appended(120)
	all := func(record.BrokerID) bool { return true }
	but := func(id record.BrokerID) func(record.BrokerID) bool {
		return func(o record.BrokerID) bool { return o != id }
	}
	want := func(what string, o record.Offset, near func(record.BrokerID) bool, id record.BrokerID) {
		t.Helper()
		if got := l.ReadReplica(o, near); got != id {
			t.Errorf("%s: broker %d, want %d", what, got, id)
		}
	}
	at := func(id record.BrokerID, o, start record.Offset, now int64) {
		t.Helper()
		if _, counted := l.Fetched(Fetch{Replica: id, BrokerEpoch: 7, Epoch: 5, Offset: o, LogStart: start}, now); !counted {
			t.Fatal("the fetch does not count")
		}
	}
	want("nobody has fetched", 0, all, None)
	at(4, 120, 0, 1)
	want("only one outside of the ISR", 0, all, None)
	at(2, 110, 5, 1)
	want("the only one", 50, all, 2)
	want("from its end on", 110, all, 2)
	want("above its end", 111, all, None)
	want("from its start on", 5, all, 2)
	want("below its start", 4, all, None)
	want("not near", 50, but(2), None)
	at(3, 115, 0, 1)
	want("who has most", 50, all, 3)
	want("the other", 50, but(3), 2)
	at(2, 120, 0, 2)
	at(3, 120, 0, 2)
	want("the greatest id", 50, all, 3)
	at(2, 120, 0, 3)
	want("caught up last", 50, all, 2)
	r.Revision, r.ISR = 2000, ids(1, 3)
	l.Learned(r, 4)
	want("one that has left the ISR", 50, all, 3)
	r.Unfenced = []int64{9, 7, 8, 7}
	l.Learned(r, 4)
	want("one that came back", 50, all, None)
}
