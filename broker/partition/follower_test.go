package partition

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// fetched gives what a follower gets of a partition from an offset on: whole
// batches up to the log's end.
func fetched(t testing.TB, p *Partition, from record.Offset) []byte {
	t.Helper()
	var out []byte
	for from < p.log.End() {
		run, err := p.log.Read(from, 1<<20, p.log.End(), true)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, run.Span.Size())
		if _, err := run.Span.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		run.Span.Release()
		out, from = append(out, b...), run.Next
	}
	return out
}

// TestAppendReplicatedTakesThemAsTheyAre: a follower has its leader's bytes,
// whatever its own settings say, and knows the producers.
func TestAppendReplicatedTakesThemAsTheyAre(t *testing.T) {
	leader := open(t, t.TempDir(), testConfig(), Deps{Epoch: 3})
	defer leader.Delete()
	for i := range int32(20) {
		if _, err := leader.Append(idempotent(t, 7, 0, i*3, 3), Client); err != nil {
			t.Fatal(err)
		}
	}
	cfg := testConfig()
	cfg.MaxMessageBytes, cfg.LogAppendTime, cfg.SegmentBytes = 10, true, 1000
	p := open(t, t.TempDir(), cfg, Deps{})
	defer p.Delete()
	all := fetched(t, leader, 0)
	first, _, err := record.Next(all)
	if err != nil {
		t.Fatal(err)
	}
	if end, err := p.AppendReplicated(nil); err != nil || end != 0 {
		t.Errorf("no batches: %d, %v", end, err)
	}
	if end, err := p.AppendReplicated(all[:len(first)-1]); err != nil || end != 0 {
		t.Errorf("not one whole batch: %d, %v", end, err)
	}
	flipped := bytes.Clone(all)
	flipped[len(flipped)-1] ^= 1
	if end, err := p.AppendReplicated(flipped); !errors.Is(err, kerr.CorruptMessage) || end != 0 {
		t.Errorf("a damaged batch: %d, %v", end, err)
	}
	if end, err := p.AppendReplicated(all[len(first):]); err != nil || end != 60 { // the leader compacted the first away
		t.Errorf("after a gap: %d, %v", end, err)
	}
	if end, err := p.Truncate(0); err != nil || end != 0 {
		t.Fatalf("%d, %v", end, err)
	}
	if end, err := p.AppendReplicated(all[:len(all)-5]); err != nil || end != 57 {
		t.Errorf("with a batch that is cut off: %d, %v", end, err)
	}
	if end, err := p.AppendReplicated(all[:len(first)]); !errors.Is(err, commitlog.ErrNotNext) || end != 57 {
		t.Errorf("once more: %d, %v", end, err)
	}
	if end, err := p.AppendReplicated(all[len(all)-len(first):]); err != nil || end != 60 || p.State().HighWatermark != 60 {
		t.Errorf("the last: %d, %v", end, err)
	}
	if got := fetched(t, p, 0); !bytes.Equal(got, all) {
		t.Error("they are not the leader's bytes")
	}
	if ps := p.Producers(); len(ps) != 1 || ps[0].ProducerID != 7 || ps[0].LastSequence != 59 {
		t.Errorf("producers %+v", ps)
	}
	if epoch, end := p.EpochEnd(3); epoch != 3 || end != 60 {
		t.Errorf("epoch 3 ends as %d at %d", epoch, end)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.AppendReplicated(all); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Errorf("closed: %v", err)
	}
	if _, err := p.Truncate(0); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Errorf("closed: %v", err)
	}
	if err := p.StartAt(9, nil, nil); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Errorf("closed: %v", err)
	}
}

