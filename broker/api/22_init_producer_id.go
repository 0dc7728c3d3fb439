package api

import (
	"context"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// InitProducerId, versions 0–5, without a transactional id.
//
//	1  throttling as KIP-219 says
//	2  flexible
//	3  producer id and epoch of before (KIP-360)
//	4  PRODUCER_FENCED (KIP-588)
//	5  TRANSACTION_ABORTABLE (KIP-890)
//
// A transactional id is refused with UNSUPPORTED_VERSION: clients do not try
// that again, and do not take it for a lack of rights.
func (a *API) initProducerID(c *call) {
	req := c.req.Body.(*kmsg.InitProducerIDRequest)
	resp := response[*kmsg.InitProducerIDResponse](c)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	switch {
	case req.TransactionalID != nil && *req.TransactionalID == "",
		req.Version >= 3 && (req.ProducerID == -1) != (req.ProducerEpoch == -1):
		resp.ErrorCode = kerr.InvalidRequest.Code
	case req.TransactionalID != nil:
		resp.ErrorCode = kerr.UnsupportedVersion.Code
	default:
		ctx, cancel := c.deadline(10_000)
		defer cancel()
		id, err := a.producers.next(ctx)
		if err != nil {
			a.failed("no producer id can be had", "error", err)
			resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code // retried, as Kafka answers while it waits for a block
			break
		}
		resp.ProducerID, resp.ProducerEpoch = id, 0
	}
	c.send(resp)
}

// producerIDs hands out ids of blocks taken from the metastore. Ids left over
// at the end of the process are lost, never given again.
type producerIDs struct {
	block int64
	take  func(ctx context.Context, n int64) (int64, error)

	mu        sync.Mutex // guards what follows
	from, end int64
	refill    chan struct{} // closed when the block under way has come; nil: none
}

func (p *producerIDs) next(ctx context.Context) (int64, error) {
	for {
		p.mu.Lock()
		if p.from < p.end {
			id := p.from
			p.from++
			p.mu.Unlock()
			return id, nil
		}
		if wait := p.refill; wait != nil {
			p.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return -1, ctx.Err()
			}
		}
		done := make(chan struct{})
		p.refill = done
		p.mu.Unlock()

		first, err := p.take(ctx, p.block)

		p.mu.Lock()
		if err == nil {
			p.from, p.end = first, first+p.block
		}
		p.refill = nil
		p.mu.Unlock()
		close(done)
		if err != nil {
			return -1, err
		}
	}
}
