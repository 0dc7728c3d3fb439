package partition

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/broker/disk/disktest"
	"github.com/firnlog/firn/record"
)

var (
	powerSeed   = flag.Uint64("seed", 0, "of the power losses and flipped bits; 0: another one each run")
	powerRuns   = flag.Int("runs", 30, "how many workloads are cut off by power losses")
	powerStates = flag.Int("states", 100, "how many states of each workload are opened")
)

func crashSeed(t *testing.T) uint64 {
	seed := *powerSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	return seed
}

// kindOf is what a partition of the explorer is for.
type kindOf int

const (
	durable    kindOf = iota // small batches, some large: in the journal, some not
	large                    // mostly batches that the journal does not take
	trimmed                  // records are deleted from the front, by hand and by size
	compacted                // compaction swaps segments
	doomed                   // deleted in the middle, and made again under another id
	replicated               // acknowledged is in the page cache: a power loss may take it
	numKinds   = iota
)

// story is what one partition was given and what was promised of it.
type story struct {
	kind kindOf
	dir  string // in the storage's folder
	tp   record.TopicPartition
	id   record.TopicID

	mu      sync.Mutex
	values  []record.Record // by offset
	acked   []promise       // all before it can be read
	started []promise       // all before it is deleted
	made    int             // calls of the disk before it was made
	gone    int             // calls before it was deleted, 0: it was not
	last    record.Offset   // of the last batch's first record
	tried   record.Offset   // up to where deleting was begun, at most
}

// promise is an offset that counts once so many calls of the disk were made.
type promise struct {
	calls int
	at    record.Offset
}

// promised gives the last of promises that counts, and the one after it.
func promised(all []promise, calls int) (now, next record.Offset) {
	for _, p := range all {
		if p.calls > calls {
			return now, max(now, p.at)
		}
		now = max(now, p.at)
	}
	return now, now
}

func (h *story) config() Config {
	cfg := testConfig()
	cfg.Fsync = h.kind != replicated
	cfg.SegmentBytes, cfg.IndexIntervalBytes = 12<<10, 500
	switch h.kind {
	case large:
		cfg.Preallocate = true
	case trimmed:
		cfg.RetentionBytes = 30 << 10
	case compacted:
		cfg.Compact, cfg.DeleteOnRetention = true, false
	case replicated:
		cfg.FileDeleteDelay = time.Hour
	}
	return cfg
}

// exists says whether the metadata has the partition after so many calls.
func (h *story) exists(calls int) bool {
	return calls >= h.made && (h.gone == 0 || calls < h.gone)
}

var powerJournal = journal.Config{FileBytes: 32 << 10, Files: 4, GroupBytes: 8 << 10, GroupCount: 16, CopyBytes: 3 << 10, SyncAllFrom: 2}

// storage is a journal and partitions on one disk, as a broker has them.
type storage struct {
	dir     string
	disk    *disk.Disk
	lost    bool // the power was
	journal *journal.Journal
	parts   map[*story]*Partition
	failed  chan error // why the disk did, nil: nobody asks
}

// openStorage opens the partitions that exist after so many calls, and drops
// what the journal has of others, as the broker does.
func openStorage(dir string, d *disk.Disk, lost bool, all []*story, calls int) (*storage, error) {
	s := &storage{dir: dir, disk: d, lost: lost, parts: map[*story]*Partition{}}
	return s, s.openAll(all, calls)
}

func (s *storage) openAll(all []*story, calls int) error {
	at := filepath.Join(s.dir, "journal")
	var err error
	if s.journal, err = journal.Open(at, powerJournal, journal.Deps{Disk: s.disk, Log: testLog, Failed: s.fail}); err != nil {
		return err
	}
	for _, h := range all {
		if h.exists(calls) {
			if err := s.open(h); err != nil {
				return errors.Join(err, s.close())
			}
			continue
		}
		if err := s.finish(h); err != nil {
			return errors.Join(err, s.close())
		}
	}
	for _, p := range s.journal.Unclaimed() {
		s.journal.Drop(p)
	}
	return nil
}

