package metastore

import (
	"fmt"
	"maps"
	"slices"

	"github.com/firnlog/firn/record"
)

// state is what the watch knows: the keys below imagePrefix, decoded. It
// belongs to one goroutine. Images are made from it copy-on-write: what a
// change does not touch is shared with the image before it.
//
// Invariants:
//  1. A topic is in the image if and only if its topic key exists and all its
//     partitions [0, topicValue.Partitions) do. The topic key is written last
//     and deleted together with the rest, so topics come and go whole.
//  2. A key that cannot be decoded changes nothing: what was known of it
//     stays, so that no topic vanishes because of a bad value.
type state struct {
	revision  int64 // up to which the watch has told everything
	clusterID string

	controller      record.BrokerID
	controllerRev   int64 // creation revision of its key, 0 when there is none
	brokers         map[record.BrokerID]Broker
	unfenced        map[record.BrokerID]Unfenced
	topics          map[record.TopicID]*topicState
	configs         map[ConfigResource]map[string]string
	deployments     map[record.BrokerID]string
	brokersChanged  bool
	unfencedChanged bool
	deployedChanged bool
	configsChanged  bool
	topicsToRebuild map[record.TopicID]struct{}
}

// topicState holds the keys of one topic id, also of one that is not complete
// yet or no more.
//
// The partitions are kept as images show them, so that a change of one of many
// costs a copy of the slice and nothing else.
type topicState struct {
	value      topicValue
	revision   int64 // of the topic key; 0 when it does not exist
	configs    map[string]string
	configsRev int64
	parts      []Partition                      // those from 0 on without a gap; parts[i].ID == i
	later      map[record.PartitionID]Partition // beyond the first gap
	shown      bool                             // an image has parts: copy them before one is changed
	newest     int64                            // the greatest revision of parts[:counted]
	counted    int
}

// put takes in a partition.
func (t *topicState) put(p Partition) {
	n := record.PartitionID(len(t.parts))
	switch {
	case p.ID < n:
		if t.shown {
			t.parts, t.shown = slices.Clone(t.parts), false
		}
		t.parts[p.ID] = p
		if int(p.ID) < t.counted {
			t.newest = max(t.newest, p.Revision)
		}
	case p.ID == n:
		for ok := true; ok; p, ok = t.later[n] {
			t.parts = append(t.parts, p) // beyond what an image shows
			delete(t.later, n)
			n++
		}
	default:
		if t.later == nil {
			t.later = map[record.PartitionID]Partition{}
		}
		t.later[p.ID] = p
	}
}

// del takes a partition out.
func (t *topicState) del(id record.PartitionID) {
	if int(id) >= len(t.parts) {
		delete(t.later, id)
		return
	}
	rest := t.parts[id+1:]
	t.parts = t.parts[:id:id] // capped: what is appended must not reach an image
	for _, p := range rest {
		if t.later == nil {
			t.later = make(map[record.PartitionID]Partition, len(rest))
		}
		t.later[p.ID] = p
	}
	t.newest, t.counted = 0, 0
}

// surplus says how many partitions lie at or above the topic's count.
func (t *topicState) surplus() int {
	n := max(0, len(t.parts)-int(t.value.Partitions))
	for id := range t.later {
		if int32(id) >= t.value.Partitions {
			n++
		}
	}
	return n
}

func newState() *state {
	return &state{
		controller:      -1,
		brokers:         map[record.BrokerID]Broker{},
		unfenced:        map[record.BrokerID]Unfenced{},
		deployments:     map[record.BrokerID]string{},
		topics:          map[record.TopicID]*topicState{},
		configs:         map[ConfigResource]map[string]string{},
		topicsToRebuild: map[record.TopicID]struct{}{},
	}
}

// put takes in a key that was written. created and mod are its revisions.
func (s *state) put(key string, value []byte, created, mod int64) error {
	k, err := parseImageKey(key)
	if err != nil {
		return err
	}
	switch k.kind {
	case kindCluster:
		var id string
		if id, err = decodeClusterID(value); err == nil {
			s.clusterID = id
		}
	case kindController:
		var id record.BrokerID
		if id, err = decodeController(value); err == nil {
			s.controller, s.controllerRev = id, created
		}
	case kindBroker:
		var b Broker
		if b, err = decodeBroker(value); err == nil {
			b.ID, b.Epoch = k.broker, created
			s.brokers[k.broker] = b
			s.brokersChanged = true
		}
	case kindUnfenced:
		var u Unfenced
		if u, err = decodeUnfenced(value); err == nil {
			s.unfenced[k.broker] = u
			s.unfencedChanged = true
		}
	case kindDeployment:
		var name string
		if name, err = decodeDeployment(value); err == nil {
			s.deployments[k.broker] = name
			s.deployedChanged = true
		}
	case kindTopic:
		var v topicValue
		if v, err = decodeTopic(value); err == nil {
			t := s.topic(k.topic)
			t.value, t.revision = v, mod
		}
	case kindConfig:
		var m map[string]string
		if m, err = decodeConfigs(value); err == nil {
			t := s.topic(k.topic)
			t.configs, t.configsRev = m, mod
		}
	case kindResource:
		var m map[string]string
		if m, err = decodeConfigs(value); err == nil {
			s.configs[k.resource] = m
			s.configsChanged = true
		}
	case kindPartition:
		var p Partition
		if p, err = decodePartition(value); err == nil {
			p.ID, p.Revision = k.partition, mod
			s.topic(k.topic).put(p)
		}
	}
	if err != nil {
		return fmt.Errorf("key %q at revision %d: %w", key, mod, err)
	}
	return nil
}

