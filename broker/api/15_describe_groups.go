package api

import "github.com/twmb/franz-go/pkg/kmsg"

// DescribeGroups, versions 0–6.
//
//	1  throttle time
//	3  authorized operations (KIP-430)
//	4  group instance id (KIP-345)
//	5  flexible
//	6  an unknown group is GROUP_ID_NOT_FOUND, with a message (KIP-1043)
func (a *API) describeGroups(c *call) {
	req := c.req.Body.(*kmsg.DescribeGroupsRequest)
	resp := a.deps.Groups.DescribeGroups(req)
	for i := range resp.Groups {
		g := &resp.Groups[i]
		g.AuthorizedOperations = operations32(req.IncludeAuthorizedOperations && g.ErrorCode == 0, groupOperations)
	}
	c.send(resp)
}
