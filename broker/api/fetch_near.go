package api

import (
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// Consumers may read from a replica that is near (KIP-392): with
// replica.selector.class the leader names one in the client's rack, and who
// follows answers up to the high watermark that it knows.

// tellWithin is how long a follower's fetch that waits for records goes on
// waiting when the high watermark has moved, so that news of it goes with
// records where there are many.
const tellWithin = 5 * time.Millisecond

var fetchesSentElsewhere = metrics.NewCounter("firn_api_fetches_sent_to_near_replicas_total") // partitions of fetches

// nearness notes what the request and the configs say of reading elsewhere.
func (f *fetchCall) nearness(req *kmsg.FetchRequest) {
	if !f.a.deps.Config().Replication.RackAware {
		return
	}
	f.tellHW = f.replica.isBroker()
	img, self := f.a.deps.Meta.Image(), f.a.cfg.BrokerID
	if f.tellHW || req.Version < 11 || req.Rack == "" || img.Brokers[self].Rack == req.Rack {
		return
	}
	rack := req.Rack
	f.near = func(id record.BrokerID) bool { return f.img.Brokers[id].Rack == rack && f.img.Eligible(id) }
}

// sentElsewhere makes fp's reply the name of a replica that is nearer to the
// client than this one, the leader, if there is one. It has no records then.
func (f *fetchCall) sentElsewhere(fp *fetchPart, p *partition.Partition) bool {
	if f.near == nil || p.Answers(record.Epoch(fp.want.leaderEpoch), false) != nil {
		return false
	}
	from := p.ReadReplica(record.Offset(fp.want.offset), f.near)
	if from == replica.None {
		return false
	}
	fp.reply.extent = p.Extent(false)
	fp.reply.elsewhere, fp.reply.from = true, from
	fetchesSentElsewhere.Inc()
	return true
}
