package metastore

import (
	"fmt"
	"maps"

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
	brokers         map[record.BrokerID]Broker
	topics          map[record.TopicID]*topicState
	configs         map[ConfigResource]map[string]string
	brokersChanged  bool
	configsChanged  bool
	topicsToRebuild map[record.TopicID]struct{}
}

// topicState holds the keys of one topic id, also of one that is not complete
// yet or no more.
type topicState struct {
	value      topicValue
	revision   int64 // of the topic key; 0 when it does not exist
	configs    map[string]string
	configsRev int64
	parts      map[record.PartitionID]partState
}

type partState struct {
	Partition
	revision int64
}

func newState() *state {
	return &state{
		controller:      -1,
		brokers:         map[record.BrokerID]Broker{},
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
			s.controller = id
		}
	case kindBroker:
		var b Broker
		if b, err = decodeBroker(value); err == nil {
			b.ID, b.Epoch = k.broker, created
			s.brokers[k.broker] = b
			s.brokersChanged = true
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
			p.ID = k.partition
			s.topic(k.topic).parts[p.ID] = partState{p, mod}
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
		s.controller = -1
	case kindBroker:
		delete(s.brokers, k.broker)
		s.brokersChanged = true
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
		delete(s.topic(k.topic).parts, k.partition)
	}
	return nil
}

// topic gives the state of an id, new if need be, and notes that its Topic
// must be made again.
func (s *state) topic(id record.TopicID) *topicState {
	s.topicsToRebuild[id] = struct{}{}
	t := s.topics[id]
	if t == nil {
		t = &topicState{parts: map[record.PartitionID]partState{}}
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
		s.brokersChanged, s.configsChanged = true, true
	}
	next = &Image{
		Revision: s.revision, ClusterID: s.clusterID, Controller: s.controller,
		Brokers: prev.Brokers, Topics: prev.Topics, TopicIDs: prev.TopicIDs,
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
		} else if len(ts.parts) == 0 && ts.configsRev == 0 {
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
func (ts *topicState) build(id record.TopicID) (t *Topic, whole bool) {
	if ts.revision == 0 {
		return nil, true
	}
	n := int(ts.value.Partitions)
	if n > len(ts.parts) {
		return nil, false
	}
	t = &Topic{
		Name: ts.value.Name, ID: id, Internal: ts.value.Internal, CreatedMs: ts.value.CreatedMs,
		Configs: ts.configs, Partitions: make([]Partition, n),
		Revision: max(ts.revision, ts.configsRev),
	}
	if t.Configs == nil {
		t.Configs = map[string]string{}
	}
	for i := range t.Partitions {
		p, ok := ts.parts[record.PartitionID(i)]
		if !ok {
			return nil, false
		}
		t.Partitions[i] = p.Partition
		t.Revision = max(t.Revision, p.revision)
	}
	return t, true
}
