package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/broker/balance"
	"github.com/firnlog/firn/record"
)

// rebalancePlan is what cluster rebalance prints.
type rebalancePlan struct {
	Moves      []plannedMove   `json:"moves"`
	Bytes      int64           `json:"bytes"` // that all moves copy, about
	Score      float64         `json:"score"`
	ScoreAfter float64         `json:"scoreAfter"`
	Brokers    []plannedBroker `json:"brokers"`
	Stuck      []string        `json:"stuck"` // partitions that a drained broker cannot get rid of
}

type plannedMove struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	From      []int32 `json:"from"`
	To        []int32 `json:"to"`
	Bytes     int64   `json:"bytes"`
}

type plannedBroker struct {
	Broker  int32       `json:"broker"`
	Rack    string      `json:"rack,omitempty"`
	Usable  bool        `json:"usable"`
	Drained bool        `json:"drained"`
	Before  plannedLoad `json:"before"`
	After   plannedLoad `json:"after"`
}

type plannedLoad struct {
	Replicas int   `json:"replicas"`
	Leaders  int   `json:"leaders"`
	Bytes    int64 `json:"bytes"`
	Traffic  int64 `json:"traffic"` // bytes per second
}

func (a *app) clusterRebalanceCommand() *cobra.Command {
	var plan, execute, cancel bool
	var throttle int64
	var moves int
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Move replicas so that brokers are even, or show the moves",
		Long: `Plan moves of replicas and leaderships that make the brokers even in replicas, leaders, bytes and
traffic, keeping replicas in different racks, and moving as little as possible. --plan, which is
also what happens without any flag, only prints them. --execute carries them out, a few at a time;
an interrupt ends that after those under way. --cancel takes back all moves that are under way,
whoever asked for them.

The brokers do the same by themselves while firn.balance is on; docs/cluster.md says by which score.`,
		Example: `  firn cluster rebalance
  firn cluster rebalance --plan --output json
  firn cluster rebalance --execute --throttle 20000000
  firn cluster rebalance --cancel`,
		Args: args(cobra.NoArgs, "no arguments; what to do is said by --plan, --execute or --cancel"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if moves < 0 || throttle < 0 {
				return usageError("--moves and --throttle cannot be below 0")
			}
			return a.withMover(cmd.Context(), func(ctx context.Context, m *mover) error {
				if cancel {
					return a.cancelMoves(ctx, m)
				}
				return a.rebalance(ctx, m, execute, moves, throttle)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&plan, "plan", false, "print the moves, and what brokers carry before and after")
	f.BoolVar(&execute, "execute", false, "carry the moves out")
	f.BoolVar(&cancel, "cancel", false, "take back all moves that are under way")
	addMoveFlags(cmd, &throttle)
	f.IntVar(&moves, "moves", 0, "moves under way at the same time, `N`; the broker config firn.balance.moves without it")
	cmd.MarkFlagsMutuallyExclusive("plan", "execute", "cancel")
	return cmd
}

func addMoveFlags(cmd *cobra.Command, throttle *int64) {
	cmd.Flags().Int64Var(throttle, "throttle", 0, "`BYTES` per second that each broker copies at most, instead of the broker config firn.move.rate, which is set for as long as this takes")
}

func (a *app) cancelMoves(ctx context.Context, m *mover) error {
	n, err := m.cancel(ctx)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(map[string]int{"cancelled": n})
	}
	fmt.Fprintf(a.out, "%s taken back\n", plural(n, "move"))
	return nil
}

func (a *app) rebalance(ctx context.Context, m *mover, execute bool, atOnce int, throttle int64) error {
	p, err := m.look(ctx)
	if err != nil {
		return err
	}
	m.weigh(ctx, p)
	plan := balance.Make(p.cluster, balance.Options{})
	out := planOf(p, &plan)
	if !execute && a.json() {
		return a.printJSON(out)
	}
	if !execute {
		return a.printPlan(out)
	}
	if behind := p.behindText(); behind != "" && len(plan.Moves) > 0 {
		return failf("see them with: firn topic describe --all", "nothing is moved while replicas are not in sync: %s", behind)
	}
	if atOnce == 0 {
		atOnce = max(1, p.moves)
	}
	if err := m.throttled(ctx, throttle, func() error { return m.execute(ctx, plan.Moves, atOnce) }); err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(out)
	}
	if len(plan.Moves) == 0 {
		fmt.Fprintln(a.out, "the brokers are even: nothing to move")
		return nil
	}
	fmt.Fprintf(a.out, "%s done, %s copied\n", plural(len(plan.Moves), "move"), bytesText(plan.Bytes()))
	return nil
}

// planOf puts a plan as it is printed.
func planOf(p *places, plan *balance.Plan) rebalancePlan {
	out := rebalancePlan{Moves: []plannedMove{}, Bytes: plan.Bytes(), Score: plan.ScoreBefore, ScoreAfter: plan.ScoreAfter, Brokers: []plannedBroker{}, Stuck: []string{}}
	for _, m := range plan.Moves {
		out.Moves = append(out.Moves, plannedMove{m.Topic, int32(m.Partition), int32s(m.From), int32s(m.To), m.Bytes})
	}
	load := func(l balance.Load) plannedLoad { return plannedLoad{l.Replicas, l.Leaders, l.Bytes, l.Traffic} }
	for i, b := range p.cluster.Brokers {
		out.Brokers = append(out.Brokers, plannedBroker{int32(b.ID), b.Rack, b.Usable, b.Drained, load(plan.Before[i]), load(plan.After[i])})
	}
	for _, tp := range plan.Stuck {
		out.Stuck = append(out.Stuck, tp.String())
	}
	return out
}

func (a *app) printPlan(p rebalancePlan) error {
	t := newTable(">BROKER", "RACK", ">REPLICAS", ">AFTER", ">LEADERS", ">AFTER", ">BYTES", ">AFTER", ">TRAFFIC/s", ">AFTER", "")
	for _, b := range p.Brokers {
		note := "-"
		switch {
		case b.Drained:
			note = "drained"
		case !b.Usable:
			note = "away"
		}
		t.row(b.Broker, b.Rack, b.Before.Replicas, b.After.Replicas, b.Before.Leaders, b.After.Leaders,
			bytesText(b.Before.Bytes), bytesText(b.After.Bytes), bytesText(b.Before.Traffic), bytesText(b.After.Traffic), note)
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	if len(p.Stuck) > 0 {
		fmt.Fprintf(a.out, "\nno broker can take these from drained ones: %s\n", strings.Join(p.Stuck, ", "))
	}
	if len(p.Moves) == 0 {
		fmt.Fprintf(a.out, "\nthe brokers are even: nothing to move (score %.4g)\n", p.Score)
		return nil
	}
	fmt.Fprintln(a.out)
	t = newTable("PARTITION", "FROM", "TO", ">BYTES")
	for _, m := range p.Moves {
		t.row(record.TopicPartition{Topic: m.Topic, Partition: record.PartitionID(m.Partition)}, idsText(m.From), idsText(m.To), bytesText(m.Bytes))
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "\n%s, %s to copy; score %.4g, then %.4g\ncarry them out with: firn cluster rebalance --execute\n", plural(len(p.Moves), "move"), bytesText(p.Bytes), p.Score, p.ScoreAfter)
	return nil
}

func idsText(ids []int32) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(ids), " ", ","), "[]")
}