// del takes in a key that was deleted.
func (s *state) del(key string) error {
	k, err := parseImageKey(key)
	if err != nil {
		return err
	}
	switch k.kind {
	case kindCluster: // never deleted by us; the id stays what it was
	case kindController:
		s.controller, s.controllerRev = -1, 0
	case kindBroker:
		delete(s.brokers, k.broker)
		s.brokersChanged = true
	case kindUnfenced:
		delete(s.unfenced, k.broker)
		s.unfencedChanged = true
	case kindDeployment:
		delete(s.deployments, k.broker)
		s.deployedChanged = true
	case kindTopic:
		t := s.topic(k.topic)
		t.value, t.revision = topicValue{}, 0
	case kindConfig:
		t := s.topic(k.topic)
		t.configs, t.configsRev = nil, 0
	case kindResource:
		delete(s.configs, k.resource)
		s.configsChanged = true
	case kindPartition:
		s.topic(k.topic).del(k.partition)
	}
	return nil
}

// topic gives the state of an id, new if need be, and notes that its Topic
// must be made again.
func (s *state) topic(id record.TopicID) *topicState {
	s.topicsToRebuild[id] = struct{}{}
	t := s.topics[id]
	if t == nil {
		t = &topicState{}
		s.topics[id] = t
	}
	return t
}

// image makes the next image after prev (nil at a load) and the topics that
// were to be rebuilt but lack a partition: a fault in etcd's content, or the
// work of another version. Those stay as they were in prev.
func (s *state) image(prev *Image) (next *Image, incomplete []record.TopicID) {
	if prev == nil {
		prev = &Image{Topics: map[string]*Topic{}, TopicIDs: map[record.TopicID]*Topic{}}
		s.brokersChanged, s.unfencedChanged, s.deployedChanged, s.configsChanged = true, true, true, true
	}
	next = &Image{
		Revision: s.revision, ClusterID: s.clusterID, Controller: s.controller, ControllerRevision: s.controllerRev,
		Brokers: prev.Brokers, Unfenced: prev.Unfenced, Deployments: prev.Deployments, Topics: prev.Topics, TopicIDs: prev.TopicIDs,
		Configs: prev.Configs, Partitions: prev.Partitions,
	}
	if s.configsChanged {
		next.Configs = maps.Clone(s.configs)
		s.configsChanged = false
	}
	if s.brokersChanged {
		next.Brokers = maps.Clone(s.brokers)
		s.brokersChanged = false
	}
	if s.unfencedChanged {
		next.Unfenced = maps.Clone(s.unfenced)
		s.unfencedChanged = false
	}
	if s.deployedChanged {
		next.Deployments = maps.Clone(s.deployments)
		s.deployedChanged = false
	}
	if len(s.topicsToRebuild) == 0 {
		return next, nil
	}
	next.Topics, next.TopicIDs = maps.Clone(prev.Topics), maps.Clone(prev.TopicIDs)
	// First take out, then put in: within one step a name may pass from a
	// deleted topic to a new one.
	rebuilt := make([]*Topic, 0, len(s.topicsToRebuild))
	for id := range s.topicsToRebuild {
		ts := s.topics[id]
		t, whole := ts.build(id)
		if !whole {
			incomplete = append(incomplete, id)
			continue
		}
		if old := next.TopicIDs[id]; old != nil {
			delete(next.TopicIDs, id)
			next.Partitions -= len(old.Partitions)
			if next.Topics[old.Name] == old {
				delete(next.Topics, old.Name)
			}
		}
		if t != nil {
			rebuilt = append(rebuilt, t)
		} else if len(ts.parts)+len(ts.later) == 0 && ts.configsRev == 0 {
			delete(s.topics, id)
		}
	}
	for _, t := range rebuilt {
		next.TopicIDs[t.ID] = t
		next.Partitions += len(t.Partitions)
		next.Topics[t.Name] = t
	}
	clear(s.topicsToRebuild)
	return next, incomplete
}

// build makes the topic as readers see it: nil when its key does not exist,
// whole false when a partition is missing.
func (t *topicState) build(id record.TopicID) (out *Topic, whole bool) {
	if t.revision == 0 {
		return nil, true
	}
	n := int(t.value.Partitions)
	if n > len(t.parts) {
		return nil, false
	}
	if n < t.counted {
		t.newest, t.counted = 0, 0
	}
	for ; t.counted < n; t.counted++ {
		t.newest = max(t.newest, t.parts[t.counted].Revision)
	}
	t.shown = true
	out = &Topic{
		Name: t.value.Name, ID: id, Internal: t.value.Internal, CreatedMs: t.value.CreatedMs,
		Configs: t.configs, Partitions: t.parts[:n:n],
		Revision: max(t.revision, t.configsRev, t.newest),
	}
	if out.Configs == nil {
		out.Configs = map[string]string{}
	}
	return out, true
}
