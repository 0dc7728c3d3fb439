// Package kfake stands in for franz-go's package of that name, so that the
// tests which were ported from Kafka's own run against a real broker: a
// Cluster is a view of one broker through a proxy of its own. The suite kfake
// copies these files into a copy of that module, under its import path.
//
// It has what those tests use and nothing more: topics are made (anew, when
// another test left one of that name), requests can be watched and answered in
// the broker's stead, and groups are looked at over the protocol.
package kfake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// BrokersEnv names the variable that holds the brokers there are: a JSON
// object of addresses by the JSON of the configs they were started with beside
// the usual ones ("{}" for none).
const BrokersEnv = "FIRN_SUITES_BROKERS"

// Opt is one choice about a cluster.
type Opt func(*Cluster)

type seed struct {
	partitions int32
	topics     []string
}

// Cluster is one broker, seen through a proxy.
type Cluster struct {
	brokers int
	seeds   []seed
	configs map[string]string

	proxy *proxy
	admin *kadm.Client
}

// NumBrokers is how many brokers the test asks for; there is one.
func NumBrokers(n int) Opt { return func(c *Cluster) { c.brokers = n } }

// SeedTopics makes topics before the test begins.
func SeedTopics(partitions int32, topics ...string) Opt {
	return func(c *Cluster) { c.seeds = append(c.seeds, seed{partitions, topics}) }
}

// BrokerConfigs asks for a broker that was started with these configs. The
// heartbeat interval of KIP-848 groups is left as it is: it only makes the
// tests of the original faster.
func BrokerConfigs(set map[string]string) Opt {
	return func(c *Cluster) {
		maps.Copy(c.configs, set)
		delete(c.configs, "group.consumer.heartbeat.interval.ms")
	}
}

// NewCluster gives a view of the broker that was started with the configs
// asked for.
func NewCluster(opts ...Opt) (*Cluster, error) {
	c := &Cluster{configs: map[string]string{}}
	for _, o := range opts {
		o(c)
	}
	if c.brokers > 1 {
		return nil, fmt.Errorf("skipped: the test needs %d brokers", c.brokers)
	}
	key, err := json.Marshal(c.configs)
	if err != nil {
		return nil, err
	}
	var brokers map[string]string
	if err := json.Unmarshal([]byte(os.Getenv(BrokersEnv)), &brokers); err != nil {
		return nil, fmt.Errorf("%s: %w", BrokersEnv, err)
	}
	addr := brokers[string(key)]
	if addr == "" {
		return nil, fmt.Errorf("skipped: no broker was started with %s", key)
	}
	if c.proxy, err = newProxy(addr); err != nil {
		return nil, err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		c.proxy.close()
		return nil, err
	}
	c.admin = kadm.NewClient(cl)
	for _, s := range c.seeds {
		if err := c.seed(s); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

func (c *Cluster) seed(s seed) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, topic := range s.topics {
		if resp, err := c.admin.DeleteTopic(ctx, topic); err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
			return fmt.Errorf("delete topic %s: %w (%s)", topic, err, resp.ErrMessage)
		}
		if _, err := c.admin.CreateTopic(ctx, s.partitions, 1, nil, topic); err != nil {
			return fmt.Errorf("create topic %s: %w", topic, err)
		}
	}
	return c.awaitTopics(ctx, s)
}

