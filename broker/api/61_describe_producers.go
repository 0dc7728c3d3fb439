package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
)

// DescribeProducers, version 0, flexible (KIP-664): the producers of which a
// partition keeps sequences.
func (a *API) describeProducers(c *call) {
	req := c.req.Body.(*kmsg.DescribeProducersRequest)
	resp := response[*kmsg.DescribeProducersResponse](c)
	img := a.deps.Meta.Image()
	size := 0
	for _, t := range req.Topics {
		out := kmsg.NewDescribeProducersResponseTopic()
		out.Topic = t.Topic
		known := img.Topics[t.Topic]
		whole := checkTopicName(t.Topic)
		if whole == nil && known == nil {
			whole = kerr.UnknownTopicOrPartition
		}
		for _, p := range t.Partitions {
			po := kmsg.NewDescribeProducersResponseTopicPartition()
			po.Partition = p
			switch {
			case whole != nil:
				po.ErrorCode, po.ErrorMessage = codeOf(whole), messageOf(whole)
			case size >= maxAnswer:
				po.ErrorCode, po.ErrorMessage = codeOf(errTooMuch), messageOf(errTooMuch)
			default:
				a.describeProducersOf(known, &po)
				size += 64 * len(po.ActiveProducers)
			}
			out.Partitions = append(out.Partitions, po)
		}
		resp.Topics = append(resp.Topics, out)
	}
	c.send(resp)
}

func (a *API) describeProducersOf(t *metastore.Topic, po *kmsg.DescribeProducersResponseTopicPartition) {
	part, err := a.lead(t, po.Partition)
	if err != nil {
		po.ErrorCode = codeOf(err)
		return
	}
	for _, s := range part.Producers() {
		p := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
		p.ProducerID, p.ProducerEpoch, p.LastSequence = s.ProducerID, int32(s.Epoch), s.LastSequence
		p.LastTimestamp, p.CoordinatorEpoch, p.CurrentTxnStartOffset = s.LastTimestamp, s.CoordEpoch, int64(s.TxnStartOffset)
		po.ActiveProducers = append(po.ActiveProducers, p)
	}
}
