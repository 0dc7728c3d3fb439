package journal

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares bytes with testdata/<name>.hex, so that a format cannot
// change unnoticed.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		if err := os.WriteFile(path, []byte(hex.Dump(got)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if hex.Dump(got) != string(want) {
		t.Errorf("%s changed; got\n%swant\n%s", name, hex.Dump(got), want)
	}
}

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
	golden(t, "group", bytes.TrimRight(g.finish(mem), "\x00")) // the padding
	c := &Checkpoint{Journal: id, Last: 9, Needed: []int64{4, 8}, Sequence: 120, Synced: map[Partition]record.Offset{partitionOf(1): 105, partitionOf(0): 3}}
	golden(t, "checkpoint", c.Encode())
}
