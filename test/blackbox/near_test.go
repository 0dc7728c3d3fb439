package blackbox

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/test/firntest"
)

// batchesBy counts the batches that a consumer got, by broker.
type batchesBy struct {
	mu   sync.Mutex
	from map[int32]int
}

func (b *batchesBy) OnFetchBatchRead(meta kgo.BrokerMetadata, _ string, _ int32, _ kgo.FetchBatchMetrics) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.from[meta.NodeID]++
}

// take gives the counts and begins anew.
func (b *batchesBy) take() map[int32]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	from := b.from
	b.from = map[int32]int{}
	return from
}

// racks starts three brokers in the racks a, b and c, and makes a topic of
// three partitions that all of them have.
func racks(t *testing.T, topic string, set ...string) []*firntest.Broker {
	brokers := firntest.StartCluster(t, 3, func(id int) []string {
		args := []string{"--rack", string(rune('a' + id - 1)), "--set", "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector"}
		for _, s := range set {
			args = append(args, "--set", s)
		}
		return args
	})
	if _, stderr, code := firntest.Run(t, "topic", "create", topic, "--brokers", brokers[0].Kafka, "--partitions", "3", "--replicas", "3", "--config", "min.insync.replicas=2"); code != 0 {
		t.Fatal(stderr)
	}
	return brokers
}

// A consumer in a rack reads from the follower there (KIP-392), at the end of
// the log, too. When that broker is killed it goes on at the leaders, and sees
// each record once and in order.
func TestConsumerReadsFromNearFollower(t *testing.T) {
	const topic = "near"
	brokers := racks(t, topic)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	producer := brokers[0].Client(kgo.SeedBrokers(brokers[0].Kafka, brokers[2].Kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	sent := 0
	produce := func(n int) {
		t.Helper()
		for range n {
			r := &kgo.Record{Topic: topic, Partition: int32(sent % 3), Value: []byte(strconv.Itoa(sent / 3))}
			if err := producer.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	by := &batchesBy{from: map[int32]int{}}
	consumer := brokers[0].Client(kgo.SeedBrokers(brokers[0].Kafka, brokers[2].Kafka), kgo.Rack("b"), kgo.ConsumeTopics(topic), kgo.WithHooks(by),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500*time.Millisecond),
		kgo.RecheckPreferredReplicaInterval(3*time.Second)) // franz-go does not leave a dead follower before
	next := [3]int{}
	read := 0
	consume := func() {
		t.Helper()
		for read < sent {
			fetches := consumer.PollFetches(ctx)
			if ctx.Err() != nil {
				t.Fatalf("%d of %d records were read", read, sent)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				if want := strconv.Itoa(next[r.Partition]); string(r.Value) != want {
					t.Fatalf("partition %d: %s where %s is next", r.Partition, r.Value, want)
				}
				next[r.Partition]++
				read++
			})
		}
	}
	onlyFrom := func(id int32) error {
		if from := by.take(); len(from) != 1 || from[id] == 0 {
			return fmt.Errorf("batches came from %v, want all from broker %d", from, id)
		}
		return nil
	}
	produce(300)
	consume()
	firntest.Eventually(t, "reading from broker 2", func() error { // it follows where it can be in sync
		by.take()
		produce(30)
		consume()
		return onlyFrom(2)
	})
	var took []time.Duration
	for range 20 {
		began := time.Now()
		produce(1)
		consume()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("from the producer to a consumer at a follower: median %v, most %v", took[len(took)/2], took[len(took)-1])
	if err := onlyFrom(2); err != nil {
		t.Error(err)
	}

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		brokers[1].Kill()
	}()
	produce(300)
	<-ended
	produce(30)
	consume()
	by.take()
	produce(30)
	consume()
	if from := by.take(); from[2] != 0 || len(from) == 0 {
		t.Errorf("batches came from %v after broker 2 was killed", from)
	}
	for p, n := range next {
		if n != (sent+2-p)/3 {
			t.Errorf("partition %d has given %d records of %d", p, n, (sent+2-p)/3)
		}
	}
	if n := brokers[0].Metric("firn_api_fetches_sent_to_near_replicas_total") + brokers[2].Metric("firn_api_fetches_sent_to_near_replicas_total"); n == 0 {
		t.Error("no leader has sent anybody elsewhere")
	}
	if out := brokers[0].Output(); strings.Contains(out, "panic") {
		t.Error(out)
	}
}
