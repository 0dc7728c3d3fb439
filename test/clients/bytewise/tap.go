// Package bytewise holds a broker to Kafka's promise that the bytes of a
// record batch stay as the producer made them. It starts a real firn whose
// clients all come through a recording proxy, and compares the batches that
// they sent with those that Fetch gives and that lie on disk. The modules of
// Go clients and of librdkafka share it, and so does what records the Java
// producer; it belongs to tests alone.
package bytewise

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxFrame bounds one request: more than any test sends.
const maxFrame = 64 << 20

// Tap is a TCP proxy on loopback that notes the Produce requests that go
// through it.
type Tap struct {
	ln       net.Listener
	upstream string
	done     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]bool
	frames [][]byte // Produce requests without their length, in order of arrival
	err    error    // the first frame that was none
}

// NewTap listens; Serve lets clients through.
func NewTap() (*Tap, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &Tap{ln: ln, conns: map[net.Conn]bool{}}, nil
}

// Addr is where clients connect: HOST:PORT.
func (t *Tap) Addr() string { return t.ln.Addr().String() }

// Serve lets clients through to the broker at upstream until Close.
func (t *Tap) Serve(upstream string) {
	t.upstream = upstream
	t.done.Add(1)
	go func() {
		defer t.done.Done()
		for {
			c, err := t.ln.Accept()
			if err != nil {
				return // closed
			}
			up, err := net.Dial("tcp", upstream)
			if err != nil {
				c.Close()
				continue
			}
			t.mu.Lock()
			t.conns[c], t.conns[up] = true, true
			t.mu.Unlock()
			t.done.Add(2)
			go t.pipe(c, up, func() error { return t.requests(up, c) })
			go t.pipe(c, up, func() error { _, err := io.Copy(c, up); return err })
		}
	}()
}

// pipe runs one direction; when one ends, both do.
func (t *Tap) pipe(c, up net.Conn, run func() error) {
	defer t.done.Done()
	err := run()
	c.Close()
	up.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
	delete(t.conns, up)
	if errors.Is(err, errFrame) && t.err == nil {
		t.err = err
	}
}

var errFrame = errors.New("bytewise: no request")

// requests passes requests on and keeps those of Produce.
func (t *Tap) requests(up io.Writer, c io.Reader) error {
	for {
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(size[:])
		if n < 8 || n > maxFrame {
			return fmt.Errorf("%w: a frame of %d bytes", errFrame, n)
		}
		frame := make([]byte, 4+n)
		copy(frame, size[:])
		if _, err := io.ReadFull(c, frame[4:]); err != nil {
			return err
		}
		if binary.BigEndian.Uint16(frame[4:]) == uint16(kmsg.Produce) {
			t.mu.Lock()
			t.frames = append(t.frames, frame[4:])
			t.mu.Unlock()
		}
		if _, err := up.Write(frame); err != nil {
			return err
		}
	}
}

// Take gives the Produce requests, without their lengths, that came since the
// last Take.
func (t *Tap) Take() ([][]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	frames := t.frames
	t.frames = nil
	return frames, t.err
}

// Close ends all connections and waits for everything that was started.
func (t *Tap) Close() error {
	err := t.ln.Close()
	t.mu.Lock()
	for c := range t.conns {
		c.Close()
	}
	t.mu.Unlock()
	t.done.Wait()
	return err
}

// ParseProduce decodes one frame that Take gave.
func ParseProduce(frame []byte) (*kmsg.ProduceRequest, error) {
	if len(frame) < 10 || binary.BigEndian.Uint16(frame) != uint16(kmsg.Produce) {
		return nil, errFrame
	}
	req := kmsg.NewPtrProduceRequest()
	req.Version = int16(binary.BigEndian.Uint16(frame[2:]))
	rest := frame[8:] // behind key, version and correlation id
	if n := int16(binary.BigEndian.Uint16(rest)); n > 0 {
		if len(rest) < 2+int(n) {
			return nil, errFrame
		}
		rest = rest[n:] // client id
	}
	rest = rest[2:]
	if req.IsFlexible() {
		if len(rest) == 0 || rest[0] != 0 {
			return nil, fmt.Errorf("%w: tags in the header of a Produce", errFrame)
		}
		rest = rest[1:]
	}
	if err := req.ReadFrom(rest); err != nil {
		return nil, fmt.Errorf("%w: Produce version %d: %w", errFrame, req.Version, err)
	}
	return req, nil
}
