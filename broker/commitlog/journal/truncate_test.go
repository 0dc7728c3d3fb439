package journal

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// truncate cuts a log back, as its partition does.
func (l *fakeLog) truncate(j *Journal, to record.Offset) error {
	l.mu.Lock()
	from := l.end
	l.mu.Unlock()
	return j.Truncate(Entry{Partition: l.p, Epoch: 3, Base: from, End: to}, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.end = to
		return nil
	})
}

// ranges gives what a journal holds of a partition.
func ranges(j *Journal, p Partition) (out [][2]record.Offset) {
	for _, r := range j.Records(p) {
		out = append(out, [2]record.Offset{r.Base, r.End})
	}
	return out
}

func expectRanges(t *testing.T, j *Journal, p Partition, want ...[2]record.Offset) {
	t.Helper()
	got := ranges(j, p)
	if len(got) != len(want) {
		t.Errorf("the journal has %v, want %v", got, want)
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("the journal has %v, want %v", got, want)
		}
	}
}

// await waits until as many records were acknowledged.
func (l *fakeLog) await(n int) {
	for len(l.durablePoints()) < n {
		runtime.Gosched()
	}
}

// TestTruncatedRecordsDoNotCount: after a crash nothing of what was cut off is
// found, whether or not something was appended in its place; and what is said
// of segments goes back too.
func TestTruncatedRecordsDoNotCount(t *testing.T) {
	for _, appended := range []bool{false, true} {
		dir := t.TempDir()
		j := open(t, dir, small, nil)
		l := &fakeLog{p: partitionOf(0), mark: noMark}
		for _, size := range []int{100, small.CopyBytes + 1, 100, 100} { // the second is in the segment only
			if err := l.append(j, 10, size); err != nil {
				t.Fatal(err)
			}
		}
		acked := -1
		err := j.Truncate(Entry{Partition: l.p, Epoch: 3, Base: 40, End: 25}, func() error {
			acked = len(l.durablePoints())
			l.end = 25
			return nil
		})
		if err != nil || acked != 4 {
			t.Fatalf("%v, with %d of 4 records acknowledged", err, acked)
		}
		want := [][2]record.Offset{{0, 10}, {20, 25}}
		if appended {
			if err := l.append(j, 3, 100); err != nil {
				t.Fatal(err)
			}
			l.await(5)
			want = append(want, [2]record.Offset{25, 28})
		}
		j.kill()
		j = open(t, dir, small, nil)
		expectRanges(t, j, l.p, want...)
		if got := j.Synced(l.p); got != 25 {
			t.Errorf("segments are durable up to %d, want 25", got)
		}
		if err := j.Truncate(Entry{Partition: l.p, Base: 28, End: 0}, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		j.kill()
		j = open(t, dir, small, nil)
		expectRanges(t, j, l.p)
		if got := j.Synced(l.p); got != 0 {
			t.Errorf("of a log that began anew segments are durable up to %d", got)
		}
		j.Close()
	}
}

// TestOverlapIsTheLaters: recovery cut a torn tail into the middle of a record,
// of which the journal is not told: what is appended there counts.
func TestOverlapIsTheLaters(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, small, nil)
	l := &fakeLog{p: partitionOf(0), mark: noMark}
	for range 3 {
		if err := l.append(j, 10, 100); err != nil {
			t.Fatal(err)
		}
	}
	l.end = 15
	if err := l.append(j, 1, 100); err != nil {
		t.Fatal(err)
	}
	l.await(4)
	j.kill()
	j = open(t, dir, small, nil)
	defer j.Close()
	expectRanges(t, j, l.p, [2]record.Offset{0, 10}, [2]record.Offset{10, 15}, [2]record.Offset{15, 16})
	j.Drop(l.p)
}

// TestFlushBesideATruncation: a flush that began before the log was cut, and
// ends after it, says nothing of what is no more.
func TestFlushBesideATruncation(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, small, nil)
	l := &slowLog{fakeLog: fakeLog{p: partitionOf(0), mark: noMark}, flushing: make(chan struct{}), resume: make(chan struct{})}
	for l.end < 2000 { // until a checkpoint is due
		l.mu.Lock()
		base := l.end
		l.end += 10
		l.mu.Unlock()
		if err := j.Append(l, Entry{Partition: l.p, Epoch: 3, Base: base, End: base + 10}, Mark{End: base + 10}, payload(l.p, base, base+10, 4000)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-l.flushing:
		default:
			continue
		}
		break
	}
	if err := l.truncate(j, 5); err != nil {
		t.Fatal(err)
	}
	close(l.resume)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, small, nil)
	defer j.Close()
	if got := j.Synced(l.p); got > 5 {
		t.Errorf("the checkpoint says that segments are durable up to %d, the log ends at 5", got)
	}
	expectRanges(t, j, l.p)
}

// slowLog says when it is flushed, and is done with its first flush when it may
// go on.
type slowLog struct {
	fakeLog
	flushing, resume chan struct{}
}

func (l *slowLog) Flush() (record.Offset, error) {
	l.mu.Lock()
	end := l.end
	l.mu.Unlock()
	select {
	case <-l.resume:
	case l.flushing <- struct{}{}:
		<-l.resume
	}
	return end, nil
}

