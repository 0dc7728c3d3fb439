package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/firnlog/firn/record"
)

const (
	// directSpan is from where on a span is not copied: file spans go by
	// sendfile, memory is written as it is. Below, pread and one write for
	// several pieces are cheaper.
	directSpan = 32 << 10
	// sendStep bounds one sendfile call, so that a deadline is set anew for
	// each, and how much of a file is looked for in memory, or loaded, at a time.
	sendStep = 1 << 20
	// smallMeta is up to what size the encoded part of a Fetch reply is memory of
	// its own, bytes.
	smallMeta = 4 << 10
	// writeStep bounds one write: what a peer must take within IdleTimeout.
	writeStep = 256 << 10
)

var (
	errShortFile = errors.New("file is shorter than its span")
	errReadFile  = errors.New("span cannot be read")
)

// sender writes to one connection. Small pieces gather in a pooled buffer
// until flush; an idle connection holds none.
type sender struct {
	nc      net.Conn
	raw     syscall.RawConn // for sendfile; nil where everything is copied
	kernel  sendBuffer
	stop    <-chan struct{} // closed when the connection has ended
	timeout func() time.Duration
	buf     *[]byte // nil when empty

	step *transfer // what try does; made when it is first needed
	try  func(fd uintptr) bool
}

func newSender(nc net.Conn, raw syscall.RawConn, kernel sendBuffer, stop <-chan struct{}, timeout func() time.Duration) sender {
	return sender{nc: nc, raw: raw, kernel: kernel, stop: stop, timeout: timeout}
}

// sent notes that the kernel took n bytes.
func (s *sender) sent(n int) {
	mReplyBytes.Add(n)
	if s.kernel.due(n) {
		s.kernel.follow()
	}
}

// buffer gives the gathered bytes, to be appended to.
func (s *sender) buffer() *[]byte {
	if s.buf == nil {
		s.buf = getBuffer()
	}
	return s.buf
}

// discard drops what was not sent.
func (s *sender) discard() {
	if s.buf != nil {
		putBuffer(s.buf)
		s.buf = nil
	}
}

// deadline gives the peer IdleTimeout, as Kafka does, to take what comes: a
// consumer that is busy with its last records may leave a reply untaken for
// minutes.
func (s *sender) deadline() error { return s.nc.SetWriteDeadline(after(s.timeout())) }

// after is the deadline in d from now; none when d is negative.
func after(d time.Duration) time.Time {
	if d < 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// flush sends what has gathered.
func (s *sender) flush() error {
	if s.buf == nil {
		return nil
	}
	err := s.write(*s.buf)
	s.discard()
	return err
}

func (s *sender) write(b []byte) error {
	for len(b) > 0 {
		if err := s.deadline(); err != nil {
			return err
		}
		n, err := s.nc.Write(b[:min(len(b), writeStep)])
		s.sent(n)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// fetch sends a Fetch reply. The last of it may be gathered. It releases no
// span.
func (s *sender) fetch(correlationID int32, f *FetchReply) error {
	// What is encoded is held until the peer has taken the records: where it is
	// small, not as one of the large buffers.
	var meta []byte
	if n := 64 + f.partitions()*partitionMeta; n <= smallMeta {
		meta = make([]byte, 0, n)
	} else {
		pooled := getBuffer()
		defer func() {
			*pooled = meta
			putBuffer(pooled)
		}()
		meta = *pooled
	}
	plan, err := newFetchPlan(meta, correlationID, f)
	meta = plan.meta
	if err != nil {
		return err
	}
	for _, seg := range plan.segments {
		if seg.isSpan {
			err = s.span(seg.span)
		} else {
			err = s.gather(plan.meta[seg.from:seg.to])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// gather appends b to what is to be sent; large pieces are sent as they are.
func (s *sender) gather(b []byte) error {
	if len(b) >= directSpan {
		if err := s.flush(); err != nil {
			return err
		}
		return s.write(b)
	}
	buf := s.buffer()
	if len(*buf)+len(b) > stagingSize {
		if err := s.flush(); err != nil {
			return err
		}
		buf = s.buffer()
	}
	*buf = append(*buf, b...)
	return nil
}

func (s *sender) span(sp record.Span) error {
	switch {
	case sp.File == nil:
		return s.gather(sp.Bytes)
	case s.raw != nil && sp.Len >= directSpan:
		if err := s.flushMore(); err != nil {
			return err
		}
		return s.sendfile(sp)
	}
	return s.copyFile(sp)
}

// copyFile gathers a file's bytes, sending whenever the buffer is full.
func (s *sender) copyFile(sp record.Span) error {
	for off := int64(0); off < sp.Len; {
		buf := s.buffer()
		used := len(*buf)
		room := cap(*buf) - used
		if want := min(sp.Len-off, directSpan); int64(room) < want {
			if err := s.flush(); err != nil {
				return err
			}
			continue
		}
		n := int(min(sp.Len-off, int64(room)))
		got, err := sp.ReadAt((*buf)[used:used+n], off)
		if got < n {
			return spanError(sp, off+int64(got), err)
		}
		*buf = (*buf)[:used+n]
		off += int64(n)
		mCopied.Add(n)
	}
	return nil
}

// spanError says why a file gave fewer bytes than its span has.
func spanError(sp record.Span, at int64, err error) error {
	name := sp.File.OS().Name()
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %s ends at %d, the span is [%d, %d)", errShortFile, name, sp.Off+at, sp.Off, sp.Off+sp.Len)
	}
	return fmt.Errorf("%w: %s at %d: %w", errReadFile, name, sp.Off+at, err)
}
