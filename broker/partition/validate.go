package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/record"
)

// What is checked of a client's batch, in Kafka's order (LogValidator and
// UnifiedLog of 4.3): one batch of format 2 whose base offset is 0; size;
// checksum; counts; flags; then every record's form, offset delta and
// timestamp. Compressed records are decompressed for that, as Kafka does: a
// batch whose records do not fit its header would stop every consumer at that
// offset for ever, and there is no later moment to refuse it. The cost is
// bounded: as many batches as there are CPUs are decompressed at a time, each
// to at most commitlog.MaxBatchBytes.
//
// All of it happens before the partition's lock is taken.

// minBatchLength is what the length field of the shortest message there ever
// was holds (format 0); less is damage, not a batch cut short.
const minBatchLength = 14

// maxRecordErrors bounds the records that a reply names.
const maxRecordErrors = 64

// validated is a batch, or the coordinator's batches, ready but for offsets.
type validated struct {
	buf     []byte
	entries []commitlog.Entry // MaxTSOffset still relative to the batch's base
	gap     record.Offset     // how many offsets its leader compacted away before it
	one     [1]commitlog.Entry
	appTime int64 // -1 with CreateTime
}

var inflating = make(chan struct{}, runtime.GOMAXPROCS(0))

var inflateBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 256<<10); return &b }}

func (v *validated) fromClient(b []byte, cfg *Config, now time.Time) error {
	batch, err := soleBatch(b)
	if err != nil {
		return err
	}
	switch {
	case batch.BaseOffset() != 0:
		return invalidRecord("base offset of a produced batch is %d, must be 0", batch.BaseOffset())
	case cfg.MaxMessageBytes > 0 && len(batch) > cfg.MaxMessageBytes:
		return fmt.Errorf("%w: batch of %d bytes, max.message.bytes is %d", kerr.MessageTooLarge, len(batch), cfg.MaxMessageBytes)
	}
	if err := batch.CheckCRC(); err != nil {
		return fmt.Errorf("%w: %w", kerr.CorruptMessage, err)
	}
	if err := checkHeader(batch); err != nil {
		return err
	}
	v.appTime = -1
	if cfg.LogAppendTime {
		v.appTime = now.UnixMilli()
	}
	batch, maxDelta, err := checkRecords(batch, cfg, now)
	if err != nil {
		return err
	}
	if cfg.SegmentBytes > 0 && int64(len(batch)) > cfg.SegmentBytes {
		return fmt.Errorf("%w: batch of %d bytes, segment.bytes is %d", kerr.RecordListTooLarge, len(batch), cfg.SegmentBytes)
	}
	v.buf = batch
	v.one[0] = commitlog.Entry{Batch: batch, MaxTSOffset: record.Offset(maxDelta)}
	v.entries = v.one[:]
	return nil
}

