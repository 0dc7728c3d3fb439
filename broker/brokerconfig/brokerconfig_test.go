package brokerconfig

import (
	"errors"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/broker/topicconfig"
)

func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Definitions() {
		if seen[d.Name] {
			t.Errorf("%s is there twice", d.Name)
		}
		seen[d.Name] = true
		if InKafka(d.Name) == d.Unlisted && !strings.HasPrefix(d.Name, "firn.") {
			t.Errorf("%s is neither Kafka's nor begins with firn.", d.Name)
		}
		if d.Doc == "" || !strings.HasSuffix(d.Doc, ".") {
			t.Errorf("%s has no documentation, or half a sentence: %q", d.Name, d.Doc)
		}
		if d.NoDefault != (d.Default == "") && d.Type != topicconfig.List && d.Type != topicconfig.String {
			t.Errorf("%s: default %q, null %v", d.Name, d.Default, d.NoDefault)
		}
		if !d.NoDefault {
			if err := d.valid(d.Default); err != nil || d.normal(d.Default) != d.Default {
				t.Errorf("%s: its own default %q is not valid or not normal: %v", d.Name, d.Default, err)
			}
		}
		if d.put == nil && d.Topic == "" && d.Setting == "" && d.Name != "offsets.topic.replication.factor" {
			t.Errorf("%s has no effect", d.Name)
		}
		if d.Kafka == d.Default && d.Kafka != "" {
			t.Errorf("%s: Kafka's default is no other", d.Name)
		}
	}
	for _, d := range topicconfig.Definitions() {
		if d.Synonym == "" {
			continue
		}
		if row, ok := Lookup(d.Synonym); !ok || row.Topic != d.Name || row.Type != d.Type || row.Scope != ClusterWide {
			t.Errorf("topic config %s: the row of its default is %+v", d.Name, row)
		}
	}
	if !slices.IsSorted(strings.Split(strings.TrimSpace(kafkaNames), "\n")) || len(isKafkaName) != 340 {
		t.Errorf("the list of Kafka's %d names is not sorted or not whole", len(isKafkaName))
	}
}

