package clients

import (
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestOversizedFirstBatchIsFetched(t *testing.T) {
	w, topic := dial(t), newTopic(t, 2)
	big := plain(rec{value: make([]byte, 50_000), millis: someTime}).bytes()
	for p := range int32(2) {
		for range 2 {
			resp := ask[*kmsg.ProduceResponse](w, produceRequest(9, -1, topic, p, slices.Clone(big)))
			wantCode(t, "produce", resp.Topics[0].Partitions[0].ErrorCode, nil)
		}
	}
	for v := int16(4); v <= 12; v++ {
		// The reply's limit is small, or the partition's, or both.
		for _, limits := range [][2]int32{{1, 10 << 20}, {10 << 20, 1}, {1, 1}, {0, 0}, {70_000, 10 << 20}} {
			req := fetchRequest(v, topic, want{0, 0}, want{1, 0})
			req.MaxBytes = limits[0]
			for i := range req.Topics[0].Partitions {
				req.Topics[0].Partitions[i].PartitionMaxBytes = limits[1]
			}
			resp := ask[*kmsg.FetchResponse](w, req)
			parts := partsOf(t, resp)
			if b := parseBatches(t, parts[0].RecordBatches); len(b) != 1 || b[0].FirstOffset != 0 || len(b[0].Records) < 50_000 {
				t.Fatalf("version %d, limits %v: %d whole batches of partition 0, want one", v, limits, len(b))
			}
			if b := parseBatches(t, parts[1].RecordBatches); len(b) != 0 {
				t.Fatalf("version %d, limits %v: %d batches of partition 1, want none", v, limits, len(b))
			}
		}
	}
}

func TestFetchErrors(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1)
	for i := range 10 {
		wantWritten(t, "produce", w.produce(topic, plain(one(i)...)), int64(i))
	}
	dr := kmsg.NewPtrDeleteRecordsRequest()
	dr.Version, dr.TimeoutMillis = 2, 5000
	dt := kmsg.NewDeleteRecordsRequestTopic()
	dt.Topic = topic
	dp := kmsg.NewDeleteRecordsRequestTopicPartition()
	dp.Offset = 4
	dt.Partitions = append(dt.Partitions, dp)
	dr.Topics = append(dr.Topics, dt)
	if p := ask[*kmsg.DeleteRecordsResponse](w, dr).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.LowWatermark != 4 {
		t.Fatalf("DeleteRecords: %+v", p)
	}
	for _, c := range []struct {
		what   string
		offset int64
		epoch  int32
		code   *kerr.Error
	}{
		{"at the start", 4, -1, nil},
		{"at the start with the right epoch", 4, 0, nil},
		{"at the end", 10, -1, nil},
		{"before the start", 3, -1, kerr.OffsetOutOfRange},
		{"after the end", 11, -1, kerr.OffsetOutOfRange},
		{"negative", -1, -1, kerr.OffsetOutOfRange},
		{"an epoch to come", 4, 7, kerr.UnknownLeaderEpoch},
	} {
		req := fetchRequest(12, topic, want{0, c.offset})
		req.Topics[0].Partitions[0].CurrentLeaderEpoch = c.epoch
		req.IsolationLevel = 1
		p := partsOf(t, ask[*kmsg.FetchResponse](w, req))[0]
		wantCode(t, c.what, p.ErrorCode, c.code)
		if c.code != nil { // as with Kafka, an error tells no offsets
			continue
		}
		if p.HighWatermark != 10 || p.LogStartOffset != 4 || p.LastStableOffset != 10 {
			t.Errorf("%s: high watermark %d, last stable offset %d, log start %d", c.what, p.HighWatermark, p.LastStableOffset, p.LogStartOffset)
		}
	}
	req := fetchRequest(12, topic, want{3, 0})
	wantCode(t, "no such partition", partsOf(t, ask[*kmsg.FetchResponse](w, req))[3].ErrorCode, kerr.UnknownTopicOrPartition)
	req = fetchRequest(12, topic+"-not", want{0, 0})
	wantCode(t, "no such topic", partsOf(t, ask[*kmsg.FetchResponse](w, req))[0].ErrorCode, kerr.UnknownTopicOrPartition)
	req = fetchRequest(13, "", want{0, 0})
	req.Topics[0].TopicID = [16]byte{9}
	wantCode(t, "no such id", partsOf(t, ask[*kmsg.FetchResponse](w, req))[0].ErrorCode, kerr.UnknownTopicID)
}

