package wire

import (
	"sync"
	"time"
)

// pending is a request whose reply has not been sent. The reader makes it,
// the handler completes it, the writer sends or abandons it.
type pending struct {
	c             *conn
	api           *apiSpec
	version       int16 // of the reply
	correlationID int32
	started       time.Time
	slab          *slab // until the reply comes
	charge        int64 // of the server's budget, until the reply comes

	mu        sync.Mutex // guards what follows; not held across I/O
	answered  bool
	abandoned bool  // nobody will send the reply
	reply     Reply // the writer's alone once answered
	held      int64 // what the connection counts for it; the writer's once answered
}

// complete is the reply function of one request.
func (p *pending) complete(r Reply) {
	if r.Body != nil && r.Body.GetVersion() != p.version {
		r.Body.SetVersion(p.version)
	}
	if r.Fetch != nil && r.Fetch.Body.Version != p.version {
		r.Fetch.Body.Version = p.version
	}
	p.mu.Lock()
	again, dropped := p.answered, p.abandoned
	p.answered = true
	if !again && !dropped {
		p.reply = r
		var memory int64
		if r.Fetch != nil {
			memory = r.Fetch.memory()
		}
		p.c.hold(0, memory-p.held)
		p.held = memory
	}
	p.mu.Unlock()
	if again || dropped {
		if r.Fetch != nil {
			r.Fetch.release()
		}
	}
	if again {
		countError(reasonReply)
		p.c.srv.log.Error("a request was answered twice; the second reply is dropped", "key", p.api.name)
		return
	}
	p.free()
	mInflight.Dec()
	perKey[byKey[p.api.key]].seconds.UpdateDuration(p.started)
	kick(p.c.wake)
}

// free gives the frame's memory and its share of the budget back.
func (p *pending) free() {
	if p.slab != nil {
		mInflightBytes.Add(-float64(len(p.slab.buf)))
		p.slab.release()
		p.slab = nil
	}
	if p.charge > 0 {
		p.c.srv.budget.Release(p.charge)
		p.charge = 0
	}
}

func (p *pending) isAnswered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answered
}

// abandon releases the reply's spans, now or when it comes.
func (p *pending) abandon() {
	p.mu.Lock()
	p.abandoned = true
	f := p.reply.Fetch
	p.mu.Unlock()
	if f != nil {
		f.release()
	}
}