func TestDefaults(t *testing.T) {
	v, err := Resolve(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Values{
		Network:           Network{MaxConnections: 10_000, MaxPerIP: math.MaxInt32, PerIPOverrides: map[netip.Addr]int{}, MaxConnectionRate: math.MaxInt32, MaxIdle: 10 * time.Minute, MaxRequestBytes: 100 << 20, QueuedBytes: 512 << 20},
		Fetch:             Fetch{MaxBytes: 55 << 20, Sessions: 1000},
		Topics:            Topics{AutoCreate: true, Delete: true, Partitions: 1, ReplicationFactor: 1, MaxTopics: 50_000, MaxPartitions: 100_000, MaxDescribed: 2000, RetentionCheck: 5 * time.Second, ProducerIDExpiration: 24 * time.Hour},
		Groups:            Groups{MaxGroups: 100_000, MaxSize: 10_000, MaxGroupBytes: 32 << 20, MaxGroupOffsets: 1_000_000, MaxBytes: 1 << 30, InitialRebalanceDelay: 3 * time.Second, MinSession: 6 * time.Second, MaxSession: 30 * time.Minute, MaxMetadataBytes: 4096, OffsetsPartitions: 50, OffsetsReplicas: 3, OffsetsSegmentBytes: 100 << 20, OffsetsRetention: 7 * 24 * time.Hour, OffsetsCheck: 10 * time.Minute},
		Cleaner:           Cleaner{Threads: 1, KeyBytes: 128 << 20, BytesPerSecond: math.MaxFloat64, Backoff: 15 * time.Second},
		Replication:       Replication{Lag: 30 * time.Second, Fetchers: 1, MaxBytes: 10 << 20, PartitionMaxBytes: 1 << 20, MaxWait: 500 * time.Millisecond, Backoff: time.Second, SocketTimeout: 30 * time.Second, Rebalance: true, RebalanceEvery: 5 * time.Minute, LeaderRate: math.MaxInt64, FollowerRate: math.MaxInt64, MoveRate: 50 << 20},
		Balance:           Balance{On: true, Delay: time.Minute, Moves: 5},
		TelemetryMaxBytes: 1 << 20,
	}
	if len(v.Network.PerIPOverrides) != 0 || v.Fetch != want.Fetch || v.Topics != want.Topics || v.Groups != want.Groups || v.Cleaner != want.Cleaner || v.Replication != want.Replication || !reflect.DeepEqual(v.Balance, want.Balance) || v.TelemetryMaxBytes != want.TelemetryMaxBytes {
		t.Errorf("defaults are\n%+v\nwant\n%+v", v, want)
	}
	n := v.Network
	n.PerIPOverrides, want.Network.PerIPOverrides = nil, nil
	if n.MaxConnections != want.Network.MaxConnections || n.MaxPerIP != want.Network.MaxPerIP || n.MaxConnectionRate != want.Network.MaxConnectionRate ||
		n.MaxIdle != want.Network.MaxIdle || n.MaxRequestBytes != want.Network.MaxRequestBytes || n.QueuedBytes != want.Network.QueuedBytes || n.SendBuffer != want.Network.SendBuffer {
		t.Errorf("limits are\n%+v\nwant\n%+v", n, want.Network)
	}
	// The defaults of topics are the table's own.
	for _, d := range topicconfig.Definitions() {
		if got, ok := v.TopicDefaults()[d.Name]; ok != (d.Synonym != "") || ok && got != d.Default {
			t.Errorf("%s is %q by default (there: %v), want %q", d.Name, got, ok, d.Default)
		}
	}
}

// TestTopicDefaults: milliseconds before minutes before hours, whatever the
// layer.
func TestTopicDefaults(t *testing.T) {
	for _, c := range []struct {
		static, all, broker string // NAME=VALUE separated by spaces
		topic, want         string
	}{
		{"log.retention.hours=2", "", "", "retention.ms", "7200000"},
		{"log.retention.hours=2 log.retention.minutes=3", "", "", "retention.ms", "180000"},
		{"log.retention.hours=2 log.retention.minutes=3 log.retention.ms=4", "", "", "retention.ms", "4"},
		{"log.retention.minutes=3", "log.retention.ms=5", "", "retention.ms", "5"},
		{"log.retention.ms=4", "log.retention.ms=5", "log.retention.ms=6", "retention.ms", "6"},
		{"log.retention.ms=4", "log.retention.ms=5", "", "retention.ms", "5"},
		{"log.retention.hours=-1", "", "", "retention.ms", "-1"},
		{"log.retention.minutes=-7", "", "", "retention.ms", "-1"},
		{"log.retention.hours=2147483647", "", "", "retention.ms", "7730941129200000"},
		{"", "log.retention.ms=-5", "", "retention.ms", "-1"},
		{"log.roll.hours=1", "", "", "segment.ms", "3600000"},
		{"log.roll.hours=1 log.roll.ms=77", "", "", "segment.ms", "77"},
		{"log.roll.jitter.hours=1", "", "", "segment.jitter.ms", "3600000"},
		{"", "message.max.bytes= 12 ", "", "max.message.bytes", "12"},
		{"", "compression.type=zstd", "compression.type=lz4", "compression.type", "lz4"},
		{"", "log.preallocate=TRUE", "", "preallocate", "true"},
	} {
		v, err := Resolve(pairs(c.static), pairs(c.all), pairs(c.broker))
		if err != nil {
			t.Errorf("%+v: %v", c, err)
		} else if got := v.TopicDefaults()[c.topic]; got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

// pairs reads NAME=VALUE,NAME=VALUE; a space after '=' belongs to the value.
func pairs(s string) map[string]string {
	out := map[string]string{}
	for item := range strings.SplitSeq(strings.ReplaceAll(s, "= ", "=\x00"), " ") {
		if name, value, ok := strings.Cut(item, "="); ok {
			out[name] = strings.ReplaceAll(value, "\x00", " ")
		}
	}
	return out
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		static, all, broker string
		name, want          string
	}{
		{"num.partitons=1", "", "", "num.partitons", "did you mean num.partitions?"},
		{"num_partitions=1", "", "", "num_partitions", "did you mean num.partitions?"},
		{"max.topics=1", "", "", "max.topics", "did you mean firn.max.topics?"},
		{"nothing.like.it.anywhere=1", "", "", "nothing.like.it.anywhere", "no such broker config"},
		{"num.io.threads=8", "", "", "num.io.threads", "Kafka has this broker config, this broker does not"},
		{"retention.ms=8", "", "", "retention.ms", "of topics"},
		{"num.partitions=x", "", "", "num.partitions", "not a number of type int"},
		{"num.partitions=99999999999", "", "", "num.partitions", "not a number of type int"},
		{"num.partitions=0", "", "", "num.partitions", "too small; the least is 1"},
		{"auto.create.topics.enable=yes", "", "", "auto.create.topics.enable", "neither true nor false"},
		{"log.segment.bytes=1", "", "", "log.segment.bytes", "too small"},
		{"", "log.cleaner.io.max.bytes.per.second=0", "", "log.cleaner.io.max.bytes.per.second", "not above 0"},
		{"connections.max.idle.ms=0", "", "", "connections.max.idle.ms", "must not be 0"},
		{"max.connections.per.ip.overrides=localhost:1", "", "", "max.connections.per.ip.overrides", "not an IP address"},
		{"max.connections.per.ip.overrides=10.0.0.1", "", "", "max.connections.per.ip.overrides", "not ADDRESS:NUMBER"},
		{"max.connections.per.ip.overrides=10.0.0.1:-1", "", "", "max.connections.per.ip.overrides", "not a number of connections"},
		{"", "num.partitions=3", "", "num.partitions", "at the start"},
		{"", "", "log.retention.hours=3", "log.retention.hours", "at the start"},
		{"", "", "node.id=3", "node.id", "at the start"},
		{"socket.request.max.bytes=1073741824", "", "", "queued.max.request.bytes", "less than socket.request.max.bytes"},
		{"", "max.connections.per.ip=0", "", "max.connections.per.ip", "lets nobody in"},
		{"group.min.session.timeout.ms=1800001", "", "", "group.min.session.timeout.ms", "more than group.max.session.timeout.ms"},
		{"", "log.local.retention.ms=604800001", "", "log.local.retention.ms", "more than topics keep"},
		{"", "log.local.retention.bytes=2 log.retention.bytes=1", "", "log.local.retention.bytes", "more than topics keep"},
	} {
		_, err := Resolve(pairs(c.static), pairs(c.all), pairs(c.broker))
		var ce *Error
		if !errors.As(err, &ce) || ce.Name != c.name || !strings.Contains(ce.Reason, c.want) || !errors.Is(err, kerr.InvalidConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, name := range []string{"node.id", "listeners", "log.dirs", "broker.rack"} {
		if err := CheckStatic(name, "1"); err == nil || !strings.Contains(err.Error(), "follows from the setting") {
			t.Errorf("%s may be given: %v", name, err)
		}
	}
}

func TestDrained(t *testing.T) {
	for value, want := range map[string][]int32{"": nil, "3": {3}, " 3, 0,2147483647": {3, 0, math.MaxInt32}} {
		v, err := Resolve(nil, map[string]string{"firn.drained.brokers": value}, nil)
		if err != nil || !reflect.DeepEqual(v.Balance.Drained, want) {
			t.Errorf("%q: %v, %v", value, v.Balance.Drained, err)
		}
	}
	for _, bad := range []string{"x", "-1", "3,,x", "2147483648"} {
		if err := CheckDynamic("firn.drained.brokers", bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestOverrides(t *testing.T) {
	v, err := Resolve(map[string]string{"max.connections.per.ip": "0", "max.connections.per.ip.overrides": "10.0.0.1:5, ::1:6,[::2]:7 ,::ffff:10.0.0.2:0"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[netip.Addr]int{netip.MustParseAddr("10.0.0.1"): 5, netip.MustParseAddr("::1"): 6, netip.MustParseAddr("::2"): 7, netip.MustParseAddr("10.0.0.2"): 0}
	if !maps.Equal(v.Network.PerIPOverrides, want) || v.Network.MaxPerIP != 0 {
		t.Errorf("got %v", v.Network)
	}
}

// someValues are valid, different values of dynamic configs.
var someValues = map[string][]string{
	"log.retention.ms": {"1", "2", "3"}, "max.connections": {"1", "2", "3"}, "message.max.bytes": {"1", "2", "3"},
	"compression.type": {"zstd", "lz4", "gzip"}, "firn.max.topics": {"1", "2", "3"}, "log.cleanup.policy": {"delete", "", "delete"},
}

// TestLayers: for any layers, the value is the strongest layer's, the first
// synonym under the name says the same, synonyms go from strong to weak, and
// nothing that was given is changed.
func TestLayers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		layer := func(label string) map[string]string {
			m := map[string]string{}
			for _, name := range slices.Sorted(maps.Keys(someValues)) {
				if rapid.Bool().Draw(t, label+name) {
					m[name] = rapid.SampledFrom(someValues[name]).Draw(t, name)
				}
			}
			return m
		}
		static, all, broker := layer("static"), layer("all"), layer("broker")
		before := []map[string]string{maps.Clone(static), maps.Clone(all), maps.Clone(broker)}
		v, err := Resolve(static, all, broker)
		if err != nil {
			t.Fatal(err)
		}
		for name := range someValues {
			d, _ := Lookup(name)
			want, source, ok := d.Default, Default, !d.NoDefault
			for _, l := range []struct {
				m map[string]string
				s Source
			}{{static, Static}, {all, DynamicDefault}, {broker, DynamicBroker}} {
				if s, is := l.m[name]; is {
					want, source, ok = s, l.s, true
				}
			}
			got, has := v.Get(name)
			if got != want || has != ok {
				t.Fatalf("%s is %q (%v), want %q (%v)", name, got, has, want, ok)
			}
			syn := v.Synonyms(name)
			if !ok && len(syn) == 0 {
				continue
			}
			if syn[0].Name != name || syn[0].Value != want || syn[0].Source != source {
				t.Fatalf("%s: synonyms %v, want %q of source %d first", name, syn, want, source)
			}
			if !slices.IsSortedFunc(syn, func(a, b Synonym) int { return int(a.Source) - int(b.Source) }) {
				t.Fatalf("%s: synonyms %v", name, syn)
			}
		}
		if got := v.Dynamic(); !slices.Equal(got, slices.Sorted(maps.Keys(all))) {
			t.Fatalf("set for all are %v, want %v", got, all)
		}
		for i, m := range []map[string]string{static, all, broker} {
			if !maps.Equal(m, before[i]) {
				t.Fatal("a layer was changed")
			}
			clear(m)
		}
		for name := range someValues {
			if got, _ := v.Get(name); before[2][name] != "" && got != before[2][name] {
				t.Fatalf("%s follows the caller's map", name)
			}
		}
	})
}

// TestResolveStored: whatever is stored, what fits the table and fits together
// holds, the rest is told, and the start succeeds.
func TestResolveStored(t *testing.T) {
	v, ignored, err := ResolveStored(map[string]string{"num.partitions": "4"},
		map[string]string{"of.another.version": "1", "max.connections": "-1", "message.max.bytes": "7", "log.local.retention.ms": "99", "num.partitions": "9"},
		map[string]string{"log.retention.ms": "10", "max.connections.per.ip": "0"})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range ignored {
		name, _, _ := strings.Cut(e.Error(), ":")
		told = append(told, name)
	}
	slices.Sort(told)
	if want := []string{"log.local.retention.ms", "max.connections", "max.connections.per.ip", "num.partitions", "of.another.version"}; !slices.Equal(told, want) {
		t.Errorf("told are %v, want %v", told, want)
	}
	if v.TopicDefaults()["retention.ms"] != "10" || v.TopicDefaults()["max.message.bytes"] != "7" || v.Topics.Partitions != 4 || v.Network.MaxConnections != 10_000 {
		t.Errorf("got %+v", v)
	}
	if _, _, err := ResolveStored(map[string]string{"nosuch": "1"}, nil, nil); err == nil {
		t.Error("what was given at the start is ignored, too")
	}
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SampledFrom(append(slices.Collect(maps.Keys(byName)), "nosuch", "num.io.threads"))
		values := rapid.OneOf(rapid.SampledFrom([]string{"0", "1", "-1", "-2", "true", "zstd", "", "9223372036854775807", "5000000"}), rapid.String())
		layer := func(label string) map[string]string { return rapid.MapOf(names, values).Draw(t, label) }
		all, broker := layer("all"), layer("broker")
		v, ignored, err := ResolveStored(nil, all, broker)
		if err != nil || v == nil {
			t.Fatalf("%v, %v: %v", all, broker, err)
		}
		left := len(v.layers[0]) + len(v.layers[1])
		if left+len(ignored) != len(all)+len(broker) {
			t.Fatalf("%d were stored, %d hold, %d were told", len(all)+len(broker), left, len(ignored))
		}
	})
}

func TestCheckChange(t *testing.T) {
	v, err := Resolve(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	two := func(all, broker string) [2]map[string]string { return [2]map[string]string{pairs(all), pairs(broker)} }
	for _, c := range []struct {
		old, next [2]map[string]string
		want      string
	}{
		{two("", ""), two("log.retention.ms=5", ""), ""},
		{two("log.retention.ms=5", ""), two("log.retention.ms=5", "log.local.retention.ms=6"), "log.local.retention.ms"},
		{two("nosuch=1", ""), two("nosuch=1 max.connections=3", ""), ""},
		{two("log.local.retention.ms=6", "log.retention.ms=5"), two("log.local.retention.ms=6 max.connections=3", "log.retention.ms=5"), ""},
		{two("log.local.retention.ms=6", "log.retention.ms=5"), two("log.local.retention.ms=7", "log.retention.ms=5"), "log.local.retention.ms"},
	} {
		err := v.CheckChange(c.old, c.next)
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want+":") {
			t.Errorf("%v to %v: %v", c.old, c.next, err)
		}
	}
}

// TestNearest: one slip in any name is still understood.
func TestNearest(t *testing.T) {
	all := slices.Sorted(maps.Keys(byName))
	all = slices.DeleteFunc(all, func(name string) bool { // one letter apart: either may be meant
		return name == "firn.group.max.bytes" || name == "firn.groups.max.bytes"
	})
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(all).Draw(t, "name")
		at := rapid.IntRange(0, len(name)-1).Draw(t, "at")
		slip := rapid.SampledFrom([]string{name[:at] + name[at+1:], name[:at] + "x" + name[at:], strings.ToUpper(name), strings.ReplaceAll(name, ".", "_")}).Draw(t, "slip")
		if got := near(slip); got != name {
			t.Fatalf("%q is taken for %q, not %q", slip, got, name)
		}
	})
	if got := near("completely.else"); got != "" {
		t.Errorf("a name like none is taken for %q", got)
	}
}

// Times that no Duration can hold are as long as can be, never short.
func TestTimesBeyondDurations(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"9223372036854775807": math.MaxInt64, "9223372036855": math.MaxInt64, "600000": 10 * time.Minute,
		"-1": -time.Millisecond, "-9223372036855": math.MinInt64, "-9223372036854775808": math.MinInt64,
	} {
		v, err := Resolve(map[string]string{"connections.max.idle.ms": value}, nil, nil)
		if err != nil || v.Network.MaxIdle != want {
			t.Errorf("%s ms: %v, %v, want %v", value, v.Network.MaxIdle, err, want)
		}
	}
}

// A request can hold thousands of lists of thousands of items.
func TestEditLongList(t *testing.T) {
	var items []string
	for i := range 200_000 {
		items = append(items, strconv.Itoa(i))
	}
	long := strings.Join(items, ",")
	if got := EditList("0,x", long, true); len(got) != len(long)+2 {
		t.Errorf("%d bytes after appending %d", len(got), len(long))
	}
	if got := EditList(long+",x", long, false); got != "x" {
		t.Errorf("%d bytes are left", len(got))
	}
}

func TestEditList(t *testing.T) {
	for _, c := range []struct {
		value, change string
		add           bool
		want          string
	}{
		{"a,b", "b,c", true, "a,b,c"}, {"", "a", true, "a"}, {"a, b", "a", false, " b"}, {"a", "a", false, ""}, {"a", "x", false, "a"},
		{"a", " a", true, "a, a"}, {"a, b", "b", false, "a, b"}, {"a,,b,", "", false, "a,b"}, {"a,a,b,a", "a,a", false, "b,a"}, {"a", "b,b", true, "a,b"},
		{"", "", true, ""}, {"a", "", true, "a,"}, {"a", "b,", true, "a,b"}, {"a", ",b", true, "a,,b"}, {"a", ",", false, "a"}, {"a", ",", true, "a"},
	} {
		if got := EditList(c.value, c.change, c.add); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

func TestClientMetrics(t *testing.T) {
	for config, want := range map[string]*kerr.Error{
		"interval.ms=1000": nil, "metrics=a.b, c": nil, "metrics=": nil, "match=client_id=x.*,client_software_name=java|go": nil, "match=": nil,
		"interval.ms=99": kerr.InvalidRequest, "interval.ms=x": kerr.InvalidConfig, "foo=1": kerr.InvalidRequest, "match=client_id=(": kerr.InvalidConfig, "match=x=1": kerr.InvalidConfig,
		"match=client_id": kerr.InvalidConfig, "match=client_id=a)(b": kerr.InvalidConfig,
	} {
		name, value, _ := strings.Cut(config, "=")
		if err := CheckClientMetrics(name, value); want == nil && err != nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", config, err)
		}
	}
}

func TestGroupConfigs(t *testing.T) {
	if len(GroupConfigs()) != 17 {
		t.Errorf("%d rows; Kafka 4.3 has 17", len(GroupConfigs()))
	}
	for _, d := range GroupConfigs() {
		if err := CheckGroup(d.Name, d.Default); err != nil || !InKafka(d.Broker) && !strings.HasPrefix(d.Broker, "share.") {
			t.Errorf("%s: default %q: %v; broker config %q", d.Name, d.Default, err, d.Broker)
		}
	}
	for value, ok := range map[string]bool{"earliest": true, "by_duration:P1DT2H3M4.5S": true, "by_duration:PT1H": true, "by_duration:": false, "by_duration:P": false, "by_duration:PT": false, "by_duration:-PT1H": false, "by_duration:1h": false, "none": false} {
		if err := CheckGroup("share.auto.offset.reset", value); (err == nil) != ok {
			t.Errorf("share.auto.offset.reset=%s: %v", value, err)
		}
	}
}
