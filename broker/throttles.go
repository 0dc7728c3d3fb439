package broker

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/throttle"
	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// The topic configs that name throttled replicas (KIP-73).
const (
	leaderThrottled   = "leader.replication.throttled.replicas"
	followerThrottled = "follower.replication.throttled.replicas"
)

// throttles knows which partitions are copied at a bounded rate, from this
// broker and to it. update is called from one goroutine; leader and follower
// from any.
type throttles struct {
	node record.BrokerID

	fromHere, toHere *throttle.Quota // of the replicas that topics' configs name
	moves            *throttle.Quota // of replicas that are moved here

	topics atomic.Pointer[map[record.TopicID]*topicThrottle] // replaced whole, never changed
}

// topicThrottle is which of a topic's partitions are throttled here.
type topicThrottle struct {
	revision         int64 // of the metadata it is from
	leader, follower throttled
	behind           map[record.PartitionID]bool // replicas here that are not in sync; true: they are being moved here
}

// throttled is what one of the two topic configs says of this broker.
type throttled struct {
	all   bool
	parts []record.PartitionID
}

func (t throttled) has(p record.PartitionID) bool { return t.all || slices.Contains(t.parts, p) }

func newThrottles(node record.BrokerID) *throttles {
	t := &throttles{node: node, fromHere: throttle.New("leader"), toHere: throttle.New("follower"), moves: throttle.New("move")}
	t.topics.Store(&map[record.TopicID]*topicThrottle{})
	return t
}

// update takes in what the metadata says.
func (t *throttles) update(img *metastore.Image, v *brokerconfig.Values) {
	r := &v.Replication
	t.fromHere.Set(r.LeaderRate)
	t.toHere.Set(r.FollowerRate)
	t.moves.Set(r.MoveRate)
	was, next := *t.topics.Load(), make(map[record.TopicID]*topicThrottle, len(img.TopicIDs))
	for id, mt := range img.TopicIDs {
		if old := was[id]; old != nil && old.revision == mt.Revision {
			next[id] = old
		} else {
			next[id] = t.topic(mt)
		}
	}
	t.topics.Store(&next)
}

func (t *throttles) topic(mt *metastore.Topic) *topicThrottle {
	tt := &topicThrottle{revision: mt.Revision, leader: t.named(mt.Configs[leaderThrottled]), follower: t.named(mt.Configs[followerThrottled])}
	for i := range mt.Partitions {
		p := &mt.Partitions[i]
		if slices.Contains(p.Replicas, t.node) && !slices.Contains(p.ISR, t.node) {
			if tt.behind == nil {
				tt.behind = map[record.PartitionID]bool{}
			}
			tt.behind[p.ID] = slices.Contains(p.Adding, t.node)
		}
	}
	return tt
}

// named reads the value of one of the two topic configs.
func (t *throttles) named(value string) (out throttled) {
	for _, item := range topicconfig.SplitList(value) {
		p, broker, _ := strings.Cut(item, ":")
		n, err := strconv.ParseInt(p, 10, 32)
		switch {
		case item == "*":
			out.all = true
		case err == nil && broker == strconv.Itoa(int(t.node)):
			out.parts = append(out.parts, record.PartitionID(n))
		}
	}
	return out
}

// leader gives the quota of what followers that are not in sync copy of a
// partition that is led here; nil: they are not throttled.
func (t *throttles) leader(id record.TopicID, p record.PartitionID) *throttle.Quota {
	if tt := (*t.topics.Load())[id]; tt != nil && tt.leader.has(p) {
		return t.fromHere
	}
	return nil
}

// follower gives the quota of what the replica here copies; nil: it is not
// throttled, as when it is in sync.
func (t *throttles) follower(id record.TopicID, p record.PartitionID) *throttle.Quota {
	tt := (*t.topics.Load())[id]
	if tt == nil {
		return nil
	}
	switch moving, behind := tt.behind[p]; {
	case !behind:
		return nil
	case tt.follower.has(p):
		return t.toHere
	case moving:
		return t.moves
	}
	return nil
}
