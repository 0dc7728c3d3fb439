package kafkadiff

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// A batch in a scenario is an object; every field may be left out.
//
//	records          [record, …], or a number of records k0/v0, k1/v1, …
//	codec            none, gzip, snappy, lz4, zstd: packs the records and sets the attributes
//	attributes       instead of those that codec sets
//	producer, epoch, sequence, baseOffset, leaderEpoch, magic
//	count, lastDelta, first, max    instead of what the records give (count, offset of the last, timestamps)
//	length           instead of the true length
//	corrupt          "crc", "payload" (a bit of it, after the checksum was made)
//	cut              bytes that are missing at the end
//
// A record is "value" or {"key", "value", "headers": [["k", "v"]], "time",
// "delta": offset delta, "attributes"}; bytes as elsewhere, null told apart.
type batchSpec struct {
	at      *object
	used    map[string]bool
	trouble error
}

func (b *batchSpec) int(name string, otherwise, low, high int64) int64 {
	b.used[name] = true
	v, ok := b.at.get(name)
	if !ok {
		return otherwise
	}
	i, err := integer(v, low, high)
	if err != nil && b.trouble == nil {
		b.trouble = fmt.Errorf("%s: %w", name, err)
	}
	return i
}

func (b *batchSpec) text(name, otherwise string) string {
	b.used[name] = true
	v, ok := b.at.get(name)
	if !ok {
		return otherwise
	}
	s, ok := v.(string)
	if !ok && b.trouble == nil {
		b.trouble = fmt.Errorf("%s: %s is not a string", name, oneLine(v))
	}
	return s
}

func (b *batchSpec) done(what string) error {
	if b.trouble != nil {
		return fmt.Errorf("%s: %w", what, b.trouble)
	}
	for _, n := range b.at.names {
		if !b.used[n] {
			return fmt.Errorf("%s: unknown field %q", what, n)
		}
	}
	return nil
}

func newSpec(v any, what string) (*batchSpec, error) {
	o, ok := v.(*object)
	if !ok {
		return nil, fmt.Errorf("%s: want an object, not %s", what, oneLine(v))
	}
	return &batchSpec{at: o, used: map[string]bool{}}, nil
}

var codecs = map[string]record.Codec{"none": record.None, "gzip": record.Gzip, "snappy": record.Snappy, "lz4": record.LZ4, "zstd": record.Zstd}

// oneRecord is a record of a scenario's batch or message set.
type oneRecord struct {
	key, value []byte
	headers    []kmsg.Header
	time       int64
	delta      int64
	attributes int8
}

// recordsOf reads the field "records"; times are zero unless given.
func (s *setter) recordsOf(spec *batchSpec, clock int64) ([]oneRecord, error) {
	spec.used["records"] = true
	v, ok := spec.at.get("records")
	if !ok {
		v = number(1)
	}
	if _, err := integer(v, 0, 1<<20); err == nil {
		n, _ := integer(v, 0, 1<<20)
		recs := make([]oneRecord, n)
		for i := range recs {
			at := strconv.Itoa(i)
			recs[i] = oneRecord{key: []byte("k" + at), value: []byte("v" + at), time: clock, delta: int64(i)}
		}
		return recs, nil
	}
	l, ok := v.(list)
	if !ok {
		return nil, fmt.Errorf("records: want a list or a number, not %s", oneLine(v))
	}
	recs := make([]oneRecord, len(l))
	for i, e := range l {
		recs[i] = oneRecord{time: clock, delta: int64(i)}
		if _, ok := e.(*object); !ok {
			e = &object{names: []string{"value"}, values: []any{e}}
		}
		if err := s.oneRecord(&recs[i], e.(*object)); err != nil {
			return nil, fmt.Errorf("records[%d]: %w", i, err)
		}
	}
	return recs, nil
}

