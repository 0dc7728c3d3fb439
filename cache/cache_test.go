package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, cfg Config) *Cache {
	t.Helper()
	c, err := Open(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// content is what an object holds at [off, off+n).
func content(object string, off int64, n int) []byte {
	r := rand.New(rand.NewPCG(uint64(len(object)), uint64(off)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	copy(b, object)
	return b
}

func filler(object string, off int64, calls *atomic.Int64) Fill {
	return func(_ context.Context, p []byte) (uint32, error) {
		calls.Add(1)
		copy(p, content(object, off, len(p)))
		return record.CRC32C(p), nil
	}
}

func get(t testing.TB, c *Cache, object string, off int64, n int, calls *atomic.Int64) {
	t.Helper()
	span, _, err := c.Get(context.Background(), object, off, n, true, filler(object, off, calls))
	if err != nil {
		t.Fatal(err)
	}
	defer span.Release()
	check(t, span, object, off, n)
}

func check(t testing.TB, span record.Span, object string, off int64, n int) {
	t.Helper()
	b := make([]byte, n)
	if _, err := span.ReadAt(b, 0); err != nil || span.Size() != int64(n) {
		t.Fatalf("span of %d bytes: %v", span.Size(), err)
	}
	if !bytes.Equal(b, content(object, off, n)) {
		t.Fatalf("%s at %d: wrong bytes", object, off)
	}
}

func chunkFiles(t testing.TB, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestChunksSurviveARestart(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), MaxBytes: 1 << 20, ChunkBytes: 8 << 10}
	var calls atomic.Int64
	c := open(t, cfg)
	for i := range 5 {
		get(t, c, "a", int64(i)*8192, 8192, &calls)
	}
	c.Close()
	// What a crash cut short.
	cut := filepath.Join(filepath.Dir(chunkFiles(t, cfg.Dir)[0]), chunkID("a", 5*8192, 8192).String()+"-77"+chunkExt)
	if err := os.WriteFile(cut, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	c = open(t, cfg)
	for i := range 5 {
		get(t, c, "a", int64(i)*8192, 8192, &calls)
	}
	if calls.Load() != 5 {
		t.Errorf("%d fills, 5 are enough for five chunks before and after a restart", calls.Load())
	}
	if _, err := os.Stat(cut); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file that was cut is still there: %v", err)
	}
	if want := int64(5 * (8192 + HeaderSize)); c.Bytes() != want {
		t.Errorf("%d bytes counted, %d on disk", c.Bytes(), want)
	}
}

// A chunk file whose bytes changed is dropped and fetched again, never served.
func TestDamagedChunksAreFetchedAgain(t *testing.T) {
	damage := map[string]func([]byte) []byte{
		"bit in data":   func(b []byte) []byte { b[HeaderSize+77] ^= 4; return b },
		"bit in header": func(b []byte) []byte { b[20] ^= 1; return b },
		"bit in key":    func(b []byte) []byte { b[fixedHeader] ^= 1; return b },
		"bit at end":    func(b []byte) []byte { b[len(b)-1] ^= 8; return b },
		"magic":         func(b []byte) []byte { b[0] = 'X'; return b },
		"cut":           func(b []byte) []byte { return b[:len(b)-1] },
		"cut to header": func(b []byte) []byte { return b[:HeaderSize] },
		"cut in header": func(b []byte) []byte { return b[:100] },
		"empty":         func(b []byte) []byte { return nil },
		"longer":        func(b []byte) []byte { return append(b, 0) },
	}
	// One chunk in memory, or one open file: asking for another one takes the
	// first out, so that the next who asks gets what is on disk.
	for where, memory := range map[string]int64{"memory": int64(fileSize(8 << 10)), "file": -1} {
		for name, f := range damage {
			for _, reopen := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s/restart=%v", where, name, reopen), func(t *testing.T) {
					cfg := Config{Dir: t.TempDir(), MaxBytes: 1 << 20, MemoryBytes: memory, ChunkBytes: 8 << 10, OpenFiles: 1}
					testDamaged(t, cfg, f, reopen)
				})
			}
		}
	}
}

func testDamaged(t *testing.T, cfg Config, damage func([]byte) []byte, reopen bool) {
	var calls atomic.Int64
	c := open(t, cfg)
	get(t, c, "key", 8192, 8000, &calls)
	c.fills.Wait() // for the file
	path := chunkFiles(t, cfg.Dir)[0]
	if reopen {
		c.Close()
	} else {
		get(t, c, "other", 0, 8000, &calls)
		calls.Add(-1)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, damage(b), 0o644); err != nil {
		t.Fatal(err)
	}
	if reopen {
		c = open(t, cfg)
	}
	get(t, c, "key", 8192, 8000, &calls)
	get(t, c, "key", 8192, 8000, &calls)
	if calls.Load() != 2 {
		t.Errorf("%d fills, want the first and one for the damage", calls.Load())
	}
}

