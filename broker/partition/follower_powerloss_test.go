package partition

import (
	"context"
	"errors"
	"fmt"
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

// written is one record that a leader sent.
type written struct {
	value string
	epoch record.Epoch
	base  record.Offset // of its batch
	id    int64         // producer
	seq   int32
}

// content is what a follower's log holds.
type content struct {
	start record.Offset
	recs  []written // from start on
}

func (c content) end() record.Offset { return c.start + record.Offset(len(c.recs)) }

// upto is what is left when the log is cut back to an offset.
func (c content) upto(to record.Offset) content {
	n := max(min(int64(to-c.start), int64(len(c.recs))), 0)
	if n < int64(len(c.recs)) {
		n = int64(c.recs[n].base - c.start)
	}
	return content{c.start, c.recs[:n:n]}
}

// moment is something that happened to a log, after so many calls of the disk.
type moment struct {
	calls int
	what  string
	at    record.Offset
	after content
}

// followed is a follower's log and its history: what it may look like after a
// crash follows from that.
type followed struct {
	kind kindOf // durable, large or replicated
	dir  string
	tp   record.TopicPartition

	mu    sync.Mutex
	past  []moment
	now   content
	epoch record.Epoch
	seqs  map[int64]int32
	wrote int // for values that are unlike all others
}

func (f *followed) config() Config {
	h := story{kind: f.kind}
	return h.config()
}

func (f *followed) note(calls int, what string, at record.Offset, after content) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.past = append(f.past, moment{calls, what, at, after})
}

// found is what may be found.
type found struct {
	has    content
	least  record.Offset   // it does not end below
	starts []record.Offset // or it is empty, and begins at one of these
	anew   bool            // it is being thrown away
}

// after says what may be found when the disk stops after so many calls.
func (f *followed) after(calls int) (p found) {
	f.mu.Lock()
	defer f.mu.Unlock()
	const none = 1 << 62
	most := record.Offset(none) // what is acknowledged while it is being cut off
	for _, m := range f.past {
		switch {
		case m.what == "append" && m.calls < calls:
			p.has = m.after
		case m.what == "acked" && m.calls <= calls:
			p.least = max(p.least, min(m.at, most))
		case m.what == "cutting" && m.calls < calls:
			p.least, most = min(p.least, m.at), m.at
		case m.what == "cut" && m.calls <= calls:
			p.has, most = m.after, none
		case m.what == "beginning" && m.calls < calls:
			p.starts, p.anew = []record.Offset{m.at}, true
		case m.what == "begun" && m.calls <= calls:
			p, most = found{has: m.after, least: m.at}, none
		case m.what == "opened" && m.calls <= calls:
			p.has, p.starts, p.anew, most = m.after, nil, false, none
			p.least = min(p.least, m.after.end())
		}
	}
	return p
}

// check compares an open log with what may be found, and gives what it holds.
func (f *followed) check(p *Partition, want found, powerLost bool) (content, error) {
	st := p.State()
	got, err := contentOf(p.log)
	if err != nil {
		return got, err
	}
	if len(got.recs) == 0 && (slices.Contains(want.starts, got.start) || want.anew && f.kind == replicated && powerLost) {
		return got, nil
	}
	switch {
	case got.start != want.has.start:
		return got, fmt.Errorf("it begins at %d, want %d", got.start, want.has.start)
	case got.end() != st.LogEnd:
		return got, fmt.Errorf("records end at %d, the log at %d", got.end(), st.LogEnd)
	case got.end() > want.has.end():
		return got, fmt.Errorf("it ends at %d, want %d at most", got.end(), want.has.end())
	case got.end() < want.least && (f.kind != replicated || !powerLost):
		return got, fmt.Errorf("it ends at %d, and up to %d was acknowledged", got.end(), want.least)
	}
	for i, r := range got.recs {
		if w := want.has.recs[i]; r != w {
			return got, fmt.Errorf("the record of offset %d is %.20q of epoch %d, want %.20q of epoch %d", got.start+record.Offset(i), r.value, r.epoch, w.value, w.epoch)
		}
	}
	return got, f.checkState(p, got)
}

