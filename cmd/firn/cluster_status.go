package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/broker/health"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// clusterStatus is what cluster status prints.
type clusterStatus struct {
	ClusterID  string            `json:"clusterId"`
	Well       bool              `json:"well"`
	Problems   []string          `json:"problems"`   // the worst first
	Controller int32             `json:"controller"` // -1: none
	Brokers    brokerStates      `json:"brokers"`
	Etcd       etcdStates        `json:"etcd"`
	Topics     int               `json:"topics"`
	Partitions int               `json:"partitions"`
	Replicas   int               `json:"replicas"`
	Counts     health.Counts     `json:"counts"`           // of partitions
	Listed     []partitionStatus `json:"listed,omitempty"` // with --partitions: those that are not well, or move
}

// brokerStates are broker ids by state.
type brokerStates struct {
	Alive   []int32 `json:"alive"` // fenced and leaving ones not counted
	Leaving []int32 `json:"leaving"`
	Fenced  []int32 `json:"fenced"`
	Dead    []int32 `json:"dead"` // named as replicas, and not registered
}

// etcdStates are the broker ids of etcd's members; -1 is one that has never run.
type etcdStates struct {
	Leader   int32   `json:"leader"` // -1: none
	Voters   []int32 `json:"voters"`
	Learners []int32 `json:"learners"`
	Silent   []int32 `json:"silent"` // of all, those that do not answer
}

type partitionStatus struct {
	Topic     string   `json:"topic"`
	Partition int32    `json:"partition"`
	Leader    int32    `json:"leader"`
	Replicas  []int32  `json:"replicas"`
	ISR       []int32  `json:"isr"`
	Adding    []int32  `json:"adding"`
	Removing  []int32  `json:"removing"`
	MinISR    int      `json:"minIsr"` // that counts
	States    []string `json:"states"` // offline, under-min-isr, under-replicated, at-min-isr, reassigning
}

func (a *app) clusterStatusCommand() *cobra.Command {
	var list bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether all is well",
		Long: `Show which brokers there are and which of them leave, start or are gone, the members of etcd,
which keep the metadata, and how many partitions have no leader (offline), a replica that is
not in sync (under-replicated), fewer in-sync replicas than acks=all needs (under min ISR), or
just as many (at min ISR).

The exit code is 0 when all is well: every partition has a leader and all of its replicas in
sync, every broker that is named as a replica runs, there is a controller, and every member of
etcd answers. Otherwise it is 1.`,
		Example: `  firn cluster status
  firn cluster status --partitions
  firn cluster status --output json`,
		Args: args(cobra.NoArgs, "no arguments; another cluster: --brokers HOST:PORT"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withView(cmd.Context(), true, func(_ context.Context, _ *kgo.Client, v *clusterView) error {
				st := statusOf(v, list)
				var err error
				if a.json() {
					err = a.printJSON(st)
				} else {
					err = a.printStatus(v, st)
				}
				return cmp.Or(err, notWell(st.Problems))
			})
		},
	}
	cmd.Flags().BoolVar(&list, "partitions", false, "list the partitions that are not well, at the least that is needed, or being moved")
	return cmd
}

// notWell is the error of a command that found problems, nil for none.
func notWell(problems []string) error {
	if len(problems) == 0 {
		return nil
	}
	return failf("", "not all is well: %s", strings.Join(problems, "; "))
}

func statusOf(v *clusterView, list bool) clusterStatus {
	st := clusterStatus{ClusterID: v.id, Problems: v.Problems(), Controller: int32(v.Controller), Partitions: len(v.Partitions), Counts: v.Count()}
	st.Brokers = brokerStates{Alive: []int32{}, Leaving: []int32{}, Fenced: []int32{}, Dead: int32s(v.Dead())}
	for _, b := range v.Brokers {
		to := &st.Brokers.Alive
		switch {
		case b.Fenced:
			to = &st.Brokers.Fenced
		case b.Leaving:
			to = &st.Brokers.Leaving
		}
		*to = append(*to, int32(b.ID))
	}
	st.Etcd = etcdStates{Leader: -1, Voters: []int32{}, Learners: []int32{}, Silent: []int32{}}
	for _, m := range v.voters {
		to := &st.Etcd.Voters
		if m.Learner {
			to = &st.Etcd.Learners
		}
		*to = append(*to, int32(m.Broker))
		if m.Leader {
			st.Etcd.Leader = int32(m.Broker)
		}
		if !m.Answers {
			st.Etcd.Silent = append(st.Etcd.Silent, int32(m.Broker))
		}
	}
	topic := ""
	for i := range v.Partitions {
		p := &v.Partitions[i]
		if p.Topic != topic || i == 0 {
			topic = p.Topic
			st.Topics++
		}
		st.Replicas += len(p.Replicas)
		if states := statesOf(p); list && len(states) > 0 {
			st.Listed = append(st.Listed, partitionStatus{
				Topic: p.Topic, Partition: int32(p.ID), Leader: int32(p.Leader), Replicas: int32s(p.Replicas), ISR: int32s(p.ISR),
				Adding: int32s(p.Adding), Removing: int32s(p.Removing), MinISR: p.MinInsync(p.Want), States: states,
			})
		}
	}
	if st.Well = len(st.Problems) == 0; st.Well {
		st.Problems = []string{}
	}
	return st
}

