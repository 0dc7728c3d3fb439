// Package cache keeps byte ranges of immutable objects on local disk, and while
// they are read in memory, both bounded in bytes. It knows keys and ranges,
// never segments or topics. Where the bytes come from, and whether they are
// right when they come, is the caller's affair; that they are still the same
// bytes later is this package's.
package cache

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/firnlog/firn/record"
)

// Config is plain values; zero takes the default where one is named.
type Config struct {
	Dir         string // made if missing; nothing else may be in it
	MaxBytes    int64  // on disk; default 10 GiB
	MemoryBytes int64  // of chunks in memory, and those under way that were reserved room there; default 256 MiB, <0 none
	ChunkBytes  int    // usual size of a chunk; default 4 MiB. Larger ones, up to 64 MiB, are taken too
	OpenFiles   int    // chunk files kept open; default 512
	Fills       int    // fills under way at once, the rest waits; default 48
}

const maxChunk = 64 << 20

// ErrClosed says that the cache is closed.
var ErrClosed = errors.New("cache: closed")

// Cache is a chunk cache. Safe for concurrent use.
type Cache struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	fills  sync.WaitGroup
	check  sync.Pool // *[]byte to read files through
	memory *memory
	places chan struct{}
	seq    atomic.Uint64
	sick   atomic.Bool // the folder could not be written last time

	// mu protects what follows and the entries' and flights' fields. No I/O
	// happens under it.
	mu      sync.Mutex
	closed  bool
	entries map[id]*entry
	flights map[id]*flight
	policy  *policy
	open    openFiles
}

// entry is a chunk on disk.
type entry struct {
	place
	id   id
	path string
	size int64 // of the file
	file *record.File
	slot *openSlot // in openFiles while file is set

	mem     record.Span   // of memory; the zero value: it is not there
	memSlot *list.Element // in memory.order, while mem is set
	recent  bool          // asked for since the last trim
	read    bool          // somebody got it from memory: it was not only fetched ahead
	over    func()        // see Prefetch; nil once it is called
}

// notAhead says that the chunk is not waiting to be asked for any more;
// Cache.mu is held.
func (e *entry) notAhead() {
	if e.over != nil {
		e.over()
		e.over = nil
	}
}

// Open takes over the folder: chunks of an earlier run stay usable (each is
// checked when it is first asked for).
func Open(cfg Config, log *slog.Logger) (*Cache, error) {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 10 << 30
	}
	if cfg.MemoryBytes == 0 {
		cfg.MemoryBytes = 256 << 20
	}
	if cfg.ChunkBytes == 0 {
		cfg.ChunkBytes = 4 << 20
	}
	if cfg.OpenFiles == 0 {
		cfg.OpenFiles = 512
	}
	if cfg.Fills == 0 {
		cfg.Fills = 48
	}
	if cfg.Dir == "" || cfg.MaxBytes < 0 || cfg.ChunkBytes < 0 || cfg.ChunkBytes > maxChunk || cfg.OpenFiles < 0 || cfg.Fills < 0 {
		return nil, fmt.Errorf("cache: bad configuration: dir %q, %d bytes, chunks of %d, %d open files", cfg.Dir, cfg.MaxBytes, cfg.ChunkBytes, cfg.OpenFiles)
	}
	if log == nil {
		log = slog.Default()
	}
	c := &Cache{
		cfg: cfg, log: log,
		entries: map[id]*entry{}, flights: map[id]*flight{},
		policy: newPolicy(cfg.MaxBytes, cfg.ChunkBytes),
		open:   newOpenFiles(cfg.OpenFiles),
		places: make(chan struct{}, cfg.Fills),
	}
	c.memory = newMemory(cfg.MemoryBytes, cfg.ChunkBytes, c.trimMemory)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.check.New = func() any {
		b := make([]byte, 256<<10)
		return &b
	}
	if err := c.rescan(); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return c, nil
}

// Close waits for fills under way, whose context it ends, and closes the
// files; chunks stay on disk, spans handed out stay readable.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.fills.Wait()
	c.mu.Lock()
	var files []*record.File
	for _, e := range c.entries {
		if f := c.forget(e); f != nil {
			files = append(files, f)
		}
	}
	gaugeBytes.Add(-float64(c.policy.used))
	c.mu.Unlock()
	c.memory.close()
	for _, f := range files {
		f.Release()
	}
	return nil
}

// MemoryChunks is how many chunks of the usual size there is room for in memory.
func (c *Cache) MemoryChunks() int { return c.memory.max }

// Bytes is what the chunks take on disk.
func (c *Cache) Bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.policy.used
}

// Get gives bytes [off, off+n) of an object as one span, which the caller
// releases. Chunks are whole: a range is only found again under the same off
// and n. On a miss, fill is called once for everybody who asks meanwhile; it
// goes on when ctx ends, so that the next try finds its bytes. touch says
// that this is a use of its own and not the next part of one already counted;
// it decides whether a chunk outlives a scan. hit says that no fill was needed.
func (c *Cache) Get(ctx context.Context, object string, off int64, n int, touch bool, fill Fill) (span record.Span, hit bool, err error) {
	if n <= 0 || n > maxChunk || off < 0 || object == "" || len(object) > maxKey {
		return record.Span{}, false, fmt.Errorf("cache: no such chunk can be: %q, offset %d, %d bytes", object, off, n)
	}
	cid := chunkID(object, off, n)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return record.Span{}, false, ErrClosed
	}
	e, found := c.entries[cid]
	if found && touch {
		c.policy.touch(e)
	}
	if found && e.memSlot != nil {
		c.memory.use(e)
		span = e.mem.Part(0, int64(n))
		c.mu.Unlock()
		hits.Inc()
		return span, true, nil
	}
	if found && e.file != nil && e.file.Acquire() {
		file := e.file
		c.open.use(e.slot)
		c.mu.Unlock()
		hits.Inc()
		return record.Span{File: file, Off: HeaderSize, Len: int64(n)}, true, nil
	}
	f, flying := c.flights[cid]
	if !flying {
		f = &flight{id: cid, object: object, off: off, n: n, fill: fill}
		reserved := c.memory.fits(n) && c.memory.reserve(false)
		if !reserved && c.memory.fits(n) {
			memoryFull.Inc()
		}
		c.launch(f, reserved)
	}
	f.waiters++
	f.touched = f.touched || touch
	c.mu.Unlock()
	if flying {
		shared.Inc()
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		c.leave(f, err)
		return record.Span{}, false, err
	}
	if f.hit && !flying {
		hits.Inc()
	}
	return c.leave(f, nil), f.hit, f.err
}

