package controller

import (
	"slices"
	"testing"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

type ids = []record.BrokerID

// cluster makes an image: brokers 1 to 3, all taken in, and one topic with the
// partitions given.
func cluster(parts ...metastore.Partition) *metastore.Image {
	img := &metastore.Image{
		Brokers:  map[record.BrokerID]metastore.Broker{},
		Unfenced: map[record.BrokerID]metastore.Unfenced{},
		Topics:   map[string]*metastore.Topic{},
		TopicIDs: map[record.TopicID]*metastore.Topic{},
	}
	for id := record.BrokerID(1); id <= 3; id++ {
		img.Brokers[id] = metastore.Broker{ID: id, Epoch: int64(10 + id), Disk: "d"}
		img.Unfenced[id] = metastore.Unfenced{Epoch: int64(10 + id), Disk: "d"}
	}
	t := &metastore.Topic{Name: "t", ID: record.TopicID{1}, Partitions: parts, Revision: 5}
	img.Topics["t"], img.TopicIDs[t.ID] = t, t
	return img
}

func part(id record.PartitionID, leader record.BrokerID, isr ...record.BrokerID) metastore.Partition {
	return metastore.Partition{ID: id, Leader: leader, Epoch: 4, PartitionEpoch: 7, Replicas: ids{1, 2, 3}, ISR: isr, Revision: 5}
}

func settings(t Topic) func(*metastore.Topic) Topic {
	return func(*metastore.Topic) Topic { return t }
}

func TestPlan(t *testing.T) {
	for name, c := range map[string]struct {
		change            func(*metastore.Image)
		topic             Topic
		preferred         bool
		part              metastore.Partition
		leader            record.BrokerID
		isr, elr          ids
		arrived, elect    int
		unchanged, noLead bool
	}{
		"all is well": {part: part(0, 1, 1, 2, 3), unchanged: true},
		"leader gone": {
			change: func(i *metastore.Image) { delete(i.Brokers, 1) },
			part:   part(0, 1, 1, 2, 3), leader: 2, isr: ids{2, 3}, elect: 1,
		},
		"follower gone": {
			change: func(i *metastore.Image) { delete(i.Brokers, 3) },
			part:   part(0, 1, 1, 2, 3), leader: 1, isr: ids{1, 2},
		},
		"the last in sync gone: it stays eligible": {
			change: func(i *metastore.Image) { delete(i.Brokers, 1) },
			part:   part(0, 1, 1), leader: -1, elr: ids{1}, elect: 1, noLead: true,
		},
		"the last in sync gone, unclean": {
			change: func(i *metastore.Image) { delete(i.Brokers, 1) }, topic: Topic{Unclean: true},
			part: part(0, 1, 1), leader: 2, isr: ids{2}, elect: 1,
		},
		"fewer than min.insync.replicas": {
			change: func(i *metastore.Image) { delete(i.Brokers, 2); delete(i.Brokers, 3) }, topic: Topic{MinInsync: 2},
			part: part(0, 1, 1, 2, 3), leader: 1, isr: ids{1}, elr: ids{2, 3},
		},
		"a leader that registered again leads under a new epoch": {
			change: func(i *metastore.Image) { i.Brokers[1] = metastore.Broker{ID: 1, Epoch: 99, Disk: "d"} },
			topic:  Topic{Fsync: true},
			part:   part(0, 1, 1, 2, 3), leader: 1, isr: ids{1, 2, 3}, elect: 1, arrived: 1,
		},
		"with another disk it leaves": {
			change: func(i *metastore.Image) { i.Brokers[1] = metastore.Broker{ID: 1, Epoch: 99, Disk: "other"} },
			topic:  Topic{Fsync: true},
			part:   part(0, 1, 1, 2, 3), leader: 2, isr: ids{2, 3}, elect: 1, arrived: 1,
		},
		"without its page cache it leaves where that counted": {
			change: func(i *metastore.Image) {
				i.Brokers[2] = metastore.Broker{ID: 2, Epoch: 99, Disk: "d", Cache: "other"}
			},
			part: part(0, 1, 1, 2, 3), leader: 1, isr: ids{1, 3}, arrived: 1,
		},
		"a leaving leader hands over": {
			change: func(i *metastore.Image) {
				i.Brokers[1] = metastore.Broker{ID: 1, Epoch: 11, Disk: "d", Leaving: true}
			},
			part: part(0, 1, 1, 2, 3), leader: 2, isr: ids{2, 3}, elect: 1,
		},
		"preferred, not asked":  {part: part(0, 2, 1, 2, 3), unchanged: true},
		"preferred, when asked": {part: part(0, 2, 1, 2, 3), preferred: true, leader: 1, isr: ids{1, 2, 3}, elect: 1},
	} {
		t.Run(name, func(t *testing.T) {
			img := cluster(c.part)
			was := scopeOf(img, nil) // what was seen before the change
			if c.preferred || c.change == nil {
				was = scope{}
			}
			if c.change != nil {
				old := was.brokers
				img.Brokers = map[record.BrokerID]metastore.Broker{}
				for id, b := range old {
					img.Brokers[id] = b
				}
				c.change(img)
			}
			plan, _ := was.plan(img, settings(c.topic), c.preferred)
			if len(plan.Arrived) != c.arrived || plan.Elections != c.elect || (plan.Offline > 0) != c.noLead {
				t.Errorf("%d arrived, %d elections, %d offline", len(plan.Arrived), plan.Elections, plan.Offline)
			}
			if c.unchanged {
				if len(plan.Changes) != 0 {
					t.Errorf("changes %+v", plan.Changes)
				}
				return
			}
			if len(plan.Changes) != 1 {
				t.Fatalf("changes %+v", plan.Changes)
			}
			got := plan.Changes[0].Partition
			if got.Leader != c.leader || !slices.Equal(got.ISR, c.isr) || !slices.Equal(got.ELR, c.elr) {
				t.Errorf("leader %d, ISR %v, ELR %v; want %d, %v, %v", got.Leader, got.ISR, got.ELR, c.leader, c.isr, c.elr)
			}
			if want := c.part.Epoch + record.Epoch(c.elect); got.Epoch != want || got.PartitionEpoch != c.part.PartitionEpoch+1 || got.Revision != c.part.Revision {
				t.Errorf("epoch %d, partition epoch %d, revision %d", got.Epoch, got.PartitionEpoch, got.Revision)
			}
		})
	}
}

// A change of one topic makes nobody look at the others.
func TestPlanLooksAtWhatChanged(t *testing.T) {
	img := cluster(part(0, 1, 1, 2, 3))
	other := &metastore.Topic{Name: "u", ID: record.TopicID{2}, Partitions: []metastore.Partition{part(0, 1, 1, 2, 3)}, Revision: 6}
	img.Topics["u"], img.TopicIDs[other.ID] = other, other
	looked := map[string]int{}
	look := func(t *metastore.Topic) Topic { looked[t.Name]++; return Topic{} }
	var s scope
	_, s = s.plan(img, look, false)
	next := *img
	changed := *other
	changed.Revision = 9
	next.TopicIDs = map[record.TopicID]*metastore.Topic{{1}: img.TopicIDs[record.TopicID{1}], {2}: &changed}
	_, s = s.plan(&next, look, false)
	_, _ = s.plan(&next, look, false)
	if looked["t"] != 1 || looked["u"] != 2 {
		t.Errorf("looked at %v", looked)
	}
}

// Clients wait for new leaders first, then for a high watermark that a dead
// replica holds back, and not at all for one that leaves and still fetches.
func TestElectionsComeFirst(t *testing.T) {
	img := cluster(part(0, 2, 1, 2), part(1, 1, 1, 2), part(2, 2, 2, 3), part(3, 1, 1, 2), part(4, 2, 1, 2, 3))
	leave(img, 1)
	delete(img.Brokers, 3)
	s := scope{}
	plan, _ := s.plan(img, settings(Topic{MinInsync: 2}), false)
	if got, want := numbers(plan.Changes), []record.PartitionID{1, 3, 2, 4}; !slices.Equal(got, want) || plan.Elections != 2 || plan.Shrinks != 4 {
		t.Errorf("partitions %v with %d elections and %d shrinks, want %v with 2 and 4", got, plan.Elections, plan.Shrinks, want)
	}
	if got, want := numbers(plan.Later), []record.PartitionID{0}; !slices.Equal(got, want) {
		t.Errorf("later %v, want %v", got, want)
	}
}

func leave(img *metastore.Image, id record.BrokerID) {
	b := img.Brokers[id]
	b.Leaving = true
	img.Brokers[id] = b
}

func numbers(changes []metastore.PartitionChange) (ids []record.PartitionID) {
	for _, c := range changes {
		ids = append(ids, c.Partition.ID)
	}
	return ids
}
