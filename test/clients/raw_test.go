package clients

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// wire is a connection on which the test writes requests as it likes.
type wire struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	sent int32 // correlation id of the last request
	got  int32 // correlation id of the last reply
}

func dial(t testing.TB) *wire {
	t.Helper()
	c := must[net.Conn](t)(net.Dial("tcp", broker))
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(50 * time.Second))
	return &wire{t: t, conn: c, r: bufio.NewReader(c)}
}

var formatter = kmsg.NewRequestFormatter(kmsg.FormatterClientID("clients-test"))

func (w *wire) send(req kmsg.Request) {
	w.t.Helper()
	w.sent++
	if _, err := w.conn.Write(formatter.AppendRequest(nil, req, w.sent)); err != nil {
		w.t.Fatal(err)
	}
}

// receive reads the next reply, which must be that of the request sent as
// the number-th.
func (w *wire) receive(req kmsg.Request, number int32) kmsg.Response {
	w.t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(w.r, size[:]); err != nil {
		w.t.Fatalf("no reply to %T: %v", req, err)
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(w.r, body); err != nil {
		w.t.Fatal(err)
	}
	if id := int32(binary.BigEndian.Uint32(body)); id != number {
		w.t.Fatalf("reply to request %d, want the one to %d", id, number)
	}
	body = body[4:]
	resp := req.ResponseKind()
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		if body[0] != 0 {
			w.t.Fatalf("tags in the header of a reply")
		}
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		w.t.Fatalf("%T does not decode: %v", resp, err)
	}
	return resp
}

// wantClosed fails unless the broker closes the connection without a word.
func (w *wire) wantClosed() {
	w.t.Helper()
	b, err := io.ReadAll(w.r)
	if len(b) > 0 {
		w.t.Fatalf("the broker sent %d bytes, want none", len(b))
	}
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		w.t.Fatal("the broker did not close the connection")
	}
}

// ask sends one request and gives its reply.
func ask[R kmsg.Response](w *wire, req kmsg.Request) R {
	w.t.Helper()
	w.send(req)
	return w.receive(req, w.sent).(R)
}

func wantCode(t testing.TB, what string, got int16, want *kerr.Error) {
	t.Helper()
	code := int16(0)
	if want != nil {
		code = want.Code
	}
	if got != code {
		t.Fatalf("%s: got error %d (%v), want %d (%v)", what, got, kerr.ErrorForCode(got), code, kerr.ErrorForCode(code))
	}
}

// batch builds a record batch (magic 2) from what the test sets.
type batch struct {
	producer  int64 // with epoch and sequence; 0 epoch and sequence are real
	epoch     int16
	sequence  int32
	noProd    bool // no producer: -1, -1, -1
	attrs     int16
	recs      []rec
	deltaSkew int32 // added to the last record's offset delta
	compress  func([]byte) []byte
}

// plain is a batch of uncompressed records without a producer.
func plain(recs ...rec) batch { return batch{noProd: true, recs: recs} }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (b batch) bytes() []byte {
	rb := kmsg.NewRecordBatch()
	rb.PartitionLeaderEpoch, rb.Magic, rb.Attributes = -1, 2, b.attrs
	rb.ProducerID, rb.ProducerEpoch, rb.FirstSequence = b.producer, b.epoch, b.sequence
	if b.noProd {
		rb.ProducerID, rb.ProducerEpoch, rb.FirstSequence = -1, -1, -1
	}
	rb.NumRecords, rb.LastOffsetDelta = int32(len(b.recs)), int32(len(b.recs)-1)
	var body []byte
	for i, r := range b.recs {
		if i == 0 {
			rb.FirstTimestamp, rb.MaxTimestamp = r.millis, r.millis
		}
		rb.MaxTimestamp = max(rb.MaxTimestamp, r.millis)
		kr := kmsg.NewRecord()
		kr.TimestampDelta64, kr.OffsetDelta, kr.Key, kr.Value = r.millis-rb.FirstTimestamp, int32(i), r.key, r.value
		if i == len(b.recs)-1 {
			kr.OffsetDelta += b.deltaSkew
		}
		for _, h := range r.headers {
			kh := kmsg.NewHeader()
			kh.Key, kh.Value = h.key, h.value
			kr.Headers = append(kr.Headers, kh)
		}
		kr.Length = int32(len(kr.AppendTo(nil)) - 1) // a length of 0 takes one byte
		body = kr.AppendTo(body)
	}
	if b.compress != nil {
		body = b.compress(body)
	}
	rb.Records = body
	out := rb.AppendTo(nil)
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-12))
	binary.BigEndian.PutUint32(out[17:], crc32.Checksum(out[21:], castagnoli))
	return out
}

