package partition

import (
	"errors"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
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
	if err := p.usable(); err != nil {
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
		p.waiters.advance(record.Offset(p.hw.Load()))
	}
	return res, nil
}

func (p *Partition) appendLocked(v *validated, cfg *Config, origin Origin) (AppendResult, error) {
	if err := p.usable(); err != nil {
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
	if err := p.appended(next, cfg); err != nil {
		return res, err
	}
	return res, nil
}

// appended is where records that are in the segment become durable, and where
// the high watermark may pass them. Today the promise is the page cache's
// (they survive this process, not the machine), or the disk's with
// flush.messages=1; with more messages, or flush.ms, the disk follows in the
// background. The shared journal takes this place: it is given the same
// bytes, and calls committed when its fdatasync has come back. Replication
// then takes the least of the in-sync replicas' durable ends.
//
// p.mu is held.
func (p *Partition) appended(end record.Offset, cfg *Config) error {
	switch {
	case cfg.FlushMessages == 1:
		if err := p.log.SyncData(); err != nil {
			return p.storageError(err)
		}
		p.unsynced = 0
	case cfg.FlushMessages > 0 && p.unsynced >= cfg.FlushMessages:
		p.unsynced = 0
		p.syncer.within(0, p.syncData)
	case cfg.FlushAfter > 0 && cfg.FlushAfter < math.MaxInt64:
		p.syncer.within(cfg.FlushAfter, p.syncData)
	}
	p.committed(end)
	return nil
}

// committed moves the high watermark to end and the last stable offset after
// it. The caller holds p.mu, and calls waiters.advance when it no longer does.
func (p *Partition) committed(end record.Offset) {
	hw := max(end, record.Offset(p.hw.Load()))
	lso := hw
	if first := p.log.Producers().FirstOpenTxn(); first >= 0 {
		lso = min(first, hw)
	}
	p.hw.Store(int64(hw))
	p.lso.Store(int64(lso))
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
// last stable offset or the log start moved, and when the partition closes.
// Give wake a buffer of one.
func (p *Partition) Subscribe(wake chan<- struct{}) (cancel func()) {
	return p.waiters.subscribe(wake)
}

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
