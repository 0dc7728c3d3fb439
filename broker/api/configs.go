package api

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/metastore"
)

// configResource is what configs belong to, as requests name it.
type configResource struct {
	kind kmsg.ConfigResourceType
	name string
}

// configChange is one change of one config.
type configChange struct {
	name  string
	op    kmsg.IncrementalAlterConfigOp
	value *string // not looked at when the config is deleted
}

// configEdit is what one request wants of one resource.
type configEdit struct {
	resource     configResource
	replace      bool // what is not named goes
	validateOnly bool
	changes      []configChange
}

// alterAll does what the edits of one request say, one after the other, and
// gives what came of each. A resource that is named more than once stays as it
// is.
func (a *API) alterAll(c *call, edits []configEdit) []error {
	ctx, cancel := c.deadline(30_000)
	defer cancel()
	named := map[configResource]int{}
	for _, edit := range edits {
		named[edit.resource]++
	}
	errs := make([]error, len(edits))
	for i, edit := range edits {
		if named[edit.resource] > 1 {
			errs[i] = fail(kerr.InvalidRequest, "each resource may be named at most once")
			continue
		}
		errs[i] = a.alter(ctx, edit)
	}
	return errs
}

// alter does what edit says, or says why not. What it writes is in effect on
// this broker when it returns.
func (a *API) alter(ctx context.Context, edit configEdit) error {
	err := edit.check()
	if err != nil {
		return err
	}
	r := edit.resource
	switch {
	case r.kind == kmsg.ConfigResourceTypeTopic:
		err = a.alterTopic(ctx, edit)
	case r.kind == kmsg.ConfigResourceTypeBroker:
		err = a.alterBroker(ctx, edit)
	case r.kind == kmsg.ConfigResourceTypeBrokerLogger && !edit.replace:
		err = a.alterLoggers(edit)
	case r.kind == kmsg.ConfigResourceTypeClientMetrics:
		err = a.alterResource(ctx, edit, metastore.ClientMetrics, brokerconfig.CheckClientMetrics)
	case r.kind == kmsg.ConfigResourceTypeGroupConfig:
		err = a.alterResource(ctx, edit, metastore.GroupConfigs, brokerconfig.CheckGroup)
	default:
		return fail(kerr.InvalidRequest, "configs of resource type %d cannot be altered with this request", int8(r.kind))
	}
	if err != nil && codeOf(err) == kerr.UnknownServerError.Code {
		a.failed("alter configs failed", "type", int8(r.kind), "resource", r.name, "error", err)
	}
	return err
}

// check looks for what is wrong whatever the resource is and has now.
func (e *configEdit) check() error {
	seen := map[string]bool{}
	var null []string
	for _, ch := range e.changes {
		if seen[ch.name] {
			return fail(kerr.InvalidRequest, "%s: is named more than once", ch.name)
		}
		seen[ch.name] = true
		if ch.op < kmsg.IncrementalAlterConfigOpSet || ch.op > kmsg.IncrementalAlterConfigOpSubtract {
			return fail(kerr.InvalidRequest, "%s: unknown operation %d", ch.name, int8(ch.op))
		}
		if ch.value == nil && ch.op != kmsg.IncrementalAlterConfigOpDelete {
			null = append(null, ch.name)
		}
	}
	if len(null) > 0 {
		return fail(kerr.InvalidRequest, "configs without a value: %s", strings.Join(null, ", "))
	}
	return nil
}

// apply gives old with the changes made; old stays as it is. listOf gives the
// value that a list has where it is not set, or says why name is none.
func (e *configEdit) apply(old map[string]string, listOf func(name string) (string, error)) (map[string]string, error) {
	next := map[string]string{}
	if !e.replace {
		maps.Copy(next, old)
	}
	for _, ch := range e.changes {
		switch ch.op {
		case kmsg.IncrementalAlterConfigOpSet:
			next[ch.name] = *ch.value
		case kmsg.IncrementalAlterConfigOpDelete:
			delete(next, ch.name)
		default:
			unset, err := listOf(ch.name)
			if err != nil {
				return nil, err
			}
			value, ok := next[ch.name]
			if !ok {
				value = unset
			}
			next[ch.name] = brokerconfig.EditList(value, *ch.value, ch.op == kmsg.IncrementalAlterConfigOpAppend)
		}
	}
	return next, nil
}

