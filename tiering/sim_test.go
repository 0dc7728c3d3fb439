package tiering

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/record"
)

// sim drives Managers over one world by seed: seals, uploads, retention,
// deletes, sweeps, reads, and crashes after any I/O call, done or not. After
// each life of a Manager it checks that what left the local disk is tiered
// (invariant 5), that everything referred to is in the bucket (invariant 6),
// and that the tiered bytes are those that were written (invariant 2).
type sim struct {
	t       *testing.T
	w       *world
	c       *cache.Cache
	m       *Manager
	logs    []*memLog
	seed    uint64
	crashes int
	reads   int
}

func (s *sim) start() {
	s.w.mu.Lock()
	s.w.life = -1
	s.w.mu.Unlock()
	s.m = s.w.managerWith(s.t, small, s.c, false)
	for i, l := range s.logs {
		pol := keepAll
		if i == 1 {
			pol.Retention = 3 * time.Hour
		}
		if i == 2 {
			pol.RetentionBytes = 20 << 10
		}
		attach(s.t, s.m, l, pol)
	}
}

func (s *sim) check() {
	s.t.Helper()
	s.w.reachable(s.t)
	for _, l := range s.logs {
		s.w.localOrTiered(s.t, l)
	}
}

func TestSimulation(t *testing.T) {
	seeds := uint64(30)
	if testing.Short() {
		seeds = 10
	}
	crashes, reads := 0, 0
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := &sim{t: t, w: newWorld(t), seed: seed}
			for i := range 4 {
				s.logs = append(s.logs, newLog(s.w, fmt.Sprint("t", i/2), record.PartitionID(i%2)))
			}
			c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: 256 << 10, ChunkBytes: 8 << 10, OpenFiles: 8}, quiet)
			if err != nil {
				t.Fatal(err)
			}
			s.c = c
			t.Cleanup(func() { c.Close() })
			s.live()
			crashes, reads = crashes+s.crashes, reads+s.reads
		})
	}
	// The search must have been where the danger is.
	if crashes < int(seeds)*3 || reads < int(seeds)*20 {
		t.Errorf("only %d crashes and %d reads", crashes, reads)
	}
}

func (s *sim) live() {
	r := rng(s.seed)
	ctx := context.Background()
	for range 12 {
		s.start()
		doomed := r.IntN(3) > 0
		if doomed {
			s.w.mu.Lock()
			s.w.life, s.w.doneAt = r.IntN(40), r.IntN(2) == 0
			s.w.mu.Unlock()
		}
		if r.IntN(4) > 0 {
			s.m.choresNow()
		}
		for range 10 + r.IntN(20) {
			l := s.logs[r.IntN(len(s.logs))]
			switch r.IntN(16) {
			case 0, 1, 2:
				l.seal(s.t, r, 1+r.IntN(4), 200+r.IntN(4000), s.w.clock().UnixMilli())
			case 3, 4, 5:
				for _, j := range s.m.plan(1 + r.IntN(3)) {
					s.m.run(j)
				}
			case 6:
				s.m.choresNow()
			case 7:
				l.dropLocal()
			case 8:
				s.w.advance(time.Duration(r.IntN(90)) * time.Minute)
			case 9:
				_ = s.m.sweep(ctx) // fails after a crash, as it should
				_ = s.m.collect(ctx)
			case 11:
				if start, end := s.m.ColdRange(l.id, l.tp); r.IntN(4) == 0 && end > start {
					_ = l.AdvanceLogStart(start + record.Offset(r.Int64N(int64(end-start)+1)))
				}
			default:
				s.read(l, r.Int64())
			}
		}
		s.w.mu.Lock()
		if s.w.life == 0 {
			s.crashes++
		}
		s.w.life = -1
		s.w.mu.Unlock()
		s.m.Close(ctx)
		s.check()
	}
	s.start()
	s.m.choresNow()
	s.m.uploadAll()
	s.m.choresNow()
	for _, l := range s.logs {
		l.dropLocal()
		replay(s.t, s.m, l, 1+r.IntN(30000))
	}
	s.check()
	sweepOut(s.t, s.w, s.m)
	used := s.w.reachable(s.t)
	for k := range s.w.objs {
		if _, ours := parseKey(testCluster, k); ours && !used[k] {
			s.t.Errorf("%s is reachable from no manifest and was not collected", k)
		}
	}
	for _, l := range s.logs {
		replay(s.t, s.m, l, 5000)
	}
}

