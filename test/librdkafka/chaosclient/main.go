// Command chaosclient is the librdkafka part of test/chaos: producers and
// consumers that record what they are told, in a history of their own, until
// standard input ends. A program of its own, since librdkafka needs cgo.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/firnlog/firn/test/chaos/history"
)

// target is a partition and its number in the history.
type target struct {
	topic     string
	partition int32
	key       int32
}

type client struct {
	brokers string
	rec     *history.Recorder
	targets []target
	keys    map[string]map[int32]int32
	seed    uint64

	mu    sync.Mutex
	next  int32 // process
	limit int32
}

func main() {
	brokers := flag.String("brokers", "", "HOST:PORT,…")
	path := flag.String("history", "", "the file to write")
	origin := flag.Int64("origin", 0, "when the run began (nanoseconds of monotonic time)")
	first := flag.Int("first", 1, "the first number for a process")
	processes := flag.Int("processes", 100, "how many numbers there are")
	topics := flag.String("topics", "", "TOPIC:PARTITIONS:KEY,…, KEY being that of partition 0")
	seed := flag.Uint64("seed", 1, "of what is chosen at random")
	flag.Parse()
	if err := run(*brokers, *path, *origin, *first, *processes, *topics, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "chaosclient:", err)
		os.Exit(1)
	}
}

func run(brokers, path string, origin int64, first, processes int, topics string, seed uint64) error {
	c := &client{brokers: brokers, keys: map[string]map[int32]int32{}, seed: seed, next: int32(first), limit: int32(first + processes)}
	for spec := range strings.SplitSeq(topics, ",") {
		f := strings.Split(spec, ":")
		if len(f) != 3 {
			return fmt.Errorf("topic %q is not TOPIC:PARTITIONS:KEY", spec)
		}
		n, err := strconv.Atoi(f[1])
		if err != nil {
			return fmt.Errorf("topic %q: %w", spec, err)
		}
		key, err := strconv.Atoi(f[2])
		if err != nil {
			return fmt.Errorf("topic %q: %w", spec, err)
		}
		c.keys[f[0]] = map[int32]int32{}
		for p := range int32(n) {
			c.targets = append(c.targets, target{f[0], p, int32(key) + p})
			c.keys[f[0]][p] = int32(key) + p
		}
	}
	var err error
	if c.rec, err = history.Create(path, origin); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	var wg sync.WaitGroup
	for i, life := range []func(context.Context, string, *rand.Rand) error{c.producer(60_000, 1, history.All|history.Idempotent|history.Ordered), c.producer(4000, 5, history.All), c.consumer(""), c.consumer("chaos-rdkafka"), c.consumer("chaos-rdkafka")} {
		name := fmt.Sprintf("librdkafka-%s-%d", []string{"idempotent", "impatient", "assigned", "member", "member"}[i], i)
		wg.Go(func() { c.lives(ctx, name, i, life) })
	}
	wg.Wait()
	return c.rec.Close()
}

// lives runs one client after the other until ctx ends.
func (c *client) lives(ctx context.Context, name string, number int, life func(context.Context, string, *rand.Rand) error) {
	rnd := rand.New(rand.NewPCG(c.seed, uint64(2000+number)))
	for n := 1; ctx.Err() == nil; n++ {
		lctx, cancel := context.WithTimeout(ctx, time.Duration(5+rnd.IntN(30))*time.Second)
		if err := life(lctx, fmt.Sprintf("%s/%d", name, n), rnd); err != nil {
			fmt.Fprintf(os.Stderr, "%s/%d: %v\n", name, n, err)
			<-lctx.Done()
		}
		cancel()
	}
}

// process begins the record of a client; an error when there are too many.
func (c *client) process(name, group string, traits history.Traits) (int32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == c.limit {
		return 0, fmt.Errorf("no number is left for a process")
	}
	c.rec.Record(history.Event{Kind: history.Client, Process: c.next, Text: name, Group: group, Traits: traits})
	c.next++
	return c.next - 1, nil
}

// opaque goes with a record to its delivery report.
type opaque struct {
	key   int32
	value history.Value
}

