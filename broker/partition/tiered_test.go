package partition

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/record"
)

// fakeCold keeps copied segments in memory.
type fakeCold struct {
	batches []record.Batch
	end     record.Offset
}

func (c *fakeCold) copy(t *testing.T, p *Partition) {
	t.Helper()
	for _, s := range p.Sealed(c.end) {
		f, err := p.OpenSealed(s.Base)
		if err != nil {
			t.Fatal(err)
		}
		raw := make([]byte, f.Bytes)
		if _, err := f.Data.ReadAt(raw, 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for len(raw) > 0 {
			b, rest, err := record.Next(raw)
			if err != nil {
				t.Fatal(err)
			}
			c.batches, raw = append(c.batches, bytes.Clone(b)), rest
		}
		c.end = s.End
	}
	p.SetTieredEnd(c.end)
}

func (c *fakeCold) ReadCold(_ context.Context, _ record.TopicID, _ record.TopicPartition, from record.Offset, maxBytes int) ([]record.Span, []record.AbortedTxn, error) {
	var out []record.Span
	for _, b := range c.batches {
		if b.LastOffset() >= from && (len(out) == 0 || maxBytes >= len(b)) {
			out = append(out, record.Span{Bytes: b})
			maxBytes -= len(b)
		}
	}
	if out == nil {
		return nil, nil, kerr.OffsetOutOfRange
	}
	return out, nil, nil
}

func (c *fakeCold) ColdTimestamp(_ context.Context, _ record.TopicID, _ record.TopicPartition, ts int64) (record.TimestampOffset, error) {
	for _, b := range c.batches {
		if t, ok, err := b.FirstAtOrAfter(ts, 0, 1<<20); ok || err != nil {
			return t, err
		}
	}
	return record.NoTimestampOffset, nil
}

func (c *fakeCold) ColdMaxTimestamp(context.Context, record.TopicID, record.TopicPartition) (record.TimestampOffset, error) {
	best := record.NoTimestampOffset
	for _, b := range c.batches {
		if b.MaxTimestamp() > best.Timestamp {
			best, _, _ = b.FirstAtOrAfter(b.MaxTimestamp(), 0, 1<<20)
		}
	}
	return best, nil
}

func (c *fakeCold) ColdRange(record.TopicID, record.TopicPartition) (start, end record.Offset) {
	return 0, c.end
}

func (c *fakeCold) ColdEnd(context.Context, record.TopicID, record.TopicPartition) (record.TieredEnd, error) {
	end := record.TieredEnd{End: c.end}
	if n := len(c.batches); n > 0 {
		end.Epochs = []record.EpochStart{{Epoch: c.batches[n-1].LeaderEpoch(), Start: c.end - 1}}
	}
	return end, nil
}

func tieredPartition(t *testing.T, dir string) (*Partition, *fakeCold, Config) {
	t.Helper()
	cfg := testConfig()
	cfg.Tiered, cfg.SegmentBytes, cfg.IndexIntervalBytes = true, 1000, 200
	cold := &fakeCold{}
	p := open(t, dir, cfg, Deps{Cold: cold, Epoch: 3})
	for i := range 100 {
		if _, err := p.Append(plain(t, 1000+int64(i), "some value that takes a bit of room"), Client); err != nil {
			t.Fatal(err)
		}
	}
	return p, cold, cfg
}

func TestTieredRetention(t *testing.T) {
	dir := t.TempDir()
	p, cold, cfg := tieredPartition(t, dir)
	cfg.LocalRetentionBytes, cfg.RetentionBytes = 0, 0
	p.SetConfig(cfg)
	if n, err := p.RunRetention(time.Now()); n != 0 || err != nil {
		t.Fatalf("%d segments went before they were tiered, %v", n, err)
	}
	cold.copy(t, p)
	if n, err := p.RunRetention(time.Now()); n == 0 || err != nil {
		t.Fatalf("%d segments went, %v", n, err)
	}
	st := p.State()
	if st.LogStart != 0 || st.LocalStart != cold.end || st.TieredEnd != cold.end || st.Segments != 1 {
		t.Fatalf("%+v", st)
	}
	check := func(p *Partition) {
		t.Helper()
		recs, err := readFrom(p, 0, 500)
		if err != nil || len(recs) != 100 {
			t.Fatalf("%d records, %v", len(recs), err)
		}
		for i, r := range recs {
			if r.Offset != record.Offset(i) || r.Timestamp != 1000+int64(i) {
				t.Fatalf("record %d: %+v", i, r)
			}
			got, err := p.OffsetForTimestamp(context.Background(), r.Timestamp, record.ReadUncommitted)
			if err != nil || got.Offset != r.Offset || got.Epoch != 3 {
				t.Fatalf("timestamp %d: %+v %v", r.Timestamp, got, err)
			}
		}
		if got, err := p.MaxTimestamp(context.Background()); err != nil || got.Offset != 99 {
			t.Fatalf("%+v %v", got, err)
		}
		if !p.IsCold(0) || p.IsCold(cold.end) {
			t.Fatal("cold is not what it should be")
		}
	}
	check(p)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open(t, dir, cfg, Deps{Cold: cold, Epoch: 3})
	check(p)

	// Remote retention moves the start.
	if err := p.AdvanceLogStart(10); err != nil {
		t.Fatal(err)
	}
	if _, err := readFrom(p, 9, 500); !errors.Is(err, kerr.OffsetOutOfRange) {
		t.Fatalf("%v", err)
	}
	if recs, err := readFrom(p, 10, 500); err != nil || len(recs) != 90 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLocalLogLost(t *testing.T) {
	for _, how := range []string{"folder", "tail"} {
		dir := t.TempDir()
		p, cold, cfg := tieredPartition(t, dir)
		if err := p.Roll(); err != nil {
			t.Fatal(err)
		}
		cold.copy(t, p)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if how == "folder" {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		} else {
			dir = t.TempDir()
			q := open(t, dir, cfg, Deps{Cold: cold})
			if _, err := q.Append(plain(t, 1000, "some value that takes a bit of room"), Client); err != nil {
				t.Fatal(err)
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		}
		p = open(t, dir, cfg, Deps{Cold: cold, Epoch: 4, Standby: true})
		called := false
		p.AwaitHighWatermark(100, func(err error) { called = err == nil })
		end, _ := cold.ColdEnd(t.Context(), p.id, p.tp)
		if p.Continues(end) {
			t.Errorf("%s: a log up to %d has all that is tiered up to %d", how, p.log.End(), end.End)
		}
		if err := p.BeginAtTiered(end); err != nil {
			t.Fatal(err)
		}
		if !p.Continues(end) {
			t.Errorf("%s: it has begun there, and does not continue it", how)
		}
		p.Lead(p.alone())
		if !called {
			t.Fatal("the high watermark did not move")
		}
		res, err := p.Append(plain(t, 5000, "after"), Client)
		if err != nil || res.BaseOffset != 100 {
			t.Fatalf("%s: %+v %v", how, res, err)
		}
		if _, err := p.Append(idempotent(t, 4, 0, 8, 1), Client); !errors.Is(err, kerr.UnknownProducerID) {
			t.Fatalf("%s: a producer that was known: %v", how, err)
		}
		for range 2 {
			recs, err := readFrom(p, 0, 1000)
			if err != nil || len(recs) != 101 || recs[100].Timestamp != 5000 {
				t.Fatalf("%s: %d records, %v", how, len(recs), err)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			p = open(t, dir, cfg, Deps{Cold: cold, Epoch: 5})
			p.SetTieredEnd(cold.end)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDamagedSegmentIsHealedFromTheColdCopy(t *testing.T) {
	dir := t.TempDir()
	p, cold, cfg := tieredPartition(t, dir)
	cold.copy(t, p)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	if err := os.Truncate(names[1], 300); err != nil {
		t.Fatal(err)
	}
	p = open(t, dir, cfg, Deps{Cold: cold, Epoch: 3})
	defer p.Close()
	mid := p.Sealed(0)[0].End + 3
	if _, err := p.Read(context.Background(), ReadRequest{Offset: mid, MaxBytes: 1 << 20, MinOneBatch: true, CurrentEpoch: -1, LastFetchedEpoch: -1}); !errors.Is(err, kerr.KafkaStorageError) {
		t.Fatalf("before it is known to be tiered: %v", err)
	}
	p.SetTieredEnd(cold.end)
	recs, err := readFrom(p, 0, 500)
	if err != nil || len(recs) != 100 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
}

func TestRetention(t *testing.T) {
	now := time.UnixMilli(1e12)
	cfg := testConfig()
	cfg.SegmentBytes = 600
	dir := t.TempDir()
	p := open(t, dir, cfg, Deps{Now: func() time.Time { return now }})
	for i := range 40 {
		if _, err := p.Append(plain(t, 1e12+int64(i)*1000, "some value that takes a bit of room"), Client); err != nil {
			t.Fatal(err)
		}
	}
	before := p.State()
	cfg.Retention = 10 * time.Second
	cfg.DeleteOnRetention = false
	p.SetConfig(cfg)
	if n, err := p.RunRetention(now.Add(time.Hour)); n != 0 || err != nil {
		t.Fatalf("%d went from a topic that is not cleaned by deleting, %v", n, err)
	}
	cfg.DeleteOnRetention = true
	p.SetConfig(cfg)
	if n, err := p.RunRetention(now.Add(25 * time.Second)); n == 0 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	st := p.State()
	if st.LogStart == 0 || st.LogStart > 15 || st.LogEnd != before.LogEnd {
		t.Fatalf("%+v", st)
	}
	cfg.Retention, cfg.RetentionBytes = -1, 1500
	p.SetConfig(cfg)
	if _, err := p.RunRetention(now); err != nil {
		t.Fatal(err)
	}
	if got := p.State().LocalBytes; got < 1500 || got > 1500+600 {
		t.Fatalf("%d bytes are left", got)
	}
	cfg.Retention = 10 * time.Second
	p.SetConfig(cfg)
	if _, err := p.RunRetention(now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	st = p.State()
	if st.LogStart != 40 || st.LogEnd != 40 || st.LocalBytes != 0 {
		t.Fatalf("everything expired, yet %+v", st)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open(t, dir, cfg, Deps{})
	defer p.Close()
	if res, err := p.Append(plain(t, 1, "x"), Client); err != nil || res.BaseOffset != 40 || res.LogStartOffset != 40 {
		t.Fatalf("%+v %v", res, err)
	}
}

func TestDeleteRecords(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir, testConfig(), Deps{})
	for range 10 {
		if _, err := p.Append(plain(t, 1, "x", "y"), Client); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		to, low record.Offset
		err     error
	}{{7, 7, nil}, {3, 7, nil}, {21, -1, kerr.OffsetOutOfRange}, {-2, -1, kerr.OffsetOutOfRange}, {-1, 20, nil}} {
		low, err := p.DeleteRecords(c.to)
		if low != c.low || !errors.Is(err, c.err) {
			t.Errorf("delete to %d: %d, %v", c.to, low, err)
		}
	}
	to := t.TempDir()
	copyFiles(t, dir, to)
	p.Close()
	p = open(t, to, testConfig(), Deps{})
	defer p.Close()
	if st := p.State(); st.LogStart != 20 || st.LogEnd != 20 {
		t.Fatalf("after a crash: %+v", st)
	}
	if _, err := readFrom(p, 19, 100); !errors.Is(err, kerr.OffsetOutOfRange) {
		t.Fatalf("%v", err)
	}
	if got, err := p.MaxTimestamp(context.Background()); err != nil || got != record.NoTimestampOffset {
		t.Fatalf("%+v %v", got, err)
	}
}
