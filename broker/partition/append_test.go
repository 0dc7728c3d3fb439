package partition

import (
	"bytes"
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

func idempotent(t fataler, pid int64, epoch int16, seq int32, n int) record.Batch {
	t.Helper()
	recs := make([]record.Record, n)
	for i := range recs {
		recs[i] = record.Record{Timestamp: 1e12, Value: []byte("v")}
	}
	return produced(t, record.BatchSpec{ProducerID: pid, ProducerEpoch: epoch, BaseSequence: seq}, recs...)
}

// reseal gives the batch its checksum back after a test changed a field.
func reseal(b record.Batch) record.Batch {
	ts, create := b.MaxTimestamp(), !b.IsLogAppendTime()
	b.SetLogAppendTime(ts)
	if create {
		b.SetCreateTime(ts)
	}
	return b
}

func TestRefused(t *testing.T) {
	now := time.UnixMilli(1e12)
	cfg := testConfig()
	cfg.MaxMessageBytes = 2000
	cfg.TimestampAfterMax, cfg.TimestampBeforeMax = time.Hour, 24*time.Hour
	p := open(t, t.TempDir(), cfg, Deps{Now: func() time.Time { return now }})
	defer p.Close()
	good := func() record.Batch { return plain(t, 1e12, "a", "b") }
	edit := func(f func(b record.Batch)) record.Batch { b := good(); f(b); return reseal(b) }
	for name, c := range map[string]struct {
		batch []byte
		want  *kerr.Error
	}{
		"empty":           {nil, kerr.InvalidRecord},
		"cut":             {good()[:70], kerr.InvalidRecord},
		"old format":      {func() []byte { b := good(); b[16] = 1; return b }(), kerr.InvalidRecord},
		"future format":   {func() []byte { b := good(); b[16] = 3; return b }(), kerr.CorruptMessage},
		"flipped bit":     {func() []byte { b := good(); b[len(b)-1] ^= 4; return b }(), kerr.CorruptMessage},
		"two batches":     {append(good(), good()...), kerr.InvalidRecord},
		"base offset":     {edit(func(b record.Batch) { b.SetBaseOffset(5) }), kerr.InvalidRecord},
		"too large":       {plain(t, 1e12, string(make([]byte, 2000))), kerr.MessageTooLarge},
		"no records":      {edit(func(b record.Batch) { b[60] = 0 }), kerr.InvalidRecord},
		"count too small": {edit(func(b record.Batch) { b[60] = 1 }), kerr.InvalidRecord},
		"count too large": {edit(func(b record.Batch) { b[60] = 3; b[26] = 2 }), kerr.InvalidRecord},
		"control":         {edit(func(b record.Batch) { b[22] |= 1 << 5 }), kerr.InvalidRecord},
		"transactional":   {edit(func(b record.Batch) { b[22] |= 1 << 4 }), kerr.InvalidTxnState},
		"unknown codec":   {edit(func(b record.Batch) { b[22] |= 7 }), kerr.UnsupportedCompressionType},
		"not that codec":  {edit(func(b record.Batch) { b[22] |= 4 }), kerr.InvalidRecord},
		"no sequence":     {idempotent(t, 9, 0, -1, 1), kerr.InvalidRecord},
		"offset deltas":   {gapped(t), kerr.InvalidRecord},
		"too new":         {plain(t, 1e12+3600_001, "a"), kerr.InvalidTimestamp},
		"too old":         {plain(t, 1e12-86400_001, "a"), kerr.InvalidTimestamp},
	} {
		res, err := p.Append(c.batch, Client)
		var got *kerr.Error
		if !errors.As(err, &got) || got != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if res.BaseOffset != -1 || res.LogStartOffset != 0 && err == nil {
			t.Errorf("%s: result %+v", name, res)
		}
	}
	if end := p.State().LogEnd; end != 0 {
		t.Fatalf("the log ends at %d after refusals", end)
	}
	var inv *InvalidRecords
	b := produced(t, record.BatchSpec{ProducerID: -1, Codec: record.Gzip}, record.Record{Timestamp: 1e12}, record.Record{Timestamp: 1}, record.Record{Timestamp: -1})
	if _, err := p.Append(b, Client); !errors.As(err, &inv) || len(inv.Records) != 1 || inv.Records[0].Index != 1 {
		t.Fatalf("bad timestamp of record 1: %v", err)
	}
}

func gapped(t fataler) record.Batch {
	b, err := record.NewBatch(record.BatchSpec{ProducerID: -1, Codec: record.Zstd}, []record.Record{{Offset: 0, Timestamp: 1e12}, {Offset: 2, Timestamp: 1e12}, {Offset: 2, Timestamp: 1e12}})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return b
}

func TestTimestampsAndCodec(t *testing.T) {
	now := time.UnixMilli(1e12 + 7)
	cfg := testConfig()
	p := open(t, t.TempDir(), cfg, Deps{Now: func() time.Time { return now }, Epoch: 6})
	defer p.Close()

	// A producer that lies about the greatest timestamp is corrected.
	b := plain(t, 1e12, "a", "b")
	b.SetCreateTime(5e12)
	if res, err := p.Append(b, Client); err != nil || res.LogAppendTime != -1 {
		t.Fatalf("%+v %v", res, err)
	}
	cfg.LogAppendTime = true
	cfg.Recompress, cfg.Codec = true, record.LZ4
	p.SetConfig(cfg)
	res, err := p.Append(plain(t, 1e12, "c", "d"), Client)
	if err != nil || res.LogAppendTime != now.UnixMilli() || res.BaseOffset != 2 || res.LastOffset != 3 {
		t.Fatalf("%+v %v", res, err)
	}
	out, err := p.Read(context.Background(), ReadRequest{MaxBytes: 1 << 20, CurrentEpoch: 6, LastFetchedEpoch: -1})
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, record.SpansSize(out.Spans))
	if _, err := out.Spans[0].ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	record.ReleaseSpans(out.Spans)
	first, rest, err := record.Next(raw)
	if err != nil || first.MaxTimestamp() != 1e12 || first.CheckCRC() != nil || first.LeaderEpoch() != 6 || first.Codec() != record.None {
		t.Fatalf("first batch: %v %d", err, first.MaxTimestamp())
	}
	second, _, err := record.Next(rest)
	if err != nil || !second.IsLogAppendTime() || second.MaxTimestamp() != now.UnixMilli() || second.Codec() != record.LZ4 || second.CheckCRC() != nil || second.BaseOffset() != 2 {
		t.Fatalf("second batch: %v %+v", err, second[:record.HeaderSize])
	}
}

