package api

import (
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/topicconfig"
)

func describe(t *testing.T, kind kmsg.ConfigResourceType, name string, keys ...string) kmsg.DescribeConfigsResponseResource {
	t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version, req.IncludeSynonyms, req.IncludeDocumentation = 4, true, true
	rr := kmsg.NewDescribeConfigsRequestResource()
	rr.ResourceType, rr.ResourceName, rr.ConfigNames = kind, name, keys
	req.Resources = append(req.Resources, rr)
	return ask[*kmsg.DescribeConfigsResponse](t, req).Resources[0]
}

func valueOf(r kmsg.DescribeConfigsResponseResource, name string) string {
	for _, c := range r.Configs {
		if c.Name == name {
			if c.Value == nil {
				return "(null)"
			}
			return *c.Value
		}
	}
	return "(absent)"
}

func TestDescribeTopicConfigs(t *testing.T) {
	topic := makeTopic(t, 1, "retention.ms", "7000", "internal.segment.bytes", "5000")
	got := describe(t, kmsg.ConfigResourceTypeTopic, topic.Name)
	if len(got.Configs) != len(topicconfig.Definitions())+1 {
		t.Errorf("%d configs, want all and the internal one that is set", len(got.Configs))
	}
	for _, c := range got.Configs {
		if c.ReadOnly || c.IsSensitive || c.Value == nil || c.Documentation == nil || *c.Documentation == "" || c.ConfigType == 0 {
			t.Errorf("got %+v", c)
		}
	}
	one := describe(t, kmsg.ConfigResourceTypeTopic, topic.Name, "retention.ms").Configs
	if len(one) != 1 || *one[0].Value != "7000" || one[0].Source != kmsg.ConfigSourceDynamicTopicConfig || one[0].ConfigType != kmsg.ConfigTypeLong || len(one[0].ConfigSynonyms) != 1 {
		t.Errorf("got %+v", one)
	}
	other := describe(t, kmsg.ConfigResourceTypeTopic, topic.Name, "cleanup.policy").Configs[0]
	if *other.Value != "delete" || other.Source != kmsg.ConfigSourceDefaultConfig || other.ConfigType != kmsg.ConfigTypeList || len(other.ConfigSynonyms) != 1 {
		t.Errorf("got %+v", other)
	}
}

func TestDescribeConfigsErrors(t *testing.T) {
	for _, c := range []struct {
		kind kmsg.ConfigResourceType
		name string
		want *kerr.Error
	}{
		{kmsg.ConfigResourceTypeTopic, "absent", kerr.UnknownTopicOrPartition},
		{kmsg.ConfigResourceTypeTopic, "a b", kerr.InvalidTopicException},
		{kmsg.ConfigResourceTypeTopic, "", kerr.InvalidTopicException},
		{kmsg.ConfigResourceTypeBroker, "7", nil},
		{kmsg.ConfigResourceTypeBroker, "", nil},
		{kmsg.ConfigResourceTypeBroker, "8", kerr.InvalidRequest},
		{kmsg.ConfigResourceTypeBroker, "seven", kerr.InvalidRequest},
		{kmsg.ConfigResourceTypeBrokerLogger, "7", nil},
		{kmsg.ConfigResourceTypeBrokerLogger, "8", kerr.InvalidRequest},
		{kmsg.ConfigResourceTypeBrokerLogger, "", kerr.InvalidRequest},
		{kmsg.ConfigResourceTypeClientMetrics, "nobody made it", nil},
		{kmsg.ConfigResourceTypeClientMetrics, "", kerr.InvalidRequest},
		{kmsg.ConfigResourceTypeGroupConfig, "nobody made it", nil},
		{kmsg.ConfigResourceTypeGroupConfig, "", kerr.InvalidRequest},
		{99, "x", kerr.InvalidRequest},
	} {
		got := describe(t, c.kind, c.name)
		wantCode(t, c.name, got.ErrorCode, c.want)
		if got.ResourceType != c.kind || got.ResourceName != c.name {
			t.Errorf("%s: got %+v", c.name, got)
		}
	}
}

