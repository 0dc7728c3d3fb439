package partition

import (
	"context"
	"errors"
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/record"
)

// Uncleanable says why a partition is not compacted any more. It is tried
// again after a restart.
type Uncleanable struct {
	Kind   string // corrupt, memory or error: short, for a metric
	Reason error
}

// Uncleanable is nil while nothing keeps the partition from compaction.
func (p *Partition) Uncleanable() *Uncleanable { return p.uncleanable.Load() }

// dirt says what compaction of the partition would find at time now, and
// whether it is worth its while: more than min.cleanable.dirty.ratio is dirty,
// or something is dirty for longer than max.compaction.lag.ms.
func (p *Partition) dirt(now time.Time) (d commitlog.Dirt, worth bool, err error) {
	cfg := p.cfg.Load()
	if !cfg.Compact || cfg.Tiered || p.usable() != nil {
		return d, false, nil
	}
	late := cfg.MaxCompactionLag > 0 && cfg.MaxCompactionLag < math.MaxInt64
	if d, err = p.log.Dirt(p.stable(), newest(cfg, now), late); err != nil || d.Dirty == 0 {
		return d, false, err
	}
	overdue := late && d.Oldest > 0 && d.Oldest < now.Add(-cfg.MaxCompactionLag).UnixMilli()
	return d, overdue || ratio(d) > cfg.MinCleanableRatio, nil
}

func ratio(d commitlog.Dirt) float64 { return float64(d.Dirty) / float64(max(d.Clean+d.Dirty, 1)) }

// stable is the offset below which no transaction is open and every in-sync
// replica has everything.
func (p *Partition) stable() record.Offset {
	return min(record.Offset(p.hw.Load()), record.Offset(p.lso.Load()))
}

// newest is the timestamp above which a record is too young for compaction.
func newest(cfg *Config, now time.Time) int64 {
	if cfg.MinCompactionLag <= 0 {
		return math.MaxInt64
	}
	return now.UnixMilli() - cfg.MinCompactionLag.Milliseconds()
}

// errNotCompacted says that the partition's settings changed, or that it was
// closed, during a compaction.
var errNotCompacted = errors.New("partition: not compacted any more")

// paceStep is the most that is read or written between two looks at the rate.
// So long at most does a change of the topic's settings wait.
const paceStep = 64 << 10

// compact compacts the partition's sealed segments. keyBytes is the memory
// for keys; pace is called after so many bytes were read or written, and may
// wait until its context ends, which closing the partition does; an error of
// it ends the work. Only one caller does it at a time; another gets nothing
// done.
func (p *Partition) compact(ctx context.Context, now time.Time, keyBytes int64, pace func(context.Context, int) error) (commitlog.Compacted, error) {
	if !p.compacting.TryLock() {
		return commitlog.Compacted{}, nil
	}
	defer p.compacting.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.stopCompaction.Store(&cancel)
	wanted := func() error {
		if cfg := p.cfg.Load(); !cfg.Compact || cfg.Tiered || p.closed.Load() {
			return errNotCompacted
		}
		return nil
	}
	if err := wanted(); err != nil {
		return commitlog.Compacted{}, err
	}
	cfg := p.cfg.Load()
	done, err := p.log.Compact(commitlog.Compaction{
		Now:             now.UnixMilli(),
		Limit:           p.stable(),
		Newest:          newest(cfg, now),
		DeleteRetention: cfg.DeleteRetention,
		KeyBytes:        keyBytes,
		Pace: func(n int) error {
			for n > 0 { // small steps, so that closing does not wait long
				if err := wanted(); err != nil {
					return err
				}
				part := min(n, paceStep)
				if err := pace(ctx, part); err != nil {
					return err
				}
				n -= part
			}
			return nil
		},
		Turn: func(f func() error) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if err := wanted(); err != nil {
				return err
			}
			return f()
		},
	})
	if err != nil {
		return done, fmt.Errorf("partition %v: %w", p.tp, err)
	}
	return done, nil
}

// judgeCompaction says whether an error of dirt or compact will come again
// whenever it is tried; then the partition is uncleanable.
func (p *Partition) judgeCompaction(err error) (lasting bool) {
	u := &Uncleanable{Kind: "error", Reason: err}
	switch {
	case errors.Is(err, errNotCompacted), errors.Is(err, context.Canceled), errors.Is(err, commitlog.ErrStale),
		errors.Is(err, commitlog.ErrFull), errors.Is(err, commitlog.ErrClosed), errors.Is(err, commitlog.ErrFailed),
		errors.Is(err, commitlog.ErrOutOfRange), // segments went faster than they could be looked at
		errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
		return false
	case errors.Is(err, record.ErrCorrupt):
		u.Kind = "corrupt"
	case errors.Is(err, commitlog.ErrKeyMap):
		u.Kind = "memory"
	}
	if p.uncleanable.CompareAndSwap(nil, u) {
		metrics.GetOrCreateGauge(p.uncleanableMetric(u), nil).Set(1)
	}
	return true
}

func (p *Partition) uncleanableMetric(u *Uncleanable) string {
	return fmt.Sprintf("firn_cleaner_uncleanable{topic=%q,partition=\"%d\",reason=%q}", p.tp.Topic, p.tp.Partition, u.Kind)
}

func (p *Partition) forgetUncleanable() {
	if u := p.uncleanable.Swap(nil); u != nil {
		metrics.UnregisterMetric(p.uncleanableMetric(u))
	}
}
