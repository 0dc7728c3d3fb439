package record

import (
	"encoding/binary"
	"fmt"
)

// RecordInfo is what ScanRecords tells of a record without touching its key,
// value or headers.
type RecordInfo struct {
	Index       int32
	OffsetDelta int64 // from the batch's base offset
	Timestamp   int64 // milliseconds, made absolute
	NullKey     bool
}

// ScanRecords walks body, which is the batch's payload decompressed, checks
// the form of every record as EachRecord does, and calls f with each in
// order until f returns false. It allocates nothing. Malformed records are
// ErrCorrupt.
func (b Batch) ScanRecords(body []byte, f func(RecordInfo) bool) error {
	logAppend, first, maxTS := b.IsLogAppendTime(), b.FirstTimestamp(), b.MaxTimestamp()
	n := b.NumRecords()
	for i := int32(0); i < n; i++ {
		size, used := binary.Varint(body)
		if used <= 0 || size < 1 || size > int64(len(body)-used) {
			return fmt.Errorf("%w: record %d of %d does not fit in the %d bytes left", ErrCorrupt, i, n, len(body))
		}
		rec := body[used : used+int(size)]
		body = body[used+int(size):]
		info := RecordInfo{Index: i}
		dt, rest, ok := skipVarint(rec[1:])
		if !ok {
			return scanError(b, i)
		}
		if info.OffsetDelta, rest, ok = skipVarint(rest); !ok || info.OffsetDelta < 0 || info.OffsetDelta > int64(b.LastOffsetDelta()) {
			return scanError(b, i)
		}
		if info.Timestamp = first + dt; logAppend {
			info.Timestamp = maxTS
		}
		if info.NullKey, ok = scanFields(rest); !ok {
			return scanError(b, i)
		}
		if !f(info) {
			return nil
		}
	}
	if len(body) != 0 {
		return fmt.Errorf("%w: %d bytes follow the last record of the batch at offset %d", ErrCorrupt, len(body), b.BaseOffset())
	}
	return nil
}

func scanError(b Batch, i int32) error {
	return fmt.Errorf("%w: record %d of the batch at offset %d is malformed", ErrCorrupt, i, b.BaseOffset())
}

// scanFields checks key, value and headers, which must fill b.
func scanFields(b []byte) (nullKey, ok bool) {
	n, b, ok := skipVarint(b)
	if nullKey = n == -1; !ok || n < -1 || n > int64(len(b)) {
		return false, false
	}
	b = b[max(n, 0):]
	if b, ok = skipBytes(b, -1); !ok {
		return false, false
	}
	headers, b, ok := skipVarint(b)
	if !ok || headers < 0 || headers > int64(len(b)/2) {
		return false, false
	}
	for range headers {
		if b, ok = skipBytes(b, 0); !ok {
			return false, false
		}
		if b, ok = skipBytes(b, -1); !ok {
			return false, false
		}
	}
	return nullKey, len(b) == 0
}

func skipVarint(b []byte) (int64, []byte, bool) {
	v, n := binary.Varint(b)
	if n <= 0 {
		return 0, b, false
	}
	return v, b[n:], true
}

// skipBytes steps over a length, of at least least, and so many bytes.
func skipBytes(b []byte, least int64) ([]byte, bool) {
	n, b, ok := skipVarint(b)
	if !ok || n < least || n > int64(len(b)) {
		return nil, false
	}
	return b[max(n, 0):], true
}

// FirstAtOrAfter finds the batch's first record with a timestamp >= ts
// (milliseconds) and an offset >= from. maxBytes bounds the decompressed
// records. ok is false when there is none.
func (b Batch) FirstAtOrAfter(ts int64, from Offset, maxBytes int) (found TimestampOffset, ok bool, err error) {
	if b.MaxTimestamp() < ts || b.LastOffset() < from {
		return NoTimestampOffset, false, nil
	}
	body, err := Decompress(nil, b.Codec(), b.Payload(), maxBytes)
	if err != nil {
		return NoTimestampOffset, false, err
	}
	found = NoTimestampOffset
	err = b.ScanRecords(body, func(r RecordInfo) bool {
		o := b.BaseOffset() + Offset(r.OffsetDelta)
		if r.Timestamp < ts || o < from {
			return true
		}
		found, ok = TimestampOffset{Offset: o, Timestamp: r.Timestamp, Epoch: b.LeaderEpoch()}, true
		return false
	})
	return found, ok, err
}
