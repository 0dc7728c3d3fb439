package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// maxQueued is how many bytes of requests and of replies in memory a
	// connection may have before its next request is read.
	maxQueued = 16 << 20
	// smallFrame is up to where a request has no share of the budget, but is
	// among what is held (Server.held); those of Produce always have one.
	smallFrame = 64 << 10
	// smallPoll is the same for requests that wait for something to happen.
	smallPoll = 1 << 20
	// shownShare: when half of the budget is taken, a frame gets its share of
	// it once one part in shownShare of it is there.
	shownShare = 8
	// decodedCharge times its length is what a larger one counts: what it is
	// decoded to is on the heap beside it.
	decodedCharge = 4
	// largeFrame is from where on frames may take half of MaxInflightBytes
	// at most, so that they cannot keep out those of common sizes.
	largeFrame = 1 << 20
	// A frame must be read within frameTimeout and the time it takes at
	// minFrameRate bytes per second; while others wait for the bytes that it
	// has claimed, within contendedTimeout and at contendedRate, which is
	// looked at every frameCheck.
	frameTimeout     = time.Minute
	minFrameRate     = 256 << 10
	contendedTimeout = 3 * time.Second
	contendedRate    = 4 << 20
	frameCheck       = time.Second
	// halfCloseGrace is for how long replies are still sent to a peer that
	// has closed its side, or sent what is no request; most such peers are
	// gone altogether.
	halfCloseGrace = 10 * time.Second
	// closeLinger is how long a peer has to close after a reply that ends its
	// connection.
	closeLinger = time.Second
)

// conn is one connection. Its reader decodes requests, queues each as a
// pending reply and serves it. A writer is started when the first of the
// queue has its reply, sends what is answered, in order, and ends. For a
// Fetch that is answered while it is served, the reader is the writer.
type conn struct {
	srv    *Server
	nc     net.Conn
	in     *input
	out    sender
	client *Client // replaced, never changed; the reader's
	ctx    context.Context
	cancel context.CancelFunc
	change chan struct{} // for the reader: a reply came or was sent, or the writer ended
	failed sync.Once

	mu          sync.Mutex      // guards what follows
	draining    bool            // no further request is read
	gone        bool            // nothing more is sent
	writing     bool            // a writer is at work
	serving     *pending        // a Fetch in Serve: when it is answered there, the reader writes
	first, last *pending        // requests whose reply is not sent, in the order they came
	inflight    int             // of them
	unanswered  int             // of them, without a reply yet
	alone       bool            // the last is not of Produce: nothing is served beside it
	behind      bool            // the reader has another that waits for its turn
	hurry       chan<- struct{} // who wants to know of that, nil: nobody
	queued      int64           // bytes of them, see maxQueued
	held        int64           // bytes that Server.held has of this connection
	waiting     bool            // the reader waits for memory
	used        time.Time       // when it was accepted or the last reply was sent
	moved       time.Time       // when it last took in or sent something, or tried to
}

func newConn(s *Server, id uint64, nc net.Conn) *conn {
	cfg := s.config.Load()
	c := &conn{
		srv:    s,
		nc:     nc,
		client: &Client{ID: id, Remote: nc.RemoteAddr()},
		change: make(chan struct{}, 1),
		used:   time.Now(),
	}
	var raw syscall.RawConn
	var buf sendBuffer
	if tcp, ok := nc.(*net.TCPConn); ok {
		buf = newSendBuffer(tcp, cfg.SendBuffer)
		if rc, err := tcp.SyscallConn(); err == nil && rawSockets {
			raw = rc
		}
	}
	c.in = newInput(nc, raw)
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	c.out = newSender(nc, raw, buf, c.ctx.Done(), c.nextStep)
	return c
}

// run serves the connection until it is closed, by either side.
func (c *conn) run() {
	mSendBuffer.Add(float64(c.out.kernel.size))
	defer func() { mSendBuffer.Add(-float64(c.out.kernel.size)) }()
	halfClosed := c.read()
	c.in.drop()
	if halfClosed {
		if c.idle() {
			c.close(reasonPeer)
		}
		t := time.AfterFunc(halfCloseGrace, func() {
			c.fail(reasonHalfClosed, fmt.Errorf("the peer closed its side and %v later a request is still unanswered", halfCloseGrace))
		})
		defer t.Stop()
	}
	c.awaitSent()
	if halfClosed {
		c.close(reasonPeer)
	}
	c.close(reasonShutdown)
	c.abandon()
}

