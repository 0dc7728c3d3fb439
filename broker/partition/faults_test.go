package partition

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/broker/disk/disktest"
	"github.com/firnlog/firn/record"
)

// faulty is a disk whose calls ask hit first, which gives their error, or nil
// to go on. hit may wait.
func faulty(d *disk.Disk, hit func(call, path string) error) *disk.Disk {
	f := *d
	f.Create = func(path string) (*os.File, error) {
		if err := hit("create", path); err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return d.Create(path)
	}
	f.WriteAt = func(o *os.File, b []byte, off int64) (int, error) {
		if err := hit("write", o.Name()); err != nil {
			return 0, &os.PathError{Op: "write", Path: o.Name(), Err: err}
		}
		return d.WriteAt(o, b, off)
	}
	f.Sync = func(o *os.File) error {
		if err := hit("sync", o.Name()); err != nil {
			return &os.PathError{Op: "fdatasync", Path: o.Name(), Err: err}
		}
		return d.Sync(o)
	}
	f.SyncAll = nil
	f.Rename = func(from, to string) error {
		if err := hit("rename", to); err != nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
		return d.Rename(from, to)
	}
	return &f
}

// TestDiskErrors: whichever call fails, the reason is told, nothing is
// appended or acknowledged any more, what was acknowledged can be read, and
// after a power loss or the end of the process it is there.
func TestDiskErrors(t *testing.T) {
	for _, c := range []struct{ name, call, file string }{
		{"journal write", "write", ".journal"},
		{"journal sync", "sync", ".journal"},
		{"segment write", "write", ".log"},
		{"segment sync", "sync", ".log"},
		{"checkpoint rename", "rename", "journal/checkpoint"},
		{"checkpoint sync", "sync", "journal/checkpoint.tmp"},
		{"partition.meta rename", "rename", "partition.meta"},
		{"new segment", "create", ".log"},
		{"new journal file", "create", ".journal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			seed := crashSeed(t)
			for run := range uint64(3) {
				diskError(t, rand.New(rand.NewPCG(seed, run)), func(call, path string) bool {
					return call == c.call && strings.HasSuffix(path, c.file)
				})
			}
		})
	}
}

