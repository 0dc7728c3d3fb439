package partition

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
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

// BenchmarkValidate is what Append looks at before it takes a batch: the
// checksum and each record.
func BenchmarkValidate(b *testing.B) {
	for name, records := range map[string]int{"16KiB": 15, "1MiB": 1000} {
		b.Run(name, func(b *testing.B) {
			values := make([]string, records)
			for i := range values {
				values[i] = strings.Repeat("x", 1024)
			}
			batch, cfg, now := plain(b, 1, values...), testConfig(), time.Now()
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			for b.Loop() {
				var v validated
				if err := v.fromClient(batch, &cfg, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A produced batch costs as many allocations with a thousand records as with
// one, from the request's bytes to the segment.
func TestProduceDoesNotAllocatePerRecord(t *testing.T) {
	p := open(t, t.TempDir(), testConfig(), Deps{})
	defer p.Delete()
	allocations := func(values ...string) float64 {
		req := kmsg.NewPtrProduceRequest()
		req.Version, req.Acks = 11, -1
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Records = plain(t, 1, values...)
		req.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: []kmsg.ProduceRequestTopicPartition{rp}}}
		body := req.AppendTo(nil)
		decode := func() []byte {
			got, err := wire.DecodeRequest(0, 11, body)
			if err != nil {
				t.Fatal(err)
			}
			return got.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records
		}
		return testing.AllocsPerRun(500, func() {
			batch := record.Batch(decode())
			batch.SetBaseOffset(0) // the one before is where it was appended
			if res, err := p.Append(batch, Client); err != nil || res.LastOffset-res.BaseOffset != record.Offset(len(values)-1) {
				t.Fatal(res, err)
			}
		})
	}
	// Of the same size, since what segments and indexes cost goes by bytes.
	many := make([]string, 1000)
	for i := range many {
		many[i] = strings.Repeat("x", 100)
	}
	ofOne, ofMany := allocations(strings.Repeat("x", len(plain(t, 1, many...))-100)), allocations(many...)
	if ofMany > ofOne+1 || ofOne > 16 {
		t.Errorf("%v allocations for a request of one record, %v for one as large of a thousand", ofOne, ofMany)
	}
}
