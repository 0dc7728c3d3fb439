package broker

import (
	"io"
	"slices"

	"github.com/VictoriaMetrics/metrics"

	"github.com/firnlog/firn/broker/controller"
	"github.com/firnlog/firn/broker/health"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

var (
	isrShrinks = metrics.NewCounter("firn_broker_isr_shrinks_total") // by leaders; those by the controller are its own
	isrExpands = metrics.NewCounter("firn_broker_isr_expands_total")
)

// partitionCounts are of this broker: replicas that are open here, partitions
// that it leads, and how those are, so that the brokers' sums are the cluster's.
type partitionCounts struct {
	replicas, leads int
	health.Counts
}

func (t *topics) counts(img *metastore.Image) (n partitionCounts) {
	for name, ot := range *t.open.Load() {
		topic := img.Topics[name]
		if topic == nil || topic.ID != ot.id {
			continue // gone, or made anew
		}
		for i, p := range ot.partitions {
			if p == nil {
				continue
			}
			n.replicas++
			if i < len(topic.Partitions) && topic.Partitions[i].Leader == t.node {
				n.leads++
				n.Add(&health.Partition{Record: controller.RecordOf(&topic.Partitions[i]), Want: p.Config().MinInsync})
			}
		}
	}
	return n
}

// writeCounts writes them for Prometheus.
func (b *Broker) writeCounts(w io.Writer) {
	n := b.topics.counts(b.meta.Image())
	for _, g := range []struct {
		name string
		n    int
	}{
		{"firn_broker_replicas", n.replicas},
		{"firn_broker_leaders", n.leads},
		{"firn_broker_partitions_under_replicated", n.UnderReplicated},
		{"firn_broker_partitions_under_min_isr", n.UnderMin},
		{"firn_broker_partitions_at_min_isr", n.AtMin},
		{"firn_broker_partitions_reassigning", n.Reassigning},
	} {
		metrics.WriteGaugeUint64(w, g.name, uint64(g.n))
	}
}

// countISR counts a change of in-sync replicas that a leader has written.
func countISR(was, is []record.BrokerID) {
	if lacks(is, was) {
		isrShrinks.Inc()
	}
	if lacks(was, is) {
		isrExpands.Inc()
	}
}

// lacks says whether some of all are not in ids.
func lacks(ids, all []record.BrokerID) bool {
	return slices.ContainsFunc(all, func(id record.BrokerID) bool { return !slices.Contains(ids, id) })
}
