package api

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// Every advertised key has an operation, and the other way round.
func TestTableIsWhole(t *testing.T) {
	seen := map[int16]bool{}
	for _, v := range wire.Supported() {
		seen[v.Key] = true
		if _, ok := operations[v.Key]; !ok {
			t.Errorf("key %d (%s) is advertised and not answered", v.Key, kmsg.NameForKey(v.Key))
		}
	}
	for key := range operations {
		if !seen[key] {
			t.Errorf("key %d (%s) is answered and not advertised", key, kmsg.NameForKey(key))
		}
	}
}

// sweepRequests gives a request of each key that should succeed at any
// version.
func sweepRequests(t testing.TB, key, version int16) kmsg.Request {
	topic := sweepTopic
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	switch r := req.(type) {
	case *kmsg.ProduceRequest:
		*r = *produceRequest(topic, version, 1, producePart(0, batch(t, 2)))
	case *kmsg.FetchRequest:
		*r = *fetchRequest(topic, version, 0)
	case *kmsg.ListOffsetsRequest:
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic.Name
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Timestamp, rp.CurrentLeaderEpoch = -1, -1
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics, r.ReplicaID = append(r.Topics, rt), -1
	case *kmsg.MetadataRequest:
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &topic.Name
		r.Topics = append(r.Topics, rt)
	case *kmsg.OffsetCommitRequest:
		r.Group, r.Generation = "sweep", -1
		rt := kmsg.NewOffsetCommitRequestTopic()
		rt.Topic, rt.TopicID = topic.Name, topic.ID
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Offset, rp.LeaderEpoch = 1, -1
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics = append(r.Topics, rt)
	case *kmsg.OffsetFetchRequest:
		r.Group = "sweep"
		rt := kmsg.NewOffsetFetchRequestTopic()
		rt.Topic, rt.Partitions = topic.Name, []int32{0}
		r.Topics = append(r.Topics, rt)
		rg := kmsg.NewOffsetFetchRequestGroup()
		rg.Group, rg.MemberEpoch = "sweep", -1
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.TopicID, gt.Partitions = topic.Name, topic.ID, []int32{0}
		rg.Topics = append(rg.Topics, gt)
		r.Groups = append(r.Groups, rg)
	case *kmsg.FindCoordinatorRequest:
		r.CoordinatorKey, r.CoordinatorKeys = "sweep", []string{"sweep"}
	case *kmsg.JoinGroupRequest:
		r.Group, r.ProtocolType, r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = "joined", "consumer", 10_000, 10_000
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name = "range"
		r.Protocols = append(r.Protocols, p)
	case *kmsg.HeartbeatRequest:
		r.Group, r.MemberID = "sweep", "nobody"
	case *kmsg.LeaveGroupRequest:
		r.Group, r.MemberID = "sweep", "nobody"
	case *kmsg.SyncGroupRequest:
		r.Group, r.MemberID = "sweep", "nobody"
		r.ProtocolType, r.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	case *kmsg.DescribeGroupsRequest:
		r.Groups, r.IncludeAuthorizedOperations = []string{"sweep"}, true
	case *kmsg.DeleteGroupsRequest:
		r.Groups = []string{"sweep-absent"}
	case *kmsg.OffsetDeleteRequest:
		r.Group = "sweep"
		rt := kmsg.NewOffsetDeleteRequestTopic()
		rt.Topic, rt.Partitions = topic.Name, []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 1}}
		r.Topics = append(r.Topics, rt)
	case *kmsg.ApiVersionsRequest:
		r.ClientSoftwareName, r.ClientSoftwareVersion = "firn-test", "1.0"
	case *kmsg.CreateTopicsRequest:
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = "sweep-new", 1, 1
		r.Topics, r.ValidateOnly, r.TimeoutMillis = append(r.Topics, rt), true, 10_000
	case *kmsg.DeleteTopicsRequest:
		r.TopicNames = []string{"sweep-absent"}
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.Topic = kmsg.StringPtr("sweep-absent")
		r.Topics = append(r.Topics, rt)
	case *kmsg.DeleteRecordsRequest:
		rt := kmsg.NewDeleteRecordsRequestTopic()
		rt.Topic = topic.Name
		rt.Partitions = append(rt.Partitions, kmsg.NewDeleteRecordsRequestTopicPartition())
		r.Topics = append(r.Topics, rt)
	case *kmsg.InitProducerIDRequest:
		r.ProducerID, r.ProducerEpoch = -1, -1
	case *kmsg.OffsetForLeaderEpochRequest:
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = topic.Name
		rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		rp.CurrentLeaderEpoch = -1
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics = append(r.Topics, rt)
	case *kmsg.DescribeConfigsRequest:
		rr := kmsg.NewDescribeConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, topic.Name
		r.Resources, r.IncludeSynonyms, r.IncludeDocumentation = append(r.Resources, rr), true, true
	case *kmsg.CreatePartitionsRequest:
		rt := kmsg.NewCreatePartitionsRequestTopic()
		rt.Topic, rt.Count = topic.Name, 9
		r.Topics, r.ValidateOnly = append(r.Topics, rt), true
	case *kmsg.IncrementalAlterConfigsRequest:
		rr := kmsg.NewIncrementalAlterConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, topic.Name
		r.Resources, r.ValidateOnly = append(r.Resources, rr), true
	case *kmsg.AlterConfigsRequest:
		rr := kmsg.NewAlterConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, topic.Name
		r.Resources, r.ValidateOnly = append(r.Resources, rr), true
	case *kmsg.ListConfigResourcesRequest:
		r.ResourceTypes = []int8{int8(kmsg.ConfigResourceTypeBroker)}
	case *kmsg.DescribeClusterRequest:
		r.IncludeClusterAuthorizedOperations = true
	default:
		adminSweepRequest(req)
	}
	return req
}

