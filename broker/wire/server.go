package wire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"golang.org/x/time/rate"
)

// Deps is what a Server works with. Log may be nil for slog's default.
type Deps struct {
	Log     *slog.Logger
	Handler Handler
}

// Server accepts connections, reads their requests and sends the replies. One
// goroutine reads a connection; another writes while there is something to be
// sent. Nothing is shared between connections but the limits of Config, so
// that none can hold up another.
type Server struct {
	config      atomic.Pointer[Config]
	log         *slog.Logger
	handler     Handler
	budget      budget       // of MaxInflightBytes
	largeBudget budget       // of half of it, for frames over largeFrame
	held        atomic.Int64 // bytes outside of the budgets, see held.go
	limit       logLimit
	lastID      atomic.Uint64
	ctx         context.Context // of all connections
	cancel      context.CancelFunc
	running     sync.WaitGroup // connections
	pace        *rate.Limiter  // of MaxConnectionRate
	closed      chan struct{}  // by Close
	room        chan struct{}  // a connection ended, or more are allowed

	mu        sync.Mutex // guards what follows; not held across I/O
	closing   bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	perIP     map[netip.Addr]int
	relieved  chan struct{} // see relief; nil: held is within its limit
}

// NewServer makes a server that Serve starts.
func NewServer(cfg Config, deps Deps) *Server {
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	s := &Server{
		log:       deps.Log,
		handler:   deps.Handler,
		pace:      rate.NewLimiter(rate.Inf, 1),
		closed:    make(chan struct{}),
		room:      make(chan struct{}, 1),
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
		perIP:     make(map[netip.Addr]int),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.SetConfig(cfg)
	return s
}

// SetConfig changes the limits of a server, running or not. Connections over
// MaxConnections are closed, those first that have been idle for the longest
// time; those over the limit of their address stay. IdleTimeout counts from a
// connection's next request on, SendBuffer for new connections.
func (s *Server) SetConfig(cfg Config) {
	cfg = cfg.withDefaults()
	s.config.Store(&cfg)
	s.budget.resize(cfg.MaxInflightBytes)
	s.largeBudget.resize(cfg.MaxInflightBytes / 2)
	if n := cfg.MaxConnectionRate; n > 0 {
		s.pace.SetLimit(rate.Limit(n))
		s.pace.SetBurst(n)
	} else {
		s.pace.SetLimit(rate.Inf)
	}
	s.closeExcess(cfg.MaxConnections)
	kick(s.room)
}

// closeExcess closes the connections over limit.
func (s *Server) closeExcess(limit int) {
	type used struct {
		c    *conn
		last time.Time
	}
	s.mu.Lock()
	over := len(s.conns) - limit
	var all []used
	if over > 0 {
		for c := range s.conns {
			all = append(all, used{c: c})
		}
	}
	s.mu.Unlock()
	for i := range all {
		all[i].last = all[i].c.lastUsed()
	}
	slices.SortFunc(all, func(a, b used) int { return cmp.Compare(a.last.UnixNano(), b.last.UnixNano()) })
	for i := range all[:min(max(over, 0), len(all))] {
		all[i].c.fail(reasonConnections, fmt.Errorf("more than max.connections=%d are open", limit))
	}
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
	gauge := metrics.GetOrCreateGauge(fmt.Sprintf(`firn_wire_connections{listener=%q}`, ln.Addr()), nil)
	var pause time.Duration
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
			mAccepted.Inc()
			s.admit(nc, gauge)
		case s.isClosing():
			return nil
		case passing(err):
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.warn("cannot accept a connection", "err", err, "retry_in", pause)
			select {
			case <-time.After(pause):
			case <-s.closed:
				return nil
			}
		default:
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		}
	}
}

// warn writes a line that peers can cause, of which there are not many.
func (s *Server) warn(msg string, args ...any) {
	ok, n := s.limit.allow(time.Now())
	if !ok {
		return
	}
	if n > 0 {
		args = append(args, "lines_left_out", n)
	}
	s.log.Warn(msg, args...)
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

// admit starts a connection once the limits allow it. Until then nothing else
// is accepted, and peers wait in the kernel's backlog: as with Kafka, a full
// broker does not answer a connect with a reset, which would only make
// clients come again at once.
func (s *Server) admit(nc net.Conn, gauge *metrics.Gauge) {
	if !s.awaitPace() {
		nc.Close()
		return
	}
	c := newConn(s, s.lastID.Add(1), nc)
	delayed := time.Time{}
	for {
		ok, full := s.start(c, gauge)
		if ok || !full {
			break
		}
		if delayed.IsZero() {
			delayed = time.Now()
			mDelayed[delayFull].Inc()
			s.warn("connections wait to be accepted: max.connections is reached", "max.connections", s.config.Load().MaxConnections, "peer", nc.RemoteAddr())
		}
		select {
		case <-s.room:
		case <-s.closed:
		}
	}
	if !delayed.IsZero() {
		mDelayedSeconds[delayFull].Add(time.Since(delayed).Seconds())
	}
}

// awaitPace waits as MaxConnectionRate wants; false when the server closes.
func (s *Server) awaitPace() bool {
	d := s.pace.Reserve().Delay()
	if d <= 0 {
		return true
	}
	mDelayed[delayRate].Inc()
	mDelayedSeconds[delayRate].Add(d.Seconds())
	s.warn("connections wait to be accepted: max.connection.creation.rate is reached", "max.connection.creation.rate", s.config.Load().MaxConnectionRate)
	select {
	case <-time.After(d):
		return true
	case <-s.closed:
		return false
	}
}

// start takes over a connection and says whether it did, or else whether
// there are too many of all; what is refused otherwise is closed.
func (s *Server) start(c *conn, gauge *metrics.Gauge) (ok, full bool) {
	cfg := s.config.Load()
	addr := addrOf(c.client.Remote)
	limit := cfg.perIP(addr)
	s.mu.Lock()
	closing := s.closing
	full = !closing && len(s.conns) >= cfg.MaxConnections
	over := !full && !closing && limit >= 0 && s.perIP[addr] >= limit
	ok = !full && !closing && !over
	if ok {
		s.conns[c] = struct{}{}
		s.perIP[addr]++
		s.running.Add(1)
		if len(s.conns) < cfg.MaxConnections {
			kick(s.room) // for another listener
		}
	}
	s.mu.Unlock()
	switch {
	case over:
		c.fail(reasonPerIP, fmt.Errorf("%d connections from this address are open, as many as max.connections.per.ip or its overrides allow", limit))
	case closing:
		c.abort()
	case ok:
		gauge.Inc()
		go func() {
			defer s.running.Done()
			c.run()
			gauge.Dec()
			s.remove(c, addr)
		}()
	}
	return ok, full
}

func (s *Server) remove(c *conn, addr netip.Addr) {
	s.mu.Lock()
	delete(s.conns, c)
	if s.perIP[addr]--; s.perIP[addr] == 0 {
		delete(s.perIP, addr)
	}
	s.mu.Unlock()
	kick(s.room)
}

// closeGrace is how long Close waits for handlers to notice that their
// context has ended.
const closeGrace = 2 * time.Second

// Close stops accepting and reading, lets replies in flight be made and sent
// until ctx ends, then closes all connections. It returns ctx's error when
// some replies were cut off.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	if !s.closing {
		s.closing = true
		close(s.closed)
	}
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
