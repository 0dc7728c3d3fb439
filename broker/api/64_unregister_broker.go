package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// UnregisterBroker, version 0, flexible (KIP-631). A broker's registration is
// a lease that ends when the broker does, so that there is none of a broker
// that is gone. One that runs is not thrown out: Kafka does that, after which
// it can lead nothing until it is started again.
func (a *API) unregisterBroker(c *call) {
	req := c.req.Body.(*kmsg.UnregisterBrokerRequest)
	resp := response[*kmsg.UnregisterBrokerResponse](c)
	err := fail(kerr.InvalidRequest, "broker %d is running: stop it, and its registration ends by itself", req.BrokerID)
	if _, ok := a.deps.Meta.Image().Brokers[record.BrokerID(req.BrokerID)]; !ok {
		err = fail(kerr.BrokerIDNotRegistered, "no broker %d is registered", req.BrokerID)
	}
	resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
	c.send(resp)
}
