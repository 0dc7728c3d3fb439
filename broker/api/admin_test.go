package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// adminSweepRequest fills in the requests of administration that
// TestEveryVersion sends.
func adminSweepRequest(req kmsg.Request) {
	name := sweepTopic.Name
	switch r := req.(type) {
	case *kmsg.AlterReplicaLogDirsRequest:
		r.Dirs = []kmsg.AlterReplicaLogDirsRequestDir{{Dir: shared.api.cfg.LogDir, Topics: []kmsg.AlterReplicaLogDirsRequestDirTopic{{Topic: name, Partitions: []int32{0}}}}}
	case *kmsg.ElectLeadersRequest:
		r.Topics, r.TimeoutMillis = []kmsg.ElectLeadersRequestTopic{{Topic: name, Partitions: []int32{0}}}, 1000
	case *kmsg.AlterPartitionAssignmentsRequest:
		r.Topics, r.TimeoutMillis = []kmsg.AlterPartitionAssignmentsRequestTopic{reassignment(name, 0, []int32{testBroker})}, 1000
	case *kmsg.DescribeQuorumRequest:
		r.Topics = []kmsg.DescribeQuorumRequestTopic{{Topic: metadataTopic, Partitions: []kmsg.DescribeQuorumRequestTopicPartition{{}}}}
	case *kmsg.UpdateFeaturesRequest:
		r.FeatureUpdates = []kmsg.UpdateFeaturesRequestFeatureUpdate{{Feature: "metadata.version", MaxVersionLevel: 30, UpgradeType: 1}}
	case *kmsg.DescribeProducersRequest:
		r.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: name, Partitions: []int32{0}}}
	case *kmsg.UnregisterBrokerRequest:
		r.BrokerID = 4000
	case *kmsg.AddRaftVoterRequest:
		r.VoterID, r.Listeners, r.TimeoutMillis = testBroker+1, []kmsg.AddRaftVoterRequestListener{{Host: "127.0.0.1", Port: 1}}, 1000
	case *kmsg.RemoveRaftVoterRequest:
		r.VoterID, r.VoterDirectoryID = 4000, [16]byte{1}
	case *kmsg.DeleteGroupsRequest:
		r.Groups = []string{"nobody's"}
	case *kmsg.OffsetDeleteRequest:
		r.Group = "nobody's"
	}
}

func reassignment(topic string, p int32, replicas []int32) kmsg.AlterPartitionAssignmentsRequestTopic {
	return kmsg.AlterPartitionAssignmentsRequestTopic{Topic: topic, Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{Partition: p, Replicas: replicas}}}
}

// adminSweepCheck looks at replies of administration; false for others.
func adminSweepCheck(t *testing.T, version int16, resp kmsg.Response, want *kerr.Error) bool {
	name := fmt.Sprintf("%s version %d", kmsg.NameForKey(resp.Key()), version)
	switch r := resp.(type) {
	case *kmsg.AlterReplicaLogDirsResponse:
		wantCode(t, name, r.Topics[0].Partitions[0].ErrorCode, want)
	case *kmsg.DescribeLogDirsResponse:
		wantCode(t, name, r.Dirs[0].ErrorCode, want)
		size := int64(-1)
		for _, topic := range r.Dirs[0].Topics {
			if topic.Topic == sweepTopic.Name {
				size = topic.Partitions[0].Size
			}
		}
		if d := r.Dirs[0]; d.Dir != shared.api.cfg.LogDir || size <= 0 || (d.TotalBytes > 0 && d.TotalBytes >= d.UsableBytes) != (version >= 4) {
			t.Errorf("%s: got %+v, %d bytes", name, d, size)
		}
	case *kmsg.ElectLeadersResponse:
		wantCode(t, name, r.ErrorCode, want)
		wantCode(t, name, r.Topics[0].Partitions[0].ErrorCode, kerr.ElectionNotNeeded)
	case *kmsg.AlterPartitionAssignmentsResponse:
		wantCode(t, name, r.ErrorCode, want)
		wantCode(t, name, r.Topics[0].Partitions[0].ErrorCode, want)
	case *kmsg.ListPartitionReassignmentsResponse:
		wantCode(t, name, r.ErrorCode, want)
	case *kmsg.DescribeQuorumResponse:
		wantCode(t, name, r.ErrorCode, want)
		p := r.Topics[0].Partitions[0]
		if p.ErrorCode != 0 || p.LeaderID != testBroker || p.LeaderEpoch < 1 || p.HighWatermark < 1 || len(p.CurrentVoters) != 1 || p.CurrentVoters[0].LogEndOffset < p.HighWatermark {
			t.Errorf("%s: got %+v", name, p)
		}
		if (len(r.Nodes) == 1 && r.Nodes[0].Listeners[0].Port == 9092) != (version >= 2) {
			t.Errorf("%s: nodes %+v", name, r.Nodes)
		}
	case *kmsg.UpdateFeaturesResponse:
		wantCode(t, name, r.ErrorCode, want)
		if (len(r.Results) == 1) != (version < 2) {
			t.Errorf("%s: results %+v", name, r.Results)
		}
	case *kmsg.DescribeProducersResponse:
		wantCode(t, name, r.Topics[0].Partitions[0].ErrorCode, want)
	case *kmsg.UnregisterBrokerResponse:
		wantCode(t, name, r.ErrorCode, kerr.BrokerIDNotRegistered)
	case *kmsg.AddRaftVoterResponse:
		wantCode(t, name, r.ErrorCode, kerr.InvalidRequest) // it is on its own
	case *kmsg.RemoveRaftVoterResponse:
		wantCode(t, name, r.ErrorCode, kerr.VoterNotFound)
	case *kmsg.DeleteGroupsResponse:
		wantCode(t, name, r.Groups[0].ErrorCode, kerr.GroupIDNotFound)
	case *kmsg.OffsetDeleteResponse:
		wantCode(t, name, r.ErrorCode, kerr.GroupIDNotFound)
	case *kmsg.GetTelemetrySubscriptionsResponse:
		wantCode(t, name, r.ErrorCode, want)
		if r.ClientInstanceID == [16]byte{} || r.PushIntervalMillis != 300_000 || r.TelemetryMaxBytes != 1<<20 || len(r.RequestedMetrics) != 0 {
			t.Errorf("%s: got %+v", name, r)
		}
	case *kmsg.PushTelemetryResponse:
		wantCode(t, name, r.ErrorCode, kerr.InvalidRequest) // no instance id
	case *kmsg.DescribeTopicPartitionsResponse:
		if len(r.Topics) < 1 {
			t.Errorf("%s: no topics", name)
		}
	default:
		return false
	}
	return true
}

