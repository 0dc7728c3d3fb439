package api

import "github.com/twmb/franz-go/pkg/kmsg"

// Heartbeat, versions 0–4.
//
//	1  throttle time
//	3  group instance id (KIP-345)
//	4  flexible
func (a *API) heartbeat(c *call) {
	c.send(a.deps.Groups.Heartbeat(c.req.Body.(*kmsg.HeartbeatRequest)))
}