// Prefetch brings a chunk into memory, or at least to disk, if it is neither
// there nor on its way, and does not wait: by a fill, and when fromDisk is set,
// also from its file. started says whether there was something to do; then
// done, which may be nil, is called once when the chunk does not wait in memory
// for somebody to ask any more: somebody has, or it was taken out, or it could
// not be had or not be kept there. It must not call the cache, and not block.
// ok is false when memory is full of chunks that nobody has asked for yet, and
// more would push those out.
func (c *Cache) Prefetch(object string, off int64, n int, fromDisk bool, fill Fill, done func()) (started, ok bool) {
	if n <= 0 || n > maxChunk || off < 0 || object == "" || len(object) > maxKey {
		return false, true
	}
	cid := chunkID(object, off, n)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.flights[cid] != nil {
		return false, true
	}
	fits := c.memory.fits(n)
	e := c.entries[cid]
	if e != nil && (!fromDisk || !fits || e.memSlot != nil || e.file != nil) {
		return false, true
	}
	reserved := fits && c.memory.reserve(true)
	if fits && !reserved {
		if c.memory.oldest(false) != nil {
			return false, false
		}
		if e != nil {
			return false, true // those who take their time have all of memory: it stays on disk, and others go there
		}
	}
	c.launch(&flight{id: cid, object: object, off: off, n: n, fill: fill, over: done}, reserved)
	return true, true
}

// admit enters a flight's chunk, and keeps it in memory if span is there.
func (c *Cache) admit(e *entry, span record.Span, f *flight) {
	c.mu.Lock()
	victims, files := c.makeRoom(e.size)
	if old := c.entries[e.id]; old != nil {
		if f := c.forget(old); f != nil {
			files = append(files, f)
		}
		c.policy.remove(old)
		gaugeBytes.Add(-float64(old.size))
		victims = append(victims, old)
	}
	c.entries[e.id] = e
	c.policy.add(e, false)
	gaugeBytes.Add(float64(e.size))
	if span.Mem != nil {
		c.memory.keep(e, span, f)
	}
	c.mu.Unlock()
	removeFiles(victims, files)
}

// trimMemory gives up what is in memory and was not used lately.
func (c *Cache) trimMemory() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.memory.trim()
}

// opened keeps file, of which it takes over the reference, open for the next
// reader, if e is still in the cache, and gives a span of it.
func (c *Cache) opened(e *entry, file *record.File, n int) record.Span {
	span := record.Span{File: file, Off: HeaderSize, Len: int64(n)}
	c.mu.Lock()
	var closing *record.File
	if !c.closed && c.entries[e.id] == e && e.file == nil {
		file.Acquire()
		e.file = file
		closing = c.open.add(e)
	}
	c.mu.Unlock()
	if closing != nil {
		closing.Release()
	}
	return span
}

// makeRoom evicts until n more bytes fit; c.mu is held. The caller removes
// the files and releases the descriptors after unlocking.
func (c *Cache) makeRoom(n int64) (victims []*entry, files []*record.File) {
	victims = c.policy.evict(n)
	for _, v := range victims {
		evictions.Inc()
		gaugeBytes.Add(-float64(v.size))
		if f := c.forget(v); f != nil {
			files = append(files, f)
		}
	}
	return victims, files
}

// forget takes e out of the maps (not the policy) and of memory, and returns
// its open file; c.mu is held.
func (c *Cache) forget(e *entry) *record.File {
	if c.entries[e.id] == e {
		delete(c.entries, e.id)
	}
	c.memory.drop(e)
	f := e.file
	if f != nil {
		c.open.remove(e)
		e.file = nil
	}
	return f
}

// drop removes a chunk that turned out bad.
func (c *Cache) drop(e *entry) {
	c.mu.Lock()
	present := c.entries[e.id] == e
	var files []*record.File
	if f := c.forget(e); f != nil {
		files = append(files, f)
	}
	if present {
		c.policy.remove(e)
		gaugeBytes.Add(-float64(e.size))
	}
	c.mu.Unlock()
	removeFiles([]*entry{e}, files)
}

// DropChunk forgets a chunk whose bytes the caller found to be wrong.
func (c *Cache) DropChunk(object string, off int64, n int) {
	c.mu.Lock()
	e := c.entries[chunkID(object, off, n)]
	c.mu.Unlock()
	if e != nil {
		dropped.Inc()
		c.drop(e)
	}
}

func removeFiles(victims []*entry, files []*record.File) {
	for _, f := range files {
		f.Release()
	}
	for _, v := range victims {
		os.Remove(v.path) // what stays behind is found by the next rescan
	}
}
