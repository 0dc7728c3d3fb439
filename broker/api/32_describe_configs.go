package api

import (
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/metastore"
)

// DescribeConfigs, versions 1–4.
//
//	1  sources and synonyms (KIP-226)
//	3  types and documentation (KIP-569)
//	4  flexible
func (a *API) describeConfigs(c *call) {
	req := c.req.Body.(*kmsg.DescribeConfigsRequest)
	resp := response[*kmsg.DescribeConfigsResponse](c)
	size := 0
	refused := refusedType(req) // a request with an unknown type is refused whole, as in Kafka
	for i := range req.Resources {
		r := &req.Resources[i]
		out := kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = r.ResourceType, r.ResourceName
		var configs []configView
		err := errTooMuch
		switch {
		case refused != nil:
			err = refused
		case size < maxAnswer:
			configs, err = a.configsOf(r)
		}
		wanted := make(map[string]bool, len(r.ConfigNames))
		for _, name := range r.ConfigNames {
			wanted[name] = true
		}
		for _, cfg := range configs {
			if len(wanted) > 0 && !wanted[cfg.name] {
				continue
			}
			out.Configs = append(out.Configs, cfg.entry(req))
			size += cfg.size()
		}
		out.ErrorCode, out.ErrorMessage = codeOf(err), messageOf(err)
		if err == nil {
			out.ErrorMessage = kmsg.StringPtr("") // as Kafka, which has no null here
		}
		resp.Resources = append(resp.Resources, out)
	}
	c.send(resp)
}

// refusedType is the error for the first resource of a type that has no configs.
func refusedType(req *kmsg.DescribeConfigsRequest) error {
	for i := range req.Resources {
		if t := req.Resources[i].ResourceType; !slices.Contains(listedTypes, t) {
			return fail(kerr.InvalidRequest, "there are no configs of resource type %d", int8(t))
		}
	}
	return nil
}

// configView is one config as it is shown.
type configView struct {
	name     string
	value    *string // nil: null, it has none
	kind     topicconfig.Type
	doc      string
	source   kmsg.ConfigSource
	readOnly bool
	synonyms []brokerconfig.Synonym // the places that have a value, the strongest first
}

func (v *configView) entry(req *kmsg.DescribeConfigsRequest) kmsg.DescribeConfigsResponseResourceConfig {
	out := kmsg.NewDescribeConfigsResponseResourceConfig()
	out.Name, out.Value, out.ReadOnly, out.Source = v.name, v.value, v.readOnly, v.source
	out.IsDefault = v.source == kmsg.ConfigSourceDefaultConfig
	out.ConfigType = kmsg.ConfigType(v.kind)
	if req.IncludeDocumentation {
		out.Documentation = &v.doc
	}
	if req.IncludeSynonyms {
		for _, s := range v.synonyms {
			so := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			so.Name, so.Value, so.Source = s.Name, kmsg.StringPtr(s.Value), kmsg.ConfigSource(s.Source)
			out.ConfigSynonyms = append(out.ConfigSynonyms, so)
		}
	}
	return out
}

// size is about the most that the config takes of a reply.
func (v *configView) size() int {
	n := 64 + len(v.name) + len(v.doc)
	if v.value != nil {
		n += len(*v.value)
	}
	for _, s := range v.synonyms {
		n += 16 + len(s.Name) + len(s.Value)
	}
	return n
}

// from sets the source to that of the strongest synonym, as Kafka does: what
// stands in for a config under another name does not count unless the config
// itself has a value somewhere.
func (v *configView) from() {
	v.source = kmsg.ConfigSourceDefaultConfig
	if len(v.synonyms) > 0 {
		v.source = kmsg.ConfigSource(v.synonyms[0].Source)
	}
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
		return topicConfigs(t.Configs, a.deps.Config()), nil
	case kmsg.ConfigResourceTypeBroker:
		if r.ResourceName == "" {
			return defaultBrokerConfigs(a.deps.Config()), nil
		}
		if err := a.checkBroker(r.ResourceName); err != nil {
			return nil, err
		}
		return brokerConfigs(a.deps.Config()), nil
	case kmsg.ConfigResourceTypeBrokerLogger:
		if err := a.checkBroker(r.ResourceName); err != nil {
			return nil, err
		}
		return a.loggers()
	case kmsg.ConfigResourceTypeClientMetrics:
		if r.ResourceName == "" {
			return nil, fail(kerr.InvalidRequest, "a client-metrics subscription has a name; list them with ListConfigResources")
		}
		return a.resourceConfigs(metastore.ClientMetrics, r.ResourceName, brokerconfig.ClientMetrics(), kmsg.ConfigSourceClientMetricsConfig), nil
	case kmsg.ConfigResourceTypeGroupConfig:
		if r.ResourceName == "" {
			return nil, fail(kerr.InvalidRequest, "a group has a name; there are no configs for all groups")
		}
		return a.resourceConfigs(metastore.GroupConfigs, r.ResourceName, brokerconfig.GroupConfigs(), kmsg.ConfigSourceGroupConfig), nil
	}
	return nil, fail(kerr.InvalidRequest, "there are no configs of resource type %d", int8(r.ResourceType))
}

