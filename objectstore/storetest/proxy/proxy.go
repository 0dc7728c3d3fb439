// Package proxy is a TCP proxy on loopback that makes a network bad on
// purpose: slow, narrow, cut off in the middle, or silent. Faults can change
// at any time and take hold of connections that are open.
package proxy

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// Faults is what the proxy does to bytes. The zero value passes them on.
type Faults struct {
	// Latency delays each run of bytes towards the client.
	Latency time.Duration
	// Rate bounds each direction of each connection, in bytes/s; 0: no bound.
	Rate int
	// ResetUp resets a connection once it has passed this many bytes towards
	// the server, ResetDown towards the client; 0: never.
	ResetUp, ResetDown int64
	// Resets is how many connections ResetUp and ResetDown cut in all, counted
	// from the last Set; 0: no end.
	Resets int
	// Blackhole takes bytes in both directions and passes none on.
	Blackhole bool
	// Refuse closes new connections at once.
	Refuse bool
}

// Proxy listens on loopback and passes connections on to one address.
type Proxy struct {
	ln     net.Listener
	target string
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // what is below
	faults  Faults
	changed chan struct{} // closed by Set
	conns   map[net.Conn]struct{}
	resets  int // since the last Set
	total   int // since New
	seen    int // connections since New
}

// New starts a proxy to target (host:port) that ends with the test.
func New(t testing.TB, target string) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{ln: ln, target: target, changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr gives the host:port to connect to.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Set changes the faults, for open connections too.
func (p *Proxy) Set(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults, p.resets = f, 0
	close(p.changed)
	p.changed = make(chan struct{})
}

// Resets says how many connections were cut since New: a test that expects
// cuts checks that there were any.
func (p *Proxy) Resets() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

// Accepted says how many connections there were since New, refused ones
// included.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// CloseAll resets every open connection.
func (p *Proxy) CloseAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
}

func (p *Proxy) close() {
	p.cancel()
	_ = p.ln.Close()
	p.CloseAll()
	p.wg.Wait()
}

func (p *Proxy) now() (Faults, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults, p.changed
}

func (p *Proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.seen++
		p.mu.Unlock()
		if f, _ := p.now(); f.Refuse {
			reset(c)
			continue
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		reset(client)
		return
	}
	defer func() { _ = server.Close() }()
	if !p.track(client, server) {
		return
	}
	defer p.untrack(client, server)
	var both sync.WaitGroup
	both.Go(func() { p.pass(server, client, func(f Faults) (int64, time.Duration) { return f.ResetUp, 0 }) })
	both.Go(func() {
		p.pass(client, server, func(f Faults) (int64, time.Duration) { return f.ResetDown, f.Latency })
	})
	both.Wait()
}

func (p *Proxy) track(cs ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cs {
		p.conns[c] = struct{}{}
	}
	return p.ctx.Err() == nil
}

func (p *Proxy) untrack(cs ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cs {
		delete(p.conns, c)
	}
}

// pass copies one direction until it ends, then ends the connection.
func (p *Proxy) pass(dst, src net.Conn, direction func(Faults) (resetAt int64, latency time.Duration)) {
	buf := make([]byte, 16<<10)
	var passed int64
	for {
		n, err := src.Read(buf)
		if n > 0 {
			f, changed := p.now()
			for f.Blackhole && p.ctx.Err() == nil { // held back, not thrown away: TCP would not lose them either
				select {
				case <-changed:
				case <-p.ctx.Done():
				}
				f, changed = p.now()
			}
			resetAt, latency := direction(f)
			if resetAt > 0 && passed+int64(n) >= resetAt && p.mayReset() {
				_, _ = dst.Write(buf[:max(0, resetAt-passed)])
				reset(dst)
				reset(src)
				return
			}
			if f.Rate > 0 {
				latency += time.Duration(n) * time.Second / time.Duration(f.Rate)
			}
			p.wait(latency)
			if _, werr := dst.Write(buf[:n]); werr != nil {
				reset(src)
				return
			}
			passed += int64(n)
		}
		if err != nil {
			if tc, ok := dst.(*net.TCPConn); ok {
				_ = tc.CloseWrite()
			}
			return
		}
	}
}

func (p *Proxy) mayReset() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults.Resets > 0 && p.resets >= p.faults.Resets {
		return false
	}
	p.resets++
	p.total++
	return true
}

func (p *Proxy) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.ctx.Done():
	}
}

// reset closes with RST: what is on its way is lost.
func reset(c net.Conn) {
	if tc, ok := c.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	_ = c.Close()
}
