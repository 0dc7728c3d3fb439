package clients

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func one(i int) []rec {
	return []rec{{value: fmt.Append(nil, i), millis: someTime + int64(i)}}
}

func several(from, n int) []rec {
	var out []rec
	for i := range n {
		out = append(out, one(from+i)...)
	}
	return out
}

func (w *wire) producerID() int64 {
	w.t.Helper()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.ProducerID, req.ProducerEpoch = 4, -1, -1
	resp := ask[*kmsg.InitProducerIDResponse](w, req)
	wantCode(w.t, "InitProducerId", resp.ErrorCode, nil)
	if resp.ProducerID < 0 || resp.ProducerEpoch != 0 {
		w.t.Fatalf("producer %d with epoch %d", resp.ProducerID, resp.ProducerEpoch)
	}
	return resp.ProducerID
}

func TestInitProducerID(t *testing.T) {
	w := dial(t)
	seen := map[int64]bool{}
	for v := int16(0); v <= 5; v++ {
		for range 300 {
			req := kmsg.NewPtrInitProducerIDRequest()
			req.Version, req.ProducerID, req.ProducerEpoch = v, -1, -1
			resp := ask[*kmsg.InitProducerIDResponse](w, req)
			wantCode(t, "InitProducerId", resp.ErrorCode, nil)
			if seen[resp.ProducerID] || resp.ProducerID < 0 || resp.ProducerEpoch != 0 {
				t.Fatalf("version %d gives producer %d (seen: %v) with epoch %d", v, resp.ProducerID, seen[resp.ProducerID], resp.ProducerEpoch)
			}
			seen[resp.ProducerID] = true
		}
	}
	for _, c := range []struct {
		id    int64
		epoch int16
	}{{7, -1}, {-1, 0}} {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.Version, req.ProducerID, req.ProducerEpoch = 4, c.id, c.epoch
		resp := ask[*kmsg.InitProducerIDResponse](w, req)
		wantCode(t, "half of id and epoch", resp.ErrorCode, kerr.InvalidRequest)
		if resp.ProducerID != -1 || resp.ProducerEpoch != -1 {
			t.Errorf("a failed InitProducerId names producer %d, epoch %d", resp.ProducerID, resp.ProducerEpoch)
		}
	}
}

func TestIdempotentSequences(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1)
	id := w.producerID()
	of := func(seq, n int) batch { return batch{producer: id, sequence: int32(seq), recs: several(seq, n)} }

	wantFailed(t, "a producer that begins with 1", w.produce(topic, of(1, 1)), kerr.OutOfOrderSequenceNumber)
	for i := range 7 {
		wantWritten(t, fmt.Sprint("batch ", i), w.produce(topic, of(2*i, 2)), int64(2*i))
	}
	for i := 2; i < 7; i++ {
		wantWritten(t, fmt.Sprint("again batch ", i), w.produce(topic, of(2*i, 2)), int64(2*i))
	}
	wantFailed(t, "the sixth from the end", w.produce(topic, of(2, 2)), kerr.OutOfOrderSequenceNumber)
	wantFailed(t, "a gap", w.produce(topic, of(15, 1)), kerr.OutOfOrderSequenceNumber)
	wantFailed(t, "half of a known batch", w.produce(topic, of(13, 1)), kerr.OutOfOrderSequenceNumber)
	wantFailed(t, "a known batch's start but longer", w.produce(topic, of(12, 3)), kerr.OutOfOrderSequenceNumber)
	wantWritten(t, "the next in order", w.produce(topic, of(14, 1)), 14)

	bumped := batch{producer: id, epoch: 1, sequence: 1, recs: one(15)}
	wantFailed(t, "a new epoch that begins with 1", w.produce(topic, bumped), kerr.OutOfOrderSequenceNumber)
	bumped.sequence = 0
	wantWritten(t, "a new epoch", w.produce(topic, bumped), 15)
	wantFailed(t, "the old epoch", w.produce(topic, of(15, 1)), kerr.InvalidProducerEpoch)
	wantWritten(t, "the new epoch's batch again", w.produce(topic, bumped), 15)

	// Another partition or producer has its own sequences.
	other := batch{producer: w.producerID(), sequence: 0, recs: one(16)}
	wantWritten(t, "another producer", w.produce(topic, other), 16)

	var got []rec
	for _, b := range w.fetchAt(topic, 0) {
		for range b.NumRecords {
			got = append(got, rec{})
		}
	}
	if len(got) != 17 {
		t.Fatalf("the log has %d records, want 17", len(got))
	}
}

