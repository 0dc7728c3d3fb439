package api

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
)

const (
	kindBroker  = kmsg.ConfigResourceTypeBroker
	kindLogger  = kmsg.ConfigResourceTypeBrokerLogger
	kindMetrics = kmsg.ConfigResourceTypeClientMetrics
	kindGroup   = kmsg.ConfigResourceTypeGroupConfig
)

func setTo(name, value string) change { return change{name, opSet, &value} }

// replaceConfigs is AlterConfigs of one resource.
func replaceConfigs(t *testing.T, validateOnly bool, kind kmsg.ConfigResourceType, name string, changes ...change) kmsg.AlterConfigsResponseResource {
	t.Helper()
	req := kmsg.NewPtrAlterConfigsRequest()
	req.Version, req.ValidateOnly = 2, validateOnly
	rr := kmsg.NewAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kind, name
	for _, c := range changes {
		rc := kmsg.NewAlterConfigsRequestResourceConfig()
		rc.Name, rc.Value = c.name, c.value
		rr.Configs = append(rr.Configs, rc)
	}
	req.Resources = append(req.Resources, rr)
	return ask[*kmsg.AlterConfigsResponse](t, req).Resources[0]
}

// resetBrokers takes back what a test set at run time.
func resetBrokers(t *testing.T) {
	t.Cleanup(func() {
		for _, name := range []string{"", "7"} {
			if got := replaceConfigs(t, false, kindBroker, name); got.ErrorCode != 0 {
				t.Errorf("%+v", got)
			}
		}
	})
}

// shown is one config as "value source: name=value@source …", in the words
// that a probe of Apache Kafka was printed in.
func shown(t *testing.T, kind kmsg.ConfigResourceType, resource, config string) string {
	t.Helper()
	configs := describe(t, kind, resource, config).Configs
	if len(configs) == 0 {
		return "absent"
	}
	c := configs[0]
	value := "null"
	if c.Value != nil {
		value = *c.Value
	}
	out := fmt.Sprintf("%s %d:", value, c.Source)
	for _, s := range c.ConfigSynonyms {
		out += fmt.Sprintf(" %s=%s@%d", s.Name, *s.Value, s.Source)
	}
	return out
}

// TestSynonyms: after each change, what is shown of a topic, of the broker and
// of the default of all is what Apache Kafka 4.3.1 shows after the same
// changes.
func TestSynonyms(t *testing.T) {
	resetBrokers(t)
	topic := makeTopic(t, 1)
	check := func(what string, want map[string]string) {
		t.Helper()
		for at, w := range want {
			kind, rest, _ := strings.Cut(at, " ")
			got := ""
			switch kind {
			case "topic":
				got = shown(t, kindTopic, topic.Name, rest)
			case "broker":
				got = shown(t, kindBroker, "7", rest)
			case "all":
				got = shown(t, kindBroker, "", rest)
			}
			if got != w {
				t.Errorf("%s: %s is shown as\n%s\nwant\n%s", what, at, got, w)
			}
		}
	}
	do := func(kind kmsg.ConfigResourceType, name string, changes ...change) {
		t.Helper()
		if got := alter(t, false, kind, name, changes...); got.ErrorCode != 0 {
			t.Fatalf("%d %s: %d %s", kind, name, got.ErrorCode, *got.ErrorMessage)
		}
	}
	check("nothing set", map[string]string{
		"topic retention.ms": "604800000 5:", "topic flush.ms": "9223372036854775807 5:", "topic remote.storage.enable": "false 5:",
		"topic segment.bytes":     "1073741824 5: log.segment.bytes=1073741824@5",
		"broker log.retention.ms": "null 5:", "broker log.retention.hours": "168 5: log.retention.hours=168@5", "broker num.partitions": "2 4: num.partitions=2@4 num.partitions=1@5",
		"all log.retention.ms": "absent",
	})
	do(kindTopic, topic.Name, setTo("retention.ms", "1000"))
	check("topic", map[string]string{"topic retention.ms": "1000 1: retention.ms=1000@1"})
	do(kindBroker, "", setTo("log.retention.ms", "2000"), setTo("compression.type", "zstd"), setTo("max.connections", "55"))
	check("all", map[string]string{
		"topic retention.ms":      "1000 1: retention.ms=1000@1 log.retention.ms=2000@3 log.retention.hours=168@5",
		"topic compression.type":  "zstd 3: compression.type=zstd@3 compression.type=producer@5",
		"broker log.retention.ms": "2000 3: log.retention.ms=2000@3 log.retention.hours=168@5",
		"broker max.connections":  "55 3: max.connections=55@3 max.connections=10000@5",
		"all log.retention.ms":    "2000 3: log.retention.ms=2000@3",
		"all max.connections":     "55 3: max.connections=55@3",
	})
	do(kindBroker, "7", setTo("log.retention.ms", " 3000"))
	do(kindTopic, topic.Name, change{"retention.ms", opDelete, nil})
	check("broker", map[string]string{
		"topic retention.ms":      "3000 2: log.retention.ms= 3000@2 log.retention.ms=2000@3 log.retention.hours=168@5",
		"broker log.retention.ms": "3000 2: log.retention.ms= 3000@2 log.retention.ms=2000@3 log.retention.hours=168@5",
		"all log.retention.ms":    "2000 3: log.retention.ms=2000@3",
	})
	do(kindBroker, "7", change{"log.retention.ms", opDelete, nil}, change{"nosuch", opDelete, nil})
	check("broker deleted", map[string]string{"topic retention.ms": "2000 3: log.retention.ms=2000@3 log.retention.hours=168@5"})
	if n := len(describe(t, kindBroker, "").Configs); n != 3 {
		t.Errorf("%d configs of all brokers, 3 are set", n)
	}
}

