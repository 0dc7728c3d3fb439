package journal

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/broker/disk/disktest"
	"github.com/firnlog/firn/record"
)

// TestBitFlips: one bit that changed anywhere in a journal is either found
// when it is opened, or in bytes that count for nothing, or in the very last
// group, which nobody can tell from one that was never finished. What is read
// is what was written.
func TestBitFlips(t *testing.T) {
	seed := newSeed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	live := t.TempDir()
	d, rec := disktest.Record(live)
	j := open(t, filepath.Join(live, "j"), small, d)
	logs := []*fakeLog{{p: partitionOf(0), mark: rec.Mark}, {p: partitionOf(1), mark: rec.Mark}}
	workload(t, rng, j, logs, 30)
	calls := rec.Len() // before the close, which empties it
	j.Close()
	found, harmless, last := 0, 0, 0
	for i := range 200 {
		crashed := t.TempDir()
		if err := rec.Crash(rand.New(rand.NewPCG(seed, 1)), calls, crashed); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(crashed, "j")
		what, ok := disktest.Flip(rand.New(rand.NewPCG(seed, uint64(i)+2)), dir, func(string) bool { return true })
		if !ok {
			t.Fatal("there is nothing to damage")
		}
		j, err := Open(dir, small, Deps{Disk: disktest.Unsynced()})
		var damaged *DamagedError
		if errors.As(err, &damaged) {
			found++
			if !strings.HasPrefix(damaged.Path, dir) || !strings.Contains(err.Error(), damaged.Path) {
				t.Errorf("%s: the error does not say where: %v", what, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		whole := true
		for _, l := range logs {
			got, err := replay(j, l.p, at(l.flushed, calls))
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			whole = whole && got >= at(l.durable, calls)
		}
		switch {
		case whole:
			harmless++
		case j.sequence == lastSequence(t, live, rec, seed, calls):
			t.Fatalf("%s: acknowledged records are gone, and no group is", what)
		default:
			last++
		}
		for _, l := range logs {
			j.Drop(l.p)
		}
		j.Close()
	}
	t.Logf("found %d, harmless %d, in the last group %d", found, harmless, last)
	if found == 0 || last > 40 {
		t.Errorf("of 200 flips %d were found and %d took the last group", found, last)
	}
}

// lastSequence opens the same folder undamaged.
func lastSequence(t *testing.T, _ string, rec *disktest.Recorder, seed uint64, calls int) int64 {
	t.Helper()
	dir := t.TempDir()
	if err := rec.Crash(rand.New(rand.NewPCG(seed, 1)), calls, dir); err != nil {
		t.Fatal(err)
	}
	s := scan{dir: filepath.Join(dir, "j"), refs: map[Partition][]Ref{}}
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	return s.sequence
}

// TestForeignFolder: files without the checkpoint, and a checkpoint without
// the files, are refused, each with the path.
func TestForeignFolder(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, small, nil)
	l := &fakeLog{p: partitionOf(0), mark: noMark}
	for range 5 {
		if err := l.append(j, 1, 100); err != nil {
			t.Fatal(err)
		}
	}
	j.kill()
	names, err := filepath.Glob(filepath.Join(dir, "*"+fileSuffix))
	if err != nil || len(names) == 0 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, gone := range []string{filepath.Join(dir, checkpointName)} {
		raw, err := os.ReadFile(gone)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(gone); err != nil {
			t.Fatal(err)
		}
		var damaged *DamagedError
		if _, err := Open(dir, small, Deps{}); !errors.As(err, &damaged) {
			t.Errorf("without %s: %v", gone, err)
		}
		if err := os.WriteFile(gone, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	j = open(t, dir, small, nil)
	if got, err := replay(j, l.p, 0); err != nil || got != 5 {
		t.Errorf("after all is back: %d, %v", got, err)
	}
	j.Drop(l.p)
	j.Close()
}

// kill ends the journal's goroutines as a crash of the process would: what was
// appended is on disk or not, and no checkpoint is written.
func (j *Journal) kill() {
	j.mu.Lock()
	for j.fill.used > groupHead || j.spare == nil {
		j.mu.Unlock()
		j.mu.Lock()
	}
	j.err = ErrFailed
	j.room.Broadcast()
	j.work.Broadcast()
	j.mu.Unlock()
	_ = j.Close()
}

func TestGroupFormat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var id ID
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		mem := make([]byte, groupHead, 1<<20)
		g := group{journal: id, generation: rapid.Int64Min(1).Draw(t, "generation"), sequence: rapid.Int64Min(0).Draw(t, "sequence")}
		for range rapid.IntRange(1, 20).Draw(t, "records") {
			p := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "payload")
			base := record.Offset(rapid.Int64Range(0, 1<<62).Draw(t, "base"))
			g.entries = append(g.entries, entry{
				Entry: Entry{Partition: partitionOf(rapid.IntRange(0, 99).Draw(t, "partition")), Epoch: record.Epoch(rapid.Int32().Draw(t, "epoch")), Base: base, End: base + record.Offset(len(p))},
				pos:   uint32(len(mem)), length: uint32(len(p)), crc: record.CRC32C(p),
			})
			mem = append(mem, p...)
		}
		raw := g.finish(mem)
		if n, ok := groupLength(raw, g.generation); !ok || n != int64(len(raw)) || n%disk.Block != 0 {
			t.Fatalf("length %d, %v; the group has %d", n, ok, len(raw))
		}
		got, err := parseGroup(raw)
		if err == nil {
			err = got.check(raw)
		}
		if err != nil || len(got.entries) != len(g.entries) {
			t.Fatalf("%d entries, %v", len(got.entries), err)
		}
		for i, e := range got.entries {
			if e != g.entries[i] {
				t.Fatalf("entry %d is %+v, want %+v", i, e, g.entries[i])
			}
		}
		if got.journal != id || got.generation != g.generation || got.sequence != g.sequence {
			t.Fatalf("got %+v, want %+v", got, g)
		}
	})
}

