package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

func (a *app) groupCommand() *cobra.Command {
	cmd := group("group", "List, describe, reset and delete consumer groups",
		`A consumer group shares the partitions of its topics between its members and remembers, by
committed offsets, how far it has read.`,
		a.groupListCommand(), a.groupDescribeCommand(), a.groupResetCommand(), a.groupDeleteOffsetsCommand(), a.groupDeleteCommand())
	cmd.Example = "  firn group describe reporting\n  firn group reset-offsets reporting --topic flights --to-earliest"
	return a.addBrokers(cmd)
}

func (a *app) groupListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List all consumer groups",
		Long: `List all consumer groups with their states: Stable, Empty (no members),
PreparingRebalance, CompletingRebalance or Dead.`,
		Example: "  firn group list",
		Args:    args(cobra.NoArgs, "no arguments; to look at one group: firn group describe NAME"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, adm, done, err := a.admin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			listed, err := adm.ListGroups(ctx)
			if err != nil {
				return a.explain("list groups", err, "")
			}
			type groupEntry struct {
				Group       string `json:"group"`
				State       string `json:"state"`
				Protocol    string `json:"protocolType"`
				Coordinator int32  `json:"coordinator"`
			}
			all := []groupEntry{}
			t := newTable("GROUP", "STATE", "TYPE", ">COORDINATOR")
			for _, g := range listed.Sorted() {
				all = append(all, groupEntry{g.Group, g.State, g.ProtocolType, g.Coordinator})
				t.row(g.Group, g.State, g.ProtocolType, g.Coordinator)
			}
			if a.json() {
				return a.printJSON(all)
			}
			if len(all) == 0 {
				fmt.Fprintln(a.out, "there are no groups yet; read as one with: firn consume TOPIC --group NAME")
				return nil
			}
			return t.print(a.out)
		},
	}
}

type groupInfo struct {
	Group       string           `json:"group"`
	State       string           `json:"state"`
	Type        string           `json:"protocolType"`
	Assignor    string           `json:"protocol"`
	Coordinator int32            `json:"coordinator"`
	Lag         int64            `json:"lag"`
	Members     []groupMember    `json:"members"`
	Partitions  []groupPartition `json:"partitions"`
}

type groupMember struct {
	MemberID   string             `json:"memberId"`
	InstanceID string             `json:"instanceId,omitempty"`
	ClientID   string             `json:"clientId"`
	Host       string             `json:"host"`
	Assigned   map[string][]int32 `json:"assigned"`
}

// groupPartition is where the group stands in a partition. Committed is -1
// where nothing was committed, Lag -1 where it is not known.
type groupPartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed int64  `json:"committed"`
	Start     int64  `json:"start"`
	End       int64  `json:"end"`
	Lag       int64  `json:"lag"`
	MemberID  string `json:"memberId,omitempty"`
	ClientID  string `json:"clientId,omitempty"`
	Error     string `json:"error,omitempty"`
}

func (a *app) groupDescribeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "describe NAME...",
		Short: "Show members, assignment and lag",
		Long: `Show a group's members with the partitions that each reads, and for every partition the
committed offset, the end of the log and the lag between the two.`,
		Example:           "  firn group describe reporting",
		Args:              args(cobra.MinimumNArgs(1), "the name of a group, or several"),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, names []string) error {
			ctx, adm, done, err := a.admin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			infos := []groupInfo{}
			for _, n := range unique(names) {
				lags, err := adm.Lag(ctx, n)
				l, ok := lags[n]
				if err == nil && !ok {
					err = kerr.GroupIDNotFound
				}
				if err = errors.Join(err, l.DescribeErr, l.FetchErr); err != nil {
					return a.explain("group "+n, err, "")
				}
				info := describeGroup(l)
				if l.State == "Dead" && len(info.Partitions) == 0 {
					return a.explain("group "+n, kerr.GroupIDNotFound, "")
				}
				infos = append(infos, info)
			}
			return printEach(a, infos, a.printGroup)
		},
	}
}

