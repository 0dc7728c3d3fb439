package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

const (
	kindCheckpoint = "JCKP"

	groupMagic = "FJGR"
	groupHead  = 52
	entrySize  = 52
)

// ID is a journal's identity.
type ID [16]byte

// Partition names one partition of one topic for all time.
type Partition struct {
	Topic record.TopicID
	Index int32
}

func (p Partition) String() string { return fmt.Sprintf("%v-%d", p.Topic, p.Index) }

// Entry describes one record of the journal: whole record batches of one
// partition, one after the other; or, without a payload and with Base equal to
// End, that its segments are durable up to there; or, without a payload and
// with an End below Base, that the log was cut back from Base to End.
type Entry struct {
	Partition
	Epoch record.Epoch  // leader epoch of the first batch; of a truncation, of the log's last
	Base  record.Offset // where the log ended before: the first record's, or less where offsets were compacted away
	End   record.Offset // that of the last record, plus one
}

// Truncates says that the entry is no record, but that the log was cut back.
func (e Entry) Truncates() bool { return e.End < e.Base }

// entry is an Entry as it stands in a group.
type entry struct {
	Entry
	pos, length, crc uint32 // of the payload; pos counts from the group's start
}

// group is the header and the entries of one, decoded.
type group struct {
	journal    ID
	generation int64
	sequence   int64
	length     int64 // of all of it, a multiple of disk.Block
	entries    []entry
}

// finish writes header and entries of a group around its payloads, which fill
// b from groupHead on, and gives the whole group. b has room for it.
func (g *group) finish(b []byte) []byte {
	at := len(b)
	for i := range g.entries {
		b = g.entries[i].append(b)
	}
	end := len(b)
	g.length = disk.RoundUp(int64(end))
	copy(b, groupMagic)
	binary.BigEndian.PutUint64(b[8:], uint64(g.generation))
	binary.BigEndian.PutUint64(b[16:], uint64(g.sequence))
	binary.BigEndian.PutUint32(b[24:], uint32(g.length))
	binary.BigEndian.PutUint32(b[28:], uint32(len(g.entries)))
	binary.BigEndian.PutUint32(b[32:], uint32(at))
	copy(b[36:], g.journal[:])
	binary.BigEndian.PutUint32(b[4:], groupCRC(b[8:groupHead], b[at:end]))
	return b[:g.length]
}

// settle takes an entry without a payload into what is known of segments.
func (e *entry) settle(synced map[Partition]record.Offset) {
	switch at, ok := synced[e.Partition]; {
	case !e.Truncates():
		synced[e.Partition] = max(at, e.End)
	case ok:
		synced[e.Partition] = min(at, e.End)
	}
}

