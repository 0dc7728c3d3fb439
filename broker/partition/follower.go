package partition

import (
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/record"
)

// entryLists are for Replicate, none of which outlives its call.
var entryLists = sync.Pool{New: func() any { return new([]commitlog.Entry) }}

// appendReplicated appends batches, of which entries are the whole ones, as the
// leader has them, byte for byte: offsets, leader epochs and timestamps are
// theirs. That they follow the log's end is compared; the topic's settings and
// producers' sequences are not: the leader decided. p.mu is held.
//
// Errors: commitlog.ErrNotNext; kerr.KafkaStorageError, which wraps
// commitlog.ErrFull where it passes. Some of the batches may have been appended
// then.
func (p *Partition) appendReplicated(batches []byte, entries []commitlog.Entry) error {
	cfg := p.cfg.Load()
	for len(entries) > 0 {
		end := p.log.End()
		n, err := p.log.AppendReplicated(batches, entries[:untilTransactional(entries)])
		switch {
		case errors.Is(err, commitlog.ErrClosed):
			return fmt.Errorf("%w: %w", kerr.NotLeaderForPartition, err)
		case errors.Is(err, commitlog.ErrNotNext):
			return fmt.Errorf("partition %v: %w", p.tp, err)
		case err != nil:
			return p.storageError(err)
		}
		size := int64(0)
		for _, e := range entries[:n] {
			size += e.Batch.Size()
			p.unsynced += int64(e.Batch.NumRecords())
		}
		v := validated{buf: batches[:size], entries: entries[:n], gap: max(entries[0].Batch.BaseOffset()-end, 0)}
		if err := p.appended(&v, cfg); err != nil {
			return err
		}
		batches, entries = batches[size:], entries[n:]
	}
	return nil
}

// untilTransactional is how many entries there are up to the first that may
// change the last stable offset, and with it: a mark says how stable things are
// at its end alone.
func untilTransactional(entries []commitlog.Entry) int {
	for i := range entries {
		if entries[i].Batch.IsTransactional() {
			return i + 1
		}
	}
	return len(entries)
}

// wholeEntries lists the whole batches at the beginning of b, whose checksums
// are right; what follows them is one that was cut off. kerr.CorruptMessage if
// a batch is damaged.
func wholeEntries(b []byte, out []commitlog.Entry) ([]commitlog.Entry, error) {
	for len(b) > 0 {
		batch, rest, err := record.Next(b)
		if errors.Is(err, record.ErrShort) {
			break
		}
		if err == nil {
			err = batch.CheckCRC()
		}
		if err != nil {
			return out, fmt.Errorf("%w: of replicated batches: %w", kerr.CorruptMessage, err)
		}
		out = append(out, commitlog.Entry{Batch: batch})
		b = rest
	}
	return out, nil
}

// truncateLocked cuts the log back to offset to, durably: the batch that holds
// to goes whole. See commitlog.Log.Truncate. A log that begins above to here,
// since it is in object storage up to there, begins anew at to. Nobody waits for
// what is cut off (AwaitHighWatermark) any more. p.mu is held. Errors:
// kerr.KafkaStorageError, which wraps commitlog.ErrFull where it passes.
func (p *Partition) truncateLocked(to record.Offset) error {
	end, err := p.log.Truncate(to)
	if errors.Is(err, commitlog.ErrOutOfRange) && to >= p.log.Start() {
		return p.startAtLocked(to, commitlog.EpochsBelow(p.log.Epochs(), to), nil)
	}
	if err != nil {
		return p.storageError(err)
	}
	p.cutTo(end)
	return nil
}

// startAtLocked drops all of the log and lets it go on, empty, at offset start:
// where object storage ends, or where the leader's log begins. epochs are those
// of before, ascending; producers is the state there as a .snapshot has it, nil
// if it is not known. The log start of a tiered partition stays, if it is not
// above start; that of another one is start. p.mu is held. Errors:
// commitlog.ErrFormat when epochs or producers do not fit;
// kerr.KafkaStorageError.
func (p *Partition) startAtLocked(start record.Offset, epochs []record.EpochStart, producers []byte) error {
	b := commitlog.Beginning{LogStart: start, Epochs: epochs, Producers: producers}
	if p.cfg.Load().Tiered {
		b.LogStart = min(p.log.Start(), start)
	}
	err := p.log.StartAt(start, b)
	if errors.Is(err, commitlog.ErrFormat) {
		return fmt.Errorf("partition %v: %w", p.tp, err)
	}
	if err != nil {
		return p.storageError(err)
	}
	p.uncovered, p.unsynced = false, 0
	p.cutTo(start)
	p.durableTo(journal.Mark{End: start, LastStable: start})
	return nil
}
