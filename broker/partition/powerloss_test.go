package partition

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/broker/disk/disktest"
	"github.com/firnlog/firn/record"
)

var (
	powerSeed = flag.Uint64("seed", 0, "of the power losses; 0: another one each run")
	powerRuns = flag.Int("runs", 6, "how many workloads are cut off by power losses")
)

// storage is a journal and partitions on one disk, as a broker has them.
type storage struct {
	dir     string
	journal *journal.Journal
	parts   []*Partition
}

var powerJournal = journal.Config{FileBytes: 32 << 10, Files: 4, GroupBytes: 8 << 10, GroupCount: 16, CopyBytes: 3 << 10, SyncAllFrom: 2}

// powerConfig: the first partitions are durable when acknowledged, the last
// one is when it is replicated.
func powerConfig(i int) Config {
	cfg := testConfig()
	cfg.Fsync = i < 2
	cfg.SegmentBytes = 12 << 10
	cfg.IndexIntervalBytes = 500
	return cfg
}

func openStorage(dir string, d *disk.Disk, lost bool) (*storage, error) {
	s := &storage{dir: dir}
	var err error
	if s.journal, err = journal.Open(filepath.Join(dir, "journal"), powerJournal, journal.Deps{Disk: d, Log: testLog}); err != nil {
		return nil, err
	}
	for i := range 3 {
		tp := record.TopicPartition{Topic: "t", Partition: record.PartitionID(i)}
		p, err := Open(filepath.Join(dir, fmt.Sprint("p", i)), tp, testID, powerConfig(i), Deps{Log: testLog, Journal: s.journal, Disk: d, PowerLost: lost})
		if err != nil {
			s.close()
			return nil, err
		}
		s.parts = append(s.parts, p)
	}
	return s, nil
}

func (s *storage) close() error {
	for _, p := range s.parts {
		if err := p.Close(); err != nil {
			return err
		}
	}
	return s.journal.Close()
}

// promise is that all before end can be read once so many calls of the disk
// have been made.
type promise struct {
	calls int
	end   record.Offset
}

// history is what one partition was given and what was promised of it.
type history struct {
	mu       sync.Mutex
	values   []string // by offset
	promises []promise
}

func (h *history) promised(calls int) (end record.Offset) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.promises {
		if p.calls <= calls {
			end = max(end, p.end)
		}
	}
	return end
}

// produce appends to a partition and notes when each append is acknowledged.
// Now and then it deletes records from the front.
func produce(t *testing.T, rng *rand.Rand, p *Partition, h *history, rec *disktest.Recorder, appends int) {
	var acks sync.WaitGroup
	for n := range appends {
		var values []string
		for range 1 + rng.IntN(4) {
			values = append(values, fmt.Sprintf("%d-%s", len(h.values)+len(values), strings.Repeat("v", rng.IntN(600))))
		}
		if rng.IntN(10) == 0 { // more than the journal takes
			values = append(values, fmt.Sprintf("%d-%s", len(h.values)+len(values), strings.Repeat("large", 2000)))
		}
		h.mu.Lock()
		h.values = append(h.values, values...)
		h.mu.Unlock()
		res, err := p.Append(plain(t, 1e12+int64(n), values...), Client)
		if err != nil {
			t.Error(err)
			return
		}
		acks.Add(1)
		p.AwaitHighWatermark(res.LastOffset+1, func(err error) {
			if err == nil {
				calls := rec.Mark()
				h.mu.Lock()
				h.promises = append(h.promises, promise{calls, res.LastOffset + 1})
				h.mu.Unlock()
			}
			acks.Done()
		})
		if rng.IntN(3) == 0 {
			acks.Wait()
		}
	}
	acks.Wait()
}

// TestPowerLoss: whatever a power loss leaves on the disk, the storage opens,
// and every record that was acknowledged as durable is at its offset, whole
// and as it was written; what was not acknowledged is there or is not.
func TestPowerLoss(t *testing.T) {
	seed := *powerSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	states := 0
	for run := range uint64(*powerRuns) {
		rng := rand.New(rand.NewPCG(seed, run))
		live := t.TempDir()
		d, rec := disktest.Record(live)
		s, err := openStorage(live, d, false)
		if err != nil {
			t.Fatal(err)
		}
		hs := make([]*history, len(s.parts))
		var wg sync.WaitGroup
		for i, p := range s.parts {
			hs[i] = &history{}
			rng := rand.New(rand.NewPCG(rng.Uint64(), 1))
			wg.Go(func() { produce(t, rng, p, hs[i], rec, 40) })
		}
		wg.Wait()
		if run%2 == 0 {
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
		}
		for range 40 {
			states++
			calls := rng.IntN(rec.Len() + 1)
			crashed := filepath.Join(t.TempDir(), "data")
			if err := rec.Crash(rng, calls, crashed); err != nil {
				t.Fatal(err)
			}
			if err := checkStorage(crashed, hs, calls); err != nil {
				t.Fatalf("run %d, after %d of %d calls, in %s: %v", run, calls, rec.Len(), crashed, err)
			}
			os.RemoveAll(crashed)
		}
		s.close()
	}
	t.Logf("%d states", states)
}

func checkStorage(dir string, hs []*history, calls int) error {
	for range 2 { // the second time what the first left
		s, err := openStorage(dir, disktest.Unsynced(), true)
		if err != nil {
			return err
		}
		for i, p := range s.parts {
			if err := checkPartition(p, hs[i], hs[i].promised(calls), i < 2); err != nil {
				s.close()
				return fmt.Errorf("partition %d: %w", i, err)
			}
		}
		if err := s.close(); err != nil {
			return err
		}
	}
	return nil
}

func checkPartition(p *Partition, h *history, promised record.Offset, durable bool) error {
	state := p.State()
	if durable && state.HighWatermark < promised {
		return fmt.Errorf("the high watermark is %d, %d was acknowledged", state.HighWatermark, promised)
	}
	if state.LogEnd > record.Offset(len(h.values)) {
		return fmt.Errorf("the log ends at %d, %d records were appended", state.LogEnd, len(h.values))
	}
	// Where nothing was acknowledged, the name of the first segment may be lost,
	// and not that of the second.
	if durable && promised > 0 && state.LogStart != 0 {
		return fmt.Errorf("the log begins at %d", state.LogStart)
	}
	recs, err := readFrom(p, state.LogStart, 1<<20)
	if err != nil {
		return err
	}
	next := state.LogStart
	for _, r := range recs {
		if r.Offset != next || string(r.Value) != h.values[next] {
			return fmt.Errorf("the record of offset %d, at %d, is not what was written", r.Offset, next)
		}
		next++
	}
	if next != state.HighWatermark {
		return fmt.Errorf("records can be read up to %d, the high watermark is %d", next, state.HighWatermark)
	}
	return nil
}
