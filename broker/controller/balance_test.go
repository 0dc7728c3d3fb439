package controller

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/broker/balance"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// memory is a metastore in memory, of which this broker is the controller.
type memory struct {
	img     *metastore.Image
	epoch   int64 // 0: it is not
	refuse  bool  // of what is written nothing stands
	written [][]metastore.PartitionChange
}

func (m *memory) Image() *metastore.Image                    { return m.img }
func (m *memory) OnChange(func(*metastore.Image)) func()     { return func() {} }
func (m *memory) ControllerEpoch() (revision int64, ok bool) { return m.epoch, m.epoch > 0 }

func (m *memory) Unfence(context.Context, int64, record.BrokerID, metastore.Unfenced) (int64, error) {
	panic("not a balancer's")
}

func (m *memory) Lead(_ context.Context, _ int64, changes []metastore.PartitionChange) ([]int64, error) {
	m.written = append(m.written, changes)
	revisions := make([]int64, len(changes))
	if m.refuse {
		return revisions, nil
	}
	m.edit(func(img *metastore.Image) {
		for i, c := range changes {
			img.Topics["t"].Partitions[c.Partition.ID] = c.Partition
			revisions[i] = img.Revision
		}
	})
	return revisions, nil
}

// edit makes a new image.
func (m *memory) edit(f func(*metastore.Image)) {
	next := *m.img
	next.Revision++
	topic := *next.Topics["t"]
	topic.Partitions = slices.Clone(topic.Partitions)
	next.Topics = map[string]*metastore.Topic{"t": &topic}
	next.TopicIDs = map[record.TopicID]*metastore.Topic{topic.ID: &topic}
	next.Brokers = maps.Clone(next.Brokers)
	f(&next)
	m.img = &next
}

// complete brings what moves where it goes to.
func (m *memory) complete(t *testing.T) {
	t.Helper()
	m.edit(func(img *metastore.Image) {
		for i := range img.Topics["t"].Partitions {
			p := &img.Topics["t"].Partitions[i]
			r := RecordOf(p)
			if !r.Reassigning() {
				continue
			}
			r.ISR = r.Replicas
			next, done := replica.Progress(r, replica.View{Eligible: img.Eligible})
			if !done {
				t.Fatalf("%+v is not complete", r)
			}
			*p = PartitionOf(p.ID, next)
		}
	})
}

func (m *memory) moving() (n int) {
	for _, p := range m.img.Topics["t"].Partitions {
		if len(p.Adding)+len(p.Removing) > 0 {
			n++
		}
	}
	return n
}

func (m *memory) on(id record.BrokerID) (replicas, led int) {
	for _, p := range m.img.Topics["t"].Partitions {
		if slices.Contains(p.Replicas, id) {
			replicas++
		}
		if p.Replicas[0] == id {
			led++
		}
	}
	return replicas, led
}

// balancer is one on three brokers, of which the first two have all of the
// topic's twelve partitions.
func balancerOf(t *testing.T, cfg BalanceConfig) (*Balancer, *memory, *time.Time, *BalanceConfig) {
	var parts []metastore.Partition
	for i := range record.PartitionID(12) {
		parts = append(parts, metastore.Partition{ID: i, Leader: 1 + record.BrokerID(i%2), Replicas: ids{1 + record.BrokerID(i%2), 2 - record.BrokerID(i%2)}, ISR: ids{1, 2}, Revision: 5})
	}
	m := &memory{img: cluster(parts...), epoch: 7}
	now := time.Unix(1000, 0)
	b := newBalancer(BalancerDeps{
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Meta: m, Config: func() BalanceConfig { return cfg },
		Loads: func(context.Context) balance.Loads { return nil }, Now: func() time.Time { return now },
	})
	return b, m, &now, &cfg
}

// A broker that is new gets its part, a few replicas at a time, when the
// brokers have been the same for long enough.
func TestBalancer(t *testing.T) {
	b, m, now, _ := balancerOf(t, BalanceConfig{On: true, Delay: time.Minute, Moves: 3})
	look := func(want int) {
		t.Helper()
		if err := b.look(); err != nil || m.moving() != want {
			t.Fatalf("%d moves, want %d; %v", m.moving(), want, err)
		}
	}
	look(0)
	*now = now.Add(59 * time.Second)
	look(0)
	m.edit(func(img *metastore.Image) {
		img.Brokers[1] = metastore.Broker{ID: 1, Epoch: 11, Disk: "d", Leaving: true}
	})
	*now = now.Add(time.Second)
	look(0)
	m.edit(func(img *metastore.Image) { img.Brokers[1] = metastore.Broker{ID: 1, Epoch: 11, Disk: "d"} })
	look(0)
	*now = now.Add(time.Minute)
	look(3)
	look(3) // no more while these are under way
	m.complete(t)
	look(3)
	m.complete(t)
	for range 10 {
		if err := b.look(); err != nil {
			t.Fatal(err)
		}
		m.complete(t)
	}
	for id := range record.BrokerID(3) {
		if replicas, led := m.on(id + 1); replicas != 8 || led != 4 {
			t.Errorf("broker %d has %d replicas and leads %d", id+1, replicas, led)
		}
	}
	n := len(m.written)
	*now = now.Add(planFor)
	look(0)
	if len(m.written) != n {
		t.Errorf("it is even, and yet %+v", m.written[n:])
	}
}

