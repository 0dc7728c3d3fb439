package metastore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/twmb/franz-go/pkg/kerr"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	createAtOnce  = 32              // topics of one CreateTopics in work at the same time
	partitionsPut = MaxTxnOps - 16  // partitions per transaction; the rest is room for the topic's own keys
	cleanUpWithin = 5 * time.Second // for taking back a topic that could not be finished
)

// TopicSpec is a topic to be created. Assignment[i] holds the replicas of
// partition i, preferred leader first. Those that are eligible in the Image are
// in sync, as there is nothing to copy yet, and the first of them leads (as in
// Kafka). Where none is, the first replica leads and all are in sync: none lacks
// anything, and none acts before the controller has taken it in. Names and
// configs are checked by the caller.
type TopicSpec struct {
	Name       string
	Internal   bool
	Configs    map[string]string
	Assignment [][]record.BrokerID
}

// CreateResult is what became of one TopicSpec: a topic or an error.
type CreateResult struct {
	Topic *Topic
	Err   error
}

// CreateTopics creates topics, each of them whole or not at all: readers of
// the Image see none of a topic before all of it is there, also when it has
// more partitions than fit in one transaction, and a crash in between leaves
// nothing that lasts. results[i] belongs to specs[i]; its error wraps
// kerr.TopicAlreadyExists, kerr.InvalidTopicException, kerr.InvalidPartitions,
// kerr.InvalidReplicaAssignment, kerr.InvalidConfig or kerr.NotController, or
// is etcd's. After an error of etcd or of ctx the topic may exist
// nevertheless. revision is the newest one of the topics created, for WaitFor;
// 0 when there is none. err says that nothing was tried.
func (s *Store) CreateTopics(ctx context.Context, specs []TopicSpec) (results []CreateResult, revision int64, err error) {
	if _, err := s.asBroker(); err != nil {
		return nil, 0, err
	}
	results = make([]CreateResult, len(specs))
	var wg sync.WaitGroup
	slots := make(chan struct{}, createAtOnce)
	for i := range specs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			t, err := s.createTopic(ctx, specs[i])
			if err != nil {
				err = fmt.Errorf("metastore: create topic %q: %w", specs[i].Name, err)
			}
			results[i] = CreateResult{Topic: t, Err: err}
		})
	}
	wg.Wait()
	for _, r := range results {
		if r.Err == nil {
			revision = max(revision, r.Topic.Revision)
		}
	}
	return results, revision, nil
}

func (s *Store) createTopic(ctx context.Context, spec TopicSpec) (*Topic, error) {
	if len(spec.Name) == 0 || len(spec.Name) > MaxTopicName {
		return nil, fmt.Errorf("name of %d bytes: %w", len(spec.Name), kerr.InvalidTopicException)
	}
	parts, err := newPartitions(s.Image(), 0, spec.Assignment)
	if err != nil {
		return nil, err
	}
	configs := encodeConfigs(spec.Configs)
	if len(configs) > MaxConfigBytes {
		return nil, fmt.Errorf("configs of %d bytes, the limit is %d: %w", len(configs), MaxConfigBytes, kerr.InvalidConfig)
	}
	g, err := s.asBroker()
	if err != nil {
		return nil, err
	}
	t := &Topic{
		Name: spec.Name, ID: record.TopicID(newUUID()), Internal: spec.Internal, Partitions: parts,
		Configs: map[string]string{}, CreatedMs: time.Now().UnixMilli(),
	}
	maps.Copy(t.Configs, spec.Configs)
	for {
		rev, again, err := s.writeTopic(ctx, g, t, configs)
		if err != nil {
			return nil, err
		}
		if again {
			continue
		}
		t.Revision = rev
		return t, nil
	}
}

