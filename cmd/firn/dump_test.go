package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/record"
)

func segment(t testing.TB) []byte {
	t.Helper()
	var out []byte
	for i := range 3 {
		base := record.Offset(i * 2)
		b, err := record.NewBatch(record.BatchSpec{BaseOffset: base, Codec: record.Codec(i), ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1},
			[]record.Record{{Offset: base, Timestamp: 5, Key: []byte("k"), Value: bytes.Repeat([]byte("v"), 50)}, {Offset: base + 1, Timestamp: 6, Value: []byte{0xff}}})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}

func dump(t testing.TB, name string, data []byte, asJSON bool) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	a := &app{out: &out, output: outputText}
	if asJSON {
		a.output = outputJSON
	}
	o := newDumpOutput(a)
	err := dumper{out: o, batches: true, records: true}.file(t.Context(), path)
	if ferr := o.flush(); ferr != nil {
		t.Fatal(ferr)
	}
	return out.String(), err
}

func TestDumpSegment(t *testing.T) {
	text, err := dump(t, "00000000000000000000.log", segment(t), false)
	if err != nil || !strings.Contains(text, "3 batches, 6 records, next offset 6, all checksums right") || strings.Count(text, `key "k"`) != 3 {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestDumpFindsEveryFlip: no changed byte of a segment goes unnoticed, but in
// the two fields that the broker itself sets later and no checksum covers.
func TestDumpFindsEveryFlip(t *testing.T) {
	good := segment(t)
	first := len(good)
	if h, _, err := record.Next(good); err == nil {
		first = len(h)
	}
	for i := range good[:first] {
		if i < 8 || i >= 12 && i < 16 {
			continue // base offset and leader epoch
		}
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if text, err := dump(t, "x.log", bad, true); err == nil || !strings.Contains(text, `"kind":"damage"`) || !strings.Contains(text, `"position":0,`) {
			t.Errorf("byte %d: %v\n%s", i, err, text)
		}
	}
}

func TestDumpTornTail(t *testing.T) {
	good := segment(t)
	for _, n := range []int{1, 20, 61, 100} {
		text, err := dump(t, "x.log", good[:len(good)-n], false)
		if err == nil || !strings.Contains(text, "2 batches, 4 records") || !strings.Contains(err.Error(), "torn tail") {
			t.Errorf("%d bytes cut: %v", n, err)
		}
	}
}

func TestDetect(t *testing.T) {
	for name, c := range map[string]struct {
		data string
		want fileKind
	}{
		"anything":                             {string(segment(t)), kindSegment},
		"a.log":                                {"damaged beyond telling", kindSegment},
		"0.index":                              {"FIRNOIDX", kindIndex},
		"0.timeindex":                          {"?", kindTimeIndex},
		"0.txnindex":                           {"?", kindTxnIndex},
		"0.snapshot":                           {"?", kindSnapshot},
		"x.chunk":                              {"FIRNCHNK", kindChunk},
		"1":                                    {"FIRNTPTR", kindPointer},
		"01a2046a-420f-7dd9-97ad-869c013e0799": {"FIRNMANI", kindManifest},
		"01a2046a-420f-7dd9-97ad-869c013e0798": {"?", kindObject},
		"y":                                    {"… FIRNOBJT", kindObject},
		"partition.meta":                       {"?", kindMeta},
		"checkpoint":                           {"FIRNJCKP", kindCheckpoint},
		"00000001.journal":                     {"?", kindJournal},
		"leader-epoch-checkpoint":              {"?", kindEpochs},
	} {
		if got, ok := detect(strings.NewReader(c.data), int64(len(c.data)), "/dir/"+name); !ok || got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got, ok := detect(strings.NewReader("hello"), 5, "/etc/hello.txt"); ok {
		t.Errorf("a foreign file is taken for a %s", got)
	}
}

// FuzzDump: whatever a file holds, dump ends, without a panic.
func FuzzDump(f *testing.F) {
	f.Add("x.log", segment(f))
	for _, m := range []string{"FIRNCHNK", "FIRNMANI", "FIRNTPTR", "FIRNOIDX", "FIRNTIDX", "FIRNTXNS", "FIRNPROD", "FIRNMETA", "FIRNJCKP", "firn-leader-epochs 1\n"} {
		f.Add("x", append([]byte(m), make([]byte, 64)...))
	}
	f.Add("x", append(make([]byte, 64), "FIRNOBJT"...))
	f.Add("1.journal", append([]byte("FJGR"), make([]byte, 5000)...))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		if strings.ContainsAny(name, "/\x00") || name == "" || name == "." || name == ".." || len(name) > 100 {
			name = "x"
		}
		dump(t, name, data, true)
	})
}

// TestDumpJournal: what a broker's journal holds can be read, group by group.
func TestDumpJournal(t *testing.T) {
	dir := t.TempDir()
	j, err := journal.Open(dir, journal.Config{FileBytes: 1 << 20}, journal.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	batches := segment(t)
	h, err := record.ParseHeader(batches)
	if err != nil {
		t.Fatal(err)
	}
	l := make(durable, 1)
	e := journal.Entry{Partition: journal.Partition{Topic: record.TopicID{9}, Index: 4}, Epoch: 2, Base: h.BaseOffset(), End: h.LastOffset() + 1}
	if err := j.Append(l, e, journal.Mark{End: e.End}, batches); err != nil {
		t.Fatal(err)
	}
	<-l
	e.End += 7
	if err := j.Sync(l, e.Partition, journal.Mark{End: e.End}, 1<<20); err != nil {
		t.Fatal(err)
	}
	<-l
	if err := j.Truncate(journal.Entry{Partition: e.Partition, Epoch: 2, Base: 1007, End: 996}, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "00000001.journal"))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := dump(t, "00000001.journal", raw, false)
	if err != nil || !strings.Contains(text, "group 1 of generation 1, 1 record,") || !strings.Contains(text, "partition 4 offsets") || !strings.Contains(text, "partition 4: segments durable up to offset 1000") ||
		!strings.Contains(text, "partition 4: cut back from offset 1007, epoch 2, to 996") || !strings.Contains(text, "3 groups with 3 records") {
		t.Errorf("%v\n%s", err, text)
	}
	raw[60] ^= 1
	if text, err = dump(t, "00000001.journal", raw, true); err != nil || !strings.Contains(text, `"groups":0`) || !strings.Contains(text, "stored crc") {
		t.Errorf("%v\n%s", err, text)
	}
	if raw, err = os.ReadFile(filepath.Join(dir, "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if text, err = dump(t, "checkpoint", raw, false); err != nil || !strings.Contains(text, "next group 4, 1 partition") {
		t.Errorf("%v\n%s", err, text)
	}
}

// durable is a log whose segments are always on disk.
type durable chan record.Offset

func (d durable) Journaled(m journal.Mark)      { d <- m.End }
func (d durable) Flush() (record.Offset, error) { return 1000, nil }
func (d durable) End() record.Offset            { return 1000 }
