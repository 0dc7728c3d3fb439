package blackbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/test/firntest"
)

// sequenced is a batch of one record of an idempotent producer.
func sequenced(producer int64, epoch int16, sequence int32, value []byte) []byte {
	r := kmsg.NewRecord()
	r.Value = value
	r.Length = int32(len(r.AppendTo(nil)) - 1) // a length of 0 takes one byte
	b := kmsg.NewRecordBatch()
	now := time.Now().UnixMilli()
	b.PartitionLeaderEpoch, b.Magic, b.NumRecords = -1, 2, 1
	b.ProducerID, b.ProducerEpoch, b.FirstSequence = producer, epoch, sequence
	b.FirstTimestamp, b.MaxTimestamp, b.Records = now, now, r.AppendTo(nil)
	out := b.AppendTo(nil)
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-12))
	binary.BigEndian.PutUint32(out[17:], crc32.Checksum(out[21:], crc32.MakeTable(crc32.Castagnoli)))
	return out
}

// tieredCluster is three brokers and a tiered topic of one partition, which
// brokers 1 and 2 have, with small segments of which all but the active one go
// soon.
type tieredCluster struct {
	t       *testing.T
	topic   string
	brokers []*firntest.Broker
	client  *kgo.Client
	adm     *kadm.Client
	ctx     context.Context
	id      int64 // of the producer
	values  [][]byte
}

func newTieredCluster(t *testing.T, topic string, configs map[string]string) *tieredCluster {
	c := &tieredCluster{t: t, topic: topic, brokers: firntest.StartCluster(t, 3, func(id int) []string {
		return []string{"--rack", string(rune('a' + id - 1)), "--set", "replica.selector.class=RackAwareReplicaSelector"}
	})}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	c.ctx = ctx
	seeds := kgo.SeedBrokers(c.brokers[0].Kafka, c.brokers[1].Kafka, c.brokers[2].Kafka)
	c.client = c.brokers[0].Client(seeds, kgo.MetadataMinAge(50*time.Millisecond), kgo.MetadataMaxAge(time.Second))
	c.adm = kadm.NewClient(c.client)
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, -1, -1
	assigned := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
	assigned.Replicas = []int32{1, 2}
	rt.ReplicaAssignment = append(rt.ReplicaAssignment, assigned)
	all := map[string]string{"remote.storage.enable": "true", "segment.bytes": "1048576", "local.retention.ms": "1", "retention.ms": "-1"}
	maps.Copy(all, configs)
	for k, v := range all {
		cfg := kmsg.NewCreateTopicsRequestTopicConfig()
		cfg.Name, cfg.Value = k, &v
		rt.Configs = append(rt.Configs, cfg)
	}
	req.Topics, req.TimeoutMillis = append(req.Topics, rt), 30_000
	resp, err := req.RequestWith(ctx, c.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
	init := kmsg.NewPtrInitProducerIDRequest()
	init.ProducerID, init.ProducerEpoch = -1, -1
	got, err := init.RequestWith(ctx, c.client)
	if err != nil || got.ErrorCode != 0 {
		t.Fatal(err, got)
	}
	c.id = got.ProducerID
	return c
}

// send sends the batch of a sequence, once more or for the first time, and gives
// where it is.
func (c *tieredCluster) send(sequence int) (offset int64, err error) {
	var topic kmsg.ProduceRequestTopic
	firntest.Eventually(c.t, fmt.Sprintf("an answer to sequence %d", sequence), func() error {
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 10_000
		topic = kmsg.NewProduceRequestTopic()
		topic.Topic = c.topic
		md, err := c.adm.Metadata(c.ctx, c.topic)
		if err != nil {
			return err
		}
		topic.TopicID = md.Topics[c.topic].ID
		p := kmsg.NewProduceRequestTopicPartition()
		p.Records = sequenced(c.id, 0, int32(sequence), c.values[sequence])
		topic.Partitions = append(topic.Partitions, p)
		req.Topics = append(req.Topics, topic)
		leader := md.Topics[c.topic].Partitions[0].Leader
		if leader < 0 {
			return fmt.Errorf("no leader")
		}
		kresp, err := c.client.Broker(int(leader)).Request(c.ctx, req)
		if err != nil {
			return err
		}
		got := kresp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if err := kerr.ErrorForCode(got.ErrorCode); kerr.IsRetriable(err) {
			return err
		} else if err != nil {
			c.t.Fatalf("sequence %d: %v", sequence, err)
		}
		offset = got.BaseOffset
		return nil
	})
	return offset, nil
}

// produce sends n records more.
func (c *tieredCluster) produce(n int) {
	c.t.Helper()
	rnd := rand.New(rand.NewPCG(uint64(len(c.values)), 1))
	for range n {
		value := make([]byte, 30_000)
		for i := range value {
			value[i] = byte(rnd.Uint32())
		}
		c.values = append(c.values, value)
		if at, _ := c.send(len(c.values) - 1); at != int64(len(c.values)-1) {
			c.t.Fatalf("record %d is at offset %d", len(c.values)-1, at)
		}
	}
}

// localStart is the first offset on the leader's disk.
func (c *tieredCluster) localStart() int64 {
	c.t.Helper()
	at, err := c.offset(-4)
	if err != nil {
		c.t.Fatal(err)
	}
	return at
}

// offset asks the leader for one of Kafka's special offsets.
func (c *tieredCluster) offset(special int64) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = c.topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Timestamp = special
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(c.ctx, c.client)
	if err != nil {
		return -1, err
	}
	p := &resp.Topics[0].Partitions[0]
	return p.Offset, kerr.ErrorForCode(p.ErrorCode)
}

