package commitlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// replicate appends batches as a follower does.
func replicate(l *Log, batches ...record.Batch) error {
	var buf []byte
	for _, b := range batches {
		buf = append(buf, b...)
	}
	var entries []Entry
	for rest := buf; len(rest) > 0; {
		b, after, err := record.Next(rest)
		if err != nil {
			return err
		}
		entries, rest = append(entries, Entry{Batch: b}), after
	}
	for len(entries) > 0 {
		n, err := l.AppendReplicated(buf, entries)
		if err != nil {
			return err
		}
		for _, e := range entries[:n] {
			buf = buf[e.Batch.Size():]
		}
		entries = entries[n:]
	}
	return nil
}

// leaderLog makes what a leader's log may hold: batches of several epochs and
// producers, with gaps, transactions, some of them aborted, and timestamps in
// no order.
type leaderLog struct {
	next  record.Offset
	epoch record.Epoch
	wrote int
	open  map[int64]bool
}

func (g *leaderLog) batch(t *rapid.T) record.Batch {
	if rapid.IntRange(0, 7).Draw(t, "gap") == 0 {
		g.next += record.Offset(rapid.Int64Range(1, 2000).Draw(t, "missing"))
	}
	if rapid.IntRange(0, 5).Draw(t, "election") == 0 {
		g.epoch += record.Epoch(rapid.Int32Range(1, 3).Draw(t, "epochs"))
	}
	spec := record.BatchSpec{BaseOffset: g.next, Epoch: g.epoch, Codec: record.Codec(rapid.IntRange(0, 4).Draw(t, "codec")), ProducerID: rapid.Int64Range(-1, 4).Draw(t, "producer")}
	g.wrote++
	if id := spec.ProducerID; g.open[id] && rapid.Bool().Draw(t, "ends") {
		delete(g.open, id)
		b := endMarker(t, g.next, id, rapid.Bool().Draw(t, "commits"), g.epoch)
		g.next = b.LastOffset() + 1
		return b
	} else if id >= 3 {
		spec.Transactional = true
		g.open[id] = true
	}
	if spec.ProducerID < 0 {
		spec.ProducerEpoch, spec.BaseSequence = -1, -1
	} else {
		spec.BaseSequence = int32(g.wrote * 10)
	}
	var recs []record.Record
	for i := range rapid.IntRange(1, 5).Draw(t, "records") {
		recs = append(recs, record.Record{
			Offset: g.next + record.Offset(i), Timestamp: 1e6 + int64(rapid.IntRange(0, 300).Draw(t, "ts")),
			Value: bytes.Repeat([]byte{byte(g.wrote)}, rapid.IntRange(0, 200).Draw(t, "size")),
		})
	}
	b, err := record.NewBatch(spec, recs)
	if err != nil {
		t.Fatalf("batch: %v", err)
	}
	g.next = b.LastOffset() + 1
	return b
}

// endMarker makes the marker that ends a transaction.
func endMarker(t *rapid.T, at record.Offset, id int64, commit bool, epoch record.Epoch) record.Batch {
	key := []byte{0, 0, 0, 0}
	if commit {
		key[3] = 1
	}
	b, err := record.NewBatch(record.BatchSpec{BaseOffset: at, Epoch: epoch, Transactional: true, Control: true, ProducerID: id, BaseSequence: -1},
		[]record.Record{{Offset: at, Timestamp: 1e6, Key: key, Value: []byte{0, 0, 0, 0, 0, 1}}})
	if err != nil {
		t.Fatalf("marker: %v", err)
	}
	return b
}

