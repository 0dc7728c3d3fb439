package api

import (
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/topicconfig"
)

// DescribeConfigs, versions 1–4.
//
//	1  sources and synonyms (KIP-226)
//	3  types and documentation (KIP-569)
//	4  flexible
func (a *API) describeConfigs(c *call) {
	req := c.req.Body.(*kmsg.DescribeConfigsRequest)
	resp := response[*kmsg.DescribeConfigsResponse](c)
	for i := range req.Resources {
		r := &req.Resources[i]
		out := kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = r.ResourceType, r.ResourceName
		configs, err := a.configsOf(r)
		for _, cfg := range configs {
			if len(r.ConfigNames) > 0 && !slices.Contains(r.ConfigNames, cfg.name) {
				continue
			}
			out.Configs = append(out.Configs, cfg.entry(req))
		}
		out.ErrorCode, out.ErrorMessage = codeOf(err), messageOf(err)
		resp.Resources = append(resp.Resources, out)
	}
	c.send(resp)
}

// configView is one config as it is shown.
type configView struct {
	name      string
	value     string
	kind      topicconfig.Type
	doc       string
	source    kmsg.ConfigSource
	readOnly  bool
	sensitive bool // its value is not shown
	synonyms  []configSynonym
}

// configSynonym is a place where the value is, or would be, taken from.
type configSynonym struct {
	name, value string
	source      kmsg.ConfigSource
}

func (v *configView) entry(req *kmsg.DescribeConfigsRequest) kmsg.DescribeConfigsResponseResourceConfig {
	out := kmsg.NewDescribeConfigsResponseResourceConfig()
	out.Name, out.ReadOnly, out.Source, out.IsSensitive = v.name, v.readOnly, v.source, v.sensitive
	out.IsDefault = v.source == kmsg.ConfigSourceDefaultConfig
	out.ConfigType = kmsg.ConfigType(v.kind)
	if !v.sensitive {
		out.Value = &v.value
	}
	if req.IncludeDocumentation {
		out.Documentation = &v.doc
	}
	if req.IncludeSynonyms {
		for _, s := range v.synonyms {
			so := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			so.Name, so.Source = s.name, s.source
			if !v.sensitive {
				so.Value = &s.value
			}
			out.ConfigSynonyms = append(out.ConfigSynonyms, so)
		}
	}
	return out
}

func (a *API) configsOf(r *kmsg.DescribeConfigsRequestResource) ([]configView, error) {
	switch r.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		if err := checkTopicName(r.ResourceName); err != nil {
			return nil, err
		}
		t := a.deps.Meta.Image().Topics[r.ResourceName]
		if t == nil {
			return nil, kerr.UnknownTopicOrPartition
		}
		return topicConfigs(t.Configs), nil
	case kmsg.ConfigResourceTypeBroker:
		if r.ResourceName == "" {
			return nil, nil // defaults of all brokers that were set at run time: none can be
		}
		id, err := strconv.ParseInt(r.ResourceName, 10, 32)
		if err != nil {
			return nil, fail(kerr.InvalidRequest, "a broker's id is a number, not %q", r.ResourceName)
		}
		if int32(id) != int32(a.cfg.BrokerID) {
			return nil, fail(kerr.InvalidRequest, "this is broker %d; ask broker %d itself", a.cfg.BrokerID, id)
		}
		return a.brokerConfigs(), nil
	}
	return nil, fail(kerr.InvalidRequest, "configs of resource type %d are not supported by this broker", int8(r.ResourceType))
}

// topicConfigs shows every config of a topic on which set was set by hand.
func topicConfigs(set map[string]string) []configView {
	var out []configView
	defs := topicconfig.Definitions()
	for name := range set {
		if d, ok := topicconfig.Lookup(name); ok && d.Internal {
			defs = append(defs, d)
		}
	}
	for _, d := range defs {
		v := configView{name: d.Name, value: d.Default, kind: d.Type, doc: d.Doc, source: kmsg.ConfigSourceDefaultConfig}
		if d.Valid != "" {
			v.doc += " Valid: " + d.Valid + "."
		}
		if value, ok := set[d.Name]; ok {
			value = topicconfig.Canonical(d.Name, value)
			v.value, v.source = value, kmsg.ConfigSourceDynamicTopicConfig
			v.synonyms = append(v.synonyms, configSynonym{d.Name, value, kmsg.ConfigSourceDynamicTopicConfig})
		}
		if d.Synonym != "" {
			v.synonyms = append(v.synonyms, configSynonym{d.Synonym, d.Default, kmsg.ConfigSourceDefaultConfig})
		}
		out = append(out, v)
	}
	return out
}