func TestSequences(t *testing.T) {
	now := time.UnixMilli(1e12)
	p := open(t, t.TempDir(), testConfig(), Deps{Now: func() time.Time { return now }})
	defer p.Close()
	step := func(name string, b record.Batch, want error, dup bool, base record.Offset) {
		t.Helper()
		res, err := p.Append(b, Client)
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Fatalf("%s: %v, want %v", name, err, want)
		}
		if err == nil && (res.Duplicate != dup || res.BaseOffset != base) {
			t.Fatalf("%s: %+v, want base %d, duplicate %v", name, res, base, dup)
		}
	}
	step("unknown producer, not 0", idempotent(t, 7, 0, 3, 1), kerr.OutOfOrderSequenceNumber, false, 0)
	step("first", idempotent(t, 7, 0, 0, 2), nil, false, 0)
	step("again", idempotent(t, 7, 0, 0, 2), nil, true, 0)
	step("same start, other length", idempotent(t, 7, 0, 0, 1), kerr.OutOfOrderSequenceNumber, false, 0)
	for i := range int32(5) {
		step("next", idempotent(t, 7, 0, 2+i, 1), nil, false, record.Offset(2+i))
	}
	step("fifth last", idempotent(t, 7, 0, 2, 1), nil, true, 2)
	step("sixth last is forgotten", idempotent(t, 7, 0, 0, 2), kerr.OutOfOrderSequenceNumber, false, 0)
	step("gap", idempotent(t, 7, 0, 9, 1), kerr.OutOfOrderSequenceNumber, false, 0)
	step("new epoch, not 0", idempotent(t, 7, 1, 7, 1), kerr.OutOfOrderSequenceNumber, false, 0)
	step("new epoch", idempotent(t, 7, 1, 0, 1), nil, false, 7)
	step("old epoch", idempotent(t, 7, 0, 7, 1), kerr.InvalidProducerEpoch, false, 0)

	// Idle producers are dropped by the broker's clock, not by the records'.
	if _, err := p.RunRetention(now.Add(23 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	step("still known", idempotent(t, 7, 1, 1, 1), nil, false, 8)
	now = now.Add(48 * time.Hour)
	if _, err := p.RunRetention(now); err != nil {
		t.Fatal(err)
	}
	if n := len(p.Producers()); n != 0 {
		t.Fatalf("%d producers are known", n)
	}
	step("expired", idempotent(t, 7, 1, 2, 1), kerr.UnknownProducerID, false, 0)
	step("never known", idempotent(t, 8, 0, 2, 1), kerr.OutOfOrderSequenceNumber, false, 0)
	step("expired begins anew", idempotent(t, 7, 2, 0, 1), nil, false, 9)
}

func TestSequenceWraps(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir, testConfig(), Deps{})
	seq, off := int32(0), record.Offset(0)
	// One batch that claims 2^31-2 records cannot be made; the state can.
	if _, err := p.Append(idempotent(t, 1, 0, 0, 3), Client); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open(t, dir, testConfig(), Deps{})
	defer p.Close()
	p.mu.Lock()
	b := idempotent(t, 1, 0, math.MaxInt32-2, 2)
	b.SetBaseOffset(1)
	p.log.Producers().Apply(b, 1) // last sequence is 2^31-2
	p.mu.Unlock()
	seq, off = math.MaxInt32-0, 3
	for _, c := range []struct {
		seq int32
		n   int
	}{{seq, 3}, {2, 1}} {
		res, err := p.Append(idempotent(t, 1, 0, c.seq, c.n), Client)
		if err != nil || res.BaseOffset != off {
			t.Fatalf("sequence %d: %+v %v", c.seq, res, err)
		}
		off += record.Offset(c.n)
	}
	if res, err := p.Append(idempotent(t, 1, 0, math.MaxInt32, 3), Client); err != nil || !res.Duplicate || res.BaseOffset != 3 {
		t.Fatalf("duplicate over the wrap: %+v %v", res, err)
	}
}

