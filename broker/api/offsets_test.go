package api

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

func listOffset(t *testing.T, version int16, topic string, p int32, ts int64, edit ...func(*kmsg.ListOffsetsRequest)) kmsg.ListOffsetsResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID = version, -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = p, ts, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	for _, e := range edit {
		e(req)
	}
	return ask[*kmsg.ListOffsetsResponse](t, req).Topics[0].Partitions[0]
}

func at(times ...int64) func(*record.BatchSpec, []record.Record) {
	return func(_ *record.BatchSpec, r []record.Record) {
		for i := range r {
			r[i].Timestamp = times[i]
		}
	}
}

func TestListOffsets(t *testing.T) {
	topic := makeTopic(t, 2)
	write(t, topic, 0, 3, at(100, 300, 200))
	write(t, topic, 0, 2, at(250, 400))
	deleteRecordsOf(t, topic.Name, 0, 1)
	epoch := func(r *kmsg.ListOffsetsRequest) { r.Topics[0].Partitions[0].CurrentLeaderEpoch = 50 }
	twice := func(r *kmsg.ListOffsetsRequest) {
		r.Topics[0].Partitions = append(r.Topics[0].Partitions, r.Topics[0].Partitions[0])
	}
	for _, c := range []struct {
		name       string
		version    int16
		p          int32
		ts         int64
		edit       []func(*kmsg.ListOffsetsRequest)
		offset     int64
		timestamp  int64
		want       *kerr.Error
		emptyEpoch bool
	}{
		{"latest", 11, 0, -1, nil, 5, -1, nil, false},
		{"latest, read committed", 11, 0, -1, []func(*kmsg.ListOffsetsRequest){func(r *kmsg.ListOffsetsRequest) { r.IsolationLevel = 1 }}, 5, -1, nil, false},
		{"latest of an empty one", 11, 1, -1, nil, 0, -1, nil, false},
		{"earliest", 11, 0, -2, nil, 1, -1, nil, false},
		{"greatest timestamp", 7, 0, -3, nil, 4, 400, nil, false},
		{"greatest timestamp of an empty one", 7, 1, -3, nil, -1, -1, nil, true},
		{"greatest timestamp too early", 6, 0, -3, nil, -1, -1, kerr.UnsupportedVersion, true},
		{"earliest local", 8, 0, -4, nil, 1, -1, nil, false},
		{"earliest local too early", 7, 0, -4, nil, -1, -1, kerr.UnsupportedVersion, true},
		{"latest tiered, none", 9, 0, -5, nil, -1, -1, nil, true},
		{"latest tiered too early", 8, 0, -5, nil, -1, -1, kerr.UnsupportedVersion, true},
		{"pending upload, not tiered", 11, 0, -6, nil, -1, -1, nil, true},
		{"pending upload too early", 10, 0, -6, nil, -1, -1, kerr.UnsupportedVersion, true},
		{"unknown special", 11, 0, -7, nil, -1, -1, kerr.UnsupportedVersion, true},
		{"timestamp", 4, 0, 250, nil, 1, 300, nil, false},
		{"timestamp between", 4, 0, 301, nil, 4, 400, nil, false},
		{"timestamp past the end", 4, 0, 401, nil, -1, -1, nil, true},
		{"no such partition", 4, 2, -1, nil, -1, -1, kerr.UnknownTopicOrPartition, true},
		{"epoch ahead", 4, 0, -1, []func(*kmsg.ListOffsetsRequest){epoch}, -1, -1, kerr.UnknownLeaderEpoch, true},
		{"twice", 4, 0, -1, []func(*kmsg.ListOffsetsRequest){twice}, -1, -1, kerr.InvalidRequest, true},
	} {
		got := listOffset(t, c.version, topic.Name, c.p, c.ts, c.edit...)
		wantCode(t, c.name, got.ErrorCode, c.want)
		if got.Offset != c.offset || got.Timestamp != c.timestamp {
			t.Errorf("%s: offset %d at %d, want %d at %d", c.name, got.Offset, got.Timestamp, c.offset, c.timestamp)
		}
		if c.version >= 4 && (got.LeaderEpoch < 0) != c.emptyEpoch {
			t.Errorf("%s: leader epoch %d", c.name, got.LeaderEpoch)
		}
	}
	wantCode(t, "no such topic", listOffset(t, 4, "absent", 0, -1).ErrorCode, kerr.UnknownTopicOrPartition)
}

