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
	f.Follow(slow, 1)
	f.Follow(fast, 1)
	asked := func(a *asked, r *follows) bool {
		for _, top := range a.req.Topics {
			if top.TopicID == r.id {
				return true
			}
		}
		return false
	}
	a := l.next()
	for !asked(a, slow) { // the first request may be of one of the two only
		a.answer(9, 0)
		a = l.next()
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
