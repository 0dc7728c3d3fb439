package api

import "github.com/twmb/franz-go/pkg/kmsg"

// SyncGroup, versions 0–5.
//
//	1  throttle time
//	3  group instance id (KIP-345)
//	4  flexible
//	5  protocol type and name (KIP-559)
func (a *API) syncGroup(c *call) {
	a.deps.Groups.SyncGroup(c.client(), c.req.Body.(*kmsg.SyncGroupRequest), func(r *kmsg.SyncGroupResponse) { c.send(r) })
}