func TestListOffsetsTiered(t *testing.T) {
	fresh := makeTopic(t, 1, "remote.storage.enable", "True")
	if got := listOffset(t, 11, fresh.Name, 0, -6); got.ErrorCode != 0 || got.Offset != 0 || got.LeaderEpoch < 0 {
		t.Errorf("pending upload of a topic without uploads: %+v, want offset 0", got)
	}
	topic := coldTopic(t, &slowCold{fn: func(context.Context) ([]record.Span, error) { return nil, errors.New("not read") }}, 2)
	for _, c := range []struct {
		p      int32
		ts     int64
		offset int64
	}{{0, -2, 0}, {0, -4, 10}, {0, -5, 9}, {0, -6, 10}, {0, -1, 20}} {
		if got := listOffset(t, 11, topic.Name, c.p, c.ts); got.ErrorCode != 0 || got.Offset != c.offset {
			t.Errorf("%d: got %+v, want offset %d", c.ts, got, c.offset)
		}
	}
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	topic := makeTopic(t, 1)
	write(t, topic, 0, 5)
	ask1 := func(p, current, epoch int32) kmsg.OffsetForLeaderEpochResponseTopicPartition {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.Version = 4
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = topic.Name
		rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		rp.Partition, rp.CurrentLeaderEpoch, rp.LeaderEpoch = p, current, epoch
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		return ask[*kmsg.OffsetForLeaderEpochResponse](t, req).Topics[0].Partitions[0]
	}
	leader := int32(shared.Get(topic.Name, 0).State().Epoch)
	if got := ask1(0, -1, leader); got.ErrorCode != 0 || got.EndOffset != 5 || got.LeaderEpoch != leader {
		t.Errorf("got %+v", got)
	}
	if got := ask1(0, leader, leader+9); got.ErrorCode != 0 || got.EndOffset != -1 || got.LeaderEpoch != -1 {
		t.Errorf("epoch to come: got %+v", got)
	}
	wantCode(t, "current epoch ahead", ask1(0, leader+1, leader).ErrorCode, kerr.UnknownLeaderEpoch)
	wantCode(t, "no such partition", ask1(3, -1, leader).ErrorCode, kerr.UnknownTopicOrPartition)
	shared.Get(topic.Name, 0).Lead(replica.Record{Leader: 1, Epoch: record.Epoch(leader + 3), Replicas: []record.BrokerID{1}, ISR: []record.BrokerID{1}})
	wantCode(t, "old current epoch", ask1(0, leader, leader).ErrorCode, kerr.FencedLeaderEpoch)
}

func TestInitProducerID(t *testing.T) {
	init := func(version int16, txn *string, id int64, epoch int16) *kmsg.InitProducerIDResponse {
		return ask[*kmsg.InitProducerIDResponse](t, &kmsg.InitProducerIDRequest{Version: version, TransactionalID: txn, TransactionTimeoutMillis: 1000, ProducerID: id, ProducerEpoch: epoch})
	}
	seen := map[int64]bool{}
	for range 5 {
		got := init(4, nil, -1, -1)
		if got.ErrorCode != 0 || got.ProducerID < 0 || got.ProducerEpoch != 0 || seen[got.ProducerID] {
			t.Errorf("got %+v", got)
		}
		seen[got.ProducerID] = true
	}
	for _, c := range []struct {
		name  string
		txn   *string
		id    int64
		epoch int16
		want  *kerr.Error
	}{
		{"id without epoch", nil, 5, -1, kerr.InvalidRequest},
		{"epoch without id", nil, -1, 5, kerr.InvalidRequest},
		{"empty transactional id", kmsg.StringPtr(""), -1, -1, kerr.InvalidRequest},
		{"transactional id", kmsg.StringPtr("tx"), -1, -1, kerr.UnsupportedVersion},
	} {
		got := init(4, c.txn, c.id, c.epoch)
		wantCode(t, c.name, got.ErrorCode, c.want)
		if got.ProducerID != -1 || got.ProducerEpoch != -1 {
			t.Errorf("%s: got %+v", c.name, got)
		}
	}
}

// Blocks follow one another, each taken once, by however many at a time.
func TestProducerIDBlocks(t *testing.T) {
	var taken int64
	p := producerIDs{block: 10, take: func(_ context.Context, n int64) (int64, error) {
		taken++
		return taken * 1000, nil
	}}
	const all = 95
	ids := make(chan int64, all)
	for range all {
		go func() {
			id, err := p.next(context.Background())
			if err != nil {
				t.Error(err)
			}
			ids <- id
		}()
	}
	seen := map[int64]bool{}
	for range all {
		id := <-ids
		if seen[id] || id%1000 >= 10 {
			t.Errorf("id %d", id)
		}
		seen[id] = true
	}
	if taken != 10 {
		t.Errorf("%d blocks were taken", taken)
	}
	p.take = func(context.Context, int64) (int64, error) { return 0, errors.New("etcd is down") }
	p.from = p.end
	if _, err := p.next(context.Background()); err == nil {
		t.Error("an id out of nothing")
	}
}