// idle says that nothing is in flight.
func (c *conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first == nil
}

// awaitSent waits until every reply is sent, or the connection is gone, and
// no writer is at work.
func (c *conn) awaitSent() {
	done := c.ctx.Done()
	for {
		c.mu.Lock()
		ready := (c.first == nil || c.gone) && !c.writing
		c.mu.Unlock()
		if ready {
			return
		}
		select {
		case <-c.change:
		case <-done:
			c.abort()
			done = nil
		}
	}
}

// abandon releases the replies that could not be sent; those still to come
// are released by complete.
func (c *conn) abandon() {
	c.mu.Lock()
	p := c.first
	c.first, c.last, c.inflight, c.queued = nil, nil, 0, 0
	for q := p; q != nil; q = q.next {
		q.hold(0)
	}
	c.mu.Unlock()
	for ; p != nil; p = p.next {
		p.reply.release()
	}
}

// abort closes the connection; reader and writer notice.
func (c *conn) abort() {
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.cancel()
	c.nc.Close()
	kick(c.change)
}

// drain makes the reader stop; the writer sends what is in flight and ends.
func (c *conn) drain() {
	c.mu.Lock()
	c.draining = true
	c.nc.SetReadDeadline(time.Unix(1, 0)) // past: wakes a blocked read
	c.mu.Unlock()
	kick(c.change)
}

// close closes the connection for a reason, which is counted, the first one
// only.
func (c *conn) close(reason string) { c.fail(reason, nil) }

// fail is close with an error that is worth a line in the log.
func (c *conn) fail(reason string, err error) {
	c.failed.Do(func() {
		if c.ctx.Err() != nil {
			reason, err = reasonShutdown, nil
		}
		mClosed[reason].Inc()
		switch {
		case err == nil:
		case reason == reasonReset:
			c.srv.log.Debug("connection reset", "peer", c.nc.RemoteAddr(), "err", err)
		default:
			c.srv.warn("connection closed", "peer", c.nc.RemoteAddr(), "reason", reason, "err", err)
		}
	})
	c.abort()
}

// refuse closes the connection because of a frame that cannot be served, once
// what came before it is answered: clients send requests ahead, and to Kafka,
// which answers one before it reads the next, those are none the worse for it.
func (c *conn) refuse(reason string, err error) {
	t := time.AfterFunc(halfCloseGrace, func() { c.fail(reason, err) })
	defer t.Stop()
	c.awaitSent()
	c.fail(reason, err)
}

func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (s *Server) idleTimeout() time.Duration { return s.config.Load().IdleTimeout }

// await makes the reader wait until ok, which is called with mu held; false
// when the reader shall stop.
func (c *conn) await(ok func() bool) bool {
	for {
		c.mu.Lock()
		stop, ready := c.draining || c.gone, ok()
		c.mu.Unlock()
		switch {
		case stop:
			return false
		case ready:
			return true
		}
		select {
		case <-c.change:
		case <-c.ctx.Done():
			return false
		}
	}
}

// hasRoom says whether one more request may be read.
func (c *conn) hasRoom() bool {
	if c.first == nil {
		return true
	}
	return c.inflight < c.srv.config.Load().MaxInflight && c.queued < maxQueued
}

// isTurn says whether a request may be served now. Requests of a connection
// take effect one after the other: clients may send a request before the
// reply to the one before it, and what they see is as if each was answered
// before the next was read, which is how Kafka works. Only Produce requests
// that follow each other are served together: Serve appends them in order,
// and they wait for the disk together.
func (c *conn) isTurn(key int16) bool {
	return c.unanswered == 0 || key == keyProduce && !c.alone
}

// takeTurn is isTurn; when it is not, whoever is being served and wants to know
// that somebody waits is told.
func (c *conn) takeTurn(key int16) bool {
	if c.isTurn(key) {
		c.behind, c.hurry = false, nil
		return true
	}
	c.behind = true
	tell(c.hurry)
	return false
}

