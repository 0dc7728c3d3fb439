package api

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/broker/topicconfig"
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
	topics, all := req.Topics, req.Topics == nil
	whole := electRefusal(req)
	if all && whole == nil {
		img := a.deps.Meta.Image()
		for _, name := range slices.Sorted(maps.Keys(img.Topics)) {
			t := kmsg.NewElectLeadersRequestTopic()
			t.Topic = name
			for p := range img.Topics[name].Partitions {
				t.Partitions = append(t.Partitions, int32(p))
			}
			topics = append(topics, t)
		}
	}
	var wishes []partitionWish
	for _, t := range topics {
		for _, p := range t.Partitions {
			wishes = append(wishes, partitionWish{t.Topic, p, func(img *metastore.Image, t *metastore.Topic, r replica.Record) (replica.Record, bool, error) {
				return a.election(img, t, r, req.ElectionType)
			}})
		}
	}
	var errs []error
	if resp.ErrorCode = codeOf(whole); whole != nil {
		errs = slices.Repeat([]error{whole}, len(wishes))
	} else {
		ctx, cancel := c.deadline(req.TimeoutMillis)
		defer cancel()
		errs = a.changePartitions(ctx, wishes)
	}
	for _, t := range topics {
		out := kmsg.NewElectLeadersResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			if !all || codeOf(errs[0]) != kerr.ElectionNotNeeded.Code {
				out.Partitions = append(out.Partitions, electionAnswer(p, errs[0]))
			}
			errs = errs[1:]
		}
		resp.Topics = append(resp.Topics, out)
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

func electionAnswer(p int32, err error) kmsg.ElectLeadersResponseTopicPartition {
	out := kmsg.NewElectLeadersResponseTopicPartition()
	out.Partition, out.ErrorCode = p, codeOf(err)
	if out.ErrorCode != kerr.RequestTimedOut.Code {
		out.ErrorMessage = messageOf(err)
	}
	return out
}

// election gives the record of a partition with the leader that is asked for.
func (a *API) election(img *metastore.Image, t *metastore.Topic, r replica.Record, kind int8) (next replica.Record, changed bool, err error) {
	view := replica.View{
		Eligible: img.Eligible,
		Leaving:  func(id record.BrokerID) bool { return img.Brokers[id].Leaving },
		Unclean:  kind == electUnclean,
	}
	if cfg, err := topicconfig.Parse(t.Configs, a.deps.Config().TopicDefaults()); err == nil {
		view.MinInsync = cfg.MinInSyncReplicas
	}
	led := r.Leader != replica.None && img.Eligible(r.Leader)
	if kind == electUnclean {
		if led {
			return r, false, kerr.ElectionNotNeeded
		}
		if next, _ = replica.Elect(r, view); next.Leader == replica.None {
			return r, false, fail(kerr.EligibleLeadersNotAvailable, "no replica is on a live broker: start one of %v", r.Replicas)
		}
		return next, true, nil
	}
	if led && len(r.Replicas) > 0 && r.Leader == r.Target()[0] {
		return r, false, kerr.ElectionNotNeeded
	}
	if next, changed = replica.Preferred(r, view); !changed {
		return r, false, fail(kerr.PreferredLeaderNotAvailable, "broker %d, the first of the replicas, is not alive or not in sync", r.Target()[0])
	}
	return next, true, nil
}