func TestAlterBrokerErrors(t *testing.T) {
	resetBrokers(t)
	for _, c := range []struct {
		name   string
		change change
		want   *kerr.Error
		msg    string
	}{
		{"7", setTo("num.partitions", "3"), kerr.InvalidRequest, "at the start of the broker only"},
		{"", setTo("num.partitions", "3"), kerr.InvalidRequest, "at the start of the broker only"},
		{"7", change{"num.partitions", opDelete, nil}, nil, ""},
		{"7", setTo("broker.id", "7"), kerr.InvalidRequest, "at the start"},
		{"8", setTo("log.retention.ms", "1"), kerr.InvalidRequest, "ask broker 8 itself"},
		{"abc", setTo("log.retention.ms", "1"), kerr.InvalidRequest, "a broker's id is a number"},
		{"-1", setTo("log.retention.ms", "1"), kerr.InvalidRequest, "ask broker -1 itself"},
		{"99999999999", setTo("log.retention.ms", "1"), kerr.InvalidRequest, "a broker's id is a number"},
		{"07", setTo("log.retention.ms", "1"), nil, ""},
		{"7", setTo("nosuch", "1"), kerr.InvalidRequest, "no such broker config"},
		{"7", setTo("num.io.threads", "1"), kerr.InvalidRequest, "Kafka has this broker config"},
		{"7", setTo("retention.ms", "1"), kerr.InvalidRequest, "is a config of topics"},
		{"7", setTo("log.retention.ms", "abc"), kerr.InvalidRequest, "not a number"},
		{"7", change{"log.retention.ms", opSet, nil}, kerr.InvalidRequest, "without a value"},
		{"7", change{"log.retention.ms", 9, nil}, kerr.InvalidRequest, "unknown operation 9"},
		{"7", change{"log.retention.ms", opAppend, kmsg.StringPtr("1")}, kerr.InvalidConfig, "is not a list"},
		{"7", change{"nosuch", opAppend, kmsg.StringPtr("1")}, kerr.InvalidConfig, "no such broker config"},
		{"7", setTo("log.local.retention.ms", "99999999999"), kerr.InvalidRequest, "is more than topics keep"},
		{"", setTo("log.cleanup.policy", "foo"), kerr.InvalidRequest, "foo"},
		{"", change{"log.cleanup.policy", opAppend, kmsg.StringPtr("foo")}, kerr.InvalidRequest, "foo"},
		{"", setTo("max.connections.per.ip", "0"), kerr.InvalidRequest, "max.connections.per.ip.overrides"},
		{"", setTo("max.connections", "-5"), kerr.InvalidRequest, "too small"},
		{"", setTo("max.connections.per.ip.overrides", "nonsense"), kerr.InvalidRequest, "ADDRESS:NUMBER"},
		{"", setTo("log.segment.bytes", "1"), kerr.InvalidRequest, "too small"},
	} {
		for _, validateOnly := range []bool{true, false} {
			got := alter(t, validateOnly, kindBroker, c.name, c.change)
			wantCode(t, c.name+" "+c.change.name, got.ErrorCode, c.want)
			if c.want != nil && (got.ErrorMessage == nil || !strings.Contains(*got.ErrorMessage, c.msg)) {
				t.Errorf("%s %s: message lacks %q: %v", c.name, c.change.name, c.msg, got.ErrorMessage)
			}
		}
	}
	if got := alter(t, true, kindBroker, "", setTo("max.connections", "77")); got.ErrorCode != 0 || shown(t, kindBroker, "", "max.connections") != "absent" {
		t.Errorf("validate only: %+v, and then %s", got, shown(t, kindBroker, "", "max.connections"))
	}
}

