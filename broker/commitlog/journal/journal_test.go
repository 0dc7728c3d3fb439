package journal

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/broker/disk/disktest"
	"github.com/firnlog/firn/record"
)

var seed = flag.Uint64("seed", 0, "of the random tests; 0: another one each run")

func newSeed(t *testing.T) uint64 {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-seed %d", s)
	return s
}

var small = Config{FileBytes: 64 << 10, Files: 4, GroupBytes: 16 << 10, GroupCount: 8, CopyBytes: 8 << 10, SyncBytes: 32 << 10}

// partitionOf gives the i-th partition of the tests.
func partitionOf(i int) Partition {
	return Partition{Topic: record.TopicID{byte(i), 7}, Index: int32(i)}
}

// payload is what a test writes for the records from base to end: it says
// itself what it is.
func payload(p Partition, base, end record.Offset, size int) []byte {
	b := make([]byte, max(size, 24))
	copy(b, p.Topic[:4])
	binary.BigEndian.PutUint32(b[4:], uint32(p.Index))
	binary.BigEndian.PutUint64(b[8:], uint64(base))
	binary.BigEndian.PutUint64(b[16:], uint64(end))
	for i := 24; i < len(b); i++ {
		b[i] = byte(int(base)*31 + i)
	}
	return b
}

// fakeLog is a partition's log: its segments are durable when it says so.
type fakeLog struct {
	p    Partition
	mark func() int

	mu      sync.Mutex
	end     record.Offset
	durable []point // acknowledged
	flushed []point
	deleted bool
}

// point is an offset that was reached after so many calls of the disk.
type point struct {
	calls int
	end   record.Offset
}

func (l *fakeLog) Journaled(m Mark) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.durable = append(l.durable, point{l.mark(), m.End})
}

func (l *fakeLog) Flush() (record.Offset, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deleted {
		return -1, nil
	}
	l.flushed = append(l.flushed, point{l.mark(), l.end})
	return l.end, nil
}

func (l *fakeLog) End() record.Offset {
	end, _ := l.Flush()
	return end
}

// at gives the last offset that was reached by a number of calls.
func at(points []point, calls int) (end record.Offset) {
	for _, p := range points {
		if p.calls <= calls {
			end = max(end, p.end)
		}
	}
	return end
}

func noMark() int { return 0 }