// takenIn is an image with brokers that are alive and taken in.
func takenIn(ids ...record.BrokerID) *metastore.Image {
	img := &metastore.Image{Brokers: map[record.BrokerID]metastore.Broker{}, Unfenced: map[record.BrokerID]metastore.Unfenced{}}
	for _, id := range ids {
		img.Brokers[id], img.Unfenced[id] = metastore.Broker{ID: id, Epoch: 5}, metastore.Unfenced{Epoch: 5}
	}
	return img
}

func TestReassign(t *testing.T) {
	img := takenIn(1, 2)
	still := replica.Record{Leader: 1, Replicas: []record.BrokerID{1}, ISR: []record.BrokerID{1}}
	moving := replica.Record{Leader: 1, Replicas: []record.BrokerID{2, 1}, ISR: []record.BrokerID{1}, Adding: []record.BrokerID{2}, Removing: []record.BrokerID{1}}
	for _, c := range []struct {
		what     string
		r        replica.Record
		replicas []int32
		resize   bool
		target   []record.BrokerID // nil: no change
		want     *kerr.Error
	}{
		{"to itself", still, []int32{1}, true, nil, nil},
		{"nothing to cancel", still, nil, true, nil, kerr.NoReassignmentInProgress},
		{"to nobody", still, []int32{}, true, nil, kerr.InvalidReplicaAssignment},
		{"to a stranger", still, []int32{3}, true, nil, kerr.InvalidReplicaAssignment},
		{"to one twice", still, []int32{1, 1}, true, nil, kerr.InvalidReplicaAssignment},
		{"to more, which is not allowed", still, []int32{1, 2}, false, nil, kerr.InvalidReplicationFactor},
		{"to another", still, []int32{2}, true, []record.BrokerID{2}, nil},
		{"to more", still, []int32{1, 2}, true, []record.BrokerID{1, 2}, nil},
		{"cancel", moving, nil, true, []record.BrokerID{1}, nil},
	} {
		next, changed, err := shared.api.reassign(img, c.r, c.replicas, c.resize)
		wantCode(t, c.what, codeOf(err), c.want)
		if changed != (c.target != nil) || changed && !slices.Equal(next.Target(), c.target) {
			t.Errorf("%s: %v, %+v", c.what, changed, next)
		}
	}
}

