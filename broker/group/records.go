package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// The records of __consumer_offsets, big-endian, as Kafka writes them (see
// docs/formats/group-offsets.md). A null value deletes the key.
//
//	key      version (2): 0, 1 offset commit; 2 group metadata
//	  0, 1   group (2+n), topic (2+n), partition (4)
//	  2      group (2+n)
//	value    version (2), then by version
const (
	offsetKeyVersion   = 1
	groupKeyVersion    = 2
	offsetValueVersion = 4 // 1 when the commit came with its own retention; 4 is the first with tags
	groupValueVersion  = 3
)

// maxBatch bounds a decompressed batch on load.
const maxBatch = 256 << 20

var (
	errUnknownKey = errors.New("key of an unknown version")
	errValue      = errors.New("value does not parse")
)

// CorruptError says which record of __consumer_offsets cannot be read.
type CorruptError struct {
	Partition int32         // of __consumer_offsets
	Offset    record.Offset // of the record, or of the batch when that is broken
	Err       error
}

// Error names partition, offset and cause.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("group: __consumer_offsets-%d: record at offset %d: %v", e.Partition, e.Offset, e.Err)
}

// Unwrap gives the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// offsetValue is one committed offset. Times are milliseconds since the Unix
// epoch.
type offsetValue struct {
	offset     int64
	epoch      int32 // leader epoch of the last consumed record, -1 unknown
	metadata   string
	commitTime int64
	expireTime int64          // -1: by the group's retention
	topicID    record.TopicID // zero: unknown, of a version below 4
}

// stale says that the offset is of another topic than the one that has its
// name now; zero is a topic that is not known.
func (o *offsetValue) stale(now record.TopicID) bool {
	return o.topicID != now && o.topicID != record.TopicID{} && now != record.TopicID{}
}

// entry is one record: an offset or a group's metadata.
type entry struct {
	group     string
	isOffset  bool
	topic     string
	partition int32
	offset    *offsetValue // nil deletes
	meta      []byte       // encoded GroupMetadataValue; nil deletes
}

func (e *entry) key() []byte {
	if e.isOffset {
		return (&kmsg.OffsetCommitKey{Version: offsetKeyVersion, Group: e.group, Topic: e.topic, Partition: e.partition}).AppendTo(nil)
	}
	return (&kmsg.GroupMetadataKey{Version: groupKeyVersion, Group: e.group}).AppendTo(nil)
}

func (e *entry) value() []byte {
	switch {
	case !e.isOffset:
		return e.meta
	case e.offset == nil:
		return nil
	}
	v := kmsg.NewOffsetCommitValue()
	v.Version = offsetValueVersion
	if e.offset.expireTime != -1 {
		v.Version = 1
	}
	v.Offset, v.LeaderEpoch, v.Metadata = e.offset.offset, e.offset.epoch, e.offset.metadata
	v.CommitTimestamp, v.ExpireTimestamp, v.TopicID = e.offset.commitTime, e.offset.expireTime, e.offset.topicID
	return v.AppendTo(nil)
}

// size is about what the record takes in the log.
func (e *entry) size() int64 {
	n := 40 + len(e.group)
	switch {
	case !e.isOffset:
		n += len(e.meta)
	case e.offset != nil:
		n += len(e.topic) + len(e.offset.metadata) + 42
	default:
		n += len(e.topic)
	}
	return int64(n)
}

// decodeEntry reads one record. errUnknownKey: written by a version of the
// coordinator that knows more; to be skipped.
func decodeEntry(key, value []byte) (entry, error) {
	if len(key) < 2 {
		return entry{}, fmt.Errorf("key of %d bytes", len(key))
	}
	switch v := int16(binary.BigEndian.Uint16(key)); v {
	case 0, offsetKeyVersion:
		var k kmsg.OffsetCommitKey
		if err := k.ReadFrom(key); err != nil {
			return entry{}, fmt.Errorf("offset commit key: %w", err)
		}
		e := entry{group: k.Group, isOffset: true, topic: k.Topic, partition: k.Partition}
		if value == nil {
			return e, nil
		}
		ov, err := decodeOffset(value)
		e.offset = ov
		return e, err
	case groupKeyVersion:
		var k kmsg.GroupMetadataKey
		if err := k.ReadFrom(key); err != nil {
			return entry{}, fmt.Errorf("group metadata key: %w", err)
		}
		if value != nil {
			if _, err := decodeGroup(value); err != nil {
				return entry{}, err
			}
		}
		return entry{group: k.Group, meta: value}, nil
	default:
		return entry{}, fmt.Errorf("%w: %d", errUnknownKey, v)
	}
}

