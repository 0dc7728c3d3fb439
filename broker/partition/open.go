package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/record"
)

// Partition is one partition of a topic, open on this broker. All methods may
// be called from any goroutine.
type Partition struct {
	tp   record.TopicPartition
	id   record.TopicID
	deps Deps
	log  *commitlog.Log
	cfg  atomic.Pointer[Config]

	born time.Time // Deps.Now when it was opened
	role role

	epoch     atomic.Int32
	hw        atomic.Int64 // high watermark
	taken     atomic.Int64 // bytes from producers
	served    atomic.Int64 // bytes to consumers
	lso       atomic.Int64 // last stable offset, at most hw
	tieredEnd atomic.Int64
	closed    atomic.Bool
	deleted   atomic.Bool
	held      atomic.Pointer[hold] // clients' appends wait

	// mu makes the writing methods of log one goroutine's at a time, and with
	// them the order of appends. It is held across local disk I/O, never
	// across callbacks, channels or object storage.
	mu        sync.Mutex
	unsynced  int64 // records since the last sync, for flush.messages
	uncovered bool  // there are records which neither the journal nor a sync made durable
	syncer    syncer

	// compacting is held by whoever compacts the log: one at a time. It is
	// taken before mu.
	compacting     sync.Mutex
	stopCompaction atomic.Pointer[context.CancelFunc]
	uncleanable    atomic.Pointer[Uncleanable] // why it is not compacted any more, nil: it is

	beginning beginning

	waiters waiters
	synced  waiters // those who wait for the durable end
}

// Open opens, or makes, the partition's folder and recovers it. The folder
// remembers id. Errors: of commitlog.Open, wrapped; a damaged log that may
// not be repaired is a *commitlog.CorruptError.
func Open(dir string, tp record.TopicPartition, id record.TopicID, cfg Config, deps Deps) (*Partition, error) {
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	p := &Partition{tp: tp, id: id, deps: deps, born: deps.Now()}
	log, err := commitlog.Open(dir, id, logConfig(cfg), commitlog.Deps{
		Log:    deps.Log.With("partition", tp.String()),
		Now:    deps.Now,
		Failed: p.diskFailed,
		Disk:   deps.Disk, Journal: deps.Journal, Partition: int32(tp.Partition), PowerLost: deps.PowerLost,
	})
	if err != nil {
		return nil, fmt.Errorf("partition %v: %w", tp, err)
	}
	p.log = log
	p.cfg.Store(&cfg)
	p.epoch.Store(int32(deps.Epoch))
	if start := log.LocalStart(); !cfg.Tiered && start > log.Start() {
		if err := log.SetLogStart(start); err != nil {
			return nil, errors.Join(fmt.Errorf("partition %v: %w", tp, err), log.Close())
		}
	}
	p.uncovered = log.Durable() < log.End()
	if cfg.Fsync && p.uncovered {
		// After a crash of the process the page cache has more than the disk:
		// nobody may read what a second crash could take back.
		if err := log.SyncData(); err != nil {
			return nil, errors.Join(fmt.Errorf("partition %v: %w", tp, err), log.Close())
		}
		p.uncovered = false
	}
	p.durableTo(journal.Mark{End: log.End(), LastStable: p.lastStable()})
	p.setHighWatermark(log.Start())
	if !deps.Standby {
		p.lead(p.alone())
	}
	if deps.Journal != nil {
		deps.Journal.Claim(p.journaled(), p)
	}
	return p, nil
}

func logConfig(cfg Config) commitlog.Config {
	age := cfg.SegmentAge
	if cfg.Compact && cfg.MaxCompactionLag > 0 {
		// As in Kafka: a record in the active segment cannot be compacted.
		age = min(age, cfg.MaxCompactionLag)
	}
	return commitlog.Config{
		SegmentBytes:       cfg.SegmentBytes,
		SegmentAge:         age,
		SegmentJitter:      cfg.SegmentJitter,
		IndexIntervalBytes: cfg.IndexIntervalBytes,
		IndexBytes:         cfg.IndexBytes,
		Preallocate:        cfg.Preallocate,
		DeleteDelay:        cfg.FileDeleteDelay,
	}
}

