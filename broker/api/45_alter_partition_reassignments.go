package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metastore"
)

// AlterPartitionReassignments, versions 0–1.
//
//	0  flexible
//	1  the number of replicas may be kept from changing (KIP-860)
//
// It begins a move and answers; the controller completes it once the new
// replicas are in sync. Null replicas cancel one that is under way.
func (a *API) alterPartitionReassignments(c *call) {
	req := c.req.Body.(*kmsg.AlterPartitionAssignmentsRequest)
	resp := response[*kmsg.AlterPartitionAssignmentsResponse](c)
	resp.AllowReplicationFactorChange = req.AllowReplicationFactorChange || len(req.Topics) == 0
	var whole error
	switch {
	case len(req.Topics) == 0:
		resp.ErrorMessage = kmsg.StringPtr("") // as Kafka
	case req.TimeoutMillis <= 0:
		whole = kerr.RequestTimedOut
		resp.ErrorCode = codeOf(whole)
	}
	var wishes []partitionWish
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			wishes = append(wishes, partitionWish{t.Topic, p.Partition, func(img *metastore.Image, _ *metastore.Topic, r replica.Record) (replica.Record, bool, error) {
				return a.reassign(img, r, p.Replicas, req.Version == 0 || req.AllowReplicationFactorChange)
			}})
		}
	}
	var errs []error
	if whole == nil {
		ctx, cancel := c.deadline(req.TimeoutMillis)
		defer cancel()
		errs = a.changePartitions(ctx, wishes)
	}
	at := 0
	for _, t := range req.Topics {
		out := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			err := whole
			if err == nil {
				err = errs[at]
			}
			at++
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

// reassign gives the record with which a partition begins to move to the
// replicas to, or back where it was if that is nil.
func (a *API) reassign(img *metastore.Image, r replica.Record, to []int32, resize bool) (next replica.Record, changed bool, err error) {
	if to == nil {
		if !r.Reassigning() {
			return r, false, kerr.NoReassignmentInProgress
		}
		next, changed = replica.Reassign(r, r.Original())
		return next, changed, nil
	}
	want, err := a.checkReplicas(img, to, 0, r.Replicas...)
	switch have := r.Original(); {
	case err != nil:
		return r, false, err
	case !resize && len(want) != len(have):
		return r, false, fail(kerr.InvalidReplicationFactor, "the partition has %d replicas, and the request does not let %d take their place", len(have), len(want))
	}
	next, changed = replica.Reassign(r, want)
	return next, changed, nil
}