// writeTopic is one attempt to write a new topic; again says that a controller
// which had just been elected took its beginnings for leftovers.
func (s *Store) writeTopic(ctx context.Context, g guard, t *Topic, configs []byte) (revision int64, again bool, err error) {
	nameFree := clientv3.Compare(clientv3.CreateRevision(nameKey(t.Name)), "=", 0)
	rest, stands, ok, err := s.writeAhead(ctx, "create_topic", g, t.ID, t.Partitions, nameFree)
	if err == nil && ok {
		value := topicValue{Name: t.Name, Internal: t.Internal, Partitions: int32(len(t.Partitions)), CreatedMs: t.CreatedMs}
		ops := append(putPartitions(t.ID, rest),
			clientv3.OpPut(configKey(t.ID), string(configs)),
			clientv3.OpPut(nameKey(t.Name), string(encodeTopicID(t.ID))),
			clientv3.OpPut(topicKey(t.ID), string(value.encode())))
		ok, revision, err = s.change(ctx, "create_topic", g, append(stands, nameFree), ops)
		if err != nil {
			return 0, false, err // the topic may be there; if not, the next controller collects it
		}
	}
	if ok && err == nil {
		setRevision(rest, revision)
		return revision, false, nil
	}
	s.takeBack(ctx, t.ID, g)
	if err != nil {
		return 0, false, err
	}
	taken, err := s.get(ctx, nameKey(t.Name))
	if err == nil && taken != nil && string(taken.Value) == string(encodeTopicID(t.ID)) {
		setRevision(rest, taken.ModRevision) // by an attempt whose answer did not come
		return taken.ModRevision, false, nil
	}
	if err == nil && taken != nil {
		err = fmt.Errorf("%q: %w", t.Name, kerr.TopicAlreadyExists)
	}
	return 0, err == nil, err
}

// writeAhead writes what is too many partitions for one transaction, so that
// rest is to be written with the key that makes all of them visible. Each of
// its transactions compares cmp, and that what those before it wrote still
// stands; the last one is to compare stands, too. ok is false when a compare
// failed. What it wrote is noted in the partitions.
func (s *Store) writeAhead(ctx context.Context, op string, g guard, id record.TopicID, parts []Partition, cmp clientv3.Cmp) (rest []Partition, stands []clientv3.Cmp, ok bool, err error) {
	for len(parts) > partitionsPut {
		now := parts[:partitionsPut]
		ok, rev, err := s.change(ctx, op, g, append(slices.Clone(stands), cmp), putPartitions(id, now))
		if err != nil || !ok {
			return nil, nil, false, err
		}
		setRevision(now, rev)
		// A collection deletes them together, another broker's AddPartitions
		// writes them together: the first one tells of all.
		stands = append(stands, clientv3.Compare(clientv3.ModRevision(partitionKey(id, now[0].ID)), "=", rev))
		parts = parts[partitionsPut:]
	}
	return parts, stands, true, nil
}

func setRevision(parts []Partition, revision int64) {
	for i := range parts {
		parts[i].Revision = revision
	}
}

// change runs a transaction under a guard. ok is false when another compare
// failed; when the guard did, that is the error.
func (s *Store) change(ctx context.Context, op string, g guard, cmps []clientv3.Cmp, ops []clientv3.Op) (ok bool, revision int64, err error) {
	cmps = append([]clientv3.Cmp{g.cmp()}, cmps...)
	resp, err := s.txn(ctx, op, cmps, ops, []clientv3.Op{clientv3.OpGet(g.key, clientv3.WithKeysOnly())})
	if err != nil {
		return false, 0, err
	}
	if !resp.Succeeded && !g.holds(resp.Responses[0].GetResponseRange().Kvs) {
		return false, 0, s.lost(g)
	}
	return resp.Succeeded, resp.Header.Revision, nil
}

// takeBack deletes partitions of a topic that will not be finished. If that
// fails too, the next controller collects them.
func (s *Store) takeBack(ctx context.Context, id record.TopicID, g guard) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpWithin)
	defer cancel()
	noTopic := clientv3.Compare(clientv3.CreateRevision(topicKey(id)), "=", 0)
	_, err := s.txn(ctx, "take_back", []clientv3.Cmp{g.cmp(), noTopic},
		[]clientv3.Op{clientv3.OpDelete(partitionsOf(id), clientv3.WithPrefix())}, nil)
	if err != nil {
		s.log.Warn("keys of an unfinished topic stay until the next controller collects them", "topic_id", id.String(), "err", err)
	}
}

// newPartitions makes fresh partitions, numbered from first on, led by and in
// sync on what is eligible in img.
func newPartitions(img *Image, first int, assignment [][]record.BrokerID) ([]Partition, error) {
	if len(assignment) == 0 || first+len(assignment) > MaxPartitions {
		return nil, fmt.Errorf("%d partitions, the limit is 1 to %d: %w", first+len(assignment), MaxPartitions, kerr.InvalidPartitions)
	}
	parts := make([]Partition, len(assignment))
	for i, replicas := range assignment {
		if len(replicas) == 0 || len(replicas) > MaxReplicas {
			return nil, fmt.Errorf("partition %d has %d replicas, the limit is 1 to %d: %w", first+i, len(replicas), MaxReplicas, kerr.InvalidReplicaAssignment)
		}
		for j, r := range replicas {
			if r < 0 {
				return nil, fmt.Errorf("partition %d has replica %d: %w", first+i, r, kerr.InvalidReplicaAssignment)
			}
			for _, other := range replicas[:j] {
				if r == other {
					return nil, fmt.Errorf("partition %d has replica %d twice: %w", first+i, r, kerr.InvalidReplicaAssignment)
				}
			}
		}
		isr := slices.DeleteFunc(slices.Clone(replicas), func(r record.BrokerID) bool { return !img.Eligible(r) })
		if len(isr) == 0 {
			isr = slices.Clone(replicas)
		}
		parts[i] = Partition{ID: record.PartitionID(first + i), Leader: isr[0], Replicas: slices.Clone(replicas), ISR: isr}
	}
	return parts, nil
}