// What keeps moves from being begun, and what does not.
func TestBalancerWaits(t *testing.T) {
	for name, c := range map[string]struct {
		cfg    BalanceConfig
		change func(*memory)
		moves  int
	}{
		"nothing":            {cfg: BalanceConfig{On: true}, moves: 2},
		"off":                {moves: 0},
		"not the controller": {cfg: BalanceConfig{On: true}, change: func(m *memory) { m.epoch = 0 }},
		"a replica behind": {cfg: BalanceConfig{On: true}, change: func(m *memory) {
			m.edit(func(img *metastore.Image) { img.Topics["t"].Partitions[3].ISR = ids{2} })
		}},
		"off, one is drained":        {cfg: BalanceConfig{Drained: []int32{2}}, moves: 2},
		"not stable, one is drained": {cfg: BalanceConfig{On: true, Delay: time.Hour, Drained: []int32{2}}, moves: 2},
		"drained and dead": {cfg: BalanceConfig{Drained: []int32{2}}, moves: 2, change: func(m *memory) {
			m.edit(func(img *metastore.Image) {
				delete(img.Brokers, 2)
				for i := range img.Topics["t"].Partitions {
					p := &img.Topics["t"].Partitions[i]
					p.Leader, p.ISR = 1, ids{1}
				}
			})
		}},
		"drained, another behind": {cfg: BalanceConfig{Drained: []int32{2}}, change: func(m *memory) {
			m.edit(func(img *metastore.Image) { p := &img.Topics["t"].Partitions[3]; p.Leader, p.ISR = 2, ids{2} })
		}},
		"one under way": {cfg: BalanceConfig{On: true}, moves: 1, change: func(m *memory) {
			m.edit(func(img *metastore.Image) {
				p := &img.Topics["t"].Partitions[0]
				next, _ := replica.Reassign(RecordOf(p), ids{1, 3})
				*p = PartitionOf(0, next)
			})
		}},
		"two under way": {cfg: BalanceConfig{On: true}, change: func(m *memory) {
			m.edit(func(img *metastore.Image) {
				for i := range record.PartitionID(2) {
					p := &img.Topics["t"].Partitions[i]
					next, _ := replica.Reassign(RecordOf(p), ids{1, 3})
					*p = PartitionOf(i, next)
				}
			})
		}},
		"one broker": {cfg: BalanceConfig{On: true, Drained: []int32{2}}, change: func(m *memory) {
			m.edit(func(img *metastore.Image) { delete(img.Brokers, 2); delete(img.Brokers, 3) })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Moves = 2
			b, m, _, _ := balancerOf(t, c.cfg)
			if c.change != nil {
				c.change(m)
			}
			if err := b.look(); err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, w := range m.written {
				n += len(w)
			}
			if n != c.moves {
				t.Errorf("%d moves begun, want %d (%s)", n, c.moves, b.why)
			}
		})
	}
}

// A drained broker is emptied to the last replica, and only that is moved; and
// when balance is turned off, nothing is begun any more.
func TestBalancerDrains(t *testing.T) {
	b, m, _, cfg := balancerOf(t, BalanceConfig{Moves: 5, Drained: []int32{2}})
	for range 4 {
		if err := b.look(); err != nil {
			t.Fatal(err)
		}
		m.complete(t)
	}
	if replicas, _ := m.on(2); replicas != 0 {
		t.Errorf("%d replicas are left", replicas)
	}
	for _, p := range m.img.Topics["t"].Partitions {
		if !slices.Contains(p.Replicas, 1) || !slices.Contains(p.Replicas, 3) {
			t.Errorf("%+v", p)
		}
	}
	n := len(m.written)
	*cfg = BalanceConfig{Moves: 5}
	if err := b.look(); err != nil || len(m.written) != n {
		t.Errorf("%+v, %v", m.written[n:], err)
	}
	*cfg = BalanceConfig{Moves: 1, On: true}
	if err := b.look(); err != nil || len(m.written) == n {
		t.Errorf("nothing goes back: %s, %v", b.why, err)
	}
	m.complete(t)
	*cfg = BalanceConfig{Moves: 1}
	n = len(m.written)
	if err := b.look(); err != nil || len(m.written) != n {
		t.Errorf("it is off, and yet %+v, %v", m.written[n:], err)
	}
}

