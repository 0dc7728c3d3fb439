package kfake

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
)

// broker answers ApiVersions, Metadata and Heartbeat, and says that it is at
// an address where nobody is.
func broker(t *testing.T) (addr string, heartbeats *atomic.Int32) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	heartbeats = &atomic.Int32{}
	answer := func(req kmsg.Request) kmsg.Response {
		switch resp := req.ResponseKind().(type) {
		case *kmsg.ApiVersionsResponse:
			for _, k := range []struct{ key, maximum int16 }{{3, 12}, {12, 4}, {18, 3}} {
				resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: k.key, MaxVersion: k.maximum})
			}
			return resp
		case *kmsg.MetadataResponse:
			resp.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: "127.0.0.1", Port: 1}}
			resp.ControllerID = 1
			return resp
		case *kmsg.HeartbeatResponse:
			heartbeats.Add(1)
			return resp
		}
		return nil
	}
	serve := func(conn net.Conn) {
		defer conn.Close()
		for {
			frame, err := readFrame(conn)
			if err != nil {
				return
			}
			req, correlation, err := parse(frame)
			if err != nil || req == nil {
				return
			}
			resp := answer(req)
			if resp == nil {
				return
			}
			out := binary.BigEndian.AppendUint32(nil, uint32(correlation))
			if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
				out = append(out, 0)
			}
			if writeFrame(conn, resp.AppendTo(out)) != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(conn) })
		}
	})
	return ln.Addr().String(), heartbeats
}

// A client that asks the proxy for metadata stays with the proxy, a control
// answers in the broker's stead once, and close leaves nothing behind.
func TestProxy(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) }) // the last to run
	addr, heartbeats := broker(t)
	p, err := newProxy(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(p.addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	meta, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
	if err != nil {
		t.Fatal(err)
	}
	got := net.TCPAddr{IP: net.ParseIP(meta.Brokers[0].Host), Port: int(meta.Brokers[0].Port)}
	if len(meta.Brokers) != 1 || got.String() != p.addr() {
		t.Fatalf("the metadata names %s, not the proxy at %s", got.String(), p.addr())
	}

	seen := 0
	p.control(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
		seen++
		if req.(*kmsg.HeartbeatRequest).Generation != 7 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = kerr.FencedInstanceID.Code
		return resp, nil, true
	})
	for i, c := range []struct {
		generation int32
		err        error
		reached    int32
	}{{6, nil, 1}, {7, kerr.FencedInstanceID, 1}, {7, nil, 2}} {
		req := kmsg.NewPtrHeartbeatRequest()
		req.Generation = c.generation
		// Through the broker that the metadata named: the proxy itself.
		kresp, err := cl.Broker(1).Request(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if err := kerr.ErrorForCode(kresp.(*kmsg.HeartbeatResponse).ErrorCode); !errors.Is(err, c.err) || heartbeats.Load() != c.reached {
			t.Errorf("heartbeat %d: %v, %d reached the broker; want %v, %d", i, err, heartbeats.Load(), c.err, c.reached)
		}
	}
	if seen != 2 {
		t.Errorf("the control saw %d heartbeats, not 2: it is gone once it has answered", seen)
	}
}

func TestParse(t *testing.T) {
	for name, frame := range map[string][]byte{
		"empty":               {},
		"short":               {0, 3, 0, 0, 0, 0, 0, 1},
		"client id too long":  {0, 3, 0, 0, 0, 0, 0, 1, 0, 9, 'a'},
		"flexible, no tags":   {0, 3, 0, 12, 0, 0, 0, 1, 0xff, 0xff},
		"body not a metadata": {0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 9},
	} {
		if _, _, err := parse(frame); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	req, correlation, err := parse([]byte{0x7f, 0, 0, 0, 0, 0, 0, 5, 0xff, 0xff})
	if req != nil || correlation != 5 || err != nil {
		t.Errorf("an unknown key: %v, %d, %v", req, correlation, err)
	}
}
