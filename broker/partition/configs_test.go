package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/record"
)

func keyed(t fataler, codec record.Codec, kv ...string) record.Batch {
	t.Helper()
	var recs []record.Record
	for i := 0; i < len(kv); i += 2 {
		r := record.Record{Timestamp: 1e12, Value: []byte(kv[i+1])}
		if kv[i] != "" {
			r.Key = []byte(kv[i])
		}
		recs = append(recs, r)
	}
	return produced(t, record.BatchSpec{Codec: codec, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, recs...)
}

// Records without key are refused by name in a compacted topic, whatever the
// codec, and taken again when the topic no longer compacts (KIP-467).
func TestCompactedTopicsNeedKeys(t *testing.T) {
	cfg := testConfig()
	cfg.Compact = true
	p := open(t, t.TempDir(), cfg, Deps{})
	defer p.Delete()
	for codec := record.None; codec <= record.Zstd; codec++ {
		_, err := p.Append(keyed(t, codec, "a", "1", "", "2", "b", "3", "", "4"), Client)
		var invalid *InvalidRecords
		if !errors.As(err, &invalid) || !errors.Is(err, kerr.InvalidRecord) {
			t.Fatalf("%v: got %v", codec, err)
		}
		var at []int32
		for _, r := range invalid.Records {
			at = append(at, r.Index)
		}
		if !slices.Equal(at, []int32{1, 3}) {
			t.Errorf("%v: records %v are named, want 1 and 3", codec, at)
		}
		if _, err := p.Append(keyed(t, codec, "a", "1"), Client); err != nil {
			t.Errorf("%v: with keys: %v", codec, err)
		}
	}
	cfg.Compact = false
	p.SetConfig(cfg)
	if _, err := p.Append(keyed(t, record.None, "", "1"), Client); err != nil {
		t.Errorf("without compaction: %v", err)
	}
}

// fill appends n records of that many keys, and seals them.
func fill(t testing.TB, p *Partition, n, keys int) {
	t.Helper()
	for i := range n {
		if _, err := p.Append(keyed(t, record.None, fmt.Sprint(i%keys), fmt.Sprint(i)), Client); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Roll(); err != nil {
		t.Fatal(err)
	}
	if err := p.Sync(); err != nil {
		t.Fatal(err)
	}
}

func offsets(t testing.TB, p *Partition) (out []record.Offset) {
	t.Helper()
	recs, err := readFrom(p, p.LogStart(), 1<<20)
	for err == nil && len(recs) > 0 {
		for _, r := range recs {
			out = append(out, r.Offset)
		}
		recs, err = readFrom(p, out[len(out)-1]+1, 1<<20)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWhenCompactionIsWorthIt(t *testing.T) {
	now := time.UnixMilli(1e12 + 10_000)
	cfg := testConfig()
	cfg.Compact, cfg.MinCleanableRatio = true, 0.6
	p := open(t, t.TempDir(), cfg, Deps{Now: func() time.Time { return now }})
	defer p.Delete()
	worth := func() bool {
		t.Helper()
		_, worth, err := p.dirt(now)
		if err != nil {
			t.Fatal(err)
		}
		return worth
	}
	if worth() {
		t.Error("an empty log is worth compaction")
	}
	fill(t, p, 20, 10)
	if !worth() {
		t.Error("a log that was never compacted is not")
	}
	cfg.MinCompactionLag = 11 * time.Second
	p.SetConfig(cfg)
	if worth() {
		t.Error("records younger than min.compaction.lag.ms are worth it")
	}
	cfg.MinCompactionLag = 9 * time.Second
	p.SetConfig(cfg)
	if _, err := p.compact(t.Context(), now, 1<<20, func(context.Context, int) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := offsets(t, p); len(got) != 10 || got[0] != 10 {
		t.Errorf("left are %v", got)
	}
	fill(t, p, 10, 10) // half is dirty
	if worth() {
		t.Error("half dirty is worth it with a ratio of 0.6")
	}
	cfg.MaxCompactionLag = 9 * time.Second
	p.SetConfig(cfg)
	if !worth() {
		t.Error("records older than max.compaction.lag.ms are not")
	}
	cfg.MaxCompactionLag, cfg.MinCleanableRatio = 0, 0.3
	p.SetConfig(cfg)
	if !worth() {
		t.Error("half dirty is not worth it with a ratio of 0.3")
	}
	cfg.Compact = false
	p.SetConfig(cfg)
	if worth() {
		t.Error("a topic that does not compact is")
	}
	if done, err := p.compact(t.Context(), now, 1<<20, func(context.Context, int) error { return nil }); !errors.Is(err, errNotCompacted) {
		t.Errorf("and is compacted: %+v, %v", done, err)
	}
}

// An open transaction holds compaction back.
func TestCompactionStopsAtTheLastStableOffset(t *testing.T) {
	cfg := testConfig()
	cfg.Compact = true
	p := open(t, t.TempDir(), cfg, Deps{})
	defer p.Delete()
	fill(t, p, 6, 2)
	open := produced(t, record.BatchSpec{Transactional: true, ProducerID: 5, BaseSequence: 0}, record.Record{Key: []byte("0"), Value: []byte("x")})
	if _, err := p.Append(open, Coordinator); err != nil {
		t.Fatal(err)
	}
	fill(t, p, 6, 2)
	if _, err := p.compact(t.Context(), time.Now(), 1<<20, func(context.Context, int) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := offsets(t, p); !slices.Equal(got, []record.Offset{4, 5, 6, 7, 8, 9, 10, 11, 12}) {
		t.Errorf("left are %v", got)
	}
}

// The cleaner finds the partitions that need it, and leaves those alone that
// cannot be compacted; readers, writers and retention go on meanwhile.
func TestCleaner(t *testing.T) {
	cfg := testConfig()
	cfg.Compact, cfg.SegmentBytes = true, 2000
	var parts []*Partition
	for range 4 {
		p := open(t, t.TempDir(), cfg, Deps{})
		defer p.Delete()
		parts = append(parts, p)
	}
	c := NewCleaner(CleanerConfig{Threads: 2, KeyBytes: 1 << 16, Backoff: time.Millisecond, BytesPerSecond: 1 << 30}, slog.New(slog.DiscardHandler), nil, func(f func(*Partition)) {
		for _, p := range parts {
			f(p)
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { c.Run(ctx) })
	var writers sync.WaitGroup
	for _, p := range parts {
		writers.Go(func() {
			for i := range 300 {
				if _, err := p.Append(keyed(t, record.Codec(i%5), fmt.Sprint(i%7), fmt.Sprint(i)), Client); err != nil {
					t.Error(err)
					return
				}
				if i%50 == 0 {
					if _, err := p.RunRetention(time.Now()); err != nil {
						t.Error(err)
					}
				}
			}
		})
		writers.Go(func() {
			for range 50 {
				if _, err := readFrom(p, 0, 5000); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	for _, p := range parts {
		if err := p.Roll(); err != nil {
			t.Fatal(err)
		}
		for len(offsets(t, p)) != 7 {
			if u := p.Uncleanable(); u != nil {
				t.Fatalf("%v cannot be compacted: %v", p.TP(), u.Reason)
			}
			c.SetConfig(*c.cfg.Load()) // look again
			if err := p.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if got := offsets(t, p); got[0] != 293 || got[6] != 299 {
			t.Errorf("left are %v", got)
		}
	}
	stop()
	work.Wait()
}

// A compaction that failed for good is not tried again, and says why.
func TestUncleanable(t *testing.T) {
	cfg := testConfig()
	cfg.Compact = true
	p := open(t, t.TempDir(), cfg, Deps{})
	defer p.Delete()
	if _, err := p.Append(keyed(t, record.None, "a", "1", "b", "2", "c", "3"), Client); err != nil {
		t.Fatal(err)
	}
	fill(t, p, 3, 3)
	c := NewCleaner(CleanerConfig{KeyBytes: 1}, slog.New(slog.DiscardHandler), nil, func(f func(*Partition)) { f(p) })
	if got := c.next(1); got != p {
		t.Fatalf("the cleaner picks %v", got)
	}
	c.compact(t.Context(), p, 1)
	c.release(p)
	if u := p.Uncleanable(); u == nil || u.Kind != "memory" {
		t.Fatalf("the partition is %+v", u)
	}
	if got := c.next(1); got != nil {
		t.Error("it is tried again")
	}
	if got := offsets(t, p); len(got) != 6 {
		t.Errorf("left are %v", got)
	}
}

// flush.messages above 1 and flush.ms sync in the background.
func TestBackgroundSync(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"flush.messages=2": func(c *Config) { c.FlushMessages = 2 },
		"flush.ms=1":       func(c *Config) { c.FlushAfter = time.Millisecond },
		"flush.ms=0":       func(c *Config) { c.FlushAfter = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			change(&cfg)
			p := open(t, t.TempDir(), cfg, Deps{})
			defer p.Close()
			before := backgroundSyncs.Get()
			for range 2 {
				if _, err := p.Append(plain(t, 1e12, "x"), Client); err != nil {
					t.Fatal(err)
				}
			}
			for backgroundSyncs.Get() == before { // bounded by the test's own deadline
				<-time.After(time.Millisecond)
			}
		})
	}
}

// A shorter flush.ms counts for what was waiting for the longer one, too.
func TestShorterFlushTime(t *testing.T) {
	cfg := testConfig()
	cfg.FlushAfter = time.Hour
	p := open(t, t.TempDir(), cfg, Deps{})
	defer p.Close()
	before := backgroundSyncs.Get()
	for range 2 {
		if _, err := p.Append(plain(t, 1e12, "x"), Client); err != nil {
			t.Fatal(err)
		}
		cfg.FlushAfter /= 60
		p.SetConfig(cfg)
		for backgroundSyncs.Get() == before { // bounded by the test's own deadline
			<-time.After(time.Millisecond)
		}
		before = backgroundSyncs.Get()
	}
}

// A syncer that is asked often syncs after each call, but never twice at once.
func TestSyncer(t *testing.T) {
	var s syncer
	var mu sync.Mutex
	asked, covered, running := 0, 0, 0
	sync := func() {
		mu.Lock()
		running++
		if running > 1 {
			t.Error("two syncs at once")
		}
		covered = asked
		mu.Unlock()
		mu.Lock()
		running--
		mu.Unlock()
	}
	for range 1000 {
		mu.Lock()
		asked++
		mu.Unlock()
		s.within(0, sync)
	}
	for {
		mu.Lock()
		all := covered == asked
		mu.Unlock()
		if all {
			break
		}
		<-time.After(time.Millisecond)
	}
	s.stop()
	s.within(0, func() { t.Error("synced after stop") })
	s.within(time.Nanosecond, func() { t.Error("synced after stop") })
}

// remote.log.copy.disable: what is on local disk only goes by the retention of
// the whole log, and the log start moves with it.
func TestRemoteCopyDisabled(t *testing.T) {
	p, cold, cfg := tieredPartition(t, t.TempDir())
	defer p.Delete()
	_ = cold
	cfg.RemoteCopyDisabled, cfg.DeleteOnRetention = true, true
	cfg.LocalRetention, cfg.LocalRetentionBytes = -1, -1
	cfg.Retention, cfg.RetentionBytes = -1, 1
	p.SetConfig(cfg)
	fill(t, p, 3, 3)
	fill(t, p, 3, 3)
	if _, err := p.RunRetention(time.Now()); err != nil {
		t.Fatal(err)
	}
	s := p.State()
	if s.LogStart == 0 || s.LogStart != s.LocalStart {
		t.Errorf("the log is %+v", s)
	}
}

// remote.storage.enable turned off: the log begins with what is local.
func TestTieringTurnedOff(t *testing.T) {
	p, cold, cfg := tieredPartition(t, t.TempDir())
	defer p.Delete()
	fill(t, p, 6, 3)
	fill(t, p, 6, 3)
	cold.copy(t, p)
	cfg.LocalRetention, cfg.LocalRetentionBytes = -1, 1
	p.SetConfig(cfg)
	if _, err := p.RunRetention(time.Now()); err != nil {
		t.Fatal(err)
	}
	s := p.State()
	if s.LogStart != 0 || s.LocalStart == 0 {
		t.Fatalf("nothing is only cold: %+v", s)
	}
	cfg.Tiered = false
	p.SetConfig(cfg)
	after := p.State()
	if after.LogStart != s.LocalStart || after.TieredEnd != 0 {
		t.Errorf("turned off, the log is %+v", after)
	}
	cfg.Tiered = true
	p.SetConfig(cfg)
	if _, err := p.RunRetention(time.Now()); err != nil {
		t.Fatal(err)
	}
	if again := p.State(); again.LocalStart != after.LocalStart {
		t.Errorf("turned on again, local records that are tiered no more went: %+v", again)
	}
}

// However many partitions are due, so many syncs at most are under way: each
// costs a thread.
func TestSyncsAreBounded(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	enough, goOn := make(chan struct{}), make(chan struct{})
	syncers := make([]syncer, 3*maxSyncs)
	for i := range syncers {
		syncers[i].within(0, func() {
			mu.Lock()
			if running++; running == maxSyncs && most < maxSyncs {
				close(enough)
			}
			most = max(most, running)
			mu.Unlock()
			<-goOn
			mu.Lock()
			running--
			mu.Unlock()
		})
	}
	<-enough
	close(goOn)
	for i := range syncers {
		syncers[i].stop()
	}
	if most > maxSyncs {
		t.Errorf("%d syncs at once", most)
	}
}
