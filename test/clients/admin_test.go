package clients

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func saramaAdmin(t testing.TB) sarama.ClusterAdmin {
	t.Helper()
	a := must[sarama.ClusterAdmin](t)(sarama.NewClusterAdmin([]string{broker}, saramaConfig()))
	t.Cleanup(func() { a.Close() })
	return a
}

func topicExists(t testing.TB, name string) bool {
	t.Helper()
	return must[kadm.TopicDetails](t)(admin(t).ListTopics(limit(t))).Has(name)
}

func deleteTopic(t testing.TB, name string) {
	t.Helper()
	for _, r := range must[kadm.DeleteTopicResponses](t)(admin(t).DeleteTopics(limit(t), name)) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

func createRequest(name string, partitions int32, configs ...string) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 7, 10_000
	ct := kmsg.NewCreateTopicsRequestTopic()
	ct.Topic, ct.NumPartitions, ct.ReplicationFactor = name, partitions, 1
	for i := 0; i+1 < len(configs); i += 2 {
		cc := kmsg.NewCreateTopicsRequestTopicConfig()
		cc.Name, cc.Value = configs[i], &configs[i+1]
		ct.Configs = append(ct.Configs, cc)
	}
	req.Topics = append(req.Topics, ct)
	return req
}

func TestCreateTopics(t *testing.T) {
	w, name := dial(t), topicOf(t)
	create := func(req *kmsg.CreateTopicsRequest) kmsg.CreateTopicsResponseTopic {
		t.Helper()
		return ask[*kmsg.CreateTopicsResponse](w, req).Topics[0]
	}
	for config, value := range map[string]string{"retention.ms": "soon", "segment.bytes": "-5", "no.such.config": "1", "cleanup.policy": "compress", "compression.type": "rar", "min.insync.replicas": "0", "max.message.bytes": "-1"} {
		r := create(createRequest(name, 1, config, value))
		wantCode(t, config, r.ErrorCode, kerr.InvalidConfig)
		if r.ErrorMessage == nil || !strings.Contains(*r.ErrorMessage, config) {
			t.Errorf("%s=%s: the message does not name it: %v", config, value, r.ErrorMessage)
		}
	}
	dry := createRequest(name, 1, "retention.ms", "60000")
	dry.ValidateOnly = true
	if r := create(dry); r.ErrorCode != 0 {
		t.Errorf("validate only: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	twice := createRequest(name, 1)
	twice.Topics = append(twice.Topics, twice.Topics[0])
	for _, r := range ask[*kmsg.CreateTopicsResponse](w, twice).Topics {
		wantCode(t, "named twice", r.ErrorCode, kerr.InvalidRequest)
	}
	for _, n := range []int32{0, -2} {
		wantCode(t, fmt.Sprint("partitions ", n), create(createRequest(name, n)).ErrorCode, kerr.InvalidPartitions)
	}
	for _, n := range []int16{0, -2, 2} {
		req := createRequest(name, 1)
		req.Topics[0].ReplicationFactor = n
		wantCode(t, fmt.Sprint("replicas ", n), create(req).ErrorCode, kerr.InvalidReplicationFactor)
	}
	both := createRequest(name, 1)
	ra := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
	ra.Replicas = []int32{1}
	both.Topics[0].ReplicaAssignment = append(both.Topics[0].ReplicaAssignment, ra)
	wantCode(t, "counts and an assignment", create(both).ErrorCode, kerr.InvalidRequest)
	for _, bad := range []string{"", ".", "..", "a b", strings.Repeat("x", 250)} {
		wantCode(t, fmt.Sprintf("name %q", bad), create(createRequest(bad, 1)).ErrorCode, kerr.InvalidTopicException)
	}
	if topicExists(t, name) {
		t.Fatal("a refused request made the topic")
	}
	defaults := createRequest(name, -1, "retention.ms", "60000")
	defaults.Topics[0].ReplicationFactor = -1
	r := create(defaults)
	wantCode(t, "defaults", r.ErrorCode, nil)
	if r.NumPartitions != 1 || r.ReplicationFactor != 1 || r.TopicID == [16]byte{} {
		t.Errorf("defaults: %+v", r)
	}
	configs := map[string]string{}
	for _, c := range r.Configs {
		if c.Value != nil {
			configs[c.Name] = *c.Value
		}
	}
	if configs["retention.ms"] != "60000" || configs["cleanup.policy"] != "delete" {
		t.Errorf("the reply's configs: %v", configs)
	}
	wantCode(t, "again", create(createRequest(name, 1)).ErrorCode, kerr.TopicAlreadyExists)
	wantCode(t, "a name that collides", create(createRequest(name+".a_b", 1)).ErrorCode, nil)
	wantCode(t, "a name that collides", create(createRequest(name+"_a.b", 1)).ErrorCode, kerr.InvalidTopicException)

	// The same through the libraries.
	sa := saramaAdmin(t)
	var topicErr *sarama.TopicError
	bad := "soon"
	err := sa.CreateTopic(name+"-s", &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &bad}}, false)
	if !errors.As(err, &topicErr) || topicErr.Err != sarama.ErrInvalidConfig || !strings.Contains(err.Error(), "retention.ms") {
		t.Errorf("sarama: %v", err)
	}
	if err := sa.CreateTopic(name+"-s", &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1}, false); err != nil {
		t.Error(err)
	}
	kc := kafkagoClient(t)
	resp, err := kc.CreateTopics(limit(t), &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: name + "-k", NumPartitions: 3, ReplicationFactor: 1}, {Topic: name, NumPartitions: 1, ReplicationFactor: 1}}})
	if err != nil || resp.Errors[name+"-k"] != nil || !errors.Is(resp.Errors[name], kafka.TopicAlreadyExists) {
		t.Errorf("kafka-go: %+v, %v", resp, err)
	}
	if d := must[kadm.TopicDetails](t)(admin(t).ListTopics(limit(t), name+"-s", name+"-k")); len(d[name+"-s"].Partitions) != 2 || len(d[name+"-k"].Partitions) != 3 {
		t.Errorf("got %+v", d)
	}
	if err := sa.DeleteTopic(name + "-s"); err != nil {
		t.Error(err)
	}
	if err := sa.DeleteTopic(name + "-s"); !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
		t.Errorf("deleted twice: %v", err)
	}
	del, err := kc.DeleteTopics(limit(t), &kafka.DeleteTopicsRequest{Topics: []string{name + "-k"}})
	if err != nil || del.Errors[name+"-k"] != nil {
		t.Errorf("kafka-go: %+v, %v", del, err)
	}
}

