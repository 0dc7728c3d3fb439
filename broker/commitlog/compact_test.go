package commitlog

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// unsynced is a disk for tests of which none loses power.
func unsynced() *disk.Disk {
	d := disk.Real()
	d.Sync = func(*os.File) error { return nil }
	return d
}

// beforeSwap is a disk that calls f when a compacted segment is complete and
// about to be swapped in.
func beforeSwap(f func()) *disk.Disk {
	d := unsynced()
	d.Sync = func(file *os.File) error {
		if !strings.HasSuffix(file.Name(), cleanedSuffix) {
			return nil
		}
		if _, err := os.Stat(file.Name()); err == nil { // it still has that name
			f()
		}
		return nil
	}
	return d
}

// keyed makes a batch with the next offsets, one record per key; a value of
// "" is a tombstone, a key of "" is none. The value says the offset, so that no record can be
// taken for another.
func keyed(l *Log, codec record.Codec, ts int64, producer int64, seq int32, kv ...string) record.Batch {
	recs := make([]record.Record, len(kv)/2)
	for i := range recs {
		recs[i] = record.Record{Offset: l.End() + record.Offset(i), Timestamp: ts + int64(i)}
		if k := kv[2*i]; k != "" {
			recs[i].Key = []byte(k)
		}
		if v := kv[2*i+1]; v != "" {
			recs[i].Value = []byte(v)
			recs[i].Headers = []record.Header{{Key: "h", Value: []byte(v)}}
		}
	}
	b, err := record.NewBatch(record.BatchSpec{BaseOffset: l.End(), Epoch: 1, Codec: codec, ProducerID: producer, BaseSequence: seq}, recs)
	if err != nil {
		panic(err)
	}
	return b
}

func appendBatch(t testing.TB, l *Log, b record.Batch) {
	t.Helper()
	at := b.BaseOffset()
	_ = b.EachRecord(1<<20, func(r *record.Record) bool {
		if r.Timestamp == b.MaxTimestamp() {
			at = r.Offset
			return false
		}
		return true
	})
	if err := l.Append(b, []Entry{{Batch: b, MaxTSOffset: at}}); err != nil {
		t.Fatal(err)
	}
}

func compaction(l *Log) Compaction {
	return Compaction{
		Now: 1 << 40, Limit: l.End(), Newest: math.MaxInt64, DeleteRetention: time.Hour, KeyBytes: 1 << 20,
		Pace: func(int) error { return nil },
		Turn: func(f func() error) error { return f() },
	}
}

// sealAll rolls and waits until the small files are written.
func sealAll(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Roll(); err != nil {
		t.Fatal(err)
	}
	if err := l.flush.drain(false); err != nil {
		t.Fatal(err)
	}
}

// kept is a record as a reader sees it.
type kept struct {
	offset  record.Offset
	ts      int64
	key     string
	value   string // "" for a tombstone
	headers int
}

// scanLog reads everything from the start as a consumer does.
func scanLog(l *Log) ([]kept, error) {
	var out []kept
	next := l.LocalStart()
	for next < l.End() {
		run, err := l.Read(next, 300, l.End(), true)
		if err != nil {
			return out, fmt.Errorf("at offset %d: %w", next, err)
		}
		if run.Span.Size() == 0 {
			if run.Next <= next {
				return out, fmt.Errorf("no way on from offset %d of %d", next, l.End())
			}
			next = run.Next
			continue
		}
		raw := make([]byte, run.Span.Size())
		_, err = run.Span.ReadAt(raw, 0)
		run.Span.Release()
		if err != nil && err != io.EOF {
			return out, err
		}
		for len(raw) > 0 {
			var b record.Batch
			if b, raw, err = record.Next(raw); err != nil {
				return out, err
			}
			if err := b.CheckCRC(); err != nil {
				return out, err
			}
			err := b.EachRecord(1<<20, func(r *record.Record) bool {
				if r.Offset >= next {
					out = append(out, kept{r.Offset, r.Timestamp, string(r.Key), string(r.Value), len(r.Headers)})
				}
				return true
			})
			if err != nil {
				return out, err
			}
			next = b.LastOffset() + 1
		}
	}
	return out, nil
}