// finish does what a start does with a partition that is no longer here. Where
// its removal had not begun, all of it is there.
func (s *storage) finish(h *story) error {
	folder := filepath.Join(s.dir, h.dir)
	if err := commitlog.FinishRemoval(s.disk, folder); err != nil {
		return err
	}
	if left, err := os.ReadDir(folder); h.gone == 0 || len(left) == 0 {
		return ignoreMissing(err)
	}
	return s.open(h)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *storage) fail(err error) {
	if s.failed != nil {
		s.failed <- err
	}
}

func (s *storage) open(h *story) error {
	p, err := Open(filepath.Join(s.dir, h.dir), h.tp, h.id, h.config(), Deps{
		Log: testLog, Journal: s.journal, Disk: s.disk, PowerLost: s.lost,
		Failed: func(_ record.TopicPartition, err error) { s.fail(err) },
	})
	if err == nil {
		s.parts[h] = p
	}
	return err
}

func (s *storage) close() error {
	var errs []error
	for _, p := range s.parts {
		errs = append(errs, p.Close())
	}
	return errors.Join(append(errs, s.journal.Close())...)
}

// explored is one workload and its record.
type explored struct {
	t    *testing.T
	rng  *rand.Rand
	live string
	rec  *disktest.Recorder
	all  []*story
}

// explore runs a workload: appends, rolls, deletions and compactions in
// several partitions at once, with a stop or a crash of the process in the
// middle. The storage is open at the end, unless it ends with a stop.
func explore(t *testing.T, rng *rand.Rand) *explored {
	x := &explored{t: t, rng: rng, live: disktest.Dir(t)}
	d, rec := disktest.Record(x.live)
	x.rec = rec
	for k := range numKinds {
		x.all = append(x.all, &story{kind: kindOf(k), dir: fmt.Sprint("p", k), tp: record.TopicPartition{Topic: "t", Partition: record.PartitionID(k)}, id: testID})
	}
	phases := 1 + rng.IntN(2)
	for phase := range phases {
		gate := newGate(d)
		s, err := openStorage(x.live, &gate.Disk, false, x.all, rec.Len())
		if err != nil {
			t.Fatal(err)
		}
		x.reopened(s)
		var wg sync.WaitGroup
		var work []func()
		for _, h := range x.all {
			if p := s.parts[h]; p != nil {
				w := &worker{x: x, s: s, gate: gate, rng: rand.New(rand.NewPCG(rng.Uint64(), 1))}
				work = append(work, func() { w.run(h, p, 50/phases) })
			}
		}
		for _, f := range work {
			wg.Go(f)
		}
		killed := rng.IntN(3) > 0
		if killed && phase < phases-1 {
			soon := time.AfterFunc(time.Duration(rng.IntN(10))*time.Millisecond, gate.shut)
			defer soon.Stop()
		}
		wg.Wait()
		if killed {
			gate.shut()
		}
		if err := s.close(); err != nil && !killed {
			t.Fatal(err)
		}
	}
	return x
}

// reopened compares what a storage that was opened after a crash of the
// process has with what it was given, and forgets what it never took.
func (x *explored) reopened(s *storage) {
	for h, p := range s.parts {
		end := p.State().LogEnd
		if ack, _ := promised(h.acked, x.rec.Len()); end < ack || end > record.Offset(len(h.values)) {
			x.t.Fatalf("partition %d ends at %d after the process crashed; %d were acknowledged of %d", h.tp.Partition, end, ack, len(h.values))
		}
		h.values = h.values[:end]
	}
}

// gate is a disk that can be shut: then every call fails, and changes nothing.
type gate struct {
	disk.Disk
	mu     sync.RWMutex
	closed bool
	down   chan struct{} // closed when closed is set
}

