package topicconfig

import (
	"fmt"
	"strconv"
	"strings"
)

const forever = "9223372036854775807"

// table holds what Kafka 4.3 lists for topics
// (https://kafka.apache.org/documentation/#topicconfigs), in Kafka's types,
// ranges and defaults; the words are ours.
var table = []Definition{
	{Name: "cleanup.policy", Type: List, Default: "delete", Synonym: "log.cleanup.policy",
		Valid: "compact, delete, both, or empty for neither", check: checkCleanup, distinct: true,
		Doc:  "What becomes of old records. delete drops whole segments once retention.ms or retention.bytes is passed; compact keeps the latest record of every key; an empty list keeps everything.",
		Firn: "Every segment that compaction rewrites keeps its last batch, if need be without records; Kafka keeps the last batch of the whole pass only. The same records stay."},
	{Name: "compression.gzip.level", Type: Int, Default: "-1", Synonym: "compression.gzip.level",
		Valid: "1 to 9, or -1 for the codec's own default", check: checkGzipLevel,
		Doc: "How hard the broker tries when it compresses batches again because compression.type is gzip."},
	{Name: "compression.lz4.level", Type: Int, Default: "9", Synonym: "compression.lz4.level",
		Valid: "1 to 17", check: Between(1, 17),
		Doc:  "How hard the broker tries when it compresses batches again because compression.type is lz4.",
		Firn: "Levels are mapped to the nearest that the library has."},
	{Name: "compression.zstd.level", Type: Int, Default: "3", Synonym: "compression.zstd.level",
		Valid: "-131072 to 22", check: Between(-131072, 22),
		Doc:  "How hard the broker tries when it compresses batches again because compression.type is zstd.",
		Firn: "Levels are mapped to the nearest of the four that the library has."},
	{Name: "compression.type", Type: String, Default: "producer", Synonym: "compression.type",
		Valid: "uncompressed, zstd, lz4, snappy, gzip, producer", check: OneOf("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
		Doc: "The codec in which batches are stored. producer keeps each batch as it came; with any other value batches in another codec are compressed again by the broker."},
	{Name: "delete.retention.ms", Type: Long, Default: "86400000", Synonym: "log.cleaner.delete.retention.ms",
		Valid: "0 and up", check: AtLeast(0),
		Doc: "In a compacted topic, how long (milliseconds) a tombstone stays readable after compaction has seen it."},
	{Name: "file.delete.delay.ms", Type: Long, Default: "60000", Synonym: "log.segment.delete.delay.ms",
		Valid: "0 and up", check: AtLeast(0),
		Doc:  "How long (milliseconds) a segment's files stay on disk after the segment has left the log.",
		Firn: "What is left of deleted files goes at the next start, as in Kafka, and at once when the disk is full. A deleted topic's folder goes at once."},
	{Name: "firn.ack.policy", Type: String, Default: "fsync", Synonym: "firn.ack.policy",
		Valid: "fsync, replicated", check: OneOf("fsync", "replicated"),
		Doc:  "When a record counts as written and can be read: fsync when it is on disk, replicated when it is in the memory of the in-sync replicas.",
		Firn: "Firn's own. replicated is Kafka's promise. With fsync, flush.messages and flush.ms have nothing to do, and what was produced with acks=1 or 0, which are answered at once as in Kafka, can be read a moment later. Internal topics have fsync always."},
	{Name: "flush.messages", Type: Long, Default: forever, Synonym: "log.flush.interval.messages",
		Valid: "1 and up", check: AtLeast(1),
		Doc:  "After how many records the log is forced to disk.",
		Firn: "1 means synced before the record is acknowledged. With more the sync follows in the background, where Kafka holds up the one append that reaches the number."},
	{Name: "flush.ms", Type: Long, Default: forever, Synonym: "log.flush.interval.ms",
		Valid: "0 and up", check: AtLeast(0),
		Doc:  "After how long (milliseconds) unflushed records are forced to disk.",
		Firn: "The sync is due so long after the first record that is not synced; Kafka looks every log.flush.scheduler.interval.ms."},
	{Name: "follower.replication.throttled.replicas", Type: List, Default: "", check: checkThrottled,
		Valid: "partition:broker pairs, or *",
		Doc:   "Replicas that copy from their leader, while they are not in sync, at no more than follower.replication.throttled.rate of their broker, all of them together. * means all of the topic's."},
	{Name: "index.interval.bytes", Type: Int, Default: "4096", Synonym: "log.index.interval.bytes",
		Valid: "0 and up", check: AtLeast(0),
		Doc: "About how many bytes of records lie between two entries of the offset index."},
	{Name: "leader.replication.throttled.replicas", Type: List, Default: "", check: checkThrottled,
		Valid: "partition:broker pairs, or *",
		Doc:   "Partitions and the broker that leads them, which serves followers that are not in sync at no more than its leader.replication.throttled.rate, all of these partitions together. * means all of the topic's."},
	{Name: "local.retention.bytes", Type: Long, Default: "-2", Synonym: "log.local.retention.bytes",
		Valid: "-2 for the value of retention.bytes, -1 for no limit, 0 and up", check: AtLeast(-2),
		Doc: "How many bytes of a tiered partition stay on local disk once they are in object storage."},
	{Name: "local.retention.ms", Type: Long, Default: "-2", Synonym: "log.local.retention.ms",
		Valid: "-2 for the value of retention.ms, -1 for no limit, 0 and up", check: AtLeast(-2),
		Doc: "How long (milliseconds) records of a tiered partition stay on local disk once they are in object storage."},
	{Name: "max.compaction.lag.ms", Type: Long, Default: forever, Synonym: "log.cleaner.max.compaction.lag.ms",
		Valid: "1 and up", check: AtLeast(1),
		Doc: "In a compacted topic, after how long (milliseconds) a record may be compacted at the latest."},
	{Name: "max.message.bytes", Type: Int, Default: "1048588", Synonym: "message.max.bytes",
		Valid: "0 and up", check: AtLeast(0),
		Doc: "The largest batch taken from a producer, in bytes and as compressed."},
	{Name: "message.timestamp.after.max.ms", Type: Long, Default: "3600000", Synonym: "log.message.timestamp.after.max.ms",
		Valid: "0 and up", check: AtLeast(0),
		Doc: "How far (milliseconds) a record's timestamp may lie ahead of the broker's clock. Without meaning for LogAppendTime."},
	{Name: "message.timestamp.before.max.ms", Type: Long, Default: forever, Synonym: "log.message.timestamp.before.max.ms",
		Valid: "0 and up", check: AtLeast(0),
		Doc: "How far (milliseconds) a record's timestamp may lie behind the broker's clock. Without meaning for LogAppendTime."},
	{Name: "message.timestamp.type", Type: String, Default: "CreateTime", Synonym: "log.message.timestamp.type",
		Valid: "CreateTime, LogAppendTime", check: OneOf("CreateTime", "LogAppendTime"),
		Doc: "Whether a record's timestamp is the producer's or the broker's time of append."},
	{Name: "min.cleanable.dirty.ratio", Type: Double, Default: "0.5", Synonym: "log.cleaner.min.cleanable.ratio",
		Valid: "0 to 1", check: checkRatio,
		Doc: "In a compacted topic, the share of uncompacted bytes from which compaction is worth its while."},
	{Name: "min.compaction.lag.ms", Type: Long, Default: "0", Synonym: "log.cleaner.min.compaction.lag.ms",
		Valid: "0 and up", check: AtLeast(0),
		Doc: "In a compacted topic, for how long (milliseconds) a record is left alone by compaction."},
	{Name: "min.insync.replicas", Type: Int, Default: "1", Synonym: "min.insync.replicas",
		Valid: "1 and up", check: AtLeast(1),
		Doc:  "How many replicas must hold a record before a produce request with acks=all is answered. Never more than the partition has replicas.",
		Firn: "As in Kafka, never more than the partition has replicas: with one broker, 1."},
	{Name: "preallocate", Type: Boolean, Default: "false", Synonym: "log.preallocate",
		Doc:  "Whether a segment's file takes its full size on disk from the start.",
		Firn: "The room is taken without changing the file's length, so that a crash leaves no zeroes behind; what is not needed is given back when the segment is sealed or the broker stops."},
	{Name: "remote.log.copy.disable", Type: Boolean, Default: "false",
		Doc: "In a tiered topic, stops further copies to object storage; what is there stays readable."},
	{Name: "remote.log.delete.on.disable", Type: Boolean, Default: "false",
		Doc:  "Whether turning remote.storage.enable off deletes what is in object storage.",
		Firn: "What is only in object storage can no longer be read from the moment tiering is turned off; objects and pointers go soon after."},
	{Name: "remote.storage.enable", Type: Boolean, Default: "false",
		Doc:  "Whether sealed segments are copied to object storage, after which local copies go by local.retention.* and reads reach back to what is only there.",
		Firn: "Refused for compacted topics, as in Kafka."},
	{Name: "retention.bytes", Type: Long, Default: "-1", Synonym: "log.retention.bytes",
		Valid: "any; below 0 means no limit",
		Doc:   "How many bytes of a partition are kept, local and remote together, under cleanup.policy=delete."},
	{Name: "retention.ms", Type: Long, Default: "604800000", Synonym: "log.retention.ms",
		Valid: "-1 for no limit, 0 and up", check: AtLeast(-1),
		Doc: "How long (milliseconds) records are kept, by the newest timestamp of their segment, under cleanup.policy=delete."},
	{Name: "segment.bytes", Type: Int, Default: "1073741824", Synonym: "log.segment.bytes",
		Valid: "1048576 and up", check: AtLeast(1 << 20),
		Doc: "The size from which a segment is sealed and a new one begun. Retention and tiering work by whole segments."},
	{Name: "segment.index.bytes", Type: Int, Default: "10485760", Synonym: "log.index.size.max.bytes",
		Valid: "4 and up", check: AtLeast(4),
		Doc:  "The largest size of a segment's index.",
		Firn: "A segment's index has 32,768 entries at most and thins itself out beyond that, so 262,144 and more seal nothing."},
	{Name: "segment.jitter.ms", Type: Long, Default: "0", Synonym: "log.roll.jitter.ms",
		Valid: "0 and up", check: AtLeast(0),
		Doc: "A random time (milliseconds, at most this) by which segments are sealed before segment.ms, so that not all are at once."},
	{Name: "segment.ms", Type: Long, Default: "604800000", Synonym: "log.roll.ms",
		Valid: "1 and up", check: AtLeast(1),
		Doc: "The age (milliseconds) from which a segment that has records is sealed even if it is not full."},
	{Name: "unclean.leader.election.enable", Type: Boolean, Default: "false", Synonym: "unclean.leader.election.enable",
		Doc: "Whether a replica that is not in sync may lead when no other is left, at the price of lost records."},
	{Name: "internal.segment.bytes", Type: Int, Default: "", Internal: true,
		Valid: "64 and up", check: AtLeast(64),
		Doc: "Stands above segment.bytes and may be smaller; for tests."},
}

func checkCleanup(v string) error {
	if strings.TrimSpace(v) == "" {
		return nil
	}
	for p := range strings.SplitSeq(v, ",") {
		if p = strings.TrimSpace(p); p != "delete" && p != "compact" {
			return fmt.Errorf("%q is not one of compact, delete", p)
		}
	}
	return nil
}

func checkGzipLevel(v string) error {
	if v == "-1" {
		return nil
	}
	return Between(1, 9)(v)
}

func checkRatio(v string) error {
	f, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return err
	}
	if f < 0 || f > 1 {
		return fmt.Errorf("%s is not between 0 and 1", v)
	}
	return nil
}

// digits says whether s is a number of any size.
func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// checkThrottled takes "*", or pairs of partition and broker id.
func checkThrottled(v string) error {
	parts := SplitList(v)
	if len(parts) == 1 && parts[0] == "*" {
		return nil
	}
	for _, p := range parts {
		partition, broker, _ := strings.Cut(p, ":")
		if !digits(partition) || !digits(broker) {
			return fmt.Errorf("%q is not partition:broker", p)
		}
	}
	return nil
}
