package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/firnlog/firn/broker/controller"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// isrTimeout is how long one write of ISR changes may take.
const isrTimeout = 5 * time.Second

// isrChanges writes the changes of ISRs that leaders want, many at a time.
type isrChanges struct {
	meta  *metastore.Store
	log   *slog.Logger
	every func() time.Duration               // between looks at all leaders
	all   func(func(p *partition.Partition)) // calls with every open partition

	wake chan struct{} // capacity 1

	mu   sync.Mutex
	want map[*partition.Partition]struct{}
}

func newISRChanges(meta *metastore.Store, log *slog.Logger) *isrChanges {
	return &isrChanges{meta: meta, log: log, wake: make(chan struct{}, 1), want: map[*partition.Partition]struct{}{}}
}

// wanted notes that a leader may want its ISR changed.
func (c *isrChanges) wanted(p *partition.Partition) {
	c.mu.Lock()
	c.want[p] = struct{}{}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends.
func (c *isrChanges) run(ctx context.Context) {
	for {
		look := time.NewTimer(c.every())
		select {
		case <-c.wake:
		case <-look.C:
			c.all(func(p *partition.Partition) {
				if p.Leads() {
					c.wanted(p)
				}
			})
		case <-ctx.Done():
			look.Stop()
			return
		}
		look.Stop()
		c.mu.Lock()
		now := c.want
		c.want = map[*partition.Partition]struct{}{}
		c.mu.Unlock()
		c.write(ctx, now)
	}
}

// write writes what those partitions want.
func (c *isrChanges) write(ctx context.Context, parts map[*partition.Partition]struct{}) {
	img, epoch := c.meta.Image(), c.meta.BrokerEpoch()
	mayEnter := func(id record.BrokerID, epoch int64) bool {
		return img.Stays(id) && img.Brokers[id].Epoch == epoch
	}
	type wanted struct {
		p   *partition.Partition
		c   replica.Change
		was []record.BrokerID // the ISR
	}
	var all []wanted
	var changes []metastore.ISRChange
	for p := range parts {
		w, ok := p.WantedISR(mayEnter)
		if !ok {
			continue
		}
		change := metastore.ISRChange{PartitionChange: metastore.PartitionChange{Topic: p.TopicID(), Partition: controller.PartitionOf(p.TP().Partition, w.Record)}}
		if w.Entering != replica.None {
			change.Enter = []metastore.Entrant{{Broker: w.Entering, Epoch: w.EnteringEpoch}}
		}
		all = append(all, wanted{p, w, isrIn(img, p)})
		changes = append(changes, change)
	}
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, isrTimeout)
	defer cancel()
	revisions, err := c.meta.ChangeISR(ctx, epoch, changes)
	if err != nil {
		c.log.Warn("changes of in-sync replicas could not be written; they are tried again", "partitions", len(all), "error", err)
	}
	for i, w := range all {
		switch {
		case i < len(revisions) && revisions[i] > 0:
			c.log.Info("in-sync replicas changed", "partition", w.p.TP().String(), "isr", w.c.Record.ISR, "elr", w.c.Record.ELR)
			countISR(w.was, w.c.Record.ISR)
			w.p.ISRAnswered(w.c, replica.Written, revisions[i])
		case err != nil:
			w.p.ISRAnswered(w.c, replica.Unknown, 0)
		default:
			w.p.ISRAnswered(w.c, replica.Refused, 0)
		}
	}
}

// isrIn is a partition's ISR in an image, nil where that has none.
func isrIn(img *metastore.Image, p *partition.Partition) []record.BrokerID {
	t := img.TopicIDs[p.TopicID()]
	if i := int(p.TP().Partition); t != nil && i < len(t.Partitions) {
		return t.Partitions[i].ISR
	}
	return nil
}