func TestAcks(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1)
	for i, acks := range []int16{-1, 1} {
		resp := ask[*kmsg.ProduceResponse](w, produceRequest(9, acks, topic, 0, plain(one(i)...).bytes()))
		wantWritten(t, fmt.Sprint("acks ", acks), resp.Topics[0].Partitions[0], int64(i))
	}
	for _, acks := range []int16{2, -2, 100} {
		resp := ask[*kmsg.ProduceResponse](w, produceRequest(9, acks, topic, 0, plain(one(9)...).bytes()))
		wantFailed(t, fmt.Sprint("acks ", acks), resp.Topics[0].Partitions[0], kerr.InvalidRequiredAcks)
	}

	// Nothing is answered to acks=0: the next reply is that of the next request.
	w.send(produceRequest(9, 0, topic, 0, plain(one(2)...).bytes()))
	if id := w.topicID(topic); id == [16]byte{} {
		t.Error("no topic id")
	}
	// Nor is it known when it is durable, which is when it can be read.
	eventually(t, "the batch with acks=0", func() error {
		if n := len(w.fetchAt(topic, 0)); n != 3 {
			return fmt.Errorf("%d batches, want 3", n)
		}
		return nil
	})
	// An error can only be told by closing.
	w.send(produceRequest(9, 0, "no-such-topic", 0, plain(one(2)...).bytes()))
	w.wantClosed()
}

func TestFailedPartitionsBesideGoodOnes(t *testing.T) {
	w, topic := dial(t), newTopic(t, 2)
	for v := int16(3); v <= 12; v++ {
		req := produceRequest(v, -1, topic, 0, plain(one(int(v))...).bytes())
		addProduce(req, topic+"-not", 0, plain(one(1)...).bytes())
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = 7, plain(one(1)...).bytes()
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, p)
		resp := ask[*kmsg.ProduceResponse](w, req)
		if len(resp.Topics) != 2 || len(resp.Topics[0].Partitions) != 2 {
			t.Fatalf("version %d: %+v", v, resp)
		}
		ok := resp.Topics[0].Partitions[0]
		if v < 5 {
			ok.LogStartOffset = 0 // not in the reply
		}
		wantWritten(t, fmt.Sprint("version ", v), ok, int64(v-3))
		wantFailed(t, "no such partition", resp.Topics[0].Partitions[1], kerr.UnknownTopicOrPartition)
		wantFailed(t, "no such topic", resp.Topics[1].Partitions[0], kerr.UnknownTopicOrPartition)
	}
	// By id.
	req := produceRequest(13, -1, "", 0, plain(one(1)...).bytes())
	req.Topics[0].TopicID = [16]byte{1, 2, 3}
	resp := ask[*kmsg.ProduceResponse](w, req)
	wantFailed(t, "no such id", resp.Topics[0].Partitions[0], kerr.UnknownTopicID)
	req.Topics[0].TopicID = w.topicID(topic)
	resp = ask[*kmsg.ProduceResponse](w, req)
	wantWritten(t, "by id", resp.Topics[0].Partitions[0], 10)
	if resp.Topics[0].TopicID != req.Topics[0].TopicID {
		t.Error("the reply has another id")
	}
}

