package api

import (
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
)

// ListConfigResources, versions 0–1.
//
//	0  client-metrics subscriptions (KIP-1000, as ListClientMetricsResources)
//	1  resources of the types that are asked for, none for all (KIP-1142)
func (a *API) listConfigResources(c *call) {
	req := c.req.Body.(*kmsg.ListConfigResourcesRequest)
	resp := response[*kmsg.ListConfigResourcesResponse](c)
	types := listedTypes
	if req.Version == 0 {
		types = []kmsg.ConfigResourceType{kmsg.ConfigResourceTypeClientMetrics}
	} else if len(req.ResourceTypes) > 0 {
		types = nil
		for _, t := range req.ResourceTypes {
			kind := kmsg.ConfigResourceType(t)
			if !slices.Contains(listedTypes, kind) {
				resp.ErrorCode = kerr.UnsupportedVersion.Code
				c.send(resp)
				return
			}
			if !slices.Contains(types, kind) {
				types = append(types, kind)
			}
		}
	}
	img := a.deps.Meta.Image()
	for _, t := range listedTypes {
		if !slices.Contains(types, t) {
			continue
		}
		for _, name := range resourceNames(img, t) {
			out := kmsg.NewListConfigResourcesResponseConfigResource()
			out.Type, out.Name = int8(t), name
			resp.ConfigResources = append(resp.ConfigResources, out)
		}
	}
	c.send(resp)
}

// listedTypes are the types of resources that can be listed, in the order of
// the reply.
var listedTypes = []kmsg.ConfigResourceType{
	kmsg.ConfigResourceTypeGroupConfig,
	kmsg.ConfigResourceTypeClientMetrics,
	kmsg.ConfigResourceTypeBrokerLogger,
	kmsg.ConfigResourceTypeBroker,
	kmsg.ConfigResourceTypeTopic,
}

// resourceNames lists what there is of a type, sorted. Groups are those that
// have configs.
func resourceNames(img *metastore.Image, t kmsg.ConfigResourceType) []string {
	var out []string
	switch t {
	case kmsg.ConfigResourceTypeTopic:
		return slices.Sorted(maps.Keys(img.Topics))
	case kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger:
		for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
			out = append(out, strconv.Itoa(int(id)))
		}
	default:
		for r := range img.Configs {
			if r.Type == metastore.ConfigType(t) {
				out = append(out, r.Name)
			}
		}
		slices.Sort(out)
	}
	return out
}