// hurried has wake told when another request has come.
func (c *conn) hurried(wake chan<- struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hurry = wake
	if c.behind {
		tell(wake)
	}
}

func tell(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default: // told before, or nobody
	}
}

// readDeadline gives the next reads until t; false when the reader shall
// stop.
func (c *conn) readDeadline(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return false
	}
	c.nc.SetReadDeadline(t)
	return true
}

// lastUsed is when a reply was last sent, now when something is in flight or
// still gathered by the writer.
func (c *conn) lastUsed() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first != nil || c.writing {
		return time.Now()
	}
	return c.used
}

// read serves requests until the peer closes its side, in which case it
// returns true, or until anything else ends the connection.
func (c *conn) read() (halfClosed bool) {
	for c.await(c.hasRoom) {
		more, eof := c.awaitFrame()
		if eof {
			return true
		}
		if !more || !c.readFrame() {
			return false
		}
	}
	return false
}

// awaitFrame waits for the first byte of a frame.
func (c *conn) awaitFrame() (more, eof bool) {
	start, wait := time.Now(), c.srv.idleTimeout()
	for {
		if !c.readDeadline(after(wait)) {
			return false, false
		}
		_, err := c.in.peek(1)
		switch {
		case err == nil:
			return true, false
		case errors.Is(err, io.EOF):
			return false, true
		case errors.Is(err, os.ErrDeadlineExceeded):
			if c.isDraining() {
				return false, false
			}
			timeout := c.srv.idleTimeout()
			wait = timeout - min(time.Since(start), time.Since(c.lastUsed()))
			if timeout < 0 {
				wait = timeout
			} else if wait <= 0 {
				c.close(reasonIdle)
				return false, false
			}
		default:
			c.fail(reasonReset, err)
			return false, false
		}
	}
}

func (c *conn) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// readFailed closes the connection after an error in the middle of a frame.
func (c *conn) readFailed(err error) bool {
	switch {
	case c.isDraining():
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		c.fail(reasonTruncated, errors.New("the peer closed in the middle of a request"))
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.fail(reasonReadTimeout, errors.New("a request took too long to arrive"))
	default:
		c.fail(reasonReset, err)
	}
	return false
}

// readFrame reads one request and serves it; false ends the reader.
func (c *conn) readFrame() bool {
	if !c.readDeadline(after(frameTimeout)) {
		return false
	}
	b, err := c.in.peek(lengthSize)
	if err != nil {
		return c.readFailed(err)
	}
	n, most := int(int32(binary.BigEndian.Uint32(b))), c.srv.config.Load().MaxFrameBytes
	if n < minFrame || n > most {
		c.refuse(reasonFrameSize, fmt.Errorf("%w: length is %d, allowed are %d to socket.request.max.bytes=%d", ErrMalformed, n, minFrame, most))
		return false
	}
	if b, err = c.in.peek(headSize); err != nil {
		return c.readFailed(err)
	}
	h := parseHead(b)
	api := lookup(h.key)
	if api == nil {
		c.refuse(reasonKey, fmt.Errorf("%w: key %d, version %d", ErrUnsupported, h.key, h.version))
		return false
	}
	known := api.min <= h.version && h.version <= api.max
	if !known && h.key != keyApiVersions {
		c.refuse(reasonVersion, fmt.Errorf("%w: key %d, version %d", ErrUnsupported, h.key, h.version))
		return false
	}
	if !c.await(func() bool { return c.takeTurn(h.key) }) {
		return false
	}
	p := &pending{c: c, api: api, version: h.version}
	if !c.readBody(p, h) {
		p.drop()
		return false
	}
	if !known {
		return c.refuseApiVersions(p)
	}
	req, err := c.decode(p)
	if err != nil {
		p.drop()
		c.refuse(reasonMalformed, err)
		return false
	}
	if !smallReply[h.key] && c.srv.excess() > 0 && !c.wait(c.awaitRelief) {
		p.drop()
		return false
	}
	c.enqueue(p)
	c.srv.handler.Serve(c.ctx, req, p.complete)
	if waits(h.key) {
		p.served()
	}
	if h.key == keyFetch && c.takeOver(p) {
		c.write()
	}
	return true
}