func TestDescribeBrokerConfigs(t *testing.T) {
	got := describe(t, kmsg.ConfigResourceTypeBroker, "7")
	for name, want := range map[string]string{"node.id": "7", "broker.id": "7", "num.partitions": "2", "auto.create.topics.enable": "true",
		"log.retention.hours": "168", "message.max.bytes": "1048588", "advertised.listeners": "PLAINTEXT://firn.test:9092", "broker.rack": "r1"} {
		if v := valueOf(got, name); v != want {
			t.Errorf("%s is %s, want %s", name, v, want)
		}
	}
	listed := slices.DeleteFunc(brokerconfig.Definitions(), func(d brokerconfig.Definition) bool { return d.Unlisted })
	if len(got.Configs) != len(listed) {
		t.Errorf("%d configs, want all", len(got.Configs))
	}
	for _, c := range got.Configs {
		d, _ := brokerconfig.Lookup(c.Name)
		if c.ReadOnly != (d.Scope == brokerconfig.ReadOnly) || c.Documentation == nil || (c.Value == nil) != (len(c.ConfigSynonyms) == 0) && c.Name != "log.retention.ms" {
			t.Errorf("got %+v", c)
		}
	}
}

type change struct {
	name  string
	op    kmsg.IncrementalAlterConfigOp
	value *string
}

func alter(t *testing.T, validateOnly bool, kind kmsg.ConfigResourceType, name string, changes ...change) kmsg.IncrementalAlterConfigsResponseResource {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version, req.ValidateOnly = 1, validateOnly
	rr := kmsg.NewIncrementalAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kind, name
	for _, c := range changes {
		rc := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		rc.Name, rc.Op, rc.Value = c.name, c.op, c.value
		rr.Configs = append(rr.Configs, rc)
	}
	req.Resources = append(req.Resources, rr)
	return ask[*kmsg.IncrementalAlterConfigsResponse](t, req).Resources[0]
}

const (
	opSet      = kmsg.IncrementalAlterConfigOpSet
	opDelete   = kmsg.IncrementalAlterConfigOpDelete
	opAppend   = kmsg.IncrementalAlterConfigOpAppend
	opSubtract = kmsg.IncrementalAlterConfigOpSubtract
	kindTopic  = kmsg.ConfigResourceTypeTopic
)

func TestAlterConfigs(t *testing.T) {
	topic := makeTopic(t, 1)
	str := kmsg.StringPtr
	show := func(key string) string { return valueOf(describe(t, kindTopic, topic.Name), key) }
	for _, c := range []struct {
		what     string
		validate bool
		changes  []change
		key      string
		want     string
	}{
		{"validate only", true, []change{{"retention.ms", opSet, str("9")}}, "retention.ms", "604800000"},
		{"set", false, []change{{"retention.ms", opSet, str("9")}, {"max.message.bytes", opSet, str("123")}}, "retention.ms", "9"},
		{"the other is kept", false, []change{{"retention.ms", opSet, str("10")}}, "max.message.bytes", "123"},
		{"delete", false, []change{{"retention.ms", opDelete, nil}}, "retention.ms", "604800000"},
		{"subtract from the default", false, []change{{"cleanup.policy", opSubtract, str("delete")}}, "cleanup.policy", ""},
		{"append", false, []change{{"cleanup.policy", opAppend, str("delete")}}, "cleanup.policy", "delete"},
		{"append what is there", false, []change{{"cleanup.policy", opAppend, str("delete")}}, "cleanup.policy", "delete"},
		{"delete what is not set", false, []change{{"segment.ms", opDelete, nil}}, "segment.ms", "604800000"},
	} {
		got := alter(t, c.validate, kindTopic, topic.Name, c.changes...)
		wantCode(t, c.what, got.ErrorCode, nil)
		if v := show(c.key); v != c.want {
			t.Errorf("%s: %s is %q, want %q", c.what, c.key, v, c.want)
		}
	}
	// Internal topics too, but not what decides which of their records go.
	if err := shared.ensureOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "internal topic", alter(t, false, kindTopic, offsetsTopic, change{"min.insync.replicas", opSet, str("1")}).ErrorCode, nil)
	wantCode(t, "internal topic", replaceConfigs(t, true, kindTopic, offsetsTopic).ErrorCode, nil)
	// What was set is in force when it is answered.
	resp := ask[*kmsg.ProduceResponse](t, produceRequest(topic, 9, 1, producePart(0, batch(t, 50))))
	wantCode(t, "max.message.bytes", resp.Topics[0].Partitions[0].ErrorCode, kerr.MessageTooLarge)
}