// awaitTiered waits until all but the last records are gone from the leader's
// disk.
func (c *tieredCluster) awaitTiered() {
	c.t.Helper()
	firntest.Eventually(c.t, "local copies going", func() error {
		if start := c.localStart(); start < int64(len(c.values)-80) {
			return fmt.Errorf("the leader's disk begins at %d of %d", start, len(c.values))
		}
		return nil
	})
}

// move makes brokers the replicas, and waits until they are.
func (c *tieredCluster) move(to ...int32) {
	c.t.Helper()
	var req kadm.AlterPartitionAssignmentsReq
	req.Assign(c.topic, 0, to)
	got, err := c.adm.AlterPartitionAssignments(c.ctx, req)
	if err == nil {
		err = got.Error()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	firntest.Eventually(c.t, "the move", func() error {
		md, err := c.adm.Metadata(c.ctx, c.topic)
		if err != nil {
			return err
		}
		p := md.Topics[c.topic].Partitions[0]
		if len(p.Replicas) != len(to) || p.Replicas[0] != to[0] || len(p.ISR) != len(to) {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
}

// verify reads all, and compares each record.
func (c *tieredCluster) verify(b *firntest.Broker) {
	c.t.Helper()
	recs := b.ReadAll(c.topic, 0, 0)
	if len(recs) != len(c.values) {
		c.t.Fatalf("%d records, want %d", len(recs), len(c.values))
	}
	for i, r := range recs {
		if r.Offset != int64(i) || !bytes.Equal(r.Value, c.values[i]) {
			c.t.Fatalf("record %d, at offset %d, is not what was sent", i, r.Offset)
		}
	}
}

// A tiered partition with much history moves to a broker that had nothing of it:
// only what is on its leader's disk is copied. All is readable there when the old
// replicas are gone, at its offsets, and producers' batches are recognised.
func TestMoveOfTieredPartitionCopiesTheHotPart(t *testing.T) {
	c := newTieredCluster(t, "moved", nil)
	c.produce(300) // 9 MB
	c.awaitTiered()
	c.produce(20)
	third := c.brokers[2]
	before := third.Metric("firn_fetcher_bytes_total")
	hot := float64(30_100 * (len(c.values) - int(c.localStart())))
	c.move(3)
	copied := third.Metric("firn_fetcher_bytes_total") - before
	t.Logf("%.0f bytes were copied of %d, %.0f are hot", copied, 30_000*len(c.values), hot)
	if copied > hot {
		t.Error("more was copied")
	}
	if n := third.Metric("firn_partition_tiered_beginnings_total"); n != 1 {
		t.Errorf("it has begun at the tiered end %.0f times", n)
	}
	c.brokers[0].Kill()
	c.verify(third)
	last := len(c.values) - 1
	for _, sequence := range []int{last - 3, last} {
		if at, _ := c.send(sequence); at != int64(sequence) {
			t.Errorf("sequence %d, sent a second time, is at offset %d, not %d", sequence, at, sequence)
		}
	}
	c.produce(100)
	c.awaitTiered()
	c.verify(third)
}

// A leader that was elected uncleanly and lacks most of what is in the object
// store goes on after that: all of it is readable, no offset is used twice, and
// the producer goes on, too.
func TestUncleanLeaderGoesOnAfterTheTieredPart(t *testing.T) {
	c := newTieredCluster(t, "unclean", map[string]string{"unclean.leader.election.enable": "true"})
	c.produce(50)
	c.brokers[1].Kill()
	c.produce(150)
	c.awaitTiered()
	c.brokers[0].Kill()
	c.brokers[1].Start()
	var end int64
	firntest.Eventually(t, "the second broker leading", func() (err error) {
		end, err = c.offset(-1)
		return err
	})
	t.Logf("it goes on at %d", end)
	if end < 120 || end > int64(len(c.values)) {
		t.Fatalf("it goes on at %d of %d", end, len(c.values))
	}
	c.values = c.values[:end]
	c.verify(c.brokers[1])
	if at, _ := c.send(int(end) - 1); at != end-1 {
		t.Errorf("sequence %d, sent a second time, is at offset %d", end-1, at)
	}
	c.produce(50)
	c.verify(c.brokers[1])
	c.brokers[0].Start() // with another history from there on
	firntest.Eventually(t, "the first broker in sync", func() error {
		md, err := c.adm.Metadata(c.ctx, c.topic)
		if err == nil && len(md.Topics[c.topic].Partitions[0].ISR) < 2 {
			err = fmt.Errorf("%+v", md.Topics[c.topic].Partitions[0])
		}
		return err
	})
	c.brokers[1].Stop()
	c.verify(c.brokers[0])
}

// A consumer reads what is in the object store only at the follower in its rack.
func TestColdReadsAtNearFollower(t *testing.T) {
	c := newTieredCluster(t, "coldnear", nil)
	c.produce(150)
	c.awaitTiered()
	c.move(1, 3)                                                       // which has the end on its disk alone
	firntest.Eventually(t, "reading all from broker 3", func() error { // its leader has to hear from it first
		by := &batchesBy{from: map[int32]int{}}
		c.readAll(by)
		if from := by.take(); from[3] == 0 || len(from) != 1 {
			return fmt.Errorf("batches came from %v", from)
		}
		return nil
	})
	if c.brokers[2].Metric("firn_tiering_cold_reads_total") == 0 {
		t.Error("the follower has read nothing from the object store")
	}
}

// readAll reads all as a consumer in rack c does, and compares it.
func (c *tieredCluster) readAll(by *batchesBy) {
	c.t.Helper()
	reader, err := kgo.NewClient(kgo.SeedBrokers(c.brokers[0].Kafka), kgo.Rack("c"), kgo.WithHooks(by), kgo.FetchMaxWait(time.Second),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{c.topic: {0: kgo.NewOffset().At(0)}}))
	if err != nil {
		c.t.Fatal(err)
	}
	defer reader.Close()
	for n := 0; n < len(c.values); {
		fetches := reader.PollFetches(c.ctx)
		if c.ctx.Err() != nil {
			c.t.Fatalf("%d records of %d were read", n, len(c.values))
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset != int64(n) || !bytes.Equal(r.Value, c.values[n]) {
				c.t.Fatalf("record %d, at offset %d, is not what was sent", n, r.Offset)
			}
			n++
		})
	}
}
