package broker

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/balance"
	"github.com/firnlog/firn/broker/partition"
)

const (
	// Rates are looked at so often, and each look counts for a tenth: they are
	// those of the last two minutes, about.
	trafficEvery  = 10 * time.Second
	trafficWeight = 0.1
)

// traffic keeps what goes through each open partition, in bytes per second. of
// may be called from any goroutine.
type traffic struct {
	mu    sync.Mutex
	rates map[*partition.Partition]*rates // of those that are open
}

type rates struct {
	in, out     float64 // bytes per second
	inAt, outAt int64   // counters at the last look
	seen        bool    // at the present look
}

func newTraffic() *traffic { return &traffic{rates: map[*partition.Partition]*rates{}} }

// run looks at all partitions until ctx ends.
func (t *traffic) run(ctx context.Context, all func(func(*partition.Partition))) {
	every := time.NewTicker(trafficEvery)
	defer every.Stop()
	last := time.Now()
	for {
		select {
		case <-every.C:
			now := time.Now()
			t.look(now.Sub(last), all)
			last = now
		case <-ctx.Done():
			return
		}
	}
}

// look takes in what has gone through since the last look.
func (t *traffic) look(since time.Duration, all func(func(*partition.Partition))) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all(func(p *partition.Partition) {
		in, out := p.Traffic()
		r := t.rates[p]
		if r == nil {
			r = &rates{}
			t.rates[p] = r
		}
		r.in += trafficWeight * (float64(in-r.inAt)/since.Seconds() - r.in)
		r.out += trafficWeight * (float64(out-r.outAt)/since.Seconds() - r.out)
		r.inAt, r.outAt, r.seen = in, out, true
	})
	maps.DeleteFunc(t.rates, func(_ *partition.Partition, r *rates) bool {
		gone := !r.seen
		r.seen = false
		return gone
	})
}

// of gives what goes through a partition, in bytes per second.
func (t *traffic) of(p *partition.Partition) (in, out int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.rates[p]; r != nil {
		return int64(r.in), int64(r.out)
	}
	return 0, 0
}

const (
	loadsTimeout = 10 * time.Second // for one broker
	maxLoads     = 64 << 20         // bytes of its answer: of a million partitions and more
)

// loads asks all brokers, one after the other, what their partitions carry. Who
// does not answer is left out: of what it has, others have replicas.
func (b *Broker) loads(ctx context.Context) balance.Loads {
	out := balance.Loads{}
	for _, id := range slices.Sorted(maps.Keys(b.meta.Image().Brokers)) {
		resp, err := describeLogDirs(ctx, b.address(id))
		if err != nil {
			if ctx.Err() == nil {
				b.log.Warn("a broker does not say what its partitions carry; moves are planned without that", "broker", int32(id), "error", err)
			}
			continue
		}
		out.Add(resp)
	}
	return out
}

// describeLogDirs asks the broker at an address for all of its partitions.
func describeLogDirs(ctx context.Context, addr string) (*kmsg.DescribeLogDirsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, loadsTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	req := kmsg.NewPtrDescribeLogDirsRequest()
	req.Version = 4
	if _, err := c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("firn-balance")).AppendRequest(nil, req, 0)); err != nil {
		return nil, fmt.Errorf("asking %s: %w", addr, err)
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, fmt.Errorf("waiting for an answer of %s: %w", addr, err)
	}
	n := int64(binary.BigEndian.Uint32(size[:]))
	if n > maxLoads {
		return nil, fmt.Errorf("an answer of %d bytes from %s", n, addr)
	}
	body, err := io.ReadAll(io.LimitReader(c, n))
	if err != nil || int64(len(body)) < n || n < 5 { // correlation id and the header's tags, of which there are none
		return nil, fmt.Errorf("%d of %d bytes of an answer of %s: %w", len(body), n, addr, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	resp := kmsg.NewPtrDescribeLogDirsResponse()
	resp.Version = req.Version
	if err := resp.ReadFrom(body[5:]); err != nil {
		return nil, fmt.Errorf("decoding an answer of %s: %w", addr, err)
	}
	return resp, nil
}