func open(t *testing.T, dir string, cfg Config, d *disk.Disk) *Journal {
	t.Helper()
	j, err := Open(dir, cfg, Deps{Disk: d, Failed: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func (l *fakeLog) append(j *Journal, count, size int) error {
	l.mu.Lock()
	base := l.end
	l.end += record.Offset(count)
	end := l.end
	l.mu.Unlock()
	return j.Append(l, Entry{Partition: l.p, Epoch: 3, Base: base, End: end}, Mark{End: end}, payload(l.p, base, end, size))
}

// replay walks what a journal holds of a partition from an offset on, and
// gives where it ends.
func replay(j *Journal, p Partition, from record.Offset) (record.Offset, error) {
	for _, r := range j.Records(p) {
		b, err := j.Read(r)
		if err != nil {
			return from, err
		}
		end := record.Offset(binary.BigEndian.Uint64(b[16:]))
		if !slices.Equal(b, payload(p, r.Base, end, len(b))) {
			return from, fmt.Errorf("record at offset %d is not what was written", r.Base)
		}
		if end <= from {
			continue
		}
		if r.Base > from {
			return from, fmt.Errorf("a gap from offset %d to %d", from, r.Base)
		}
		from = end
	}
	return from, nil
}

func TestJournalKeepsWhatItAcknowledged(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := t.TempDir()
	j := open(t, dir, small, nil)
	logs := []*fakeLog{{p: partitionOf(0), mark: noMark}, {p: partitionOf(1), mark: noMark}}
	for i := range 200 {
		if err := logs[i%2].append(j, 1+i%3, 100+i*20); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, l := range logs {
		if got := at(l.durable, 0); got != l.end {
			t.Errorf("acknowledged up to %d, want %d", got, l.end)
		}
	}
	j = open(t, dir, small, nil)
	defer j.Close()
	for _, l := range logs {
		if refs := j.Records(l.p); len(refs) > 0 {
			t.Errorf("after a clean close %d records are left", len(refs))
		}
		if got := j.Synced(l.p); got != l.end {
			t.Errorf("synced %d, want %d", got, l.end)
		}
	}
}

// TestLargeStaysInTheSegment: what is too large to be copied is durable once
// its log was flushed, also when the next open finds the journal alone.
func TestLargeStaysInTheSegment(t *testing.T) {
	defer goleak.VerifyNone(t)
	live := t.TempDir()
	d, rec := disktest.Record(live)
	j := open(t, filepath.Join(live, "j"), small, d)
	l := &fakeLog{p: partitionOf(0), mark: rec.Mark}
	for _, size := range []int{100, small.CopyBytes + 1, 100 * small.SyncBytes, 100} {
		if err := l.append(j, 1, size); err != nil {
			t.Fatal(err)
		}
	}
	for len(l.durablePoints()) < 4 {
		runtime.Gosched()
	}
	crashed := t.TempDir()
	if err := rec.Crash(rand.New(rand.NewPCG(1, 1)), rec.Len(), crashed); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, filepath.Join(crashed, "j"), small, nil)
	defer j.Close()
	if got := j.Synced(l.p); got < 3 {
		t.Errorf("the journal says that segments are durable up to %d, want 3 at least", got)
	}
	for _, r := range j.Records(l.p) {
		if r.Base == 1 || r.Base == 2 {
			t.Errorf("the journal has the large record of offset %d", r.Base)
		}
	}
	if got, err := replay(j, l.p, j.Synced(l.p)); got != 4 || err != nil {
		t.Errorf("journal and segments reach %d: %v", got, err)
	}
}

// TestOfDeletedNothingIsSynced: a group that had nothing but a large record
// of a deleted partition writes nothing.
func TestOfDeletedNothingIsSynced(t *testing.T) {
	j := open(t, t.TempDir(), small, nil)
	defer j.Close()
	l := &fakeLog{p: partitionOf(0), mark: noMark, deleted: true}
	if err := l.append(j, 1, small.GroupBytes); err != nil {
		t.Fatal(err)
	}
	for len(l.durablePoints()) == 0 {
		runtime.Gosched()
	}
	if got := j.Synced(l.p); got != 0 {
		t.Errorf("synced %d", got)
	}
}

func TestFailedSyncFailsEverything(t *testing.T) {
	defer goleak.VerifyNone(t)
	real := disk.Real()
	d := *real
	var mu sync.Mutex
	broken := false
	d.Sync = func(f *os.File) error {
		mu.Lock()
		defer mu.Unlock()
		if broken && strings.HasSuffix(f.Name(), fileSuffix) {
			return errors.New("the disk is gone")
		}
		return real.Sync(f)
	}
	told := make(chan error, 2)
	j, err := Open(t.TempDir(), small, Deps{Disk: &d, Failed: func(err error) { told <- err }})
	if err != nil {
		t.Fatal(err)
	}
	l := &fakeLog{p: partitionOf(0), mark: noMark}
	for len(l.durablePoints()) == 0 {
		if err := l.append(j, 1, 100); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	broken = true
	mu.Unlock()
	for err == nil {
		err = l.append(j, 1, 100)
	}
	if !errors.Is(err, ErrFailed) {
		t.Errorf("append after the failure: %v", err)
	}
	if err := <-told; !strings.Contains(err.Error(), "the disk is gone") {
		t.Errorf("Failed got %v", err)
	}
	if err := j.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close gave %v", err)
	}
	if len(told) > 0 {
		t.Error("Failed was called twice")
	}
}

func (l *fakeLog) durablePoints() []point {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// workload appends to a few partitions from several goroutines at once.
func workload(t *testing.T, rng *rand.Rand, j *Journal, logs []*fakeLog, appends int) {
	var wg sync.WaitGroup
	for _, l := range logs {
		rng := rand.New(rand.NewPCG(rng.Uint64(), 1))
		wg.Go(func() {
			for range appends {
				size := 24 + rng.IntN(600)
				if rng.IntN(8) == 0 {
					size = rng.IntN(2 * small.GroupBytes)
				}
				if err := l.append(j, 1+rng.IntN(4), size); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestPowerLoss is the crash-state explorer over the journal alone: whatever
// a power loss leaves, what was acknowledged and is not durable in segments is
// in the journal, in order and whole.
func TestPowerLoss(t *testing.T) {
	seed := newSeed(t)
	states := 0
	for run := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, run))
		live := t.TempDir()
		d, rec := disktest.Record(live)
		j := open(t, filepath.Join(live, "j"), small, d)
		var logs []*fakeLog
		for i := range 3 {
			logs = append(logs, &fakeLog{p: partitionOf(i), mark: rec.Mark})
		}
		workload(t, rng, j, logs, 40)
		if run%2 == 0 {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for range 60 {
			states++
			calls := rng.IntN(rec.Len() + 1)
			crashed := t.TempDir()
			if err := rec.Crash(rng, calls, crashed); err != nil {
				t.Fatal(err)
			}
			if err := checkCrash(filepath.Join(crashed, "j"), logs, calls); err != nil {
				t.Fatalf("run %d, after %d of %d calls: %v", run, calls, rec.Len(), err)
			}
			os.RemoveAll(crashed)
		}
		j.Close()
	}
	t.Logf("%d states", states)
}

func checkCrash(dir string, logs []*fakeLog, calls int) error {
	j, err := Open(dir, small, Deps{Disk: disktest.Unsynced()})
	if err != nil {
		return err
	}
	defer j.Close()
	for _, l := range logs {
		l.mu.Lock()
		acked, flushed, end := at(l.durable, calls), at(l.flushed, calls), l.end
		l.mu.Unlock()
		if s := j.Synced(l.p); s > flushed {
			return fmt.Errorf("%v: the checkpoint says %d, flushed up to %d", l.p, s, flushed)
		}
		got, err := replay(j, l.p, flushed)
		if err != nil {
			return fmt.Errorf("%v: flushed %d, acknowledged %d: %w", l.p, flushed, acked, err)
		}
		if got < acked || got > end {
			return fmt.Errorf("%v: journal and segments reach %d, acknowledged were %d, appended %d", l.p, got, acked, end)
		}
		after := &fakeLog{p: l.p, mark: noMark, end: got}
		j.Claim(l.p, after)
		if err := after.append(j, 1, 100); err != nil {
			return err
		}
	}
	return nil
}

// TestDeletedPartitionsAreForgotten: what was synced of partitions that are no
// more does not stay in the checkpoint for ever.
func TestDeletedPartitionsAreForgotten(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, small, nil)
	kept := &fakeLog{p: partitionOf(0), mark: noMark}
	for i := range 40 {
		gone := &fakeLog{p: partitionOf(i + 1), mark: noMark}
		for _, l := range []*fakeLog{kept, gone} {
			if err := l.append(j, 1, 4000); err != nil {
				t.Fatal(err)
			}
		}
		gone.delete()
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, small, nil)
	defer j.Close()
	if len(j.synced) != 1 || j.Synced(kept.p) != kept.end {
		t.Errorf("the checkpoint has %v", j.synced)
	}
}

// delete has the log say that it is no more.
func (l *fakeLog) delete() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deleted = true
}

// TestNoRoomForTheCheckpoint: a disk that is too full for the checkpoint does
// not end the journal. Its files stay needed, groups are synced in their
// segments meanwhile, and with room again it goes on.
func TestNoRoomForTheCheckpoint(t *testing.T) {
	d := disk.Real()
	var full atomic.Bool
	write := d.WriteAt
	d.WriteAt = func(f *os.File, b []byte, off int64) (int, error) {
		if full.Load() && strings.HasSuffix(f.Name(), checkpointName+disk.TmpSuffix) {
			return 0, &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
		}
		return write(f, b, off)
	}
	dir := t.TempDir()
	j := open(t, dir, small, d)
	l := &fakeLog{p: partitionOf(0), mark: noMark}
	durable := func() {
		if err := l.append(j, 1, 1000); err != nil {
			t.Fatal(err)
		}
		for at(l.durablePoints(), 0) < l.end {
			runtime.Gosched()
		}
	}
	full.Store(true)
	for n := withoutFile.Get(); withoutFile.Get() == n; {
		durable() // until the window is full, and more
	}
	full.Store(false)
	for range 200 {
		durable()
	}
	full.Store(true)
	if err := j.Close(); err != nil {
		t.Errorf("closed without room: %v", err)
	}
	full.Store(false)
	j = open(t, dir, small, d)
	if len(j.Unclaimed()) == 0 {
		t.Error("the journal has nothing, though its last checkpoint was not written")
	}
	j.Drop(l.p)
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// TestNoRoom: a disk on which no file of the journal can be made is said to
// those who append, and what was appended becomes durable when it has room.
func TestNoRoom(t *testing.T) {
	d := disk.Real()
	full := make(chan bool, 1)
	full <- true
	create := d.Create
	d.Create = func(path string) (*os.File, error) {
		is := <-full
		full <- is
		if is && strings.HasSuffix(path, fileSuffix) {
			return nil, syscall.ENOSPC
		}
		return create(path)
	}
	dir := t.TempDir()
	j := open(t, dir, small, d)
	defer j.Close()
	l := &fakeLog{p: partitionOf(0), mark: noMark}
	durable := func() (end record.Offset) {
		if err := l.append(j, 1, 1000); err != nil {
			t.Fatal(err)
		}
		for end < l.end {
			end = at(l.durablePoints(), 0)
			runtime.Gosched()
		}
		return end
	}
	for range 50 {
		if end := durable(); at(l.flushed, 0) < end {
			t.Fatalf("%d is durable without a file, and only %d in segments", end, at(l.flushed, 0))
		}
	}
	<-full
	full <- false
	for durable(); at(l.flushed, 0) == l.end; durable() {
	} // until the journal has it, and the segments do not
}
