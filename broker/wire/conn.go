package wire

import (
	"bufio"
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
	readBuffer = 4 << 10 // small frames cost one read; the rest of a large one goes straight to its slab
	// maxHeld is how many bytes of requests and of records for replies a
	// connection may hold before its next request is read.
	maxHeld = 16 << 20
	// smallFrame is up to where a frame, other than of Produce, is not
	// counted against MaxInflightBytes: such requests may wait for long (a
	// poll, a join), for others even, and are bounded by number.
	smallFrame = 64 << 10
	// decodedCharge times its length is what a larger one counts: what it is
	// decoded to is on the heap beside it.
	decodedCharge = 4
	// A frame must be read within frameTimeout and the time it takes at
	// minFrameRate bytes per second.
	frameTimeout = time.Minute
	minFrameRate = 256 << 10
	// halfCloseGrace is for how long replies are still sent to a peer that
	// has closed its side; most such peers are gone altogether.
	halfCloseGrace = 10 * time.Second
	// closeLinger is how long a peer has to close after a reply that ends its
	// connection.
	closeLinger = time.Second
)

// conn is one connection. Its reader decodes requests, queues each as a
// pending reply and serves it; its writer takes the queue in order, waits for
// the head's reply and sends it.
type conn struct {
	srv    *Server
	nc     net.Conn
	br     *bufio.Reader
	out    sender
	client *Client // replaced, never changed; the reader's
	ctx    context.Context
	cancel context.CancelFunc
	queue  chan *pending // closed by the reader when it ends; holds MaxInflight, so that sending never blocks
	wake   chan struct{} // for the writer: some reply came
	room   chan struct{} // for the reader: less is in flight
	failed sync.Once

	mu       sync.Mutex // guards what follows
	draining bool       // no further request is read
	inflight int        // requests queued or being sent
	held     int64      // bytes of them, see maxHeld
	answered time.Time  // when the last reply was sent
}

func newConn(s *Server, id uint64, nc net.Conn) *conn {
	c := &conn{
		srv:    s,
		nc:     nc,
		br:     bufio.NewReaderSize(nc, readBuffer),
		client: &Client{ID: id, Remote: nc.RemoteAddr()},
		queue:  make(chan *pending, s.cfg.MaxInflight),
		wake:   make(chan struct{}, 1),
		room:   make(chan struct{}, 1),
	}
	c.out = newSender(nc, s.cfg)
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	return c
}

// run serves the connection until it is closed, by either side.
func (c *conn) run() {
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()
	halfClosed := c.read()
	close(c.queue)
	if halfClosed {
		t := time.AfterFunc(halfCloseGrace, c.abort)
		defer t.Stop()
	}
	<-written
	c.abort()
}

// abort closes the connection; reader and writer notice.
func (c *conn) abort() {
	c.cancel()
	c.nc.Close()
}

// drain makes the reader stop; the writer sends what is in flight and ends.
func (c *conn) drain() {
	c.mu.Lock()
	c.draining = true
	c.nc.SetReadDeadline(time.Unix(1, 0)) // past: wakes a blocked read
	c.mu.Unlock()
	kick(c.room)
}

// fail closes the connection for a reason, which is counted and logged, the
// first one only.
func (c *conn) fail(reason string, err error) {
	c.failed.Do(func() {
		if c.ctx.Err() == nil { // not while the server closes
			countError(reason)
			if reason == reasonReset {
				c.srv.log.Debug("connection reset", "peer", c.nc.RemoteAddr(), "err", err)
			} else if ok, n := c.srv.limit.allow(time.Now()); ok {
				args := []any{"peer", c.nc.RemoteAddr(), "reason", reason, "err", err}
				if n > 0 {
					args = append(args, "lines_left_out", n)
				}
				c.srv.log.Warn("connection closed", args...)
			}
		}
	})
	c.abort()
}

