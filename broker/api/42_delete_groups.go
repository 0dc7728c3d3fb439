package api

import "github.com/twmb/franz-go/pkg/kmsg"

// DeleteGroups, versions 0–2.
//
//	1  throttle time
//	2  flexible
func (a *API) deleteGroups(c *call) {
	c.send(a.deps.Groups.DeleteGroups(c.req.Body.(*kmsg.DeleteGroupsRequest)))
}
