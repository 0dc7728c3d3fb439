package group

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/firnlog/firn/record"
)

// goldenLog is a partition of __consumer_offsets as Apache Kafka 4.3.1 wrote
// it: offsets committed with OffsetCommit 3, 8 and 10, a static member's
// generation, empty groups, and tombstones of all of them.
const goldenLog = "testdata/kafka-4.3.1-consumer-offsets.log"

func goldenBatches(t *testing.T) []record.Batch {
	t.Helper()
	buf, err := os.ReadFile(goldenLog)
	if err != nil {
		t.Fatal(err)
	}
	var out []record.Batch
	for len(buf) > 0 {
		b, rest, err := record.Next(buf)
		if err != nil {
			t.Fatal(err)
		}
		out, buf = append(out, b), rest
	}
	return out
}

// TestKafkaWritesTheSameBytes decodes every record that Kafka wrote and
// encodes it again: versions and bytes must be Kafka's.
func TestKafkaWritesTheSameBytes(t *testing.T) {
	seen := map[string]int{}
	for _, b := range goldenBatches(t) {
		err := b.EachRecord(maxBatch, func(r *record.Record) bool {
			e, err := decodeEntry(r.Key, r.Value)
			if err != nil {
				t.Fatalf("offset %d: %v", r.Offset, err)
			}
			if !e.isOffset && e.meta != nil { // as the coordinator would write it
				v, err := decodeGroup(e.meta)
				if err != nil {
					t.Fatal(err)
				}
				v.Version = groupValueVersion
				e.meta = v.AppendTo(nil)
			}
			if !bytes.Equal(e.key(), r.Key) || !bytes.Equal(e.value(), r.Value) {
				t.Errorf("offset %d:\nKafka %x %x\nFirn  %x %x", r.Offset, r.Key, r.Value, e.key(), e.value())
			}
			switch {
			case !e.isOffset && e.meta == nil:
				seen["group tombstone"]++
			case !e.isOffset:
				seen["group"]++
			case e.offset == nil:
				seen["offset tombstone"]++
			case e.offset.expireTime != -1:
				seen["offset with a retention"]++
			case e.offset.topicID != record.TopicID{}:
				seen["offset with a topic id"]++
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, what := range []string{"group", "group tombstone", "offset tombstone", "offset with a retention", "offset with a topic id"} {
		if seen[what] == 0 {
			t.Errorf("the file has no %s", what)
		}
	}
}

// goldenReplay is a Log that begins with what Kafka wrote.
type goldenReplay struct {
	*memLog
	batches []record.Batch
}

func (l *goldenReplay) Replay(ctx context.Context, fn func(record.Batch) error) error {
	for _, b := range l.batches {
		if err := fn(b); err != nil {
			return err
		}
	}
	return l.memLog.Replay(ctx, fn)
}

// TestKafkasLogIsLoaded takes over a partition of Kafka's.
func TestKafkasLogIsLoaded(t *testing.T) {
	c := New(Config{OffsetsPartitions: 1}, Deps{})
	defer c.Close()
	if err := c.Load(t.Context(), 0, &goldenReplay{memLog: newMemLog(), batches: goldenBatches(t)}); err != nil {
		t.Fatal(err)
	}
	if d := describe(c, 6, "gold1g1"); d.State != "Empty" || d.ProtocolType != "consumer" {
		t.Errorf("got %+v", d)
	}
	for _, tt := range []struct {
		topic     string
		partition int32
		want      int64
	}{{"t", 0, -1}, {"t", 1, 6}, {"u", 1, 6}} {
		if got := fetch(c, "gold1g1", tt.topic, tt.partition); got != tt.want {
			t.Errorf("offset of %s-%d: %d, want %d", tt.topic, tt.partition, got, tt.want)
		}
	}
}
