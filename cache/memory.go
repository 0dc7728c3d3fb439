package cache

import (
	"container/list"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

var (
	gaugeMemory = metrics.GetOrCreateGauge("firn_cache_memory_bytes", nil)
	memoryFull  = metrics.GetOrCreateCounter("firn_cache_memory_full_total")
	loads       = metrics.GetOrCreateCounter("firn_cache_disk_reads_total")
)

// idleAfter is when a chunk that nobody asked for leaves memory, and buffers
// that nobody took go back to the system: between one and two times that.
const idleAfter = 30 * time.Second

// memory is the buffers of chunks, and which chunks are kept in theirs. A
// chunk is received into a buffer, written to its file past the page cache,
// where it would take the place of what is hot, and sent to readers from the
// buffer. Chunks that nobody sends from leave it when there is no room for
// others, the one not used for longest first, and before those that nobody has
// asked for yet; when all are being sent, readers get the file.
//
// order is guarded by Cache.mu; of the others, mu.
type memory struct {
	size  int // of a buffer, a multiple of disk.Block
	chunk int // bytes of data that fit
	max   int // chunks

	order *list.List // of *entry that are in memory, last used in front

	mu    sync.Mutex
	held  int         // chunks kept, and others that are still being sent
	free  [][]byte    // at most one for each chunk kept and each fill under way
	taken bool        // some buffer was, since the last trim
	idle  *time.Timer // to the next trim; nil: there is nothing to give up
	over  bool        // no trim any more
	trims func()
}

// newMemory makes an empty one. trims is called when it is time for a trim.
func newMemory(bytes int64, chunk int, trims func()) *memory {
	m := &memory{size: fileSize(chunk), chunk: chunk, order: list.New(), trims: trims}
	m.max = int(max(bytes, 0) / int64(m.size))
	return m
}

// close ends the trims.
func (m *memory) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	if m.idle != nil {
		m.idle.Stop()
	}
}

// fits says whether a chunk of n bytes is kept in memory: not one that is larger
// than a buffer, and none that would leave most of it empty.
func (m *memory) fits(n int) bool { return n <= m.chunk && n >= m.chunk/4 && m.max > 0 }

// take gives a buffer.
func (m *memory) take() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taken = true
	if m.idle == nil && !m.over {
		m.idle = time.AfterFunc(idleAfter, m.trims)
	}
	if n := len(m.free); n > 0 {
		b := m.free[n-1]
		m.free[n-1], m.free = nil, m.free[:n-1]
		return b
	}
	return disk.AlignedBytes(m.size)
}

// give takes a buffer back.
func (m *memory) give(b []byte) {
	m.mu.Lock()
	m.free = append(m.free, b)
	m.mu.Unlock()
}

// reserve makes room for one chunk more, if need be by taking another out of
// memory that nobody sends from: of those that were read, the one not used for
// longest, and if there is none, and this is not ahead of anybody's asking, the
// one that waits for longest to be read. False: there is none. Cache.mu is held.
func (m *memory) reserve(ahead bool) bool {
	for {
		m.mu.Lock()
		ok := m.held < m.max
		if ok {
			m.held++
		}
		m.mu.Unlock()
		if ok {
			gaugeMemory.Add(float64(m.size))
			return true
		}
		e := m.oldest(true)
		if e == nil && !ahead {
			e = m.oldest(false)
		}
		if e == nil {
			return false
		}
		m.drop(e)
	}
}

// oldest is the chunk not used for longest of those that were read, or not,
// and that nobody sends from. Cache.mu is held.
func (m *memory) oldest(read bool) *entry {
	for at := m.order.Back(); at != nil; at = at.Prev() {
		if e := at.Value.(*entry); e.read == read && e.mem.Mem.Unused() {
			return e
		}
	}
	return nil
}

// unreserve takes a reservation back.
func (m *memory) unreserve() {
	m.mu.Lock()
	m.held--
	m.mu.Unlock()
	gaugeMemory.Add(-float64(m.size))
}

// own gives a buffer, for which there is a reservation, to those who send
// from it; both come back with the last reference.
func (m *memory) own(b []byte) *record.Memory {
	return record.NewMemory(func() {
		m.unreserve()
		m.give(b)
	})
}

// keep has e in memory, with a reference of its own. Where nobody waits for
// the flight that brought it, it takes over what is to be called when somebody
// asks. Cache.mu is held.
func (m *memory) keep(e *entry, span record.Span, f *flight) {
	e.mem, e.recent, e.read = span.Part(0, span.Size()), true, f.waiters > 0
	if !e.read {
		e.over, f.over = f.over, nil
	}
	e.memSlot = m.order.PushFront(e)
}

// use notes that e, which is kept, was asked for. Cache.mu is held.
func (m *memory) use(e *entry) {
	e.recent, e.read = true, true
	e.notAhead()
	m.order.MoveToFront(e.memSlot)
}

// drop takes e out of memory, if it is there. Cache.mu is held.
func (m *memory) drop(e *entry) {
	if e.memSlot == nil {
		return
	}
	m.order.Remove(e.memSlot)
	e.mem.Release()
	e.mem, e.memSlot = record.Span{}, nil
	e.notAhead()
}

// trim takes chunks out of memory that were not asked for since it was called
// last and are not being sent, and frees buffers if none was taken since then.
// It sees to it that it is called again while anything is left. Cache.mu is
// held.
func (m *memory) trim() {
	for at := m.order.Back(); at != nil; {
		e := at.Value.(*entry)
		at = at.Prev()
		if !e.recent && e.mem.Mem.Unused() {
			m.drop(e)
		}
		e.recent = false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.taken {
		m.free = nil
	}
	m.taken = false
	switch {
	case m.over || m.idle == nil:
	case m.held > 0 || len(m.free) > 0:
		m.idle.Reset(idleAfter)
	default:
		m.idle = nil
	}
}
