package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

// pipeListener hands out in-memory connections, whose deadlines follow
// synctest's clock.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	open   atomic.Bool
	server *Server // inBubble's
}

func newPipeListener() *pipeListener {
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	l.open.Store(true)
	return l
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	if l.open.Swap(false) {
		close(l.closed)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (l *pipeListener) dial() net.Conn {
	a, b := net.Pipe()
	l.conns <- b
	return a
}

// inBubble runs f against a server in a bubble with its own clock.
func inBubble(t *testing.T, cfg Config, h Handler, f func(t *testing.T, l *pipeListener, log *logLines)) {
	synctest.Test(t, func(t *testing.T) {
		l, log := newPipeListener(), &logLines{}
		s := NewServer(cfg, Deps{Log: slog.New(slog.NewTextHandler(log, nil)), Handler: h})
		l.server = s
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		f(t, l, log)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

// closedAfter says after what time the peer closed nc.
func closedAfter(nc net.Conn) time.Duration {
	start := time.Now()
	_, _ = io.Copy(io.Discard, nc)
	return time.Since(start)
}

func oneLine(t *testing.T, log *logLines, reason string) {
	t.Helper()
	if l := log.all(); len(l) != 1 || !strings.Contains(l[0], "reason="+reason+" ") {
		t.Errorf("log is %q, want one line with reason %s", l, reason)
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	replies := make(chan func(Reply), 1)
	h := handlerFunc(func(_ context.Context, _ *Request, reply func(Reply)) { replies <- reply })
	inBubble(t, Config{IdleTimeout: 10 * time.Minute}, h, func(t *testing.T, l *pipeListener, log *logLines) {
		nc := l.dial()
		if d := closedAfter(nc); d != 10*time.Minute {
			t.Errorf("closed after %v", d)
		}
		// One that waits for a reply is not idle.
		nc = l.dial()
		nc.Write(frame(1, heartbeat(0)))
		reply := <-replies
		time.Sleep(time.Hour)
		go reply(Reply{Body: kmsg.NewPtrHeartbeatResponse()})
		if id, _, err := readReply(nc); err != nil || id != 1 {
			t.Errorf("id %d, %v", id, err)
		}
		if d := closedAfter(nc); d != 10*time.Minute {
			t.Errorf("closed %v after its last reply", d)
		}
		if l := log.all(); len(l) != 0 {
			t.Errorf("log: %q", l)
		}
	})
}

// A peer that sends a frame a byte at a time does not keep its place.
func TestSlowFrameIsClosed(t *testing.T) {
	inBubble(t, Config{}, echo, func(t *testing.T, l *pipeListener, log *logLines) {
		nc := l.dial()
		start := time.Now()
		for _, b := range frame(1, heartbeat(0)) {
			if _, err := nc.Write([]byte{b}); err != nil {
				break
			}
			time.Sleep(10 * time.Second)
		}
		if d := time.Since(start); d > 2*frameTimeout+20*time.Second {
			t.Errorf("closed after %v", d)
		}
		oneLine(t, log, "read_timeout")
	})
}

func TestPeerThatNeverReadsIsClosed(t *testing.T) {
	inBubble(t, Config{IdleTimeout: time.Minute}, echo, func(t *testing.T, l *pipeListener, log *logLines) {
		nc := l.dial()
		nc.Write(frame(1, heartbeat(0)))
		start := time.Now()
		nc.Write(frame(2, heartbeat(0)))
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, err := nc.Read(make([]byte, 1)); err == nil {
			t.Errorf("still open after %v", time.Since(start))
		}
		oneLine(t, log, "write_timeout")
	})
}

// Records in memory that wait to be sent stop the reader.
func TestRepliesInMemoryAreBounded(t *testing.T) {
	big := make([]byte, maxQueued/2)
	var served atomic.Int32
	h := handlerFunc(func(_ context.Context, _ *Request, reply func(Reply)) {
		served.Add(1)
		reply(Reply{Fetch: fetchOf(record.Span{Bytes: big})})
	})
	inBubble(t, Config{IdleTimeout: time.Hour}, h, func(t *testing.T, l *pipeListener, _ *logLines) {
		nc := l.dial()
		const n = 6
		go func() {
			for i := range int32(n) {
				nc.Write(frame(i, fetchRequest(11)))
			}
		}()
		for i := range int32(n) {
			synctest.Wait()
			if got := served.Load(); got > i+2 {
				t.Fatalf("%d requests were served before reply %d was read", got, i)
			}
			if id, _, err := readReply(nc); err != nil || id != i {
				t.Fatalf("id %d, %v", id, err)
			}
		}
		nc.Close()
	})
}

// A frame larger than the budget of all connections gets the whole of it.
func TestFrameOverTheBudget(t *testing.T) {
	inBubble(t, Config{MaxInflightBytes: 1000}, echo, func(t *testing.T, l *pipeListener, _ *logLines) {
		nc := l.dial()
		p := kmsg.NewPtrProduceRequest()
		p.Version = 9
		p.Topics = []kmsg.ProduceRequestTopic{{Partitions: []kmsg.ProduceRequestTopicPartition{{Records: make([]byte, 100_000)}}}}
		for i := range int32(3) {
			go nc.Write(frame(i, p))
			if id, _, err := readReply(nc); err != nil || id != i {
				t.Fatalf("id %d, %v", id, err)
			}
		}
		nc.Close()
	})
}

// Whatever a peer sends, the server answers or closes, with one line at most.
func TestHostileStreams(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var stream []byte
		for range rapid.IntRange(1, 5).Draw(rt, "frames") {
			api, v := drawVersion(rt)
			req := kmsg.RequestForKey(api.key)
			req.SetVersion(v)
			stream = append(stream, frame(rapid.Int32().Draw(rt, "id"), req)...)
		}
		stream = mutate(rt, stream)
		a, b := net.Pipe()
		l := newPipeListener()
		log := &logLines{}
		s := NewServer(Config{MaxFrameBytes: 1 << 20}, Deps{Log: slog.New(slog.NewTextHandler(log, nil)), Handler: echo})
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		l.conns <- b
		go func() {
			io.Copy(io.Discard, a)
		}()
		a.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := a.Write(stream); errors.Is(err, os.ErrDeadlineExceeded) {
			rt.Fatalf("the server hangs")
		}
		a.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			rt.Fatalf("close: %v", err)
		}
		if err := <-served; err != nil {
			rt.Fatalf("serve: %v", err)
		}
		if lines := log.all(); len(lines) > 1 {
			rt.Fatalf("log: %q", lines)
		}
	})
}

func TestLogLimit(t *testing.T) {
	var l logLimit
	now := time.Unix(1000, 0)
	for range linesPerSecond {
		if ok, _ := l.allow(now); !ok {
			t.Fatal("a line below the limit was left out")
		}
	}
	for range 7 {
		if ok, _ := l.allow(now); ok {
			t.Fatal("a line over the limit was let through")
		}
	}
	if ok, n := l.allow(now.Add(time.Second)); !ok || n != 7 {
		t.Fatalf("in the next second: %v, %d left out", ok, n)
	}
}

// Unknown tags in a request's header are passed over (KIP-482).
func TestHeaderTags(t *testing.T) {
	b := frame(5, heartbeat(4))[lengthSize:]
	at := minFrame + len("test")
	withTags := append(bytes.Clone(b[:at]), 2, 9, 3, 'a', 'b', 'c', 11, 0)
	withTags = append(withTags, b[at+1:]...)
	h, body, err := parseHeader(withTags, true)
	if err != nil || h.correlationID != 5 || h.clientID != "test" || !bytes.Equal(body, b[at+1:]) {
		t.Fatalf("%+v, %x, %v", h, body, err)
	}
}

// Whoever waits can be told that another request of its connection waits for it.
func TestHurried(t *testing.T) {
	h := handlerFunc(func(ctx context.Context, req *Request, reply func(Reply)) {
		go func() {
			hurried := make(chan struct{}, 1)
			req.Hurried(hurried)
			select {
			case <-hurried:
			case <-time.After(time.Hour):
			}
			echo.Serve(ctx, req, reply)
		}()
	})
	inBubble(t, Config{}, h, func(t *testing.T, l *pipeListener, _ *logLines) {
		nc := l.dial()
		defer nc.Close()
		start := time.Now()
		sent := make(chan error, 1)
		go func() {
			_, err := nc.Write(frame(1, heartbeat(0)))
			time.Sleep(time.Minute)
			if _, err2 := nc.Write(frame(2, heartbeat(0))); err == nil {
				err = err2
			}
			sent <- err
		}()
		for i, want := range []time.Duration{time.Minute, time.Minute + time.Hour} {
			id, _, err := readReply(nc)
			if err != nil || id != int32(i+1) || time.Since(start) != want {
				t.Errorf("reply %d after %v, %v, want %d after %v", id, time.Since(start), err, i+1, want)
			}
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}
