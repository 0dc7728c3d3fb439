package broker

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// other is a listener that stands for another broker, and counts connections.
type other struct {
	net.Listener
	taken chan net.Conn
}

func newOther(t *testing.T) *other {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &other{ln, make(chan net.Conn, 1000)}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			o.taken <- c
		}
	}()
	return o
}

func (o *other) broker(id record.BrokerID, epoch int64) metastore.Broker {
	addr := o.Addr().(*net.TCPAddr)
	return metastore.Broker{ID: id, Host: addr.IP.String(), Port: int32(addr.Port), Epoch: epoch}
}

func imageOf(controller record.BrokerID, all ...metastore.Broker) *metastore.Image {
	img := &metastore.Image{Controller: controller, Brokers: map[record.BrokerID]metastore.Broker{}}
	for _, b := range all {
		img.Brokers[b.ID] = b
	}
	return img
}

type revoked struct {
	id    record.BrokerID
	epoch int64
}

func TestNeighbours(t *testing.T) {
	gone := make(chan revoked, 100)
	n := newNeighbours(1, func(_ context.Context, id record.BrokerID, epoch int64) error {
		gone <- revoked{id, epoch}
		return nil
	}, slog.New(slog.DiscardHandler))
	defer n.close()
	self, two, three := newOther(t), newOther(t), newOther(t)
	within := func(c chan net.Conn) net.Conn {
		t.Helper()
		select {
		case conn := <-c:
			return conn
		case <-time.After(30 * time.Second):
			t.Fatal("it is not watched")
			return nil
		}
	}
	// Not the controller: only that is watched.
	n.apply(imageOf(2, self.broker(1, 5), two.broker(2, 6), three.broker(3, 7)))
	first := within(two.taken)
	if len(self.taken)+len(three.taken) > 0 {
		t.Error("others are watched, too")
	}
	// A connection that breaks means nothing while somebody listens there.
	first.Close()
	second := within(two.taken)
	// The controller watches all, and not one that leaves.
	leaving := two.broker(2, 6)
	leaving.Leaving = true
	n.apply(imageOf(1, self.broker(1, 5), leaving, three.broker(3, 7)))
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("one that leaves is watched")
	}
	conn := within(three.taken)
	if len(gone) > 0 {
		t.Errorf("taken back: %v", <-gone)
	}
	three.Close()
	conn.Close()
	select {
	case r := <-gone:
		if r != (revoked{3, 7}) {
			t.Errorf("taken back: %v", r)
		}
	case <-time.After(30 * time.Second):
		t.Error("nobody noticed")
	}
}

// A broker that takes connections and ends them, as one does that has too many,
// is not asked as fast as it goes.
func TestNeighbourThatHangsUp(t *testing.T) {
	n := newNeighbours(1, func(context.Context, record.BrokerID, int64) error { return nil }, slog.New(slog.DiscardHandler))
	defer n.close()
	two := newOther(t)
	var taken atomic.Int64
	go func() {
		for c := range two.taken {
			taken.Add(1)
			c.Close()
		}
	}()
	n.apply(imageOf(1, two.broker(2, 6)))
	time.Sleep(2 * neighbourAgain)
	if most := int64(4); taken.Load() == 0 || taken.Load() > most {
		t.Errorf("%d connections, want 1 to %d", taken.Load(), most)
	}
}