func TestConfigs(t *testing.T) {
	topic := newTopic(t, 1, "retention.ms", "70000")
	ctx, adm := limit(t), admin(t)
	describe := func() map[string]kadm.Config {
		t.Helper()
		rc, err := must[kadm.ResourceConfigs](t)(adm.DescribeTopicConfigs(ctx, topic)).On(topic, nil)
		if err != nil || rc.Err != nil {
			t.Fatal(err, rc.Err)
		}
		out := map[string]kadm.Config{}
		for _, c := range rc.Configs {
			out[c.Key] = c
		}
		return out
	}
	set := func(key, value, source string) {
		t.Helper()
		c := describe()[key]
		if c.MaybeValue() != value || c.Source.String() != source {
			t.Errorf("%s is %q (%s), want %q (%s)", key, c.MaybeValue(), c.Source, value, source)
		}
	}
	set("retention.ms", "70000", "DYNAMIC_TOPIC_CONFIG")
	set("max.message.bytes", "1048588", "DEFAULT_CONFIG")
	alter := func(op kadm.IncrementalOp, key, value string) error {
		t.Helper()
		r, err := must[kadm.AlterConfigsResponses](t)(adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: op, Name: key, Value: &value}}, topic)).On(topic, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Err != nil {
			return fmt.Errorf("%w: %s", r.Err, r.ErrMessage)
		}
		return nil
	}
	if err := alter(kadm.SetConfig, "max.message.bytes", "5000"); err != nil {
		t.Error(err)
	}
	set("max.message.bytes", "5000", "DYNAMIC_TOPIC_CONFIG")
	for _, c := range []struct{ key, value string }{{"max.message.bytes", "x"}, {"retention.ms", "-7"}, {"nothing.like.it", "1"}, {"message.timestamp.type", "MyTime"}, {"cleanup.policy", "compact,burn"}} {
		err := alter(kadm.SetConfig, c.key, c.value)
		if !errors.Is(err, kerr.InvalidConfig) || !strings.Contains(err.Error(), c.key) {
			t.Errorf("%s=%s: %v, want INVALID_CONFIG that names it", c.key, c.value, err)
		}
	}
	if err := alter(kadm.AppendConfig, "max.message.bytes", "5"); !errors.Is(err, kerr.InvalidConfig) || !strings.Contains(err.Error(), "max.message.bytes") {
		t.Errorf("append to what is no list: %v", err)
	}
	set("max.message.bytes", "5000", "DYNAMIC_TOPIC_CONFIG")
	// It is in effect.
	cl := franz(t, kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: make([]byte, 6000)}).FirstErr(); !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("a record of 6000 bytes: %v", err)
	}
	if err := alter(kadm.DeleteConfig, "max.message.bytes", ""); err != nil {
		t.Error(err)
	}
	set("max.message.bytes", "1048588", "DEFAULT_CONFIG")
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: make([]byte, 6000)}).FirstErr(); err != nil {
		t.Error(err)
	}
	// Validate only.
	value := "80000"
	if r := must[kadm.AlterConfigsResponses](t)(adm.ValidateAlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, topic)); r[0].Err != nil {
		t.Error(r[0].Err)
	}
	set("retention.ms", "70000", "DYNAMIC_TOPIC_CONFIG")

	// sarama and kafka-go see and change the same.
	sa := saramaAdmin(t)
	if err := sa.IncrementalAlterConfig(sarama.TopicResource, topic, map[string]sarama.IncrementalAlterConfigsEntry{"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}}, false); err != nil {
		t.Errorf("sarama: %v", err)
	}
	set("retention.ms", "80000", "DYNAMIC_TOPIC_CONFIG")
	entries := must[[]sarama.ConfigEntry](t)(sa.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"retention.ms"}}))
	if len(entries) != 1 || entries[0].Value != "80000" || entries[0].Source != sarama.SourceTopic {
		t.Errorf("sarama sees %+v", entries)
	}
	wrong := "x"
	if err := sa.IncrementalAlterConfig(sarama.TopicResource, topic, map[string]sarama.IncrementalAlterConfigsEntry{"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &wrong}}, false); err == nil || !strings.Contains(err.Error(), "retention.ms") {
		t.Errorf("sarama: %v", err)
	}
	kc := kafkagoClient(t)
	resp, err := kc.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{{ResourceType: kafka.ResourceTypeTopic, ResourceName: topic,
		Configs: []kafka.IncrementalAlterConfigsRequestConfig{{Name: "retention.ms", Value: "90000", ConfigOperation: kafka.ConfigOperationSet}}}}})
	if err != nil || resp.Resources[0].Error != nil {
		t.Errorf("kafka-go: %+v, %v", resp, err)
	}
	set("retention.ms", "90000", "DYNAMIC_TOPIC_CONFIG")
	if rs, err := kc.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, ConfigNames: []string{"retention.ms"}}}}); err != nil || rs.Resources[0].ConfigEntries[0].ConfigValue != "90000" {
		t.Errorf("kafka-go: %+v, %v", rs, err)
	}
}