var errKilled = errors.New("the process was killed")

func newGate(d *disk.Disk) *gate {
	g := &gate{Disk: *d, down: make(chan struct{})}
	g.Create = func(path string) (f *os.File, err error) {
		err = g.pass(func() (err error) { f, err = d.Create(path); return err })
		return f, err
	}
	g.WriteAt = func(f *os.File, b []byte, off int64) (n int, err error) {
		err = g.pass(func() (err error) { n, err = d.WriteAt(f, b, off); return err })
		return n, err
	}
	g.Sync = func(f *os.File) error { return g.pass(func() error { return d.Sync(f) }) }
	g.SyncAll = func(f *os.File) error { return g.pass(func() error { return d.SyncAll(f) }) }
	g.Truncate = func(f *os.File, n int64) error { return g.pass(func() error { return d.Truncate(f, n) }) }
	g.Rename = func(from, to string) error { return g.pass(func() error { return d.Rename(from, to) }) }
	g.Remove = func(path string) error { return g.pass(func() error { return d.Remove(path) }) }
	return g
}

func (g *gate) pass(f func() error) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return errKilled
	}
	return f()
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		close(g.down)
	}
}

func (g *gate) open() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return !g.closed
}

// worker is the only one who changes a partition.
type worker struct {
	x    *explored
	s    *storage
	gate *gate
	rng  *rand.Rand
	acks sync.WaitGroup

	fails bool // the disk is about to
}

func (w *worker) run(h *story, p *Partition, steps int) {
	for n := range steps {
		if !w.append(h, p) {
			break
		}
		if w.rng.IntN(3) == 0 {
			w.wait()
		}
		if err := w.change(h, p, n); err != nil && w.gate.open() {
			w.x.t.Errorf("partition %d: %v", h.tp.Partition, err)
			break
		}
		if h.kind == doomed && h.gone == 0 && n == steps/2 && w.rng.IntN(2) == 0 {
			w.wait()
			h, p = w.again(h, p)
			if p == nil {
				break
			}
		}
	}
	w.wait()
}

// wait returns when everything was acknowledged, or the process is killed:
// then nobody is told any more.
func (w *worker) wait() {
	all := make(chan struct{})
	go func() {
		w.acks.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-w.gate.down:
	}
}

// append appends one batch and notes when it is acknowledged. False: the
// process was killed.
func (w *worker) append(h *story, p *Partition) bool {
	rng := w.rng
	h.mu.Lock()
	first := len(h.values)
	var recs []record.Record
	for n := range 1 + rng.IntN(4) {
		recs = append(recs, record.Record{
			Timestamp: 1e12 + int64(first+n), Key: fmt.Append(nil, "key", rng.IntN(6)),
			Value: fmt.Appendf(nil, "%d-%s", first+n, strings.Repeat("v", rng.IntN(600))),
		})
	}
	if of := 12; rng.IntN(of) == 0 || h.kind == large && rng.IntN(3) == 0 { // more than the journal takes
		recs[0].Value = fmt.Appendf(recs[0].Value, "%s", strings.Repeat("large", 1700))
	}
	h.values = append(h.values, recs...)
	h.mu.Unlock()
	was := h.last
	h.last = record.Offset(first)
	b := produced(w.x.t, record.BatchSpec{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, slices.Clone(recs)...)
	res, err := p.Append(b, Client)
	if err != nil {
		if w.gate.open() && !w.fails {
			w.x.t.Errorf("partition %d: %v", h.tp.Partition, err)
		}
		h.last = was // or it is there, which is as well
		return false
	}
	w.acks.Add(1)
	p.AwaitHighWatermark(res.LastOffset+1, func(err error) {
		if err == nil {
			h.note(&h.acked, w.x.rec.Mark(), res.LastOffset+1)
		}
		w.acks.Done()
	})
	return true
}

func (h *story) note(all *[]promise, calls int, at record.Offset) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*all = append(*all, promise{calls, at})
}

