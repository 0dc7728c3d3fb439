package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
)

type options struct {
	dir    string
	copy   bool
	sndbuf int
}

type server struct {
	options
	addr    *net.TCPAddr
	journal *journal

	mu     sync.RWMutex
	topics map[string][]*partition
}

func newServer(o options) (*server, error) {
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return nil, err
	}
	return &server{options: o, journal: &journal{kick: make(chan struct{}, 1)}, topics: map[string][]*partition{}}, nil
}

// serve answers connections until ln is closed.
func (s *server) serve(ln net.Listener) error {
	s.addr = ln.Addr().(*net.TCPAddr)
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := s.converse(c.(*net.TCPConn)); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				fmt.Fprintln(os.Stderr, "ideal:", err)
			}
		}()
	}
}

// conn is one connection. Its goroutine reads, works and answers, except for
// answers that wait for the disk: those go through synced.
type conn struct {
	net.Conn
	s      *server
	raw    syscall.RawConn
	out    []byte
	buf    []byte
	synced chan []byte // once it is needed
	done   chan struct{}
	reads  []read
	wake   chan struct{}
}

func (s *server) converse(tcp *net.TCPConn) error {
	if s.sndbuf > 0 {
		if err := tcp.SetWriteBuffer(s.sndbuf); err != nil {
			return err
		}
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	c := &conn{Conn: tcp, s: s, raw: raw, wake: make(chan struct{}, 1), done: make(chan struct{})}
	defer close(c.done)
	frame := make([]byte, 64<<10)
	var length [4]byte
	if _, err := io.ReadFull(tcp, length[:]); err != nil {
		return err
	}
	for {
		n := int(binary.BigEndian.Uint32(length[:]))
		frame = slices.Grow(frame[:0], n+4)[:n+4]
		// The length of the frame that follows comes with the same read.
		got, err := io.ReadAtLeast(tcp, frame, n)
		if err != nil {
			return err
		}
		have := copy(length[:], frame[n:got])
		if err := c.handle(frame[:n]); err != nil {
			return err
		}
		if _, err := io.ReadFull(tcp, length[have:]); err != nil {
			return err
		}
	}
}

func (c *conn) handle(b []byte) error {
	r := reader{b: b}
	key, version, correlation := r.int16(), r.int16(), r.int32()
	r.string()
	switch {
	case key == 0 && version == 8:
		return c.produce(&r, correlation)
	case key == 1 && version == 11:
		return c.fetch(&r, correlation)
	default:
		return c.control(key, version, correlation, r.b)
	}
}

// respond completes and sends an answer whose first four bytes are free for
// its size.
func (c *conn) respond(b []byte) error {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	_, err := c.Write(b)
	return err
}

// reader takes a request apart; it trusts it.
type reader struct{ b []byte }

func (r *reader) bytes(n int) []byte {
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) int16() int16 { return int16(binary.BigEndian.Uint16(r.bytes(2))) }
func (r *reader) int32() int32 { return int32(binary.BigEndian.Uint32(r.bytes(4))) }
func (r *reader) int64() int64 { return int64(binary.BigEndian.Uint64(r.bytes(8))) }

// string reads a string that may be null, which is then empty.
func (r *reader) string() []byte { return r.bytes(max(int(r.int16()), 0)) }
