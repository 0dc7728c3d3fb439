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
	charge, large int64 // of the server's budgets, until the reply comes

	// What follows is guarded by c.mu; once answered, reply, encoded and err
	// are the writer's.
	next     *pending
	answered bool
	reply    Reply
	encoded  []byte // reply.Body's frame
	err      error  // the reply cannot be encoded
	held     int64  // what the connection counts for it
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
	if dropped {
		held = 0
	}
	if !again {
		p.answered = true
		c.unanswered--
		c.held += held - p.held
		p.held = held
		c.srv.replied(held)
	}
	if !again && !dropped {
		p.reply, p.encoded, p.err = r, encoded, err
		if start = c.first == p && !c.writing; start {
			c.writing, c.moved = true, time.Now()
		}
	}
	c.mu.Unlock()
	if start {
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
	p.free()
	mInflight.Dec()
	perKey[byKey[p.api.key]].seconds.UpdateDuration(p.started)
	kick(c.change)
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

// claim waits for n bytes of the server's budget; false when the connection
// ends first.
func (p *pending) claim(n int64) bool {
	s := p.c.srv
	if n > largeFrame {
		n = min(n, s.config.Load().MaxInflightBytes/2)
		if s.largeBudget.acquire(p.c.ctx, n) != nil {
			return false
		}
		p.large = n
	}
	if n > 0 {
		if s.budget.acquire(p.c.ctx, n) != nil {
			return false
		}
		p.charge = n
	}
	return true
}

// inflightContended says whether some frame waits for its share.
func (s *Server) inflightContended() bool {
	return s.budget.contended() || s.largeBudget.contended()
}

// grow makes the slab n bytes long, with what it has at its start.
func (p *pending) grow(n int) {
	s := newSlab(n, p.api.key == keyProduce)
	mInflightBytes.Add(float64(n))
	if old := p.slab; old != nil {
		copy(s.buf, old.buf)
		mInflightBytes.Add(-float64(len(old.buf)))
		old.release()
	}
	p.slab = s
}

// free gives the frame's memory and its share of the budget back.
func (p *pending) free() {
	if p.slab != nil {
		mInflightBytes.Add(-float64(len(p.slab.buf)))
		p.slab.release()
		p.slab = nil
	}
	if p.charge > 0 {
		p.c.srv.budget.release(p.charge)
	}
	if p.large > 0 {
		p.c.srv.largeBudget.release(p.large)
	}
	p.charge, p.large = 0, 0
}
