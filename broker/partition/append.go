package partition

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/record"
)

// Append checks batches and appends them: one from a Client, any number from
// a Coordinator. The bytes are patched in place (base offset, leader epoch,
// and what message.timestamp.type asks for), and written from where they are.
// Errors wrap a *kerr.Error or are *InvalidRecords; after an error nothing
// was appended. A full disk is kerr.KafkaStorageError wrapping
// commitlog.ErrFull, and passes.
//
// When it returns, the records are in the log but not yet acknowledged: wait
// for LastOffset+1 with AwaitHighWatermark.
func (p *Partition) Append(batches []byte, origin Origin) (AppendResult, error) {
	failed := AppendResult{BaseOffset: -1, LastOffset: -1, LogAppendTime: -1, LogStartOffset: -1}
	if h := p.held.Load(); h != nil && origin == Client {
		h.wait()
	}
	if err := p.Answers(-1, false); err != nil {
		return failed, err
	}
	cfg, now := p.cfg.Load(), p.deps.Now()
	var v validated
	var err error
	if origin == Client {
		err = v.fromClient(batches, cfg, now)
	} else {
		err = v.fromCoordinator(batches, cfg, now)
	}
	failed.LogStartOffset = p.log.Start()
	if err != nil {
		appendsInvalid.Inc()
		return failed, err
	}
	p.mu.Lock()
	res, err := p.appendLocked(&v, cfg, origin)
	p.mu.Unlock()
	if err != nil {
		return failed, err
	}
	if !res.Duplicate {
		p.taken.Add(int64(len(batches)))
	}
	switch hw := record.Offset(p.hw.Load()); {
	case res.Duplicate:
	case hw > res.LastOffset:
		p.waiters.advance(hw)
	default:
		p.waiters.appended()
	}
	return res, nil
}

func (p *Partition) appendLocked(v *validated, cfg *Config, origin Origin) (AppendResult, error) {
	if err := p.Answers(-1, false); err != nil {
		return AppendResult{}, err
	}
	res := AppendResult{LogAppendTime: v.appTime, LogStartOffset: p.log.Start()}
	ps := p.log.Producers()
	for _, e := range v.entries {
		if origin != Client {
			if err := checkCoordinator(ps, e.Batch); err != nil {
				return res, err
			}
			continue
		}
		dup, err := checkProducer(ps, e.Batch)
		if err != nil {
			sequencesRefused.Inc()
			return res, err
		}
		if dup != nil {
			duplicates.Inc()
			// Kafka tells the batch's time as that of appending, whoever chose it.
			res.BaseOffset, res.LastOffset, res.Duplicate, res.LogAppendTime = dup.BaseOffset(), dup.LastOffset, true, dup.Timestamp
			return res, nil
		}
	}
	// The log's epochs never go back, even if the metadata's do (a restored
	// backup): readers take that for lost records.
	next, epoch := p.log.End(), max(record.Epoch(p.epoch.Load()), p.log.LastEpoch())
	res.BaseOffset = next
	for i := range v.entries {
		e := &v.entries[i]
		e.Batch.SetBaseOffset(next)
		e.Batch.SetLeaderEpoch(epoch)
		e.MaxTSOffset += next
		next = e.Batch.LastOffset() + 1
		p.unsynced += int64(e.Batch.NumRecords())
	}
	res.LastOffset = next - 1
	if err := p.log.Append(v.buf, v.entries); err != nil {
		if errors.Is(err, commitlog.ErrClosed) {
			return res, fmt.Errorf("%w: %w", kerr.NotLeaderForPartition, err)
		}
		return res, p.storageError(err)
	}
	if err := p.appended(v, cfg); err != nil {
		return res, err
	}
	return res, nil
}

// appended is where records that are in the segment become durable, and where
// the high watermark may pass them: with firn.ack.policy=fsync when the
// journal has them on disk, with replicated at once, as with Kafka (they
// survive this process, not the machine) unless flush.messages=1; with more
// messages, or flush.ms, the disk follows in the background. The high watermark
// is the least of the in-sync replicas' durable ends (role).
//
// p.mu is held.
func (p *Partition) appended(v *validated, cfg *Config) error {
	mark := journal.Mark{End: p.log.End(), LastStable: p.lastStable()}
	p.grownTo(mark.End)
	if cfg.Fsync && p.deps.Journal != nil {
		if err := p.journal(v, mark); err != nil {
			return p.storageError(err)
		}
		p.uncovered = false
		return nil
	}
	switch {
	case cfg.Fsync, cfg.FlushMessages == 1:
		if err := p.log.SyncData(); err != nil {
			return p.storageError(err)
		}
		p.unsynced, p.uncovered = 0, false
		p.durableTo(mark)
		return nil
	case cfg.FlushMessages > 0 && p.unsynced >= cfg.FlushMessages:
		p.unsynced = 0
		p.syncer.within(0, p.syncData)
	case cfg.FlushAfter > 0 && cfg.FlushAfter < math.MaxInt64:
		p.syncer.within(cfg.FlushAfter, p.syncData)
	}
	p.uncovered = true
	p.durableTo(mark)
	return nil
}

