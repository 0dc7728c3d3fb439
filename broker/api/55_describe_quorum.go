package api

import (
	"context"
	"encoding/binary"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
)

// DescribeQuorum, versions 0–2.
//
//	0  flexible
//	1  when replicas last fetched and were caught up (KIP-836)
//	2  error messages, the voters' folders and end points (KIP-853)
//
// The metadata is in the brokers' embedded etcd and not in a topic, but is
// described as Kafka's: offsets are etcd's revisions, the epoch is the term of
// its leader, each voter is the broker in whose process it runs, and so is each
// observer, a member that has no vote yet. -1 is one whose broker is not known:
// it has never run. A folder id is etcd's id of the member. Each member
// is asked now: that is when it last fetched, or else when it last answered
// this broker, and when it last had all that the others had.
//
// Nodes are all brokers, with the addresses that each registered: PLAINTEXT for
// Kafka's clients, HTTP for operators, PEER for etcd's members.
func (a *API) describeQuorum(c *call) {
	req := c.req.Body.(*kmsg.DescribeQuorumRequest)
	resp := response[*kmsg.DescribeQuorumResponse](c)
	ok := len(req.Topics) == 1 && req.Topics[0].Topic == metadataTopic &&
		len(req.Topics[0].Partitions) == 1 && req.Topics[0].Partitions[0].Partition == 0
	if req.Version >= 2 {
		resp.ErrorMessage = kmsg.StringPtr("") // as Kafka, for none
	}
	for _, t := range req.Topics {
		out := kmsg.NewDescribeQuorumResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			po := kmsg.NewDescribeQuorumResponseTopicPartition()
			po.Partition, po.ErrorMessage = p.Partition, resp.ErrorMessage
			err := error(kerr.UnknownTopicOrPartition)
			if ok {
				err = a.describeMembers(c.ctx, &po)
			}
			if err != nil {
				po.ErrorCode, po.ErrorMessage = codeOf(err), messageOf(err)
			}
			out.Partitions = append(out.Partitions, po)
		}
		resp.Topics = append(resp.Topics, out)
	}
	if ok {
		img := a.deps.Meta.Image()
		for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
			resp.Nodes = append(resp.Nodes, quorumNode(img.Brokers[id]))
		}
	}
	c.send(resp)
}

func (a *API) describeMembers(ctx context.Context, po *kmsg.DescribeQuorumResponseTopicPartition) error {
	all, err := a.deps.Meta.Health(ctx)
	if err != nil {
		return fail(kerr.BrokerNotAvailable, "this broker reaches none of etcd's members")
	}
	po.LeaderID = -1
	for _, m := range all {
		if m.Leader {
			po.LeaderID = int32(m.Broker)
		}
		po.LeaderEpoch = max(po.LeaderEpoch, int32(m.Term))
		po.HighWatermark = max(po.HighWatermark, m.Revision)
	}
	for i, v := range a.members.states(all, a.now().UnixMilli()) {
		if all[i].Learner {
			po.Observers = append(po.Observers, v)
		} else {
			po.CurrentVoters = append(po.CurrentVoters, v)
		}
	}
	return nil
}

// membersSeen keeps what is known of members that do not answer any more.
type membersSeen struct {
	mu   sync.Mutex
	last map[uint64]kmsg.DescribeQuorumResponseTopicPartitionReplicaState // of the present members only
}

// states tells of each of all, in order. What is not known is -1.
func (s *membersSeen) states(all []metastore.MemberHealth, now int64) []kmsg.DescribeQuorumResponseTopicPartitionReplicaState {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.last
	s.last = make(map[uint64]kmsg.DescribeQuorumResponseTopicPartitionReplicaState, len(all))
	out := make([]kmsg.DescribeQuorumResponseTopicPartitionReplicaState, len(all))
	for i, m := range all {
		v, known := last[m.ID]
		if !known {
			v = kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
			v.LogEndOffset, v.LastFetchTimestamp, v.LastCaughtUpTimestamp = -1, -1, -1
		}
		v.ReplicaID, v.ReplicaDirectoryID = int32(m.Broker), memberUUID(m.ID)
		if m.Err == nil {
			v.LogEndOffset, v.LastFetchTimestamp = m.Revision, now
			if m.Lag == 0 {
				v.LastCaughtUpTimestamp = now
			}
		}
		s.last[m.ID], out[i] = v, v
	}
	return out
}

// memberUUID is etcd's id of a member as the id of a voter's folder: a member
// that is made anew, on an empty folder, has another one.
func memberUUID(id uint64) (u [16]byte) {
	binary.BigEndian.PutUint64(u[8:], id)
	return u
}

func quorumNode(b metastore.Broker) kmsg.DescribeQuorumResponseNode {
	n := kmsg.NewDescribeQuorumResponseNode()
	n.NodeID = int32(b.ID)
	add := func(name, addr string) {
		host, text, err := net.SplitHostPort(addr)
		port, perr := strconv.ParseUint(text, 10, 16)
		if err != nil || perr != nil {
			return // it has none
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = b.Host // it listens on all of its addresses
		}
		l := kmsg.NewDescribeQuorumResponseNodeListener()
		l.Name, l.Host, l.Port = name, host, uint16(port)
		n.Listeners = append(n.Listeners, l)
	}
	add("PLAINTEXT", b.Addr())
	add("HTTP", b.HTTP)
	add("PEER", b.Peer)
	return n
}
