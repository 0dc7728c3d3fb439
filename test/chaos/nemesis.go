package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/firnlog/firn/test/chaos/history"
)

// stopPatience is how long a broker that was asked to stop may take, with its
// links cut or its disk full.
const stopPatience = 40 * time.Second

// nemesis takes the steps of a plan.
type nemesis struct {
	cluster *cluster
	rec     *history.Recorder
	topics  *topics
	log     func(format string, args ...any)

	loss sync.Mutex // held while a broker loses its disk or its place in etcd: one at a time

	mu    sync.Mutex
	count map[Action]int // steps taken
	errs  []error
}

// run takes the steps, each in its time, and returns when all are undone.
func (n *nemesis) run(ctx context.Context, plan []Step) {
	began := time.Now()
	var wg sync.WaitGroup
	for i, s := range plan {
		if !sleep(ctx, time.Until(began.Add(s.At))) {
			break
		}
		wg.Go(func() { n.step(ctx, i+1, s) })
	}
	wg.Wait()
}

// sleep waits; false when ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (n *nemesis) step(ctx context.Context, no int, s Step) {
	if id := n.topics.who(ctx, s.Whom, s.Seed); id > 0 && int(id) <= len(n.cluster.brokers) {
		s.Brokers = []int{int(id)}
	}
	n.rec.Record(history.Event{Kind: history.Fault, Number: int32(no), Text: s.String()})
	n.log("%v for %v", s, s.For)
	undo, err := n.begin(ctx, no, s)
	said := "done"
	if err == nil {
		n.mu.Lock()
		n.count[s.Action]++
		n.mu.Unlock()
		sleep(ctx, s.For)
	}
	// What was done of a step that failed is undone too.
	if err = errors.Join(err, undo()); err != nil {
		said = err.Error()
		n.log("%v: %v", s, err)
	}
	if err != nil && !errors.Is(err, errLeftOut) {
		n.mu.Lock()
		n.errs = append(n.errs, fmt.Errorf("%v: %w", s, err))
		n.mu.Unlock()
	}
	n.rec.Record(history.Event{Kind: history.Heal, Number: int32(no), Text: said})
}

// errLeftOut says that a step was not taken, as it must not be just then.
var errLeftOut = errors.New("left out")

func nothing() error { return nil }

// begin does what the step says, and gives what undoes it, also with an error.
func (n *nemesis) begin(ctx context.Context, no int, s Step) (undo func() error, err error) {
	switch s.Action {
	case Kill:
		return n.each(s, func(b *broker) error { b.end(syscall.SIGKILL, 0); return nil }, (*broker).back)
	case Stop:
		return n.each(s, func(b *broker) error { b.end(syscall.SIGTERM, stopPatience); return nil }, (*broker).back)
	case Pause:
		return n.each(s, func(b *broker) error { b.pause(); return nil }, func(b *broker) error { b.resume(); return nil })
	case Wipe:
		return n.alone(ctx, func() (func() error, error) {
			return n.each(s, func(b *broker) error { b.end(syscall.SIGKILL, 0); return b.wipe(true) }, (*broker).back)
		})
	case Leave:
		return n.alone(ctx, func() (func() error, error) {
			return n.each(s, func(b *broker) error { return b.leave(ctx, n.topics) }, func(b *broker) error { return b.join(ctx, n.topics) })
		})
	case Forget:
		return n.each(s, func(b *broker) error { b.end(syscall.SIGKILL, 0); return b.wipe(false) }, (*broker).back)
	case Fill:
		return n.each(s, (*broker).fill, (*broker).drain)
	case Sync:
		return n.each(s, func(b *broker) error { b.syncs.delay.Add(int64(s.Delay)); return nil },
			func(b *broker) error { b.syncs.delay.Add(-int64(s.Delay)); return nil })
	case Clock:
		return n.each(s, func(b *broker) error { return b.jump(s.Delay) }, func(b *broker) error { return b.jump(0) })
	case Cut:
		n.cluster.net.set(no, s.Links, rule{drop: true})
		return func() error { n.cluster.net.clear(no); return nil }, nil
	case Slow:
		n.cluster.net.set(no, s.Links, rule{delay: s.Delay, loss: s.Loss})
		return func() error { n.cluster.net.clear(no); return nil }, nil
	case Reset:
		n.cluster.net.set(no, s.Links, rule{reset: true})
		return func() error { n.cluster.net.clear(no); return nil }, nil
	case Topic:
		return n.topics.come(ctx, no)
	case Leaders:
		return nothing, n.topics.electLeaders(ctx)
	case Move:
		return nothing, n.topics.move(ctx, s.Seed)
	}
	return nothing, fmt.Errorf("nobody knows how to %s", s.Action)
}

// alone takes a step by which a broker loses its disk or its member of etcd,
// while the others are good and none of them loses anything: two at once would
// be a loss that nobody promised to survive.
func (n *nemesis) alone(ctx context.Context, step func() (func() error, error)) (func() error, error) {
	if !n.loss.TryLock() {
		return nothing, fmt.Errorf("%w: another broker has lost something", errLeftOut)
	}
	hctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	well := func(ctx context.Context) error {
		return errors.Join(n.topics.healthy(ctx), n.topics.members(ctx, n.cluster.members))
	}
	if err := eventually(hctx, well); err != nil {
		n.loss.Unlock()
		return nothing, fmt.Errorf("%w: %w", errLeftOut, err)
	}
	undo, err := step()
	return func() error {
		defer n.loss.Unlock()
		err := undo()
		hctx, cancel := context.WithTimeout(ctx, healing)
		defer cancel()
		// Other faults go on: when it does not get well, that is seen at the end.
		_ = eventually(hctx, func(ctx context.Context) error { return n.topics.members(ctx, n.cluster.members) })
		return err
	}, err
}

// each does something to all brokers of a step at once.
func (n *nemesis) each(s Step, do, undo func(*broker) error) (func() error, error) {
	all := func(f func(*broker) error) error {
		errs := make(chan error, len(s.Brokers))
		for _, id := range s.Brokers {
			go func() { errs <- f(n.cluster.brokers[id-1]) }()
		}
		var first error
		for range s.Brokers {
			if err := <-errs; err != nil {
				first = err
			}
		}
		return first
	}
	return func() error { return all(undo) }, all(do)
}
