package metastore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/firnlog/firn/record"
)

// Values are a version byte and then fields in order: numbers as varints
// (zigzag where they may be negative), strings as a length and bytes, lists as
// a count and items. docs/formats/metastore-keys.md draws them. A decoder
// takes nothing on trust: counts are bounded by the bytes that remain, and
// bytes left over are an error.
const valueVersion = 1

// Version 2 of two kinds of value, written since brokers form clusters;
// version 1 is still read.
const (
	partitionVersion = 2 // with ELR, adding and removing
	brokerVersion    = 2 // with flags, disk and peer
)

// ErrCorrupt says that a key or value in etcd is not one that this version of
// Firn writes.
var ErrCorrupt = errors.New("metastore: corrupt key or value")

// Limits of what is stored. They keep a value far below etcd's request size.
const (
	// MaxPartitions is the greatest number of partitions of one topic.
	MaxPartitions = 1_000_000
	// MaxReplicas is the greatest number of replicas of one partition.
	MaxReplicas = 128
	// MaxConfigBytes is the greatest size of the encoded configs of a topic or a broker.
	MaxConfigBytes = 256 << 10
	// MaxResourceConfigBytes is that of a group or a client-metrics
	// subscription, of which there may be MaxConfigResources each.
	MaxResourceConfigBytes = 16 << 10
	// MaxConfigResources is how many resources of one type, topics aside, may
	// have configs.
	MaxConfigResources = 10_000
	// MaxResourceName is the greatest length of such a resource's name.
	MaxResourceName = 1024
	// MaxTierPointer is the greatest size of a tiering pointer.
	MaxTierPointer = 64 << 10
	// MaxDeployment is the greatest length of what a broker runs as.
	MaxDeployment = 128
	// MaxTopicName is the greatest length of a topic name (as in Kafka).
	MaxTopicName = 249
)

const flagInternal = 1 << 0 // of a topic

const flagLeaving = 1 << 0 // of a broker

// topicValue is what the topic key holds. Partitions at or above Partitions
// are not part of the topic yet.
type topicValue struct {
	Name       string
	Internal   bool
	Partitions int32
	CreatedMs  int64
}

func (v topicValue) encode() []byte {
	var flags byte
	if v.Internal {
		flags |= flagInternal
	}
	b := []byte{valueVersion, flags}
	b = binary.AppendUvarint(b, uint64(v.Partitions))
	b = binary.AppendVarint(b, v.CreatedMs)
	return appendString(b, v.Name)
}

func decodeTopic(b []byte) (topicValue, error) {
	d := newDecoder(b, valueVersion)
	flags := d.byte()
	v := topicValue{Internal: flags&flagInternal != 0}
	v.Partitions = int32(d.uint(MaxPartitions))
	v.CreatedMs = d.int()
	v.Name = d.string()
	if flags&^flagInternal != 0 || v.Partitions == 0 || v.Name == "" || len(v.Name) > MaxTopicName {
		d.bad = true
	}
	return v, d.end("topic")
}

// encodePartition leaves out ID and Revision: they are in the key and its
// modification revision.
func encodePartition(p Partition) []byte {
	b := make([]byte, 1, 32)
	b[0] = partitionVersion
	b = binary.AppendVarint(b, int64(p.Leader))
	b = binary.AppendVarint(b, int64(p.Epoch))
	b = binary.AppendVarint(b, int64(p.PartitionEpoch))
	for _, ids := range [][]record.BrokerID{p.Replicas, p.ISR, p.ELR, p.Adding, p.Removing} {
		b = appendBrokers(b, ids)
	}
	return b
}

func decodePartition(b []byte) (Partition, error) {
	d := newDecoder(b, partitionVersion)
	var p Partition
	p.Leader = record.BrokerID(d.int32())
	p.Epoch = record.Epoch(d.int32())
	p.PartitionEpoch = d.int32()
	p.Replicas = d.brokers()
	p.ISR = d.brokers()
	if d.version >= 2 {
		p.ELR = d.brokers()
		p.Adding = d.brokers()
		p.Removing = d.brokers()
	}
	return p, d.end("partition")
}

// encodeBroker leaves out ID and Epoch: they are the key and its creation
// revision.
func encodeBroker(v Broker) []byte {
	b := []byte{brokerVersion}
	b = binary.AppendVarint(b, v.StartedMs)
	b = binary.AppendUvarint(b, uint64(uint32(v.Port)))
	b = appendString(b, v.Host)
	b = appendString(b, v.HTTP)
	b = appendString(b, v.Rack)
	var flags byte
	if v.Leaving {
		flags |= flagLeaving
	}
	b = append(b, flags)
	b = appendString(b, v.Disk)
	b = appendString(b, v.Cache)
	return appendString(b, v.Peer)
}

func decodeBroker(b []byte) (Broker, error) {
	d := newDecoder(b, brokerVersion)
	var v Broker
	v.StartedMs = d.int()
	v.Port = int32(d.uint(math.MaxInt32))
	v.Host = d.string()
	v.HTTP = d.string()
	v.Rack = d.string()
	if d.version >= 2 {
		flags := d.byte()
		v.Leaving = flags&flagLeaving != 0
		if flags&^flagLeaving != 0 {
			d.bad = true
		}
		v.Disk = d.string()
		v.Cache = d.string()
		v.Peer = d.string()
	}
	return v, d.end("broker")
}

