package blast_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/bench/blast"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/test/firntest"
)

// Firn takes what blast sends, a client reads the values out of it again, and
// blast reads it to the last byte.
func TestAgainstFirn(t *testing.T) {
	firn := firntest.Start(t)
	var rows [][]byte
	for i := range 3000 {
		rows = append(rows, fmt.Appendf(nil, `{"row":%d}`, i))
	}
	values := blast.Join(rows, 256, 1<<20)
	for name, codec := range map[string]record.Codec{"none": record.None, "zstd": record.Zstd, "lz4": record.LZ4} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			b, err := blast.Encode(values, 4096, codec, time.Now().UnixMilli())
			if err != nil {
				t.Fatal(err)
			}
			topic := blast.Topic{Addr: firn.Kafka, Name: "blast-" + name, Partitions: 3}
			if err := topic.Create(ctx, map[string]string{"retention.ms": "-1"}); err != nil {
				t.Fatal(err)
			}
			sends := int64(len(b.Encoded))
			r, err := blast.Produce{Topic: topic, Batches: b, Connections: 1, InFlight: 3, Acks: -1, Bytes: sends * b.Bytes}.Run(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if r.Requests != sends {
				t.Fatalf("%d requests, want %d", r.Requests, sends)
			}
			cl, err := kgo.NewClient(kgo.SeedBrokers(firn.Kafka), kgo.ConsumeTopics(topic.Name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			got := map[string]int{}
			want := int(sends) * b.Records
			for n := 0; n < want; {
				fs := cl.PollFetches(ctx)
				if err := fs.Err(); err != nil {
					t.Fatal(err)
				}
				fs.EachRecord(func(r *kgo.Record) { got[string(r.Value)]++; n++ })
			}
			for _, v := range values[:want] {
				if got[string(v)] != 1 {
					t.Fatalf("value %q was read %d times", v, got[string(v)])
				}
			}
			wire := int64(0)
			for _, e := range b.Encoded {
				wire += int64(len(e))
			}
			if r, err = (blast.Consume{Topic: topic, Consumers: 1, MaxBytes: 1 << 20, Bytes: wire}).Run(ctx); err != nil {
				t.Fatal(err)
			}
			if r.Bytes != wire {
				t.Fatalf("%d bytes read, want %d", r.Bytes, wire)
			}
			if r, err = (blast.Consume{Topic: topic, Consumers: 2, MaxBytes: 10_000, Bytes: math.MaxInt64, Once: true, Wait: time.Second}).Run(ctx); err != nil {
				t.Fatal(err)
			}
			if r.Bytes != 2*wire {
				t.Fatalf("%d bytes read once by two consumers, want %d", r.Bytes, 2*wire)
			}
			loop := topic
			loop.Name += "-loop"
			if err := loop.Create(ctx, nil); err != nil {
				t.Fatal(err)
			}
			r, err = blast.OpenLoop{Topic: loop, Batches: b, Acks: -1, Rate: 500 * b.Bytes, For: 200 * time.Millisecond}.Run(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if r.EndToEnd.Count() != 100 || r.Latency.Count() != 100 {
				t.Fatalf("%d arrivals and %d acknowledgements, want 100", r.EndToEnd.Count(), r.Latency.Count())
			}
		})
	}
}

func TestAnErrorOfTheBrokerIsReported(t *testing.T) {
	firn := firntest.Start(t)
	topic := blast.Topic{Addr: firn.Kafka, Name: "refused", Partitions: 1}
	if err := topic.Create(t.Context(), map[string]string{"no.such.config": "1"}); err == nil {
		t.Error("a topic with an unknown config was created")
	}
	if err := topic.Create(t.Context(), map[string]string{"max.message.bytes": "1000"}); err != nil {
		t.Fatal(err)
	}
	b, err := blast.Encode([][]byte{make([]byte, 5000)}, 8000, record.None, time.Now().UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (blast.Produce{Topic: topic, Batches: b, Connections: 1, InFlight: 1, Acks: -1, Bytes: b.Bytes}).Run(t.Context()); err == nil {
		t.Error("a batch above max.message.bytes was acknowledged")
	}
}
