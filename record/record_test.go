package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

var codecs = []Codec{None, Gzip, Snappy, LZ4, Zstd}

func drawBytes(t *rapid.T, label string) []byte {
	if rapid.Bool().Draw(t, label+" null") {
		return nil
	}
	b := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, label)
	if b == nil {
		b = []byte{}
	}
	return b
}

func drawRecords(t *rapid.T, base Offset) []Record {
	n := rapid.IntRange(1, 20).Draw(t, "records")
	recs := make([]Record, n)
	o := base
	for i := range recs {
		recs[i] = Record{Offset: o, Timestamp: rapid.Int64Range(0, 1<<45).Draw(t, "ts"), Key: drawBytes(t, "key"), Value: drawBytes(t, "value")}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			recs[i].Headers = append(recs[i].Headers, Header{Key: rapid.StringN(0, 9, 20).Draw(t, "hkey"), Value: drawBytes(t, "hvalue")})
		}
		o += Offset(rapid.IntRange(1, 3).Draw(t, "gap"))
	}
	return recs
}

func drawSpec(t *rapid.T) BatchSpec {
	return BatchSpec{
		BaseOffset:    Offset(rapid.Int64Range(0, 1<<50).Draw(t, "base")),
		Epoch:         Epoch(rapid.Int32Range(-1, 100).Draw(t, "epoch")),
		Codec:         rapid.SampledFrom(codecs).Draw(t, "codec"),
		Transactional: rapid.Bool().Draw(t, "txn"),
		ProducerID:    rapid.Int64Range(-1, 1<<40).Draw(t, "pid"),
		ProducerEpoch: rapid.Int16Range(-1, 100).Draw(t, "pepoch"),
		BaseSequence:  rapid.Int32Range(-1, math.MaxInt32).Draw(t, "seq"),
	}
}

func decode(t interface {
	Fatalf(string, ...any)
}, b Batch) []Record {
	var out []Record
	if err := b.EachRecord(1<<20, func(r *Record) bool {
		c := *r
		c.Headers = append([]Header(nil), r.Headers...)
		out = append(out, c)
		return true
	}); err != nil {
		t.Fatalf("decode: %v", err)
	}
	return out
}

func sameBytes(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func checkSame(t *rapid.T, got, want []Record) {
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if g.Offset != w.Offset || g.Timestamp != w.Timestamp || !sameBytes(g.Key, w.Key) || !sameBytes(g.Value, w.Value) || len(g.Headers) != len(w.Headers) {
			t.Fatalf("record %d is %+v, want %+v", i, g, w)
		}
		for j, h := range w.Headers {
			if g.Headers[j].Key != h.Key || !sameBytes(g.Headers[j].Value, h.Value) {
				t.Fatalf("header %d of record %d is %+v, want %+v", j, i, g.Headers[j], h)
			}
		}
	}
}

func TestBatchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := drawSpec(t)
		recs := drawRecords(t, spec.BaseOffset)
		b, err := NewBatch(spec, recs)
		if err != nil {
			t.Fatalf("new: %v", err)
		}
		if err := b.CheckCRC(); err != nil {
			t.Fatalf("%v", err)
		}
		whole, rest, err := Next(append(bytes.Clone(b), 1, 2, 3))
		if err != nil || len(rest) != 3 || !bytes.Equal(whole, b) {
			t.Fatalf("next: %d bytes left, %v", len(rest), err)
		}
		checkSame(t, decode(t, b), recs)
		if b.LastOffset() != recs[len(recs)-1].Offset || b.NumRecords() != int32(len(recs)) || b.Codec() != spec.Codec || b.IsTransactional() != spec.Transactional {
			t.Fatalf("header says %d %d %v", b.LastOffset(), b.NumRecords(), b.Codec())
		}

		to := rapid.SampledFrom(codecs).Draw(t, "to")
		nb, err := b.Recompress(to, 0, 1<<20)
		if err != nil {
			t.Fatalf("recompress: %v", err)
		}
		if err := nb.CheckCRC(); err != nil {
			t.Fatalf("%v", err)
		}
		if nb.Codec() != to || nb.ProducerID() != b.ProducerID() || nb.BaseSequence() != b.BaseSequence() || nb.MaxTimestamp() != b.MaxTimestamp() {
			t.Fatalf("recompressed header differs")
		}
		checkSame(t, decode(t, nb), recs)
	})
}

