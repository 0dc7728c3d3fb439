package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

func brokerArg(text string) (record.BrokerID, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 {
		return 0, usageError("%q is no broker: give its number, as in firn cluster nodes", text)
	}
	return record.BrokerID(n), nil
}

func (a *app) clusterAddCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "add BROKER PEER",
		Short: "Let a member of etcd in again that was removed",
		Long: `Let broker BROKER become a member of etcd at PEER, the HOST:PORT of its --peer, after it was
removed. It joins when it is started with --seeds that name PEER, first as a learner, and votes
when it has everything. A broker that was never removed needs no permission.

A further broker that only serves clients is no member: start it with --seeds, and it is there.`,
		Example: `  firn cluster add 3 c.example.net:2380`,
		Args:    args(cobra.ExactArgs(2), "a broker's number and its peer address, HOST:PORT"),
		RunE: func(cmd *cobra.Command, given []string) error {
			id, err := brokerArg(given[0])
			if err != nil {
				return err
			}
			host, portText, err := net.SplitHostPort(given[1])
			port, perr := strconv.ParseUint(portText, 10, 16)
			if err != nil || perr != nil || host == "" || port == 0 {
				return usageError("%q is no peer address: write HOST:PORT", given[1])
			}
			ctx, cl, done, err := a.connectAdmin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			req := kmsg.NewPtrAddRaftVoterRequest()
			req.VoterID, req.Listeners = int32(id), []kmsg.AddRaftVoterRequestListener{{Name: "PEER", Host: host, Port: uint16(port)}}
			resp, err := req.RequestWith(ctx, cl)
			if err == nil {
				err = kerr.ErrorForCode(resp.ErrorCode)
			}
			if err != nil {
				message := ""
				if resp != nil {
					message = deref(resp.ErrorMessage)
				}
				return a.explain("member "+given[1], err, message)
			}
			if a.json() {
				return a.printJSON(map[string]any{"broker": id, "peer": given[1], "mayJoin": true})
			}
			fmt.Fprintf(a.out, "broker %d may join at %s: start it with --node-id %d --peer %s and --seeds that name it\n", id, given[1], id, given[1])
			return nil
		},
	}
}

// removal is what cluster remove prints.
type removal struct {
	Broker        int32 `json:"broker"`
	MemberRemoved bool  `json:"memberRemoved"` // from etcd
	Forgotten     bool  `json:"forgotten"`     // nothing is known of the broker any more
}

const stopWithin = 25 * time.Second // a removed member's process stops, and its lease runs out

