package commitlog

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

func deletedFiles(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+deletedSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func dropAll(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Roll(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.DropOldest(true, func(record.Segment, time.Time) bool { return true }); err != nil {
		t.Fatal(err)
	}
}

// file.delete.delay.ms: files stay as *.deleted, for the time, until the next
// open, or until the disk is full.
func TestDeleteDelay(t *testing.T) {
	dir := t.TempDir()
	d := disk.Real()
	full := false
	write := d.WriteAt
	d.WriteAt = func(f *os.File, p []byte, off int64) (int, error) {
		if full {
			return 0, syscall.ENOSPC
		}
		return write(f, p, off)
	}
	l := openLog(t, dir, Config{DeleteDelay: time.Hour}, Deps{Disk: d})
	mustAdd(t, l, 3, 2, 50)
	raw, err := os.ReadFile(l.active().path(logSuffix))
	if err != nil {
		t.Fatal(err)
	}
	dropAll(t, l)
	kept := false
	for _, name := range deletedFiles(t, dir) {
		got, err := os.ReadFile(name)
		kept = kept || err == nil && strings.Contains(name, logSuffix) && string(got) == string(raw)
	}
	if !kept {
		t.Fatalf("the segment is not among %q", deletedFiles(t, dir))
	}
	// A second segment of the same base does not meet the first one's files.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if len(deletedFiles(t, dir)) == 0 {
		t.Error("closing removed files before their time")
	}
	l = openLog(t, dir, Config{DeleteDelay: time.Hour}, Deps{Disk: d})
	if left := deletedFiles(t, dir); len(left) > 0 {
		t.Errorf("after a restart there are %q", left)
	}
	mustAdd(t, l, 3, 2, 50)
	dropAll(t, l)
	full = true
	if err := add(l, 1, 50); !errors.Is(err, ErrFull) {
		t.Errorf("a full disk gives %v", err)
	}
	if left := deletedFiles(t, dir); len(left) > 0 {
		t.Errorf("on a full disk there are %q", left)
	}
	full = false
	removed := make(chan struct{})
	first := sync.OnceFunc(func() { close(removed) })
	remove := d.Remove
	d.Remove = func(path string) error {
		defer func() {
			if strings.Contains(path, logSuffix) {
				first()
			}
		}()
		return remove(path)
	}
	l.SetConfig(Config{DeleteDelay: time.Millisecond})
	mustAdd(t, l, 3, 2, 50)
	dropAll(t, l)
	<-removed
	if err := l.Remove(); err != nil {
		t.Fatal(err)
	}
}

func allocated(t testing.TB, path string) (length, onDisk int64) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size(), st.Sys().(*syscall.Stat_t).Blocks * 512
}

func TestPreallocate(t *testing.T) {
	dir := t.TempDir()
	const segment = 4 << 20
	cfg := Config{SegmentBytes: segment, Preallocate: true}
	l := openLog(t, dir, cfg, Deps{})
	mustAdd(t, l, 3, 2, 50)
	path := l.active().path(logSuffix)
	length, onDisk := allocated(t, path)
	if onDisk < segment {
		t.Skipf("this file system does not preallocate: %d bytes on disk", onDisk)
	}
	if length != l.active().size.Load() {
		t.Errorf("the file is %d bytes long, has %d of records", length, l.active().size.Load())
	}
	// A crash: the room is there, no zeroes follow the records.
	after := openLog(t, crashCopy(t, dir), cfg, Deps{})
	if after.End() != l.End() {
		t.Errorf("after a crash the log ends at %d, want %d", after.End(), l.End())
	}
	after.Remove()
	sealAll(t, l)
	if _, onDisk := allocated(t, path); onDisk >= segment {
		t.Errorf("the sealed segment takes %d bytes", onDisk)
	}
	mustAdd(t, l, 1, 2, 50)
	path = l.active().path(logSuffix)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, onDisk := allocated(t, path); onDisk >= segment {
		t.Errorf("after closing the active segment takes %d bytes", onDisk)
	}
	l = openLog(t, dir, cfg, Deps{})
	defer l.Remove()
	if _, onDisk := allocated(t, path); onDisk < segment {
		t.Errorf("opened again it takes %d bytes", onDisk)
	}
	if err := readAll(l, 0, l.End()); err != nil {
		t.Error(err)
	}
}