func putPartitions(id record.TopicID, parts []Partition) []clientv3.Op {
	ops := make([]clientv3.Op, 0, len(parts)+3)
	for _, p := range parts {
		ops = append(ops, clientv3.OpPut(partitionKey(id, p.ID), string(encodePartition(p))))
	}
	return ops
}

// DeleteTopic deletes a topic whole, in one transaction. Tiering's pointers
// stay: they say which objects are to be collected. It fails with
// kerr.UnknownTopicID when there is no such topic.
func (s *Store) DeleteTopic(ctx context.Context, id record.TopicID) (revision int64, err error) {
	defer wrap(&err, "delete topic", id)
	tried := int64(0) // revision at which an attempt found that something had changed
	for {
		g, err := s.asBroker()
		if err != nil {
			return 0, err
		}
		v, rev, err := s.readTopic(ctx, id)
		if tried > 0 && errors.Is(err, kerr.UnknownTopicID) {
			return tried, nil // by an attempt whose answer did not come, or by somebody else at the same time
		}
		if err != nil {
			return 0, err
		}
		same := clientv3.Compare(clientv3.ModRevision(topicKey(id)), "=", rev)
		ok, done, err := s.change(ctx, "delete_topic", g, []clientv3.Cmp{same}, []clientv3.Op{
			clientv3.OpDelete(topicKey(id)),
			clientv3.OpDelete(nameKey(v.Name)),
			clientv3.OpDelete(configKey(id)),
			clientv3.OpDelete(partitionsOf(id), clientv3.WithPrefix()),
		})
		if err != nil || ok {
			return done, err
		}
		tried = done
	}
}

// readTopic reads the topic key from etcd itself; the image may lag.
func (s *Store) readTopic(ctx context.Context, id record.TopicID) (topicValue, int64, error) {
	kv, err := s.get(ctx, topicKey(id))
	if err != nil {
		return topicValue{}, 0, err
	}
	if kv == nil {
		return topicValue{}, 0, kerr.UnknownTopicID
	}
	v, err := decodeTopic(kv.Value)
	return v, kv.ModRevision, err
}

// get reads one key; nil when it does not exist.
func (s *Store) get(ctx context.Context, key string) (*mvccpb.KeyValue, error) {
	var resp *clientv3.GetResponse
	_, err := try(ctx, s.srv, func(ctx context.Context) (err error) {
		resp, err = s.srv.cli.Get(ctx, key)
		return err
	})
	if err != nil {
		return nil, s.callError(err)
	}
	return first(resp.Kvs), nil
}

// AddPartitions gives a topic that has wantCurrent partitions
// len(assignment) more; they appear all at once. It fails with
// kerr.UnknownTopicID, with ErrConflict and kerr.InvalidPartitions when the
// topic has another number of partitions, with kerr.InvalidReplicaAssignment
// or kerr.NotController.
func (s *Store) AddPartitions(ctx context.Context, id record.TopicID, assignment [][]record.BrokerID, wantCurrent int) (revision int64, err error) {
	defer wrap(&err, "add partitions to topic", id)
	if wantCurrent < 0 || wantCurrent > MaxPartitions {
		return 0, fmt.Errorf("%d partitions: %w", wantCurrent, kerr.InvalidPartitions)
	}
	parts, err := newPartitions(s.Image(), wantCurrent, assignment)
	if err != nil {
		return 0, err
	}
	// Two at once would write the same keys before either is decided; with
	// those of another broker, each would begin anew.
	if err := acquire(ctx, s.changing); err != nil {
		return 0, err
	}
	defer func() { <-s.changing }()
	for tried := false; ; tried = true {
		rev, retry, err := s.addPartitions(ctx, id, parts, wantCurrent)
		if tried && errors.Is(err, ErrConflict) {
			return s.added(ctx, id, parts[len(parts)-1], err)
		}
		if !retry {
			return rev, err
		}
	}
}

