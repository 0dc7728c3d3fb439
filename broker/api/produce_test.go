package api

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

func producer(id int64, epoch int16, seq int32) func(*record.BatchSpec, []record.Record) {
	return func(s *record.BatchSpec, _ []record.Record) {
		s.ProducerID, s.ProducerEpoch, s.BaseSequence = id, epoch, seq
	}
}

func TestProduceErrors(t *testing.T) {
	topic := makeTopic(t, 1, "max.message.bytes", "500")
	write(t, topic, 0, 1)
	ok := batch(t, 1)
	flipped := append([]byte{}, ok...)
	flipped[len(flipped)-1] ^= 1
	txn := batch(t, 1, func(s *record.BatchSpec, _ []record.Record) {
		s.Transactional, s.ProducerID, s.ProducerEpoch, s.BaseSequence = true, 5, 0, 0
	})
	control := batch(t, 1, func(s *record.BatchSpec, _ []record.Record) { s.Control = true })
	zstd := batch(t, 1, func(s *record.BatchSpec, _ []record.Record) { s.Codec = record.Zstd })
	old := append([]byte{}, ok...)
	old[16] = 1
	future := batch(t, 2, func(_ *record.BatchSpec, r []record.Record) {
		r[1].Timestamp = time.Now().Add(48 * time.Hour).UnixMilli()
	})
	for _, c := range []struct {
		name    string
		topic   *metastore.Topic
		p       int32
		version int16
		acks    int16
		b       []byte
		want    *kerr.Error
		records int // named in the reply
	}{
		{"fine", topic, 0, 13, 1, ok, nil, 0},
		{"flipped bit", topic, 0, 9, 1, flipped, kerr.CorruptMessage, 0},
		{"no records", topic, 0, 9, 1, []byte{}, kerr.InvalidRecord, 0},
		{"null records", topic, 0, 9, 1, nil, kerr.InvalidRecord, 0},
		{"two batches", topic, 0, 9, 1, append(append([]byte{}, ok...), ok...), kerr.InvalidRecord, 0},
		{"old format", topic, 0, 9, 1, old, kerr.InvalidRecord, 0},
		{"control batch", topic, 0, 9, 1, control, kerr.InvalidRecord, 0},
		{"too large", topic, 0, 9, 1, batch(t, 100), kerr.MessageTooLarge, 0},
		{"zstd too early", topic, 0, 6, 1, zstd, kerr.UnsupportedCompressionType, 0},
		{"zstd", topic, 0, 7, 1, zstd, nil, 0},
		{"transactional", topic, 0, 9, 1, txn, kerr.TransactionalIDAuthorizationFailed, 0},
		{"timestamp ahead", topic, 0, 9, 1, future, kerr.InvalidTimestamp, 1},
		{"acks 2", topic, 0, 9, 2, ok, kerr.InvalidRequiredAcks, 0},
		{"acks -2", topic, 0, 9, -2, ok, kerr.InvalidRequiredAcks, 0},
		{"no such partition", topic, 1, 9, 1, ok, kerr.UnknownTopicOrPartition, 0},
		{"negative partition", topic, -1, 9, 1, ok, kerr.UnknownTopicOrPartition, 0},
		{"no such topic", &metastore.Topic{Name: "absent"}, 0, 12, 1, ok, kerr.UnknownTopicOrPartition, 0},
		{"no such id", &metastore.Topic{ID: record.TopicID{1}}, 0, 13, 1, ok, kerr.UnknownTopicID, 0},
		{"illegal name", &metastore.Topic{Name: "a b"}, 0, 9, 1, ok, kerr.UnknownTopicOrPartition, 0},
		{"sequence gap", topic, 0, 9, 1, batch(t, 1, producer(77, 0, 5)), kerr.OutOfOrderSequenceNumber, 0},
	} {
		resp := ask[*kmsg.ProduceResponse](t, produceRequest(c.topic, c.version, c.acks, producePart(c.p, append([]byte{}, c.b...))))
		got := resp.Topics[0].Partitions[0]
		wantCode(t, c.name, got.ErrorCode, c.want)
		if c.want != nil && (got.BaseOffset != -1 || got.LogAppendTime != -1) {
			t.Errorf("%s: a failed partition has base offset %d, append time %d", c.name, got.BaseOffset, got.LogAppendTime)
		}
		if len(got.ErrorRecords) != c.records {
			t.Errorf("%s: %d records are named, want %d", c.name, len(got.ErrorRecords), c.records)
		}
		if c.records > 0 && (got.ErrorRecords[0].RelativeOffset != 1 || got.ErrorMessage == nil || got.LogStartOffset != 0) {
			t.Errorf("%s: got %+v", c.name, got)
		}
	}
	if shared.meta.Image().Topics["absent"] != nil {
		t.Error("produce created a topic")
	}
}

