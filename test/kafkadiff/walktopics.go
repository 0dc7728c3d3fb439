package kafkadiff

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What administrators do takes effect a little after Kafka has answered.
const adminSettles = "sleep 200ms"

func (g *generator) createTopics() error {
	version := g.between(2, 7)
	t := g.topic()
	name, fresh := "$"+t.name, "" // mostly one that is there
	if g.chance(40) && len(g.topics) < 5 {
		g.made++
		fresh = fmt.Sprintf("c%d", g.made)
		if err := g.p.do("name $" + fresh); err != nil {
			return err
		}
		name = "$" + fresh
	} else if g.chance(40) {
		name = pick(g, []string{"", ".", "..", "a b", strings.Repeat("x", 250), "$n"})
	}
	parts := g.near(2, math.MinInt32, 5, 20)
	spec := o("Topic", name, "NumPartitions", parts, "ReplicationFactor", g.near(1, -2, 3, 15))
	anew := false
	if g.chance(25) {
		config := pick(g, topicConfigs)
		about, _ := config.(*object).get("Name")
		anew = about == "compression.type"
		spec.set("Configs", list{config})
	}
	if g.chance(10) {
		spec.set("ReplicaAssignment", list{o("Partition", pick(g, []int{0, 1}), "Replicas", list{leaf(pick(g, []int{1, 1, 2}))})})
	}
	topics := list{spec}
	if g.chance(5) {
		topics = append(topics, spec)
	}
	only := g.chance(25)
	step, err := g.ask("main", "CreateTopics", version, o("Topics", topics, "TimeoutMillis", 5000, "ValidateOnly", only))
	if err != nil || g.p.answeredInt(step, "Topics[0].ErrorCode", 1) != 0 || only {
		return err
	}
	if err := g.p.do("await-topic " + name); err != nil || fresh == "" {
		return err
	}
	// Ids are told from version 7 on: ask for it in any case.
	step, err = g.ask("main", "Metadata", 12, o("Topics", list{o("Topic", name)}))
	if err != nil {
		return err
	}
	if err := g.p.do(fmt.Sprintf("let %sid = %d Topics[0].TopicID", fresh, step)); err != nil {
		return err
	}
	count := int32(0)
	for g.p.answered(step, fmt.Sprintf("Topics[0].Partitions[%d].Partition", count)) != nil {
		count++
	}
	g.topics = append(g.topics, &walkTopic{name: fresh, parts: count, ends: map[int32]int64{}, cut: map[int32]bool{}, anew: anew, id: fresh + "id"})
	return nil
}

var topicConfigs = []any{
	o("Name", "retention.ms", "Value", "100000000"), o("Name", "cleanup.policy", "Value", "compact"), o("Name", "cleanup.policy", "Value", "none"),
	o("Name", "max.message.bytes", "Value", "200"), o("Name", "max.message.bytes", "Value", "-1"), o("Name", "no.such", "Value", "1"),
	o("Name", "compression.type", "Value", "zstd"), o("Name", "compression.type", "Value", nil), o("Name", "message.timestamp.type", "Value", "LogAppendTime"),
	o("Name", "min.insync.replicas", "Value", "1"), o("Name", "segment.bytes", "Value", "2000000"), o("Name", "flush.ms", "Value", "x"), o("Name", "", "Value", "x"),
}

func (g *generator) deleteTopics() error {
	version := g.between(1, 6)
	t := g.topic()
	if len(g.topics) < 3 && g.chance(80) {
		t = nil
	}
	name, topicID := "$n", "0123456789abcdef0123456789abcdef"
	if t != nil {
		name, topicID = "$"+t.name, t.idRef()
	}
	fields := o("TimeoutMillis", 5000, "TopicNames", list{name})
	if version >= 6 {
		fields = o("TimeoutMillis", 5000, "Topics", list{o("Topic", name)})
		if g.chance(50) {
			fields = o("TimeoutMillis", 5000, "Topics", list{o("Topic", nil, "TopicID", topicID)})
		}
	}
	if _, err := g.ask("main", "DeleteTopics", version, fields); err != nil || t == nil {
		return err
	}
	g.topics = slices.DeleteFunc(g.topics, func(x *walkTopic) bool { return x == t })
	if err := g.p.do("await-topic " + name + " gone"); err != nil {
		return err
	}
	if err := g.offsetsGone(name); err != nil {
		return err
	}
	if len(g.topics) > 0 {
		return nil
	}
	g.made++
	again := &walkTopic{name: fmt.Sprintf("d%d", g.made), parts: 1, ends: map[int32]int64{}, cut: map[int32]bool{}}
	g.topics = append(g.topics, again)
	return g.p.do("topic $" + again.name)
}

