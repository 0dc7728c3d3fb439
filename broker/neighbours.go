package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

const (
	neighbourDial  = 2 * time.Second        // for a connection to another broker
	neighbourAgain = 250 * time.Millisecond // between tries, while neither it nor its lease says that it is gone
)

var (
	neighboursLost    = metrics.NewCounter("firn_broker_neighbour_connections_lost_total")
	neighboursRevoked = metrics.NewCounter("firn_broker_neighbours_revoked_total") // whose process was found to be gone
)

// neighbours holds a connection to other brokers, on which nothing is said. It
// ends when their process does, long before their lease would: when a new one
// is then refused, nobody listens there any more, and the registration is
// taken back. The controller watches all, all watch the controller. To be wrong
// costs a broker a new registration.
type neighbours struct {
	node   record.BrokerID
	log    *slog.Logger
	revoke func(ctx context.Context, id record.BrokerID, epoch int64) error

	ctx  context.Context
	end  context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	watched map[record.BrokerID]neighbour
}

// neighbour is one that is watched.
type neighbour struct {
	epoch int64
	addr  string
	end   context.CancelFunc
}

// newNeighbours watches nobody yet. revoke takes a registration back, if it still
// is the one of that epoch.
func newNeighbours(node record.BrokerID, revoke func(ctx context.Context, id record.BrokerID, epoch int64) error, log *slog.Logger) *neighbours {
	n := &neighbours{node: node, log: log, revoke: revoke, watched: map[record.BrokerID]neighbour{}}
	n.ctx, n.end = context.WithCancel(context.Background())
	return n
}

// apply watches those whom the image says to watch.
func (n *neighbours) apply(img *metastore.Image) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		return
	}
	for id, w := range n.watched {
		if b, ok := img.Brokers[id]; !ok || b.Epoch != w.epoch || !n.mine(img, id) {
			w.end()
			delete(n.watched, id)
		}
	}
	for id, b := range img.Brokers {
		if _, ok := n.watched[id]; ok || !n.mine(img, id) {
			continue
		}
		w := neighbour{epoch: b.Epoch, addr: b.Addr()}
		ctx, cancel := context.WithCancel(n.ctx)
		w.end = cancel
		n.watched[id] = w
		n.done.Go(func() { n.watch(ctx, id, w) })
	}
}

// mine says whether this broker watches that one. One that leaves says so
// itself.
func (n *neighbours) mine(img *metastore.Image, id record.BrokerID) bool {
	return id != n.node && !img.Brokers[id].Leaving && (img.Controller == n.node || img.Controller == id)
}

// watch holds a connection to w until ctx ends.
func (n *neighbours) watch(ctx context.Context, id record.BrokerID, w neighbour) {
	for ctx.Err() == nil {
		d := net.Dialer{Timeout: neighbourDial}
		c, err := d.DialContext(ctx, "tcp", w.addr)
		switch {
		case err == nil:
			began := time.Now()
			n.hold(ctx, c)
			if ctx.Err() == nil {
				neighboursLost.Inc()
			}
			if time.Since(began) > neighbourAgain { // else it has too many, perhaps
				continue
			}
		case errors.Is(err, syscall.ECONNREFUSED):
			neighboursRevoked.Inc()
			n.log.Warn("nothing listens where a broker did: its registration is taken back", "broker", int32(id), "address", w.addr)
			revoke, cancel := context.WithTimeout(ctx, neighbourDial)
			err := n.revoke(revoke, id, w.epoch)
			cancel()
			if err != nil && ctx.Err() == nil {
				n.log.Warn("a registration could not be taken back; its lease will run out", "broker", int32(id), "error", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(neighbourAgain):
		}
	}
}

// hold returns when the connection ends, or ctx does.
func (n *neighbours) hold(ctx context.Context, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var b [1]byte
	_, _ = c.Read(b[:]) // a broker says nothing unasked
}

func (n *neighbours) close() {
	n.mu.Lock()
	n.end()
	n.mu.Unlock()
	n.done.Wait()
}
