package wire

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// roundTrip sends a Heartbeat and reads its reply.
func roundTrip(nc net.Conn) error {
	if _, err := nc.Write(frame(1, heartbeat(0))); err != nil {
		return err
	}
	_, _, err := readReply(nc)
	return err
}

// Further connections wait until one of those that are open ends, or until
// more are allowed.
func TestMaxConnectionsWait(t *testing.T) {
	s := startServer(t, Config{MaxConnections: 2}, echo)
	delayed := mDelayed[delayFull].Get()
	first, second := s.dial(), s.dial()
	for _, nc := range []net.Conn{first, second} {
		if err := roundTrip(nc); err != nil {
			t.Fatal(err)
		}
	}
	third := s.dial()
	third.Write(frame(1, heartbeat(0)))
	waitFor(t, func() bool { return mDelayed[delayFull].Get() == delayed+1 })
	if err := roundTrip(first); err != nil {
		t.Fatal(err)
	}
	if l := s.log.all(); len(l) != 1 || !strings.Contains(l[0], "max.connections is reached") {
		t.Fatalf("log: %q", l)
	}
	first.Close()
	if _, _, err := readReply(third); err != nil {
		t.Fatalf("the one that waited: %v", err)
	}
	fourth := s.dial()
	fourth.Write(frame(1, heartbeat(0)))
	waitFor(t, func() bool { return mDelayed[delayFull].Get() == delayed+2 })
	s.SetConfig(Config{MaxConnections: 3})
	if _, _, err := readReply(fourth); err != nil {
		t.Fatalf("after more were allowed: %v", err)
	}
	fifth := s.dial() // still waits when the server closes
	fifth.Write(frame(1, heartbeat(0)))
	waitFor(t, func() bool { return mDelayed[delayFull].Get() == delayed+3 })
	closeNow(t, s)
	if b := awaitClosed(t, fifth); len(b) > 0 {
		t.Fatalf("got %x", b)
	}
}

// Those that were idle for the longest time go when the limit is lowered.
func TestLowerMaxConnections(t *testing.T) {
	inBubble(t, Config{}, echo, func(t *testing.T, l *pipeListener, log *logLines) {
		var conns []net.Conn
		for range 5 {
			nc := l.dial()
			if err := roundTrip(nc); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, nc)
			time.Sleep(time.Second)
		}
		if err := roundTrip(conns[0]); err != nil {
			t.Fatal(err)
		}
		l.server.SetConfig(Config{MaxConnections: 2})
		for i, nc := range conns {
			if open := roundTrip(nc) == nil; open != (i == 0 || i == 4) {
				t.Errorf("connection %d open: %v", i, open)
			}
		}
		if lines := log.all(); len(lines) != 3 || !strings.Contains(lines[0], "reason=max_connections") {
			t.Errorf("log: %q", lines)
		}
		conns[0].Close()
		conns[4].Close()
	})
}

// dialFrom connects from one of the loopback addresses.
func (s *testServer) dialFrom(ip string) net.Conn {
	s.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	nc, err := d.Dial("tcp", s.addr)
	if err != nil {
		s.t.Skipf("this machine has no address %s: %v", ip, err)
	}
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	s.t.Cleanup(func() { nc.Close() })
	return nc
}

func TestMaxConnectionsPerIP(t *testing.T) {
	s := startServer(t, Config{MaxConnectionsPerIP: 2, MaxConnectionsOf: map[netip.Addr]int{netip.MustParseAddr("127.0.0.3"): 3}}, echo)
	before := mClosed[reasonPerIP].Get()
	for _, tt := range []struct {
		ip    string
		limit int
	}{{"127.0.0.1", 2}, {"127.0.0.2", 2}, {"127.0.0.3", 3}} {
		var conns []net.Conn
		for range tt.limit {
			nc := s.dialFrom(tt.ip)
			if err := roundTrip(nc); err != nil {
				t.Fatalf("%s: %v", tt.ip, err)
			}
			conns = append(conns, nc)
		}
		if roundTrip(s.dialFrom(tt.ip)) == nil {
			t.Fatalf("%s: connection %d is served", tt.ip, tt.limit+1)
		}
		conns[0].Close()
		waitFor(t, func() bool { return roundTrip(s.dialFrom(tt.ip)) == nil })
	}
	if n := mClosed[reasonPerIP].Get() - before; n < 3 {
		t.Errorf("%d were counted", n)
	}
	if l := s.log.all(); len(l) < 3 || !strings.Contains(l[0], "max.connections.per.ip") {
		t.Errorf("log: %q", l)
	}
	s.SetConfig(Config{MaxConnectionsPerIP: -1, MaxConnectionsOf: map[netip.Addr]int{netip.MustParseAddr("127.0.0.9"): 1}})
	if roundTrip(s.dialFrom("127.0.0.8")) == nil {
		t.Error("an address without an exception is served")
	}
	if err := roundTrip(s.dialFrom("127.0.0.9")); err != nil {
		t.Error(err)
	}
}

