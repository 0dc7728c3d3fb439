package api

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// fetchRequest asks for the given offsets of partitions 0, 1, … without a
// session.
func fetchRequest(topic *metastore.Topic, version int16, offsets ...int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = version, 0, 1, 1<<20
	req.SessionEpoch, req.ReplicaID = -1, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic.Name, topic.ID
	for i, o := range offsets {
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = int32(i), o, 1<<20
		rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = -1, -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

func onePart(t testing.TB, req *kmsg.FetchRequest) kmsg.FetchResponseTopicPartition {
	t.Helper()
	resp := ask[*kmsg.FetchResponse](t, req)
	if resp.ErrorCode != 0 || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		t.Fatalf("got %+v", resp)
	}
	return resp.Topics[0].Partitions[0]
}

func TestFetchErrors(t *testing.T) {
	topic := makeTopic(t, 1)
	write(t, topic, 0, 3)
	gone := makeTopic(t, 1)
	deleteTopic(t, gone.Name)
	for _, c := range []struct {
		name    string
		topic   *metastore.Topic
		version int16
		edit    func(*kmsg.FetchRequestTopicPartition)
		want    *kerr.Error
		hw      int64
	}{
		{"past the end", topic, 12, func(p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = 4 }, kerr.OffsetOutOfRange, -1},
		{"negative", topic, 12, func(p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = -5 }, kerr.OffsetOutOfRange, -1},
		{"the end", topic, 12, func(p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = 3 }, nil, 3},
		{"epoch ahead", topic, 12, func(p *kmsg.FetchRequestTopicPartition) { p.CurrentLeaderEpoch = 99 }, kerr.UnknownLeaderEpoch, -1},
		{"partition", topic, 12, func(p *kmsg.FetchRequestTopicPartition) { p.Partition = 1 }, kerr.UnknownTopicOrPartition, -1},
		{"negative partition", topic, 12, func(p *kmsg.FetchRequestTopicPartition) { p.Partition = -1 }, kerr.UnknownTopicOrPartition, -1},
		{"deleted, by name", gone, 12, nil, kerr.UnknownTopicOrPartition, -1},
		{"deleted, by id", gone, 13, nil, kerr.UnknownTopicID, -1},
		{"no id", &metastore.Topic{Name: topic.Name}, 13, nil, kerr.UnknownTopicID, -1},
	} {
		req := fetchRequest(c.topic, c.version, 0)
		if c.edit != nil {
			c.edit(&req.Topics[0].Partitions[0])
		}
		p := onePart(t, req)
		wantCode(t, c.name, p.ErrorCode, c.want)
		if len(p.RecordBatches) != 0 || p.HighWatermark != c.hw {
			t.Errorf("%s: %d bytes, high watermark %d, want %d", c.name, len(p.RecordBatches), p.HighWatermark, c.hw)
		}
	}
}

func TestFetchSessionErrorsReachTheReply(t *testing.T) {
	topic := makeTopic(t, 1)
	req := fetchRequest(topic, 12, 0)
	req.SessionID, req.SessionEpoch = 12345, 7
	resp := ask[*kmsg.FetchResponse](t, req)
	wantCode(t, "unknown session", resp.ErrorCode, kerr.FetchSessionIDNotFound)
	if resp.SessionID != 0 || len(resp.Topics) != 0 {
		t.Errorf("got %+v", resp)
	}
}

func TestFetchSession(t *testing.T) {
	topic := makeTopic(t, 2)
	write(t, topic, 0, 1)
	req := fetchRequest(topic, 13, 0, 0)
	req.SessionEpoch = 0
	first := ask[*kmsg.FetchResponse](t, req)
	if first.SessionID == 0 || len(first.Topics[0].Partitions) != 2 {
		t.Fatalf("got %+v", first)
	}
	next := func(epoch int32, edit ...func(*kmsg.FetchRequest)) *kmsg.FetchResponse {
		r := fetchRequest(topic, 13)
		r.Topics = nil
		r.SessionID, r.SessionEpoch = first.SessionID, epoch
		for _, e := range edit {
			e(r)
		}
		return ask[*kmsg.FetchResponse](t, r)
	}
	second := next(1, func(r *kmsg.FetchRequest) {
		r.Topics = fetchRequest(topic, 13, 1).Topics // partition 0 goes on at offset 1
	})
	if second.ErrorCode != 0 || len(second.Topics) != 0 {
		t.Errorf("unchanged partitions are named: %+v", second.Topics)
	}
	write(t, topic, 1, 1)
	third := next(2)
	if len(third.Topics) != 1 || len(third.Topics[0].Partitions) != 1 || third.Topics[0].Partitions[0].Partition != 1 || len(third.Topics[0].Partitions[0].RecordBatches) == 0 {
		t.Fatalf("got %+v", third.Topics)
	}
	deleteTopic(t, topic.Name)
	fourth := next(3)
	if len(fourth.Topics) != 1 || len(fourth.Topics[0].Partitions) != 2 {
		t.Fatalf("got %+v", fourth)
	}
	wantCode(t, "session of a deleted topic", fourth.Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition)
	remake(t, topic.Name)
	fifth := next(4)
	if len(fifth.Topics) != 1 {
		t.Fatalf("errors must always be named: %+v", fifth)
	}
	wantCode(t, "session with the old id", fifth.Topics[0].Partitions[0].ErrorCode, kerr.InconsistentTopicID)
}

func remake(t *testing.T, name string) {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 7, 30_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, 2, 1
	req.Topics = append(req.Topics, rt)
	if c := ask[*kmsg.CreateTopicsResponse](t, req).Topics[0].ErrorCode; c != 0 {
		t.Fatal(kerr.ErrorForCode(c))
	}
}

// A session that starts with an id nobody knows serves the topic once it is
// there: the other way round cannot be, ids are made with the topic.
func TestFetchUnknownIDStaysInSession(t *testing.T) {
	req := fetchRequest(&metastore.Topic{ID: record.TopicID{9, 9}}, 13, 0)
	req.SessionEpoch = 0
	resp := ask[*kmsg.FetchResponse](t, req)
	wantCode(t, "unknown id", resp.Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicID)
	r := fetchRequest(&metastore.Topic{}, 13)
	r.Topics, r.SessionID, r.SessionEpoch = nil, resp.SessionID, 1
	again := ask[*kmsg.FetchResponse](t, r)
	if len(again.Topics) != 1 || again.Topics[0].Partitions[0].ErrorCode != kerr.UnknownTopicID.Code {
		t.Errorf("got %+v", again)
	}
}

func TestFetchWaitsForRecords(t *testing.T) {
	topic := makeTopic(t, 2)
	req := fetchRequest(topic, 13, 0, 0)
	req.MaxWaitMillis = 60_000
	got := start(t, context.Background(), shared.api, "x", req)
	select {
	case <-got:
		t.Fatal("answered without records")
	default:
	}
	write(t, topic, 1, 1)
	resp := (<-got).resp.(*kmsg.FetchResponse)
	if len(resp.Topics[0].Partitions[1].RecordBatches) == 0 {
		t.Errorf("got %+v", resp)
	}
}

func TestFetchWaitsForMinBytes(t *testing.T) {
	topic := makeTopic(t, 1)
	one := len(batch(t, 1))
	req := fetchRequest(topic, 13, 0)
	req.MaxWaitMillis, req.MinBytes = 60_000, int32(2*one)
	got := start(t, context.Background(), shared.api, "x", req)
	write(t, topic, 0, 1)
	select {
	case <-got:
		t.Fatal("answered with too few bytes")
	case <-time.After(20 * time.Millisecond): // only makes a wrong answer likelier to be seen
	}
	write(t, topic, 0, 1)
	if b := (<-got).resp.(*kmsg.FetchResponse).Topics[0].Partitions[0].RecordBatches; len(b) < 2*one {
		t.Errorf("%d bytes", len(b))
	}
}

func TestFetchEndsWithTheWait(t *testing.T) {
	topic := makeTopic(t, 1)
	req := fetchRequest(topic, 13, 0)
	req.MaxWaitMillis = 5
	if p := onePart(t, req); p.ErrorCode != 0 || len(p.RecordBatches) != 0 || p.HighWatermark != 0 {
		t.Errorf("got %+v", p)
	}
}

func TestFetchEndsWithTheTopic(t *testing.T) {
	topic := makeTopic(t, 1)
	req := fetchRequest(topic, 13, 0)
	req.MaxWaitMillis = 60_000
	got := start(t, context.Background(), shared.api, "x", req)
	deleteTopic(t, topic.Name)
	resp := (<-got).resp.(*kmsg.FetchResponse)
	if c := resp.Topics[0].Partitions[0].ErrorCode; c == 0 {
		t.Errorf("got %+v", resp)
	}
}

func TestFetchEndsWithTheConnection(t *testing.T) {
	topic := makeTopic(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	req := fetchRequest(topic, 13, 0)
	req.MaxWaitMillis = 60_000
	got := start(t, ctx, shared.api, "x", req)
	cancel()
	if a := <-got; !a.closed {
		t.Errorf("got %+v", a)
	}
}

// Too many waiting fetches are answered at once.
func TestWaitingFetchesAreBounded(t *testing.T) {
	topic := makeTopic(t, 1)
	a := New(Config{BrokerID: testBroker, MaxWaitingFetches: 1}, shared.deps)
	req := fetchRequest(topic, 13, 0)
	req.MaxWaitMillis = 60_000
	first := start(t, context.Background(), a, "x", req)
	notKept := fetchesNotKept.Get()
	second := askOf[*kmsg.FetchResponse](t, a, req)
	if fetchesNotKept.Get() != notKept+1 || second.ErrorCode != 0 || len(second.Topics[0].Partitions[0].RecordBatches) != 0 {
		t.Errorf("got %+v", second)
	}
	write(t, topic, 0, 1)
	<-first
}

// So are those beyond the partitions that fetches may wait for in all.
func TestPartitionsOfWaitingFetchesAreBounded(t *testing.T) {
	topic := makeTopic(t, 4)
	a := New(Config{BrokerID: testBroker, MaxWaitingParts: 4}, shared.deps)
	req := func(offsets ...int64) *kmsg.FetchRequest {
		req := fetchRequest(topic, 13, offsets...)
		req.MaxWaitMillis = 60_000
		return req
	}
	first := start(t, context.Background(), a, "x", req(0, 0, 0))
	notKept := fetchesNotKept.Get()
	askOf[*kmsg.FetchResponse](t, a, req(0, 0))
	if fetchesNotKept.Get() != notKept+1 {
		t.Error("five partitions are waited for")
	}
	second := start(t, context.Background(), a, "x", req(0))
	write(t, topic, 0, 1)
	<-first
	<-second
	for deadline := time.Now().Add(10 * time.Second); a.waitingParts.Load() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // they end a moment after their answer
	}
	third := start(t, context.Background(), a, "x", req(1, 0, 0, 0))
	write(t, topic, 3, 1)
	<-third
	if fetchesNotKept.Get() != notKept+1 {
		t.Error("what was waited for is still counted")
	}
}

// Of many that wait, only those wake up whose partition moved, once for each
// append, and read once.
func TestOnlyThoseConcernedWakeUp(t *testing.T) {
	const partitions = 100
	topic := makeTopic(t, partitions)
	ctx, cancel := context.WithCancel(context.Background())
	var waiting []<-chan answer
	for i := range partitions {
		req := fetchRequest(topic, 13, make([]int64, 2)...)
		req.MaxWaitMillis, req.MinBytes = 60_000, 1<<19
		for j := range req.Topics[0].Partitions {
			req.Topics[0].Partitions[j].Partition = int32((i + j) % partitions)
		}
		waiting = append(waiting, start(t, ctx, shared.api, "x", req))
	}
	settled := func() uint64 { // what wakes up has done so
		n := fetchWakeUps.Get()
		for last := n - 1; last != n; last, n = n, fetchWakeUps.Get() {
			time.Sleep(20 * time.Millisecond)
		}
		return n
	}
	hotReads := metrics.GetOrCreateCounter("firn_partition_hot_reads_total")
	before, reads := settled(), hotReads.Get()
	for n := range uint64(3) {
		write(t, topic, 7, 1)
		deadline := time.Now().Add(10 * time.Second)
		for fetchWakeUps.Get()-before < 2*(n+1) && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if got := settled() - before; got != 2*(n+1) {
			t.Fatalf("%d wake-ups for %d appends to a partition of two waiting fetches", got, n+1)
		}
	}
	if got := hotReads.Get() - reads; got != 6 {
		t.Errorf("%d reads of records", got)
	}
	cancel()
	for _, w := range waiting {
		<-w
	}
}

// What comes to several partitions adds up; what was deleted meanwhile is
// told, and does not count.
func TestWaitingFetchFollowsItsPartitions(t *testing.T) {
	one := int32(len(batch(t, 1)))
	topic := makeTopic(t, 3)
	req := fetchRequest(topic, 13, 0, 0, 0)
	req.MaxWaitMillis, req.MinBytes = 60_000, 3*one
	got := start(t, context.Background(), shared.api, "x", req)
	for _, p := range []int32{2, 0, 2} {
		select {
		case <-got:
			t.Fatal("answered with too few bytes")
		case <-time.After(5 * time.Millisecond): // only makes a wrong answer likelier to be seen
		}
		write(t, topic, p, 1)
	}
	resp := (<-got).resp.(*kmsg.FetchResponse)
	for i, want := range []int32{one, 0, 2 * one} {
		p := &resp.Topics[0].Partitions[i]
		if int32(len(p.RecordBatches)) != want || p.HighWatermark != int64(want/one) {
			t.Errorf("partition %d: %d bytes, high watermark %d, want %d bytes", i, len(p.RecordBatches), p.HighWatermark, want)
		}
	}

	req.Topics[0].Partitions[0].FetchOffset, req.Topics[0].Partitions[2].FetchOffset = 0, 2
	req.MinBytes = 1 << 19
	got = start(t, context.Background(), shared.api, "x", req)
	if _, err := shared.Get(topic.Name, 0).DeleteRecords(-1); err != nil {
		t.Fatal(err)
	}
	resp = (<-got).resp.(*kmsg.FetchResponse)
	p := &resp.Topics[0].Partitions[0]
	wantCode(t, "deleted records", p.ErrorCode, kerr.OffsetOutOfRange)
	if len(p.RecordBatches) != 0 {
		t.Errorf("%d bytes beside the error", len(p.RecordBatches))
	}
}

func TestFetchByteLimits(t *testing.T) {
	topic := makeTopic(t, 3)
	for p := range int32(3) {
		write(t, topic, p, 10)
	}
	size := func(edit func(*kmsg.FetchRequest)) []int {
		req := fetchRequest(topic, 13, 0, 0, 0)
		edit(req)
		var out []int
		for _, p := range ask[*kmsg.FetchResponse](t, req).Topics[0].Partitions {
			out = append(out, len(p.RecordBatches))
		}
		return out
	}
	if got := size(func(r *kmsg.FetchRequest) { r.MaxBytes = 1 }); got[0] == 0 || got[1] != 0 || got[2] != 0 {
		t.Errorf("max bytes 1: %v, want one whole batch of the first partition", got)
	}
	if got := size(func(r *kmsg.FetchRequest) {
		for i := range r.Topics[0].Partitions {
			r.Topics[0].Partitions[i].PartitionMaxBytes = 1
		}
	}); got[0] == 0 || got[1] != 0 || got[2] != 0 {
		t.Errorf("partition max bytes 1: %v, want one whole batch of the first partition", got)
	}
	if got := size(func(*kmsg.FetchRequest) {}); got[0] == 0 || got[1] == 0 || got[2] == 0 {
		t.Errorf("no limits: %v", got)
	}
}

func TestFetchIsolation(t *testing.T) {
	topic := makeTopic(t, 1)
	write(t, topic, 0, 1)
	req := fetchRequest(topic, 13, 0)
	if p := onePart(t, req); p.AbortedTransactions != nil {
		t.Error("read uncommitted lists aborted transactions")
	}
	req = fetchRequest(topic, 13, 0)
	req.IsolationLevel = 1
	if p := onePart(t, req); p.AbortedTransactions == nil || len(p.RecordBatches) == 0 {
		t.Error("read committed has a null list of aborted transactions, or no records")
	}
}

// slowCold is a tiered part of offsets [0, 10) that answers as fn says.
type slowCold struct {
	fn    func(ctx context.Context) ([]record.Span, error)
	calls atomic.Int32
}

func (s *slowCold) ReadCold(ctx context.Context, _ record.TopicID, _ record.TopicPartition, _ record.Offset, _ int) ([]record.Span, []record.AbortedTxn, error) {
	s.calls.Add(1)
	spans, err := s.fn(ctx)
	return spans, nil, err
}
func (s *slowCold) ColdTimestamp(context.Context, record.TopicID, record.TopicPartition, int64) (record.TimestampOffset, error) {
	return record.NoTimestampOffset, nil
}
func (s *slowCold) ColdMaxTimestamp(context.Context, record.TopicID, record.TopicPartition) (record.TimestampOffset, error) {
	return record.NoTimestampOffset, nil
}
func (s *slowCold) ColdEnd(context.Context, record.TopicID, record.TopicPartition) (record.TieredEnd, error) {
	return record.TieredEnd{End: 10}, nil
}

func (s *slowCold) ColdRange(record.TopicID, record.TopicPartition) (record.Offset, record.Offset) {
	return 0, 10
}

// coldTopic has records [0, 20) of which [0, 10) are only in cold.
func coldTopic(t *testing.T, cold *slowCold, partitions int32) *metastore.Topic {
	t.Helper()
	shared.mu.Lock()
	shared.cold = cold
	shared.mu.Unlock()
	defer func() {
		shared.mu.Lock()
		shared.cold = nil
		shared.mu.Unlock()
	}()
	topic := makeTopic(t, partitions, "remote.storage.enable", "true", "local.retention.bytes", "0", "retention.bytes", "1000000000")
	p := shared.Get(topic.Name, 0)
	write(t, topic, 0, 10)
	if err := p.Roll(); err != nil {
		t.Fatal(err)
	}
	write(t, topic, 0, 10)
	p.SetTieredEnd(10)
	if _, err := p.RunRetention(time.Now()); err != nil {
		t.Fatal(err)
	}
	if !p.IsCold(0) || p.IsCold(10) {
		t.Fatalf("the first segment is not cold: %+v", p.State())
	}
	return topic
}

func TestColdFetch(t *testing.T) {
	want := batch(t, 10)
	topic := coldTopic(t, &slowCold{fn: func(context.Context) ([]record.Span, error) {
		return []record.Span{{Bytes: want}}, nil
	}}, 1)
	if p := onePart(t, fetchRequest(topic, 13, 0)); string(p.RecordBatches) != string(want) || p.HighWatermark != 20 {
		t.Errorf("got %d bytes of %d, high watermark %d, error %d", len(p.RecordBatches), len(want), p.HighWatermark, p.ErrorCode)
	}
}

func TestColdFetchFails(t *testing.T) {
	topic := coldTopic(t, &slowCold{fn: func(context.Context) ([]record.Span, error) {
		return nil, errors.Join(kerr.KafkaStorageError, errors.New("store is down"))
	}}, 1)
	p := onePart(t, fetchRequest(topic, 13, 0))
	wantCode(t, "store down", p.ErrorCode, kerr.KafkaStorageError)
}

// A store that hangs holds up neither the reply nor the partitions that are
// hot.
func TestColdFetchHangs(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	topic := coldTopic(t, &slowCold{fn: func(context.Context) ([]record.Span, error) {
		<-hang // not even the context ends it
		return nil, errors.New("late")
	}}, 2)
	write(t, topic, 1, 1)
	a := New(Config{BrokerID: testBroker, ColdWait: time.Millisecond, ColdWaitMax: 50 * time.Millisecond}, shared.deps)
	alone := askOf[*kmsg.FetchResponse](t, a, fetchRequest(topic, 13, 0))
	if p := alone.Topics[0].Partitions[0]; p.ErrorCode != 0 || len(p.RecordBatches) != 0 || p.HighWatermark != 20 || p.LogStartOffset != 0 {
		t.Errorf("got %+v", p)
	}
	both := askOf[*kmsg.FetchResponse](t, a, fetchRequest(topic, 13, 0, 0))
	if p := both.Topics[0].Partitions[1]; len(p.RecordBatches) == 0 {
		t.Error("the hot partition has no records")
	}
	small := fetchRequest(topic, 13, 0, 0)
	small.MaxBytes = 1 // the cold partition holds the right to an oversized batch
	if p := askOf[*kmsg.FetchResponse](t, a, small).Topics[0].Partitions[1]; len(p.RecordBatches) == 0 {
		t.Error("the hot partition is stuck behind the cold one")
	}
}

// What comes from the store after the reply is released.
func TestLateColdReadIsReleased(t *testing.T) {
	hang := make(chan struct{})
	var begun atomic.Bool
	topic := coldTopic(t, &slowCold{fn: func(context.Context) ([]record.Span, error) {
		begun.Store(true)
		<-hang
		return []record.Span{{Bytes: []byte("late")}}, nil
	}}, 1)
	before := coldLate.Get()
	// A wait that is over before the read has begun cancels it: then again, with a longer one.
	for wait := time.Millisecond; !begun.Load(); wait *= 2 {
		a := New(Config{BrokerID: testBroker, ColdWait: wait, ColdWaitMax: wait}, shared.deps)
		askOf[*kmsg.FetchResponse](t, a, fetchRequest(topic, 13, 0))
	}
	close(hang)
	for coldLate.Get() == before {
		time.Sleep(time.Millisecond)
	}
}

// Records that come to a hot partition are not held up by a cold one.
func TestHotRecordsCutTheColdWaitShort(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	asked := make(chan struct{}, 1)
	topic := coldTopic(t, &slowCold{fn: func(context.Context) ([]record.Span, error) {
		asked <- struct{}{}
		<-hang
		return nil, errors.New("late")
	}}, 2)
	a := New(Config{BrokerID: testBroker, ColdWaitMax: time.Hour}, shared.deps)
	req := fetchRequest(topic, 13, 0, 0)
	req.MaxWaitMillis = 300_000
	got := start(t, context.Background(), a, "x", req)
	<-asked
	write(t, topic, 1, 1)
	if p := (<-got).resp.(*kmsg.FetchResponse).Topics[0].Partitions[1]; len(p.RecordBatches) == 0 {
		t.Errorf("got %+v", p)
	}
}

// Two requests of one session at a time: the first to be answered late is
// told that its epoch has passed, and its spans are released.
func TestFetchSessionOvertaken(t *testing.T) {
	topic := makeTopic(t, 1)
	req := fetchRequest(topic, 13, 0)
	req.SessionEpoch = 0
	id := ask[*kmsg.FetchResponse](t, req).SessionID
	next := func(epoch int32, wait int32) <-chan answer {
		r := fetchRequest(topic, 13)
		r.Topics, r.SessionID, r.SessionEpoch, r.MaxWaitMillis = nil, id, epoch, wait
		return start(t, context.Background(), shared.api, "x", r)
	}
	first := next(1, 60_000)
	if second := (<-next(2, 0)).resp.(*kmsg.FetchResponse); second.ErrorCode != 0 {
		t.Errorf("got %+v", second)
	}
	write(t, topic, 0, 1)
	got := (<-first).resp.(*kmsg.FetchResponse)
	wantCode(t, "overtaken", got.ErrorCode, kerr.InvalidFetchSessionEpoch)
	if len(got.Topics) != 0 {
		t.Errorf("got %+v", got)
	}
}
