// Package slow makes a server on loopback answer like one far away: a proxy
// that holds back the first byte of each response and bounds the rate of each
// connection, as an object store of a cloud does.
package slow

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy forwards connections to a server whose protocol is request and
// response in turn, such as HTTP/1.1 without pipelining.
type Proxy struct {
	target    string
	firstByte time.Duration
	rate      int64
	ln        net.Listener
	wg        sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

// Listen starts a proxy on a free port of loopback. firstByte is the least
// time from the last byte of a request to the first of its response; rate is
// bytes a second in each direction of each connection.
func Listen(target string, firstByte time.Duration, rate int64) (*Proxy, error) {
	if rate < 1 || firstByte < 0 {
		return nil, errors.New("a proxy needs a rate, and a delay that is not negative")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, firstByte: firstByte, rate: rate, ln: ln, conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens, HOST:PORT.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Close ends the proxy and all its connections.
func (p *Proxy) Close() {
	p.ln.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return // closed
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

// keep notes a connection so that Close ends it; false: it is too late.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.conns[c] = struct{}{}
	}
	return !p.closed
}

func (p *Proxy) drop(c net.Conn) {
	c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	if !p.keep(client) {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer p.drop(server)
	if !p.keep(server) {
		return
	}
	var asked atomic.Int64 // Unix nanoseconds when the last bytes of a request were passed on
	var g sync.WaitGroup
	g.Go(func() {
		p.pass(server, client, func() { asked.Store(time.Now().UnixNano()) })
		_ = server.(*net.TCPConn).CloseWrite() // it may be gone
	})
	var answered int64
	p.pass(client, server, func() {
		if at := asked.Load(); at != answered {
			answered = at
			time.Sleep(time.Until(time.Unix(0, at).Add(p.firstByte)))
		}
	})
	// What the server does not answer any more need not be asked.
	client.Close()
	server.Close()
	g.Wait()
}

// burst is how far a connection that was slower than its rate may catch up.
const burst = 5 * time.Millisecond

// pass copies at the rate and calls before for each piece that it passes on.
func (p *Proxy) pass(to io.Writer, from io.Reader, before func()) {
	buf := make([]byte, 256<<10)
	var due time.Time
	for {
		n, err := from.Read(buf)
		if n > 0 {
			before()
			if least := time.Now().Add(-burst); due.Before(least) {
				due = least
			}
			due = due.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
			time.Sleep(time.Until(due))
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