// checkState compares epochs and producers with the records.
func (f *followed) checkState(p *Partition, got content) error {
	last := map[int64]int32{}
	for i, r := range got.recs {
		if e := p.EpochAt(got.start + record.Offset(i)); e != r.epoch {
			return fmt.Errorf("offset %d is said to be of epoch %d, and is of %d", got.start+record.Offset(i), e, r.epoch)
		}
		last[r.id] = r.seq
	}
	for _, ps := range p.Producers() {
		want, ok := last[ps.ProducerID]
		if !ok || ps.LastSequence != want {
			return fmt.Errorf("producer %d is known with sequence %d, want %d (%v)", ps.ProducerID, ps.LastSequence, want, ok)
		}
		delete(last, ps.ProducerID)
	}
	if len(last) > 0 {
		return fmt.Errorf("producers %v are not known", last)
	}
	return nil
}

// contentOf reads all of a log, as a follower of it would: up to its end,
// whatever the high watermark is.
func contentOf(l *commitlog.Log) (content, error) {
	c := content{start: l.LocalStart()}
	for next := c.start; next < l.End(); {
		run, err := l.Read(next, 1<<20, l.End(), true)
		if err != nil {
			return c, fmt.Errorf("reading offset %d of [%d,%d): %w", next, c.start, l.End(), err)
		}
		buf := make([]byte, run.Span.Size())
		_, err = run.Span.ReadAt(buf, 0)
		run.Span.Release()
		for err == nil && len(buf) > 0 {
			var b record.Batch
			if b, buf, err = record.Next(buf); err != nil {
				break
			}
			if err = b.CheckCRC(); err != nil {
				break
			}
			if b.BaseOffset() != next {
				return c, fmt.Errorf("a batch of offset %d is where %d is due", b.BaseOffset(), next)
			}
			seq := b.BaseSequence()
			err = b.EachRecord(1<<20, func(r *record.Record) bool {
				c.recs = append(c.recs, written{value: string(r.Value), epoch: b.LeaderEpoch(), base: b.BaseOffset(), id: b.ProducerID(), seq: seq})
				seq++
				return true
			})
			next = b.LastOffset() + 1
		}
		if err != nil {
			return c, fmt.Errorf("reading offset %d: %w", next, err)
		}
	}
	return c, nil
}

// following is one disk with a journal and followers' logs.
type following struct {
	dir   string
	d     *disk.Disk
	lost  bool
	j     *journal.Journal
	parts map[*followed]*Partition
}

func openFollowing(dir string, d *disk.Disk, lost bool, all []*followed) (*following, error) {
	s := &following{dir: dir, d: d, lost: lost, parts: map[*followed]*Partition{}}
	var err error
	if s.j, err = journal.Open(filepath.Join(dir, "journal"), powerJournal, journal.Deps{Disk: d, Log: testLog}); err != nil {
		return nil, err
	}
	for _, f := range all {
		p, err := Open(filepath.Join(dir, f.dir), f.tp, testID, f.config(), Deps{Log: testLog, Journal: s.j, Disk: d, PowerLost: lost})
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.parts[f] = p
	}
	return s, nil
}

func (s *following) close() error {
	var errs []error
	for _, p := range s.parts {
		errs = append(errs, p.Close())
	}
	for _, p := range s.j.Unclaimed() {
		s.j.Drop(p)
	}
	return errors.Join(append(errs, s.j.Close())...)
}

// follower does what a fetcher does to one log.
type followerWork struct {
	t    *testing.T
	f    *followed
	p    *Partition
	rec  *disktest.Recorder
	gate *gate
	rng  *rand.Rand
	acks sync.WaitGroup
}

func (w *followerWork) run(steps int) {
	for range steps {
		var err error
		switch n := w.rng.IntN(20); {
		case n < 13:
			err = w.append()
		case n < 17:
			err = w.truncate()
		case n == 17 && w.rng.IntN(3) == 0:
			err = w.startAt()
		case n == 18:
			err = w.p.Roll()
		case n == 19:
			w.wait()
			if w.rng.IntN(3) == 0 {
				err = w.p.Sync()
			}
		}
		if err != nil {
			if w.gate.open() {
				w.t.Errorf("partition %d: %v", w.f.tp.Partition, err)
			}
			return
		}
	}
	w.wait()
}

