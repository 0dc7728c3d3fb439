package tiering

import "github.com/firnlog/firn/record"

// stream is one sequential reader of a partition, recognised by asking for
// the offset that follows what it got.
type stream struct {
	next      record.Offset
	window    int64 // bytes to have ready ahead of it
	lastBlock indexKey
}

// streams are the readers seen last, the oldest replaced first.
type streams struct {
	ring [16]stream
	at   int
}

const (
	firstWindow = 512 << 10 // bytes of the first readahead; then it doubles
	nearWindow  = 16 << 20  // bytes that are read from disk ahead
)

// stream finds the reader that would ask for o now.
func (p *part) stream(o record.Offset) (stream, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.streams.ring {
		if s.next == o && !s.lastBlock.object.IsZero() {
			return s, true
		}
	}
	return stream{}, false
}

// advance notes that a reader has got up to next and gives its new window.
func (p *part) advance(s stream, sequential bool, next record.Offset, last indexKey, limit int64) stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	to := stream{next: next, lastBlock: last}
	slot := p.streams.at
	if sequential {
		to.window = min(max(2*s.window, firstWindow), max(limit, 0))
		for i := range p.streams.ring {
			if p.streams.ring[i].next == s.next {
				slot = i
			}
		}
	}
	if slot == p.streams.at {
		p.streams.at = (p.streams.at + 1) % len(p.streams.ring)
	}
	p.streams.ring[slot] = to
	return to
}

// ahead1 starts the blocks that one read is about to wait for, all but the
// first, so that they come at the same time.
func (c *coldReader) ahead1(p *part, r *run, pos, n int64) {
	last := (r.Position + min(pos+n, r.Length) - 1) / int64(r.Block)
	for no := (r.Position+pos)/int64(r.Block) + 1; no <= last; no++ {
		if !c.prefetch(p, r, no, true) {
			return
		}
	}
}

// readahead starts what lies within window bytes after byte end of run i, and
// in the runs after it whose indexes are known already; of the first whose
// index is not, the index is got, first of all: nothing of that run can be got
// before. What is on disk is read into memory only when it is near: a disk needs
// less warning than an object store.
func (m *Manager) readahead(p *part, v *view, i int, r *run, end, window int64) {
	entries := v.entries()
	m.indexAhead(p, v, i+1, r.Length-end, window)
	far := window - nearWindow
	for window > 0 {
		if n := min(window, r.Length-end); n > 0 {
			first, last := (r.Position+end)/int64(r.Block), (r.Position+end+n-1)/int64(r.Block)
			for no := first; no <= last; no++ {
				soon := window-(no-first)*int64(r.Block) > far
				if !m.cold.prefetch(p, r, no, soon) {
					return
				}
			}
			window -= n
		}
		i, end = i+1, 0
		if window <= 0 || i >= len(entries) {
			return
		}
		if r = m.cold.indexes.get(entries[i].indexKey()); r == nil {
			return
		}
	}
}

// indexAhead gets the first index into memory, in the background, that is not
// there of the runs from i on that begin within window bytes, the first of them
// after so many.
func (m *Manager) indexAhead(p *part, v *view, i int, after, window int64) {
	entries := v.entries()
	for ; i < len(entries) && after < window; i++ {
		e := &entries[i]
		if m.cold.indexes.get(e.indexKey()) != nil {
			after += e.Length
			continue
		}
		if !p.indexing.CompareAndSwap(false, true) {
			return
		}
		m.mu.RLock()
		closed := m.closed
		if !closed {
			m.work.Add(1)
		}
		m.mu.RUnlock()
		if closed {
			p.indexing.Store(false)
			return
		}
		go func() {
			defer m.work.Done()
			defer p.indexing.Store(false)
			// Whoever needs it meets the error again.
			_, _ = m.cold.index(m.ctx, p, v.ptr.Cluster, e)
		}()
		return
	}
}
