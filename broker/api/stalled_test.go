package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// serveSockets serves the shared API on loopback and gives the address.
func serveSockets(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := wire.NewServer(wire.Config{}, wire.Deps{Log: shared.deps.Log, Handler: shared.api})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := srv.Close(ctx); err != nil {
			t.Error(err)
		}
		<-served
	})
	return ln.Addr().String()
}

// consumer fetches by hand from one partition.
type consumer struct {
	t     *testing.T
	nc    net.Conn
	topic *metastore.Topic
	off   int64
}

func newConsumer(t *testing.T, addr string, topic *metastore.Topic) *consumer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { nc.Close() })
	return &consumer{t: t, nc: nc, topic: topic}
}

// ask sends a Fetch of up to n bytes.
func (c *consumer) ask(n int32) {
	c.t.Helper()
	req := fetchRequest(c.topic, 13, c.off)
	req.MaxBytes, req.Topics[0].Partitions[0].PartitionMaxBytes = n, n
	if _, err := c.nc.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)); err != nil {
		c.t.Error(err)
	}
}

// take reads the reply, gives its records and moves behind them.
func (c *consumer) take() []byte {
	c.t.Helper()
	head := make([]byte, 4)
	if _, err := io.ReadFull(c.nc, head); err != nil {
		c.t.Error(err)
		return nil
	}
	b := make([]byte, binary.BigEndian.Uint32(head))
	if _, err := io.ReadFull(c.nc, b); err != nil {
		c.t.Error(err)
		return nil
	}
	resp := kmsg.NewPtrFetchResponse()
	resp.Version = 13
	if err := resp.ReadFrom(b[5:]); err != nil {
		c.t.Error(err)
		return nil
	}
	p := &resp.Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		c.t.Errorf("error %d", p.ErrorCode)
	}
	for left := p.RecordBatches; len(left) > 0; {
		h, err := record.ParseHeader(left)
		if err != nil || h.Size() > int64(len(left)) {
			break
		}
		c.off, left = int64(h.LastOffset())+1, left[h.Size():]
	}
	return p.RecordBatches
}

// A consumer that takes nothing of a large reply holds up nobody who reads the
// same segments, nor their deletion; it gets its bytes whole when it reads
// again, and what it kept open is closed then.
func TestStalledConsumerBlocksNobody(t *testing.T) {
	// Segments of 16 MiB, more than the kernel takes into a connection's buffers.
	topic := makeTopic(t, 1, "segment.bytes", "16777216", "file.delete.delay.ms", "0")
	value := make([]byte, 1<<20-1024)
	src := rand.NewChaCha8([32]byte{1})
	const batches = 40
	for range batches {
		src.Read(value)
		write(t, topic, 0, 1, func(_ *record.BatchSpec, recs []record.Record) { recs[0].Value = value })
	}
	addr := serveSockets(t)
	p := shared.Get(topic.Name, 0)

	first := newConsumer(t, addr, topic)
	first.ask(64 << 20)
	want := first.take() // the whole first segment
	if len(want) < 12<<20 {
		t.Fatalf("the first segment gave %d bytes", len(want))
	}

	stalled := newConsumer(t, addr, topic)
	stalled.ask(64 << 20)
	// Its reply is begun once others, who asked later, have theirs many times.
	for range 3 {
		var all []byte
		others := newConsumer(t, addr, topic)
		for others.off < batches {
			others.ask(4 << 20)
			all = append(all, others.take()...)
		}
		if !bytes.HasPrefix(all, want) {
			t.Fatal("others got other bytes")
		}
	}
	write(t, topic, 0, 1) // producers go on too

	deleted := func() (n int) {
		for _, name := range openFiles(shared.dir) {
			if strings.Contains(name, topic.ID.Hex()) && strings.HasSuffix(name, "(deleted)") {
				n++
			}
		}
		return n
	}
	if _, err := p.DeleteRecords(-1); err != nil {
		t.Fatal(err)
	}
	if _, err := p.RunRetention(time.Now()); err != nil {
		t.Fatal(err)
	}
	if start := p.LogStart(); start != batches+1 {
		t.Fatalf("the log starts at %d", start)
	}
	deadline := time.Now().Add(20 * time.Second)
	for deleted() != 1 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if n := deleted(); n != 1 {
		t.Errorf("%d deleted files are open, want the one that is being sent", n)
	}
	if got := stalled.take(); !bytes.Equal(got, want) {
		t.Errorf("the consumer that had stalled got %d bytes, other than the %d of the segment", len(got), len(want))
	}
	for deleted() != 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if n := deleted(); n != 0 {
		t.Errorf("%d deleted files are still open", n)
	}
}
