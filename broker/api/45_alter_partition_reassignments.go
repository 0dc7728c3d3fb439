package api

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
)

// AlterPartitionReassignments, versions 0–1.
//
//	0  flexible
//	1  the number of replicas may be kept from changing (KIP-860)
//
// Null replicas end a move that is under way. A partition may be told to be
// where it is; it cannot move yet.
func (a *API) alterPartitionReassignments(c *call) {
	req := c.req.Body.(*kmsg.AlterPartitionAssignmentsRequest)
	resp := response[*kmsg.AlterPartitionAssignmentsResponse](c)
	resp.AllowReplicationFactorChange = req.AllowReplicationFactorChange || len(req.Topics) == 0
	img := a.deps.Meta.Image()
	var whole error
	switch {
	case len(req.Topics) == 0:
		resp.ErrorMessage = kmsg.StringPtr("") // as Kafka
	case req.TimeoutMillis <= 0:
		whole = kerr.RequestTimedOut
		resp.ErrorCode = codeOf(whole)
	}
	for _, t := range req.Topics {
		out := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			err := whole
			if err == nil {
				err = reassign(img, img.Topics[t.Topic], p, req.Version == 0 || req.AllowReplicationFactorChange)
			}
			po := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			po.Partition, po.ErrorCode = p.Partition, codeOf(err)
			if whole == nil && po.ErrorCode != kerr.NoReassignmentInProgress.Code {
				po.ErrorMessage = messageOf(err)
			}
			out.Partitions = append(out.Partitions, po)
		}
		resp.Topics = append(resp.Topics, out)
	}
	c.send(resp)
}

// reassign says what becomes of asking for a partition's replicas.
func reassign(img *metastore.Image, t *metastore.Topic, p kmsg.AlterPartitionAssignmentsRequestTopicPartition, resize bool) error {
	if t == nil || p.Partition < 0 || int(p.Partition) >= len(t.Partitions) {
		return kerr.UnknownTopicOrPartition
	}
	if p.Replicas == nil {
		return kerr.NoReassignmentInProgress
	}
	have := t.Partitions[p.Partition].Replicas
	want, err := checkReplicas(img, p.Replicas, 0)
	switch {
	case err != nil:
		return err
	case !resize && len(want) != len(have):
		return fail(kerr.InvalidReplicationFactor, "the partition has %d replicas, and the request does not let %d take their place", len(have), len(want))
	case !slices.Equal(want, have):
		return fail(kerr.InvalidReplicaAssignment, "partitions cannot be moved between brokers yet; this one is on %v", have)
	}
	return nil
}