// TestCreatePartitions adds partitions under a group, which takes them over.
func TestCreatePartitions(t *testing.T) {
	topic := newTopic(t, 1)
	values, seen := make(chan string, 1000), tally{}
	m := join(t, topic, topic, values, kgo.MetadataMaxAge(200*time.Millisecond), kgo.MetadataMinAge(50*time.Millisecond))
	write(t, topic, 0, 10)
	collect(t, values, 10, seen)
	adm := admin(t)
	if err := must[kadm.CreatePartitionsResponses](t)(adm.UpdatePartitions(limit(t), 3, topic)).Error(); err != nil {
		t.Fatal(err)
	}
	awaitShares(t, 3, m)
	write(t, topic, 10, 40)
	collect(t, values, 40, seen)
	m.leave(t)
	rest(values, seen)
	seen.wantEachOnce(t, 40)
	for _, n := range []int{1, 3} {
		if err := must[kadm.CreatePartitionsResponses](t)(adm.UpdatePartitions(limit(t), n, topic)).Error(); !errors.Is(err, kerr.InvalidPartitions) {
			t.Errorf("%d partitions of a topic that has 3: %v", n, err)
		}
	}
	if err := saramaAdmin(t).CreatePartitions(topic, 4, nil, true); err != nil {
		t.Errorf("sarama, validate only: %v", err)
	}
	if n := len(must[kadm.TopicDetails](t)(adm.ListTopics(limit(t), topic))[topic].Partitions); n != 3 {
		t.Errorf("%d partitions after validate only", n)
	}
	if err := saramaAdmin(t).CreatePartitions(topic, 4, nil, false); err != nil {
		t.Errorf("sarama: %v", err)
	}
}

