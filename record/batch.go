package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The header of a record batch, format v2
// (https://kafka.apache.org/documentation/#recordbatch), big-endian:
//
//	 0        8      12     16   17    21  23      27        35        43
//	 ┌────────┬──────┬──────┬────┬─────┬───┬───────┬─────────┬─────────┐
//	 │ base   │length│leader│ma- │crc  │at-│ last  │ first   │ max     │
//	 │ offset │(from │epoch │gic │32c  │tr.│ offset│ time-   │ time-   │
//	 │ 8      │12) 4 │4     │1=2 │4    │2  │ delta4│ stamp 8 │ stamp 8 │
//	 └────────┴──────┴──────┴────┴─────┴───┴───────┴─────────┴─────────┘
//	43         51      53       57      61
//	 ┌─────────┬───────┬────────┬───────┬───────────────┐
//	 │producer │prod.  │ base   │record │ records, maybe│
//	 │id 8     │epoch 2│ sequ. 4│count 4│ compressed    │
//	 └─────────┴───────┴────────┴───────┴───────────────┘
//
// The checksum covers [21, end): neither base offset nor leader epoch, so the
// broker patches those in place.
const (
	// HeaderSize is the number of bytes before the records.
	HeaderSize = 61
	// LogOverhead is the number of bytes before what the length field counts.
	LogOverhead = 12
	crcStart    = 21
)

// Errors of batches that came from outside. All wrap ErrCorrupt.
var (
	// ErrCorrupt says that the bytes are not a whole, intact batch.
	ErrCorrupt = errors.New("corrupt record batch")
	// ErrShort says that the bytes end before the batch does.
	ErrShort = fmt.Errorf("%w: cut short", ErrCorrupt)
	// ErrChecksum says that the stored CRC-32C does not match the bytes.
	ErrChecksum = fmt.Errorf("%w: checksum does not match", ErrCorrupt)
	// ErrMagic says that the format is not version 2.
	ErrMagic = fmt.Errorf("%w: format is not v2", ErrCorrupt)
	// ErrDelta says that the last offset delta is negative: no records.
	ErrDelta = fmt.Errorf("%w: last offset delta is negative", ErrCorrupt)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC32C is the checksum that record batches and all of Firn's files use.
func CRC32C(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// UpdateCRC32C is the checksum of what crc is the checksum of, followed by b.
func UpdateCRC32C(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// Batch is one record batch v2, exactly its bytes. Views come from Next or
// ParseHeader; the methods read fields without checking bounds again.
// Invariant: len ≥ HeaderSize.
type Batch []byte

// ParseHeader views the start of b, of at least HeaderSize bytes, as a batch
// header and checks what can be checked without the records: magic, length
// and counts. Size() of the result may exceed len(b).
func ParseHeader(b []byte) (Batch, error) {
	if len(b) < HeaderSize {
		return nil, ErrShort
	}
	h := Batch(b)
	if h.Magic() != 2 {
		return nil, fmt.Errorf("%w: magic byte is %d", ErrMagic, h.Magic())
	}
	if n := int64(int32(binary.BigEndian.Uint32(b[8:]))); n < HeaderSize-LogOverhead {
		return nil, fmt.Errorf("%w: length field is %d", ErrCorrupt, n)
	}
	if h.LastOffsetDelta() < 0 {
		return nil, fmt.Errorf("%w: %d", ErrDelta, h.LastOffsetDelta())
	}
	return h, nil
}

// Next cuts the first whole batch off b and returns it and the rest. It
// checks lengths and magic, not the checksum. ErrShort: b ends inside it.
func Next(b []byte) (batch Batch, rest []byte, err error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, b, err
	}
	n := h.Size()
	if n > int64(len(b)) {
		return nil, b, ErrShort
	}
	return h[:n:n], b[n:], nil
}

// CheckCRC compares the stored checksum with the bytes of a whole batch.
func (b Batch) CheckCRC() error {
	if got := CRC32C(b[crcStart:]); got != b.CRC() {
		return fmt.Errorf("%w: stored %08x, computed %08x, base offset %d", ErrChecksum, b.CRC(), got, b.BaseOffset())
	}
	return nil
}

// Size is the length of the whole batch in bytes, header included.
func (b Batch) Size() int64 { return LogOverhead + int64(int32(binary.BigEndian.Uint32(b[8:]))) }

// BaseOffset is the offset of the first record the batch was written with.
func (b Batch) BaseOffset() Offset { return Offset(binary.BigEndian.Uint64(b)) }

// LastOffset is the offset of the last record the batch was written with;
// compaction may have removed that record, never this field.
func (b Batch) LastOffset() Offset { return b.BaseOffset() + Offset(b.LastOffsetDelta()) }

// LeaderEpoch is the epoch of the leader that appended the batch.
func (b Batch) LeaderEpoch() Epoch { return Epoch(binary.BigEndian.Uint32(b[12:])) }

// Magic is the format version, 2.
func (b Batch) Magic() int8 { return int8(b[16]) }

// CRC is the stored checksum.
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[17:]) }

