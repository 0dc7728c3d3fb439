package broker

import (
	"testing"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/throttle"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// Who is throttled on which side, and by which of the quotas.
func TestThrottles(t *testing.T) {
	v, err := brokerconfig.Resolve(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	type ids = []record.BrokerID
	const none, from, to, moves = "none", "from here", "to here", "moves"
	for name, c := range map[string]struct {
		leader, follower string // configs
		p                metastore.Partition
		fromHere, toHere string
	}{
		"nothing said":         {"", "", metastore.Partition{Replicas: ids{1, 3}, ISR: ids{1}}, none, none},
		"all":                  {"*", "*", metastore.Partition{Replicas: ids{1, 3}, ISR: ids{1}}, from, to},
		"in sync":              {"*", "*", metastore.Partition{Replicas: ids{1, 3}, ISR: ids{1, 3}}, from, none},
		"named":                {"0:1,1:3", "1:3", metastore.Partition{Replicas: ids{1, 3}, ISR: ids{1}}, from, to},
		"others named":         {"0:3,1:1", "0:3, 1:13", metastore.Partition{Replicas: ids{1, 3}, ISR: ids{1}}, none, none},
		"moved here":           {"", "", metastore.Partition{Replicas: ids{1, 3}, ISR: ids{1}, Adding: ids{3}}, none, moves},
		"moved here and named": {"", "*", metastore.Partition{Replicas: ids{1, 3}, ISR: ids{1}, Adding: ids{3}}, none, to},
		"moved elsewhere":      {"", "*", metastore.Partition{Replicas: ids{1, 4}, ISR: ids{1}, Adding: ids{4}}, none, none},
	} {
		t.Run(name, func(t *testing.T) {
			c.p.ID = 1
			topic := &metastore.Topic{ID: record.TopicID{1}, Revision: 5, Partitions: []metastore.Partition{{}, c.p},
				Configs: map[string]string{leaderThrottled: c.leader, followerThrottled: c.follower}}
			th := newThrottles(3)
			quotas := map[string]*throttle.Quota{none: nil, from: th.fromHere, to: th.toHere, moves: th.moves}
			if th.follower(topic.ID, 1) != nil || th.leader(topic.ID, 1) != nil {
				t.Error("throttled before anything is known")
			}
			img := &metastore.Image{TopicIDs: map[record.TopicID]*metastore.Topic{topic.ID: topic}}
			for range 2 { // the second time from memory
				th.update(img, v)
				if th.leader(topic.ID, 1) != quotas[c.fromHere] {
					t.Errorf("from here: want %s", c.fromHere)
				}
				if th.follower(topic.ID, 1) != quotas[c.toHere] {
					t.Errorf("to here: want %s", c.toHere)
				}
			}
			changed := *topic
			changed.Revision, changed.Partitions, changed.Configs = 6, nil, nil
			th.update(&metastore.Image{TopicIDs: map[record.TopicID]*metastore.Topic{topic.ID: &changed}}, v)
			if th.follower(topic.ID, 1) != nil || th.leader(topic.ID, 1) != nil {
				t.Error("throttled as before the change")
			}
		})
	}
}