func TestDeleteRecords(t *testing.T) {
	w, topic := dial(t), newTopic(t, 2)
	for i := range 10 {
		wantWritten(t, "produce", w.produce(topic, plain(one(i)...)), int64(i))
	}
	sa := saramaAdmin(t)
	start := func() int64 {
		t.Helper()
		got, code := w.list(11, topic, -2)
		wantCode(t, "start", code, nil)
		return got.offset
	}
	for _, c := range []struct {
		to, start int64
		code      error
	}{{4, 4, nil}, {4, 4, nil}, {2, 4, nil}, {0, 4, nil}, {11, 4, sarama.ErrOffsetOutOfRange}, {-2, 4, sarama.ErrOffsetOutOfRange}, {-1, 10, nil}, {-1, 10, nil}} {
		err := sa.DeleteRecords(topic, map[int32]int64{0: c.to})
		if c.code == nil && err != nil || c.code != nil && (err == nil || !strings.Contains(err.Error(), c.code.Error())) {
			t.Errorf("delete to %d: %v, want %v", c.to, err, c.code)
		}
		if s := start(); s != c.start {
			t.Errorf("delete to %d: the log starts at %d, want %d", c.to, s, c.start)
		}
	}
	p := w.produce(topic, plain(one(10)...))
	if p.ErrorCode != 0 || p.BaseOffset != 10 || p.LogStartOffset != 10 {
		t.Errorf("produce after it: %+v", p)
	}
	// Readers whose place is gone begin at the start.
	cl := franz(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(3)}}), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if offset, value := franzFirst(t, cl); offset != 10 || value != "10" {
		t.Errorf("the first record has offset %d and value %q", offset, value)
	}
}

