package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

func metadataOf(t *testing.T, a *API, version int16, create bool, topics ...kmsg.MetadataRequestTopic) *kmsg.MetadataResponse {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Version, req.AllowAutoTopicCreation, req.Topics = version, create, topics
	return askOf[*kmsg.MetadataResponse](t, a, req)
}

func byTopic(name string) kmsg.MetadataRequestTopic {
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &name
	return rt
}

func byTopicID(id record.TopicID) kmsg.MetadataRequestTopic {
	rt := kmsg.NewMetadataRequestTopic()
	rt.TopicID = id
	return rt
}

func TestMetadata(t *testing.T) {
	topic := makeTopic(t, 3)
	got := metadataOf(t, shared.api, 12, false, byTopic("absent-m"), byTopic(topic.Name), byTopic("no good"), byTopic(topic.Name))
	ids := metadataOf(t, shared.api, 12, false, byTopic("absent-m"), byTopicID(topic.ID), byTopicID(record.TopicID{3}), byTopicID(topic.ID))
	if len(got.Topics) != 3 || len(ids.Topics) != 2 {
		t.Fatalf("%d and %d topics, want each once, and no names beside ids", len(got.Topics), len(ids.Topics))
	}
	for _, mt := range []kmsg.MetadataResponseTopic{got.Topics[0], ids.Topics[1]} {
		if mt.ErrorCode != 0 || *mt.Topic != topic.Name || record.TopicID(mt.TopicID) != topic.ID || len(mt.Partitions) != 3 || mt.AuthorizedOperations != unset {
			t.Errorf("got %+v", mt)
		}
		for j, p := range mt.Partitions {
			if p.Partition != int32(j) || p.Leader != testBroker || p.ErrorCode != 0 || len(p.Replicas) != 1 || len(p.ISR) != 1 || len(p.OfflineReplicas) != 0 {
				t.Errorf("got %+v", p)
			}
		}
	}
	wantCode(t, "absent", got.Topics[1].ErrorCode, kerr.UnknownTopicOrPartition)
	wantCode(t, "illegal", got.Topics[2].ErrorCode, kerr.InvalidTopicException)
	wantCode(t, "unknown id", ids.Topics[0].ErrorCode, kerr.UnknownTopicID)
	if ids.Topics[0].Topic != nil {
		t.Error("an unknown id has a name")
	}
	if b := got.Brokers[0]; b.Host != "firn.test" || b.Port != 9092 || b.Rack == nil || *b.Rack != "r1" {
		t.Errorf("got %+v", b)
	}
	wantCode(t, "id in version 11", metadataOf(t, shared.api, 11, false, byTopicID(topic.ID)).Topics[0].ErrorCode, kerr.InvalidRequest)
	nothing := metadataOf(t, shared.api, 13, false, byTopic(topic.Name), kmsg.NewMetadataRequestTopic())
	wantCode(t, "neither name nor id", nothing.ErrorCode, kerr.UnknownServerError)
	if len(nothing.Brokers) != 0 || len(nothing.Topics) != 2 || nothing.Topics[0].ErrorCode != kerr.UnknownServerError.Code {
		t.Errorf("got %+v", nothing)
	}
}

func TestMetadataAllOrNone(t *testing.T) {
	makeTopic(t, 1)
	all := len(shared.meta.Image().Topics)
	if got := metadataOf(t, shared.api, 0, false); len(got.Topics) != all {
		t.Errorf("version 0, none named: %d topics, want all %d", len(got.Topics), all)
	}
	if got := metadataOf(t, shared.api, 9, false); len(got.Topics) != all {
		t.Errorf("null: %d topics, want all %d", len(got.Topics), all)
	}
	if got := metadataOf(t, shared.api, 9, false, []kmsg.MetadataRequestTopic{}...); got.Topics == nil && all == 0 {
		t.Error("unreachable")
	}
	req := kmsg.NewPtrMetadataRequest()
	req.Version, req.Topics = 9, []kmsg.MetadataRequestTopic{}
	if got := ask[*kmsg.MetadataResponse](t, req); len(got.Topics) != 0 || len(got.Brokers) != 1 {
		t.Errorf("empty: %d topics, want none", len(got.Topics))
	}
}