func describeGroup(l kadm.DescribedGroupLag) groupInfo {
	info := groupInfo{Group: l.Group, State: l.State, Type: l.ProtocolType, Assignor: l.Protocol, Coordinator: l.Coordinator.NodeID,
		Members: []groupMember{}, Partitions: []groupPartition{}}
	for _, m := range l.Members {
		gm := groupMember{MemberID: m.MemberID, InstanceID: deref(m.InstanceID), ClientID: m.ClientID, Host: m.ClientHost, Assigned: map[string][]int32{}}
		if as, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range as.Topics {
				parts := slices.Clone(t.Partitions)
				slices.Sort(parts)
				gm.Assigned[t.Topic] = parts
			}
		}
		info.Members = append(info.Members, gm)
	}
	slices.SortFunc(info.Members, func(a, b groupMember) int {
		return cmp.Or(cmp.Compare(a.ClientID, b.ClientID), cmp.Compare(a.MemberID, b.MemberID))
	})
	for _, p := range l.Lag.Sorted() {
		gp := groupPartition{Topic: p.Topic, Partition: p.Partition, Committed: p.Commit.At, Start: -1, End: -1, Lag: p.Lag}
		if p.Start.Err == nil {
			gp.Start = p.Start.Offset
		}
		if p.End.Err == nil {
			gp.End = p.End.Offset
		}
		if p.Member != nil {
			gp.MemberID, gp.ClientID = p.Member.MemberID, p.Member.ClientID
		}
		if p.Err != nil {
			if gp.Error = codeOf(p.Err); gp.Error == "" {
				gp.Error = p.Err.Error()
			}
		}
		info.Lag += max(p.Lag, 0)
		info.Partitions = append(info.Partitions, gp)
	}
	return info
}

func (a *app) printGroup(info groupInfo) error {
	fmt.Fprintf(a.out, "group %s, %s, %s", info.Group, info.State, plural(len(info.Members), "member"))
	if info.Assignor != "" {
		fmt.Fprintf(a.out, ", assigned by %s", info.Assignor)
	}
	fmt.Fprintf(a.out, ", lag %d\n", info.Lag)
	if len(info.Members) > 0 {
		fmt.Fprintln(a.out)
		t := newTable("CLIENT", "MEMBER", "INSTANCE", "HOST", "READS")
		for _, m := range info.Members {
			t.row(m.ClientID, m.MemberID, m.InstanceID, m.Host, assignedText(m.Assigned))
		}
		if err := t.print(a.out); err != nil {
			return err
		}
	}
	if len(info.Partitions) == 0 {
		fmt.Fprintln(a.out, "\nnothing is committed or assigned")
		return nil
	}
	fmt.Fprintln(a.out)
	t := newTable("TOPIC", ">PARTITION", ">COMMITTED", ">END", ">LAG", "CLIENT", "ERROR")
	failed := false
	for _, p := range info.Partitions {
		t.row(p.Topic, p.Partition, known(p.Committed), known(p.End), known(p.Lag), p.ClientID, p.Error)
		failed = failed || p.Error != ""
	}
	if !failed {
		t.dropLast()
	}
	return t.print(a.out)
}

// assignedText writes an assignment as "flights 0-3,7; audit 0".
func assignedText(assigned map[string][]int32) string {
	var topics []string
	for _, t := range sortedKeys(assigned) {
		topics = append(topics, t+" "+ranges(assigned[t]))
	}
	return strings.Join(topics, "; ")
}

// ranges writes sorted numbers with runs drawn together: 0-3,7.
func ranges(nums []int32) string {
	var out []string
	for i := 0; i < len(nums); {
		j := i
		for j+1 < len(nums) && nums[j+1] == nums[j]+1 {
			j++
		}
		s := strconv.Itoa(int(nums[i]))
		if j > i {
			s += "-" + strconv.Itoa(int(nums[j]))
		}
		out = append(out, s)
		i = j + 1
	}
	return strings.Join(out, ",")
}