func TestWaiters(t *testing.T) {
	p := open(t, t.TempDir(), testConfig(), Deps{})
	var got []int
	wait := func(id int, o record.Offset) func() {
		return p.AwaitHighWatermark(o, func(err error) {
			if err != nil {
				id = -id
			}
			got = append(got, id)
		})
	}
	wait(1, 0)
	wait(3, 3)
	wait(2, 1)
	cancelled := wait(9, 2)
	wait(4, 100)
	wake := make(chan struct{}, 1)
	cancel := p.Subscribe(wake, false)
	cancelled()
	for range 3 {
		if _, err := p.Append(plain(t, 1, "x"), Client); err != nil {
			t.Fatal(err)
		}
	}
	<-wake
	if want := []int{1, 2, 3}; !equal(got, want) {
		t.Fatalf("called %v, want %v", got, want)
	}
	cancel()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	wait(5, 200)
	if want := []int{1, 2, 3, -4, -5}; !equal(got, want) {
		t.Fatalf("called %v, want %v", got, want)
	}
	if _, err := p.Append(plain(t, 1, "x"), Client); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Fatalf("append after close: %v", err)
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestTransactions appends markers as a coordinator will.
func TestTransactions(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir, testConfig(), Deps{})
	add := func(pid int64, control bool, recs ...record.Record) {
		t.Helper()
		b := produced(t, record.BatchSpec{ProducerID: pid, ProducerEpoch: 0, BaseSequence: -1, Transactional: true, Control: control}, recs...)
		if _, err := p.Append(b, Coordinator); err != nil {
			t.Fatal(err)
		}
	}
	data := record.Record{Timestamp: 1, Value: []byte("v")}
	abort := record.Record{Timestamp: 1, Key: []byte{0, 0, 0, 0}, Value: []byte{0, 0, 0, 0, 0, 7}}
	commit := record.Record{Timestamp: 1, Key: []byte{0, 0, 0, 1}, Value: []byte{0, 0, 0, 0, 0, 7}}
	add(1, false, data) // 0
	add(2, false, data) // 1
	lso := func(want record.Offset) {
		t.Helper()
		if st := p.State(); st.LastStableOffset != want {
			t.Fatalf("last stable offset %d, want %d", st.LastStableOffset, want)
		}
	}
	lso(0)
	add(1, true, abort) // 2
	lso(1)
	if err := p.Roll(); err != nil {
		t.Fatal(err)
	}
	if s := p.Sealed(0); len(s) != 0 {
		t.Fatalf("sealed above the last stable offset: %+v", s)
	}
	res, err := p.Read(context.Background(), ReadRequest{MaxBytes: 1 << 20, Isolation: record.ReadCommitted, CurrentEpoch: -1, LastFetchedEpoch: -1})
	if err != nil {
		t.Fatal(err)
	}
	var recs []record.Record
	next, err := decodeSpans(res.Spans, 0, &recs)
	if err != nil || next != 1 || len(res.Aborted) != 1 || res.Aborted[0] != (record.AbortedTxn{ProducerID: 1, FirstOffset: 0, LastOffset: 2}) {
		t.Fatalf("read committed up to %d, aborted %v, %v", next, res.Aborted, err)
	}
	add(2, true, commit) // 3
	lso(4)
	for _, crash := range []bool{true, false, true} {
		if crash {
			to := t.TempDir()
			copyFiles(t, dir, to)
			if err := p.Delete(); err != nil {
				t.Fatal(err)
			}
			dir = to
		} else if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		p = open(t, dir, testConfig(), Deps{})
		lso(4)
		files, err := p.OpenSealed(0)
		if err != nil || len(files.Aborted) != 1 || len(files.Producers) == 0 {
			t.Fatalf("sealed: %+v %v", files, err)
		}
		files.Close()
	}
	if ps := p.Producers(); len(ps) != 2 || ps[0].CoordEpoch != 7 || ps[0].TxnStartOffset != -1 {
		t.Fatalf("producers %+v", ps)
	}
	p.Close()
}