func TestMetadataOperations(t *testing.T) {
	topic := makeTopic(t, 1)
	req := kmsg.NewPtrMetadataRequest()
	req.Version, req.Topics = 8, []kmsg.MetadataRequestTopic{byTopic(topic.Name)}
	req.IncludeClusterAuthorizedOperations, req.IncludeTopicAuthorizedOperations = true, true
	got := ask[*kmsg.MetadataResponse](t, req)
	if got.AuthorizedOperations != 8096 || got.Topics[0].AuthorizedOperations != 3576 { // the sums that Kafka gives
		t.Errorf("cluster %d, topic %d", got.AuthorizedOperations, got.Topics[0].AuthorizedOperations)
	}
}

func TestAutoCreate(t *testing.T) {
	name := fmt.Sprintf("auto%d", topicCount.Add(1))
	wantCode(t, "not allowed by the client", metadataOf(t, shared.api, 4, false, byTopic(name)).Topics[0].ErrorCode, kerr.UnknownTopicOrPartition)
	deps := shared.deps
	deps.Config = configured(t, "auto.create.topics.enable", "false")
	off := New(Config{BrokerID: testBroker}, deps)
	wantCode(t, "switched off", metadataOf(t, off, 12, true, byTopic(name)).Topics[0].ErrorCode, kerr.UnknownTopicOrPartition)
	if shared.meta.Image().Topics[name] != nil {
		t.Fatal("created all the same")
	}
	got := metadataOf(t, shared.api, 12, true, byTopic(name), byTopic("x/y"), byTopic("__transaction_state"))
	wantCode(t, "just made", got.Topics[0].ErrorCode, kerr.UnknownTopicOrPartition)
	if mt := metadataOf(t, shared.api, 12, true, byTopic(name)).Topics[0]; mt.ErrorCode != 0 || len(mt.Partitions) != 2 || mt.Partitions[1].Leader != testBroker || record.TopicID(mt.TopicID).IsZero() {
		t.Errorf("got %+v", mt)
	}
	wantCode(t, "illegal name", got.Topics[1].ErrorCode, kerr.InvalidTopicException)
	wantCode(t, "internal name", got.Topics[2].ErrorCode, kerr.UnknownTopicOrPartition)
	dotted := fmt.Sprintf("auto.%d", topicCount.Add(1))
	metadataOf(t, shared.api, 12, true, byTopic(dotted))
	wantCode(t, "collision", metadataOf(t, shared.api, 12, true, byTopic(strings.ReplaceAll(dotted, ".", "_"))).Topics[0].ErrorCode, kerr.UnknownTopicOrPartition)
}

// hidden says that nothing is open here.
type hidden struct{ Partitions }

func (hidden) Get(string, record.PartitionID) *partition.Partition { return nil }

func TestMetadataHidesLeadersThatDoNotServe(t *testing.T) {
	topic := makeTopic(t, 1)
	deps := shared.deps
	deps.Partitions = hidden{shared}
	a := New(Config{BrokerID: testBroker}, deps)
	got := metadataOf(t, a, 9, false, byTopic(topic.Name)).Topics[0].Partitions[0]
	wantCode(t, "not open yet", got.ErrorCode, kerr.LeaderNotAvailable)
	if got.Leader != -1 {
		t.Errorf("leader %d", got.Leader)
	}
	resp := askOf[*kmsg.ProduceResponse](t, a, produceRequest(topic, 10, 1, producePart(0, batch(t, 1))))
	p := resp.Topics[0].Partitions[0]
	wantCode(t, "produce", p.ErrorCode, kerr.NotLeaderForPartition)
	if p.CurrentLeader.LeaderID != testBroker || len(resp.Brokers) != 1 || resp.Brokers[0].Host != "firn.test" {
		t.Errorf("got %+v %+v", p, resp.Brokers)
	}
	f := askOf[*kmsg.FetchResponse](t, a, fetchRequest(topic, 16, 0))
	fp := f.Topics[0].Partitions[0]
	wantCode(t, "fetch", fp.ErrorCode, kerr.NotLeaderForPartition)
	if fp.CurrentLeader.LeaderID != testBroker || len(f.Brokers) != 1 {
		t.Errorf("got %+v %+v", fp, f.Brokers)
	}
}

