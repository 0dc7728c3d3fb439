package record

import (
	"encoding/binary"
	"fmt"
)

// Compaction says which records of a batch stay.
type Compaction struct {
	// Keep is called with every record in order; the Record is overwritten by
	// the next call.
	Keep func(*Record) bool
	// DeleteHorizon (milliseconds) is set on the batch if it has none yet and
	// keeps a tombstone, or if it is Marked (KIP-534). A tombstone at or above
	// Settled does not count: values before it are still there. (Kafka starts
	// its delay, too, and may then drop it together with them.)
	DeleteHorizon int64
	Settled       Offset
	Marked        bool
	MaxBytes      int // of the records, decompressed
}

// Compacted is what compaction leaves of a batch.
type Compacted struct {
	Batch   Batch // the batch itself when nothing changed, nil when no record stays
	Records int   // that stay
	Removed int
	MaxTS   int64  // greatest timestamp of those that stay, -1 for none
	MaxTSAt Offset // of the first record that has MaxTS
}

// Compact gives the batch with only those records that stay, as Kafka's log
// cleaner writes it: base offset, last offset delta, leader epoch, producer
// and sequence are kept, so that the batch still says which offsets and
// sequences it stands for. The first timestamp becomes that of the first
// record that stays, or the delete horizon; the maximum timestamp is that of
// what stays, except with LogAppendTime, where it stands for every record.
// Malformed records are ErrCorrupt.
func (b Batch) Compact(c Compaction) (Compacted, error) {
	body, err := Decompress(nil, b.Codec(), b.Payload(), c.MaxBytes)
	if err != nil {
		return Compacted{}, err
	}
	out := Compacted{MaxTS: -1, MaxTSAt: -1}
	stay := make([]bool, 0, b.NumRecords())
	tombstones, first := false, int64(0)
	err = eachRecord(b, body, func(r *Record) bool {
		keep := c.Keep(r)
		stay = append(stay, keep)
		if !keep {
			out.Removed++
			return true
		}
		if out.Records == 0 {
			first = r.Timestamp
		}
		if r.Timestamp > out.MaxTS {
			out.MaxTS, out.MaxTSAt = r.Timestamp, r.Offset
		}
		out.Records++
		tombstones = tombstones || r.Value == nil && r.Offset < c.Settled
		return true
	})
	if err != nil {
		return Compacted{}, err
	}
	horizon := int64(-1)
	newHorizon := !b.HasDeleteHorizon() && (tombstones || c.Marked)
	switch {
	case out.Records == 0:
		return out, nil
	case newHorizon:
		horizon = c.DeleteHorizon
	case b.HasDeleteHorizon():
		horizon = b.FirstTimestamp()
	}
	if out.Removed == 0 && !newHorizon {
		out.Batch = b
		return out, nil
	}
	if horizon >= 0 {
		first = horizon
	}
	out.Batch, err = b.rewrite(body, stay, first, horizon >= 0, out)
	return out, err
}

// rewrite makes the batch anew from those records of body that stay, whose
// timestamps become relative to first.
func (b Batch) rewrite(body []byte, stay []bool, first int64, horizon bool, c Compacted) (Batch, error) {
	head := make([]byte, HeaderSize, len(b)+16)
	copy(head, b[:HeaderSize])
	attrs := uint16(b.Attributes()) &^ (1 << 6)
	if horizon {
		attrs |= 1 << 6
	}
	binary.BigEndian.PutUint16(head[21:], attrs)
	binary.BigEndian.PutUint64(head[27:], uint64(first))
	if !b.IsLogAppendTime() {
		binary.BigEndian.PutUint64(head[35:], uint64(c.MaxTS))
	}
	binary.BigEndian.PutUint32(head[57:], uint32(c.Records))
	dst := head
	if b.Codec() != None {
		dst = make([]byte, 0, len(body))
	}
	var rest []byte
	for _, keep := range stay {
		// eachRecord has found every record to be well-formed.
		size, n := binary.Varint(body)
		rec := body[n : n+int(size)]
		body = body[n+int(size):]
		if !keep {
			continue
		}
		delta, used := binary.Varint(rec[1:])
		rest = binary.AppendVarint(append(rest[:0], rec[0]), b.FirstTimestamp()+delta-first)
		rest = append(rest, rec[1+used:]...)
		dst = append(binary.AppendVarint(dst, int64(len(rest))), rest...)
	}
	if b.Codec() != None {
		var err error
		if dst, err = Compress(head, b.Codec(), 0, dst); err != nil {
			return nil, fmt.Errorf("compressing the batch at offset %d again: %w", b.BaseOffset(), err)
		}
	}
	out := Batch(dst)
	out.seal()
	return out, nil
}

// Emptied gives the batch without its records: a header alone, which still
// says which offsets there were and what the producer's last sequence is.
func (b Batch) Emptied() Batch {
	out := make(Batch, HeaderSize)
	copy(out, b[:HeaderSize])
	binary.BigEndian.PutUint16(out[21:], uint16(b.Attributes())&(1<<3|1<<4|1<<5))
	binary.BigEndian.PutUint64(out[27:], ^uint64(0))
	binary.BigEndian.PutUint32(out[57:], 0)
	out.seal()
	return out
}
