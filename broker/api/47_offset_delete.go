package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// OffsetDelete, version 0 (KIP-496).
func (a *API) offsetDelete(c *call) {
	req := c.req.Body.(*kmsg.OffsetDeleteRequest)
	img := a.deps.Meta.Image()

	// What does not exist is answered here; the coordinator is asked in any
	// case, since it knows whether the group is there.
	known := *req
	known.Topics = nil
	missing := map[string][]int32{}
	for _, in := range req.Topics {
		topic := img.Topics[in.Topic]
		fwd := in
		fwd.Partitions = nil
		for _, p := range in.Partitions {
			if topic == nil || p.Partition < 0 || int(p.Partition) >= len(topic.Partitions) {
				missing[in.Topic] = append(missing[in.Topic], p.Partition)
				continue
			}
			fwd.Partitions = append(fwd.Partitions, p)
		}
		if len(fwd.Partitions) > 0 {
			known.Topics = append(known.Topics, fwd)
		}
	}
	resp := a.deps.Groups.OffsetDelete(&known)
	if resp.ErrorCode == 0 {
		addMissing(resp, req, missing)
	}
	c.send(resp)
}

// addMissing adds the partitions that do not exist, by topic, in the order of
// the request.
func addMissing(resp *kmsg.OffsetDeleteResponse, req *kmsg.OffsetDeleteRequest, missing map[string][]int32) {
	at := map[string]int{}
	for i := range resp.Topics {
		at[resp.Topics[i].Topic] = i
	}
	for i := range req.Topics {
		name := req.Topics[i].Topic
		if len(missing[name]) == 0 {
			continue
		}
		if _, ok := at[name]; !ok {
			at[name] = len(resp.Topics)
			rt := kmsg.NewOffsetDeleteResponseTopic()
			rt.Topic = name
			resp.Topics = append(resp.Topics, rt)
		}
		rt := &resp.Topics[at[name]]
		for _, p := range missing[name] {
			rp := kmsg.NewOffsetDeleteResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p, kerr.UnknownTopicOrPartition.Code
			rt.Partitions = append(rt.Partitions, rp)
		}
		delete(missing, name)
	}
}