// encodeUnfenced leaves out the broker: it is in the key.
func encodeUnfenced(v Unfenced) []byte {
	b := binary.AppendUvarint([]byte{valueVersion}, uint64(v.Epoch))
	return appendString(appendString(b, v.Disk), v.Cache)
}

func decodeUnfenced(b []byte) (Unfenced, error) {
	d := newDecoder(b, valueVersion)
	var v Unfenced
	v.Epoch = int64(d.uint(math.MaxInt64))
	v.Disk = d.string()
	v.Cache = d.string()
	return v, d.end("unfenced")
}

func encodeController(id record.BrokerID) []byte {
	return binary.AppendUvarint([]byte{valueVersion}, uint64(id))
}

func decodeController(b []byte) (record.BrokerID, error) {
	d := newDecoder(b, valueVersion)
	id := record.BrokerID(d.uint(math.MaxInt32))
	return id, d.end("controller")
}

// encodeConfigs writes the entries sorted by key: equal maps, equal bytes.
func encodeConfigs(m map[string]string) []byte {
	b := binary.AppendUvarint([]byte{valueVersion}, uint64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b = appendString(appendString(b, k), m[k])
	}
	return b
}

func decodeConfigs(b []byte) (map[string]string, error) {
	d := newDecoder(b, valueVersion)
	n := d.count(2) // two length bytes at least
	m := make(map[string]string, n)
	last := ""
	for i := 0; i < n && !d.bad; i++ {
		k := d.string()
		if i > 0 && k <= last {
			d.bad = true
			break
		}
		m[k], last = d.string(), k
	}
	return m, d.end("configs")
}

func encodeDeployment(name string) []byte { return appendString([]byte{valueVersion}, name) }

func decodeDeployment(b []byte) (string, error) {
	d := newDecoder(b, valueVersion)
	name := d.string()
	if name == "" || len(name) > MaxDeployment {
		d.bad = true
	}
	return name, d.end("deployment")
}

func encodeClusterID(id string) []byte { return appendString([]byte{valueVersion}, id) }

func decodeClusterID(b []byte) (string, error) {
	d := newDecoder(b, valueVersion)
	id := d.string()
	if id == "" {
		d.bad = true
	}
	return id, d.end("cluster id")
}

func encodeTopicID(id record.TopicID) []byte { return append([]byte{valueVersion}, id[:]...) }

func decodeTopicID(b []byte) (id record.TopicID, err error) {
	d := newDecoder(b, valueVersion)
	copy(id[:], d.take(len(id)))
	return id, d.end("topic id")
}

// encodeProducerID writes the first producer id that was not handed out.
func encodeProducerID(next int64) []byte {
	return binary.AppendUvarint([]byte{valueVersion}, uint64(next))
}

func decodeProducerID(b []byte) (int64, error) {
	d := newDecoder(b, valueVersion)
	n := int64(d.uint(math.MaxInt64))
	return n, d.end("producer id")
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendBrokers(b []byte, ids []record.BrokerID) []byte {
	b = binary.AppendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = binary.AppendUvarint(b, uint64(uint32(id)))
	}
	return b
}

// decoder reads a value. After a fault, bad is set and every read gives a zero
// value; end reports it.
type decoder struct {
	b       []byte
	version byte // of the value, 1 to newest
	newest  byte
	bad     bool
}

// newDecoder reads the version, which is at most newest.
func newDecoder(b []byte, newest byte) *decoder {
	d := &decoder{b: b, newest: newest}
	d.version = d.byte()
	if d.version == 0 || d.version > newest {
		d.bad = true
	}
	return d
}

func (d *decoder) end(what string) error {
	if d.version > d.newest {
		return fmt.Errorf("%w: a %s value of version %d was written by a later version of firn, this one knows 1 to %d: upgrade it", ErrCorrupt, what, d.version, d.newest)
	}
	if d.bad || len(d.b) != 0 {
		return fmt.Errorf("%w: not a %s value of version 1 to %d", ErrCorrupt, what, d.newest)
	}
	return nil
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad = true
		return nil
	}
	t := d.b[:n]
	d.b = d.b[n:]
	return t
}

func (d *decoder) byte() byte {
	if t := d.take(1); t != nil {
		return t[0]
	}
	return 0
}

func (d *decoder) uint(limit uint64) uint64 {
	if d.bad {
		return 0
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	if d.bad {
		return 0
	}
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int32() int32 {
	v := d.int()
	if v != int64(int32(v)) {
		d.bad = true
		return 0
	}
	return int32(v)
}

// count reads a number of items that take at least size bytes each.
func (d *decoder) count(size int) int { return int(d.uint(uint64(len(d.b) / size))) }

func (d *decoder) string() string { return string(d.take(d.count(1))) }

// brokers reads a list; an empty one is nil.
func (d *decoder) brokers() []record.BrokerID {
	n := d.count(1)
	if n > MaxReplicas {
		d.bad = true
	}
	if d.bad || n == 0 {
		return nil
	}
	ids := make([]record.BrokerID, n)
	for i := range ids {
		ids[i] = record.BrokerID(d.uint(math.MaxInt32))
	}
	return ids
}