// looksLike compares all that can be asked of two logs.
func looksLike(got, want *Log) error {
	if got.LocalStart() != want.LocalStart() || got.End() != want.End() || got.Start() != want.Start() {
		return fmt.Errorf("it has [%d,%d,%d), want [%d,%d,%d)", got.Start(), got.LocalStart(), got.End(), want.Start(), want.LocalStart(), want.End())
	}
	a, err := allBytes(got)
	if err != nil {
		return err
	}
	b, err := allBytes(want)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("its %d bytes are not the %d bytes that were written", len(a), len(b))
	}
	if !slices.Equal(got.Epochs(), want.Epochs()) {
		return fmt.Errorf("epochs %v, want %v", got.Epochs(), want.Epochs())
	}
	if a, b := producersText(got), producersText(want); a != b {
		return fmt.Errorf("producers %s\nwant %s", a, b)
	}
	if a, b := got.Size(), want.Size(); a != b {
		return fmt.Errorf("%d bytes, want %d", a, b)
	}
	for _, from := range []record.Offset{want.LocalStart(), (want.LocalStart() + want.End()) / 2} {
		a, err1 := got.Aborted(from, want.End())
		b, err2 := want.Aborted(from, want.End())
		if fmt.Sprint(a, err1) != fmt.Sprint(b, err2) {
			return fmt.Errorf("aborted from %d: %v, %v; want %v, %v", from, a, err1, b, err2)
		}
		most, err1 := got.MaxTimestamp(from)
		wantMost, err2 := want.MaxTimestamp(from)
		if most != wantMost || err1 != nil || err2 != nil {
			return fmt.Errorf("greatest timestamp from %d on: %v, %v; want %v, %v", from, most, err1, wantMost, err2)
		}
		for ts := int64(1e6); ts < 1e6+300; ts += 37 {
			a, err1 := got.OffsetForTimestamp(ts, from, want.End())
			b, err2 := want.OffsetForTimestamp(ts, from, want.End())
			if a != b || err1 != nil || err2 != nil {
				return fmt.Errorf("timestamp %d from %d on: %v, %v; want %v, %v", ts, from, a, err1, b, err2)
			}
		}
	}
	return nil
}

func allBytes(l *Log) ([]byte, error) {
	var out []byte
	for next := l.LocalStart(); next < l.End(); {
		run, err := l.Read(next, 1000, l.End(), true)
		if err != nil {
			return nil, fmt.Errorf("reading offset %d: %w", next, err)
		}
		b := make([]byte, run.Span.Size())
		_, err = run.Span.ReadAt(b, 0)
		run.Span.Release()
		if err != nil || len(b) == 0 {
			return nil, fmt.Errorf("reading offset %d: %d bytes, %w", next, len(b), err)
		}
		out = append(out, b...)
		for len(b) > 0 {
			batch, rest, err := record.Next(b)
			if err != nil {
				return nil, err
			}
			next, b = batch.LastOffset()+1, rest
		}
	}
	return out, nil
}

func producersText(l *Log) string {
	out := fmt.Sprint(l.Producers().FirstOpenTxn())
	var each []string
	l.Producers().All(func(p *Producer) {
		each = append(each, fmt.Sprint(p.ID, p.Epoch, p.CoordEpoch, p.LastTimestamp, p.TxnStart, p.Batches()))
	})
	slices.Sort(each)
	return fmt.Sprint(out, each)
}