func TestConnectionRate(t *testing.T) {
	inBubble(t, Config{MaxConnectionRate: 10}, echo, func(t *testing.T, l *pipeListener, _ *logLines) {
		start := time.Now()
		for range 41 {
			nc := l.dial()
			if err := roundTrip(nc); err != nil {
				t.Fatal(err)
			}
			nc.Close()
		}
		// The first second's worth, or the one that unlimited accepting left, is there at once.
		if d := time.Since(start); d < 2900*time.Millisecond || d > 4100*time.Millisecond {
			t.Errorf("41 connections at 10 per second took %v", d)
		}
		l.server.SetConfig(Config{})
		start = time.Now()
		for range 100 {
			l.dial().Close()
		}
		if d := time.Since(start); d > 200*time.Millisecond {
			t.Errorf("without a limit, 100 took %v", d)
		}
	})
}

// Whatever is claimed, given back, given up and resized: no more is out than
// the size (or one claim over it), nobody overtakes, and who is first in line
// waits only while there is no room.
func TestBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &budget{size: rapid.Int64Range(1, 100).Draw(t, "size")}
		type waiter struct {
			n      int64
			done   chan error
			cancel context.CancelFunc
		}
		var waiting []waiter
		var held []int64
		used := func() (sum int64) {
			for _, n := range held {
				sum += n
			}
			return sum
		}
		// settle moves who should have been let in from waiting to held.
		settle := func() {
			for len(waiting) > 0 && (len(held) == 0 || used()+waiting[0].n <= b.size) {
				if err := <-waiting[0].done; err != nil {
					t.Fatal(err)
				}
				held = append(held, waiting[0].n)
				waiting = waiting[1:]
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				n := rapid.Int64Range(1, 150).Draw(t, "n")
				ctx, cancel := context.WithCancel(context.Background())
				w := waiter{n, make(chan error, 1), cancel}
				if len(waiting) == 0 && (len(held) == 0 || used()+n <= b.size) {
					if err := b.acquire(ctx, n); err != nil {
						t.Fatal(err)
					}
					held = append(held, n)
					return
				}
				go func() { w.done <- b.acquire(ctx, n) }()
				waiting = append(waiting, w)
				for queued := 0; queued < len(waiting); runtime.Gosched() {
					b.mu.Lock()
					queued = b.waiting.Len()
					b.mu.Unlock()
				}
			},
			"release": func(t *rapid.T) {
				if len(held) == 0 {
					return
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				n := held[i]
				held = append(held[:i], held[i+1:]...)
				b.release(n)
				settle()
			},
			"give up": func(t *rapid.T) {
				if len(waiting) == 0 {
					return
				}
				i := rapid.IntRange(0, len(waiting)-1).Draw(t, "who")
				waiting[i].cancel()
				if err := <-waiting[i].done; err == nil {
					t.Fatal("granted")
				}
				waiting = append(waiting[:i], waiting[i+1:]...)
				settle()
			},
			"resize": func(t *rapid.T) {
				b.resize(rapid.Int64Range(1, 200).Draw(t, "to"))
				settle()
			},
			"": func(t *rapid.T) {
				b.mu.Lock()
				defer b.mu.Unlock()
				if b.used != used() || b.waiting.Len() != len(waiting) {
					t.Fatalf("%d used by %v, %d wait of %d", b.used, held, b.waiting.Len(), len(waiting))
				}
			},
		})
		for _, w := range waiting {
			w.cancel()
			<-w.done
		}
	})
}