var sweepTopic *metastore.Topic

// expect says which code a sweep request is answered with, where not 0.
func expect(key, version int16) *kerr.Error {
	switch {
	case key == 11 && version >= 4:
		return kerr.MemberIDRequired
	case key >= 12 && key <= 14:
		return kerr.UnknownMemberID
	case key == 42:
		return kerr.GroupIDNotFound
	case key == 20:
		return kerr.UnknownTopicOrPartition
	}
	return nil
}

// Every key at every version gives a reply that decodes at that version, with
// the error it should have.
func TestEveryVersion(t *testing.T) {
	sweepTopic = makeTopic(t, 2)
	if err := shared.ensureOffsets(context.Background()); err != nil {
		t.Fatal(err)
	}
	write(t, sweepTopic, 0, 3)
	for _, v := range wire.Supported() {
		first := v.Min
		if v.Key == 0 {
			first = 3 // 0–2 are advertised and refused
		}
		for version := first; version <= v.Max; version++ {
			req := sweepRequests(t, v.Key, version)
			got := serve(t, shared.api, "test", req)
			if got.resp == nil {
				t.Errorf("%T version %d: no reply (%s)", req, version, got.reason)
				continue
			}
			want := expect(v.Key, version)
			if v.Key == 11 && version < 4 {
				leaveAll(t, got.resp.(*kmsg.JoinGroupResponse))
			}
			checkSweep(t, version, got.resp, want)
		}
	}
}

func leaveAll(t *testing.T, r *kmsg.JoinGroupResponse) {
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Version, leave.Group, leave.MemberID = 0, "joined", r.MemberID
	serve(t, shared.api, "test", leave)
}

