package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// configChange is one change of config alter.
type configChange struct {
	Op    string `json:"op"` // set, unset, append or remove
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`

	op kmsg.IncrementalAlterConfigOp
}

type alterResult struct {
	Resource string         `json:"resource"`
	Changes  []configChange `json:"changes"`
	outcome
}

func (a *app) configAlterCommand() *cobra.Command {
	var set, unset, add, remove []string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "alter RESOURCE...",
		Short: "Change configs of topics, brokers, groups and metrics",
		Long: `Change configs while everything runs. What is not named stays as it is. A RESOURCE is one of
  topic/NAME  broker/ID  brokers (what all brokers have in common)  group/NAME
  client-metrics/NAME
With several, each is checked before the first is changed.

--append and --remove are for configs that are lists, as in cleanup.policy=compact. A config
that is set at start only has to be given to "firn start".`,
		Example: `  firn config alter topic/flights --set retention.ms=604800000
  firn config alter topic/flights --append cleanup.policy=compact
  firn config alter brokers --set log.retention.ms=259200000 --unset message.max.bytes
  firn config alter broker/1 --set log.retention.ms=3600000 --dry-run`,
		Args:              args(cobra.MinimumNArgs(1), "what to change: topic/NAME, broker/ID, brokers, group/NAME or client-metrics/NAME"),
		ValidArgsFunction: a.completeResources,
		RunE: func(cmd *cobra.Command, given []string) error {
			resources, err := parseResources(given)
			if err != nil {
				return err
			}
			changes, err := parseChanges(set, unset, add, remove)
			if err != nil {
				return err
			}
			ctx, cl, done, err := a.connectAdmin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			return a.alterConfigs(ctx, cl, resources, changes, dryRun)
		},
	}
	a.addBrokers(cmd)
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVarP(&set, "set", "s", nil, "give a config a value, `NAME=VALUE`; may be repeated")
	f.StringArrayVarP(&unset, "unset", "u", nil, "take a config back to what it is without this, by `NAME`; may be repeated")
	f.StringArrayVar(&add, "append", nil, "add values to a list, `NAME=VALUE,VALUE`; may be repeated")
	f.StringArrayVar(&remove, "remove", nil, "take values out of a list, `NAME=VALUE,VALUE`; may be repeated")
	f.BoolVar(&dryRun, "dry-run", false, "only check whether it would work")
	for name, suffix := range map[string]string{"set": "=", "unset": "", "append": "=", "remove": "="} {
		cmd.RegisterFlagCompletionFunc(name, a.completeConfigNames(suffix))
	}
	return cmd
}

// parseChanges reads the four flags; a config may be named once.
func parseChanges(set, unset, add, remove []string) ([]configChange, error) {
	var all []configChange
	seen := map[string]string{}
	put := func(flag string, op kmsg.IncrementalAlterConfigOp, name, value string) error {
		if first, twice := seen[name]; twice && first == flag {
			return usageError("--%s: %s is given twice", flag, name)
		} else if twice {
			return usageError("%s is given to both --%s and --%s", name, first, flag)
		}
		seen[name] = flag
		all = append(all, configChange{flag, name, value, op})
		return nil
	}
	for _, f := range []struct {
		flag  string
		op    kmsg.IncrementalAlterConfigOp
		pairs []string
	}{
		{"set", kmsg.IncrementalAlterConfigOpSet, set},
		{"append", kmsg.IncrementalAlterConfigOpAppend, add},
		{"remove", kmsg.IncrementalAlterConfigOpSubtract, remove},
	} {
		names, values, err := splitPairs("--"+f.flag, f.pairs)
		for _, n := range names {
			if err == nil {
				err = put(f.flag, f.op, n, values[n])
			}
		}
		if err != nil {
			return nil, err
		}
	}
	for _, n := range unset {
		if strings.Contains(n, "=") {
			return nil, usageError("--unset %s: give the name alone", n)
		}
		if err := put("unset", kmsg.IncrementalAlterConfigOpDelete, n, ""); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, usageError("nothing to change: give --set NAME=VALUE, --unset NAME, --append NAME=VALUE or --remove NAME=VALUE")
	}
	return all, nil
}

// alterConfigs checks every resource first, so that a mistake in one leaves
// all as they were, and then changes them.
func (a *app) alterConfigs(ctx context.Context, cl *kgo.Client, resources []resource, changes []configChange, dryRun bool) error {
	results := make([]alterResult, len(resources))
	ok := true
	for i, r := range resources {
		results[i] = alterResult{Resource: r.String(), Changes: changes}
		a.alterOne(ctx, cl, r, changes, true, &results[i].outcome)
		ok = ok && results[i].err == nil
	}
	if ok && !dryRun {
		for i, r := range resources {
			a.alterOne(ctx, cl, r, changes, false, &results[i].outcome)
		}
	}
	return finish(a, "resources", results, func(r alterResult) string {
		switch {
		case dryRun:
			return r.Resource + " can be changed so"
		case !ok:
			return r.Resource + " was not changed"
		}
		return "changed " + r.Resource
	})
}

func (a *app) alterOne(ctx context.Context, cl *kgo.Client, r resource, changes []configChange, check bool, out *outcome) {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.ValidateOnly = check
	rr := kmsg.NewIncrementalAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = r.kind, r.name
	for _, c := range changes {
		rc := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		rc.Name, rc.Op = c.Name, c.op
		if c.op != kmsg.IncrementalAlterConfigOpDelete {
			rc.Value = &c.Value
		}
		rr.Configs = append(rr.Configs, rc)
	}
	req.Resources = append(req.Resources, rr)
	resp, err := req.RequestWith(ctx, cl)
	message := ""
	switch {
	case err != nil:
	case len(resp.Resources) != 1:
		err = failf("", "%s: the broker's answer does not mention it", r)
	default:
		err, message = kerr.ErrorForCode(resp.Resources[0].ErrorCode), deref(resp.Resources[0].ErrorMessage)
	}
	if err != nil {
		out.note(err, a.explainResource(r, err, message))
	}
}
