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

// groupState is what decides whether a group may be changed from outside.
type groupState struct {
	group   string
	state   string   // "" when there is no such group
	members []string // for people: client (instance) at host
}

// groupState asks for a group's state and members; that there is no such
// group is no error.
func (a *app) groupState(ctx context.Context, adm *kadm.Client, group string) (groupState, error) {
	s := groupState{group: group}
	described, err := adm.DescribeGroups(ctx, group)
	d := described[group]
	if err == nil {
		err = d.Err
	}
	if errors.Is(err, kerr.GroupIDNotFound) || err == nil && d.State == "Dead" {
		return a.newGroupState(ctx, adm, s)
	}
	if err != nil {
		return s, a.explain("group "+group, err, d.ErrMessage)
	}
	s.state = d.State
	for _, m := range d.Members {
		s.members = append(s.members, memberText(m.ClientID, m.InstanceID, m.ClientHost))
	}
	return s, nil
}

// newGroupState looks for a group of KIP-848's protocol; many brokers have
// none.
func (a *app) newGroupState(ctx context.Context, adm *kadm.Client, s groupState) (groupState, error) {
	described, err := adm.DescribeConsumerGroups(ctx, s.group)
	d, ok := described[s.group]
	if err == nil && ok {
		err = d.Err
	}
	switch {
	case errors.Is(err, kerr.UnsupportedVersion), errors.Is(err, kerr.GroupIDNotFound), err == nil && !ok:
		return s, nil
	case err != nil:
		if codeOf(err) == "" {
			return s, nil // the broker does not know the request
		}
		return s, a.explain("group "+s.group, err, "")
	}
	s.state = d.State
	for _, m := range d.Members {
		s.members = append(s.members, memberText(m.ClientID, m.InstanceID, m.ClientHost))
	}
	return s, nil
}

func memberText(client string, instance *string, host string) string {
	if instance != nil {
		client += " (" + *instance + ")"
	}
	return client + " at " + strings.TrimPrefix(host, "/")
}

// refuse is the error of a group that is in use; why ends the sentence.
func (s groupState) refuse(why string) error {
	return failf("stop them, or wait until their session has timed out; watch with: firn group describe "+s.group,
		"group %s is %s and has %s: %s; %s", s.group, s.state, plural(len(s.members), "member"), strings.Join(s.members, ", "), why)
}

type groupResult struct {
	Group string `json:"group"`
	outcome
}

func (a *app) groupDeleteCommand() *cobra.Command {
	return a.deletes("with all committed offsets", a.deleteGroups, &cobra.Command{
		Use:     "delete GROUP...",
		Aliases: []string{"rm"},
		Short:   "Delete groups and what they committed",
		Long: `Delete groups with all offsets that they committed. This cannot be undone. A group that has
members is refused. At a terminal it asks first, unless --yes is given.`,
		Example:           "  firn group delete reporting",
		Args:              args(cobra.MinimumNArgs(1), "the name of a group, or several"),
		ValidArgsFunction: a.completeGroups,
	})
}

func (a *app) deleteGroups(ctx context.Context, adm *kadm.Client, names []string) error {
	resp, err := adm.DeleteGroups(ctx, names...)
	if err != nil && len(resp) == 0 {
		return a.explain("delete "+strings.Join(names, ", "), err, "")
	}
	var results []groupResult
	for _, n := range names {
		r := groupResult{Group: n}
		got, ok := resp[n]
		switch {
		case !ok:
			r.fail(a, "group "+n, errors.Join(errors.New("its coordinator gave no answer"), err), "")
		case errors.Is(got.Err, kerr.NonEmptyGroup):
			r.note(got.Err, a.inUse(ctx, adm, n, got.Err, "only a group without members can be deleted"))
		case got.Err != nil:
			r.fail(a, "group "+n, got.Err, got.ErrMessage)
		}
		results = append(results, r)
	}
	return finish(a, "groups", results, func(r groupResult) string { return "deleted group " + r.Group })
}

