package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/broker/health"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

const lookAgain = 500 * time.Millisecond // while --wait lasts

func (a *app) clusterRestartCheckCommand() *cobra.Command {
	var wait time.Duration
	var but []string
	cmd := &cobra.Command{
		Use:   "restart-check [BROKER]",
		Short: "Say whether a broker may be restarted now without an outage",
		Long: `Say whether BROKER, or else which broker, may be restarted now without anybody noticing. It may
when

  - every broker is registered and taken in, and none is stopping,
  - every partition has a leader and all of its replicas in sync,
  - each partition of the broker has another in-sync replica, and without the broker's at least
    min.insync.replicas of them,
  - every member of etcd answers and has what the others have, one leads, and there is a
    majority without the broker.

Partitions that are being moved are a warning. Without BROKER one is chosen that is neither the
controller nor etcd's leader, as long as there is such a one.

The exit code is 0 when it may, and 1 otherwise, with the reasons. --wait waits until it may,
and says on standard error what it waits for.`,
		Example: `  firn cluster restart-check 2
  firn cluster restart-check 2 --wait 5m
  firn cluster restart-check --ignore scratch --output json`,
		Args: args(cobra.MaximumNArgs(1), "at most one broker's number"),
		RunE: func(cmd *cobra.Command, given []string) error {
			id := replica.None
			if len(given) == 1 {
				var err error
				if id, err = brokerArg(given[0]); err != nil {
					return err
				}
			}
			cl, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			return a.restartCheck(cmd.Context(), cl, id, but, wait)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait up to `DURATION` until it may, for example 5m")
	cmd.Flags().StringArrayVar(&but, "ignore", nil, "do not look at `TOPIC`: its records may be away for the time of the restart; repeatable")
	return cmd
}

func (a *app) restartCheck(ctx context.Context, cl *kgo.Client, id record.BrokerID, but []string, wait time.Duration) error {
	began, said := time.Now(), ""
	for {
		r, err := a.mayRestart(ctx, cl, id, but)
		if ctx.Err() != nil {
			return failf("", "stopped while waiting")
		}
		if (err == nil && r.May) || time.Since(began) >= wait {
			if err != nil {
				return err
			}
			return a.printRestart(r)
		}
		now := strings.Join(r.Reasons, "; ")
		if err != nil {
			now = err.Error() // brokers come and go meanwhile
		}
		if now != said {
			said = now
			fmt.Fprintf(a.err, "firn: waiting: %s\n", now)
		}
		select {
		case <-time.After(min(lookAgain, max(0, wait-time.Since(began)))):
		case <-ctx.Done():
		}
	}
}

func (a *app) mayRestart(ctx context.Context, cl *kgo.Client, id record.BrokerID, but []string) (health.Restart, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	v, err := a.viewCluster(ctx, cl, true)
	if err != nil {
		return health.Restart{}, err
	}
	for _, topic := range but {
		if !slices.ContainsFunc(v.Partitions, func(p health.Partition) bool { return p.Topic == topic }) {
			return health.Restart{}, failf("list the topics with: firn topic list", "--ignore %s: there is no such topic", topic)
		}
	}
	var r health.Restart
	if id == replica.None {
		r = v.Next(but)
	} else {
		r = v.MayRestart(id, but)
	}
	if v.detail == nil {
		r.Warnings = append(r.Warnings, "whether a broker is stopping is not known: no broker's HTTP address answers from here")
	}
	return r, nil
}

func (a *app) printRestart(r health.Restart) error {
	if a.json() {
		if err := a.printJSON(r); err != nil {
			return err
		}
	} else {
		for _, w := range r.Warnings {
			fmt.Fprintf(a.err, "firn: warning: %s\n", w)
		}
	}
	if !r.May {
		return failf("wait until it may with: --wait 5m", "broker %d had better not be restarted now: %s", r.Broker, strings.Join(r.Reasons, "; "))
	}
	if !a.json() {
		fmt.Fprintf(a.out, "broker %d may be restarted now\n", r.Broker)
	}
	return nil
}
