package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// resource is something that has configs in the cluster. All brokers' common
// values are the broker with the name "".
type resource struct {
	kind kmsg.ConfigResourceType
	name string
}

// allBrokers is how the command line writes what all brokers have in common.
const allBrokers = "brokers"

var resourceKinds = []struct {
	name string
	kind kmsg.ConfigResourceType
}{
	{"topic", kmsg.ConfigResourceTypeTopic},
	{"broker", kmsg.ConfigResourceTypeBroker},
	{"group", kmsg.ConfigResourceTypeGroupConfig},
	{"client-metrics", kmsg.ConfigResourceTypeClientMetrics},
}

func (r resource) String() string {
	if r.kind == kmsg.ConfigResourceTypeBroker && r.name == "" {
		return allBrokers
	}
	for _, k := range resourceKinds {
		if k.kind == r.kind {
			return k.name + "/" + r.name
		}
	}
	return r.kind.String() + "/" + r.name
}

// parseResource reads topic/NAME, broker/ID, brokers, group/NAME and
// client-metrics/NAME. A group's name may have slashes of its own.
func parseResource(s string) (resource, error) {
	if s == allBrokers {
		return resource{kind: kmsg.ConfigResourceTypeBroker}, nil
	}
	kind, name, _ := strings.Cut(s, "/")
	for _, k := range resourceKinds {
		if k.name != kind || name == "" {
			continue
		}
		if _, err := strconv.ParseUint(name, 10, 31); err != nil && kind == "broker" {
			return resource{}, usageError("%s: a broker has a number, as in broker/1; all of them together are: %s", s, allBrokers)
		}
		return resource{k.kind, name}, nil
	}
	return resource{}, usageError("%s: write topic/NAME, broker/ID, %s (all of them), group/NAME or client-metrics/NAME", s, allBrokers)
}

func parseResources(given []string) ([]resource, error) {
	var all []resource
	for _, s := range unique(given) {
		r, err := parseResource(s)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// explainResource is explain for a resource, with what to do about it.
func (a *app) explainResource(r resource, err error, message string) error {
	if err == nil {
		return nil
	}
	if r.kind == kmsg.ConfigResourceTypeBroker && r.name != "" && codeOf(err) == "" && strings.HasSuffix(err.Error(), "unknown broker") { // kgo has no value for it
		return failf("brokers: firn cluster info", "%s is not in this cluster", r)
	}
	if errors.Is(err, kerr.InvalidConfig) || errors.Is(err, kerr.InvalidRequest) {
		f := a.explain(r.String(), err, message).(*failure)
		listed := r.String()
		if listed == allBrokers {
			listed = "broker/ID" // of all brokers only what was set is listed
		}
		f.hint = "names and values: firn config describe " + listed + " --all"
		return f
	}
	return a.explain(r.String(), err, message)
}

// listResources finds everything in the cluster that may have configs.
func listResources(ctx context.Context, cl *kgo.Client) ([]resource, error) {
	adm := kadm.NewClient(cl)
	meta, err := adm.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	all := []resource{{kind: kmsg.ConfigResourceTypeBroker}}
	for _, id := range meta.Brokers.NodeIDs() {
		all = append(all, resource{kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(id))})
	}
	for _, t := range meta.Topics.Names() {
		all = append(all, resource{kmsg.ConfigResourceTypeTopic, t})
	}
	// Brokers before Kafka 4.1 cannot list these; there they are left out.
	listed, err := adm.ListConfigResources(ctx, kmsg.ConfigResourceTypeGroupConfig, kmsg.ConfigResourceTypeClientMetrics)
	if err != nil || listed.Err != nil {
		return all, ctx.Err()
	}
	for _, r := range listed.Sorted() {
		all = append(all, resource{r.Type, r.Name})
	}
	return all, nil
}

// configEntry is one config of a resource. Default is what it would be if
// nobody had set it anywhere; it is null where the broker does not say.
type configEntry struct {
	Name      string          `json:"name"`
	Value     *string         `json:"value"`
	Source    string          `json:"source"`
	Default   *string         `json:"default"`
	Type      string          `json:"type,omitempty"`
	ReadOnly  bool            `json:"readOnly"`
	Sensitive bool            `json:"sensitive"`
	Synonyms  []configSynonym `json:"synonyms"`
	Doc       string          `json:"doc,omitempty"`
}

// configSynonym is one of the places that a value may come from, the one that
// counts first.
type configSynonym struct {
	Name   string  `json:"name"`
	Value  *string `json:"value"`
	Source string  `json:"source"`
}

// changed says whether somebody has set the config, somewhere.
func (c configEntry) changed() bool {
	return c.Source != sourceText(kmsg.ConfigSourceDefaultConfig)
}

func sourceText(s kmsg.ConfigSource) string { return strings.ToLower(s.String()) }

// describeConfigs asks for the configs of one resource; names picks some, nil
// is all.
func (a *app) describeConfigs(ctx context.Context, cl *kgo.Client, r resource, names []string, docs bool) ([]configEntry, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.IncludeSynonyms, req.IncludeDocumentation = true, docs
	rr := kmsg.NewDescribeConfigsRequestResource()
	rr.ResourceType, rr.ResourceName, rr.ConfigNames = r.kind, r.name, names
	req.Resources = append(req.Resources, rr)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, a.explainResource(r, err, "")
	}
	if len(resp.Resources) != 1 {
		return nil, failf("", "%s: the broker's answer does not mention it", r)
	}
	got := resp.Resources[0]
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
		return nil, a.explainResource(r, err, deref(got.ErrorMessage))
	}
	entries := []configEntry{}
	for _, c := range got.Configs {
		e := configEntry{Name: c.Name, Value: c.Value, Source: sourceText(c.Source), ReadOnly: c.ReadOnly, Sensitive: c.IsSensitive,
			Synonyms: []configSynonym{}, Doc: deref(c.Documentation)}
		if c.ConfigType != 0 {
			e.Type = strings.ToLower(c.ConfigType.String())
		}
		if c.Source == kmsg.ConfigSourceDefaultConfig {
			e.Default = c.Value
		}
		for _, s := range c.ConfigSynonyms {
			e.Synonyms = append(e.Synonyms, configSynonym{s.Name, s.Value, sourceText(s.Source)})
			if s.Source == kmsg.ConfigSourceDefaultConfig {
				e.Default = inUnitOf(c.Name, s.Name, s.Value)
			}
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b configEntry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// inUnitOf gives a synonym's value in the unit of the config itself:
// retention.ms has the default log.retention.hours=168.
func inUnitOf(name, synonym string, value *string) *string {
	if value == nil || !strings.HasSuffix(name, ".ms") {
		return value
	}
	millis := map[string]int64{"hours": 3_600_000, "minutes": 60_000}[synonym[strings.LastIndex(synonym, ".")+1:]]
	n, err := strconv.ParseInt(*value, 10, 64)
	if millis == 0 || err != nil || n < 0 {
		return value
	}
	text := strconv.FormatInt(n*millis, 10)
	return &text
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
