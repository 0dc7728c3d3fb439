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

const firstWindow = 512 << 10 // bytes of the first readahead; then it doubles

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
		if !c.prefetch(p, r, no) {
			return
		}
	}
}

// readahead starts what lies within window bytes after byte end of run i, and
// in the runs after it whose indexes are known already; of the first whose
// index is not, the index is fetched.
func (m *Manager) readahead(p *part, v *view, i int, r *run, end, window int64) {
	entries := v.entries()
	for window > 0 {
		if n := min(window, r.Length-end); n > 0 {
			first, last := (r.Position+end)/int64(r.Block), (r.Position+end+n-1)/int64(r.Block)
			for no := first; no <= last; no++ {
				if !m.cold.prefetch(p, r, no) {
					return
				}
			}
			window -= n
		}
		i, end = i+1, 0
		if window <= 0 || i >= len(entries) {
			return
		}
		e := &entries[i]
		if r = m.cold.indexes.get(indexKey{e.Object, e.IndexPos}); r == nil {
			m.fetchIndexAhead(p, v, e)
			return
		}
	}
}

// fetchIndexAhead gets an index into memory in the background.
func (m *Manager) fetchIndexAhead(p *part, v *view, e *Entry) {
	give, ok := m.cold.place(p)
	if !ok {
		return
	}
	m.mu.RLock()
	closed := m.closed
	if !closed {
		m.work.Add(1)
	}
	m.mu.RUnlock()
	if closed {
		give()
		return
	}
	go func() {
		defer m.work.Done()
		defer give()
		// Whoever needs it meets the error again.
		_, _ = m.cold.index(m.ctx, p, v.ptr.Cluster, e)
	}()
}
