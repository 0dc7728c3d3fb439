package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// IncrementalAlterConfigs, versions 0–1: sets, deletes, appends to and
// subtracts from single configs (KIP-339).
//
//	1  flexible
func (a *API) incrementalAlterConfigs(c *call) {
	req := c.req.Body.(*kmsg.IncrementalAlterConfigsRequest)
	resp := response[*kmsg.IncrementalAlterConfigsResponse](c)
	ctx, cancel := c.deadline(30_000)
	defer cancel()
	count := map[configResource]int{}
	for i := range req.Resources {
		count[configResource{req.Resources[i].ResourceType, req.Resources[i].ResourceName}]++
	}
	for i := range req.Resources {
		r := &req.Resources[i]
		edit := configEdit{resource: configResource{r.ResourceType, r.ResourceName}, validateOnly: req.ValidateOnly}
		for _, cfg := range r.Configs {
			edit.changes = append(edit.changes, configChange{cfg.Name, cfg.Op, cfg.Value})
		}
		err := a.alter(ctx, edit, count[edit.resource] > 1)
		out := kmsg.NewIncrementalAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = r.ResourceType, r.ResourceName
		out.ErrorCode, out.ErrorMessage = codeOf(err), messageOf(err)
		resp.Resources = append(resp.Resources, out)
	}
	c.send(resp)
}
