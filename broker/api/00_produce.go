package api

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// Produce, versions 3–13.
//
//	 3  transactional id; record batches v2 only, one per partition (KIP-98)
//	 5  log start offset in the reply
//	 7  zstd (KIP-110)
//	 8  record errors and messages in the reply (KIP-467)
//	 9  flexible
//	10  current leader and its address in the reply (KIP-951)
//	12  partitions join a transaction implicitly (KIP-890); no transactions yet
//	13  topic ids instead of names (KIP-516)
func (a *API) produce(c *call) {
	req := c.req.Body.(*kmsg.ProduceRequest)
	resp := response[*kmsg.ProduceResponse](c)
	p := &produceCall{a: a, c: c, req: req, resp: resp, img: a.deps.Meta.Image()}
	p.appendAll()
	if req.Acks == -1 {
		p.await()
		return
	}
	p.finish()
}

type produceCall struct {
	a    *API
	c    *call
	req  *kmsg.ProduceRequest
	resp *kmsg.ProduceResponse
	img  *metastore.Image

	places map[partitionKey]int // of topics in the reply; nil while there is one
	waits  []produceWait        // what acks=all waits for
	fails  string               // the first error, for acks=0

	mu    sync.Mutex // guards what follows, waits[i].settled and resp
	left  int
	timer *time.Timer
}

// awaiter is the part of a partition that acks=all needs.
type awaiter interface {
	AwaitHighWatermark(o record.Offset, fn func(error)) (cancel func())
}

type produceWait struct {
	part      awaiter
	end       record.Offset // wanted high watermark
	topic, at int           // where the partition stands in the reply
	settled   bool
}

type partitionKey struct {
	topic string
	id    record.TopicID
	p     int32
}

func (p *produceCall) appendAll() {
	total := 0
	for i := range p.req.Topics {
		total += len(p.req.Topics[i].Partitions)
	}
	seen := p.partitionsNamed(total)
	refused := p.refused()
	p.waits = make([]produceWait, 0, total)
	p.resp.Topics = make([]kmsg.ProduceResponseTopic, 0, len(p.req.Topics))
	for i := range p.req.Topics {
		t := &p.req.Topics[i]
		place := p.place(t)
		out := &p.resp.Topics[place]
		first := len(out.Partitions)
		out.Partitions = append(out.Partitions, make([]kmsg.ProduceResponseTopicPartition, len(t.Partitions))...)
		topic, topicErr := p.topic(t)
		for j := range t.Partitions {
			in, po := &t.Partitions[j], &out.Partitions[first+j]
			*po = kmsg.NewProduceResponseTopicPartition()
			po.Partition = in.Partition
			po.BaseOffset, po.LogAppendTime, po.LogStartOffset = -1, -1, -1
			err := cmp.Or(refused, topicErr)
			if err == nil && seen[partitionKey{t.Topic, t.TopicID, in.Partition}] > 1 {
				err = fail(kerr.InvalidRequest, "the request names partition %d of the topic more than once; none of its records were written", in.Partition)
			}
			if err == nil {
				err = p.append(topic, in, place, first+j)
			}
			if err != nil {
				p.failed(topic, po, err)
			}
		}
	}
}

// partitionsNamed counts how often the request names each partition; nil when
// there is only one to name.
func (p *produceCall) partitionsNamed(total int) map[partitionKey]int {
	if total <= 1 {
		return nil
	}
	seen := make(map[partitionKey]int, total)
	for i := range p.req.Topics {
		t := &p.req.Topics[i]
		for j := range t.Partitions {
			seen[partitionKey{t.Topic, t.TopicID, t.Partitions[j].Partition}]++
		}
	}
	return seen
}

// place gives the index of a topic in the reply: one, however often the
// request names the topic.
func (p *produceCall) place(t *kmsg.ProduceRequestTopic) int {
	key := partitionKey{topic: t.Topic, id: t.TopicID}
	at, ok := p.places[key]
	if !ok {
		at = len(p.resp.Topics)
		out := kmsg.NewProduceResponseTopic()
		out.Topic, out.TopicID = t.Topic, t.TopicID
		p.resp.Topics = append(p.resp.Topics, out)
		if len(p.req.Topics) > 1 {
			if p.places == nil {
				p.places = make(map[partitionKey]int, len(p.req.Topics))
			}
			p.places[key] = at
		}
	}
	return at
}

