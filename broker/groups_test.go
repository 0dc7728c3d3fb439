package broker

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/record"
)

// flakyLog is an empty log that cannot be read the first times.
type flakyLog struct {
	failures int
	loaded   chan struct{}
}

func (l *flakyLog) Append(record.Batch) (record.Offset, error) { return 0, nil }
func (l *flakyLog) TrimTo(record.Offset) error                 { return nil }
func (l *flakyLog) End() record.Offset                         { return 0 }
func (l *flakyLog) Replay(context.Context, func(record.Batch) error) error {
	if l.failures > 0 {
		l.failures--
		return errors.New("the disk hiccups")
	}
	close(l.loaded)
	return nil
}

func TestGroupsAreLoadedAfterAFailure(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	g := newGroups(group.New(group.Config{OffsetsPartitions: 1}, group.Deps{Log: log}), nil, 1, 1, log)
	g.retry = time.Microsecond
	l := &flakyLog{failures: 3, loaded: make(chan struct{})}
	g.wg.Go(func() { g.load(g.ctx, 0, l) })
	<-l.loaded
	g.close()
}

func TestCloseDoesNotWaitForALoadThatFails(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	g := newGroups(group.New(group.Config{OffsetsPartitions: 1}, group.Deps{Log: log}), nil, 1, 1, log)
	g.retry = time.Hour
	g.wg.Go(func() { g.load(g.ctx, 0, &flakyLog{failures: 1 << 30}) })
	g.close()
}

// Retention that the operator sets for topics takes no group's offsets: only
// the coordinator knows which of them still count.
func TestRetentionKeepsGroupOffsets(t *testing.T) {
	b, _, _ := openBroker(t, t.TempDir(), map[string]string{"log.retention.bytes": "1", "log.retention.ms": "1", "offsets.topic.num.partitions": "1"})
	if err := b.groups.ensureTopic(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := b.topics.Get(offsetsTopic, 0)
	for range 3 {
		batch, err := record.NewBatch(record.BatchSpec{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, []record.Record{{Timestamp: 1, Key: []byte("k"), Value: []byte("v")}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Append(batch, partition.Coordinator); err != nil {
			t.Fatal(err)
		}
		if err := p.Roll(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.RunRetention(time.Now()); err != nil {
		t.Fatal(err)
	}
	if s := p.State(); s.LogStart != 0 {
		t.Errorf("offsets below %d of %d are gone", s.LogStart, s.LogEnd)
	}
}
