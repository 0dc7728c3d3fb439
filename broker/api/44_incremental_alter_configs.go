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
	var edits []configEdit
	for i := range req.Resources {
		r := &req.Resources[i]
		edit := configEdit{resource: configResource{r.ResourceType, r.ResourceName}, validateOnly: req.ValidateOnly}
		for _, cfg := range r.Configs {
			edit.changes = append(edit.changes, configChange{cfg.Name, cfg.Op, cfg.Value})
		}
		edits = append(edits, edit)
	}
	for i, err := range a.alterAll(c, edits) {
		out := kmsg.NewIncrementalAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = edits[i].resource.kind, edits[i].resource.name
		out.ErrorCode, out.ErrorMessage = codeOf(err), messageOf(err)
		resp.Resources = append(resp.Resources, out)
	}
	c.send(resp)
}
