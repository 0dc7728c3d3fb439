package api

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
)

// DescribeTopicPartitions, version 0, flexible (KIP-966): topics in the order
// of their names, a page of partitions at a time; the cursor is where a page
// begins. No topics means all. Logs are not replicated yet, so that no replica
// outside of the ISR could lead: the eligible leader replicas are none.
func (a *API) describeTopicPartitions(c *call) {
	req := c.req.Body.(*kmsg.DescribeTopicPartitionsRequest)
	resp := response[*kmsg.DescribeTopicPartitionsResponse](c)
	img := a.deps.Meta.Image()
	names, err := describedTopics(req, img)
	if err != nil {
		for _, t := range req.Topics {
			out := kmsg.NewDescribeTopicPartitionsResponseTopic()
			out.Topic, out.ErrorCode = kmsg.StringPtr(t.Topic), codeOf(err)
			resp.Topics = append(resp.Topics, out)
		}
		c.send(resp)
		return
	}
	room := max(1, min(int(req.ResponsePartitionLimit), a.deps.Config().Topics.MaxDescribed))
	for i, name := range names {
		if room == 0 {
			resp.NextCursor = nextCursor(name, 0)
			break
		}
		first := 0
		if i == 0 && req.Cursor != nil && req.Cursor.Topic == name {
			first = int(req.Cursor.Partition)
		}
		out, next := a.describeTopicPage(img, name, first, room)
		resp.Topics = append(resp.Topics, out)
		if next > 0 {
			resp.NextCursor = nextCursor(name, next)
			break
		}
		room -= len(out.Partitions)
	}
	c.send(resp)
}

func nextCursor(topic string, partition int) *kmsg.DescribeTopicPartitionsResponseNextCursor {
	next := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	next.Topic, next.Partition = topic, int32(partition)
	return &next
}

// describedTopics gives the names to describe from the cursor on, sorted, each
// once. The cursor must name one of the topics asked for, if any are.
func describedTopics(req *kmsg.DescribeTopicPartitionsRequest, img *metastore.Image) ([]string, error) {
	all := map[string]struct{}{}
	for _, t := range req.Topics {
		all[t.Topic] = struct{}{}
	}
	if len(req.Topics) == 0 {
		for name := range img.Topics {
			all[name] = struct{}{}
		}
	}
	names := slices.Sorted(maps.Keys(all))
	if req.Cursor == nil {
		return names, checkDescribed(names)
	}
	if _, ok := all[req.Cursor.Topic]; req.Cursor.Partition < 0 || !ok && len(req.Topics) > 0 {
		return nil, kerr.InvalidRequest
	}
	at, _ := slices.BinarySearch(names, req.Cursor.Topic)
	return names[at:], checkDescribed(names[at:])
}

// checkDescribed refuses the empty name, which sorts before all others, with
// the code that Kafka has for it.
func checkDescribed(names []string) error {
	if len(names) > 0 && names[0] == "" {
		return kerr.UnknownServerError
	}
	return nil
}

// describeTopicPage describes up to room partitions of a topic from first on.
// next is the partition to go on with, 0 when that was all.
func (a *API) describeTopicPage(img *metastore.Image, name string, first, room int) (out kmsg.DescribeTopicPartitionsResponseTopic, next int) {
	out = kmsg.NewDescribeTopicPartitionsResponseTopic()
	out.Topic, out.AuthorizedOperations = &name, topicOperations
	t := img.Topics[name]
	if t == nil {
		out.ErrorCode = codeOf(kerr.UnknownTopicOrPartition)
		if err := checkTopicName(name); err != nil {
			out.ErrorCode = codeOf(err)
		}
		return out, 0
	}
	out.TopicID, out.IsInternal = t.ID, t.Internal
	end := min(len(t.Partitions), first+room)
	for i := first; i < end; i++ {
		m := a.metadataPartition(img, t, &t.Partitions[i])
		p := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		p.ErrorCode, p.Partition, p.LeaderID, p.LeaderEpoch = m.ErrorCode, m.Partition, m.Leader, m.LeaderEpoch
		p.Replicas, p.ISR, p.OfflineReplicas = m.Replicas, m.ISR, m.OfflineReplicas
		p.EligibleLeaderReplicas, p.LastKnownELR = brokerIDs(t.Partitions[i].ELR), []int32{}
		out.Partitions = append(out.Partitions, p)
	}
	if end < len(t.Partitions) && first < len(t.Partitions) {
		next = end
	}
	return out, next
}