func mustScan(t testing.TB, l *Log) []kept {
	t.Helper()
	out, err := scanLog(l)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCompact(t *testing.T) {
	l := openLog(t, t.TempDir(), Config{}, Deps{})
	defer l.Remove()
	appendBatch(t, l, keyed(l, record.None, 100, 9, 0, "a", "0", "b", "1", "c", "2"))
	appendBatch(t, l, keyed(l, record.Gzip, 200, -1, -1, "a", "3", "d", "4"))
	sealAll(t, l)
	appendBatch(t, l, keyed(l, record.Zstd, 300, 9, 3, "b", "", "c", "6"))
	appendBatch(t, l, keyed(l, record.None, 400, -1, -1, "e", "7", "e", "8"))
	sealAll(t, l)
	appendBatch(t, l, keyed(l, record.None, 500, -1, -1, "a", "9")) // active: not looked at
	held, err := l.Read(0, 1<<20, l.End(), true)
	if err != nil {
		t.Fatal(err)
	}
	before := make([]byte, held.Span.Size())
	if _, err := held.Span.ReadAt(before, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}

	done, err := l.Compact(compaction(l))
	if err != nil || done.End != 9 || done.Removed != 4 || done.Kept != 5 {
		t.Fatalf("got %+v, %v", done, err)
	}
	want := []kept{
		{3, 200, "a", "3", 1}, {4, 201, "d", "4", 1},
		{5, 300, "b", "", 0}, {6, 301, "c", "6", 1},
		{8, 401, "e", "8", 1}, {9, 500, "a", "9", 1},
	}
	if got := mustScan(t, l); !slices.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
	if l.NumSegments() != 2 {
		t.Errorf("%d segments, want the two joined and the active one", l.NumSegments())
	}
	// A reader that holds a span of the old segment reads on.
	after := make([]byte, held.Span.Size())
	if _, err := held.Span.ReadAt(after, 0); err != nil && err != io.EOF || string(after) != string(before) {
		t.Errorf("a span that was handed out before changed: %v", err)
	}
	held.Span.Release()

	// Offsets that are gone lead to the next record, by offset, time and maximum.
	if got, err := l.OffsetForTimestamp(0, 0, l.End()); err != nil || got.Offset != 3 {
		t.Errorf("the first record is %+v, %v", got, err)
	}
	if got, err := l.OffsetForTimestamp(301, 0, l.End()); err != nil || got.Offset != 6 {
		t.Errorf("the record of time 301 is %+v, %v", got, err)
	}
	if got, err := l.MaxTimestamp(0); err != nil || got.Offset != 9 {
		t.Errorf("the greatest time is at %+v, %v", got, err)
	}

	// The tombstone's delay begins with its first compaction; it goes with
	// the first that comes after it.
	horizon := int64(1<<40) + time.Hour.Milliseconds()
	for _, c := range []struct {
		now       int64
		tombstone bool
	}{{horizon - 1, true}, {horizon, false}} {
		sealAll(t, l)
		appendBatch(t, l, keyed(l, record.None, 600, -1, -1, "z", fmt.Sprint(l.End())))
		req := compaction(l)
		req.Now = c.now
		if _, err := l.Compact(req); err != nil {
			t.Fatal(err)
		}
		found := slices.ContainsFunc(mustScan(t, l), func(k kept) bool { return k.key == "b" })
		if found != c.tombstone {
			t.Errorf("at %d the tombstone is there: %v", c.now-horizon, found)
		}
	}
}

// What a producer's state is made from after a crash stays, emptied.
func TestCompactKeepsProducers(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Config{}, Deps{})
	appendBatch(t, l, keyed(l, record.Snappy, 100, 7, 0, "a", "0", "b", "1"))
	appendBatch(t, l, keyed(l, record.LZ4, 150, 7, 2, "a", "2"))
	appendBatch(t, l, keyed(l, record.None, 200, 8, 0, "a", "3", "b", "4"))
	sealAll(t, l)
	appendBatch(t, l, keyed(l, record.None, 300, -1, -1, "a", "5", "b", "6"))
	sealAll(t, l)
	if _, err := l.Compact(compaction(l)); err != nil {
		t.Fatal(err)
	}
	headers := func() (out []string) {
		for _, s := range *l.segs.Load() {
			f, err := s.acquire()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.walk(f.OS(), 0, s.size.Load(), func(h record.Batch, _ int64) bool {
				out = append(out, fmt.Sprintf("%d-%d producer %d seq %d records %d", h.BaseOffset(), h.LastOffset(), h.ProducerID(), h.BaseSequence(), h.NumRecords()))
				return true
			}); err != nil {
				t.Fatal(err)
			}
			f.Release()
		}
		return out
	}
	want := []string{
		"2-2 producer 7 seq 2 records 0",
		"3-4 producer 8 seq 0 records 0",
		"5-6 producer -1 seq -1 records 2",
	}
	if got := headers(); !slices.Equal(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
	// Without any snapshot the sequences are still found.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	snapshots, _ := filepath.Glob(filepath.Join(dir, "*"+snapshotSuffix))
	for _, s := range snapshots {
		os.Remove(s)
	}
	l = openLog(t, dir, Config{}, Deps{})
	defer l.Remove()
	for id, seq := range map[int64]int32{7: 2, 8: 1} {
		if p := l.Producers().Get(id); p == nil || p.LastSequence() != seq {
			t.Errorf("producer %d is known as %+v, want last sequence %d", id, p, seq)
		}
	}
}

// Keys that do not fit go in several passes, each of which leaves a log that
// is right.
func TestCompactInPasses(t *testing.T) {
	l := openLog(t, t.TempDir(), Config{}, Deps{})
	defer l.Remove()
	for i := range 60 {
		appendBatch(t, l, keyed(l, record.None, 100, -1, -1, fmt.Sprint(i%20), fmt.Sprint(l.End())))
		if i%15 == 14 {
			sealAll(t, l)
		}
	}
	req := compaction(l)
	req.KeyBytes = 7 * keySlotBytes
	passes := 0
	for last := record.Offset(-1); ; passes++ {
		done, err := l.Compact(req)
		if err != nil {
			t.Fatal(err)
		}
		if done.End == l.End() {
			break
		}
		if done.End <= last {
			t.Fatalf("no progress beyond offset %d", last)
		}
		last = done.End
		if err := l.flush.drain(false); err != nil {
			t.Fatal(err)
		}
	}
	got := mustScan(t, l)
	if len(got) != 20 || got[0].offset != 40 || passes < 5 {
		t.Errorf("%d passes leave %v", passes, got)
	}
	appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "u", "1", "v", "1", "w", "1"))
	sealAll(t, l)
	req.KeyBytes, req.Limit = 1, l.End()
	if _, err := l.Compact(req); !errors.Is(err, ErrKeyMap) {
		t.Errorf("a batch with more keys than fit gives %v", err)
	}
	if got := mustScan(t, l); len(got) != 23 {
		t.Errorf("and leaves %d records", len(got))
	}
}

