package partition

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"github.com/firnlog/firn/record"
)

func BenchmarkAppend(b *testing.B) {
	for _, codec := range []record.Codec{record.None, record.Zstd} {
		b.Run(codec.String(), func(b *testing.B) {
			p := open(b, b.TempDir(), testConfig(), Deps{})
			defer p.Delete()
			recs := make([]record.Record, 16)
			for i := range recs {
				recs[i] = record.Record{Timestamp: 1, Value: make([]byte, 1024)}
				for j := range recs[i].Value {
					recs[i].Value[j] = byte(rand.IntN(64))
				}
			}
			batch := produced(b, record.BatchSpec{Codec: codec, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, recs...)
			b.SetBytes(16 << 10)
			b.ReportAllocs()
			for b.Loop() {
				batch.SetBaseOffset(0)
				if _, err := p.Append(batch, Client); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	p := open(b, b.TempDir(), testConfig(), Deps{})
	defer p.Delete()
	batch := plain(b, 1, string(bytes.Repeat([]byte("x"), 1000)), "y", "z")
	for range 10000 {
		batch.SetBaseOffset(0)
		if _, err := p.Append(batch, Client); err != nil {
			b.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		res, err := p.Read(context.Background(), ReadRequest{Offset: record.Offset(rnd.IntN(30000)), MaxBytes: 1 << 20, MinOneBatch: true, CurrentEpoch: -1, LastFetchedEpoch: -1})
		if err != nil {
			b.Fatal(err)
		}
		record.ReleaseSpans(res.Spans)
	}
}

// TestAppendAllocates guards the hot path: nothing per record.
func TestAppendAllocates(t *testing.T) {
	p := open(t, t.TempDir(), testConfig(), Deps{})
	defer p.Delete()
	values := make([]string, 200)
	batch := plain(t, 1, values...)
	got := testing.AllocsPerRun(500, func() {
		batch.SetBaseOffset(0)
		if _, err := p.Append(batch, Client); err != nil {
			t.Fatal(err)
		}
	})
	if got > 8 {
		t.Fatalf("%v allocations for a batch of 200 records", got)
	}
}