func (g *generator) createPartitions() error {
	t := g.topic()
	count := g.near(int64(t.parts), -2, 6, 50)
	spec := o("Topic", g.topicName(t), "Count", count)
	if g.chance(15) {
		spec.set("Assignment", list{o("Replicas", list{leaf(pick(g, []int{1, 1, 2}))})})
	}
	only := g.chance(40)
	step, err := g.ask("main", "CreatePartitions", g.between(0, 3), o("Topics", list{spec}, "TimeoutMillis", 5000, "ValidateOnly", only))
	if err != nil || only || g.p.answeredInt(step, "Topics[0].ErrorCode", 1) != 0 {
		return err
	}
	t.parts = int32(count)
	return g.p.do(fmt.Sprintf("await-topic $%s partitions=%d", t.name, count))
}

func (g *generator) describeConfigs() error {
	t := g.topic()
	resource := o("ResourceType", pick(g, []int{2, 2, 2, 2, 9, 0}), "ResourceName", g.topicName(t), "ConfigNames",
		list{"cleanup.policy", "max.message.bytes", "retention.ms", pick(g, []string{"compression.type", "no.such", "message.timestamp.type"})})
	_, err := g.ask("main", "DescribeConfigs", g.between(1, 4), o("Resources", list{resource}, "IncludeSynonyms", g.chance(50), "IncludeDocumentation", g.chance(30)))
	return err
}

// otherConfigs are of resources other than topics; walks only ask whether they
// could be changed, since all of them share what they have.
var otherConfigs = []struct {
	kind    int
	names   []string
	configs []any
}{
	{4, []string{"", "", "1", "2", "x"}, []any{
		o("Name", "log.cleaner.threads", "Value", "1"), o("Name", "log.retention.ms", "Value", "100000000"), o("Name", "log.retention.ms", "Value", "-2"),
		o("Name", "num.partitions", "Value", "3"), o("Name", "log.cleanup.policy", "Value", "compact"),
		o("Name", "message.max.bytes", "Value", "x"), o("Name", "max.connections", "Value", "10"), o("Name", "compression.type", "Value", nil),
	}},
	{16, []string{"$n", ""}, []any{
		o("Name", "interval.ms", "Value", "1000"), o("Name", "interval.ms", "Value", "1"), o("Name", "metrics", "Value", "a,b"),
		o("Name", "match", "Value", "client_id=x"), o("Name", "match", "Value", "y"), o("Name", "no.such", "Value", "1"),
	}},
	{32, []string{"$n", ""}, []any{
		o("Name", "consumer.session.timeout.ms", "Value", "50000"), o("Name", "consumer.session.timeout.ms", "Value", "1"),
		o("Name", "consumer.heartbeat.interval.ms", "Value", "x"), o("Name", "no.such", "Value", "1"),
	}},
	{8, []string{"1", "", "2"}, []any{o("Name", "root", "Value", "INFO"), o("Name", "root", "Value", "LOUD"), o("Name", "no.such", "Value", "INFO")}},
	{3, []string{"$n"}, []any{o("Name", "a", "Value", "b")}},
}

func (g *generator) alterOthers() error {
	of := pick(g, otherConfigs)
	var configs list
	for range 1 + g.r.IntN(2) {
		c := clone(pick(g, of.configs)).(*object)
		configs = append(configs, c)
	}
	name := pick(g, of.names)
	resource := o("ResourceType", of.kind, "ResourceName", name, "Configs", configs)
	if g.chance(30) {
		if of.kind == 4 && name == "" { // Kafka does not let that one go: scenarios/configs
			resource.set("Configs", append(configs, o("Name", "min.insync.replicas", "Value", "1")))
		}
		_, err := g.ask("main", "AlterConfigs", g.between(0, 2), o("Resources", list{resource}, "ValidateOnly", true))
		return err
	}
	for _, c := range configs {
		c.(*object).set("Op", leaf(pick(g, []int{0, 0, 0, 1, 2, 3})))
	}
	_, err := g.ask("main", "IncrementalAlterConfigs", g.between(0, 1), o("Resources", list{resource}, "ValidateOnly", true))
	return err
}

