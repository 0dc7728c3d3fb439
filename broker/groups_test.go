package broker

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/metastore"
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

// The topic waits for the brokers that are to come, and what is in it survives
// the loss of a disk where there are three.
func TestOffsetsTopicIsMadeSafe(t *testing.T) {
	for name, c := range map[string]struct {
		brokers, members int
		drained          []int32
		replicas         int // 0: it is not made yet
		minInsync        string
	}{
		"a broker alone":         {brokers: 1, replicas: 1},
		"first of three":         {brokers: 1, members: 3},
		"second of three":        {brokers: 2, members: 3},
		"three":                  {brokers: 3, members: 3, replicas: 3, minInsync: "2"},
		"clients of one member":  {brokers: 2, members: 1, replicas: 2},
		"one of four is drained": {brokers: 4, members: 3, drained: []int32{2}, replicas: 3, minInsync: "2"},
		"all are drained":        {brokers: 1, drained: []int32{1}},
	} {
		t.Run(name, func(t *testing.T) {
			g := &groups{parts: 4, replicas: 3, members: c.members, drained: func() []int32 { return c.drained }}
			img := &metastore.Image{Brokers: map[record.BrokerID]metastore.Broker{}}
			for id := range c.brokers {
				img.Brokers[record.BrokerID(id+1)] = metastore.Broker{}
			}
			spec, err := g.spec(img)
			if c.replicas == 0 {
				if err == nil {
					t.Fatalf("made on %v", spec.Assignment)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for p, on := range spec.Assignment {
				all := map[record.BrokerID]bool{}
				for _, id := range on {
					all[id] = !slices.Contains(c.drained, int32(id))
				}
				if len(on) != c.replicas || len(all) != c.replicas || slices.Contains(slices.Collect(maps.Values(all)), false) {
					t.Errorf("partition %d is on %v", p, on)
				}
			}
			if got := spec.Configs["min.insync.replicas"]; got != c.minInsync {
				t.Errorf("min.insync.replicas %q, want %q", got, c.minInsync)
			}
		})
	}
}
