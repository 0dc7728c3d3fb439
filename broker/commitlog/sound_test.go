package commitlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

// TestSoundnessAgainstABitmap compares what is remembered with a bitmap of
// the bytes that were said to be sound.
func TestSoundnessAgainstABitmap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 1000
		offset := func(pos int64) record.Offset { return record.Offset(pos * 3) }
		var k soundness
		k.doubt(size)
		var bits [size]bool
		most := int64(rapid.SampledFrom([]int{2, 30, 400}).Draw(t, "longest area"))
		forgot := false
		for range rapid.IntRange(1, 300).Draw(t, "adds") {
			from := rapid.Int64Range(0, size).Draw(t, "from")
			to := min(size, from+rapid.Int64Range(0, most).Draw(t, "length"))
			k.add(area{from, to, offset(to)})
			for i := from; i < to; i++ {
				bits[i] = true
			}
			var all []area
			if p := k.areas.Load(); p != nil {
				all = *p
			}
			if len(all) > maxAreas {
				t.Fatalf("%d areas", len(all))
			}
			forgot = forgot || len(all) == maxAreas
			for i, a := range all {
				if a.from >= a.to || i > 0 && a.from <= all[i-1].to || a.next != offset(a.to) {
					t.Fatalf("areas %v", all)
				}
			}
			whole := true
			for i, want := range bits {
				whole = whole && want
				a, got := k.at(int64(i))
				if got && (int64(i) < a.from || int64(i) >= a.to) {
					t.Fatalf("byte %d is said to be in %v", i, a)
				}
				if got = got || k.below.Load() == 0; got && !want || want && !got && !forgot {
					t.Fatalf("byte %d: %v, want %v", i, got, want)
				}
			}
			if sound := k.below.Load() == 0; sound && !whole || whole && !sound && !forgot {
				t.Fatalf("everything is sound: %v, want %v", sound, whole)
			}
			if from < to && k.below.Load() != 0 {
				if a, ok := k.at(from); !ok || a.to < to {
					t.Fatalf("[%d,%d) was forgotten at once: %v", from, to, all)
				}
			}
			if whole {
				return
			}
		}
	})
}

// closedLog is a properly closed log with segments, batches of many sizes
// (some larger than the buffer they are checked in) and what is in its files.
type closedLog struct {
	dir   string
	cfg   Config
	end   record.Offset
	bases []record.Offset
	files map[record.Offset][]byte // by segment base
}

type place struct {
	base        record.Offset // of the segment
	pos, size   int64         // of the batch
	first, next record.Offset
}