func TestEpochs(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir, testConfig(), Deps{Epoch: 2})
	add := func() {
		t.Helper()
		if _, err := p.Append(plain(t, 1, "a", "b"), Client); err != nil {
			t.Fatal(err)
		}
	}
	add()
	p.Lead(leads(5))
	add()
	p.Lead(leads(4)) // older: ignored
	add()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open(t, dir, testConfig(), Deps{Epoch: 6})
	defer p.Close()
	for _, c := range []struct {
		ask, epoch record.Epoch
		end        record.Offset
	}{{-1, -1, -1}, {0, 0, 0}, {2, 2, 2}, {3, 2, 2}, {4, 2, 2}, {5, 5, 6}, {6, 6, 6}, {7, -1, -1}} {
		if e, o := p.EpochEnd(c.ask); e != c.epoch || o != c.end {
			t.Errorf("end of epoch %d is %d, %d; want %d, %d", c.ask, e, o, c.epoch, c.end)
		}
	}
	if e := p.EpochAt(3); e != 5 {
		t.Errorf("offset 3 has epoch %d", e)
	}
	read := func(current, last record.Epoch, o record.Offset) (ReadResult, error) {
		res, err := p.Read(context.Background(), ReadRequest{Offset: o, MaxBytes: 100, CurrentEpoch: current, LastFetchedEpoch: last})
		record.ReleaseSpans(res.Spans)
		return res, err
	}
	if _, err := read(5, -1, 0); !errors.Is(err, kerr.FencedLeaderEpoch) {
		t.Errorf("old epoch: %v", err)
	}
	if _, err := read(7, -1, 0); !errors.Is(err, kerr.UnknownLeaderEpoch) {
		t.Errorf("future epoch: %v", err)
	}
	if res, err := read(6, 3, 4); err != nil || res.Diverging == nil || *res.Diverging != (record.EpochStart{Epoch: 2, Start: 2}) || res.Spans != nil {
		t.Errorf("diverging: %+v %v", res.Diverging, err)
	}
	if res, err := read(6, 5, 4); err != nil || res.Diverging != nil || len(res.Spans) != 1 {
		t.Errorf("not diverging: %+v %v", res, err)
	}
}

func TestMinOneBatch(t *testing.T) {
	p := open(t, t.TempDir(), testConfig(), Deps{})
	defer p.Close()
	for range 3 {
		if _, err := p.Append(plain(t, 1, string(bytes.Repeat([]byte("x"), 500))), Client); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		max  int
		min  bool
		want int64
	}{{10, true, 1}, {10, false, 0}, {0, true, 1}, {1200, true, 2}, {1200, false, 2}, {1 << 30, false, 3}} {
		res, err := p.Read(context.Background(), ReadRequest{MaxBytes: c.max, MinOneBatch: c.min, CurrentEpoch: -1, LastFetchedEpoch: -1})
		if err != nil {
			t.Fatal(err)
		}
		if got := record.SpansSize(res.Spans); got != c.want*p.State().LocalBytes/3 {
			t.Errorf("%+v: %d bytes", c, got)
		}
		record.ReleaseSpans(res.Spans)
	}
}

// leads is the record of a partition under an epoch, whose leader is its only
// replica.
func leads(e record.Epoch) replica.Record {
	only := []record.BrokerID{0}
	return replica.Record{Leader: 0, Epoch: e, Replicas: only, ISR: only}
}
