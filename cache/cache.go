// Package cache keeps byte ranges of immutable objects on local disk, bounded
// in bytes. It knows keys and ranges, never segments or topics. Where the
// bytes come from, and whether they are right when they come, is the caller's
// affair; that they are still the same bytes later is this package's.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/firnlog/firn/record"
)

// Config is plain values; zero takes the default where one is named.
type Config struct {
	Dir        string // made if missing; nothing else may be in it
	MaxBytes   int64  // on disk; default 10 GiB
	ChunkBytes int    // usual size of a chunk; default 4 MiB. Larger ones, up to 64 MiB, are taken too
	OpenFiles  int    // chunk files kept open; default 512
	Fills      int    // fills under way at once, the rest waits; default 48
}

const maxChunk = 64 << 20

// ErrClosed says that the cache is closed.
var ErrClosed = errors.New("cache: closed")

// Fill reads a chunk's bytes into p, all of it, and gives their CRC-32C, or
// fails. It is called in a goroutine of its own with a context that only Close
// ends.
type Fill func(ctx context.Context, p []byte) (sum uint32, err error)

// Cache is a chunk cache. Safe for concurrent use.
type Cache struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	fills  sync.WaitGroup
	bufs   sync.Pool // *[]byte of HeaderSize+ChunkBytes
	check  sync.Pool // *[]byte to read files through
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
}

// flight is a fill, or the check of a chunk found on disk, under way. Those
// who wait share its outcome; the last one releases its file.
type flight struct {
	done    chan struct{}
	waiters int
	touched bool // some waiter's use counts
	landed  bool
	hit     bool // it was on disk
	span    record.Span
	err     error
}

// Open takes over the folder: chunks of an earlier run stay usable (each is
// checked when it is first asked for), temporary files go.
func Open(cfg Config, log *slog.Logger) (*Cache, error) {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 10 << 30
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
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.bufs.New = func() any {
		b := make([]byte, HeaderSize+cfg.ChunkBytes)
		return &b
	}
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
	for _, f := range files {
		f.Release()
	}
	return nil
}

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
	if found && e.file != nil && e.file.Acquire() {
		file := e.file
		c.open.use(e.slot)
		c.mu.Unlock()
		hits.Inc()
		return record.Span{File: file, Off: HeaderSize, Len: int64(n)}, true, nil
	}
	f, flying := c.flights[cid]
	if !flying {
		f = c.launch(cid, object, off, n, fill, nil)
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
	return c.leave(f, nil), f.hit, f.err
}

// Prefetch starts a fill if the chunk is neither there nor on its way, and
// does not wait. It returns false when it had nothing to do. done, which may
// be nil, is called when the fill is over.
func (c *Cache) Prefetch(object string, off int64, n int, fill Fill, done func()) bool {
	if n <= 0 || n > maxChunk || off < 0 || object == "" || len(object) > maxKey {
		return false
	}
	cid := chunkID(object, off, n)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.entries[cid] != nil || c.flights[cid] != nil {
		return false
	}
	c.launch(cid, object, off, n, fill, done)
	return true
}

// leave gives one waiter its span, or none when err is set.
func (c *Cache) leave(f *flight, err error) (span record.Span) {
	c.mu.Lock()
	if err == nil && f.err == nil {
		span = f.span
		if span.File != nil {
			span.File.Acquire() // the flight holds a reference: this cannot fail
		}
	}
	f.waiters--
	last := f.landed && f.waiters == 0
	c.mu.Unlock()
	if last {
		f.span.Release()
	}
	return span
}

// launch starts a flight; c.mu is held.
func (c *Cache) launch(cid id, object string, off int64, n int, fill Fill, over func()) *flight {
	f := &flight{done: make(chan struct{})}
	c.flights[cid] = f
	e := c.entries[cid]
	c.fills.Add(1)
	go func() {
		defer c.fills.Done()
		var span record.Span
		var err error
		ok := false
		if e != nil {
			span, ok = c.reopen(e, object, off, n)
		}
		if !ok {
			span, err = c.fetch(cid, object, off, n, fill)
		}
		c.mu.Lock()
		f.span, f.err, f.hit, f.landed = span, err, ok, true
		if fetched := c.entries[cid]; !ok && f.touched && fetched != nil {
			c.policy.touch(fetched)
		}
		delete(c.flights, cid)
		unwanted := f.waiters == 0
		c.mu.Unlock()
		close(f.done)
		if unwanted {
			span.Release()
		}
		if over != nil {
			over()
		}
	}()
	return f
}

