package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// listen serves the shared API on a loopback port. The metadata names another
// address, so that clients are given a dialer that always comes here.
func listen(t *testing.T) func(...kgo.Opt) *kgo.Client {
	t.Helper()
	addr := serveSockets(t)
	return func(opts ...kgo.Opt) *kgo.Client {
		cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addr), kgo.Dialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
}

// A standard client produces (idempotent), and a group of two reads it all.
func TestFranzGo(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := listen(t)
	topic := fmt.Sprintf("franz%d", topicCount.Add(1))
	adm := kadm.NewClient(client())
	if _, err := adm.CreateTopic(ctx, 4, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	const n = 2000
	producer := client(kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	for i := range n {
		producer.Produce(ctx, kgo.KeySliceRecord(fmt.Append(nil, i), fmt.Append(nil, i)), func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := producer.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	group := "g-" + topic
	values := make(chan string, n)
	for range 2 {
		c := client(kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(time.Second))
		go func() {
			for {
				fetches := c.PollFetches(ctx)
				if fetches.IsClientClosed() || ctx.Err() != nil {
					return
				}
				fetches.EachError(func(t1 string, p int32, err error) {
					if !errors.Is(err, context.Canceled) {
						t.Errorf("%s-%d: %v", t1, p, err)
					}
				})
				fetches.EachRecord(func(r *kgo.Record) {
					select {
					case values <- string(r.Value):
					case <-ctx.Done():
					}
				})
			}
		}()
	}
	seen := map[string]bool{}
	for len(seen) < n {
		select {
		case v := <-values:
			seen[v] = true
		case <-ctx.Done():
			t.Fatalf("%d of %d records", len(seen), n)
		}
	}
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	if total != n {
		t.Errorf("end offsets add up to %d", total)
	}
	described, err := adm.DescribeGroups(ctx, group)
	if err != nil || described[group].Err != nil || len(described[group].Members) == 0 {
		t.Errorf("got %+v (%v)", described, err)
	}
}

func TestFranzGoTransactionsFailClearly(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	topic := makeTopic(t, 1)
	cl := listen(t)(kgo.TransactionalID("tx"), kgo.DefaultProduceTopic(topic.Name))
	err := cl.BeginTransaction()
	if err == nil {
		err = cl.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr()
	}
	if !errors.Is(err, kerr.UnsupportedVersion) || ctx.Err() != nil {
		t.Errorf("got %v, want UNSUPPORTED_VERSION, and soon", err)
	}
}

func TestFranzGoAdmin(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	adm := kadm.NewClient(listen(t)())
	topic := makeTopic(t, 1)
	write(t, topic, 0, 10)
	value := "60000"
	if resps, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, topic.Name); err != nil || resps[0].Err != nil {
		t.Errorf("alter: %+v %v", resps, err)
	}
	if rc, err := adm.DescribeTopicConfigs(ctx, topic.Name); err != nil || rc[0].Err != nil || len(rc[0].Configs) < 30 {
		t.Errorf("describe: %v", err)
	}
	if rc, err := adm.DescribeBrokerConfigs(ctx, testBroker); err != nil || rc[0].Err != nil {
		t.Errorf("describe broker: %v", err)
	}
	if resps, err := adm.CreatePartitions(ctx, 2, topic.Name); err != nil || resps.Error() != nil {
		t.Errorf("create partitions: %v %v", resps, err)
	}
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic.Name, 0, 4, -1)
	if resps, err := adm.DeleteRecords(ctx, offsets); err != nil || resps.Error() != nil {
		t.Errorf("delete records: %v %v", resps, err)
	}
	if starts, err := adm.ListStartOffsets(ctx, topic.Name); err != nil || starts[topic.Name][0].Offset != 4 {
		t.Errorf("start offsets: %v %v", starts, err)
	}
	if m, err := adm.BrokerMetadata(ctx); err != nil || len(m.Brokers) != 1 || m.Cluster == "" {
		t.Errorf("metadata: %+v %v", m, err)
	}
	if resps, err := adm.DeleteTopics(ctx, topic.Name); err != nil || resps.Error() != nil {
		t.Errorf("delete topics: %v %v", resps, err)
	}
}