// awaitTopics returns once the metadata has every partition with a leader.
func (c *Cluster) awaitTopics(ctx context.Context, s seed) error {
	for {
		topics, err := c.admin.ListTopics(ctx, s.topics...)
		if err != nil {
			return fmt.Errorf("list topics: %w", err)
		}
		ready := true
		for _, topic := range s.topics {
			d := topics[topic]
			ready = ready && d.Err == nil && len(d.Partitions) == int(s.partitions)
			for _, p := range d.Partitions {
				ready = ready && p.Err == nil && p.Leader >= 0
			}
		}
		if ready {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("topics %v: %w", s.topics, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Close ends the view; the broker stays.
func (c *Cluster) Close() {
	c.admin.Close()
	c.proxy.close()
}

// ListenAddrs gives the address of the proxy.
func (c *Cluster) ListenAddrs() []string { return []string{c.proxy.addr()} }

// ControlKey calls f for each request with that key until f answers one: an
// answer (or an error, which closes the connection) and true.
func (c *Cluster) ControlKey(key int16, f func(kmsg.Request) (kmsg.Response, error, bool)) {
	c.proxy.control(key, f)
}

// Fault is an error that the next request meets: one of the keys, and a
// request that When accepts.
type Fault struct {
	Keys []kmsg.Key
	Err  *kerr.Error
	When func(kmsg.Request) bool
}

// Fault answers the next request that it fits with its error.
func (c *Cluster) Fault(f Fault) {
	for _, key := range f.Keys {
		c.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
			if f.When != nil && !f.When(req) {
				return nil, nil, false
			}
			hb, ok := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
			if !ok {
				return nil, fmt.Errorf("kfake: no fault for %T", req), true
			}
			hb.ErrorCode = f.Err.Code
			return hb, nil, true
		})
	}
}

// GroupCommit is one committed offset.
type GroupCommit struct {
	Offset      int64
	LeaderEpoch int32
	Metadata    string
}

// GroupMember is one member of a group with the partitions that it holds.
type GroupMember struct {
	MemberID   string
	InstanceID *string
	ClientID   string
	Assignment map[string][]int32

	target map[string][]int32 // what a KIP-848 group means it to hold; nil in a classic group
}

// NumAssigned counts the partitions that the member holds.
func (m *GroupMember) NumAssigned() int {
	n := 0
	for _, ps := range m.Assignment {
		n += len(ps)
	}
	return n
}

// GroupInfo is a group as the broker describes it.
type GroupInfo struct {
	Group   string
	State   string
	Epoch   int32 // of a KIP-848 group; 0 otherwise
	Members []GroupMember
	Commits map[string]map[int32]GroupCommit
}

// NumAssigned counts the partitions that members hold.
func (g *GroupInfo) NumAssigned() int {
	n := 0
	for i := range g.Members {
		n += g.Members[i].NumAssigned()
	}
	return n
}

// GroupInfo asks the broker about a group; nil means that there is none.
func (c *Cluster) GroupInfo(group string) *GroupInfo {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	g, err := c.group(ctx, group)
	if err != nil {
		return nil
	}
	offsets, err := c.admin.FetchOffsets(ctx, group)
	if err != nil {
		return g
	}
	g.Commits = map[string]map[int32]GroupCommit{}
	offsets.Each(func(o kadm.OffsetResponse) {
		if g.Commits[o.Topic] == nil {
			g.Commits[o.Topic] = map[int32]GroupCommit{}
		}
		g.Commits[o.Topic][o.Partition] = GroupCommit{Offset: o.At, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata}
	})
	return g
}

// group describes a group of either protocol, members sorted by id.
func (c *Cluster) group(ctx context.Context, group string) (*GroupInfo, error) {
	info := &GroupInfo{Group: group}
	if described, err := c.admin.DescribeConsumerGroups(ctx, group); err == nil {
		if g, ok := described[group]; ok && g.Err == nil {
			info.State, info.Epoch = g.State, g.Epoch
			for _, m := range g.Members {
				info.Members = append(info.Members, GroupMember{MemberID: m.MemberID, InstanceID: m.InstanceID, ClientID: m.ClientID,
					Assignment: partitions(m.Assignment), target: partitions(m.TargetAssignment)})
			}
			return info, nil
		}
	}
	described, err := c.admin.DescribeGroups(ctx, group)
	if err != nil {
		return nil, err
	}
	g := described[group]
	if g.Err != nil {
		return nil, g.Err
	}
	if g.State == "Dead" {
		return nil, errors.New("no such group")
	}
	info.State = g.State
	for _, m := range g.Members {
		got := GroupMember{MemberID: m.MemberID, InstanceID: m.InstanceID, ClientID: m.ClientID, Assignment: map[string][]int32{}}
		if a, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range a.Topics {
				got.Assignment[t.Topic] = t.Partitions
			}
		}
		info.Members = append(info.Members, got)
	}
	return info, nil
}

func partitions(set kadm.TopicsSet) map[string][]int32 {
	all := map[string][]int32{}
	for topic, ps := range set {
		all[topic] = slices.Sorted(maps.Keys(ps))
	}
	return all
}

// WaitGroupStable waits until the group is stable with that many members and,
// in a KIP-848 group, each holds what it is meant to hold.
func (c *Cluster) WaitGroupStable(ctx context.Context, group string, members int) (*GroupInfo, error) {
	for {
		g, err := c.group(ctx, group)
		if err == nil && g.State == "Stable" && len(g.Members) == members &&
			!slices.ContainsFunc(g.Members, func(m GroupMember) bool {
				return m.target != nil && !maps.EqualFunc(m.Assignment, m.target, slices.Equal)
			}) {
			return g, nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("state %s, %d members", g.State, len(g.Members))
			}
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