func (g *generator) alterConfigs() error {
	if g.chance(20) {
		return g.alterOthers()
	}
	t := g.topic()
	name := g.topicName(t)
	c := clone(pick(g, topicConfigs)).(*object)
	step, err := 0, error(nil)
	only := g.chance(40)
	if g.chance(30) {
		step, err = g.ask("main", "AlterConfigs", g.between(0, 2), o("Resources", list{o("ResourceType", 2, "ResourceName", name, "Configs", list{c})}, "ValidateOnly", only))
	} else {
		c.set("Op", leaf(pick(g, []int{0, 0, 0, 1, 2, 3, 4})))
		step, err = g.ask("main", "IncrementalAlterConfigs", g.between(0, 1), o("Resources", list{o("ResourceType", 2, "ResourceName", name, "Configs", list{c})}, "ValidateOnly", only))
	}
	if err != nil || only || g.p.answeredInt(step, "Resources[0].ErrorCode", 1) != 0 {
		return err
	}
	if about, _ := c.get("Name"); about == "compression.type" {
		t.anew = true
	}
	if err := g.p.do(adminSettles); err != nil {
		return err
	}
	return g.p.settleConfigs(strings.TrimPrefix(name, "$"))
}

// settleConfigs waits until both brokers show the same configs of a topic. Where
// they do not within patience, the next answers say so.
func (p *pair) settleConfigs(topic string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		k, err := p.kafka.configsNow(topic)
		if err != nil {
			return err
		}
		f, err := p.firn.configsNow(topic)
		if err != nil {
			return p.found("DescribeConfigs", "", "it goes on", err.Error())
		}
		if k == f {
			return nil
		}
	}
	return nil
}

// configsNow shows what is set for a topic.
func (r *runner) configsNow(topic string) (string, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version = 1
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, r.vars[topic]
	req.Resources = append(req.Resources, resource)
	resp, err := ask[*kmsg.DescribeConfigsResponse](r.addr, r.conns, req)
	if err != nil {
		return "", err
	}
	var set []string
	for _, got := range resp.Resources {
		for _, c := range got.Configs {
			if c.Source == kmsg.ConfigSourceDynamicTopicConfig && c.Value != nil {
				set = append(set, c.Name+"="+*c.Value)
			}
		}
	}
	slices.Sort(set)
	return strings.Join(set, ", "), nil
}

func (g *generator) electLeaders() error {
	t := g.topic()
	_, err := g.ask("main", "ElectLeaders", g.between(0, 2), o("ElectionType", pick(g, []int{0, 0, 1, 2}), "TimeoutMillis", 5000,
		"Topics", list{g.named(t, false, "Partitions", list{leaf(g.partition(t))})}))
	return err
}

func (g *generator) listReassignments() error {
	t := g.topic()
	_, err := g.ask("main", "ListPartitionReassignments", 0, o("TimeoutMillis", 5000, "Topics", list{g.named(t, false, "Partitions", list{leaf(g.partition(t))})}))
	return err
}

func (g *generator) alterReassignments() error {
	t := g.topic()
	replicas := pick(g, []any{nil, list{leaf(1)}, list{leaf(1), leaf(1)}, list{leaf(2)}, list{}, list{leaf(-1)}})
	_, err := g.ask("main", "AlterPartitionAssignments", g.between(0, 1), o("TimeoutMillis", 5000,
		"Topics", list{g.named(t, false, "Partitions", list{o("Partition", g.partition(t), "Replicas", replicas)})}))
	return err
}

func (g *generator) describeTopicPartitions() error {
	t := g.topic()
	fields := o("Topics", list{o("Topic", g.topicName(t))}, "ResponsePartitionLimit", pick(g, []int64{2000, 1, 0, -1, math.MaxInt32}), "Cursor", nil)
	if u := g.topic(); u != t && g.chance(40) {
		fields.set("Topics", list{o("Topic", g.topicName(t)), o("Topic", g.topicName(u))})
	}
	if g.chance(15) {
		fields.set("Cursor", o("Topic", "$"+t.name, "Partition", pick(g, []int{0, 1, -1, 5})))
	}
	_, err := g.ask("main", "DescribeTopicPartitions", 0, fields)
	return err
}