// checkBroker says whether name is this broker's id: another's configs are
// known there only.
func (a *API) checkBroker(name string) error {
	id, err := strconv.ParseInt(name, 10, 32)
	if err != nil {
		return fail(kerr.InvalidRequest, "a broker's id is a number, not %q", name)
	}
	if int32(id) != int32(a.cfg.BrokerID) {
		return fail(kerr.InvalidRequest, "this is broker %d; ask broker %d itself", a.cfg.BrokerID, id)
	}
	return nil
}

// topicConfigs shows every config of a topic on which set was set by hand.
func topicConfigs(set map[string]string, values *brokerconfig.Values) []configView {
	var out []configView
	defs := topicconfig.Definitions()
	for name := range set {
		if d, ok := topicconfig.Lookup(name); ok && d.Internal {
			defs = append(defs, d)
		}
	}
	defaults := values.TopicDefaults()
	for _, d := range defs {
		value, ok := defaults[d.Name]
		if !ok {
			value = d.Default
		}
		v := configView{name: d.Name, kind: d.Type, doc: documented(d.Doc, d.Valid)}
		if s, ok := set[d.Name]; ok {
			value = topicconfig.Canonical(d.Name, s)
			v.synonyms = append(v.synonyms, brokerconfig.Synonym{Name: d.Name, Value: value, Source: brokerconfig.Source(kmsg.ConfigSourceDynamicTopicConfig)})
		}
		if d.Synonym != "" {
			v.synonyms = append(v.synonyms, values.Synonyms(d.Synonym)...)
		}
		v.value = &value
		v.from()
		out = append(out, v)
	}
	return out
}

func documented(doc, valid string) string {
	if valid != "" {
		doc += " Valid: " + valid + "."
	}
	return doc
}

// brokerConfigs shows every config of this broker.
func brokerConfigs(values *brokerconfig.Values) []configView {
	var out []configView
	for _, d := range brokerconfig.Definitions() {
		synonyms := values.Synonyms(d.Name)
		if d.Unlisted && len(synonyms) == 1 {
			continue
		}
		out = append(out, brokerView(d, values, synonyms))
	}
	return out
}

// defaultBrokerConfigs shows what was set at run time for all brokers.
func defaultBrokerConfigs(values *brokerconfig.Values) []configView {
	var out []configView
	for _, name := range values.Dynamic() {
		d, _ := brokerconfig.Lookup(name) // Values has no others
		synonyms := slices.DeleteFunc(values.Synonyms(name), func(s brokerconfig.Synonym) bool { return s.Source != brokerconfig.DynamicDefault })
		v := brokerView(d, values, synonyms)
		v.value = &synonyms[0].Value
		out = append(out, v)
	}
	return out
}

func brokerView(d brokerconfig.Definition, values *brokerconfig.Values, synonyms []brokerconfig.Synonym) configView {
	v := configView{name: d.Name, kind: d.Type, doc: documented(d.Doc, d.Valid), readOnly: d.Scope == brokerconfig.ReadOnly, synonyms: synonyms}
	if value, ok := values.Get(d.Name); ok {
		v.value = &value
	}
	v.from()
	return v
}

// resourceConfigs shows the configs of a client-metrics subscription or of a
// group; one that nobody has made has the defaults.
func (a *API) resourceConfigs(kind metastore.ConfigType, name string, defs []brokerconfig.Definition, source kmsg.ConfigSource) []configView {
	set := a.deps.Meta.Image().Configs[metastore.ConfigResource{Type: kind, Name: name}]
	var out []configView
	for _, d := range defs {
		value := d.Default
		v := configView{name: d.Name, kind: d.Type, doc: documented(d.Doc, d.Valid)}
		if s, ok := set[d.Name]; ok {
			value = strings.TrimSpace(s)
			v.synonyms = append(v.synonyms, brokerconfig.Synonym{Name: d.Name, Value: value, Source: brokerconfig.Source(source)})
		}
		if d.Broker != "" {
			v.synonyms = append(v.synonyms, brokerconfig.Synonym{Name: d.Broker, Value: d.Default, Source: brokerconfig.Default})
		}
		v.value = &value
		v.from()
		out = append(out, v)
	}
	return out
}

// rootLogger is the one logger that this process has.
const rootLogger = "root"

type logLevel struct {
	name  string
	level slog.Level
}

// logLevels are Kafka's names of levels and ours; TRACE and FATAL lie beyond
// what is logged here, so that they mean everything and next to nothing.
var logLevels = []logLevel{
	{"TRACE", slog.LevelDebug - 4}, {"DEBUG", slog.LevelDebug}, {"INFO", slog.LevelInfo},
	{"WARN", slog.LevelWarn}, {"ERROR", slog.LevelError}, {"FATAL", slog.LevelError + 4},
}

func (a *API) loggers() ([]configView, error) {
	if a.deps.LogLevel == nil {
		return nil, fail(kerr.InvalidRequest, "this process does not let its log level be changed")
	}
	now := a.deps.LogLevel.Level()
	v := configView{name: rootLogger, doc: "The level of what this broker logs. A restart sets it back to the setting log-level.", source: kmsg.ConfigSourceDynamicBrokerLoggerConfig}
	for _, l := range logLevels {
		if v.value == nil || l.level <= now {
			v.value = kmsg.StringPtr(l.name)
		}
	}
	return []configView{v}, nil
}
