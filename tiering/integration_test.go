package tiering_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objectstore/file"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering"
)

// segment is a log of one sealed segment at a time, enough of a Hot.
type hotLog struct {
	tp     record.TopicPartition
	id     record.TopicID
	data   [][]byte
	segs   []record.Segment
	end    record.Offset
	tiered chan record.Offset
}

func (l *hotLog) TP() record.TopicPartition           { return l.tp }
func (l *hotLog) TopicID() record.TopicID             { return l.id }
func (l *hotLog) AdvanceLogStart(record.Offset) error { return nil }
func (l *hotLog) LogStart() record.Offset             { return 0 }
func (l *hotLog) SetTieredEnd(end record.Offset)      { l.tiered <- end }
func (l *hotLog) Sealed(from record.Offset) (list []record.Segment) {
	for _, s := range l.segs {
		if s.End > from {
			list = append(list, s)
		}
	}
	return list
}

func (l *hotLog) OpenSealed(base record.Offset) (*record.SealedFiles, error) {
	for i, s := range l.segs {
		if s.Base == base {
			return &record.SealedFiles{Segment: s, Data: bytes.NewReader(l.data[i]), Close: func() {}}, nil
		}
	}
	return nil, fmt.Errorf("no segment at %d", base)
}

func (l *hotLog) add(t *testing.T, batches int) {
	t.Helper()
	s := record.Segment{Base: l.end, MaxTSOffset: -1}
	var data []byte
	for range batches {
		b, err := record.NewBatch(record.BatchSpec{BaseOffset: l.end, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1},
			[]record.Record{{Offset: l.end, Timestamp: int64(l.end), Value: bytes.Repeat([]byte{byte(l.end)}, 900)}})
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, b...)
		l.end++
	}
	s.End, s.Bytes = l.end, int64(len(data))
	l.segs, l.data = append(l.segs, s), append(l.data, data)
}

// With the real metastore and a directory as the store: what is uploaded is
// read back, also by a second Manager that starts from etcd alone.
func TestWithRealMetastoreAndDirectory(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	meta, err := metastore.Open(ctx, metastore.Config{Dir: t.TempDir(), BrokerID: 1, Host: "127.0.0.1", Port: 9092}, metastore.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close(context.Background())
	if err := meta.Register(ctx); err != nil {
		t.Fatal(err)
	}
	made, _, err := meta.CreateTopics(ctx, []metastore.TopicSpec{{Name: "a", Assignment: [][]record.BrokerID{{1}}}})
	if err != nil || made[0].Err != nil {
		t.Fatal(err, made)
	}
	topic := made[0].Topic
	store, err := file.Open(ctx, file.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	l := &hotLog{tp: record.TopicPartition{Topic: "a"}, id: topic.ID, tiered: make(chan record.Offset, 100)}
	for range 7 {
		l.add(t, 20)
	}
	policy := tiering.Policy{Enabled: true, RetentionBytes: -1, Retention: -1, Epoch: topic.Partitions[0].Epoch}
	var want []byte
	for _, d := range l.data {
		want = append(want, d...)
	}
	for round := range 2 {
		c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: 8 << 20}, nil)
		if err != nil {
			t.Fatal(err)
		}
		m, err := tiering.Open(ctx, tiering.Config{TargetBytes: 40 << 10, PackWait: -1, InlineEntries: 2, ChunkBytes: 16 << 10},
			tiering.Deps{Store: store, Meta: meta, Cache: c, ClusterID: meta.Image().ClusterID})
		if err != nil {
			t.Fatal(err)
		}
		tp, err := m.Pointers(ctx, l.TopicID(), 1)(l.TP().Partition)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Attach(l, tp, policy); err != nil {
			t.Fatal(err)
		}
		for end := record.Offset(0); end < l.end; {
			select {
			case end = <-l.tiered:
			case <-ctx.Done():
				t.Fatalf("round %d: %+v", round, m.Status(""))
			}
		}
		var got []byte
		for at := record.Offset(0); at < l.end; {
			spans, _, err := m.ReadCold(ctx, l.id, l.tp, at, 30_000)
			if err != nil {
				if round > 0 && errors.Is(err, kerr.KafkaStorageError) && ctx.Err() == nil {
					continue // the manifest is on its way
				}
				t.Fatal(err)
			}
			for _, s := range spans {
				b := make([]byte, s.Size())
				if _, err := s.ReadAt(b, 0); err != nil {
					t.Fatal(err)
				}
				got = append(got, b...)
			}
			record.ReleaseSpans(spans)
			at = record.Offset(len(got) / (len(want) / int(l.end)))
		}
		if !bytes.Equal(got, want) {
			t.Fatal("other bytes than were written")
		}
		if err := m.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		l.segs, l.data = nil, nil // local copies are gone
	}
}