// parseBatches splits what a fetch gave and checks every checksum; a batch
// that was cut at the end is left out.
func parseBatches(t testing.TB, b []byte) []kmsg.RecordBatch {
	t.Helper()
	var out []kmsg.RecordBatch
	for len(b) >= 61 {
		n := 12 + int(binary.BigEndian.Uint32(b[8:]))
		if n > len(b) {
			break
		}
		rb := kmsg.NewRecordBatch()
		if err := rb.ReadFrom(b[:n]); err != nil {
			t.Fatal(err)
		}
		if sum := crc32.Checksum(b[21:n], castagnoli); uint32(rb.CRC) != sum {
			t.Fatalf("batch at offset %d has checksum %x, want %x", rb.FirstOffset, uint32(rb.CRC), sum)
		}
		out = append(out, rb)
		b = b[n:]
	}
	return out
}

// produceRequest is one for one partition by topic name.
func produceRequest(version, acks int16, topic string, partition int32, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = version, acks, 10_000
	addProduce(req, topic, partition, records)
	return req
}

func addProduce(req *kmsg.ProduceRequest, topic string, partition int32, records []byte) {
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, records
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.Partitions = topic, []kmsg.ProduceRequestTopicPartition{p}
	req.Topics = append(req.Topics, t)
}

// produce sends one batch to partition 0 with acks=all and gives its part of
// the reply.
func (w *wire) produce(topic string, b batch) kmsg.ProduceResponseTopicPartition {
	w.t.Helper()
	return w.produceBytes(topic, b.bytes())
}

func (w *wire) produceBytes(topic string, b []byte) kmsg.ProduceResponseTopicPartition {
	w.t.Helper()
	resp := ask[*kmsg.ProduceResponse](w, produceRequest(9, -1, topic, 0, b))
	if len(resp.Topics) != 1 || resp.Topics[0].Topic != topic || len(resp.Topics[0].Partitions) != 1 {
		w.t.Fatalf("the reply names other partitions than the request: %+v", resp)
	}
	return resp.Topics[0].Partitions[0]
}

// wantFailed checks the reply for a partition that was not written.
func wantFailed(t testing.TB, what string, p kmsg.ProduceResponseTopicPartition, want *kerr.Error) {
	t.Helper()
	wantCode(t, what, p.ErrorCode, want)
	if p.BaseOffset != -1 || p.LogAppendTime != -1 {
		t.Fatalf("%s: base offset %d and append time %d of a failed partition, want -1", what, p.BaseOffset, p.LogAppendTime)
	}
}

// wantWritten checks the reply for a partition that was.
func wantWritten(t testing.TB, what string, p kmsg.ProduceResponseTopicPartition, offset int64) {
	t.Helper()
	wantCode(t, what, p.ErrorCode, nil)
	if p.BaseOffset != offset || p.LogStartOffset != 0 {
		t.Fatalf("%s: base offset %d, log start %d; want %d and 0", what, p.BaseOffset, p.LogStartOffset, offset)
	}
}

type want struct {
	partition int32
	offset    int64
}

// fetchRequest is one by topic name, without a session.
func fetchRequest(version int16, topic string, wants ...want) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = version, 0, 0, 50<<20
	req.SessionEpoch = -1
	if len(wants) == 0 {
		return req
	}
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	for _, want := range wants {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = want.partition, want.offset, 10<<20
		p.CurrentLeaderEpoch, p.LastFetchedEpoch = -1, -1
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	return req
}

// partsOf maps a fetch reply's partitions of its one topic.
func partsOf(t testing.TB, resp *kmsg.FetchResponse) map[int32]kmsg.FetchResponseTopicPartition {
	t.Helper()
	out := map[int32]kmsg.FetchResponseTopicPartition{}
	for _, tp := range resp.Topics {
		for _, p := range tp.Partitions {
			if _, ok := out[p.Partition]; ok {
				t.Fatalf("partition %d is named twice", p.Partition)
			}
			out[p.Partition] = p
		}
	}
	return out
}

// fetchAt reads partition 0 from an offset and gives its batches.
func (w *wire) fetchAt(topic string, offset int64) []kmsg.RecordBatch {
	w.t.Helper()
	resp := ask[*kmsg.FetchResponse](w, fetchRequest(12, topic, want{0, offset}))
	p := partsOf(w.t, resp)[0]
	wantCode(w.t, "fetch", p.ErrorCode, nil)
	return parseBatches(w.t, p.RecordBatches)
}

// topicID asks for a topic's id.
func (w *wire) topicID(topic string) [16]byte {
	w.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = &topic
	req.Topics = append(req.Topics, mt)
	resp := ask[*kmsg.MetadataResponse](w, req)
	wantCode(w.t, "metadata of "+topic, resp.Topics[0].ErrorCode, nil)
	return resp.Topics[0].TopicID
}