// noList is the answer to an append to, or a subtraction from, what is no list.
func noList(name string) error {
	return fail(kerr.InvalidConfig, "%s: is not a list, so that nothing can be appended to it or taken from it", name)
}

func (a *API) alterTopic(ctx context.Context, e configEdit) error {
	name := e.resource.name
	t := a.deps.Meta.Image().Topics[name]
	edit := func(old map[string]string) (map[string]string, error) {
		next, err := e.apply(old, topicList)
		if err != nil { // as in Kafka, told before what is wrong with the name
			return nil, err
		}
		if name == "" {
			return nil, fail(kerr.InvalidRequest, "there are no configs for all topics; name one")
		}
		if err := checkTopicName(name); err != nil {
			return nil, err
		}
		if err := checkInternal(t, old, next); err != nil {
			return nil, err
		}
		return next, a.checkConfigs(old, next)
	}
	if t == nil {
		if _, err := edit(nil); err != nil { // Kafka too looks at the values first
			return err
		}
		return fail(kerr.UnknownTopicOrPartition, "topic %s does not exist", name)
	}
	if e.validateOnly {
		_, err := edit(t.Configs)
		return err
	}
	revision, err := a.deps.Meta.SetTopicConfigs(ctx, t.ID, edit)
	if err != nil {
		return err
	}
	return a.deps.Partitions.AwaitApplied(ctx, revision)
}

// checkInternal keeps what belongs to the broker's own topics: what they hold
// must not go because it is old. t may be nil.
func checkInternal(t *metastore.Topic, old, next map[string]string) error {
	if t == nil || !t.Internal {
		return nil
	}
	for _, name := range []string{"cleanup.policy", "retention.bytes", "retention.ms", "remote.storage.enable"} {
		was, had := old[name]
		if is, has := next[name]; has != had || is != was {
			return fail(kerr.InvalidRequest, "%s: topic %s is internal; the broker itself decides which of its records go", name, t.Name)
		}
	}
	return nil
}

// topicList gives the table's default of a topic config that is a list: as in
// Kafka, appending begins there, whatever the broker's default is.
func topicList(name string) (string, error) {
	d, ok := topicconfig.Lookup(name)
	if !ok {
		return "", topicconfig.Check(name, "")
	}
	if d.Type != topicconfig.List {
		return "", noList(name)
	}
	return d.Default, nil
}

// alterBroker changes what is set at run time for this broker, or for all when
// the resource has no name. What Kafka calls an invalid config elsewhere is an
// invalid request here, as in Kafka.
func (a *API) alterBroker(ctx context.Context, e configEdit) error {
	this := strconv.Itoa(int(a.cfg.BrokerID))
	r := metastore.ConfigResource{Type: metastore.BrokerConfigs}
	if e.resource.name != "" {
		if err := a.checkBroker(e.resource.name); err != nil {
			return err
		}
		r.Name = this
	}
	return a.set(ctx, r, e.validateOnly, func(old map[string]string) (map[string]string, error) {
		next, err := e.apply(old, brokerList)
		if err != nil {
			return nil, err
		}
		for _, ch := range e.changes {
			if value, ok := next[ch.name]; ok {
				if err := brokerconfig.CheckDynamic(ch.name, value); err != nil {
					return nil, invalidRequest(err)
				}
			}
		}
		all := a.deps.Meta.Image().Configs
		was := [2]map[string]string{all[metastore.ConfigResource{Type: metastore.BrokerConfigs}], all[metastore.ConfigResource{Type: metastore.BrokerConfigs, Name: this}]}
		is := was
		if r.Name == "" {
			was[0], is[0] = old, next
		} else {
			was[1], is[1] = old, next
		}
		if err := a.deps.Config().CheckChange(was, is); err != nil {
			return nil, invalidRequest(err)
		}
		return next, nil
	})
}

