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

// sendfile sends a file's bytes from the page cache. The offset is explicit:
// the file's own position, which every reader of the segment shares, is not
// touched. The connection's poller does the waiting, so that the write
// deadline holds.
func (s *sender) sendfile(sp record.Span) error {
	file := int(sp.File.OS().Fd())
	off, end := sp.Off, sp.Off+sp.Len
	for off < end {
		if err := s.deadline(); err != nil {
			return err
		}
		var n int
		var sendErr error
		err := s.raw.Write(func(fd uintptr) bool {
			for {
				at := off
				n, sendErr = unix.Sendfile(int(fd), file, &at, int(min(end-off, sendStep)))
				if sendErr != unix.EINTR {
					return sendErr != unix.EAGAIN
				}
			}
		})
		switch {
		case err != nil: // the connection's: closed, deadline
			return err
		case sendErr == unix.EINVAL || sendErr == unix.ENOSYS || sendErr == unix.EOPNOTSUPP:
			// Not with this file system.
			return s.copyFile(record.Span{File: sp.File, Off: off, Len: end - off})
		case sendErr == unix.EIO || sendErr == unix.ENOMEM || sendErr == unix.EOVERFLOW:
			return spanError(sp, off-sp.Off, sendErr)
		case sendErr != nil:
			return sendErr
		case n <= 0:
			return spanError(sp, off-sp.Off, nil)
		}
		off += int64(n)
		mSendfile.Add(n)
		s.sent(n)
	}
	return nil
}

// flushMore sends what has gathered, telling the kernel that more follows at
// once, so that a small head shares a packet with the records.
func (s *sender) flushMore() error {
	if s.buf == nil {
		return nil
	}
	defer s.discard()
	for b := *s.buf; len(b) > 0; {
		if err := s.deadline(); err != nil {
			return err
		}
		var n int
		var sendErr error
		err := s.raw.Write(func(fd uintptr) bool {
			for {
				n, sendErr = unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
				if sendErr != unix.EINTR {
					return sendErr != unix.EAGAIN
				}
			}
		})
		if err == nil {
			err = sendErr
		}
		if err != nil {
			return err
		}
		s.sent(n)
		b = b[n:]
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
