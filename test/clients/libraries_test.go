package clients

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var codecs = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// library writes to and reads from partition 0 of a topic.
type library struct {
	name  string
	write func(t testing.TB, topic, codec string, recs []rec)
	read  func(t testing.TB, topic string, n int) []rec
}

var libraries = []library{
	{"franz-go", franzWrite, franzRead},
	{"sarama", saramaWrite, saramaRead},
	{"kafka-go", kafkagoWrite, kafkagoRead},
}

// TestEveryLibraryReadsEveryOther writes the same records with each library
// in each codec, and reads each topic with each library.
func TestEveryLibraryReadsEveryOther(t *testing.T) {
	want := sample(300)
	for _, w := range libraries {
		for _, codec := range codecs {
			t.Run(w.name+"-"+codec, func(t *testing.T) {
				topic := newTopic(t, 1)
				w.write(t, topic, codec, want)
				for _, r := range libraries {
					t.Run("read-by-"+r.name, func(t *testing.T) {
						expect := want
						if r.name == "kafka-go" || w.name == "kafka-go" {
							expect = kafkagoView(want)
						}
						got := r.read(t, topic, len(want))
						if r.name == "kafka-go" || w.name == "kafka-go" {
							got = kafkagoView(got)
						}
						wantRecords(t, got, expect)
					})
				}
			})
		}
	}
}

// kafkagoView takes away the difference of nil and empty, which kafka-go does
// not keep.
func kafkagoView(recs []rec) []rec {
	out := slices.Clone(recs)
	for i := range out {
		if len(out[i].key) == 0 {
			out[i].key = nil
		}
		if len(out[i].value) == 0 {
			out[i].value = nil
		}
	}
	return out
}

func franzCodec(codec string) kgo.CompressionCodec {
	return map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}[codec]
}

func franzRecord(r rec) *kgo.Record {
	out := &kgo.Record{Key: r.key, Value: r.value, Timestamp: time.UnixMilli(r.millis)}
	for _, h := range r.headers {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.key, Value: h.value})
	}
	return out
}

func fromFranz(r *kgo.Record) rec {
	out := rec{key: r.Key, value: r.Value, millis: r.Timestamp.UnixMilli()}
	for _, h := range r.Headers {
		out.headers = append(out.headers, header{h.Key, h.Value})
	}
	return out
}

