package partition

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

var testTP = record.TopicPartition{Topic: "t", Partition: 3}
var testID = record.TopicID{1, 2, 3}

func testConfig() Config {
	return Config{
		MaxMessageBytes: 1 << 20, SegmentBytes: 1 << 30, IndexIntervalBytes: 4096,
		TimestampBeforeMax: -1, TimestampAfterMax: -1, RetentionBytes: -1, Retention: -1,
		LocalRetention: -1, LocalRetentionBytes: -1, DeleteOnRetention: true,
		ProducerIDExpiration: 24 * time.Hour,
	}
}

func open(t fataler, dir string, cfg Config, deps Deps) *Partition {
	t.Helper()
	if deps.Log == nil {
		deps.Log = testLog
	}
	p, err := Open(dir, testTP, testID, cfg, deps)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return p
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

// produced makes a batch as a client sends it.
func produced(t fataler, spec record.BatchSpec, recs ...record.Record) record.Batch {
	t.Helper()
	for i := range recs {
		recs[i].Offset = record.Offset(i)
	}
	spec.Epoch = -1
	b, err := record.NewBatch(spec, recs)
	if err != nil {
		t.Fatalf("batch: %v", err)
	}
	return b
}

func plain(t fataler, ts int64, values ...string) record.Batch {
	t.Helper()
	recs := make([]record.Record, len(values))
	for i, v := range values {
		recs[i] = record.Record{Timestamp: ts, Value: []byte(v)}
	}
	return produced(t, record.BatchSpec{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, recs...)
}

// readFrom reads everything from o on, as a consumer does: it skips what a
// batch holds before o, and a last batch that was cut.
func readFrom(p *Partition, o record.Offset, maxBytes int) ([]record.Record, error) {
	var out []record.Record
	for {
		res, err := p.Read(context.Background(), ReadRequest{Offset: o, MaxBytes: maxBytes, MinOneBatch: true, CurrentEpoch: -1, LastFetchedEpoch: -1})
		if err != nil {
			return out, err
		}
		if len(res.Spans) == 0 {
			return out, nil
		}
		next, err := decodeSpans(res.Spans, o, &out)
		if err != nil {
			return out, err
		}
		if next == o {
			return out, fmt.Errorf("no progress at offset %d", o)
		}
		o = next
	}
}

func decodeSpans(spans []record.Span, from record.Offset, out *[]record.Record) (next record.Offset, err error) {
	defer record.ReleaseSpans(spans)
	next = from
	for _, s := range spans {
		buf := make([]byte, s.Size())
		if _, err := s.ReadAt(buf, 0); err != nil {
			return next, err
		}
		for len(buf) > 0 {
			b, rest, err := record.Next(buf)
			if errors.Is(err, record.ErrShort) {
				break
			}
			if err != nil {
				return next, err
			}
			if err := b.CheckCRC(); err != nil {
				return next, err
			}
			err = b.EachRecord(math.MaxInt32, func(r *record.Record) bool {
				if r.Offset >= from {
					c := *r
					c.Value = bytes.Clone(r.Value)
					*out = append(*out, c)
				}
				return true
			})
			if err != nil {
				return next, err
			}
			next, buf = b.LastOffset()+1, rest
		}
	}
	return next, nil
}

// model is what the partition must look like.
type model struct {
	recs  []record.Record // by offset, all that were ever acknowledged
	ends  []int           // after each batch, number of records
	start record.Offset   // least log start that is allowed
	seq   map[int64]int32
}

type machine struct {
	p    *Partition
	m    model
	dir  string
	base string
	n    int
	cfg  Config
	now  int64
}

func (s *machine) clock() time.Time { return time.UnixMilli(1e12 + s.now) }

func (s *machine) open(t *rapid.T) { s.p = open(t, s.dir, s.cfg, Deps{Now: s.clock}) }

func (s *machine) append(t *rapid.T) {
	s.now += rapid.Int64Range(0, 50).Draw(t, "dt")
	n := rapid.IntRange(1, 12).Draw(t, "records")
	spec := record.BatchSpec{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, Codec: record.Codec(rapid.IntRange(0, 4).Draw(t, "codec"))}
	if pid := rapid.Int64Range(-1, 3).Draw(t, "pid"); pid >= 0 {
		spec.ProducerID, spec.ProducerEpoch, spec.BaseSequence = pid, 0, s.m.seq[pid]
	}
	recs := make([]record.Record, n)
	for i := range recs {
		recs[i] = record.Record{
			Timestamp: 1e12 + s.now + rapid.Int64Range(-30, 30).Draw(t, "skew"),
			Value:     bytes.Repeat([]byte{byte(len(s.m.recs) + i)}, rapid.IntRange(0, 90).Draw(t, "size")),
		}
	}
	b := produced(t, spec, recs...)
	again := bytes.Clone(b)
	res, err := s.p.Append(b, Client)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	if res.BaseOffset != record.Offset(len(s.m.recs)) || res.LastOffset != res.BaseOffset+record.Offset(n)-1 || res.Duplicate {
		t.Fatalf("appended as %+v, want base offset %d, %d records", res, len(s.m.recs), n)
	}
	if spec.ProducerID >= 0 {
		s.m.seq[spec.ProducerID] += int32(n)
		dup, err := s.p.Append(again, Client)
		if err != nil || !dup.Duplicate || dup.BaseOffset != res.BaseOffset || dup.LastOffset != res.LastOffset {
			t.Fatalf("duplicate gave %+v, %v; want %+v", dup, err, res)
		}
	}
	for i := range recs {
		recs[i].Offset += res.BaseOffset
	}
	s.m.recs = append(s.m.recs, recs...)
	s.m.ends = append(s.m.ends, len(s.m.recs))
}

func (s *machine) check(t *rapid.T) {
	st := s.p.State()
	if st.LogEnd != record.Offset(len(s.m.recs)) || st.HighWatermark != st.LogEnd || st.LastStableOffset != st.LogEnd {
		t.Fatalf("state %+v, want end %d", st, len(s.m.recs))
	}
	if st.LogStart < s.m.start || st.LogStart > st.LogEnd || st.LocalStart != st.LogStart {
		t.Fatalf("log start %d, local %d, want at least %d", st.LogStart, st.LocalStart, s.m.start)
	}
	s.m.start = st.LogStart
}

func (s *machine) read(t *rapid.T) {
	from := record.Offset(rapid.IntRange(0, len(s.m.recs)+1).Draw(t, "from"))
	got, err := readFrom(s.p, from, rapid.IntRange(0, 3000).Draw(t, "max"))
	start := s.p.LogStart()
	if from < start || from > record.Offset(len(s.m.recs)) {
		if !errors.Is(err, kerr.OffsetOutOfRange) {
			t.Fatalf("read at %d of [%d,%d]: %v", from, start, len(s.m.recs), err)
		}
		return
	}
	if err != nil {
		t.Fatalf("read at %d: %v", from, err)
	}
	want := s.m.recs[from:]
	if len(got) != len(want) {
		t.Fatalf("read %d records from %d, want %d", len(got), from, len(want))
	}
	for i, w := range want {
		if g := got[i]; g.Offset != w.Offset || g.Timestamp != w.Timestamp || !bytes.Equal(g.Value, w.Value) {
			t.Fatalf("record %d is %+v, want %+v", w.Offset, g, w)
		}
	}
}

func (s *machine) timestamp(t *rapid.T) {
	ts := 1e12 + rapid.Int64Range(-40, s.now+40).Draw(t, "ts")
	want, best := record.NoTimestampOffset, record.NoTimestampOffset
	for _, r := range s.m.recs[s.p.LogStart():] {
		if r.Timestamp >= ts && want.Offset < 0 {
			want = record.TimestampOffset{Offset: r.Offset, Timestamp: r.Timestamp}
		}
		if r.Timestamp > best.Timestamp {
			best = record.TimestampOffset{Offset: r.Offset, Timestamp: r.Timestamp}
		}
	}
	got, err := s.p.OffsetForTimestamp(context.Background(), ts, record.ReadUncommitted)
	if err != nil || got.Offset != want.Offset || got.Timestamp != want.Timestamp {
		t.Fatalf("timestamp %d is at %+v (%v), want %+v", ts, got, err, want)
	}
	got, err = s.p.MaxTimestamp(context.Background())
	if err != nil || got.Offset != best.Offset || got.Timestamp != best.Timestamp {
		t.Fatalf("greatest timestamp is at %+v (%v), want %+v", got, err, best)
	}
}

// crash leaves the partition as it is and goes on with a copy of its folder,
// as kill -9 would; bytes may follow that a last write began.
func (s *machine) crash(t *rapid.T) {
	old := s.p
	s.copyDir(t)
	switch rapid.SampledFrom([]string{"kill", "zeroes", "garbage", "half a batch"}).Draw(t, "tail") {
	case "zeroes":
		s.extend(t, make([]byte, rapid.IntRange(1, 5000).Draw(t, "n")))
	case "garbage":
		s.extend(t, bytes.Repeat([]byte{0xa5, 0, 2}, rapid.IntRange(1, 500).Draw(t, "n")))
	case "half a batch":
		b := plain(t, 1e12, strings.Repeat("x", 200))
		b.SetBaseOffset(record.Offset(len(s.m.recs)))
		s.extend(t, b[:rapid.IntRange(1, len(b)-1).Draw(t, "n")])
	}
	s.open(t)
	if err := old.Delete(); err != nil {
		t.Fatalf("delete: %v", err)
	}
}

// powerLoss cuts the last segment anywhere; what was not synced may be gone.
func (s *machine) powerLoss(t *rapid.T) {
	if err := s.p.Sync(); err != nil {
		t.Fatalf("sync: %v", err)
	}
	synced := len(s.m.recs)
	for range rapid.IntRange(0, 5).Draw(t, "more") {
		s.append(t)
	}
	old := s.p
	good := s.dir
	s.copyDir(t)
	path := s.lastSegment(t)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatalf("stat: %v", err)
	}
	cut := max(st.Size()-rapid.Int64Range(0, 1500).Draw(t, "lost"), 0)
	if err := os.Truncate(path, cut); err != nil {
		t.Fatalf("truncate: %v", err)
	}
	p, err := Open(s.dir, testTP, testID, s.cfg, Deps{Now: s.clock, Log: testLog})
	if err != nil {
		// Only synced bytes that are missing may stop it.
		if !errors.Is(err, record.ErrCorrupt) {
			t.Fatalf("open after power loss: %v", err)
		}
		s.dir = good
		s.copyDir(t)
		s.open(t)
		_ = old.Delete()
		return
	}
	s.p = p
	end := int(p.State().LogEnd)
	if i := sort.SearchInts(s.m.ends, end); end < synced || end != 0 && (i == len(s.m.ends) || s.m.ends[i] != end) {
		t.Fatalf("after power loss the log ends at %d; %d was synced, batches end at %v", end, synced, s.m.ends)
	}
	s.forget(end)
	_ = old.Delete()
}

// forget drops what a power loss took, producers' sequences included.
func (s *machine) forget(end int) {
	s.m.recs = s.m.recs[:end]
	s.m.ends = s.m.ends[:sort.SearchInts(s.m.ends, end+1)]
	s.m.seq = map[int64]int32{}
	for _, ps := range s.p.Producers() {
		s.m.seq[ps.ProducerID] = ps.LastSequence + 1
	}
}

func (s *machine) copyDir(t *rapid.T) {
	s.n++
	to := filepath.Join(s.base, fmt.Sprint(s.n))
	copyFiles(t, s.dir, to)
	s.dir = to
}

// copyFiles copies partition.meta first: what it says is durable was so before
// anything else is looked at.
func copyFiles(t fataler, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatalf("mkdir: %v", err)
	}
	meta := "partition.meta"
	copyFile(t, filepath.Join(from, meta), filepath.Join(to, meta))
	names, err := os.ReadDir(from)
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	for _, e := range names {
		if e.Name() != meta {
			copyFile(t, filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
		}
	}
}

func copyFile(t fataler, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if errors.Is(err, os.ErrNotExist) {
		return // renamed or deleted meanwhile
	}
	if err == nil {
		err = os.WriteFile(to, raw, 0o644)
	}
	if err != nil {
		t.Fatalf("copy: %v", err)
	}
}

func lastOf(dir, pattern string) string {
	names, _ := filepath.Glob(filepath.Join(dir, pattern))
	if len(names) == 0 {
		return ""
	}
	return names[len(names)-1]
}

func (s *machine) lastSegment(t *rapid.T) string {
	path := lastOf(s.dir, "*.log")
	if path == "" {
		t.Fatalf("no segment in %s", s.dir)
	}
	return path
}

func (s *machine) extend(t *rapid.T, b []byte) {
	f, err := os.OpenFile(s.lastSegment(t), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatalf("extend: %v", err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		t.Fatalf("extend: %v", err)
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base, err := os.MkdirTemp("", "firn-model")
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer os.RemoveAll(base)
		s := &machine{base: base, dir: filepath.Join(base, "0"), cfg: testConfig(), m: model{seq: map[int64]int32{}}}
		s.cfg.SegmentBytes = rapid.Int64Range(2000, 9000).Draw(t, "segment.bytes")
		s.cfg.IndexIntervalBytes = rapid.IntRange(1, 600).Draw(t, "index.interval")
		s.open(t)
		defer func() { _ = s.p.Delete() }()
		t.Repeat(map[string]func(*rapid.T){
			"append":    s.append,
			"append2":   s.append,
			"append3":   s.append,
			"read":      s.read,
			"timestamp": s.timestamp,
			"roll": func(t *rapid.T) {
				if err := s.p.Roll(); err != nil {
					t.Fatalf("roll: %v", err)
				}
			},
			"retention": func(t *rapid.T) {
				cfg := s.cfg
				cfg.RetentionBytes = rapid.Int64Range(0, 20000).Draw(t, "retention.bytes")
				s.p.SetConfig(cfg)
				if _, err := s.p.RunRetention(s.clock()); err != nil {
					t.Fatalf("retention: %v", err)
				}
				s.p.SetConfig(s.cfg)
			},
			"delete records": func(t *rapid.T) {
				o := record.Offset(rapid.IntRange(0, len(s.m.recs)).Draw(t, "to"))
				low, err := s.p.DeleteRecords(o)
				if err != nil || low < o {
					t.Fatalf("delete to %d: %d, %v", o, low, err)
				}
				s.m.start = max(s.m.start, o)
			},
			"restart": func(t *rapid.T) {
				if err := s.p.Close(); err != nil {
					t.Fatalf("close: %v", err)
				}
				s.open(t)
			},
			"crash":      s.crash,
			"power loss": s.powerLoss,
			"":           s.check,
		})
	})
}
