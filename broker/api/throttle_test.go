package api

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/throttle"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// A leader gives nothing to a follower that is not in sync once the quota is
// used up, but goes on to give to those that are, and to consumers (KIP-73).
func TestLeaderThrottle(t *testing.T) {
	topic := makeTopic(t, 2)
	write(t, topic, 0, 100)
	p := topic.Partitions[0]
	p.Replicas = []record.BrokerID{testBroker, 8} // 8 is not registered: its epoch is 0
	ctx := context.Background()
	revs, err := shared.meta.ChangePartitions(ctx, []metastore.PartitionChange{{Topic: topic.ID, Partition: p}})
	if err != nil || revs[0] == 0 {
		t.Fatal(revs, err)
	}
	if err := shared.AwaitApplied(ctx, revs[0]); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	q := throttle.New("api test")
	q.Set(1000)
	deps := shared.deps
	deps.Now = func() time.Time { return now }
	deps.LeaderQuota = func(id record.TopicID, p record.PartitionID) *throttle.Quota {
		if id == topic.ID && p == 0 {
			return q
		}
		return nil
	}
	a := New(Config{BrokerID: testBroker}, deps)
	bytes := func(replica int32, epoch int64) int {
		t.Helper()
		req := fetchRequest(topic, 17, 0)
		req.ReplicaState.ID, req.ReplicaState.Epoch = replica, epoch
		resp := askOf[*kmsg.FetchResponse](t, a, req)
		po := resp.Topics[0].Partitions[0]
		wantCode(t, "fetch", po.ErrorCode, nil)
		if po.HighWatermark != 100 {
			t.Errorf("high watermark %d", po.HighWatermark)
		}
		return len(po.RecordBatches)
	}
	size := bytes(8, 0)
	if size <= 1000 {
		t.Fatalf("%d bytes, which the quota lets through", size)
	}
	if n := bytes(8, 0); n != 0 {
		t.Errorf("the quota is used up, and %d bytes came", n)
	}
	if n := bytes(-1, -1); n != size {
		t.Errorf("%d bytes for a consumer, want %d", n, size)
	}
	// What replicas in sync get counts, too.
	if n := bytes(testBroker, shared.meta.BrokerEpoch()); n != size {
		t.Errorf("%d bytes for a replica in sync, want %d", n, size)
	}
	now = now.Add(time.Duration(2*size-1000-1) * time.Millisecond)
	if n := bytes(8, 0); n != 0 {
		t.Errorf("%d bytes came too early", n)
	}
	now = now.Add(2 * time.Millisecond)
	if n := bytes(8, 0); n != size {
		t.Errorf("%d bytes when the quota has room again, want %d", n, size)
	}
}
