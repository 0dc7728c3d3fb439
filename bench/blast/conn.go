package blast

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"
)

const clientID = "blast"

// conn is a connection to a broker with a reader that can leave bytes to the
// kernel. One goroutine reads, one writes.
type conn struct {
	net.Conn
	raw  syscall.RawConn
	buf  []byte // [r, w) is read and not yet used
	r, w int
}

func dial(ctx context.Context, addr string) (*conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	tcp := c.(*net.TCPConn)
	raw, err := tcp.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	return &conn{Conn: tcp, raw: raw, buf: make([]byte, 32<<10)}, nil
}

// closeWith closes the connection when ctx ends, so that reads and writes do.
// The function it gives ends that.
func (c *conn) closeWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.Close() })
}

// next gives the next n bytes, at most the buffer's size, valid until the next
// call.
func (c *conn) next(n int) ([]byte, error) {
	if c.w-c.r < n {
		if n > len(c.buf) {
			return nil, fmt.Errorf("%d bytes asked for at once", n)
		}
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
		m, err := io.ReadAtLeast(c.Conn, c.buf[c.w:], n-c.w)
		if c.w += m; err != nil {
			return nil, err
		}
	}
	b := c.buf[c.r : c.r+n]
	c.r += n
	return b, nil
}

// bin is where discarded bytes would go: with MSG_TRUNC the kernel copies
// nothing there (tcp(7)).
var bin = make([]byte, 1<<20)

// skip throws the next n bytes away.
func (c *conn) skip(n int) error {
	have := min(c.w-c.r, n)
	c.r += have
	for n -= have; n > 0; {
		if n <= len(c.buf) { // cheaper with what follows it
			_, err := c.next(n)
			return err
		}
		var got int
		var recvErr error
		err := c.raw.Read(func(fd uintptr) bool {
			got, _, recvErr = unix.Recvfrom(int(fd), bin[:min(n, len(bin))], unix.MSG_TRUNC)
			return !errors.Is(recvErr, unix.EAGAIN) && !errors.Is(recvErr, unix.EINTR)
		})
		switch {
		case err != nil:
			return err
		case recvErr != nil:
			return fmt.Errorf("recv: %w", recvErr)
		case got == 0:
			return io.ErrUnexpectedEOF
		}
		n -= got
	}
	return nil
}

// waiting says whether a part of the next answer is already here.
func (c *conn) waiting() bool { return c.w > c.r }

// answer reads the head of an answer and gives the bytes that follow it.
func (c *conn) answer() (correlation int32, size int, err error) {
	b, err := c.next(8)
	if err != nil {
		return 0, 0, err
	}
	size = int(int32(binary.BigEndian.Uint32(b)))
	if size < 4 {
		return 0, 0, fmt.Errorf("an answer of %d bytes", size)
	}
	return int32(binary.BigEndian.Uint32(b[4:])), size - 4, nil
}

// appendHead appends the head of a request of a version without tags; the
// first four bytes are for setSize.
func appendHead(b []byte, key, version int16, correlation int32) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, 0)
	b = be.AppendUint16(b, uint16(key))
	b = be.AppendUint16(b, uint16(version))
	b = be.AppendUint32(b, uint32(correlation))
	return appendString(b, clientID)
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// setSize completes a request of which more bytes follow b.
func setSize(b []byte, more int) {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4+more))
}

// ask sends a request of an ordinary kind and reads its answer.
func ask[T kmsg.Response](ctx context.Context, c *conn, req kmsg.Request, resp T) (T, error) {
	stop := c.closeWith(ctx)
	defer stop()
	b := req.AppendTo(appendHead(nil, req.Key(), req.GetVersion(), 1))
	setSize(b, 0)
	if _, err := c.Write(b); err != nil {
		return resp, err
	}
	_, size, err := c.answer()
	if err != nil {
		return resp, fmt.Errorf("request %s: %w", kmsg.NameForKey(req.Key()), err)
	}
	body := make([]byte, size)
	n := copy(body, c.buf[c.r:c.w])
	c.r += n
	if _, err := io.ReadFull(c.Conn, body[n:]); err != nil {
		return resp, fmt.Errorf("request %s: %w", kmsg.NameForKey(req.Key()), err)
	}
	resp.SetVersion(req.GetVersion())
	return resp, resp.ReadFrom(body)
}
