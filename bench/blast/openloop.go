package blast

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// OpenLoop sends one batch after the other to the topic's partitions in turn
// at a fixed rate, however long answers take, while one consumer reads along.
// The topic must be empty. Latencies count from when a batch should have been
// sent, so that one that waits behind a stall counts with all of its wait.
type OpenLoop struct {
	Topic   Topic
	Batches *Batches
	Acks    int16 // 1 or -1
	Rate    int64 // bytes before compression a second
	For     time.Duration
	Settle  time.Duration // at the start, not counted
	Unread  bool          // no consumer
}

const pollWait = 500 * time.Millisecond // what consumers ask for

// Run sends p.Rate for p.For and waits until the consumer has everything.
func (p OpenLoop) Run(ctx context.Context) (*Result, error) {
	interval := time.Duration(float64(p.Batches.Bytes) / float64(p.Rate) * float64(time.Second))
	if interval <= 0 || p.Acks == 0 {
		return nil, errors.New("an open loop needs a rate that it can keep, and acks")
	}
	addr, err := p.Topic.leader(ctx)
	if err != nil {
		return nil, err
	}
	out, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	in, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	l := &loop{OpenLoop: p, interval: interval, sends: int(p.For / interval), uncounted: int(p.Settle / interval)}
	if l.sends <= l.uncounted {
		return nil, errors.New("an open loop that sends nothing which counts")
	}
	if err := l.writable(ctx, out); err != nil {
		return nil, err
	}
	fetch := newFetcher(in, p.Topic, 1<<20)
	l.began = time.Now().Add(10 * time.Millisecond)
	var acks, arrivals Histogram
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range []*conn{out, in} {
		stop := c.closeWith(ctx)
		defer stop()
	}
	g.Go(func() error { return l.send(out) })
	g.Go(func() error { return l.acknowledged(out, &acks) })
	if !p.Unread {
		g.Go(func() error { return l.consume(ctx, fetch, &arrivals) })
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("open loop on %s: %w", p.Topic.Name, err)
	}
	r := &Result{Bytes: int64(l.sends) * p.Batches.Bytes, Requests: int64(l.sends), Retries: l.retries, Took: time.Since(l.began), Latency: acks, EndToEnd: arrivals}
	return r, nil
}

type loop struct {
	OpenLoop
	interval  time.Duration
	sends     int
	uncounted int       // of the first sends
	began     time.Time // when send 0 is due
	retries   int64
}

// due is when send i should be on its way.
func (l *loop) due(i int) time.Time { return l.began.Add(time.Duration(i) * l.interval) }

// writable sends one batch to each partition, again and again until it is
// taken: these are the first at each.
func (l *loop) writable(ctx context.Context, c *conn) error {
	var quota atomic.Int64
	quota.Store(int64(l.Topic.Partitions) * l.Batches.Bytes)
	s := sender{Produce: Produce{Topic: l.Topic, Batches: l.Batches, Connections: 1, InFlight: 1, Acks: l.Acks}, c: c, quota: &quota}
	for partition := range l.Topic.Partitions {
		s.mine = append(s.mine, partition)
	}
	err := s.run(ctx)
	l.retries = s.result.Retries
	return err
}

// send runs on a thread of its own: the runtime's timers may be a millisecond
// late, which is more than what is measured.
func (l *loop) send(c *conn) error {
	runtime.LockOSThread() // for ever: the thread ends with the goroutine
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("timer slack: %w", err)
	}
	var b []byte
	for i := range l.sends {
		if wait := time.Until(l.due(i)); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			if err := unix.Nanosleep(&ts, nil); err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("sleep: %w", err)
			}
		}
		batch := l.Batches.Encoded[i%len(l.Batches.Encoded)]
		b = append(appendProduce(b[:0], l.Topic.Name, i%l.Topic.Partitions, l.Acks, int32(i), len(batch)), batch...)
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) acknowledged(c *conn, h *Histogram) error {
	for i := range l.sends {
		correlation, code, err := c.produced(l.Topic.Name)
		if err != nil {
			return err
		}
		if correlation != int32(i) {
			return fmt.Errorf("an answer to request %d, want %d", correlation, i)
		}
		if err := kerr.ErrorForCode(code); err != nil {
			return fmt.Errorf("partition %d: %w", i%l.Topic.Partitions, err)
		}
		if i >= l.uncounted {
			h.Record(time.Since(l.due(i)), 1)
		}
	}
	return nil
}

// consume reads until all batches have come. A batch's offset says which send
// it was: they go round the partitions and all have as many records.
func (l *loop) consume(ctx context.Context, f *fetcher, h *Histogram) error {
	for left := l.sends + l.Topic.Partitions; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := f.fetch(pollWait, func(partition int, base int64) {
			left--
			nth := int(base)/l.Batches.Records - 1 // the first is that of writable
			if i := nth*l.Topic.Partitions + partition; nth >= 0 && i >= l.uncounted {
				h.Record(time.Since(l.due(i)), 1)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