// wait returns when everything was acknowledged, or the process is killed.
func (w *followerWork) wait() {
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

// batch makes the leader's next batch.
func (w *followerWork) batch(c content) (record.Batch, content) {
	f, rng := w.f, w.rng
	id := int64(rng.IntN(3))
	seq := f.seqs[id] + int32(rng.IntN(2)) // the leader's affair
	var recs []record.Record
	base := c.end()
	for n := range 1 + rng.IntN(3) {
		f.wrote++
		value := fmt.Sprintf("%d-%d-%s", f.wrote, base+record.Offset(n), strings.Repeat("v", rng.IntN(500)))
		if of := 14; n == 0 && (rng.IntN(of) == 0 || f.kind == large && rng.IntN(3) == 0) {
			value += strings.Repeat("large", 1700) // more than the journal takes
		}
		recs = append(recs, record.Record{Offset: base + record.Offset(n), Timestamp: 1e12 + int64(f.wrote), Value: []byte(value)})
		c.recs = append(c.recs[:len(c.recs):len(c.recs)], written{value: value, epoch: f.epoch, base: base, id: id, seq: seq + int32(n)})
	}
	b, err := record.NewBatch(record.BatchSpec{BaseOffset: base, Epoch: f.epoch, ProducerID: id, BaseSequence: seq}, recs)
	if err != nil {
		w.t.Error(err)
	}
	f.seqs[id] = seq + int32(len(recs))
	return b, c
}

func (w *followerWork) append() error {
	f := w.f
	var buf []byte
	next := f.now
	for range 1 + w.rng.IntN(3) {
		var b record.Batch
		b, next = w.batch(next)
		buf = append(buf, b...)
	}
	if w.rng.IntN(4) == 0 {
		buf = append(buf, buf[:w.rng.IntN(len(buf)/2)]...) // a batch that was cut off; or one that is whole, and not next
		buf = buf[:len(buf)-min(len(buf)-w.whole(buf, next.end()), len(buf))]
	}
	f.note(w.rec.Len(), "append", 0, next)
	end, err := w.p.AppendReplicated(buf)
	if err != nil {
		return err
	}
	if end != next.end() {
		return fmt.Errorf("after the append it ends at %d, want %d", end, next.end())
	}
	f.now = next
	w.acks.Add(1)
	w.p.AwaitHighWatermark(end, func(err error) {
		if err == nil {
			f.note(w.rec.Mark(), "acked", end, content{})
		}
		w.acks.Done()
	})
	return nil
}

// whole gives where in buf the batches end, and at most a part of another one
// follows.
func (w *followerWork) whole(buf []byte, end record.Offset) int {
	n := 0
	for rest := buf; ; {
		b, after, err := record.Next(rest)
		if err != nil {
			return len(buf)
		}
		n += len(b)
		if rest = after; b.LastOffset()+1 == end {
			_, _, err := record.Next(rest)
			if err != nil {
				return len(buf)
			}
			return n
		}
	}
}

func (w *followerWork) truncate() error {
	f := w.f
	to := f.now.end() - record.Offset(w.rng.IntN(min(len(f.now.recs), 12)+1))
	if w.rng.IntN(8) == 0 {
		to = f.now.start + record.Offset(w.rng.IntN(len(f.now.recs)+1))
	}
	left := f.now.upto(to)
	f.note(w.rec.Len(), "cutting", left.end(), content{})
	end, err := w.p.Truncate(to)
	if err != nil {
		return err
	}
	if end != left.end() {
		return fmt.Errorf("truncated to %d it ends at %d, want %d", to, end, left.end())
	}
	f.note(w.rec.Mark(), "cut", end, left)
	f.now = left
	w.newEpoch()
	return f.checkState(w.p, left)
}

// newEpoch goes on under another leader: of a greater epoch, or, as after an
// unclean election, with records of an epoch that is less than the one of what
// was cut off.
func (w *followerWork) newEpoch() {
	f := w.f
	last := max(w.p.EpochAt(f.now.end()-1), 0)
	if w.rng.IntN(4) == 0 {
		f.epoch = last + record.Epoch(w.rng.IntN(int(f.epoch-last)+1))
	} else {
		f.epoch++
	}
	f.seqs = map[int64]int32{}
}

func (w *followerWork) startAt() error {
	f := w.f
	at := f.now.end() + record.Offset(w.rng.IntN(60))
	if w.rng.IntN(3) == 0 {
		at = record.Offset(w.rng.IntN(int(f.now.end()) + 1))
	}
	f.note(w.rec.Len(), "beginning", at, content{})
	if err := w.p.StartAt(at, []record.EpochStart{{Epoch: f.epoch, Start: at}}, nil); err != nil {
		return err
	}
	f.now = content{start: at}
	f.note(w.rec.Mark(), "begun", at, f.now)
	f.epoch++
	f.seqs = map[int64]int32{}
	return nil
}

// crashes is the work of one run, and of those after its crashes.
type crashes struct {
	t      *testing.T
	rng    *rand.Rand
	counts map[string]int
}

// round works on what is in dir, with stops and kills of the process in
// between, and gives the record. lost says that a power loss left it so.
func (c *crashes) round(dir string, lost bool, all []*followed, steps int) (rec *disktest.Recorder, opened int, err error) {
	d, rec := disktest.Record(dir)
	for phase := range 1 + c.rng.IntN(2) {
		g := newGate(d)
		s, err := openFollowing(dir, &g.Disk, lost && phase == 0, all)
		if err != nil {
			return rec, 0, err
		}
		if phase == 0 {
			opened = rec.Len()
		}
		var wg sync.WaitGroup
		var work []*followerWork
		for _, f := range all {
			got, err := f.check(s.parts[f], f.after(rec.Len()), lost && phase == 0)
			if err != nil {
				return rec, 0, errors.Join(fmt.Errorf("partition %d, recovery did %+v: %w\nafter %d calls of %v", f.tp.Partition, s.parts[f].log.Recovered(), err, rec.Len(), f), s.close())
			}
			f.now = got
			f.note(rec.Mark(), "opened", 0, got)
			if f.kind != replicated {
				f.note(rec.Len(), "acked", got.end(), content{}) // somebody may have read it
			}
			if n := len(got.recs); n > 0 {
				f.epoch = max(f.epoch, got.recs[n-1].epoch)
			}
			f.epoch++
			f.seqs = map[int64]int32{}
			w := &followerWork{t: c.t, f: f, p: s.parts[f], rec: rec, gate: g, rng: rand.New(rand.NewPCG(c.rng.Uint64(), 1))}
			work = append(work, w)
		}
		for _, w := range work {
			wg.Go(func() { w.run(steps) })
		}
		killed := c.rng.IntN(3) > 0
		if killed {
			soon := time.AfterFunc(time.Duration(c.rng.IntN(12))*time.Millisecond, g.shut)
			defer soon.Stop()
		}
		wg.Wait()
		if killed {
			g.shut()
		}
		if err := s.close(); err != nil && !killed {
			return rec, 0, err
		}
	}
	return rec, opened, nil
}

// states lets the disk stop at moments of a round. Of one before the logs were
// opened the machine may know that it lost power before.
func (c *crashes) states(rec *disktest.Recorder, lost int, all []*followed, n, depth int) error {
	at := make([]int, n)
	for i := range at {
		at[i] = c.rng.IntN(rec.Len() + 1)
	}
	slices.Sort(at)
	replay := rec.Replay()
	for _, calls := range at {
		replay.To(calls)
		if err := c.state(replay, calls <= lost, all, calls, depth); err != nil {
			return fmt.Errorf("after %d of %d calls: %w", calls, rec.Len(), err)
		}
	}
	return nil
}

func (c *crashes) state(replay *disktest.Replay, lost bool, all []*followed, calls, depth int) error {
	dir := disktest.Dir(c.t)
	defer os.RemoveAll(dir)
	killed := c.rng.IntN(6) == 0
	var err error
	if killed {
		c.counts["ends of the process"]++
		err = replay.Kill(dir)
	} else {
		c.counts["power losses"]++
		err = replay.Crash(c.rng, dir)
	}
	if err != nil {
		return err
	}
	lost = lost || !killed
	if depth > 0 && c.rng.IntN(6) == 0 {
		c.counts["gone on from"]++
		var next []*followed
		for _, f := range all {
			w := f.after(calls)
			if f.kind == replicated && lost {
				w.least = 0
			}
			n := &followed{kind: f.kind, dir: f.dir, tp: f.tp, wrote: 1_000_000 * depth, epoch: f.epoch}
			n.past = f.pastOf(calls, w)
			next = append(next, n)
		}
		rec, opened, err := c.round(dir, lost, next, 8)
		if err != nil {
			return fmt.Errorf("going on (killed %v): %w\nfrom %v", killed, err, all)
		}
		if !lost {
			opened = -1
		}
		if err := c.states(rec, opened, next, 6, depth-1); err != nil {
			return fmt.Errorf("having gone on: %w", err)
		}
		return nil
	}
	if c.rng.IntN(8) == 0 {
		c.counts["verified"]++
		if err := c.verify(dir, all, lost); err != nil {
			return err
		}
	}
	s, err := openFollowing(dir, disktest.Unsynced(), lost, all)
	if err != nil {
		return err
	}
	for _, f := range all {
		did := s.parts[f].log.Recovered()
		c.counts["torn tails"] += len(did.Cut)
		if did.FromJournal > 0 {
			c.counts["from the journal"]++
		}
		if _, err := f.check(s.parts[f], f.after(calls), lost); err != nil {
			return errors.Join(fmt.Errorf("partition %d (power lost %v, recovery did %+v): %w\nof %v", f.tp.Partition, lost, did, err, f), s.close())
		}
	}
	return s.close()
}

// pastOf is a history that has the same after(calls) for good.
func (f *followed) pastOf(calls int, p found) []moment {
	past := []moment{{-1, "append", 0, p.has}, {-1, "acked", p.least, content{}}}
	if p.anew {
		past = append(past, moment{-1, "beginning", p.starts[0], content{}})
	}
	return past
}

// verify says that what is there is no damage.
func (c *crashes) verify(dir string, all []*followed, lost bool) error {
	scratch := disktest.Dir(c.t)
	defer os.RemoveAll(scratch)
	copied := filepath.Join(scratch, "journal")
	if err := os.MkdirAll(filepath.Join(dir, "journal"), 0o755); err != nil {
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
	for _, f := range all {
		at := filepath.Join(dir, f.dir)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		v, err := commitlog.Verify(context.Background(), at, filepath.Join(scratch, f.dir), testID, logConfig(f.config()),
			commitlog.Deps{Log: testLog, Journal: j, Partition: int32(f.tp.Partition), PowerLost: lost}, func(int64) {})
		if err == nil && len(v.Damage) > 0 {
			err = v.Damage[0].Err
		}
		if err != nil {
			return fmt.Errorf("partition %d: verified: %w", f.tp.Partition, err)
		}
	}
	for _, p := range j.Unclaimed() {
		j.Drop(p)
	}
	return nil
}

// TestFollowerPowerLoss is the explorer of crash states for followers' logs:
// their ends are cut off, other records come in their place, and they begin
// anew somewhere else. Whatever a power loss or the end of the process leaves,
// and a second one after that was recovered and gone on from, a log is what it
// was given, up to what was acknowledged and not cut off; when a cut is over,
// nothing of what it took comes back.
func TestFollowerPowerLoss(t *testing.T) {
	seed := crashSeed(t)
	counts := map[string]int{}
	for run := range uint64(*powerRuns+1) / 2 {
		c := &crashes{t: t, rng: rand.New(rand.NewPCG(seed, run)), counts: counts}
		var all []*followed
		for i, k := range []kindOf{durable, large, replicated} {
			all = append(all, &followed{kind: k, dir: fmt.Sprint("p", i), tp: record.TopicPartition{Topic: "t", Partition: record.PartitionID(i)}})
		}
		live := disktest.Dir(t)
		rec, _, err := c.round(live, false, all, 40)
		if err == nil {
			err = c.states(rec, -1, all, *powerStates/2, 2) // and those of what goes on from some of them
		}
		if err != nil {
			t.Fatalf("-seed %d, run %d: %v", seed, run, err)
		}
		os.RemoveAll(live)
	}
	t.Logf("%v", counts)
	for _, what := range []string{"power losses", "ends of the process", "gone on from", "verified", "torn tails", "from the journal"} {
		if counts[what] == 0 && *powerRuns >= 20 {
			t.Errorf("no %s", what)
		}
	}
}

func (f *followed) String() string {
	var b strings.Builder
	for _, m := range f.past {
		fmt.Fprintf(&b, "\n  %d %s at %d [%d,%d)", m.calls, m.what, m.at, m.after.start, m.after.end())
	}
	return b.String()
}
