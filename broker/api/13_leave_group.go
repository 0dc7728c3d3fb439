package api

import "github.com/twmb/franz-go/pkg/kmsg"

// LeaveGroup, versions 0–5.
//
//	1  throttle time
//	3  several members, by member or instance id (KIP-345)
//	4  flexible
//	5  reason (KIP-800)
func (a *API) leaveGroup(c *call) {
	c.send(a.deps.Groups.LeaveGroup(c.req.Body.(*kmsg.LeaveGroupRequest)))
}
