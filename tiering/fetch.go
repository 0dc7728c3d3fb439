package tiering

import (
	"container/list"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/firnlog/firn/record"
)

// coldReader gets blocks and run indexes through the chunk cache.
type coldReader struct {
	m        *Manager
	indexes  indexCache
	ahead    chan struct{} // one place per readahead GET under way
	kept     atomic.Int64  // chunks got ahead that nobody has asked for yet
	pace     *rate.Limiter // of readahead bytes; nil: none
	lat      latencies     // of ranged GETs, to know when one is late
	attempts sync.Pool     // *[]byte: buffers of hedges
}

func newColdReader(m *Manager) *coldReader {
	c := &coldReader{m: m, ahead: make(chan struct{}, max(m.cfg.ReadaheadGets, 1))}
	c.indexes.max, c.indexes.byKey, c.indexes.order = m.cfg.IndexBytes, map[indexKey]*list.Element{}, list.New()
	if m.cfg.ColdBytesPerS > 0 {
		c.pace = rate.NewLimiter(rate.Limit(m.cfg.ColdBytesPerS), int(max(m.cfg.ColdBytesPerS, int64(maxBlock))))
	}
	return c
}

// run is a run's decoded index and the key of its object.
type run struct {
	*Run
	key string
}

// index gives a run's index: from memory, from the chunk cache, or by a GET.
func (c *coldReader) index(ctx context.Context, p *part, cluster string, e *Entry) (*run, error) {
	k := e.indexKey()
	if r := c.indexes.get(k); r != nil {
		return r, nil
	}
	key := ObjectKey(cluster, e.Object)
	check := func(b []byte) (uint32, error) {
		r, err := decodeSection(b)
		if err != nil {
			return 0, err
		}
		return record.CRC32C(b), e.matches(p, r)
	}
	span, _, err := c.m.deps.Cache.Get(ctx, key, e.IndexPos, int(e.IndexLen), true, func(ctx context.Context, b []byte) (uint32, error) {
		return c.fetch(ctx, key, e.IndexPos, b, check)
	})
	if err != nil {
		return nil, fmt.Errorf("index of run [%d, %d): %w", e.Base, e.End, err)
	}
	defer span.Release()
	b := make([]byte, span.Size())
	if err := readFull(span, b, 0); err != nil {
		return nil, fmt.Errorf("index of run [%d, %d): %w", e.Base, e.End, err)
	}
	dr, err := decodeSection(b)
	if err == nil {
		err = e.matches(p, dr)
	}
	if err != nil {
		c.m.deps.Cache.DropChunk(key, e.IndexPos, int(e.IndexLen))
		return nil, fmt.Errorf("index of run [%d, %d) in %s: %w", e.Base, e.End, key, err)
	}
	r := &run{dr, key}
	c.indexes.put(k, r)
	return r, nil
}

// matches says whether a section is the one that the entry speaks of.
func (e *Entry) matches(p *part, r *Run) error {
	if r.TopicID != p.key.id || r.Partition != p.key.p || r.Base != e.Base || r.End != e.End || r.Position != e.Position || r.Length != e.Length {
		return corruptf("the section is of %s-%d [%d, %d), %d bytes at %d; the manifest says %v [%d, %d), %d bytes at %d",
			r.Topic, r.Partition, r.Base, r.End, r.Length, r.Position, p.tp, e.Base, e.End, e.Length, e.Position)
	}
	return nil
}

// block gives one whole block of the run's object. touch: see cache.Get.
func (c *coldReader) block(ctx context.Context, r *run, no int64, touch bool) (record.Span, error) {
	off, n := r.blockRange(no)
	span, hit, err := c.m.deps.Cache.Get(ctx, r.key, off, n, touch, func(ctx context.Context, b []byte) (uint32, error) {
		return c.fetch(ctx, r.key, off, b, r.checkBlock(no))
	})
	if err != nil {
		return record.Span{}, fmt.Errorf("block %d of %s: %w", no, r.key, err)
	}
	if hit {
		coldHits.Inc()
	} else {
		coldMisses.Inc()
	}
	return span, nil
}

func (r *run) checkBlock(no int64) func([]byte) (uint32, error) {
	want := r.BlockSums[no-r.firstBlock()]
	return func(b []byte) (uint32, error) {
		got := record.CRC32C(b)
		if got != want {
			return 0, corruptf("block checksum: the footer says %08x, computed %08x", want, got)
		}
		return got, nil
	}
}

// share says whether p may have one more chunk got ahead: as long as no fewer
// are left than it has. n partitions that are read at the same time come to an
// (n+1)th of them each, and none is kept out by those before it.
func (c *coldReader) share(p *part) bool {
	return int64(p.ahead.Load()) < int64(c.m.cfg.ReadaheadKept)-c.kept.Load()
}

// prefetch starts to get a block of p in the background, if p may have one more
// and there is a place for the GET; soon says that it will be asked for before
// long, so that a block on disk is brought into memory. False: not now, so do
// not ask for later blocks either.
func (c *coldReader) prefetch(p *part, r *run, no int64, soon bool) bool {
	if !c.share(p) {
		return false
	}
	select {
	case c.ahead <- struct{}{}:
	default:
		return false
	}
	// The place is for the GET: writing the chunk needs none.
	got := sync.OnceFunc(func() { <-c.ahead })
	p.ahead.Add(1)
	c.kept.Add(1)
	over := func() {
		got()
		p.ahead.Add(-1)
		c.kept.Add(-1)
	}
	off, n := r.blockRange(no)
	started, ok := c.m.deps.Cache.Prefetch(r.key, off, n, soon, func(ctx context.Context, b []byte) (uint32, error) {
		defer got()
		if c.pace != nil {
			if err := c.pace.WaitN(ctx, len(b)); err != nil {
				return 0, err
			}
		}
		return c.fetch(ctx, r.key, off, b, r.checkBlock(no))
	}, over)
	if !started {
		over()
		return ok
	}
	readaheadBlocks.Inc()
	readaheadBytes.Add(n)
	return true
}

