package group

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeGroups answers versions 0–6. A group that is not there is Dead, and
// from version 6 an error (KIP-1043). Authorised operations are left to the
// caller. Once the answer has maxAnswer bytes, further groups are refused.
func (c *Coordinator) DescribeGroups(req *kmsg.DescribeGroupsRequest) *kmsg.DescribeGroupsResponse {
	resp := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
	size := 0
	for _, id := range req.Groups {
		resp.Groups = append(resp.Groups, c.describe(req.Version, id, &size))
	}
	return resp
}

// maxAnswer is how large, in bytes and about, an answer may grow before what
// else was asked for is refused with INVALID_REQUEST. A request may name the
// same group thousands of times.
const maxAnswer = 64 << 20

// describe answers for one group, and adds to the size of the answer.
func (c *Coordinator) describe(version int16, id string, size *int) kmsg.DescribeGroupsResponseGroup {
	rg := kmsg.NewDescribeGroupsResponseGroup()
	rg.Group = id
	if *size >= maxAnswer {
		rg.ErrorCode = kerr.InvalidRequest.Code
		rg.ErrorMessage = kmsg.StringPtr("the answer would be too large; ask for fewer groups at a time")
		return rg
	}
	s, err := c.acquire(id)
	if err != nil {
		rg.ErrorCode = err.Code
		return rg
	}
	defer s.mu.Unlock()
	if gs := s.groups[id]; gs != nil {
		gs.core.describe(&rg)
		*size += gs.core.bytes
		return rg
	}
	rg.State = dead.String()
	if version >= 6 {
		rg.ErrorCode = kerr.GroupIDNotFound.Code
		rg.ErrorMessage = kmsg.StringPtr("Group " + id + " not found.")
	}
	return rg
}

// describe shows the group. Protocol and subscriptions are only shown while
// it is stable.
func (g *classic) describe(rg *kmsg.DescribeGroupsResponseGroup) {
	rg.State, rg.ProtocolType = g.state.String(), g.protocolType
	if g.state == stable {
		rg.Protocol = g.protocol
	}
	for _, m := range g.members {
		rm := kmsg.NewDescribeGroupsResponseGroupMember()
		rm.MemberID, rm.InstanceID, rm.ClientID, rm.ClientHost = m.id, m.instance, m.clientID, m.host
		rm.MemberAssignment = m.assignment
		if g.state == stable {
			rm.ProtocolMetadata = m.metadata(g.protocol)
		}
		rg.Members = append(rg.Members, rm)
	}
}

// groupType is how KIP-848 names groups of this protocol.
const groupType = "classic"

// ListGroups answers versions 0–5: the groups of all loaded partitions, by
// name. Filters ignore case, and blanks around a state; from version 4 by state, from 5 by type.
func (c *Coordinator) ListGroups(req *kmsg.ListGroupsRequest) *kmsg.ListGroupsResponse {
	resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
	if len(req.TypesFilter) > 0 && !slices.ContainsFunc(req.TypesFilter, func(f string) bool { return strings.EqualFold(f, groupType) }) {
		return resp
	}
	for _, s := range c.all() {
		s.mu.Lock()
		if err := s.available(); err == kerr.CoordinatorLoadInProgress {
			s.mu.Unlock()
			resp.ErrorCode, resp.Groups = err.Code, nil
			return resp
		}
		for id, gs := range s.groups {
			if len(req.StatesFilter) > 0 && !contains(req.StatesFilter, gs.core.state.String()) {
				continue
			}
			lg := kmsg.NewListGroupsResponseGroup()
			lg.Group, lg.ProtocolType, lg.GroupState, lg.GroupType = id, gs.core.protocolType, gs.core.state.String(), groupType
			resp.Groups = append(resp.Groups, lg)
		}
		s.mu.Unlock()
	}
	slices.SortFunc(resp.Groups, func(a, b kmsg.ListGroupsResponseGroup) int { return strings.Compare(a.Group, b.Group) })
	return resp
}

func contains(filter []string, v string) bool {
	return slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(strings.TrimSpace(f), v) })
}