// read tries one cold read at a random offset: right bytes or a named error.
func (s *sim) read(l *memLog, at int64) {
	start, end := s.m.ColdRange(l.id, l.tp)
	if start == end {
		return
	}
	from := start + record.Offset(uint64(at)%uint64(end-start))
	spans, _, err := s.m.ReadCold(context.Background(), l.id, l.tp, from, int(at&0x3fff))
	if err != nil {
		if !errors.Is(err, kerr.KafkaStorageError) {
			s.t.Fatalf("%v at %d: %v", l.tp, from, err)
		}
		return
	}
	defer record.ReleaseSpans(spans)
	s.reads++
	got := flat(s.t, spans)
	b, _, err := record.Next(got)
	if err != nil || b.LastOffset() < from || b.BaseOffset() > from {
		s.t.Fatalf("%v at %d: %v", l.tp, from, err)
	}
	if want := l.bytesFrom(from, end); !bytes.HasPrefix(want, got) {
		s.t.Fatalf("%v at %d: other bytes than were written", l.tp, from)
	}
}

// Every I/O call of an upload, a fold, a retention and a sweep in turn is the
// one at which the process dies, its work done or not.
func TestCrashAtEveryCall(t *testing.T) {
	for _, done := range []bool{false, true} {
		for at := 0; ; at++ {
			w := newWorld(t)
			l := newLog(w, "a", 0)
			pol := Policy{Enabled: true, Retention: time.Hour, RetentionBytes: -1}
			c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: 1 << 20}, quiet)
			if err != nil {
				t.Fatal(err)
			}
			m := w.managerWith(t, small, c, false)
			attach(t, m, l, pol)
			w.mu.Lock()
			w.life, w.doneAt = at, done
			w.mu.Unlock()
			for i := range 6 {
				l.seal(t, rng(uint64(i)), 3, 900, w.clock().UnixMilli())
				m.uploadAll()
				w.advance(20 * time.Minute)
				m.choresNow()
				_ = m.sweep(context.Background())
				_ = m.collect(context.Background())
				l.dropLocal()
			}
			w.mu.Lock()
			died := w.life == 0
			w.life = -1
			w.mu.Unlock()
			m.Close(context.Background())
			w.reachable(t)
			w.localOrTiered(t, l)
			m = w.managerWith(t, small, c, false)
			attach(t, m, l, pol)
			m.choresNow()
			m.uploadAll()
			l.dropLocal()
			replay(t, m, l, 2000)
			if _, end := m.ColdRange(l.id, l.tp); end != l.end {
				t.Fatalf("call %d: tiered up to %d of %d", at, end, l.end)
			}
			sweepOut(t, w, m)
			used := w.reachable(t)
			for k := range w.objs {
				if _, ours := parseKey(testCluster, k); ours && !used[k] {
					t.Errorf("call %d: %s was not collected", at, k)
				}
			}
			m.Close(context.Background())
			c.Close()
			if !died {
				if at < 40 {
					t.Errorf("only %d calls were tried", at)
				}
				break
			}
		}
	}
}

// The answer to a commit is lost: the pointer is read to learn the outcome.
func TestUnknownOutcomeOfACommit(t *testing.T) {
	for name, c := range map[string]struct{ done, reads bool }{
		"done, read works":      {true, true},
		"not done, read works":  {false, true},
		"done, read fails":      {true, false},
		"not done, read fails":  {false, false},
		"none, everything well": {},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m := w.manager(t, small)
			l := newLog(w, "a", 0)
			attach(t, m, l, keepAll)
			l.seal(t, rng(1), 3, 900, 0)
			left := 1
			w.fault = func(op, _ string, done bool) error {
				if op == "cas" && done == c.done && left > 0 {
					left--
					return errors.New("no answer")
				}
				if op == "pointer" && !c.reads && left == 0 {
					return errors.New("no answer either")
				}
				return nil
			}
			m.uploadAll()
			w.localOrTiered(t, l)
			w.fault = nil
			w.advance(2 * time.Minute)
			m.uploadAll()
			w.localOrTiered(t, l)
			if l.tieredEnd != l.end {
				t.Errorf("tiered up to %d of %d: %+v", l.tieredEnd, l.end, m.Status("")[0])
			}
			replay(t, m, l, 1000)
			sweepOut(t, w, m)
			replay(t, m, l, 1000)
		})
	}
}

// An upload that takes longer than half of the quarantine is given up: its
// object may be collected any moment.
func TestASlowUploadIsNotCommitted(t *testing.T) {
	w := newWorld(t)
	m := w.manager(t, small)
	l := newLog(w, "a", 0)
	attach(t, m, l, keepAll)
	l.seal(t, rng(1), 3, 900, 0)
	w.fault = func(op, _ string, done bool) error {
		if op == "put" && done {
			w.now = w.now.Add(31 * time.Minute)
		}
		return nil
	}
	jobs := m.plan(1)
	m.run(jobs[0])
	if len(w.ptrs) != 0 || l.tieredEnd != 0 {
		t.Error("committed")
	}
	w.fault = nil
	w.advance(time.Minute)
	m.uploadAll()
	if l.tieredEnd != l.end {
		t.Errorf("%+v", m.Status("")[0])
	}
}