// control makes the marker that ends a transaction.
func control(l *Log, producer int64, kind byte) record.Batch {
	b, err := record.NewBatch(record.BatchSpec{BaseOffset: l.End(), Epoch: 1, Transactional: true, Control: true, ProducerID: producer, BaseSequence: -1},
		[]record.Record{{Offset: l.End(), Timestamp: 100, Key: []byte{0, 0, 0, kind}, Value: []byte{0, 0, 0, 0, 0, 0}}})
	if err != nil {
		panic(err)
	}
	return b
}

func inTxn(l *Log, producer int64, seq int32, kv ...string) record.Batch {
	recs := make([]record.Record, len(kv)/2)
	for i := range recs {
		recs[i] = record.Record{Offset: l.End() + record.Offset(i), Timestamp: 100, Key: []byte(kv[2*i]), Value: []byte(kv[2*i+1])}
	}
	b, err := record.NewBatch(record.BatchSpec{BaseOffset: l.End(), Epoch: 1, Transactional: true, ProducerID: producer, BaseSequence: seq}, recs)
	if err != nil {
		panic(err)
	}
	return b
}

// Aborted records go at once and never hide committed ones; markers go when
// their records are gone, after the delay of tombstones.
func TestCompactTransactions(t *testing.T) {
	l := openLog(t, t.TempDir(), Config{}, Deps{})
	defer l.Remove()
	appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "a", "0", "b", "1"))
	appendBatch(t, l, inTxn(l, 5, 0, "a", "aborted"))
	appendBatch(t, l, control(l, 5, controlAbort)) // offset 3
	appendBatch(t, l, inTxn(l, 5, 1, "b", "4"))
	appendBatch(t, l, control(l, 5, controlCommit)) // offset 5
	appendBatch(t, l, inTxn(l, 6, 0, "c", "6"))
	appendBatch(t, l, control(l, 6, controlCommit)) // offset 7
	sealAll(t, l)
	state := func() string {
		var out []string
		for _, k := range mustScan(t, l) {
			if len(k.key) == 4 {
				out = append(out, fmt.Sprintf("%d:marker", k.offset))
			} else {
				out = append(out, fmt.Sprintf("%d:%s=%s", k.offset, k.key, k.value))
			}
		}
		return strings.Join(out, " ")
	}
	run := func(now int64, want string, aborted int) {
		t.Helper()
		req := compaction(l)
		req.Now = now
		if _, err := l.Compact(req); err != nil {
			t.Fatal(err)
		}
		if err := l.flush.drain(false); err != nil {
			t.Fatal(err)
		}
		if got := state(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if got, err := l.Aborted(0, l.End()); err != nil || len(got) != aborted {
			t.Errorf("aborted transactions: %v, %v", got, err)
		}
	}
	run(1000, "0:a=0 3:marker 4:b=4 5:marker 6:c=6 7:marker", 1)
	appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "b", "8"))
	sealAll(t, l)
	run(2000, "0:a=0 3:marker 5:marker 6:c=6 7:marker 8:b=8", 0) // the abort marker's delay begins
	appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "x", "9"))
	sealAll(t, l)
	// Producer 5's last batch is kept, emptied, and its marker with it.
	run(2000+time.Hour.Milliseconds(), "0:a=0 5:marker 6:c=6 7:marker 8:b=8 9:x=9", 0)
}

