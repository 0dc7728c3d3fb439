package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"
)

// Config is a Server's plain settings. A value of zero or less takes the
// default.
type Config struct {
	MaxFrameBytes    int           // length of one request, default 100 MiB
	MaxConnections   int           // at one time; more are closed at once; default 10,000
	MaxInflight      int           // requests of one connection whose reply is not sent yet, default 64
	MaxInflightBytes int64         // of requests being answered, all connections together, default 256 MiB
	SendBuffer       int           // SO_SNDBUF, in bytes, default 200 KiB
	IdleTimeout      time.Duration // without a request on its way in or in flight, default 10 min
	WriteTimeout     time.Duration // for the peer to take what is being sent (256 KiB at most), default 1 min
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
	set(&c.SendBuffer, 200<<10)
	if c.MaxInflightBytes <= 0 {
		c.MaxInflightBytes = 256 << 20
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = 10 * time.Minute
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = time.Minute
	}
	return c
}

// Deps is what a Server works with. Log may be nil for slog's default.
type Deps struct {
	Log     *slog.Logger
	Handler Handler
}

// Server accepts connections, reads their requests and sends the replies. One
// goroutine reads a connection, one writes; nothing is shared between
// connections but the two limits of Config, so that none can hold up another.
type Server struct {
	cfg     Config
	log     *slog.Logger
	handler Handler
	budget  *semaphore.Weighted // of MaxInflightBytes
	limit   logLimit
	lastID  atomic.Uint64
	ctx     context.Context // of all connections
	cancel  context.CancelFunc
	running sync.WaitGroup // connections

	mu        sync.Mutex // guards what follows; not held across I/O
	closing   bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
}

// NewServer makes a server that Serve starts.
func NewServer(cfg Config, deps Deps) *Server {
	cfg = cfg.withDefaults()
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	s := &Server{
		cfg:       cfg,
		log:       deps.Log,
		handler:   deps.Handler,
		budget:    semaphore.NewWeighted(cfg.MaxInflightBytes),
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts connections from ln until Close, and then returns nil. It
// closes ln. Serve may run for several listeners at a time. A shortage of file
// descriptors is waited out; any other error of ln is returned.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	if !s.addListener(ln) {
		return nil
	}
	defer s.removeListener(ln)
	var pause time.Duration
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
			mAccepted.Inc()
			s.start(nc)
		case s.isClosing():
			return nil
		case passing(err):
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			if ok, n := s.limit.allow(time.Now()); ok {
				s.log.Warn("cannot accept a connection", "err", err, "retry_in", pause, "lines_left_out", n)
			}
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
				return nil
			}
		default:
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		}
	}
}

// passing says whether an error of Accept may go away by itself.
func passing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (s *Server) addListener(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.listeners[ln] = struct{}{}
	return true
}

func (s *Server) removeListener(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, ln)
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// start takes over an accepted connection.
func (s *Server) start(nc net.Conn) {
	c := newConn(s, s.lastID.Add(1), nc)
	s.mu.Lock()
	full := len(s.conns) >= s.cfg.MaxConnections
	ok := !full && !s.closing
	if ok {
		s.conns[c] = struct{}{}
		s.running.Add(1)
	}
	s.mu.Unlock()
	if !ok {
		if full {
			c.fail(reasonConnections, fmt.Errorf("%d connections are open", s.cfg.MaxConnections))
		}
		c.abort()
		return
	}
	mConnections.Inc()
	go func() {
		defer s.running.Done()
		c.run()
		mConnections.Dec()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
}

// closeGrace is how long Close waits for handlers to notice that their
// context has ended.
const closeGrace = 2 * time.Second

// Close stops accepting and reading, lets replies in flight be made and sent
// until ctx ends, then closes all connections. It returns ctx's error when
// some replies were cut off.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for ln := range s.listeners {
		ln.Close()
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	defer s.cancel()
	for _, c := range conns {
		c.drain()
	}
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	for _, c := range conns {
		c.abort()
	}
	select {
	case <-done:
	case <-time.After(closeGrace):
	}
	return fmt.Errorf("close wire server: %w", ctx.Err())
}