// TestTruncatedIsAsIfNeverWritten: a log that was cut back, several times, with
// rolls, closes and crashes in between, and appended to, is in nothing different
// from one that was given the records it has.
func TestTruncatedIsAsIfNeverWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base, err := os.MkdirTemp("", "firn-truncate")
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer os.RemoveAll(base)
		cfg := Config{
			SegmentBytes: rapid.Int64Range(600, 5000).Draw(t, "segment"), IndexIntervalBytes: rapid.IntRange(1, 600).Draw(t, "interval"),
			Preallocate: rapid.Bool().Draw(t, "preallocate"),
		}
		deps := Deps{Log: quiet}
		reopen := func(dir string) *Log {
			l, err := Open(dir, topicID, cfg, deps)
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			return l
		}
		dir := filepath.Join(base, "0")
		l := reopen(dir)
		defer func() { _ = l.Remove() }()
		g := leaderLog{epoch: 1, open: map[int64]bool{}}
		var has []record.Batch
		ends := func() record.Offset {
			if len(has) == 0 {
				return 0
			}
			return has[len(has)-1].LastOffset() + 1
		}
		for step := range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"append", "append", "append", "truncate", "truncate", "roll", "close", "kill", "sync"}).Draw(t, "step") {
			case "append":
				var more []record.Batch
				for range rapid.IntRange(1, 8).Draw(t, "batches") {
					more = append(more, g.batch(t))
				}
				if err := replicate(l, more...); err != nil {
					t.Fatalf("append: %v", err)
				}
				has = append(has, more...)
			case "truncate":
				to := record.Offset(rapid.Int64Range(0, int64(l.End())).Draw(t, "to"))
				n := slices.IndexFunc(has, func(b record.Batch) bool { return b.LastOffset() >= to })
				if n < 0 {
					n = len(has)
				}
				has = has[:n:n]
				end, err := l.Truncate(to)
				if err != nil || end != ends() || l.End() != end {
					t.Fatalf("truncate to %d: %d, %v; want %d", to, end, err, ends())
				}
				g.next, g.epoch, g.open = end, g.epoch+1, map[int64]bool{}
			case "roll":
				if err := l.Roll(); err != nil {
					t.Fatalf("roll: %v", err)
				}
			case "sync":
				if err := l.Sync(); err != nil {
					t.Fatalf("sync: %v", err)
				}
			case "close":
				if err := l.Close(); err != nil {
					t.Fatalf("close: %v", err)
				}
				l = reopen(dir)
				if !l.Recovered().Clean {
					t.Fatalf("it was closed, and is scanned: %+v", l.Recovered())
				}
			case "kill":
				old := l
				next := filepath.Join(base, fmt.Sprint(step+1))
				if err := copyFolder(dir, next); err != nil {
					t.Fatalf("copy: %v", err)
				}
				dir = next
				l = reopen(dir)
				_ = old.Remove()
			}
		}
		fresh := reopen(filepath.Join(base, "fresh"))
		defer func() { _ = fresh.Remove() }()
		if len(has) > 0 {
			if err := replicate(fresh, has...); err != nil {
				t.Fatalf("append: %v", err)
			}
		}
		if err := looksLike(l, fresh); err != nil {
			t.Fatalf("%v", err)
		}
	})
}

