package tiering

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

func goldenID(n byte) ObjectID {
	return ObjectID{0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, n}
}

// goldenObject is a small object of two partitions' runs, always the same.
func goldenObject(t testing.TB) []byte { return makeObject(t, 30, 600) }

func makeObject(t testing.TB, batches, size int) []byte {
	t.Helper()
	h := &blockHash{block: 4096}
	var runs []*scanned
	for i, topic := range []string{"flights", "quiet"} {
		l := &memLog{tp: record.TopicPartition{Topic: topic, Partition: record.PartitionID(i)}, plain: true}
		copy(l.id[:], topic+"................")
		l.seal(t, rng(uint64(i)), batches, size, 1_700_000_000_000)
		f, err := l.OpenSealed(0)
		if err != nil {
			t.Fatal(err)
		}
		f.Aborted = []record.AbortedTxn{{ProducerID: 7, FirstOffset: 3, LastOffset: 9}}
		s, err := scan(f, l.tp, l.id, 0, h)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, s)
	}
	src := &source{runs: runs, data: h.n, sums: h.finish(), block: 4096, bufNo: -1}
	var list []*Run
	for _, s := range runs {
		s.run.DataLen = src.data
		s.run.BlockSums = src.sums[s.run.firstBlock() : s.run.lastBlock()+1]
		list = append(list, s.run)
	}
	var err error
	if src.footer, _, err = encodeFooter(testCluster, goldenID(1), 1_700_000_000_000, 4096, src.data, list); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(src)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goldenEntries() []Entry {
	return []Entry{
		{Base: 10, End: 20, MaxTimestamp: 1_700_000_000_000, MaxTSOffset: 12, Position: 0, Length: 5000, IndexPos: 9000, IndexLen: 200, Epoch: 3, AbortedFrom: -1, Object: goldenID(1)},
		{Base: 20, End: 21, MaxTimestamp: -1, MaxTSOffset: -1, Position: 5000, Length: 4000, IndexPos: 9200, IndexLen: 180, Epoch: 3, AbortedFrom: 4, Object: goldenID(1)},
		{Base: 21, End: 500, MaxTimestamp: 1_700_000_500_000, MaxTSOffset: 499, Position: 0, Length: 70000, IndexPos: 70100, IndexLen: 900, Epoch: 4, AbortedFrom: 21, Object: goldenID(2)},
	}
}

func goldenPointer() *Pointer {
	id := record.TopicID{1, 2, 3}
	return &Pointer{Cluster: testCluster, Topic: "flights", TopicID: id, Partition: 3, Generation: 42, Start: 11, End: 500, Manifest: goldenID(9), ManifestEnd: 20, Tail: goldenEntries()[1:]}
}

func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("FIRN_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: what is written changed; give the format a new version number", name)
	}
	return want
}

func TestGoldenFiles(t *testing.T) {
	obj := golden(t, "object.golden", goldenObject(t))
	d, err := DumpObject(bytes.NewReader(obj), int64(len(obj)))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Runs) != 2 || !d.Runs[0].Intact || !d.Runs[1].Intact || d.Runs[0].Batches != 30 || d.Key != ObjectKey(testCluster, goldenID(1)) {
		t.Errorf("%+v", d)
	}
	man := &Manifest{Cluster: testCluster, Topic: "flights", TopicID: record.TopicID{1}, Partition: 3, Generation: 42, Entries: goldenEntries()}
	mb, err := encodeManifest(man)
	if err != nil {
		t.Fatal(err)
	}
	// zstd may compress otherwise in another release: only reading is golden.
	if os.Getenv("FIRN_UPDATE_GOLDEN") != "" {
		golden(t, "manifest.golden", mb)
	}
	want, err := os.ReadFile("testdata/manifest.golden")
	if err != nil {
		t.Fatal(err)
	}
	got, err := DumpManifest(bytes.NewReader(want), int64(len(want)))
	if err != nil || !reflect.DeepEqual(got.Manifest, man) {
		t.Errorf("%+v, %v", got, err)
	}
	pb := golden(t, "pointer.golden", encodePointer(goldenPointer()))
	ptr, err := DumpPointer(bytes.NewReader(pb), int64(len(pb)))
	if err != nil || !reflect.DeepEqual(ptr.Pointer, goldenPointer()) {
		t.Errorf("%+v, %v", ptr, err)
	}
	for _, v := range []any{d, got, ptr} {
		if _, err := json.Marshal(v); err != nil {
			t.Error(err)
		}
	}
	for want, b := range map[string][]byte{"object": obj, "manifest": mb, "pointer": pb, "": []byte("something else")} {
		if got := Kind(b, b[len(b)-8:]); got != want {
			t.Errorf("a %q is taken for a %q", want, got)
		}
	}
}

