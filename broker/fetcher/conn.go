package fetcher

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// fetchVersion is the newest version of Fetch that this fetcher speaks, and
// that all brokers answer.
const fetchVersion = 17

const (
	// maxAnswer is the size of an answer that is believed; a leader answers
	// with one batch of any size, and otherwise within Config.MaxBytes.
	maxAnswer = 1 << 30
	// readStep is how much memory an answer gets before any of it has come.
	readStep = 1 << 20
	// keepAnswer is the size up to which an answer's memory is kept for the next.
	keepAnswer = 32 << 20
)

var errInterrupted = errors.New("fetcher: asks anew")

// conn is a connection to a leader, which answers requests in their order.
type conn struct {
	nc          net.Conn
	format      *kmsg.RequestFormatter
	correlation int32
	out, in     []byte
	owed        int32   // answers that come before that to the last request
	head        [4]byte // the beginning of an answer, got bytes of it
	got         int
	size        int // of the answer that is read
	interrupted atomic.Bool
}

func newConn(nc net.Conn, self record.BrokerID) *conn {
	return &conn{nc: nc, format: kmsg.NewRequestFormatter(kmsg.FormatterClientID(fmt.Sprintf("broker-%d-fetcher", self)))}
}

func (c *conn) close() { c.nc.Close() }

// interrupt ends await, now or when it is called.
func (c *conn) interrupt() {
	c.interrupted.Store(true)
	c.nc.SetReadDeadline(time.Unix(1, 0))
}

func (c *conn) send(req kmsg.Request, timeout time.Duration) error {
	c.correlation++
	c.out = c.format.AppendRequest(c.out[:0], req, c.correlation)
	c.nc.SetWriteDeadline(time.Now().Add(timeout))
	_, err := c.nc.Write(c.out)
	return err
}

// await waits for the beginning of an answer. errInterrupted: interrupt was
// called first, and the answer is still to come; resume makes the connection
// usable again.
func (c *conn) await(timeout time.Duration) error {
	c.nc.SetReadDeadline(time.Now().Add(timeout))
	if c.interrupted.Load() { // before the deadline was set
		return errInterrupted
	}
	n, err := io.ReadFull(c.nc, c.head[c.got:])
	if c.got += n; err != nil {
		if c.interrupted.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			return errInterrupted
		}
		return fmt.Errorf("waiting for an answer: %w", err)
	}
	c.got = 0
	if c.size = int(binary.BigEndian.Uint32(c.head[:])); c.size < 5 || c.size > maxAnswer {
		return fmt.Errorf("an answer of %d bytes: what answers is no Kafka broker", c.size)
	}
	return nil
}

// resume takes back an interrupt. Nobody may interrupt meanwhile.
func (c *conn) resume() { c.interrupted.Store(false) }

// receive reads the rest of the answer. Its records are valid until the next.
func (c *conn) receive(timeout time.Duration) (*kmsg.FetchResponse, error) {
	if cap(c.in) > keepAnswer {
		c.in = nil
	}
	c.in = c.in[:0]
	for len(c.in) < c.size {
		c.nc.SetReadDeadline(time.Now().Add(timeout))
		have := len(c.in)
		n := min(c.size-have, max(readStep, have, cap(c.in)-have))
		if cap(c.in) < have+n {
			grown := make([]byte, have, have+n)
			copy(grown, c.in)
			c.in = grown
		}
		c.in = c.in[:have+n]
		if _, err := io.ReadFull(c.nc, c.in[have:]); err != nil {
			return nil, fmt.Errorf("reading an answer: %w", err)
		}
	}
	if got, want := int32(binary.BigEndian.Uint32(c.in)), c.correlation-c.owed; got != want {
		return nil, fmt.Errorf("an answer to request %d, not %d", got, want)
	}
	resp := kmsg.NewPtrFetchResponse()
	resp.Version = fetchVersion
	if c.in[4] != 0 {
		return nil, errors.New("an answer with a header that has tags")
	}
	if err := resp.ReadFrom(c.in[5:]); err != nil {
		return nil, fmt.Errorf("decoding an answer: %w", err)
	}
	return resp, nil
}