// copyFolder copies what a killed process leaves, partition.meta first.
func copyFolder(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	names, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	slices.SortStableFunc(names, func(a, b os.DirEntry) int {
		first := func(e os.DirEntry) int {
			if e.Name() == metaName {
				return 0
			}
			return 1
		}
		return first(a) - first(b)
	})
	for _, e := range names {
		raw, err := os.ReadFile(filepath.Join(from, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // renamed meanwhile
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), raw, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestReadersWhileTheLogIsCut: who reads below the cut gets what was written,
// always; who reads beyond it gets whole records of one history or the other,
// or nothing, or that the offset is not there.
func TestReadersWhileTheLogIsCut(t *testing.T) {
	l := openLog(t, t.TempDir(), Config{SegmentBytes: 8000, IndexIntervalBytes: 300}, Deps{})
	defer l.Remove()
	mustAdd(t, l, 60, 3, 100)
	hw := l.End()
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() { // consumers
			for n := int64(i); !done.Load(); n += 7 {
				from := record.Offset(n % int64(hw))
				run, err := l.Read(from, 3000, hw, true)
				if err != nil {
					t.Errorf("offset %d: %v", from, err)
					return
				}
				if err := soundTo(run, from, hw); err != nil {
					t.Errorf("offset %d: %v", from, err)
				}
				run.Span.Release()
			}
		})
		wg.Go(func() { // followers
			for !done.Load() {
				end := l.End()
				run, err := l.Read(max(end-3, 0), 3000, end, true)
				if err != nil && !errors.Is(err, ErrOutOfRange) {
					t.Errorf("before offset %d: %v", end, err)
					return
				}
				run.Span.Release()
				if _, err := l.OffsetForTimestamp(1000+int64(hw), hw, end); err != nil && !errors.Is(err, ErrOutOfRange) {
					t.Error(err)
				}
				if _, err := l.Aborted(hw, end); err != nil && !errors.Is(err, ErrOutOfRange) {
					t.Error(err)
				}
				if err := l.SyncData(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 150 {
		mustAdd(t, l, 1+rng.IntN(20), 3, 100+rng.IntN(200))
		to := hw + record.Offset(rng.Int64N(int64(l.End()-hw)+1))
		if rng.IntN(3) == 0 {
			to = hw
		}
		if _, err := l.Truncate(to); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(10) == 0 {
			if err := l.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	done.Store(true)
	wg.Wait()
	if err := readAll(l, 0, l.End()); err != nil {
		t.Error(err)
	}
}

// soundTo says whether what was read is whole batches up to limit at most, the
// last perhaps cut.
func soundTo(run Run, from, limit record.Offset) error {
	b := make([]byte, run.Span.Size())
	if _, err := run.Span.ReadAt(b, 0); err != nil {
		return err
	}
	if len(b) == 0 {
		return errors.New("nothing was read")
	}
	for len(b) > 0 {
		batch, rest, err := record.Next(b)
		if errors.Is(err, record.ErrShort) {
			return nil
		}
		if err == nil {
			err = batch.CheckCRC()
		}
		if err != nil {
			return err
		}
		if batch.LastOffset() >= limit || batch.LastOffset() < from {
			return fmt.Errorf("a batch of offsets %d to %d", batch.BaseOffset(), batch.LastOffset())
		}
		b = rest
	}
	return nil
}

// TestTruncateWhenTheDiskFails: every call of the disk that a cut makes fails,
// one after the other, with an error that passes and with one that does not.
// Either nothing has changed, or the log refuses everything, and the next open
// finds a beginning of it that has all below the cut.
func TestTruncateWhenTheDiskFails(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
		for what, cut := range map[string]func(l *Log) (record.Offset, error){
			"truncate": func(l *Log) (record.Offset, error) { return l.Truncate(25) },
			"start":    func(l *Log) (record.Offset, error) { return 1000, l.StartAt(1000, Beginning{LogStart: 1000}) },
		} {
			failed := 0
			for call := 0; ; call++ {
				over, refused := truncateFailing(t, call, cause, what, cut)
				if over {
					break
				}
				if refused {
					failed++
				}
			}
			if failed == 0 {
				t.Errorf("%s, %v: no call that failed mattered", what, cause)
			}
		}
	}
}

func truncateFailing(t *testing.T, call int, cause error, what string, cut func(l *Log) (record.Offset, error)) (over, refused bool) {
	dir := t.TempDir()
	d := disk.Real()
	var left atomic.Int64 // calls until one fails
	left.Store(1 << 30)
	fails := func() error {
		if left.Add(-1) == -1 {
			return cause
		}
		return nil
	}
	real := *d
	d.Create = func(path string) (*os.File, error) {
		if err := fails(); err != nil {
			return nil, err
		}
		return real.Create(path)
	}
	d.WriteAt = func(f *os.File, b []byte, off int64) (int, error) {
		if err := fails(); err != nil {
			return 0, err
		}
		return real.WriteAt(f, b, off)
	}
	d.Sync = func(f *os.File) error { return fails() }
	d.Truncate = func(f *os.File, n int64) error {
		if err := fails(); err != nil {
			return err
		}
		return real.Truncate(f, n)
	}
	d.Rename = func(from, to string) error {
		if err := fails(); err != nil {
			return err
		}
		return real.Rename(from, to)
	}
	d.Remove = func(path string) error {
		if err := fails(); err != nil {
			return err
		}
		return real.Remove(path)
	}
	l := openLog(t, dir, Config{SegmentBytes: 1500}, Deps{Disk: d})
	mustAdd(t, l, 20, 3, 100)
	if err := l.Close(); err != nil { // so that there are small files of its end
		t.Fatal(err)
	}
	l = openLog(t, dir, Config{SegmentBytes: 1500}, Deps{Disk: d})
	defer l.Close()
	before := l.End()
	left.Store(int64(call))
	end, err := cut(l)
	over = left.Load() >= 0
	left.Store(1 << 30)
	want := []record.Offset{end}
	switch {
	case err == nil:
	case errors.Is(err, ErrFailed):
		refused = true
		if add(l, 1, 1) == nil {
			t.Errorf("%s, call %d, %v: the log goes on", what, call, cause)
		}
		want = nil
	case errors.Is(err, ErrFull) && cause == syscall.ENOSPC:
		refused = true
		if err := add(l, 3, 100); err != nil || l.End() != before+3 {
			t.Errorf("%s, call %d: the disk was full for a moment, and then: %v", what, call, err)
		}
		want = []record.Offset{before + 3}
	default:
		t.Fatalf("%s, call %d, %v: %v", what, call, cause, err)
	}
	again := openLog(t, crashCopy(t, dir), Config{SegmentBytes: 1500}, Deps{})
	defer again.Remove()
	if want != nil && !slices.Contains(want, again.End()) {
		t.Errorf("%s, call %d, %v: it ends at %d, want %v", what, call, cause, again.End(), want)
	}
	if again.End() != 1000 && (again.End() < 24 || again.End() > before+3 || again.Start() != 0) {
		t.Errorf("%s, call %d, %v: it has [%d,%d)", what, call, cause, again.Start(), again.End())
	}
	if err := readAll(again, again.LocalStart(), again.End()); err != nil {
		t.Errorf("%s, call %d, %v: %v", what, call, cause, err)
	}
	return over, refused
}

// epochBatch makes a batch of n records of an epoch.
func epochBatch(at record.Offset, n int, epoch record.Epoch) record.Batch {
	b := batchAt(at, n, 10, record.None)
	b.SetLeaderEpoch(epoch)
	return b
}

// TestEpochEnd: what the leader says of an epoch, and what a follower makes of
// it, on logs that have gaps, begin in object storage, or are empty
// (KIP-101, KIP-279, KIP-320).
func TestEpochEnd(t *testing.T) {
	type answer struct {
		epoch record.Epoch
		end   record.Offset
	}
	logs := map[string]struct {
		make func(l *Log) error
		want map[record.Epoch]answer
	}{
		"empty": {
			func(*Log) error { return nil },
			map[record.Epoch]answer{-1: {-1, -1}, 0: {-1, -1}, 3: {-1, -1}},
		},
		"a leader that wrote nothing": {
			func(l *Log) error { l.AssignEpoch(2, 0); return nil },
			map[record.Epoch]answer{0: {0, 0}, 2: {2, 0}, 3: {-1, -1}},
		},
		"three epochs": {
			func(l *Log) error {
				return replicate(l, epochBatch(0, 5, 1), epochBatch(5, 5, 3), epochBatch(10, 5, 3), epochBatch(15, 2, 7))
			},
			map[record.Epoch]answer{0: {0, 0}, 1: {1, 5}, 2: {1, 5}, 3: {3, 15}, 6: {3, 15}, 7: {7, 17}, 8: {-1, -1}},
		},
		"gaps where epochs change": {
			func(l *Log) error {
				return replicate(l, epochBatch(4, 1, 1), epochBatch(20, 1, 3), epochBatch(50, 1, 7))
			},
			map[record.Epoch]answer{0: {0, 4}, 1: {1, 20}, 2: {1, 20}, 3: {3, 50}, 7: {7, 51}},
		},
		"from the object store on": {
			func(l *Log) error {
				return l.StartAt(100, Beginning{LogStart: 0, Epochs: []record.EpochStart{{Epoch: 1, Start: 0}, {Epoch: 4, Start: 60}}})
			},
			map[record.Epoch]answer{0: {0, 0}, 1: {1, 60}, 3: {1, 60}, 4: {4, 100}, 5: {-1, -1}},
		},
		"from the object store on, with records": {
			func(l *Log) error {
				err := l.StartAt(100, Beginning{LogStart: 30, Epochs: []record.EpochStart{{Epoch: 1, Start: 0}, {Epoch: 4, Start: 60}}})
				return errors.Join(err, replicate(l, epochBatch(100, 5, 6)))
			},
			map[record.Epoch]answer{0: {0, 30}, 1: {1, 60}, 4: {4, 100}, 5: {4, 100}, 6: {6, 105}},
		},
		"cut back into an epoch": {
			func(l *Log) error {
				err := replicate(l, epochBatch(0, 5, 1), epochBatch(5, 5, 3), epochBatch(10, 5, 7))
				_, terr := l.Truncate(8)
				return errors.Join(err, terr)
			},
			map[record.Epoch]answer{1: {1, 5}, 2: {-1, -1}, 3: {-1, -1}, 7: {-1, -1}},
		},
		"cut back to where an epoch began that wrote nothing": {
			func(l *Log) error {
				err := replicate(l, epochBatch(0, 5, 1))
				l.AssignEpoch(4, 5)
				_, terr := l.Truncate(5)
				return errors.Join(err, terr)
			},
			map[record.Epoch]answer{1: {1, 5}, 4: {-1, -1}},
		},
	}
	for name, c := range logs {
		l := openLog(t, t.TempDir(), small, Deps{})
		if err := c.make(l); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for range 2 { // and again after a restart
			for e, want := range c.want {
				if epoch, end := l.EpochEnd(e); epoch != want.epoch || end != want.end {
					t.Errorf("%s: epoch %d: %d, %d; want %d, %d", name, e, epoch, end, want.epoch, want.end)
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = openLog(t, l.dir, small, Deps{})
		}
		l.Remove()
	}
}

// TestAppendReplicated: what follows the log's end is taken, and nothing else.
func TestAppendReplicated(t *testing.T) {
	l := openLog(t, t.TempDir(), small, Deps{})
	defer func() { l.Remove() }()
	if err := replicate(l, epochBatch(0, 5, 3), epochBatch(5, 5, 3)); err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]record.Batch{
		"what is there":           {epochBatch(5, 5, 3)},
		"an older epoch":          {epochBatch(10, 5, 2)},
		"the second is not next":  {epochBatch(10, 5, 4), epochBatch(12, 5, 4)},
		"the second is older":     {epochBatch(10, 5, 4), epochBatch(15, 5, 3)},
		"it begins below the end": {epochBatch(8, 5, 3)},
		"too far for a segment":   {epochBatch(10+1<<32, 5, 3)},
	} {
		if err := replicate(l, b...); !errors.Is(err, ErrNotNext) || l.End() != 10 {
			t.Errorf("%s: %v, and the log ends at %d", what, err, l.End())
		}
	}
	l.AssignEpoch(9, 10) // it was elected, wrote nothing, and the next leader has records of an epoch before
	if err := replicate(l, epochBatch(10, 5, 5), epochBatch(70_000, 5, 5), epochBatch(200_000, 5, 6)); err != nil {
		t.Fatal(err)
	}
	if want := []record.EpochStart{{Epoch: 3, Start: 0}, {Epoch: 5, Start: 10}, {Epoch: 6, Start: 200_000}}; !slices.Equal(l.Epochs(), want) {
		t.Errorf("epochs %v, want %v", l.Epochs(), want)
	}
	before := l
	l = openLog(t, crashCopy(t, l.dir), small, Deps{})
	before.Remove()
	if l.End() != 200_005 || len(l.Recovered().Cut) > 0 {
		t.Errorf("with gaps, after a crash: %+v", l.Recovered())
	}
}

// TestLogStartInABatch: records were deleted up to the middle of a batch. A
// replica that begins there gets the batch whole; one that is cut back into it
// begins anew.
func TestLogStartInABatch(t *testing.T) {
	l := openLog(t, t.TempDir(), small, Deps{})
	defer func() { l.Remove() }()
	if err := l.StartAt(6, Beginning{LogStart: 6, Epochs: []record.EpochStart{{Epoch: 2, Start: 6}}}); err != nil {
		t.Fatal(err)
	}
	if err := replicate(l, epochBatch(4, 5, 2), epochBatch(9, 5, 2)); err != nil {
		t.Fatal(err)
	}
	if l.Start() != 6 || l.LocalStart() != 6 || l.End() != 14 {
		t.Errorf("it has [%d,%d,%d)", l.Start(), l.LocalStart(), l.End())
	}
	before := l
	l = openLog(t, crashCopy(t, l.dir), small, Deps{})
	before.Remove()
	if l.Start() != 6 || l.End() != 14 {
		t.Errorf("after a crash it has [%d,%d)", l.Start(), l.End())
	}
	if _, err := l.Truncate(5); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("cut back below its start: %v", err)
	}
	if end, err := l.Truncate(7); err != nil || end != 6 || l.Start() != 6 || l.End() != 6 {
		t.Errorf("cut back into the batch: %d, %v", end, err)
	}
	if err := replicate(l, epochBatch(4, 5, 3)); err != nil || l.End() != 9 {
		t.Errorf("%v, it ends at %d", err, l.End())
	}
}

// TestStartAt: what a log that begins anew is told has to fit, and is kept.
func TestStartAt(t *testing.T) {
	src := openLog(t, t.TempDir(), small, Deps{})
	mustAdd(t, src, 10, 3, 10)
	snapshot := src.Producers().encode(30)
	src.Remove()
	l := openLog(t, t.TempDir(), small, Deps{})
	defer func() { l.Remove() }()
	mustAdd(t, l, 100, 3, 100)
	for what, b := range map[string]Beginning{
		"start above it":        {LogStart: 31},
		"an epoch above it":     {Epochs: []record.EpochStart{{Epoch: 1, Start: 31}}},
		"epochs in no order":    {Epochs: []record.EpochStart{{Epoch: 2, Start: 1}, {Epoch: 1, Start: 3}}},
		"damaged producers":     {Producers: snapshot[:20]},
		"producers of another":  {Producers: NewProducers().encode(31)},
		"an epoch goes back":    {Epochs: []record.EpochStart{{Epoch: 1, Start: 9}, {Epoch: 2, Start: 3}}},
		"start below any start": {LogStart: -1},
	} {
		if err := l.StartAt(30, b); !errors.Is(err, ErrFormat) || l.End() != 300 {
			t.Errorf("%s: %v", what, err)
		}
	}
	want := []record.EpochStart{{Epoch: 1, Start: 2}, {Epoch: 4, Start: 30}}
	if err := l.StartAt(30, Beginning{LogStart: 7, Epochs: want, Producers: snapshot}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if p := l.Producers().Get(5); l.Start() != 7 || l.LocalStart() != 30 || l.End() != 30 || p == nil || p.LastSequence() != 29 || !slices.Equal(l.Epochs(), want) {
			t.Errorf("it has [%d,%d,%d), epochs %v, producer %+v", l.Start(), l.LocalStart(), l.End(), l.Epochs(), p)
		}
		before := l
		l = openLog(t, crashCopy(t, l.dir), small, Deps{})
		before.Remove()
	}
	if err := replicate(l, epochBatch(30, 5, 4)); err != nil {
		t.Fatal(err)
	}
	if names, _ := filepath.Glob(filepath.Join(l.dir, "*"+logSuffix)); len(names) != 1 {
		t.Errorf("segments %v", names)
	}
	if l.Truncations() != 0 {
		t.Errorf("%d truncations", l.Truncations())
	}
}

// BenchmarkTruncate is what a cut of the last batch costs, by how much there is
// in the active segment.
func BenchmarkTruncate(b *testing.B) {
	for _, mib := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("%dMiB", mib), func(b *testing.B) {
			l := openLog(b, b.TempDir(), Config{SegmentBytes: 1 << 30}, Deps{})
			defer l.Remove()
			mustAdd(b, l, mib<<20/(16<<10), 16, 1000)
			for b.Loop() {
				end := l.End()
				mustAdd(b, l, 1, 16, 1000)
				if _, err := l.Truncate(end); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestEpochsOfALostTail: leader-epoch-checkpoint has an epoch whose records a
// power loss took. The epochs that come in its place may be lesser ones, and
// are found after the next crash.
func TestEpochsOfALostTail(t *testing.T) {
	l := openLog(t, t.TempDir(), small, Deps{})
	if err := replicate(l, epochBatch(0, 5, 1)); err != nil {
		t.Fatal(err)
	}
	dir := crashCopy(t, l.dir)
	l.Remove()
	if err := os.WriteFile(filepath.Join(dir, epochsName), encodeEpochs([]record.EpochStart{{Epoch: 1, Start: 0}, {Epoch: 9, Start: 7}}), 0o644); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, dir, small, Deps{PowerLost: true})
	if err := replicate(l, epochBatch(5, 5, 3)); err != nil {
		t.Fatal(err)
	}
	again := openLog(t, crashCopy(t, dir), small, Deps{})
	defer again.Remove()
	if want := []record.EpochStart{{Epoch: 1, Start: 0}, {Epoch: 3, Start: 5}}; !slices.Equal(again.Epochs(), want) {
		t.Errorf("epochs %v, want %v", again.Epochs(), want)
	}
	l.Remove()
}

// TestRemovedSegmentsStayRemoved: recovery cut a torn tail, and the segments
// after it. Others may come in their place: their names are gone for good
// before the log is open.
func TestRemovedSegmentsStayRemoved(t *testing.T) {
	l := openLog(t, t.TempDir(), Config{SegmentBytes: 1000}, Deps{})
	mustAdd(t, l, 9, 3, 100)
	dir := t.TempDir()
	for _, s := range *l.segs.Load() { // without what says that any of it was synced
		raw, err := os.ReadFile(s.path(logSuffix))
		if err == nil && s.base == 0 {
			raw = raw[:len(raw)-1]
		}
		if err == nil {
			err = os.WriteFile(path(dir, s.base, logSuffix), raw, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	l.Remove()
	d := disk.Real()
	real := d.Remove
	gone := 0
	d.Remove = func(path string) error {
		err := real(path)
		if err == nil && filepath.Ext(path) == logSuffix {
			gone++
		}
		return err
	}
	synced := 0
	d.Sync = func(f *os.File) error {
		if f.Name() == dir {
			synced = gone
		}
		return nil
	}
	l = openLog(t, dir, Config{SegmentBytes: 1000}, Deps{PowerLost: true, Disk: d})
	defer l.Remove()
	if gone < 2 || synced != gone {
		t.Errorf("of %d segments that were removed %d are gone for good", gone, synced)
	}
}

// TestNamesOfAKilledProcess: a process was killed while it removed segments. The
// next one has nothing to repair, and yet sees to it that they do not come back.
func TestNamesOfAKilledProcess(t *testing.T) {
	dir, _ := sealedLog(t)
	d := disk.Real()
	synced := 0
	d.Sync = func(f *os.File) error {
		if f.Name() == dir {
			synced++
		}
		return nil
	}
	l := openLog(t, dir, small, Deps{Disk: d})
	if synced != 0 {
		t.Errorf("the folder of a log that was closed is synced %d times", synced)
	}
	mustAdd(t, l, 1, 1, 10)
	killed := crashCopy(t, dir)
	l.Close()
	dir, synced = killed, 0
	l = openLog(t, dir, small, Deps{Disk: d})
	if synced == 0 {
		t.Error("the folder is not synced")
	}
	l.Close()
}
