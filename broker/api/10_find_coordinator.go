package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
)

// FindCoordinator, versions 0–6.
//
//	1  key type: 0 group, 1 transactional id; error message
//	3  flexible
//	4  several keys in one request (KIP-699)
//	5  TRANSACTION_ABORTABLE (KIP-890)
//	6  key type 2: share group (KIP-932)
func (a *API) findCoordinator(c *call) {
	req := c.req.Body.(*kmsg.FindCoordinatorRequest)
	if a.deps.Meta.Image().Topics[offsetsTopic] != nil || req.CoordinatorType != groupCoordinator {
		a.answerFindCoordinator(c, req)
		return
	}
	a.later(c, func() {
		ctx, cancel := c.deadline(10_000)
		defer cancel()
		if err := a.deps.EnsureOffsetsTopic(ctx); err != nil {
			a.failed("the topic for group offsets could not be made", "error", err)
		}
		a.answerFindCoordinator(c, req)
	})
}

// Kinds of coordinator.
const (
	groupCoordinator = 0
	txnCoordinator   = 1
	shareCoordinator = 2
)

func (a *API) answerFindCoordinator(c *call, req *kmsg.FindCoordinatorRequest) {
	resp := response[*kmsg.FindCoordinatorResponse](c)
	img := a.deps.Meta.Image()
	kind := req.CoordinatorType
	if req.Version < 1 {
		kind = groupCoordinator
	}
	if req.Version < 4 {
		one := a.coordinator(img, kind, req.CoordinatorKey)
		resp.NodeID, resp.Host, resp.Port = one.NodeID, one.Host, one.Port
		resp.ErrorCode, resp.ErrorMessage = one.ErrorCode, one.ErrorMessage
		if one.ErrorCode == 0 {
			resp.ErrorMessage = kmsg.StringPtr("NONE") // as Kafka says it in these versions
		}
		c.send(resp)
		return
	}
	for _, key := range req.CoordinatorKeys {
		one := a.coordinator(img, kind, key)
		if one.ErrorCode == 0 {
			one.ErrorMessage = kmsg.StringPtr("")
		}
		resp.Coordinators = append(resp.Coordinators, one)
	}
	c.send(resp)
}

// coordinator finds the broker that looks after key.
func (a *API) coordinator(img *metastore.Image, kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	out := kmsg.NewFindCoordinatorResponseCoordinator()
	out.Key, out.NodeID, out.Port = key, -1, -1
	err := func() error {
		switch kind {
		case groupCoordinator:
		case txnCoordinator:
			// A code that clients neither retry nor take for a lack of rights.
			return fail(kerr.UnsupportedVersion, noTransactions)
		case shareCoordinator:
			return fail(kerr.InvalidRequest, "share groups are not supported yet by this broker")
		default:
			return fail(kerr.InvalidRequest, "unknown coordinator type %d", kind)
		}
		t := img.Topics[offsetsTopic]
		p := a.deps.Groups.PartitionFor(key)
		if t == nil || int(p) >= len(t.Partitions) {
			return kerr.CoordinatorNotAvailable
		}
		leader := t.Partitions[p].Leader
		b, ok := img.Brokers[leader]
		if !ok || !a.serves(t, &t.Partitions[p]) {
			return kerr.CoordinatorNotAvailable
		}
		out.NodeID, out.Host, out.Port = int32(leader), b.Host, b.Port
		return nil
	}()
	out.ErrorCode, out.ErrorMessage = codeOf(err), messageOf(err)
	return out
}
