// Package record holds the nouns that every other package speaks of: offsets,
// epochs, topic-partitions, read-only views of record batches, and runs of
// bytes on their way to a socket. It imports nothing local. Decisions, I/O
// policy and wire framing do not belong here.
package record

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
)

// Offset is a record's position in its partition, dense from 0. -1 means
// "none" or "unknown" wherever the Kafka protocol says so.
type Offset int64

// Epoch is a partition's leader epoch; -1 means unknown (KIP-101, KIP-320).
type Epoch int32

// PartitionID is a partition's index within its topic, from 0.
type PartitionID int32

// BrokerID names a broker in its cluster; -1 means none.
type BrokerID int32

// TopicID is a topic's UUID (KIP-516); the zero value means "no id".
type TopicID [16]byte

// TopicPartition names one partition of one topic.
type TopicPartition struct {
	Topic     string
	Partition PartitionID
}

// String gives "topic-partition", the form that Kafka's logs and folders use.
func (tp TopicPartition) String() string {
	return tp.Topic + "-" + strconv.Itoa(int(tp.Partition))
}

// String gives the id as Kafka prints it: URL-safe base64 without padding, 22
// characters.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// Hex gives the id as 32 lower-case hexadecimal digits, for names of files
// and keys (base64 is case-sensitive, some file systems are not).
func (id TopicID) Hex() string { return hex.EncodeToString(id[:]) }

// IsZero says whether the id is the protocol's "no id".
func (id TopicID) IsZero() bool { return id == TopicID{} }

// ParseTopicID reads the form that String or Hex writes.
func ParseTopicID(s string) (TopicID, error) {
	var id TopicID
	var b []byte
	var err error
	if len(s) == 32 {
		b, err = hex.DecodeString(s)
	} else {
		b, err = base64.RawURLEncoding.DecodeString(s)
	}
	if err != nil || len(b) != len(id) {
		return TopicID{}, fmt.Errorf("record: %q is not a topic id (22 characters of URL-safe base64, or 32 hexadecimal digits)", s)
	}
	copy(id[:], b)
	return id, nil
}

// Isolation says which records a reader may see (KIP-98).
type Isolation int8

const (
	// ReadUncommitted sees everything below the high watermark.
	ReadUncommitted Isolation = 0
	// ReadCommitted sees everything below the last stable offset.
	ReadCommitted Isolation = 1
)

// Segment describes a sealed run of a partition's offsets, hot or cold. Its
// records are [Base, End).
type Segment struct {
	Base         Offset
	End          Offset // exclusive
	Bytes        int64  // of record batches, indexes not counted
	MaxTimestamp int64  // milliseconds since the Unix epoch, -1 when there is none
	MaxTSOffset  Offset // offset of the first record that has MaxTimestamp, -1 when there is none
}

// AbortedTxn is one aborted transaction in a range of offsets, as a Fetch
// reply lists it (KIP-98).
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset Offset
	LastOffset  Offset // of its abort marker
}

// EpochStart says at which offset a leader epoch began.
type EpochStart struct {
	Epoch Epoch
	Start Offset
}

// TimestampOffset is an answer to "which record has this time": its offset,
// its timestamp in milliseconds, and the leader epoch that wrote it. All are
// -1 where there is no such record.
type TimestampOffset struct {
	Offset    Offset
	Timestamp int64
	Epoch     Epoch
}

// NoTimestampOffset is the answer when no record fits.
var NoTimestampOffset = TimestampOffset{Offset: -1, Timestamp: -1, Epoch: -1}
