package commitlog

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/broker/disk/disktest"
	"github.com/firnlog/firn/record"
)

func sampleProducers() *Producers {
	ps := NewProducers()
	ps.forgotten = 3
	for seq := range int32(7) {
		b, _ := record.NewBatch(record.BatchSpec{BaseOffset: record.Offset(seq), ProducerID: 9, ProducerEpoch: 2, BaseSequence: seq}, []record.Record{{Offset: record.Offset(seq), Timestamp: 1000 + int64(seq)}})
		ps.Apply(b, 5000)
	}
	b, _ := record.NewBatch(record.BatchSpec{BaseOffset: 7, ProducerID: 11, BaseSequence: 0, Transactional: true}, []record.Record{{Offset: 7, Timestamp: 1}})
	ps.Apply(b, 6000)
	return ps
}

func TestGolden(t *testing.T) {
	disktest.Golden(t, "index", encodeOffsets(100, 9000, []offsetEntry{{3, 4096}, {8, 8300}}))
	disktest.Golden(t, "timeindex", encodeTimes(100, Summary{MaxTimestamp: 1700000000500, MaxTSOffset: 107, Aborted: 1, Bytes: 9000}, []timeEntry{{1700000000000, 3}, {1700000000500, 8}}))
	disktest.Golden(t, "txnindex", encodeTxns(100, []record.AbortedTxn{{ProducerID: 9, FirstOffset: 101, LastOffset: 105}}))
	disktest.Golden(t, "snapshot", sampleProducers().encode(8))
	disktest.Golden(t, "partition.meta", Meta{TopicID: record.TopicID{0xaa, 15: 0xbb}, LogStart: 5, LocalBase: 2, RecoveryPoint: 90, Clean: true, End: 108, ActiveBase: 100, ActiveSize: 9000}.encode())
	disktest.Golden(t, "leader-epoch-checkpoint", encodeEpochs([]record.EpochStart{{Epoch: 0, Start: 0}, {Epoch: 4, Start: 77}}))
	b, err := record.NewBatch(record.BatchSpec{BaseOffset: 100, Epoch: 4, ProducerID: 9, ProducerEpoch: 2, BaseSequence: 1}, []record.Record{{Offset: 100, Timestamp: 1700000000000, Key: []byte("key"), Value: []byte("value"), Headers: []record.Header{{Key: "h", Value: []byte("x")}}}})
	if err != nil {
		t.Fatal(err)
	}
	disktest.Golden(t, "log", b)
}

func TestRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := record.Offset(rapid.Int64Range(0, 1<<60).Draw(t, "base"))
		var offsets []offsetEntry
		var times []timeEntry
		var o offsetEntry
		var te timeEntry
		for range rapid.IntRange(0, 50).Draw(t, "n") {
			o.rel += rapid.Uint32Range(1, 1000).Draw(t, "rel")
			o.pos += rapid.Uint32Range(1, 1000).Draw(t, "pos")
			te.ts += rapid.Int64Range(1, 1000).Draw(t, "ts")
			te.rel = o.rel
			offsets, times = append(offsets, o), append(times, te)
		}
		raw := encodeOffsets(base, 5, offsets)
		if b, size, got, err := decodeOffsets(raw); err != nil || b != base || size != 5 || !slices.Equal(got, offsets) {
			t.Fatalf("offsets: %v %v", got, err)
		}
		sum := Summary{MaxTimestamp: 1, MaxTSOffset: 2, Aborted: 3, Bytes: 4}
		if b, s, got, err := decodeTimes(encodeTimes(base, sum, times)); err != nil || b != base || s != sum || !slices.Equal(got, times) {
			t.Fatalf("times: %v %v", got, err)
		}
		// No damage goes unseen.
		at := rapid.IntRange(0, len(raw)*8-1).Draw(t, "bit")
		raw[at/8] ^= 1 << (at % 8)
		if _, _, _, err := decodeOffsets(raw); !errors.Is(err, ErrFormat) {
			t.Fatalf("bit %d flipped: %v", at, err)
		}
		if _, _, _, err := decodeOffsets(raw[:rapid.IntRange(0, len(raw)-1).Draw(t, "cut")]); !errors.Is(err, ErrFormat) {
			t.Fatalf("cut: %v", err)
		}
	})
}

