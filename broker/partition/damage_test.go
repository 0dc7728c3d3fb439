package partition

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/record"
)

// flipIn flips a bit of the n-th batch of a segment's file: of its header, or
// of its records when at is beyond it. It gives the batch's offset.
func flipIn(t *testing.T, name string, n int, at int64) record.Offset {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b := record.Batch(raw)
	for range n {
		b = b[b.Size():]
	}
	o := b.BaseOffset()
	b[at] ^= 8
	if err := os.WriteFile(name, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return o
}

func readAt(p *Partition, o record.Offset) (ReadResult, error) {
	return p.Read(context.Background(), ReadRequest{Offset: o, MaxBytes: 1 << 20, MinOneBatch: true, CurrentEpoch: -1, LastFetchedEpoch: -1})
}

// TestFlippedBitHealsFromTheColdCopy: damage done while the broker was
// stopped, in a segment that object storage has too.
func TestFlippedBitHealsFromTheColdCopy(t *testing.T) {
	for name, at := range map[string]int64{"records": record.HeaderSize + 5, "length": 11, "offset": 7, "epoch": 15} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p, cold, cfg := tieredPartition(t, dir)
			cold.copy(t, p)
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			names, _ := filepath.Glob(filepath.Join(dir, "*.log"))
			bad := flipIn(t, names[2], 3, at)
			p = open(t, dir, cfg, Deps{Cold: cold, Epoch: 3})
			defer p.Close()

			// Not known to be tiered yet: nothing but the damage is refused.
			var damage *commitlog.CorruptError
			if recs, err := readFrom(p, 0, 300); !errors.Is(err, kerr.KafkaStorageError) || !errors.As(err, &damage) || damage.Path != names[2] || len(recs) != int(bad) {
				t.Fatalf("%d records before offset %d, %v", len(recs), bad, err)
			}
			if _, err := p.OffsetForTimestamp(context.Background(), 1000+int64(bad), record.ReadUncommitted); !errors.Is(err, kerr.KafkaStorageError) {
				t.Fatalf("%v", err)
			}
			if recs, err := readFrom(p, p.Sealed(bad)[0].End, 300); err != nil || recs[len(recs)-1].Offset != 99 {
				t.Fatalf("behind the damage: %v", err)
			}

			p.SetTieredEnd(cold.end)
			if name == "records" { // a search by time heals too
				if got, err := p.OffsetForTimestamp(context.Background(), 1000+int64(bad), record.ReadUncommitted); err != nil || got.Offset != bad {
					t.Fatalf("%+v %v", got, err)
				}
			}
			res, err := readAt(p, bad)
			if err != nil || !res.Cold {
				t.Fatalf("cold %v, %v", res.Cold, err)
			}
			record.ReleaseSpans(res.Spans)
			recs, err := readFrom(p, 0, 500)
			if err != nil || len(recs) != 100 {
				t.Fatalf("%d records, %v", len(recs), err)
			}
			for i, r := range recs {
				if r.Offset != record.Offset(i) || r.Timestamp != 1000+int64(i) || !bytes.Equal(r.Value, []byte("some value that takes a bit of room")) {
					t.Fatalf("record %d: %+v", i, r)
				}
			}
			if st := p.State(); st.LogStart != 0 || st.LocalStart <= bad || st.LocalStart >= cold.end {
				t.Fatalf("%+v", st)
			}
			if got := p.Sealed(0); len(got) == 0 || got[0].Base <= bad {
				t.Fatalf("still there: %v", got)
			}
		})
	}
}

// TestManyReadersMeetTheSameDamage: whoever heals it first, all are answered.
func TestManyReadersMeetTheSameDamage(t *testing.T) {
	dir := t.TempDir()
	p, cold, cfg := tieredPartition(t, dir)
	cold.copy(t, p)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for round := range 4 {
		bad := flipIn(t, names[2+round], 1, record.HeaderSize)
		p = open(t, dir, cfg, Deps{Cold: cold, Epoch: 3})
		p.SetTieredEnd(cold.end)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				res, err := readAt(p, bad)
				if err != nil || !res.Cold {
					t.Errorf("cold %v, %v", res.Cold, err)
				}
				record.ReleaseSpans(res.Spans)
			})
		}
		wg.Wait()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFlippedBitWithoutACopy: the rest of the partition goes on.