// TestChangesBesideWhatIsWrong: a stored value that this version does not take
// does not stand in the way of other changes, and can be deleted.
func TestChangesBesideWhatIsWrong(t *testing.T) {
	resetBrokers(t)
	all := metastore.ConfigResource{Type: metastore.BrokerConfigs}
	_, err := shared.meta.SetConfigs(t.Context(), all, func(map[string]string) (map[string]string, error) {
		return map[string]string{"of.another.version": "x", "max.connections": "-3"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := alter(t, false, kindBroker, "", setTo("message.max.bytes", "5000")); got.ErrorCode != 0 {
		t.Fatalf("%d %s", got.ErrorCode, *got.ErrorMessage)
	}
	if v := shown(t, kindBroker, "7", "message.max.bytes"); !strings.HasPrefix(v, "5000 3:") {
		t.Error(v)
	}
	if v := shown(t, kindBroker, "7", "max.connections"); !strings.HasPrefix(v, "10000 5:") {
		t.Error(v)
	}
	if got := alter(t, false, kindBroker, "", change{"of.another.version", opDelete, nil}, setTo("max.connections", "9")); got.ErrorCode != 0 {
		t.Fatalf("%d %s", got.ErrorCode, *got.ErrorMessage)
	}
	if got := shared.meta.Image().Configs[all]; len(got) != 2 || got["max.connections"] != "9" {
		t.Errorf("stored are %v", got)
	}
}

func TestReplaceConfigs(t *testing.T) {
	resetBrokers(t)
	topic := makeTopic(t, 1, "retention.ms", "1", "segment.bytes", "2000000")
	wantCode(t, "validate only", replaceConfigs(t, true, kindTopic, topic.Name, setTo("retention.ms", "9")).ErrorCode, nil)
	if v := shown(t, kindTopic, topic.Name, "retention.ms"); !strings.HasPrefix(v, "1 1:") {
		t.Error(v)
	}
	wantCode(t, "replace", replaceConfigs(t, false, kindTopic, topic.Name, setTo("retention.ms", "9")).ErrorCode, nil)
	if v, w := shown(t, kindTopic, topic.Name, "retention.ms"), shown(t, kindTopic, topic.Name, "segment.bytes"); !strings.HasPrefix(v, "9 1:") || !strings.HasPrefix(w, "1073741824 5:") {
		t.Error(v, w)
	}
	wantCode(t, "broker", replaceConfigs(t, false, kindBroker, "", setTo("max.connections", "8"), setTo("message.max.bytes", "9")).ErrorCode, nil)
	wantCode(t, "broker again", replaceConfigs(t, false, kindBroker, "", setTo("max.connections", "7")).ErrorCode, nil)
	if n := len(describe(t, kindBroker, "").Configs); n != 1 {
		t.Errorf("%d configs of all brokers, 1 is set", n)
	}
	for _, c := range []struct {
		kind   kmsg.ConfigResourceType
		name   string
		change change
		want   *kerr.Error
	}{
		{kindTopic, topic.Name, change{"retention.ms", 0, nil}, kerr.InvalidRequest},
		{kindTopic, topic.Name, setTo("nosuch", "1"), kerr.InvalidConfig},
		{kindTopic, "absent", setTo("nosuch", "1"), kerr.InvalidConfig},
		{kindTopic, "absent", setTo("retention.ms", "1"), kerr.UnknownTopicOrPartition},
		{kindTopic, "", setTo("retention.ms", "1"), kerr.InvalidRequest},
		{kindTopic, "a/b", setTo("retention.ms", "1"), kerr.InvalidTopicException},
		{kindBroker, "7", setTo("num.partitions", "2"), kerr.InvalidRequest},
		{kindBroker, "8", setTo("max.connections", "2"), kerr.InvalidRequest},
		{kindLogger, "7", setTo("root", "INFO"), kerr.InvalidRequest},
		{kindMetrics, "", setTo("interval.ms", "100"), kerr.InvalidRequest},
		{kindMetrics, "m", setTo("foo", "100"), kerr.InvalidRequest},
		{kindGroup, "", setTo("x", "100"), kerr.InvalidRequest},
		{kindGroup, "g", setTo("x", "100"), kerr.InvalidConfig},
		{7, "x", setTo("x", "100"), kerr.InvalidRequest},
	} {
		got := replaceConfigs(t, false, c.kind, c.name, c.change)
		wantCode(t, fmt.Sprint(c.kind, c.name, c.change.name), got.ErrorCode, c.want)
		if got.ErrorMessage == nil || *got.ErrorMessage == "" {
			t.Errorf("%d %q %s: no message", c.kind, c.name, c.change.name)
		}
	}
	req := kmsg.NewPtrAlterConfigsRequest()
	req.Version = 1
	rr := kmsg.NewAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kindTopic, topic.Name
	req.Resources = append(req.Resources, rr, rr)
	for _, r := range ask[*kmsg.AlterConfigsResponse](t, req).Resources {
		wantCode(t, "resource twice", r.ErrorCode, kerr.InvalidRequest)
	}
}

func TestClientMetricsAndGroups(t *testing.T) {
	t.Cleanup(func() {
		replaceConfigs(t, false, kindMetrics, "cm")
		replaceConfigs(t, false, kindGroup, "gr")
	})
	for _, c := range []struct {
		kind   kmsg.ConfigResourceType
		name   string
		change change
		want   *kerr.Error
	}{
		{kindMetrics, "cm", setTo("interval.ms", "99"), kerr.InvalidRequest},
		{kindMetrics, "cm", setTo("interval.ms", "3600001"), kerr.InvalidRequest},
		{kindMetrics, "cm", setTo("interval.ms", "abc"), kerr.InvalidConfig},
		{kindMetrics, "cm", setTo("interval.ms", "100"), nil},
		{kindMetrics, "cm", setTo("match", "client_id=["), kerr.InvalidConfig},
		{kindMetrics, "cm", setTo("match", "nosuch=x"), kerr.InvalidConfig},
		{kindMetrics, "cm", setTo("match", "client_id"), kerr.InvalidConfig},
		{kindMetrics, "cm", setTo("match", "client_software_name=a,client_source_port=1"), nil},
		{kindMetrics, "cm", setTo("metrics", "*"), nil},
		{kindMetrics, "cm", setTo("foo", "1"), kerr.InvalidRequest},
		{kindMetrics, "cm", change{"metrics", opAppend, kmsg.StringPtr("d")}, kerr.InvalidConfig},
		{kindMetrics, "cm", change{"interval.ms", opSet, nil}, kerr.InvalidRequest},
		{kindMetrics, "", setTo("interval.ms", "1000"), kerr.InvalidRequest},
		{kindMetrics, "cm2", change{"interval.ms", opDelete, nil}, nil},
		{kindMetrics, strings.Repeat("x", metastore.MaxResourceName+1), setTo("interval.ms", "1000"), kerr.InvalidRequest},
		{kindGroup, "gr", setTo("consumer.session.timeout.ms", "46000"), nil},
		{kindGroup, "gr", setTo("consumer.session.timeout.ms", "1"), kerr.InvalidConfig},
		{kindGroup, "gr", setTo("consumer.heartbeat.interval.ms", "50000"), kerr.InvalidConfig},
		{kindGroup, "gr", setTo("foo", "1"), kerr.InvalidConfig},
		{kindGroup, "gr", change{"consumer.session.timeout.ms", opAppend, kmsg.StringPtr("1")}, kerr.InvalidConfig},
		{kindGroup, "gr", setTo("share.auto.offset.reset", "foo"), kerr.InvalidConfig},
		{kindGroup, "gr", setTo("share.auto.offset.reset", "by_duration:PT1H"), nil},
		{kindGroup, "", setTo("consumer.session.timeout.ms", "46000"), kerr.InvalidRequest},
	} {
		got := alter(t, false, c.kind, c.name, c.change)
		wantCode(t, fmt.Sprint(c.kind, " ", c.change.name), got.ErrorCode, c.want)
	}
	for at, want := range map[[2]string]string{
		{"cm", "interval.ms"}: "100 7: interval.ms=100@7", {"other", "interval.ms"}: "300000 5:", {"cm", "metrics"}: "* 7: metrics=*@7",
	} {
		if got := shown(t, kindMetrics, at[0], at[1]); got != want {
			t.Errorf("%v is %s, want %s", at, got, want)
		}
	}
	for at, want := range map[[2]string]string{
		{"gr", "consumer.session.timeout.ms"}:    "46000 8: consumer.session.timeout.ms=46000@8 group.consumer.session.timeout.ms=45000@5",
		{"other", "consumer.session.timeout.ms"}: "45000 5: group.consumer.session.timeout.ms=45000@5",
	} {
		if got := shown(t, kindGroup, at[0], at[1]); got != want {
			t.Errorf("%v is %s, want %s", at, got, want)
		}
	}
	if n := len(describe(t, kindGroup, "gr").Configs); n != 17 {
		t.Errorf("%d configs of groups, Kafka 4.3 has 17", n)
	}
	if got := listResources(t, 0); !slices.Equal(got, []string{"16/cm"}) {
		t.Errorf("version 0 lists %v", got)
	}
	if got := listResources(t, 1, 32, 16, 8, 4, 16); !slices.Equal(got, []string{"32/gr", "16/cm", "8/7", "4/7"}) {
		t.Errorf("version 1 lists %v", got)
	}
	topic := makeTopic(t, 1)
	all := listResources(t, 1)
	if !slices.Contains(all, "2/"+topic.Name) || !slices.Contains(all, "4/7") || !slices.Contains(all, "32/gr") {
		t.Errorf("everything is %v", all)
	}
	for _, types := range [][]int8{{3}, {2, 3}, {0}, {64}} {
		if got := listResources(t, 1, types...); !slices.Equal(got, []string{"UNSUPPORTED_VERSION"}) {
			t.Errorf("%v: %v", types, got)
		}
	}
}

// listResources is ListConfigResources as "type/name", or its error.
func listResources(t *testing.T, version int16, types ...int8) []string {
	t.Helper()
	req := kmsg.NewPtrListConfigResourcesRequest()
	req.Version, req.ResourceTypes = version, types
	resp := ask[*kmsg.ListConfigResourcesResponse](t, req)
	if resp.ErrorCode != 0 {
		return []string{kerr.ErrorForCode(resp.ErrorCode).(*kerr.Error).Message}
	}
	var out []string
	for _, r := range resp.ConfigResources {
		out = append(out, fmt.Sprintf("%d/%s", r.Type, r.Name))
	}
	return out
}

func TestLoggers(t *testing.T) {
	t.Cleanup(func() { shared.deps.LogLevel.Set(slog.LevelInfo) })
	if v := shown(t, kindLogger, "7", "root"); v != "INFO 6:" {
		t.Error(v)
	}
	for _, l := range logLevels {
		wantCode(t, l.name, alter(t, false, kindLogger, "7", setTo("root", l.name)).ErrorCode, nil)
		if v := shown(t, kindLogger, "7", "root"); v != l.name+" 6:" || shared.deps.LogLevel.Level() != l.level {
			t.Errorf("set to %s: %s, %v", l.name, v, shared.deps.LogLevel.Level())
		}
	}
	for _, c := range []struct {
		name   string
		change change
		want   *kerr.Error
	}{
		{"7", setTo("root", "nonsense"), kerr.InvalidConfig},
		{"7", setTo("root", "warn"), kerr.InvalidConfig},
		{"7", change{"root", opDelete, nil}, kerr.InvalidRequest},
		{"7", setTo("no.such.logger", "INFO"), kerr.InvalidConfig},
		{"7", change{"no.such.logger", opDelete, nil}, kerr.InvalidConfig},
		{"7", change{"root", opAppend, kmsg.StringPtr("INFO")}, kerr.InvalidRequest},
		{"8", setTo("root", "INFO"), kerr.InvalidRequest},
		{"", setTo("root", "INFO"), kerr.InvalidRequest},
	} {
		wantCode(t, c.change.name, alter(t, false, kindLogger, c.name, c.change).ErrorCode, c.want)
	}
	wantCode(t, "validate only", alter(t, true, kindLogger, "7", setTo("root", "DEBUG")).ErrorCode, nil)
	if v := shown(t, kindLogger, "7", "root"); v != "FATAL 6:" {
		t.Errorf("after refused and pretended changes: %s", v)
	}
	deps := shared.deps
	deps.LogLevel = nil
	a := New(Config{BrokerID: testBroker}, deps)
	if _, err := a.loggers(); codeOf(err) != kerr.InvalidRequest.Code {
		t.Errorf("without a level: %v", err)
	}
}

// TestRoom: the limits of topics and partitions hold for all three ways in
// which topics and partitions are made.
func TestRoom(t *testing.T) {
	topic := makeTopic(t, 1)
	img := shared.meta.Image()
	tight := func(topics, partitions int) *API {
		deps := shared.deps
		deps.Config = configured(t, "firn.max.topics", fmt.Sprint(len(img.Topics)+topics), "firn.max.partitions", fmt.Sprint(img.Partitions+partitions), "num.partitions", "2")
		return New(Config{BrokerID: testBroker}, deps)
	}
	create := func(a *API, parts int32, names ...string) []kmsg.CreateTopicsResponseTopic {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Version, req.ValidateOnly, req.TimeoutMillis = 7, true, 10_000
		for _, name := range names {
			ct := kmsg.NewCreateTopicsRequestTopic()
			ct.Topic, ct.NumPartitions, ct.ReplicationFactor = name, parts, 1
			req.Topics = append(req.Topics, ct)
		}
		return askOf[*kmsg.CreateTopicsResponse](t, a, req).Topics
	}
	refused := topicsRefused.Get()
	got := create(tight(1, 100), 2, "room-a", "room-b")
	wantCode(t, "the last topic", got[0].ErrorCode, nil)
	wantCode(t, "one topic too many", got[1].ErrorCode, kerr.PolicyViolation)
	if got[1].ErrorMessage == nil || !strings.Contains(*got[1].ErrorMessage, "firn.max.topics") {
		t.Errorf("message %v", got[1].ErrorMessage)
	}
	got = create(tight(100, 5), 3, "room-a", "room-b")
	wantCode(t, "the last partitions", got[0].ErrorCode, nil)
	wantCode(t, "partitions too many", got[1].ErrorCode, kerr.PolicyViolation)
	wantCode(t, "on demand", metadataOf(t, tight(0, 100), 12, true, byTopic("room-c")).Topics[0].ErrorCode, kerr.PolicyViolation)
	wantCode(t, "partitions on demand", metadataOf(t, tight(5, 1), 12, true, byTopic("room-c")).Topics[0].ErrorCode, kerr.PolicyViolation)

	grow := func(a *API, count int32) int16 {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.Version, req.TimeoutMillis = 3, 10_000
		ct := kmsg.NewCreatePartitionsRequestTopic()
		ct.Topic, ct.Count = topic.Name, count
		req.Topics = append(req.Topics, ct)
		return askOf[*kmsg.CreatePartitionsResponse](t, a, req).Topics[0].ErrorCode
	}
	wantCode(t, "too many more", grow(tight(0, 2), 4), kerr.PolicyViolation)
	wantCode(t, "as many as there may be", grow(tight(0, 2), 3), nil)
	if n := topicsRefused.Get() - refused; n != 5 {
		t.Errorf("%d refusals were counted, not 5", n)
	}
}

func TestDeletionDisabled(t *testing.T) {
	topic := makeTopic(t, 1)
	deps := shared.deps
	deps.Config = configured(t, "delete.topic.enable", "false")
	a := New(Config{BrokerID: testBroker}, deps)
	for version, want := range map[int16]*kerr.Error{1: kerr.InvalidRequest, 2: kerr.InvalidRequest, 3: kerr.TopicDeletionDisabled, 5: kerr.TopicDeletionDisabled, 6: kerr.TopicDeletionDisabled} {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.Version, req.TimeoutMillis = version, 10_000
		req.TopicNames = []string{topic.Name}
		dt := kmsg.NewDeleteTopicsRequestTopic()
		dt.Topic = &topic.Name
		req.Topics = append(req.Topics, dt)
		got := askOf[*kmsg.DeleteTopicsResponse](t, a, req).Topics
		if len(got) != 1 || *got[0].Topic != topic.Name {
			t.Errorf("version %d: %+v", version, got)
			continue
		}
		wantCode(t, fmt.Sprint("version ", version), got[0].ErrorCode, want)
	}
	if shared.meta.Image().Topics[topic.Name] == nil {
		t.Error("deleted all the same")
	}
}