func TestProduceDuplicatePartitions(t *testing.T) {
	topic := makeTopic(t, 2)
	resp := ask[*kmsg.ProduceResponse](t, produceRequest(topic, 13, 1, producePart(0, batch(t, 1)), producePart(0, batch(t, 1)), producePart(1, batch(t, 1))))
	got := resp.Topics[0].Partitions
	wantCode(t, "first", got[0].ErrorCode, kerr.InvalidRequest)
	wantCode(t, "second", got[1].ErrorCode, kerr.InvalidRequest)
	wantCode(t, "other", got[2].ErrorCode, nil)
	if end := shared.Get(topic.Name, 0).State().LogEnd; end != 0 {
		t.Errorf("%d records were written", end)
	}
}

func TestProduceInternalTopic(t *testing.T) {
	if err := shared.ensureOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	topic := shared.meta.Image().Topics[offsetsTopic]
	resp := ask[*kmsg.ProduceResponse](t, produceRequest(topic, 13, 1, producePart(0, batch(t, 1))))
	wantCode(t, "internal", resp.Topics[0].Partitions[0].ErrorCode, kerr.InvalidTopicException)
}

func TestProduceWithoutAcks(t *testing.T) {
	topic := makeTopic(t, 1)
	if got := serve(t, shared.api, "x", produceRequest(topic, 13, 0, producePart(0, batch(t, 3)))); got.resp != nil || got.closed {
		t.Errorf("got %+v", got)
	}
	if end := shared.Get(topic.Name, 0).State().LogEnd; end != 3 {
		t.Errorf("log end is %d", end)
	}
	got := serve(t, shared.api, "x", produceRequest(topic, 13, 0, producePart(9, batch(t, 3))))
	if got.resp != nil || !got.closed || !strings.Contains(got.reason, "UNKNOWN_TOPIC_OR_PARTITION") {
		t.Errorf("got %+v", got)
	}
}

func TestProduceTransactionalID(t *testing.T) {
	topic := makeTopic(t, 1)
	req := produceRequest(topic, 9, -1, producePart(0, batch(t, 1)))
	req.TransactionID = kmsg.StringPtr("tx")
	got := ask[*kmsg.ProduceResponse](t, req).Topics[0].Partitions[0]
	wantCode(t, "transactional id", got.ErrorCode, kerr.UnsupportedVersion)
	if got.ErrorMessage == nil || !strings.Contains(*got.ErrorMessage, "transactions are not supported yet") {
		t.Errorf("message %v", got.ErrorMessage)
	}
}

func TestProduceLogAppendTime(t *testing.T) {
	topic := makeTopic(t, 1, "message.timestamp.type", "LogAppendTime")
	before := time.Now().UnixMilli()
	got := ask[*kmsg.ProduceResponse](t, produceRequest(topic, 13, -1, producePart(0, batch(t, 1)))).Topics[0].Partitions[0]
	if got.ErrorCode != 0 || got.LogAppendTime < before || got.LogAppendTime > time.Now().UnixMilli() {
		t.Errorf("got %+v", got)
	}
}

func TestProduceDuplicateGivesTheFirstOffset(t *testing.T) {
	topic := makeTopic(t, 1)
	write(t, topic, 0, 4)
	id := ask[*kmsg.InitProducerIDResponse](t, &kmsg.InitProducerIDRequest{Version: 4, ProducerID: -1, ProducerEpoch: -1}).ProducerID
	if first, again := write(t, topic, 0, 2, producer(id, 0, 0)), write(t, topic, 0, 2, producer(id, 0, 0)); first != 4 || again != 4 {
		t.Errorf("offsets %d and %d, want 4 and 4", first, again)
	}
	if next := write(t, topic, 0, 1, producer(id, 0, 2)); next != 6 {
		t.Errorf("next offset %d, want 6", next)
	}
}

func TestProduceAfterDeleteRecords(t *testing.T) {
	topic := makeTopic(t, 1)
	write(t, topic, 0, 5)
	if got := deleteRecordsOf(t, topic.Name, 0, 3); got.LowWatermark != 3 || got.ErrorCode != 0 {
		t.Fatalf("got %+v", got)
	}
	got := ask[*kmsg.ProduceResponse](t, produceRequest(topic, 13, 1, producePart(0, batch(t, 1)))).Topics[0].Partitions[0]
	if got.BaseOffset != 5 || got.LogStartOffset != 3 {
		t.Errorf("got %+v", got)
	}
}