func TestBatchesThatAreRefused(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1, "max.message.bytes", "2000")
	good := plain(several(0, 3)...).bytes()
	broken := bytes.Clone(good)
	broken[len(broken)-1] ^= 1
	oldMagic := bytes.Clone(good)
	oldMagic[16] = 1
	large := plain(rec{value: make([]byte, 2000), millis: someTime}).bytes()
	skewed := plain(several(0, 3)...)
	skewed.deltaSkew = 1
	control := plain(rec{key: []byte{0, 0, 0, 0}, value: make([]byte, 6), millis: someTime})
	control.attrs = 1 << 5
	codec := plain(several(0, 3)...)
	codec.attrs = 5
	garbage := plain(several(0, 3)...)
	garbage.attrs, garbage.compress = 4, func([]byte) []byte { return []byte("not zstd") }
	for _, c := range []struct {
		what  string
		bytes []byte
		want  []*kerr.Error
	}{
		{"a bad checksum", broken, []*kerr.Error{kerr.CorruptMessage}},
		{"too large", large, []*kerr.Error{kerr.MessageTooLarge}},
		{"two batches", append(bytes.Clone(good), good...), []*kerr.Error{kerr.InvalidRecord}},
		{"offset deltas with a gap", skewed.bytes(), []*kerr.Error{kerr.InvalidRecord}},
		{"a control batch", control.bytes(), []*kerr.Error{kerr.InvalidRecord}},
		{"no batch", []byte{}, []*kerr.Error{kerr.InvalidRecord}},
		{"an old format", oldMagic, []*kerr.Error{kerr.InvalidRecord}},
		{"an unknown codec", codec.bytes(), []*kerr.Error{kerr.InvalidRecord, kerr.CorruptMessage, kerr.UnsupportedCompressionType}},
		{"broken compression", garbage.bytes(), []*kerr.Error{kerr.InvalidRecord, kerr.CorruptMessage}},
		{"cut short", good[:len(good)-3], []*kerr.Error{kerr.InvalidRecord}},
	} {
		p := w.produceBytes(topic, c.bytes)
		var as *kerr.Error
		for _, e := range c.want {
			if e.Code == p.ErrorCode {
				as = e
			}
		}
		if as == nil {
			t.Errorf("%s: got %v, want one of %v", c.what, kerr.ErrorForCode(p.ErrorCode), c.want)
			continue
		}
		wantFailed(t, c.what, p, as)
	}
	// zstd needs version 7.
	z := plain(several(0, 3)...)
	z.attrs, z.compress = 4, func(b []byte) []byte { e, _ := zstd.NewWriter(nil); return e.EncodeAll(b, nil) }
	resp := ask[*kmsg.ProduceResponse](w, produceRequest(6, -1, topic, 0, z.bytes()))
	wantFailed(t, "zstd in version 6", resp.Topics[0].Partitions[0], kerr.UnsupportedCompressionType)
	// Nothing of all this is in the log.
	wantWritten(t, "zstd", w.produce(topic, z), 0)
	wantWritten(t, "after the refused ones", w.produceBytes(topic, good), 3)
}

func TestLargestBatch(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1) // 1,048,588 bytes by default
	overhead := len(plain(rec{value: make([]byte, 1<<20-100), millis: someTime}).bytes()) - (1<<20 - 100)
	fits := make([]byte, 1048588-overhead)
	wantWritten(t, "exactly max.message.bytes", w.produce(topic, plain(rec{value: fits, millis: someTime})), 0)
	wantFailed(t, "one byte more", w.produce(topic, plain(rec{value: append(fits, 1), millis: someTime})), kerr.MessageTooLarge)
	// The size counts as compressed.
	z := plain(rec{value: make([]byte, 3<<20), millis: someTime})
	z.attrs, z.compress = 1, gzipped
	wantWritten(t, "compressed", w.produce(topic, z), 1)
	got := w.fetchAt(topic, 0)
	if len(got) != 2 || len(got[0].Records) != 1048588-61 {
		t.Fatalf("%d batches", len(got))
	}
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	zw.Write(b)
	zw.Close()
	return out.Bytes()
}

func TestIllegalTopicNames(t *testing.T) {
	w := dial(t)
	for _, name := range []string{"", ".", "..", "a b", "a/b", "ä", "a:b", strings.Repeat("x", 250)} {
		for _, v := range []int16{3, 8, 9, 12} {
			resp := ask[*kmsg.ProduceResponse](w, produceRequest(v, -1, name, 0, plain(one(1)...).bytes()))
			wantFailed(t, fmt.Sprintf("produce v%d to %q", v, name), resp.Topics[0].Partitions[0], kerr.UnknownTopicOrPartition)
		}
		for v := int16(4); v <= 12; v++ {
			req := kmsg.NewPtrMetadataRequest()
			req.Version, req.AllowAutoTopicCreation = v, true
			mt := kmsg.NewMetadataRequestTopic()
			mt.Topic = kmsg.StringPtr(name)
			req.Topics = append(req.Topics, mt)
			resp := ask[*kmsg.MetadataResponse](w, req)
			wantCode(t, fmt.Sprintf("metadata v%d of %q", v, name), resp.Topics[0].ErrorCode, kerr.InvalidTopicException)
		}
	}
	all := kmsg.NewPtrMetadataRequest()
	all.Version = 12
	for _, mt := range ask[*kmsg.MetadataResponse](w, all).Topics {
		if mt.Topic == nil || *mt.Topic == "" || strings.ContainsAny(*mt.Topic, " /ä:") || len(*mt.Topic) > 249 {
			t.Errorf("topic %v was made", mt.Topic)
		}
	}
}

