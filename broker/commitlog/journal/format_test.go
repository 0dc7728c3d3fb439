package journal

import (
	"bytes"
	"testing"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/broker/disk/disktest"
	"github.com/firnlog/firn/record"
)

func TestGolden(t *testing.T) {
	id := ID{0xf1, 15: 0x4e}
	mem := make([]byte, groupHead, disk.Block)
	g := group{journal: id, generation: 7, sequence: 99}
	for i, p := range []string{"batches of one partition", "and of another"} {
		g.entries = append(g.entries, entry{
			Entry: Entry{Partition: partitionOf(i), Epoch: 3, Base: record.Offset(100 * i), End: record.Offset(100*i + 5)},
			pos:   uint32(len(mem)), length: uint32(len(p)), crc: record.CRC32C([]byte(p)),
		})
		mem = append(mem, p...)
	}
	g.entries = append(g.entries, entry{Entry: Entry{Partition: partitionOf(2), Base: 77, End: 77}, pos: groupHead})
	g.entries = append(g.entries, entry{Entry: Entry{Partition: partitionOf(1), Epoch: 3, Base: 105, End: 102}, pos: groupHead})
	disktest.Golden(t, "group", bytes.TrimRight(g.finish(mem), "\x00")) // the padding
	c := &Checkpoint{Journal: id, Last: 9, Needed: []int64{4, 8}, Sequence: 120, Synced: map[Partition]record.Offset{partitionOf(1): 105, partitionOf(0): 3}, Held: []Partition{partitionOf(2)}}
	disktest.Golden(t, "checkpoint", c.Encode())
}
