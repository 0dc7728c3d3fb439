package partition

import (
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/record"
)

// LogStart is the first readable offset, hot or cold.
func (p *Partition) LogStart() record.Offset { return p.log.Start() }

// DeleteRecords moves the log start to o, durably; -1 means the high
// watermark. It returns the log start after it, which is above o when o was
// deleted already. Above the high watermark, or below -1:
// kerr.OffsetOutOfRange.
func (p *Partition) DeleteRecords(o record.Offset) (lowWatermark record.Offset, err error) {
	if err := p.usable(); err != nil {
		return -1, err
	}
	hw := record.Offset(p.hw.Load())
	if o == -1 {
		o = hw
	}
	if o < 0 || o > hw {
		return -1, fmt.Errorf("%w: delete up to %d of %v, the high watermark is %d", kerr.OffsetOutOfRange, o, p.tp, hw)
	}
	if err := p.AdvanceLogStart(o); err != nil {
		return -1, err
	}
	return p.log.Start(), nil
}

// AdvanceLogStart moves the log start to o, durably, and removes local
// segments that are wholly below; a lower o changes nothing. Above the high
// watermark it stops there.
func (p *Partition) AdvanceLogStart(o record.Offset) error {
	if err := p.usable(); err != nil {
		return err
	}
	o = min(o, record.Offset(p.hw.Load()))
	if o <= p.log.Start() {
		return nil
	}
	p.mu.Lock()
	err := p.log.SetLogStart(o)
	if err == nil {
		_, err = p.dropBelowStart()
	}
	p.mu.Unlock()
	if err != nil {
		return p.storageError(err)
	}
	p.waiters.advance(record.Offset(p.hw.Load()))
	return nil
}

// dropBelowStart removes segments that end at or below the log start.
func (p *Partition) dropBelowStart() (int, error) {
	start := p.log.Start()
	return p.log.DropOldest(false, func(s record.Segment, _ time.Time) bool { return s.End <= start })
}

// SetTieredEnd says that everything below end is safely in object storage, so
// that local copies may go by local retention.
func (p *Partition) SetTieredEnd(end record.Offset) {
	if p.usable() == nil {
		raise(&p.tieredEnd, int64(end))
	}
}

// RunRetention deletes what the topic's settings let go at time now, seals
// the active segment when it is old, and drops idle producers; the broker
// calls it every few seconds. It gives the number of segments deleted.
//
// An untiered partition loses its oldest segments by retention.ms and
// retention.bytes, and its log start moves. A tiered one loses only local
// copies, below the tiered end, by local.retention.*; how much history it
// keeps is for tiering to say (AdvanceLogStart), unless
// remote.log.copy.disable ends the copies. Either one's active segment
// is sealed when all its records have expired, so that a partition that has
// gone quiet does not keep its last ones.
func (p *Partition) RunRetention(now time.Time) (deleted int, err error) {
	if err := p.usable(); err != nil {
		return 0, err
	}
	cfg := p.cfg.Load()
	before, local := p.log.Start(), p.log.LocalStart()
	p.mu.Lock()
	deleted, err = p.retainLocked(cfg, now)
	p.mu.Unlock()
	p.log.Kick()
	if p.log.Start() != before {
		p.waiters.advance(record.Offset(p.hw.Load()))
	}
	if err != nil && !errors.Is(err, commitlog.ErrFull) && !p.heal(err, local) {
		return deleted, p.storageError(err)
	}
	return deleted, nil
}