// TestFollowersReadWhatIsNotDurable: up to the log's end, while the disk has
// not got it yet. With firn.ack.policy=fsync it is durable when the disk has it,
// with replicated at once.
func TestFollowersReadWhatIsNotDurable(t *testing.T) {
	for _, fsync := range []bool{true, false} {
		leader := open(t, t.TempDir(), testConfig(), Deps{})
		if _, err := leader.Append(plain(t, 1, "a", strings.Repeat("b", 5000)), Client); err != nil { // of two, one too large for the journal
			t.Fatal(err)
		}
		if _, err := leader.Append(plain(t, 1, "c"), Client); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		d := disk.Real()
		real := d.Sync
		var slow atomic.Bool
		wait := make(chan struct{})
		d.Sync = func(f *os.File) error {
			if slow.Load() {
				<-wait
			}
			return real(f)
		}
		j := openJournal(t, filepath.Join(dir, "journal"), d)
		cfg := testConfig()
		cfg.Fsync = fsync
		p := open(t, filepath.Join(dir, "t", "p"), cfg, Deps{Journal: j, Disk: d})
		slow.Store(true)
		all := fetched(t, leader, 0)
		end, err := p.AppendReplicated(all)
		if err != nil || end != 3 {
			t.Fatalf("%d, %v", end, err)
		}
		if got := fetched(t, p, 0); !bytes.Equal(got, all) {
			t.Error("a follower does not get what is written")
		}
		want := record.Offset(3)
		if fsync {
			want = 0
		}
		if got := p.State().HighWatermark; got != want {
			t.Errorf("fsync %v: durable up to %d while the disk is at work, want %d", fsync, got, want)
		}
		acked := make(chan error, 1)
		p.AwaitHighWatermark(end, func(err error) { acked <- err })
		close(wait)
		if err := <-acked; err != nil {
			t.Error(err)
		}
		for _, p := range []*Partition{p, leader} {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestTruncateOpensTransactionsAgain: the marker that ended one is cut off.
func TestTruncateOpensTransactionsAgain(t *testing.T) {
	p := open(t, t.TempDir(), testConfig(), Deps{})
	defer p.Delete()
	var batches []byte
	add := func(at record.Offset, spec record.BatchSpec, r record.Record) {
		spec.BaseOffset, spec.Transactional, spec.ProducerID = at, true, 4
		r.Offset, r.Timestamp = at, 1
		b, err := record.NewBatch(spec, []record.Record{r})
		if err != nil {
			t.Fatal(err)
		}
		batches = append(batches, b...)
	}
	add(0, record.BatchSpec{}, record.Record{Value: []byte("a")})
	add(1, record.BatchSpec{Control: true, BaseSequence: -1}, record.Record{Key: []byte{0, 0, 0, 0}, Value: make([]byte, 6)})
	add(2, record.BatchSpec{BaseSequence: 1}, record.Record{Value: []byte("b")})
	add(3, record.BatchSpec{Control: true, BaseSequence: -1}, record.Record{Key: []byte{0, 0, 0, 1}, Value: make([]byte, 6)})
	if _, err := p.AppendReplicated(batches); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ to, stable record.Offset }{{4, 4}, {3, 2}, {2, 2}, {1, 0}, {0, 0}} {
		if end, err := p.Truncate(c.to); err != nil || end != c.to {
			t.Fatalf("cut back to %d: %d, %v", c.to, end, err)
		}
		if s := p.State(); s.HighWatermark != c.to || s.LastStableOffset != c.stable {
			t.Errorf("cut back to %d: %+v, want %d stable", c.to, s, c.stable)
		}
	}
}

// TestTruncateIntoObjectStorage: the log has only what is after the tiered end,
// and has to be cut below it. It begins anew there; what is in object storage
// stays readable.
func TestTruncateIntoObjectStorage(t *testing.T) {
	cfg := testConfig()
	cfg.Tiered = true
	p := open(t, t.TempDir(), cfg, Deps{})
	defer p.Delete()
	if err := p.StartAt(100, []record.EpochStart{{Epoch: 1, Start: 0}, {Epoch: 2, Start: 60}}, nil); err != nil {
		t.Fatal(err)
	}
	if s := p.State(); s.LogStart != 0 || s.LocalStart != 100 || s.HighWatermark != 100 || s.LogEnd != 100 {
		t.Errorf("%+v", s)
	}
	if end, err := p.Truncate(70); err != nil || end != 70 {
		t.Fatalf("%d, %v", end, err)
	}
	if s := p.State(); s.LogStart != 0 || s.LocalStart != 70 || s.LogEnd != 70 {
		t.Errorf("%+v", s)
	}
	if epoch, end := p.EpochEnd(2); epoch != 2 || end != 70 {
		t.Errorf("epoch 2 ends as %d at %d", epoch, end)
	}
	if err := p.StartAt(50, []record.EpochStart{{Epoch: 1, Start: 60}}, nil); !errors.Is(err, commitlog.ErrFormat) {
		t.Errorf("an epoch that begins above: %v", err)
	}
	cfg.Tiered = false
	p.SetConfig(cfg)
	if err := p.StartAt(90, nil, nil); err != nil || p.LogStart() != 90 {
		t.Errorf("%v, it begins at %d", err, p.LogStart())
	}
}

// TestSyncOfWhatWasCutOff: a sync in the background began when the log was
// longer, and says nothing of the records that came in the place of the old.
func TestSyncOfWhatWasCutOff(t *testing.T) {
	d := disk.Real()
	real := d.Sync
	began, resume := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	d.Sync = func(f *os.File) error {
		if strings.HasSuffix(f.Name(), ".log") && held.CompareAndSwap(false, true) {
			close(began)
			<-resume
		}
		return real(f)
	}
	cfg := testConfig()
	cfg.FlushAfter = time.Nanosecond
	p := open(t, filepath.Join(t.TempDir(), "t", "p"), cfg, Deps{Disk: d})
	leader := open(t, t.TempDir(), testConfig(), Deps{})
	defer leader.Delete()
	for range 9 {
		if _, err := leader.Append(plain(t, 1, "x"), Client); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.AppendReplicated(fetched(t, leader, 0)); err != nil {
		t.Fatal(err)
	}
	<-began
	if _, err := p.Truncate(4); err != nil {
		t.Fatal(err)
	}
	close(resume)
	p.syncer.stop()
	if s := p.State(); s.HighWatermark != 4 || s.LastStableOffset != 4 {
		t.Errorf("%+v", s)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkAppendReplicated is what a fetch of 1 MiB costs a follower: 64
// batches of 16 KiB, of 8 producers.
func BenchmarkAppendReplicated(b *testing.B) {
	for _, fsync := range []bool{false, true} {
		b.Run(fmt.Sprintf("fsync=%v", fsync), func(b *testing.B) {
			dir := b.TempDir()
			cfg := testConfig()
			cfg.Fsync = fsync
			deps := Deps{}
			if fsync {
				j := openJournal(b, filepath.Join(dir, "journal"), nil)
				defer j.Close()
				deps.Journal = j
			}
			p := open(b, filepath.Join(dir, "t", "p"), cfg, deps)
			defer p.Close()
			var batches []record.Batch
			var buf []byte
			for i := range 64 {
				one := produced(b, record.BatchSpec{ProducerID: int64(i % 8), BaseSequence: 0}, record.Record{Timestamp: 1, Value: bytes.Repeat([]byte("x"), 16<<10-80)})
				one.SetLeaderEpoch(1)
				buf = append(buf, one...)
			}
			for rest := buf; len(rest) > 0; {
				one, after, err := record.Next(rest)
				if err != nil {
					b.Fatal(err)
				}
				batches, rest = append(batches, one), after
			}
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			done := make(chan error, 1)
			for b.Loop() {
				next := p.log.End()
				for i, one := range batches {
					one.SetBaseOffset(next + record.Offset(i))
				}
				end, err := p.AppendReplicated(buf)
				if err == nil {
					p.AwaitHighWatermark(end, func(err error) { done <- err })
					err = <-done
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