func (s *setter) oneRecord(r *oneRecord, o *object) error {
	spec := &batchSpec{at: o, used: map[string]bool{"key": true, "value": true, "headers": true}}
	r.time = spec.int("time", r.time, math.MinInt64, math.MaxInt64)
	r.delta = spec.int("delta", r.delta, math.MinInt32, math.MaxInt32)
	r.attributes = int8(spec.int("attributes", 0, math.MinInt8, math.MaxInt8))
	for name, dst := range map[string]*[]byte{"key": &r.key, "value": &r.value} {
		if v, ok := o.get(name); ok && v != nil {
			b, err := s.bytes(v)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			*dst = b
		}
	}
	if v, ok := o.get("headers"); ok {
		pairs, _ := v.(list)
		for _, p := range pairs {
			pair, ok := p.(list)
			if !ok || len(pair) != 2 {
				return fmt.Errorf("headers: want [[\"name\", \"value\"], …]")
			}
			name, _ := pair[0].(string)
			h := kmsg.Header{Key: name}
			if pair[1] != nil {
				b, err := s.bytes(pair[1])
				if err != nil {
					return fmt.Errorf("headers: %w", err)
				}
				h.Value = b
			}
			r.headers = append(r.headers, h)
		}
	}
	return spec.done("record")
}

