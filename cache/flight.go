package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// Fill reads a chunk's bytes into p, all of it, and gives their CRC-32C, or
// fails. It is called in a goroutine of its own with a context that only Close
// ends.
type Fill func(ctx context.Context, p []byte) (sum uint32, err error)

// flight is one chunk that is brought, by a fill or from its file. Those who
// wait share its outcome; the last one releases its span.
type flight struct {
	id     id
	object string
	off    int64
	n      int
	fill   Fill
	over   func() // see Prefetch; nil once it is called or the entry's

	// Of the flight's goroutine: the buffer, nil until there is one, and its
	// owner's reference, for which there is a reservation; nil when the chunk is
	// not kept in memory.
	buf []byte
	mem *record.Memory

	done chan struct{}
	// What follows is guarded by Cache.mu; once done is closed, span, err and
	// hit do not change.
	waiters int
	touched bool // some waiter's use counts
	landed  bool
	hit     bool // it was on disk
	span    record.Span
	err     error
}

// launch starts a flight; reserved says that there is room in memory for its
// chunk. c.mu is held.
func (c *Cache) launch(f *flight, reserved bool) {
	f.done = make(chan struct{})
	c.flights[f.id] = f
	e := c.entries[f.id]
	c.fills.Add(1)
	go func() {
		defer c.fills.Done()
		if reserved {
			f.buf = c.memory.take()
			f.mem = c.memory.own(f.buf)
		}
		if e == nil || !c.reopen(f, e) {
			c.fetch(f)
		}
	}()
}

// data is the chunk's bytes in the flight's buffer.
func (f *flight) data() []byte { return f.buf[HeaderSize : HeaderSize+f.n : HeaderSize+f.n] }

// land gives a flight's outcome to those who wait. It takes over the reference
// of span.
func (c *Cache) land(f *flight, span record.Span, hit bool, err error) {
	c.mu.Lock()
	f.span, f.err, f.hit, f.landed = span, err, hit, true
	if e := c.entries[f.id]; !hit && f.touched && e != nil {
		c.policy.touch(e)
	}
	delete(c.flights, f.id)
	unwanted := f.waiters == 0
	c.mu.Unlock()
	close(f.done)
	if unwanted {
		span.Release()
	}
	if f.over != nil {
		f.over()
		f.over = nil
	}
}

// leave gives one waiter its span, or none when err is set.
func (c *Cache) leave(f *flight, err error) (span record.Span) {
	c.mu.Lock()
	if err == nil && f.err == nil {
		span = f.span.Part(0, f.span.Size())
	}
	f.waiters--
	last := f.landed && f.waiters == 0
	c.mu.Unlock()
	if last {
		f.span.Release()
	}
	return span
}

// reopen takes a chunk found on disk into memory, or opens its file, and
// checks every byte of it. What does not match is dropped, so that it is
// fetched again; then it returns false, and the flight goes on.
func (c *Cache) reopen(f *flight, e *entry) bool {
	var span record.Span
	var err error
	if f.mem != nil {
		span, err = c.load(f, e)
	} else {
		span, err = c.openFile(f, e)
	}
	if err == nil {
		c.land(f, span, true, nil)
		return true
	}
	c.mu.Lock()
	there := c.entries[e.id] == e // else it was evicted, or the cache is closed
	c.mu.Unlock()
	if there && !errors.Is(err, ErrClosed) {
		dropped.Inc()
		c.log.Warn("cached chunk dropped, it will be fetched again", "file", e.path, "object", f.object, "offset", f.off, "err", err)
		c.drop(e)
	}
	return false
}

// load reads a chunk file into memory. The span takes the flight's reference.
func (c *Cache) load(f *flight, e *entry) (record.Span, error) {
	if err := c.readFile(f, e); err != nil {
		return record.Span{}, err
	}
	loads.Inc()
	span := record.Span{Bytes: f.data(), Mem: f.mem}
	c.mu.Lock()
	if c.entries[e.id] == e && e.memSlot == nil {
		c.memory.keep(e, span, f)
	}
	c.mu.Unlock()
	return span, nil
}

// readFile reads a whole chunk file into the flight's buffer, past the page
// cache, and checks every byte.
func (c *Cache) readFile(f *flight, e *entry) (err error) {
	file, err := disk.OpenDirect(e.path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return err
	}
	if st.Size() != int64(fileSize(f.n)) {
		return fmt.Errorf("%w: file of %d bytes, a chunk of %d has %d", ErrCorrupt, st.Size(), f.n, fileSize(f.n))
	}
	if !record.Cold(c.ctx.Done(), func() (got int) {
		got, err = file.ReadAt(f.buf[:st.Size()], 0)
		return got
	}) {
		return ErrClosed
	}
	if err != nil {
		return err
	}
	h, err := decodeHeader(f.buf)
	if err != nil {
		return err
	}
	if err := h.holds(f.object, f.off, f.n); err != nil {
		return err
	}
	return h.check(record.CRC32C(f.data()), f.buf[HeaderSize+f.n:st.Size()])
}