func createTopic(t *testing.T, edit func(*kmsg.CreateTopicsRequest, *kmsg.CreateTopicsRequestTopic)) []kmsg.CreateTopicsResponseTopic {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 7, 30_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = fmt.Sprintf("c%d", topicCount.Add(1)), 1, 1
	edit(req, &rt)
	req.Topics = append(req.Topics, rt)
	return ask[*kmsg.CreateTopicsResponse](t, req).Topics
}

func config(rt *kmsg.CreateTopicsRequestTopic, name string, value *string) {
	c := kmsg.NewCreateTopicsRequestTopicConfig()
	c.Name, c.Value = name, value
	rt.Configs = append(rt.Configs, c)
}

func assign(rt *kmsg.CreateTopicsRequestTopic, p int32, brokers ...int32) {
	rt.NumPartitions, rt.ReplicationFactor = -1, -1
	a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
	a.Partition, a.Replicas = p, brokers
	rt.ReplicaAssignment = append(rt.ReplicaAssignment, a)
}

func TestCreateTopicsErrors(t *testing.T) {
	have := makeTopic(t, 1)
	n := topicCount.Add(1)
	dotted := createTopic(t, func(_ *kmsg.CreateTopicsRequest, rt *kmsg.CreateTopicsRequestTopic) {
		rt.Topic = fmt.Sprintf("collide.x%d", n)
	})
	wantCode(t, "dotted", dotted[0].ErrorCode, nil)
	str := kmsg.StringPtr
	type rq = *kmsg.CreateTopicsRequestTopic
	for _, c := range []struct {
		name string
		edit func(rq)
		want *kerr.Error
		msg  string
	}{
		{"exists", func(rt rq) { rt.Topic = have.Name }, kerr.TopicAlreadyExists, "exists already"},
		{"empty name", func(rt rq) { rt.Topic = "" }, kerr.InvalidTopicException, "empty"},
		{"dot", func(rt rq) { rt.Topic = ".." }, kerr.InvalidTopicException, ".."},
		{"long name", func(rt rq) { rt.Topic = strings.Repeat("x", 250) }, kerr.InvalidTopicException, "249"},
		{"bad character", func(rt rq) { rt.Topic = "a/b" }, kerr.InvalidTopicException, "character"},
		{"collision", func(rt rq) { rt.Topic = fmt.Sprintf("collide_x%d", n) }, kerr.InvalidTopicException, "collide.x"},
		{"metadata", func(rt rq) { rt.Topic = metadataTopic }, kerr.InvalidRequest, "not in a topic"},
		{"no partitions", func(rt rq) { rt.NumPartitions = 0 }, kerr.InvalidPartitions, "above 0"},
		{"negative partitions", func(rt rq) { rt.NumPartitions = -2 }, kerr.InvalidPartitions, "above 0"},
		{"too many partitions", func(rt rq) { rt.NumPartitions = 1 << 30 }, kerr.PolicyViolation, "at most"},
		{"no replicas", func(rt rq) { rt.ReplicationFactor = 0 }, kerr.InvalidReplicationFactor, "above 0"},
		{"too many replicas", func(rt rq) { rt.ReplicationFactor = 2 }, kerr.InvalidReplicationFactor, "there are 1"},
		{"unknown config", func(rt rq) { config(rt, "retention.mss", str("1")) }, kerr.InvalidConfig, "retention.ms?"},
		{"bad config", func(rt rq) { config(rt, "retention.ms", str("x")) }, kerr.InvalidConfig, "retention.ms"},
		{"null config", func(rt rq) { config(rt, "retention.ms", nil) }, kerr.InvalidConfig, "without a value"},
		{"assignment and count", func(rt rq) { assign(rt, 0, testBroker); rt.NumPartitions = 1 }, kerr.InvalidRequest, "-1"},
		{"assignment and factor", func(rt rq) { assign(rt, 0, testBroker); rt.ReplicationFactor = 1 }, kerr.InvalidRequest, "-1"},
		{"assignment twice", func(rt rq) { assign(rt, 0, testBroker); assign(rt, 0, testBroker) }, kerr.InvalidReplicaAssignment, "more than once"},
		{"assignment with a gap", func(rt rq) { assign(rt, 1, testBroker) }, kerr.InvalidReplicaAssignment, "gaps"},
		{"assignment to nobody", func(rt rq) { assign(rt, 0) }, kerr.InvalidReplicaAssignment, "empty"},
		{"assignment to a stranger", func(rt rq) { assign(rt, 0, 99) }, kerr.InvalidReplicaAssignment, "99"},
		{"assignment to one twice", func(rt rq) { assign(rt, 0, testBroker, testBroker) }, kerr.InvalidReplicaAssignment, "more than once"},
	} {
		before := len(shared.meta.Image().Topics)
		got := createTopic(t, func(_ *kmsg.CreateTopicsRequest, rt *kmsg.CreateTopicsRequestTopic) { c.edit(rt) })[0]
		wantCode(t, c.name, got.ErrorCode, c.want)
		if got.ErrorMessage == nil || !strings.Contains(*got.ErrorMessage, c.msg) {
			t.Errorf("%s: message lacks %q: %v", c.name, c.msg, got.ErrorMessage)
		}
		if !record.TopicID(got.TopicID).IsZero() || got.NumPartitions != -1 {
			t.Errorf("%s: got %+v", c.name, got)
		}
		if len(shared.meta.Image().Topics) != before {
			t.Errorf("%s: a topic was made", c.name)
		}
	}
}