// The log's rules hold after anything that may happen, and for every key the
// latest value is there: random appends, rolls, compactions, crashes and clean
// restarts against a map.
func TestCompactModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "firn-compact")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { os.RemoveAll(dir) }()
		open := func() *Log {
			l, err := Open(dir, topicID, Config{SegmentBytes: 2000, IndexIntervalBytes: 100}, Deps{Log: quiet, Disk: unsynced()})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := open()
		defer func() { l.Close() }()
		all := map[record.Offset]kept{}
		latest := map[string]kept{}
		tombstones := map[string]bool{} // keys whose tombstone may be gone
		now := int64(1000)
		seq := map[int64]int32{}
		check := func() {
			got, err := scanLog(l)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]kept{}
			last := record.Offset(-1)
			for _, k := range got {
				if k.offset <= last || all[k.offset] != k {
					t.Fatalf("offset %d after %d: got %+v, was written as %+v", k.offset, last, k, all[k.offset])
				}
				last, seen[k.key] = k.offset, k
			}
			for key, want := range latest {
				if got, ok := seen[key]; got != want && (ok || want.value != "" || !tombstones[key]) {
					t.Fatalf("key %q: got %+v, want %+v", key, got, want)
				}
			}
			// Every offset leads to the next record that is left.
			from := record.Offset(rapid.Int64Range(int64(l.LocalStart()), int64(l.End())).Draw(t, "from"))
			i, _ := slices.BinarySearchFunc(got, from, func(k kept, o record.Offset) int { return int(k.offset - o) })
			for _, ts := range []int64{0, rapid.Int64Range(1000, now).Draw(t, "time")} {
				want := record.Offset(-1)
				if n := slices.IndexFunc(got[i:], func(k kept) bool { return k.ts >= ts }); n >= 0 {
					want = got[i+n].offset
				}
				found, err := l.OffsetForTimestamp(ts, from, l.End())
				if err != nil || found.Offset != want {
					t.Fatalf("first record from %d with time %d is %+v, %v; want offset %d", from, ts, found, err, want)
				}
			}
			if len(got) > 0 {
				best := slices.MaxFunc(got, func(a, b kept) int { return int(a.ts - b.ts) }) // the first of equals
				if m, err := l.MaxTimestamp(l.LocalStart()); err != nil || m.Timestamp != best.ts || m.Offset != best.offset {
					t.Fatalf("greatest timestamp is %+v, %v; want %+v", m, err, best)
				}
			}
		}
		ops := map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				n := rapid.IntRange(1, 8).Draw(t, "records")
				var kv []string
				for i := range n {
					value := fmt.Sprintf("%d %s", l.End()+record.Offset(i), strings.Repeat("x", rapid.IntRange(0, 60).Draw(t, "size")))
					if rapid.IntRange(0, 4).Draw(t, "tombstone") == 0 {
						value = ""
					}
					key := fmt.Sprint(rapid.IntRange(0, 12).Draw(t, "key"))
					if rapid.IntRange(0, 9).Draw(t, "no key") == 0 {
						key = "" // from before the topic was compacted
					}
					kv = append(kv, key, value)
				}
				id := rapid.Int64Range(-1, 2).Draw(t, "producer")
				s := int32(-1)
				if id >= 0 {
					s = seq[id]
					seq[id] += int32(n)
				}
				b := keyed(l, record.Codec(rapid.IntRange(0, 4).Draw(t, "codec")), now, id, s, kv...)
				ts, maxAt := func(i int) int64 { return now + int64(i) }, b.LastOffset()
				if rapid.IntRange(0, 4).Draw(t, "append time") == 0 {
					b.SetLogAppendTime(now)
					ts, maxAt = func(int) int64 { return now }, b.BaseOffset()
				}
				if err := l.Append(b, []Entry{{Batch: b, MaxTSOffset: maxAt}}); err != nil {
					t.Fatal(err)
				}
				for i := range n {
					k := kept{b.BaseOffset() + record.Offset(i), ts(i), kv[2*i], kv[2*i+1], 0}
					if k.value != "" {
						k.headers = 1
					}
					all[k.offset] = k
					if k.key != "" {
						latest[k.key] = k
						delete(tombstones, k.key)
					}
				}
				now += int64(n)
			},
			"delete records": func(t *rapid.T) {
				start := record.Offset(rapid.Int64Range(int64(l.Start()), int64(l.End())).Draw(t, "start"))
				if err := l.SetLogStart(start); err != nil {
					t.Fatal(err)
				}
				if _, err := l.DropOldest(false, func(s record.Segment, _ time.Time) bool { return s.End <= start }); err != nil {
					t.Fatal(err)
				}
				maps.DeleteFunc(latest, func(_ string, k kept) bool { return k.offset < start })
				check()
			},
			"roll": func(t *rapid.T) {
				if err := l.Roll(); err != nil {
					t.Fatal(err)
				}
				if err := l.flush.drain(false); err != nil {
					t.Fatal(err)
				}
			},
			"compact": func(t *rapid.T) {
				req := compaction(l)
				now += rapid.Int64Range(0, 50).Draw(t, "later")
				req.Now, req.DeleteRetention = now, 20*time.Millisecond
				req.KeyBytes = rapid.Int64Range(12, 40).Draw(t, "slots") * keySlotBytes
				req.Limit = record.Offset(rapid.Int64Range(0, int64(l.End())).Draw(t, "limit"))
				done, err := l.Compact(req)
				if err != nil {
					t.Fatal(err)
				}
				for key, k := range latest {
					if k.value == "" {
						tombstones[key] = true
					}
				}
				check()
				seen := map[string]bool{"": true}
				left, err := scanLog(l)
				if err != nil {
					t.Fatal(err)
				}
				for _, k := range left {
					if k.offset < done.End && seen[k.key] {
						t.Fatalf("below %d is more than the latest of key %q: offset %d", done.End, k.key, k.offset)
					}
					seen[k.key] = true
				}
			},
			"restart": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "clean") {
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
				} else {
					if err := l.flush.drain(false); err != nil {
						t.Fatal(err)
					}
					copyOf, err := os.MkdirTemp("", "firn-compact")
					if err != nil {
						t.Fatal(err)
					}
					if err := os.CopyFS(copyOf, os.DirFS(dir)); err != nil {
						t.Fatal(err)
					}
					l.Close()
					os.RemoveAll(dir)
					dir = copyOf
				}
				if rapid.IntRange(0, 5).Draw(t, "loses its indexes") == 0 {
					for _, suffix := range []string{indexSuffix, timeSuffix} {
						names, _ := filepath.Glob(filepath.Join(dir, "*"+suffix))
						for _, n := range names {
							os.Remove(n)
						}
					}
				}
				l = open()
				for id, next := range seq {
					if p := l.Producers().Get(id); p == nil || p.LastSequence() != next-1 {
						t.Fatalf("producer %d is known as %+v, want last sequence %d", id, p, next-1)
					}
				}
				check()
			},
		}
		t.Repeat(ops)
		check()
	})
}