func (a *app) clusterRemoveCommand() *cobra.Command {
	var memberOnly bool
	cmd := &cobra.Command{
		Use:   "remove BROKER",
		Short: "Remove a broker, or only its member of etcd",
		Long: `Remove a broker for good: its member of etcd, if it has one, and what the cluster knows of it.
A running member deletes what it has of etcd and stops. Stop it yourself before, and it hands over
what it leads; a running broker without a member has to be stopped before. It must have no
replicas: have others take their place first.

With --member-only the broker stays with its replicas, and only its member of etcd goes; its
process stops, and can be started again with --seeds that do not name it.

It is refused where too few of etcd's voters would be left that answer. BROKER may also be the
peer address, HOST:PORT, of a member that has never run.`,
		Example: `  firn cluster remove 3
  firn cluster remove 3 --member-only
  firn cluster remove c.example.net:2380 --member-only`,
		Args: args(cobra.ExactArgs(1), "one broker's number"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.withView(cmd.Context(), true, func(ctx context.Context, cl *kgo.Client, v *clusterView) error {
				out, err := a.remove(ctx, cl, v, given[0], memberOnly)
				if err != nil {
					return err
				}
				if a.json() {
					return a.printJSON(out)
				}
				if out.MemberRemoved {
					fmt.Fprintf(a.out, "the etcd member of %s is removed; its process deletes what it had and stops\n", brokerOr(out.Broker, given[0]))
				}
				if out.Forgotten {
					fmt.Fprintf(a.out, "broker %d is removed\n", out.Broker)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&memberOnly, "member-only", false, "take only the member of etcd out; the broker keeps its replicas")
	return cmd
}

func brokerOr(id int32, given string) string {
	if id < 0 {
		return given
	}
	return fmt.Sprintf("broker %d", id)
}

// remove takes out what was given, a broker's number or a member's peer
// address.
func (a *app) remove(ctx context.Context, cl *kgo.Client, v *clusterView, given string, memberOnly bool) (removal, error) {
	id, m, is, err := v.named(given)
	if err != nil {
		return removal{}, err
	}
	out := removal{Broker: int32(id)}
	memberOnly = memberOnly || id == replica.None // of a broker that is not known there is nothing else
	switch n, one := v.replicasOf(id); {
	case memberOnly && !is:
		return out, failf("see who has one with: firn cluster nodes", "broker %d has no member of etcd", id)
	case !memberOnly && n > 0:
		return out, failf(fmt.Sprintf("have others take their place with: firn cluster decommission %d   (or keep them, and take only its etcd member out: --member-only)", id),
			"broker %d has replicas of %s, %s for one", id, plural(n, "partition"), one)
	case !memberOnly && !is && v.registered(id):
		return out, failf("stop its process first, then run this again", "broker %d is running", id)
	}
	if is {
		if err := a.removeMember(ctx, cl, v, m); err != nil {
			return out, err
		}
		out.MemberRemoved = true
	}
	if memberOnly {
		return out, nil
	}
	out.Forgotten = true
	return out, a.forget(ctx, cl, v, id, out.MemberRemoved)
}

// named finds a broker by its number, or its member's peer address.
func (v *clusterView) named(given string) (id record.BrokerID, m quorumMember, is bool, err error) {
	if _, _, err := net.SplitHostPort(given); err != nil {
		if id, err = brokerArg(given); err != nil {
			return id, m, false, err
		}
		m, is = v.member(id)
		return id, m, is, nil
	}
	if v.detail == nil {
		return id, m, false, failf("name the broker by its number, or run this where the HTTP address of a broker can be reached", "peer addresses are not known here: no broker's HTTP address answers")
	}
	for _, d := range v.detail.Members {
		if d.Peer != given {
			continue
		}
		for _, m := range v.voters {
			if m.memberID() == d.ID {
				return m.Broker, m, true, nil
			}
		}
	}
	return id, m, false, failf("see them with: firn cluster health", "no member of etcd has the peer address %s", given)
}

// replicasOf counts the partitions that a broker has replicas of.
func (v *clusterView) replicasOf(id record.BrokerID) (n int, one string) {
	for i := range v.Partitions {
		if p := &v.Partitions[i]; p.HasReplica(id) {
			if n++; one == "" {
				one = p.String()
			}
		}
	}
	return n, one
}

// removeMember asks a broker that stays to take a member out.
func (a *app) removeMember(ctx context.Context, cl *kgo.Client, v *clusterView, m quorumMember) error {
	req := kmsg.NewPtrRemoveRaftVoterRequest()
	req.VoterID, req.VoterDirectoryID = int32(m.Broker), m.dir
	resp, err := askFor[*kmsg.RemoveRaftVoterResponse](ctx, v.askerBut(cl, m.Broker), req)
	message := ""
	if err == nil {
		err, message = kerr.ErrorForCode(resp.ErrorCode), deref(resp.ErrorMessage)
	}
	if errors.Is(err, kerr.InvalidRequest) {
		return failf("see which members answer with: firn cluster health", "%s", message)
	}
	return a.explain("member", err, message)
}

// forget has what is known of a broker removed; where it was a running member
// until now, that takes until its process has ended.
func (a *app) forget(ctx context.Context, cl *kgo.Client, v *clusterView, id record.BrokerID, stopping bool) error {
	ask := v.askerBut(cl, id)
	for end := time.Now().Add(stopWithin); ; {
		req := kmsg.NewPtrUnregisterBrokerRequest()
		req.BrokerID = int32(id)
		resp, err := askFor[*kmsg.UnregisterBrokerResponse](ctx, ask, req)
		message := ""
		if err == nil {
			err, message = kerr.ErrorForCode(resp.ErrorCode), deref(resp.ErrorMessage)
		}
		switch {
		case err == nil, stopping && errors.Is(err, kerr.BrokerIDNotRegistered): // it never registered
			return nil
		case errors.Is(err, kerr.BrokerIDNotRegistered):
			return failf("see the brokers with: firn cluster nodes", "there is no broker %d", id)
		case !stopping || !errors.Is(err, kerr.InvalidRequest) || time.Now().After(end):
			return a.explain(fmt.Sprintf("broker %d", id), err, cmp.Or(message, "it cannot be removed"))
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return a.explain(fmt.Sprintf("broker %d", id), ctx.Err(), "")
		}
	}
}

// askerBut is asker without a broker that is about to go.
func (v *clusterView) askerBut(cl *kgo.Client, but record.BrokerID) requestFunc {
	others := *v
	others.brokers = slices.DeleteFunc(slices.Clone(v.brokers), func(b kmsg.DescribeClusterResponseBroker) bool { return record.BrokerID(b.NodeID) == but })
	return others.asker(cl)
}
