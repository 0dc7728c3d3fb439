package fetcher

import (
	"testing"
	"time"

	"github.com/firnlog/firn/broker/throttle"
	"github.com/firnlog/firn/record"
)

// A replica whose quota is used up is not asked for, the others are; and it is
// asked for again when the quota has room.
func TestFollowerThrottle(t *testing.T) {
	l := newLeader(t)
	f := start(t, l)
	q := throttle.New("fetcher test")
	q.Set(1)
	slow, fast := replicaOf(1), replicaOf(2)
	f.deps.Quota = func(id record.TopicID, p record.PartitionID) *throttle.Quota {
		if id == slow.id && p == slow.tp.Partition {
			return q
		}
		return nil
	}
	f.Follow(fast, 1)
	l.next()
	f.Follow(slow, 1) // ends that connection; from here on nothing does
	asked := func(a *asked, r *follows) bool {
		for _, top := range a.req.Topics {
			if top.TopicID == r.id {
				return true
			}
		}
		return false
	}
	a := l.next()
	if !asked(a, slow) || !asked(a, fast) {
		t.Fatalf("asked for %+v", a.req.Topics)
	}
	a.answer(9, 0, reply(slow.id, 1, 0, make([]byte, 1<<20)), reply(fast.id, 2, 0, []byte("records"))) // 12 days' worth
	for range 20 {
		a = l.next()
		if asked(a, slow) {
			t.Fatal("it is asked for beyond its quota")
		}
		a.answer(9, 0, reply(fast.id, 2, 0, []byte("records")))
	}
	q.Set(throttle.Unlimited)
	for deadline := time.Now().Add(20 * time.Second); ; {
		a = l.next()
		if asked(a, slow) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the quota has room, and yet it is not asked for")
		}
		a.answer(9, 0, reply(fast.id, 2, 0, []byte("records")))
	}
}

// When all replicas of a link were held back, and one is asked for again, the
// leader does not send what others still wait for.
func TestHeldBackTogether(t *testing.T) {
	l := newLeader(t)
	f := start(t, l)
	short, long := throttle.New("fetcher test"), throttle.New("fetcher test")
	short.Set(1000)
	long.Set(1000)
	one, two := replicaOf(1), replicaOf(2)
	f.deps.Quota = func(id record.TopicID, p record.PartitionID) *throttle.Quota {
		if id == one.id {
			return short
		}
		return long
	}
	f.Follow(one, 1)
	l.next()
	f.Follow(two, 1) // ends that connection; from here on nothing does
	l.next().answer(9, 0, reply(one.id, 1, 0, make([]byte, 1050)), reply(two.id, 2, 0, make([]byte, 1<<20)))
	a := l.next()
	if named, _ := a.parts(); named != 1 || a.req.SessionEpoch != 0 || a.req.Topics[0].TopicID != one.id {
		t.Errorf("%d partitions in a request of epoch %d, in whose session the other one is: %+v", named, a.req.SessionEpoch, a.req.Topics)
	}
}
