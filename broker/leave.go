package broker

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

const (
	// leaveFor is how long a stop waits for others to take over what this broker
	// leads.
	leaveFor = 10 * time.Second
	// holdFor is how long it has producers wait for that.
	holdFor = time.Second
)

// leave has others lead what they can, before this broker stops: clients are
// told of the new leaders by one that still answers them.
func (b *Broker) leave(ctx context.Context) {
	node := record.BrokerID(b.cfg.NodeID)
	if !othersStay(b.meta.Image(), node) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveFor)
	defer cancel()
	began := time.Now()
	for tp := range stillLed(b.meta.Image(), node) {
		if p := b.topics.Get(tp.Topic, tp.Partition); p != nil {
			p.Hold(began.Add(holdFor))
		}
	}
	rev, err := b.meta.SetLeaving(ctx)
	if err != nil {
		b.log.Warn("other brokers were not told that this one stops; they will notice", "error", err)
		return
	}
	if !b.awaitNone(ctx, rev, stillLed) {
		b.log.Warn("this broker stops while it leads what others could lead", "partitions", len(slices.Collect(stillLed(b.meta.Image(), node))))
		return
	}
	b.log.Info("other brokers lead what this one led", "took", time.Since(began))
	// Until then it fetches what others lead, so that nobody waits for it.
	if !b.awaitNone(ctx, rev, stillInSync) {
		b.log.Warn("this broker stops while others still count on it as in sync", "partitions", len(slices.Collect(stillInSync(b.meta.Image(), node))))
	}
}

// awaitNone waits until an image of revision rev or later has none of the
// partitions that of gives for this broker; false when ctx ended before.
func (b *Broker) awaitNone(ctx context.Context, rev int64, of func(*metastore.Image, record.BrokerID) iter.Seq[record.TopicPartition]) bool {
	none := make(chan struct{}, 1)
	defer b.meta.OnChange(func(img *metastore.Image) {
		if img.Revision >= rev && isEmpty(of(img, record.BrokerID(b.cfg.NodeID))) {
			select {
			case none <- struct{}{}:
			default:
			}
		}
	})()
	select {
	case <-none:
		return true
	case <-ctx.Done():
		return false
	}
}

// othersStay says whether there is another broker to take over anything.
func othersStay(img *metastore.Image, node record.BrokerID) bool {
	if !img.Eligible(node) {
		return false
	}
	for id := range img.Brokers {
		if id != node && img.Stays(id) {
			return true
		}
	}
	return false
}

// stillLed gives the partitions that node leads and another in-sync replica
// could lead.
func stillLed(img *metastore.Image, node record.BrokerID) iter.Seq[record.TopicPartition] {
	return withOthers(img, node, func(p *metastore.Partition) bool { return p.Leader == node })
}

// stillInSync gives the partitions of which node is one of the in-sync replicas
// and another one stays.
func stillInSync(img *metastore.Image, node record.BrokerID) iter.Seq[record.TopicPartition] {
	return withOthers(img, node, func(p *metastore.Partition) bool { return slices.Contains(p.ISR, node) })
}

// withOthers gives those partitions that have an in-sync replica on another
// broker that stays.
func withOthers(img *metastore.Image, node record.BrokerID, which func(*metastore.Partition) bool) iter.Seq[record.TopicPartition] {
	could := func(id record.BrokerID) bool {
		return id != node && img.Stays(id)
	}
	return func(yield func(record.TopicPartition) bool) {
		for name, t := range img.Topics {
			for i := range t.Partitions {
				p := &t.Partitions[i]
				if which(p) && slices.ContainsFunc(p.ISR, could) && !yield(record.TopicPartition{Topic: name, Partition: p.ID}) {
					return
				}
			}
		}
	}
}

func isEmpty[T any](seq iter.Seq[T]) bool {
	for range seq {
		return false
	}
	return true
}