// TestTopicMadeAgain deletes the topic under consumers of each library and
// makes it again. kafka-go and sarama ask by name and go on by themselves or
// at the next start; franz-go asks by id, is told that the id is gone, and
// goes on when the topic is added again, which is its documented way.
func TestTopicMadeAgain(t *testing.T) {
	topic := newTopic(t, 1)
	write(t, topic, 0, 5)
	ctx := limit(t)

	fr := franz(t, kgo.KeepRetryableFetchErrors(), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(50*time.Millisecond), kgo.MetadataMaxAge(200*time.Millisecond), kgo.FetchMaxWait(100*time.Millisecond))
	nextFranz := func(n int) (got []string, err error) {
		for len(got) < n {
			fs := fr.PollRecords(ctx, n-len(got))
			if err := fs.Err(); err != nil {
				return got, err
			}
			for _, r := range fs.Records() {
				got = append(got, string(r.Value))
			}
		}
		return got, nil
	}
	kr := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{broker}, Topic: topic, MaxWait: 100 * time.Millisecond, ReadBackoffMin: 20 * time.Millisecond, ReadBackoffMax: 50 * time.Millisecond, MaxAttempts: 1000})
	defer kr.Close()
	nextKafkago := func(n int) (got []string, err error) {
		for len(got) < n {
			m, err := kr.ReadMessage(ctx)
			if err != nil {
				return got, err
			}
			got = append(got, string(m.Value))
		}
		return got, nil
	}
	cfg := saramaConfig()
	cfg.Metadata.Retry.Backoff, cfg.Consumer.Retry.Backoff = 20*time.Millisecond, 20*time.Millisecond
	sc := must[sarama.Consumer](t)(sarama.NewConsumerFromClient(saramaClient(t, cfg)))
	pc := must[sarama.PartitionConsumer](t)(sc.ConsumePartition(topic, 0, sarama.OffsetOldest))
	ignoreErrors := func(pc sarama.PartitionConsumer) {
		for range pc.Errors() {
		}
	}
	go ignoreErrors(pc)
	nextSarama := func(n int) (got []string, err error) {
		for len(got) < n {
			select {
			case m, ok := <-pc.Messages():
				if !ok { // sarama gave the partition up: start again, as its group consumer does
					if pc, err = sc.ConsumePartition(topic, 0, sarama.OffsetOldest); err != nil {
						return got, err
					}
					go ignoreErrors(pc)
					continue
				}
				got = append(got, string(m.Value))
			case <-ctx.Done():
				return got, ctx.Err()
			}
		}
		return got, nil
	}
	want := func(what string, f func(int) ([]string, error), from, to int) {
		t.Helper()
		got, err := f(to - from)
		if err != nil {
			t.Fatalf("%s: after %v: %v", what, got, err)
		}
		for i, v := range got {
			if v != fmt.Sprint(from+i) {
				t.Fatalf("%s: got %v, want %d to %d", what, got, from, to-1)
			}
		}
	}
	want("franz-go", nextFranz, 0, 5)
	want("kafka-go", nextKafkago, 0, 5)
	want("sarama", nextSarama, 0, 5)

	deleteTopic(t, topic)
	makeTopic(t, topic, 1)
	write(t, topic, 100, 103) // fewer records than there were: the old offset is past the end

	for {
		_, err := nextFranz(1)
		if err == nil {
			t.Fatal("franz-go took a record of the new topic for one of the old")
		}
		if errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.UnknownTopicOrPartition) {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	fr.PurgeTopicsFromClient(topic)
	fr.AddConsumeTopics(topic)
	want("franz-go, the new topic", nextFranz, 100, 103)
	want("sarama, the new topic", nextSarama, 100, 103)
	// kafka-go waits past the end of the new topic, until it has as many.
	write(t, topic, 103, 107)
	want("kafka-go, the new topic", nextKafkago, 105, 107)
	if err := errors.Join(pc.Close(), sc.Close()); err != nil {
		t.Error(err)
	}
}