// brokerList gives the table's default of a broker config that is a list.
func brokerList(name string) (string, error) {
	d, ok := brokerconfig.Lookup(name)
	if !ok {
		return "", brokerconfig.Unknown(name)
	}
	if d.Type != topicconfig.List {
		return "", noList(name)
	}
	return d.Default, nil
}

func invalidRequest(err error) error {
	var ce *brokerconfig.Error
	if errors.As(err, &ce) {
		return fail(kerr.InvalidRequest, "%s", ce.Error())
	}
	return err
}

// alterResource changes a client-metrics subscription or a group's configs.
func (a *API) alterResource(ctx context.Context, e configEdit, kind metastore.ConfigType, check func(name, value string) error) error {
	r := metastore.ConfigResource{Type: kind, Name: e.resource.name}
	return a.set(ctx, r, e.validateOnly, func(old map[string]string) (map[string]string, error) {
		next, err := e.apply(old, func(name string) (string, error) { return "", noList(name) })
		if err != nil { // as in Kafka, told before what is wrong with the name
			return nil, err
		}
		if r.Name == "" {
			return nil, fail(kerr.InvalidRequest, "a resource of this type has a name; there are no configs for all of them")
		}
		// Of several faults Kafka tells first what it takes for an invalid request.
		var bad *brokerconfig.Error
		for _, ch := range e.changes {
			value, ok := next[ch.name]
			if !ok {
				continue
			}
			var ce *brokerconfig.Error
			if errors.As(check(ch.name, value), &ce) && (bad == nil || errors.Is(ce, kerr.InvalidRequest) && !errors.Is(bad, kerr.InvalidRequest)) {
				bad = ce
			}
		}
		if bad != nil {
			return nil, fail(bad.Unwrap().(*kerr.Error), "%s", bad.Error())
		}
		return next, nil
	})
}

// set writes what edit makes of r's configs and waits until it is in effect.
func (a *API) set(ctx context.Context, r metastore.ConfigResource, validateOnly bool, edit func(map[string]string) (map[string]string, error)) error {
	if validateOnly {
		_, err := edit(maps.Clone(a.deps.Meta.Image().Configs[r]))
		return err
	}
	revision, err := a.deps.Meta.SetConfigs(ctx, r, edit)
	if err != nil {
		return err
	}
	return a.deps.Partitions.AwaitApplied(ctx, revision)
}

// alterLoggers sets the level of what this process logs, until it ends.
func (a *API) alterLoggers(e configEdit) error {
	if err := a.checkBroker(e.resource.name); err != nil {
		return err
	}
	if a.deps.LogLevel == nil {
		return fail(kerr.InvalidRequest, "this process does not let its log level be changed")
	}
	for _, ch := range e.changes {
		level := -1
		if ch.op == kmsg.IncrementalAlterConfigOpSet {
			level = slices.IndexFunc(logLevels, func(l logLevel) bool { return l.name == *ch.value })
		}
		switch {
		case ch.op > kmsg.IncrementalAlterConfigOpDelete:
			return fail(kerr.InvalidRequest, "a logger's level is no list, so that nothing can be appended to it or taken from it")
		case ch.name != rootLogger:
			return fail(kerr.InvalidConfig, "there is no logger %s; the one there is is called %s", ch.name, rootLogger)
		case ch.op == kmsg.IncrementalAlterConfigOpDelete:
			return fail(kerr.InvalidRequest, "the level of the logger %s cannot be deleted; set another", rootLogger)
		case level < 0:
			return fail(kerr.InvalidConfig, "%q is no level; they are TRACE, DEBUG, INFO, WARN, ERROR, FATAL", *ch.value)
		case !e.validateOnly:
			a.deps.LogLevel.Set(logLevels[level].level)
			a.log.Log(context.Background(), logLevels[level].level, "the log level was changed", "level", logLevels[level].name)
		}
	}
	return nil
}