// brokerConfigs shows, under the names that Kafka gives them, the settings
// that admin tools and consoles look at. None can be changed at run time.
func (a *API) brokerConfigs() []configView {
	img := a.deps.Meta.Image()
	me := img.Brokers[a.cfg.BrokerID]
	id := strconv.Itoa(int(a.cfg.BrokerID))
	num := func(n int64) string { return strconv.FormatInt(n, 10) }
	offsetsParts := int64(a.deps.Config().Groups.OffsetsPartitions)
	if t := img.Topics[offsetsTopic]; t != nil {
		offsetsParts = int64(len(t.Partitions))
	}
	listener := "PLAINTEXT://" + me.Host + ":" + num(int64(me.Port))
	out := []configView{
		{name: "advertised.listeners", value: listener, kind: topicconfig.List, doc: "Where clients are told to connect to."},
		{name: "auto.create.topics.enable", value: strconv.FormatBool(a.deps.Config().Topics.AutoCreate), kind: topicconfig.Boolean, doc: "Whether asking for the metadata of a topic makes it."},
		{name: "broker.id", value: id, kind: topicconfig.Int, doc: "This broker's id."},
		{name: "default.replication.factor", value: num(int64(a.deps.Config().Topics.ReplicationFactor)), kind: topicconfig.Int, doc: "Replicas of topics made without a number."},
		{name: "delete.topic.enable", value: "true", kind: topicconfig.Boolean, doc: "Whether topics can be deleted."},
		{name: "fetch.max.bytes", value: num(int64(a.cfg.MaxFetchBytes)), kind: topicconfig.Int, doc: "The most bytes of one fetch reply."},
		{name: "max.incremental.fetch.session.cache.slots", value: num(int64(a.cfg.FetchSessions)), kind: topicconfig.Int, doc: "Fetch sessions kept at one time."},
		{name: "node.id", value: id, kind: topicconfig.Int, doc: "This broker's id."},
		{name: "num.partitions", value: num(int64(a.deps.Config().Topics.Partitions)), kind: topicconfig.Int, doc: "Partitions of topics made without a number."},
		{name: "offsets.topic.num.partitions", value: num(offsetsParts), kind: topicconfig.Int, doc: "Partitions of the topic that holds the groups' offsets."},
		{name: "offsets.topic.replication.factor", value: "1", kind: topicconfig.Short, doc: "Replicas of the topic that holds the groups' offsets."},
		{name: "remote.log.storage.system.enable", value: strconv.FormatBool(a.deps.Tier != nil), kind: topicconfig.Boolean, doc: "Whether topics can be tiered to object storage."},
	}
	if me.Rack != "" {
		out = append(out, configView{name: "broker.rack", value: me.Rack, kind: topicconfig.String, doc: "Where this broker stands."})
	}
	for i := range out {
		out[i].source = kmsg.ConfigSourceStaticBrokerConfig
	}
	for _, d := range topicconfig.Definitions() {
		if d.Synonym != "" {
			out = append(out, configView{name: d.Synonym, value: d.Default, kind: d.Type, source: kmsg.ConfigSourceDefaultConfig,
				doc: "The default of the topic config " + d.Name + "."})
		}
	}
	for i := range out {
		v := &out[i]
		v.readOnly = true
		v.synonyms = []configSynonym{{v.name, v.value, v.source}}
	}
	slices.SortFunc(out, func(x, y configView) int {
		switch {
		case x.name < y.name:
			return -1
		case x.name > y.name:
			return 1
		}
		return 0
	})
	return out
}