// TestLongPoll waits for records with waits far longer than the connection's
// deadline: only their coming can end it.
func TestLongPoll(t *testing.T) {
	w, writer, topic := dial(t), dial(t), newTopic(t, 1)
	req := fetchRequest(12, topic, want{0, 0})
	req.MaxWaitMillis, req.MinBytes = 10*60_000, 1
	w.send(req)
	wantWritten(t, "produce", writer.produce(topic, plain(one(0)...)), 0)
	p := partsOf(t, w.receive(req, w.sent).(*kmsg.FetchResponse))[0]
	if b := parseBatches(t, p.RecordBatches); len(b) != 1 || p.HighWatermark != 1 {
		t.Fatalf("%d batches, high watermark %d", len(b), p.HighWatermark)
	}

	// MinBytes: only both of two batches are enough.
	size := len(plain(one(1)...).bytes())
	req = fetchRequest(12, topic, want{0, 1})
	req.MaxWaitMillis, req.MinBytes = 10*60_000, int32(size+1)
	w.send(req)
	wantWritten(t, "produce", writer.produce(topic, plain(one(1)...)), 1)
	wantWritten(t, "produce", writer.produce(topic, plain(one(2)...)), 2)
	p = partsOf(t, w.receive(req, w.sent).(*kmsg.FetchResponse))[0]
	if b := parseBatches(t, p.RecordBatches); len(b) != 2 {
		t.Fatalf("%d batches, want both", len(b))
	}

	// The wait ends although MinBytes never come, with what is there.
	req = fetchRequest(12, topic, want{0, 1})
	req.MaxWaitMillis, req.MinBytes = 50, 1<<30
	if b := w.parse(ask[*kmsg.FetchResponse](w, req)); len(b) != 2 {
		t.Fatalf("%d batches after the wait, want 2", len(b))
	}

	// An error does not wait.
	req = fetchRequest(12, topic, want{0, 99})
	req.MaxWaitMillis, req.MinBytes = 10*60_000, 1
	wantCode(t, "out of range", partsOf(t, ask[*kmsg.FetchResponse](w, req))[0].ErrorCode, kerr.OffsetOutOfRange)
}

func (w *wire) parse(resp *kmsg.FetchResponse) []kmsg.RecordBatch {
	w.t.Helper()
	p := partsOf(w.t, resp)[0]
	wantCode(w.t, "fetch", p.ErrorCode, nil)
	return parseBatches(w.t, p.RecordBatches)
}

// session drives one fetch session by name (version 12) or id (17).
type session struct {
	w     *wire
	topic string
	tid   [16]byte
	byID  bool
	id    int32
	epoch int32
}

func (s *session) request(wants ...want) *kmsg.FetchRequest {
	version := int16(12)
	if s.byID {
		version = 17
	}
	req := fetchRequest(version, s.topic, wants...)
	req.SessionID, req.SessionEpoch = s.id, s.epoch
	if s.byID {
		for i := range req.Topics {
			req.Topics[i].Topic, req.Topics[i].TopicID = "", s.tid
		}
	}
	return req
}

