package tiering

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/record"
)

// small makes objects, blocks and pointers small, so that little data shows
// every case.
var small = Config{
	TargetBytes: 64 << 10, ChunkBytes: 4 << 10, InlineEntries: 3, PackWait: -1, DeleteDelay: time.Minute,
	QuarantineFor: time.Hour, ColdRangeLimit: 1 << 20,
}

func TestSegmentsAreTieredAndReadBack(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	r := rng(1)
	logs := []*memLog{newLog(w, "a", 0), newLog(w, "a", 1), newLog(w, "b", 0)}
	for i, l := range logs {
		attach(t, m, l, keepAll)
		for range 5 {
			l.seal(t, r, 3+40*i, 500, int64(i)*1e6)
		}
	}
	m.uploadAll()
	for _, l := range logs {
		if start, end := m.ColdRange(l.id, l.tp); start != 0 || end != l.end {
			t.Fatalf("%v: [%d, %d) tiered, want [0, %d)", l.tp, start, end, l.end)
		}
		l.dropLocal()
		if len(l.segs) != 0 {
			t.Errorf("%v: %d segments could not go", l.tp, len(l.segs))
		}
		for _, max := range []int{1, 3000, 20000, 1 << 30} {
			replay(t, m, l, max)
		}
	}
	w.reachable(t)
	for _, s := range m.Status("") {
		if s.State != "ok" || s.LagSegments != 0 || s.Segments != 5 || s.RemoteEnd == 0 || s.Objects == 0 {
			t.Errorf("%+v", s)
		}
	}
	if got := len(m.Status("a")); got != 2 {
		t.Errorf("%d partitions of topic a", got)
	}
}

// A new Manager on the same bucket and metastore, with an empty cache, serves
// the same bytes, also while manifests have to be loaded first.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	l := newLog(w, "a", 0)
	first := w.manager(t, small)
	attach(t, first, l, keepAll)
	for range 8 {
		l.seal(t, rng(2), 5, 3000, 0)
		first.uploadAll() // one commit each: the tail overflows
	}
	first.Close(context.Background())
	l.dropLocal()
	w.mu.Lock()
	w.fault = func(op, key string, done bool) error {
		if op == "get" {
			return errors.New("the store is down")
		}
		return nil
	}
	w.mu.Unlock()
	m := w.manager(t, small)
	attach(t, m, l, keepAll) // does not need the store
	if _, end := m.ColdRange(l.id, l.tp); end != l.end {
		t.Errorf("tiered up to %d, want %d", end, l.end)
	}
	m.choresNow()
	if s := m.Status("a")[0]; s.State != "loading" || !strings.Contains(s.LastError, "store is down") {
		t.Errorf("%+v", s)
	}
	_, _, err := m.ReadCold(context.Background(), l.id, l.tp, 0, 1000)
	if !errors.Is(err, kerr.KafkaStorageError) {
		t.Errorf("a read without manifest: %v", err)
	}
	w.mu.Lock()
	w.fault = nil
	w.mu.Unlock()
	w.advance(2 * time.Minute)
	m.choresNow()
	if s := m.Status("a")[0]; s.State != "ok" || s.LastError != "" {
		t.Errorf("%+v", s)
	}
	replay(t, m, l, 5000)
	l.seal(t, rng(3), 5, 3000, 0)
	m.uploadAll()
	replay(t, m, l, 5000)
	w.reachable(t)
}

