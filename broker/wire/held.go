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
// readBuffer of a frame and small replies, and connections on which nothing
// moves are closed, those first that hold the most, those last that wait for
// memory themselves (shed). Peers that send and read are only slowed down.

// stallTimeout is how long a connection that holds something may stand still
// while all hold too much.
const stallTimeout = 3 * time.Second

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
	check := time.NewTicker(stallTimeout / 12)
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

// closeStalled closes connections on which nothing moves, until what is left
// is within the limit.
func (s *Server) closeStalled() {
	type stalled struct {
		c       *conn
		since   time.Time
		held    int64
		waiting int
	}
	var all []stalled
	s.mu.Lock()
	for c := range s.conns {
		all = append(all, stalled{c: c})
	}
	s.mu.Unlock()
	now, excess := time.Now(), s.excess()
	for i := range all {
		all[i].since, all[i].held, all[i].waiting = all[i].c.holds()
	}
	all = slices.DeleteFunc(all, func(e stalled) bool { return e.held == 0 || now.Sub(e.since) < stallTimeout })
	slices.SortFunc(all, func(a, b stalled) int { return cmp.Or(a.waiting-b.waiting, cmp.Compare(b.held, a.held)) })
	for _, e := range all {
		if excess <= 0 {
			return
		}
		excess -= e.held
		e.c.fail(reasonStalled, fmt.Errorf("nothing moved on it for %v, and of the memory that all connections hold, more than queued.max.request.bytes, it holds %d bytes", now.Sub(e.since).Round(time.Second), e.held))
	}
}

// holds says how many bytes the connection holds, since when nothing has moved
// on it, and, with 1, that its reader waits for memory.
func (c *conn) holds() (since time.Time, n int64, waiting int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return c.moved, 0, 0
	}
	if c.waiting {
		waiting = 1
	}
	return c.moved, c.held, waiting
}

// wait notes that the reader waits for memory as long as f runs.
func (c *conn) wait(f func() bool) bool {
	set := func(waiting bool) {
		c.mu.Lock()
		c.waiting = waiting
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

// awaitRelief waits while too much is held; false when the reader shall stop.
func (c *conn) awaitRelief() bool {
	for {
		relief := c.srv.relief()
		if relief == nil {
			return true
		}
		select {
		case <-relief:
		case <-c.change:
		case <-c.ctx.Done():
			return false
		}
		if c.isDraining() {
			return false
		}
	}
}