// TestAgainstKmsg lets franz-go's own encoder write the same records.
func TestAgainstKmsg(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := drawSpec(t)
		spec.Codec = None
		recs := drawRecords(t, spec.BaseOffset)
		ours, err := NewBatch(spec, recs)
		if err != nil {
			t.Fatalf("new: %v", err)
		}
		var k kmsg.RecordBatch
		if err := k.ReadFrom(ours); err != nil {
			t.Fatalf("kmsg cannot read it: %v", err)
		}
		var body []byte
		for i, r := range recs {
			kr := kmsg.Record{TimestampDelta64: r.Timestamp - recs[0].Timestamp, OffsetDelta: int32(r.Offset - spec.BaseOffset), Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				kr.Headers = append(kr.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
			}
			sized := kr.AppendTo(nil)
			kr.Length = int32(len(sized) - 1) // length 0 takes one byte
			body = kr.AppendTo(body)
			_ = i
		}
		if !bytes.Equal(k.Records, body) {
			t.Fatalf("records differ:\n%x\n%x", k.Records, body)
		}
		if got := k.AppendTo(nil); !bytes.Equal(got, ours) {
			t.Fatalf("batches differ:\n%x\n%x", got, ours)
		}
		attrs := int16(0)
		if spec.Transactional {
			attrs |= 1 << 4
		}
		if k.FirstOffset != int64(spec.BaseOffset) || k.PartitionLeaderEpoch != int32(spec.Epoch) || k.Attributes != attrs || k.ProducerID != spec.ProducerID || k.ProducerEpoch != spec.ProducerEpoch || k.FirstSequence != spec.BaseSequence || k.NumRecords != int32(len(recs)) {
			t.Fatalf("kmsg reads %+v, want %+v", k, spec)
		}
	})
}

// TestDamage cuts and flips: no byte may be read wrongly without an error of
// ErrCorrupt, and nothing may panic.
func TestDamage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := drawSpec(t)
		b, err := NewBatch(spec, drawRecords(t, spec.BaseOffset))
		if err != nil {
			t.Fatalf("new: %v", err)
		}
		cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		if _, _, err := Next(b[:cut]); !errors.Is(err, ErrShort) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		bit := rapid.IntRange(crcStart*8, len(b)*8-1).Draw(t, "bit")
		bad := Batch(bytes.Clone(b))
		bad[bit/8] ^= 1 << (bit % 8)
		if err := bad.CheckCRC(); !errors.Is(err, ErrChecksum) {
			t.Fatalf("bit %d flipped: %v", bit, err)
		}
		if err := bad.EachRecord(1<<20, func(*Record) bool { return true }); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("error %v is not ErrCorrupt", err)
		}
	})
}

func TestScanRecordsAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := drawSpec(t)
		spec.Codec = None
		recs := drawRecords(t, spec.BaseOffset)
		b, err := NewBatch(spec, recs)
		if err != nil {
			t.Fatalf("new: %v", err)
		}
		if rapid.Bool().Draw(t, "damage") {
			b[rapid.IntRange(HeaderSize, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		}
		n := 0
		var each []Record
		err1 := b.EachRecord(1<<20, func(r *Record) bool { each = append(each, *r); return true })
		err2 := b.ScanRecords(b.Payload(), func(r RecordInfo) bool {
			if n < len(each) {
				if e := each[n]; e.Offset != spec.BaseOffset+Offset(r.OffsetDelta) || e.Timestamp != r.Timestamp || (e.Key == nil) != r.NullKey {
					t.Fatalf("record %d is %+v, want %+v", n, r, e)
				}
			}
			n++
			return true
		})
		if (err1 == nil) != (err2 == nil) || n != len(each) {
			t.Fatalf("EachRecord: %d records, %v; ScanRecords: %d, %v", len(each), err1, n, err2)
		}
	})
}

func TestFirstAtOrAfter(t *testing.T) {
	b, err := NewBatch(BatchSpec{BaseOffset: 10, Epoch: 4, Codec: Zstd, ProducerID: -1}, []Record{
		{Offset: 10, Timestamp: 5}, {Offset: 11, Timestamp: 9}, {Offset: 12, Timestamp: 7},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ts         int64
		from, want Offset
	}{{0, 0, 10}, {6, 0, 11}, {9, 0, 11}, {6, 12, 12}, {10, 0, -1}, {0, 13, -1}, {8, 12, -1}} {
		got, ok, err := b.FirstAtOrAfter(c.ts, c.from, 1<<20)
		if err != nil || ok != (c.want >= 0) || got.Offset != c.want {
			t.Errorf("ts %d from %d: %+v, %v, %v; want offset %d", c.ts, c.from, got, ok, err, c.want)
		}
		if ok && got.Epoch != 4 {
			t.Errorf("epoch %d", got.Epoch)
		}
	}
}

func TestSnappyForms(t *testing.T) {
	src := bytes.Repeat([]byte("firn lies on the glacier "), 9000) // several xerial blocks
	ours, err := Compress(nil, Snappy, 0, src)
	if err != nil {
		t.Fatal(err)
	}
	// As snappy-java writes it: magic, versions 1 and 1, blocks of 32 KiB.
	if !bytes.Equal(ours[:16], []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1}) {
		t.Fatalf("stream begins with %x", ours[:16])
	}
	blocks := 0
	for rest := ours[16:]; len(rest) > 0; blocks++ {
		n := binary.BigEndian.Uint32(rest)
		if size, err := s2.DecodedLen(rest[4 : 4+n]); err != nil || size > 32<<10 {
			t.Fatalf("block %d: %d bytes, %v", blocks, size, err)
		}
		rest = rest[4+n:]
	}
	if want := (len(src) + 32<<10 - 1) / (32 << 10); blocks != want {
		t.Fatalf("%d blocks, want %d", blocks, want)
	}
	for name, in := range map[string][]byte{"xerial": ours, "raw": s2.EncodeSnappy(nil, src)} {
		got, err := Decompress([]byte("keep"), Snappy, in, len(src))
		if err != nil || !bytes.Equal(got, append([]byte("keep"), src...)) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if _, err := Decompress(nil, Snappy, in, len(src)-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s beyond the limit: %v", name, err)
		}
	}
	for cut := range 40 {
		if _, err := Decompress(nil, Snappy, ours[:16+cut], len(src)); cut > 0 && !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut after %d bytes: %v", cut, err)
		}
	}
}

