package wire

import (
	"math"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBufferFor(t *testing.T) {
	const kib, mib, far = 1 << 10, 1 << 20, math.MaxInt64
	for _, c := range []struct {
		name string
		path path
		now  int
		want int
	}{
		{"nothing known", path{}, 200 * kib, 200 * kib},
		{"no round trip known", path{rate: 1 << 30, window: far}, 1 * mib, 1 * mib},
		{"no rate known", path{rtt: time.Second, window: far}, 1 * mib, 1 * mib},
		{"no window known", path{rtt: time.Second, rate: 1 << 30}, 1 * mib, 1 * mib},
		{"loopback", path{20 * time.Microsecond, 4_000_000_000, 10 * mib}, 200 * kib, 200 * kib},
		{"10 Gbit/s within a zone", path{100 * time.Microsecond, 1_200_000_000, 1 * mib}, 200 * kib, 200 * kib},
		{"10 Gbit/s between zones", path{time.Millisecond, 1_200_000_000, 4 * mib}, 200 * kib, 2_400_000},
		{"held back by a buffer of 200 KiB", path{100 * time.Millisecond, 4_000_000, far}, 200 * kib, 800_000},
		{"the same with a small window", path{100 * time.Millisecond, 4_000_000, 14_480}, 200 * kib, 200 * kib},
		{"1 Gbit/s over an ocean", path{150 * time.Millisecond, 120_000_000, far}, 3 * mib, 4 * mib},
		{"a little more", path{10 * time.Millisecond, 55_000_000, far}, 1 * mib, 1 * mib},
		{"a little less", path{10 * time.Millisecond, 40_000_000, far}, 1 * mib, 1 * mib},
		{"a consumer that became slow", path{10 * time.Millisecond, 20_000_000, far}, 1 * mib, 400_000},
		{"and slower", path{10 * time.Millisecond, 1_000, far}, 1 * mib, 200 * kib},
		{"near again", path{20 * time.Microsecond, 1_000_000_000, far}, 240 * kib, 200 * kib},
	} {
		if got := bufferFor(c.path, c.now); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// Whatever the kernel says, the size stays within its bounds, and what it
// comes to stays as it is while the path does.
func TestBufferForIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := path{
			rtt:    time.Duration(rapid.Int64().Draw(t, "rtt")),
			rate:   rapid.Int64().Draw(t, "rate"),
			window: rapid.Int64().Draw(t, "window"),
		}
		now := rapid.IntRange(nearBuffer, farBuffer).Draw(t, "now")
		got := bufferFor(p, now)
		if got < nearBuffer || got > farBuffer {
			t.Fatalf("%d", got)
		}
		if again := bufferFor(p, got); again != got {
			t.Fatalf("%d, then %d", got, again)
		}
	})
}

// A buffer is looked at when as much as it holds was sent and some time has
// passed, not at each reply.
func TestBufferIsLookedAtRarely(t *testing.T) {
	b := sendBuffer{size: nearBuffer}
	for range nearBuffer/100 - 1 {
		if b.due(100) || !b.looked.IsZero() {
			t.Fatal("looked at before its size was sent")
		}
	}
	if b.due(nearBuffer) {
		t.Fatal("looked at when the connection has only begun to send")
	}
	b.looked = b.looked.Add(-lookEvery)
	if !b.due(1) {
		t.Fatal("not looked at in time")
	}
	if b.due(nearBuffer) {
		t.Fatal("looked at twice at a time")
	}
	if fixed := (sendBuffer{}); fixed.due(math.MaxInt32) {
		t.Fatal("a fixed buffer was looked at")
	}
}

// serverSide gives the server's end of the only connection.
func (s *testServer) serverSide(t *testing.T) *conn {
	t.Helper()
	waitFor(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.conns) == 1
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		return c
	}
	return nil
}

// tcpOf is the server's socket.
func tcpOf(c *conn) *net.TCPConn { return c.nc.(*net.TCPConn) }
