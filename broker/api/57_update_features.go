package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// feature is a versioned promise of the whole cluster (KIP-584).
type feature struct {
	name     string
	min, max int16 // levels that this broker can be switched to
	level    int16 // that it is at
}

// features are what this broker promises. metadata.version is not about
// Firn's metadata, which is in etcd: tools read off it which Kafka the cluster
// answers like. 30 is 4.3-IV0, and it can be switched to no other. What the
// levels of group.version, transaction.version and the like stand for is not
// built, so they are not here.
var features = []feature{{name: "metadata.version", min: 30, max: 30, level: 30}}

// How a level may be changed: UpgradeType (KIP-778).
const (
	upgradeOnly     = 1
	unsafeDowngrade = 3
)

// UpdateFeatures, versions 0–2.
//
//	0  flexible; a downgrade is allowed or not
//	1  safe and unsafe downgrades, validation only (KIP-778)
//	2  no results by feature any more
//
// A feature is at its only level, so that nothing ever changes: an update is
// either to that level or refused, and one that is refused refuses all.
func (a *API) updateFeatures(c *call) {
	req := c.req.Body.(*kmsg.UpdateFeaturesRequest)
	resp := response[*kmsg.UpdateFeaturesResponse](c)
	for _, u := range req.FeatureUpdates {
		if err := checkFeature(req.Version, u); err != nil {
			resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
			resp.Results = nil
			break
		}
		if req.Version <= 1 {
			out := kmsg.NewUpdateFeaturesResponseResult()
			out.Feature, out.ErrorMessage = u.Feature, kmsg.StringPtr("NONE") // as Kafka
			resp.Results = append(resp.Results, out)
		}
	}
	c.send(resp)
}

func checkFeature(version int16, u kmsg.UpdateFeaturesRequestFeatureUpdate) error {
	if version >= 1 && (u.UpgradeType < upgradeOnly || u.UpgradeType > unsafeDowngrade) {
		return fail(kerr.InvalidUpdateVersion, "feature %s: upgrade type %d is unknown: 1 upgrade, 2 safe downgrade, 3 unsafe downgrade", u.Feature, u.UpgradeType)
	}
	for _, f := range features {
		if f.name != u.Feature {
			continue
		}
		if u.MaxVersionLevel < f.min || u.MaxVersionLevel > f.max {
			return fail(kerr.InvalidUpdateVersion, "feature %s cannot be set to level %d: this broker has levels %d to %d", f.name, u.MaxVersionLevel, f.min, f.max)
		}
		return nil
	}
	return fail(kerr.InvalidUpdateVersion, "feature %s is unknown to this broker", u.Feature)
}
