package clients

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type deleted = kadm.DeleteTopicResponses

func deleteTo(t testing.TB, topic string, partition int32, offset int64) {
	t.Helper()
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, partition, offset, -1)
	resp := must[kadm.DeleteRecordsResponses](t)(admin(t).DeleteRecords(limit(t), offsets))
	if err := resp.Error(); err != nil {
		t.Fatal(err)
	}
}

type listed struct {
	offset, millis int64
	epoch          int32
}

func listRequest(version int16, topic string, ts int64) *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID, req.TimeoutMillis = version, -1, 10_000
	lt := kmsg.NewListOffsetsRequestTopic()
	lt.Topic = topic
	lp := kmsg.NewListOffsetsRequestTopicPartition()
	lp.Timestamp, lp.CurrentLeaderEpoch = ts, -1
	lt.Partitions = append(lt.Partitions, lp)
	req.Topics = append(req.Topics, lt)
	return req
}

func (w *wire) list(version int16, topic string, ts int64) (listed, int16) {
	w.t.Helper()
	p := ask[*kmsg.ListOffsetsResponse](w, listRequest(version, topic, ts)).Topics[0].Partitions[0]
	return listed{p.Offset, p.Timestamp, p.LeaderEpoch}, p.ErrorCode
}

func (w *wire) wantListed(what string, version int16, topic string, ts int64, want listed) {
	w.t.Helper()
	got, code := w.list(version, topic, ts)
	wantCode(w.t, what, code, nil)
	if version < 4 {
		want.epoch = -1
	}
	if got != want {
		w.t.Fatalf("%s, version %d: got %+v, want %+v", what, version, got, want)
	}
}

func TestListOffsets(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1)
	none := listed{-1, -1, -1}
	for v := int16(1); v <= 11; v++ {
		w.wantListed("end of an empty topic", v, topic, -1, listed{0, -1, 0})
		if got, code := w.list(v, topic, -2); code != 0 || got.offset != 0 || got.millis != -1 {
			t.Fatalf("start of an empty topic: %+v, %d", got, code)
		}
		w.wantListed("a timestamp in an empty topic", v, topic, someTime, none)
		if v >= 7 {
			w.wantListed("greatest timestamp of an empty topic", v, topic, -3, none)
		}
	}
	// Two batches; the greatest timestamp is in the middle of the first.
	at := func(ms int64) rec { return rec{value: []byte("x"), millis: someTime + ms} }
	wantWritten(t, "produce", w.produce(topic, plain(at(10), at(30), at(99), at(20))), 0)
	z := plain(at(40), at(50), at(60))
	z.attrs, z.compress = 1, gzipped
	wantWritten(t, "produce", w.produce(topic, z), 4)
	for v := int16(1); v <= 11; v++ {
		w.wantListed("end", v, topic, -1, listed{7, -1, 0})
		w.wantListed("start", v, topic, -2, listed{0, -1, 0})
		for ts, want := range map[int64]listed{
			0: {0, someTime + 10, 0}, someTime + 10: {0, someTime + 10, 0}, someTime + 11: {1, someTime + 30, 0}, someTime + 30: {1, someTime + 30, 0},
			someTime + 31: {2, someTime + 99, 0}, someTime + 99: {2, someTime + 99, 0}, someTime + 100: none, 1 << 60: none,
		} {
			w.wantListed(fmt.Sprint("timestamp ", ts-someTime), v, topic, ts, want)
		}
		if v >= 7 {
			w.wantListed("greatest timestamp", v, topic, -3, listed{2, someTime + 99, 0})
		}
		if v >= 8 {
			w.wantListed("start on local disk", v, topic, -4, listed{0, -1, 0})
		}
		if v >= 9 {
			w.wantListed("last tiered of a topic that is not", v, topic, -5, none)
		}
		for ts, since := range map[int64]int16{-3: 7, -4: 8, -5: 9, -6: 11, -7: 99} {
			if v < since {
				if _, code := w.list(v, topic, ts); code != kerr.UnsupportedVersion.Code {
					t.Errorf("timestamp %d in version %d: error %v, want UNSUPPORTED_VERSION", ts, v, kerr.ErrorForCode(code))
				}
			}
		}
	}
	deleteTo(t, topic, 0, 3)
	w.wantListed("start after DeleteRecords", 11, topic, -2, listed{3, -1, 0})
	w.wantListed("timestamp after DeleteRecords", 11, topic, someTime, listed{3, someTime + 20, 0})

	req := listRequest(11, topic, -1)
	req.Topics[0].Partitions[0].CurrentLeaderEpoch = 5
	wantCode(t, "an epoch to come", ask[*kmsg.ListOffsetsResponse](w, req).Topics[0].Partitions[0].ErrorCode, kerr.UnknownLeaderEpoch)
	if got, code := w.list(11, topic+"-not", -1); code != kerr.UnknownTopicOrPartition.Code || got != none {
		t.Errorf("no such topic: %+v, %v", got, kerr.ErrorForCode(code))
	}
}