func TestOneFillForAllWhoAsk(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir(), MaxBytes: 1 << 20, ChunkBytes: 8 << 10})
	var calls atomic.Int64
	gate := make(chan struct{})
	var started sync.WaitGroup
	var wg sync.WaitGroup
	for range 50 {
		wg.Add(1)
		started.Add(1)
		go func() {
			defer wg.Done()
			started.Done()
			span, _, err := c.Get(context.Background(), "a", 0, 8192, true, func(ctx context.Context, p []byte) (uint32, error) {
				<-gate
				return filler("a", 0, &calls)(ctx, p)
			})
			if err != nil {
				t.Error(err)
				return
			}
			defer span.Release()
			check(t, span, "a", 0, 8192)
		}()
	}
	started.Wait()
	close(gate)
	wg.Wait()
	if calls.Load() != 1 {
		t.Errorf("%d fills", calls.Load())
	}
}

// A reader that gives up leaves the fill going; the next finds its bytes.
func TestWorkIsNotThrownAway(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir(), MaxBytes: 1 << 20, ChunkBytes: 8 << 10})
	var calls atomic.Int64
	asked, gate := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-asked; cancel() }()
	_, _, err := c.Get(ctx, "a", 0, 8192, true, func(ctx context.Context, p []byte) (uint32, error) {
		close(asked)
		<-gate
		return filler("a", 0, &calls)(ctx, p)
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(gate)
	get(t, c, "a", 0, 8192, &calls)
	if calls.Load() != 1 {
		t.Errorf("%d fills", calls.Load())
	}
}

func TestAFillThatFailsIsNotKept(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir(), MaxBytes: 1 << 20, ChunkBytes: 8 << 10})
	boom := errors.New("boom")
	_, _, err := c.Get(context.Background(), "a", 0, 100, true, func(context.Context, []byte) (uint32, error) { return 0, boom })
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	var calls atomic.Int64
	get(t, c, "a", 0, 100, &calls)
}

// Spans stay readable when their chunk is evicted, and after Close.
func TestSpansOutliveEviction(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), MaxBytes: 4 * (8192 + HeaderSize), ChunkBytes: 8 << 10}
	c := open(t, cfg)
	var calls atomic.Int64
	first, _, err := c.Get(context.Background(), "a", 0, 8192, true, filler("a", 0, &calls))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Release()
	for i := 1; i < 50; i++ {
		get(t, c, "a", int64(i)*8192, 8192, &calls)
		if c.Bytes() > cfg.MaxBytes {
			t.Fatalf("%d bytes, %d allowed", c.Bytes(), cfg.MaxBytes)
		}
	}
	check(t, first, "a", 0, 8192)
	c.Close()
	check(t, first, "a", 0, 8192)
	var onDisk int64
	for _, f := range chunkFiles(t, cfg.Dir) {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		onDisk += st.Size()
	}
	if onDisk > cfg.MaxBytes {
		t.Errorf("%d bytes on disk, %d allowed", onDisk, cfg.MaxBytes)
	}
}

// One pass over much more than the cache holds leaves what is used again.
func TestAScanDoesNotEvictWhatIsUsed(t *testing.T) {
	const chunk = 1024
	c := open(t, Config{Dir: t.TempDir(), MaxBytes: 50 * (chunk + HeaderSize), ChunkBytes: chunk})
	var calls atomic.Int64
	for range 3 {
		for i := range 20 {
			get(t, c, "used", int64(i)*chunk, chunk, &calls)
		}
	}
	for i := range 500 {
		get(t, c, "scan", int64(i)*chunk, chunk, &calls)
	}
	before := calls.Load()
	for i := range 20 {
		get(t, c, "used", int64(i)*chunk, chunk, &calls)
	}
	if again := calls.Load() - before; again > 2 {
		t.Errorf("%d of 20 chunks in use were evicted by a scan", again)
	}
}

func TestAFolderThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir, MaxBytes: 1 << 20, ChunkBytes: 8 << 10})
	// A file where the sub-folder should be: not even root can write there.
	sub := chunkID("a", 0, 100).String()[:2]
	if err := os.WriteFile(filepath.Join(dir, sub), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	get(t, c, "a", 0, 100, &calls) // from memory
	if err := os.Remove(filepath.Join(dir, sub)); err != nil {
		t.Fatal(err)
	}
	get(t, c, "a", 0, 100, &calls)
	get(t, c, "a", 0, 100, &calls)
	if calls.Load() != 2 {
		t.Errorf("%d fills, want one from memory and one that was kept", calls.Load())
	}
}

func TestAChunkLargerThanTheCache(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir(), MaxBytes: 4096, ChunkBytes: 8 << 10})
	var calls atomic.Int64
	get(t, c, "a", 0, 8192, &calls)
	get(t, c, "a", 0, 8192, &calls)
	if calls.Load() != 2 || c.Bytes() != 0 {
		t.Errorf("%d fills, %d bytes kept", calls.Load(), c.Bytes())
	}
}