func FuzzGroup(f *testing.F) {
	g := group{generation: 1, sequence: 2, entries: []entry{{Entry: Entry{Partition: partitionOf(1), End: 1}, pos: groupHead, length: 4}}}
	mem := append(make([]byte, groupHead, 8192), "abcd"...)
	f.Add(g.finish(mem))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= groupHead { // let it past the checksum
			if at, n := binary.BigEndian.Uint32(b[32:]), binary.BigEndian.Uint32(b[28:]); int64(at)+int64(n)*entrySize <= int64(len(b)) && at >= groupHead {
				binary.BigEndian.PutUint32(b[4:], groupCRC(b[8:groupHead], b[at:int64(at)+int64(n)*entrySize]))
			}
		}
		g, err := parseGroup(b)
		if err != nil {
			if !errors.Is(err, disk.ErrFormat) {
				t.Fatalf("error %v is no ErrFormat", err)
			}
			return
		}
		_ = g.check(b)
		if len(g.entries)*entrySize > len(b) {
			t.Fatalf("%d entries from %d bytes", len(g.entries), len(b))
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	c := &Checkpoint{Last: 7, Needed: []int64{2, 5}, Sequence: 99, Synced: map[Partition]record.Offset{partitionOf(1): 5}}
	f.Add(c.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCheckpoint(b)
		if err != nil {
			if !errors.Is(err, disk.ErrFormat) {
				t.Fatalf("error %v is no ErrFormat", err)
			}
			return
		}
		again, err := DecodeCheckpoint(c.Encode())
		if err != nil || again.Last != c.Last || len(again.Needed) != len(c.Needed) || len(again.Synced) != len(c.Synced) {
			t.Fatalf("%+v became %+v, %v", c, again, err)
		}
	})
}
