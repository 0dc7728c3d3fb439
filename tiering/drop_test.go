package tiering

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/record"
)

// startingLog is a log whose start moves, and whose oldest segments go, just
// before its segments are listed.
type startingLog struct {
	*memLog
	moveTo record.Offset
}

func (l *startingLog) Sealed(from record.Offset) []record.Segment {
	if l.moveTo > 0 {
		l.memLog.AdvanceLogStart(l.moveTo)
	}
	return l.memLog.Sealed(from)
}

func TestLogStartThatMovesDuringTheLookIsNoGap(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := &startingLog{memLog: newLog(w, "a", 0)}
	if err := attachHot(m, l, keepAll); err != nil {
		t.Fatal(err)
	}
	l.seal(t, rng(1), 3, 500, 0)
	l.moveTo = l.end
	l.seal(t, rng(2), 3, 500, 0)
	m.uploadAll()
	if s := m.Status("")[0]; s.State != "ok" {
		t.Fatalf("%+v", s)
	}
	l.moveTo = 0
	m.uploadAll()
	if s := m.Status("")[0]; s.State != "ok" || s.RemoteEnd != l.end || s.LagSegments != 0 {
		t.Errorf("%+v", s)
	}
}

// Whoever deletes a topic does not wait for a store that hangs, and the
// pointers of all of them go in the meantime.
func TestDeletingTopicsDoesNotWaitForTheStore(t *testing.T) {
	w := newWorld(t)
	c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: 8 << 20}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cfg := small
	cfg.Every, cfg.StoreTimeout = time.Millisecond, 10*time.Millisecond
	m, err := Open(context.Background(), cfg, Deps{Log: quiet, Store: memStore{w}, Meta: memMeta{w}, Cache: c, ClusterID: testCluster})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(context.Background())
	const topics = 40
	var logs []*memLog
	for i := range topics {
		l := newLog(w, fmt.Sprintf("t%02d", i), 0)
		l.seal(t, rng(uint64(i)), 3, 500, 0)
		attach(t, m, l, keepAll)
		logs = append(logs, l)
	}
	pointers := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.ptrs)
	}
	await(t, "all is tiered", func() bool { return pointers() == topics })
	never := make(chan struct{})
	w.hangAt(func(op, key string) <-chan struct{} {
		if op == "cas" || op == "drop" || op == "pointers" || op == "pointer" {
			return nil
		}
		return never
	})
	for _, l := range logs {
		w.mu.Lock()
		w.gone[l.id] = true
		w.mu.Unlock()
		m.Detach(l.id, 0)
		m.DropTopicSoon(l.id)
	}
	await(t, "the pointers are gone", func() bool { return pointers() == 0 })
}

func await(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// A packed object's commits do not wait for the copies of pointers, and a
// store that does not take them is not asked once per partition.
func TestCopiesComeAfterTheCommits(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	const parts = 10
	for i := range parts {
		l := newLog(w, "a", record.PartitionID(i))
		attach(t, m, l, keepAll)
		l.seal(t, rng(uint64(i)), 1, 100, 0)
	}
	swaps, early := 0, 0
	w.mu.Lock()
	w.fault = func(op, key string, done bool) error {
		if op == "swap" {
			swaps++
			if len(w.ptrs) < parts {
				early++
			}
			return errors.New("not now")
		}
		return nil
	}
	w.mu.Unlock()
	m.uploadAll()
	if len(w.ptrs) != parts || swaps != 1 || early != 0 {
		t.Errorf("%d of %d committed; %d copies tried, %d of them before the last commit", len(w.ptrs), parts, swaps, early)
	}
	w.mu.Lock()
	w.fault = nil
	w.mu.Unlock()
}

// While the store deletes nothing, a collection gives up after a few tries,
// and goes on later.
func TestCollectionGivesUpEarly(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	var ids []ObjectID
	for range 100 {
		id := m.newID()
		w.mu.Lock()
		w.objs[ObjectKey(testCluster, id)] = memObject{data: []byte("x")}
		w.mu.Unlock()
		ids = append(ids, id)
	}
	m.garbage.doom(ids, w.clock())
	w.advance(24 * time.Hour)
	tries := 0
	w.mu.Lock()
	w.fault = func(op, key string, done bool) error {
		if op == "delete" {
			tries++
			return errors.New("not now")
		}
		return nil
	}
	w.mu.Unlock()
	if err := m.collect(t.Context()); err == nil {
		t.Error("no error")
	}
	if tries != maxFailures {
		t.Errorf("%d tries", tries)
	}
	w.mu.Lock()
	w.fault = nil
	w.mu.Unlock()
	if err := m.collect(t.Context()); err != nil || len(w.objs) != 0 {
		t.Errorf("%v; %d objects left", err, len(w.objs))
	}
}

// Turning tiering off with remote.log.delete.on.disable deletes what is tiered
// of a partition that lives on; turned on again it begins anew with what is
// local, and no pointer or object of before is left.
func TestTieringTurnedOffAndOnAgain(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := newLog(w, "a", 0)
	attach(t, m, l, keepAll)
	for range 3 {
		l.seal(t, rng(1), 3, 500, 0)
	}
	m.uploadAll()
	if s := m.Status("")[0]; s.RemoteEnd != l.end {
		t.Fatalf("not tiered: %+v", s)
	}
	off := keepAll
	off.Enabled, off.Drop = false, true
	m.SetPolicy(l.id, 0, off)
	for _, p := range m.attached() {
		if v := p.view.Load(); !m.hasChore(p, v) {
			t.Fatal("there is nothing to do")
		}
		if err := m.chore(p); err != nil {
			t.Fatal(err)
		}
	}
	w.mu.Lock()
	pointers := len(w.ptrs)
	w.mu.Unlock()
	if s := m.Status("")[0]; pointers != 0 || s.State != "disabled" {
		t.Fatalf("%d pointers are left, status %+v", pointers, s)
	}
	if start, end := m.ColdRange(l.id, l.tp); start != end {
		t.Errorf("cold is [%d, %d)", start, end)
	}
	m.SetPolicy(l.id, 0, keepAll)
	l.seal(t, rng(2), 3, 500, 0)
	m.uploadAll()
	s := m.Status("")[0]
	if s.State != "ok" || s.RemoteEnd != l.end || s.RemoteStart != l.LogStart() {
		t.Errorf("turned on again: %+v, the log is [%d, %d)", s, l.LogStart(), l.end)
	}
}
