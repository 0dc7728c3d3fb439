package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/firnlog/firn/broker/balance"
	"github.com/firnlog/firn/record"
)

// decommissioned is what cluster decommission prints.
type decommissioned struct {
	Broker   int32 `json:"broker"`
	Drained  bool  `json:"drained"`
	Replicas int   `json:"replicas"` // that are left on it
}

func (a *app) clusterDecommissionCommand() *cobra.Command {
	var cancel bool
	var throttle int64
	cmd := &cobra.Command{
		Use:   "decommission BROKER",
		Short: "Empty a broker, so that it can be taken away",
		Long: `Have all replicas and leaderships of a broker moved to others, and wait until it has none. Nothing
new is placed on it meanwhile, or afterwards. The broker need not be alive.

The brokers do the work: an interrupt ends the waiting only, and the same command waits on.
--cancel lets the broker have replicas again; moves that are under way are completed.`,
		Example: `  firn cluster decommission 4
  firn cluster decommission 4 --throttle 20000000
  firn cluster decommission 4 --cancel`,
		Args: args(cobra.ExactArgs(1), "one broker's number, as in firn cluster nodes"),
		RunE: func(cmd *cobra.Command, given []string) error {
			broker, err := brokerArg(given[0])
			if err != nil {
				return err
			}
			id := int32(broker)
			if throttle < 0 {
				return usageError("--throttle cannot be below 0")
			}
			return a.withMover(cmd.Context(), func(ctx context.Context, m *mover) error {
				if cancel {
					return a.recommission(ctx, m, id)
				}
				return a.decommission(ctx, m, id, throttle)
			})
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVar(&cancel, "cancel", false, "let the broker have replicas again")
	addMoveFlags(cmd, &throttle)
	return cmd
}

func (a *app) recommission(ctx context.Context, m *mover, id int32) error {
	if err := m.alterBrokers(ctx, kadm.SubtractConfig, drainedConfig, fmt.Sprint(id)); err != nil {
		return err
	}
	p, err := m.look(ctx)
	for end := time.Now().Add(pingTimeout); err == nil && slices.Contains(p.drained, id); p, err = m.look(ctx) {
		if time.Now().After(end) { // it is written with spaces, or was given at the start of a broker
			return failf("see where it is set with: firn config describe brokers", "broker %d is still in %s", id, drainedConfig)
		}
		time.Sleep(moveLook / 4) // the broker that is asked hears of it in a moment
	}
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(decommissioned{id, false, p.replicasOn(id)})
	}
	fmt.Fprintf(a.out, "broker %d may have replicas again; it has %d\n", id, p.replicasOn(id))
	return nil
}

func (a *app) decommission(ctx context.Context, m *mover, id int32, throttle int64) error {
	p, err := m.look(ctx)
	if err != nil {
		return err
	}
	if err := p.canDoWithout(id); err != nil {
		return err
	}
	if !slices.Contains(p.drained, id) {
		if err := m.alterBrokers(ctx, kadm.AppendConfig, drainedConfig, fmt.Sprint(id)); err != nil {
			return err
		}
	}
	if err := m.throttled(ctx, throttle, func() error { return a.awaitEmpty(ctx, m, id) }); err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(decommissioned{id, true, 0})
	}
	fmt.Fprintf(a.out, "broker %d has no replicas any more: stop it, and then: firn cluster remove %d\n(to let it have replicas again instead: firn cluster decommission %d --cancel)\n", id, id, id)
	return nil
}

// awaitEmpty returns when a broker has no replica, and tells how far that is.
func (a *app) awaitEmpty(ctx context.Context, m *mover, id int32) error {
	var progress *bar
	defer func() { progress.stop() }()
	total, done, told, said := int64(0), int64(0), time.Now(), ""
	var loads balance.Loads
	for first := true; ; first = false {
		p, err := m.look(ctx)
		if err != nil {
			return interrupted(ctx, id, err)
		}
		if first {
			loads = m.weigh(ctx, p)
		}
		left := p.replicasOn(id)
		if left == 0 {
			progress.advance(total - done)
			return nil
		}
		bytes := p.bytesOn(loads, id)
		if total = max(total, bytes); first {
			progress = a.progress(fmt.Sprintf("broker %d", id), total)
		}
		if now := total - bytes; now > done {
			progress.advance(now - done)
			done = now
		}
		if why := p.behindText(); why != "" && why != said {
			fmt.Fprintf(a.err, "firn: no further move is begun while replicas are not in sync: %s\n", why)
			said = why
		}
		if progress == nil && (first || time.Since(told) > 10*time.Second) {
			told = time.Now()
			fmt.Fprintf(a.err, "broker %d has %s left, %s\n", id, plural(left, "replica"), bytesText(bytes))
		}
		select {
		case <-time.After(moveLook):
		case <-ctx.Done():
			return interrupted(ctx, id, ctx.Err())
		}
	}
}

// interrupted says what becomes of a broker that is not waited for any more.
func interrupted(ctx context.Context, id int32, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return failf(fmt.Sprintf("wait on with: firn cluster decommission %d   (or take it back: --cancel)", id), "stopped waiting; the brokers go on to empty broker %d", id)
}

// canDoWithout says why the other brokers cannot take what a broker has.
func (p *places) canDoWithout(id int32) error {
	known, others := false, 0
	for _, b := range p.cluster.Brokers {
		known = known || int32(b.ID) == id
		if b.Usable && int32(b.ID) != id {
			others++
		}
	}
	if !known {
		return failf("see the brokers with: firn cluster nodes", "there is no broker %d, nor a replica on it", id)
	}
	for _, part := range p.cluster.Partitions {
		if slices.Contains(part.Replicas, record.BrokerID(id)) && len(part.Replicas) > others {
			return failf("add a broker first, or lower the number of replicas", "broker %d cannot be emptied: %v has %s, and there would be %s to have them", id, part.TopicPartition, plural(len(part.Replicas), "replica"), plural(others, "other broker"))
		}
	}
	return nil
}

// replicasOn counts the replicas that a broker has, those counted that are about
// to go.
func (p *places) replicasOn(id int32) (n int) {
	for _, part := range p.cluster.Partitions {
		if p.has(&part, id) {
			n++
		}
	}
	return n
}

func (p *places) bytesOn(loads balance.Loads, id int32) (n int64) {
	for _, part := range p.cluster.Partitions {
		if p.has(&part, id) {
			n += loads[part.TopicPartition].Bytes
		}
	}
	return n
}

func (p *places) has(part *balance.Partition, id int32) bool {
	return slices.Contains(part.Replicas, record.BrokerID(id)) || slices.Contains(p.moving[part.TopicPartition.String()].RemovingReplicas, id)
}
