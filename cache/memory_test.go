package cache

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/firnlog/firn/record"
)

const testChunk = 8 << 10

// inMemory opens a cache with room for so many chunks in memory.
func inMemory(t *testing.T, chunks int) *Cache {
	return open(t, Config{Dir: t.TempDir(), MaxBytes: 1 << 20, MemoryBytes: int64(chunks * fileSize(testChunk)), ChunkBytes: testChunk})
}

func hold(t *testing.T, c *Cache, object string, calls *atomic.Int64) record.Span {
	t.Helper()
	span, _, err := c.Get(context.Background(), object, 0, testChunk, true, filler(object, 0, calls))
	if err != nil {
		t.Fatal(err)
	}
	return span
}

// What is being sent stays what it is: its buffer is used for nothing else,
// and who finds none free gets the file.
func TestWhatIsBeingSentIsNotOverwritten(t *testing.T) {
	c := inMemory(t, 2)
	var calls atomic.Int64
	full := memoryFull.Get()
	names := []string{"a", "b", "c", "d"}
	var spans []record.Span
	for _, name := range names {
		spans = append(spans, hold(t, c, name, &calls))
	}
	for i, span := range spans {
		if want := i < 2; (span.Mem != nil) != want || (span.File != nil) == want {
			t.Errorf("chunk %d: in memory %v, want %v", i, span.Mem != nil, want)
		}
		check(t, span, names[i], 0, testChunk)
	}
	if got := gaugeMemory.Get(); got != float64(2*fileSize(testChunk)) {
		t.Errorf("the metric says %v bytes", got)
	}
	if got := memoryFull.Get() - full; got != 2 {
		t.Errorf("the metric says that memory was full %d times", got)
	}
	record.ReleaseSpans(spans)
	c.fills.Wait()
	for _, name := range names { // a and b leave, c and d come from disk
		span := hold(t, c, name, &calls)
		check(t, span, name, 0, testChunk)
		span.Release()
		c.fills.Wait()
	}
	if calls.Load() != 4 || c.memory.held > 2 {
		t.Errorf("%d fills for four chunks, %d in memory", calls.Load(), c.memory.held)
	}
}

// A chunk that is evicted, or whose cache is closed, while it is being sent
// counts for as long as that takes, and its buffer comes back then.
func TestEvictedWhileItIsSent(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), MaxBytes: int64(fileSize(testChunk)), MemoryBytes: int64(fileSize(testChunk)), ChunkBytes: testChunk}
	c := open(t, cfg)
	var calls atomic.Int64
	first := hold(t, c, "a", &calls)
	second := hold(t, c, "b", &calls)
	if first.Mem == nil || second.File == nil {
		t.Errorf("in memory %v, in a file %v", first.Mem != nil, second.File != nil)
	}
	check(t, first, "a", 0, testChunk)
	check(t, second, "b", 0, testChunk)
	part := second.Part(10, 20)
	second.Release()
	first.Release()
	c.fills.Wait()
	if c.memory.held != 0 || len(c.memory.free) != 2 {
		t.Errorf("%d held, %d free: both buffers should be free", c.memory.held, len(c.memory.free))
	}
	third := hold(t, c, "c", &calls)
	c.Close()
	check(t, third, "c", 0, testChunk)
	third.Release()
	b := make([]byte, 20)
	if _, err := part.ReadAt(b, 0); err != nil || string(b) != string(content("b", 0, testChunk)[10:30]) {
		t.Errorf("part of a file: %q, %v", b, err)
	}
	part.Release()
	if c.memory.held != 0 {
		t.Errorf("%d held", c.memory.held)
	}
}

// What nobody asks for leaves memory, and then memory is given up; the chunks
// stay on disk.
func TestMemoryIsGivenUp(t *testing.T) {
	c := inMemory(t, 4)
	var calls atomic.Int64
	hold(t, c, "a", &calls).Release()
	sent := hold(t, c, "b", &calls)
	c.fills.Wait()
	c.trimMemory() // both were asked for just now
	if c.memory.held != 2 {
		t.Errorf("%d in memory after the first look", c.memory.held)
	}
	c.trimMemory()
	if c.memory.held != 1 {
		t.Errorf("%d in memory after the second look", c.memory.held)
	}
	check(t, sent, "b", 0, testChunk)
	sent.Release()
	c.trimMemory()
	c.trimMemory()
	if c.memory.held != 0 || c.memory.free != nil || c.memory.idle != nil {
		t.Errorf("%d in memory, %d free, timer %v: nothing should be left", c.memory.held, len(c.memory.free), c.memory.idle)
	}
	hold(t, c, "a", &calls).Release()
	if calls.Load() != 2 || c.memory.idle == nil {
		t.Errorf("%d fills, timer %v", calls.Load(), c.memory.idle)
	}
}