func TestOffsetCommitAndFetchTopics(t *testing.T) {
	if err := shared.ensureOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	topic := makeTopic(t, 1)
	commit := func(version int16) *kmsg.OffsetCommitResponse {
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Version, req.Group, req.Generation = version, "g-"+topic.Name, -1
		add := func(name string, id [16]byte, parts ...int32) {
			rt := kmsg.NewOffsetCommitRequestTopic()
			rt.Topic, rt.TopicID = name, id
			for _, p := range parts {
				rp := kmsg.NewOffsetCommitRequestTopicPartition()
				rp.Partition, rp.Offset, rp.LeaderEpoch = p, 42, -1
				rt.Partitions = append(rt.Partitions, rp)
			}
			req.Topics = append(req.Topics, rt)
		}
		add("absent", [16]byte{1}, 0)
		add(topic.Name, topic.ID, 5, 0)
		return ask[*kmsg.OffsetCommitResponse](t, req)
	}
	for _, c := range []struct {
		version int16
		absent  *kerr.Error
	}{{9, kerr.UnknownTopicOrPartition}, {10, kerr.UnknownTopicID}} {
		got := commit(c.version)
		wantCode(t, "absent topic", got.Topics[0].Partitions[0].ErrorCode, c.absent)
		wantCode(t, "absent partition", got.Topics[1].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition)
		wantCode(t, "partition 0", got.Topics[1].Partitions[1].ErrorCode, nil)
	}
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 10
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group, rg.MemberEpoch = "g-"+topic.Name, -1
	for _, id := range [][16]byte{{1}, topic.ID} {
		rt := kmsg.NewOffsetFetchRequestGroupTopic()
		rt.TopicID, rt.Partitions = id, []int32{0}
		rg.Topics = append(rg.Topics, rt)
	}
	all := kmsg.NewOffsetFetchRequestGroup()
	all.Group, all.MemberEpoch, all.Topics = rg.Group, -1, nil
	none := kmsg.NewOffsetFetchRequestGroup()
	none.Group, none.MemberEpoch, none.Topics = "never-seen", -1, rg.Topics[1:]
	req.Groups = append(req.Groups, rg, all, none)
	resp := ask[*kmsg.OffsetFetchResponse](t, req)
	offsets := map[[16]byte]kmsg.OffsetFetchResponseGroupTopicPartition{}
	for _, tp := range resp.Groups[0].Topics {
		offsets[tp.TopicID] = tp.Partitions[0]
	}
	wantCode(t, "unknown id", offsets[[16]byte{1}].ErrorCode, kerr.UnknownTopicID)
	if offsets[topic.ID].Offset != 42 {
		t.Errorf("got %+v", offsets)
	}
	if g := resp.Groups[1]; len(g.Topics) != 1 || record.TopicID(g.Topics[0].TopicID) != topic.ID || g.Topics[0].Partitions[0].Offset != 42 {
		t.Errorf("all: got %+v", g)
	}
	if g := resp.Groups[2]; g.ErrorCode != 0 || g.Topics[0].Partitions[0].Offset != -1 || g.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Errorf("unknown group: got %+v", g)
	}
}

func TestFindCoordinator(t *testing.T) {
	find := func(version int16, kind int8, keys ...string) []kmsg.FindCoordinatorResponseCoordinator {
		return ask[*kmsg.FindCoordinatorResponse](t, &kmsg.FindCoordinatorRequest{Version: version, CoordinatorType: kind, CoordinatorKeys: keys}).Coordinators
	}
	got := find(6, 0, "a", "b")
	if len(got) != 2 || got[0].Key != "a" || got[1].Key != "b" || got[1].NodeID != testBroker || got[1].Port != 9092 || got[1].ErrorCode != 0 {
		t.Errorf("got %+v", got)
	}
	if shared.meta.Image().Topics[offsetsTopic] == nil {
		t.Error("the topic for offsets was not made")
	}
	txn := find(4, 1, "tx")[0]
	wantCode(t, "transactional id", txn.ErrorCode, kerr.UnsupportedVersion)
	if txn.NodeID != -1 || txn.ErrorMessage == nil || !strings.Contains(*txn.ErrorMessage, "not supported yet") {
		t.Errorf("got %+v", txn)
	}
	wantCode(t, "share group", find(6, 2, "s")[0].ErrorCode, kerr.InvalidRequest)
	wantCode(t, "unknown type", find(4, 9, "s")[0].ErrorCode, kerr.InvalidRequest)
	old := ask[*kmsg.FindCoordinatorResponse](t, &kmsg.FindCoordinatorRequest{Version: 2, CoordinatorType: 1, CoordinatorKey: "tx"})
	wantCode(t, "transactional id, version 2", old.ErrorCode, kerr.UnsupportedVersion)
}