func TestCreateTopics(t *testing.T) {
	value := "5000"
	var name string
	got := createTopic(t, func(_ *kmsg.CreateTopicsRequest, rt *kmsg.CreateTopicsRequestTopic) {
		rt.NumPartitions, rt.ReplicationFactor, name = -1, -1, rt.Topic
		config(rt, "retention.ms", &value)
	})[0]
	topic := shared.meta.Image().Topics[name]
	if got.ErrorCode != 0 || got.NumPartitions != 2 || got.ReplicationFactor != 1 || topic == nil || record.TopicID(got.TopicID) != topic.ID {
		t.Fatalf("got %+v", got)
	}
	for _, c := range got.Configs {
		want := kmsg.ConfigSourceDefaultConfig
		if c.Name == "retention.ms" {
			want = kmsg.ConfigSourceDynamicTopicConfig
			if *c.Value != value {
				t.Errorf("retention.ms is %s", *c.Value)
			}
		}
		if c.Source != int8(want) {
			t.Errorf("%s has source %d", c.Name, c.Source)
		}
	}
	for p := range topic.Partitions { // it leads when it is answered
		if shared.Get(name, record.PartitionID(p)) == nil {
			t.Errorf("partition %d is not open", p)
		}
	}
	manual := createTopic(t, func(_ *kmsg.CreateTopicsRequest, rt *kmsg.CreateTopicsRequestTopic) {
		assign(rt, 1, testBroker)
		assign(rt, 0, testBroker)
	})[0]
	if manual.ErrorCode != 0 || manual.NumPartitions != 2 {
		t.Errorf("got %+v", manual)
	}
	only := createTopic(t, func(req *kmsg.CreateTopicsRequest, rt *kmsg.CreateTopicsRequestTopic) {
		req.ValidateOnly, name = true, rt.Topic
	})[0]
	if only.ErrorCode != 0 || shared.meta.Image().Topics[name] != nil {
		t.Errorf("validate-only: got %+v", only)
	}
	twice := createTopic(t, func(req *kmsg.CreateTopicsRequest, rt *kmsg.CreateTopicsRequestTopic) {
		req.Topics, name = append(req.Topics, *rt), rt.Topic
	})
	if len(twice) != 1 || twice[0].ErrorCode != kerr.InvalidRequest.Code || shared.meta.Image().Topics[name] != nil {
		t.Errorf("twice in one request: got %+v", twice)
	}
}