func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// hold counts requests and bytes in flight.
func (c *conn) hold(requests int, bytes int64) {
	c.mu.Lock()
	c.inflight += requests
	c.held += bytes
	if requests < 0 {
		c.answered = time.Now()
	}
	c.mu.Unlock()
	if requests < 0 || bytes < 0 {
		kick(c.room)
	}
}

// waitRoom waits until one more request may be read.
func (c *conn) waitRoom() bool {
	for {
		c.mu.Lock()
		stop := c.draining
		ok := c.inflight == 0 || c.inflight < c.srv.cfg.MaxInflight && c.held < maxHeld
		c.mu.Unlock()
		switch {
		case stop:
			return false
		case ok:
			return true
		}
		select {
		case <-c.room:
		case <-c.ctx.Done():
			return false
		}
	}
}

// readDeadline gives the next reads so much time; false when the reader shall
// stop.
func (c *conn) readDeadline(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return false
	}
	c.nc.SetReadDeadline(time.Now().Add(d))
	return true
}

// idleFor gives how long nothing has been in flight, 0 when something is.
func (c *conn) idleFor(waited time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inflight > 0 {
		return 0
	}
	return min(waited, time.Since(c.answered))
}

// read serves requests until the peer closes its side, in which case it
// returns true, or until anything else ends the connection.
func (c *conn) read() (halfClosed bool) {
	for c.waitRoom() {
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
	start, wait := time.Now(), c.srv.cfg.IdleTimeout
	for {
		if !c.readDeadline(wait) {
			return false, false
		}
		_, err := c.br.Peek(1)
		switch {
		case err == nil:
			return true, false
		case errors.Is(err, io.EOF):
			return false, true
		case errors.Is(err, os.ErrDeadlineExceeded):
			if c.isDraining() {
				return false, false
			}
			idle := c.idleFor(time.Since(start))
			if wait = c.srv.cfg.IdleTimeout - idle; wait <= 0 {
				mIdle.Inc()
				c.srv.log.Debug("connection idle, closed", "peer", c.client.Remote)
				c.abort()
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
	if !c.readDeadline(frameTimeout) {
		return false
	}
	b, err := c.br.Peek(lengthSize)
	if err != nil {
		return c.readFailed(err)
	}
	n := int(int32(binary.BigEndian.Uint32(b)))
	if n < minVersionedFrame || n > c.srv.cfg.MaxFrameBytes {
		c.fail(reasonFrameSize, fmt.Errorf("%w: length is %d, allowed are %d to %d", ErrMalformed, n, minVersionedFrame, c.srv.cfg.MaxFrameBytes))
		return false
	}
	if b, err = c.br.Peek(headSize); err != nil {
		return c.readFailed(err)
	}
	h := parseHead(b)
	api := lookup(h.key)
	if h.key == keyApiVersions && (h.version < api.min || h.version > api.max) {
		return c.refuseApiVersions(h)
	}
	if api == nil || h.version < api.min || h.version > api.max {
		c.fail(reasonUnsupported, fmt.Errorf("%w: key %d, version %d", ErrUnsupported, h.key, h.version))
		return false
	}
	if h.length < minFrame {
		c.fail(reasonFrameSize, fmt.Errorf("%w: length is %d", ErrMalformed, h.length))
		return false
	}
	p := &pending{c: c, api: api, version: h.version}
	if !c.readBody(p, h) {
		p.free()
		return false
	}
	req, err := c.decode(p)
	if err != nil {
		p.free()
		c.fail(reasonMalformed, err)
		return false
	}
	c.enqueue(p)
	c.srv.handler.Serve(c.ctx, req, p.complete)
	return true
}

// readBody reads a whole frame into a slab of p, once there is room for it
// among all requests in flight.
func (c *conn) readBody(p *pending, h head) bool {
	if h.key == keyProduce {
		p.charge = int64(h.length)
	} else if h.length > smallFrame {
		p.charge = decodedCharge * int64(h.length)
	}
	p.charge = min(p.charge, c.srv.cfg.MaxInflightBytes)
	if p.charge > 0 {
		if c.srv.budget.Acquire(c.ctx, p.charge) != nil {
			p.charge = 0
			return false
		}
	}
	if !c.readDeadline(frameTimeout + time.Duration(h.length)*time.Second/minFrameRate) {
		return false
	}
	if _, err := c.br.Discard(lengthSize); err != nil {
		return c.readFailed(err)
	}
	p.slab = newSlab(h.length, h.key == keyProduce)
	mInflightBytes.Add(float64(h.length))
	if _, err := io.ReadFull(c.br, p.slab.buf); err != nil {
		return c.readFailed(err)
	}
	mRequestBytes.Add(lengthSize + h.length)
	return true
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
	return &Request{Client: c.client, ClientID: hdr.clientID, CorrelationID: hdr.correlationID, Body: req}, nil
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
// which only the correlation id can be read.
func (c *conn) refuseApiVersions(h head) bool {
	if h.length > smallFrame {
		c.fail(reasonFrameSize, fmt.Errorf("%w: ApiVersions version %d of %d bytes", ErrMalformed, h.version, h.length))
		return false
	}
	p := &pending{c: c, api: lookup(keyApiVersions)} // its reply is of version 0
	if !c.readBody(p, h) {
		p.free()
		return false
	}
	p.correlationID = int32(binary.BigEndian.Uint32(p.slab.buf[4:]))
	c.enqueue(p)
	p.complete(Reply{Body: UnsupportedApiVersionsReply()})
	return true
}

// enqueue gives p its place in the order of replies.
func (c *conn) enqueue(p *pending) {
	p.started = time.Now()
	p.held = int64(len(p.slab.buf))
	c.hold(1, p.held)
	mInflight.Inc()
	perKey[byKey[p.api.key]].requests.Inc()
	c.queue <- p
}

// write sends replies in the order of their requests until the reader has
// ended and the queue is empty, or until the connection fails.
func (c *conn) write() {
	defer c.out.discard()
	for {
		var p *pending
		var open bool
		select {
		case p, open = <-c.queue:
		default:
			if err := c.out.flush(); err != nil {
				c.writeFailed(err)
			}
			p, open = <-c.queue
		}
		if !open {
			if err := c.out.flush(); err != nil {
				c.writeFailed(err)
			}
			return
		}
		if !c.awaitReply(p) || !c.send(p) {
			c.abandon(p)
			for p := range c.queue {
				c.abandon(p)
			}
			return
		}
		c.hold(-1, -p.held)
	}
}

// awaitReply waits for p's reply; what was encoded before is sent first.
func (c *conn) awaitReply(p *pending) bool {
	if c.ctx.Err() != nil {
		return false
	}
	for !p.isAnswered() {
		if err := c.out.flush(); err != nil {
			c.writeFailed(err)
			return false
		}
		select {
		case <-c.wake:
		case <-c.ctx.Done():
			return false
		}
	}
	return true
}

// send encodes and sends p's reply, which may stay in the buffer until the
// next flush. On false the connection has failed and p's spans are still
// held.
func (c *conn) send(p *pending) bool {
	r := &p.reply
	var err error
	switch {
	case r.Fetch != nil:
		err = c.out.fetch(p.correlationID, r.Fetch)
	case r.Body != nil:
		err = c.out.reply(p.correlationID, r.Body)
	}
	if err == nil && r.Close {
		err = c.out.flush()
	}
	if err != nil {
		c.writeFailed(fmt.Errorf("reply to %s: %w", p.api.name, err))
		return false
	}
	if r.Fetch != nil {
		r.Fetch.release()
	}
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
		_, _ = io.CopyN(io.Discard, c.nc, maxHeld)
	}
	c.fail(reasonHandler, errors.New(reason))
}

// abandon gives up a reply that cannot be sent, whether it came already or
// is still to come.
func (c *conn) abandon(p *pending) {
	p.abandon()
	c.hold(-1, -p.held)
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