// Small runs of many partitions share an object, and wait for company.
func TestSmallRunsArePacked(t *testing.T) {
	w := newWorld(t)
	cfg := small
	cfg.PackWait = time.Minute
	m := w.manager(t, cfg)
	var logs []*memLog
	for i := range 10 {
		l := newLog(w, "quiet", record.PartitionID(i))
		attach(t, m, l, keepAll)
		l.seal(t, rng(uint64(i)), 2, 200, 0)
		logs = append(logs, l)
	}
	m.uploadAll()
	if n := len(w.objs); n != 0 {
		t.Fatalf("%d objects before the wait was over", n)
	}
	w.advance(time.Minute)
	m.uploadAll()
	objects := 0
	for k := range w.objs {
		if _, ok := parseKey(testCluster, k); ok {
			objects++
		}
	}
	if objects != 1 {
		t.Errorf("%d objects for ten small runs", objects)
	}
	for _, l := range logs {
		l.dropLocal()
		replay(t, m, l, 1000)
	}
}

func TestStoreDownWhileRunning(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := newLog(w, "a", 0)
	attach(t, m, l, keepAll)
	l.seal(t, rng(4), 5, 1000, 0)
	w.mu.Lock()
	w.fault = func(op, key string, done bool) error {
		if op == "put" {
			return errors.New("no route to the store")
		}
		return nil
	}
	w.mu.Unlock()
	m.uploadAll()
	s := m.Status("a")[0]
	if s.State != "retrying" || !strings.Contains(s.LastError, "no route") || s.LagSegments != 1 {
		t.Errorf("%+v", s)
	}
	if l.tieredEnd != 0 {
		t.Errorf("told the log that %d is tiered", l.tieredEnd)
	}
	w.mu.Lock()
	w.fault = nil
	w.mu.Unlock()
	m.uploadAll()
	if s := m.Status("a")[0]; s.RemoteEnd != 0 {
		t.Errorf("tried again at once, without a pause: %+v", s)
	}
	w.advance(time.Minute)
	m.uploadAll()
	if s := m.Status("a")[0]; s.State != "ok" || s.LagSegments != 0 || s.LastError != "" {
		t.Errorf("%+v", s)
	}
}

// Bad local bytes are never uploaded; the partition's tiering stops and says
// so; others in the same object go on.
func TestDamagedSegments(t *testing.T) {
	damage := map[string]func(l *memLog){
		"bit in a batch":   func(l *memLog) { l.segs[0].data[200] ^= 1 },
		"bit in an offset": func(l *memLog) { l.segs[0].data[7] ^= 1 },
		"bit in a length":  func(l *memLog) { l.segs[0].data[9] ^= 0x40 },
		"cut short":        func(l *memLog) { l.segs[0].data = l.segs[0].data[:len(l.segs[0].data)-1] },
		"told by the log":  func(l *memLog) { l.bad = record.ErrChecksum },
		"empty":            func(l *memLog) { l.segs[0].data = nil },
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m := w.manager(t, small)
			bad, good := newLog(w, "a", 0), newLog(w, "a", 1)
			for _, l := range []*memLog{bad, good} {
				l.seal(t, rng(5), 4, 300, 0)
				attach(t, m, l, keepAll)
			}
			f(bad)
			m.uploadAll()
			st := m.Status("a")
			if st[0].State != "failed" || st[0].LastError == "" || st[0].RemoteEnd != 0 || bad.tieredEnd != 0 {
				t.Errorf("%+v", st[0])
			}
			if st[1].State != "ok" || st[1].RemoteEnd != good.end {
				t.Errorf("%+v", st[1])
			}
			replay(t, m, good, 1000)
			w.reachable(t)
		})
	}
}

// Bytes that change between the check and the upload do not leave.
func TestBytesThatChangeDuringTheUpload(t *testing.T) {
	l := newLog(newWorld(t), "a", 0)
	l.seal(t, rng(6), 20, 1000, 0)
	f, _ := l.OpenSealed(0)
	h := &blockHash{block: 4096}
	s, err := scan(f, l.tp, l.id, 0, h)
	if err != nil {
		t.Fatal(err)
	}
	src := &source{runs: []*scanned{s}, data: h.n, sums: h.finish(), block: 4096, bufNo: -1}
	l.segs[0].data[9000] ^= 1
	buf := make([]byte, 100<<10)
	for err == nil {
		_, err = src.Read(buf)
	}
	if !errors.Is(err, record.ErrCorrupt) || src.pos != 8192 {
		t.Errorf("%v after %d bytes; the flipped byte is at 9000", err, src.pos)
	}
}