// diskFailed releases everybody who waits, and tells the broker, from a
// goroutine of its own: the log may fail while p.mu is held.
func (p *Partition) diskFailed(err error) {
	go func() {
		p.waiters.close(p.storageError(err))
		p.synced.close(p.storageError(err))
		if p.deps.Failed != nil {
			p.deps.Failed(p.tp, err)
		}
	}()
}

func (p *Partition) storageError(err error) error {
	return fmt.Errorf("%w: partition %v: %w", kerr.KafkaStorageError, p.tp, err)
}

// usable is kerr.NotLeaderForPartition after Close, so that clients look for
// the partition's next place.
func (p *Partition) usable() error {
	if p.closed.Load() {
		return fmt.Errorf("%w: partition %v is closed", kerr.NotLeaderForPartition, p.tp)
	}
	return nil
}

// TP names the partition.
func (p *Partition) TP() record.TopicPartition { return p.tp }

// TopicID is the id of the topic the folder belongs to.
func (p *Partition) TopicID() record.TopicID { return p.id }

// Config gives the settings in force.
func (p *Partition) Config() Config { return *p.cfg.Load() }

// SetConfig takes over the topic's new settings for what happens from now on.
// When tiering is turned off the log begins with what is local: what is only
// in object storage is about to be deleted (remote.log.delete.on.disable).
func (p *Partition) SetConfig(cfg Config) {
	was := p.cfg.Swap(&cfg)
	p.log.SetConfig(logConfig(cfg))
	p.setReplication(&cfg)
	if cfg.FlushAfter < was.FlushAfter || cfg.Fsync && !was.Fsync {
		p.syncer.within(0, p.syncData) // what waits for the longer time, or for nothing
	}
	if was.Tiered == cfg.Tiered {
		return
	}
	p.mu.Lock()
	p.tieredEnd.Store(0) // counts again when tiering says so
	var err error
	if !cfg.Tiered && p.usable() == nil {
		err = p.log.SetLogStart(p.log.LocalStart())
	}
	p.mu.Unlock()
	if err != nil {
		p.deps.Log.Error("the log start cannot follow the end of tiering; the next start tries again", "partition", p.tp.String(), "err", err)
	}
	p.waiters.advance(record.Offset(p.hw.Load()))
}

// State gives the partition's offsets.
func (p *Partition) State() State {
	// The end is read last: high watermark <= end whatever happens in between.
	s := State{
		Epoch:            record.Epoch(p.epoch.Load()),
		LogStart:         p.log.Start(),
		LastStableOffset: record.Offset(p.lso.Load()),
		TieredEnd:        record.Offset(p.tieredEnd.Load()),
	}
	s.LocalStart = p.log.LocalStart()
	s.HighWatermark = record.Offset(p.hw.Load())
	s.LogEnd = p.log.End()
	s.LocalBytes, s.Segments = p.log.Size(), p.log.NumSegments()
	return s
}

// Sync returns when everything appended before is on disk for good.
func (p *Partition) Sync() error {
	if err := p.usable(); err != nil {
		return err
	}
	if err := p.log.Sync(); err != nil {
		return p.storageError(err)
	}
	return nil
}

// Close syncs and closes the folder so that the next Open need not scan.
// Those who wait get kerr.NotLeaderForPartition. Spans stay readable.
func (p *Partition) Close() error {
	return p.shut(p.log.Close)
}

// Delete closes the partition, if it is not closed yet, and removes its
// folder. Spans stay readable.
func (p *Partition) Delete() error {
	err := p.shut(func() error {
		p.deleted.Store(true)
		return p.log.Remove()
	})
	if p.deps.Journal != nil {
		p.deps.Journal.Drop(p.journaled())
	}
	return err
}

func (p *Partition) shut(f func() error) error {
	p.closed.Store(true)
	p.release()
	p.beginning.stop()
	p.syncer.stop()
	if stop := p.stopCompaction.Load(); stop != nil {
		(*stop)()
	}
	p.compacting.Lock() // a compaction ends soon: one that begins now looks at closed
	defer p.compacting.Unlock()
	p.mu.Lock()
	err := f() // does nothing twice
	p.mu.Unlock()
	p.waiters.close(p.usable())
	p.synced.close(p.usable())
	p.forgetUncleanable()
	if err != nil {
		return fmt.Errorf("closing partition %v: %w", p.tp, err)
	}
	return nil
}
