package clients

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/firnlog/firn/test/clients/bytewise"
)

// A batch is a producer's own: what it sent, in whatever codec, must be what
// lies on disk and what every consumer gets, byte for byte, but for base
// offset, leader epoch and (where the topic asks for it) append time.

// oddRecords are of sizes about which encodings change: around the ends of
// one, two and three bytes of a varint, and beyond a compressor's block.
func oddRecords() []rec {
	out := sample(60)
	for i, n := range []int{0, 1, 62, 63, 64, 65, 8191, 8192, 8193, 70_000, 150_001} {
		r := rec{key: bytes.Repeat([]byte{'k'}, n%700), value: make([]byte, n), millis: someTime + int64(i)}
		for j := range r.value {
			r.value[j] = byte(j * j >> 3)
		}
		for h := range i % 4 {
			r.headers = append(r.headers, header{strings.Repeat("h", n%130), r.value[:n*h/4]})
		}
		out = append(out, r)
	}
	return append(out, rec{millis: someTime}) // no key and no value
}

// way is one way of a client to produce.
type way struct {
	name       string
	codecs     []string
	idempotent bool
	version    int16 // of Produce, that it must use; -1 for any
	produce    func(t *testing.T, addr, topic, codec string, recs []rec)
}

func (w way) try(t *testing.T, b *bytewise.Broker, codec string, appendTime bool) {
	topic := topicOf(t)
	b.Topic(t, topic, appendTime)
	since := time.Now()
	w.produce(t, b.Addr, topic, codec, oddRecords())
	seen := b.CheckTap(t, topic, appendTime, since)
	if seen.Batches < 2 || !slices.Contains(seen.Codecs, slices.Index(codecs, codec)) {
		t.Errorf("%d batches in codecs %v, want several, in %s", seen.Batches, seen.Codecs, codec)
	}
	if seen.Idempotent != w.idempotent {
		t.Errorf("idempotent: %v, want %v", seen.Idempotent, w.idempotent)
	}
	if w.version >= 0 && !slices.Equal(seen.Versions, []int16{w.version}) {
		t.Errorf("Produce versions %v, want %d", seen.Versions, w.version)
	}
	t.Logf("%d batches, Produce versions %v", seen.Batches, seen.Versions)
}

func TestBytesStay(t *testing.T) {
	b := bytewise.Start(t)
	older := codecs[:4] // before Produce 7 there is no zstd
	for _, w := range []way{
		{"franz-go", codecs, true, -1, franzBytes()},
		{"franz-go-2.1", codecs, true, 7, franzBytes(kgo.MaxVersions(kversion.V2_1_0()))},
		{"franz-go-0.11", older, true, 3, franzBytes(kgo.MaxVersions(kversion.V0_11_0()))},
		{"franz-go-acks-1", codecs, false, -1, franzBytes(kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()))},
		{"sarama", codecs, true, -1, saramaBytes(sarama.MaxVersion)},
		{"sarama-2.1", codecs, true, 7, saramaBytes(sarama.V2_1_0_0)},
		{"sarama-0.11", older, true, 3, saramaBytes(sarama.V0_11_0_0)},
		{"kafka-go", codecs, false, -1, kafkagoBytes},
	} {
		for _, codec := range w.codecs {
			for name, appendTime := range map[string]bool{"create-time": false, "append-time": true} {
				t.Run(w.name+"-"+codec+"-"+name, func(t *testing.T) { w.try(t, b, codec, appendTime) })
			}
		}
	}
}

func franzBytes(opts ...kgo.Opt) func(*testing.T, string, string, string, []rec) {
	return func(t *testing.T, addr, topic, codec string, recs []rec) {
		cl := must[*kgo.Client](t)(kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchMaxBytes(200_000),
			kgo.ProducerLinger(5 * time.Millisecond), kgo.ProducerBatchCompression(franzCodec(codec)), kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...))
		defer cl.Close()
		for part := range slices.Chunk(recs, 20) {
			var sent []*kgo.Record
			for _, r := range part {
				sent = append(sent, franzRecord(r))
			}
			if err := cl.ProduceSync(limit(t), sent...).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func saramaBytes(version sarama.KafkaVersion) func(*testing.T, string, string, string, []rec) {
	return func(t *testing.T, addr, topic, codec string, recs []rec) {
		cfg := saramaConfig()
		cfg.Version = version
		cfg.Producer.Compression = saramaCodec(codec)
		cfg.Producer.Flush.Frequency = time.Millisecond
		p := must[sarama.SyncProducer](t)(sarama.NewSyncProducer([]string{addr}, cfg))
		for part := range slices.Chunk(recs, 20) {
			var sent []*sarama.ProducerMessage
			for _, r := range part {
				sent = append(sent, saramaMessage(topic, r))
			}
			if err := p.SendMessages(sent); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func kafkagoBytes(t *testing.T, addr, topic, codec string, recs []rec) {
	kafkagoProduce(t, addr, topic, codec, recs, 20)
}

// TestBytesOfTheJavaProducerStay replays what Kafka's own producer sent once
// (testdata/java-produce/README.md).
func TestBytesOfTheJavaProducerStay(t *testing.T) {
	files := must[[]string](t)(filepath.Glob("testdata/java-produce/*.bin"))
	b := bytewise.Start(t)
	seen := map[string]bool{}
	for _, f := range files {
		sent, err := bytewise.ReadBatches(f)
		if err != nil {
			t.Fatal(err)
		}
		for name, appendTime := range map[string]bool{"create-time": false, "append-time": true} {
			t.Run(strings.TrimSuffix(filepath.Base(f), ".bin")+"-"+name, func(t *testing.T) {
				topic := topicOf(t)
				b.Topic(t, topic, appendTime)
				since := time.Now()
				b.Replay(t, topic, sent)
				got := b.Check(t, topic, sent, appendTime, since)
				if got.Batches < 2 || len(got.Codecs) != 1 {
					t.Errorf("%d batches in codecs %v, want several, in one", got.Batches, got.Codecs)
				}
				seen[fmt.Sprint(codecs[got.Codecs[0]], got.Idempotent, appendTime)] = true
			})
		}
	}
	for _, codec := range codecs {
		for _, idempotent := range []bool{true, false} {
			for _, appendTime := range []bool{true, false} {
				if !seen[fmt.Sprint(codec, idempotent, appendTime)] {
					t.Errorf("no file was checked in codec %s, idempotent %v, append time %v", codec, idempotent, appendTime)
				}
			}
		}
	}
}