func (s *setter) batch(v any) ([]byte, error) {
	spec, err := newSpec(v, "batch")
	if err != nil {
		return nil, err
	}
	recs, err := s.recordsOf(spec, s.clock)
	if err != nil {
		return nil, err
	}
	name := spec.text("codec", "none")
	codec, ok := codecs[name]
	if !ok {
		return nil, fmt.Errorf("codec %q", name)
	}
	first, last := s.clock, int64(-1)
	top := int64(math.MinInt64)
	for i, r := range recs {
		if i == 0 {
			first = r.time
		}
		top, last = max(top, r.time), r.delta
	}
	if len(recs) == 0 {
		top = first
	}
	first = spec.int("first", first, math.MinInt64, math.MaxInt64)
	var plain []byte
	for _, r := range recs {
		plain = appendRecord(plain, r, first)
	}
	payload, err := record.Compress(nil, codec, 0, plain)
	if err != nil {
		return nil, err
	}
	rb := kmsg.RecordBatch{
		FirstOffset:          spec.int("baseOffset", 0, math.MinInt64, math.MaxInt64),
		Length:               int32(spec.int("length", int64(49+len(payload)), math.MinInt32, math.MaxInt32)),
		PartitionLeaderEpoch: int32(spec.int("leaderEpoch", -1, math.MinInt32, math.MaxInt32)),
		Magic:                int8(spec.int("magic", 2, math.MinInt8, math.MaxInt8)),
		Attributes:           int16(spec.int("attributes", int64(codec), math.MinInt16, math.MaxInt16)),
		LastOffsetDelta:      int32(spec.int("lastDelta", last, math.MinInt32, math.MaxInt32)),
		FirstTimestamp:       first,
		MaxTimestamp:         spec.int("max", top, math.MinInt64, math.MaxInt64),
		ProducerID:           spec.int("producer", -1, math.MinInt64, math.MaxInt64),
		ProducerEpoch:        int16(spec.int("epoch", -1, math.MinInt16, math.MaxInt16)),
		FirstSequence:        int32(spec.int("sequence", -1, math.MinInt32, math.MaxInt32)),
		NumRecords:           int32(spec.int("count", int64(len(recs)), math.MinInt32, math.MaxInt32)),
		Records:              payload,
	}
	b := rb.AppendTo(nil)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	switch how := spec.text("corrupt", ""); how {
	case "":
	case "crc":
		b[17] ^= 1
	case "payload":
		b[len(b)-1] ^= 1
	default:
		return nil, fmt.Errorf("corrupt %q: there is crc and payload", how)
	}
	b = b[:int64(len(b))-spec.int("cut", 0, 0, int64(len(b)))]
	if len(b) > 61 {
		s.payloads = append(s.payloads, b[61:])
	}
	return b, spec.done("batch")
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendRecord(dst []byte, r oneRecord, first int64) []byte {
	k := kmsg.Record{Attributes: r.attributes, TimestampDelta64: r.time - first, OffsetDelta: int32(r.delta), Key: r.key, Value: r.value, Headers: r.headers}
	k.Length = int32(len(k.AppendTo(nil)) - 1) // without itself: 0 takes one byte
	return k.AppendTo(dst)
}

// messageSet builds messages of the formats before 0.11: {"magic": 0 or 1,
// "records": […], "corrupt": "crc"}, one after the other and not packed.
func messageSet(v any) ([]byte, error) {
	spec, err := newSpec(v, "messages")
	if err != nil {
		return nil, err
	}
	recs, err := (&setter{}).recordsOf(spec, 0)
	if err != nil {
		return nil, err
	}
	magic := spec.int("magic", 1, math.MinInt8, math.MaxInt8)
	corrupt := spec.text("corrupt", "")
	be := binary.BigEndian
	var set []byte
	for i, r := range recs {
		m := []byte{byte(magic), byte(r.attributes)}
		if magic >= 1 {
			m = be.AppendUint64(m, uint64(r.time))
		}
		for _, b := range [][]byte{r.key, r.value} {
			if b == nil {
				m = be.AppendUint32(m, math.MaxUint32)
				continue
			}
			m = be.AppendUint32(m, uint32(len(b)))
			m = append(m, b...)
		}
		sum := crc32.ChecksumIEEE(m)
		if corrupt == "crc" {
			sum ^= 1
		}
		set = be.AppendUint64(set, uint64(i))
		set = be.AppendUint32(set, uint32(4+len(m)))
		set = be.AppendUint32(set, sum)
		set = append(set, m...)
	}
	return set, spec.done("messages")
}

// decodeBatches renders what a Fetch answer carries; sent are the payloads
// that the scenario produced.
func decodeBatches(b []byte, sent map[string]bool) any {
	if b == nil {
		return nil
	}
	batches := list{}
	for len(b) > 0 {
		size := int64(0)
		if len(b) >= 12 {
			size = 12 + int64(int32(binary.BigEndian.Uint32(b[8:])))
		}
		if size < 12+5 || size > int64(len(b)) {
			return append(batches, &object{names: []string{"Partial"}, values: []any{number(int64(len(b)))}})
		}
		batches = append(batches, decodeBatch(b[:size], sent))
		b = b[size:]
	}
	return batches
}

func decodeBatch(b []byte, sent map[string]bool) any {
	o := &object{}
	o.set("BaseOffset", number(int64(binary.BigEndian.Uint64(b))))
	if b[16] != 2 || len(b) < record.HeaderSize {
		o.set("Magic", number(int64(b[16])))
		o.set("Bytes", hex.EncodeToString(b[12:]))
		return o
	}
	h, err := record.ParseHeader(b)
	if err != nil {
		o.set("Bad", "header")
		return o
	}
	var rb kmsg.RecordBatch
	_ = rb.ReadFrom(b) // the header is whole
	o.set("LeaderEpoch", number(int64(rb.PartitionLeaderEpoch)))
	if crc32.Checksum(b[21:], castagnoli) != uint32(rb.CRC) {
		o.set("CRC", "wrong")
	}
	o.set("Attributes", number(int64(rb.Attributes)))
	o.set("LastOffsetDelta", number(int64(rb.LastOffsetDelta)))
	o.set("FirstTimestamp", number(rb.FirstTimestamp))
	o.set("MaxTimestamp", number(rb.MaxTimestamp))
	o.set("ProducerID", number(rb.ProducerID))
	o.set("ProducerEpoch", number(int64(rb.ProducerEpoch)))
	o.set("FirstSequence", number(int64(rb.FirstSequence)))
	o.set("NumRecords", number(int64(rb.NumRecords)))
	if sent[string(b[61:])] {
		o.set("Payload", "as produced")
	} else {
		o.set("Payload", "made by the broker")
	}
	records := list{}
	err = h.EachRecord(64<<20, func(r *record.Record) bool {
		one := &object{}
		one.set("Offset", number(int64(r.Offset)))
		one.set("Timestamp", number(r.Timestamp))
		one.set("Key", bytesTree(r.Key))
		one.set("Value", bytesTree(r.Value))
		if len(r.Headers) > 0 {
			pairs := list{}
			for _, h := range r.Headers {
				pairs = append(pairs, list{h.Key, bytesTree(h.Value)})
			}
			one.set("Headers", pairs)
		}
		records = append(records, one)
		return true
	})
	if err != nil {
		o.set("Bad", "records")
	}
	o.set("Records", records)
	return o
}

// bytesTree renders bytes; long ones are cut in the middle of the recording,
// their length kept.
func bytesTree(b []byte) any {
	if b == nil {
		return nil
	}
	if len(b) > 2000 {
		return fmt.Sprintf("%s… %d bytes, CRC %08x", escapeBytes(b[:32]), len(b), crc32.Checksum(b, castagnoli))
	}
	return escapeBytes(b)
}
