package record

import (
	"encoding/binary"
	"fmt"
)

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte // nil when null
}

// Record is one record of a batch, its offset and time made absolute. Slices
// alias the decompressed batch.
type Record struct {
	Offset    Offset
	Timestamp int64  // milliseconds
	Key       []byte // nil when null
	Value     []byte // nil when null
	Headers   []Header
}

// EachRecord decompresses a whole batch, of at most maxBytes decompressed,
// and calls f with each record in order until f returns false. The Record
// and its Headers are overwritten by the next call. Malformed records are
// ErrCorrupt.
func (b Batch) EachRecord(maxBytes int, f func(*Record) bool) error {
	buf, err := Decompress(nil, b.Codec(), b.Payload(), maxBytes)
	if err != nil {
		return err
	}
	return eachRecord(b, buf, f)
}

func eachRecord(b Batch, buf []byte, f func(*Record) bool) error {
	var r Record
	for i := int32(0); i < b.NumRecords(); i++ {
		rest, err := readRecord(b, buf, &r)
		if err != nil {
			return fmt.Errorf("record %d of the batch at offset %d: %w", i, b.BaseOffset(), err)
		}
		buf = rest
		if !f(&r) {
			return nil
		}
	}
	if len(buf) != 0 {
		return fmt.Errorf("%w: %d bytes follow the last record of the batch at offset %d", ErrCorrupt, len(buf), b.BaseOffset())
	}
	return nil
}

var errVarint = fmt.Errorf("%w: bad variable-length integer", ErrCorrupt)

func varint(b []byte) (int64, []byte, error) {
	v, n := binary.Varint(b)
	if n <= 0 {
		return 0, b, errVarint
	}
	return v, b[n:], nil
}

// varBytes reads a length and so many bytes; length -1 is nil.
func varBytes(b []byte) (v, rest []byte, err error) {
	n, b, err := varint(b)
	if err != nil || n == -1 {
		return nil, b, err
	}
	if n < -1 || n > int64(len(b)) {
		return nil, b, fmt.Errorf("%w: field of %d bytes in %d", ErrCorrupt, n, len(b))
	}
	return b[:n:n], b[n:], nil
}

func readRecord(batch Batch, b []byte, r *Record) (rest []byte, err error) {
	n, b, err := varint(b)
	if err != nil {
		return nil, err
	}
	if n < 1 || n > int64(len(b)) {
		return nil, fmt.Errorf("%w: record of %d bytes in %d", ErrCorrupt, n, len(b))
	}
	rest, b = b[n:], b[1:n] // the first byte is a record's attributes, unused
	dt, b, err := varint(b)
	if err != nil {
		return nil, err
	}
	do, b, err := varint(b)
	if err != nil {
		return nil, err
	}
	if do < 0 || do > int64(batch.LastOffsetDelta()) {
		return nil, fmt.Errorf("%w: offset delta %d is outside of the batch's %d", ErrCorrupt, do, batch.LastOffsetDelta())
	}
	r.Offset = batch.BaseOffset() + Offset(do)
	r.Timestamp = batch.FirstTimestamp() + dt
	if batch.IsLogAppendTime() {
		r.Timestamp = batch.MaxTimestamp()
	}
	if r.Key, b, err = varBytes(b); err != nil {
		return nil, err
	}
	if r.Value, b, err = varBytes(b); err != nil {
		return nil, err
	}
	nh, b, err := varint(b)
	if err != nil {
		return nil, err
	}
	if nh < 0 || nh > int64(len(b)/2) {
		return nil, fmt.Errorf("%w: %d headers in %d bytes", ErrCorrupt, nh, len(b))
	}
	r.Headers = r.Headers[:0]
	for range nh {
		var k, v []byte
		if k, b, err = varBytes(b); err != nil {
			return nil, err
		}
		if k == nil {
			return nil, fmt.Errorf("%w: a header's key is null", ErrCorrupt)
		}
		if v, b, err = varBytes(b); err != nil {
			return nil, err
		}
		r.Headers = append(r.Headers, Header{Key: string(k), Value: v})
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes follow the last header", ErrCorrupt, len(b))
	}
	return rest, nil
}