// No room to preallocate is a full disk, and leaves no file behind.
func TestPreallocateWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	d := disk.Real()
	full := false
	d.Reserve = func(*os.File, int64) error {
		if full {
			return syscall.ENOSPC
		}
		return nil
	}
	l := openLog(t, dir, Config{Preallocate: true}, Deps{Disk: d})
	defer l.Remove()
	mustAdd(t, l, 2, 2, 50)
	full = true
	if err := l.Roll(); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v", err)
	}
	if logs, _ := filepath.Glob(filepath.Join(dir, "*"+logSuffix)); len(logs) != 1 {
		t.Errorf("files are %q", logs)
	}
	mustAdd(t, l, 1, 2, 50)
	full = false
	if err := l.Roll(); err != nil {
		t.Error(err)
	}
}

// A tail of zeroes, which another program's preallocation or a power loss may
// leave, is cut off.
func TestZeroTail(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Config{}, Deps{})
	mustAdd(t, l, 3, 2, 50)
	path, end := l.active().path(logSuffix), l.End()
	after := crashCopy(t, dir)
	l.Remove()
	if err := os.Truncate(filepath.Join(after, filepath.Base(path)), 3<<20); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, after, Config{}, Deps{})
	defer l.Remove()
	if l.End() != end {
		t.Errorf("the log ends at %d, want %d", l.End(), end)
	}
	mustAdd(t, l, 1, 2, 50)
	if err := readAll(l, 0, l.End()); err != nil {
		t.Error(err)
	}
}

// segment.index.bytes: as many index entries as fit make a segment full.
func TestIndexBytes(t *testing.T) {
	l := openLog(t, t.TempDir(), Config{IndexIntervalBytes: 1, IndexBytes: 40}, Deps{})
	defer l.Remove()
	mustAdd(t, l, 40, 1, 50)
	for _, s := range (*l.segs.Load())[:l.NumSegments()-1] {
		// The first batch has no entry. Of 40 bytes three times fit, less one
		// that Kafka keeps free.
		if n := s.end.Load() - int64(s.base); n != 3 {
			t.Errorf("the segment at %d has %d batches, want 3", s.base, n)
		}
	}
	l.SetConfig(Config{IndexIntervalBytes: 1, IndexBytes: 1 << 20})
	before := l.NumSegments()
	mustAdd(t, l, 40, 1, 50)
	if l.NumSegments() != before {
		t.Errorf("%d segments more with a large index", l.NumSegments()-before)
	}
}

// segment.jitter.ms: segments are sealed before segment.ms, never after it,
// and not all at the same age.
func TestSegmentJitter(t *testing.T) {
	now := time.UnixMilli(1e12)
	l := openLog(t, t.TempDir(), Config{SegmentAge: time.Hour, SegmentJitter: 30 * time.Minute}, Deps{Now: func() time.Time { return now }, Disk: unsynced()})
	defer l.Remove()
	ages := map[time.Duration]bool{}
	for range 30 {
		mustAdd(t, l, 1, 1, 50)
		began, segments := now, l.NumSegments()
		for l.NumSegments() == segments {
			now = now.Add(time.Minute)
			if err := l.RollIfOld(now); err != nil {
				t.Fatal(err)
			}
		}
		age := now.Sub(began)
		if age < 30*time.Minute || age > 61*time.Minute {
			t.Fatalf("sealed after %v", age)
		}
		ages[age] = true
	}
	if len(ages) < 5 {
		t.Errorf("30 segments were sealed at %d different ages", len(ages))
	}
}
