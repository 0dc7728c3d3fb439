package api

import (
	"net"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/telemetry"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// acceptedCodecs are those that pushed metrics may be compressed with, the
// preferred first.
var acceptedCodecs = []int8{int8(record.Zstd), int8(record.LZ4), int8(record.Gzip), int8(record.Snappy)}

// GetTelemetrySubscriptions, version 0, flexible (KIP-714): which metrics a
// client is to push and how often. Kafka lists it in ApiVersions only with a
// plugin that takes metrics; here they come out on /metrics.
func (a *API) getTelemetrySubscriptions(c *call) {
	req := c.req.Body.(*kmsg.GetTelemetrySubscriptionsRequest)
	resp := response[*kmsg.GetTelemetrySubscriptionsResponse](c)
	a.refreshSubscriptions()
	got, err := a.telemetry.Get(c.ctx, req.ClientInstanceID, telemetryClient(c), connectionOf(c))
	if err != nil {
		resp.ErrorCode = codeOf(err)
		c.send(resp)
		return
	}
	resp.ClientInstanceID, resp.SubscriptionID = got.Instance, got.SubscriptionID
	resp.AcceptedCompressionTypes, resp.DeltaTemporality = acceptedCodecs, true
	resp.PushIntervalMillis = int32(got.Interval.Milliseconds())
	resp.TelemetryMaxBytes = int32(a.deps.Config().TelemetryMaxBytes)
	resp.RequestedMetrics = got.Metrics
	c.send(resp)
}

// refreshSubscriptions hands the client metrics configs on when the metadata
// has changed.
func (a *API) refreshSubscriptions() {
	if a.subscribed.Load() == a.deps.Meta.Image() {
		return
	}
	a.subscribing.Lock()
	defer a.subscribing.Unlock()
	img := a.deps.Meta.Image() // under the lock, so that an older one never follows a newer
	defer a.subscribed.Store(img)
	configs := map[string]map[string]string{}
	for r, c := range img.Configs {
		if r.Type == metastore.ClientMetrics {
			configs[r.Name] = c
		}
	}
	a.telemetry.SetSubscriptions(configs)
}

func telemetryClient(c *call) telemetry.Client {
	out := telemetry.Client{ID: c.req.ClientID}
	if cl := c.req.Client; cl != nil {
		out.SoftwareName, out.SoftwareVersion = cl.SoftwareName, cl.SoftwareVersion
		if cl.Remote != nil {
			out.Host, out.Port, _ = net.SplitHostPort(cl.Remote.String())
		}
	}
	return out
}

func connectionOf(c *call) uint64 {
	if c.req.Client == nil {
		return 0
	}
	return c.req.Client.ID
}