// openFile opens a chunk file and checks every byte of it.
func (c *Cache) openFile(f *flight, e *entry) (record.Span, error) {
	file, err := os.Open(e.path)
	if err != nil {
		return record.Span{}, err
	}
	if err = c.checkFile(f, file); err != nil {
		return record.Span{}, errors.Join(err, file.Close())
	}
	return c.opened(e, record.NewFile(file), f.n), nil
}

func (c *Cache) checkFile(f *flight, file *os.File) error {
	st, err := file.Stat()
	if err != nil {
		return err
	}
	buf := c.check.Get().(*[]byte)
	defer c.check.Put(buf)
	h, err := CheckChunk(file, st.Size(), *buf)
	if err != nil {
		return err
	}
	return h.holds(f.object, f.off, f.n)
}

// fetch has the chunk filled, and written if the disk takes it; bytes that it
// does not take are served from memory.
func (c *Cache) fetch(f *flight) {
	misses.Inc()
	select {
	case c.places <- struct{}{}: // before the buffer, so that buffers are bounded too
		defer func() { <-c.places }()
	case <-c.ctx.Done():
		if f.mem != nil {
			f.mem.Release()
		}
		c.land(f, record.Span{}, false, ErrClosed)
		return
	}
	give := c.buffer(f)
	sum, err := f.fill(c.ctx, f.data())
	if err != nil {
		give()
		failures.Inc()
		if c.ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ErrClosed, err)
		}
		c.land(f, record.Span{}, false, err)
		return
	}
	encodeHeader(f.buf, f.object, f.off, f.n, sum)
	clear(f.buf[HeaderSize+f.n : fileSize(f.n)])
	span := record.Span{Bytes: f.data(), Mem: f.mem}
	e := &entry{id: f.id, size: int64(fileSize(f.n)), path: c.newPath(f.id)}
	switch {
	case e.size > c.cfg.MaxBytes:
		c.land(f, span, false, nil)
	case f.mem != nil:
		c.landFirst(f, e, span)
	default:
		c.storeFirst(f, e, span, give)
	}
}

// buffer sees to it that the flight has one, and says how to give it back: it
// is not when readers get it without a reference.
func (c *Cache) buffer(f *flight) (give func()) {
	switch {
	case f.mem != nil:
		return f.mem.Release
	case f.n <= c.cfg.ChunkBytes:
		f.buf = c.memory.take()
		return func() { c.memory.give(f.buf) }
	}
	f.buf = make([]byte, fileSize(f.n))
	return func() {}
}

// newPath names a chunk's file. The number makes the name unique, so that
// removing an evicted chunk never hits the one that was fetched in its place.
func (c *Cache) newPath(cid id) string {
	return filepath.Join(c.cfg.Dir, cid.String()[:2], fmt.Sprintf("%s-%d%s", cid, c.seq.Add(1), chunkExt))
}

// landFirst gives readers the chunk in memory before it is written.
func (c *Cache) landFirst(f *flight, e *entry, span record.Span) {
	f.mem.Acquire() // it stays in memory at least until its file is there
	defer f.mem.Release()
	c.admit(e, span, f)
	c.land(f, span, false, nil)
	file, err := c.write(f, e, disk.OpenDirect)
	if err == nil {
		err = file.Close()
	}
	c.noteDisk(err)
	c.mu.Lock()
	there := c.entries[e.id] == e
	c.mu.Unlock()
	switch {
	case err != nil:
		c.drop(e)
	case !there: // evicted meanwhile
		os.Remove(e.path)
	}
}

// storeFirst writes the chunk through the page cache, from which readers then
// get it, or span where it cannot be written.
func (c *Cache) storeFirst(f *flight, e *entry, span record.Span, give func()) {
	c.mu.Lock()
	victims, files := c.makeRoom(e.size)
	c.mu.Unlock()
	removeFiles(victims, files)
	file, err := c.write(f, e, func(path string, flags int) (*os.File, error) { return os.OpenFile(path, flags, 0o644) })
	c.noteDisk(err)
	if err != nil {
		os.Remove(e.path)
		c.land(f, span, false, nil) // the buffer is not given back: readers have it
		return
	}
	give()
	c.admit(e, record.Span{}, f)
	c.land(f, c.opened(e, record.NewFile(file), f.n), false, nil)
}

// write makes a chunk's file. It is not synced.
func (c *Cache) write(f *flight, e *entry, open func(path string, flags int) (*os.File, error)) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(e.path), 0o755); err != nil {
		return nil, err
	}
	file, err := open(e.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	if _, err := file.WriteAt(f.buf[:e.size], 0); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// noteDisk counts failed writes, and tells the first one and the first that
// succeeds again.
func (c *Cache) noteDisk(err error) {
	if err == nil {
		if c.sick.CompareAndSwap(true, false) {
			c.log.Info("chunk cache can be written again", "dir", c.cfg.Dir)
		}
		return
	}
	diskErrors.Inc()
	if c.sick.CompareAndSwap(false, true) {
		c.log.Error("chunk cache cannot be written, serving from memory", "dir", c.cfg.Dir, "err", err)
	}
}