// Whatever single bit is flipped, and wherever the file is cut, it shows.
func TestEveryBitCounts(t *testing.T) {
	obj := goldenObject(t)
	mb, err := encodeManifest(&Manifest{Cluster: testCluster, Topic: "flights", Entries: goldenEntries()})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]struct {
		b    []byte
		read func([]byte) error
		skip map[int]bool // bytes that mean nothing
	}{
		"object": {obj, func(b []byte) error {
			d, err := DumpObject(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				return err
			}
			for _, r := range d.Runs {
				if !r.Intact {
					return ErrCorrupt
				}
			}
			return nil
		}, map[int]bool{len(obj) - 10: true, len(obj) - 9: true}},
		"manifest": {mb, func(b []byte) error { _, err := DecodeManifest(b); return err }, map[int]bool{10: true, 11: true}},
		"pointer":  {encodePointer(goldenPointer()), func(b []byte) error { _, err := DecodePointer(b); return err }, nil},
	}
	for name, f := range files {
		t.Run(name, func(t *testing.T) {
			if err := f.read(f.b); err != nil {
				t.Fatal(err)
			}
			step := 1 + len(f.b)/3000
			for i := 0; i < len(f.b); i += step {
				b := bytes.Clone(f.b)
				b[i] ^= 1 << (i % 8)
				if err := f.read(b); err == nil && !f.skip[i] && !harmlessZstd(name, f.b, b) {
					t.Fatalf("bit %d of byte %d of %d flipped: not noticed", i%8, i, len(b))
				}
				if err := f.read(f.b[:i]); err == nil {
					t.Fatalf("cut to %d of %d bytes: not noticed", i, len(f.b))
				}
			}
			if err := f.read(append(bytes.Clone(f.b), 0)); err == nil {
				t.Error("a byte too many: not noticed")
			}
		})
	}
}

// harmlessZstd: a bit of a manifest's zstd frame may mean nothing (its own
// window size, say); then what is read must be the same.
func harmlessZstd(name string, a, b []byte) bool {
	if name != "manifest" {
		return false
	}
	x, err1 := DecodeManifest(a)
	y, err2 := DecodeManifest(b)
	return err1 == nil && err2 == nil && reflect.DeepEqual(x, y)
}

func FuzzDecodeObject(f *testing.F) {
	b := makeObject(f, 1, 20)
	f.Add(b)
	f.Add(b[len(b)-trailerSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := DumpObject(bytes.NewReader(b), int64(len(b))); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
		_, _ = decodeSection(b)
		if len(b) > 4 { // past the checksum
			_, _ = decodeSection(sealed(bytes.Clone(b)))
		}
	})
}

func FuzzDecodeManifest(f *testing.F) {
	b, err := encodeManifest(&Manifest{Cluster: testCluster, Topic: "flights", Entries: goldenEntries()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := DecodeManifest(b); err == nil {
			again, err := encodeManifest(m)
			if err != nil {
				t.Fatal(err)
			}
			if m2, err := DecodeManifest(again); err != nil || !reflect.DeepEqual(m, m2) {
				t.Errorf("%+v, %v", m2, err)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
	})
}

func FuzzDecodePointer(f *testing.F) {
	f.Add(encodePointer(goldenPointer()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 14 {
			b = bytes.Clone(b)
			sealed(b[10:])
		}
		if p, err := DecodePointer(b); err == nil {
			if p2, err := DecodePointer(encodePointer(p)); err != nil || !reflect.DeepEqual(p, p2) {
				t.Errorf("%+v, %v", p2, err)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
	})
}

func TestEntriesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 50).Draw(t, "n")
		var entries []Entry
		next := record.Offset(rapid.Int64Range(0, 1<<50).Draw(t, "base"))
		for range n {
			e := Entry{Base: next, AbortedFrom: -1, MaxTSOffset: -1, Object: goldenID(rapid.Byte().Draw(t, "object"))}
			e.End = next + record.Offset(rapid.Int64Range(1, 1<<40).Draw(t, "offsets"))
			e.MaxTimestamp = rapid.Int64Range(-1, 1<<60).Draw(t, "time")
			if rapid.Bool().Draw(t, "timed") {
				e.MaxTSOffset = e.Base + record.Offset(rapid.Int64Range(0, int64(e.End-e.Base)-1).Draw(t, "at"))
			}
			if rapid.Bool().Draw(t, "aborted") {
				e.AbortedFrom = record.Offset(rapid.Int64Range(0, int64(e.End)).Draw(t, "first"))
			}
			e.Position = rapid.Int64Range(0, 1<<40).Draw(t, "position")
			e.Length = rapid.Int64Range(record.HeaderSize, 1<<40).Draw(t, "length")
			e.IndexPos = rapid.Int64Range(0, 1<<40).Draw(t, "indexpos")
			e.IndexLen = rapid.Int32Range(4, maxSection).Draw(t, "indexlen")
			e.Epoch = record.Epoch(rapid.Int32Range(-1, 1<<30).Draw(t, "epoch"))
			next = e.End
			entries = append(entries, e)
		}
		d := &dec{b: appendEntries(nil, entries)}
		got := d.entries()
		if err := d.end(); err != nil || !reflect.DeepEqual(got, entries) {
			t.Fatalf("%v: %+v for %+v", err, got, entries)
		}
	})
}