// statesOf says what is to be said of a partition. To be at the least that is
// needed is worth a word only where there could be more.
func statesOf(p *health.Partition) (states []string) {
	for _, s := range []struct {
		is   bool
		name string
	}{
		{p.Offline(), "offline"}, {p.UnderMin(), "under-min-isr"}, {p.UnderReplicated(), "under-replicated"},
		{p.AtMin() && p.UnderReplicated(), "at-min-isr"}, {p.Reassigning(), "reassigning"},
	} {
		if s.is {
			states = append(states, s.name)
		}
	}
	return states
}

func int32s(ids []record.BrokerID) []int32 {
	out := make([]int32, len(ids))
	for i, id := range ids {
		out[i] = int32(id)
	}
	return out
}

// idText lists ids, "-" for none at all, "?" for one that is not known.
func idText(ids []int32) string {
	if len(ids) == 0 {
		return "-"
	}
	text := make([]string, len(ids))
	for i, id := range ids {
		if text[i] = "?"; id >= 0 {
			text[i] = fmt.Sprint(id)
		}
	}
	return strings.Join(text, ",")
}

func (a *app) printStatus(v *clusterView, st clusterStatus) error {
	fmt.Fprintf(a.out, "cluster %s, controller %s\n\n", st.ClusterID, known(int64(st.Controller)))
	line := func(what, text string) { fmt.Fprintf(a.out, "%-12s%s\n", what, text) }
	b := st.Brokers
	text := fmt.Sprintf("%d alive (%s)", len(b.Alive), idText(b.Alive))
	for _, more := range []struct {
		ids  []int32
		word string
	}{{b.Leaving, "leaving"}, {b.Fenced, "starting"}, {b.Dead, "dead"}} {
		if len(more.ids) > 0 {
			text += fmt.Sprintf(", %d %s (%s)", len(more.ids), more.word, idText(more.ids))
		}
	}
	if v.detail == nil {
		text += "; which of them leave is not known: no HTTP address of theirs answers"
	}
	line("brokers", text)
	text = fmt.Sprintf("leader %s, voters %s", known(int64(st.Etcd.Leader)), idText(st.Etcd.Voters))
	if len(st.Etcd.Learners) > 0 {
		text += ", learners " + idText(st.Etcd.Learners)
	}
	if len(st.Etcd.Silent) > 0 {
		text += "; no answer from " + idText(st.Etcd.Silent)
	}
	line("etcd", text)
	line("topics", fmt.Sprintf("%s, %s, %s", plural(st.Topics, "topic"), plural(st.Partitions, "partition"), plural(st.Replicas, "replica")))
	n := st.Counts
	line("partitions", fmt.Sprintf("offline %d, under min ISR %d, under-replicated %d, at min ISR %d, being moved %d", n.Offline, n.UnderMin, n.UnderReplicated, n.AtMin, n.Reassigning))
	if st.Well {
		fmt.Fprintln(a.out, "\nall is well")
	}
	if len(st.Listed) == 0 {
		return nil
	}
	fmt.Fprintln(a.out)
	t := newTable("TOPIC", ">PARTITION", ">LEADER", "REPLICAS", "IN SYNC", ">NEEDED", "STATE")
	for _, p := range st.Listed {
		t.row(p.Topic, p.Partition, known(int64(p.Leader)), idText(p.Replicas), idText(p.ISR), p.MinISR, strings.Join(p.States, ","))
	}
	return t.print(a.out)
}

