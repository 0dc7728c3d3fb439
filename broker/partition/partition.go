// Package partition is one partition as its leader serves it: append with
// validation and producer state, reads hot and cold, high watermark, last
// stable offset, and those who wait for them to advance. Bytes on disk belong
// to commitlog, objects to tiering (seen here only as a Cold), and the wire
// and topic metadata to others.
package partition

import (
	"context"
	"log/slog"
	"time"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// Config is what a partition takes from its topic's settings; it can be
// changed while the partition is open (SetConfig). Sizes are bytes; -1 means
// unlimited wherever Kafka's topic config of that name allows it.
type Config struct {
	MaxMessageBytes      int           // max.message.bytes: of a batch, as compressed
	LogAppendTime        bool          // message.timestamp.type=LogAppendTime
	TimestampBeforeMax   time.Duration // message.timestamp.before.max.ms; <0 or max: no limit
	TimestampAfterMax    time.Duration // message.timestamp.after.max.ms
	Codec                record.Codec  // compression.type, when Recompress
	CodecLevel           int           // compression.<codec>.level, 0 = default
	Recompress           bool          // false for compression.type=producer
	SegmentBytes         int64         // segment.bytes
	SegmentAge           time.Duration // segment.ms
	SegmentJitter        time.Duration // segment.jitter.ms
	IndexIntervalBytes   int           // index.interval.bytes
	IndexBytes           int           // segment.index.bytes; <=0 no limit
	Preallocate          bool          // preallocate
	FileDeleteDelay      time.Duration // file.delete.delay.ms
	RetentionBytes       int64         // retention.bytes
	Retention            time.Duration // retention.ms; <0 unlimited
	Tiered               bool          // remote.storage.enable
	LocalRetentionBytes  int64         // local.retention.bytes, resolved: -2 became RetentionBytes
	LocalRetention       time.Duration // local.retention.ms, resolved likewise
	RemoteCopyDisabled   bool          // remote.log.copy.disable
	MinInsync            int           // min.insync.replicas, ≥ 1; 0 is 1
	ReplicaLag           time.Duration // replica.lag.time.max.ms of the broker
	Fsync                bool          // firn.ack.policy=fsync: acknowledged is on disk; needs Deps.Journal
	FlushMessages        int64         // flush.messages; <=0 never, 1 before a record is acknowledged
	FlushAfter           time.Duration // flush.ms; <=0 or max: never, so that 0 ms is given as 1 ns
	ProducerIDExpiration time.Duration // producer.id.expiration.ms
	DeleteOnRetention    bool          // cleanup.policy contains delete
	Compact              bool          // cleanup.policy contains compact; never together with Tiered
	DeleteRetention      time.Duration // delete.retention.ms
	MinCompactionLag     time.Duration // min.compaction.lag.ms
	MaxCompactionLag     time.Duration // max.compaction.lag.ms; max: no limit
	MinCleanableRatio    float64       // min.cleanable.dirty.ratio, 0 to 1
}

// Cold reads what is only in object storage. package tiering has the one
// implementation; nil where the broker has no store.
type Cold interface {
	// ReadCold gives whole batches of the tiered part, the first of which
	// contains offset from, about maxBytes of them but at least one batch, and
	// the aborted transactions among them. It may return early with no spans
	// and no error when ctx ends: the bytes stay cached for the next try.
	// Errors: kerr.OffsetOutOfRange when from is not in the tiered part,
	// otherwise kerr.KafkaStorageError wrapped with the cause.
	ReadCold(ctx context.Context, id record.TopicID, tp record.TopicPartition, from record.Offset, maxBytes int) ([]record.Span, []record.AbortedTxn, error)
	// ColdTimestamp finds the first tiered record with a timestamp >= ts
	// (milliseconds), record.NoTimestampOffset when there is none.
	ColdTimestamp(ctx context.Context, id record.TopicID, tp record.TopicPartition, ts int64) (record.TimestampOffset, error)
	// ColdMaxTimestamp finds the tiered record with the greatest timestamp.
	ColdMaxTimestamp(ctx context.Context, id record.TopicID, tp record.TopicPartition) (record.TimestampOffset, error)
	// ColdRange gives what is tiered: [start, end). Empty: start == end.
	ColdRange(id record.TopicID, tp record.TopicPartition) (start, end record.Offset)
	// ColdEnd gives where what is tiered ends now, whoever tiers it, and what a
	// log has to know that begins there.
	ColdEnd(ctx context.Context, id record.TopicID, tp record.TopicPartition) (record.TieredEnd, error)
}

// Deps are what a partition uses and does not own.
type Deps struct {
	Log   *slog.Logger
	Cold  Cold             // nil: no tiered part
	Now   func() time.Time // nil: time.Now
	Epoch record.Epoch     // that it leads under, unless Standby
	// TieredRollAge is how long a tiered partition's active segment is left
	// alone after its first record even when all of it may go from local
	// disk: with a short local retention, or records that are old when they
	// come, every look would otherwise make a segment, and its objects.
	TieredRollAge time.Duration
	// Journal makes appends durable where Config.Fsync asks for it; nil: every
	// such append syncs the segment.
	Journal *journal.Journal
	// PowerLost says that the machine has been restarted since the broker
	// last ran.
	PowerLost bool
	Broker    record.BrokerID // this broker, as replicas are named
	// Standby says that Lead and Follow will tell what the replica is; without
	// it, it is the leader and the only replica from the start.
	Standby bool
	// ISRWanted is called when the leader may want its ISR changed (WantedISR),
	// from any goroutine; it must not block. nil: nobody changes it.
	ISRWanted func(*Partition)
	Disk      *disk.Disk // nil: the real one
	// Failed is called once when the partition's disk failed (write, sync or
	// rename); the partition refuses everything from then on.
	Failed func(tp record.TopicPartition, err error)
}

// Origin says who wants to append.
type Origin int8

const (
	// Client is a producer: control batches are refused, sequences checked.
	Client Origin = iota
	// Coordinator is the broker itself (group offsets, later markers).
	Coordinator
)

// AppendResult says where batches went.
type AppendResult struct {
	BaseOffset     record.Offset // of the first record (of the original, for a duplicate)
	LastOffset     record.Offset
	LogAppendTime  int64 // milliseconds, -1 with CreateTime
	LogStartOffset record.Offset
	Duplicate      bool
}

// RecordError names the record of a batch that was refused (KIP-467).
type RecordError struct {
	Index   int32
	Message string
}

// InvalidRecords is the error of a batch with records that are refused one by
// one; it wraps the kerr error to answer with.
type InvalidRecords struct {
	Err     error // a *kerr.Error
	Records []RecordError
}

func (e *InvalidRecords) Error() string { return e.Err.Error() + ": " + e.Records[0].Message }
func (e *InvalidRecords) Unwrap() error { return e.Err }

// ReadRequest asks for records from Offset on.
type ReadRequest struct {
	Offset      record.Offset
	MaxBytes    int
	MinOneBatch bool // return the first batch even when it is larger than MaxBytes
	Isolation   record.Isolation
	Replica     bool // a follower: up to the log's end, whatever Isolation says
	Anywhere    bool // not only the leader may answer, but who follows, too, up to the high watermark that it knows (KIP-392)
	// CurrentEpoch is the leader epoch the reader believes in, -1 unknown
	// (KIP-320); kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch otherwise.
	CurrentEpoch record.Epoch
	// LastFetchedEpoch of the record before Offset, -1 for none: on
	// divergence the result has Diverging set and no spans.
	LastFetchedEpoch record.Epoch
}

// ReadResult is what a fetch of one partition gives. The three offsets are
// set even when an error is returned, where the partition can tell them.
type ReadResult struct {
	Spans            []record.Span // the reader releases them
	HighWatermark    record.Offset
	LastStableOffset record.Offset
	LogStartOffset   record.Offset
	Aborted          []record.AbortedTxn // only for ReadCommitted
	Diverging        *record.EpochStart  // epoch and its END offset (KIP-595), nil for none
	Cold             bool                // the answer came (or would come) from the tiered part
}

// State is a partition's offsets at one moment.
type State struct {
	Epoch            record.Epoch
	LogStart         record.Offset // first readable, hot or cold
	LocalStart       record.Offset // first readable on local disk
	HighWatermark    record.Offset
	LastStableOffset record.Offset
	LogEnd           record.Offset
	TieredEnd        record.Offset // exclusive, 0 or LogStart when nothing is tiered
	LocalBytes       int64
	Segments         int
}

// ProducerState is one producer as DescribeProducers lists it.
type ProducerState struct {
	ProducerID     int64
	Epoch          int16
	LastSequence   int32
	LastTimestamp  int64
	CoordEpoch     int32
	TxnStartOffset record.Offset // -1 for none
}
