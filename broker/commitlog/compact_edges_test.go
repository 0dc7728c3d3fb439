package commitlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// segmentsOf fills a log with n sealed segments of per records, all of key a.
func segmentsOf(t testing.TB, l *Log, n, per int) {
	t.Helper()
	for range n {
		for range per {
			appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "a", fmt.Sprint(l.End())))
		}
		sealAll(t, l)
	}
}

func reopen(t testing.TB, l *Log) *Log {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return openLog(t, l.dir, *l.cfg.Load(), Deps{})
}

// A segment that is deleted while Compact looks for what there is to do leaves
// nothing to do, this time.
func TestCompactMeetsDeletedSegment(t *testing.T) {
	l := openLog(t, t.TempDir(), Config{SegmentBytes: 100}, Deps{})
	segmentsOf(t, l, 3, 2)
	l = reopen(t, l) // nothing is known of the segments any more
	defer l.Remove()
	(*l.segs.Load())[1].close()
	if d, err := l.Dirt(l.End(), 1<<60, true); err != nil || d.Dirty != 0 || d.To != d.From {
		t.Errorf("dirt is %+v, %v", d, err)
	}
	if done, err := l.Compact(compaction(l)); err != nil || done.Removed != 0 {
		t.Errorf("got %+v, %v", done, err)
	}
}

// A compaction that is ended when a segment is rewritten leaves no file.
func TestCompactEndedLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Config{}, Deps{})
	defer l.Remove()
	segmentsOf(t, l, 1, 5)
	req := compaction(l)
	refused := errors.New("not wanted any more")
	met := false
	req.Pace = func(int) error {
		if written, _ := filepath.Glob(filepath.Join(dir, "*"+cleanedSuffix)); len(written) > 0 {
			met = true
			return refused
		}
		return nil
	}
	if _, err := l.Compact(req); !errors.Is(err, refused) || !met {
		t.Fatalf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+cleanedSuffix)); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if got := mustScan(t, l); len(got) != 5 {
		t.Errorf("left are %v", got)
	}
}

// Retention that takes the oldest segments during every pass does not keep the
// others from being compacted.
func TestCompactGoesOnBesideRetention(t *testing.T) {
	for name, when := range map[string]func(*Compaction, func()){
		"while keys are read": func(c *Compaction, f func()) { c.Pace = func(int) error { f(); return nil } },
		"before the first record is rewritten": func(c *Compaction, f func()) {
			c.Turn = func(g func() error) error { f(); return g() }
		},
		"before the first swap": nil,
	} {
		t.Run(name, func(t *testing.T) {
			drop := func() {}
			l := openLog(t, t.TempDir(), Config{SegmentBytes: 100}, Deps{Disk: beforeSwap(func() { drop() })})
			defer l.Remove()
			segmentsOf(t, l, 6, 2)
			l.SetConfig(Config{SegmentBytes: 400})
			req := compaction(l)
			n := 0
			take := func() {
				if _, err := l.DropOldest(true, func(record.Segment, time.Time) bool { n++; return n <= 2 }); err != nil {
					t.Fatal(err)
				}
			}
			if when != nil {
				when(&req, take)
			} else {
				drop = take
			}
			done, err := l.Compact(req)
			if err != nil || done.End != l.End() {
				t.Fatalf("got %+v, %v", done, err)
			}
			if l.Start() == 0 {
				t.Error("nothing was deleted meanwhile")
			}
			if got := mustScan(t, l); len(got) != 1 || got[0].offset != l.End()-1 {
				t.Errorf("left are %v", got)
			}
			if d, err := l.Dirt(l.End(), 1<<60, false); err != nil || d.Dirty != 0 {
				t.Errorf("dirt is %+v, %v", d, err)
			}
		})
	}
}

// Damage that a reader found first is reported to the cleaner, too.
func TestDirtReportsKnownDamage(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Config{}, Deps{})
	segmentsOf(t, l, 1, 5)
	segmentsOf(t, l, 1, 5)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(dir, "00000000000000000000")
	flip(t, first+logSuffix, 150)
	if err := os.Remove(first + indexSuffix); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, dir, Config{}, Deps{})
	defer l.Remove()
	var corrupt *CorruptError
	if _, err := l.Read(4, 1000, l.End(), true); !errors.As(err, &corrupt) {
		t.Fatalf("the reader got %v", err)
	}
	if d, err := l.Dirt(l.End(), 1<<60, false); !errors.As(err, &corrupt) {
		t.Errorf("dirt is %+v, %v", d, err)
	}
}