// refused looks at how each partition's records begin, until one decides, and
// gives what Kafka then answers for all partitions of the request.
func (p *produceCall) refused() error {
	for i := range p.req.Topics {
		for _, part := range p.req.Topics[i].Partitions {
			h, err := record.ParseHeader(part.Records)
			switch {
			case err == nil && h.IsTransactional():
				if p.req.TransactionID == nil { // nobody may write to a transaction without a name
					return fail(kerr.TransactionalIDAuthorizationFailed, "a transactional batch needs the transactional id in its request")
				}
				return nil
			case errors.Is(err, record.ErrMagic) && uint8(record.Batch(part.Records).Magic()) > 2: // not 0 or 1 either
				return fail(kerr.CorruptMessage, "the batch for partition %d: %v", part.Partition, err)
			}
		}
	}
	return nil
}

// topic resolves the topic that a part of the request is for.
func (p *produceCall) topic(t *kmsg.ProduceRequestTopic) (*metastore.Topic, error) {
	var topic *metastore.Topic
	if p.req.Version >= 13 {
		if topic = p.img.TopicIDs[t.TopicID]; topic == nil {
			return nil, kerr.UnknownTopicID
		}
	} else {
		if topic = p.img.Topics[t.Topic]; topic == nil {
			return nil, kerr.UnknownTopicOrPartition
		}
	}
	// Kafka lets a client of this id write there, and nobody else.
	if topic.Internal && p.c.req.ClientID != "__admin_client" {
		return topic, fail(kerr.InvalidTopicException, "topic %s is internal and takes no records from clients", topic.Name)
	}
	return topic, nil
}

// append writes one partition's batch and notes what acks=all waits for. The
// partition's answer is at that place of the topic's in the reply.
func (p *produceCall) append(topic *metastore.Topic, in *kmsg.ProduceRequestTopicPartition, place, at int) error {
	part, err := p.a.lead(topic, in.Partition)
	if err != nil {
		return err
	}
	if err := p.checkBatch(in.Records); err != nil {
		return err
	}
	if p.req.Acks < -1 || p.req.Acks > 1 {
		return kerr.InvalidRequiredAcks
	}
	out := &p.resp.Topics[place].Partitions[at]
	if p.req.Acks == -1 {
		if err := part.MayAppend(); err != nil {
			return err
		}
	}
	res, err := part.Append(in.Records, partition.Client)
	if err != nil {
		if tellsLogStart(err) {
			out.LogStartOffset = int64(part.LogStart())
		}
		return err
	}
	out.BaseOffset = int64(res.BaseOffset)
	out.LogAppendTime = res.LogAppendTime
	out.LogStartOffset = int64(res.LogStartOffset)
	if p.req.Acks == -1 {
		p.waits = append(p.waits, produceWait{part: part, end: res.LastOffset + 1, topic: place, at: at})
	}
	return nil
}

// tellsLogStart says whether the answer to a batch that was refused has the
// log's start: not, as in Kafka, where its bytes are damaged, or too many, or
// the partition could not be asked.
func tellsLogStart(err error) bool {
	switch codeOf(err) {
	case kerr.CorruptMessage.Code, kerr.MessageTooLarge.Code, kerr.RecordListTooLarge.Code,
		kerr.KafkaStorageError.Code, kerr.NotLeaderForPartition.Code, kerr.UnknownTopicOrPartition.Code:
		return false
	}
	return !errors.Is(err, partition.ErrNotOneBatch)
}

// checkBatch looks for what depends on the request, not on the partition.
func (p *produceCall) checkBatch(b []byte) error {
	if len(b) == 0 {
		return fail(kerr.InvalidRecord, "the request holds no record batch for the partition")
	}
	h, err := record.ParseHeader(b)
	if err != nil {
		return nil // the partition says what is wrong with it
	}
	if p.req.TransactionID != nil {
		return fail(kerr.UnsupportedVersion, noTransactions)
	}
	if h.Codec() == record.Zstd && p.req.Version < 7 {
		return fail(kerr.UnsupportedCompressionType, "zstd needs Produce version 7; this is version %d", p.req.Version)
	}
	return nil
}

const noTransactions = "transactions are not supported yet by this broker: produce without a transactional id"