// added says whether an attempt whose answer did not come added the partitions
// up to last; if not, the error stays.
func (s *Store) added(ctx context.Context, id record.TopicID, last Partition, conflict error) (revision int64, err error) {
	resp, err := s.txn(ctx, "read_partition", nil, []clientv3.Op{clientv3.OpGet(topicKey(id)), clientv3.OpGet(partitionKey(id, last.ID))}, nil)
	if err != nil {
		return 0, err
	}
	topic, part := first(resp.Responses[0].GetResponseRange().Kvs), first(resp.Responses[1].GetResponseRange().Kvs)
	if topic == nil || part == nil || part.ModRevision != topic.ModRevision || string(part.Value) != string(encodePartition(last)) {
		return 0, conflict
	}
	v, err := decodeTopic(topic.Value)
	if err != nil || v.Partitions != int32(last.ID)+1 {
		return 0, errors.Join(err, conflict)
	}
	return topic.ModRevision, nil
}

// addPartitions is one attempt; retry says that somebody else wrote the topic's
// keys meanwhile.
func (s *Store) addPartitions(ctx context.Context, id record.TopicID, parts []Partition, wantCurrent int) (revision int64, retry bool, err error) {
	g, err := s.asBroker()
	if err != nil {
		return 0, false, err
	}
	v, rev, err := s.readTopic(ctx, id)
	if err != nil {
		return 0, false, err
	}
	if int(v.Partitions) != wantCurrent {
		return 0, false, fmt.Errorf("topic %q has %d partitions, not %d: %w: %w", v.Name, v.Partitions, wantCurrent, ErrConflict, kerr.InvalidPartitions)
	}
	same := clientv3.Compare(clientv3.ModRevision(topicKey(id)), "=", rev)
	rest, stands, ok, err := s.writeAhead(ctx, "add_partitions", g, id, parts, same)
	if err != nil || !ok {
		return 0, err == nil, err
	}
	v.Partitions = int32(wantCurrent + len(parts))
	ok, done, err := s.change(ctx, "add_partitions", g, append(stands, same), append(putPartitions(id, rest), clientv3.OpPut(topicKey(id), string(v.encode()))))
	return done, err == nil && !ok, err
}

// SetTopicConfigs gives edit a copy of the topic's configs and writes what it
// returns. When somebody else changes them meanwhile, edit is called again
// with the newer ones; its error ends the attempt and is returned wrapped.
// When edit changes nothing, nothing is written. It fails with
// kerr.UnknownTopicID, kerr.InvalidConfig when the configs are too large, or
// kerr.NotController.
func (s *Store) SetTopicConfigs(ctx context.Context, id record.TopicID, edit func(map[string]string) (map[string]string, error)) (revision int64, err error) {
	defer wrap(&err, "set configs of topic", id)
	for {
		g, err := s.asBroker()
		if err != nil {
			return 0, err
		}
		resp, err := s.txn(ctx, "read_configs", nil, []clientv3.Op{clientv3.OpGet(topicKey(id)), clientv3.OpGet(configKey(id))}, nil)
		if err != nil {
			return 0, err
		}
		topic, config := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
		if len(topic) == 0 {
			return 0, kerr.UnknownTopicID
		}
		old, seen := map[string]string{}, int64(0)
		if len(config) > 0 {
			if old, err = decodeConfigs(config[0].Value); err != nil {
				return 0, err
			}
			seen = config[0].ModRevision
		}
		set, err := edit(maps.Clone(old))
		if err != nil {
			return 0, err
		}
		if maps.Equal(old, set) {
			return max(seen, topic[0].ModRevision), nil
		}
		value := encodeConfigs(set)
		if len(value) > MaxConfigBytes {
			return 0, fmt.Errorf("configs of %d bytes, the limit is %d: %w", len(value), MaxConfigBytes, kerr.InvalidConfig)
		}
		ok, done, err := s.change(ctx, "set_configs", g, []clientv3.Cmp{
			clientv3.Compare(clientv3.CreateRevision(topicKey(id)), "=", topic[0].CreateRevision),
			clientv3.Compare(clientv3.ModRevision(configKey(id)), "=", seen),
		}, []clientv3.Op{clientv3.OpPut(configKey(id), string(value))})
		if err != nil || ok {
			return done, err
		}
	}
}

// wrap says what was being done when *err came.
func wrap(err *error, doing string, id record.TopicID) {
	if *err != nil {
		*err = fmt.Errorf("metastore: %s %s: %w", doing, id, *err)
	}
}

// acquire takes a slot that is held across I/O; unlike with a mutex, waiting
// for it ends with ctx.
func acquire(ctx context.Context, slot chan struct{}) error {
	select {
	case slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