// Two Managers upload the same segments: one commits, the other's objects are
// orphans that the sweep collects.
func TestTwoUploadsOfTheSameSegment(t *testing.T) {
	w := newWorld(t)
	a, b := w.manager(t, small), w.manager(t, small)
	l := newLog(w, "a", 0)
	attach(t, a, l, keepAll)
	attach(t, b, l, keepAll)
	l.seal(t, rng(7), 5, 2000, 0)
	ja, jb := a.plan(1), b.plan(1)
	a.run(ja[0])
	b.run(jb[0])
	if _, end := b.ColdRange(l.id, l.tp); end != l.end {
		t.Errorf("the loser did not learn of the winner's commit: %d", end)
	}
	used := w.reachable(t)
	orphans := len(w.objs) - len(used) - 1 // one copy of the pointer
	if orphans != 1 {
		t.Errorf("%d orphans", orphans)
	}
	replay(t, a, l, 3000)
	replay(t, b, l, 3000)
	sweepOut(t, w, a)
	if got := len(w.objs) - len(w.reachable(t)) - 1; got != 0 {
		t.Errorf("%d orphans after the sweeps", got)
	}
	replay(t, b, l, 3000)
}

// sweepOut sweeps until every orphan's quarantine is over.
func sweepOut(t testing.TB, w *world, m *Manager) {
	t.Helper()
	for range 4 {
		w.advance(2 * time.Hour)
		if err := m.sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := m.collect(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnOrphanWaitsInQuarantine(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := newLog(w, "a", 0)
	attach(t, m, l, keepAll)
	key := ObjectKey(testCluster, newObjectID(w.now))
	other := ObjectKey("cluster-2", newObjectID(w.now))
	foreign := []string{"readme.txt", "0a1b2c3d/cluster-1/not-a-uuid", other, "pointers/cluster-2/" + l.id.Hex() + "/0", "00000000" + key[8:]}
	for _, k := range append(foreign, key) {
		w.write(k, []byte("x"))
	}
	ctx := context.Background()
	for i, step := range []time.Duration{0, 59 * time.Minute, 2 * time.Minute, 30 * time.Minute} {
		w.advance(step)
		if err := m.sweep(ctx); err != nil {
			t.Fatal(err)
		}
		if _, ok := w.objs[key]; !ok {
			t.Fatalf("deleted in sweep %d", i)
		}
	}
	w.advance(31 * time.Minute)
	if err := m.sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.objs[key]; ok {
		t.Error("the orphan is still there")
	}
	w.advance(100 * time.Hour)
	for range 2 {
		if err := m.sweep(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range foreign {
		if _, ok := w.objs[k]; !ok {
			t.Errorf("%s is not ours and was deleted", k)
		}
	}
}

// A damaged pointer keeps the objects of its own partition, also those shared
// with others, and no more: the others' garbage goes.
func TestSweepBesideADamagedPointer(t *testing.T) {
	for name, damage := range map[string]func(*world, *memLog){
		"pointer": func(w *world, l *memLog) {
			k := partKey{l.id, l.tp.Partition}
			w.ptrs[k] = metastore.TierPointer{Value: []byte("damaged"), Revision: w.ptrs[k].Revision}
		},
		"manifest": func(w *world, l *memLog) {
			ptr, err := DecodePointer(w.ptrs[partKey{l.id, l.tp.Partition}].Value)
			if err != nil || ptr.Manifest.IsZero() {
				w.t.Fatal(ptr, err)
			}
			delete(w.objs, ObjectKey(testCluster, ptr.Manifest))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m := w.manager(t, small)
			good, bad := newLog(w, "good", 0), newLog(w, "bad", 0)
			attach(t, m, good, keepAll)
			attach(t, m, bad, keepAll)
			for range 2 * small.InlineEntries { // enough for manifests
				bad.seal(t, rng(8), 30, 1000, 0)
				m.uploadAll()
			}
			kept := maps.Clone(w.objs)
			good.seal(t, rng(9), 30, 1000, 0)
			m.uploadAll()
			if err := m.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			damage(w, bad)
			delete(w.ptrs, partKey{good.id, good.tp.Partition}) // what was uploaded of it is garbage now
			m = w.manager(t, small)
			for range 3 {
				w.advance(2 * time.Hour)
				if err := m.sweep(context.Background()); !errors.Is(err, ErrCorrupt) && !errors.Is(err, objectstore.ErrNotFound) {
					t.Errorf("the sweep says %v", err)
				}
			}
			left := 0
			for key := range w.objs {
				if _, ok := kept[key]; !ok {
					t.Errorf("%s is left", w.name(key))
				}
				left++
			}
			if want := len(kept) - map[string]int{"pointer": 0, "manifest": 1}[name]; left != want {
				t.Errorf("%d objects are left, want %d", left, want)
			}
		})
	}
}

// A sweep that cannot read everything deletes nothing of which it cannot say
// whose it is.
func TestSweepNeedsAllPointers(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := newLog(w, "a", 0)
	attach(t, m, l, keepAll)
	l.seal(t, rng(8), 3, 1000, 0)
	m.uploadAll()
	orphan := ObjectKey(testCluster, newObjectID(w.now))
	w.write(orphan, []byte("x"))
	k := partKey{record.TopicID{9}, 0}
	w.ptrs[k] = metastore.TierPointer{Value: []byte("damaged"), Revision: 1}
	w.epoch[k] = 0 // its topic exists
	for range 4 {
		w.advance(2 * time.Hour)
		if err := m.sweep(context.Background()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("sweep with a damaged pointer: %v", err)
		}
	}
	if _, ok := w.objs[orphan]; !ok {
		t.Error("deleted although a pointer could not be read")
	}
	// A metastore that lost everything, while the bucket has copies.
	w2 := newWorld(t)
	w2.objs, w2.now = w.objs, w.now
	m2 := w2.manager(t, small)
	for range 4 {
		w2.advance(2 * time.Hour)
		if err := m2.sweep(context.Background()); !errors.Is(err, errNoPointers) {
			t.Errorf("sweep with an empty metastore: %v", err)
		}
	}
	if _, ok := w2.objs[orphan]; !ok {
		t.Error("deleted by an empty metastore")
	}
}

// A metastore that was put back from a backup knows less than the bucket: what
// was uploaded since then is no garbage, for whoever restores a later backup,
// and the later copy of the pointer stays.
func TestSweepWithAnOlderMetastore(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := newLog(w, "a", 0)
	attach(t, m, l, keepAll)
	l.seal(t, rng(8), 3, 1000, 0)
	m.uploadAll()
	backup := maps.Clone(w.ptrs)
	for range 3 * small.InlineEntries { // folds write the copy anew
		l.seal(t, rng(8), 3, 1000, 0)
		m.uploadAll()
	}
	before := maps.Clone(w.objs)
	_ = m.Close(context.Background())
	w.ptrs = backup

	m = w.manager(t, small)
	for i, want := range []error{nil, errOlder, errOlder} { // the first one only suspects
		w.advance(2 * time.Hour)
		if err := m.sweep(context.Background()); !errors.Is(err, want) {
			t.Errorf("sweep %d says %v, want %v", i, err, want)
		}
	}
	for key := range before {
		if _, ok := w.objs[key]; !ok {
			t.Errorf("%s was deleted", w.name(key))
		}
	}
	// The operator gives up what the backup does not know.
	delete(w.objs, PointerKey(testCluster, l.id, l.tp.Partition))
	sweepOut(t, w, m)
	if got, used := len(w.objs), len(w.reachable(t)); got != used {
		t.Errorf("%d objects are left, %d are referred to", got, used)
	}
}

func TestRetention(t *testing.T) {
	ctx := context.Background()
	build := func(t *testing.T, pol Policy) (*world, *Manager, *memLog) {
		w := newWorld(t)
		m := w.manager(t, small)
		l := newLog(w, "a", 0)
		attach(t, m, l, pol)
		for i := range 10 {
			l.seal(t, rng(uint64(i)), 4, 1000, w.now.UnixMilli()+int64(i)*3_600_000)
			m.uploadAll()
		}
		l.dropLocal()
		return w, m, l
	}
	objects := func(w *world) (n int) {
		for k := range w.objs {
			if _, ok := parseKey(testCluster, k); ok {
				n++
			}
		}
		return n
	}
	t.Run("time", func(t *testing.T) {
		w, m, l := build(t, Policy{Enabled: true, RetentionBytes: -1, Retention: 2 * time.Hour})
		w.advance(6*time.Hour + 30*time.Minute)
		if err := m.collect(ctx); err != nil { // superseded manifests
			t.Fatal(err)
		}
		m.choresNow()
		start, _ := m.ColdRange(l.id, l.tp)
		if l.logStart != start || start == 0 {
			t.Fatalf("start %d, the log's %d", start, l.logStart)
		}
		if m.Status("a")[0].Segments != 5 { // those of the last 2 hours and of later
			t.Errorf("%+v", m.Status("a")[0])
		}
		if _, _, err := m.ReadCold(ctx, l.id, l.tp, start-1, 100); !errors.Is(err, kerr.OffsetOutOfRange) {
			t.Errorf("reading what is gone: %v", err)
		}
		replay(t, m, l, 1000)
		before := objects(w)
		if err := m.collect(ctx); err != nil || objects(w) != before {
			t.Errorf("deleted without delay: %v", err)
		}
		w.advance(2 * time.Minute)
		if err := m.collect(ctx); err != nil {
			t.Fatal(err)
		}
		if objects(w) >= before {
			t.Errorf("%d objects, as before", before)
		}
		sweepOut(t, w, m)
		if got, want := objects(w), len(w.reachable(t)); got != want {
			t.Errorf("%d objects, %d reachable", got, want)
		}
		replay(t, m, l, 1000)
	})
	t.Run("bytes", func(t *testing.T) {
		_, m, l := build(t, Policy{Enabled: true, RetentionBytes: 9000, Retention: -1})
		m.choresNow()
		s := m.Status("a")[0]
		if s.RemoteBytes < 9000 || s.RemoteBytes > 9000+6000 {
			t.Errorf("%d bytes are left of 9000 to keep: %+v", s.RemoteBytes, s)
		}
		replay(t, m, l, 1000)
	})
	t.Run("everything", func(t *testing.T) {
		w, m, l := build(t, Policy{Enabled: true, RetentionBytes: -1, Retention: time.Hour})
		w.advance(100 * time.Hour)
		m.choresNow()
		start, end := m.ColdRange(l.id, l.tp)
		if start != end || end != l.end || l.logStart != l.end {
			t.Errorf("[%d, %d), log start %d, end %d", start, end, l.logStart, l.end)
		}
		l.seal(t, rng(3), 4, 1000, w.now.UnixMilli())
		m.uploadAll()
		replay(t, m, l, 1000)
		if s, e := m.ColdRange(l.id, l.tp); s != start || e != l.end {
			t.Errorf("[%d, %d)", s, e)
		}
		sweepOut(t, w, m)
		if got, want := objects(w), len(w.reachable(t)); got != want {
			t.Errorf("%d objects, %d reachable", got, want)
		}
	})
	t.Run("DeleteRecords", func(t *testing.T) {
		w, m, l := build(t, keepAll)
		cut := l.end / 2
		l.AdvanceLogStart(cut)
		m.choresNow()
		if start, _ := m.ColdRange(l.id, l.tp); start != cut {
			t.Errorf("start %d, want %d", start, cut)
		}
		replay(t, m, l, 1000)
		// Beyond what is tiered: the next run begins after a hole.
		l.seal(t, rng(3), 4, 1000, 0)
		l.AdvanceLogStart(l.end)
		l.seal(t, rng(4), 4, 1000, 0)
		m.choresNow()
		m.uploadAll()
		if start, end := m.ColdRange(l.id, l.tp); start != l.logStart || end != l.end {
			t.Errorf("[%d, %d), want [%d, %d)", start, end, l.logStart, l.end)
		}
		replay(t, m, l, 1000)
		w.reachable(t)
	})
}

// An object with runs of several partitions stays until none refers to it.
func TestSharedObjectsStayWhileOneRunIsNeeded(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	a, b := newLog(w, "a", 0), newLog(w, "b", 0)
	for _, l := range []*memLog{a, b} {
		attach(t, m, l, keepAll)
		l.seal(t, rng(1), 3, 500, w.now.UnixMilli())
	}
	m.uploadAll()
	a.dropLocal()
	b.dropLocal()
	w.gone[a.id] = true
	if err := m.DropTopic(context.Background(), a.id); err != nil {
		t.Fatal(err)
	}
	sweepOut(t, w, m)
	replay(t, m, b, 1000)
	w.gone[b.id] = true
	if err := m.DropTopic(context.Background(), b.id); err != nil {
		t.Fatal(err)
	}
	sweepOut(t, w, m)
	for k := range w.objs {
		t.Errorf("%s is left of two deleted topics", k)
	}
	if len(w.ptrs) != 0 {
		t.Errorf("%d pointers are left", len(w.ptrs))
	}
}

// A DropTopic that never came is made up for by the sweep.
func TestPointersOfLostTopicsAreSwept(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	a, b := newLog(w, "a", 0), newLog(w, "b", 0)
	for _, l := range []*memLog{a, b} {
		attach(t, m, l, keepAll)
		l.seal(t, rng(1), 3, 500, w.now.UnixMilli())
	}
	m.uploadAll()
	w.mu.Lock()
	w.gone[a.id] = true
	w.mu.Unlock()
	m.Detach(a.id, 0)
	sweepOut(t, w, m)
	sweepOut(t, w, m)
	if len(w.ptrs) != 1 {
		t.Errorf("%d pointers", len(w.ptrs))
	}
	replay(t, m, b, 1000)
}

func TestDamagedPointer(t *testing.T) {
	w := newWorld(t)
	l := newLog(w, "a", 0)
	w.ptrs[partKey{l.id, 0}] = metastore.TierPointer{Value: []byte("FIRNTPTR no"), Revision: 5}
	m := w.manager(t, small)
	attach(t, m, l, keepAll)
	l.seal(t, rng(1), 3, 500, 0)
	m.uploadAll()
	if s := m.Status("")[0]; s.State != "failed" || s.LastError == "" {
		t.Errorf("%+v", s)
	}
	if len(w.objs) != 0 {
		t.Error("uploaded on top of a pointer that cannot be read")
	}
	if _, _, err := m.ReadCold(context.Background(), l.id, l.tp, 0, 100); !errors.Is(err, kerr.KafkaStorageError) {
		t.Error(err)
	}
}

// A hole that DeleteRecords does not explain stops the partition.
func TestAGapStopsTiering(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := newLog(w, "a", 0)
	attach(t, m, l, keepAll)
	for range 3 {
		l.seal(t, rng(1), 3, 500, 0)
	}
	m.part(l.id, 0).hot.(*memLog).segs = l.segs[1:]
	m.uploadAll()
	if s := m.Status("")[0]; s.State != "failed" || !strings.Contains(s.LastError, "missing") {
		t.Errorf("%+v", s)
	}
}

// After a change of leader the tiered part may end within a local segment.
func TestUploadFromTheMiddleOfASegment(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := newLog(w, "a", 0)
	attach(t, m, l, keepAll)
	l.seal(t, rng(1), 5, 500, 0)
	m.uploadAll()
	// Another replica has one segment for what was one and a half.
	more := l.seal(t, rng(2), 5, 500, 0)
	l.segs = []memSeg{{Segment: record.Segment{Base: 0, End: more.End, Bytes: l.segs[0].Bytes + more.Bytes}, data: append(bytes.Clone(l.segs[0].data), l.segs[1].data...)}}
	m.uploadAll()
	l.dropLocal()
	replay(t, m, l, 700)
	if _, end := m.ColdRange(l.id, l.tp); end != l.end {
		t.Errorf("tiered up to %d of %d", end, l.end)
	}
}

func TestOldEpochCannotCommit(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := newLog(w, "a", 0)
	attach(t, m, l, keepAll)
	l.seal(t, rng(1), 3, 500, 0)
	w.epoch[partKey{l.id, 0}] = 1
	m.uploadAll()
	if s := m.Status("")[0]; s.State != "retrying" || l.tieredEnd != 0 {
		t.Errorf("%+v", s)
	}
	pol := keepAll
	pol.Epoch = 1
	m.SetPolicy(l.id, 0, pol)
	w.advance(time.Minute)
	m.uploadAll()
	if l.tieredEnd != l.end {
		t.Error("not tiered with the new epoch")
	}
}

// The loop does by itself what the tests above do by hand.
func TestLoop(t *testing.T) {
	w := newWorld(t)
	c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: 8 << 20}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cfg := small
	cfg.Every = time.Millisecond
	m, err := Open(context.Background(), cfg, Deps{Log: quiet, Store: memStore{w}, Meta: memMeta{w}, Cache: c, ClusterID: testCluster})
	if err != nil {
		t.Fatal(err)
	}
	tiered := make(chan struct{})
	var once sync.Once
	l := &notifyLog{memLog: newLog(w, "a", 0)}
	l.onEnd = func(end record.Offset) {
		if end == l.end {
			once.Do(func() { close(tiered) })
		}
	}
	if err := attachHot(m, l, keepAll); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		l.seal(t, r, 3, 500, 0)
	}
	<-tiered
	replay(t, m, l.memLog, 1000)
	if err := m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.ReadCold(context.Background(), l.id, l.tp, 0, 10); !errors.Is(err, kerr.KafkaStorageError) {
		t.Errorf("after Close: %v", err)
	}
	if err := attachHot(m, l, keepAll); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

type notifyLog struct {
	*memLog
	onEnd func(record.Offset)
}

func (l *notifyLog) SetTieredEnd(end record.Offset) {
	l.memLog.SetTieredEnd(end)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onEnd(end)
}

// A follower's log hears what its leader has in the object store, and is not
// attached by that: nothing of it is uploaded.
func TestTell(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := newLog(w, "a", 0)
	follower := &memLog{id: l.id, tp: l.tp}
	if err := m.Tell(t.Context(), follower); err != nil || follower.tieredEnd != 0 {
		t.Errorf("told %d before anything was tiered: %v", follower.tieredEnd, err)
	}
	attach(t, m, l, keepAll)
	l.seal(t, rng(1), 5, 500, 0)
	m.uploadAll()
	other := w.manager(t, small)
	if err := other.Tell(t.Context(), follower); err != nil || follower.tieredEnd != l.end {
		t.Errorf("told %d, tiered is up to %d: %v", follower.tieredEnd, l.end, err)
	}
	if n := len(other.attached()); n != 0 {
		t.Errorf("%d logs are attached", n)
	}
}
