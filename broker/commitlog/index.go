package commitlog

import (
	"encoding/binary"
	"fmt"
	"sort"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// Both indexes begin with the size that the segment had when they were made:
// one that was made by a clean close does not fit a segment that grew since.
//
// Body of .index (kind OIDX), entries ascending in both fields, the first
// batch of the segment implied:
//
//	┌───────────────┐ ┌─────────────────────────┬────────────┐
//	│segment bytes 4│ │offset less base offset 4│ position 4 │ × n
//	└───────────────┘ └─────────────────────────┴────────────┘
//
// Body of .timeindex (kind TIDX), entries ascending in both fields:
//
//	┌───────────────┬─────────────────┬────────────────────┬─────────┐ ┌───────────┬─────────────────────────┐
//	│segment bytes 4│ max timestamp 8 │ offset of the first│aborted  │ │timestamp 8│offset less base offset 4│ × n
//	│               │ of the segment  │ record that has it8│txns 4   │ │           │                         │
//	└───────────────┴─────────────────┴────────────────────┴─────────┘ └───────────┴─────────────────────────┘
//
// Body of .txnindex (kind TXNS), ascending by last offset:
//
//	┌─────────────┬───────────────┬───────────────┐
//	│producer id 8│ first offset 8│marker offset 8│ × n
//	└─────────────┴───────────────┴───────────────┘
const (
	offsetEntrySize = 8
	timeEntrySize   = 12
	offsetHeadSize  = 4
	timeHeadSize    = 24
	txnEntrySize    = 24
	maxIndexEntries = 32768
)

// offsetEntry: the batch whose base offset is base+rel begins at byte pos.
type offsetEntry struct{ rel, pos uint32 }

// timeEntry: no record up to and including the batch that contains base+rel
// has a timestamp above ts.
type timeEntry struct {
	ts  int64
	rel uint32
}

// Summary is what a segment's time index says of the whole segment.
type Summary struct {
	MaxTimestamp int64         // milliseconds, -1 for none
	MaxTSOffset  record.Offset // of the first record that has it, -1 for none
	Aborted      int           // transactions in .txnindex
	Bytes        int64         // of the segment
}

func encodeOffsets(base record.Offset, size int64, entries []offsetEntry) []byte {
	b := disk.BeginFrame(kindOffsets, base, offsetHeadSize+len(entries)*offsetEntrySize)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	for _, e := range entries {
		b = binary.BigEndian.AppendUint32(b, e.rel)
		b = binary.BigEndian.AppendUint32(b, e.pos)
	}
	return disk.EndFrame(b)
}

func decodeOffsets(b []byte) (base record.Offset, size int64, entries []offsetEntry, err error) {
	base, body, err := disk.OpenFrame[record.Offset](kindOffsets, b)
	if err != nil {
		return 0, 0, nil, err
	}
	if len(body) < offsetHeadSize || (len(body)-offsetHeadSize)%offsetEntrySize != 0 {
		return 0, 0, nil, fmt.Errorf("%w: offset index of %d bytes", ErrFormat, len(body))
	}
	size, body = int64(binary.BigEndian.Uint32(body)), body[offsetHeadSize:]
	entries = make([]offsetEntry, len(body)/offsetEntrySize)
	var last offsetEntry
	for i := range entries {
		e := readOffsetEntry(body[i*offsetEntrySize:])
		if e.rel <= last.rel || e.pos <= last.pos {
			return 0, 0, nil, fmt.Errorf("%w: offset index entry %d does not ascend", ErrFormat, i)
		}
		entries[i], last = e, e
	}
	return base, size, entries, nil
}

func readOffsetEntry(b []byte) offsetEntry {
	return offsetEntry{rel: binary.BigEndian.Uint32(b), pos: binary.BigEndian.Uint32(b[4:])}
}

// DecodeOffsetIndex reads a whole .index file and gives the segment's base
// offset and the entries. Errors wrap ErrFormat.
func DecodeOffsetIndex(b []byte) (record.Offset, []record.IndexEntry, error) {
	base, _, entries, err := decodeOffsets(b)
	return base, publicOffsets(base, entries), err
}

func publicOffsets(base record.Offset, entries []offsetEntry) []record.IndexEntry {
	out := make([]record.IndexEntry, len(entries))
	for i, e := range entries {
		out[i] = record.IndexEntry{Offset: base + record.Offset(e.rel), Position: int64(e.pos)}
	}
	return out
}

func encodeTimes(base record.Offset, s Summary, entries []timeEntry) []byte {
	b := disk.BeginFrame(kindTimes, base, timeHeadSize+len(entries)*timeEntrySize)
	b = binary.BigEndian.AppendUint32(b, uint32(s.Bytes))
	b = binary.BigEndian.AppendUint64(b, uint64(s.MaxTimestamp))
	b = binary.BigEndian.AppendUint64(b, uint64(s.MaxTSOffset))
	b = binary.BigEndian.AppendUint32(b, uint32(s.Aborted))
	for _, e := range entries {
		b = binary.BigEndian.AppendUint64(b, uint64(e.ts))
		b = binary.BigEndian.AppendUint32(b, e.rel)
	}
	return disk.EndFrame(b)
}

func decodeTimes(b []byte) (record.Offset, Summary, []timeEntry, error) {
	base, body, err := disk.OpenFrame[record.Offset](kindTimes, b)
	if err != nil {
		return 0, Summary{}, nil, err
	}
	if len(body) < timeHeadSize || (len(body)-timeHeadSize)%timeEntrySize != 0 {
		return 0, Summary{}, nil, fmt.Errorf("%w: time index of %d bytes", ErrFormat, len(body))
	}
	s := Summary{
		Bytes:        int64(binary.BigEndian.Uint32(body)),
		MaxTimestamp: int64(binary.BigEndian.Uint64(body[4:])),
		MaxTSOffset:  record.Offset(binary.BigEndian.Uint64(body[12:])),
		Aborted:      int(binary.BigEndian.Uint32(body[20:])),
	}
	body = body[timeHeadSize:]
	entries := make([]timeEntry, len(body)/timeEntrySize)
	for i := range entries {
		e := timeEntry{ts: int64(binary.BigEndian.Uint64(body)), rel: binary.BigEndian.Uint32(body[8:])}
		if i > 0 && (e.ts <= entries[i-1].ts || e.rel <= entries[i-1].rel) {
			return 0, Summary{}, nil, fmt.Errorf("%w: time index entry %d does not ascend", ErrFormat, i)
		}
		entries[i], body = e, body[timeEntrySize:]
	}
	return base, s, entries, nil
}

// DecodeTimeIndex reads a whole .timeindex file and gives the segment's base
// offset, its summary and the entries. Errors wrap ErrFormat.
func DecodeTimeIndex(b []byte) (record.Offset, Summary, []record.TimeEntry, error) {
	base, s, entries, err := decodeTimes(b)
	return base, s, publicTimes(base, entries), err
}

func publicTimes(base record.Offset, entries []timeEntry) []record.TimeEntry {
	out := make([]record.TimeEntry, len(entries))
	for i, e := range entries {
		out[i] = record.TimeEntry{Timestamp: e.ts, Offset: base + record.Offset(e.rel)}
	}
	return out
}

func encodeTxns(base record.Offset, txns []record.AbortedTxn) []byte {
	b := disk.BeginFrame(kindTxns, base, len(txns)*txnEntrySize)
	for _, t := range txns {
		b = binary.BigEndian.AppendUint64(b, uint64(t.ProducerID))
		b = binary.BigEndian.AppendUint64(b, uint64(t.FirstOffset))
		b = binary.BigEndian.AppendUint64(b, uint64(t.LastOffset))
	}
	return disk.EndFrame(b)
}

// DecodeTxnIndex reads a whole .txnindex file and gives the segment's base
// offset and its aborted transactions. Errors wrap ErrFormat.
func DecodeTxnIndex(b []byte) (record.Offset, []record.AbortedTxn, error) {
	base, body, err := disk.OpenFrame[record.Offset](kindTxns, b)
	if err != nil {
		return 0, nil, err
	}
	if len(body)%txnEntrySize != 0 {
		return 0, nil, fmt.Errorf("%w: transaction index of %d bytes", ErrFormat, len(body))
	}
	txns := make([]record.AbortedTxn, len(body)/txnEntrySize)
	for i := range txns {
		txns[i] = record.AbortedTxn{
			ProducerID:  int64(binary.BigEndian.Uint64(body)),
			FirstOffset: record.Offset(binary.BigEndian.Uint64(body[8:])),
			LastOffset:  record.Offset(binary.BigEndian.Uint64(body[16:])),
		}
		body = body[txnEntrySize:]
	}
	return base, txns, nil
}

// floorOffset gives the last entry with rel <= r, the segment's start for none.
func floorOffset(entries []offsetEntry, r uint32) offsetEntry {
	i := sort.Search(len(entries), func(i int) bool { return entries[i].rel > r })
	if i == 0 {
		return offsetEntry{}
	}
	return entries[i-1]
}

// floorPosition gives the last entry with pos <= p, the segment's start for none.
func floorPosition(entries []offsetEntry, p uint32) offsetEntry {
	i := sort.Search(len(entries), func(i int) bool { return entries[i].pos > p })
	if i == 0 {
		return offsetEntry{}
	}
	return entries[i-1]
}

// floorTime gives the last entry with a timestamp below ts; ok is false for none.
func floorTime(entries []timeEntry, ts int64) (e timeEntry, ok bool) {
	i := sort.Search(len(entries), func(i int) bool { return entries[i].ts >= ts })
	if i == 0 {
		return timeEntry{}, false
	}
	return entries[i-1], true
}

// thin keeps every second entry.
func thin[E any](entries []E) []E {
	out := make([]E, 0, cap(entries))
	for i := 1; i < len(entries); i += 2 {
		out = append(out, entries[i])
	}
	return out
}
