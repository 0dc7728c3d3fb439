package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
)

// etcdHealth is what cluster health prints. -1 stands for "not known".
type etcdHealth struct {
	Well     bool           `json:"well"`
	Problems []string       `json:"problems"`
	Members  []memberDetail `json:"members"`
}

func (a *app) clusterHealthCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "Show how etcd is, member by member",
		Long: `Ask each member of etcd, which runs inside of the first three or five brokers and keeps the
cluster's metadata: whether it answers, which one leads and in which term, how far each has
come (REVISION) and how many revisions behind the others (LAG), how large its database file is,
how much of that is in use, what it may grow to, and which alarms it has raised: NOSPACE, the
quota is reached and metadata cannot be changed, or CORRUPT.

Sizes and alarms come from the brokers' HTTP address, of which one must be reachable from here;
without they are "?". The exit code is 0 when every member answers and is not behind, one of them
leads, there is no alarm, and less than half of the quota is in use. Otherwise it is 1.`,
		Example: `  firn cluster health
  firn cluster health --output json`,
		Args: args(cobra.NoArgs, "no arguments; another cluster: --brokers HOST:PORT"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withView(cmd.Context(), false, func(_ context.Context, _ *kgo.Client, v *clusterView) error {
				h := healthOf(v)
				var err error
				if a.json() {
					err = a.printJSON(h)
				} else {
					err = a.printHealth(v, h)
				}
				return cmp.Or(err, notWell(h.Problems))
			})
		},
	}
}

// healthOf takes what a broker's HTTP address says, or else what all of them
// say over Kafka's protocol.
func healthOf(v *clusterView) etcdHealth {
	h := etcdHealth{Problems: v.EtcdProblems(), Members: []memberDetail{}}
	if v.detail != nil {
		h.Members = append(h.Members, v.detail.Members...)
	} else {
		for _, m := range v.voters {
			d := memberDetail{ID: m.memberID(), Broker: int32(m.Broker), Peer: v.nodes[int32(m.Broker)]["PEER"], Learner: m.Learner, Leader: m.Leader,
				Revision: m.revision, Lag: m.lag, DBBytes: -1, DBInUse: -1, DBQuota: -1, Alarms: []string{}}
			if !m.Answers {
				d.Error = "it does not answer"
			}
			h.Members = append(h.Members, d)
		}
	}
	for _, m := range h.Members {
		for _, alarm := range m.Alarms {
			h.Problems = append(h.Problems, fmt.Sprintf("the etcd member of broker %d has raised %s", m.Broker, alarm))
		}
		if m.DBQuota > 0 && m.DBInUse > m.DBQuota/2 {
			h.Problems = append(h.Problems, fmt.Sprintf("the etcd member of broker %d uses %s of its quota of %s", m.Broker, bytesText(m.DBInUse), bytesText(m.DBQuota)))
		}
	}
	if h.Well = len(h.Problems) == 0; h.Well {
		h.Problems = []string{}
	}
	return h
}

func (a *app) printHealth(v *clusterView, h etcdHealth) error {
	t := newTable(">BROKER", "PEER", "ROLE", ">TERM", ">REVISION", ">LAG", ">FILE", ">IN USE", ">QUOTA", "ALARMS", "ANSWERS")
	for _, m := range h.Members {
		role, answers := "voter", "yes"
		switch {
		case m.Leader:
			role = "leader"
		case m.Learner:
			role = "learner"
		}
		term, revision, lag := fmt.Sprint(m.Term), fmt.Sprint(m.Revision), fmt.Sprint(m.Lag)
		if m.Error != "" {
			answers, term, revision, lag = "no: "+m.Error, "?", "?", "?"
			m.DBBytes, m.DBInUse, m.DBQuota = -1, -1, -1
		}
		if v.detail == nil {
			term = "?"
		}
		t.row(known(int64(m.Broker)), m.Peer, role, term, revision, lag, bytesText(m.DBBytes), bytesText(m.DBInUse), bytesText(m.DBQuota), strings.Join(m.Alarms, ","), answers)
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	if v.detail == nil {
		fmt.Fprintln(a.out, "\nno broker's HTTP address answers from here: sizes and alarms are not known")
	}
	if h.Well {
		fmt.Fprintln(a.out, "\nall is well")
	}
	return nil
}
