package tiering

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/record"
)

// tiered is a world with one partition of n segments, all tiered and none
// local, and a Manager with an empty cache.
func tiered(t testing.TB, cfg Config, n, batches, size int) (*world, *Manager, *memLog) {
	t.Helper()
	w := newWorld(t)
	l := newLog(w, "a", 0)
	up := w.manager(t, cfg)
	attach(t, up, l, keepAll)
	for i := range n {
		l.seal(t, rng(uint64(i)), batches, size, 1_000_000*int64(i%3+1))
	}
	up.uploadAll()
	up.Close(context.Background())
	l.dropLocal()
	m := w.manager(t, cfg)
	attach(t, m, l, keepAll)
	m.choresNow()
	return w, m, l
}

// brute finds records by looking at all of them.
func brute(t testing.TB, l *memLog, from record.Offset, better func(*record.Record, record.TimestampOffset) bool) record.TimestampOffset {
	t.Helper()
	res := record.NoTimestampOffset
	for _, b := range l.batches {
		err := b.EachRecord(1<<20, func(r *record.Record) bool {
			if r.Offset >= from && better(r, res) {
				res = record.TimestampOffset{Offset: r.Offset, Timestamp: r.Timestamp, Epoch: b.LeaderEpoch()}
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return res
}

func TestTimestampsAreExact(t *testing.T) {
	_, m, l := tiered(t, small, 7, 30, 900)
	ctx := context.Background()
	r := rng(1)
	for round := range 2 {
		start, _ := m.ColdRange(l.id, l.tp)
		for i := range 300 {
			ts := r.Int64N(3_200_000)
			if i < 3 {
				ts = []int64{0, 1 << 60, 3_000_999}[i]
			}
			want := brute(t, l, start, func(rec *record.Record, best record.TimestampOffset) bool {
				return best.Offset < 0 && rec.Timestamp >= ts
			})
			got, err := m.ColdTimestamp(ctx, l.id, l.tp, ts)
			if err != nil || got != want {
				t.Fatalf("time %d: %+v, want %+v; %v", ts, got, want, err)
			}
		}
		want := brute(t, l, start, func(rec *record.Record, best record.TimestampOffset) bool {
			return rec.Timestamp > best.Timestamp
		})
		if got, err := m.ColdMaxTimestamp(ctx, l.id, l.tp); err != nil || got != want {
			t.Errorf("greatest: %+v, want %+v; %v", got, want, err)
		}
		if round == 0 { // the same once the record with the greatest time is gone
			if err := l.AdvanceLogStart(want.Offset + 1); err != nil {
				t.Fatal(err)
			}
			m.choresNow()
		}
	}
	other := record.TopicPartition{Topic: "none"}
	if got, err := m.ColdTimestamp(ctx, record.TopicID{1}, other, 0); !errors.Is(err, kerr.KafkaStorageError) || got != record.NoTimestampOffset {
		t.Errorf("not attached: %+v, %v", got, err)
	}
	empty := newLog(newWorld(t), "b", 0)
	attach(t, m, empty, keepAll)
	if got, err := m.ColdTimestamp(ctx, empty.id, empty.tp, 0); err != nil || got != record.NoTimestampOffset {
		t.Errorf("nothing tiered: %+v, %v", got, err)
	}
	if got, err := m.ColdMaxTimestamp(ctx, empty.id, empty.tp); err != nil || got != record.NoTimestampOffset {
		t.Errorf("nothing tiered: %+v, %v", got, err)
	}
}

func TestReadColdLimits(t *testing.T) {
	_, m, l := tiered(t, small, 3, 40, 700)
	for _, from := range []record.Offset{0, 1, 17, l.end / 2, l.end - 1} {
		for _, max := range []int{-1, 0, 1, 700, 5000, 100_000} {
			spans, _, err := m.ReadCold(context.Background(), l.id, l.tp, from, max)
			if err != nil {
				t.Fatal(err)
			}
			got := flat(t, spans)
			record.ReleaseSpans(spans)
			first, rest, err := record.Next(got)
			if err != nil || first.BaseOffset() > from || first.LastOffset() < from {
				t.Fatalf("from %d: the first batch is [%d, %d]; %v", from, first.BaseOffset(), first.LastOffset(), err)
			}
			if len(rest) > 0 && len(got) > max {
				t.Errorf("from %d: %d bytes, %d were asked for and the first batch has %d", from, len(got), max, len(first))
			}
			if next := l.bytesFrom(from, l.end)[len(got):]; max > 0 && len(next) > 0 && len(got)+4000 < max {
				if e, _ := findEntry(m.part(l.id, 0).view.Load().entries(), from); e == 2 {
					t.Errorf("from %d: only %d bytes of %d", from, len(got), max)
				}
			}
			if !bytes.HasPrefix(l.bytesFrom(from, l.end), got) {
				t.Fatalf("from %d: wrong bytes", from)
			}
		}
	}
	for _, bad := range []record.Offset{-1, l.end, l.end + 5} {
		if _, _, err := m.ReadCold(context.Background(), l.id, l.tp, bad, 100); !errors.Is(err, kerr.OffsetOutOfRange) {
			t.Errorf("offset %d: %v", bad, err)
		}
	}
}

// Wrong bytes from the store are read once more, then refused, never served.
func TestWrongBytesFromTheStore(t *testing.T) {
	for name, c := range map[string]struct {
		times int
		ok    bool
	}{"once": {1, true}, "for good": {1 << 30, false}} {
		for _, what := range []string{"data", "index"} {
			t.Run(name+"/"+what, func(t *testing.T) {
				w, m, l := tiered(t, small, 1, 10, 900)
				dataLen := int64(len(l.bytesFrom(0, l.end)))
				left, gets := c.times, 0
				w.mangle = func(_ string, off int64, b []byte) []byte {
					if (off < dataLen) == (what == "data") {
						gets++
						if left > 0 {
							left--
							b[len(b)/2] ^= 0x10
						}
					}
					return b
				}
				spans, _, err := m.ReadCold(context.Background(), l.id, l.tp, 0, 1)
				record.ReleaseSpans(spans)
				if c.ok && err != nil {
					t.Error(err)
				}
				if !c.ok && (!errors.Is(err, kerr.KafkaStorageError) || !errors.Is(err, ErrCorrupt) || len(spans) > 0) {
					t.Errorf("%d spans, %v", len(spans), err)
				}
				if gets < 2 {
					t.Errorf("%d GETs", gets)
				}
				w.mangle = nil
				replay(t, m, l, 3000)
			})
		}
	}
}

// A cached chunk with a flipped bit is dropped and fetched again.
func TestDamagedCacheIsHealedFromTheStore(t *testing.T) {
	w, up, l := tiered(t, small, 2, 20, 900)
	up.Close(context.Background())
	dir := t.TempDir()
	for round := range 2 {
		c, err := cache.Open(cache.Config{Dir: dir, MaxBytes: 1 << 20}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		m := w.managerWith(t, small, c, false)
		attach(t, m, l, keepAll)
		m.choresNow()
		replay(t, m, l, 3000)
		m.Close(context.Background())
		c.Close()
		if round > 0 {
			break
		}
		n := 0
		err = filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
			if err != nil || info.IsDir() {
				return err
			}
			n++
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[(n*7919)%len(b)] ^= 1
			return os.WriteFile(path, b, 0o644)
		})
		if err != nil || n < 5 {
			t.Fatalf("%d chunks, %v", n, err)
		}
	}
}

func TestAMissingObjectIsAnError(t *testing.T) {
	w, m, l := tiered(t, small, 1, 10, 900)
	w.mu.Lock()
	clear(w.objs)
	w.mu.Unlock()
	if _, _, err := m.ReadCold(context.Background(), l.id, l.tp, 0, 100); !errors.Is(err, kerr.KafkaStorageError) {
		t.Error(err)
	}
}

// A reader whose time is over gets nothing and no error; the fetch goes on
// and the next try finds its bytes. However many ask, there is one GET.
func TestReadersShareAFetchThatOutlivesThem(t *testing.T) {
	cfg := small
	cfg.Readahead = -1
	w, m, l := tiered(t, cfg, 1, 3, 900)
	gate := make(chan struct{})
	var gets atomic.Int64
	started := make(chan struct{}, 100)
	w.hangAt(func(op, _ string) <-chan struct{} {
		if op != "get" {
			return nil
		}
		gets.Add(1)
		started <- struct{}{}
		return gate
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			spans, _, err := m.ReadCold(ctx, l.id, l.tp, 0, 100)
			if err != nil || len(spans) != 0 {
				t.Errorf("%d spans, %v", len(spans), err)
			}
		}()
	}
	<-started
	cancel()
	wg.Wait()
	close(gate)
	for range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			spans, _, err := m.ReadCold(context.Background(), l.id, l.tp, 0, 100)
			if err != nil || len(spans) == 0 {
				t.Errorf("%d spans, %v", len(spans), err)
			}
			record.ReleaseSpans(spans)
		}()
	}
	wg.Wait()
	if got := gets.Load(); got != 2 {
		t.Errorf("%d GETs, want one of the index and one of the block", got)
	}
}

// A late answer is asked for again, and the first that comes counts.
func TestHedge(t *testing.T) {
	cfg := small
	cfg.Readahead = -1
	w, m, l := tiered(t, cfg, 1, 3, 900)
	for range len(m.cold.lat.ring) {
		m.cold.lat.add(time.Millisecond)
	}
	var gets atomic.Int64
	never := make(chan struct{})
	w.hangAt(func(op, _ string) <-chan struct{} {
		if op == "get" && gets.Add(1) == 1 {
			return never
		}
		return nil
	})
	replay(t, m, l, 1000)
	if gets.Load() < 3 {
		t.Errorf("%d GETs", gets.Load())
	}
	// The budget: hedges are earned.
	var lat latencies
	for range 64 {
		lat.add(time.Millisecond)
	}
	n := 0
	for lat.spend() {
		n++
	}
	if n != 3 {
		t.Errorf("%d hedges after 64 GETs, want one per 20", n)
	}
	if _, may := lat.late(); may {
		t.Error("hedges without a budget")
	}
}

// A call that never answers ends at its deadline.
func TestDeadline(t *testing.T) {
	cfg := small
	cfg.StoreTimeout = 20 * time.Millisecond
	w, m, l := tiered(t, cfg, 1, 3, 900)
	never := make(chan struct{})
	w.hangAt(func(op, _ string) <-chan struct{} { return never })
	if _, _, err := m.ReadCold(context.Background(), l.id, l.tp, 0, 100); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, kerr.KafkaStorageError) {
		t.Error(err)
	}
	w.hangAt(nil)
	replay(t, m, l, 1000)
}