func deleteRecordsRequest(topic string, p int32, offset int64) *kmsg.DeleteRecordsRequest {
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Version = 2
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewDeleteRecordsRequestTopicPartition()
	rp.Partition, rp.Offset = p, offset
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func deleteRecordsOf(t *testing.T, topic string, p int32, offset int64) kmsg.DeleteRecordsResponseTopicPartition {
	t.Helper()
	return ask[*kmsg.DeleteRecordsResponse](t, deleteRecordsRequest(topic, p, offset)).Topics[0].Partitions[0]
}

// Where the broker's defaults contradict a topic's own configs the topic goes on
// without them, here too.
func TestDeleteRecordsWithDefaultsThatDoNotFit(t *testing.T) {
	topic := makeTopic(t, 1, "remote.storage.enable", "true", "retention.ms", "1000000")
	write(t, topic, 0, 5)
	deps := shared.deps
	deps.Config = configured(t, "log.local.retention.ms", "2000000", "remote.log.storage.system.enable", "true")
	if _, err := topicconfig.Parse(topic.Configs, deps.Config().TopicDefaults()); err == nil {
		t.Fatal("the defaults fit")
	}
	a := New(Config{BrokerID: testBroker}, deps)
	req := deleteRecordsRequest(topic.Name, 0, 3)
	if got := askOf[*kmsg.DeleteRecordsResponse](t, a, req).Topics[0].Partitions[0]; got.LowWatermark != 3 || got.ErrorCode != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestDeleteRecords(t *testing.T) {
	if err := shared.ensureOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	topic := makeTopic(t, 1)
	write(t, topic, 0, 5)
	kept := makeTopic(t, 1, "cleanup.policy", "")
	for _, c := range []struct {
		topic  string
		p      int32
		offset int64
		low    int64
		want   *kerr.Error
	}{
		{topic.Name, 0, 2, 2, nil},
		{topic.Name, 0, 1, 2, nil}, // below the low watermark is fine
		{topic.Name, 0, 6, -1, kerr.OffsetOutOfRange},
		{topic.Name, 0, -2, -1, kerr.OffsetOutOfRange},
		{topic.Name, 0, -1, 5, nil}, // the high watermark
		{topic.Name, 1, 0, -1, kerr.UnknownTopicOrPartition},
		{"absent", 0, 0, -1, kerr.UnknownTopicOrPartition},
		{kept.Name, 0, 0, -1, kerr.PolicyViolation},
		{offsetsTopic, 0, 0, -1, kerr.InvalidTopicException},
	} {
		got := deleteRecordsOf(t, c.topic, c.p, c.offset)
		wantCode(t, c.topic, got.ErrorCode, c.want)
		if got.LowWatermark != c.low {
			t.Errorf("%s to %d: low watermark %d, want %d", c.topic, c.offset, got.LowWatermark, c.low)
		}
	}
}

// laggard is a partition whose high watermark moves when the test says so.
type laggard struct {
	fn       chan func(error)
	canceled chan struct{}
}

func (l *laggard) AwaitHighWatermark(_ record.Offset, fn func(error)) func() {
	l.fn <- fn
	return func() { close(l.canceled) }
}

// acks=all is answered when the last partition is there, or when time is up;
// a partition that is not there then has no offset.
func TestProduceAwaitsTheHighWatermark(t *testing.T) {
	for _, c := range []struct {
		name    string
		timeout int32
		settle  func(fn func(error))
		want    *kerr.Error
	}{
		{"in time", 60_000, func(fn func(error)) { fn(nil) }, nil},
		{"closed", 60_000, func(fn func(error)) { fn(errors.New("closed")) }, kerr.NotLeaderForPartition},
		{"too late", 1, func(func(error)) {}, kerr.RequestTimedOut},
	} {
		req := produceRequest(&metastore.Topic{Name: "x"}, 9, -1)
		req.TimeoutMillis = c.timeout
		replies := make(chan wire.Reply, 2)
		l := &laggard{fn: make(chan func(error), 1), canceled: make(chan struct{})}
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		resp.Topics = []kmsg.ProduceResponseTopic{{Partitions: []kmsg.ProduceResponseTopicPartition{{BaseOffset: 5}}}}
		p := &produceCall{a: shared.api, c: &call{out: func(r wire.Reply) { replies <- r }}, req: req, resp: resp,
			waits: []produceWait{{part: l, end: 6}}}
		p.await()
		fn := <-l.fn
		c.settle(fn)
		got := (<-replies).Body.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		wantCode(t, c.name, got.ErrorCode, c.want)
		if want := int64(5); c.want == nil && got.BaseOffset != want || c.want != nil && got.BaseOffset != -1 {
			t.Errorf("%s: base offset %d", c.name, got.BaseOffset)
		}
		if c.want == kerr.RequestTimedOut {
			<-l.canceled
		}
		fn(nil) // a late call changes nothing
		select {
		case <-replies:
			t.Errorf("%s: answered twice", c.name)
		default:
		}
	}
}
