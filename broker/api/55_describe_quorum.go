package api

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
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
// observer, a member that has no vote yet. A folder id
// is none (zero), and brokers are where a voter is reached.
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
			if ok {
				a.describeVoters(&po, resp)
			} else {
				po.ErrorCode, po.ErrorMessage = codeOf(kerr.UnknownTopicOrPartition), messageOf(kerr.UnknownTopicOrPartition)
			}
			out.Partitions = append(out.Partitions, po)
		}
		resp.Topics = append(resp.Topics, out)
	}
	c.send(resp)
}

func (a *API) describeVoters(po *kmsg.DescribeQuorumResponseTopicPartition, resp *kmsg.DescribeQuorumResponse) {
	q, img := a.deps.Meta.Quorum(), a.deps.Meta.Image()
	po.LeaderID, po.LeaderEpoch, po.HighWatermark = int32(q.Leader), q.Term, q.Revision
	now := a.now().UnixMilli()
	state := func(id record.BrokerID) kmsg.DescribeQuorumResponseTopicPartitionReplicaState {
		v := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
		v.ReplicaID, v.LogEndOffset = int32(id), q.Revision
		v.LastFetchTimestamp, v.LastCaughtUpTimestamp = now, now
		return v
	}
	for _, id := range q.Voters {
		po.CurrentVoters = append(po.CurrentVoters, state(id))
	}
	for _, id := range q.Learners {
		po.Observers = append(po.Observers, state(id))
	}
	for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
		resp.Nodes = append(resp.Nodes, quorumNode(img.Brokers[id]))
	}
}

func quorumNode(b metastore.Broker) kmsg.DescribeQuorumResponseNode {
	n := kmsg.NewDescribeQuorumResponseNode()
	n.NodeID = int32(b.ID)
	l := kmsg.NewDescribeQuorumResponseNodeListener()
	l.Name, l.Host, l.Port = "PLAINTEXT", b.Host, uint16(b.Port)
	n.Listeners = append(n.Listeners, l)
	return n
}