// A request takes effect after those before it were answered, but for Produce
// requests that follow each other.
func TestRequestsTakeEffectInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		keys := rapid.SliceOfN(rapid.SampledFrom([]int16{0, 0, 0, 1, 12}), 2, 30).Draw(rt, "keys")
		delays := rapid.SliceOfN(rapid.IntRange(0, 20), len(keys), len(keys)).Draw(rt, "delays")
		var unanswered [2]atomic.Int32 // others, of Produce
		h := handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
			kind := 0
			if req.Body.Key() == keyProduce {
				kind = 1
			}
			others, produces := unanswered[0].Load(), unanswered[1].Load()
			if others > 0 || kind == 0 && produces > 0 {
				t.Errorf("request %d of key %d is served beside %d others and %d of Produce", req.CorrelationID, req.Body.Key(), others, produces)
			}
			unanswered[kind].Add(1)
			body := req.Body.ResponseKind()
			go func() {
				for range delays[req.CorrelationID] {
					runtime.Gosched()
				}
				unanswered[kind].Add(-1)
				reply(Reply{Body: body})
			}()
		})
		s := startServer(t, Config{}, h)
		nc := s.dial()
		for i, key := range keys {
			req := kmsg.RequestForKey(key)
			req.SetVersion(lookup(key).max)
			nc.Write(frame(int32(i), req))
		}
		for i := range keys {
			if id, _, err := readReply(nc); err != nil || id != int32(i) {
				rt.Fatalf("reply %d: id %d, %v", i, id, err)
			}
		}
		nc.Close()
		closeNow(t, s)
	})
}

// Produce requests are served while those before them wait.
func TestProduceIsPipelined(t *testing.T) {
	replies := make(chan func(), 10)
	s := startServer(t, Config{}, handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		replies <- func() { reply(Reply{Body: req.Body.ResponseKind()}) }
	}))
	nc := s.dial()
	for i := range int32(10) {
		nc.Write(frame(i, produce(9)))
	}
	for len(replies) < 10 {
		runtime.Gosched()
	}
	for range 10 {
		(<-replies)()
	}
	for i := range int32(10) {
		if id, _, err := readReply(nc); err != nil || id != i {
			t.Fatalf("id %d, %v", id, err)
		}
	}
}

// Who claims all bytes in flight for a frame that does not arrive holds up
// others for contendedTimeout at most.
func TestStalledFrameGivesWay(t *testing.T) {
	inBubble(t, Config{MaxInflightBytes: 1 << 20}, echo, func(t *testing.T, l *pipeListener, log *logLines) {
		whole := produceFrame(1 << 20)
		stalled, other := l.dial(), l.dial()
		stalled.Write(whole[:300<<10])
		start := time.Now()
		go other.Write(whole)
		if id, _, err := readReply(other); err != nil || id != 1 {
			t.Fatalf("id %d, %v", id, err)
		}
		if d := time.Since(start); d > contendedTimeout+2*frameCheck {
			t.Errorf("held up for %v", d)
		}
		oneLine(t, log, "read_timeout")
		// Alone, the same may take its time.
		slow := l.dial()
		for rest := whole; len(rest) > 0; {
			n, err := slow.Write(rest[:min(len(rest), 64<<10)])
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
			time.Sleep(3 * time.Second)
		}
		if id, _, err := readReply(slow); err != nil || id != 1 {
			t.Fatalf("id %d, %v", id, err)
		}
		slow.Close()
		other.Close()
	})
}

// bigReplies answers every request with metadata of the size, and counts.
func bigReplies(size int, served *atomic.Int32) Handler {
	host := string(bytes.Repeat([]byte("h"), 1000))
	return handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		served.Add(1)
		resp := kmsg.NewPtrMetadataResponse()
		for range size / len(host) {
			b := kmsg.NewMetadataResponseBroker()
			b.Host = host
			resp.Brokers = append(resp.Brokers, b)
		}
		reply(Reply{Body: resp})
	})
}