// soleBatch gives the one batch that b must be. Bytes after it that cannot be
// a batch are dropped, as Kafka trims them.
func soleBatch(b []byte) (record.Batch, error) {
	batch, rest, err := record.Next(b)
	switch {
	case errors.Is(err, record.ErrMagic) && (b[16] == 0 || b[16] == 1):
		return nil, notOneBatch("message format %d; only record batches of format 2 are taken", b[16])
	case errors.Is(err, record.ErrShort) && (len(b) < record.LogOverhead || int32(binary.BigEndian.Uint32(b[8:])) >= minBatchLength):
		return nil, notOneBatch("no whole record batch in %d bytes", len(b))
	case errors.Is(err, record.ErrDelta):
		return nil, fmt.Errorf("%w: %w", kerr.InvalidRecord, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", kerr.CorruptMessage, err)
	}
	switch _, _, err := record.Next(rest); {
	case errors.Is(err, record.ErrShort):
		return batch, nil
	case errors.Is(err, record.ErrMagic) && rest[16] > 2:
		return nil, fmt.Errorf("%w: after the batch: %w", kerr.CorruptMessage, err)
	}
	return nil, notOneBatch("more than one record batch for a partition")
}

// ErrNotOneBatch says that a request's bytes for a partition are not the one
// batch of format 2 that they must be. The partition's log was not looked at.
var ErrNotOneBatch = errors.New("not one record batch")

func notOneBatch(format string, args ...any) error {
	return fmt.Errorf("%w: %w: %s", kerr.InvalidRecord, ErrNotOneBatch, fmt.Sprintf(format, args...))
}

func checkHeader(b record.Batch) error {
	switch {
	case b.NumRecords() <= 0:
		return invalidRecord("batch of %d records", b.NumRecords())
	case int64(b.LastOffsetDelta())+1 != int64(b.NumRecords()):
		return invalidRecord("batch of %d records spans %d offsets", b.NumRecords(), int64(b.LastOffsetDelta())+1)
	case b.IsControl():
		return invalidRecord("control batches are not taken from clients")
	case b.HasDeleteHorizon():
		return invalidRecord("a delete horizon is not taken from clients")
	case b.ProducerID() >= 0 && b.BaseSequence() < 0:
		return invalidRecord("producer %d sent base sequence %d", b.ProducerID(), b.BaseSequence())
	case b.ProducerID() >= 0 && b.ProducerEpoch() < 0:
		return invalidRecord("producer %d sent epoch %d", b.ProducerID(), b.ProducerEpoch())
	case b.IsTransactional():
		return fmt.Errorf("%w: transactions are not supported yet", kerr.InvalidTxnState)
	case b.Codec() > record.Zstd:
		return fmt.Errorf("%w: codec %d", kerr.UnsupportedCompressionType, b.Codec())
	}
	return nil
}

func invalidRecord(format string, args ...any) error {
	return fmt.Errorf("%w: %s", kerr.InvalidRecord, fmt.Sprintf(format, args...))
}

// checkRecords checks every record and makes the batch what the topic wants:
// timestamps by type, codec by compression.type. It gives the batch, which is
// another one if it was compressed anew, and the offset delta of the first
// record that has the greatest timestamp.
func checkRecords(b record.Batch, cfg *Config, now time.Time) (record.Batch, int64, error) {
	body := b.Payload()
	if b.Codec() != record.None {
		inflating <- struct{}{}
		defer func() { <-inflating }()
		bp := inflateBuffers.Get().(*[]byte)
		defer func() {
			if cap(*bp) <= 4<<20 {
				inflateBuffers.Put(bp)
			}
		}()
		out, err := record.Decompress((*bp)[:0], b.Codec(), b.Payload(), commitlog.MaxBatchBytes)
		if errors.Is(err, record.ErrTooLarge) {
			return nil, 0, fmt.Errorf("%w: %w", kerr.MessageTooLarge, err)
		}
		if err != nil { // the checksum was right: the client's fault, and trying again is in vain
			return nil, 0, fmt.Errorf("%w: %w", kerr.InvalidRecord, err)
		}
		*bp, body = out, out
	}
	c := newChecker(b, cfg, now)
	if err := b.ScanRecords(body, c.record); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", kerr.InvalidRecord, err)
	}
	if err := c.result(); err != nil {
		return nil, 0, err
	}
	if cfg.Recompress && cfg.Codec != b.Codec() {
		nb, err := b.Recompress(cfg.Codec, cfg.CodecLevel, commitlog.MaxBatchBytes)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", kerr.CorruptMessage, err)
		}
		if cfg.MaxMessageBytes > 0 && len(nb) > cfg.MaxMessageBytes {
			return nil, 0, fmt.Errorf("%w: batch of %d bytes as %v, max.message.bytes is %d", kerr.MessageTooLarge, len(nb), cfg.Codec, cfg.MaxMessageBytes)
		}
		b = nb
	}
	if cfg.LogAppendTime {
		b.SetLogAppendTime(now.UnixMilli())
		return b, 0, nil
	}
	b.SetCreateTime(c.maxTS)
	return b, c.maxDelta, nil
}

// checker looks at the records of one batch.
type checker struct {
	oldest, newest int64 // timestamps allowed
	createTime     bool
	wrongType      bool // the client says LogAppendTime, which is the broker's to say (Kafka minds only where it is the topic's type, or where there is no time)
	keyed          bool // the topic is compacted: every record must have a key (KIP-467)
	seen           int64
	maxTS          int64
	maxDelta       int64
	bad            error // a *kerr.Error
	records        []RecordError
	gaps           []RecordError // records whose offset delta is wrong, which Kafka lets be: told where there is nothing else
}