// A crash after any change of the disk leaves a log that opens, has every
// key's latest value, and can be compacted to the end.
func TestCompactCrashes(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Hour} {
		for step := 1; ; step++ {
			if done := compactAndCrash(t, step, delay); done {
				if step < 10 {
					t.Errorf("compaction took only %d steps", step)
				}
				break
			}
		}
	}
}

func compactAndCrash(t *testing.T, step int, delay time.Duration) (done bool) {
	dir := t.TempDir()
	var mu sync.Mutex
	n, armed := 0, false
	crash := errors.New("crash")
	// Every call that changes the disk counts; from call number step on,
	// nothing is changed any more.
	dead := func() bool {
		mu.Lock()
		defer mu.Unlock()
		if armed {
			n++
		}
		return armed && n >= step
	}
	real := disk.Real()
	d := &disk.Disk{
		Create: real.Create,
		WriteAt: func(f *os.File, p []byte, off int64) (int, error) {
			if dead() {
				return 0, crash
			}
			return real.WriteAt(f, p, off)
		},
		Sync: func(f *os.File) error {
			if dead() {
				return crash
			}
			return nil
		},
		Truncate: real.Truncate,
		Rename: func(a, b string) error {
			if dead() {
				return crash
			}
			return real.Rename(a, b)
		},
		Remove: func(p string) error {
			if dead() {
				return crash
			}
			return real.Remove(p)
		},
	}
	cfg := Config{SegmentBytes: 3000, DeleteDelay: delay}
	l := openLog(t, dir, cfg, Deps{Disk: d})
	latest := map[string]kept{}
	for i := range 90 {
		key, value := fmt.Sprint(i%13), fmt.Sprint(l.End())
		if i >= 52 && i%13 == 5 {
			value = ""
		}
		b := keyed(l, record.Codec(i%5), int64(1000+i), 4, int32(i), key, value)
		appendBatch(t, l, b)
		latest[key] = kept{b.BaseOffset(), int64(1000 + i), key, value, min(len(value), 1)}
		if i%9 == 8 {
			sealAll(t, l)
		}
	}
	armed = true
	req := compaction(l)
	_, err := l.Compact(req)
	drainErr := l.flush.drain(false)
	mu.Lock()
	done = n < step
	armed = false
	mu.Unlock()
	if done && (err != nil || drainErr != nil) {
		t.Fatal(err, drainErr)
	}
	after := crashCopy(t, dir)
	l.Remove()

	l = openLog(t, after, cfg, Deps{Disk: unsynced()})
	defer l.Remove()
	verify := func(when string) int {
		got, err := scanLog(l)
		if err != nil {
			t.Fatalf("crash at step %d, %s: %v", step, when, err)
		}
		seen := map[string]kept{}
		for _, k := range got {
			seen[k.key] = k
		}
		if !maps.Equal(seen, latest) {
			t.Fatalf("crash at step %d, %s:\ngot  %v\nwant %v", step, when, seen, latest)
		}
		return len(got)
	}
	verify("after the crash")
	if p := l.Producers().Get(4); p == nil || p.LastSequence() != 89 {
		t.Fatalf("crash at step %d: the producer is known as %+v", step, p)
	}
	if err := l.flush.drain(false); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Compact(compaction(l)); err != nil {
		t.Fatalf("crash at step %d: compacting again: %v", step, err)
	}
	if n := verify("compacted again"); n != len(latest) {
		t.Fatalf("crash at step %d: %d records are left of %d keys", step, n, len(latest))
	}
	names, _ := filepath.Glob(filepath.Join(after, "*-*"))
	for _, name := range names {
		if strings.HasSuffix(name, cleanedSuffix) || strings.HasSuffix(name, swapSuffix) {
			t.Errorf("crash at step %d: %s is left over", step, name)
		}
	}
	return done
}