func (e *entry) append(b []byte) []byte {
	b = append(b, e.Topic[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(e.Index))
	b = binary.BigEndian.AppendUint32(b, uint32(e.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Base))
	b = binary.BigEndian.AppendUint64(b, uint64(e.End))
	b = binary.BigEndian.AppendUint32(b, e.pos)
	b = binary.BigEndian.AppendUint32(b, e.length)
	return binary.BigEndian.AppendUint32(b, e.crc)
}

func parseEntry(b []byte) entry {
	e := entry{
		Entry: Entry{
			Partition: Partition{Index: int32(binary.BigEndian.Uint32(b[16:]))},
			Epoch:     record.Epoch(binary.BigEndian.Uint32(b[20:])),
			Base:      record.Offset(binary.BigEndian.Uint64(b[24:])),
			End:       record.Offset(binary.BigEndian.Uint64(b[32:])),
		},
		pos:    binary.BigEndian.Uint32(b[40:]),
		length: binary.BigEndian.Uint32(b[44:]),
		crc:    binary.BigEndian.Uint32(b[48:]),
	}
	copy(e.Topic[:], b)
	return e
}

func groupCRC(head, entries []byte) uint32 {
	return record.UpdateCRC32C(record.CRC32C(head), entries)
}

// groupLength gives the length that the group that b begins with claims to
// have, if it claims to be of this generation; 0 is any.
func groupLength(b []byte, generation int64) (int64, bool) {
	if len(b) < groupHead || string(b[:4]) != groupMagic {
		return 0, false
	}
	if g := int64(binary.BigEndian.Uint64(b[8:])); g <= 0 || generation != 0 && g != generation {
		return 0, false
	}
	n := int64(binary.BigEndian.Uint32(b[24:]))
	return n, n > 0 && n%disk.Block == 0
}

// parseGroup reads the group that is all of b, and compares the checksum of
// its header and entries; payloads are check's. Errors wrap disk.ErrFormat.
func parseGroup(b []byte) (group, error) {
	if len(b) < groupHead || string(b[:4]) != groupMagic {
		return group{}, fmt.Errorf("%w: no group begins here", disk.ErrFormat)
	}
	g := group{
		generation: int64(binary.BigEndian.Uint64(b[8:])),
		sequence:   int64(binary.BigEndian.Uint64(b[16:])),
		length:     int64(binary.BigEndian.Uint32(b[24:])),
	}
	copy(g.journal[:], b[36:])
	n, at := int64(binary.BigEndian.Uint32(b[28:])), int64(binary.BigEndian.Uint32(b[32:]))
	end := at + n*entrySize
	if n == 0 || at < groupHead || end > g.length || g.length != int64(len(b)) {
		return group{}, fmt.Errorf("%w: group of %d bytes with %d records that are listed at byte %d", disk.ErrFormat, g.length, n, at)
	}
	if got, want := groupCRC(b[8:groupHead], b[at:end]), binary.BigEndian.Uint32(b[4:]); got != want {
		return group{}, fmt.Errorf("%w: group's stored crc %08x, computed %08x", disk.ErrFormat, want, got)
	}
	g.entries = make([]entry, n)
	for i := range g.entries {
		e := parseEntry(b[at+int64(i)*entrySize:])
		if e.pos < groupHead || int64(e.pos)+int64(e.length) > at || (e.length == 0) != (e.Base >= e.End) {
			return group{}, fmt.Errorf("%w: record %d at byte %d of %d bytes in a group of %d", disk.ErrFormat, i, e.pos, e.length, g.length)
		}
		g.entries[i] = e
	}
	return g, nil
}

// check compares the payloads' checksums; b is the whole group.
func (g *group) check(b []byte) error {
	for i, e := range g.entries {
		if got := record.CRC32C(b[e.pos : e.pos+e.length]); got != e.crc {
			return fmt.Errorf("%w: record %d of group %d: stored crc %08x, computed %08x", disk.ErrFormat, i, g.sequence, e.crc, got)
		}
	}
	return nil
}

// Checkpoint is what the file of this name says.
type Checkpoint struct {
	// Journal is the identity of the disk's journal.
	Journal ID
	// Last is the newest generation when it was written; files of newer ones
	// are needed. Needed are those of the older ones that are, ascending.
	Last   int64
	Needed []int64
	// Sequence is that of the next group.
	Sequence int64
	// Synced says of partitions how far their segments are durable.
	Synced map[Partition]record.Offset
	// Held are the partitions that the files of Needed are needed for; those
	// of others there do not count. None: all of them.
	Held []Partition
}

// Encode gives the whole file.
func (c *Checkpoint) Encode() []byte {
	b := disk.BeginFrame(kindCheckpoint, c.Last, 36+8*len(c.Needed)+28*len(c.Synced)+20*len(c.Held))
	b = append(b, c.Journal[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(c.Sequence))
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Needed)))
	for _, g := range c.Needed {
		b = binary.BigEndian.AppendUint64(b, uint64(g))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Synced)))
	for _, p := range c.Sorted() {
		b = append(b, p.Topic[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(p.Index))
		b = binary.BigEndian.AppendUint64(b, uint64(c.Synced[p]))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Held)))
	for _, p := range c.Held {
		b = append(b, p.Topic[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(p.Index))
	}
	return disk.EndFrame(b)
}

// Sorted gives the partitions of Synced in an order that is always the same.
func (c *Checkpoint) Sorted() []Partition {
	return slices.SortedFunc(maps.Keys(c.Synced), comparePartitions)
}

func comparePartitions(a, b Partition) int {
	return cmp.Or(bytes.Compare(a.Topic[:], b.Topic[:]), cmp.Compare(a.Index, b.Index))
}

func parsePartition(b []byte) (p Partition) {
	copy(p.Topic[:], b)
	p.Index = int32(binary.BigEndian.Uint32(b[16:]))
	return p
}

// DecodeCheckpoint reads a whole checkpoint. Errors wrap disk.ErrFormat.
func DecodeCheckpoint(raw []byte) (*Checkpoint, error) {
	last, b, err := disk.OpenFrame[int64](kindCheckpoint, raw)
	if err != nil {
		return nil, err
	}
	bad := func() (*Checkpoint, error) {
		return nil, fmt.Errorf("%w: checkpoint's lists do not fill its %d bytes", disk.ErrFormat, len(raw))
	}
	if len(b) < 28 {
		return bad()
	}
	c := &Checkpoint{Last: last, Sequence: int64(binary.BigEndian.Uint64(b[16:]))}
	copy(c.Journal[:], b)
	n := int64(binary.BigEndian.Uint32(b[24:]))
	if b = b[28:]; int64(len(b)) < n*8+4 {
		return bad()
	}
	for range n {
		g := int64(binary.BigEndian.Uint64(b))
		if k := len(c.Needed); g <= 0 || g > last || k > 0 && g <= c.Needed[k-1] {
			return nil, fmt.Errorf("%w: checkpoint needs generation %d of %d, or names it out of order", disk.ErrFormat, g, last)
		}
		c.Needed = append(c.Needed, g)
		b = b[8:]
	}
	n = int64(binary.BigEndian.Uint32(b))
	if b = b[4:]; int64(len(b)) < n*28 {
		return bad()
	}
	c.Synced = make(map[Partition]record.Offset, n)
	for range n {
		c.Synced[parsePartition(b)] = record.Offset(binary.BigEndian.Uint64(b[20:]))
		b = b[28:]
	}
	if len(b) == 0 {
		return c, nil // as earlier versions wrote it
	}
	if len(b) < 4 {
		return bad()
	}
	n = int64(binary.BigEndian.Uint32(b))
	if b = b[4:]; int64(len(b)) != n*20 {
		return bad()
	}
	for range n {
		c.Held = append(c.Held, parsePartition(b))
		b = b[20:]
	}
	return c, nil
}
