package wire

import (
	"container/list"
	"context"
	"math"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Config is a Server's plain settings. Zero takes the default. In brackets:
// the name of Kafka's config with that meaning, where there is one.
type Config struct {
	MaxFrameBytes       int                // length of one request [socket.request.max.bytes]; default 100 MiB
	MaxConnections      int                // at one time [max.connections]; further ones wait to be accepted; default 10,000
	MaxConnectionsPerIP int                // at one time from one address [max.connections.per.ip]; further ones are closed; negative: none but MaxConnectionsOf; default no limit
	MaxConnectionsOf    map[netip.Addr]int // exceptions to MaxConnectionsPerIP [max.connections.per.ip.overrides]; not changed once given
	MaxConnectionRate   int                // accepted per second [max.connection.creation.rate]; further ones wait; default no limit
	MaxInflight         int                // requests of one connection whose reply is not sent yet; default 64
	MaxInflightBytes    int64              // of requests being answered, all connections together, and as much of replies that wait to be taken [queued.max.request.bytes]; negative: no limit; default 256 MiB
	SendBuffer          int                // SO_SNDBUF of new connections, bytes [socket.send.buffer.bytes]; negative: the kernel's choice; default: it follows the connection, from 200 KiB to 4 MiB
	IdleTimeout         time.Duration      // a connection on which nothing moves is closed [connections.max.idle.ms]; negative: never; default 10 min
}

func (c Config) withDefaults() Config {
	set := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&c.MaxFrameBytes, 100<<20)
	set(&c.MaxConnections, 10_000)
	set(&c.MaxInflight, 64)
	switch {
	case c.MaxInflightBytes == 0:
		c.MaxInflightBytes = 256 << 20
	case c.MaxInflightBytes < 0:
		c.MaxInflightBytes = math.MaxInt64 / 2 // sums of it do not overflow
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = 10 * time.Minute
	}
	return c
}

// perIP gives how many connections an address may have, -1 for any number.
func (c *Config) perIP(a netip.Addr) int {
	if n, ok := c.MaxConnectionsOf[a]; ok {
		return n
	}
	switch {
	case !a.IsValid() || c.MaxConnectionsPerIP == 0:
		return -1
	case c.MaxConnectionsPerIP < 0:
		return 0
	}
	return c.MaxConnectionsPerIP
}

// addrOf is the address that connections are counted by; not valid for
// connections that are not of IP.
func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// budget shares out a number of bytes, first come, first served. Its size can
// change while it is in use. A claim over the whole size is granted when
// nobody else holds any.
type budget struct {
	mu      sync.Mutex
	size    int64
	used    int64
	waiting list.List // of *claim
}

type claim struct {
	n       int64
	granted chan struct{}
}

func (b *budget) resize(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.size = n
	b.grant()
}

// try takes n bytes if half of all stays free.
func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	ok := b.waiting.Len() == 0 && b.used+n <= b.size/2
	if ok {
		b.used += n
	}
	return ok
}

// acquire waits for n bytes; ctx's error when it ends first.
func (b *budget) acquire(ctx context.Context, n int64) error {
	b.mu.Lock()
	if b.waiting.Len() == 0 && b.fits(n) {
		b.used += n
		b.mu.Unlock()
		return nil
	}
	c := &claim{n, make(chan struct{})}
	e := b.waiting.PushBack(c)
	b.mu.Unlock()
	mBudgetWaits.Inc()
	start := time.Now()
	defer func() { mBudgetWaitSeconds.Add(time.Since(start).Seconds()) }()
	select {
	case <-c.granted:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-c.granted: // just now
		b.used -= n
	default:
		b.waiting.Remove(e)
	}
	b.grant()
	return ctx.Err()
}

func (b *budget) release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.grant()
}

// contended says whether somebody waits.
func (b *budget) contended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting.Len() > 0
}

func (b *budget) fits(n int64) bool { return b.used == 0 || b.used+n <= b.size }

// grant lets in who is first in line as long as there is room; mu is held.
func (b *budget) grant() {
	for e := b.waiting.Front(); e != nil && b.fits(e.Value.(*claim).n); e = b.waiting.Front() {
		c := b.waiting.Remove(e).(*claim)
		b.used += c.n
		close(c.granted)
	}
}
