package api

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/topicconfig"
)

// IncrementalAlterConfigs, versions 0–1.
//
//	1  flexible
func (a *API) incrementalAlterConfigs(c *call) {
	req := c.req.Body.(*kmsg.IncrementalAlterConfigsRequest)
	resp := response[*kmsg.IncrementalAlterConfigsResponse](c)
	ctx, cancel := c.deadline(30_000)
	defer cancel()
	type resource struct {
		kind kmsg.ConfigResourceType
		name string
	}
	count := map[resource]int{}
	for i := range req.Resources {
		count[resource{req.Resources[i].ResourceType, req.Resources[i].ResourceName}]++
	}
	for i := range req.Resources {
		r := &req.Resources[i]
		out := kmsg.NewIncrementalAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = r.ResourceType, r.ResourceName
		var err error
		if count[resource{r.ResourceType, r.ResourceName}] > 1 {
			err = fail(kerr.InvalidRequest, "each resource may be named at most once")
		} else if err = checkAlterations(r); err == nil {
			err = a.alterTopic(ctx, r, req.ValidateOnly)
		}
		if err != nil && codeOf(err) == kerr.UnknownServerError.Code {
			a.failed("alter configs failed", "topic", r.ResourceName, "error", err)
		}
		out.ErrorCode, out.ErrorMessage = codeOf(err), messageOf(err)
		resp.Resources = append(resp.Resources, out)
	}
	c.send(resp)
}

// checkAlterations looks for what is wrong whatever the topic has now.
func checkAlterations(r *kmsg.IncrementalAlterConfigsRequestResource) error {
	seen := map[string]bool{}
	var null []string
	for _, cfg := range r.Configs {
		if seen[cfg.Name] {
			return fail(kerr.InvalidRequest, "config %s is named more than once", cfg.Name)
		}
		seen[cfg.Name] = true
		if cfg.Op < kmsg.IncrementalAlterConfigOpSet || cfg.Op > kmsg.IncrementalAlterConfigOpSubtract {
			return fail(kerr.InvalidRequest, "config %s: unknown operation %d", cfg.Name, int8(cfg.Op))
		}
		if cfg.Value == nil && cfg.Op != kmsg.IncrementalAlterConfigOpDelete {
			null = append(null, cfg.Name)
		}
	}
	if len(null) > 0 {
		return fail(kerr.InvalidRequest, "configs without a value: %s", strings.Join(null, ", "))
	}
	switch r.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
	case kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger:
		return fail(kerr.InvalidRequest, "this broker's settings cannot be changed while it runs; use its flags or its file")
	case kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig:
		return fail(kerr.InvalidRequest, "configs of resource type %d are not supported yet", int8(r.ResourceType))
	default:
		return fail(kerr.InvalidRequest, "unknown resource type %d", int8(r.ResourceType))
	}
	if r.ResourceName == "" {
		return fail(kerr.InvalidRequest, "there are no configs for all topics; name one")
	}
	return checkTopicName(r.ResourceName)
}

func (a *API) alterTopic(ctx context.Context, r *kmsg.IncrementalAlterConfigsRequestResource, validateOnly bool) error {
	t := a.deps.Meta.Image().Topics[r.ResourceName]
	edit := func(old map[string]string) (map[string]string, error) {
		next, err := applyAlterations(old, r.Configs)
		if err != nil {
			return nil, err
		}
		return next, a.checkConfigs(old, next)
	}
	if t == nil {
		if _, err := edit(nil); err != nil { // Kafka too looks at the values first
			return err
		}
		return fail(kerr.UnknownTopicOrPartition, "topic %s does not exist", r.ResourceName)
	}
	if t.Internal {
		return fail(kerr.InvalidRequest, "topic %s is internal; its configs cannot be changed", t.Name)
	}
	if validateOnly {
		_, err := edit(t.Configs)
		return err
	}
	revision, err := a.deps.Meta.SetTopicConfigs(ctx, t.ID, edit)
	if err != nil {
		return err
	}
	return a.deps.Partitions.AwaitApplied(ctx, revision)
}

// applyAlterations gives old with the changes made; old stays as it is.
func applyAlterations(old map[string]string, changes []kmsg.IncrementalAlterConfigsRequestResourceConfig) (map[string]string, error) {
	next := maps.Clone(old)
	if next == nil {
		next = map[string]string{}
	}
	for _, ch := range changes {
		switch ch.Op {
		case kmsg.IncrementalAlterConfigOpSet:
			next[ch.Name] = *ch.Value
		case kmsg.IncrementalAlterConfigOpDelete:
			delete(next, ch.Name)
		default:
			d, ok := topicconfig.Lookup(ch.Name)
			if !ok {
				return nil, topicconfig.Check(ch.Name, "")
			}
			if d.Type != topicconfig.List {
				return nil, &topicconfig.Error{Key: ch.Name, Reason: "is not a list, so that nothing can be appended to it or taken from it"}
			}
			value, ok := next[ch.Name]
			if !ok {
				value = d.Default
			}
			next[ch.Name] = alterList(value, *ch.Value, ch.Op == kmsg.IncrementalAlterConfigOpAppend)
		}
	}
	return next, nil
}

func alterList(value, change string, add bool) string {
	list := topicconfig.SplitList(value)
	for _, item := range topicconfig.SplitList(change) {
		switch at := slices.Index(list, item); {
		case add && at < 0:
			list = append(list, item)
		case !add && at >= 0:
			list = slices.Delete(list, at, at+1)
		}
	}
	return strings.Join(list, ",")
}