func TestAlterConfigsErrors(t *testing.T) {
	if err := shared.ensureOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	topic := makeTopic(t, 1, "remote.storage.enable", "true")
	str := kmsg.StringPtr
	ok := change{"retention.ms", opSet, str("9")}
	for _, c := range []struct {
		what    string
		kind    kmsg.ConfigResourceType
		name    string
		changes []change
		want    *kerr.Error
		msg     string
	}{
		{"absent topic", kindTopic, "absent", []change{ok}, kerr.UnknownTopicOrPartition, "absent"},
		{"absent topic, bad value", kindTopic, "absent", []change{{"retention.ms", opSet, str("x")}}, kerr.InvalidConfig, "retention.ms"},
		{"no topic", kindTopic, "", []change{ok}, kerr.InvalidRequest, "name one"},
		{"illegal topic", kindTopic, "a b", []change{ok}, kerr.InvalidTopicException, "a b"},
		{"internal topic", kindTopic, offsetsTopic, []change{ok}, kerr.InvalidRequest, "internal"},
		{"unknown key", kindTopic, topic.Name, []change{{"retentionms", opSet, str("9")}}, kerr.InvalidConfig, "retention.ms?"},
		{"append to an unknown key", kindTopic, topic.Name, []change{{"retentionms", opAppend, str("9")}}, kerr.InvalidConfig, "retention.ms?"},
		{"append to no list", kindTopic, topic.Name, []change{{"retention.ms", opAppend, str("9")}}, kerr.InvalidConfig, "not a list"},
		{"wrong by append", kindTopic, topic.Name, []change{{"cleanup.policy", opAppend, str("compress")}}, kerr.InvalidConfig, "compress"},
		{"null", kindTopic, topic.Name, []change{{"retention.ms", opSet, nil}}, kerr.InvalidRequest, "without a value"},
		{"key twice", kindTopic, topic.Name, []change{ok, ok}, kerr.InvalidRequest, "more than once"},
		{"unknown operation", kindTopic, topic.Name, []change{{"retention.ms", 7, str("9")}}, kerr.InvalidRequest, "operation"},
		{"one of two is bad", kindTopic, topic.Name, []change{ok, {"segment.ms", opSet, str("0")}}, kerr.InvalidConfig, "segment.ms"},
		{"tiering off", kindTopic, topic.Name, []change{{"remote.storage.enable", opSet, str("false")}}, kerr.InvalidConfig, "remote"},
		{"tiering off by delete", kindTopic, topic.Name, []change{{"remote.storage.enable", opDelete, nil}}, kerr.InvalidConfig, "remote"},
		{"unknown resource", 99, "x", []change{ok}, kerr.InvalidRequest, "resource type"},
	} {
		got := alter(t, false, c.kind, c.name, c.changes...)
		wantCode(t, c.what, got.ErrorCode, c.want)
		if got.ErrorMessage == nil || !strings.Contains(*got.ErrorMessage, c.msg) {
			t.Errorf("%s: message lacks %q: %v", c.what, c.msg, got.ErrorMessage)
		} else if c.want == kerr.InvalidConfig && !strings.HasPrefix(*got.ErrorMessage, c.changes[len(c.changes)-1].name+": ") {
			t.Errorf("%s: message does not begin with the config's name: %s", c.what, *got.ErrorMessage)
		}
	}
	if v := valueOf(describe(t, kindTopic, topic.Name), "retention.ms"); v != "604800000" {
		t.Errorf("retention.ms is %s: half of a refused change was made", v)
	}
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version = 1
	rr := kmsg.NewIncrementalAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kindTopic, topic.Name
	req.Resources = append(req.Resources, rr, rr)
	for _, r := range ask[*kmsg.IncrementalAlterConfigsResponse](t, req).Resources {
		wantCode(t, "resource twice", r.ErrorCode, kerr.InvalidRequest)
	}
}