func newClosedLog(t testing.TB) *closedLog {
	t.Helper()
	c := &closedLog{dir: t.TempDir(), cfg: Config{SegmentBytes: 400 << 10, IndexIntervalBytes: 1000}, files: map[record.Offset][]byte{}}
	l := openLog(t, c.dir, c.cfg, Deps{})
	rnd := rand.New(rand.NewPCG(4, 2))
	for i := range 300 {
		if i%77 == 40 {
			mustAdd(t, l, 1, 3, checkWindow/2)
		}
		mustAdd(t, l, 1, 1+rnd.IntN(6), 1+rnd.IntN(900))
		if i == 150 {
			l.AssignEpoch(1, l.End()) // changes nothing
		}
	}
	c.end = l.End()
	for _, s := range *l.segs.Load() {
		c.bases = append(c.bases, s.base)
	}
	if len(c.bases) < 4 || l.active().size.Load() < 20000 {
		t.Fatalf("segments at %v, the last with %d bytes", c.bases, l.active().size.Load())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, base := range c.bases {
		raw, err := os.ReadFile(path(c.dir, base, logSuffix))
		if err != nil {
			t.Fatal(err)
		}
		c.files[base] = raw
	}
	return c
}

func (c *closedLog) batches(base record.Offset) (out []place) {
	raw := c.files[base]
	for pos := int64(0); pos < int64(len(raw)); {
		h := record.Batch(raw[pos:])
		out = append(out, place{base, pos, h.Size(), h.BaseOffset(), h.LastOffset() + 1})
		pos += h.Size()
	}
	return out
}

// damage flips a bit of a batch, and gives a function that flips it back.
func (c *closedLog) damage(t fataler, p place, at int64, bit int) (undo func()) {
	name := path(c.dir, p.base, logSuffix)
	write := func(b byte) {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err == nil {
			_, err = f.WriteAt([]byte{b}, p.pos+at)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatalf("%v", err)
		}
	}
	was := c.files[p.base][p.pos+at]
	write(was ^ 1<<bit)
	return func() { write(was) }
}

type fataler interface{ Fatalf(string, ...any) }

// TestDamageIsNeverServed flips any bit of a properly closed log and reads
// all over it: what comes is what was written, everything before the damaged
// batch comes, and the batch itself is an error that names it.
func TestDamageIsNeverServed(t *testing.T) {
	c := newClosedLog(t)
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom(c.bases).Draw(t, "segment")
		all := c.batches(base)
		n := rapid.IntRange(0, len(all)-1).Draw(t, "batch")
		if rapid.IntRange(0, 9).Draw(t, "an end") == 0 {
			n = rapid.SampledFrom([]int{0, len(all) - 1}).Draw(t, "which end")
		}
		bad := all[n]
		at := rapid.Int64Range(0, record.HeaderSize-1).Draw(t, "byte of the header")
		switch rapid.IntRange(0, 2).Draw(t, "where") {
		case 0:
			at = rapid.Int64Range(record.HeaderSize, bad.size-1).Draw(t, "byte of the records")
		case 1:
			at = rapid.Int64Range(8, 11).Draw(t, "byte of the length")
		}
		undo := c.damage(t, bad, at, rapid.IntRange(0, 7).Draw(t, "bit"))
		defer undo()
		l, err := Open(c.dir, topicID, c.cfg, Deps{Log: quiet})
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer func() {
			if err := l.Close(); err != nil {
				t.Fatalf("%v", err)
			}
		}()
		for range rapid.IntRange(1, 12).Draw(t, "reads") {
			c.readAround(t, l, bad)
		}
		for _, p := range all[:n] {
			if err := c.mustRead(l, p.first, 1, c.end, bad); err != nil {
				t.Fatalf("before the damage: %v", err)
			}
		}
		c.searchAround(t, l, bad)
	})
}

func (c *closedLog) readAround(t *rapid.T, l *Log, bad place) {
	from := rapid.Int64Range(0, int64(c.end)-1).Draw(t, "offset")
	if rapid.Bool().Draw(t, "near") {
		from = min(max(0, int64(bad.first)+rapid.Int64Range(-20, 8).Draw(t, "distance")), int64(c.end)-1)
	}
	size := rapid.SampledFrom([]int64{1, 100, 2000, 30000, 1 << 20, 1 << 40}).Draw(t, "bytes")
	limit := c.end
	if rapid.IntRange(0, 3).Draw(t, "limited") == 0 {
		limit = record.Offset(rapid.Int64Range(from+1, int64(c.end)).Draw(t, "limit"))
	}
	if err := c.mustRead(l, record.Offset(from), size, limit, bad); err != nil {
		t.Fatalf("%v", err)
	}
}

// mustRead reads and says what is wrong with the answer.
func (c *closedLog) mustRead(l *Log, from record.Offset, size int64, limit record.Offset, bad place) error {
	var seg place
	var holder place
	for _, base := range c.bases {
		if base <= from {
			seg.base = base
		}
	}
	all := c.batches(seg.base)
	for _, p := range all {
		if p.first <= from && from < p.next {
			holder = p
		}
	}
	run, err := l.Read(from, size, limit, true)
	if err != nil {
		var ce *CorruptError
		if !errors.As(err, &ce) || ce.Path != path(c.dir, bad.base, logSuffix) || ce.Position != bad.pos {
			return fmt.Errorf("reading at %d: %w", from, err)
		}
		// Behind the damage, reading can go on at the next index entry.
		if holder.base != bad.base || holder.pos < bad.pos || holder.pos > bad.pos+bad.size+3*6000 {
			return fmt.Errorf("reading at %d, damage at %+v: %w", from, bad, err)
		}
		return nil
	}
	if run.Span.Size() == 0 {
		if holder.next <= limit {
			return fmt.Errorf("reading at %d: nothing", from)
		}
		return nil
	}
	defer run.Span.Release()
	raw := make([]byte, run.Span.Size())
	if _, err := run.Span.ReadAt(raw, 0); err != nil {
		return err
	}
	off := run.Span.Off
	if off != holder.pos || !bytes.Equal(raw, c.files[seg.base][off:off+int64(len(raw))]) {
		return fmt.Errorf("reading at %d gives other bytes than were written at %d", from, off)
	}
	last := run.Next
	for _, p := range all {
		if p.pos+p.size == off+int64(len(raw)) {
			last = p.next
		}
	}
	if last != run.Next || run.Next > limit || int64(len(raw)) > max(size, holder.size) {
		return fmt.Errorf("reading %d bytes at %d below %d gives %d until %d, which is %d", size, from, limit, len(raw), run.Next, last)
	}
	return nil
}