// producer is a life of an idempotent producer, whose records may take that
// many milliseconds, with so many requests on their way to a broker.
//
// With more than one, or with records that time out, it makes no promise:
// librdkafka then begins a new producer epoch when a request fails and the one
// after it is out of order, and sends again under that epoch what another broker
// may have taken under the old one and not answered.
func (c *client) producer(timeout, inFlight int, traits history.Traits) func(context.Context, string, *rand.Rand) error {
	return func(ctx context.Context, name string, rnd *rand.Rand) error {
		p, err := kafka.NewProducer(&kafka.ConfigMap{"bootstrap.servers": c.brokers, "enable.idempotence": true, "message.timeout.ms": timeout, "max.in.flight.requests.per.connection": inFlight, "linger.ms": rnd.IntN(5),
			"compression.type": []string{"none", "lz4", "snappy", "gzip", "zstd"}[rnd.IntN(5)], "queue.buffering.max.messages": 300, "socket.timeout.ms": 4000, "retry.backoff.ms": 50,
			"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 500, "topic.metadata.refresh.interval.ms": 5000})
		if err != nil {
			return err
		}
		process, err := c.process(name, "", traits)
		if err != nil {
			p.Close()
			return err
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for e := range p.Events() {
				if m, ok := e.(*kafka.Message); ok {
					o := m.Opaque.(opaque)
					c.answered(process, o, int64(m.TopicPartition.Offset), m.TopicPartition.Error)
				}
			}
		})
		n := int64(0)
		for ctx.Err() == nil && p.GetFatalError() == nil {
			for range 1 + rnd.IntN(20) {
				at := c.targets[rnd.IntN(len(c.targets))]
				o := opaque{at.key, history.MakeValue(process, n)}
				n++
				c.rec.Record(history.Event{Kind: history.Send, Process: process, Key: o.key, Value: o.value})
				m := &kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &at.topic, Partition: at.partition}, Value: history.Payload(o.value, 300), Opaque: o}
				err := p.Produce(m, nil)
				for full(err) && ctx.Err() == nil {
					time.Sleep(5 * time.Millisecond)
					err = p.Produce(m, nil)
				}
				if err != nil {
					c.answered(process, o, -1, err)
				}
			}
			time.Sleep(time.Duration(rnd.IntN(40)) * time.Millisecond)
		}
		p.Flush(2000)
		p.Close() // what is left stays without an answer
		wg.Wait()
		return nil
	}
}

func full(err error) bool {
	e, ok := err.(kafka.Error)
	return ok && e.Code() == kafka.ErrQueueFull
}

func (c *client) answered(process int32, o opaque, offset int64, err error) {
	e := history.Event{Kind: history.Acked, Process: process, Key: o.key, Value: o.value, Offset: max(offset, -1)}
	if err != nil {
		e.Kind, e.Offset, e.Text = history.Unknown, 0, err.Error()
	}
	c.rec.Record(e)
}

// reader is a consumer's life.
type reader struct {
	*client
	process int32
	cons    *kafka.Consumer
	order   []int32                    // keys in polled
	polled  map[int32][]history.Record // not yet recorded
	at      map[int32]kafka.TopicPartition
}

