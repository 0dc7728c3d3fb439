package wire

import (
	"io"
	"math"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/record"
)

// rawSockets: sockets are read and sent to below the net package.
const rawSockets = true

// readSocket reads what a socket that does not block has: again when that is
// nothing yet, io.EOF at the end of the stream.
func readSocket(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		n, err = syscall.Read(int(fd), b)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return 0, true, nil
		case err != nil:
			return 0, false, os.NewSyscallError("read", err)
		case n == 0:
			return 0, false, io.EOF
		default:
			return n, false, nil
		}
	}
}

// transfer is one system call that sends, and its outcome.
type transfer struct {
	bytes  []byte // to be sent, with more to follow; nil: of a file
	file   int
	off    int64
	n      int       // bytes of the file to send, then what was sent
	err    error     // the call's
	once   bool      // it is not to wait for room in the socket: err is EAGAIN
	waited bool      // the socket had no room at first
	fresh  time.Time // until when the file's bytes count as being in memory
	stale  bool      // they do not any more: nothing was sent
}

// cachedFor is for how long what was found in memory counts as being there
// when the peer takes its time.
var cachedFor = time.Second // shortened by tests

// try is called by the connection's poller, again whenever there is room in
// the socket. The file's offset is explicit: its own position, which every
// reader of the segment shares, is not touched.
func (t *transfer) try(fd uintptr) bool {
	if t.waited && t.bytes == nil && time.Now().After(t.fresh) {
		t.stale, t.n = true, 0
		return true
	}
	for {
		var n int
		if t.bytes != nil {
			n, t.err = unix.SendmsgN(int(fd), t.bytes, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
		} else {
			at := t.off
			n, t.err = unix.Sendfile(int(fd), t.file, &at, t.n)
		}
		switch t.err {
		case unix.EINTR:
		case unix.EAGAIN:
			if t.once {
				t.n = 0
			}
			t.waited = true
			return t.once
		default:
			t.n = n
			return true
		}
	}
}

// transfer does t once there is room in the socket. The poller does the
// waiting, so that the write deadline holds. The error is the connection's.
func (s *sender) transfer(t transfer) (transfer, error) {
	if err := s.deadline(); err != nil {
		return t, err
	}
	if s.step == nil {
		s.step = new(transfer)
		s.try = s.step.try
	}
	*s.step = t
	err := s.raw.Write(s.try)
	t = *s.step
	s.step.bytes = nil
	if err == nil && t.err == nil && t.n > 0 {
		s.sent(t.n)
	}
	return t, err
}

// sendfile sends a file's bytes from the page cache.
func (s *sender) sendfile(sp record.Span) error {
	off, end := sp.Off, sp.Off+sp.Len
	var cached int64 // up to where the file's bytes are in memory
	var fresh time.Time
	for off < end {
		n := min(end-off, sendStep)
		if off >= cached && sp.File.Cached(off, n) {
			cached, fresh = off+n, time.Now().Add(cachedFor)
		}
		var t transfer
		var err error
		if off < cached {
			t, err = s.transfer(transfer{file: int(sp.File.OS().Fd()), off: off, n: int(cached - off), fresh: fresh})
		} else {
			t, err = s.coldStep(sp.File, off, n)
		}
		switch {
		case err != nil: // the connection's: closed, deadline
			return err
		case t.stale:
			cached = off
			continue
		case t.err == unix.EAGAIN: // of coldStep
			continue
		case t.err == unix.EINVAL || t.err == unix.ENOSYS || t.err == unix.EOPNOTSUPP:
			// Not with this file system.
			return s.copyFile(record.Span{File: sp.File, Off: off, Len: end - off})
		case t.err == unix.EIO || t.err == unix.ENOMEM || t.err == unix.EOVERFLOW:
			return spanError(sp, off-sp.Off, t.err)
		case t.err != nil:
			return t.err
		case t.n <= 0:
			return spanError(sp, off-sp.Off, nil)
		}
		off += int64(t.n)
		mSendfile.Add(t.n)
	}
	return nil
}

// coldStep sends bytes that are not in memory: as many as the socket has room
// for once it has room, in one call, which waits for the disk and therefore
// for its turn. Reading ahead is the kernel's, which sees who reads in order.
func (s *sender) coldStep(file *record.File, off, n int64) (t transfer, err error) {
	if err := s.awaitRoom(); err != nil {
		return t, err
	}
	ok := record.Cold(s.stop, func() int {
		t, err = s.transfer(transfer{file: int(file.OS().Fd()), off: off, n: int(n), once: true})
		return t.n
	})
	if !ok {
		return t, net.ErrClosed
	}
	return t, err
}

// awaitRoom waits until the socket takes something.
func (s *sender) awaitRoom() error {
	if err := s.deadline(); err != nil {
		return err
	}
	return s.raw.Write(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p, 0)
		return n != 0 || err != nil && err != unix.EINTR
	})
}

// flushMore sends what has gathered, telling the kernel that more follows at
// once, so that a small head shares a packet with the records.
func (s *sender) flushMore() error {
	if s.buf == nil {
		return nil
	}
	defer s.discard()
	for b := *s.buf; len(b) > 0; {
		t, err := s.transfer(transfer{bytes: b})
		if err == nil {
			err = t.err
		}
		if err != nil {
			return err
		}
		b = b[t.n:]
	}
	return nil
}

// pathTo asks the kernel about the way to a connection's peer; the zero path
// when it cannot say.
func pathTo(tcp *net.TCPConn) (p path) {
	_ = control(tcp, func(fd int) error {
		i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return err
		}
		rtt := i.Min_rtt
		if rtt == 0 || rtt == math.MaxUint32 {
			rtt = i.Rtt
		}
		p = path{
			rtt:    time.Duration(rtt) * time.Microsecond,
			rate:   int64(min(i.Delivery_rate, math.MaxInt64)),
			window: int64(i.Snd_cwnd) * int64(i.Snd_mss),
		}
		return nil
	})
	return p
}

// resizeBuffer asks for a send buffer of n bytes and says whether it could.
// Where net.core.wmem_max does not allow as much, and the kernel is of Linux
// 5.14 or later, the kernel's own sizing is let loose again, which goes up to
// the last of net.ipv4.tcp_wmem.
func resizeBuffer(tcp *net.TCPConn, n int) bool {
	return control(tcp, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, n); err != nil {
			return err
		}
		// The kernel counts its overhead too: it takes double and says double.
		if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err == nil && got < 2*n {
			if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0) == nil {
				mSendBufferKernel.Inc()
			}
		}
		return nil
	}) == nil
}

func control(tcp *net.TCPConn, f func(fd int) error) error {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}
