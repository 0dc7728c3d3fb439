package librdkafka

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/firnlog/firn/test/clients/bytewise"
)

// TestBytesStay: what librdkafka sends is what lies on disk and what Fetch
// gives, byte for byte.
func TestBytesStay(t *testing.T) {
	b := bytewise.Start(t)
	codecs := []string{"none", "gzip", "snappy", "lz4", "zstd"}
	for _, way := range []struct {
		name       string
		idempotent bool
		config     kafka.ConfigMap
	}{
		{"idempotent", true, kafka.ConfigMap{"enable.idempotence": true}},
		{"acks-1", false, kafka.ConfigMap{"acks": "1"}},
	} {
		for codec, name := range codecs {
			for _, appendTime := range []bool{false, true} {
				topic := fmt.Sprintf("%s-%s-append-time-%v", way.name, name, appendTime)
				t.Run(topic, func(t *testing.T) {
					b.Topic(t, topic, appendTime)
					since := time.Now()
					produceOdd(t, b.Addr, topic, name, way.config)
					seen := b.CheckTap(t, topic, appendTime, since)
					if seen.Batches < 2 || !slices.Contains(seen.Codecs, codec) || seen.Idempotent != way.idempotent {
						t.Errorf("%+v: want several batches, in %s, idempotent: %v", seen, name, way.idempotent)
					}
					t.Logf("%d batches, Produce versions %v", seen.Batches, seen.Versions)
				})
			}
		}
	}
}

// produceOdd sends records of sizes about which encodings change, to partition
// 0, in several batches.
func produceOdd(t *testing.T, addr, topic, codec string, extra kafka.ConfigMap) {
	t.Helper()
	cfg := kafka.ConfigMap{"bootstrap.servers": addr, "compression.type": codec, "linger.ms": 5, "batch.num.messages": 8}
	for k, v := range extra {
		cfg[k] = v
	}
	p, err := kafka.NewProducer(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	sizes := []int{0, 1, 62, 63, 64, 65, 8191, 8192, 8193, 70_000, 150_001}
	const rounds = 3
	delivered := make(chan kafka.Event, rounds*len(sizes))
	for round := range rounds {
		for i, n := range sizes {
			m := &kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: 0}, Timestamp: time.Now().Add(-time.Hour)}
			if (i+round)%4 != 0 {
				m.Key = bytes.Repeat([]byte{'k'}, n%700)
			}
			if (i+round)%5 != 0 {
				m.Value = make([]byte, n)
				for j := range m.Value {
					m.Value[j] = byte(j * j >> 3)
				}
			}
			for h := range i % 4 {
				m.Headers = append(m.Headers, kafka.Header{Key: fmt.Sprint("h", h), Value: m.Value[:len(m.Value)*h/4]})
			}
			if err := p.Produce(m, delivered); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range cap(delivered) {
		select {
		case e := <-delivered:
			if err := e.(*kafka.Message).TopicPartition.Error; err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("not everything was delivered within a minute")
		}
	}
}