// TestGroupAdministration lists, describes and sets offsets of groups.
func TestGroupAdministration(t *testing.T) {
	topic := newTopic(t, 2)
	write(t, topic, 0, 20)
	ctx, adm, sa := limit(t), admin(t), saramaAdmin(t)
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: topic, Partition: 0, At: 4, LeaderEpoch: 0, Metadata: "set by hand"})
	if err := adm.CommitAllOffsets(ctx, topic, offsets); err != nil {
		t.Fatal(err)
	}
	got := must[*sarama.OffsetFetchResponse](t)(sa.ListConsumerGroupOffsets(topic, map[string][]int32{topic: {0, 1}}))
	if b := got.GetBlock(topic, 0); b == nil || b.Offset != 4 || b.Metadata != "set by hand" || b.Err != sarama.ErrNoError {
		t.Errorf("partition 0: %+v", b)
	}
	if b := got.GetBlock(topic, 1); b == nil || b.Offset != -1 || b.Err != sarama.ErrNoError {
		t.Errorf("partition 1: %+v", b)
	}
	if groups := must[map[string]string](t)(sa.ListConsumerGroups()); groups[topic] == "" && len(groups) == 0 {
		t.Errorf("sarama lists %v", groups)
	}
	values := make(chan string, 100)
	m := join(t, topic, topic, values, kgo.ClientID("the reader"))
	awaitShares(t, 2, m)
	d := must[[]*sarama.GroupDescription](t)(sa.DescribeConsumerGroups([]string{topic}))[0]
	if d.Err != sarama.ErrNoError || d.State != "Stable" || d.ProtocolType != "consumer" || len(d.Members) != 1 {
		t.Fatalf("got %+v", d)
	}
	for _, dm := range d.Members {
		a, err := dm.GetMemberAssignment()
		if err != nil || len(a.Topics[topic]) != 2 || dm.ClientId != "the reader" || !strings.Contains(dm.ClientHost, "127.0.0.1") {
			t.Errorf("member %+v with %+v, %v", dm, a, err)
		}
	}
	// Someone who is no member may not commit into it.
	if err := adm.CommitAllOffsets(ctx, topic, offsets); !errors.Is(err, kerr.UnknownMemberID) {
		t.Errorf("a commit from outside: %v, want UNKNOWN_MEMBER_ID", err)
	}
	seen := tally{}
	collect(t, values, 16, seen) // 10 of partition 1, 6 of partition 0
	m.leave(t)
	lag := must[kadm.DescribedGroupLags](t)(adm.Lag(ctx, topic))[topic]
	if lag.Error() != nil || lag.Lag.Total() != 0 || lag.State != "Empty" {
		t.Errorf("lag %d, %s, %v", lag.Lag.Total(), lag.State, lag.Error())
	}
	kc := kafkagoClient(t)
	ko, err := kc.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: topic, Topics: map[string][]int{topic: {0, 1}}})
	if err != nil || ko.Error != nil || len(ko.Topics[topic]) != 2 || ko.Topics[topic][0].CommittedOffset != 10 {
		t.Errorf("kafka-go: %+v, %v", ko, err)
	}
	unknown := must[[]*sarama.GroupDescription](t)(sa.DescribeConsumerGroups([]string{topic + "-not"}))[0]
	if unknown.Err != sarama.ErrNoError && !errors.Is(unknown.Err, sarama.ErrGroupIDNotFound) || unknown.State != "Dead" || len(unknown.Members) != 0 {
		t.Errorf("an unknown group: %+v", unknown)
	}
}

// TestReadCommitted: without transactions, all that is acknowledged is
// committed.
func TestReadCommitted(t *testing.T) {
	topic := newTopic(t, 1)
	write(t, topic, 0, 50)
	cl := franz(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	cfg := saramaConfig()
	cfg.Consumer.IsolationLevel = sarama.ReadCommitted
	sc := must[sarama.Consumer](t)(sarama.NewConsumerFromClient(saramaClient(t, cfg)))
	pc := must[sarama.PartitionConsumer](t)(sc.ConsumePartition(topic, 0, sarama.OffsetOldest))
	kr := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{broker}, Topic: topic, MaxWait: 100 * time.Millisecond, IsolationLevel: kafka.ReadCommitted})
	defer kr.Close()
	ctx := limit(t)
	var fromFranz []string
	for len(fromFranz) < 50 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) { fromFranz = append(fromFranz, string(r.Value)) })
	}
	for i := range 50 {
		want := fmt.Sprint(i)
		m, err := kr.ReadMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case sm := <-pc.Messages():
			if fromFranz[i] != want || string(m.Value) != want || string(sm.Value) != want {
				t.Fatalf("record %d: %q, %q, %q", i, fromFranz[i], m.Value, sm.Value)
			}
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		}
	}
	if err := errors.Join(pc.Close(), sc.Close()); err != nil {
		t.Error(err)
	}
}