// failed fills in the reply for a partition that was not written.
func (p *produceCall) failed(topic *metastore.Topic, out *kmsg.ProduceResponseTopicPartition, err error) {
	out.ErrorCode = codeOf(err)
	out.BaseOffset, out.LogAppendTime = -1, -1
	var bad *partition.InvalidRecords
	var own *apiError
	switch {
	case errors.As(err, &bad):
		out.ErrorMessage = messageOf(err)
		for _, r := range bad.Records {
			er := kmsg.NewProduceResponseTopicPartitionErrorRecord()
			er.RelativeOffset = r.Index
			er.ErrorMessage = kmsg.StringPtr(r.Message)
			out.ErrorRecords = append(out.ErrorRecords, er)
		}
	case errors.As(err, &own):
		out.ErrorMessage = messageOf(err)
	default:
		var ke *kerr.Error
		if errors.As(err, &ke) && error(ke) != err {
			out.ErrorMessage = messageOf(err)
		} else if ke == nil {
			p.a.failed("produce failed", "partition", out.Partition, "error", err)
		}
	}
	if p.fails == "" {
		name := ""
		if topic != nil {
			name = topic.Name
		}
		p.fails = fmt.Sprintf("partition %s-%d: %v", name, out.Partition, err)
	}
	if out.ErrorCode == kerr.NotLeaderForPartition.Code && p.req.Version >= 10 && topic != nil {
		p.tellLeader(topic.ID, out)
	}
}

// tellLeader says who leads now (KIP-951), which may not be who led when the
// request came: an epoch that the client knows already tells it nothing.
func (p *produceCall) tellLeader(id record.TopicID, out *kmsg.ProduceResponseTopicPartition) {
	img := p.a.deps.Meta.Image()
	topic := img.TopicIDs[id]
	if topic == nil || int(out.Partition) >= len(topic.Partitions) {
		return
	}
	mp := topic.Partitions[out.Partition]
	out.CurrentLeader.LeaderID, out.CurrentLeader.LeaderEpoch = int32(mp.Leader), int32(mp.Epoch)
	p.addBroker(img, mp.Leader)
}

func (p *produceCall) addBroker(img *metastore.Image, id record.BrokerID) {
	b, ok := img.Brokers[id]
	if !ok {
		return
	}
	for _, have := range p.resp.Brokers {
		if have.NodeID == int32(id) {
			return
		}
	}
	nb := kmsg.NewProduceResponseBroker()
	nb.NodeID, nb.Host, nb.Port, nb.Rack = int32(id), b.Host, b.Port, rack(b)
	p.resp.Brokers = append(p.resp.Brokers, nb)
}

// await answers once every partition's high watermark has passed what was
// appended, or with REQUEST_TIMED_OUT for those that have not in time.
func (p *produceCall) await() {
	if len(p.waits) == 0 {
		p.finish()
		return
	}
	p.left = len(p.waits)
	cancels := make([]func(), len(p.waits))
	for i := range p.waits {
		cancels[i] = p.waits[i].part.AwaitHighWatermark(p.waits[i].end, func(err error) { p.settle(i, err) })
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == 0 {
		return
	}
	p.timer = time.AfterFunc(max(0, time.Duration(p.req.TimeoutMillis)*time.Millisecond), func() {
		for i := range p.waits {
			cancels[i]()
			p.settle(i, kerr.RequestTimedOut)
		}
	})
}

// settle notes that the i-th wait is over; the last one sends the reply.
func (p *produceCall) settle(i int, err error) {
	p.mu.Lock()
	w := &p.waits[i]
	if w.settled {
		p.mu.Unlock()
		return
	}
	w.settled = true
	if err != nil && !errors.Is(err, kerr.RequestTimedOut) && !errors.Is(err, kerr.NotEnoughReplicasAfterAppend) {
		err = fmt.Errorf("%w: %w", kerr.NotLeaderForPartition, err)
	}
	if err != nil {
		p.failed(nil, &p.resp.Topics[w.topic].Partitions[w.at], err)
	}
	p.left--
	last := p.left == 0
	if last && p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Unlock()
	if last {
		p.finish()
	}
}

// finish sends the reply. Without acks there is none: an error can only be
// told by closing the connection.
func (p *produceCall) finish() {
	if p.req.Acks != 0 {
		p.c.send(p.resp)
		return
	}
	if p.fails != "" {
		p.c.reply(wire.Reply{Close: true, Reason: "produce without acks failed: " + p.fails})
		return
	}
	p.c.reply(wire.Reply{})
}
