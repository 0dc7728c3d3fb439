package api

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
)

// ListPartitionReassignments, version 0, flexible (KIP-455). What does not move
// is not listed, whether it exists or not. Null topics means all.
func (a *API) listPartitionReassignments(c *call) {
	req := c.req.Body.(*kmsg.ListPartitionReassignmentsRequest)
	resp := response[*kmsg.ListPartitionReassignmentsResponse](c)
	img := a.deps.Meta.Image()
	add := func(t *metastore.Topic, asked func(int32) bool) {
		out := kmsg.NewListPartitionReassignmentsResponseTopic()
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if len(p.Adding)+len(p.Removing) == 0 || !asked(int32(p.ID)) {
				continue
			}
			po := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
			po.Partition, po.Replicas = int32(p.ID), brokerIDs(p.Replicas)
			po.AddingReplicas, po.RemovingReplicas = brokerIDs(p.Adding), brokerIDs(p.Removing)
			out.Partitions = append(out.Partitions, po)
		}
		if len(out.Partitions) > 0 {
			out.Topic = t.Name
			resp.Topics = append(resp.Topics, out)
		}
	}
	if req.Topics == nil {
		for _, name := range slices.Sorted(maps.Keys(img.Topics)) {
			add(img.Topics[name], func(int32) bool { return true })
		}
	}
	for _, t := range req.Topics {
		if topic := img.Topics[t.Topic]; topic != nil {
			add(topic, func(p int32) bool { return slices.Contains(t.Partitions, p) })
		}
	}
	c.send(resp)
}
