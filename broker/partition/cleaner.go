package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/firnlog/firn/broker/commitlog"
)

// CleanerConfig is a broker's settings of compaction, under the names that
// Kafka has for them. Zero takes the default.
type CleanerConfig struct {
	Threads        int           // log.cleaner.threads: partitions compacted at once; default 1
	KeyBytes       int64         // log.cleaner.dedupe.buffer.size: memory for keys, all threads together; default 128 MiB
	BytesPerSecond float64       // log.cleaner.io.max.bytes.per.second: read and written, all threads together; default 0, no limit
	Backoff        time.Duration // log.cleaner.backoff.ms: between looks when nothing is worth compacting; default 15 s
}

func (c CleanerConfig) orDefaults() CleanerConfig {
	if c.Threads <= 0 {
		c.Threads = 1
	}
	if c.KeyBytes <= 0 {
		c.KeyBytes = 128 << 20
	}
	if c.Backoff <= 0 {
		c.Backoff = 15 * time.Second
	}
	return c
}

// Cleaner compacts a broker's partitions, the dirtiest first.
type Cleaner struct {
	log *slog.Logger
	now func() time.Time
	all func(func(*Partition)) // calls with every open partition

	cfg   atomic.Pointer[CleanerConfig]
	limit *rate.Limiter
	wake  chan struct{} // 1 deep

	mu   sync.Mutex // of busy and wait; never held across I/O
	busy map[*Partition]struct{}
	wait map[*Partition]time.Time // not to be tried before
}

// NewCleaner makes a cleaner; Run makes it work. now may be nil.
func NewCleaner(cfg CleanerConfig, log *slog.Logger, now func() time.Time, all func(func(*Partition))) *Cleaner {
	if now == nil {
		now = time.Now
	}
	c := &Cleaner{log: log, now: now, all: all, limit: rate.NewLimiter(rate.Inf, paceStep), wake: make(chan struct{}, 1),
		busy: map[*Partition]struct{}{}, wait: map[*Partition]time.Time{}}
	c.SetConfig(cfg)
	return c
}

// SetConfig takes over new settings; compactions under way keep their memory.
func (c *Cleaner) SetConfig(cfg CleanerConfig) {
	cfg = cfg.orDefaults()
	c.cfg.Store(&cfg)
	if cfg.BytesPerSecond > 0 {
		c.limit.SetLimit(rate.Limit(cfg.BytesPerSecond))
	} else {
		c.limit.SetLimit(rate.Inf)
	}
	c.poke()
}

func (c *Cleaner) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run compacts until ctx ends; then it waits for what is under way, which
// ends soon and leaves every log whole.
func (c *Cleaner) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	for ctx.Err() == nil {
		cfg := c.cfg.Load()
		for p := c.next(cfg.Threads); p != nil; p = c.next(cfg.Threads) {
			work.Go(func() {
				defer c.poke()
				defer c.release(p)
				c.compact(ctx, p, cfg.KeyBytes/int64(cfg.Threads))
			})
		}
		timer := time.NewTimer(cfg.Backoff)
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// next picks the dirtiest of the partitions that are worth it, nil for none
// or when as many as threads are busy.
func (c *Cleaner) next(threads int) *Partition {
	now := c.now()
	c.mu.Lock()
	full := len(c.busy) >= threads
	for p, until := range c.wait {
		if !now.Before(until) {
			delete(c.wait, p)
		}
	}
	c.mu.Unlock()
	if full {
		return nil
	}
	var best *Partition
	var dirty, uncleanable int64
	most := -1.0
	c.all(func(p *Partition) {
		if p.Uncleanable() != nil {
			uncleanable++
			return
		}
		if c.resting(p) {
			return
		}
		d, worth, err := p.dirt(now)
		if err != nil {
			c.report(p, err)
			return
		}
		dirty += d.Dirty
		if worth && ratio(d) > most {
			best, most = p, ratio(d)
		}
	})
	dirtyBytes.Set(float64(dirty))
	uncleanablePartitions.Set(float64(uncleanable))
	cleanerLastLook.Set(float64(now.Unix()))
	if best != nil {
		c.mu.Lock()
		c.busy[best] = struct{}{}
		c.mu.Unlock()
	}
	return best
}

func (c *Cleaner) resting(p *Partition) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, busy := c.busy[p]
	_, wait := c.wait[p]
	return busy || wait
}

func (c *Cleaner) release(p *Partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, p)
}

func (c *Cleaner) compact(ctx context.Context, p *Partition, keyBytes int64) {
	began := c.now()
	done, err := p.compact(ctx, began, keyBytes, func(ctx context.Context, n int) error {
		if err := c.limit.WaitN(ctx, n); err != nil {
			return fmt.Errorf("compaction ends with the broker, or the partition is closed: %w", context.Canceled)
		}
		return nil
	})
	cleanerRuns.Inc()
	cleanerLastRun.Set(float64(c.now().Unix()))
	cleanerSeconds.Update(c.now().Sub(began).Seconds())
	if err != nil {
		c.report(p, err)
		return
	}
	c.log.Debug("compacted a partition", "partition", p.TP().String(), "up_to", int64(done.End), "read", done.Read, "written", done.Written, "kept", done.Kept, "removed", done.Removed)
}

// report logs a failed compaction, and sees to it that the partition is left
// alone for good, or for a while.
func (c *Cleaner) report(p *Partition, err error) {
	if p.judgeCompaction(err) {
		cleanerFailures.Inc()
		c.log.Error("a partition cannot be compacted and is left as it is until the next start; nothing of it is lost", "partition", p.TP().String(), "err", err)
		return
	}
	c.mu.Lock()
	c.wait[p] = c.now().Add(c.cfg.Load().Backoff)
	c.mu.Unlock()
	if errors.Is(err, commitlog.ErrFull) {
		c.log.Warn("compaction waits for room on the disk", "partition", p.TP().String(), "err", err)
	}
}
