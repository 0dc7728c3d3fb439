package api

import (
	"maps"
	"slices"

	"github.com/VictoriaMetrics/metrics"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// topicsRefused counts requests for topics and partitions above the limits.
var topicsRefused = metrics.NewCounter("firn_api_topics_refused_total")

// place spreads partitions [first, first+n) over the live brokers, round
// robin, so that leaders and replicas are even.
func (a *API) place(img *metastore.Image, first int, n int32, replicas int16) ([][]record.BrokerID, error) {
	brokers := slices.Sorted(maps.Keys(img.Brokers))
	if int(replicas) > len(brokers) {
		return nil, fail(kerr.InvalidReplicationFactor, "a replication factor of %d needs as many live brokers; there are %d", replicas, len(brokers))
	}
	if int(n) > a.cfg.MaxPartitionsPerCall {
		return nil, fail(kerr.PolicyViolation, "at most %d partitions can be created by one request", a.cfg.MaxPartitionsPerCall)
	}
	out := make([][]record.BrokerID, n)
	for i := range out {
		for r := range int(replicas) {
			out[i] = append(out[i], brokers[(first+i+r)%len(brokers)])
		}
	}
	return out, nil
}

// checkReplicas checks one partition's replicas as given by hand. want is how
// many there must be, 0 for any.
func checkReplicas(img *metastore.Image, ids []int32, want int) ([]record.BrokerID, error) {
	if len(ids) == 0 {
		return nil, fail(kerr.InvalidReplicaAssignment, "a partition's list of replicas is empty")
	}
	out := make([]record.BrokerID, 0, len(ids))
	for _, id := range ids {
		b := record.BrokerID(id)
		if _, ok := img.Brokers[b]; !ok {
			return nil, fail(kerr.InvalidReplicaAssignment, "broker %d is named as a replica, but is not registered", id)
		}
		if slices.Contains(out, b) {
			return nil, fail(kerr.InvalidReplicaAssignment, "broker %d is named more than once for one partition", id)
		}
		out = append(out, b)
	}
	if want > 0 && len(out) != want {
		return nil, fail(kerr.InvalidReplicaAssignment, "a partition has %d replicas where others of the topic have %d", len(out), want)
	}
	return out, nil
}

// room is how many topics and partitions the cluster may have more than it
// has.
type room struct {
	topics, partitions       int
	maxTopics, maxPartitions int
}

func (a *API) room(img *metastore.Image) *room {
	limits := a.deps.Config().Topics
	r := &room{maxTopics: limits.MaxTopics, maxPartitions: limits.MaxPartitions}
	r.topics = r.maxTopics - len(img.Topics)
	r.partitions = r.maxPartitions - img.Partitions
	return r
}

// take uses room up, or says that there is not enough of it.
func (r *room) take(topics, partitions int) error {
	switch {
	case topics > r.topics:
		topicsRefused.Inc()
		return fail(kerr.PolicyViolation, "there can be %d topics: delete some, or raise firn.max.topics", r.maxTopics)
	case partitions > r.partitions:
		topicsRefused.Inc()
		return fail(kerr.PolicyViolation, "there can be %d partitions: delete topics, or raise firn.max.partitions", r.maxPartitions)
	}
	r.topics -= topics
	r.partitions -= partitions
	return nil
}