// Attributes is the field of flags.
func (b Batch) Attributes() int16 { return int16(binary.BigEndian.Uint16(b[21:])) }

// Codec says how the records are compressed.
func (b Batch) Codec() Codec { return Codec(b.Attributes() & 7) }

// IsLogAppendTime says whether MaxTimestamp is the broker's time of append
// and stands for every record.
func (b Batch) IsLogAppendTime() bool { return b.Attributes()&(1<<3) != 0 }

// IsTransactional says whether the batch is part of a transaction.
func (b Batch) IsTransactional() bool { return b.Attributes()&(1<<4) != 0 }

// IsControl says whether the batch holds a control record (a transaction
// marker), which readers do not hand to applications.
func (b Batch) IsControl() bool { return b.Attributes()&(1<<5) != 0 }

// HasDeleteHorizon says whether FirstTimestamp is the time from which the
// batch's tombstones may go (KIP-534).
func (b Batch) HasDeleteHorizon() bool { return b.Attributes()&(1<<6) != 0 }

// LastOffsetDelta is LastOffset less BaseOffset.
func (b Batch) LastOffsetDelta() int32 { return int32(binary.BigEndian.Uint32(b[23:])) }

// FirstTimestamp is what the records' timestamp deltas are added to, in
// milliseconds.
func (b Batch) FirstTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[27:])) }

// MaxTimestamp is the greatest timestamp of the records, in milliseconds.
func (b Batch) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[35:])) }

// ProducerID is -1 for a producer that is not idempotent.
func (b Batch) ProducerID() int64 { return int64(binary.BigEndian.Uint64(b[43:])) }

// ProducerEpoch is -1 for a producer that is not idempotent.
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[51:])) }

// BaseSequence is the sequence number of the first record, -1 for none.
func (b Batch) BaseSequence() int32 { return int32(binary.BigEndian.Uint32(b[53:])) }

// LastSequence is the sequence number of the last record; sequences go from
// 2^31-1 on to 0.
func (b Batch) LastSequence() int32 {
	base := b.BaseSequence()
	if base < 0 {
		return -1
	}
	return int32((int64(base) + int64(b.LastOffsetDelta())) & 0x7fffffff)
}

// NumRecords is the number of records the batch holds.
func (b Batch) NumRecords() int32 { return int32(binary.BigEndian.Uint32(b[57:])) }

// Payload is everything after the header: the records, compressed by Codec.
func (b Batch) Payload() []byte { return b[HeaderSize:] }

// SetBaseOffset patches the base offset in place.
func (b Batch) SetBaseOffset(o Offset) { binary.BigEndian.PutUint64(b, uint64(o)) }

// SetLeaderEpoch patches the leader epoch in place.
func (b Batch) SetLeaderEpoch(e Epoch) { binary.BigEndian.PutUint32(b[12:], uint32(e)) }

// SetLogAppendTime turns the batch to append time now (milliseconds): flag and
// maximum timestamp are set and the checksum is made anew.
func (b Batch) SetLogAppendTime(now int64) {
	binary.BigEndian.PutUint16(b[21:], uint16(b.Attributes())|1<<3)
	binary.BigEndian.PutUint64(b[35:], uint64(now))
	b.seal()
}

// SetCreateTime says that records carry their own times, the greatest of which
// is maxTS (milliseconds), and makes the checksum anew if that changes
// anything.
func (b Batch) SetCreateTime(maxTS int64) {
	if !b.IsLogAppendTime() && b.MaxTimestamp() == maxTS {
		return
	}
	binary.BigEndian.PutUint16(b[21:], uint16(b.Attributes())&^(1<<3))
	binary.BigEndian.PutUint64(b[35:], uint64(maxTS))
	b.seal()
}

// seal writes length and checksum.
func (b Batch) seal() {
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-LogOverhead))
	binary.BigEndian.PutUint32(b[17:], CRC32C(b[crcStart:]))
}
