package api

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// What ElectLeaders is asked for (KIP-460).
const (
	electPreferred = 0
	electUnclean   = 1
)

// ElectLeaders, versions 0–2.
//
//	1  unclean elections; error code of the whole reply (KIP-460)
//	2  flexible
//
// Null topics means all partitions; then only those are answered that are not
// led as they should be.
func (a *API) electLeaders(c *call) {
	req := c.req.Body.(*kmsg.ElectLeadersRequest)
	resp := response[*kmsg.ElectLeadersResponse](c)
	img := a.deps.Meta.Image()
	if whole := electRefusal(req); whole != nil {
		resp.ErrorCode = codeOf(whole)
		eachElection(req, resp, func(string, int32) error { return whole })
	} else if req.Topics != nil {
		eachElection(req, resp, func(topic string, p int32) error {
			return election(img, img.Topics[topic], p, req.ElectionType)
		})
	} else {
		for _, name := range slices.Sorted(maps.Keys(img.Topics)) {
			out := kmsg.NewElectLeadersResponseTopic()
			out.Topic = name
			for p := range img.Topics[name].Partitions {
				if err := election(img, img.Topics[name], int32(p), req.ElectionType); codeOf(err) != kerr.ElectionNotNeeded.Code {
					out.Partitions = append(out.Partitions, electionAnswer(int32(p), err))
				}
			}
			resp.Topics = append(resp.Topics, out)
		}
	}
	c.send(resp)
}

// electRefusal says why none of a request's elections is tried.
func electRefusal(req *kmsg.ElectLeadersRequest) error {
	switch {
	case req.Topics != nil && len(req.Topics) == 0:
		return nil // nothing to try
	case req.TimeoutMillis <= 0:
		return kerr.RequestTimedOut
	case req.ElectionType != electPreferred && req.ElectionType != electUnclean:
		return fail(kerr.InvalidRequest, "election type %d is unknown: 0 is preferred, 1 is unclean", req.ElectionType)
	}
	return nil
}

// eachElection answers every partition that a request names with what result
// says.
func eachElection(req *kmsg.ElectLeadersRequest, resp *kmsg.ElectLeadersResponse, result func(topic string, p int32) error) {
	for _, t := range req.Topics {
		out := kmsg.NewElectLeadersResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			out.Partitions = append(out.Partitions, electionAnswer(p, result(t.Topic, p)))
		}
		resp.Topics = append(resp.Topics, out)
	}
}

func electionAnswer(p int32, err error) kmsg.ElectLeadersResponseTopicPartition {
	out := kmsg.NewElectLeadersResponseTopicPartition()
	out.Partition, out.ErrorCode = p, codeOf(err)
	if out.ErrorCode != kerr.RequestTimedOut.Code {
		out.ErrorMessage = messageOf(err)
	}
	return out
}

// election says what becomes of electing a partition's leader. Logs are not
// replicated yet: whoever leads has the only log, and nobody else can take
// over.
func election(img *metastore.Image, t *metastore.Topic, p int32, kind int8) error {
	if t == nil || p < 0 || int(p) >= len(t.Partitions) {
		return kerr.UnknownTopicOrPartition
	}
	part := &t.Partitions[p]
	_, alive := img.Brokers[part.Leader]
	switch {
	case alive && (kind == electUnclean || len(part.Replicas) > 0 && part.Leader == part.Replicas[0]):
		return kerr.ElectionNotNeeded
	case kind == electUnclean:
		return fail(kerr.EligibleLeadersNotAvailable, "no replica of partition %s is on a live broker: start broker %d", record.TopicPartition{Topic: t.Name, Partition: part.ID}, part.Leader)
	}
	return fail(kerr.PreferredLeaderNotAvailable, "the preferred leader of partition %s cannot lead it", record.TopicPartition{Topic: t.Name, Partition: part.ID})
}