func TestElection(t *testing.T) {
	img := takenIn(1)
	topic := &metastore.Topic{Name: "t"}
	ids := func(ids ...record.BrokerID) []record.BrokerID { return ids }
	for _, c := range []struct {
		what string
		r    replica.Record
		kind int8
		want *kerr.Error
		lead record.BrokerID
	}{
		{"preferred leads", replica.Record{Leader: 1, Replicas: ids(1), ISR: ids(1)}, electPreferred, kerr.ElectionNotNeeded, 0},
		{"somebody leads", replica.Record{Leader: 1, Replicas: ids(2, 1), ISR: ids(1)}, electUnclean, kerr.ElectionNotNeeded, 0},
		{"preferred is away", replica.Record{Leader: 2, Replicas: ids(2), ISR: ids(2)}, electPreferred, kerr.PreferredLeaderNotAvailable, 0},
		{"all are away", replica.Record{Leader: 2, Replicas: ids(2), ISR: ids(2)}, electUnclean, kerr.EligibleLeadersNotAvailable, 0},
		{"another leads", replica.Record{Leader: 1, Replicas: ids(2, 1), ISR: ids(1, 2)}, electPreferred, kerr.PreferredLeaderNotAvailable, 0},
		{"unclean", replica.Record{Leader: -1, Replicas: ids(2, 1), ELR: ids(2)}, electUnclean, nil, 1},
	} {
		next, changed, err := shared.api.election(img, topic, c.r, c.kind)
		wantCode(t, c.what, codeOf(err), c.want)
		if changed != (c.want == nil) || changed && (next.Leader != c.lead || next.Epoch != c.r.Epoch+1) {
			t.Errorf("%s: %v, %+v", c.what, changed, next)
		}
	}
	next, changed, err := shared.api.election(takenIn(1, 2), topic, replica.Record{Leader: 1, Replicas: ids(2, 1), ISR: ids(1, 2)}, electPreferred)
	if err != nil || !changed || next.Leader != 2 {
		t.Errorf("preferred in sync: %v, %+v, %v", changed, next, err)
	}
}

// Brokers that are drained get nothing, but may keep what they have; nor do
// those that are dead.
func TestDrainedBrokersGetNothing(t *testing.T) {
	deps := shared.deps
	deps.Config = configured(t, "firn.drained.brokers", "2,9")
	a := New(Config{BrokerID: testBroker}, deps)
	img := takenIn(1, 2, 3)
	got, err := a.place(img, anywhere, 12, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, replicas := range got {
		if slices.Contains(replicas, 2) {
			t.Errorf("placed on %v", replicas)
		}
	}
	if _, err = a.place(img, anywhere, 1, 3); codeOf(err) != kerr.InvalidReplicationFactor.Code || !strings.Contains(*messageOf(err), "firn.drained.brokers") {
		t.Errorf("three replicas on two brokers: %v", err)
	}
	if _, err = a.place(takenIn(2), anywhere, 1, 1); codeOf(err) != kerr.InvalidReplicationFactor.Code {
		t.Errorf("with all drained: %v", err)
	}
	topic := &metastore.Topic{Name: "t", Partitions: []metastore.Partition{{Replicas: []record.BrokerID{1}}}}
	in := &kmsg.CreatePartitionsRequestTopic{Topic: "t", Count: 3}
	if got, err = a.newPartitions(img, topic, in); err != nil || slices.Contains(got[0], 2) || slices.Contains(got[1], 2) {
		t.Errorf("added: %v, %v", got, err)
	}
	for _, id := range []int32{2, 4} {
		in := &kmsg.CreatePartitionsRequestTopic{Topic: "t", Count: 2, Assignment: []kmsg.CreatePartitionsRequestTopicAssignment{{Replicas: []int32{id}}}}
		_, err = a.newPartitions(img, topic, in)
		wantCode(t, fmt.Sprint("added by hand to ", id), codeOf(err), kerr.InvalidReplicaAssignment)
		_, err = a.manualAssignment(img, &kmsg.CreateTopicsRequestTopic{NumPartitions: -1, ReplicationFactor: -1, ReplicaAssignment: []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Replicas: []int32{id}}}})
		wantCode(t, fmt.Sprint("made by hand on ", id), codeOf(err), kerr.InvalidReplicaAssignment)
	}
	r := replica.Record{Leader: 1, Replicas: []record.BrokerID{1, 2}, ISR: []record.BrokerID{1, 2}}
	for _, c := range []struct {
		to   []int32
		want *kerr.Error
	}{{[]int32{2, 1}, nil}, {[]int32{1, 3}, nil}, {[]int32{3, 2}, nil}} {
		_, _, err := a.reassign(img, r, c.to, true)
		wantCode(t, fmt.Sprint("moved to ", c.to), codeOf(err), c.want)
	}
	r.Replicas, r.ISR = []record.BrokerID{1}, []record.BrokerID{1}
	_, _, err = a.reassign(img, r, []int32{1, 2}, true)
	wantCode(t, "moved to a drained broker", codeOf(err), kerr.InvalidReplicaAssignment)
}

