package broker

import (
	"context"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// leaveFor is how long a stop waits for others to take over what this broker
// leads.
const leaveFor = 10 * time.Second

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
	rev, err := b.meta.SetLeaving(ctx)
	if err != nil {
		b.log.Warn("other brokers were not told that this one stops; they will notice", "error", err)
		return
	}
	moved := make(chan struct{}, 1)
	defer b.meta.OnChange(func(img *metastore.Image) {
		if img.Revision >= rev && stillLed(img, node) == 0 {
			select {
			case moved <- struct{}{}:
			default:
			}
		}
	})()
	select {
	case <-moved:
		b.log.Info("other brokers lead what this one led", "took", time.Since(began))
	case <-ctx.Done():
		b.log.Warn("this broker stops while it leads what others could lead", "partitions", stillLed(b.meta.Image(), node))
	}
}

// othersStay says whether there is another broker to take over anything.
func othersStay(img *metastore.Image, node record.BrokerID) bool {
	if !img.Eligible(node) {
		return false
	}
	for id, b := range img.Brokers {
		if id != node && !b.Leaving && img.Eligible(id) {
			return true
		}
	}
	return false
}

// stillLed counts the partitions that node leads and another in-sync replica
// could lead.
func stillLed(img *metastore.Image, node record.BrokerID) (n int) {
	for _, t := range img.Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if p.Leader != node {
				continue
			}
			for _, id := range p.ISR {
				if id != node && img.Eligible(id) && !img.Brokers[id].Leaving {
					n++
					break
				}
			}
		}
	}
	return n
}
