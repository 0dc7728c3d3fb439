package blast

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Topic is where the drivers write and read.
type Topic struct {
	Addr       string // HOST:PORT of the broker
	Name       string
	Partitions int
}

// Create makes the topic with one replica and the given configs and waits
// until each partition has a leader. Produce waits further where a broker says
// so before it takes writes.
func (t Topic) Create(ctx context.Context, configs map[string]string) error {
	c, err := dial(ctx, t.Addr)
	if err != nil {
		return err
	}
	defer c.Close()
	req := kmsg.NewCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 4, 60_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.Name, int32(t.Partitions), 1
	for name, value := range configs {
		rc := kmsg.NewCreateTopicsRequestTopicConfig()
		rc.Name, rc.Value = name, &value
		rt.Configs = append(rt.Configs, rc)
	}
	req.Topics = append(req.Topics, rt)
	resp, err := ask(ctx, c, &req, kmsg.NewPtrCreateTopicsResponse())
	if err != nil {
		return fmt.Errorf("create topic %s: %w", t.Name, err)
	}
	if len(resp.Topics) != 1 {
		return fmt.Errorf("create topic %s: the answer is about %d topics", t.Name, len(resp.Topics))
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		text := ""
		if resp.Topics[0].ErrorMessage != nil {
			text = ": " + *resp.Topics[0].ErrorMessage
		}
		return fmt.Errorf("create topic %s: %w%s", t.Name, err, text)
	}
	return t.awaitLeaders(ctx, c)
}

func (t Topic) awaitLeaders(ctx context.Context, c *conn) error {
	for {
		led, err := t.led(ctx, c)
		if err != nil {
			return err
		}
		if led == t.Partitions {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("topic %s: %d of %d partitions have a leader: %w", t.Name, led, t.Partitions, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// led counts the partitions that have a leader.
func (t Topic) led(ctx context.Context, c *conn) (int, error) {
	req := kmsg.NewMetadataRequest()
	req.Version, req.AllowAutoTopicCreation = 8, false
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &t.Name
	req.Topics = append(req.Topics, rt)
	resp, err := ask(ctx, c, &req, kmsg.NewPtrMetadataResponse())
	if err != nil {
		return 0, err
	}
	n := 0
	for _, topic := range resp.Topics {
		if err := kerr.ErrorForCode(topic.ErrorCode); err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) && !errors.Is(err, kerr.LeaderNotAvailable) {
			return 0, fmt.Errorf("metadata of topic %s: %w", t.Name, err)
		}
		for _, p := range topic.Partitions {
			if p.ErrorCode == 0 && p.Leader >= 0 {
				n++
			}
		}
	}
	return n, nil
}

// Ends gives the end offset of each partition.
func (t Topic) Ends(ctx context.Context) ([]int64, error) {
	c, err := dial(ctx, t.Addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	req := kmsg.NewListOffsetsRequest()
	req.Version, req.ReplicaID = 4, -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = t.Name
	for p := range t.Partitions {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = int32(p), -1, -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	resp, err := ask(ctx, c, &req, kmsg.NewPtrListOffsetsResponse())
	if err != nil {
		return nil, fmt.Errorf("end offsets of topic %s: %w", t.Name, err)
	}
	ends := make([]int64, t.Partitions)
	seen := 0
	for _, topic := range resp.Topics {
		for _, p := range topic.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("end offset of %s/%d: %w", t.Name, p.Partition, err)
			}
			if p.Partition < 0 || int(p.Partition) >= t.Partitions {
				return nil, fmt.Errorf("end offsets of topic %s: the answer names partition %d", t.Name, p.Partition)
			}
			ends[p.Partition] = p.Offset
			seen++
		}
	}
	if seen != t.Partitions {
		return nil, fmt.Errorf("end offsets of topic %s: %d of %d partitions answered", t.Name, seen, t.Partitions)
	}
	return ends, nil
}

// Ping asks the broker for its cluster and gives an error unless it names a
// broker that is there, which is when it serves clients.
func Ping(ctx context.Context, addr string) error {
	c, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	req := kmsg.NewMetadataRequest()
	req.Version, req.Topics = 8, []kmsg.MetadataRequestTopic{}
	resp, err := ask(ctx, c, &req, kmsg.NewPtrMetadataResponse())
	if err != nil {
		return err
	}
	if len(resp.Brokers) == 0 {
		return fmt.Errorf("%s knows of no broker", addr)
	}
	return nil
}
