package api

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/telemetry"
)

// PushTelemetry, version 0, flexible (KIP-714).
func (a *API) pushTelemetry(c *call) {
	req := c.req.Body.(*kmsg.PushTelemetryRequest)
	resp := response[*kmsg.PushTelemetryResponse](c)
	a.refreshSubscriptions()
	err := a.telemetry.Push(c.ctx, req.ClientInstanceID, telemetryClient(c), connectionOf(c), telemetry.Push{
		SubscriptionID: req.SubscriptionID, Terminating: req.Terminating, Codec: req.CompressionType,
		Metrics: req.Metrics, MaxBytes: a.deps.Config().TelemetryMaxBytes,
	})
	if errors.Is(err, kerr.InvalidRecord) {
		a.failed("metrics that a client pushed cannot be read", "client", c.req.ClientID, "error", err)
	}
	resp.ErrorCode = codeOf(err)
	c.send(resp)
}
