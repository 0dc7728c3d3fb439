package api

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// manyBrokers is the harness's metadata with brokers 8, 9 and 10 beside the
// harness's own 7, each partition on 7, 8 and 9, in sync. The racks are r1 to r3,
// and 10 is in r2, as 8 is.
type manyBrokers struct {
	Metadata
	mu       sync.Mutex
	of, with *metastore.Image
	fenced   record.BrokerID
}

func (m *manyBrokers) Image() *metastore.Image {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.Metadata.Image()
	if now == m.of {
		return m.with
	}
	img := *now
	img.Brokers, img.Unfenced, img.Topics = maps.Clone(img.Brokers), maps.Clone(img.Unfenced), maps.Clone(img.Topics)
	for id, rack := range map[record.BrokerID]string{8: "r2", 9: "r3", 10: "r2"} {
		b := metastore.Broker{Host: "firn.test", Port: 9092, Rack: rack, Epoch: 100}
		b.ID = id
		img.Brokers[id] = b
		if id != m.fenced {
			img.Unfenced[id] = metastore.Unfenced{Epoch: 100}
		}
	}
	for name, topic := range img.Topics {
		t := *topic
		t.Partitions = slices.Clone(t.Partitions)
		for i := range t.Partitions {
			t.Partitions[i].Replicas = []record.BrokerID{7, 8, 9}
		}
		img.Topics[name] = &t
	}
	m.of, m.with = now, &img
	return m.with
}

const rackAwareSelector = "RackAwareReplicaSelector"

// nearAPI is an API of a broker with others beside it.
func nearAPI(t *testing.T, fenced record.BrokerID, configs ...string) *API {
	deps := shared.deps
	deps.Meta, deps.Config = &manyBrokers{Metadata: shared.meta, fenced: fenced}, configured(t, configs...)
	return New(Config{BrokerID: testBroker, LogDir: shared.dir}, deps)
}

// threeOf is the record of a partition on brokers 7, 8 and 9.
func threeOf(leader record.BrokerID, epoch record.Epoch, isr ...record.BrokerID) replica.Record {
	return replica.Record{Leader: leader, Epoch: epoch, Revision: 1 << 40, Replicas: []record.BrokerID{7, 8, 9}, ISR: isr, Unfenced: []int64{100, 100, 100}}
}

// nearTopic is a topic with five records, led under epoch 5, which brokers 8 and
// 9 have fetched up to the given offsets.
func nearTopic(t *testing.T, ends [2]record.Offset, isr ...record.BrokerID) (*metastore.Topic, *partition.Partition) {
	t.Helper()
	topic := makeTopic(t, 1)
	write(t, topic, 0, 5)
	p := shared.Get(topic.Name, 0)
	p.Lead(threeOf(7, 5, isr...))
	for i, end := range ends {
		if end >= 0 {
			p.ReplicaFetched(replica.Fetch{Replica: record.BrokerID(8 + i), BrokerEpoch: 100, Epoch: 5, Offset: end, LogStart: 1}, 0)
		}
	}
	return topic, p
}

// partOf gives the one partition of the one answer.
func partOf(t *testing.T, a *API, req *kmsg.FetchRequest) kmsg.FetchResponseTopicPartition {
	t.Helper()
	resp := askOf[*kmsg.FetchResponse](t, a, req)
	if resp.ErrorCode != 0 || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		t.Fatalf("got %+v", resp)
	}
	return resp.Topics[0].Partitions[0]
}