func checkVersion(what string, b []byte, highest int16) error {
	if len(b) < 2 {
		return fmt.Errorf("%w: %s of %d bytes", errValue, what, len(b))
	}
	if v := int16(binary.BigEndian.Uint16(b)); v < 0 || v > highest {
		return fmt.Errorf("%w: %s of version %d, at most %d is known", errValue, what, v, highest)
	}
	return nil
}

func decodeOffset(b []byte) (*offsetValue, error) {
	if err := checkVersion("offset commit value", b, offsetValueVersion); err != nil {
		return nil, err
	}
	v := kmsg.NewOffsetCommitValue()
	if err := v.ReadFrom(b); err != nil {
		return nil, fmt.Errorf("%w: offset commit: %w", errValue, err)
	}
	ov := &offsetValue{offset: v.Offset, epoch: -1, metadata: v.Metadata, commitTime: v.CommitTimestamp, expireTime: -1}
	if v.Version >= 3 {
		ov.epoch = v.LeaderEpoch
	}
	if v.Version == 1 {
		ov.expireTime = v.ExpireTimestamp
	}
	if v.Version >= 4 {
		ov.topicID = v.TopicID
	}
	return ov, nil
}

func newMeta() *kmsg.GroupMetadataValue {
	v := kmsg.NewGroupMetadataValue()
	return &v
}

func decodeGroup(b []byte) (*kmsg.GroupMetadataValue, error) {
	if err := checkVersion("group metadata value", b, groupValueVersion); err != nil {
		return nil, err
	}
	v := newMeta()
	if err := v.ReadFrom(b); err != nil {
		return nil, fmt.Errorf("%w: group metadata: %w", errValue, err)
	}
	if v.Version < 2 {
		v.CurrentStateTimestamp = -1
	}
	return v, nil
}

// encodeBatch makes one batch of entries, at least one.
func encodeBatch(entries []entry, now time.Time) (record.Batch, error) {
	recs := make([]record.Record, len(entries))
	ms := now.UnixMilli()
	for i := range entries {
		recs[i] = record.Record{Offset: record.Offset(i), Timestamp: ms, Key: entries[i].key(), Value: entries[i].value()}
	}
	return record.NewBatch(record.BatchSpec{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, recs)
}

// decodeBatch calls fn with each known entry of a batch read from the log.
func decodeBatch(partition int32, b record.Batch, fn func(entry)) error {
	if b.IsControl() {
		return nil
	}
	if b.IsTransactional() {
		return &CorruptError{partition, b.BaseOffset(), errors.New("offsets committed in a transaction are not supported by this version")}
	}
	if err := b.CheckCRC(); err != nil {
		return &CorruptError{partition, b.BaseOffset(), err}
	}
	var bad error
	err := b.EachRecord(maxBatch, func(r *record.Record) bool {
		e, err := decodeEntry(r.Key, r.Value)
		switch {
		case errors.Is(err, errUnknownKey):
			metricSkipped.Inc()
		case err != nil:
			bad = &CorruptError{partition, r.Offset, err}
			return false
		default:
			// The record's bytes alias the batch.
			e.meta = cloneBytes(e.meta)
			fn(e)
		}
		return true
	})
	if bad != nil {
		return bad
	}
	if err != nil {
		return &CorruptError{partition, b.BaseOffset(), err}
	}
	return nil
}

func cloneBytes(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append(make([]byte, 0, len(b)), b...)
}
