// Package controller decides who leads: what the metadata says of brokers and
// partitions goes in, changed partition records come out. Plan is pure; a
// Controller runs it whenever the metadata changes, on the one broker that
// holds the controller's key.
package controller

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// Metadata is what a controller needs of the metastore; *metastore.Store is
// the one implementation.
type Metadata interface {
	Image() *metastore.Image
	OnChange(fn func(*metastore.Image)) (cancel func())
	ControllerEpoch() (revision int64, ok bool)
	Lead(ctx context.Context, controller int64, changes []metastore.PartitionChange) (revisions []int64, err error)
	Unfence(ctx context.Context, controller int64, id record.BrokerID, u metastore.Unfenced) (revision int64, err error)
}

// Deps are what a Controller uses.
type Deps struct {
	Log    *slog.Logger
	Meta   Metadata
	Node   record.BrokerID
	Topics func(*metastore.Topic) Topic // a topic's settings
	// Preferred is how often partitions are given back to their preferred
	// leaders; <= 0: never.
	Preferred func() time.Duration
}

const (
	// retryAfter is when what could not be written is tried again.
	retryAfter = 20 * time.Millisecond
	// laterAfter is how long after elections a plan's Later is written: until
	// then brokers and clients are busy with new leaders.
	laterAfter = 250 * time.Millisecond
)

// Controller runs Plan while its broker is the controller.
type Controller struct {
	deps Deps
	wake chan struct{} // capacity 1

	ctx  context.Context
	end  context.CancelFunc
	done sync.WaitGroup

	seen    scope     // of the last plan whose records were all written
	written int64     // revision of the newest write: no plan is made by an image from before
	elected time.Time // when elections were written last
}

// New starts a controller.
func New(deps Deps) *Controller {
	c := &Controller{deps: deps, wake: make(chan struct{}, 1)}
	c.ctx, c.end = context.WithCancel(context.Background())
	cancel := deps.Meta.OnChange(func(*metastore.Image) { c.signal() })
	c.done.Go(func() {
		defer cancel()
		c.run()
	})
	return c
}

func (c *Controller) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Close ends it, and waits.
func (c *Controller) Close() {
	c.end()
	c.done.Wait()
}

func (c *Controller) run() {
	var retry <-chan time.Time
	balance := time.Now()
	for {
		var due <-chan time.Time
		if every := c.deps.Preferred(); every > 0 {
			due = time.After(time.Until(balance.Add(every)))
		}
		preferred := false
		select {
		case <-c.wake:
		case <-retry:
		case <-due:
			preferred, balance = true, time.Now()
		case <-c.ctx.Done():
			return
		}
		retry = nil
		epoch, is := c.deps.Meta.ControllerEpoch()
		if !is {
			c.seen = scope{}
			offline.Set(0)
			if c.deps.Meta.Image().Controller == c.deps.Node {
				retry = time.After(retryAfter) // elected, and not told yet
			}
			continue
		}
		switch err := c.work(epoch, preferred); {
		case err == nil || c.ctx.Err() != nil:
		case err == errLater:
			retry = time.After(time.Until(c.elected.Add(laterAfter)))
		default:
			if !errors.Is(err, errStale) {
				failures.Inc()
				c.deps.Log.Warn("the controller's changes could not be written, trying again", "error", err)
			}
			retry = time.After(retryAfter)
		}
	}
}

var (
	// errStale says that records changed meanwhile: a newer image is on its way.
	errStale = errors.New("controller: records have changed meanwhile")
	// errLater says that what is left to be written can wait.
	errLater = errors.New("controller: the rest is written later")
)

// work makes one plan and writes it.
func (c *Controller) work(epoch int64, preferred bool) error {
	began := time.Now()
	img := c.deps.Meta.Image()
	if img.Revision < c.written {
		return nil // the image that has it is on its way
	}
	plan, next := c.seen.plan(img, c.deps.Topics, preferred)
	if plan.Elections > 0 {
		c.elected = began
	}
	write, later := plan.Changes, began.Sub(c.elected) < laterAfter && len(plan.Later) > 0
	if !later {
		write = append(write, plan.Later...)
		plan.Shrinks += len(plan.Later)
	}
	if len(write) > 0 {
		revisions, err := c.deps.Meta.Lead(c.ctx, epoch, write)
		c.written = max(c.written, slices.Max(append(revisions, 0)))
		if err == nil && slices.Contains(revisions, 0) {
			err = errStale
		}
		if err != nil {
			c.seen = scope{}
			return err
		}
		changes.Add(len(write))
		shrinks.Add(plan.Shrinks)
		elections.Add(plan.Elections)
		c.deps.Log.Info("the controller changed partitions", "changed", len(write), "new leaders", plan.Elections, "without a leader", plan.Offline, "took", time.Since(began))
	}
	offline.Set(float64(plan.Offline))
	for _, a := range plan.Arrived {
		rev, err := c.deps.Meta.Unfence(c.ctx, epoch, a.ID, metastore.Unfenced{Epoch: a.Epoch, Disk: a.Disk, Cache: a.Cache})
		if err != nil {
			c.seen = scope{}
			return err
		}
		c.written = max(c.written, rev)
		c.deps.Log.Info("a broker was taken in", "broker", int32(a.ID), "epoch", a.Epoch)
	}
	if later {
		c.seen = scope{}
		return errLater
	}
	c.seen = next
	return nil
}