// What was changed since it was planned is left alone.
func TestMoveOf(t *testing.T) {
	m := balance.Move{TopicPartition: record.TopicPartition{Topic: "t"}, From: ids{1, 2}, To: ids{1, 3}}
	well := metastore.Partition{Leader: 1, Replicas: ids{1, 2}, ISR: ids{1, 2}, Revision: 5}
	for name, c := range map[string]struct {
		change func(*metastore.Image, *metastore.Partition, *balance.Move)
		ok     bool
	}{
		"as planned":       {func(*metastore.Image, *metastore.Partition, *balance.Move) {}, true},
		"another order":    {func(_ *metastore.Image, _ *metastore.Partition, m *balance.Move) { m.To = ids{2, 1} }, true},
		"no such topic":    {func(_ *metastore.Image, _ *metastore.Partition, m *balance.Move) { m.Topic = "u" }, false},
		"fewer partitions": {func(_ *metastore.Image, _ *metastore.Partition, m *balance.Move) { m.Partition = 1 }, false},
		"moved":            {func(_ *metastore.Image, p *metastore.Partition, _ *balance.Move) { p.Replicas = ids{2, 1} }, false},
		"moving":           {func(_ *metastore.Image, p *metastore.Partition, _ *balance.Move) { p.Removing = ids{2} }, false},
		"nobody leads":     {func(_ *metastore.Image, p *metastore.Partition, _ *balance.Move) { p.Leader = -1 }, false},
		"broker is gone":   {func(img *metastore.Image, _ *metastore.Partition, _ *balance.Move) { delete(img.Brokers, 3) }, false},
		"broker leaves": {func(img *metastore.Image, _ *metastore.Partition, _ *balance.Move) {
			img.Brokers[3] = metastore.Broker{ID: 3, Epoch: 13, Leaving: true}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			img, p, m := cluster(), well, m
			c.change(img, &p, &m)
			img.Topics["t"].Partitions = []metastore.Partition{p}
			change, ok := moveOf(img, BalanceConfig{}, m)
			if ok != c.ok || ok && (!slices.Equal(RecordOf(&change.Partition).Target(), m.To) || change.Partition.Revision != p.Revision) {
				t.Errorf("%v, %+v", ok, change)
			}
		})
	}
	if _, ok := moveOf(cluster(well), BalanceConfig{Drained: []int32{3}}, m); ok {
		t.Error("to a drained broker")
	}
}

// A write of which nothing stands is planned anew, not taken for done.
func TestBalancerRefused(t *testing.T) {
	b, m, now, _ := balancerOf(t, BalanceConfig{On: true, Moves: 3})
	m.refuse = true
	for range 3 {
		if err := b.look(); err != nil {
			t.Fatal(err)
		}
	}
	m.refuse = false
	*now = now.Add(planFor)
	if err := b.look(); err != nil || m.moving() == 0 {
		t.Errorf("nothing moves; %v", err)
	}
}

func TestClusterOf(t *testing.T) {
	img := cluster(metastore.Partition{Leader: 1, Replicas: ids{3, 4, 1}, ISR: ids{1, 4}, Adding: ids{3}, Removing: ids{1}}, metastore.Partition{ID: 1, Leader: -1, Replicas: ids{2}})
	img.Brokers[2] = metastore.Broker{ID: 2, Epoch: 12, Rack: "r"}
	tp := record.TopicPartition{Topic: "t"}
	c := ClusterOf(img, []int32{1}, balance.Loads{tp: {Bytes: 5}})
	var brokers []string
	for _, b := range c.Brokers {
		brokers = append(brokers, fmt.Sprintf("%d%s %v %v", b.ID, b.Rack, b.Usable, b.Drained))
	}
	if got := strings.Join(brokers, "; "); got != "1 false true; 2r true false; 3 true false; 4 false false" {
		t.Errorf("brokers: %s", got)
	}
	p := c.Partitions[0]
	if !p.Fixed || !slices.Equal(p.Replicas, ids{3, 4}) || p.Bytes != 5 || !c.Partitions[1].Fixed {
		t.Errorf("%+v", c.Partitions)
	}
}

func TestBalancerEnds(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	_, m, _, _ := balancerOf(t, BalanceConfig{})
	b := NewBalancer(BalancerDeps{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Meta: m, Config: func() BalanceConfig { return BalanceConfig{} }})
	b.wake <- struct{}{}
	b.Close()
}
