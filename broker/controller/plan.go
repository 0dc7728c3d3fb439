package controller

import (
	"maps"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// Topic is what of a topic's settings elections need.
type Topic struct {
	MinInsync int  // min.insync.replicas
	Unclean   bool // unclean.leader.election.enable
	Fsync     bool // firn.ack.policy=fsync
}

// Plan is what follows from an image: records to write, and then the
// registrations that are taken in by that.
type Plan struct {
	Changes   []metastore.PartitionChange // elections first, since clients wait for them
	Later     []metastore.PartitionChange // take brokers that are about to stop out of ISRs: they fetch until then
	Arrived   []metastore.Broker
	Elections int // of Changes, those with another leader epoch
	Shrinks   int // of Changes, those with fewer in-sync replicas
	Offline   int // partitions that have no leader after it
}

// scope is what a controller has looked at: only what has changed since has to
// be looked at again.
type scope struct {
	brokers  map[record.BrokerID]metastore.Broker
	unfenced map[record.BrokerID]metastore.Unfenced
	topics   map[record.TopicID]int64 // revisions
	offline  map[record.TopicID]int
}

func scopeOf(img *metastore.Image, offline map[record.TopicID]int) scope {
	s := scope{brokers: img.Brokers, unfenced: img.Unfenced, topics: make(map[record.TopicID]int64, len(img.TopicIDs)), offline: offline}
	for id, t := range img.TopicIDs {
		s.topics[id] = t.Revision
	}
	return s
}

// planner makes one plan.
type planner struct {
	img      *metastore.Image
	settings func(*metastore.Topic) Topic
	arrived  map[record.BrokerID]replica.Loss
	leaving  bool // some broker is
	plan     Plan
	others   []metastore.PartitionChange // without an election
	offline  map[record.TopicID]int
}

// plan looks at what is not as it was in s; at all partitions when the brokers
// are others. preferred: partitions go back to their preferred leaders.
func (s *scope) plan(img *metastore.Image, settings func(*metastore.Topic) Topic, preferred bool) (Plan, scope) {
	p := &planner{img: img, settings: settings, arrived: map[record.BrokerID]replica.Loss{}, offline: map[record.TopicID]int{}}
	for id, b := range img.Brokers {
		p.leaving = p.leaving || b.Leaving
		if !img.Eligible(id) {
			p.arrived[id] = lossOf(b, img.Unfenced[id])
			p.plan.Arrived = append(p.plan.Arrived, b)
		}
	}
	all := preferred || len(p.arrived) > 0 || !maps.Equal(s.brokers, img.Brokers) || !maps.Equal(s.unfenced, img.Unfenced)
	for id, t := range img.TopicIDs {
		if !all && s.topics[id] == t.Revision {
			if n := s.offline[id]; n > 0 {
				p.offline[id] = n
			}
		} else {
			p.topic(t, preferred)
		}
		p.plan.Offline += p.offline[id]
	}
	p.plan.Changes = append(p.plan.Changes, p.others...)
	return p.plan, scopeOf(img, p.offline)
}

// lossOf says what a broker lost between two registrations.
func lossOf(b metastore.Broker, before metastore.Unfenced) replica.Loss {
	switch {
	case before.Epoch == 0: // it was never here
	case before.Disk != b.Disk:
		return replica.LostDisk
	case before.Cache != b.Cache:
		return replica.LostPageCache
	}
	return replica.LostNothing
}

func (p *planner) topic(t *metastore.Topic, preferred bool) {
	set := p.settings(t)
	view := replica.View{
		Eligible:  func(id record.BrokerID) bool { _, arrived := p.arrived[id]; return arrived || p.img.Eligible(id) },
		Leaving:   func(id record.BrokerID) bool { return p.img.Brokers[id].Leaving },
		MinInsync: set.MinInsync,
		Unclean:   set.Unclean,
	}
	staying := view
	staying.Leaving = nil
	for i := range t.Partitions {
		was := RecordOf(&t.Partitions[i])
		now := p.next(was, view, set.Fsync, preferred)
		if now.Leader == replica.None {
			p.offline[t.ID]++
		}
		if now.PartitionEpoch == was.PartitionEpoch {
			continue
		}
		// However many rules changed it, it is one change.
		now.PartitionEpoch = was.PartitionEpoch + 1
		list := &p.others
		switch {
		case now.Epoch != was.Epoch:
			now.Epoch = was.Epoch + 1
			p.plan.Elections++
			list = &p.plan.Changes
		case p.leaving && p.next(was, staying, set.Fsync, preferred).PartitionEpoch == was.PartitionEpoch:
			list = &p.plan.Later
		}
		if len(now.ISR) < len(was.ISR) && list != &p.plan.Later {
			p.plan.Shrinks++
		}
		*list = append(*list, metastore.PartitionChange{Topic: t.ID, Partition: PartitionOf(t.Partitions[i].ID, now)})
	}
}

// next applies all rules to a record.
func (p *planner) next(r replica.Record, view replica.View, fsync, preferred bool) replica.Record {
	for _, id := range r.Replicas {
		if loss, ok := p.arrived[id]; ok {
			r, _ = replica.TakenIn(r, id, loss, fsync, view)
		}
	}
	r, _ = replica.Elect(r, view)
	r, _ = replica.Progress(r, view)
	if preferred {
		r, _ = replica.Preferred(r, view)
	}
	return r
}

// RecordOf gives a partition of the metadata as package replica has it.
func RecordOf(p *metastore.Partition) replica.Record {
	return replica.Record{
		Leader: p.Leader, Epoch: p.Epoch, PartitionEpoch: p.PartitionEpoch, Revision: p.Revision,
		Replicas: p.Replicas, ISR: p.ISR, ELR: p.ELR, Adding: p.Adding, Removing: p.Removing,
	}
}

// PartitionOf is the other way.
func PartitionOf(id record.PartitionID, r replica.Record) metastore.Partition {
	return metastore.Partition{
		ID: id, Leader: r.Leader, Epoch: r.Epoch, PartitionEpoch: r.PartitionEpoch, Revision: r.Revision,
		Replicas: r.Replicas, ISR: r.ISR, ELR: r.ELR, Adding: r.Adding, Removing: r.Removing,
	}
}