// Replicas of a partition are in as many racks as there are.
func TestPlacementOverRacks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		img := &metastore.Image{Brokers: map[record.BrokerID]metastore.Broker{}}
		n := rapid.IntRange(1, 9).Draw(t, "brokers")
		racks := map[string]bool{}
		for i := range n {
			rack := string(rune('a' + rapid.IntRange(0, 3).Draw(t, "rack")))
			racks[rack] = true
			img.Brokers[record.BrokerID(i)] = metastore.Broker{Rack: rack}
		}
		rf := rapid.Int16Range(1, int16(n)).Draw(t, "replicas")
		got, err := shared.api.place(img, anywhere, 30, rf)
		if err != nil {
			t.Fatal(err)
		}
		for _, replicas := range got {
			in := map[string]bool{}
			for _, id := range replicas {
				in[img.Brokers[id].Rack] = true
			}
			if len(in) != min(int(rf), len(racks)) {
				t.Fatalf("replicas %v are in %d racks of %d", replicas, len(in), len(racks))
			}
		}
	})
}

// Pages put together are all partitions, each once, in order.
func TestDescribeTopicPages(t *testing.T) {
	topics := []*metastore.Topic{makeTopic(t, 3), makeTopic(t, 1), makeTopic(t, 5)}
	for limit := int32(1); limit <= 10; limit++ {
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.ResponsePartitionLimit = limit
		for _, topic := range topics {
			req.Topics = append(req.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: topic.Name})
		}
		seen := map[record.TopicID][]int32{}
		pages := 0
		for more := true; more; pages++ {
			resp := ask[*kmsg.DescribeTopicPartitionsResponse](t, req)
			n := 0
			for _, topic := range resp.Topics {
				for _, p := range topic.Partitions {
					seen[topic.TopicID] = append(seen[topic.TopicID], p.Partition)
					n++
				}
			}
			if n > int(limit) || n == 0 {
				t.Fatalf("limit %d: a page of %d", limit, n)
			}
			if more = resp.NextCursor != nil; more {
				req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: resp.NextCursor.Topic, Partition: resp.NextCursor.Partition}
			}
		}
		for _, topic := range topics {
			want := []int32{0, 1, 2, 3, 4}[:len(topic.Partitions)]
			if fmt.Sprint(seen[topic.ID]) != fmt.Sprint(want) {
				t.Errorf("limit %d: %s has %v, want %v", limit, topic.Name, seen[topic.ID], want)
			}
		}
		if want := (9 + int(limit) - 1) / int(limit); pages != want {
			t.Errorf("limit %d: %d pages, want %d", limit, pages, want)
		}
	}
}

func TestTopicLimits(t *testing.T) {
	have := shared.meta.Image()
	deps := shared.deps
	with := func(name string, n int) *API {
		deps.Config = configured(t, name, fmt.Sprint(n))
		return New(Config{BrokerID: testBroker}, deps)
	}
	create := func(a *API, partitions int32) int16 {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Version, req.TimeoutMillis, req.ValidateOnly = 7, 10_000, true
		req.Topics = []kmsg.CreateTopicsRequestTopic{{Topic: "limited", NumPartitions: partitions, ReplicationFactor: 1}}
		return askOf[*kmsg.CreateTopicsResponse](t, a, req).Topics[0].ErrorCode
	}
	refusedBefore := topicsRefused.Get()
	wantCode(t, "no room for a topic", create(with("firn.max.topics", len(have.Topics)), 1), kerr.PolicyViolation)
	wantCode(t, "room for a topic", create(with("firn.max.topics", len(have.Topics)+1), 1), nil)
	wantCode(t, "no room for partitions", create(with("firn.max.partitions", have.Partitions+2), 3), kerr.PolicyViolation)
	wantCode(t, "room for partitions", create(with("firn.max.partitions", have.Partitions+3), 3), nil)
	if got := topicsRefused.Get() - refusedBefore; got != 2 {
		t.Errorf("%d refusals counted, want 2", got)
	}
}

func TestTopicDeletionSwitchedOff(t *testing.T) {
	topic := makeTopic(t, 1)
	deps := shared.deps
	deps.Config = configured(t, "delete.topic.enable", "false")
	a := New(Config{BrokerID: testBroker}, deps)
	for version, want := range map[int16]*kerr.Error{1: kerr.InvalidRequest, 3: kerr.TopicDeletionDisabled, 5: kerr.TopicDeletionDisabled} {
		resp := askOf[*kmsg.DeleteTopicsResponse](t, a, &kmsg.DeleteTopicsRequest{Version: version, TopicNames: []string{topic.Name}, TimeoutMillis: 10_000})
		wantCode(t, fmt.Sprint("version ", version), resp.Topics[0].ErrorCode, want)
	}
	if shared.meta.Image().Topics[topic.Name] == nil {
		t.Error("the topic was deleted")
	}
}
