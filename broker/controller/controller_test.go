package controller

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// oneImage is metadata that a controller writes to without its changing, as
// far as the controller sees.
type oneImage struct {
	img     *metastore.Image
	watcher func(*metastore.Image)
	written [][]record.PartitionID // by call
	at      []time.Time
}

func (m *oneImage) Image() *metastore.Image { return m.img }

func (m *oneImage) OnChange(fn func(*metastore.Image)) func() {
	m.watcher = fn
	return func() {}
}

func (m *oneImage) ControllerEpoch() (int64, bool) { return 1, true }

func (m *oneImage) Lead(_ context.Context, _ int64, changes []metastore.PartitionChange) ([]int64, error) {
	m.written, m.at = append(m.written, numbers(changes)), append(m.at, time.Now())
	byID := map[record.PartitionID]metastore.Partition{}
	for _, c := range changes {
		byID[c.Partition.ID] = c.Partition
	}
	was := m.img.TopicIDs[record.TopicID{1}]
	now := *was
	now.Revision++
	now.Partitions = slices.Clone(was.Partitions)
	for i := range now.Partitions {
		if p, ok := byID[now.Partitions[i].ID]; ok {
			now.Partitions[i] = p
		}
	}
	next := *m.img
	next.Topics, next.TopicIDs = map[string]*metastore.Topic{now.Name: &now}, map[record.TopicID]*metastore.Topic{now.ID: &now}
	next.Revision++
	m.img = &next
	m.watcher(m.img)
	return slices.Repeat([]int64{next.Revision}, len(changes)), nil
}

func (m *oneImage) Unfence(context.Context, int64, record.BrokerID, metastore.Unfenced) (int64, error) {
	return 0, nil
}

// What leads is handed over at once; that the broker leaves the other ISRs
// comes when new leaders have settled.
func TestLeavingWaitsForElections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		img := cluster(part(0, 2, 1, 2), part(1, 1, 1, 2), part(2, 3, 1, 2, 3))
		leave(img, 1)
		m := &oneImage{img: img}
		c := New(Deps{Log: slog.New(slog.DiscardHandler), Meta: m, Node: 2, Topics: settings(Topic{MinInsync: 1}), Preferred: func() time.Duration { return 0 }})
		m.watcher(img)
		time.Sleep(10 * laterAfter)
		c.Close()
		if want := [][]record.PartitionID{{1}, {0, 2}}; !slices.EqualFunc(m.written, want, slices.Equal) {
			t.Fatalf("written %v, want %v", m.written, want)
		}
		if waited := m.at[1].Sub(m.at[0]); waited < laterAfter || waited > 2*laterAfter {
			t.Errorf("the rest was written %v after the elections, want %v", waited, laterAfter)
		}
	})
}

// Where a leaving broker leads nothing, there is nothing to wait for.
func TestLeavingFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		img := cluster(part(0, 2, 1, 2), part(1, 3, 1, 2, 3))
		leave(img, 1)
		m := &oneImage{img: img}
		began := time.Now()
		c := New(Deps{Log: slog.New(slog.DiscardHandler), Meta: m, Node: 2, Topics: settings(Topic{MinInsync: 1}), Preferred: func() time.Duration { return 0 }})
		m.watcher(img)
		time.Sleep(10 * laterAfter)
		c.Close()
		if want := [][]record.PartitionID{{0, 1}}; !slices.EqualFunc(m.written, want, slices.Equal) || !m.at[0].Equal(began) {
			t.Errorf("written %v at %v, want %v at %v", m.written, m.at, want, began)
		}
	})
}