// change does what its kind does to a partition, now and then.
func (w *worker) change(h *story, p *Partition, n int) error {
	rng := w.rng
	if rng.IntN(20) == 0 {
		return p.Roll()
	}
	var err error
	if h.kind == trimmed {
		h.tried = p.State().HighWatermark
	}
	switch {
	case h.kind == trimmed && rng.IntN(8) == 0:
		hw := p.State().HighWatermark
		_, err = p.DeleteRecords(max(p.LogStart(), hw-record.Offset(rng.IntN(20))))
	case h.kind == trimmed && rng.IntN(4) == 0:
		_, err = p.RunRetention(time.UnixMilli(1e12))
	case h.kind == compacted && n%12 == 11:
		w.wait()
		if err = p.Sync(); err == nil {
			_, err = p.compact(context.Background(), time.UnixMilli(1e12), 1<<20, func(context.Context, int) error { return nil })
		}
	}
	if start := p.LogStart(); err == nil && h.kind == trimmed {
		h.note(&h.started, w.x.rec.Mark(), start)
	}
	return err
}

// again deletes a partition and makes it anew under another id, as for a topic
// that is deleted and made again.
func (w *worker) again(h *story, p *Partition) (*story, *Partition) {
	x := w.x
	h.gone = x.rec.Mark() // in the metadata, also if the process is killed in the middle of the removal
	if err := p.Delete(); err != nil {
		if w.gate.open() {
			x.t.Error(err)
		}
		return nil, nil
	}
	next := &story{kind: doomed, dir: h.dir + "-again", tp: h.tp, id: record.TopicID{9, byte(len(x.all))}, made: x.rec.Mark()}
	x.all = append(x.all, next) // nobody else does, and nobody reads it before this has ended
	made, err := Open(filepath.Join(x.live, next.dir), next.tp, next.id, next.config(), Deps{Log: testLog, Journal: w.s.journal, Disk: &w.gate.Disk})
	if err != nil {
		if w.gate.open() {
			x.t.Error(err)
		}
		return nil, nil
	}
	x.rec.Mark()
	delete(w.s.parts, h) // as above
	w.s.parts[next] = made
	return next, made
}

// TestPowerLoss: whatever a power loss or the end of the process leaves on the
// disk, and whatever a second one leaves of recovery from it, the storage
// opens; every record that was acknowledged as durable is at its offset, whole
// and as it was written; what was not acknowledged is there or is not; what
// was deleted stays deleted. And Verify says beforehand what opening does.
func TestPowerLoss(t *testing.T) {
	seed := crashSeed(t)
	counts := map[string]int{}
	for run := range uint64(*powerRuns) {
		x := explore(t, rand.New(rand.NewPCG(seed, run)))
		at := make([]int, *powerStates)
		for i := range at {
			at[i] = x.rng.IntN(x.rec.Len() + 1)
		}
		slices.Sort(at)
		replay := x.rec.Replay()
		for i, calls := range at {
			replay.To(calls)
			c := crashed{x: x, rng: rand.New(rand.NewPCG(seed, run<<32|uint64(i))), calls: calls, counts: counts}
			if err := c.state(replay, disktest.Dir(t)); err != nil {
				kept, kerr := os.MkdirTemp("", "firn-powerloss-")
				if kerr == nil {
					c.rng = rand.New(rand.NewPCG(seed, run<<32|uint64(i)))
					_, kerr = c.build(replay, kept)
				}
				t.Fatalf("-seed %d, run %d, state %d, after %d of %d calls: %v\nthe state is kept in %s (%v)", seed, run, i, calls, x.rec.Len(), err, kept, kerr)
			}
		}
		os.RemoveAll(x.live)
	}
	states := counts["power losses"] + counts["second crashes"] + counts["ends of the process"]
	t.Logf("%d states: %v", states, counts)
	for _, what := range []string{"power losses", "second crashes", "ends of the process", "foretold", "torn tails", "from the journal"} {
		if counts[what] == 0 && *powerRuns >= 10 {
			t.Errorf("no %s among %d states", what, states)
		}
	}
}