func TestRemoteStorageNeedsAStore(t *testing.T) {
	deps := shared.deps
	deps.Tier = nil
	a := New(Config{BrokerID: testBroker}, deps)
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.ValidateOnly = 5, true
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = "tiered", 1, 1
	config(&rt, "remote.storage.enable", kmsg.StringPtr("true"))
	req.Topics = append(req.Topics, rt)
	wantCode(t, "no store", askOf[*kmsg.CreateTopicsResponse](t, a, req).Topics[0].ErrorCode, kerr.InvalidConfig)
	wantCode(t, "store", ask[*kmsg.CreateTopicsResponse](t, req).Topics[0].ErrorCode, nil)
}

func TestDeleteTopics(t *testing.T) {
	if err := shared.ensureOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	one, two, three := makeTopic(t, 1), makeTopic(t, 1), makeTopic(t, 1)
	name := func(s string) kmsg.DeleteTopicsRequestTopic {
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.Topic = &s
		return rt
	}
	id := func(i record.TopicID) kmsg.DeleteTopicsRequestTopic {
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.TopicID = i
		return rt
	}
	both := name(one.Name)
	both.TopicID = one.ID
	del := func(topics ...kmsg.DeleteTopicsRequestTopic) []kmsg.DeleteTopicsResponseTopic {
		return ask[*kmsg.DeleteTopicsResponse](t, &kmsg.DeleteTopicsRequest{Version: 6, Topics: topics, TimeoutMillis: 30_000}).Topics
	}
	for _, c := range []struct {
		what string
		ask  []kmsg.DeleteTopicsRequestTopic
		want []*kerr.Error
	}{
		{"neither", []kmsg.DeleteTopicsRequestTopic{kmsg.NewDeleteTopicsRequestTopic()}, []*kerr.Error{kerr.InvalidRequest}},
		{"both", []kmsg.DeleteTopicsRequestTopic{both}, []*kerr.Error{kerr.InvalidRequest}},
		{"name twice", []kmsg.DeleteTopicsRequestTopic{name(one.Name), name(one.Name)}, []*kerr.Error{kerr.InvalidRequest}},
		{"id twice", []kmsg.DeleteTopicsRequestTopic{id(one.ID), id(one.ID)}, []*kerr.Error{kerr.InvalidRequest}},
		{"name and its id", []kmsg.DeleteTopicsRequestTopic{id(one.ID), name(one.Name)}, []*kerr.Error{kerr.InvalidRequest}},
		{"unknown name", []kmsg.DeleteTopicsRequestTopic{name("absent")}, []*kerr.Error{kerr.UnknownTopicOrPartition}},
		{"unknown id", []kmsg.DeleteTopicsRequestTopic{id(record.TopicID{8})}, []*kerr.Error{kerr.UnknownTopicID}},
		{"internal", []kmsg.DeleteTopicsRequestTopic{name(offsetsTopic)}, []*kerr.Error{kerr.InvalidTopicException}},
		{"by name and by id", []kmsg.DeleteTopicsRequestTopic{name(two.Name), id(three.ID)}, []*kerr.Error{nil, nil}},
	} {
		got := del(c.ask...)
		if len(got) != len(c.want) {
			t.Errorf("%s: %d answers, want %d", c.what, len(got), len(c.want))
			continue
		}
		for i := range got {
			wantCode(t, c.what, got[i].ErrorCode, c.want[i])
		}
	}
	img := shared.meta.Image()
	if img.Topics[one.Name] == nil || img.Topics[two.Name] != nil || img.Topics[three.Name] != nil || shared.Get(two.Name, 0) != nil {
		t.Error("the wrong topics are gone")
	}
}

