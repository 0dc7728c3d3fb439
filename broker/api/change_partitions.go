package api

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/controller"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metastore"
)

// partitionWish is a change of one partition record that an operator asks for.
type partitionWish struct {
	topic string
	p     int32
	// decide gives the record that is to be, or why there is none; changed is
	// false when it is so already.
	decide func(img *metastore.Image, t *metastore.Topic, r replica.Record) (next replica.Record, changed bool, err error)
}

// changeAttempts is how often a change is decided anew because the record was
// changed by somebody else meanwhile.
const changeAttempts = 10

// changePartitions writes what is wished, each by the newest record, and waits
// until it can be seen here. errs[i] is the outcome of wishes[i].
func (a *API) changePartitions(ctx context.Context, wishes []partitionWish) (errs []error) {
	errs = make([]error, len(wishes))
	left := make([]int, len(wishes))
	for i := range left {
		left[i] = i
	}
	newest := int64(0)
	for attempt := 0; len(left) > 0 && attempt < changeAttempts; attempt++ {
		img := a.deps.Meta.Image()
		var changes []metastore.PartitionChange
		var tried []int
		for _, i := range left {
			w := &wishes[i]
			t := img.Topics[w.topic]
			if t == nil || w.p < 0 || int(w.p) >= len(t.Partitions) {
				errs[i] = kerr.UnknownTopicOrPartition
				continue
			}
			next, changed, err := w.decide(img, t, controller.RecordOf(&t.Partitions[w.p]))
			if errs[i] = err; err == nil && changed {
				changes = append(changes, metastore.PartitionChange{Topic: t.ID, Partition: controller.PartitionOf(t.Partitions[w.p].ID, next)})
				tried = append(tried, i)
			}
		}
		if left = nil; len(changes) == 0 {
			break
		}
		revisions, err := a.deps.Meta.ChangePartitions(ctx, changes)
		for n, i := range tried {
			switch {
			case n < len(revisions) && revisions[n] > 0:
				newest = max(newest, revisions[n])
			case err != nil:
				errs[i] = err
			default:
				left = append(left, i)
			}
		}
		if len(left) > 0 { // what changed them is in a newer image
			if err := a.deps.Partitions.AwaitApplied(ctx, img.Revision+1); err != nil {
				break
			}
		}
	}
	for _, i := range left {
		errs[i] = fmt.Errorf("%w: the partition is being changed by others again and again; ask once more", kerr.RequestTimedOut)
	}
	if newest > 0 {
		if err := a.deps.Partitions.AwaitApplied(ctx, newest); err != nil {
			return slices.Repeat([]error{err}, len(wishes))
		}
	}
	return errs
}
