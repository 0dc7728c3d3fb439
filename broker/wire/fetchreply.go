package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// segment is a run of a reply's bytes: encoded (of the meta buffer, [from,
// to)), or a span of records.
type segment struct {
	from, to int
	span     record.Span
	isSpan   bool
}

// fetchPlan is an encoded Fetch reply whose records are still where they
// were.
type fetchPlan struct {
	meta     []byte
	segments []segment
	start    int // of the segment of meta that is being written
	spans    int64
}

// newFetchPlan encodes a whole Fetch reply frame, of versions 4 to 18, as a
// list of segments. It takes no reference and releases none. meta's memory is
// reused for the encoded part. Partitions without spans get zero bytes of
// records, not null, as Kafka answers.
func newFetchPlan(meta []byte, correlationID int32, f *FetchReply) (*fetchPlan, error) {
	p := &fetchPlan{meta: appendReplyHeader(meta[:0], correlationID, f.Body.IsFlexible())}
	n := 1
	for _, topic := range f.Spans {
		for _, spans := range topic {
			n += 2 * len(spans)
		}
	}
	p.segments = make([]segment, 0, n)
	if err := p.body(f); err != nil {
		return p, err
	}
	p.closeMeta()
	return p, finishFrame(p.meta, 0, p.spans)
}

// closeMeta makes what was written to meta since the last span a segment.
func (p *fetchPlan) closeMeta() {
	if len(p.meta) > p.start {
		p.segments = append(p.segments, segment{from: p.start, to: len(p.meta)})
		p.start = len(p.meta)
	}
}

func (p *fetchPlan) body(f *FetchReply) error {
	b, v := f.Body, f.Body.Version
	flex := v >= 12
	if v < 4 || v > 18 {
		return fmt.Errorf("fetch reply of version %d cannot be encoded", v)
	}
	e := encoder{p.meta, flex}
	e.int32(b.ThrottleMillis)
	if v >= 7 {
		e.int16(b.ErrorCode)
		e.int32(b.SessionID)
	}
	e.arrayLen(len(b.Topics))
	for i := range b.Topics {
		t := &b.Topics[i]
		if v <= 12 {
			e.string(t.Topic)
		} else {
			e.b = append(e.b, t.TopicID[:]...)
		}
		e.arrayLen(len(t.Partitions))
		for j := range t.Partitions {
			e.partition(&t.Partitions[j], v)
			var spans []record.Span
			if i < len(f.Spans) && j < len(f.Spans[i]) {
				spans = f.Spans[i][j]
			}
			n := record.SpansSize(spans)
			if n > math.MaxInt32-1 {
				return fmt.Errorf("%w: %d bytes of records of %s partition %d", errReplyTooLarge, n, t.Topic, t.Partitions[j].Partition)
			}
			e.bytesLen(int(n))
			p.meta = e.b
			p.addSpans(spans)
			e.partitionTags(&t.Partitions[j])
		}
		e.tags(&t.UnknownTags)
	}
	e.brokers(b)
	p.meta = e.b
	return nil
}

func (p *fetchPlan) addSpans(spans []record.Span) {
	for _, s := range spans {
		if n := s.Size(); n > 0 {
			p.closeMeta()
			p.segments = append(p.segments, segment{span: s, isSpan: true})
			p.spans += n
		}
	}
}

// encoder appends Kafka's primitive types.
type encoder struct {
	b    []byte
	flex bool
}

func (e *encoder) int16(v int16)    { e.b = binary.BigEndian.AppendUint16(e.b, uint16(v)) }
func (e *encoder) int32(v int32)    { e.b = binary.BigEndian.AppendUint32(e.b, uint32(v)) }
func (e *encoder) int64(v int64)    { e.b = binary.BigEndian.AppendUint64(e.b, uint64(v)) }
func (e *encoder) uvarint(v uint64) { e.b = binary.AppendUvarint(e.b, v) }

func (e *encoder) arrayLen(n int) {
	if e.flex {
		e.uvarint(uint64(n) + 1)
	} else {
		e.int32(int32(n))
	}
}

func (e *encoder) bytesLen(n int) { e.arrayLen(n) }

func (e *encoder) string(s string) {
	if e.flex {
		e.uvarint(uint64(len(s)) + 1)
	} else {
		e.int16(int16(len(s)))
	}
	e.b = append(e.b, s...)
}

func (e *encoder) tags(t *kmsg.Tags) {
	if e.flex {
		e.uvarint(uint64(t.Len()))
		e.b = t.AppendEach(e.b)
	}
}