// reopen opens a chunk found on disk and checks every byte of it. What does
// not match is dropped, so that it is fetched again.
func (c *Cache) reopen(e *entry, object string, off int64, n int) (record.Span, bool) {
	f, err := os.Open(e.path)
	if err == nil {
		if err = c.checkFile(f, object, off, n); err == nil {
			hits.Inc()
			return c.opened(e, record.NewFile(f)), true
		}
		f.Close()
	}
	dropped.Inc()
	c.log.Warn("cached chunk dropped, it will be fetched again", "file", e.path, "object", object, "offset", off, "err", err)
	c.drop(e)
	return record.Span{}, false
}

func (c *Cache) checkFile(f *os.File, object string, off int64, n int) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	buf := c.check.Get().(*[]byte)
	defer c.check.Put(buf)
	h, err := CheckChunk(f, st.Size(), *buf)
	if err != nil {
		return err
	}
	if h.Object != object || h.Offset != off || h.Length != int64(n) {
		return fmt.Errorf("%w: it holds %s at %d, %d bytes", ErrCorrupt, h.Object, h.Offset, h.Length)
	}
	return nil
}

// fetch has the chunk filled, and written if the disk takes it; bytes that it
// does not take are served from memory.
func (c *Cache) fetch(cid id, object string, off int64, n int, fill Fill) (record.Span, error) {
	misses.Inc()
	select {
	case c.places <- struct{}{}: // before the buffer, so that buffers are bounded too
		defer func() { <-c.places }()
	case <-c.ctx.Done():
		return record.Span{}, ErrClosed
	}
	pooled, give := c.buffer(n)
	buf := (*pooled)[:HeaderSize+n]
	data := buf[HeaderSize:]
	sum, err := fill(c.ctx, data)
	if err != nil {
		give()
		failures.Inc()
		if c.ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ErrClosed, err)
		}
		return record.Span{}, err
	}
	span, err := c.store(cid, object, off, buf, sum)
	if err == nil {
		give()
		return span, nil
	}
	if errors.Is(err, errTooBig) {
		return record.Span{Bytes: data}, nil
	}
	diskErrors.Inc()
	if c.sick.CompareAndSwap(false, true) {
		c.log.Error("chunk cache cannot be written, serving from memory", "dir", c.cfg.Dir, "err", err)
	}
	return record.Span{Bytes: data}, nil // buf is not pooled again: readers have it
}

// buffer gives room for a header and n bytes, and how to give it back.
func (c *Cache) buffer(n int) (*[]byte, func()) {
	if n <= c.cfg.ChunkBytes {
		b := c.bufs.Get().(*[]byte)
		return b, func() { c.bufs.Put(b) }
	}
	b := make([]byte, HeaderSize+n)
	return &b, func() {}
}

var errTooBig = errors.New("chunk is larger than the whole cache")

// store writes buf (room for the header, then the data) as a chunk file.
func (c *Cache) store(cid id, object string, off int64, buf []byte, sum uint32) (record.Span, error) {
	e := &entry{id: cid, size: int64(len(buf))}
	if e.size > c.cfg.MaxBytes {
		return record.Span{}, errTooBig
	}
	c.mu.Lock()
	victims, files := c.makeRoom(e.size)
	c.mu.Unlock()
	removeFiles(victims, files)

	encodeHeader(buf, object, off, len(buf)-HeaderSize, sum)
	dir := filepath.Join(c.cfg.Dir, cid.String()[:2])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return record.Span{}, err
	}
	// The number makes the name unique, so that removing an evicted chunk
	// never hits the one that was fetched in its place.
	e.path = filepath.Join(dir, fmt.Sprintf("%s-%d%s", cid, c.seq.Add(1), chunkExt))
	tmp := strings.TrimSuffix(e.path, chunkExt) + tmpExt
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return record.Span{}, err
	}
	if _, err = f.Write(buf); err == nil {
		err = os.Rename(tmp, e.path)
	}
	if err != nil {
		f.Close()
		os.Remove(tmp)
		return record.Span{}, err
	}
	if c.sick.CompareAndSwap(true, false) {
		c.log.Info("chunk cache can be written again", "dir", c.cfg.Dir)
	}
	return c.admit(e, record.NewFile(f)), nil
}

// admit enters a chunk just written and gives a span of it.
func (c *Cache) admit(e *entry, file *record.File) record.Span {
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
	c.mu.Unlock()
	removeFiles(victims, files)
	return c.opened(e, file)
}

// opened keeps file, of which it takes over the reference, open for the next
// reader, if e is still in the cache, and gives a span of it.
func (c *Cache) opened(e *entry, file *record.File) record.Span {
	span := record.Span{File: file, Off: HeaderSize, Len: e.size - HeaderSize}
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

// forget takes e out of the maps (not the policy) and returns its open file;
// c.mu is held.
func (c *Cache) forget(e *entry) *record.File {
	if c.entries[e.id] == e {
		delete(c.entries, e.id)
	}
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
