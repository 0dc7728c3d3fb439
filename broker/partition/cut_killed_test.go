package partition

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/firnlog/firn/broker/disk/disktest"
	"github.com/firnlog/firn/record"
)

// TestCutOfAKilledProcess: the process is killed when the end of a log's file
// is cut off and not synced. The next one finds the log as short as it is, goes
// on from there, and then the power fails: what was cut off does not come back,
// neither at the end nor behind other records.
func TestCutOfAKilledProcess(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 7))
		dir := disktest.Dir(t)
		d, rec := disktest.Record(dir)
		f := &followed{kind: durable, dir: "p", tp: record.TopicPartition{Topic: "t"}, seqs: map[int64]int32{}, epoch: 1}
		all := []*followed{f}
		g := newGate(d)
		cut := g.Truncate
		cutting := false
		g.Truncate = func(file *os.File, size int64) error {
			err := cut(file, size)
			if cutting && filepath.Ext(file.Name()) == ".log" {
				g.shut()
			}
			return err
		}
		s, err := openFollowing(dir, &g.Disk, false, all)
		if err != nil {
			t.Fatal(err)
		}
		w := &followerWork{t: t, f: f, p: s.parts[f], rec: rec, gate: g, rng: rng}
		for len(f.now.recs) < 20 {
			if err := w.append(); err != nil {
				t.Fatal(err)
			}
		}
		w.wait()
		if rng.IntN(2) == 0 { // or what the journal has is all there is
			if err := w.p.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		left := f.now.upto(f.now.recs[1+rng.IntN(18)].base)
		cutting = true
		if end, err := w.p.Truncate(left.end()); err == nil {
			t.Fatalf("cut back to %d by a process that was killed", end)
		}
		_ = s.close() // there is nothing that it could change

		if s, err = openFollowing(dir, d, false, all); err != nil {
			t.Fatal(err)
		}
		got, err := contentOf(s.parts[f].log)
		if err != nil || got.end() != left.end() {
			t.Fatalf("the next process finds records up to %d (%v), cut back to %d", got.end(), err, left.end())
		}
		f.now, f.epoch, f.past = left, f.epoch+1, nil
		f.note(-1, "append", 0, left)
		opened := rec.Len()
		w = &followerWork{t: t, f: f, p: s.parts[f], rec: rec, gate: newGate(d), rng: rng}
		for range 3 {
			if err := w.append(); err != nil {
				t.Fatal(err)
			}
			w.wait()
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			calls := opened + rng.IntN(rec.Len()-opened+1)
			after := disktest.Dir(t)
			if err := rec.Crash(rng, calls, after); err != nil {
				t.Fatal(err)
			}
			s, err := openFollowing(after, disktest.Unsynced(), true, all)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.check(s.parts[f], f.after(calls), true); err != nil {
				t.Errorf("seed %d, after %d calls, opened after %d: %v\nof %v", seed, calls, opened, err, f)
			}
			if err := s.close(); err != nil {
				t.Error(err)
			}
			os.RemoveAll(after)
			if t.Failed() {
				return
			}
		}
		os.RemoveAll(dir)
	}
}
