package api

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/VictoriaMetrics/metrics"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// topicsRefused counts requests for topics and partitions above the limits.
var topicsRefused = metrics.NewCounter("firn_api_topics_refused_total")

// anywhere has place begin at a broker by chance, so that topics of few
// partitions do not all lie on the same ones.
const anywhere = -1

// place spreads partitions [first, first+n) over the live brokers, but for
// those that are drained, so that
// leaders and replicas are even, and the replicas of a partition over racks as
// long as there are racks that have none of it.
func (a *API) place(img *metastore.Image, first int, n int32, replicas int16) ([][]record.BrokerID, error) {
	brokers := a.places(img)
	if int(replicas) > len(brokers) || len(brokers) == 0 {
		return nil, fail(kerr.InvalidReplicationFactor, "a replication factor of %d needs as many live brokers; there are %d%s", replicas, len(brokers), a.drained(img))
	}
	if int(n) > a.cfg.MaxPartitionsPerCall {
		return nil, fail(kerr.PolicyViolation, "at most %d partitions can be created by one request", a.cfg.MaxPartitionsPerCall)
	}
	if first == anywhere {
		first = rand.IntN(len(brokers) * len(brokers))
	}
	out := make([][]record.BrokerID, n)
	for i := range out {
		out[i] = replicasFrom(img, brokers, first+i, int(replicas))
	}
	return out, nil
}

// drained names the live brokers that get nothing because they are drained, for
// the end of a message.
func (a *API) drained(img *metastore.Image) string {
	var ids []record.BrokerID
	for _, id := range a.deps.Config().Balance.Drained {
		if _, alive := img.Brokers[record.BrokerID(id)]; alive {
			ids = append(ids, record.BrokerID(id))
		}
	}
	if len(ids) == 0 {
		return ""
	}
	return fmt.Sprintf(", without those that firn.drained.brokers names: %v", ids)
}

// places lists the brokers that may be given replicas such that neighbours are
// in different racks, as far as that can be.
func (a *API) places(img *metastore.Image) []record.BrokerID {
	drained := a.deps.Config().Balance.Drained
	racks := map[string][]record.BrokerID{}
	for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
		if b := img.Brokers[id]; !b.Leaving && !slices.Contains(drained, int32(id)) {
			racks[b.Rack] = append(racks[b.Rack], id)
		}
	}
	names := slices.Sorted(maps.Keys(racks))
	var out []record.BrokerID
	for more := true; more; {
		more = false
		for _, name := range names {
			if ids := racks[name]; len(ids) > 0 {
				out, racks[name], more = append(out, ids[0]), ids[1:], true
			}
		}
	}
	return out
}

// replicasFrom gives the i-th partition's replicas. The first is the next broker
// in turn. The others follow at a distance that grows with each turn, so that
// the brokers that share a leader's followers are not always the same.
func replicasFrom(img *metastore.Image, brokers []record.BrokerID, i, n int) []record.BrokerID {
	leader, others := i%len(brokers), len(brokers)-1
	out := []record.BrokerID{brokers[leader]}
	if n == 1 {
		return out
	}
	shift := i / len(brokers)
	used := map[string]bool{img.Brokers[brokers[leader]].Rack: true}
	for _, newRacksOnly := range []bool{true, false} {
		for j := 0; j < others && len(out) < n; j++ {
			id := brokers[(leader+1+(shift+j)%others)%len(brokers)]
			rack := img.Brokers[id].Rack
			if slices.Contains(out, id) || newRacksOnly && used[rack] {
				continue
			}
			used[rack] = true
			out = append(out, id)
		}
	}
	return out
}

// checkReplicas checks one partition's replicas as given by hand. want is how
// many there must be, 0 for any; have are those it has, which may stay although
// they are drained.
func (a *API) checkReplicas(img *metastore.Image, ids []int32, want int, have ...record.BrokerID) ([]record.BrokerID, error) {
	if len(ids) == 0 {
		return nil, fail(kerr.InvalidReplicaAssignment, "a partition's list of replicas is empty")
	}
	out := make([]record.BrokerID, 0, len(ids))
	for _, id := range ids {
		b := record.BrokerID(id)
		if _, ok := img.Brokers[b]; !ok {
			return nil, fail(kerr.InvalidReplicaAssignment, "broker %d is named as a replica, but is not registered", id)
		}
		if slices.Contains(a.deps.Config().Balance.Drained, id) && !slices.Contains(have, b) {
			return nil, fail(kerr.InvalidReplicaAssignment, "broker %d is drained (firn.drained.brokers), so that it gets no replicas", id)
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