// nodeInfo is a line of cluster nodes. -1 stands for "not known".
type nodeInfo struct {
	ID       int32  `json:"id"`
	Address  string `json:"address,omitempty"` // "" for one that is not registered
	Rack     string `json:"rack,omitempty"`
	HTTP     string `json:"http,omitempty"`
	Peer     string `json:"peer,omitempty"`
	Etcd     string `json:"etcd"` // leader, voter, learner, none
	Leads    int    `json:"leads"`
	Replicas int    `json:"replicas"`
	InSync   int    `json:"inSync"`
	Bytes    int64  `json:"bytes"` // of logs on its disk
	State    string `json:"state"` // in sync, catching up, starting, leaving, dead
	// Deployment is what it runs as; "" where it was not told, or is not known.
	Deployment string `json:"deployment,omitempty"`
}

func (a *app) clusterNodesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "nodes",
		Short: "Show each broker: what it leads and keeps, and whether it has all",
		Long: `Show a line for each broker: where clients reach it, its rack, what it is in etcd (leader, voter,
learner or none), how many partitions it leads, of how many it has a replica and how many of
those are in sync, and what its logs take on disk.

STATE is "in sync" for a broker all of whose replicas are, "catching up" while some are not,
"starting" until the controller has taken it in, "leaving" while it stops, and "dead" for one
that is named as a replica or a member of etcd and does not run.

DEPLOYMENT is what a broker runs as (firn start --deployment), where brokers were told; it comes
from the brokers' HTTP address, of which one must be reachable from here.`,
		Example: `  firn cluster nodes
  firn cluster nodes --output json`,
		Args: args(cobra.NoArgs, "no arguments; another cluster: --brokers HOST:PORT"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withView(cmd.Context(), true, func(ctx context.Context, _ *kgo.Client, v *clusterView) error {
				nodes := nodesOf(ctx, v)
				if a.json() {
					return a.printJSON(nodes)
				}
				t := newTable(">BROKER", "ADDRESS", "RACK", "ETCD", ">LEADS", ">REPLICAS", ">IN SYNC", ">DISK", "STATE", "DEPLOYMENT")
				for _, n := range nodes {
					t.row(n.ID, n.Address, n.Rack, n.Etcd, n.Leads, n.Replicas, n.InSync, size(n.Bytes), n.State, n.Deployment)
				}
				if !slices.ContainsFunc(nodes, func(n nodeInfo) bool { return n.Deployment != "" }) {
					t.dropLast()
				}
				return t.print(a.out)
			})
		},
	}
}

func nodesOf(ctx context.Context, v *clusterView) []nodeInfo {
	sizes := v.diskBytes(ctx)
	nodes := []nodeInfo{}
	at := map[record.BrokerID]int{}
	for _, id := range v.all() {
		at[id] = len(nodes)
		n := nodeInfo{ID: int32(id), Etcd: "none", Bytes: -1, Deployment: v.deployment(int32(id)), HTTP: v.nodes[int32(id)]["HTTP"], Peer: v.nodes[int32(id)]["PEER"]}
		if m, ok := v.member(id); ok {
			n.Etcd = m.role()
		}
		if b, ok := sizes[id]; ok {
			n.Bytes = b
		}
		nodes = append(nodes, n)
	}
	for _, b := range v.brokers {
		n := &nodes[at[record.BrokerID(b.NodeID)]]
		n.Address, n.Rack = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))), deref(b.Rack)
	}
	for i := range v.Partitions {
		p := &v.Partitions[i]
		if p.Leader != replica.None {
			if i, ok := at[p.Leader]; ok {
				nodes[i].Leads++
			}
		}
		for _, id := range p.Replicas {
			nodes[at[id]].Replicas++
			if p.InISR(id) {
				nodes[at[id]].InSync++
			}
		}
	}
	for i := range nodes {
		nodes[i].State = stateOf(v, &nodes[i])
	}
	return nodes
}

func stateOf(v *clusterView, n *nodeInfo) string {
	i := slices.IndexFunc(v.Brokers, func(b health.Broker) bool { return int32(b.ID) == n.ID })
	switch {
	case i < 0:
		return "dead"
	case v.Brokers[i].Fenced:
		return "starting"
	case v.Brokers[i].Leaving:
		return "leaving"
	case n.InSync < n.Replicas:
		return "catching up"
	}
	return "in sync"
}
