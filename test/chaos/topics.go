package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/test/chaos/history"
)

// patience is how long the harness itself asks for something while faults go
// on; what is not done by then is left.
const patience = 10 * time.Second

// maxRecord is max.message.bytes of the topics, so that what is larger is
// refused for sure.
const maxRecord = 64 << 10

// target is a partition that records can be sent to.
type target struct {
	topic     string
	partition int32
	key       int32 // in the history
}

// topics makes and deletes topics, moves their partitions, and says what
// there is.
type topics struct {
	rec      *history.Recorder
	cl       *kgo.Client
	adm      *kadm.Client
	brokers  int
	replicas int // of each partition

	mu     sync.Mutex
	keys   map[string][]int32 // of each topic's partitions
	live   []target
	base   []target // those that stay
	next   int32
	leader map[target]int32
	epoch  map[target]int32
}

func newTopics(rec *history.Recorder, cl *kgo.Client, brokers, replicas int) *topics {
	adm := kadm.NewClient(cl)
	adm.SetTimeoutMillis(int32(patience.Milliseconds()))
	return &topics{rec: rec, cl: cl, adm: adm, brokers: brokers, replicas: replicas, keys: map[string][]int32{}, leader: map[target]int32{}, epoch: map[target]int32{}}
}

// tiered says whether a topic's sealed segments go to the object store: those of
// every second one do. Little more than the active segment stays on disks, so
// that who comes back late, or with an empty disk, begins where the store ends.
func tiered(name string) bool { return (name[len(name)-1]-'0')%2 == 1 }

// create makes a topic; from then on records are sent to it.
func (t *topics) create(ctx context.Context, name string, partitions int, stays bool) error {
	set := map[string]*string{}
	for k, v := range map[string]string{"segment.bytes": "1048576", "retention.ms": "-1", "max.message.bytes": fmt.Sprint(maxRecord),
		"min.insync.replicas": fmt.Sprint((t.replicas + 1) / 2)} {
		set[k] = &v
	}
	if on, local := "true", "1048576"; tiered(name) {
		set["remote.storage.enable"], set["local.retention.bytes"] = &on, &local
	}
	err := eventually(ctx, func(ctx context.Context) error {
		_, err := t.adm.CreateTopic(ctx, int32(partitions), int16(t.replicas), set, name)
		if errors.Is(err, kerr.TopicAlreadyExists) {
			return nil // the answer to an earlier try was lost
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("topic %s: %w", name, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := range int32(partitions) {
		at := target{name, p, t.next}
		t.next++
		t.rec.Record(history.Event{Kind: history.Partition, Key: at.key, Text: name, Number: p})
		t.keys[name] = append(t.keys[name], at.key)
		t.live = append(t.live, at)
		if stays {
			t.base = append(t.base, at)
		}
	}
	return nil
}

// pick gives some partition.
func (t *topics) pick(rnd *rand.Rand) target {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live[rnd.IntN(len(t.live))]
}

// all gives every partition that is not deleted.
func (t *topics) all() []target {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.live)
}

// key gives the number of a partition in the history.
func (t *topics) key(topic string, partition int32) (int32, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := t.keys[topic]
	if partition < 0 || int(partition) >= len(keys) { // -1 is that of an error of the client
		return 0, false
	}
	return keys[partition], true
}

// come makes a topic that is deleted later.
func (t *topics) come(ctx context.Context, no int) (undo func() error, err error) {
	name := fmt.Sprintf("chaos-%d", no)
	cctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if t.create(cctx, name, 1+no%3, false) != nil {
		return nothing, nil // nobody can make a topic just now
	}
	return func() error { t.delete(ctx, name); return nil }, nil
}

func (t *topics) delete(ctx context.Context, name string) {
	t.mu.Lock()
	t.live = slices.DeleteFunc(t.live, func(at target) bool {
		if at.topic == name {
			t.rec.Record(history.Event{Kind: history.Delete, Key: at.key})
		}
		return at.topic == name
	})
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_ = eventually(ctx, func(ctx context.Context) error {
		_, err := t.adm.DeleteTopic(ctx, name)
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			return nil
		}
		return err
	}) // one that cannot be deleted now stays, and nothing is said of it
}

// electLeaders gives every partition back to its preferred leader.
func (t *topics) electLeaders(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, _ = t.adm.ElectLeaders(ctx, kadm.ElectPreferredReplica, nil) // those for which it is not possible stay
	return nil
}

// move gives a partition other replicas.
func (t *topics) move(ctx context.Context, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 0))
	at := t.pick(rnd)
	var to []int32
	for _, b := range rnd.Perm(t.brokers)[:t.replicas] {
		to = append(to, int32(b+1))
	}
	var req kadm.AlterPartitionAssignmentsReq
	req.Assign(at.topic, at.partition, to)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, _ = t.adm.AlterPartitionAssignments(ctx, req) // may be refused, or be under way already
	return nil
}