// BatchSpec is what a batch made by NewBatch says beside its records.
type BatchSpec struct {
	BaseOffset    Offset
	Epoch         Epoch
	Codec         Codec
	Level         int // of compression; 0 is the codec's default
	LogAppendTime bool
	Transactional bool
	Control       bool
	ProducerID    int64 // use -1, -1, -1 for no producer
	ProducerEpoch int16
	BaseSequence  int32
}

// NewBatch encodes recs, at least one, as one batch. Offsets are taken from
// the records (ascending, not below BaseOffset); with LogAppendTime the
// batch's maximum timestamp stands for all of them.
func NewBatch(spec BatchSpec, recs []Record) (Batch, error) {
	if len(recs) == 0 {
		return nil, fmt.Errorf("record: a batch needs at least one record")
	}
	first, maxTS := recs[0].Timestamp, recs[0].Timestamp
	var body []byte
	for i := range recs {
		r := &recs[i]
		maxTS = max(maxTS, r.Timestamp)
		body = appendRecord(body, r, r.Timestamp-first, int64(r.Offset-spec.BaseOffset))
	}
	b := make([]byte, HeaderSize, HeaderSize+len(body))
	attrs := uint16(spec.Codec)
	for i, on := range []bool{spec.LogAppendTime, spec.Transactional, spec.Control} {
		if on {
			attrs |= 1 << (3 + i)
		}
	}
	binary.BigEndian.PutUint64(b, uint64(spec.BaseOffset))
	binary.BigEndian.PutUint32(b[12:], uint32(spec.Epoch))
	b[16] = 2
	binary.BigEndian.PutUint16(b[21:], attrs)
	binary.BigEndian.PutUint32(b[23:], uint32(recs[len(recs)-1].Offset-spec.BaseOffset))
	binary.BigEndian.PutUint64(b[27:], uint64(first))
	binary.BigEndian.PutUint64(b[35:], uint64(maxTS))
	binary.BigEndian.PutUint64(b[43:], uint64(spec.ProducerID))
	binary.BigEndian.PutUint16(b[51:], uint16(spec.ProducerEpoch))
	binary.BigEndian.PutUint32(b[53:], uint32(spec.BaseSequence))
	binary.BigEndian.PutUint32(b[57:], uint32(len(recs)))
	out, err := Compress(b, spec.Codec, spec.Level, body)
	if err != nil {
		return nil, err
	}
	batch := Batch(out)
	batch.seal()
	return batch, nil
}

// Recompress gives the batch with its records in another codec, every other
// field kept. maxBytes bounds the decompressed records.
func (b Batch) Recompress(codec Codec, level, maxBytes int) (Batch, error) {
	body, err := Decompress(nil, b.Codec(), b.Payload(), maxBytes)
	if err != nil {
		return nil, err
	}
	head := make([]byte, HeaderSize, HeaderSize+len(body))
	copy(head, b)
	binary.BigEndian.PutUint16(head[21:], uint16(b.Attributes()&^7)|uint16(codec))
	out, err := Compress(head, codec, level, body)
	if err != nil {
		return nil, err
	}
	nb := Batch(out)
	nb.seal()
	return nb, nil
}

func appendVarBytes(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	b = binary.AppendVarint(b, int64(len(v)))
	return append(b, v...)
}

func appendRecord(dst []byte, r *Record, dt, do int64) []byte {
	body := make([]byte, 0, 32+len(r.Key)+len(r.Value))
	body = append(body, 0)
	body = binary.AppendVarint(body, dt)
	body = binary.AppendVarint(body, do)
	body = appendVarBytes(body, r.Key)
	body = appendVarBytes(body, r.Value)
	body = binary.AppendVarint(body, int64(len(r.Headers)))
	for _, h := range r.Headers {
		body = binary.AppendVarint(body, int64(len(h.Key)))
		body = append(body, h.Key...)
		body = appendVarBytes(body, h.Value)
	}
	dst = binary.AppendVarint(dst, int64(len(body)))
	return append(dst, body...)
}
