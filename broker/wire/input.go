package wire

import (
	"net"
	"sync"
	"syscall"
)

// readBuffer is the size of the buffers that connections are read through: a
// small frame costs one read, the rest of a large one goes straight to its
// slab.
const readBuffer = 4 << 10

var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

// input reads a connection through a buffer that it holds only while bytes
// are in it: an idle socket holds none.
type input struct {
	nc   net.Conn
	raw  syscall.RawConn       // nil: not a socket, the buffer is held while waiting
	try  func(fd uintptr) bool // in.receive, made once
	buf  *[readBuffer]byte     // nil when empty
	r, w int                   // what is buffered
	err  error                 // of receive
}

func newInput(nc net.Conn, raw syscall.RawConn) *input {
	in := &input{nc: nc, raw: raw}
	in.try = in.receive
	return in
}

// peek waits until n bytes, at most readBuffer, are buffered, and gives them.
// What is there stays there when it fails.
func (in *input) peek(n int) ([]byte, error) {
	for in.w-in.r < n {
		if err := in.fill(); err != nil {
			return nil, err
		}
	}
	return in.buf[in.r : in.r+n], nil
}

// take moves up to len(p) buffered bytes to p.
func (in *input) take(p []byte) int {
	if in.buf == nil {
		return 0
	}
	n := copy(p, in.buf[in.r:in.w])
	in.skip(n)
	return n
}

// skip drops n of the bytes that are buffered.
func (in *input) skip(n int) {
	if in.r += n; in.r == in.w {
		in.drop()
	}
}

// drop gives the buffer back.
func (in *input) drop() {
	if in.buf != nil {
		readBuffers.Put(in.buf)
	}
	in.buf, in.r, in.w = nil, 0, 0
}

// fill waits for one more byte at least.
func (in *input) fill() error {
	if in.r > 0 {
		in.w = copy(in.buf[:], in.buf[in.r:in.w])
		in.r = 0
	}
	if in.raw != nil {
		if err := in.raw.Read(in.try); err != nil {
			return err
		}
		return in.err
	}
	if in.buf == nil {
		in.buf = readBuffers.Get().(*[readBuffer]byte)
	}
	n, err := in.nc.Read(in.buf[in.w:])
	in.w += n
	if n > 0 {
		return nil
	}
	return err
}

// receive reads what the socket has; false when that is nothing. While it is
// waited for, an empty buffer is not held.
func (in *input) receive(fd uintptr) bool {
	if in.buf == nil {
		in.buf = readBuffers.Get().(*[readBuffer]byte)
	}
	n, again, err := readSocket(fd, in.buf[in.w:])
	in.w += n
	in.err = err
	if in.w == 0 {
		in.drop()
	}
	return !again
}