func TestPrefetch(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir(), MaxBytes: 1 << 20, ChunkBytes: 8 << 10})
	var calls atomic.Int64
	done := make(chan struct{})
	if started, ok := c.Prefetch("a", 0, 100, false, filler("a", 0, &calls), func() { close(done) }); !started || !ok {
		t.Fatal("nothing started")
	}
	<-done
	if started, ok := c.Prefetch("a", 0, 100, true, filler("a", 0, &calls), nil); started || !ok {
		t.Error("a second prefetch of what is there")
	}
	get(t, c, "a", 0, 100, &calls)
	if calls.Load() != 1 {
		t.Errorf("%d fills", calls.Load())
	}
	c.Close()
	if started, _ := c.Prefetch("b", 0, 100, false, filler("b", 0, &calls), nil); started {
		t.Error("prefetch after Close")
	}
	if _, _, err := c.Get(context.Background(), "b", 0, 100, true, filler("b", 0, &calls)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestBadArguments(t *testing.T) {
	for _, cfg := range []Config{{}, {Dir: "x", MaxBytes: -1}, {Dir: "x", ChunkBytes: 1 << 30}, {Dir: "x", Fills: -1}} {
		if c, err := Open(cfg, nil); err == nil {
			c.Close()
			t.Errorf("%+v was taken", cfg)
		}
	}
	c := open(t, Config{Dir: t.TempDir()})
	for _, a := range []struct {
		object string
		off    int64
		n      int
	}{{"", 0, 1}, {"a", -1, 1}, {"a", 0, 0}, {"a", 0, maxChunk + 1}, {strings.Repeat("k", maxKey+1), 0, 1}} {
		if _, _, err := c.Get(context.Background(), a.object, a.off, a.n, true, nil); err == nil {
			t.Errorf("%+v was taken", a)
		}
	}
}

// Many readers at random, a cache that is far too small, files closed and
// buffers used again all the time: every byte is right and the bounds hold.
func TestManyReaders(t *testing.T) {
	for name, chunks := range map[string]int64{"files": -1, "memory": 5} {
		t.Run(name, func(t *testing.T) {
			const chunk = 2048
			testManyReaders(t, Config{
				Dir: t.TempDir(), MaxBytes: 12 * int64(fileSize(chunk)), MemoryBytes: chunks * int64(fileSize(chunk)),
				ChunkBytes: chunk, OpenFiles: 3, Fills: 4,
			})
		})
	}
}

func testManyReaders(t *testing.T, cfg Config) {
	chunk := cfg.ChunkBytes
	c := open(t, cfg)
	var calls atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := rand.New(rand.NewPCG(1, uint64(g)))
			for range 300 {
				get(t, c, "a", r.Int64N(30)*int64(chunk), chunk, &calls)
				if r.IntN(50) == 0 {
					c.trimMemory()
				}
			}
		}()
	}
	wg.Wait()
	c.fills.Wait()
	if m := c.memory; m.held > m.max || len(m.free) > m.max+cfg.Fills {
		t.Errorf("%d chunks in memory and %d free buffers, %d allowed", m.held, len(m.free), m.max)
	}
	if c.Bytes() > cfg.MaxBytes {
		t.Errorf("%d bytes", c.Bytes())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.open.order.Len(); n > cfg.OpenFiles {
		t.Errorf("%d files open", n)
	}
	if len(c.flights) != 0 {
		t.Errorf("%d flights left", len(c.flights))
	}
	if got := len(chunkFiles(t, cfg.Dir)); got != len(c.entries) {
		t.Errorf("%d files for %d entries", got, len(c.entries))
	}
}

func TestHeaderGolden(t *testing.T) {
	data := []byte("the data of the chunk")
	b := make([]byte, fileSize(len(data)))
	copy(b[HeaderSize:], data)
	encodeHeader(b, "0a1b2c3d/cluster/object", 4<<20, len(data), record.CRC32C(data))
	golden := filepath.Join("testdata", "chunk.golden")
	if os.Getenv("FIRN_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Error("the chunk file's format changed; a new version number is needed")
	}
	h, err := CheckChunk(bytes.NewReader(want), int64(len(want)), nil)
	if err != nil || h.Object != "0a1b2c3d/cluster/object" || h.Offset != 4<<20 || h.Length != int64(len(data)) {
		t.Errorf("%+v, %v", h, err)
	}
}

func FuzzReadChunkHeader(f *testing.F) {
	data := []byte("data")
	b := make([]byte, fileSize(len(data)))
	copy(b[HeaderSize:], data)
	encodeHeader(b, "k", 0, len(data), record.CRC32C(data))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := CheckChunk(bytes.NewReader(b), int64(len(b)), nil)
		if err == nil && (h.FileLen != int64(len(b)) || record.CRC32C(b[HeaderSize:HeaderSize+h.Length]) != h.Sum) {
			t.Errorf("%+v of %d bytes", h, len(b))
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
	})
}

func BenchmarkGetHit(b *testing.B) {
	c := open(b, Config{Dir: b.TempDir(), MaxBytes: 64 << 20})
	var calls atomic.Int64
	get(b, c, "0a1b2c3d/cluster/object", 0, 4<<20, &calls)
	fill := filler("x", 0, &calls)
	b.ReportAllocs()
	for b.Loop() {
		span, _, err := c.Get(context.Background(), "0a1b2c3d/cluster/object", 0, 4<<20, true, fill)
		if err != nil {
			b.Fatal(err)
		}
		span.Release()
	}
}