func TestAbortedTransactions(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := newLog(w, "a", 0)
	attach(t, m, l, keepAll)
	for i := range 4 {
		l.seal(t, rng(uint64(i)), 10, 200, 0)
	}
	end1 := l.segs[1].End
	inFirst := record.AbortedTxn{ProducerID: 1, FirstOffset: 2, LastOffset: 5}
	across := record.AbortedTxn{ProducerID: 2, FirstOffset: 3, LastOffset: end1 + 1} // marker in segment 2
	last := record.AbortedTxn{ProducerID: 3, FirstOffset: l.end - 3, LastOffset: l.end - 1}
	l.segs[0].aborted = []record.AbortedTxn{inFirst}
	l.segs[2].aborted = []record.AbortedTxn{across}
	l.segs[3].aborted = []record.AbortedTxn{last}
	m.uploadAll()
	for _, c := range []struct {
		from record.Offset
		max  int
		want []record.AbortedTxn
	}{
		{0, 100_000, []record.AbortedTxn{inFirst, across}},
		{6, 100_000, []record.AbortedTxn{across}},
		{l.segs[1].Base, 100_000, []record.AbortedTxn{across}},
		{l.segs[2].Base, 1, []record.AbortedTxn{across}},
		{end1 + 8, 1, nil},
		{l.end - 1, 1, []record.AbortedTxn{last}},
	} {
		spans, got, err := m.ReadCold(context.Background(), l.id, l.tp, c.from, c.max)
		record.ReleaseSpans(spans)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("from %d: %v, want %v; %v", c.from, got, c.want, err)
		}
	}
}