// checkSweep looks at the fields that make a reply useful at its version.
func checkSweep(t *testing.T, version int16, resp kmsg.Response, want *kerr.Error) {
	name := kmsg.NameForKey(resp.Key())
	bad := func(why string, args ...any) {
		t.Errorf("%s version %d: "+why, append([]any{name, version}, args...)...)
	}
	code := func(c int16) { wantCode(t, name, c, want) }
	switch r := resp.(type) {
	case *kmsg.ProduceResponse:
		p := r.Topics[0].Partitions[0]
		code(p.ErrorCode)
		if p.BaseOffset < 3 || version >= 5 && p.LogStartOffset != 0 || p.LogAppendTime != -1 {
			bad("%+v", p)
		}
		if version >= 13 && record.TopicID(r.Topics[0].TopicID) != sweepTopic.ID || version < 13 && r.Topics[0].Topic != sweepTopic.Name {
			bad("names another topic")
		}
	case *kmsg.FetchResponse:
		p := r.Topics[0].Partitions[0]
		code(p.ErrorCode)
		if len(p.RecordBatches) == 0 || p.HighWatermark < 3 || p.LastStableOffset != p.HighWatermark {
			bad("%+v", p)
		}
		if version >= 13 && record.TopicID(r.Topics[0].TopicID) != sweepTopic.ID || version < 13 && r.Topics[0].Topic != sweepTopic.Name {
			bad("names another topic")
		}
	case *kmsg.ListOffsetsResponse:
		p := r.Topics[0].Partitions[0]
		code(p.ErrorCode)
		if p.Offset < 3 || p.Timestamp != -1 || version >= 4 && p.LeaderEpoch < 0 {
			bad("%+v", p)
		}
	case *kmsg.MetadataResponse:
		code(r.Topics[0].ErrorCode)
		if len(r.Brokers) != 1 || r.Brokers[0].NodeID != testBroker || *r.Topics[0].Topic != sweepTopic.Name || len(r.Topics[0].Partitions) != 2 {
			bad("%+v", r)
		}
		if version >= 2 && r.ClusterID == nil || version >= 1 && r.ControllerID != testBroker || version >= 10 && record.TopicID(r.Topics[0].TopicID) != sweepTopic.ID {
			bad("%+v", r)
		}
	case *kmsg.OffsetCommitResponse:
		code(r.Topics[0].Partitions[0].ErrorCode)
	case *kmsg.OffsetFetchResponse:
		if version < 8 {
			code(r.ErrorCode)
			if got := r.Topics[0].Partitions[0]; got.Offset != 1 {
				bad("offset %d", got.Offset)
			}
			return
		}
		code(r.Groups[0].ErrorCode)
		if got := r.Groups[0].Topics[0].Partitions[0]; got.Offset != 1 {
			bad("offset %d", got.Offset)
		}
		if version >= 10 && record.TopicID(r.Groups[0].Topics[0].TopicID) != sweepTopic.ID {
			bad("names another topic")
		}
	case *kmsg.FindCoordinatorResponse:
		if version >= 4 {
			code(r.Coordinators[0].ErrorCode)
			r.NodeID, r.Host = r.Coordinators[0].NodeID, r.Coordinators[0].Host
		}
		code(r.ErrorCode)
		if r.NodeID != testBroker || r.Host != "firn.test" {
			bad("%+v", r)
		}
	case *kmsg.JoinGroupResponse:
		code(r.ErrorCode)
		if r.MemberID == "" {
			bad("no member id")
		}
	case *kmsg.HeartbeatResponse:
		code(r.ErrorCode)
	case *kmsg.LeaveGroupResponse:
		if version < 3 {
			code(r.ErrorCode)
		}
	case *kmsg.SyncGroupResponse:
		code(r.ErrorCode)
	case *kmsg.DescribeGroupsResponse:
		code(r.Groups[0].ErrorCode)
		if version >= 3 && r.Groups[0].AuthorizedOperations != groupOperations {
			bad("operations %d", r.Groups[0].AuthorizedOperations)
		}
	case *kmsg.ListGroupsResponse:
		code(r.ErrorCode)
	case *kmsg.DeleteGroupsResponse:
		code(r.Groups[0].ErrorCode)
	case *kmsg.OffsetDeleteResponse:
		code(r.ErrorCode)
		code(r.Topics[0].Partitions[0].ErrorCode)
	case *kmsg.ApiVersionsResponse:
		code(r.ErrorCode)
		if len(r.ApiKeys) != len(operations) {
			bad("%d keys", len(r.ApiKeys))
		}
	case *kmsg.CreateTopicsResponse:
		code(r.Topics[0].ErrorCode)
		if version >= 5 && (r.Topics[0].NumPartitions != 1 || len(r.Topics[0].Configs) == 0) {
			bad("%+v", r.Topics[0])
		}
	case *kmsg.DeleteTopicsResponse:
		code(r.Topics[0].ErrorCode)
	case *kmsg.DeleteRecordsResponse:
		code(r.Topics[0].Partitions[0].ErrorCode)
	case *kmsg.InitProducerIDResponse:
		code(r.ErrorCode)
		if r.ProducerEpoch != 0 {
			bad("%+v", r)
		}
	case *kmsg.OffsetForLeaderEpochResponse:
		code(r.Topics[0].Partitions[0].ErrorCode)
	case *kmsg.DescribeConfigsResponse:
		code(r.Resources[0].ErrorCode)
		if len(r.Resources[0].Configs) < 30 {
			bad("%d configs", len(r.Resources[0].Configs))
		}
	case *kmsg.CreatePartitionsResponse:
		code(r.Topics[0].ErrorCode)
	case *kmsg.IncrementalAlterConfigsResponse:
		code(r.Resources[0].ErrorCode)
	case *kmsg.AlterConfigsResponse:
		code(r.Resources[0].ErrorCode)
	case *kmsg.ListConfigResourcesResponse:
		code(r.ErrorCode)
		if version >= 1 && (len(r.ConfigResources) != 1 || r.ConfigResources[0].Name != "7" || r.ConfigResources[0].Type != 4) {
			bad("%+v", r)
		}
	case *kmsg.DescribeClusterResponse:
		code(r.ErrorCode)
		if len(r.Brokers) != 1 || r.ClusterAuthorizedOperations != clusterOperations || r.ClusterID == "" {
			bad("%+v", r)
		}
	default:
		if !adminSweepCheck(t, version, resp, want) {
			bad("is not checked")
		}
	}
}