// The leader names a replica in the client's rack, without records, if it has
// what is asked for and is in sync (KIP-392).
func TestPreferredReadReplica(t *testing.T) {
	all := []record.BrokerID{7, 8, 9}
	both := [2]record.Offset{5, 5}
	for _, c := range []struct {
		name    string
		ends    [2]record.Offset // of brokers 8 and 9
		isr     []record.BrokerID
		fenced  record.BrokerID
		configs []string
		version int16
		rack    string
		offset  int64
		epoch   int32
		want    int32
		code    *kerr.Error
	}{
		{"in r2", both, all, 0, nil, 11, "r2", 2, -1, 8, nil},
		{"in r3, by the topic's id", both, all, 0, nil, 18, "r3", 2, 5, 9, nil},
		{"at the end", both, all, 0, nil, 12, "r2", 5, -1, 8, nil},
		{"the leader's rack", both, all, 0, nil, 12, "r1", 2, -1, -1, nil},
		{"another rack", both, all, 0, nil, 12, "r4", 2, -1, -1, nil},
		{"no rack", both, all, 0, nil, 12, "", 2, -1, -1, nil},
		{"no selector", both, all, 0, []string{}, 12, "r2", 2, -1, -1, nil},
		{"before version 11", both, all, 0, nil, 10, "r2", 2, -1, -1, nil},
		{"not in sync", both, []record.BrokerID{7, 9}, 0, nil, 12, "r2", 2, -1, -1, nil},
		{"has not fetched", [2]record.Offset{-1, 5}, all, 0, nil, 12, "r2", 2, -1, -1, nil},
		{"does not have the offset yet", [2]record.Offset{3, 5}, all, 0, nil, 12, "r2", 4, -1, -1, nil},
		{"has all up to the offset", [2]record.Offset{3, 5}, all, 0, nil, 12, "r2", 3, -1, 8, nil},
		{"no longer has the offset", both, all, 0, nil, 12, "r2", 0, -1, -1, nil},
		{"not eligible", both, all, 8, nil, 12, "r2", 2, -1, -1, nil},
		{"an epoch from before", both, all, 0, nil, 12, "r2", 2, 4, -1, kerr.FencedLeaderEpoch},
		{"an epoch to come", both, all, 0, nil, 12, "r2", 2, 6, -1, kerr.UnknownLeaderEpoch},
		{"past the end", both, all, 0, nil, 12, "r2", 6, -1, -1, kerr.OffsetOutOfRange},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.configs == nil {
				c.configs = []string{"replica.selector.class", rackAwareSelector}
			}
			topic, p := nearTopic(t, c.ends, c.isr...)
			req := fetchRequest(topic, c.version, c.offset)
			req.Rack, req.Topics[0].Partitions[0].CurrentLeaderEpoch = c.rack, c.epoch
			if c.want >= 0 {
				req.MaxWaitMillis, req.MinBytes = 60_000, 1<<19 // it does not wait all the same
			}
			got := partOf(t, nearAPI(t, c.fenced, c.configs...), req)
			wantCode(t, c.name, got.ErrorCode, c.code)
			if got.PreferredReadReplica != c.want {
				t.Errorf("sent to %d, want %d", got.PreferredReadReplica, c.want)
			}
			hw := int64(p.State().HighWatermark)
			switch {
			case c.code != nil:
			case got.HighWatermark != hw:
				t.Errorf("high watermark %d, want %d", got.HighWatermark, hw)
			case c.want >= 0 && len(got.RecordBatches) > 0:
				t.Error("there are records beside the other replica")
			case c.want < 0 && (len(got.RecordBatches) > 0) != (c.offset < hw):
				t.Errorf("%d bytes at offset %d of %d", len(got.RecordBatches), c.offset, hw)
			}
		})
	}
}

// In a session, too, a partition that is to be read elsewhere is named each time.
func TestPreferredReadReplicaInSession(t *testing.T) {
	a := nearAPI(t, 0, "replica.selector.class", rackAwareSelector)
	topic, _ := nearTopic(t, [2]record.Offset{5, 5}, 7, 8, 9)
	req := fetchRequest(topic, 13, 2)
	req.SessionEpoch, req.Rack = 0, "r2"
	resp := askOf[*kmsg.FetchResponse](t, a, req)
	for epoch := range int32(3) {
		if len(resp.Topics) != 1 || resp.Topics[0].Partitions[0].PreferredReadReplica != 8 {
			t.Fatalf("epoch %d: %+v", epoch, resp)
		}
		req.SessionID, req.SessionEpoch, req.Topics = resp.SessionID, epoch+1, nil
		resp = askOf[*kmsg.FetchResponse](t, a, req)
	}
}

// follow makes a partition a follower of broker 8 under epoch 6.
func follow(t *testing.T, p *partition.Partition) {
	t.Helper()
	if err := p.Follow(threeOf(8, 6, 7, 8, 9)); err != nil {
		t.Fatal(err)
	}
}