// takeOver says whether the reader shall be the writer: p, a Fetch, is
// answered, and the reply is to be sent. To start a writer for it would take
// longer than much of what it does, and nothing is served beside it anyway.
func (c *conn) takeOver(p *pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = nil
	ok := c.first == p && p.answered && !c.writing && !c.gone
	if ok {
		c.writing, c.moved = true, time.Now()
	}
	return ok
}

// waits says whether requests of a key may wait for long, for records or for
// other members of a group. They give back their share of the budget when
// Serve returns, or else those that wait could keep out what they wait for.
// Fetch remains among what is held; of JoinGroup and SyncGroup, package group
// bounds what they hold from there on: a large group's last member must not
// be kept out by its first.
func waits(key int16) bool { return key == keyFetch || joins(key) }

func joins(key int16) bool { return key == keyJoinGroup || key == keySyncGroup }

// charge is what a frame needs of the budget.
func (h head) charge() int64 {
	small := smallFrame
	switch {
	case h.key == keyProduce:
		return int64(h.length)
	case waits(h.key):
		small = smallPoll
	}
	if h.length <= small {
		return 0
	}
	return decodedCharge * int64(h.length)
}

// readBody reads a whole frame into a slab of p. Until it has its share of
// the budget, or when it needs none, the slab grows with what has come.
func (c *conn) readBody(p *pending, h head) bool {
	c.in.skip(lengthSize)
	charge, start := h.charge(), time.Now()
	for have := 0; have < h.length; have = len(p.slab.buf) {
		size := min(h.length, max(readBuffer, shownShare*have))
		if charge > 0 && p.charge == 0 && !p.claim(charge, false) && size == h.length {
			if !c.wait(func() bool { return p.claim(charge, true) }) {
				return false
			}
			start = time.Now()
		}
		if p.charge > 0 {
			size = h.length
		}
		if !c.hold(p, size) {
			return false
		}
		p.grow(size)
		if err := c.receive(p, have, start, h.length); err != nil {
			return c.readFailed(err)
		}
	}
	mRequestBytes.Add(lengthSize + h.length)
	return true
}

// receive fills p's slab, of which it has the beginning, with more of a frame
// of the length. The time for it began at start.
func (c *conn) receive(p *pending, have int, start time.Time, length int) error {
	end := start.Add(frameTimeout + time.Duration(length)*time.Second/minFrameRate)
	for have += c.in.take(p.slab.buf[have:]); have < len(p.slab.buf); {
		t := end
		if p.charge > 0 {
			t = time.Now().Add(frameCheck)
		}
		if !c.readDeadline(t) {
			return os.ErrDeadlineExceeded
		}
		n, err := io.ReadFull(c.nc, p.slab.buf[have:])
		have += n
		contendedEnd := start.Add(contendedTimeout + time.Duration(have)*time.Second/contendedRate)
		switch now := time.Now(); {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded), c.isDraining(), !now.Before(end):
			return err
		case p.charge > 0 && !now.Before(contendedEnd) && c.srv.inflightContended():
			return err
		}
	}
	return nil
}

func (c *conn) decode(p *pending) (*Request, error) {
	hdr, body, err := parseHeader(p.slab.buf, p.version >= p.api.flexible)
	if err != nil {
		return nil, err
	}
	p.correlationID = hdr.correlationID
	req, err := DecodeRequest(hdr.key, hdr.version, body)
	if err != nil {
		return nil, err
	}
	if av, ok := req.(*kmsg.ApiVersionsRequest); ok {
		c.setSoftware(av)
	}
	return &Request{Client: c.client, ClientID: hdr.clientID, CorrelationID: hdr.correlationID, Body: req, conn: c}, nil
}

