package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
)

// OffsetCommit, versions 2–10.
//
//	 2  retention time
//	 3  throttle time
//	 5  no retention time any more (KIP-211)
//	 6  leader epochs (KIP-320)
//	 7  group instance id (KIP-345)
//	 8  flexible
//	 9  member epochs of the new protocol (KIP-848)
//	10  topic ids instead of names (KIP-848)
func (a *API) offsetCommit(c *call) {
	req := c.req.Body.(*kmsg.OffsetCommitRequest)
	resp := response[*kmsg.OffsetCommitResponse](c)
	img := a.deps.Meta.Image()

	// What exists goes to the coordinator, by name; at[i][j] is where in the
	// reply the answer to its i-th topic and j-th partition belongs.
	known := *req
	known.Topics = nil
	type place struct{ t, p int }
	var at [][]place
	for _, in := range req.Topics {
		if len(in.Partitions) == 0 {
			continue // Kafka's answer leaves them out
		}
		out := kmsg.NewOffsetCommitResponseTopic()
		out.Topic, out.TopicID = in.Topic, in.TopicID
		topic, topicErr := commitTopic(req.Version, img, &in)
		fwd := in
		fwd.Partitions = nil
		var places []place
		for _, p := range in.Partitions {
			po := kmsg.NewOffsetCommitResponseTopicPartition()
			po.Partition = p.Partition
			err := topicErr
			if err == nil && (p.Partition < 0 || int(p.Partition) >= len(topic.Partitions)) {
				err = kerr.UnknownTopicOrPartition
			}
			if err == nil {
				fwd.Partitions = append(fwd.Partitions, p)
				places = append(places, place{len(resp.Topics), len(out.Partitions)})
			}
			po.ErrorCode = codeOf(err)
			out.Partitions = append(out.Partitions, po)
		}
		resp.Topics = append(resp.Topics, out)
		if len(fwd.Partitions) > 0 {
			fwd.Topic, fwd.TopicID = topic.Name, topic.ID
			known.Topics = append(known.Topics, fwd)
			at = append(at, places)
		}
	}
	if len(known.Topics) > 0 {
		got := a.deps.Groups.OffsetCommit(&known)
		for i := range min(len(got.Topics), len(at)) {
			for j := range min(len(got.Topics[i].Partitions), len(at[i])) {
				w := at[i][j]
				resp.Topics[w.t].Partitions[w.p].ErrorCode = got.Topics[i].Partitions[j].ErrorCode
			}
		}
	}
	c.send(resp)
}

func commitTopic(version int16, img *metastore.Image, in *kmsg.OffsetCommitRequestTopic) (*metastore.Topic, error) {
	if version >= 10 {
		if t := img.TopicIDs[in.TopicID]; t != nil {
			return t, nil
		}
		return nil, kerr.UnknownTopicID
	}
	if t := img.Topics[in.Topic]; t != nil {
		return t, nil
	}
	return nil, kerr.UnknownTopicOrPartition
}
