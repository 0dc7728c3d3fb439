package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

func (a *app) topicCommand() *cobra.Command {
	cmd := group("topic", "Create, list, describe, change and delete topics",
		`A topic is a named log that producers append to and consumers read. It is cut into
partitions, which are read in parallel; order is kept within each partition.`,
		a.topicCreateCommand(), a.topicListCommand(), a.topicDescribeCommand(), a.topicAlterCommand(), a.topicDeleteCommand())
	cmd.Example = "  firn topic create flights --partitions 6\n  firn topic describe flights"
	return a.addBrokers(cmd)
}

// topicResult is one topic's outcome of create, alter and delete.
type topicResult struct {
	Topic      string            `json:"topic"`
	ID         string            `json:"id,omitempty"`
	Partitions int32             `json:"partitions,omitempty"`
	Configs    map[string]string `json:"configs,omitempty"`
	Existed    bool              `json:"existed,omitempty"`
	outcome
}

func (r *topicResult) fail(a *app, err error, message string) {
	r.outcome.fail(a, "topic "+r.Topic, err, message)
}

func (a *app) topicCreateCommand() *cobra.Command {
	var partitions int32
	var replicas int16
	var configs []string
	var ifNotExists, dryRun bool
	cmd := &cobra.Command{
		Use:   "create NAME...",
		Short: "Create one topic or several alike",
		Long: `Create one topic, or several with the same settings. Without --partitions the broker
decides (its config num.partitions). Partitions can be added later, never removed.`,
		Example: `  firn topic create flights --partitions 6
  firn topic create audit --config retention.ms=-1 --config remote.storage.enable=true`,
		Args:              args(cobra.MinimumNArgs(1), "the name of a topic, or several"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, names []string) error {
			keys, values, err := splitPairs("--config", configs)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("partitions") && partitions < 1 {
				return usageError("--partitions %d: a topic has at least 1", partitions)
			}
			set := map[string]*string{}
			for _, k := range keys {
				v := values[k]
				set[k] = &v
			}
			ctx, adm, done, err := a.admin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			create := adm.CreateTopics
			if dryRun {
				create = adm.ValidateCreateTopics
			}
			names = unique(names)
			resp, err := create(ctx, partitions, replicas, set, names...)
			if err != nil {
				return a.explain("create "+strings.Join(names, ", "), err, "")
			}
			var results []topicResult
			for _, n := range names {
				results = append(results, createResult(a, n, resp, values, ifNotExists))
			}
			return finish(a, "topics", results, func(r topicResult) string {
				switch {
				case r.Existed:
					return fmt.Sprintf("topic %s exists already; nothing was changed", r.Topic)
				case dryRun:
					return fmt.Sprintf("topic %s can be created with %s", r.Topic, plural(r.Partitions, "partition"))
				}
				return fmt.Sprintf("created topic %s with %s", r.Topic, plural(r.Partitions, "partition"))
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.Int32VarP(&partitions, "partitions", "p", -1, "`NUMBER` of partitions; -1 takes the broker's default")
	f.StringArrayVarP(&configs, "config", "c", nil, "a topic config, `NAME=VALUE`; may be repeated")
	f.BoolVar(&ifNotExists, "if-not-exists", false, "a topic that is there already is no error")
	f.BoolVar(&dryRun, "dry-run", false, "only check whether it would work")
	f.Int16Var(&replicas, "replicas", -1, "`NUMBER` of copies of each partition; -1 takes the broker's default")
	cmd.RegisterFlagCompletionFunc("config", completeTopicConfigs("="))
	return cmd
}

func createResult(a *app, name string, resp kadm.CreateTopicResponses, values map[string]string, ifNotExists bool) topicResult {
	r := topicResult{Topic: name}
	got, ok := resp[name]
	switch {
	case !ok:
		r.fail(a, errors.New("the broker's answer does not mention it"), "")
	case errors.Is(got.Err, kerr.TopicAlreadyExists) && ifNotExists:
		r.Existed = true
	case got.Err != nil:
		r.fail(a, got.Err, got.ErrMessage)
	default:
		r.Partitions, r.Configs = got.NumPartitions, values
		if got.ID != (kadm.TopicID{}) {
			r.ID = topicID(got.ID)
		}
	}
	return r
}

func (a *app) topicListCommand() *cobra.Command {
	var internal bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List all topics",
		Long: `List all topics by name. Topics that brokers keep for themselves are left out unless
--internal is given.`,
		Example: `  firn topic list
  firn topic list --output json`,
		Args: args(cobra.NoArgs, "no arguments; to look at one topic: firn topic describe NAME"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, adm, done, err := a.admin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			list := adm.ListTopics
			if internal {
				list = adm.ListTopicsWithInternal
			}
			topics, err := list(ctx)
			if err != nil {
				return a.explain("list topics", err, "")
			}
			type topic struct {
				Name       string `json:"name"`
				ID         string `json:"id"`
				Partitions int    `json:"partitions"`
				Replicas   int    `json:"replicas"`
				Internal   bool   `json:"internal"`
			}
			all := []topic{}
			t := newTable("NAME", ">PARTITIONS", ">REPLICAS", "ID")
			for _, name := range topics.Names() {
				d := topics[name]
				all = append(all, topic{d.Topic, topicID(d.ID), len(d.Partitions), d.Partitions.NumReplicas(), d.IsInternal})
				t.row(d.Topic, len(d.Partitions), d.Partitions.NumReplicas(), topicID(d.ID))
			}
			if a.json() {
				return a.printJSON(all)
			}
			if len(all) == 0 {
				fmt.Fprintln(a.out, "there are no topics yet; make one with: firn topic create NAME")
				return nil
			}
			return t.print(a.out)
		},
	}
	cmd.Flags().BoolVar(&internal, "internal", false, "list the brokers' own topics too")
	return cmd
}

func (a *app) topicAlterCommand() *cobra.Command {
	var partitions int32
	var configs, drop []string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "alter NAME...",
		Short: "Change configs or add partitions",
		Long: `Change the configs of topics, or add partitions to them. Configs that are not named stay as
they are. Records that are there already stay in their partitions, so adding partitions
changes which partition a key goes to from then on.`,
		Example: `  firn topic alter flights --config retention.ms=604800000
  firn topic alter flights --unset retention.ms
  firn topic alter flights --partitions 12`,
		Args:              args(cobra.MinimumNArgs(1), "the name of a topic, or several"),
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, names []string) error {
			keys, values, err := splitPairs("--config", configs)
			if err != nil {
				return err
			}
			if len(keys)+len(drop) == 0 && partitions == 0 {
				return usageError("nothing to change: give --config NAME=VALUE, --unset NAME or --partitions N")
			}
			if partitions < 0 {
				return usageError("--partitions %d: give the new total", partitions)
			}
			var ops []kadm.AlterConfig
			for _, k := range keys {
				if slices.Contains(drop, k) {
					return usageError("%s is given to both --config and --unset", k)
				}
				v := values[k]
				ops = append(ops, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
			}
			for _, k := range drop {
				ops = append(ops, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: k})
			}
			return a.alterTopics(cmd, unique(names), ops, int(partitions), values, dryRun)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVarP(&configs, "config", "c", nil, "set a topic config, `NAME=VALUE`; may be repeated")
	f.StringArrayVar(&drop, "unset", nil, "take a config back to its default, by `NAME`; may be repeated")
	f.Int32VarP(&partitions, "partitions", "p", 0, "new total `NUMBER` of partitions")
	f.BoolVar(&dryRun, "dry-run", false, "only check whether it would work")
	cmd.RegisterFlagCompletionFunc("config", completeTopicConfigs("="))
	cmd.RegisterFlagCompletionFunc("unset", completeTopicConfigs(""))
	return cmd
}

// alterTopics checks every change first, so that a mistake in one leaves all
// topics as they were, and then makes them.
func (a *app) alterTopics(cmd *cobra.Command, names []string, ops []kadm.AlterConfig, partitions int, values map[string]string, dryRun bool) error {
	ctx, adm, done, err := a.admin(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	results := make([]topicResult, len(names))
	for i, n := range names {
		results[i] = topicResult{Topic: n, Configs: values, Partitions: int32(partitions)}
	}
	apply := func(check bool) (ok bool, err error) {
		alter, grow := adm.AlterTopicConfigs, adm.UpdatePartitions
		if check {
			alter, grow = adm.ValidateAlterTopicConfigs, adm.ValidateUpdatePartitions
		}
		ok = true
		if len(ops) > 0 {
			resp, err := alter(ctx, ops, names...)
			if err != nil {
				return false, a.explain("alter "+strings.Join(names, ", "), err, "")
			}
			for i := range results {
				if r, err := resp.On(results[i].Topic, nil); err != nil || r.Err != nil {
					results[i].fail(a, errors.Join(err, r.Err), r.ErrMessage)
					ok = false
				}
			}
		}
		if partitions > 0 && ok {
			resp, err := grow(ctx, partitions, names...)
			if err != nil {
				return false, a.explain("alter "+strings.Join(names, ", "), err, "")
			}
			for i := range results {
				if r := resp[results[i].Topic]; r.Err != nil {
					results[i].fail(a, r.Err, r.ErrMessage)
					ok = false
				}
			}
		}
		return ok, nil
	}
	ok, err := apply(true)
	if err != nil {
		return err
	}
	if !dryRun && ok {
		if _, err := apply(false); err != nil {
			return err
		}
	}
	return finish(a, "topics", results, func(r topicResult) string {
		switch {
		case dryRun:
			return "topic " + r.Topic + " can be changed so"
		case !ok:
			return "topic " + r.Topic + " was not changed"
		}
		return "changed topic " + r.Topic
	})
}

func (a *app) topicDeleteCommand() *cobra.Command {
	return a.deletes("with all records", a.deleteTopics, &cobra.Command{
		Use:     "delete NAME...",
		Aliases: []string{"rm"},
		Short:   "Delete topics and all their records",
		Long: `Delete topics, with all their records, on local disk as well as in the object store. This
cannot be undone. At a terminal it asks first, unless --yes is given.`,
		Example:           "  firn topic delete flights",
		Args:              args(cobra.MinimumNArgs(1), "the name of a topic, or several"),
		ValidArgsFunction: a.completeTopics,
	})
}

func (a *app) deleteTopics(ctx context.Context, adm *kadm.Client, names []string) error {
	resp, err := adm.DeleteTopics(ctx, names...)
	if err != nil {
		return a.explain("delete "+strings.Join(names, ", "), err, "")
	}
	var results []topicResult
	for _, n := range names {
		r := topicResult{Topic: n}
		if got, ok := resp[n]; !ok {
			r.fail(a, errors.New("the broker's answer does not mention it"), "")
		} else if got.Err != nil {
			r.fail(a, got.Err, got.ErrMessage)
		}
		results = append(results, r)
	}
	return finish(a, "topics", results, func(r topicResult) string { return "deleted topic " + r.Topic })
}