// fetch reads object bytes from the store and checks them; check gives their
// CRC-32C. Bytes that are wrong are read once more: a fault on the way is not
// one in the store.
func (c *coldReader) fetch(ctx context.Context, key string, off int64, p []byte, check func([]byte) (uint32, error)) (sum uint32, err error) {
	for range 2 {
		if err := c.hedged(ctx, key, off, p); err != nil {
			return 0, err
		}
		if sum, err = check(p); err == nil {
			return sum, nil
		}
		coldCorrupt.Inc()
	}
	c.m.deps.Log.Error("object store gives wrong bytes", "object", key, "offset", off, "bytes", len(p), "err", err)
	return 0, fmt.Errorf("object %s, %d bytes at %d: %w", key, len(p), off, err)
}

// hedged reads a range, and if the answer is late against what answers
// usually take, asks a second time and takes the first that comes.
func (c *coldReader) hedged(ctx context.Context, key string, off int64, p []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.m.cfg.StoreTimeout)
	defer cancel()
	late, may := c.lat.late()
	if !may {
		return c.get(ctx, key, off, p)
	}
	firstCtx, cancelFirst := context.WithCancel(ctx)
	defer cancelFirst()
	secondCtx, cancelSecond := context.WithCancel(ctx)
	defer cancelSecond()
	first := make(chan error, 1)
	go func() { first <- c.get(firstCtx, key, off, p) }()
	timer := time.NewTimer(late)
	defer timer.Stop()
	select {
	case err := <-first:
		return err
	case <-timer.C:
	}
	if !c.lat.spend() {
		return <-first
	}
	hedges.Inc()
	// It has a buffer of its own, since the first may still be writing to p.
	second := make(chan error, 1)
	b := c.attempt(len(p))
	go func() { second <- c.get(secondCtx, key, off, b) }()
	select {
	case err := <-first:
		if err == nil {
			return nil // the second ends, and its buffer is left to it
		}
		if err = <-second; err != nil {
			return err
		}
	case err := <-second:
		if err != nil {
			return <-first
		}
		cancelFirst()
		<-first
	}
	copy(p, b)
	c.attempts.Put(&b)
	return nil
}

// attempt gives a buffer of n bytes.
func (c *coldReader) attempt(n int) []byte {
	if b, ok := c.attempts.Get().(*[]byte); ok && cap(*b) >= n {
		return (*b)[:n]
	}
	return make([]byte, n, max(n, c.m.cfg.ChunkBytes))
}

func (c *coldReader) get(ctx context.Context, key string, off int64, p []byte) error {
	began := time.Now()
	rc, err := c.m.deps.Store.GetRange(ctx, key, off, int64(len(p)))
	if err != nil {
		coldFailures.Inc()
		return fmt.Errorf("object %s, %d bytes at %d: %w", key, len(p), off, err)
	}
	defer rc.Close()
	if _, err := io.ReadFull(rc, p); err != nil {
		coldFailures.Inc()
		return fmt.Errorf("object %s, %d bytes at %d: %w", key, len(p), off, err)
	}
	took := time.Since(began)
	c.lat.add(took)
	coldSeconds.Update(took.Seconds())
	coldBytes.Add(len(p))
	return nil
}

// latencies remembers how long the last GETs took, and how many hedges they
// pay for: one in twenty.
type latencies struct {
	mu     sync.Mutex
	ring   [64]time.Duration
	n      int // ever added
	budget float64
}

const (
	minHedge = 100 * time.Millisecond
	hedgeFor = 0.05 // hedges earned by a GET
	maxHedge = 4    // hedges saved up
)

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	l.ring[l.n%len(l.ring)] = d
	l.n++
	l.budget = min(l.budget+hedgeFor, maxHedge)
	l.mu.Unlock()
}

// late says after which time an answer is late: half as much again as 19 of
// 20 answers took. may is false while that is not known or no hedge is left.
func (l *latencies) late() (d time.Duration, may bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n < len(l.ring) || l.budget < 1 {
		return 0, false
	}
	sorted := l.ring
	slices.Sort(sorted[:])
	return max(sorted[len(sorted)*95/100]*3/2, minHedge), true
}

func (l *latencies) spend() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.budget < 1 {
		return false
	}
	l.budget--
	return true
}

// indexCache keeps decoded indexes, those used last, up to max bytes.
type indexCache struct {
	mu    sync.Mutex
	max   int64
	used  int64
	byKey map[indexKey]*list.Element
	order *list.List // of *indexSlot, last used in front
}

type indexKey struct {
	object ObjectID
	pos    int64
}

func (e *Entry) indexKey() indexKey { return indexKey{e.Object, e.IndexPos} }

type indexSlot struct {
	key indexKey
	run *run
	mem int64
}

func (c *indexCache) get(k indexKey) *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[k]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*indexSlot).run
}

func (c *indexCache) put(k indexKey, r *run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey[k] != nil {
		return
	}
	s := &indexSlot{k, r, r.memory()}
	c.byKey[k] = c.order.PushFront(s)
	c.used += s.mem
	for c.used > c.max && c.order.Len() > 1 {
		last := c.order.Remove(c.order.Back()).(*indexSlot)
		delete(c.byKey, last.key)
		c.used -= last.mem
	}
}