// watch records changes of leaders until ctx ends.
func (t *topics) watch(ctx context.Context) {
	for sleep(ctx, 100*time.Millisecond) {
		mctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		m, err := t.adm.Metadata(mctx)
		cancel()
		if err != nil {
			continue
		}
		t.mu.Lock()
		for _, at := range t.live {
			p, ok := m.Topics[at.topic].Partitions[at.partition]
			if !ok || p.LeaderEpoch < t.epoch[at] {
				continue // a broker that is behind
			}
			if old, known := t.leader[at]; known && old == p.Leader && t.epoch[at] == p.LeaderEpoch {
				continue
			}
			t.leader[at], t.epoch[at] = p.Leader, p.LeaderEpoch
			t.rec.Record(history.Event{Kind: history.Leader, Key: at.key, Broker: p.Leader, Epoch: p.LeaderEpoch})
		}
		t.mu.Unlock()
	}
}

// leaderOf gives a partition's leader as far as watch knows, -1 for none.
func (t *topics) leaderOf(at target) int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l, ok := t.leader[at]; ok {
		return l
	}
	return -1
}

// who finds a broker by what it is; -1 when that cannot be told.
func (t *topics) who(ctx context.Context, whom Whom, seed uint64) int32 {
	switch whom {
	case Controller:
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		if m, err := t.adm.BrokerMetadata(ctx); err == nil {
			return m.Controller
		}
	case Leader:
		return t.leaderOf(t.pick(rand.New(rand.NewPCG(seed, 0))))
	case EtcdLeader:
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		if q, err := t.quorum(ctx); err == nil {
			return q.LeaderID
		}
	}
	return -1
}

// quorum asks for etcd's members, which Kafka's API has in the place of the
// voters of its metadata log.
func (t *topics) quorum(ctx context.Context) (*kmsg.DescribeQuorumResponseTopicPartition, error) {
	req := kmsg.NewPtrDescribeQuorumRequest()
	rt, rp := kmsg.NewDescribeQuorumRequestTopic(), kmsg.NewDescribeQuorumRequestTopicPartition()
	rt.Topic, rt.Partitions = "__cluster_metadata", append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, t.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, fmt.Errorf("an answer about %d topics", len(resp.Topics))
	}
	p := &resp.Topics[0].Partitions[0]
	return p, kerr.ErrorForCode(p.ErrorCode)
}

// members says whether so many brokers have a vote in etcd.
func (t *topics) members(ctx context.Context, want int) error {
	q, err := t.quorum(ctx)
	if err == nil && len(q.CurrentVoters) != want {
		err = fmt.Errorf("%d of %d members of etcd vote: %w", len(q.CurrentVoters), want, errNotHealthy)
	}
	return err
}

// takeOut takes a broker's member out of etcd: another broker does it.
func (t *topics) takeOut(ctx context.Context, id int32) error {
	q, err := t.quorum(ctx)
	if err != nil {
		return err
	}
	for _, v := range q.CurrentVoters {
		if v.ReplicaID != id {
			continue
		}
		req := kmsg.NewPtrRemoveRaftVoterRequest()
		req.VoterID, req.VoterDirectoryID = id, v.ReplicaDirectoryID
		brokers, listed := t.adm.ListBrokers(ctx)
		if err = listed; err != nil {
			return err
		}
		for _, other := range brokers.NodeIDs() {
			if other == id {
				continue
			}
			var resp kmsg.Response
			if resp, err = t.cl.Broker(int(other)).Request(ctx, req); err == nil {
				r := resp.(*kmsg.RemoveRaftVoterResponse)
				if err := answered(r.ErrorCode, r.ErrorMessage); !errors.Is(err, kerr.VoterNotFound) {
					return err
				}
				return nil // by a try whose answer was lost
			}
		}
		return err
	}
	return fmt.Errorf("broker %d has no member of etcd", id)
}

// letIn lets a broker's member, which was taken out, join again; one that is
// there is no error.
func (t *topics) letIn(ctx context.Context, id int32, host string, port uint16) error {
	req := kmsg.NewPtrAddRaftVoterRequest()
	req.VoterID, req.TimeoutMillis = id, int32(patience.Milliseconds())
	l := kmsg.NewAddRaftVoterRequestListener()
	l.Name, l.Host, l.Port = "PEER", host, port
	req.Listeners = append(req.Listeners, l)
	resp, err := req.RequestWith(ctx, t.cl)
	if err == nil {
		err = answered(resp.ErrorCode, resp.ErrorMessage)
	}
	if errors.Is(err, kerr.DuplicateVoter) {
		return nil
	}
	return err
}

func answered(code int16, message *string) error {
	err := kerr.ErrorForCode(code)
	if err != nil && message != nil {
		err = fmt.Errorf("%w: %s", err, *message)
	}
	return err
}

// healthy says whether every partition has a leader and all its replicas are
// in sync.
func (t *topics) healthy(ctx context.Context) error {
	m, err := t.adm.Metadata(ctx)
	if err != nil {
		return err
	}
	for _, at := range t.all() {
		p, ok := m.Topics[at.topic].Partitions[at.partition]
		if !ok || p.Err != nil || p.Leader < 0 || len(p.ISR) < len(p.Replicas) {
			return fmt.Errorf("%s-%d: leader %d, in sync %v of %v, listed %v: %w", at.topic, at.partition, p.Leader, p.ISR, p.Replicas, ok, errors.Join(p.Err, errNotHealthy))
		}
	}
	return nil
}

var errNotHealthy = errors.New("not all in sync")