func TestEveryFileDetectsEveryFlippedBit(t *testing.T) {
	decoders := map[string]func([]byte) error{
		"snapshot":                func(b []byte) error { _, _, err := DecodeSnapshot(b); return err },
		"meta":                    func(b []byte) error { _, err := DecodeMeta(b); return err },
		"txns":                    func(b []byte) error { _, _, err := DecodeTxnIndex(b); return err },
		"times":                   func(b []byte) error { _, _, _, err := DecodeTimeIndex(b); return err },
		"leader-epoch-checkpoint": func(b []byte) error { _, err := DecodeEpochs(b); return err },
	}
	for name, raw := range map[string][]byte{
		"snapshot":                sampleProducers().encode(8),
		"meta":                    Meta{LogStart: 4, Clean: true}.encode(),
		"txns":                    encodeTxns(1, []record.AbortedTxn{{ProducerID: 1, FirstOffset: 2, LastOffset: 3}}),
		"times":                   encodeTimes(1, Summary{}, []timeEntry{{1, 2}}),
		"leader-epoch-checkpoint": encodeEpochs([]record.EpochStart{{Epoch: 1, Start: 2}}),
	} {
		if err := decoders[name](raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for bit := range len(raw) * 8 {
			bad := bytes.Clone(raw)
			bad[bit/8] ^= 1 << (bit % 8)
			if err := decoders[name](bad); !errors.Is(err, ErrFormat) {
				t.Errorf("%s, bit %d flipped: %v", name, bit, err)
			}
		}
		for cut := range len(raw) {
			if err := decoders[name](raw[:cut]); !errors.Is(err, ErrFormat) {
				t.Errorf("%s, cut to %d bytes: %v", name, cut, err)
			}
		}
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	at, ps, err := DecodeSnapshot(sampleProducers().encode(8))
	if err != nil || at != 8 || ps.Len() != 2 || ps.FirstOpenTxn() != 7 || !ps.Forgotten(3) || ps.Forgotten(4) {
		t.Fatalf("%d %+v %v", at, ps, err)
	}
	p := ps.Get(9)
	if b := p.Batches(); len(b) != 5 || b[0].LastSequence != 2 || b[4].LastOffset != 6 || p.Epoch != 2 || p.Seen != 5000 || p.LastTimestamp != 1006 {
		t.Fatalf("%+v", p)
	}
	if !bytes.Equal(ps.encode(8), sampleProducers().encode(8)) {
		t.Fatal("a second round differs")
	}
}

func TestProducersAreBounded(t *testing.T) {
	ps := NewProducers()
	ps.max = 3
	touch := func(id int64, txn bool) {
		b, _ := record.NewBatch(record.BatchSpec{ProducerID: id, Transactional: txn}, []record.Record{{}})
		ps.Apply(b, id)
	}
	touch(1, true)
	touch(2, false)
	touch(3, false)
	touch(2, false)
	touch(4, false)
	if ps.Len() != 3 || ps.Get(3) != nil || ps.Get(1) == nil || !ps.Forgotten(3) || ps.Forgotten(4) {
		t.Fatalf("%d producers, 3 is %v", ps.Len(), ps.Get(3))
	}
	if n := ps.Expire(100); n != 2 || ps.Get(1) == nil {
		t.Fatalf("expired %d", n)
	}
}

func TestIndexIsThinned(t *testing.T) {
	x := newLiveIndex()
	for i := range uint32(maxIndexEntries*3 + 7) {
		x.add(i, int64(i)*100, 100, int64(i), record.Offset(i), 1)
	}
	offsets, times := *x.offsets.Load(), *x.times.Load()
	if len(offsets) > maxIndexEntries || len(times) > maxIndexEntries || x.thinned == 0 {
		t.Fatalf("%d and %d entries", len(offsets), len(times))
	}
	if _, _, got, err := decodeOffsets(encodeOffsets(0, 1, offsets)); err != nil || len(got) != len(offsets) {
		t.Fatalf("thinned index: %v", err)
	}
	for _, e := range offsets {
		if e.pos != e.rel*100 {
			t.Fatalf("entry %+v", e)
		}
	}
	if e := floorOffset(offsets, 5000); e.rel > 5000 || e.rel < 4900 {
		t.Fatalf("floor of 5000 is %+v", e)
	}
}

func TestEpochsAreReadable(t *testing.T) {
	if got := string(encodeEpochs([]record.EpochStart{{Epoch: 3, Start: 9}})); !strings.HasPrefix(got, "firn-leader-epochs 1\n3 9\ncrc32c ") {
		t.Fatalf("%q", got)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add(encodeOffsets(1, 2, []offsetEntry{{1, 1}}))
	f.Add(encodeTimes(1, Summary{}, []timeEntry{{1, 1}}))
	f.Add(sampleProducers().encode(8))
	f.Add(Meta{}.encode())
	f.Add(encodeEpochs([]record.EpochStart{{Epoch: 1, Start: 1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= disk.FrameExtra { // let it past the checksum
			b = disk.EndFrame(bytes.Clone(b[:len(b)-4]))
		}
		_, _, _, _ = decodeOffsets(b)
		_, _, _, _ = decodeTimes(b)
		_, _, _ = DecodeTxnIndex(b)
		if _, ps, err := DecodeSnapshot(b); err == nil {
			ps.release()
		}
		_, _ = DecodeMeta(b)
		_, _ = DecodeEpochs(b)
	})
}
