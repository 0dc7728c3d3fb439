package wire

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// What connections hold outside of the budgets is counted in Server.held:
// frames while they arrive without a share of the budget, small requests and
// Fetch until they are answered, replies in memory until their peers took
// them. While that is over MaxInflightBytes, nothing is added but the first
// readBuffer of a frame and small replies; others are not begun. Connections
// on which nothing moves are closed, those first that hold the most (shed);
// those that wait for memory themselves only when all do. Peers that send and
// read, or hold little, are only slowed down.

// stallTimeout is how long a connection that holds something may stand still
// while all hold too much.
const (
	stallTimeout = 3 * time.Second
	stallCheck   = stallTimeout / 12
)

// smallReply are the keys whose replies are about as large as their requests,
// or are no memory; they are served whatever waits.
var smallReply = map[int16]bool{
	keyProduce: true, keyApiVersions: true, keyOffsetCommit: true, keyFindCoordinator: true, keyHeartbeat: true, keyLeaveGroup: true,
}

// excess is by how much the bytes that are held are over their limit.
func (s *Server) excess() int64 { return s.held.Load() - s.config.Load().MaxInflightBytes }

// relief gives a channel that is closed when what is held is within its limit
// again, nil when it is. While there is one, shed runs.
func (s *Server) relief() <-chan struct{} {
	if s.excess() <= 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.relieved == nil && !s.closing {
		s.relieved = make(chan struct{})
		s.running.Add(1)
		go s.shed()
	}
	return s.relieved
}

// shed runs until what is held is within its limit, or the server closes.
func (s *Server) shed() {
	defer s.running.Done()
	mHeldLimit.Inc()
	check := time.NewTicker(stallCheck)
	defer check.Stop()
	for s.excess() > 0 && !s.isClosing() {
		s.closeStalled()
		select {
		case <-check.C:
		case <-s.closed:
		}
	}
	s.mu.Lock()
	close(s.relieved)
	s.relieved = nil
	s.mu.Unlock()
}

// closeStalled closes connections that hold more than readBuffer and on which
// nothing moves, until what is left is within the limit.
func (s *Server) closeStalled() {
	type holder struct {
		c       *conn
		since   time.Time // when something last moved
		held    int64
		waiting bool // its reader waits for memory
	}
	var all []holder
	s.mu.Lock()
	for c := range s.conns {
		all = append(all, holder{c: c})
	}
	s.mu.Unlock()
	now, excess, allWait := time.Now(), s.excess(), true
	for i := range all {
		h := &all[i]
		h.c.mu.Lock()
		h.since, h.held, h.waiting = h.c.moved, h.c.held, h.c.waiting
		if h.c.gone {
			h.held = 0
		}
		h.c.mu.Unlock()
		allWait = allWait && (h.waiting || h.held <= readBuffer)
	}
	slices.SortFunc(all, func(a, b holder) int { return cmp.Compare(b.held, a.held) })
	for _, h := range all {
		switch stalled := now.Sub(h.since) >= stallTimeout; {
		case excess <= 0:
			return
		case h.held <= readBuffer, h.waiting && !allWait, !stalled && !allWait:
			continue
		case !stalled:
			return // those that hold less wait because of it
		}
		excess -= h.held
		h.c.fail(reasonStalled, fmt.Errorf("nothing moved on it for %v, and of the memory that all connections hold, more than queued.max.request.bytes, it holds %d bytes", now.Sub(h.since).Round(time.Second), h.held))
	}
}

// wait notes that the reader waits for memory as long as f runs. After that it
// has the time of two checks to go on, however long it had to wait.
func (c *conn) wait(f func() bool) bool {
	set := func(waiting bool) {
		c.mu.Lock()
		if c.waiting = waiting; !waiting {
			if latest := time.Now().Add(2*stallCheck - stallTimeout); c.moved.Before(latest) {
				c.moved = latest
			}
		}
		c.mu.Unlock()
	}
	set(true)
	defer set(false)
	return f()
}

// nextStep is called before each step of sending, and gives its timeout.
func (c *conn) nextStep() time.Duration {
	c.mu.Lock()
	c.moved = time.Now()
	c.mu.Unlock()
	return c.srv.idleTimeout()
}

// hold counts size bytes of a request that arrives, unless they are in the
// budget, before there is memory for them; false when the reader shall stop.
// All but the first of a frame wait while too much is held, unless all of that
// is its own.
func (c *conn) hold(p *pending, size int) bool {
	if p.charge > 0 && !waits(p.api.key) {
		size = 0
	}
	c.mu.Lock()
	p.hold(int64(size))
	c.moved = time.Now()
	c.mu.Unlock()
	return size <= readBuffer || c.srv.excess() <= 0 || int64(size) == c.srv.held.Load() || c.wait(c.awaitRelief)
}

// awaitRelief waits once while too much is held; false when the reader shall
// stop. That it is too much again when it wakes up must not keep it waiting:
// others may be quicker, again and again.
func (c *conn) awaitRelief() bool {
	relief := c.srv.relief()
	for relief != nil && !c.isDraining() {
		select {
		case <-relief:
			return true
		case <-c.change:
		case <-c.ctx.Done():
			return false
		}
	}
	return relief == nil
}
