package api

import "github.com/twmb/franz-go/pkg/kmsg"

// JoinGroup, versions 0–9.
//
//	1  rebalance timeout
//	2  throttle time
//	4  MEMBER_ID_REQUIRED (KIP-394)
//	5  group instance id (KIP-345)
//	6  flexible
//	7  protocol type in the reply (KIP-559)
//	8  reason (KIP-800)
//	9  the leader may be told to skip the assignment (KIP-814)
func (a *API) joinGroup(c *call) {
	a.deps.Groups.JoinGroup(c.client(), c.req.Body.(*kmsg.JoinGroupRequest), func(r *kmsg.JoinGroupResponse) { c.send(r) })
}