// crashed is one state.
type crashed struct {
	x      *explored
	rng    *rand.Rand
	calls  int // before the crash
	counts map[string]int
}

// build makes the state in dir; killed says that it is the end of the process,
// and not of the machine.
func (c *crashed) build(replay *disktest.Replay, dir string) (killed bool, err error) {
	if killed = c.rng.IntN(8) == 0; killed {
		c.counts["ends of the process"]++
		err = replay.Kill(dir)
	} else {
		c.counts["power losses"]++
		err = replay.Crash(c.rng, dir)
	}
	return killed, errors.Join(err, os.MkdirAll(dir, 0o755))
}

func (c *crashed) state(replay *disktest.Replay, dir string) error {
	defer os.RemoveAll(dir)
	first := filepath.Join(dir, "1")
	killed, err := c.build(replay, first)
	if err != nil {
		return err
	}
	foretold := map[*story]commitlog.Verified{}
	if c.rng.IntN(8) == 0 {
		if err := c.foretell(first, filepath.Join(dir, "shadow"), !killed, foretold); err != nil {
			return err
		}
	}
	if c.rng.IntN(4) == 0 && !killed {
		return c.second(first, filepath.Join(dir, "2"))
	}
	for n := range 1 + c.rng.IntN(2) { // the second time what the first left
		_, err := c.check(first, disktest.Unsynced(), !killed || n > 0, killed, foretold, nil)
		if err != nil {
			return err
		}
		foretold = nil
	}
	return nil
}