func TestDecompressBounds(t *testing.T) {
	src := make([]byte, 1<<20)
	for _, c := range codecs {
		packed, err := Compress(nil, c, 0, src)
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		if _, err := Decompress(nil, c, packed, len(src)-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v: a bomb gives %v", c, err)
		}
		got, err := Decompress(nil, c, packed, len(src))
		if err != nil || !bytes.Equal(got, src) {
			t.Errorf("%v: %d bytes, %v", c, len(got), err)
		}
	}
	for _, level := range []struct {
		c Codec
		n []int
	}{{Gzip, []int{1, 6, 9}}, {LZ4, []int{1, 9, 17}}, {Zstd, []int{-131072, 1, 3, 22}}} {
		for _, n := range level.n {
			packed, err := Compress(nil, level.c, n, src)
			if err != nil {
				t.Errorf("%v level %d: %v", level.c, n, err)
				continue
			}
			if got, err := Decompress(nil, level.c, packed, len(src)); err != nil || !bytes.Equal(got, src) {
				t.Errorf("%v level %d: %v", level.c, n, err)
			}
		}
	}
}

func TestPatches(t *testing.T) {
	b, err := NewBatch(BatchSpec{ProducerID: -1}, []Record{{Offset: 0, Timestamp: 7}, {Offset: 1, Timestamp: 9}})
	if err != nil {
		t.Fatal(err)
	}
	b.SetBaseOffset(77)
	b.SetLeaderEpoch(5)
	if err := b.CheckCRC(); err != nil || b.BaseOffset() != 77 || b.LeaderEpoch() != 5 || b.LastOffset() != 78 {
		t.Fatalf("patched: %v %v", b[:HeaderSize], err)
	}
	b.SetLogAppendTime(100)
	if err := b.CheckCRC(); err != nil || !b.IsLogAppendTime() || decode(t, b)[0].Timestamp != 100 {
		t.Fatalf("log append time: %v", err)
	}
	b.SetCreateTime(9)
	if err := b.CheckCRC(); err != nil || b.IsLogAppendTime() || decode(t, b)[0].Timestamp != 7 {
		t.Fatalf("create time: %v", err)
	}
}

func TestLastSequenceWraps(t *testing.T) {
	b, err := NewBatch(BatchSpec{ProducerID: 1, BaseSequence: math.MaxInt32 - 1}, []Record{{Offset: 0}, {Offset: 1}, {Offset: 2}})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.LastSequence(); got != 0 {
		t.Fatalf("last sequence %d, want 0", got)
	}
}

func FuzzBatch(f *testing.F) {
	for _, c := range codecs {
		b, err := NewBatch(BatchSpec{Codec: c, ProducerID: 3, BaseSequence: 9}, []Record{
			{Offset: 0, Timestamp: 1, Key: []byte("k"), Value: []byte("v"), Headers: []Header{{Key: "h", Value: []byte("x")}}},
			{Offset: 1, Timestamp: 2},
		})
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(b))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		b, rest, err := Next(in)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error %v is not ErrCorrupt", err)
			}
			return
		}
		if len(b)+len(rest) != len(in) {
			t.Fatalf("%d + %d bytes of %d", len(b), len(rest), len(in))
		}
		_ = b.CheckCRC()
		n := 0
		err = b.EachRecord(1<<20, func(*Record) bool { n++; return true })
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("error %v is not ErrCorrupt", err)
		}
		if err == nil && n != int(max(b.NumRecords(), 0)) {
			t.Fatalf("%d records, header says %d", n, b.NumRecords())
		}
		if body, derr := Decompress(nil, b.Codec(), b.Payload(), 1<<20); derr == nil {
			m := 0
			serr := b.ScanRecords(body, func(RecordInfo) bool { m++; return true })
			if (serr == nil) != (err == nil) || m != n {
				t.Fatalf("EachRecord: %d, %v; ScanRecords: %d, %v", n, err, m, serr)
			}
		}
	})
}

func BenchmarkScanRecords(b *testing.B) {
	recs := make([]Record, 100)
	for i := range recs {
		recs[i] = Record{Offset: Offset(i), Timestamp: int64(i), Value: make([]byte, 1024)}
	}
	batch, err := NewBatch(BatchSpec{ProducerID: -1}, recs)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(batch)))
	b.ReportAllocs()
	for b.Loop() {
		if err := batch.ScanRecords(batch.Payload(), func(RecordInfo) bool { return true }); err != nil {
			b.Fatal(err)
		}
	}
}
