package commitlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("FIRN_TEST_APPEND_DIR"); dir != "" {
		appendUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

var topicID = record.TopicID{7}

var quiet = slog.New(slog.DiscardHandler)

func openLog(t testing.TB, dir string, cfg Config, deps Deps) *Log {
	t.Helper()
	deps.Log = quiet
	l, err := Open(dir, topicID, cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// batchAt makes one batch of n records of size bytes at offset o.
func batchAt(o record.Offset, n, size int, codec record.Codec) record.Batch {
	recs := make([]record.Record, n)
	for i := range recs {
		v := make([]byte, max(size, 8))
		binary.BigEndian.PutUint64(v, uint64(o)+uint64(i))
		recs[i] = record.Record{Offset: o + record.Offset(i), Timestamp: 1000 + int64(o) + int64(i), Value: v}
	}
	b, err := record.NewBatch(record.BatchSpec{BaseOffset: o, Epoch: 1, Codec: codec, ProducerID: 5, BaseSequence: int32(o)}, recs)
	if err != nil {
		panic(err)
	}
	return b
}

func add(l *Log, n, size int) error {
	b := batchAt(l.End(), n, size, record.None)
	return l.Append(b, []Entry{{Batch: b, MaxTSOffset: b.LastOffset()}})
}

func mustAdd(t testing.TB, l *Log, times, n, size int) {
	t.Helper()
	for range times {
		if err := add(l, n, size); err != nil {
			t.Fatal(err)
		}
	}
}

// readAll checks that exactly the offsets [from, end) are there.
func readAll(l *Log, from, end record.Offset) error {
	next := from
	for next < end {
		run, err := l.Read(next, 4096, l.End(), true)
		if err != nil {
			return err
		}
		raw := make([]byte, run.Span.Size())
		if _, err := run.Span.ReadAt(raw, 0); err != nil && err != io.EOF {
			return err
		}
		run.Span.Release()
		if len(raw) == 0 {
			return fmt.Errorf("nothing at offset %d of %d", next, end)
		}
		for len(raw) > 0 {
			b, rest, err := record.Next(raw)
			if err != nil {
				return fmt.Errorf("at offset %d: %w", next, err)
			}
			if err := b.CheckCRC(); err != nil {
				return err
			}
			err = b.EachRecord(1<<20, func(r *record.Record) bool {
				if r.Offset >= next && (r.Offset != next || binary.BigEndian.Uint64(r.Value) != uint64(next)) {
					return false
				}
				next = max(next, r.Offset+1)
				return true
			})
			if err != nil {
				return err
			}
			if next != b.LastOffset()+1 {
				return fmt.Errorf("record %d is not what it was", next)
			}
			raw = rest
		}
	}
	return nil
}

func crashCopy(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range names {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), raw, 0o644)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return to
}

func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

var small = Config{SegmentBytes: 4000, IndexIntervalBytes: 500}

// sealedLog has some sealed segments, everything synced, and was closed.
func sealedLog(t testing.TB) (dir string, end record.Offset) {
	t.Helper()
	dir = t.TempDir()
	l := openLog(t, dir, small, Deps{})
	mustAdd(t, l, 60, 3, 100)
	end = l.End()
	if l.NumSegments() < 5 {
		t.Fatalf("%d segments", l.NumSegments())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, end
}

func path(dir string, base record.Offset, suffix string) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", base, suffix))
}

func TestDamagedSmallFilesAreMadeAnew(t *testing.T) {
	for _, suffix := range []string{indexSuffix, timeSuffix, snapshotSuffix, metaName, epochsName} {
		for _, how := range []string{"flipped", "cut", "gone", "foreign"} {
			t.Run(suffix+" "+how, func(t *testing.T) {
				dir, end := sealedLog(t)
				names, _ := filepath.Glob(filepath.Join(dir, "*"+suffix))
				if len(names) == 0 {
					t.Fatal("no such file")
				}
				for _, name := range names {
					var err error
					switch how {
					case "flipped":
						flip(t, name, 21)
					case "cut":
						err = os.Truncate(name, 25)
					case "gone":
						err = os.Remove(name)
					case "foreign":
						err = os.WriteFile(name, encodeTxns(1, nil), 0o644)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				l := openLog(t, dir, small, Deps{})
				defer l.Close()
				if l.End() != end {
					t.Fatalf("ends at %d, want %d", l.End(), end)
				}
				if err := readAll(l, 0, end); err != nil {
					t.Fatal(err)
				}
				for o := record.Offset(0); o < end; o += 7 {
					got, err := l.OffsetForTimestamp(1000+int64(o), 0, end)
					if err != nil || got.Offset != o {
						t.Fatalf("time of %d is at %+v, %v", o, got, err)
					}
				}
				if p := l.Producers().Get(5); p == nil || p.LastSequence() != int32(end-1) {
					t.Fatalf("producer %+v", p)
				}
				if got := l.EpochAt(end - 1); got != 1 {
					t.Fatalf("epoch %d", got)
				}
				segs, err := l.Sealed(0, end)
				if err != nil || len(segs) < 4 {
					t.Fatalf("%d sealed, %v", len(segs), err)
				}
				for _, s := range segs {
					if s.MaxTimestamp != 1000+int64(s.End)-1 || s.MaxTSOffset != s.End-1 {
						t.Fatalf("segment %+v", s)
					}
				}
			})
		}
	}
}

func TestDamagedSegments(t *testing.T) {
	t.Run("flipped bit in a sealed one is found before it is copied", func(t *testing.T) {
		dir, _ := sealedLog(t)
		flip(t, path(dir, 0, logSuffix), 700)
		l := openLog(t, dir, small, Deps{})
		defer l.Close()
		var c *CorruptError
		if _, err := l.OpenSealed(0); !errors.As(err, &c) || c.Path != path(dir, 0, logSuffix) || c.Position == 0 || c.Position > 700 || !errors.Is(err, record.ErrChecksum) {
			t.Fatalf("%v", err)
		}
		segs, err := l.Sealed(0, l.End())
		if err != nil {
			t.Fatal(err)
		}
		files, err := l.OpenSealed(segs[1].Base)
		if err != nil {
			t.Fatal(err)
		}
		defer files.Close()
		if files.Bytes != segs[1].Bytes || len(files.OffsetIndex) == 0 || len(files.TimeIndex) == 0 || len(files.Producers) == 0 || len(files.Epochs) != 1 {
			t.Fatalf("%+v", files)
		}
		if at, ps, err := DecodeSnapshot(files.Producers); err != nil || at != files.End || ps.Get(5).LastSequence() != int32(files.End-1) {
			t.Fatalf("producers at %d: %v", at, err)
		}
		if n, err := l.DropDamaged(c, 1); n != 0 || err != nil {
			t.Fatalf("dropped %d, not safe yet: %v", n, err)
		}
		if n, err := l.DropDamaged(c, segs[0].End); n != 1 || err != nil || l.LocalStart() != segs[0].End || l.Start() != 0 {
			t.Fatalf("dropped %d, %v", n, err)
		}
	})
	t.Run("cut sealed one", func(t *testing.T) {
		dir, _ := sealedLog(t)
		if err := os.Truncate(path(dir, 0, logSuffix), 1000); err != nil {
			t.Fatal(err)
		}
		l := openLog(t, dir, small, Deps{})
		defer l.Close()
		run, err := l.Read(0, 1<<20, l.End(), true)
		if err != nil || run.Span.Size() == 0 || run.Span.Size() > 1000 {
			t.Fatalf("what is left of it: %d bytes, %v", run.Span.Size(), err)
		}
		run.Span.Release()
		if err := readAll(l, 0, run.Next); err != nil {
			t.Fatal(err)
		}
		var c *CorruptError
		for _, at := range []record.Offset{run.Next, run.Next + 1} {
			if _, err := l.Read(at, 1<<20, l.End(), true); !errors.As(err, &c) || c.Position != run.Span.Size() {
				t.Fatalf("%v", err)
			}
		}
		if _, err := l.OffsetForTimestamp(1000+int64(run.Next), 0, l.End()); !errors.Is(err, record.ErrCorrupt) {
			t.Fatalf("%v", err)
		}
		if _, err := l.MaxTimestamp(0); !errors.Is(err, record.ErrCorrupt) {
			t.Fatalf("%v", err)
		}
		if segs, err := l.Sealed(0, l.End()); len(segs) != 0 || !errors.Is(err, record.ErrCorrupt) {
			t.Fatalf("%d sealed, %v", len(segs), err)
		}
		// Retention gets rid of it all the same.
		if n, err := l.DropOldest(true, func(s record.Segment, modified time.Time) bool {
			return s.Base == 0 && s.MaxTimestamp < 0 && !modified.IsZero()
		}); n != 1 || err != nil {
			t.Fatalf("dropped %d, %v", n, err)
		}
	})
	t.Run("flipped bit in the active one, synced", func(t *testing.T) {
		dir := t.TempDir()
		l := openLog(t, dir, Config{}, Deps{})
		mustAdd(t, l, 10, 3, 100)
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
		to := crashCopy(t, dir)
		l.Close()
		flip(t, path(to, 0, logSuffix), l.Size()-1) // the last batch: only the recovery point tells
		_, err := Open(to, topicID, Config{}, Deps{Log: quiet})
		var c *CorruptError
		if !errors.As(err, &c) || c.Path != path(to, 0, logSuffix) || c.Position != l.Size()/10*9 {
			t.Fatalf("%v", err)
		}
	})
	t.Run("flipped bit in the middle, not synced", func(t *testing.T) {
		dir := t.TempDir()
		l := openLog(t, dir, Config{}, Deps{})
		mustAdd(t, l, 10, 3, 100)
		to, size := crashCopy(t, dir), l.Size()
		l.Close()
		before, _ := os.ReadFile(path(to, 0, logSuffix))
		flip(t, path(to, 0, logSuffix), size/2)
		_, err := Open(to, topicID, Config{}, Deps{Log: quiet})
		if !errors.Is(err, record.ErrCorrupt) || !strings.Contains(err.Error(), "a valid batch follows") {
			t.Fatalf("%v", err)
		}
		flip(t, path(to, 0, logSuffix), size/2)
		if after, _ := os.ReadFile(path(to, 0, logSuffix)); !bytes.Equal(before, after) {
			t.Fatal("a refused log was changed")
		}
	})
	t.Run("torn at every byte", func(t *testing.T) {
		dir := t.TempDir()
		l := openLog(t, dir, Config{}, Deps{})
		mustAdd(t, l, 3, 2, 20)
		to := crashCopy(t, dir)
		l.Close()
		whole, err := os.ReadFile(path(to, 0, logSuffix))
		if err != nil {
			t.Fatal(err)
		}
		each := len(whole) / 3
		for cut := range len(whole) + 1 {
			if err := os.WriteFile(path(to, 0, logSuffix), whole[:cut], 0o644); err != nil {
				t.Fatal(err)
			}
			l := openLog(t, to, Config{}, Deps{})
			if want := record.Offset(cut / each * 2); l.End() != want || l.Size() != int64(cut/each*each) {
				t.Fatalf("cut at %d: ends at %d, want %d", cut, l.End(), want)
			}
			mustAdd(t, l, 1, 1, 10)
			if err := readAll(l, 0, l.End()); err != nil {
				t.Fatal(err)
			}
			if err := l.Remove(); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(to, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestOtherTopic(t *testing.T) {
	dir, _ := sealedLog(t)
	if _, err := Open(dir, record.TopicID{8}, small, Deps{Log: quiet}); !errors.Is(err, ErrOtherTopic) {
		t.Fatalf("%v", err)
	}
}

func TestCleanOpenDoesNotScan(t *testing.T) {
	dir, end := sealedLog(t)
	before := scannedBytes.Get()
	l := openLog(t, dir, small, Deps{})
	if l.End() != end || scannedBytes.Get() != before {
		t.Fatalf("ends at %d, scanned %d bytes", l.End(), scannedBytes.Get()-before)
	}
	mustAdd(t, l, 1, 1, 10)
	to := crashCopy(t, dir)
	l.Close()
	l = openLog(t, to, small, Deps{})
	defer l.Close()
	if l.End() != end+1 || scannedBytes.Get() == before {
		t.Fatalf("after a crash it ends at %d, scanned %d bytes", l.End(), scannedBytes.Get()-before)
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	dir, _ := sealedLog(t)
	for _, name := range []string{"x.tmp", "00000000000000000000.log.deleted", "00000000000000000000.index.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := openLog(t, dir, small, Deps{})
	defer l.Close()
	for _, pattern := range []string{"*.tmp", "*.deleted"} {
		if names, _ := filepath.Glob(filepath.Join(dir, pattern)); len(names) != 0 {
			t.Errorf("left: %v", names)
		}
	}
}

func TestRollByRecordTime(t *testing.T) {
	l := openLog(t, t.TempDir(), Config{SegmentAge: time.Second}, Deps{})
	defer l.Close()
	mustAdd(t, l, 102, 10, 10) // 1,020 records, a millisecond apart
	if n := l.NumSegments(); n != 2 {
		t.Fatalf("%d segments", n)
	}
	if err := l.RollIfOld(time.Now().Add(time.Minute)); err != nil || l.NumSegments() != 3 {
		t.Fatalf("%d segments, %v", l.NumSegments(), err)
	}
}

func TestStartAtAboveTheEnd(t *testing.T) {
	dir, end := sealedLog(t)
	l := openLog(t, dir, small, Deps{})
	if err := l.StartAt(end+1000, Beginning{}); err != nil {
		t.Fatal(err)
	}
	if l.End() != end+1000 || l.LocalStart() != end+1000 || l.Start() != 0 || l.NumSegments() != 1 {
		t.Fatalf("[%d, %d, %d)", l.Start(), l.LocalStart(), l.End())
	}
	to := crashCopy(t, dir)
	mustAdd(t, l, 1, 1, 1)
	l.Close()
	for _, d := range []string{dir, to} {
		l := openLog(t, d, small, Deps{})
		if l.LocalStart() != end+1000 || l.End() < end+1000 || !l.Producers().Forgotten(99) && d == to {
			t.Fatalf("[%d, %d, %d)", l.Start(), l.LocalStart(), l.End())
		}
		l.Close()
	}
	// All segments lost: no offset may be used twice.
	for _, pattern := range []string{"*.log"} {
		names, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, n := range names {
			os.Remove(n)
		}
	}
	l = openLog(t, dir, small, Deps{})
	defer l.Close()
	if l.End() != end+1001 {
		t.Fatalf("ends at %d", l.End())
	}
}

// limited is a disk with room for so many bytes of segments.
func limited(room *atomic.Int64) *disk.Disk {
	d := disk.Real()
	real := d.WriteAt
	d.WriteAt = func(f *os.File, p []byte, off int64) (int, error) {
		if left := room.Add(-int64(len(p))); left < 0 {
			room.Add(int64(len(p)))
			n, err := real(f, p[:len(p)/2], off)
			return n, errors.Join(&os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}, err)
		}
		return real(f, p, off)
	}
	return d
}

func TestDiskFull(t *testing.T) {
	var room atomic.Int64
	room.Store(12000)
	dir := t.TempDir()
	l := openLog(t, dir, small, Deps{Disk: limited(&room), Failed: func(err error) { t.Errorf("failed: %v", err) }})
	checkFull(t, l, dir, func() { room.Store(1 << 30) })
}

// TestDiskFullForReal fills a small file system.
func TestDiskFullForReal(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 900<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(dir, "p")
	l := openLog(t, sub, small, Deps{Failed: func(err error) { t.Errorf("failed: %v", err) }})
	checkFull(t, l, sub, func() { os.Remove(ballast) })
}

func checkFull(t *testing.T, l *Log, dir string, makeRoom func()) {
	t.Helper()
	var err error
	for range 1000 {
		if err = add(l, 3, 100); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v", err)
	}
	end := l.End()
	for range 3 {
		if err := add(l, 3, 100); !errors.Is(err, ErrFull) || l.End() != end {
			t.Fatalf("%v, ends at %d", err, l.End())
		}
	}
	if err := readAll(l, 0, end); err != nil {
		t.Fatal(err)
	}
	to := crashCopy(t, dir)
	c := openLog(t, to, small, Deps{})
	if c.End() != end {
		t.Fatalf("after a crash on a full disk it ends at %d, want %d", c.End(), end)
	}
	c.Close()
	makeRoom()
	mustAdd(t, l, 20, 3, 100)
	l.Kick()
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := readAll(l, 0, l.End()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFailedDiskStopsTheLog(t *testing.T) {
	for _, what := range []string{"write", "sync"} {
		var broken atomic.Bool
		d := disk.Real()
		real := *d
		d.WriteAt = func(f *os.File, p []byte, off int64) (int, error) {
			if broken.Load() && what == "write" {
				return 0, syscall.EIO
			}
			return real.WriteAt(f, p, off)
		}
		d.Sync = func(f *os.File) error {
			if broken.Load() && what == "sync" {
				return syscall.EIO
			}
			return real.Sync(f)
		}
		var calls atomic.Int32
		l := openLog(t, t.TempDir(), Config{}, Deps{Disk: d, Failed: func(error) { calls.Add(1) }})
		mustAdd(t, l, 2, 1, 10)
		broken.Store(true)
		err := add(l, 1, 10)
		if what == "sync" {
			err = l.Sync()
		}
		broken.Store(false)
		if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("%s: %v", what, err)
		}
		if err := add(l, 1, 10); !errors.Is(err, ErrFailed) {
			t.Fatalf("%s: append after the failure: %v", what, err)
		}
		if err := l.Close(); err != nil || calls.Load() != 1 {
			t.Fatalf("%s: close %v, %d calls", what, err, calls.Load())
		}
		// Of one that had begun before: what it says is synced may be forgotten
		// by the journal.
		if err := l.syncData(); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: a sync of files that were closed unsynced: %v", what, err)
		}
	}
}

// TestNoDescriptors: a log that cannot open a file for want of descriptors is
// not broken.
func TestNoDescriptors(t *testing.T) {
	var none atomic.Bool
	d := disk.Real()
	real := *d
	d.WriteAt = func(f *os.File, p []byte, off int64) (int, error) {
		if none.Load() {
			return 0, syscall.EMFILE
		}
		return real.WriteAt(f, p, off)
	}
	l := openLog(t, t.TempDir(), small, Deps{Disk: d, Failed: func(err error) { t.Errorf("failed: %v", err) }})
	mustAdd(t, l, 3, 3, 100)
	none.Store(true)
	if err := add(l, 3, 100); !errors.Is(err, syscall.EMFILE) || errors.Is(err, ErrFailed) {
		t.Fatalf("%v", err)
	}
	if err := l.Sync(); !errors.Is(err, syscall.EMFILE) || errors.Is(err, ErrFailed) {
		t.Fatalf("%v", err)
	}
	none.Store(false)
	mustAdd(t, l, 3, 3, 100)
	if err := readAll(l, 0, l.End()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// appendUntilKilled is the child of TestKilled: it tells what was appended.
func appendUntilKilled(dir string) {
	l, err := Open(dir, topicID, Config{SegmentBytes: 20000, IndexIntervalBytes: 300}, Deps{Log: quiet})
	for i := 0; err == nil; i++ {
		if err = add(l, 1+i%5, 100*(i%9)); err == nil {
			_, err = fmt.Println(l.End())
		}
		if i%97 == 96 {
			_, err = l.DropOldest(true, func(s record.Segment, _ time.Time) bool { return s.End < l.End()-400 })
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestKilled(t *testing.T) {
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(1, 2))
	var acked record.Offset
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "FIRN_TEST_APPEND_DIR="+dir)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for range 50 + rnd.IntN(400) {
			var o record.Offset
			if _, err := fmt.Fscanln(out, &o); err != nil {
				t.Fatalf("child: %v %s", err, errs.String())
			}
			acked = o
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for { // what it still managed to say
			var o record.Offset
			if n, _ := fmt.Fscanln(out, &o); n == 0 {
				break
			}
			acked = max(acked, o)
		}
		_ = cmd.Wait()
		l := openLog(t, dir, Config{SegmentBytes: 20000, IndexIntervalBytes: 300}, Deps{})
		if l.End() < acked {
			t.Fatalf("round %d: ends at %d, %d was acknowledged", round, l.End(), acked)
		}
		if err := readAll(l, l.Start(), l.End()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if p := l.Producers().Get(5); p == nil || p.LastSequence() != int32(l.End()-1) {
			t.Fatalf("round %d: producer %+v", round, p)
		}
		if round%2 == 0 {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		} else {
			dir = crashCopy(t, dir)
			l.Close()
		}
	}
}

// TestConcurrency runs readers against the writer and retention.
func TestConcurrency(t *testing.T) {
	d := disk.Real()
	d.Sync = func(*os.File) error { return nil } // it is the order that is tried here
	l := openLog(t, t.TempDir(), Config{SegmentBytes: 3000, IndexIntervalBytes: 200}, Deps{Disk: d})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var reads atomic.Int64
	for seed := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(seed), 9))
			for {
				select {
				case <-stop:
					return
				default:
				}
				from := l.LocalStart()
				end := l.End() // not below it
				from += record.Offset(rnd.Int64N(int64(end-from) + 1))
				err := readAll(l, from, min(from+40, end))
				if errors.Is(err, ErrOutOfRange) {
					continue // retention was faster
				}
				if err != nil {
					t.Error(err)
					return
				}
				reads.Add(1)
				if _, err := l.OffsetForTimestamp(1000+int64(from), l.LocalStart(), end); err != nil && !errors.Is(err, ErrOutOfRange) {
					t.Error(err)
					return
				}
				if segs, err := l.Sealed(from, end); err != nil {
					t.Error(err)
					return
				} else if len(segs) > 0 {
					if f, err := l.OpenSealed(segs[0].Base); err == nil {
						f.Close()
					} else if !errors.Is(err, ErrOutOfRange) && !errors.Is(err, errGone) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for i := 0; i < 3000 || reads.Load() < 50 && i < 1e6; i++ {
		if err := add(l, 1+i%4, 50); err != nil {
			t.Error(err)
			break
		}
		if i%50 == 49 {
			if _, err := l.DropOldest(true, func(s record.Segment, _ time.Time) bool { return s.End < l.End()-200 }); err != nil {
				t.Error(err)
				break
			}
		}
	}
	close(stop)
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSpansOutliveTheirSegment(t *testing.T) {
	dir, _ := sealedLog(t)
	l := openLog(t, dir, small, Deps{})
	run, err := l.Read(0, 1000, l.End(), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(); err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, run.Span.Size())
	if _, err := run.Span.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	if b, _, err := record.Next(raw); err != nil || b.CheckCRC() != nil {
		t.Fatal("not readable any more")
	}
	run.Span.Release()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the folder is still there: %v", err)
	}
}
