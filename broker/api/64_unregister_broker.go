package api

import (
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// UnregisterBroker, version 0, flexible (KIP-631). A broker's registration is
// a lease that ends when the broker does; what stays is which disk it had.
// That goes here, once no replica and no member of etcd is that broker's. One
// that runs is not thrown out: Kafka does that, after which it can lead nothing
// until it is started again.
func (a *API) unregisterBroker(c *call) {
	req := c.req.Body.(*kmsg.UnregisterBrokerRequest)
	resp := response[*kmsg.UnregisterBrokerResponse](c)
	err := a.forget(c, record.BrokerID(req.BrokerID))
	resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
	c.send(resp)
}

const forgetWithin = 15_000 // ms: the request names no time

func (a *API) forget(c *call, id record.BrokerID) error {
	ctx, cancel := c.deadline(forgetWithin)
	defer cancel()
	img := a.deps.Meta.Image()
	running := fail(kerr.InvalidRequest, "broker %d is running: stop it, and its registration ends by itself", id)
	if _, ok := img.Brokers[id]; ok {
		return running
	}
	if n, one := replicasOf(img, id); n > 0 {
		return fail(kerr.InvalidRequest, "broker %d is not running, but has replicas (partitions: %d, one of them %s): have others take its place first", id, n, one)
	}
	members, err := a.deps.Meta.Members(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(members, func(m metastore.Member) bool { return m.Broker == id && id >= 0 }) {
		return fail(kerr.InvalidRequest, "broker %d is not running, but is a member of etcd: remove the member first", id)
	}
	if _, ok := img.Unfenced[id]; !ok {
		return fail(kerr.BrokerIDNotRegistered, "no broker %d is registered", id)
	}
	revision, err := a.deps.Meta.Forget(ctx, id)
	if errors.Is(err, metastore.ErrConflict) {
		return running // since a moment ago
	}
	if err != nil {
		return err
	}
	return a.deps.Partitions.AwaitApplied(ctx, revision)
}

// replicasOf counts the partitions that name a broker as a replica, and names
// one of them.
func replicasOf(img *metastore.Image, id record.BrokerID) (n int, one string) {
	for name, t := range img.Topics {
		for i := range t.Partitions {
			if slices.Contains(t.Partitions[i].Replicas, id) {
				if p := fmt.Sprintf("%s-%d", name, i); n == 0 || p < one {
					one = p
				}
				n++
			}
		}
	}
	return n, one
}