func TestListOffsetsOfATieredTopic(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1, "remote.storage.enable", "true", "internal.segment.bytes", "5000", "local.retention.bytes", "1", "retention.ms", "-1")
	none := listed{-1, -1, -1}
	w.wantListed("last tiered of none", 11, topic, -5, none)
	const n = 20
	for i := range n {
		wantWritten(t, "produce", w.produce(topic, plain(rec{value: make([]byte, 1000), millis: someTime + int64(i)})), int64(i))
	}
	var status struct {
		Partitions []struct {
			RemoteEnd  int64 `json:"remoteEnd"`
			LocalStart int64 `json:"localStart"`
		} `json:"partitions"`
	}
	eventually(t, "sealed segments are only remote", func() error {
		resp, err := http.Get("http://" + brokerHTTP + "/v1/tier/" + topic)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
			return err
		}
		if p := status.Partitions; len(p) != 1 || p[0].RemoteEnd < n-5 || p[0].LocalStart != p[0].RemoteEnd {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	end := status.Partitions[0].RemoteEnd
	w.wantListed("start", 11, topic, -2, listed{0, -1, 0})
	w.wantListed("start on local disk", 11, topic, -4, listed{end, -1, 0})
	w.wantListed("last tiered", 11, topic, -5, listed{end - 1, -1, 0})
	w.wantListed("first to upload", 11, topic, -6, listed{end, -1, 0})
	w.wantListed("end", 11, topic, -1, listed{n, -1, 0})
	w.wantListed("greatest timestamp", 11, topic, -3, listed{n - 1, someTime + n - 1, 0})
	for i := range int64(n) {
		w.wantListed("a timestamp", 11, topic, someTime+i, listed{i, someTime + i, 0})
	}
	for _, l := range libraries {
		for i, r := range l.read(t, topic, n) {
			if r.millis != someTime+int64(i) || len(r.value) != 1000 {
				t.Fatalf("%s: record %d is %v", l.name, i, r)
			}
		}
	}
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1)
	for i := range 3 {
		wantWritten(t, "produce", w.produce(topic, plain(one(i)...)), int64(i))
	}
	for v := int16(2); v <= 4; v++ {
		for _, c := range []struct {
			what        string
			current, of int32
			partition   int32
			code        *kerr.Error
			wantEpoch   int32
			wantEnd     int64
		}{
			{"the present epoch", -1, 0, 0, nil, 0, 3},
			{"with the right current epoch", 0, 0, 0, nil, 0, 3},
			{"an epoch to come", -1, 5, 0, nil, -1, -1},
			{"no epoch", -1, -1, 0, nil, -1, -1},
			{"a wrong current epoch", 7, 0, 0, kerr.UnknownLeaderEpoch, -1, -1},
			{"no such partition", -1, 0, 9, kerr.UnknownTopicOrPartition, -1, -1},
		} {
			req := kmsg.NewPtrOffsetForLeaderEpochRequest()
			req.Version, req.ReplicaID = v, -1
			et := kmsg.NewOffsetForLeaderEpochRequestTopic()
			et.Topic = topic
			ep := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			ep.Partition, ep.CurrentLeaderEpoch, ep.LeaderEpoch = c.partition, c.current, c.of
			et.Partitions = append(et.Partitions, ep)
			req.Topics = append(req.Topics, et)
			p := ask[*kmsg.OffsetForLeaderEpochResponse](w, req).Topics[0].Partitions[0]
			wantCode(t, c.what, p.ErrorCode, c.code)
			if p.LeaderEpoch != c.wantEpoch || p.EndOffset != c.wantEnd || p.Partition != c.partition {
				t.Errorf("version %d, %s: %+v", v, c.what, p)
			}
		}
	}
}