// next sends the session's next request, which must not fail as a whole, and
// gives the partitions that its reply names.
func (s *session) next(forget []int32, wants ...want) map[int32]kmsg.FetchResponseTopicPartition {
	s.w.t.Helper()
	req := s.request(wants...)
	if forget != nil {
		ft := kmsg.NewFetchRequestForgottenTopic()
		ft.Partitions = forget
		if ft.Topic = s.topic; s.byID {
			ft.Topic, ft.TopicID = "", s.tid
		}
		req.ForgottenTopics = append(req.ForgottenTopics, ft)
	}
	resp := ask[*kmsg.FetchResponse](s.w, req)
	wantCode(s.w.t, "session", resp.ErrorCode, nil)
	if resp.SessionID == 0 || s.id != 0 && resp.SessionID != s.id {
		s.w.t.Fatalf("session %d, want %d", resp.SessionID, s.id)
	}
	s.id = resp.SessionID
	s.epoch++
	for _, tp := range resp.Topics {
		if s.byID && tp.TopicID != s.tid || !s.byID && tp.Topic != s.topic {
			s.w.t.Fatalf("the reply names topic %q, id %x", tp.Topic, tp.TopicID)
		}
	}
	return partsOf(s.w.t, resp)
}

func wantParts(t testing.TB, what string, got map[int32]kmsg.FetchResponseTopicPartition, want ...int32) {
	t.Helper()
	var have []int32
	for p := range got {
		have = append(have, p)
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Fatalf("%s: the reply names partitions %v, want %v", what, have, want)
	}
}

func TestFetchSessions(t *testing.T) {
	for _, byID := range []bool{false, true} {
		t.Run(fmt.Sprint("by-id-", byID), func(t *testing.T) {
			w, topic := dial(t), newTopic(t, 4)
			s := &session{w: w, topic: topic, byID: byID, tid: w.topicID(topic)}
			put := func(p int32, offset int64) {
				t.Helper()
				resp := ask[*kmsg.ProduceResponse](w, produceRequest(9, -1, topic, p, plain(one(1)...).bytes()))
				wantWritten(t, "produce", resp.Topics[0].Partitions[0], offset)
			}
			put(0, 0)
			wantParts(t, "the first names all", s.next(nil, want{0, 0}, want{1, 0}, want{2, 0}), 0, 1, 2)
			wantParts(t, "records again, since the offset stays", s.next(nil), 0)
			wantParts(t, "nothing new", s.next(nil, want{0, 1}))
			put(1, 0)
			got := s.next(nil)
			wantParts(t, "new records", got, 1)
			if got[1].HighWatermark != 1 || len(parseBatches(t, got[1].RecordBatches)) != 1 {
				t.Fatalf("got %+v", got[1])
			}
			wantParts(t, "a partition more", s.next(nil, want{1, 1}, want{3, 0}), 3)
			wantParts(t, "one less", s.next([]int32{2}))
			put(2, 0)
			put(3, 0)
			wantParts(t, "the forgotten one is not named", s.next(nil), 3)
			got = s.next(nil, want{3, 5})
			wantParts(t, "an error", got, 3)
			wantCode(t, "beyond the end", got[3].ErrorCode, kerr.OffsetOutOfRange)
			wantParts(t, "the error stays", s.next(nil), 3)
			wantParts(t, "and goes", s.next(nil, want{3, 1}), 3)
			wantParts(t, "and is not told again", s.next(nil))

			// A moved log start is told.
			put(0, 1)
			wantParts(t, "new records", s.next(nil), 0)
			deleteTo(t, topic, 0, 1)
			got = s.next(nil, want{0, 2})
			wantParts(t, "the log start moved", got, 0)
			if got[0].LogStartOffset != 1 {
				t.Fatalf("log start %d, want 1", got[0].LogStartOffset)
			}

			// Requests that do not fit the session fail as a whole.
			for _, c := range []struct {
				what      string
				id, epoch int32
				code      *kerr.Error
			}{
				{"a skipped epoch", s.id, s.epoch + 1, kerr.InvalidFetchSessionEpoch},
				{"an old epoch", s.id, s.epoch - 1, kerr.InvalidFetchSessionEpoch},
				{"an unknown session", s.id ^ 0x5555, s.epoch, kerr.FetchSessionIDNotFound},
				{"no session", 0, 5, kerr.FetchSessionIDNotFound},
			} {
				req := s.request()
				req.SessionID, req.SessionEpoch = c.id, c.epoch
				resp := ask[*kmsg.FetchResponse](w, req)
				wantCode(t, c.what, resp.ErrorCode, c.code)
				if len(resp.Topics) != 0 {
					t.Fatalf("%s: partitions are answered", c.what)
				}
			}
			other := *s
			other.byID = !byID
			wantCode(t, "the other kind of names", ask[*kmsg.FetchResponse](w, other.request()).ErrorCode, kerr.FetchSessionTopicIDError)
			wantParts(t, "the session goes on", s.next(nil))

			// Epoch -1 with the id ends it, and is answered in full.
			req := s.request(want{0, 2}, want{1, 1})
			req.SessionEpoch = -1
			resp := ask[*kmsg.FetchResponse](w, req)
			wantCode(t, "the last of the session", resp.ErrorCode, nil)
			wantParts(t, "the last of the session", partsOf(t, resp), 0, 1)
			if resp.SessionID != 0 {
				t.Fatalf("session %d, want none", resp.SessionID)
			}
			wantCode(t, "an ended session", ask[*kmsg.FetchResponse](w, s.request()).ErrorCode, kerr.FetchSessionIDNotFound)

			// Without a session, all is named each time.
			for range 2 {
				wantParts(t, "without a session", partsOf(t, ask[*kmsg.FetchResponse](w, func() *kmsg.FetchRequest {
					req := s.request(want{0, 2}, want{1, 1})
					req.SessionID, req.SessionEpoch = 0, -1
					return req
				}())), 0, 1)
			}
		})
	}
}

