package api

import (
	"context"
	"net"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
)

// AddRaftVoter, versions 0–1, flexible (KIP-853).
//
//	1  whether to answer when the change is committed (KIP-1186); it always is
//
// The voter is a member of etcd, its first listener the address where others
// reach it. A member joins by itself when its broker starts with seeds that
// name it; this lets in one that was removed before. So it is not a voter yet
// when this is answered, where Kafka's would be. The folder's id is not looked
// at: etcd gives a member its id when it joins.
func (a *API) addRaftVoter(c *call) {
	req := c.req.Body.(*kmsg.AddRaftVoterRequest)
	resp := response[*kmsg.AddRaftVoterResponse](c)
	ctx, cancel := c.deadline(req.TimeoutMillis)
	defer cancel()
	err := a.addVoter(ctx, req)
	resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
	c.send(resp)
}

func (a *API) addVoter(ctx context.Context, req *kmsg.AddRaftVoterRequest) error {
	if err := a.sameCluster(req.ClusterID); err != nil {
		return err
	}
	if req.VoterID < 0 {
		return fail(kerr.InvalidRequest, "the request names no voter: %d is no node id", req.VoterID)
	}
	if len(req.Listeners) == 0 || req.Listeners[0].Host == "" || req.Listeners[0].Port == 0 {
		return fail(kerr.InvalidRequest, "the request does not say where the voter is reached by others: its --peer address")
	}
	l := req.Listeners[0]
	peer := net.JoinHostPort(l.Host, strconv.Itoa(int(l.Port)))
	all, err := a.deps.Meta.Members(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		switch {
		case int32(m.Broker) == req.VoterID && m.Peer == peer:
			// A removal that did not come about may have left a note of it, with
			// which this broker would not be let in if it lost its folder.
			if err := a.deps.Meta.AddMember(ctx, peer); err != nil {
				return err
			}
			return fail(kerr.DuplicateVoter, "broker %d is a member of etcd already, and may join at %s again if its folder is lost", req.VoterID, peer)
		case int32(m.Broker) == req.VoterID:
			return fail(kerr.DuplicateVoter, "broker %d is a member of etcd already", req.VoterID)
		case m.Peer == peer:
			return fail(kerr.DuplicateVoter, "%s is a member of etcd already, that of broker %d", peer, m.Broker)
		case m.Peer == "":
			return fail(kerr.InvalidRequest, "broker %d is on its own: start it with --seeds and --peer, then others can join it", m.Broker)
		}
	}
	return a.deps.Meta.AddMember(ctx, peer)
}

// sameCluster refuses what is meant for another cluster; nil means this one.
func (a *API) sameCluster(id *string) error {
	if mine := a.deps.Meta.Image().ClusterID; id != nil && *id != mine {
		return fail(kerr.InconsistentClusterID, "the request is for cluster %q, this is %s", *id, mine)
	}
	return nil
}

// findVoter finds a member by its broker and etcd's id, which stands for the
// id of its folder.
func findVoter(all []metastore.Member, broker int32, dir [16]byte) (metastore.Member, bool) {
	i := slices.IndexFunc(all, func(m metastore.Member) bool { return int32(m.Broker) == broker && memberUUID(m.ID) == dir })
	if i < 0 {
		return metastore.Member{}, false
	}
	return all[i], true
}