func TestKeys(t *testing.T) {
	id := newObjectID(time.UnixMilli(1_700_000_000_123))
	if id.Time().UnixMilli() != 1_700_000_000_123 || id[6]>>4 != 7 || id[8]>>6 != 2 {
		t.Errorf("%v", id)
	}
	key := ObjectKey(testCluster, id)
	if got, ok := parseKey(testCluster, key); !ok || got != id {
		t.Errorf("%s: %v, %v", key, got, ok)
	}
	pk := partKey{record.TopicID{1, 0xfe}, 12}
	if got, ok := parsePointerKey(testCluster, PointerKey(testCluster, pk.id, pk.p)); !ok || got != pk {
		t.Errorf("%v, %v", got, ok)
	}
	for _, k := range []string{"", "pointers/", "pointers/cluster-1/zz/0", "pointers/cluster-1/" + pk.id.Hex() + "/012", key + "x", "/" + key, key[:20]} {
		if _, ok := parseKey(testCluster, k); ok {
			t.Errorf("%q was taken for an object's key", k)
		}
		if _, ok := parsePointerKey(testCluster, k); ok {
			t.Errorf("%q was taken for a pointer's key", k)
		}
	}
}

// The planner leaves out nobody, keeps order, and fills objects well.
func TestPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := limits{target: 1000, wait: time.Minute, maxRuns: 20}
		var cands []candidate
		for i := range rapid.IntRange(0, 30).Draw(t, "partitions") {
			c := candidate{key: partKey{p: record.PartitionID(i)}, waited: time.Duration(rapid.IntRange(0, 120).Draw(t, "waited")) * time.Second}
			next := record.Offset(0)
			for range rapid.IntRange(1, 6).Draw(t, "segments") {
				s := record.Segment{Base: next, End: next + 10, Bytes: rapid.Int64Range(1, 1500).Draw(t, "bytes")}
				next = s.End
				c.segs = append(c.segs, s)
			}
			cands = append(cands, c)
		}
		jobs := plan(l, cands)
		at := map[partKey]int{}
		for k, j := range jobs {
			var bytes int64
			seen := map[partKey]bool{}
			due := false
			for i, r := range j {
				if i > 0 && seen[r.key] && j[i-1].key != r.key {
					t.Fatalf("job %d: runs of %v are apart", k, r.key)
				}
				if !seen[r.key] && at[r.key] > 0 {
					t.Fatalf("%v is in two jobs", r.key)
				}
				seen[r.key] = true
				c := cands[r.key.p]
				if c.segs[at[r.key]] != r.seg {
					t.Fatalf("%v: segments out of order", r.key)
				}
				at[r.key]++
				bytes += r.seg.Bytes
				due = due || c.waited >= l.wait
			}
			if bytes < l.target/2 && !due && len(j) < l.maxRuns-6 {
				t.Fatalf("job %d of %d bytes could have waited", k, bytes)
			}
			if len(j) > 1 && bytes > 2*l.target {
				t.Fatalf("job %d of %d bytes", k, bytes)
			}
			if len(j) > l.maxRuns {
				t.Fatalf("job %d of %d runs", k, len(j))
			}
		}
		for _, c := range cands {
			if at[c.key] == 0 && (c.waited >= l.wait || c.segs[0].Bytes >= l.target/2) {
				t.Fatalf("%v has waited %v and is left out", c.key, c.waited)
			}
		}
	})
}
