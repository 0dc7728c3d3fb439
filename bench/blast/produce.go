package blast

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"
)

// Produce says how to fill a topic.
type Produce struct {
	Topic       Topic
	Batches     *Batches
	Connections int
	InFlight    int   // requests that may wait for an answer on a connection
	Acks        int16 // 1 or -1
	Bytes       int64 // to be acknowledged in all; MB/s count the batches before compression

	Limit time.Duration // send nothing after so long, even if Bytes are not reached; 0 is none
}

// Result is what a driver did.
type Result struct {
	Bytes    int64
	Requests int64
	Retries  int64 // of partitions that did not take writes yet
	Took     time.Duration
	Latency  Histogram // from sending (OpenLoop: from when it should have been) to the answer
	EndToEnd Histogram // OpenLoop only: to the batch's arrival at the consumer
}

func (r *Result) add(o *Result) {
	r.Bytes += o.Bytes
	r.Requests += o.Requests
	r.Retries += o.Retries
	r.Latency.Add(&o.Latency)
	r.EndToEnd.Add(&o.EndToEnd)
}

const produceTimeout = 30_000 // milliseconds, what clients send

// appendProduce appends a Produce request without its batch, of size bytes.
func appendProduce(b []byte, topic string, partition int, acks int16, correlation int32, size int) []byte {
	be := binary.BigEndian
	start := len(b)
	b = appendHead(b, 0, 8, correlation)
	b = be.AppendUint16(b, 0xffff) // no transactional id
	b = be.AppendUint16(b, uint16(acks))
	b = be.AppendUint32(b, produceTimeout)
	b = be.AppendUint32(b, 1)
	b = appendString(b, topic)
	b = be.AppendUint32(b, 1)
	b = be.AppendUint32(b, uint32(partition))
	b = be.AppendUint32(b, uint32(size))
	setSize(b[start:], size)
	return b
}

// produced is the answer about the one partition of a request.
func (c *conn) produced(topic string) (correlation int32, code int16, err error) {
	correlation, size, err := c.answer()
	if err != nil {
		return 0, 0, err
	}
	b, err := c.next(size)
	if err != nil {
		return 0, 0, err
	}
	at := 4 + 2 + len(topic) + 4 + 4 // the counts of topics and partitions are 1
	if size < at+2 {
		return 0, 0, fmt.Errorf("an answer of %d bytes to a Produce request", size)
	}
	return correlation, int16(binary.BigEndian.Uint16(b[at:])), nil
}

