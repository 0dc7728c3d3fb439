// Package jetstream drives NATS JetStream through nats.go, as bench/blast
// drives brokers that speak Kafka's protocol. A partition is a stream with one
// subject, and a record batch is the payload of one message: the server sees
// one message where Kafka's see many records, and the client is another. So
// its figures say what a log server can do, not which of two does it better.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/bench/blast"
)

// Ping gives an error unless the server at addr, HOST:PORT, has JetStream.
func Ping(ctx context.Context, addr string) error {
	nc, js, err := connect(addr, 1)
	if err != nil {
		return err
	}
	defer nc.Close()
	_, err = js.AccountInfo(ctx)
	return err
}

func connect(addr string, inFlight int) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := nats.Connect("nats://"+addr, nats.NoReconnect(), nats.Timeout(2*time.Second))
	if err != nil {
		return nil, nil, err
	}
	// One more than are sent, so that publishing never waits.
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(inFlight+1))
	if err != nil {
		nc.Close()
	}
	return nc, js, err
}

func stream(topic string, partition int) string { return topic + "-" + strconv.Itoa(partition) }

// Create makes a stream on disk, of one replica, for each partition.
func Create(ctx context.Context, t blast.Topic) error {
	nc, js, err := connect(t.Addr, 1)
	if err != nil {
		return err
	}
	defer nc.Close()
	for p := range t.Partitions {
		name := stream(t.Name, p)
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Storage: jetstream.FileStorage, Replicas: 1})
		if err != nil {
			return fmt.Errorf("create stream %s: %w", name, err)
		}
	}
	return nil
}

// Produce publishes until job.Bytes are acknowledged, or for job.Limit; each
// connection has job.InFlight messages that wait for an acknowledgement.
func Produce(ctx context.Context, job blast.Produce) (*blast.Result, error) {
	if job.InFlight < 1 || job.Connections < 1 {
		return nil, errors.New("produce needs connections and at least one message in flight")
	}
	senders := make([]*sender, job.Connections)
	var quota atomic.Int64
	quota.Store(job.Bytes)
	for i := range senders {
		nc, js, err := connect(job.Topic.Addr, job.InFlight)
		if err != nil {
			return nil, err
		}
		defer nc.Close()
		senders[i] = &sender{Produce: job, js: js, quota: &quota, partition: i % job.Topic.Partitions, batch: i * len(job.Batches.Encoded) / len(senders)}
	}
	var mu sync.Mutex
	total := &blast.Result{}
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range senders {
		g.Go(func() error {
			err := s.run(ctx, began)
			mu.Lock()
			defer mu.Unlock()
			total.Bytes += s.result.Bytes
			total.Requests += s.result.Requests
			total.Latency.Add(&s.result.Latency)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("publish to %s: %w", job.Topic.Name, err)
	}
	total.Took = time.Since(began)
	return total, nil
}

// sender is one connection, which goes round the partitions.
type sender struct {
	blast.Produce
	js        jetstream.JetStream
	quota     *atomic.Int64
	partition int
	batch     int
	flying    []flight // oldest first
	result    blast.Result
}

type flight struct {
	ack jetstream.PubAckFuture
	at  time.Time
}

func (s *sender) run(ctx context.Context, began time.Time) error {
	first := s.partition
	for {
		late := s.Limit > 0 && time.Since(began) > s.Limit
		if !late && len(s.flying) < s.InFlight && s.quota.Add(-s.Batches.Bytes) > -s.Batches.Bytes {
			ack, err := s.js.PublishAsync(stream(s.Topic.Name, s.partition), s.Batches.Encoded[s.batch])
			if err != nil {
				return err
			}
			s.flying = append(s.flying, flight{ack, time.Now()})
			s.batch = (s.batch + 1) % len(s.Batches.Encoded)
			if s.partition += s.Connections; s.partition >= s.Topic.Partitions {
				s.partition = first
			}
			continue
		}
		if len(s.flying) == 0 {
			return nil
		}
		f := s.flying[0]
		select {
		case <-f.ack.Ok():
		case err := <-f.ack.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		s.flying = s.flying[:copy(s.flying, s.flying[1:])]
		s.result.Bytes += s.Batches.Bytes
		s.result.Requests++
		s.result.Latency.Record(time.Since(f.at), 1)
	}
}
