package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	for _, m := range []string{"FIRNCHNK", "FIRNMANI", "FIRNTPTR", "FIRNOIDX", "FIRNTIDX", "FIRNTXNS", "FIRNPROD", "FIRNMETA", "firn-leader-epochs 1\n"} {
		f.Add("x", append([]byte(m), make([]byte, 64)...))
	}
	f.Add("x", append(make([]byte, 64), "FIRNOBJT"...))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		if strings.ContainsAny(name, "/\x00") || name == "" || name == "." || name == ".." || len(name) > 100 {
			name = "x"
		}
		dump(t, name, data, true)
	})
}