func (p *Partition) retainLocked(cfg *Config, now time.Time) (int, error) {
	if d := cfg.ProducerIDExpiration; d > 0 {
		producersExpired.Add(p.log.Producers().Expire(now.Add(-d).UnixMilli()))
	}
	if err := p.log.RollIfOld(now); err != nil && !errors.Is(err, commitlog.ErrFull) {
		return 0, err
	}
	deleted, err := p.dropBelowStart()
	if err != nil {
		return deleted, err
	}
	// Without copies to come, what is local is the log's own end, and goes as
	// all of an untiered log does.
	tiered := cfg.Tiered && !cfg.RemoteCopyDisabled
	age, bytes := cfg.Retention, cfg.RetentionBytes
	if tiered {
		age, bytes = cfg.LocalRetention, cfg.LocalRetentionBytes
	} else if !cfg.DeleteOnRetention {
		return deleted, nil
	}
	expired := func(ts int64, modified time.Time) bool {
		if age < 0 {
			return false
		}
		if ts < 0 {
			return now.Sub(modified) > age
		}
		return now.UnixMilli()-ts > age.Milliseconds()
	}
	if err := p.rollExpired(cfg, tiered, now, expired); err != nil {
		return deleted, err
	}
	readable := p.stable()
	if tiered {
		readable = min(readable, record.Offset(p.tieredEnd.Load()))
	}
	size := int64(-1) // asked for when no compaction can change it any more
	n, err := p.log.DropOldest(!tiered, func(s record.Segment, modified time.Time) bool {
		if s.End > readable {
			return false
		}
		if size < 0 {
			size = p.log.Size()
		}
		if !expired(s.MaxTimestamp, modified) && (bytes < 0 || size-s.Bytes < bytes) {
			return false
		}
		size -= s.Bytes
		return true
	})
	return deleted + n, err
}

// rollExpired seals the active segment when every record in it has expired,
// so that it can go too: at once, or after tiering has copied it. Like Kafka
// it also seals a tiered one's when local.retention.bytes is 0.
func (p *Partition) rollExpired(cfg *Config, tiered bool, now time.Time, expired func(int64, time.Time) bool) error {
	ts, first, last, ok := p.log.Active()
	if !ok {
		return nil
	}
	roll := expired(ts, last)
	if tiered {
		roll = (roll || cfg.LocalRetentionBytes == 0) && now.Sub(first) >= p.deps.TieredRollAge
	}
	if !roll {
		return nil
	}
	if err := p.log.Roll(); err != nil && !errors.Is(err, commitlog.ErrFull) {
		return err
	}
	return nil
}

// Roll seals the active segment if it has records.
func (p *Partition) Roll() error {
	if err := p.usable(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.log.Roll(); err != nil {
		return p.storageError(err)
	}
	return nil
}

// Sealed describes the sealed segments that hold offsets at or above from and
// that no reader is kept from: wholly below high watermark and last stable
// offset. Ascending.
func (p *Partition) Sealed(from record.Offset) []record.Segment {
	out, err := p.log.Sealed(from, min(record.Offset(p.hw.Load()), record.Offset(p.lso.Load())))
	if err != nil {
		p.deps.Log.Error("a sealed segment cannot be described", "partition", p.tp.String(), "err", err)
	}
	return out
}

// OpenSealed opens the sealed segment that begins at base for copying. Every
// batch's checksum is compared first: damage is a *commitlog.CorruptError
// wrapped in kerr.KafkaStorageError, and the local copy is dropped when
// object storage has all of it. kerr.OffsetOutOfRange: there is no such
// segment (any more).
func (p *Partition) OpenSealed(base record.Offset) (*record.SealedFiles, error) {
	if err := p.usable(); err != nil {
		return nil, err
	}
	files, err := p.log.OpenSealed(base)
	if errors.Is(err, commitlog.ErrOutOfRange) {
		return nil, fmt.Errorf("%w: partition %v: %w", kerr.OffsetOutOfRange, p.tp, err)
	}
	if err != nil {
		p.heal(err, base)
		return nil, p.storageError(err)
	}
	return files, nil
}

// heal looks at an error of reading the segment that holds offset at. When it
// is damage, and object storage has everything up to that segment's end, the
// local copies up to it go, and reads become cold. It says whether trying
// again makes sense: also when another reader met the same and was first.
func (p *Partition) heal(err error, at record.Offset) bool {
	var corrupt *commitlog.CorruptError
	if !errors.As(err, &corrupt) || !p.cfg.Load().Tiered || p.deps.Cold == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n, derr := p.log.DropDamaged(corrupt, record.Offset(p.tieredEnd.Load()))
	if derr != nil || n == 0 {
		return derr == nil && p.log.LocalStart() > at
	}
	corruptDropped.Add(n)
	p.deps.Log.Error("a local segment is damaged; dropped, object storage has it", "partition", p.tp.String(), "offset", at, "err", err)
	return true
}