// second lets the power fail again during recovery, or soon after it: what a
// reader saw in between stays, too.
func (c *crashed) second(first, dir string) error {
	c.counts["second crashes"]++
	d, rec := disktest.Record(first)
	opened, err := c.check(first, d, true, false, nil, rec)
	if err != nil {
		return err
	}
	n := c.rng.IntN(rec.Len() + 1)
	if err := rec.Crash(c.rng, n, dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	seen := map[*story]record.Offset{}
	for h, p := range opened {
		if n >= p.calls && h.kind != replicated {
			seen[h] = p.at
		}
	}
	again, err := c.check(dir, disktest.Unsynced(), true, false, nil, nil)
	if err != nil {
		return fmt.Errorf("after a second crash, %d of %d calls later: %w", n, rec.Len(), err)
	}
	for h, hw := range seen {
		if again[h].at < hw {
			return fmt.Errorf("partition %d: after a second crash the high watermark is %d, it was %d", h.tp.Partition, again[h].at, hw)
		}
	}
	return nil
}

// check opens a state, compares it with what was promised, and closes it. It
// gives the high watermarks, and how many calls rec had when they were seen.
func (c *crashed) check(dir string, d *disk.Disk, lost, killed bool, foretold map[*story]commitlog.Verified, rec *disktest.Recorder) (map[*story]promise, error) {
	s, err := openStorage(dir, d, lost, c.x.all, c.calls)
	if err != nil {
		return nil, err
	}
	opened := map[*story]promise{}
	for h, p := range s.parts {
		seen := promise{at: p.State().HighWatermark}
		if rec != nil {
			seen.calls = rec.Len()
		}
		opened[h] = seen
		did := p.log.Recovered()
		c.counts["torn tails"] += len(did.Cut)
		c.counts["swaps finished"] += len(did.Swapped)
		if did.FromJournal > 0 {
			c.counts["from the journal"]++
		}
		if v, ok := foretold[h]; ok && fmt.Sprint(v.Recovered) != fmt.Sprint(did) {
			return nil, errors.Join(fmt.Errorf("partition %d: recovery did %+v, and %+v was foretold", h.tp.Partition, did, v.Recovered), s.close())
		}
		if err := h.check(p, c.calls, killed); err != nil {
			return nil, errors.Join(fmt.Errorf("partition %d (power lost %v; recovery did %+v): %w", h.tp.Partition, lost, did, err), s.close())
		}
	}
	return opened, s.close()
}

// foretell verifies a state with what commitlog.Verify says.
func (c *crashed) foretell(dir, scratch string, lost bool, out map[*story]commitlog.Verified) error {
	c.counts["foretold"]++
	copied := filepath.Join(scratch, "journal")
	if err := os.MkdirAll(filepath.Join(dir, "journal"), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	if err := os.CopyFS(copied, os.DirFS(filepath.Join(dir, "journal"))); err != nil {
		return err
	}
	j, err := journal.Open(copied, powerJournal, journal.Deps{Disk: disktest.Unsynced(), Log: testLog})
	if err != nil {
		return err
	}
	defer j.Close()
	for i, h := range c.x.all {
		if !h.exists(c.calls) {
			continue
		}
		v, err := commitlog.Verify(context.Background(), filepath.Join(dir, h.dir), filepath.Join(scratch, fmt.Sprint(i)), h.id, logConfig(h.config()),
			commitlog.Deps{Log: testLog, Journal: j, Partition: int32(h.tp.Partition), PowerLost: lost}, func(int64) {})
		if err == nil && len(v.Damage) > 0 {
			err = v.Damage[0].Err
		}
		if err != nil {
			return fmt.Errorf("partition %d: verified: %w", h.tp.Partition, err)
		}
		out[h] = v
	}
	for _, p := range j.Unclaimed() {
		j.Drop(p)
	}
	return nil
}

// check compares an open partition with its story after so many calls.
func (h *story) check(p *Partition, calls int, killed bool) error {
	state := p.State()
	acked, _ := promised(h.acked, calls)
	deleted, atMost := promised(h.started, calls)
	switch {
	case state.LogEnd > record.Offset(len(h.values)):
		return fmt.Errorf("the log ends at %d, %d records were appended", state.LogEnd, len(h.values))
	case h.kind == replicated && !killed:
		// Segments went with their names: it may begin or end anywhere.
	case state.HighWatermark < acked:
		return fmt.Errorf("the high watermark is %d, %d was acknowledged", state.HighWatermark, acked)
	case acked == 0 && state.LogStart > 0:
		// The name of the second segment is there, and that of the first is not.
	case state.LogStart < deleted || state.LogStart > atMost:
		return fmt.Errorf("the log begins at %d, and deleted was up to %d or %d", state.LogStart, deleted, atMost)
	}
	recs, err := readFrom(p, state.LogStart, 1<<20)
	if err != nil {
		return err
	}
	next := state.LogStart
	there := map[record.Offset]bool{}
	for _, r := range recs {
		if r.Offset != next && (h.kind != compacted || r.Offset < next) {
			return fmt.Errorf("the record of offset %d is where %d is due", r.Offset, next)
		}
		if want := h.values[r.Offset]; string(r.Value) != string(want.Value) || string(r.Key) != string(want.Key) {
			return fmt.Errorf("the record of offset %d is not what was written", r.Offset)
		}
		there[r.Offset] = true
		next = r.Offset + 1
	}
	if h.kind == compacted {
		latest := map[string]record.Offset{}
		for o, r := range h.values[:state.HighWatermark] {
			if record.Offset(o) < state.LogStart {
				continue
			}
			latest[string(r.Key)] = record.Offset(o)
		}
		for key, o := range latest {
			if !there[o] {
				return fmt.Errorf("the latest record of %s, at offset %d, is gone", key, o)
			}
		}
		return nil
	}
	if next != state.HighWatermark {
		return fmt.Errorf("records can be read up to %d, the high watermark is %d", next, state.HighWatermark)
	}
	return nil
}
