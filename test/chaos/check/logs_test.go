package check

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/firnlog/firn/record"
)

// folder writes batches as segments of perFile batches.
func folder(t *testing.T, batches []record.Batch, perFile int) string {
	t.Helper()
	dir := t.TempDir()
	var f *os.File
	for i, b := range batches {
		if i%perFile == 0 {
			var err error
			if f, err = os.Create(filepath.Join(dir, fmt.Sprintf("%020d.log", b.BaseOffset()))); err != nil {
				t.Fatal(err)
			}
			defer f.Close()
		}
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(dir, "00000000000000000000.index"), []byte("no segment"), 0o644)
	return dir
}

func batches(t *testing.T, rnd *rand.Rand, n int) []record.Batch {
	t.Helper()
	var all []record.Batch
	offset := record.Offset(0)
	for range n {
		var recs []record.Record
		for range 1 + rnd.IntN(5) {
			value := make([]byte, rnd.IntN(1000))
			recs = append(recs, record.Record{Offset: offset, Timestamp: 1, Value: value})
			offset++
		}
		b, err := record.NewBatch(record.BatchSpec{BaseOffset: recs[0].Offset, Epoch: 3, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, recs)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

func TestCompare(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	all := batches(t, rnd, 60)
	var size, late int64
	for i, b := range all {
		size += b.Size()
		if i >= 20 {
			late += b.Size()
		}
	}
	a, b, c := folder(t, all, 7), folder(t, all, 60), folder(t, all[20:], 3)
	found, same, err := Compare("t-0", []Replica{{1, a}, {2, b}, {3, c}})
	if err != nil || len(found) != 0 || same != late {
		t.Errorf("replicas that are equal: %v, %d of %d bytes, %v", found, same, late, err)
	}
	if found, same, err = Compare("t-0", []Replica{{1, a}, {2, b}}); err != nil || len(found) != 0 || same != size {
		t.Errorf("two replicas that are equal: %v, %d of %d bytes, %v", found, same, size, err)
	}
	// Any byte that differs is found, be it one that the checksum does not cover.
	for range 200 {
		other := make([]record.Batch, len(all))
		copy(other, all)
		at := rnd.IntN(len(all))
		changed := append(record.Batch(nil), all[at]...)
		switch rnd.IntN(3) {
		case 0:
			changed.SetLeaderEpoch(4)
		case 1:
			changed.SetLogAppendTime(7)
		case 2:
			other = other[:at] // it ends here
		}
		if len(other) > at {
			other[at] = changed
		}
		if len(other) == 0 {
			continue
		}
		found, _, err := Compare("t-0", []Replica{{1, a}, {2, b}, {3, folder(t, other, 7)}})
		if err != nil || len(found) != 1 || found[0].Kind != Divergence {
			t.Fatalf("batch %d: %v, %v", at, found, err)
		}
	}
}

func TestBatchesOfDamagedFolders(t *testing.T) {
	all := batches(t, rand.New(rand.NewPCG(2, 2)), 10)
	good := folder(t, all, 4)
	if _, _, err := Compare("t-0", []Replica{{1, good}, {2, t.TempDir()}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
	name := filepath.Join(good, fmt.Sprintf("%020d.log", all[4].BaseOffset()))
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < len(whole); cut += 101 {
		os.WriteFile(name, whole[:len(whole)-cut], 0o644)
		_, _, err := Compare("t-0", []Replica{{1, good}, {2, folder(t, all, 4)}})
		found := err == nil // cut between two batches: they differ
		if !found && !errors.Is(err, record.ErrShort) {
			t.Fatalf("cut by %d: %v", cut, err)
		}
	}
	whole[len(whole)-1] ^= 1
	os.WriteFile(name, whole, 0o644)
	if _, _, err := Compare("t-0", []Replica{{1, good}, {2, good}}); !errors.Is(err, record.ErrChecksum) {
		t.Errorf("a flipped bit: %v", err)
	}
}

// A batch that is there twice, or is missing, shows in the sequence numbers; a
// new epoch, another producer, and their end at 2^31 do not.
func TestSequences(t *testing.T) {
	offset := record.Offset(0)
	batch := func(id int64, epoch int16, sequence int32, n int) record.Batch {
		recs := make([]record.Record, n)
		for i := range recs {
			recs[i].Offset = offset
			offset++
		}
		b, err := record.NewBatch(record.BatchSpec{BaseOffset: recs[0].Offset, ProducerID: id, ProducerEpoch: epoch, BaseSequence: sequence}, recs)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	s := Sequences{}
	for i, c := range []struct {
		b    record.Batch
		good bool
	}{
		{batch(1, 0, 0, 3), true}, {batch(2, 0, 0, 1), true}, {batch(1, 0, 3, 2), true}, {batch(-1, -1, -1, 2), true}, {batch(-1, -1, -1, 2), true},
		{batch(1, 0, 3, 2), false}, // again
		{batch(1, 0, 5, 1), true},
		{batch(1, 0, 7, 1), false}, // 6 is missing
		{batch(1, 1, 0, 1), true},
		{batch(3, 0, 5, 1), false}, // does not begin at 0
		{batch(3, 0, 6, 1), true},
		{batch(4, 0, math.MaxInt32-1, 2), false}, // nor does this
		{batch(4, 0, 0, 1), true},
	} {
		if what := s.Next(c.b); (what == "") != c.good {
			t.Errorf("batch %d: %q", i, what)
		}
	}
	midway := Sequences{Midway: true}
	for i, good := range []bool{true, true, false, true} {
		if what := midway.Next(batch(5, 0, []int32{7, 8, 8, 9}[i], 1)); (what == "") != good {
			t.Errorf("midway, batch %d: %q", i, what)
		}
	}
}
