package api

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeCluster, versions 0–2.
//
//	1  endpoint type: 1 brokers, 2 controllers (KIP-919)
//	2  fenced brokers, when asked for (KIP-1073): registered, but not taken in yet
func (a *API) describeCluster(c *call) {
	req := c.req.Body.(*kmsg.DescribeClusterRequest)
	resp := response[*kmsg.DescribeClusterResponse](c)
	resp.ControllerID = -1
	resp.ClusterAuthorizedOperations = unset
	resp.EndpointType = 1
	var err error
	if req.Version >= 1 && req.EndpointType != 1 {
		err = fail(kerr.UnsupportedEndpointType, "endpoint type %d is unknown", req.EndpointType)
		if req.EndpointType == 2 {
			err = fail(kerr.MismatchedEndpointType, "this is a broker's endpoint; controllers have none of their own")
		}
	}
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
		c.send(resp)
		return
	}
	img := a.deps.Meta.Image()
	resp.ClusterID = img.ClusterID
	resp.ControllerID = int32(img.Controller)
	resp.ClusterAuthorizedOperations = operations32(req.IncludeClusterAuthorizedOperations, clusterOperations)
	for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
		b := img.Brokers[id]
		nb := kmsg.NewDescribeClusterResponseBroker()
		nb.NodeID, nb.Host, nb.Port, nb.Rack, nb.IsFenced = int32(id), b.Host, b.Port, rack(b), !img.Eligible(id)
		if nb.IsFenced && !req.IncludeFencedBrokers {
			continue
		}
		resp.Brokers = append(resp.Brokers, nb)
	}
	c.send(resp)
}