func TestCreatePartitions(t *testing.T) {
	topic := makeTopic(t, 2)
	add := func(version int16, edit func(*kmsg.CreatePartitionsRequest, *kmsg.CreatePartitionsRequestTopic)) []kmsg.CreatePartitionsResponseTopic {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.Version, req.TimeoutMillis = version, 30_000
		rt := kmsg.NewCreatePartitionsRequestTopic()
		rt.Topic, rt.Count = topic.Name, 4
		edit(req, &rt)
		req.Topics = append(req.Topics, rt)
		return ask[*kmsg.CreatePartitionsResponse](t, req).Topics
	}
	type rq = *kmsg.CreatePartitionsRequest
	type tp = *kmsg.CreatePartitionsRequestTopic
	to := func(rt tp, brokers ...int32) {
		a := kmsg.NewCreatePartitionsRequestTopicAssignment()
		a.Replicas = brokers
		rt.Assignment = append(rt.Assignment, a)
	}
	for _, c := range []struct {
		name string
		edit func(rq, tp)
		want *kerr.Error
	}{
		{"same", func(_ rq, rt tp) { rt.Count = 2 }, kerr.InvalidPartitions},
		{"fewer", func(_ rq, rt tp) { rt.Count = 1 }, kerr.InvalidPartitions},
		{"negative", func(_ rq, rt tp) { rt.Count = -1 }, kerr.InvalidPartitions},
		{"huge", func(_ rq, rt tp) { rt.Count = 1 << 30 }, kerr.PolicyViolation},
		{"absent", func(_ rq, rt tp) { rt.Topic = "absent" }, kerr.UnknownTopicOrPartition},
		{"twice", func(r rq, rt tp) { r.Topics = append(r.Topics, *rt) }, kerr.InvalidRequest},
		{"too few assignments", func(_ rq, rt tp) { to(rt, testBroker) }, kerr.InvalidReplicaAssignment},
		{"stranger", func(_ rq, rt tp) { to(rt, testBroker); to(rt, 5) }, kerr.InvalidReplicaAssignment},
		{"too many replicas", func(_ rq, rt tp) { to(rt, testBroker, testBroker); to(rt, testBroker) }, kerr.InvalidReplicaAssignment},
		{"internal", func(_ rq, rt tp) { rt.Topic, rt.Count = offsetsTopic, 9 }, kerr.InvalidTopicException},
		{"validate only", func(r rq, _ tp) { r.ValidateOnly = true }, nil},
	} {
		got := add(3, c.edit)
		if len(got) != 1 {
			t.Errorf("%s: %d answers", c.name, len(got))
		}
		wantCode(t, c.name, got[0].ErrorCode, c.want)
	}
	if n := len(shared.meta.Image().Topics[topic.Name].Partitions); n != 2 {
		t.Fatalf("%d partitions", n)
	}
	wantCode(t, "add", add(1, func(rq, tp) {})[0].ErrorCode, nil)
	wantCode(t, "add by hand", add(1, func(_ rq, rt tp) { rt.Count = 5; to(rt, testBroker) })[0].ErrorCode, nil)
	if shared.Get(topic.Name, 4) == nil || shared.Get(topic.Name, 5) != nil {
		t.Error("the partitions are not open")
	}
}