// partition writes the fields of a partition before its records.
func (e *encoder) partition(p *kmsg.FetchResponseTopicPartition, v int16) {
	e.int32(p.Partition)
	e.int16(p.ErrorCode)
	e.int64(p.HighWatermark)
	e.int64(p.LastStableOffset)
	if v >= 5 {
		e.int64(p.LogStartOffset)
	}
	switch {
	case p.AbortedTransactions != nil:
		e.arrayLen(len(p.AbortedTransactions))
	case e.flex:
		e.uvarint(0)
	default:
		e.int32(-1)
	}
	for i := range p.AbortedTransactions {
		a := &p.AbortedTransactions[i]
		e.int64(a.ProducerID)
		e.int64(a.FirstOffset)
		e.tags(&a.UnknownTags)
	}
	if v >= 11 {
		e.int32(p.PreferredReadReplica)
	}
}

// partitionTags writes a partition's tagged fields, those that are not at
// their default of -1: diverging epoch (KIP-595), current leader (KIP-951),
// snapshot id.
func (e *encoder) partitionTags(p *kmsg.FetchResponseTopicPartition) {
	if !e.flex {
		return
	}
	d, l, s := &p.DivergingEpoch, &p.CurrentLeader, &p.SnapshotID
	hasD := d.Epoch != -1 || d.EndOffset != -1 || d.UnknownTags.Len() > 0
	hasL := l.LeaderID != -1 || l.LeaderEpoch != -1 || l.UnknownTags.Len() > 0
	hasS := s.EndOffset != -1 || s.Epoch != -1 || s.UnknownTags.Len() > 0
	n := p.UnknownTags.Len()
	for _, has := range []bool{hasD, hasL, hasS} {
		if has {
			n++
		}
	}
	e.uvarint(uint64(n))
	if hasD {
		e.tagged(0, func(e *encoder) { e.int32(d.Epoch); e.int64(d.EndOffset); e.tags(&d.UnknownTags) })
	}
	if hasL {
		e.tagged(1, func(e *encoder) { e.int32(l.LeaderID); e.int32(l.LeaderEpoch); e.tags(&l.UnknownTags) })
	}
	if hasS {
		e.tagged(2, func(e *encoder) { e.int64(s.EndOffset); e.int32(s.Epoch); e.tags(&s.UnknownTags) })
	}
	e.b = p.UnknownTags.AppendEach(e.b)
}

// tagged writes one tagged field: tag, length, value.
func (e *encoder) tagged(tag uint64, value func(*encoder)) {
	sub := encoder{flex: true}
	value(&sub)
	e.uvarint(tag)
	e.uvarint(uint64(len(sub.b)))
	e.b = append(e.b, sub.b...)
}

// brokers writes the reply's own tagged field, the endpoints of the current
// leaders named in its partitions (KIP-951).
func (e *encoder) brokers(r *kmsg.FetchResponse) {
	if !e.flex {
		return
	}
	if len(r.Brokers) == 0 {
		e.tags(&r.UnknownTags)
		return
	}
	e.uvarint(uint64(r.UnknownTags.Len()) + 1)
	e.tagged(0, func(e *encoder) {
		e.arrayLen(len(r.Brokers))
		for i := range r.Brokers {
			b := &r.Brokers[i]
			e.int32(b.NodeID)
			e.string(b.Host)
			e.int32(b.Port)
			if b.Rack == nil {
				e.uvarint(0)
			} else {
				e.string(*b.Rack)
			}
			e.tags(&b.UnknownTags)
		}
	})
	e.b = r.UnknownTags.AppendEach(e.b)
}

// release gives up every span, once; after it the reply has none.
func (f *FetchReply) release() {
	for _, topic := range f.Spans {
		for _, spans := range topic {
			record.ReleaseSpans(spans)
		}
	}
	f.Spans = nil
}

// What a Fetch reply takes in memory until it is sent, besides records:
// per partition its fields and their encoding, and per span.
const (
	partitionMemory = int64(unsafe.Sizeof(kmsg.FetchResponseTopicPartition{})+unsafe.Sizeof([]record.Span{})) + partitionMeta
	spanMemory      = int64(unsafe.Sizeof(record.Span{}))
	// partitionMeta is about what a partition is when encoded: numbers, lengths,
	// tags, its share of the topic.
	partitionMeta = 96
)

// memory is about how many bytes the reply holds in memory, those of records
// included that are neither in files nor in memory that somebody else bounds.
func (f *FetchReply) memory() (n int64) {
	n = f.partitions() * partitionMemory
	for _, topic := range f.Spans {
		for _, spans := range topic {
			n += int64(len(spans)) * spanMemory
			for _, s := range spans {
				if s.Mem == nil {
					n += int64(len(s.Bytes))
				}
			}
		}
	}
	return n
}

func (f *FetchReply) partitions() (n int64) {
	for i := range f.Body.Topics {
		n += int64(len(f.Body.Topics[i].Partitions))
	}
	return n
}