// journal has the journal make durable what was appended, and all before it
// that is on no disk yet. p.mu is held.
func (p *Partition) journal(v *validated, mark journal.Mark) error {
	if p.uncovered {
		return p.deps.Journal.Sync(p, p.journaled(), mark, len(v.buf))
	}
	first := v.entries[0].Batch
	e := journal.Entry{Partition: p.journaled(), Epoch: first.LeaderEpoch(), Base: first.BaseOffset() - v.gap, End: mark.End}
	return p.deps.Journal.Append(p, e, mark, v.buf)
}

// lastStable is the last stable offset once everything in the log counts.
// p.mu is held.
func (p *Partition) lastStable() record.Offset {
	if first := p.log.Producers().FirstOpenTxn(); first >= 0 {
		return min(first, p.log.End())
	}
	return p.log.End()
}

func raise(a *atomic.Int64, v int64) {
	for {
		old := a.Load()
		if v <= old || a.CompareAndSwap(old, v) {
			return
		}
	}
}

func lower(a *atomic.Int64, v int64) {
	for {
		old := a.Load()
		if v >= old || a.CompareAndSwap(old, v) {
			return
		}
	}
}

// journaled names the partition in the journal.
func (p *Partition) journaled() journal.Partition {
	return journal.Partition{Topic: p.id, Index: int32(p.tp.Partition)}
}

// Journaled is the journal's word that records are on disk.
func (p *Partition) Journaled(m journal.Mark) {
	p.told(p.durableTo(m))
	p.synced.advance(m.End)
}

// End is up to where the segments are written, of a deleted partition -1.
func (p *Partition) End() record.Offset {
	if p.deleted.Load() {
		return -1
	}
	return p.log.End()
}

// Flush makes the segments durable, so that the journal need not keep their
// records any longer; of a deleted partition it forgets everything.
func (p *Partition) Flush() (record.Offset, error) {
	end := p.log.End()
	err := p.log.SyncData()
	if errors.Is(err, commitlog.ErrClosed) {
		p.mu.Lock() // closing syncs too: until that is over
		if err = p.log.CloseErr(); p.deleted.Load() {
			end, err = -1, nil
		}
		p.mu.Unlock()
	}
	if err != nil {
		return 0, p.storageError(err)
	}
	return end, nil
}

// AwaitHighWatermark calls fn once: with nil when the high watermark is at
// least o (at once, in the caller, if it is already), or with an error when
// the partition closes or its disk fails. fn runs in the goroutine that moved
// the watermark and must not block. After cancel, fn is not called, unless
// its call has begun.
func (p *Partition) AwaitHighWatermark(o record.Offset, fn func(error)) (cancel func()) {
	return p.waiters.await(o, func() bool { return p.hw.Load() >= int64(o) }, fn)
}

// Subscribe sends on wake, without blocking, whenever the high watermark, the
// last stable offset or the log start moved, for a follower also the log's end,
// and when the partition has another leader or closes. Give wake a buffer of
// one.
func (p *Partition) Subscribe(wake chan<- struct{}, replica bool) (cancel func()) {
	return p.waiters.subscribe(wake, replica)
}

// Served notes that consumers got so many bytes.
func (p *Partition) Served(bytes int64) { p.served.Add(bytes) }

// Traffic gives how many bytes producers have sent and consumers have got since
// the partition was opened here.
func (p *Partition) Traffic() (in, out int64) { return p.taken.Load(), p.served.Load() }

// Producers lists the producers that the partition knows (KIP-664).
func (p *Partition) Producers() []ProducerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	ps := p.log.Producers()
	out := make([]ProducerState, 0, ps.Len())
	ps.All(func(s *commitlog.Producer) {
		out = append(out, ProducerState{
			ProducerID:     s.ID,
			Epoch:          s.Epoch,
			LastSequence:   s.LastSequence(),
			LastTimestamp:  s.LastTimestamp,
			CoordEpoch:     s.CoordEpoch,
			TxnStartOffset: s.TxnStart,
		})
	})
	return out
}