// coordinator finds the groups' coordinator, as clients do before they ask it
// anything; the first time it may have to be made.
func (w *wire) coordinator(groups ...string) {
	w.t.Helper()
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.Version, req.CoordinatorKeys = 4, groups
	eventually(w.t, "the coordinator is there", func() error {
		for _, c := range ask[*kmsg.FindCoordinatorResponse](w, req).Coordinators {
			if err := kerr.ErrorForCode(c.ErrorCode); err != nil {
				return err
			}
			if addr := net.JoinHostPort(c.Host, fmt.Sprint(c.Port)); addr != broker {
				w.t.Fatalf("the coordinator is at %s, the broker at %s", addr, broker)
			}
		}
		return nil
	})
}

func TestOffsetFetchOfAnUnknownGroup(t *testing.T) {
	w, topic := dial(t), newTopic(t, 1)
	id := w.topicID(topic)
	w.coordinator(topicOf(t), topicOf(t)+"-a", topicOf(t)+"-b")
	for v := int16(1); v <= 7; v++ {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Version, req.Group = v, topicOf(t)
		ft := kmsg.NewOffsetFetchRequestTopic()
		ft.Topic, ft.Partitions = topic, []int32{0, 8}
		req.Topics = append(req.Topics, ft)
		for _, p := range ask[*kmsg.OffsetFetchResponse](w, req).Topics[0].Partitions {
			if p.ErrorCode != 0 || p.Offset != -1 || p.LeaderEpoch != -1 || p.Metadata == nil || *p.Metadata != "" {
				t.Fatalf("version %d: %+v", v, p)
			}
		}
		if v >= 2 {
			req.Topics = nil
			resp := ask[*kmsg.OffsetFetchResponse](w, req)
			if resp.ErrorCode != 0 || len(resp.Topics) != 0 {
				t.Fatalf("version %d, all topics: %+v", v, resp)
			}
		}
	}
	for v := int16(8); v <= 10; v++ {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Version = v
		for _, suffix := range []string{"-a", "-b"} {
			g := kmsg.NewOffsetFetchRequestGroup()
			g.Group, g.MemberEpoch = topicOf(t)+suffix, -1
			if suffix == "-a" {
				ft := kmsg.NewOffsetFetchRequestGroupTopic()
				ft.Topic, ft.TopicID, ft.Partitions = topic, id, []int32{0}
				g.Topics = append(g.Topics, ft)
			}
			req.Groups = append(req.Groups, g)
		}
		resp := ask[*kmsg.OffsetFetchResponse](w, req)
		if len(resp.Groups) != 2 || resp.Groups[0].ErrorCode != 0 || resp.Groups[1].ErrorCode != 0 || len(resp.Groups[1].Topics) != 0 {
			t.Fatalf("version %d: %+v", v, resp)
		}
		p := resp.Groups[0].Topics[0].Partitions[0]
		if p.ErrorCode != 0 || p.Offset != -1 || p.LeaderEpoch != -1 || p.Metadata == nil || *p.Metadata != "" {
			t.Fatalf("version %d: %+v", v, p)
		}
	}
}