func franzWrite(t testing.TB, topic, codec string, recs []rec) {
	t.Helper()
	cl := franz(t, kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(franzCodec(codec)), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	errs := make(chan error, len(recs))
	for _, r := range recs {
		cl.Produce(limit(t), franzRecord(r), func(_ *kgo.Record, err error) { errs <- err })
	}
	for range recs {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	cl.Close()
}

func franzRead(t testing.TB, topic string, n int) []rec {
	t.Helper()
	cl := franz(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	defer cl.Close()
	ctx := limit(t)
	var out []rec
	for len(out) < n {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("after %d records: %v", len(out), err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset != int64(len(out)) {
				t.Fatalf("offset %d, want %d", r.Offset, len(out))
			}
			out = append(out, fromFranz(r))
		})
	}
	return out
}

// saramaConfig is an idempotent producer's and a careful consumer's.
func saramaConfig() *sarama.Config {
	cfg := sarama.NewConfig()
	cfg.Version = sarama.MaxVersion
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Producer.Idempotent = true
	cfg.Net.MaxOpenRequests = 1
	cfg.Producer.Return.Successes = true
	cfg.Producer.Return.Errors = true
	cfg.Producer.Partitioner = sarama.NewManualPartitioner
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	cfg.Consumer.Return.Errors = true
	cfg.Consumer.MaxWaitTime = 200 * time.Millisecond
	return cfg
}

func saramaClient(t testing.TB, cfg *sarama.Config) sarama.Client {
	t.Helper()
	cl := must[sarama.Client](t)(sarama.NewClient([]string{broker}, cfg))
	t.Cleanup(func() { cl.Close() })
	return cl
}

func saramaCodec(codec string) sarama.CompressionCodec {
	return map[string]sarama.CompressionCodec{"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy, "lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD}[codec]
}

func saramaMessage(topic string, r rec) *sarama.ProducerMessage {
	m := &sarama.ProducerMessage{Topic: topic, Timestamp: time.UnixMilli(r.millis)}
	if r.key != nil {
		m.Key = sarama.ByteEncoder(r.key)
	}
	if r.value != nil {
		m.Value = sarama.ByteEncoder(r.value)
	}
	for _, h := range r.headers {
		m.Headers = append(m.Headers, sarama.RecordHeader{Key: []byte(h.key), Value: h.value})
	}
	return m
}

func fromSarama(m *sarama.ConsumerMessage) rec {
	out := rec{key: m.Key, value: m.Value, millis: m.Timestamp.UnixMilli()}
	for _, h := range m.Headers {
		out.headers = append(out.headers, header{string(h.Key), h.Value})
	}
	return out
}

func saramaWrite(t testing.TB, topic, codec string, recs []rec) {
	t.Helper()
	cfg := saramaConfig()
	cfg.Producer.Compression = saramaCodec(codec)
	cfg.Producer.Flush.Messages = 50
	cfg.Producer.Flush.Frequency = 5 * time.Millisecond
	p := must[sarama.AsyncProducer](t)(sarama.NewAsyncProducerFromClient(saramaClient(t, cfg)))
	go func() {
		for _, r := range recs {
			p.Input() <- saramaMessage(topic, r)
		}
	}()
	for i := range recs {
		select {
		case m := <-p.Successes():
			if m.Offset != int64(i) {
				t.Errorf("record %d is acknowledged with offset %d", i, m.Offset)
			}
		case err := <-p.Errors():
			t.Fatal(err)
		case <-limit(t).Done():
			t.Fatalf("%d records of %d were acknowledged", i, len(recs))
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func saramaRead(t testing.TB, topic string, n int) []rec {
	t.Helper()
	c := must[sarama.Consumer](t)(sarama.NewConsumerFromClient(saramaClient(t, saramaConfig())))
	pc := must[sarama.PartitionConsumer](t)(c.ConsumePartition(topic, 0, sarama.OffsetOldest))
	defer func() {
		if err := errors.Join(pc.Close(), c.Close()); err != nil {
			t.Error(err)
		}
	}()
	var out []rec
	for len(out) < n {
		select {
		case m, ok := <-pc.Messages():
			if !ok {
				t.Fatalf("sarama gave up after %d records: %v", len(out), <-pc.Errors())
			}
			if m.Offset != int64(len(out)) {
				t.Fatalf("offset %d, want %d", m.Offset, len(out))
			}
			out = append(out, fromSarama(m))
		case <-limit(t).Done():
			t.Fatalf("%d records of %d", len(out), n)
		}
	}
	return out
}

func kafkagoWrite(t testing.TB, topic, codec string, recs []rec) {
	t.Helper()
	kafkagoProduce(t, broker, topic, codec, recs, 60)
}

// kafkagoProduce writes batches of some records to the broker at addr.
func kafkagoProduce(t testing.TB, addr, topic, codec string, recs []rec, batch int) {
	t.Helper()
	w := &kafka.Writer{Addr: kafka.TCP(addr), Topic: topic, RequiredAcks: kafka.RequireAll, BatchTimeout: 5 * time.Millisecond, BatchSize: batch, BatchBytes: 900_000, MaxAttempts: 1, Transport: kafkagoTransport(t)}
	w.Compression = map[string]kafka.Compression{"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}[codec]
	var ms []kafka.Message
	for _, r := range recs {
		ms = append(ms, kafkagoMessage(r))
	}
	if err := w.WriteMessages(limit(t), ms...); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// kafkagoTransport is one of the test's own: the default one remembers for
// six seconds that a topic was not there.
func kafkagoTransport(t testing.TB) *kafka.Transport {
	tr := &kafka.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func kafkagoClient(t testing.TB) *kafka.Client {
	return &kafka.Client{Addr: kafka.TCP(broker), Transport: kafkagoTransport(t)}
}

func kafkagoMessage(r rec) kafka.Message {
	m := kafka.Message{Key: r.key, Value: r.value, Time: time.UnixMilli(r.millis)}
	for _, h := range r.headers {
		m.Headers = append(m.Headers, kafka.Header{Key: h.key, Value: h.value})
	}
	return m
}

func fromKafkago(m kafka.Message) rec {
	out := rec{key: m.Key, value: m.Value, millis: m.Time.UnixMilli()}
	for _, h := range m.Headers {
		out.headers = append(out.headers, header{h.Key, h.Value})
	}
	return out
}

func kafkagoRead(t testing.TB, topic string, n int) []rec {
	t.Helper()
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{broker}, Topic: topic, MaxWait: 200 * time.Millisecond, MaxBytes: 1 << 20, ErrorLogger: kafka.LoggerFunc(t.Logf)})
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx := limit(t)
	var out []rec
	for len(out) < n {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			t.Fatalf("after %d records: %v", len(out), err)
		}
		if m.Offset != int64(len(out)) {
			t.Fatalf("offset %d, want %d", m.Offset, len(out))
		}
		out = append(out, fromKafkago(m))
	}
	return out
}

// TestSynchronousProducers checks offsets and partitions of single records.
func TestSynchronousProducers(t *testing.T) {
	topic := newTopic(t, 3)
	ctx := limit(t)
	next := [3]int64{}
	cl := franz(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	cfg := saramaConfig()
	sp := must[sarama.SyncProducer](t)(sarama.NewSyncProducerFromClient(saramaClient(t, cfg)))
	kc := kafkagoClient(t)
	for i := range 30 {
		p := i % 3
		value := fmt.Append(nil, i)
		switch i / 3 % 3 {
		case 0:
			r, err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: int32(p), Value: value}).First()
			if err != nil || r.Offset != next[p] || r.Partition != int32(p) {
				t.Fatalf("franz-go: %+v, %v; want offset %d", r, err, next[p])
			}
		case 1:
			part, offset, err := sp.SendMessage(&sarama.ProducerMessage{Topic: topic, Partition: int32(p), Value: sarama.ByteEncoder(value)})
			if err != nil || part != int32(p) || offset != next[p] {
				t.Fatalf("sarama: partition %d, offset %d, %v; want offset %d", part, offset, err, next[p])
			}
		case 2:
			resp, err := kc.Produce(ctx, &kafka.ProduceRequest{Topic: topic, Partition: p, RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(kafka.Record{Value: kafka.NewBytes(value)})})
			if err != nil || resp.Error != nil || resp.BaseOffset != next[p] {
				t.Fatalf("kafka-go: %+v, %v; want offset %d", resp, err, next[p])
			}
		}
		next[p]++
	}
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAcksOfLibraries produces with each library and each kind of
// acknowledgement; all records arrive, in order per kind.
func TestAcksOfLibraries(t *testing.T) {
	ctx := limit(t)
	recs := sample(50)
	for i, acks := range []kgo.Acks{kgo.NoAck(), kgo.LeaderAck(), kgo.AllISRAcks()} {
		topic := fmt.Sprintf("%s-%d", topicOf(t), i)
		for _, suffix := range []string{"-f", "-s", "-k"} {
			makeTopic(t, topic+suffix, 1)
		}
		cl := franz(t, kgo.DefaultProduceTopic(topic+"-f"), kgo.RequiredAcks(acks), kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(1))
		for _, r := range recs {
			cl.Produce(ctx, franzRecord(r), func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := cl.Flush(ctx); err != nil {
			t.Fatal(err)
		}

		cfg := saramaConfig()
		cfg.Producer.Idempotent = false
		cfg.Producer.RequiredAcks = []sarama.RequiredAcks{sarama.NoResponse, sarama.WaitForLocal, sarama.WaitForAll}[i]
		sp := must[sarama.SyncProducer](t)(sarama.NewSyncProducerFromClient(saramaClient(t, cfg)))
		for _, r := range recs {
			if _, _, err := sp.SendMessage(saramaMessage(topic+"-s", r)); err != nil {
				t.Fatal(err)
			}
		}
		if err := sp.Close(); err != nil {
			t.Fatal(err)
		}

		w := &kafka.Writer{Addr: kafka.TCP(broker), Topic: topic + "-k", BatchTimeout: time.Millisecond, MaxAttempts: 1, Transport: kafkagoTransport(t),
			RequiredAcks: []kafka.RequiredAcks{kafka.RequireNone, kafka.RequireOne, kafka.RequireAll}[i]}
		for _, r := range recs {
			if err := w.WriteMessages(ctx, kafkagoMessage(r)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		wantRecords(t, franzRead(t, topic+"-f", len(recs)), recs)
		wantRecords(t, franzRead(t, topic+"-s", len(recs)), recs)
		wantRecords(t, kafkagoView(franzRead(t, topic+"-k", len(recs))), kafkagoView(recs))
	}
}

// TestMessageTooLarge: each library names the error, and goes on after it.
func TestMessageTooLarge(t *testing.T) {
	topic := newTopic(t, 1, "max.message.bytes", "100000")
	big, fits := make([]byte, 100_000), make([]byte, 99_000)
	for i := range big {
		big[i] = byte(i * i >> 3)
	}
	copy(fits, big)
	ctx := limit(t)

	cl := franz(t, kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(1<<20))
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: big}).FirstErr(); !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("franz-go: %v", err)
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: fits}).FirstErr(); err != nil {
		t.Errorf("franz-go after it: %v", err)
	}

	cfg := saramaConfig()
	cfg.Producer.Idempotent = false // sarama's idempotent producer is stuck after any error
	sp := must[sarama.SyncProducer](t)(sarama.NewSyncProducerFromClient(saramaClient(t, cfg)))
	if _, _, err := sp.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.ByteEncoder(big)}); !errors.Is(err, sarama.ErrMessageSizeTooLarge) {
		t.Errorf("sarama: %v", err)
	}
	if _, offset, err := sp.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.ByteEncoder(fits)}); err != nil || offset != 1 {
		t.Errorf("sarama after it: offset %d, %v", offset, err)
	}
	if err := sp.Close(); err != nil {
		t.Error(err)
	}

	w := &kafka.Writer{Addr: kafka.TCP(broker), Topic: topic, BatchTimeout: time.Millisecond, MaxAttempts: 1, RequiredAcks: kafka.RequireAll, Transport: kafkagoTransport(t)}
	var kerrs kafka.WriteErrors
	if err := w.WriteMessages(ctx, kafka.Message{Value: big}); !errors.As(err, &kerrs) || !errors.Is(kerrs[0], kafka.MessageSizeTooLarge) {
		t.Errorf("kafka-go: %v", err)
	}
	if err := w.WriteMessages(ctx, kafka.Message{Value: fits}); err != nil {
		t.Errorf("kafka-go after it: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	for i, r := range franzRead(t, topic, 3) {
		if string(r.value) != string(fits) {
			t.Errorf("record %d is another", i)
		}
	}
}

// TestStartingPoints consumes from an offset, a timestamp and the end.
func TestStartingPoints(t *testing.T) {
	topic := newTopic(t, 1)
	var recs []rec
	for i := range 100 {
		recs = append(recs, rec{value: fmt.Append(nil, i), millis: someTime + int64(i)*1000})
	}
	franzWrite(t, topic, "lz4", recs)
	first := map[string]func(from int64) (int64, string){ // -1 for the end
		"franz-go": func(from int64) (int64, string) {
			offset := kgo.NewOffset().At(from)
			if from < 0 {
				offset = kgo.NewOffset().AtEnd()
			}
			cl := franz(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: offset}}))
			return franzFirst(t, cl)
		},
		"franz-go by timestamp": func(from int64) (int64, string) {
			if from < 0 {
				from = 1000
			}
			cl := franz(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AfterMilli(someTime + from*1000 - 500)}}))
			return franzFirst(t, cl)
		},
		"sarama": func(from int64) (int64, string) {
			if from < 0 {
				from = sarama.OffsetNewest
			}
			return saramaFirst(t, saramaClient(t, saramaConfig()), topic, from)
		},
		"sarama by timestamp": func(from int64) (int64, string) {
			cl := saramaClient(t, saramaConfig())
			if from < 0 {
				from = sarama.OffsetNewest
			} else {
				from = must[int64](t)(cl.GetOffset(topic, 0, someTime+from*1000-500))
			}
			return saramaFirst(t, cl, topic, from)
		},
		"kafka-go": func(from int64) (int64, string) {
			if from < 0 {
				from = kafka.LastOffset
			}
			return kafkagoFirst(t, topic, func(r *kafka.Reader) error { return r.SetOffset(from) })
		},
		"kafka-go by timestamp": func(from int64) (int64, string) {
			if from < 0 {
				return kafkagoFirst(t, topic, func(r *kafka.Reader) error { return r.SetOffset(kafka.LastOffset) })
			}
			return kafkagoFirst(t, topic, func(r *kafka.Reader) error {
				return r.SetOffsetAt(limit(t), time.UnixMilli(someTime+from*1000-500))
			})
		},
	}
	for name, f := range first {
		for _, from := range []int64{0, 1, 37, 99} {
			if offset, value := f(from); offset != from || value != fmt.Sprint(from) {
				t.Errorf("%s from %d: the first record has offset %d and value %q", name, from, offset, value)
			}
		}
	}
	// From the end: only what comes later.
	writer := franz(t, kgo.DefaultProduceTopic(topic))
	for name, f := range first {
		ctx, cancel := context.WithCancel(limit(t))
		stopped := make(chan struct{})
		go func() { // keeps writing, since a client does not tell when it has its place
			defer close(stopped)
			for ctx.Err() == nil {
				writer.ProduceSync(ctx, kgo.StringRecord("late"))
				<-time.After(20 * time.Millisecond)
			}
		}()
		if offset, value := f(-1); offset < 100 || value != "late" {
			t.Errorf("%s from the end: the first record has offset %d and value %q", name, offset, value)
		}
		cancel()
		<-stopped
	}
}