// Run sends until p.Bytes are acknowledged, or for p.Limit. The time counts
// from when all connections are open.
func (p Produce) Run(ctx context.Context) (*Result, error) {
	if p.Acks == 0 || p.InFlight < 1 || p.Connections < 1 {
		return nil, errors.New("produce needs acks, connections and at least one request in flight")
	}
	leaders, err := p.Topic.byLeader(ctx)
	if err != nil {
		return nil, err
	}
	if p.Connections < len(leaders) {
		return nil, fmt.Errorf("produce to %s: %d connections to %d leaders", p.Topic.Name, p.Connections, len(leaders))
	}
	conns := make([]*conn, p.Connections)
	for i := range conns {
		c, err := dial(ctx, leaders[i%len(leaders)].addr)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		conns[i] = c
	}
	var mu sync.Mutex
	total := &Result{}
	var quota atomic.Int64
	quota.Store(p.Bytes)
	began := time.Now()
	var until time.Time
	if p.Limit > 0 {
		until = began.Add(p.Limit)
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, c := range conns {
		g.Go(func() error {
			stop := c.closeWith(ctx)
			defer stop()
			s := sender{Produce: p, c: c, quota: &quota, until: until, batch: i * len(p.Batches.Encoded) / len(conns)}
			s.share(leaders[i%len(leaders)].partitions, i/len(leaders), (len(conns)-1-i%len(leaders))/len(leaders)+1)
			err := s.run(ctx)
			mu.Lock()
			defer mu.Unlock()
			total.add(&s.result)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("produce to %s: %w", p.Topic.Name, err)
	}
	total.Took = time.Since(began)
	return total, nil
}

// sender is one connection.
type sender struct {
	Produce
	c      *conn
	quota  *atomic.Int64
	until  time.Time // zero: no limit
	paused time.Time // end of the last pause
	mine   []int     // partitions that it sends to, in turn
	next   int       // index in mine
	batch  int       // to send next
	flying []flight  // oldest first
	sent   int32     // requests, and the last one's correlation id
	heads  []byte
	vecs   net.Buffers
	result Result
}

type flight struct {
	correlation int32
	partition   int
	at          time.Time
}

// share takes this connection's part of a leader's partitions, as number i of n
// connections: its own ones when there are enough.
func (s *sender) share(partitions []int, i, n int) {
	for p := i % len(partitions); p < len(partitions); p += n {
		s.mine = append(s.mine, partitions[p])
	}
}

func (s *sender) run(ctx context.Context) error {
	// Heads must not move while vecs points into them.
	s.heads = make([]byte, 0, s.InFlight*(64+len(clientID)+len(s.Topic.Name)))
	s.vecs = make(net.Buffers, 0, 2*s.InFlight)
	for {
		if err := s.fill(); err != nil {
			return err
		}
		if len(s.flying) == 0 {
			return nil
		}
		for more := true; more && len(s.flying) > 0; more = s.c.waiting() {
			if err := s.acknowledged(ctx); err != nil {
				return err
			}
		}
	}
}

// fill sends as many requests as may be in flight, in one system call.
func (s *sender) fill() error {
	for n := s.InFlight - len(s.flying); n > 0 && !s.late() && s.quota.Add(-s.Batches.Bytes) > -s.Batches.Bytes; n-- {
		s.queue(s.mine[s.next])
		s.next = (s.next + 1) % len(s.mine)
	}
	return s.write()
}

func (s *sender) late() bool { return !s.until.IsZero() && time.Now().After(s.until) }

func (s *sender) queue(partition int) {
	batch := s.Batches.Encoded[s.batch]
	if s.batch++; s.batch == len(s.Batches.Encoded) {
		s.batch = 0
	}
	s.sent++
	start := len(s.heads)
	s.heads = appendProduce(s.heads, s.Topic.Name, partition, s.Acks, s.sent, len(batch))
	s.vecs = append(s.vecs, s.heads[start:], batch)
	s.flying = append(s.flying, flight{s.sent, partition, time.Now()})
}

func (s *sender) write() error {
	if len(s.vecs) == 0 {
		return nil
	}
	out := s.vecs // WriteTo consumes it
	_, err := out.WriteTo(s.c.Conn)
	s.heads, s.vecs = s.heads[:0], s.vecs[:0]
	return err
}

// retryAfter is what clients wait (retry.backoff.ms) before they ask again.
const retryAfter = 100 * time.Millisecond

// notYet are the errors of a partition that a broker has made known and does
// not yet take writes for.
func notYet(code int16) bool {
	return code == kerr.UnknownTopicOrPartition.Code || code == kerr.LeaderNotAvailable.Code || code == kerr.NotLeaderForPartition.Code
}

// acknowledged reads the answer to the oldest request in flight.
func (s *sender) acknowledged(ctx context.Context) error {
	correlation, code, err := s.c.produced(s.Topic.Name)
	if err != nil {
		return err
	}
	f := s.flying[0]
	s.flying = s.flying[:copy(s.flying, s.flying[1:])]
	switch {
	case correlation != f.correlation:
		return fmt.Errorf("an answer to request %d, want %d", correlation, f.correlation)
	case code == 0:
		s.result.Bytes += s.Batches.Bytes
		s.result.Requests++
		s.result.Latency.Record(time.Since(f.at), 1)
		return nil
	case notYet(code):
		s.result.Retries++
		if s.late() {
			return nil
		}
		// One pause for all that was refused before it.
		if f.at.After(s.paused) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(retryAfter):
			}
			s.paused = time.Now()
		}
		s.queue(f.partition)
		return s.write()
	default:
		return fmt.Errorf("partition %d: %w", f.partition, kerr.ErrorForCode(code))
	}
}