// A client that asks for much and never reads is served until maxQueued of
// replies wait; when all such clients together hold much, until one waits.
func TestUnreadRepliesAreBounded(t *testing.T) {
	for _, tt := range []struct {
		inflight int64
		most     int32 // one more than are held: what is being written
		reason   string
	}{{1 << 30, 17, reasonSlowReader}, {1 << 20, 3, reasonStalled}} {
		var served atomic.Int32
		inBubble(t, Config{MaxInflightBytes: tt.inflight}, bigReplies(1<<20, &served), func(t *testing.T, l *pipeListener, log *logLines) {
			nc := l.dial()
			ask := kmsg.NewPtrMetadataRequest()
			ask.Version = 1
			go func() {
				for i := range int32(50) {
					if _, err := nc.Write(frame(i, ask)); err != nil {
						return
					}
				}
			}()
			time.Sleep(time.Minute)
			if n := served.Load(); n < 1 || n > tt.most {
				t.Errorf("%d requests were served to a client that does not read, at most %d expected", n, tt.most)
			}
			time.Sleep(10 * time.Minute)
			oneLine(t, log, tt.reason)
			if n := mHeldBytes.Get(); n != 0 {
				t.Errorf("%v bytes of replies are still counted", n)
			}
		})
	}
}

// A frame that trickles in holds memory in proportion to what has come.
func TestArrivingFrameIsSmall(t *testing.T) {
	inBubble(t, Config{}, echo, func(t *testing.T, l *pipeListener, _ *logLines) {
		nc := l.dial()
		j := kmsg.NewPtrJoinGroupRequest()
		j.Protocols = append(j.Protocols, kmsg.JoinGroupRequestProtocol{Name: "range", Metadata: make([]byte, 900<<10)})
		whole := frame(3, j)
		before := mInflightBytes.Get()
		for sent := 0; sent < len(whole); {
			n, err := nc.Write(whole[sent:min(len(whole), sent+10_000)])
			if err != nil {
				t.Fatal(err)
			}
			sent += n
			time.Sleep(time.Millisecond)
			if got := int(mInflightBytes.Get() - before); got > max(readBuffer, 8*sent) {
				t.Fatalf("%d bytes are held for %d that came", got, sent)
			}
		}
		if id, _, err := readReply(nc); err != nil || id != 3 {
			t.Fatalf("id %d, %v", id, err)
		}
		nc.Close()
	})
}

// An idle connection that was used costs one goroutine and a few KiB, those
// of its client in this process included.
func TestIdleConnectionIsSmall(t *testing.T) {
	const n, most = 400, 16 << 10
	s := startServer(t, Config{}, echo)
	usage := func() (goroutines int, bytes uint64) {
		runtime.GC()
		runtime.GC() // what pools held
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc + m.StackInuse
	}
	g0, b0 := usage()
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = s.dial()
		if err := roundTrip(conns[i]); err != nil {
			t.Fatal(err)
		}
	}
	var g1 int
	var b1 uint64
	waitFor(t, func() bool { // writers end a moment after their reply
		g1, b1 = usage()
		return g1 <= g0+n
	})
	per := (float64(b1) - float64(b0)) / n
	t.Logf("%.0f bytes and %.2f goroutines per idle connection", per, float64(g1-g0)/n)
	if per > most && !raceEnabled {
		t.Errorf("%.0f bytes per idle connection, more than %d", per, most)
	}
	runtime.KeepAlive(conns)
}

func TestTrailingBytesAreIgnored(t *testing.T) {
	s := startServer(t, Config{}, echo)
	nc := s.dial()
	before := mTrailing.Get()
	nc.Write(rawFrame(append(frame(4, heartbeat(0))[lengthSize:], 1, 2, 3)...))
	nc.Write(frame(5, heartbeat(0)))
	for want := int32(4); want <= 5; want++ {
		if id, _, err := readReply(nc); err != nil || id != want {
			t.Fatalf("id %d, %v; want %d", id, err, want)
		}
	}
	if n := mTrailing.Get() - before; n != 1 {
		t.Errorf("%d were counted", n)
	}
}
