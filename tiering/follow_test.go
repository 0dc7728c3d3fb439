package tiering

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// What a leader tiers is read at a broker that follows, as far as it has gone:
// also what came since the pointer was read last, from the tail or a manifest.
func TestFollowerReadsWhatItsLeaderTiers(t *testing.T) {
	w := newWorld(t)
	cfg := small
	cfg.InlineEntries = 4
	leader, other := w.manager(t, cfg), w.manager(t, cfg)
	l := newLog(w, "a", 0)
	attach(t, leader, l, keepAll)
	follower := &memLog{id: l.id, tp: l.tp}
	if err := other.Follow(follower); err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.ReadCold(t.Context(), l.id, l.tp, 0, 100); !errors.Is(err, kerr.OffsetOutOfRange) {
		t.Errorf("before anything is tiered: %v", err)
	}
	r := rng(1)
	for range 10 {
		l.seal(t, r, 5, 500, 0)
		leader.uploadAll()
		leader.choresNow()
		w.advance(2 * refreshEvery)
		spans, _, err := other.ReadCold(t.Context(), l.id, l.tp, l.end-1, 100)
		if err != nil {
			t.Fatalf("the newest of %d offsets: %v", l.end, err)
		}
		record.ReleaseSpans(spans)
	}
	if v := other.part(l.id, 0).view.Load(); v.ptr.Manifest.IsZero() {
		t.Error("there is no manifest")
	}
	replay(t, other, l, 0)
	if follower.tieredEnd != l.end {
		t.Errorf("the follower was told %d, tiered is up to %d", follower.tieredEnd, l.end)
	}
	if n := len(other.attached()); n != 0 {
		t.Errorf("%d partitions may be uploaded", n)
	}
	if err := other.Follow(follower); err != nil || other.part(l.id, 0).hot != Hot(follower) {
		t.Error("to follow again changes something")
	}
	other.Detach(l.id, 0)
	if _, _, err := other.ReadCold(t.Context(), l.id, l.tp, 0, 100); !errors.Is(err, kerr.KafkaStorageError) {
		t.Errorf("after Detach: %v", err)
	}
}

// Where the tiered part ends is told as of now, with what the last object says of
// leader epochs and producers; if that is gone, with what the pointer or the
// manifest says.
func TestColdEnd(t *testing.T) {
	for _, follows := range []bool{true, false} {
		w := newWorld(t)
		cfg := small
		cfg.InlineEntries = 2
		leader, other := w.manager(t, cfg), w.manager(t, cfg)
		l := newLog(w, "a", 0)
		attach(t, leader, l, keepAll)
		if follows {
			if err := other.Follow(&memLog{id: l.id, tp: l.tp}); err != nil {
				t.Fatal(err)
			}
		}
		if end, err := other.ColdEnd(t.Context(), l.id, l.tp); err != nil || end.End != 0 {
			t.Errorf("before anything is tiered: %+v, %v", end, err)
		}
		r := rng(2)
		folded := 0
		for range 5 {
			l.seal(t, r, 5, 500, 0)
			leader.uploadAll()
			end, err := other.ColdEnd(t.Context(), l.id, l.tp)
			if err != nil || end.Missing != nil {
				t.Fatal(err, end.Missing)
			}
			if end.Start != 0 || end.End != l.end || string(end.Producers) != "producers" || len(end.Epochs) != 1 || end.Epochs[0] != (record.EpochStart{}) {
				t.Errorf("%+v of a log up to %d", end, l.end)
			}
			read, err := leader.Pointers(t.Context(), l.id, 1)(0)
			if err != nil {
				t.Fatal(err)
			}
			quick, err := other.EndOf(l.id, l.tp, read)
			ptr, _ := DecodePointer(read.Value)
			if len(ptr.Tail) == 0 {
				folded++
			}
			if err != nil || quick.End != l.end || (len(quick.Epochs) > 0) != (len(ptr.Tail) > 0) {
				t.Errorf("by the pointer: %+v, %v", quick, err)
			}
		}
		if folded == 0 {
			t.Error("no manifest was written")
		}
		if end, err := other.EndOf(l.id, l.tp, metastore.TierPointer{}); err != nil || end.End != 0 {
			t.Errorf("by no pointer: %+v, %v", end, err)
		}
		if _, err := other.EndOf(l.id, record.TopicPartition{Topic: "a", Partition: 1}, mustPointer(t, leader, l)); err == nil {
			t.Error("another partition's pointer is taken")
		}
		w.mu.Lock()
		w.fault = func(op, _ string, _ bool) error {
			if op == "get" {
				return errors.New("the store is gone")
			}
			return nil
		}
		w.mu.Unlock()
		end, err := w.manager(t, cfg).ColdEnd(t.Context(), l.id, l.tp)
		if err != nil || end.Missing == nil || end.End != l.end || end.Producers != nil {
			t.Errorf("without the store: %+v, %v", end, err)
		}
	}
}

func mustPointer(t *testing.T, m *Manager, l *memLog) metastore.TierPointer {
	t.Helper()
	tp, err := m.Pointers(t.Context(), l.id, 1)(l.tp.Partition)
	if err != nil {
		t.Fatal(err)
	}
	return tp
}
