package api

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
)

// RemoveRaftVoter, version 0, flexible (KIP-853). The voter is a member of
// etcd, also one that has no vote yet; both ids are as DescribeQuorum gives
// them, -1 for a member that has never run. Its broker deletes what it has of
// etcd and stops. Ask another broker: that one may stop before it answers.
func (a *API) removeRaftVoter(c *call) {
	req := c.req.Body.(*kmsg.RemoveRaftVoterRequest)
	resp := response[*kmsg.RemoveRaftVoterResponse](c)
	ctx, cancel := c.deadline(removeVoterWithin)
	defer cancel()
	err := a.removeVoter(ctx, req)
	resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
	c.send(resp)
}

const removeVoterWithin = 20_000 // ms: the request names no time

func (a *API) removeVoter(ctx context.Context, req *kmsg.RemoveRaftVoterRequest) error {
	if err := a.sameCluster(req.ClusterID); err != nil {
		return err
	}
	if req.VoterDirectoryID == [16]byte{} {
		return fail(kerr.InvalidRequest, "the request does not name the voter's folder id: see DescribeQuorum")
	}
	all, err := a.deps.Meta.Members(ctx)
	if err != nil {
		return err
	}
	m, ok := findVoter(all, req.VoterID, req.VoterDirectoryID)
	switch {
	case !ok && req.VoterID < 0:
		return fail(kerr.InvalidRequest, "the request names no voter: %d is no node id", req.VoterID)
	case !ok:
		return fail(kerr.VoterNotFound, "no member of etcd is broker %d with that folder id: see DescribeQuorum", req.VoterID)
	case m.Peer == "":
		return fail(kerr.InvalidRequest, "broker %d is the only voter", req.VoterID)
	}
	err = a.deps.Meta.RemoveMember(ctx, m.Peer)
	switch {
	case errors.Is(err, metastore.ErrQuorum):
		return fail(kerr.InvalidRequest, "without broker %d too few of etcd's voters would be well: it is the only one, or of the others too few answer; nothing was changed", req.VoterID)
	case errors.Is(err, metastore.ErrConflict):
		return fail(kerr.VoterNotFound, "broker %d is no member of etcd any more", req.VoterID)
	}
	return err
}