func TestLogAppendTime(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1, "message.timestamp.type", "LogAppendTime")
	id := w.producerID()
	before := time.Now().UnixMilli()
	b := batch{producer: id, recs: []rec{{value: []byte("a"), millis: 1}, {value: []byte("b"), millis: 99}}}
	p := w.produce(topic, b)
	after := time.Now().UnixMilli()
	wantWritten(t, "produce", p, 0)
	if p.LogAppendTime < before || p.LogAppendTime > after {
		t.Fatalf("append time %d, want one of %d to %d", p.LogAppendTime, before, after)
	}
	if again := w.produce(topic, b); again.BaseOffset != 0 || again.LogAppendTime != p.LogAppendTime {
		t.Errorf("the duplicate's reply says offset %d, append time %d", again.BaseOffset, again.LogAppendTime)
	}
	got := w.fetchAt(topic, 0)
	if len(got) != 1 || got[0].Attributes&(1<<3) == 0 || got[0].MaxTimestamp != p.LogAppendTime {
		t.Fatalf("got %+v, want the time %d in the batch", got, p.LogAppendTime)
	}
	cl := franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	n := 0
	for n < 2 {
		fs := cl.PollFetches(limit(t))
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			n++
			if r.Timestamp.UnixMilli() != p.LogAppendTime || r.Attrs.TimestampType() != 1 {
				t.Errorf("record at offset %d has timestamp %v, type %d", r.Offset, r.Timestamp, r.Attrs.TimestampType())
			}
		})
	}
	// With CreateTime the reply has none.
	name := topic + "-create"
	makeTopic(t, name, 1)
	if p := w.produce(name, plain(one(1)...)); p.LogAppendTime != -1 {
		t.Errorf("append time %d of a topic with CreateTime", p.LogAppendTime)
	}
}

func TestRecompression(t *testing.T) {
	for i, codec := range []string{"uncompressed", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			w := dial(t)
			topic := newTopic(t, 1, "compression.type", codec)
			recs := sample(40)
			b := plain(recs...)
			b.attrs, b.compress = 1, gzipped
			wantWritten(t, "gzip", w.produce(topic, b), 0)
			wantWritten(t, "none", w.produce(topic, plain(recs...)), 40)
			for _, rb := range w.fetchAt(topic, 0) {
				if int(rb.Attributes&7) != i || rb.NumRecords != 40 {
					t.Errorf("batch at offset %d: codec %d, want %d; %d records", rb.FirstOffset, rb.Attributes&7, i, rb.NumRecords)
				}
			}
			wantRecords(t, franzRead(t, topic, 80), append(append([]rec{}, recs...), recs...))
		})
	}
}

func TestTimestampLimits(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1, "message.timestamp.before.max.ms", "60000", "message.timestamp.after.max.ms", "60000")
	now := time.Now().UnixMilli()
	at := func(ms int64) rec { return rec{value: []byte("x"), millis: ms} }
	for _, c := range []struct {
		what string
		recs []rec
		bad  []int32
	}{
		{"too old", []rec{at(now), at(now - 120_000)}, []int32{1}},
		{"too new", []rec{at(now + 120_000), at(now), at(now + 180_000)}, []int32{0, 2}},
	} {
		p := w.produce(topic, plain(c.recs...))
		wantFailed(t, c.what, p, kerr.InvalidTimestamp)
		var bad []int32
		for _, e := range p.ErrorRecords {
			bad = append(bad, e.RelativeOffset)
		}
		if fmt.Sprint(bad) != fmt.Sprint(c.bad) || p.ErrorMessage == nil {
			t.Errorf("%s: records %v are named, want %v; message %v", c.what, bad, c.bad, p.ErrorMessage)
		}
	}
	wantWritten(t, "within", w.produce(topic, plain(at(now), at(now-30_000), at(now+30_000))), 0)
}