// A full disk stops compaction and nothing else.
func TestCompactDiskFull(t *testing.T) {
	d := disk.Real()
	full := false
	write := d.WriteAt
	d.WriteAt = func(f *os.File, p []byte, off int64) (int, error) {
		if full && strings.HasSuffix(f.Name(), cleanedSuffix) {
			return 0, syscall.ENOSPC
		}
		return write(f, p, off)
	}
	l := openLog(t, t.TempDir(), Config{}, Deps{Disk: d})
	defer l.Remove()
	for range 5 {
		appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "a", fmt.Sprint(l.End())))
	}
	sealAll(t, l)
	full = true
	if _, err := l.Compact(compaction(l)); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v", err)
	}
	if got := mustScan(t, l); len(got) != 5 {
		t.Errorf("left are %v", got)
	}
	full = false
	appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "a", fmt.Sprint(l.End())))
	if done, err := l.Compact(compaction(l)); err != nil || done.Removed != 4 {
		t.Errorf("with room again: %+v, %v", done, err)
	}
}

// A damaged batch is reported and nothing is rewritten.
func TestCompactDamaged(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Config{}, Deps{})
	for range 5 {
		appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "a", fmt.Sprint(l.End())))
	}
	sealAll(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(dir, "00000000000000000000.log"), 150)
	l = openLog(t, dir, Config{}, Deps{})
	defer l.Remove()
	var corrupt *CorruptError
	if _, err := l.Compact(compaction(l)); !errors.As(err, &corrupt) {
		t.Fatalf("got %v", err)
	}
	if st, err := os.Stat(filepath.Join(dir, "00000000000000000000.log")); err != nil || st.Size() == 0 {
		t.Errorf("the segment is %v, %v", st, err)
	}
}

// Segments that are deleted during a compaction stay deleted.
func TestCompactWhileDeleting(t *testing.T) {
	var l *Log
	l = openLog(t, t.TempDir(), Config{}, Deps{Disk: beforeSwap(func() {
		if n, err := l.DropOldest(true, func(record.Segment, time.Time) bool { return true }); err != nil || n != 1 {
			t.Errorf("dropped %d, %v", n, err)
		}
	})})
	defer l.Remove()
	for range 5 {
		appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "a", fmt.Sprint(l.End())))
	}
	sealAll(t, l)
	if done, err := l.Compact(compaction(l)); err != nil || done.End != 5 {
		t.Fatalf("got %+v, %v", done, err)
	}
	if l.Start() != 5 || l.NumSegments() != 1 {
		t.Errorf("the log begins at %d and has %d segments", l.Start(), l.NumSegments())
	}
}
