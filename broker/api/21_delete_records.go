package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// DeleteRecords, versions 0–2.
//
//	1  throttling as KIP-219 says
//	2  flexible
func (a *API) deleteRecords(c *call) {
	req := c.req.Body.(*kmsg.DeleteRecordsRequest)
	resp := response[*kmsg.DeleteRecordsResponse](c)
	img := a.deps.Meta.Image()
	for _, t := range deletions(req) {
		out := kmsg.NewDeleteRecordsResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			po := kmsg.NewDeleteRecordsResponseTopicPartition()
			po.Partition = p.Partition
			low, err := a.deleteRecordsOf(img.Topics[t.Topic], p.Partition, p.Offset)
			if err != nil {
				low = -1
				if codeOf(err) == kerr.UnknownServerError.Code {
					a.failed("delete records failed", "topic", t.Topic, "partition", p.Partition, "error", err)
				}
			}
			po.LowWatermark, po.ErrorCode = int64(low), codeOf(err)
			out.Partitions = append(out.Partitions, po)
		}
		resp.Topics = append(resp.Topics, out)
	}
	c.send(resp)
}

// deletions gives the partitions that a request names, each once: the last
// offset named for it counts.
func deletions(req *kmsg.DeleteRecordsRequest) []kmsg.DeleteRecordsRequestTopic {
	var out []kmsg.DeleteRecordsRequestTopic
	topics, parts := map[string]int{}, map[record.TopicPartition]int{}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			i, ok := topics[t.Topic]
			if !ok {
				i = len(out)
				topics[t.Topic] = i
				out = append(out, kmsg.DeleteRecordsRequestTopic{Topic: t.Topic})
			}
			tp := record.TopicPartition{Topic: t.Topic, Partition: record.PartitionID(p.Partition)}
			if j, again := parts[tp]; again {
				out[i].Partitions[j] = p
				continue
			}
			parts[tp] = len(out[i].Partitions)
			out[i].Partitions = append(out[i].Partitions, p)
		}
	}
	return out
}

func (a *API) deleteRecordsOf(t *metastore.Topic, p int32, before int64) (record.Offset, error) {
	part, err := a.lead(t, p)
	if err != nil {
		return -1, err
	}
	if t.Internal {
		return -1, kerr.InvalidTopicException
	}
	if !part.Config().DeleteOnRetention {
		return -1, kerr.PolicyViolation
	}
	if before < -1 {
		return -1, kerr.OffsetOutOfRange
	}
	return part.DeleteRecords(record.Offset(before))
}
