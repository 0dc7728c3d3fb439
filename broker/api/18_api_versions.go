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
// The features are those of UpdateFeatures. A version above is answered in the form of version 0 with
// UNSUPPORTED_VERSION and the list, from which the client takes a lower one.
func (a *API) apiVersions(c *call) {
	req := c.req.Body.(*kmsg.ApiVersionsRequest)
	resp := response[*kmsg.ApiVersionsResponse](c)
	for _, v := range wire.Supported() {
		if v.Key == req.Key() && (req.Version < v.Min || req.Version > v.Max) {
			resp.Version = 0
			resp.ErrorCode = kerr.UnsupportedVersion.Code
		}
	}
	if resp.ErrorCode == 0 && req.Version >= 3 {
		if !softwareName(req.ClientSoftwareName) || !softwareName(req.ClientSoftwareVersion) {
			resp.ErrorCode = kerr.InvalidRequest.Code
			c.send(resp)
			return
		}
		if cl := c.req.Client; cl != nil {
			cl.SoftwareName, cl.SoftwareVersion = req.ClientSoftwareName, req.ClientSoftwareVersion
		}
	}
	for _, v := range wire.Supported() {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = v.Key, v.Min, v.Max
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	if resp.ErrorCode == 0 {
		a.listFeatures(resp)
	}
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

// softwareName says whether s is letters, digits, '-' and '.', beginning and
// ending with a letter or digit (KIP-511).
func softwareName(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		b := s[i]
		switch {
		case b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9':
		case (b == '-' || b == '.') && i > 0 && i < len(s)-1:
		default:
			return false
		}
	}
	return true
}