func newChecker(b record.Batch, cfg *Config, now time.Time) *checker {
	c := &checker{maxTS: -1, createTime: !cfg.LogAppendTime, keyed: cfg.Compact, wrongType: b.IsLogAppendTime() && (cfg.LogAppendTime || b.MaxTimestamp() == -1)}
	c.oldest, c.newest = timestampBounds(cfg, now.UnixMilli())
	return c
}

func timestampBounds(cfg *Config, now int64) (oldest, newest int64) {
	oldest, newest = now-math.MaxInt64, math.MaxInt64 // Kafka too refuses what lies further back than that
	if d := cfg.TimestampBeforeMax; d >= 0 && d < math.MaxInt64 {
		oldest = now - d.Milliseconds()
	}
	if d := cfg.TimestampAfterMax; d >= 0 && d < math.MaxInt64 {
		newest = now + d.Milliseconds()
	}
	return oldest, newest
}

func (c *checker) record(r record.RecordInfo) bool {
	if r.OffsetDelta != c.seen && len(c.gaps) < maxRecordErrors {
		c.gaps = append(c.gaps, RecordError{Index: r.Index, Message: fmt.Sprintf("offset delta %d, want %d", r.OffsetDelta, c.seen)})
	}
	c.seen++
	if r.Timestamp > c.maxTS {
		c.maxTS, c.maxDelta = r.Timestamp, r.OffsetDelta
	}
	switch {
	case c.keyed && r.NullKey:
		c.refuse(r.Index, kerr.InvalidRecord, "a record of a compacted topic needs a key")
	case c.wrongType:
		c.refuse(r.Index, kerr.InvalidTimestamp, "a producer may not set the timestamp type LogAppendTime")
	case c.createTime && r.Timestamp != -1 && (r.Timestamp < c.oldest || r.Timestamp > c.newest):
		c.refuse(r.Index, kerr.InvalidTimestamp, fmt.Sprintf("timestamp %d is outside of [%d, %d], which message.timestamp.before.max.ms and message.timestamp.after.max.ms allow", r.Timestamp, c.oldest, c.newest))
	}
	return true
}

// refuse notes a record; a bad timestamp decides the whole batch's code.
func (c *checker) refuse(i int32, err *kerr.Error, why string) {
	if c.bad == nil || err == kerr.InvalidTimestamp {
		c.bad = err
	}
	if len(c.records) < maxRecordErrors {
		c.records = append(c.records, RecordError{Index: i, Message: why})
	}
}

func (c *checker) result() error {
	switch {
	case c.bad != nil:
		return &InvalidRecords{Err: c.bad, Records: c.records}
	case len(c.gaps) > 0:
		return &InvalidRecords{Err: kerr.InvalidRecord, Records: c.gaps}
	}
	return nil
}

// fromCoordinator takes the broker's own batches as they are, after their
// checksums.
func (v *validated) fromCoordinator(b []byte, cfg *Config, now time.Time) error {
	v.buf, v.appTime = b, -1
	if cfg.LogAppendTime {
		v.appTime = now.UnixMilli()
	}
	v.entries = v.one[:0]
	for rest := b; len(rest) > 0; {
		var batch record.Batch
		var err error
		if batch, rest, err = record.Next(rest); err == nil {
			err = batch.CheckCRC()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", kerr.CorruptMessage, err)
		}
		if batch.NumRecords() <= 0 {
			return invalidRecord("batch of %d records", batch.NumRecords())
		}
		if cfg.LogAppendTime {
			batch.SetLogAppendTime(v.appTime)
		}
		first, _, err := batch.FirstAtOrAfter(batch.MaxTimestamp(), 0, commitlog.MaxBatchBytes)
		if err != nil {
			return fmt.Errorf("%w: %w", kerr.CorruptMessage, err)
		}
		v.entries = append(v.entries, commitlog.Entry{Batch: batch, MaxTSOffset: max(first.Offset-batch.BaseOffset(), 0)})
	}
	if len(v.entries) == 0 {
		return invalidRecord("no record batch")
	}
	return nil
}
