package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// resourceConfigs is one resource as config describe prints it.
type resourceConfigs struct {
	Resource string        `json:"resource"`
	Configs  []configEntry `json:"configs"`
}

func (a *app) configDescribeCommand() *cobra.Command {
	var all, docs bool
	var names []string
	cmd := &cobra.Command{
		Use:   "describe [RESOURCE...]",
		Short: "Show configs of topics, brokers, groups and metrics",
		Long: `Show the configs that somebody has set: their values, where each comes from and what it
would be by default. A RESOURCE is one of
  topic/NAME  broker/ID  brokers (what all brokers have in common)  group/NAME
  client-metrics/NAME
Without any, everything in the cluster that has configs is shown. With --all those that have
their default value are shown too.

SOURCE is the strongest of the places that a value may come from: dynamic_topic_config,
dynamic_broker_config (one broker), dynamic_default_broker_config (all brokers),
static_broker_config (how the broker was started), default_config.`,
		Example: `  firn config describe
  firn config describe topic/flights --all
  firn config describe broker/1 --name log.retention.ms --docs
  firn config describe brokers --output json`,
		ValidArgsFunction: a.completeResources,
		RunE: func(cmd *cobra.Command, given []string) error {
			resources, err := parseResources(given)
			if err != nil {
				return err
			}
			ctx, cl, done, err := a.connectAdmin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			everything := len(resources) == 0
			if everything {
				if resources, err = listResources(ctx, cl); err != nil {
					return a.explain("list what has configs", err, "")
				}
			}
			shown := []resourceConfigs{}
			for _, r := range resources {
				entries, err := a.describeConfigs(ctx, cl, r, names, docs)
				if err != nil {
					return err
				}
				if err := knowsNames(r, entries, names); err != nil && !everything {
					return err
				}
				if !all && len(names) == 0 {
					entries = slices.DeleteFunc(entries, func(c configEntry) bool { return !c.changed() })
				}
				if everything && len(entries) == 0 {
					continue
				}
				shown = append(shown, resourceConfigs{r.String(), entries})
			}
			if len(shown) == 0 && !a.json() {
				fmt.Fprintln(a.out, "all configs have their default values; see them with: firn config describe RESOURCE --all")
			}
			return printEach(a, shown, func(rc resourceConfigs) error { return a.printConfigs(rc, docs) })
		},
	}
	a.addBrokers(cmd)
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&all, "all", "a", false, "show configs that have their default value too")
	f.StringArrayVarP(&names, "name", "n", nil, "show only the config `NAME`, whatever its value; may be repeated")
	f.BoolVar(&docs, "docs", false, "say what each config means")
	cmd.RegisterFlagCompletionFunc("name", a.completeConfigNames(""))
	return cmd
}

// knowsNames is an error when a config was asked for that the resource does
// not have: brokers leave these out in silence. What all brokers have in
// common lists only what was set, so that nothing can be said there.
func knowsNames(r resource, entries []configEntry, names []string) error {
	if r.String() == allBrokers {
		return nil
	}
	for _, n := range names {
		if !slices.ContainsFunc(entries, func(c configEntry) bool { return c.Name == n }) {
			return failf("all that it has: firn config describe "+r.String()+" --all", "%s has no config %s", r, n)
		}
	}
	return nil
}

func (a *app) printConfigs(rc resourceConfigs, docs bool) error {
	if len(rc.Configs) == 0 {
		hint := "; see them with --all"
		if rc.Resource == allBrokers {
			hint = ""
		}
		_, err := fmt.Fprintf(a.out, "%s: all configs have their default values%s\n", rc.Resource, hint)
		return err
	}
	fmt.Fprintf(a.out, "%s\n\n", rc.Resource)
	if docs {
		for _, c := range rc.Configs {
			fmt.Fprintf(a.out, "%s = %s\n    %s, default %s, can be changed %s\n", c.Name, c.shown(), c.Source, valueText(c.Default), c.changeText())
			for _, line := range wrap(c.Doc, 92) {
				fmt.Fprintf(a.out, "    %s\n", line)
			}
		}
		return nil
	}
	t := newTable("CONFIG", "VALUE", "SOURCE", "DEFAULT", "CHANGE")
	for _, c := range rc.Configs {
		t.row(c.Name, c.shown(), c.Source, valueText(c.Default), c.changeText())
	}
	if !slices.ContainsFunc(rc.Configs, func(c configEntry) bool { return c.ReadOnly }) {
		t.dropLast()
	}
	return t.print(a.out)
}

func (c configEntry) shown() string {
	if c.Sensitive {
		return "(not shown)"
	}
	return valueText(c.Value)
}

// changeText says when the config can be changed.
func (c configEntry) changeText() string {
	if c.ReadOnly {
		return "at start"
	}
	return "any time"
}

// valueText tells null (-) from the empty text.
func valueText(v *string) string {
	switch {
	case v == nil:
		return "-"
	case *v == "":
		return `""`
	}
	return *v
}

// wrap breaks text into lines of at most width letters, where words allow it.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
