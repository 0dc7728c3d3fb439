package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// OffsetFetch, versions 1–10.
//
//	 2  null topics means all; error code of the whole reply
//	 3  throttle time
//	 5  leader epochs (KIP-320)
//	 6  flexible
//	 7  require-stable (KIP-447)
//	 8  several groups in one request (KIP-709)
//	 9  member id and epoch of the new protocol (KIP-848)
//	10  topic ids instead of names (KIP-848)
func (a *API) offsetFetch(c *call) {
	req := c.req.Body.(*kmsg.OffsetFetchRequest)
	answer := func() {
		if req.Version < 10 {
			c.send(a.deps.Groups.OffsetFetch(req))
			return
		}
		c.send(a.offsetFetchByID(req))
	}
	if len(req.Groups) > 1 { // not a consumer's own, which is not to wait for others'
		a.laterIn(a.large, c, answer)
		return
	}
	answer()
}

// offsetFetchByID asks the coordinator by name and answers by id. Topics of
// unknown ids are answered here; offsets of topics that are no longer there
// have no id and are left out.
func (a *API) offsetFetchByID(req *kmsg.OffsetFetchRequest) *kmsg.OffsetFetchResponse {
	img := a.deps.Meta.Image()
	known := *req
	known.Groups = make([]kmsg.OffsetFetchRequestGroup, len(req.Groups))
	unknown := make([][]kmsg.OffsetFetchResponseGroupTopic, len(req.Groups))
	for i, g := range req.Groups {
		known.Groups[i] = g
		if g.Topics == nil {
			continue
		}
		topics := []kmsg.OffsetFetchRequestGroupTopic{} // not nil, which means all
		for _, t := range g.Topics {
			if topic := img.TopicIDs[t.TopicID]; topic != nil {
				t.Topic = topic.Name
				topics = append(topics, t)
				continue
			}
			unknown[i] = append(unknown[i], unknownOffsets(&t))
		}
		known.Groups[i].Topics = topics
	}
	resp := a.deps.Groups.OffsetFetch(&known)
	for i := range resp.Groups {
		g := &resp.Groups[i]
		kept := g.Topics[:0]
		for _, t := range g.Topics {
			if topic := img.Topics[t.Topic]; topic != nil {
				t.TopicID = topic.ID
				kept = append(kept, t)
			}
		}
		g.Topics = kept
		if g.ErrorCode == 0 && i < len(unknown) {
			g.Topics = append(g.Topics, unknown[i]...)
		}
	}
	return resp
}

func unknownOffsets(t *kmsg.OffsetFetchRequestGroupTopic) kmsg.OffsetFetchResponseGroupTopic {
	out := kmsg.NewOffsetFetchResponseGroupTopic()
	out.TopicID = t.TopicID
	for _, p := range t.Partitions {
		po := kmsg.NewOffsetFetchResponseGroupTopicPartition()
		po.Partition, po.Offset, po.LeaderEpoch = p, -1, -1
		po.Metadata = kmsg.StringPtr("")
		po.ErrorCode = kerr.UnknownTopicID.Code
		out.Partitions = append(out.Partitions, po)
	}
	return out
}