// While a compacted segment takes its place the writer has its way: at every
// change that the swap makes on disk, records are appended, synced and read,
// and segments rolled. Only deletions wait. A crash at any of them loses nothing.
func TestSwapLeavesTheWriterAlone(t *testing.T) {
	var l *Log
	var writer sync.Mutex
	swapping, last, inside, met := false, false, false, 0
	var crashed []string // copies of the folder
	d := unsynced()
	change := func(path string) {
		if !swapping || inside {
			return
		}
		inside = true
		defer func() { inside = false }()
		met++
		if !writer.TryLock() {
			t.Errorf("the writer is locked out at change %d, of %s", met, path)
			return
		}
		defer writer.Unlock()
		appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "b", fmt.Sprint(l.End())))
		if err := l.SyncData(); err != nil {
			t.Error(err)
		}
		if err := l.Roll(); err != nil {
			t.Error(err)
		}
		if got := mustScan(t, l); got[len(got)-1].offset != l.End()-1 {
			t.Errorf("at change %d, of %s, the last record is %v", met, path, got[len(got)-1])
		}
		if n, err := l.DropOldest(true, func(record.Segment, time.Time) bool { return true }); n != 0 || err != nil {
			t.Errorf("at change %d, of %s, %d segments were deleted, %v", met, path, n, err)
		}
		crashed = append(crashed, crashCopy(t, l.dir))
	}
	real := disk.Real()
	d.Rename = func(from, to string) error {
		if strings.HasSuffix(to, swapSuffix) {
			swapping = true // nobody but the swap changes the disk until it is done
		}
		change(to)
		if swapping && !inside {
			last = strings.HasSuffix(from, swapSuffix)
		}
		return real.Rename(from, to)
	}
	d.Remove = func(path string) error {
		change(path)
		return real.Remove(path)
	}
	d.Sync = func(f *os.File) error {
		change(f.Name())
		if swapping && !inside && last {
			swapping = false
		}
		return nil
	}
	l = openLog(t, t.TempDir(), Config{SegmentBytes: 100}, Deps{Disk: d})
	defer func() { l.Remove() }()
	segmentsOf(t, l, 2, 2)
	l.SetConfig(Config{SegmentBytes: 1000})
	req := compaction(l)
	req.Turn = func(f func() error) error {
		writer.Lock()
		defer writer.Unlock()
		return f()
	}
	if _, err := l.Compact(req); err != nil {
		t.Fatal(err)
	}
	if met < 6 {
		t.Errorf("the swap changed the disk only %d times", met)
	}
	if err := l.flush.drain(false); err != nil {
		t.Fatal(err)
	}
	size := l.Size()
	if l = reopen(t, l); l.Size() != size {
		t.Errorf("the log's size was %d, its files have %d", size, l.Size())
	}
	if got := mustScan(t, l); len(got) != 1+met || got[0].offset != 3 || got[0].key != "a" {
		t.Errorf("%d changes, left are %v", met, got)
	}
	if n, err := l.DropOldest(true, func(record.Segment, time.Time) bool { return true }); n == 0 || err != nil {
		t.Errorf("%d segments were deleted, %v", n, err)
	}
	for i, dir := range crashed {
		l := openLog(t, dir, Config{SegmentBytes: 1000}, Deps{Disk: unsynced()})
		latest, b := record.Offset(-1), 0
		for _, k := range mustScan(t, l) {
			if k.key == "a" {
				latest = k.offset
			} else {
				b++
			}
		}
		if latest != 3 || b != i+1 {
			t.Errorf("after a crash at change %d the latest a is at %d, and there are %d b", i+1, latest, b)
		}
		if _, err := l.Compact(compaction(l)); err != nil {
			t.Errorf("after a crash at change %d: %v", i+1, err)
		}
		l.Remove()
	}
}

