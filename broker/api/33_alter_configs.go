package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterConfigs, versions 0–2: the configs that are named are all that the
// resource has from then on. IncrementalAlterConfigs has taken its place
// (KIP-339), and the levels of loggers cannot be set with it.
//
//	2  flexible
func (a *API) alterConfigs(c *call) {
	req := c.req.Body.(*kmsg.AlterConfigsRequest)
	resp := response[*kmsg.AlterConfigsResponse](c)
	var edits []configEdit
	for i := range req.Resources {
		r := &req.Resources[i]
		edit := configEdit{resource: configResource{r.ResourceType, r.ResourceName}, replace: true, validateOnly: req.ValidateOnly}
		for _, cfg := range r.Configs {
			edit.changes = append(edit.changes, configChange{cfg.Name, kmsg.IncrementalAlterConfigOpSet, cfg.Value})
		}
		edits = append(edits, edit)
	}
	for i, err := range a.alterAll(c, edits) {
		out := kmsg.NewAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = edits[i].resource.kind, edits[i].resource.name
		out.ErrorCode, out.ErrorMessage = codeOf(err), messageOf(err)
		resp.Resources = append(resp.Resources, out)
	}
	c.send(resp)
}