func TestFlippedBitWithoutACopy(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig()
	cfg.SegmentBytes, cfg.IndexIntervalBytes = 3000, 200
	p := open(t, dir, cfg, Deps{})
	for i := range 100 {
		if _, err := p.Append(plain(t, 1000+int64(i), "some value that takes a bit of room"), Client); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	sealed := flipIn(t, names[1], 2, 70)
	active := flipIn(t, names[len(names)-1], 4, 70)
	p = open(t, dir, cfg, Deps{})
	defer p.Close()
	res, err := p.Append(plain(t, 5000, "after"), Client)
	if err != nil || res.BaseOffset != 100 {
		t.Fatalf("%+v %v", res, err)
	}
	var got []record.Offset
	for o := record.Offset(0); o <= 100; o++ {
		recs, err := readAt(p, o)
		if errors.Is(err, kerr.KafkaStorageError) {
			// What follows within the same index entry is lost with it.
			if o < sealed || o > sealed+4 && o < active || o > active+4 {
				t.Fatalf("offset %d: %v", o, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("offset %d: %v", o, err)
		}
		var out []record.Record
		if _, err := decodeSpans(recs.Spans, o, &out); err != nil || out[0].Offset != o {
			t.Fatalf("offset %d: %v", o, err)
		}
		got = append(got, o)
	}
	if len(got) < 92 || len(got) > 99 {
		t.Fatalf("%d offsets can be read", len(got))
	}
}

// TestEpochsNeverGoBack: a leader that is given a lower epoch than its log has
// goes on under the log's, and its records are sound after a restart.
func TestEpochsNeverGoBack(t *testing.T) {
	dir := t.TempDir()
	for _, epoch := range []record.Epoch{3, 1, 5, 4, 4} {
		p := open(t, dir, testConfig(), Deps{Epoch: epoch})
		if _, err := p.Append(plain(t, 1, "x"), Client); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	p := open(t, dir, testConfig(), Deps{Epoch: 5})
	defer p.Close()
	if recs, err := readFrom(p, 0, 1000); err != nil || len(recs) != 5 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	for o, want := range []record.Epoch{3, 3, 5, 5, 5} {
		if got := p.EpochAt(record.Offset(o)); got != want {
			t.Fatalf("offset %d has epoch %d, want %d", o, got, want)
		}
	}
}

// TestExpiredActiveSegment: what is all older than it may get on local disk
// is sealed, copied and dropped, though nobody appends any more.
func TestExpiredActiveSegment(t *testing.T) {
	start := time.Now().Truncate(time.Millisecond)
	const none = math.MinInt64
	const rollAge = 5 * time.Minute
	for name, c := range map[string]struct {
		edit  func(*Config)
		ts    int64         // of the records, milliseconds after the start
		stays time.Duration // sealed not yet
		goes  time.Duration // sealed by now; 0: never
	}{
		"by time":                {func(c *Config) { c.LocalRetention = time.Hour }, 0, time.Hour, time.Hour + time.Millisecond},
		"new records":            {func(c *Config) { c.LocalRetention = time.Hour }, 600_000, time.Hour + time.Millisecond, 70*time.Minute + time.Millisecond},
		"no time at all":         {func(c *Config) { c.LocalRetention = 0 }, 0, rollAge - 1, rollAge},
		"old when they came":     {func(c *Config) { c.LocalRetention = time.Hour }, -7200_000, rollAge - 1, rollAge},
		"without timestamps":     {func(c *Config) { c.LocalRetention = time.Hour }, none, time.Hour, time.Hour + time.Minute},
		"no bytes":               {func(c *Config) { c.LocalRetentionBytes = 0 }, 0, rollAge - 1, rollAge},
		"some bytes":             {func(c *Config) { c.LocalRetentionBytes = 1 }, 0, 1000 * time.Hour, 0},
		"for ever":               {func(*Config) {}, 0, 1000 * time.Hour, 0},
		"retention is tiering's": {func(c *Config) { c.Retention = time.Hour }, 0, 1000 * time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Tiered = true
			c.edit(&cfg)
			cold := &fakeCold{}
			p := open(t, t.TempDir(), cfg, Deps{Cold: cold, Now: func() time.Time { return start }, TieredRollAge: rollAge})
			defer p.Close()
			ts := int64(-1)
			if c.ts != none {
				ts = start.UnixMilli() + c.ts
			}
			for range 3 {
				if _, err := p.Append(plain(t, ts, "v"), Client); err != nil {
					t.Fatal(err)
				}
			}
			tick := func(after time.Duration) State {
				t.Helper()
				if _, err := p.RunRetention(start.Add(after)); err != nil {
					t.Fatal(err)
				}
				return p.State()
			}
			if st := tick(c.stays); st.Segments != 1 {
				t.Fatalf("sealed too early: %+v", st)
			}
			if c.goes == 0 {
				return
			}
			if st := tick(c.goes); st.Segments != 2 || st.LocalStart != 0 {
				t.Fatalf("not sealed, or gone before it is tiered: %+v", st)
			}
			if st := tick(c.goes); st.Segments != 2 {
				t.Fatalf("sealed again: %+v", st)
			}
			cold.copy(t, p)
			if st := tick(c.goes); st.Segments != 1 || st.LocalStart != 3 || st.LocalBytes != 0 || st.LogStart != 0 {
				t.Fatalf("still there: %+v", st)
			}
			if recs, err := readFrom(p, 0, 1000); err != nil || len(recs) != 3 {
				t.Fatalf("%d records, %v", len(recs), err)
			}
		})
	}
}
