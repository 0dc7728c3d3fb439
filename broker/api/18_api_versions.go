package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
)

// ApiVersions, versions 0–4.
//
//	1  throttle time
//	3  flexible, but never the reply's header; client software (KIP-511)
//	4  features may have the minimum 0 (KIP-1022)
//
// The features are those of UpdateFeatures. Versions above are answered by
// wire, which notes the client software too.
func (a *API) apiVersions(c *call) {
	req := c.req.Body.(*kmsg.ApiVersionsRequest)
	resp := response[*kmsg.ApiVersionsResponse](c)
	if req.Version >= 3 && (!wire.ValidSoftwareName(req.ClientSoftwareName) || !wire.ValidSoftwareName(req.ClientSoftwareVersion)) {
		resp.ErrorCode = kerr.InvalidRequest.Code
		c.send(resp)
		return
	}
	for _, v := range wire.Supported() {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = v.Key, v.Min, v.Max
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	a.listFeatures(resp)
	c.send(resp)
}

// listFeatures adds what versions 3 and up have. The epoch grows with every
// change of the metadata, as Kafka's does.
func (a *API) listFeatures(resp *kmsg.ApiVersionsResponse) {
	resp.FinalizedFeaturesEpoch = a.deps.Meta.Image().Revision
	for _, f := range features {
		s := kmsg.NewApiVersionsResponseSupportedFeature()
		s.Name, s.MinVersion, s.MaxVersion = f.name, f.min, f.max
		resp.SupportedFeatures = append(resp.SupportedFeatures, s)
		l := kmsg.NewApiVersionsResponseFinalizedFeature()
		l.Name, l.MinVersionLevel, l.MaxVersionLevel = f.name, f.level, f.level
		resp.FinalizedFeatures = append(resp.FinalizedFeatures, l)
	}
}