// The calls that the store and etcd get: an extra GET shows as a difference.
func TestTraceOfStoreCalls(t *testing.T) {
	cfg := small
	cfg.Readahead = -1
	cfg.InlineEntries = 2
	w := newWorld(t)
	w.on = true
	var out strings.Builder
	note := func(format string, args ...any) {
		for _, line := range w.trace {
			fmt.Fprintf(&out, "  %s\n", line)
		}
		w.trace = nil
		fmt.Fprintf(&out, format+"\n", args...)
	}
	l := newLog(w, "a", 0)
	l.plain = true
	m := w.manager(t, cfg)
	note("attach")
	attach(t, m, l, keepAll)
	for i := range 3 {
		note("upload of segment %d", i)
		l.seal(t, rng(uint64(i)), 12, 900, 0)
		m.uploadAll()
	}
	l.dropLocal()
	note("replay")
	replay(t, m, l, 4000)
	note("replay again")
	replay(t, m, l, 4000)
	note("restart: attach")
	m.Close(context.Background())
	m = w.manager(t, cfg)
	attach(t, m, l, keepAll)
	note("restart: manifest")
	m.choresNow()
	note("one record in the middle")
	spans, _, err := m.ReadCold(context.Background(), l.id, l.tp, l.end/2, 1)
	if err != nil {
		t.Fatal(err)
	}
	record.ReleaseSpans(spans)
	note("greatest timestamp")
	if _, err := m.ColdMaxTimestamp(context.Background(), l.id, l.tp); err != nil {
		t.Fatal(err)
	}
	note("DeleteRecords")
	if err := l.AdvanceLogStart(l.end - 1); err != nil {
		t.Fatal(err)
	}
	m.choresNow()
	note("collection")
	w.advance(2 * time.Hour)
	if err := m.collect(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.advance(2 * time.Hour)
	if err := m.collect(context.Background()); err != nil {
		t.Fatal(err)
	}
	note("sweep of a clean bucket")
	for range 2 {
		if err := m.sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	note("end")
	path := filepath.Join("testdata", "trace.golden")
	got := strings.ReplaceAll(out.String(), l.id.Hex(), "TOPIC")
	if os.Getenv("FIRN_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the calls changed; got:\n%s", got)
	}
}

// Readahead: a sequential reader finds later blocks on their way; the window
// doubles; another reader has its own.
func TestReadahead(t *testing.T) {
	p := &part{}
	if _, seq := p.stream(0); seq {
		t.Error("sequential before anything was read")
	}
	obj := goldenID(1)
	s := p.advance(stream{}, false, 100, indexKey{obj, 1}, 32<<20)
	var windows []int64
	for next := record.Offset(100); next < 1100; next += 100 {
		got, seq := p.stream(next)
		if !seq {
			t.Fatalf("the reader at %d is not known", next)
		}
		s = p.advance(got, true, next+100, indexKey{obj, 1}, 32<<20)
		windows = append(windows, s.window>>10)
	}
	if fmt.Sprint(windows) != "[512 1024 2048 4096 8192 16384 32768 32768 32768 32768]" {
		t.Errorf("windows in KiB: %v", windows)
	}
	if _, seq := p.stream(555); seq {
		t.Error("a jump is taken for sequential")
	}

	cfg := small
	cfg.ReadaheadGets = 100
	_, m, l := tiered(t, cfg, 1, 100, 900)
	before := readaheadBlocks.Get()
	replay(t, m, l, 3000)
	if readaheadBlocks.Get() == before {
		t.Error("nothing was read ahead")
	}
}

// Manifests of many segments stay cheap: look-ups are binary searches.
func TestManySegments(t *testing.T) {
	const n = 100_000
	entries := make([]Entry, n)
	for i := range entries {
		entries[i] = Entry{Base: record.Offset(i * 10), End: record.Offset(i*10 + 10), MaxTimestamp: int64(i), MaxTSOffset: record.Offset(i * 10), Length: 1 << 20, IndexPos: 1 << 20, IndexLen: 100, AbortedFrom: -1, Object: goldenID(byte(i))}
	}
	b, err := encodeManifest(&Manifest{Cluster: testCluster, Topic: "a", Entries: entries})
	if err != nil {
		t.Fatal(err)
	}
	man, err := DecodeManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	ptr := &Pointer{Start: 55, End: n * 10, Manifest: goldenID(1), ManifestEnd: n * 10}
	v := newView(1, ptr, man.Entries, true)
	if len(v.entries()) != n-5 || v.bytes != (n-5)<<20 {
		t.Errorf("%d entries, %d bytes", len(v.entries()), v.bytes)
	}
	for _, o := range []record.Offset{55, 59, 60, 500_005, n*10 - 1} {
		i, ok := findEntry(v.entries(), o)
		if !ok || v.entries()[i].Base > o || v.entries()[i].End <= o {
			t.Errorf("offset %d: entry %d, %v", o, i, ok)
		}
	}
	// One more run does not copy the others.
	grown, all := v.withEntries([]Entry{{Base: n * 10, End: n*10 + 1, Object: goldenID(1)}}, 0)
	v2 := makeView(2, &grown, all, true)
	per := testing.AllocsPerRun(100, func() {
		next, all := v2.withEntries([]Entry{{Base: n*10 + 1, End: n*10 + 2, Object: goldenID(1)}}, 0)
		if len(next.Tail) != 2 || len(all) != n+2 {
			t.Fatal("wrong")
		}
	})
	if per > 4 {
		t.Errorf("%v allocations to add an entry to many", per)
	}
}

func BenchmarkReadColdWarmCache(b *testing.B) {
	cfg := Config{PackWait: -1, ChunkBytes: 4 << 20}
	_, m, l := tiered(b, cfg, 1, 3000, 16<<10)
	replay(b, m, l, 1<<20)
	b.ReportAllocs()
	var bytes int64
	at := record.Offset(0)
	for b.Loop() {
		spans, _, err := m.ReadCold(context.Background(), l.id, l.tp, at, 1<<20)
		if err != nil {
			b.Fatal(err)
		}
		bytes += record.SpansSize(spans)
		record.ReleaseSpans(spans)
		at = (at + 200) % l.end
	}
	b.SetBytes(bytes / int64(b.N))
}