// replicate has a follower take in n records and a high watermark.
func replicate(t *testing.T, p *partition.Partition, n int, hw record.Offset) {
	t.Helper()
	ask, _, ok := p.NextFetch()
	if !ok {
		t.Fatal("there is nothing to ask")
	}
	var b []byte
	if n > 0 {
		b = batch(t, n)
		r := record.Batch(b)
		r.SetBaseOffset(ask.Offset)
		r.SetLeaderEpoch(6)
	}
	done := make(chan error, 1)
	if err := p.Replicate(replica.Answer{Ask: ask, HighWatermark: hw, LogStart: 0}, b, func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A follower answers consumers up to the high watermark that it knows; what
// else is asked of it has to go to the leader, and an epoch that is wrong is told
// first, as Kafka does.
func TestFollowerAnswersConsumers(t *testing.T) {
	topic := makeTopic(t, 1)
	write(t, topic, 0, 5)
	p := shared.Get(topic.Name, 0)
	follow(t, p)
	replicate(t, p, 3, 5)
	for _, c := range []struct {
		name    string
		version int16
		offset  int64
		epoch   int32
		want    *kerr.Error
		records bool
	}{
		{"from its beginning", 11, 0, -1, nil, true},
		{"under its epoch", 18, 0, 6, nil, true},
		{"at the high watermark", 12, 5, -1, nil, false},
		{"above the high watermark", 12, 7, -1, nil, false},
		{"at the log's end", 12, 8, -1, nil, false},
		{"past the log's end", 12, 9, -1, kerr.OffsetOutOfRange, false},
		{"a client that knows nothing of followers", 10, 0, -1, kerr.NotLeaderForPartition, false},
		{"the same with an old epoch", 10, 0, 5, kerr.FencedLeaderEpoch, false},
		{"an epoch from before", 11, 0, 5, kerr.FencedLeaderEpoch, false},
		{"an epoch to come", 11, 0, 7, kerr.UnknownLeaderEpoch, false},
	} {
		req := fetchRequest(topic, c.version, c.offset)
		req.Topics[0].Partitions[0].CurrentLeaderEpoch = c.epoch
		got := onePart(t, req)
		wantCode(t, c.name, got.ErrorCode, c.want)
		if (len(got.RecordBatches) > 0) != c.records || c.want == nil && (got.HighWatermark != 5 || got.PreferredReadReplica != -1) {
			t.Errorf("%s: %d bytes, high watermark %d, sent to %d", c.name, len(got.RecordBatches), got.HighWatermark, got.PreferredReadReplica)
		}
	}

	replicaAs := func(id int32) func(*kmsg.ListOffsetsRequest) {
		return func(r *kmsg.ListOffsetsRequest) { r.ReplicaID = id }
	}
	under := func(epoch int32) func(*kmsg.ListOffsetsRequest) {
		return func(r *kmsg.ListOffsetsRequest) { r.Topics[0].Partitions[0].CurrentLeaderEpoch = epoch }
	}
	for _, c := range []struct {
		name   string
		ts     int64
		edit   func(*kmsg.ListOffsetsRequest)
		want   *kerr.Error
		offset int64
	}{
		{"a consumer", -1, replicaAs(-1), kerr.NotLeaderForPartition, -1},
		{"a replica", -2, replicaAs(8), kerr.NotLeaderForPartition, -1},
		{"an old epoch", -1, under(5), kerr.FencedLeaderEpoch, -1},
		{"a new epoch", -1, under(7), kerr.UnknownLeaderEpoch, -1},
		{"who wants to know of this replica", -1, replicaAs(-2), nil, 8},
		{"its beginning", -2, replicaAs(-2), nil, 0},
	} {
		got := listOffset(t, 7, topic.Name, 0, c.ts, c.edit)
		if wantCode(t, "offsets: "+c.name, got.ErrorCode, c.want); got.Offset != c.offset {
			t.Errorf("offsets: %s: %d, want %d", c.name, got.Offset, c.offset)
		}
	}
	for epoch, want := range map[int32]*kerr.Error{-1: kerr.NotLeaderForPartition, 5: kerr.FencedLeaderEpoch, 6: kerr.NotLeaderForPartition, 7: kerr.UnknownLeaderEpoch} {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.Version, req.ReplicaID = 4, -1
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = topic.Name
		rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		rp.CurrentLeaderEpoch = epoch
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp := ask[*kmsg.OffsetForLeaderEpochResponse](t, req)
		wantCode(t, "end of an epoch", resp.Topics[0].Partitions[0].ErrorCode, want)
	}

	p.Rest()
	req := fetchRequest(topic, 12, 0)
	wantCode(t, "neither leader nor follower", onePart(t, req).ErrorCode, kerr.NotLeaderForPartition)
	req.Topics[0].Partitions[0].CurrentLeaderEpoch = 9
	wantCode(t, "neither, by a newer epoch", onePart(t, req).ErrorCode, kerr.NotLeaderForPartition)
}

// Who waits at a follower hears of what its leader lets be read, of deleted
// records, and of another epoch.
func TestWaitingAtAFollower(t *testing.T) {
	topic := makeTopic(t, 1)
	write(t, topic, 0, 5)
	p := shared.Get(topic.Name, 0)
	follow(t, p)
	replicate(t, p, 3, 5)
	wait := func(epoch int32) <-chan answer {
		req := fetchRequest(topic, 12, 5)
		req.MaxWaitMillis, req.Topics[0].Partitions[0].CurrentLeaderEpoch = 60_000, epoch
		waiting := shared.api.waiting.Load()
		got := start(t, context.Background(), shared.api, "x", req)
		for deadline := time.Now().Add(10 * time.Second); shared.api.waiting.Load() == waiting && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		return got
	}
	took := func(got <-chan answer) kmsg.FetchResponseTopicPartition {
		t.Helper()
		select {
		case a := <-got:
			return a.resp.(*kmsg.FetchResponse).Topics[0].Partitions[0]
		case <-time.After(30 * time.Second):
			t.Fatal("it waits on")
		}
		panic("not reached")
	}
	got := wait(-1)
	replicate(t, p, 0, 8) // nothing but the high watermark
	if r := took(got); len(r.RecordBatches) == 0 || r.HighWatermark != 8 {
		t.Errorf("%d bytes, high watermark %d", len(r.RecordBatches), r.HighWatermark)
	}
	req := fetchRequest(topic, 12, 8)
	req.MaxWaitMillis = 60_000
	got = start(t, context.Background(), shared.api, "x", req)
	replicate(t, p, 2, 8)
	ask, _, _ := p.NextFetch()
	if err := p.Replicate(replica.Answer{Ask: ask, HighWatermark: 10, LogStart: 9}, nil, func(error) {}); err != nil {
		t.Fatal(err)
	}
	if r := took(got); r.ErrorCode != kerr.OffsetOutOfRange.Code {
		t.Errorf("records below 9 were deleted: code %d, %d bytes", r.ErrorCode, len(r.RecordBatches))
	}
	req = fetchRequest(topic, 12, 10)
	req.MaxWaitMillis, req.Topics[0].Partitions[0].CurrentLeaderEpoch = 60_000, 6
	got = start(t, context.Background(), shared.api, "x", req)
	if err := p.Follow(threeOf(9, 7, 7, 8, 9)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "another epoch", took(got).ErrorCode, kerr.FencedLeaderEpoch)
}

// replicaFetch is a fetch of broker 8 in a new session.
func replicaFetch(topic *metastore.Topic, offset int64) *kmsg.FetchRequest {
	req := fetchRequest(topic, 17, offset)
	req.SessionEpoch, req.ReplicaState.ID, req.ReplicaState.Epoch = 0, 8, 100
	req.Topics[0].Partitions[0].CurrentLeaderEpoch = 5
	return req
}

// A follower that waits for records is told of the high watermark soon where
// consumers may read from it, and with the next records where they do not.
func TestHighWatermarkReachesFollowers(t *testing.T) {
	for _, selector := range []bool{true, false} {
		var configs []string
		if selector {
			configs = []string{"replica.selector.class", rackAwareSelector}
		}
		a := nearAPI(t, 0, configs...)
		topic, p := nearTopic(t, [2]record.Offset{-1, -1}, 7, 8, 9)
		add := func() {
			t.Helper()
			if _, err := p.Append(batch(t, 1), partition.Client); err != nil {
				t.Fatal(err)
			}
		}
		add()
		req := replicaFetch(topic, 6)
		resp := askOf[*kmsg.FetchResponse](t, a, req)
		if resp.SessionID == 0 || resp.Topics[0].Partitions[0].HighWatermark != 5 {
			t.Fatalf("%+v", resp)
		}
		req.SessionID, req.SessionEpoch, req.Topics, req.MaxWaitMillis = resp.SessionID, 1, nil, 60_000
		got := start(t, context.Background(), a, "x", req)
		wakeUps := fetchWakeUps.Get()
		p.ReplicaFetched(replica.Fetch{Replica: 9, BrokerEpoch: 100, Epoch: 5, Offset: 6}, 5)
		if hw := p.State().HighWatermark; hw != 6 {
			t.Fatalf("high watermark %d", hw)
		}
		records := 0
		if !selector {
			for deadline := time.Now().Add(10 * time.Second); fetchWakeUps.Get() == wakeUps && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(4 * tellWithin) // only makes a wrong answer likelier to be seen
			select {
			case r := <-got:
				t.Fatalf("answered by %+v", r.resp)
			default:
			}
			add()
			records++
		}
		select {
		case r := <-got:
			part := r.resp.(*kmsg.FetchResponse).Topics[0].Partitions[0]
			if part.HighWatermark != 6 || (len(part.RecordBatches) > 0) != (records > 0) {
				t.Errorf("selector %v: high watermark %d, %d bytes", selector, part.HighWatermark, len(part.RecordBatches))
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the follower was not told")
		}
	}
}

// A follower whose end is below the leader's log start is told where that is:
// it has to begin there.
func TestReplicaBelowTheLogStart(t *testing.T) {
	a := nearAPI(t, 0)
	topic, p := nearTopic(t, [2]record.Offset{5, 5}, 7, 8, 9)
	if _, err := p.DeleteRecords(4); err != nil {
		t.Fatal(err)
	}
	req := replicaFetch(topic, 0)
	got := partOf(t, a, req)
	wantCode(t, "a replica", got.ErrorCode, kerr.OffsetOutOfRange)
	if got.LogStartOffset != 4 {
		t.Errorf("the log start is told as %d, want 4", got.LogStartOffset)
	}
}

// A follower that asks for what is in the object store only is told so, with
// where the log starts, and does not count as having it; a consumer reads it, at
// a follower, too.
func TestReplicaBelowTheLocalStart(t *testing.T) {
	want := batch(t, 10)
	topic := coldTopic(t, &slowCold{fn: func(context.Context) ([]record.Span, error) { return []record.Span{{Bytes: want}}, nil }}, 1)
	p := shared.Get(topic.Name, 0)
	if !p.IsCold(0) {
		t.Fatal("nothing is cold")
	}
	p.Lead(threeOf(7, 5, 7, 8, 9))
	a := nearAPI(t, 0)
	req := replicaFetch(topic, 0)
	req.MaxWaitMillis = 60_000 // it does not wait
	got := partOf(t, a, req)
	wantCode(t, "a replica", got.ErrorCode, kerr.OffsetMovedToTieredStorage)
	if got.LogStartOffset != int64(p.State().LogStart) || len(got.RecordBatches) > 0 {
		t.Errorf("%+v", got)
	}
	req.Topics[0].Partitions[0].CurrentLeaderEpoch = 4
	req.SessionID, req.SessionEpoch = 0, 0
	wantCode(t, "a replica of an old epoch", partOf(t, a, req).ErrorCode, kerr.FencedLeaderEpoch)
	follow(t, p)
	if !p.IsCold(0) {
		t.Fatal("nothing is cold at the follower")
	}
	if got := onePart(t, fetchRequest(topic, 12, 0)); string(got.RecordBatches) != string(want) {
		t.Errorf("a consumer at a follower: %+v", got)
	}
}
