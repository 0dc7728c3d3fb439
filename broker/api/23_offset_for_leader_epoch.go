package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// OffsetForLeaderEpoch, versions 2–4: where a leader epoch ended, by which a
// reader sees whether the log was truncated under it (KIP-320).
//
//	2  current leader epoch
//	3  replica id
//	4  flexible
func (a *API) offsetForLeaderEpoch(c *call) {
	req := c.req.Body.(*kmsg.OffsetForLeaderEpochRequest)
	resp := response[*kmsg.OffsetForLeaderEpochResponse](c)
	img := a.deps.Meta.Image()
	for _, t := range req.Topics {
		out := kmsg.NewOffsetForLeaderEpochResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			po := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			po.Partition = p.Partition
			epoch, end, err := a.epochEnd(img.Topics[t.Topic], &p)
			po.LeaderEpoch, po.EndOffset, po.ErrorCode = int32(epoch), int64(end), codeOf(err)
			out.Partitions = append(out.Partitions, po)
		}
		resp.Topics = append(resp.Topics, out)
	}
	c.send(resp)
}

func (a *API) epochEnd(t *metastore.Topic, in *kmsg.OffsetForLeaderEpochRequestTopicPartition) (record.Epoch, record.Offset, error) {
	p, err := a.leadAt(t, in.Partition, in.CurrentLeaderEpoch)
	if err != nil || in.LeaderEpoch == -1 {
		return -1, -1, err
	}
	epoch, end := p.EpochEnd(record.Epoch(in.LeaderEpoch))
	return epoch, end, nil
}
