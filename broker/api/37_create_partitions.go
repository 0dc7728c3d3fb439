package api

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// CreatePartitions, versions 0–3.
//
//	1  throttling as KIP-219 says
//	2  flexible
//	3  throttling by quota (KIP-599)
func (a *API) createPartitions(c *call) {
	req := c.req.Body.(*kmsg.CreatePartitionsRequest)
	resp := response[*kmsg.CreatePartitionsResponse](c)
	if expired(req.TimeoutMillis) {
		for i := range req.Topics {
			out := kmsg.NewCreatePartitionsResponseTopic()
			out.Topic, out.ErrorCode = req.Topics[i].Topic, kerr.RequestTimedOut.Code
			resp.Topics = append(resp.Topics, out)
		}
		c.send(resp)
		return
	}
	ctx, cancel := c.deadline(req.TimeoutMillis)
	defer cancel()
	topics, twice := eachOnce(req.Topics, func(t *kmsg.CreatePartitionsRequestTopic) string { return t.Topic })
	for _, in := range topics {
		out := kmsg.NewCreatePartitionsResponseTopic()
		out.Topic = in.Topic
		err := a.addPartitions(ctx, in, twice[in.Topic], req.ValidateOnly)
		if err != nil && codeOf(err) == kerr.UnknownServerError.Code {
			a.failed("create partitions failed", "topic", in.Topic, "error", err)
		}
		if out.ErrorCode = codeOf(err); err != error(kerr.UnknownTopicOrPartition) {
			out.ErrorMessage = messageOf(err)
		}
		resp.Topics = append(resp.Topics, out)
	}
	c.send(resp)
}

func (a *API) addPartitions(ctx context.Context, in *kmsg.CreatePartitionsRequestTopic, duplicate, validateOnly bool) error {
	if duplicate {
		return fail(kerr.InvalidRequest, "the request names the topic more than once")
	}
	img := a.deps.Meta.Image()
	t := img.Topics[in.Topic]
	if t == nil {
		return kerr.UnknownTopicOrPartition
	}
	if t.Internal {
		return fail(kerr.InvalidTopicException, "topic %s is internal; its number of partitions cannot be changed", t.Name)
	}
	assignment, err := a.newPartitions(img, t, in)
	if err == nil {
		err = a.room(img).take(0, len(assignment))
	}
	if err != nil || validateOnly {
		return err
	}
	revision, err := a.deps.Meta.AddPartitions(ctx, t.ID, assignment, len(t.Partitions))
	if err != nil {
		return err
	}
	return a.deps.Partitions.AwaitApplied(ctx, revision)
}

// newPartitions gives the replicas of the partitions that are to be added.
func (a *API) newPartitions(img *metastore.Image, t *metastore.Topic, in *kmsg.CreatePartitionsRequestTopic) ([][]record.BrokerID, error) {
	have := len(t.Partitions)
	more := int(in.Count) - have
	switch {
	case more == 0:
		return nil, fail(kerr.InvalidPartitions, "topic %s has %d partitions already", t.Name, have)
	case more < 0:
		return nil, fail(kerr.InvalidPartitions, "topic %s has %d partitions; there cannot be fewer (%d)", t.Name, have, in.Count)
	case more > a.cfg.MaxPartitionsPerCall:
		return nil, fail(kerr.PolicyViolation, "at most %d partitions can be created by one request", a.cfg.MaxPartitionsPerCall)
	}
	replicas := len(t.Partitions[0].Replicas)
	if in.Assignment == nil {
		return a.place(img, max(0, slices.Index(a.places(img), t.Partitions[have-1].Replicas[0]))+1, int32(more), int16(replicas))
	}
	if len(in.Assignment) != more {
		return nil, fail(kerr.InvalidReplicaAssignment, "%d partitions are to be added, but replicas are assigned to %d", more, len(in.Assignment))
	}
	var out [][]record.BrokerID
	for _, p := range in.Assignment {
		ids, err := a.checkReplicas(img, p.Replicas, replicas)
		if err != nil {
			return nil, err
		}
		out = append(out, ids)
	}
	return out, nil
}