func franzFirst(t testing.TB, cl *kgo.Client) (int64, string) {
	t.Helper()
	defer cl.Close()
	fs := cl.PollRecords(limit(t), 1)
	if err := fs.Err(); err != nil {
		t.Fatal(err)
	}
	r := fs.Records()[0]
	return r.Offset, string(r.Value)
}

func saramaFirst(t testing.TB, cl sarama.Client, topic string, from int64) (int64, string) {
	t.Helper()
	c := must[sarama.Consumer](t)(sarama.NewConsumerFromClient(cl))
	pc := must[sarama.PartitionConsumer](t)(c.ConsumePartition(topic, 0, from))
	defer func() {
		if err := errors.Join(pc.Close(), c.Close()); err != nil {
			t.Error(err)
		}
	}()
	select {
	case m, ok := <-pc.Messages():
		if !ok {
			t.Fatalf("sarama gave up: %v", <-pc.Errors())
		}
		return m.Offset, string(m.Value)
	case <-limit(t).Done():
		t.Fatal("sarama got nothing")
	}
	return 0, ""
}

func kafkagoFirst(t testing.TB, topic string, seek func(*kafka.Reader) error) (int64, string) {
	t.Helper()
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{broker}, Topic: topic, MaxWait: 200 * time.Millisecond})
	defer r.Close()
	if err := seek(r); err != nil {
		t.Fatal(err)
	}
	m, err := r.ReadMessage(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	return m.Offset, string(m.Value)
}