// A panic closes that connection and is counted.
func TestPanicClosesTheConnection(t *testing.T) {
	before := panics.Get()
	broken := New(Config{}, shared.deps)
	broken.deps.Meta = nil
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 9
	if got := serve(t, broken, "x", req); !got.closed || got.resp != nil {
		t.Errorf("got %+v, want a closed connection", got)
	}
	if panics.Get() != before+1 {
		t.Error("the panic is not counted")
	}
}

func TestEndedConnectionIsNotServedSlowly(t *testing.T) {
	a := New(Config{SlowRequests: 1}, shared.deps)
	a.slow <- struct{}{} // the only place is taken
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version = 4
	if got := <-start(t, ctx, a, "x", req); !got.closed {
		t.Errorf("got %+v", got)
	}
}

func TestErrorsAndCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int16
	}{
		{nil, 0},
		{errors.New("secret path"), kerr.UnknownServerError.Code},
		{context.DeadlineExceeded, kerr.RequestTimedOut.Code},
		{fail(kerr.InvalidConfig, "own words"), kerr.InvalidConfig.Code},
	} {
		wantCode(t, "code", codeOf(c.err), mustKerr(c.code))
	}
	if m := messageOf(errors.New("secret path")); bytes.Contains([]byte(*m), []byte("secret")) {
		t.Errorf("an internal error is told: %s", *m)
	}
}

func mustKerr(code int16) *kerr.Error {
	var ke *kerr.Error
	errors.As(kerr.ErrorForCode(code), &ke)
	return ke
}