// consumer is a life of a consumer: of a group, or, without one, of all
// partitions from their beginning.
func (c *client) consumer(group string) func(context.Context, string, *rand.Rand) error {
	return func(ctx context.Context, name string, rnd *rand.Rand) error {
		config := kafka.ConfigMap{"bootstrap.servers": c.brokers, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": false, "enable.auto.offset.store": false,
			"check.crcs": true, "partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "max.poll.interval.ms": 30000,
			"socket.timeout.ms": 4000, "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 500, "fetch.wait.max.ms": 300}
		if group == "" {
			config["group.id"], config["auto.offset.reset"] = "unused", "error"
		}
		cons, err := kafka.NewConsumer(&config)
		if err != nil {
			return err
		}
		defer cons.Close()
		r := &reader{client: c, cons: cons, polled: map[int32][]history.Record{}, at: map[int32]kafka.TopicPartition{}}
		if r.process, err = c.process(name, group, 0); err != nil {
			return err
		}
		if group == "" {
			err = r.assignAll()
		} else {
			var names []string
			for topic := range c.keys {
				names = append(names, topic)
			}
			err = cons.SubscribeTopics(names, r.rebalance)
		}
		if err != nil {
			return err
		}
		for ctx.Err() == nil {
			for until := time.Now().Add(50 * time.Millisecond); time.Now().Before(until); {
				if m, ok := cons.Poll(20).(*kafka.Message); ok && m.TopicPartition.Error == nil {
					r.take(m)
				}
			}
			r.flush()
			if group != "" && rnd.IntN(4) == 0 {
				r.commit()
			}
		}
		return nil
	}
}

func (r *reader) assignAll() error {
	var all []kafka.TopicPartition
	for _, t := range r.targets {
		all = append(all, kafka.TopicPartition{Topic: &t.topic, Partition: t.partition, Offset: 0})
		r.rec.Record(history.Event{Kind: history.Position, Process: r.process, Key: t.key})
	}
	return r.cons.Assign(all)
}

func (r *reader) take(m *kafka.Message) {
	key, ok := r.keys[*m.TopicPartition.Topic][m.TopicPartition.Partition]
	if !ok {
		return
	}
	if len(r.polled[key]) == 0 {
		r.order = append(r.order, key)
	}
	r.polled[key] = append(r.polled[key], history.Record{Offset: int64(m.TopicPartition.Offset), Value: history.ParsePayload(m.Value)})
	r.at[key] = kafka.TopicPartition{Topic: m.TopicPartition.Topic, Partition: m.TopicPartition.Partition, Offset: m.TopicPartition.Offset + 1}
}

// flush records what was polled.
func (r *reader) flush() {
	for _, key := range r.order {
		r.rec.Record(history.Event{Kind: history.Poll, Process: r.process, Key: key, High: -1, Records: r.polled[key]})
		r.polled[key] = nil
	}
	r.order = r.order[:0]
}

// rebalance begins at the committed offsets, and says so.
func (r *reader) rebalance(_ *kafka.Consumer, e kafka.Event) error {
	r.flush()
	switch e := e.(type) {
	case kafka.AssignedPartitions:
		for _, p := range e.Partitions {
			r.rec.Record(history.Event{Kind: history.Assign, Process: r.process, Key: r.keys[*p.Topic][p.Partition]})
		}
		at, err := r.cons.Committed(e.Partitions, 3000)
		for i := 0; err != nil && i < 3; i++ {
			at, err = r.cons.Committed(e.Partitions, 3000)
		}
		if err != nil {
			return r.cons.IncrementalAssign(e.Partitions) // it begins where only the library knows
		}
		for i, p := range at {
			if p.Error != nil {
				continue
			}
			r.rec.Record(history.Event{Kind: history.Position, Process: r.process, Key: r.keys[*p.Topic][p.Partition], Offset: max(int64(p.Offset), -1)})
			if p.Offset < 0 {
				at[i].Offset = 0
			}
		}
		return r.cons.IncrementalAssign(at)
	case kafka.RevokedPartitions:
		for _, p := range e.Partitions {
			key := r.keys[*p.Topic][p.Partition]
			delete(r.at, key)
			r.rec.Record(history.Event{Kind: history.Revoke, Process: r.process, Key: key})
		}
		return r.cons.IncrementalUnassign(e.Partitions)
	}
	return nil
}

// commit commits what was polled since the last commit, and waits for the
// answer.
func (r *reader) commit() {
	var all []kafka.TopicPartition
	for key, p := range r.at {
		r.rec.Record(history.Event{Kind: history.Commit, Process: r.process, Key: key, Offset: int64(p.Offset)})
		all = append(all, p)
	}
	clear(r.at)
	if len(all) == 0 {
		return
	}
	done, err := r.cons.CommitOffsets(all)
	if err != nil {
		return
	}
	for _, p := range done {
		if p.Error == nil {
			r.rec.Record(history.Event{Kind: history.Committed, Process: r.process, Key: r.keys[*p.Topic][p.Partition], Offset: int64(p.Offset)})
		}
	}
}
