package wire

import "time"

// pending is a request whose reply has not been sent. The reader makes it,
// the handler completes it, the writer sends it.
type pending struct {
	c             *conn
	api           *apiSpec
	version       int16 // of the reply
	correlationID int32
	started       time.Time
	slab          *slab // until the reply comes
	charge, large int64 // of the server's budgets, until the reply comes or, if it waits, Serve returns

	// What follows is guarded by c.mu; once answered, reply, encoded and err
	// are the writer's.
	next     *pending
	answered bool
	reply    Reply
	encoded  []byte // reply.Body's frame
	err      error  // the reply cannot be encoded
	queued   int64  // what conn.queued has of it
	held     int64  // what Server.held has of it
}

// complete is the reply function of one request.
func (p *pending) complete(r Reply) {
	r.setVersion(p.version)
	var encoded []byte
	var err error
	held := r.memory()
	if r.Body != nil {
		// Here and not when it is sent: what waits for a peer to take it is
		// counted in bytes, and is no larger than those.
		encoded, err = encodeReply(p.correlationID, r.Body)
		held += int64(cap(encoded))
		r.Body = nil
	}
	c := p.c
	c.mu.Lock()
	again, dropped := p.answered, c.gone
	start := false
	if !again {
		p.answered = true
		c.unanswered--
	}
	if dropped {
		p.hold(0)
	} else if !again {
		c.queued += held - p.queued
		p.queued = held
		p.hold(held)
		p.reply, p.encoded, p.err = r, encoded, err
		if start = c.first == p && !c.writing && c.serving != p; start {
			c.writing, c.moved = true, time.Now()
		}
	}
	c.mu.Unlock()
	if start && !r.Alone {
		go c.write()
	}
	c.srv.relief()
	if again || dropped {
		r.release()
	}
	if again {
		mAnsweredTwice.Inc()
		c.srv.log.Error("a request was answered twice; the second reply is dropped", "key", p.api.name)
		return
	}
	p.freeSlab()
	if !waits(p.api.key) {
		p.unclaim()
	}
	mInflight.Dec()
	perKey[byKey[p.api.key]].seconds.UpdateDuration(p.started)
	kick(c.change)
	if start && r.Alone {
		c.write()
	}
}

func (r *Reply) setVersion(v int16) {
	if r.Body != nil && r.Body.GetVersion() != v {
		r.Body.SetVersion(v)
	}
	if r.Fetch != nil && r.Fetch.Body.Version != v {
		r.Fetch.Body.Version = v
	}
}

// memory is the number of bytes of records that a reply holds in memory.
func (r *Reply) memory() int64 {
	if r.Fetch == nil {
		return 0
	}
	return r.Fetch.memory()
}

// release gives up the reply's spans.
func (r *Reply) release() {
	if r.Fetch != nil {
		r.Fetch.release()
	}
}

// hold makes n what Server.held has of p; c.mu is held.
func (p *pending) hold(n int64) {
	if d := n - p.held; d != 0 {
		p.held = n
		p.c.held += d
		p.c.srv.held.Add(d)
		mHeldBytes.Add(float64(d))
	}
}

// claim takes n bytes of the server's budget, at once if there is plenty, or
// else it waits if it may; false when it has none, because the connection
// ended first if it waited.
func (p *pending) claim(n int64, wait bool) bool {
	s := p.c.srv
	get := func(b *budget) bool {
		return b.try(n) || wait && b.acquire(p.c.ctx, n) == nil
	}
	if n > largeFrame {
		n = min(n, s.config.Load().MaxInflightBytes/2)
		if !get(&s.largeBudget) {
			return false
		}
		p.large = n
	}
	if !get(&s.budget) {
		p.unclaim()
		return false
	}
	p.charge = n
	return true
}

// unclaim gives p's share of the budget back.
func (p *pending) unclaim() {
	if p.charge > 0 {
		p.c.srv.budget.release(p.charge)
	}
	if p.large > 0 {
		p.c.srv.largeBudget.release(p.large)
	}
	p.charge, p.large = 0, 0
}

// inflightContended says whether some frame waits for its share.
func (s *Server) inflightContended() bool {
	return s.budget.contended() || s.largeBudget.contended()
}

// served is called when Serve has returned for a request that waits.
func (p *pending) served() {
	p.unclaim()
	if joins(p.api.key) {
		p.c.mu.Lock()
		if !p.answered {
			p.hold(0)
		}
		p.c.mu.Unlock()
	}
}

// drop gives up what p has, which no handler has seen.
func (p *pending) drop() {
	p.freeSlab()
	p.unclaim()
	p.c.mu.Lock()
	p.hold(0)
	p.c.mu.Unlock()
}

// grow makes the slab n bytes long, with what it has at its start.
func (p *pending) grow(n int) {
	s := newSlab(n, p.api.key == keyProduce)
	mInflightBytes.Add(float64(n))
	if old := p.slab; old != nil {
		copy(s.buf, old.buf)
		p.freeSlab()
	}
	p.slab = s
}

// freeSlab gives the frame's memory back.
func (p *pending) freeSlab() {
	if p.slab != nil {
		mInflightBytes.Add(-float64(len(p.slab.buf)))
		p.slab.release()
		p.slab = nil
	}
}
