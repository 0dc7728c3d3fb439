package wire

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
)

// Config is a Server's plain settings. Zero values take the defaults.
type Config struct {
	MaxFrameBytes    int           // of one request, 100 MiB
	MaxConnections   int           // at one time, 10,000
	MaxInflight      int           // requests of one connection that wait for their reply, 64
	MaxInflightBytes int64         // of requests of all connections, 256 MiB
	SendBuffer       int           // SO_SNDBUF in bytes, 200 KiB
	IdleTimeout      time.Duration // without a request in flight, 10 min
	WriteTimeout     time.Duration // without the peer taking a byte, 1 min
}

// Deps is what a Server works with.
type Deps struct {
	Log     *slog.Logger
	Handler Handler
}

// Server accepts connections and answers their requests.
type Server struct {
	cfg  Config
	deps Deps
}

// NewServer makes a server.
func NewServer(cfg Config, deps Deps) *Server { return &Server{cfg: cfg, deps: deps} }

// Serve accepts connections until Close.
func (s *Server) Serve(ln net.Listener) error { return errors.ErrUnsupported }

// Close stops the server.
func (s *Server) Close(ctx context.Context) error { return nil }