// inUse names the members of a group that the broker said has some.
func (a *app) inUse(ctx context.Context, adm *kadm.Client, group string, said error, why string) error {
	state, err := a.groupState(ctx, adm, group)
	if err != nil || len(state.members) == 0 { // they have left in the meantime
		return a.explain("group "+group, said, "")
	}
	return state.refuse(why)
}

// deletedOffset is one partition's outcome of delete-offsets.
type deletedOffset struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"` // what was committed
	outcome
}

func (a *app) groupDeleteOffsetsCommand() *cobra.Command {
	var topics []string
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete-offsets GROUP --topic TOPIC...",
		Short: "Forget what a group committed for a topic",
		Long: `Forget the offsets that a group committed for some topics, so that it no longer shows lag
there; a member that reads them again begins as its client is told to. This cannot be undone.
A topic that a member of the group reads is refused. At a terminal it asks first, unless
--yes is given.`,
		Example: `  firn group delete-offsets reporting --topic flights
  firn group delete-offsets reporting --topic flights:0,3-5`,
		Args:              args(cobra.ExactArgs(1), "the name of one group"),
		ValidArgsFunction: a.completeOneGroup,
		RunE: func(cmd *cobra.Command, given []string) error {
			if len(topics) == 0 {
				return usageError("say which: --topic TOPIC or --topic TOPIC:0,1   (the whole group: firn group delete %s)", given[0])
			}
			wanted, err := parsePartitions(topics)
			if err != nil {
				return err
			}
			if err := a.confirm(yes, "Forget the offsets of group "+given[0]+" for "+strings.Join(topics, ", ")+"?"); err != nil {
				return err
			}
			ctx, adm, done, err := a.admin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			return a.deleteOffsets(ctx, adm, given[0], wanted, strings.Join(topics, ", "))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVarP(&topics, "topic", "t", nil, "a `TOPIC`, or TOPIC:PARTITIONS as in flights:0,3-5; may be repeated")
	addYes(cmd, &yes)
	cmd.RegisterFlagCompletionFunc("topic", a.completeTopicFlag)
	return cmd
}

func (a *app) deleteOffsets(ctx context.Context, adm *kadm.Client, group string, wanted map[string][]int32, named string) error {
	what := "group " + group
	committed, err := adm.FetchOffsets(ctx, group)
	if err != nil {
		return a.explain(what, err, "")
	}
	var results []deletedOffset
	set := kadm.TopicsSet{}
	for _, o := range committed.Sorted() {
		parts, ok := wanted[o.Topic]
		if !ok || o.At < 0 || parts != nil && !slices.Contains(parts, o.Partition) {
			continue
		}
		set.Add(o.Topic, o.Partition)
		results = append(results, deletedOffset{Topic: o.Topic, Partition: o.Partition, Offset: o.At})
	}
	if len(results) == 0 {
		return failf("what it has committed: firn group describe "+group, "%s has committed nothing for %s", what, named)
	}
	resp, err := adm.DeleteOffsets(ctx, group, set)
	if errors.Is(err, kerr.NonEmptyGroup) {
		return a.inUse(ctx, adm, group, err, "what it has committed can only be deleted while it has no members")
	}
	if err != nil {
		return a.explain(what, err, "")
	}
	for i := range results {
		r := &results[i]
		perr, ok := resp.Lookup(r.Topic, r.Partition)
		if !ok {
			perr = errors.New("the broker's answer does not mention it")
		}
		if perr != nil {
			r.fail(a, fmt.Sprintf("%s, partition %s:%d", what, r.Topic, r.Partition), perr, "")
		}
	}
	return finish(a, "offsets", results, func(r deletedOffset) string {
		return fmt.Sprintf("deleted offset %d of %s:%d", r.Offset, r.Topic, r.Partition)
	})
}
