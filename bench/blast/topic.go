package blast

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Topic is where the drivers write and read.
type Topic struct {
	Addr       string // HOST:PORT of the broker, or of one of the cluster
	Name       string
	Partitions int
	Replicas   int // of each partition that Create makes; 0 is 1
}

// Create makes the topic with the given configs and waits
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
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.Name, int32(t.Partitions), int16(max(t.Replicas, 1))
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
		leaders, err := t.leaders(ctx, c)
		if err != nil {
			return err
		}
		led := t.Partitions
		for _, addr := range leaders {
			if addr == "" {
				led--
			}
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

// leaders gives the address of each partition's leader, empty where there is
// none.
func (t Topic) leaders(ctx context.Context, c *conn) ([]string, error) {
	req := kmsg.NewMetadataRequest()
	req.Version, req.AllowAutoTopicCreation = 8, false
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &t.Name
	req.Topics = append(req.Topics, rt)
	resp, err := ask(ctx, c, &req, kmsg.NewPtrMetadataResponse())
	if err != nil {
		return nil, err
	}
	addrs := map[int32]string{}
	for _, b := range resp.Brokers {
		addrs[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	leaders := make([]string, t.Partitions)
	for _, topic := range resp.Topics {
		if err := kerr.ErrorForCode(topic.ErrorCode); err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) && !errors.Is(err, kerr.LeaderNotAvailable) {
			return nil, fmt.Errorf("metadata of topic %s: %w", t.Name, err)
		}
		for _, p := range topic.Partitions {
			if p.ErrorCode == 0 && p.Partition >= 0 && int(p.Partition) < t.Partitions {
				leaders[p.Partition] = addrs[p.Leader]
			}
		}
	}
	return leaders, nil
}

// led is what one broker leads of a topic.
type led struct {
	addr       string
	partitions []int
}

// byLeader groups the partitions by their leaders, in the order of partitions.
// A partition without a leader is its Addr's, where it is refused and sent
// again.
func (t Topic) byLeader(ctx context.Context) ([]led, error) {
	c, err := dial(ctx, t.Addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	leaders, err := t.leaders(ctx, c)
	if err != nil {
		return nil, err
	}
	var all []led
	for p, addr := range leaders {
		addr = cmp.Or(addr, t.Addr)
		i := slices.IndexFunc(all, func(l led) bool { return l.addr == addr })
		if i < 0 {
			i = len(all)
			all = append(all, led{addr: addr})
		}
		all[i].partitions = append(all[i].partitions, p)
	}
	return all, nil
}

// leader is the address of the one broker that leads the whole topic.
func (t Topic) leader(ctx context.Context) (string, error) {
	all, err := t.byLeader(ctx)
	if err != nil {
		return "", err
	}
	if len(all) != 1 {
		return "", fmt.Errorf("topic %s has %d leaders: this driver goes to one", t.Name, len(all))
	}
	return all[0].addr, nil
}

// Ends gives the end offset of each partition; one broker leads them all.
func (t Topic) Ends(ctx context.Context) ([]int64, error) {
	addr, err := t.leader(ctx)
	if err != nil {
		return nil, err
	}
	c, err := dial(ctx, addr)
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

// Ping asks the broker for its cluster and gives an error unless it names so
// many brokers that are there, which is when it serves clients.
func Ping(ctx context.Context, addr string, brokers int) error {
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
	if len(resp.Brokers) < brokers {
		return fmt.Errorf("%s knows of %d brokers of %d", addr, len(resp.Brokers), brokers)
	}
	return nil
}
