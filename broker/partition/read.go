package partition

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// Read gives records from r.Offset on, without waiting for new ones: none at
// the end of the readable part. Hot reads give one range of a segment file;
// an offset that is only tiered is read from deps.Cold under ctx. One result
// never mixes the two. Errors wrap kerr.OffsetOutOfRange,
// kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch, kerr.KafkaStorageError or
// kerr.NotLeaderForPartition.
func (p *Partition) Read(ctx context.Context, r ReadRequest) (ReadResult, error) {
	res := ReadResult{
		LogStartOffset:   p.log.Start(),
		LastStableOffset: record.Offset(p.lso.Load()),
	}
	res.HighWatermark = record.Offset(p.hw.Load())
	if err := p.Answers(r.CurrentEpoch, r.Anywhere); err != nil {
		return res, err
	}
	if r.Replica {
		if epoch, end, differs := replica.Diverges(p.log, r.LastFetchedEpoch, r.Offset); differs {
			res.Diverging = &record.EpochStart{Epoch: epoch, Start: end}
			return res, nil
		}
	} else if r.LastFetchedEpoch >= 0 {
		d, err := p.diverging(r.LastFetchedEpoch, r.Offset)
		if res.Diverging = d; d != nil || err != nil {
			return res, err
		}
	}
	limit := res.HighWatermark
	switch {
	case r.Replica:
		limit = p.log.End()
	case r.Isolation == record.ReadCommitted:
		limit = res.LastStableOffset
	}
	if r.Offset < res.LogStartOffset || r.Offset > p.log.End() {
		return res, p.outOfRange(r.Offset, &res)
	}
	// A segment may be deleted, go cold, or turn out to be damaged and be
	// dropped in favour of its tiered copy, between the decision and the read.
	for range 4 {
		if p.IsCold(r.Offset) {
			return p.readCold(ctx, r, res)
		}
		err := p.readHot(r, limit, &res)
		if err == nil {
			return res, nil
		}
		if !errors.Is(err, commitlog.ErrOutOfRange) && !p.heal(err, r.Offset) {
			return res, p.storageError(err)
		}
		if res.LogStartOffset = p.log.Start(); r.Offset < res.LogStartOffset {
			return res, p.outOfRange(r.Offset, &res)
		}
	}
	return res, p.storageError(fmt.Errorf("offset %d is neither hot nor cold", r.Offset))
}

func (p *Partition) outOfRange(o record.Offset, res *ReadResult) error {
	return fmt.Errorf("%w: offset %d of %v, which has [%d,%d]", kerr.OffsetOutOfRange, o, p.tp, res.LogStartOffset, res.HighWatermark)
}

func (p *Partition) readHot(r ReadRequest, limit record.Offset, res *ReadResult) error {
	run, err := p.log.Read(r.Offset, int64(r.MaxBytes), limit, r.MinOneBatch)
	if err != nil {
		return err
	}
	if run.Span.Size() == 0 {
		return nil
	}
	hotReads.Inc()
	if r.Isolation == record.ReadCommitted {
		if res.Aborted, err = p.log.Aborted(r.Offset, run.Next); err != nil {
			run.Span.Release()
			return err
		}
	}
	res.Spans = []record.Span{run.Span}
	return nil
}

func (p *Partition) readCold(ctx context.Context, r ReadRequest, res ReadResult) (ReadResult, error) {
	res.Cold = true
	if p.deps.Cold == nil {
		return res, p.storageError(fmt.Errorf("offset %d is in object storage, and this broker has none", r.Offset))
	}
	coldReads.Inc()
	spans, aborted, err := p.deps.Cold.ReadCold(ctx, p.id, p.tp, r.Offset, r.MaxBytes)
	if err != nil {
		record.ReleaseSpans(spans)
		return res, fmt.Errorf("partition %v, offset %d: %w", p.tp, r.Offset, err)
	}
	res.Spans = spans
	if r.Isolation == record.ReadCommitted {
		res.Aborted = aborted
	}
	return res, nil
}

// Extent is what of a partition can be read. As long as it is the same, and
// local segments stay, so is what a reader finds.
type Extent struct {
	LogStart         record.Offset
	LastStableOffset record.Offset
	HighWatermark    record.Offset
	End              record.Offset // for a follower; else 0
	Epoch            record.Epoch
	Closed           bool
}

// Extent gives what can be read now, by a follower or by others. Subscribe
// tells when it changes.
func (p *Partition) Extent(replica bool) Extent {
	e := Extent{
		LogStart:         p.log.Start(),
		LastStableOffset: record.Offset(p.lso.Load()),
		HighWatermark:    record.Offset(p.hw.Load()),
		Epoch:            record.Epoch(p.epoch.Load()),
		Closed:           p.closed.Load(),
	}
	if replica {
		e.End = p.log.End()
	}
	return e
}

// IsCold says whether o is readable, but only from object storage.
func (p *Partition) IsCold(o record.Offset) bool {
	return o >= p.log.Start() && o < p.log.LocalStart()
}

// Answers is nil if this replica may answer a client that believes in leader
// epoch e, -1 for any: the leader, or with anywhere a follower, too. As in Kafka
// a wrong epoch is told before that somebody else leads. Errors wrap
// kerr.NotLeaderForPartition, kerr.FencedLeaderEpoch or
// kerr.UnknownLeaderEpoch.
func (p *Partition) Answers(e record.Epoch, anywhere bool) error {
	if err := p.usable(); err != nil {
		return err
	}
	p.role.mu.Lock()
	leads, follows := p.role.leader != nil, p.role.follower != nil
	p.role.mu.Unlock()
	if leads || follows { // otherwise its epoch is from before
		if err := p.checkEpoch(e); err != nil {
			return err
		}
	}
	if !leads && !(follows && anywhere) {
		return p.notLeader()
	}
	return nil
}

