package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/test/chaos/history"
)

// clients are those whose view is recorded. Each lives for a while and is then
// opened anew, as another process.
type clients struct {
	rec    *history.Recorder
	topics *topics
	seeds  []string
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	seed   uint64
	log    func(format string, args ...any)

	mu       sync.Mutex
	next     int32
	problems []string // what no client should be told
	lives    int
}

func (c *clients) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.problems) < 100 {
		c.problems = append(c.problems, fmt.Sprintf(format, args...))
	}
}

// process begins the record of a client.
func (c *clients) process(name, group string, traits history.Traits) int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	c.lives++
	if c.next > history.MaxProcess {
		panic("chaos: too many clients for one history")
	}
	c.rec.Record(history.Event{Kind: history.Client, Process: c.next, Text: name, Group: group, Traits: traits})
	return c.next
}

// reserve keeps n numbers for processes of another program, and gives the first.
func (c *clients) reserve(n int32) int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next += n
	return c.next - n + 1
}

func (c *clients) open(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.seeds...), kgo.Dialer(c.dial), kgo.MetadataMinAge(100 * time.Millisecond), kgo.MetadataMaxAge(5 * time.Second),
		kgo.RetryBackoffFn(func(tries int) time.Duration {
			return min(time.Duration(tries)*20*time.Millisecond, 500*time.Millisecond)
		}),
		kgo.RequestTimeoutOverhead(3 * time.Second), kgo.ProduceRequestTimeout(3 * time.Second), kgo.RetryTimeout(10 * time.Second)}, opts...)...)
}

// lives runs one client after the other until ctx ends.
func (c *clients) live(ctx context.Context, name string, number int, life func(ctx context.Context, name string, rnd *rand.Rand) error) {
	rnd := rand.New(rand.NewPCG(c.seed, uint64(1000+number)))
	for n := 1; ctx.Err() == nil; n++ {
		lctx, cancel := context.WithTimeout(ctx, time.Duration(3+rnd.IntN(30))*time.Second)
		if err := life(lctx, fmt.Sprintf("%s/%d", name, n), rnd); err != nil && ctx.Err() == nil {
			c.problem("%s/%d: %v", name, n, err)
			sleep(lctx, time.Second)
		}
		cancel()
	}
}

// sender is what the producers of one library client have in common.
type sender struct {
	c       *clients
	process int32
	n       int64
}

// record makes the next record, and records that it is sent.
func (s *sender) next(at target) history.Value {
	v := history.MakeValue(s.process, s.n)
	s.n++
	s.c.rec.Record(history.Event{Kind: history.Send, Process: s.process, Key: at.key, Value: v})
	return v
}

// drained is how long a client that ends waits for what is under way.
const drained = 2 * time.Second

// producer is a life of a franz-go producer.
func (c *clients) producer(traits history.Traits, opts ...kgo.Opt) func(context.Context, string, *rand.Rand) error {
	return func(ctx context.Context, name string, rnd *rand.Rand) error {
		cl, err := c.open(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(300), kgo.ProducerLinger(time.Duration(rnd.IntN(3))*time.Millisecond),
			kgo.ProducerOnDataLossDetected(func(topic string, p int32) {
				if traits&history.Idempotent != 0 && c.alive(topic) {
					c.problem("%s: the broker of %s-%d does not know what this producer has written", name, topic, p)
				}
			}))...)
		if err != nil {
			return err
		}
		defer cl.Close()
		s := sender{c: c, process: c.process(name, "", traits)}
		// Records outlive this life a little, so that those under way get an answer.
		after, giveUp := context.WithCancel(context.Background())
		defer giveUp()
		defer context.AfterFunc(ctx, func() {
			time.Sleep(drained)
			giveUp()
		})()
		for ctx.Err() == nil {
			for range 1 + rnd.IntN(20) {
				at := c.topics.pick(rnd)
				v := s.next(at)
				cl.Produce(after, &kgo.Record{Topic: at.topic, Partition: at.partition, Value: history.Payload(v, sizeOf(rnd))}, func(r *kgo.Record, err error) {
					s.answered(at, v, r.Offset, err, false)
				})
				if ctx.Err() != nil {
					break
				}
			}
			sleep(ctx, time.Duration(rnd.IntN(40))*time.Millisecond)
		}
		_ = cl.Flush(after) // what is left then is unknown
		return nil
	}
}

// alive says whether a topic has not been deleted.
func (c *clients) alive(topic string) bool {
	for _, at := range c.topics.all() {
		if at.topic == topic {
			return true
		}
	}
	return false
}