// TestHeldFilesHoldNothingOfOthers: a file is kept for a partition that could
// not be opened. What it has of another one, which was cut back since, does not
// come back when the file that says so is used again.
func TestHeldFilesHoldNothingOfOthers(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, small, nil)
	held, cut := &fakeLog{p: partitionOf(0), mark: noMark}, &fakeLog{p: partitionOf(1), mark: noMark}
	for _, l := range []*fakeLog{held, cut} {
		if err := l.append(j, 10, 100); err != nil {
			t.Fatal(err)
		}
		l.await(1)
	}
	j.kill()
	j = open(t, dir, small, nil)
	j.Claim(cut.p, cut)
	if err := cut.truncate(j, 4); err != nil {
		t.Fatal(err)
	}
	if err := cut.append(j, 3, 100); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil { // frees all files but the first
		t.Fatal(err)
	}
	j = open(t, dir, small, nil)
	expectRanges(t, j, cut.p)
	expectRanges(t, j, held.p, [2]record.Offset{0, 10})
	if got := j.Synced(cut.p); got < 4 || got > 7 {
		t.Errorf("segments are durable up to %d, want 4 to 7", got)
	}
	j.Drop(held.p)
	j.Close()
}

// TestHeldTruncation: a partition cannot be opened. Its records stay, and so
// does what says that some of them do not count.
func TestHeldTruncation(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, small, nil)
	l := &fakeLog{p: partitionOf(0), mark: noMark}
	if err := l.append(j, 10, 100); err != nil {
		t.Fatal(err)
	}
	l.await(1)
	j.kill()
	j = open(t, dir, small, nil) // begins another file
	if err := j.Truncate(Entry{Partition: l.p, Epoch: 3, Base: 10, End: 6}, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	j.kill()
	for range 3 {
		j = open(t, dir, small, nil)
		expectRanges(t, j, l.p, [2]record.Offset{0, 6})
		other := &fakeLog{p: partitionOf(1), mark: noMark}
		for range 40 {
			if err := other.append(j, 1, 8000); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTruncateWithoutAFile: a disk without room for a file of the journal says
// so, and the log is not cut.
func TestTruncateWithoutAFile(t *testing.T) {
	d := disk.Real()
	create := d.Create
	d.Create = func(path string) (*os.File, error) {
		if strings.HasSuffix(path, fileSuffix) {
			return nil, syscall.ENOSPC
		}
		return create(path)
	}
	j := open(t, t.TempDir(), small, d)
	defer j.Close()
	l := &fakeLog{p: partitionOf(0), mark: noMark, end: 10}
	if err := l.truncate(j, 5); !errors.Is(err, ErrNoFile) || l.end != 10 {
		t.Errorf("%v, and the log ends at %d", err, l.end)
	}
	if err := j.Truncate(Entry{Partition: l.p, Base: 5, End: 5}, func() error { return nil }); err == nil {
		t.Error("a cut that cuts nothing is taken")
	}
}

// TestTruncateWhenTheJournalEnds: who waits for a cut is told that it will not
// come.
func TestTruncateWhenTheJournalEnds(t *testing.T) {
	d := disk.Real()
	real := d.Sync
	d.Sync = func(f *os.File) error {
		if strings.HasSuffix(f.Name(), fileSuffix) && f.Name() != "" {
			if info, err := f.Stat(); err == nil && info.Size() > 0 {
				return syscall.EIO
			}
		}
		return real(f)
	}
	j, err := Open(t.TempDir(), small, Deps{Disk: d})
	if err != nil {
		t.Fatal(err)
	}
	l := &fakeLog{p: partitionOf(0), mark: noMark, end: 10}
	if err := l.truncate(j, 5); !errors.Is(err, ErrFailed) || l.end != 10 {
		t.Errorf("%v, and the log ends at %d", err, l.end)
	}
	if err := j.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close: %v", err)
	}
	j = open(t, t.TempDir(), small, nil)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.truncate(j, 5); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestCutIsKnownUntilItIsOver: however much is written while a log's segments
// are cut, a process that is killed then knows of it, and so does the one that
// is killed before it has looked at that log; after the cut nobody does, and
// the file is free.
func TestCutIsKnownUntilItIsOver(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, small, nil)
	l, other := &fakeLog{p: partitionOf(0), mark: noMark}, &fakeLog{p: partitionOf(1), mark: noMark}
	wrote := 0
	roundTwice := func(j *Journal) {
		for range 2 * small.Files * int(small.FileBytes) / 4096 {
			if err := other.append(j, 1, 4096); err != nil {
				t.Fatal(err)
			}
			wrote++
		}
		other.await(wrote)
	}
	cut := func(j *Journal, during func() error) {
		t.Helper()
		if err := l.append(j, 10, 100); err != nil {
			t.Fatal(err)
		}
		err := j.Truncate(Entry{Partition: l.p, Epoch: 3, Base: 10, End: 0}, func() error {
			l.end = 0
			before := j.newest
			roundTwice(j)
			if j.newest < before+int64(small.Files) {
				t.Errorf("only %d files were written", j.newest-before)
			}
			return during()
		})
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
	}
	known := func(want bool) *Journal {
		t.Helper()
		j := open(t, dir, small, nil)
		if got := j.WasCut(l.p); got != want || slices.Contains(j.Unclaimed(), l.p) != want || len(j.Records(l.p)) != 0 {
			t.Fatalf("known %v, want %v; unclaimed %v; %d records", got, want, j.Unclaimed(), len(j.Records(l.p)))
		}
		return j
	}

	cut(j, func() error { return nil })
	roundTwice(j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = known(false)
	cut(j, func() error {
		j.kill()
		return errKilled
	})
	for range 2 { // each is killed before it has looked at the log
		j = known(true)
		j.Claim(other.p, other)
		roundTwice(j)
		j.kill()
	}
	j = known(true)
	j.Claim(l.p, l)
	j.Claim(other.p, other)
	roundTwice(j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = known(false)
	j.Close()
}

var errKilled = errors.New("the process was killed")