// A disk too full for a directory entry makes compaction wait; the log goes on.
func TestCompactSwapOnFullDisk(t *testing.T) {
	for name, refuse := range map[string]string{"pending": swapSuffix, "trash": deletedSuffix} {
		t.Run(name, func(t *testing.T) {
			d := disk.Real()
			var full atomic.Bool // renames happen in the background too
			full.Store(true)
			rename := d.Rename
			d.Rename = func(from, to string) error {
				if full.Load() && filepath.Ext(to) == filepath.Ext(refuse) {
					return &os.LinkError{Op: "rename", Old: from, New: to, Err: syscall.ENOSPC}
				}
				return rename(from, to)
			}
			l := openLog(t, t.TempDir(), Config{DeleteDelay: time.Hour}, Deps{Disk: d})
			defer l.Remove()
			segmentsOf(t, l, 1, 5)
			if _, err := l.Compact(compaction(l)); err != nil && !errors.Is(err, ErrFull) {
				t.Fatalf("got %v", err)
			}
			appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "a", "5"))
			full.Store(false)
			if _, err := l.Compact(compaction(l)); err != nil {
				t.Fatal(err)
			}
			if got := mustScan(t, l); len(got) != 2 || got[0].offset != 4 {
				t.Errorf("left are %v", got)
			}
		})
	}
}

// A tombstone's delay begins only with a pass that removes the values before
// it: with an earlier one, who read such a value could miss the tombstone.
func TestTombstonesDelayBeginsWithItsOwnPass(t *testing.T) {
	l := openLog(t, t.TempDir(), Config{}, Deps{})
	defer l.Remove()
	appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "k", "0"))
	appendBatch(t, l, keyed(l, record.None, 200, -1, -1, "a", "1"))
	appendBatch(t, l, keyed(l, record.None, 300, -1, -1, "b", "2"))
	appendBatch(t, l, keyed(l, record.None, 400, -1, -1, "c", "3", "k", ""))
	sealAll(t, l)
	req := compaction(l)
	req.KeyBytes = 4 * keySlotBytes // three keys
	done, err := l.Compact(req)
	if err != nil || done.End != 3 {
		t.Fatalf("got %+v, %v", done, err)
	}
	if err := l.flush.drain(false); err != nil {
		t.Fatal(err)
	}
	req.Now += time.Hour.Milliseconds()
	if _, err := l.Compact(req); err != nil {
		t.Fatal(err)
	}
	got := mustScan(t, l)
	if i := slices.IndexFunc(got, func(k kept) bool { return k.key == "k" }); i < 0 || got[i].offset != 4 {
		t.Errorf("the tombstone went together with the value: %v", got)
	}
}

// min.compaction.lag.ms counts from the last write where records have no
// timestamps, as in Kafka.
func TestCompactionLagWithoutTimestamps(t *testing.T) {
	l := openLog(t, t.TempDir(), Config{}, Deps{})
	defer l.Remove()
	for range 3 {
		appendBatch(t, l, keyed(l, record.None, -1, -1, -1, "a", fmt.Sprint(l.End())))
	}
	sealAll(t, l)
	for lag, dirty := range map[time.Duration]bool{time.Hour: false, -time.Hour: true} {
		d, err := l.Dirt(l.End(), time.Now().Add(-lag).UnixMilli(), false)
		if err != nil || d.Dirty > 0 != dirty {
			t.Errorf("with a lag of %v dirt is %+v, %v", lag, d, err)
		}
	}
}