var softwarePattern = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?$`)

// ValidSoftwareName says whether s may be a client's software name or version
// in ApiVersions; others are answered with INVALID_REQUEST (KIP-511).
func ValidSoftwareName(s string) bool { return softwarePattern.MatchString(s) }

// setSoftware notes what the client says it is. Requests that are in flight
// keep the Client they came with.
func (c *conn) setSoftware(req *kmsg.ApiVersionsRequest) {
	if ValidSoftwareName(req.ClientSoftwareName) && ValidSoftwareName(req.ClientSoftwareVersion) {
		cl := *c.client
		cl.SoftwareName, cl.SoftwareVersion = req.ClientSoftwareName, req.ClientSoftwareVersion
		c.client = &cl
	}
}

// refuseApiVersions answers an ApiVersions request of an unknown version, of
// which only the header can be read, as that of the nearest version.
func (c *conn) refuseApiVersions(p *pending) bool {
	hdr, _, err := parseHeader(p.slab.buf, p.version >= p.api.flexible)
	if err != nil {
		p.drop()
		c.refuse(reasonMalformed, err)
		return false
	}
	p.correlationID, p.version = hdr.correlationID, 0
	c.enqueue(p)
	p.complete(Reply{Body: UnsupportedApiVersionsReply()})
	return true
}

// enqueue gives p its place in the order of replies.
func (c *conn) enqueue(p *pending) {
	p.started = time.Now()
	p.queued = int64(len(p.slab.buf))
	mInflight.Inc()
	perKey[byKey[p.api.key]].requests.Inc()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == nil {
		c.first = p
	} else {
		c.last.next = p
	}
	c.last = p
	if p.api.key == keyFetch {
		c.serving = p
	}
	c.inflight++
	c.unanswered++
	c.alone = p.api.key != keyProduce
	c.queued += p.queued
}

// write sends replies in the order of their requests as long as the first has
// come.
func (c *conn) write() {
	for {
		c.mu.Lock()
		p := c.first
		more := p != nil && p.answered && !c.gone
		if !more && (c.gone || c.out.buf == nil) {
			c.writing = false
			c.out.discard()
			c.mu.Unlock()
			kick(c.change)
			return
		}
		c.mu.Unlock()
		if !more {
			if err := c.out.flush(); err != nil {
				c.writeFailed(err)
			}
			continue
		}
		if c.send(p) {
			c.sent(p)
		}
	}
}

// sent takes p, the first, off the queue.
func (c *conn) sent(p *pending) {
	c.mu.Lock()
	if c.first = p.next; c.first == nil {
		c.last = nil
	}
	p.next = nil
	c.inflight--
	c.queued -= p.queued
	p.hold(0)
	c.used = time.Now()
	c.mu.Unlock()
	kick(c.change)
}

// send sends p's reply, which may stay in the buffer until the next flush. On
// false the connection has failed and p is still in the queue.
func (c *conn) send(p *pending) bool {
	r := &p.reply
	err := p.err
	switch {
	case err != nil:
	case r.Fetch != nil:
		err = c.out.fetch(p.correlationID, r.Fetch)
	case p.encoded != nil:
		err = c.out.gather(p.encoded)
	}
	if err == nil && r.Close {
		err = c.out.flush()
	}
	if err != nil {
		c.writeFailed(fmt.Errorf("reply to %s: %w", p.api.name, err))
		return false
	}
	r.release()
	if r.Close {
		c.closeAfterReply(r.Reason)
	}
	return true
}

// closeAfterReply ends the connection such that the reply just sent arrives:
// closing with requests unread would reset the connection, and the peer's
// kernel might then drop what it has not handed over yet.
func (c *conn) closeAfterReply(reason string) {
	c.drain()
	if tcp, ok := c.nc.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		c.nc.SetReadDeadline(time.Now().Add(closeLinger))
		_, _ = io.CopyN(io.Discard, c.nc, maxQueued)
	}
	c.fail(reasonHandler, errors.New(reason))
}

func (c *conn) writeFailed(err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.fail(reasonSlowReader, err)
	case errors.Is(err, errShortFile):
		c.fail(reasonShortFile, err)
	case errors.Is(err, errReadFile):
		c.fail(reasonReadFile, err)
	case errors.Is(err, errReplyTooLarge):
		c.fail(reasonReply, err)
	case errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		c.fail(reasonReset, err)
	default:
		c.fail(reasonWrite, err)
	}
}
