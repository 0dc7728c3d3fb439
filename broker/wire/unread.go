package wire

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Replies that wait for their peers are counted in Server.replyBytes. While
// there are more than MaxInflightBytes of them, two things happen: requests
// whose replies may be large are not served (hold), and peers that take
// nothing are closed, those first that have not for the longest time (shed).
// Peers that read are only slowed down.

// unreadTimeout is how long a peer may take nothing of a reply while replies
// of all connections take too much memory.
const unreadTimeout = 3 * time.Second

// smallReply are the keys whose replies are about as large as their requests,
// or are no memory; they are served whatever waits.
var smallReply = map[int16]bool{
	keyProduce: true, keyApiVersions: true, keyOffsetCommit: true, keyFindCoordinator: true, keyHeartbeat: true, keyLeaveGroup: true,
}

// replied counts bytes of replies that wait in memory.
func (s *Server) replied(n int64) {
	if n != 0 {
		s.replyBytes.Add(n)
		mWaitingReplyBytes.Add(float64(n))
	}
}

// unreadExcess is by how much waiting replies are over their limit.
func (s *Server) unreadExcess() int64 {
	return s.replyBytes.Load() - s.config.Load().MaxInflightBytes
}

// relief gives a channel that is closed when waiting replies are within their
// limit again, nil when they are. While there is one, shed runs.
func (s *Server) relief() <-chan struct{} {
	if s.unreadExcess() <= 0 {
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

// shed runs until waiting replies are within their limit, or the server
// closes.
func (s *Server) shed() {
	defer s.running.Done()
	mUnreadLimit.Inc()
	check := time.NewTicker(unreadTimeout / 12)
	defer check.Stop()
	for s.unreadExcess() > 0 && !s.isClosing() {
		s.closeUnread()
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

// closeUnread closes connections whose peers take nothing, until what is left
// is within the limit.
func (s *Server) closeUnread() {
	type stalled struct {
		c     *conn
		since time.Time
		held  int64
	}
	var all []stalled
	s.mu.Lock()
	for c := range s.conns {
		all = append(all, stalled{c: c})
	}
	s.mu.Unlock()
	now, excess := time.Now(), s.unreadExcess()
	for i := range all {
		all[i].since, all[i].held = all[i].c.unread()
	}
	all = slices.DeleteFunc(all, func(e stalled) bool { return e.held == 0 || now.Sub(e.since) < unreadTimeout })
	slices.SortFunc(all, func(a, b stalled) int { return cmp.Compare(a.since.UnixNano(), b.since.UnixNano()) })
	for _, e := range all {
		if excess <= 0 {
			return
		}
		excess -= e.held
		e.c.fail(reasonUnread, fmt.Errorf("it took nothing for %v while replies of all connections took more memory than queued.max.request.bytes", now.Sub(e.since).Round(time.Second)))
	}
}

// unread says since when the peer has taken nothing, and how many bytes of
// replies in memory wait for it; none when nothing is being sent.
func (c *conn) unread() (since time.Time, held int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.writing || c.gone {
		return c.moved, 0
	}
	return c.moved, c.heldReplies(c.first)
}

// nextStep is called before each step of sending, and gives its timeout.
func (c *conn) nextStep() time.Duration {
	c.mu.Lock()
	c.moved = time.Now()
	c.mu.Unlock()
	return c.srv.idleTimeout()
}

// hold makes the reader wait while replies that nobody reads take too much
// memory; false when it shall stop.
func (c *conn) hold(key int16) bool {
	for !smallReply[key] {
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
	return true
}
