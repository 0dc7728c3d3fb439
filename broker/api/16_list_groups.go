package api

import "github.com/twmb/franz-go/pkg/kmsg"

// ListGroups, versions 0–5.
//
//	1  throttle time
//	3  flexible
//	4  states, asked and answered (KIP-518)
//	5  types, asked and answered (KIP-848)
func (a *API) listGroups(c *call) {
	c.send(a.deps.Groups.ListGroups(c.req.Body.(*kmsg.ListGroupsRequest)))
}