// Names are legal exactly when they are made of legal characters and not too
// long; nothing panics.
func TestTopicNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		good := rapid.StringMatching(`[a-zA-Z0-9._-]{1,249}`).Draw(t, "good")
		if err := checkTopicName(good); err != nil && good != "." && good != ".." {
			t.Fatalf("%q: %v", good, err)
		}
		bad := good + rapid.SampledFrom([]string{" ", "/", "ä", "\x00", "+", ":"}).Draw(t, "bad")
		if checkTopicName(bad) == nil {
			t.Fatalf("%q is taken", bad)
		}
		checkTopicName(rapid.String().Draw(t, "any"))
	})
}

func TestPlacementIsEven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		img := &metastore.Image{Brokers: map[record.BrokerID]metastore.Broker{}}
		n := rapid.IntRange(1, 7).Draw(t, "brokers")
		for i := range n {
			img.Brokers[record.BrokerID(i*3)] = metastore.Broker{}
		}
		rf := rapid.Int16Range(1, int16(n)).Draw(t, "replicas")
		parts := rapid.Int32Range(1, 50).Draw(t, "partitions")
		got, err := shared.api.place(img, rapid.IntRange(0, 9).Draw(t, "first"), parts, rf)
		if err != nil {
			t.Fatal(err)
		}
		leads := map[record.BrokerID]int{}
		for _, replicas := range got {
			leads[replicas[0]]++
			seen := map[record.BrokerID]bool{}
			for _, b := range replicas {
				seen[b] = true
			}
			if len(seen) != int(rf) {
				t.Fatalf("replicas %v", replicas)
			}
		}
		for b := range img.Brokers {
			if l := leads[b]; l < int(parts)/n || l > int(parts)/n+1 {
				t.Fatalf("broker %d leads %d of %d", b, l, parts)
			}
		}
	})
}

func TestApiVersions(t *testing.T) {
	for _, c := range []struct {
		name, version string
		want          *kerr.Error
	}{
		{"librdkafka", "2.15.0", nil},
		{"apache-kafka-java", "4.3.0", nil},
		{"", "1", kerr.InvalidRequest},
		{"-x", "1", kerr.InvalidRequest},
		{"x", "1.", kerr.InvalidRequest},
		{"a b", "1", kerr.InvalidRequest},
		{"x", "ü", kerr.InvalidRequest},
	} {
		got := ask[*kmsg.ApiVersionsResponse](t, &kmsg.ApiVersionsRequest{Version: 3, ClientSoftwareName: c.name, ClientSoftwareVersion: c.version})
		wantCode(t, c.name, got.ErrorCode, c.want)
		if c.want != nil {
			continue
		}
		if len(got.FinalizedFeatures) != 1 || got.FinalizedFeatures[0].Name != "metadata.version" || got.FinalizedFeatures[0].MaxVersionLevel != 30 ||
			len(got.SupportedFeatures) != 1 || got.FinalizedFeaturesEpoch < 1 {
			t.Errorf("features %+v %+v, epoch %d", got.FinalizedFeatures, got.SupportedFeatures, got.FinalizedFeaturesEpoch)
		}
	}
	wantCode(t, "no name before version 3", ask[*kmsg.ApiVersionsResponse](t, &kmsg.ApiVersionsRequest{Version: 2}).ErrorCode, nil)
}

func TestDescribeClusterEndpoints(t *testing.T) {
	for endpoint, want := range map[int8]*kerr.Error{1: nil, 2: kerr.MismatchedEndpointType, 5: kerr.UnsupportedEndpointType} {
		got := ask[*kmsg.DescribeClusterResponse](t, &kmsg.DescribeClusterRequest{Version: 2, EndpointType: endpoint})
		wantCode(t, fmt.Sprint(endpoint), got.ErrorCode, want)
		if got.ClusterAuthorizedOperations != unset {
			t.Errorf("operations %d, not asked for", got.ClusterAuthorizedOperations)
		}
	}
}