func (p *Partition) checkEpoch(e record.Epoch) error {
	switch current := record.Epoch(p.epoch.Load()); {
	case e == -1 || e == current:
		return nil
	case e < current:
		return fmt.Errorf("%w: reader has epoch %d of %v, it is %d", kerr.FencedLeaderEpoch, e, p.tp, current)
	default:
		return fmt.Errorf("%w: reader has epoch %d of %v, it is %d", kerr.UnknownLeaderEpoch, e, p.tp, current)
	}
}

// diverging compares what a consumer read last with our history (KIP-320,
// KIP-595).
func (p *Partition) diverging(last record.Epoch, at record.Offset) (*record.EpochStart, error) {
	epoch, end := p.EpochEnd(last)
	if epoch < 0 || end < 0 {
		return nil, fmt.Errorf("%w: epoch %d of %v is not known", kerr.OffsetOutOfRange, last, p.tp)
	}
	if epoch < last || end < at {
		return &record.EpochStart{Epoch: epoch, Start: end}, nil
	}
	return nil, nil
}

// EpochEnd answers OffsetForLeaderEpoch: the greatest epoch not above e, and
// the offset at which it ended; -1, -1 when e is unknown here.
func (p *Partition) EpochEnd(e record.Epoch) (record.Epoch, record.Offset) { return p.log.EpochEnd(e) }

// EpochAt is the leader epoch that wrote offset o, -1 when unknown.
func (p *Partition) EpochAt(o record.Offset) record.Epoch { return p.log.EpochAt(o) }

// Epochs gives where each leader epoch began, ascending; not to be changed.
func (p *Partition) Epochs() []record.EpochStart { return p.log.Epochs() }

// searches is how often a look-up by time begins anew because the log's start
// has moved meanwhile; then the client is told to ask again.
const searches = 64

// OffsetForTimestamp finds the first record with a timestamp >= ts
// (milliseconds) that a reader of that isolation may see: in object storage
// first where the partition begins there, then on disk.
// record.NoTimestampOffset when there is none.
func (p *Partition) OffsetForTimestamp(ctx context.Context, ts int64, iso record.Isolation) (record.TimestampOffset, error) {
	none := record.NoTimestampOffset
	if err := p.usable(); err != nil {
		return none, err
	}
	limit := record.Offset(p.hw.Load())
	if iso == record.ReadCommitted {
		limit = record.Offset(p.lso.Load())
	}
	for range searches {
		start, local := p.log.Start(), p.log.LocalStart()
		if start < local && p.deps.Cold != nil {
			t, err := p.deps.Cold.ColdTimestamp(ctx, p.id, p.tp, ts)
			if err != nil {
				return none, fmt.Errorf("partition %v, timestamp %d: %w", p.tp, ts, err)
			}
			if t.Offset >= start && t.Offset < limit {
				return t, nil
			}
		}
		t, err := p.log.OffsetForTimestamp(ts, local, limit)
		if err == nil && p.stillLocal(local, t.Offset) {
			return t, nil
		}
		if err != nil && !errors.Is(err, commitlog.ErrOutOfRange) && !p.heal(err, local) {
			return none, p.storageError(err)
		}
	}
	return none, fmt.Errorf("%w: partition %v, timestamp %d: segments are deleted faster than they can be searched", kerr.OffsetNotAvailable, p.tp, ts)
}

// stillLocal says, after a search of the local log from offset local on, that
// it saw all there is: nothing has gone cold meanwhile, and what was found (-1
// for nothing) was not deleted.
func (p *Partition) stillLocal(local, found record.Offset) bool {
	now := p.log.LocalStart()
	start := p.log.Start()
	return now == local || start >= now && (found < 0 || found >= start)
}

// MaxTimestamp finds the first of the records that have the greatest
// timestamp, hot or cold (KIP-734); record.NoTimestampOffset when there are
// no records.
func (p *Partition) MaxTimestamp(ctx context.Context) (record.TimestampOffset, error) {
	none := record.NoTimestampOffset
	if err := p.usable(); err != nil {
		return none, err
	}
	for range searches {
		cold, start, local := none, p.log.Start(), p.log.LocalStart()
		if start < local && p.deps.Cold != nil {
			var err error
			if cold, err = p.deps.Cold.ColdMaxTimestamp(ctx, p.id, p.tp); err != nil {
				return none, fmt.Errorf("partition %v, maximum timestamp: %w", p.tp, err)
			}
			if cold.Offset < start {
				cold = none
			}
		}
		hot, err := p.log.MaxTimestamp(local)
		if err == nil && p.stillLocal(local, hot.Offset) {
			if cold.Offset >= 0 && cold.Timestamp >= hot.Timestamp {
				return cold, nil
			}
			return hot, nil
		}
		if err != nil && !errors.Is(err, commitlog.ErrOutOfRange) && !p.heal(err, local) {
			return none, p.storageError(err)
		}
	}
	return none, fmt.Errorf("%w: partition %v: segments are deleted faster than they can be searched", kerr.OffsetNotAvailable, p.tp)
}
