package partition

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/disk/disktest"
	"github.com/firnlog/firn/record"
)

// TestBitFlips: one bit that changed in any file of a storage that was stopped
// or killed is found when it is opened or read, and its file named; or it is
// in a file that is made anew; or nothing needs it. What is read is what was
// written, and nothing acknowledged is missing without a word, with the one
// exception that nobody can tell from a torn write: the last batch of a log,
// when it is nowhere else.
func TestBitFlips(t *testing.T) {
	seed := crashSeed(t)
	counts := map[string]int{}
	for run := range uint64(max(1, *powerRuns/4)) {
		x := explore(t, rand.New(rand.NewPCG(seed, run)))
		replay := x.rec.Replay()
		replay.To(x.rec.Len())
		for i := range uint64(*powerStates) {
			rng := rand.New(rand.NewPCG(seed, run<<32|i))
			dir := disktest.Dir(t)
			if err := replay.Kill(dir); err != nil {
				t.Fatal(err)
			}
			what, ok := disktest.Flip(rng, dir, func(path string) bool { return i%4 > 0 || strings.Contains(path, "/journal/") })
			if !ok {
				t.Fatal("there is nothing to damage")
			}
			_, file, _ := strings.Cut(what, " of /")
			how, err := x.flipped(dir, "/"+file)
			if err != nil {
				t.Fatalf("-seed %d, run %d, flip %d, %s: %v", seed, run, i, what, err)
			}
			counts[how]++
			os.RemoveAll(dir)
		}
		os.RemoveAll(x.live)
	}
	t.Logf("%v", counts)
	for _, how := range []string{"the journal names it", "the partition names it", "harmless"} {
		if counts[how] == 0 && *powerRuns >= 10 {
			t.Errorf("never: %s", how)
		}
	}
}

// flipped opens a folder with a damaged file and says how that was dealt with.
func (x *explored) flipped(dir, file string) (how string, err error) {
	named := func(err error) error {
		if strings.Contains(err.Error(), file) {
			return nil
		}
		return fmt.Errorf("the error does not name the file: %w", err)
	}
	s := &storage{dir: dir, disk: disktest.Unsynced(), parts: map[*story]*Partition{}}
	if s.journal, err = journal.Open(filepath.Join(dir, "journal"), powerJournal, journal.Deps{Disk: s.disk, Log: testLog}); err != nil {
		d, ok := errors.AsType[*journal.DamagedError](err)
		switch {
		case !ok:
			return "", err
		case d.Path == filepath.Dir(file): // in a file's first group: which file it was, the others do not say
			return "the journal names its folder", nil
		}
		return "the journal names it", named(err)
	}
	defer func() {
		for _, p := range s.journal.Unclaimed() {
			s.journal.Drop(p)
		}
		err = errors.Join(err, s.close())
	}()
	how = "harmless"
	for _, h := range x.all {
		if !h.exists(x.rec.Len()) {
			continue
		}
		err := s.open(h)
		if err == nil {
			err = h.read(s.parts[h], filepath.Join(dir, h.dir) == filepath.Dir(file), filepath.Base(file))
		}
		if errors.Is(err, errLast) {
			how = "the last batch is gone"
			continue
		}
		if _, ok := errors.AsType[*commitlog.CorruptError](err); ok {
			how = "the partition names it"
			err = named(err)
		}
		if err != nil {
			return "", fmt.Errorf("partition %d: %w", h.tp.Partition, err)
		}
	}
	return how, nil
}

// errLast says that the last batch of a log is not there.
var errLast = errors.New("the last batch is gone")

// read reads all of a partition; damaged says that one of its files is.
func (h *story) read(p *Partition, damaged bool, file string) error {
	state := p.State()
	acked, end := record.Offset(0), record.Offset(len(h.values))
	for _, a := range h.acked {
		acked = max(acked, a.at)
	}
	deleted := record.Offset(0)
	for _, d := range h.started {
		deleted = max(deleted, d.at)
	}
	if state.LogStart < deleted && !(damaged && file == "partition.meta") || state.LogStart > max(deleted, h.tried) {
		return fmt.Errorf("the log begins at %d, and deleted was up to %d", state.LogStart, deleted)
	}
	recs, err := readFrom(p, state.LogStart, 1<<20)
	for _, r := range recs {
		if r.Offset >= end || string(r.Value) != string(h.values[r.Offset].Value) {
			return fmt.Errorf("the record of offset %d is not what was written", r.Offset)
		}
	}
	if err != nil {
		return err
	}
	if state.HighWatermark >= acked {
		return nil
	}
	if damaged && state.HighWatermark >= h.last && strings.HasSuffix(file, ".log") {
		return errLast
	}
	return fmt.Errorf("the high watermark is %d, %d was acknowledged", state.HighWatermark, acked)
}