func diskError(t *testing.T, rng *rand.Rand, match func(call, path string) bool) {
	live := disktest.Dir(t)
	recorded, rec := disktest.Record(live)
	var armed atomic.Bool
	told := newGate(recorded) // never shut: what is acknowledged after the error counts, too
	d := faulty(recorded, func(call, path string) error {
		if armed.Load() && match(call, path) {
			return syscall.EIO
		}
		return nil
	})
	x := &explored{t: t, rng: rng, live: live, rec: rec}
	for k := range 2 {
		x.all = append(x.all, &story{kind: durable, dir: fmt.Sprint("p", k), tp: record.TopicPartition{Topic: "t", Partition: record.PartitionID(k)}, id: testID})
	}
	s := &storage{dir: live, disk: d, parts: map[*story]*Partition{}, failed: make(chan error, 8)}
	if err := s.openAll(x.all, 0); err != nil {
		t.Fatal(err)
	}
	w := &worker{x: x, s: s, gate: told, rng: rng}
	for n := 0; ; n++ {
		armed.Store(n >= 20)
		h := x.all[n%2]
		if w.fails = n >= 20; !w.append(h, s.parts[h]) {
			break
		}
		if n > 5000 {
			t.Fatal("the error was never met")
		}
	}
	reason := <-s.failed
	if !errors.Is(reason, syscall.EIO) || !strings.Contains(reason.Error(), live) {
		t.Errorf("the reason is %v", reason)
	}
	refused := 0
	for _, h := range x.all {
		_, err := s.parts[h].Append(plain(t, 1e12, "after"), Client)
		if errors.Is(err, kerr.KafkaStorageError) {
			refused++
		}
		h.values = append(h.values, record.Record{Value: []byte("after")}) // it may be in the segment
		hw := s.parts[h].State().HighWatermark
		recs, err := readFrom(s.parts[h], 0, 1<<20)
		if err != nil || record.Offset(len(recs)) < hw { // a group that was under way may have ended meanwhile
			t.Errorf("%d records of %d can be read: %v", len(recs), hw, err)
		}
	}
	if refused == 0 {
		t.Error("no partition refuses appends")
	}
	failed := rec.Len()
	if err := s.close(); err == nil {
		t.Error("closed as if nothing had happened")
	}
	replay := rec.Replay()
	for _, calls := range []int{failed, rec.Len()} {
		replay.To(calls)
		for range 10 {
			one := crashed{x: x, rng: rng, calls: calls, counts: map[string]int{}}
			if err := one.state(replay, disktest.Dir(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	os.RemoveAll(live)
}

// TestNoRoomForTheJournal: without room for a file of the journal, appends are
// made durable in their segments; without room there, they are refused, and
// what is there can be read. With room again it goes on.
func TestNoRoomForTheJournal(t *testing.T) {
	live := disktest.Dir(t)
	recorded, rec := disktest.Record(live)
	var fullFor atomic.Pointer[string] // files of that suffix
	some, all := ".journal", ""
	d := faulty(recorded, func(call, path string) error {
		if suffix := fullFor.Load(); suffix != nil && (call == "write" && !strings.Contains(path, "/journal/") || call == "create") && strings.HasSuffix(path, *suffix) {
			return syscall.ENOSPC
		}
		return nil
	})
	h := &story{kind: durable, dir: "p", tp: testTP, id: testID}
	x := &explored{t: t, rng: rand.New(rand.NewPCG(crashSeed(t), 0)), live: live, rec: rec, all: []*story{h}}
	s := &storage{dir: live, disk: d, parts: map[*story]*Partition{}, failed: make(chan error, 8)}
	fullFor.Store(&some) // from the start: there is no file at all
	if err := s.openAll(x.all, 0); err != nil {
		t.Fatal(err)
	}
	p := s.parts[h]
	w := &worker{x: x, s: s, gate: newGate(d), rng: x.rng}
	for range 3 * powerJournal.GroupCount { // more than wait for a file before there is known to be none
		if !w.append(h, p) {
			t.Fatal("refused")
		}
	}
	w.acks.Wait()
	fullFor.Store(&all)
	for range 3 {
		if _, err := p.Append(plain(t, 1e12, "refused"), Client); !errors.Is(err, kerr.KafkaStorageError) || !errors.Is(err, commitlog.ErrFull) {
			t.Errorf("got %v", err)
		}
		recs, err := readFrom(p, 0, 1<<20)
		if err != nil || len(recs) != len(h.values) {
			t.Errorf("%d records of %d can be read: %v", len(recs), len(h.values), err)
		}
	}
	fullFor.Store(nil)
	for range 60 {
		if !w.append(h, p) {
			t.Fatal("refused")
		}
		w.acks.Wait()
	}
	select {
	case err := <-s.failed:
		t.Errorf("failed: %v", err)
	default:
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	replay := rec.Replay()
	for n := 0; n <= rec.Len(); n += 1 + x.rng.IntN(40) {
		replay.To(n)
		c := crashed{x: x, rng: x.rng, calls: n, counts: map[string]int{}}
		if err := c.state(replay, disktest.Dir(t)); err != nil {
			t.Fatalf("after %d of %d calls: %v", n, rec.Len(), err)
		}
	}
}

// TestSlowDisk: while a sync takes long, nothing is acknowledged; what is
// appended meanwhile is bounded, whoever appends more waits; reads, offsets
// and everybody who asks for the state are answered; and once the disk goes
// on, all of it is acknowledged.
func TestSlowDisk(t *testing.T) {
	live := disktest.Dir(t)
	stuck, release := make(chan struct{}), make(chan struct{})
	var slow atomic.Bool
	var once sync.Once
	d := faulty(disktest.Unsynced(), func(call, path string) error {
		if slow.Load() && call == "sync" && strings.HasSuffix(path, ".journal") {
			once.Do(func() { close(stuck) })
			<-release
		}
		return nil
	})
	h := &story{kind: durable, dir: "p", tp: testTP, id: testID}
	s := &storage{dir: live, disk: d, parts: map[*story]*Partition{}}
	if err := s.openAll([]*story{h}, 0); err != nil {
		t.Fatal(err)
	}
	p := s.parts[h]
	if _, err := p.Append(plain(t, 1e12, "first"), Client); err != nil {
		t.Fatal(err)
	}
	first := make(chan error, 1)
	p.AwaitHighWatermark(1, func(err error) { first <- err })
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	slow.Store(true)
	const most = 400
	var appended, acked atomic.Int64
	var producer sync.WaitGroup
	producer.Go(func() {
		for range most {
			res, err := p.Append(plain(t, 1e12, strings.Repeat("v", 500)), Client)
			if err != nil {
				t.Error(err)
				return
			}
			appended.Add(1)
			p.AwaitHighWatermark(res.LastOffset+1, func(err error) {
				if err == nil {
					acked.Add(1)
				}
			})
		}
	})
	<-stuck
	// It waits with two groups full: one that is being written, one that fills.
	atMost := int64(2*powerJournal.GroupCount + 1)
	for last := int64(-1); last != appended.Load(); time.Sleep(20 * time.Millisecond) {
		last = appended.Load()
	}
	if n := appended.Load(); n > atMost {
		t.Errorf("%d were appended while the disk did nothing, at most %d fit", n, atMost)
	}
	if n := acked.Load(); n != 0 {
		t.Errorf("%d were acknowledged", n)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if hw := p.State().HighWatermark; hw != 1 {
			t.Errorf("the high watermark is %d", hw)
		}
		if recs, err := readFrom(p, 0, 1<<20); err != nil || len(recs) != 1 {
			t.Errorf("%d records can be read: %v", len(recs), err)
		}
		if _, err := p.OffsetForTimestamp(t.Context(), 0, record.ReadUncommitted); err != nil {
			t.Error(err)
		}
		p.SetConfig(h.config())
		p.AwaitHighWatermark(1e6, func(error) {})()
	}()
	select {
	case <-answered:
	case <-time.After(time.Minute):
		t.Fatal("the slow disk keeps readers waiting")
	}
	close(release)
	producer.Wait()
	done := make(chan error, 1)
	p.AwaitHighWatermark(most+1, func(err error) { done <- err })
	if err := <-done; err != nil || acked.Load() != most {
		t.Errorf("%d of %d were acknowledged: %v", acked.Load(), most, err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

// TestClockStepsBack: the clock is moved back and forth by hours, as a broken
// time service does, while records are appended, retained and the log is
// opened again. Only what is too old by the record's own time and the clock of
// that moment goes, sequences stay known, and nothing refuses to work.
func TestClockStepsBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(crashSeed(t), 0))
	now := time.UnixMilli(1.7e12)
	cfg := testConfig()
	cfg.SegmentBytes, cfg.SegmentAge = 4<<10, time.Hour
	cfg.Retention = 24 * time.Hour
	cfg.LogAppendTime = true
	dir := t.TempDir()
	p := open(t, dir, cfg, Deps{Now: func() time.Time { return now }})
	var stamps []int64 // by offset
	furthest := now
	for seq := range int32(300) {
		step := time.Duration(rng.IntN(10)) * time.Minute
		switch rng.IntN(10) {
		case 0:
			step = -time.Duration(rng.IntN(6)) * time.Hour
		case 1, 2:
			step = time.Duration(rng.IntN(7)) * time.Hour
		}
		if now = now.Add(step); now.After(furthest) {
			furthest = now
		}
		b := idempotent(t, 7, 0, seq, 1)
		res, err := p.Append(slices.Clone(b), Client)
		if err != nil {
			t.Fatalf("sequence %d at %v: %v", seq, now, err)
		}
		if again, err := p.Append(slices.Clone(b), Client); err != nil || !again.Duplicate || again.BaseOffset != res.BaseOffset {
			t.Fatalf("sequence %d at %v is not known any more: %+v, %v", seq, now, again, err)
		}
		if res.LogAppendTime != now.UnixMilli() {
			t.Errorf("appended at %d, the clock says %d", res.LogAppendTime, now.UnixMilli())
		}
		stamps = append(stamps, now.UnixMilli())
		if _, err := p.RunRetention(now); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(40) == 0 {
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			p = open(t, dir, cfg, Deps{Now: func() time.Time { return now }})
		}
	}
	defer p.Close()
	start := p.LogStart()
	if start == 0 || start == record.Offset(len(stamps)) {
		t.Fatalf("the log begins at %d of %d: the test is of no use", start, len(stamps))
	}
	for o, ts := range stamps[:start] {
		if ts > furthest.Add(-cfg.Retention).UnixMilli() {
			t.Errorf("offset %d of %v went, the clock was never later than %v", o, time.UnixMilli(ts), furthest)
		}
	}
	recs, err := readFrom(p, start, 1<<20)
	if err != nil || len(recs) != len(stamps)-int(start) {
		t.Fatalf("%d records from %d of %d on: %v", len(recs), start, len(stamps), err)
	}
	for i, r := range recs {
		if r.Timestamp != stamps[int(start)+i] {
			t.Errorf("offset %d has time %d, want %d", r.Offset, r.Timestamp, stamps[int(start)+i])
		}
	}
}