// sizeOf is how large a record may be: mostly small, sometimes several KB.
func sizeOf(rnd *rand.Rand) int {
	if rnd.IntN(20) == 0 {
		return 8000
	}
	return 200
}

// answered records what became of a record. sure says that an error means that
// nothing was added.
func (s *sender) answered(at target, v history.Value, offset int64, err error, sure bool) {
	e := history.Event{Kind: history.Acked, Process: s.process, Key: at.key, Value: v, Offset: offset}
	if err != nil {
		e.Kind, e.Offset, e.Text = history.Unknown, 0, err.Error()
		if sure {
			e.Kind = history.Failed
		}
	}
	s.c.rec.Record(e)
}

// refusals are errors of a single try with which a broker says that it has
// added nothing.
var refusals = []error{kerr.NotEnoughReplicas, kerr.MessageTooLarge, kerr.InvalidRecord, kerr.CorruptMessage}

// single is a life of a producer that tries every batch once, by a request
// made by hand: its errors mean what the broker means with them. Some of its
// records are too large.
func (c *clients) single(ctx context.Context, name string, rnd *rand.Rand) error {
	cl, err := c.open()
	if err != nil {
		return err
	}
	defer cl.Close()
	s := sender{c: c, process: c.process(name, "", history.All)}
	for sleep(ctx, time.Duration(rnd.IntN(60))*time.Millisecond) {
		at := c.topics.pick(rnd)
		leader := c.topics.leaderOf(at)
		if leader < 0 {
			continue
		}
		size, count := sizeOf(rnd), 1+rnd.IntN(5)
		if rnd.IntN(30) == 0 {
			size, count = 0, 1 // too large, see below
		}
		var recs []record.Record
		var values []history.Value
		for i := range count {
			v := s.next(at)
			payload := history.Payload(v, max(size, 33))
			r := record.Record{Offset: record.Offset(i), Timestamp: time.Now().UnixMilli(), Value: payload}
			if size == 0 {
				r.Key = make([]byte, maxRecord)
			}
			recs, values = append(recs, r), append(values, v)
		}
		base, err := c.produceOnce(cl, leader, at, recs)
		sure := false
		for _, r := range refusals {
			sure = sure || errors.Is(err, r)
		}
		for i, v := range values {
			s.answered(at, v, base+int64(i), err, sure)
		}
		if err != nil {
			sleep(ctx, 200*time.Millisecond)
		}
	}
	return nil
}

func (c *clients) produceOnce(cl *kgo.Client, leader int32, at target, recs []record.Record) (int64, error) {
	batch, err := record.NewBatch(record.BatchSpec{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, recs)
	if err != nil {
		return 0, err
	}
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = at.partition, batch
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic, topic.Partitions = at.topic, []kmsg.ProduceRequestTopicPartition{p}
	req := kmsg.NewPtrProduceRequest()
	req.Version = 9 // topics by name
	req.Acks, req.TimeoutMillis, req.Topics = -1, 3000, []kmsg.ProduceRequestTopic{topic}
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second)
	defer cancel()
	resp, err := cl.Broker(int(leader)).Request(ctx, versioned{req})
	if err != nil {
		return 0, err
	}
	answer := resp.(*kmsg.ProduceResponse)
	if len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("an answer of %d topics", len(answer.Topics))
	}
	return answer.Topics[0].Partitions[0].BaseOffset, kerr.ErrorForCode(answer.Topics[0].Partitions[0].ErrorCode)
}

// versioned keeps a Produce request below the version in which topics have ids
// only.
type versioned struct{ *kmsg.ProduceRequest }

func (versioned) MaxVersion() int16 { return 12 }

// polled records what a poll gave.
func (c *clients) polled(process int32, name string, fs kgo.Fetches) {
	fs.EachError(func(topic string, p int32, err error) {
		if loss := (*kgo.ErrDataLoss)(nil); errors.As(err, &loss) {
			c.problem("%s: %v", name, err)
		}
	})
	fs.EachPartition(func(p kgo.FetchTopicPartition) {
		key, ok := c.topics.key(p.Topic, p.Partition)
		if !ok || len(p.Records) == 0 {
			return
		}
		c.rec.Record(pollEvent(process, key, p.HighWatermark, p.Records))
	})
}

func pollEvent(process, key int32, high int64, records []*kgo.Record) history.Event {
	e := history.Event{Kind: history.Poll, Process: process, Key: key, High: high, Records: make([]history.Record, 0, len(records))}
	for _, r := range records {
		e.Records = append(e.Records, history.Record{Offset: r.Offset, Value: history.ParsePayload(r.Value)})
	}
	return e
}