// TestSessionOverTopicRecreation: a session that holds the id of a topic that
// is gone is told so, each time, and also when the name is there again.
func TestSessionOverTopicRecreation(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1)
	s := &session{w: w, topic: topic, byID: true, tid: w.topicID(topic)}
	wantParts(t, "first", s.next(nil, want{0, 0}), 0)
	for _, r := range must[deleted](t)(admin(t).DeleteTopics(limit(t), topic)) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	gone := func(what string, codes ...*kerr.Error) {
		t.Helper()
		got := s.next(nil)
		wantParts(t, what, got, 0)
		for _, c := range codes {
			if got[0].ErrorCode == c.Code {
				return
			}
		}
		t.Fatalf("%s: got %v, want one of %v", what, kerr.ErrorForCode(got[0].ErrorCode), codes)
	}
	gone("deleted", kerr.UnknownTopicID, kerr.UnknownTopicOrPartition)
	gone("still deleted", kerr.UnknownTopicID, kerr.UnknownTopicOrPartition)
	makeTopic(t, topic, 1)
	gone("made again", kerr.UnknownTopicID, kerr.InconsistentTopicID)
	// A new request with the old id.
	req := fetchRequest(17, "", want{0, 0})
	req.Topics[0].TopicID = s.tid
	wantCode(t, "the old id", partsOf(t, ask[*kmsg.FetchResponse](w, req))[0].ErrorCode, kerr.UnknownTopicID)
	preq := produceRequest(13, -1, "", 0, plain(one(1)...).bytes())
	preq.Topics[0].TopicID = s.tid
	wantFailed(t, "produce to the old id", ask[*kmsg.ProduceResponse](w, preq).Topics[0].Partitions[0], kerr.UnknownTopicID)
	if id := w.topicID(topic); id == s.tid {
		t.Fatal("the new topic has the old id")
	}
	s2 := &session{w: w, topic: topic, byID: true, tid: w.topicID(topic)}
	wantParts(t, "the new one", s2.next(nil, want{0, 0}), 0)
}