// A damaged length makes compaction allocate no more than the batch that is
// there is worth.
func TestCompactDamagedLength(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Config{}, Deps{})
	for range 40 {
		appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "a", strings.Repeat("x", 1<<20)))
	}
	sealAll(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "00000000000000000000.log"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{4}, 8); err != nil { // 66 MiB; more are there
		t.Fatal(err)
	}
	f.Close()
	l = openLog(t, dir, Config{}, Deps{})
	defer l.Remove()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var corrupt *CorruptError
	if _, err := l.Compact(compaction(l)); !errors.As(err, &corrupt) {
		t.Fatalf("got %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
}

// Removing large files takes its time; whoever deletes a segment meanwhile,
// and with him the partition's producers, does not wait for that.
func TestTrashIsRemovedBesideTheWriter(t *testing.T) {
	d := disk.Real()
	began, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	remove := d.Remove
	d.Remove = func(path string) error {
		once.Do(func() {
			close(began)
			<-goOn
		})
		return remove(path)
	}
	dir := t.TempDir()
	l := openLog(t, dir, Config{DeleteDelay: time.Millisecond}, Deps{Disk: d})
	segmentsOf(t, l, 3, 1)
	dropOne := func() {
		n := 0
		if _, err := l.DropOldest(true, func(record.Segment, time.Time) bool { n++; return n == 1 }); err != nil {
			t.Fatal(err)
		}
	}
	dropOne()
	<-began
	dropOne() // hangs if it waits
	close(goOn)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l.Start() != 2 {
		t.Errorf("the log begins at %d", l.Start())
	}
}

// A segment that has lost its last batches is damaged, also one that was
// compacted before.
func TestCompactTruncatedSegment(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Config{}, Deps{})
	appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "a", "0"))
	whole := l.Size()
	appendBatch(t, l, keyed(l, record.None, 100, -1, -1, "b", "1"))
	sealAll(t, l)
	if _, err := l.Compact(compaction(l)); err != nil {
		t.Fatal(err)
	}
	l.SetConfig(Config{SegmentBytes: 100})
	segmentsOf(t, l, 1, 3)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "00000000000000000000.log"), whole); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, dir, Config{}, Deps{})
	defer l.Remove()
	var corrupt *CorruptError
	if _, err := l.Compact(compaction(l)); !errors.As(err, &corrupt) {
		t.Fatalf("got %v", err)
	}
}

// What lies wholly below the log's start is about to be deleted: damage in it
// keeps nothing from compaction.
func TestCompactLeavesOutWhatWasDeleted(t *testing.T) {
	l := openLog(t, t.TempDir(), Config{SegmentBytes: 100}, Deps{})
	defer l.Remove()
	segmentsOf(t, l, 3, 2)
	if err := l.SetLogStart(2); err != nil {
		t.Fatal(err)
	}
	flip(t, (*l.segs.Load())[0].path(logSuffix), 70)
	if done, err := l.Compact(compaction(l)); err != nil || done.End != l.End() {
		t.Fatalf("got %+v, %v", done, err)
	}
}

// What became of transactions is still known after retention took segments
// from a group that was just rewritten, or from what keys are read of.
func TestCompactTransactionsBesideRetention(t *testing.T) {
	for _, when := range []string{"keys", "swap"} {
		t.Run(when, func(t *testing.T) {
			swap := func() {}
			l := openLog(t, t.TempDir(), Config{}, Deps{Disk: beforeSwap(func() { swap() })})
			defer l.Remove()
			for _, seg := range [][]func() record.Batch{
				{func() record.Batch { return keyed(l, record.None, 100, -1, -1, "a", "0") }},
				{func() record.Batch { return inTxn(l, 5, 0, "x", "1") }, func() record.Batch { return control(l, 5, 0) }},
				{func() record.Batch { return keyed(l, record.None, 100, -1, -1, "k", "3") },
					func() record.Batch { return inTxn(l, 6, 0, "k", "aborted") },
					func() record.Batch { return control(l, 6, 0) },
					func() record.Batch { return inTxn(l, 5, 1, "k", "6") },
					func() record.Batch { return control(l, 5, 1) }},
			} {
				for _, b := range seg {
					appendBatch(t, l, b())
				}
				sealAll(t, l)
			}
			req := compaction(l)
			drop := func(n int) {
				if _, err := l.DropOldest(true, func(record.Segment, time.Time) bool { n--; return n >= 0 }); err != nil {
					t.Fatal(err)
				}
			}
			swaps, reads := 0, 0
			swap = func() {
				if swaps++; swaps == 1 && when == "swap" {
					drop(1)
				}
			}
			req.Pace = func(int) error {
				if reads++; reads == 1 && when == "keys" {
					drop(2)
				}
				return nil
			}
			if _, err := l.Compact(req); err != nil {
				t.Fatal(err)
			}
			if l.Start() == 0 {
				t.Error("nothing was deleted meanwhile")
			}
			var got []string
			for _, k := range mustScan(t, l) {
				if k.key != "" && k.key[0] >= 'a' {
					got = append(got, k.key+"="+k.value)
				}
			}
			if !slices.Equal(got, []string{"k=6"}) {
				t.Errorf("left are %q", got)
			}
		})
	}
}