// assigned is a life of a consumer that takes all partitions that stay, from
// somewhere before where the last one of its name was.
func (c *clients) assigned() func(context.Context, string, *rand.Rand) error {
	at := map[target]int64{} // how far earlier lives were
	return func(ctx context.Context, name string, rnd *rand.Rand) error {
		process := c.process(name, "", 0)
		from := map[string]map[int32]kgo.Offset{}
		for _, t := range c.topics.base {
			start := at[t] - int64(rnd.IntN(1000))
			if start < 0 || rnd.IntN(10) == 0 {
				start = 0
			}
			if from[t.topic] == nil {
				from[t.topic] = map[int32]kgo.Offset{}
			}
			from[t.topic][t.partition] = kgo.NewOffset().At(start)
			c.rec.Record(history.Event{Kind: history.Position, Process: process, Key: t.key, Offset: start})
		}
		cl, err := c.open(kgo.ConsumePartitions(from), kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxWait(500*time.Millisecond))
		if err != nil {
			return err
		}
		defer cl.Close()
		for ctx.Err() == nil {
			fs := cl.PollRecords(ctx, 1+rnd.IntN(2000))
			c.polled(process, name, fs)
			fs.EachPartition(func(p kgo.FetchTopicPartition) {
				if n := len(p.Records); n > 0 {
					key, _ := c.topics.key(p.Topic, p.Partition)
					at[target{p.Topic, p.Partition, key}] = p.Records[n-1].Offset + 1
				}
			})
		}
		return nil
	}
}

const groupName = "chaos"

// member is a life of a group's member, which commits what it was given.
func (c *clients) member(ctx context.Context, name string, rnd *rand.Rand) error {
	process := c.process(name, groupName, 0)
	var names []string
	for _, t := range c.topics.base {
		if t.partition == 0 {
			names = append(names, t.topic)
		}
	}
	each := func(kind history.Kind) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, m map[string][]int32) {
			for topic, ps := range m {
				for _, p := range ps {
					if key, ok := c.topics.key(topic, p); ok {
						c.rec.Record(history.Event{Kind: kind, Process: process, Key: key})
					}
				}
			}
		}
	}
	cl, err := c.open(kgo.ConsumerGroup(groupName), kgo.ConsumeTopics(names...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(), kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(500*time.Millisecond), kgo.RebalanceTimeout(6*time.Second), kgo.FetchMaxWait(500*time.Millisecond),
		kgo.OnPartitionsAssigned(each(history.Assign)), kgo.OnPartitionsRevoked(each(history.Revoke)), kgo.OnPartitionsLost(each(history.Revoke)),
		kgo.AdjustFetchOffsetsFn(func(_ context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			for topic, ps := range offsets {
				for p, o := range ps {
					if key, ok := c.topics.key(topic, p); ok {
						c.rec.Record(history.Event{Kind: history.Position, Process: process, Key: key, Offset: max(o.EpochOffset().Offset, -1)})
					}
				}
			}
			return offsets, nil
		}))
	if err != nil {
		return err
	}
	defer cl.CloseAllowingRebalance()
	for ctx.Err() == nil {
		pctx, cancel := context.WithTimeout(ctx, time.Second)
		fs := cl.PollRecords(pctx, 1+rnd.IntN(1000))
		cancel()
		c.polled(process, name, fs)
		if rnd.IntN(3) == 0 {
			c.commit(ctx, cl, process, fs)
		}
		cl.AllowRebalance()
	}
	return nil
}

// commit commits where a poll ended, and waits for the answer.
func (c *clients) commit(ctx context.Context, cl *kgo.Client, process int32, fs kgo.Fetches) {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	fs.EachPartition(func(p kgo.FetchTopicPartition) {
		key, ok := c.topics.key(p.Topic, p.Partition)
		if n := len(p.Records); n > 0 && ok {
			if offsets[p.Topic] == nil {
				offsets[p.Topic] = map[int32]kgo.EpochOffset{}
			}
			last := p.Records[n-1]
			offsets[p.Topic][p.Partition] = kgo.EpochOffset{Epoch: last.LeaderEpoch, Offset: last.Offset + 1}
			c.rec.Record(history.Event{Kind: history.Commit, Process: process, Key: key, Offset: last.Offset + 1})
		}
	})
	if len(offsets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cl.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if key, ok := c.topics.key(t.Topic, p.Partition); ok && p.ErrorCode == 0 {
					c.rec.Record(history.Event{Kind: history.Committed, Process: process, Key: key, Offset: offsets[t.Topic][p.Partition].Offset})
				}
			}
		}
	})
}