// searchAround looks for times: the answer is right, or an error.
func (c *closedLog) searchAround(t *rapid.T, l *Log, bad place) {
	for range 5 {
		o := rapid.Int64Range(0, int64(c.end)-1).Draw(t, "offset to find")
		got, err := l.OffsetForTimestamp(1000+o, 0, c.end)
		if err != nil && errors.Is(err, record.ErrCorrupt) && record.Offset(o) >= bad.base {
			continue
		}
		if err != nil || got.Offset != record.Offset(o) {
			t.Fatalf("the time of offset %d is found at %+v, %v", o, got, err)
		}
	}
	from := record.Offset(rapid.Int64Range(0, int64(c.end)-1).Draw(t, "maximum from"))
	if got, err := l.MaxTimestamp(from); err != nil && !errors.Is(err, record.ErrCorrupt) || err == nil && got.Offset != c.end-1 {
		t.Fatalf("the greatest time from %d on is %+v, %v", from, got, err)
	}
}

// TestDamageWithoutIndexes is the same with a segment whose index is gone.
func TestDamageWithoutIndexes(t *testing.T) {
	c := newClosedLog(t)
	for _, base := range c.bases[:len(c.bases)-1] {
		all := c.batches(base)
		bad := all[len(all)/2]
		for _, at := range []int64{3, 7, 10, 14, 30, bad.size - 1} {
			undo := c.damage(t, bad, at, 1)
			for _, suffix := range []string{indexSuffix, timeSuffix} {
				if err := os.Remove(path(c.dir, base, suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
			}
			l := openLog(t, c.dir, c.cfg, Deps{})
			for _, p := range all[:len(all)/2] {
				if err := c.mustRead(l, p.next-1, 5000, c.end, bad); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range all[len(all)/2:] {
				if _, err := l.Read(p.first, 5000, c.end, true); !errors.Is(err, record.ErrCorrupt) {
					t.Fatalf("at %d: %v", p.first, err)
				}
			}
			if _, err := l.OffsetForTimestamp(1000+int64(bad.next), 0, c.end); !errors.Is(err, record.ErrCorrupt) {
				t.Fatalf("%v", err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			undo()
		}
		l := openLog(t, c.dir, c.cfg, Deps{}) // the index is made again
		if err := readAll(l, base, base+record.Offset(len(all))); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}

// TestAbortedOfADamagedSegment: when its indexes are gone too, and with them
// what became of a transaction, nobody is told that it was not aborted.
func TestAbortedOfADamagedSegment(t *testing.T) {
	for _, txn := range []bool{false, true} {
		dir := t.TempDir()
		l := openLog(t, dir, small, Deps{})
		b, err := record.NewBatch(record.BatchSpec{Epoch: 1, ProducerID: 5, Transactional: txn}, []record.Record{{Value: []byte("x")}})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Append(b, []Entry{{Batch: b}}); err != nil {
			t.Fatal(err)
		}
		mustAdd(t, l, 30, 3, 100)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		flip(t, path(dir, 0, logSuffix), 1500)
		if err := os.Remove(path(dir, 0, indexSuffix)); err != nil {
			t.Fatal(err)
		}
		l = openLog(t, dir, small, Deps{})
		run, err := l.Read(0, 1<<20, l.End(), true)
		if err != nil || run.Span.Size() == 0 || run.Span.Size() > 1500 {
			t.Fatalf("%d bytes, %v", run.Span.Size(), err)
		}
		run.Span.Release()
		if got, err := l.Aborted(0, run.Next); len(got) != 0 || errors.Is(err, record.ErrCorrupt) != txn || !txn && err != nil {
			t.Fatalf("transaction %v: %v, %v", txn, got, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCheckedOnce: bytes are compared when they are first read and not again.
func TestCheckedOnce(t *testing.T) {
	c := newClosedLog(t)
	l := openLog(t, c.dir, c.cfg, Deps{})
	defer l.Close()
	size := l.Size()
	before := checkedBytes.Get()
	if err := readAll(l, 0, c.end); err != nil {
		t.Fatal(err)
	}
	if got := int64(checkedBytes.Get() - before); got < size || got > size+size/10 {
		t.Fatalf("%d bytes were compared of a log of %d", got, size)
	}
	for _, s := range *l.segs.Load() {
		if s.known.below.Load() != 0 || s.known.areas.Load() != nil {
			t.Fatalf("segment %d is not known to be sound", s.base)
		}
	}
	before = checkedBytes.Get()
	if err := readAll(l, 0, c.end); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, l, 50, 3, 100)
	if err := readAll(l, 0, l.End()); err != nil {
		t.Fatal(err)
	}
	if got := checkedBytes.Get() - before; got != 0 {
		t.Fatalf("%d bytes were compared again", got)
	}
}

// TestCoveredReadsDoNotAllocate: of a part of a segment that was compared,
// while the rest was not.
func TestCoveredReadsDoNotAllocate(t *testing.T) {
	c := newClosedLog(t)
	l := openLog(t, c.dir, c.cfg, Deps{})
	defer l.Close()
	read := func() {
		run, err := l.Read(20, 20000, c.end, true)
		if err != nil {
			t.Fatal(err)
		}
		run.Span.Release()
	}
	read()
	if (*l.segs.Load())[0].known.below.Load() == 0 {
		t.Fatal("all of the segment was compared")
	}
	before := checkedBytes.Get()
	// With the race detector, sync.Pool loses things on purpose.
	if n := testing.AllocsPerRun(100, read); n != 0 && !raceEnabled {
		t.Fatalf("%v allocations", n)
	}
	if got := checkedBytes.Get() - before; got != 0 {
		t.Fatalf("%d bytes were compared again", got)
	}
}

// TestFoundWhileRunning: damage that is met in bytes that were trusted, by a
// copy for tiering or when an index is made anew, is not served from then on.
func TestFoundWhileRunning(t *testing.T) {
	for _, how := range []string{"copied", "index lost"} {
		l := openLog(t, t.TempDir(), small, Deps{})
		mustAdd(t, l, 30, 3, 100)
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
		flip(t, path(l.dir, 0, logSuffix), 700)
		want := int64(0)
		for _, p := range walkFile(t, path(l.dir, 0, logSuffix)) {
			if p <= 700 {
				want = p
			}
		}
		var ce *CorruptError
		if how == "copied" {
			if _, err := l.OpenSealed(0); !errors.As(err, &ce) || ce.Position != want {
				t.Fatalf("%v", err)
			}
		} else if err := os.Remove(path(l.dir, 0, indexSuffix)); err != nil {
			t.Fatal(err)
		}
		run, err := l.Read(0, 1<<20, l.End(), true)
		if err != nil || run.Span.Size() != want {
			t.Fatalf("%s: %d bytes, %v", how, run.Span.Size(), err)
		}
		run.Span.Release()
		if _, err := l.Read(run.Next, 1<<20, l.End(), true); !errors.As(err, &ce) || ce.Position != want {
			t.Fatalf("%s: %v", how, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// walkFile gives where the batches of a segment begin.
func walkFile(t testing.TB, name string) (out []int64) {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for pos := int64(0); pos < int64(len(raw)); pos += record.Batch(raw[pos:]).Size() {
		out = append(out, pos)
	}
	return out
}

// TestCheckingRace has readers check the same segments while the log grows
// and is copied.
func TestCheckingRace(t *testing.T) {
	c := newClosedLog(t)
	all := c.batches(c.bases[1])
	bad := all[len(all)/2]
	c.damage(t, bad, 70, 3)
	l := openLog(t, c.dir, c.cfg, Deps{})
	var wg sync.WaitGroup
	var refused atomic.Int64
	for seed := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(seed), 1))
			for range 300 {
				from := record.Offset(rnd.Int64N(int64(c.end)))
				if rnd.IntN(4) == 0 {
					from = bad.first
				}
				if err := c.mustRead(l, from, rnd.Int64N(50000), c.end, bad); err != nil {
					t.Error(err)
					return
				}
				if _, err := l.OffsetForTimestamp(1000+int64(from), 0, c.end); errors.Is(err, record.ErrCorrupt) {
					refused.Add(1)
				} else if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for _, base := range c.bases[:3] {
			if f, err := l.OpenSealed(base); err == nil {
				f.Close()
			} else if !errors.Is(err, record.ErrCorrupt) {
				t.Error(err)
			}
		}
	})
	for range 300 {
		if err := add(l, 3, 500); err != nil {
			t.Error(err)
			break
		}
	}
	wg.Wait()
	if refused.Load() == 0 {
		t.Error("nobody met the damage")
	}
	if err := readAll(l, c.end, l.End()); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// lookalikes is a record's value in which headers of batches stand every 64
// bytes, each of which would go on to the end; no checksum is right.
func lookalikes(size int, from record.Offset) []byte {
	out := make([]byte, size)
	for at := 0; at+64 <= size; at += 64 {
		h := record.Batch(out[at : at+record.HeaderSize])
		h.SetBaseOffset(from + record.Offset(at))
		binary.BigEndian.PutUint32(h[8:], uint32(size-at-record.LogOverhead))
		h[16] = 2
		binary.BigEndian.PutUint32(h[57:], 1)
	}
	return out
}

// TestSearchOfATornTailIsBounded: a tail made to look like batches all over
// is neither searched forever nor cut off unsearched.
func TestSearchOfATornTailIsBounded(t *testing.T) {
	for size, refused := range map[int]bool{20 << 10: false, 1 << 20: true} {
		dir := t.TempDir()
		l := openLog(t, dir, Config{}, Deps{})
		mustAdd(t, l, 3, 3, 100)
		end := l.End()
		b, err := record.NewBatch(record.BatchSpec{BaseOffset: end, Epoch: 1, ProducerID: -1}, []record.Record{{Offset: end, Value: lookalikes(size, end+1)}})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Append(b, []Entry{{Batch: b, MaxTSOffset: end}}); err != nil {
			t.Fatal(err)
		}
		to := crashCopy(t, dir)
		l.Close()
		name := path(to, 0, logSuffix)
		flip(t, name, l.Size()-1) // never finished
		before, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		l, err = Open(to, topicID, Config{}, Deps{Log: quiet})
		if !refused {
			if err != nil || l.End() != end {
				t.Fatalf("%d bytes: %v", size, err)
			}
			l.Close()
			continue
		}
		var ce *CorruptError
		if !errors.As(err, &ce) || !errors.Is(err, errUndecided) || ce.Path != name {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if after, err := os.ReadFile(name); err != nil || !bytes.Equal(before, after) {
			t.Fatalf("a refused log was changed, %v", err)
		}
	}
}

// TestFullDiskIsSaidOnce: however often sealing is tried on a full disk, the
// log has one line about it, and one when there is room again.
func TestFullDiskIsSaidOnce(t *testing.T) {
	var said bytes.Buffer
	var room atomic.Int64
	room.Store(1 << 30)
	l, err := Open(t.TempDir(), topicID, small, Deps{Disk: limited(&room), Log: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for round := 1; round <= 2; round++ {
		mustAdd(t, l, 3, 3, 100)
		room.Store(0)
		if err := l.Roll(); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			l.flush.wg.Wait()
			l.Kick()
		}
		l.flush.wg.Wait()
		room.Store(1 << 30)
		for range 3 {
			l.Kick()
			l.flush.wg.Wait()
		}
		if full, again := strings.Count(said.String(), "level=WARN"), strings.Count(said.String(), "level=INFO"); full != round || again != round || strings.Count(said.String(), "\n") != 2*round {
			t.Fatalf("round %d:\n%s", round, said.String())
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
