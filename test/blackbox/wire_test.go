package blackbox

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/test/firntest"
)

func dial(t *testing.T, b *firntest.Broker) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", b.Kafka)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

func frame(key, version int16, body []byte) []byte {
	f := make([]byte, 4, 14+len(body))
	f = binary.BigEndian.AppendUint16(f, uint16(key))
	f = binary.BigEndian.AppendUint16(f, uint16(version))
	f = binary.BigEndian.AppendUint32(f, 7)
	f = binary.BigEndian.AppendUint16(f, 0xffff) // no client id
	f = append(f, body...)
	binary.BigEndian.PutUint32(f, uint32(len(f)-4))
	return f
}

// roundTrip sends ApiVersions v0 and reads a whole answer.
func roundTrip(c net.Conn) error {
	if _, err := c.Write(frame(18, 0, nil)); err != nil {
		return err
	}
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	if id := binary.BigEndian.Uint32(head[4:]); id != 7 {
		return errors.New("wrong correlation id")
	}
	_, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head[:]))-4)
	return err
}

func TestBadFramesCloseOnlyTheirConnection(t *testing.T) {
	b := firntest.Start(t)
	good := dial(t, b)
	if err := roundTrip(good); err != nil {
		t.Fatal(err)
	}
	u32 := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	truncated := frame(3, 1, u32(5)) // an array of five topics and no byte of them
	noise := make([]byte, 4096)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for name, bytes := range map[string][]byte{
		"negative length":          u32(0xffffffff),
		"two gigabytes":            u32(0x7fffffff),
		"empty frame":              u32(0),
		"header cut short":         append(u32(3), 0, 3, 0),
		"unknown key":              frame(999, 0, nil),
		"a key not built yet":      frame(24, 3, nil),
		"unknown version":          frame(3, 99, nil),
		"negative version":         frame(3, -1, nil),
		"produce version 2":        frame(0, 2, nil),
		"array longer than frame":  truncated,
		"array of two billion":     frame(3, 1, u32(0x7fffffff)),
		"tag count bomb":           frame(18, 3, []byte{0, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f}),
		"text":                     []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"noise":                    noise,
		"noise in a produce frame": frame(0, 9, noise),
		"noise in a fetch frame":   frame(1, 12, noise),
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, b)
			if _, err := c.Write(bytes); err != nil {
				return // closed before all was sent
			}
			if n, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("the connection was not closed: %d bytes, %v", n, err)
			}
		})
	}
	if err := roundTrip(good); err != nil {
		t.Errorf("another connection suffered: %v", err)
	}
	if logged := strings.Count(b.Output(), "level=ERROR"); logged > 0 {
		t.Errorf("%d errors were logged for bad input", logged)
	}
}

func TestUnknownApiVersionsVersionIsAnswered(t *testing.T) {
	b := firntest.Start(t)
	c := dial(t, b)
	if _, err := c.Write(frame(18, 120, []byte{0})); err != nil {
		t.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, body); err != nil {
		t.Fatal(err)
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	if err := resp.ReadFrom(body[4:]); err != nil {
		t.Fatal(err)
	}
	// As Kafka (KIP-511): the versions of ApiVersions itself, to ask again with.
	if resp.ErrorCode != 35 || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].ApiKey != 18 || resp.ApiKeys[0].MaxVersion < 4 {
		t.Errorf("error %d with keys %+v, expected 35 with ApiVersions' own range", resp.ErrorCode, resp.ApiKeys)
	}
	if err := roundTrip(c); err != nil {
		t.Errorf("the connection does not go on: %v", err)
	}
}

func TestThousandConnections(t *testing.T) {
	b := firntest.Start(t)
	conns := make([]net.Conn, 1000)
	for i := range conns {
		conns[i] = dial(t, b)
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(conns))
	for range 3 {
		for _, c := range conns {
			wg.Go(func() {
				if err := roundTrip(c); err != nil {
					errs <- err
				}
			})
		}
		wg.Wait()
	}
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	b.CreateTopic("t", 1)
	ctx, cancel := firntest.Context(t)
	defer cancel()
	if err := b.Client().ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("x")}).FirstErr(); err != nil {
		t.Errorf("produce beside 1,000 connections: %v", err)
	}
}

// TestStalledConsumerBlocksNobody asks for megabytes and never reads them.
func TestStalledConsumerBlocksNobody(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("big", 1)
	w := newWriter(b, "big", 100_000)
	ctx, cancel := firntest.Context(t)
	defer cancel()
	for range 300 {
		w.send(ctx)
	}
	if err := w.cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxBytes, req.MaxWaitMillis, req.SessionEpoch = 11, 50<<20, 1000, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = "big"
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.PartitionMaxBytes = 50 << 20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	body := req.AppendTo(nil)
	for range 20 {
		if _, err := dial(t, b).Write(frame(1, 11, body)); err != nil {
			t.Fatal(err)
		}
	}
	w.verify(t, b)
}