// Small chunks, and those larger than usual, are only in files.
func TestMemoryIsForWholeChunks(t *testing.T) {
	c := inMemory(t, 4)
	var calls atomic.Int64
	for n, want := range map[int]bool{100: false, testChunk/4 - 1: false, testChunk / 4: true, testChunk: true, testChunk + 1: false} {
		span, _, err := c.Get(context.Background(), "a", 0, n, true, filler("a", 0, &calls))
		if err != nil {
			t.Fatal(err)
		}
		if got := span.Mem != nil; got != want {
			t.Errorf("%d bytes: in memory %v, want %v", n, got, want)
		}
		check(t, span, "a", 0, n)
		span.Release()
	}
}

// What is fetched ahead does not push out what waits to be read; who asks does.
func TestFetchedAheadOfReading(t *testing.T) {
	c := inMemory(t, 2)
	var calls atomic.Int64
	ahead := func(object string, fromDisk bool) (started, ok bool) {
		started, ok = c.Prefetch(object, 0, testChunk, fromDisk, filler(object, 0, &calls), nil)
		c.fills.Wait()
		return started, ok
	}
	for _, name := range []string{"a", "b"} {
		if started, ok := ahead(name, false); !started || !ok {
			t.Fatalf("%s: started %v, ok %v", name, started, ok)
		}
	}
	if started, ok := ahead("c", false); started || ok {
		t.Errorf("c, with two that wait to be read: started %v, ok %v", started, ok)
	}
	hold(t, c, "d", &calls).Release() // a goes
	c.fills.Wait()
	if started, ok := ahead("a", false); started || !ok {
		t.Errorf("a is on disk: started %v, ok %v", started, ok)
	}
	if started, ok := ahead("a", true); !started || !ok { // d goes, which was read
		t.Errorf("a from disk: started %v, ok %v", started, ok)
	}
	if started, ok := ahead("a", true); started || !ok {
		t.Errorf("a is in memory: started %v, ok %v", started, ok)
	}
	for _, name := range []string{"a", "b", "d"} {
		span := hold(t, c, name, &calls)
		check(t, span, name, 0, testChunk)
		span.Release()
	}
	if calls.Load() != 3 {
		t.Errorf("%d fills, want one each of a, b and d", calls.Load())
	}
}

// Readers that take their time with all of memory do not keep others from
// having chunks fetched ahead: to disk.
func TestFetchedAheadWithoutMemory(t *testing.T) {
	c := inMemory(t, 2)
	var calls atomic.Int64
	slow := []record.Span{hold(t, c, "a", &calls), hold(t, c, "b", &calls)}
	over := make(chan struct{})
	if started, ok := c.Prefetch("c", 0, testChunk, true, filler("c", 0, &calls), func() { close(over) }); !started || !ok {
		t.Errorf("started %v, ok %v", started, ok)
	}
	<-over
	if started, ok := c.Prefetch("c", 0, testChunk, true, filler("c", 0, &calls), nil); started || !ok {
		t.Errorf("it is on disk: started %v, ok %v", started, ok)
	}
	span := hold(t, c, "c", &calls)
	if span.File == nil || calls.Load() != 3 {
		t.Errorf("from a file %v, %d fills", span.File != nil, calls.Load())
	}
	check(t, span, "c", 0, testChunk)
	span.Release()
	record.ReleaseSpans(slow)
}

// A chunk that cannot be written is still given to those who wait, and then
// forgotten.
func TestMemoryOverADiskThatFails(t *testing.T) {
	c := inMemory(t, 2)
	sub := filepath.Join(c.cfg.Dir, chunkID("a", 0, testChunk).String()[:2])
	if err := os.WriteFile(sub, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	before := diskErrors.Get()
	span := hold(t, c, "a", &calls)
	c.fills.Wait()
	check(t, span, "a", 0, testChunk)
	span.Release()
	if diskErrors.Get() != before+1 || c.Bytes() != 0 || c.memory.held != 0 {
		t.Errorf("%d failures, %d bytes, %d in memory", diskErrors.Get()-before, c.Bytes(), c.memory.held)
	}
	if err := os.Remove(sub); err != nil {
		t.Fatal(err)
	}
	hold(t, c, "a", &calls).Release()
	c.fills.Wait()
	if calls.Load() != 2 || len(chunkFiles(t, c.cfg.Dir)) != 1 {
		t.Errorf("%d fills, %d files", calls.Load(), len(chunkFiles(t, c.cfg.Dir)))
	}
}
