package api

import (
	"context"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
)

// TestPlacesOfAnswers: answers that may be large or grow with what there is
// wait for a place, until their connection ends.
func TestPlacesOfAnswers(t *testing.T) {
	a := New(Config{BrokerID: testBroker, SizedAnswers: 1, LargeAnswers: 1}, shared.deps)
	a.sized <- struct{}{}
	a.large <- struct{}{}
	reqs := map[int16]kmsg.Request{3: kmsg.NewPtrMetadataRequest()}
	for key, op := range operations {
		if op.sized || op.large {
			reqs[key] = kmsg.RequestForKey(key)
		}
	}
	if len(reqs) < 9 {
		t.Errorf("only %d keys", len(reqs))
	}
	for key, req := range reqs {
		ctx, end := context.WithCancel(t.Context())
		replies := make(chan wire.Reply, 1)
		go a.Serve(ctx, &wire.Request{Body: req}, func(r wire.Reply) { replies <- r })
		end()
		if r := <-replies; !r.Close {
			t.Errorf("key %d is answered without a place", key)
		}
	}
	<-a.sized
	if ask := askOf[*kmsg.ListGroupsResponse](t, a, kmsg.NewPtrListGroupsRequest()); ask.ErrorCode != 0 {
		t.Errorf("with a place: code %d", ask.ErrorCode)
	}
}
