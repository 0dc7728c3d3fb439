package chaos

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// The network carries, delays, drops in one direction only, tells etcd's
// connections from others, resets, and is whole again afterwards.
func TestNetwork(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for namespaces")
	}
	n, err := newNetwork(2)
	if err != nil {
		t.Skipf("no network of its own here: %v", err)
	}
	defer n.close()
	listen := func(port string) string {
		var ln net.Listener
		if err := n.nodes[1].do(func() (err error) {
			ln, err = net.Listen("tcp", "10.88.0.1:"+port)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { io.Copy(c, c); c.Close() }()
			}
		}()
		return ln.Addr().String()
	}
	kafka, peer := listen("9092"), listen("9720")
	dial := func(from int, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return n.nodes[from].dial(ctx, "tcp", addr)
	}
	echo := func(c net.Conn) error {
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write(make([]byte, 100_000)); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 100_000))
		return err
	}
	reach := func(from int, addr string) bool {
		c, err := dial(from, addr)
		if err != nil {
			return false
		}
		defer c.Close()
		return echo(c) == nil
	}
	if !reach(0, kafka) || !reach(2, kafka) || !reach(2, peer) {
		t.Fatal("nobody is reached in a network that is whole")
	}
	for i, c := range []struct {
		links                   []Link
		clients, brokers, peers bool // that reach node 1
	}{
		{[]Link{{0, 1, AnyPort}}, false, true, true},
		{[]Link{{1, 0, AnyPort}}, false, true, true},
		{[]Link{{2, 1, PeerPort}}, true, true, false},
		{[]Link{{1, 2, KafkaPort}}, true, false, true},
		{both([]int{1}, []int{0, 2}, AnyPort), false, false, false},
		{[]Link{{2, 0, AnyPort}}, true, true, true},
	} {
		n.set(i, c.links, rule{drop: true})
		if a, b, p := reach(0, kafka), reach(2, kafka), reach(2, peer); a != c.clients || b != c.brokers || p != c.peers {
			t.Errorf("%v cut: reached by clients %v, by brokers %v, by members %v", c.links, a, b, p)
		}
		n.clear(i)
	}
	// Two steps on one link: it is whole when both have ended.
	n.set(1, []Link{{0, 1, AnyPort}}, rule{drop: true})
	n.set(2, []Link{{0, 1, KafkaPort}}, rule{delay: time.Millisecond})
	n.clear(2)
	if reach(0, kafka) {
		t.Error("the second step's end ended the first")
	}
	n.clear(1)
	c, err := dial(0, kafka)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n.set(1, both([]int{0}, []int{1}, AnyPort), rule{delay: 50 * time.Millisecond})
	began := time.Now()
	if err := echo(c); err != nil || time.Since(began) < 100*time.Millisecond {
		t.Errorf("100 ms away, and answered after %v: %v", time.Since(began), err)
	}
	n.set(1, both([]int{0}, []int{1}, AnyPort), rule{loss: 0.05})
	if err := echo(c); err != nil {
		t.Errorf("with packets lost: %v", err)
	}
	n.set(1, both([]int{0}, []int{1}, AnyPort), rule{reset: true})
	if _, err := c.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(20 * time.Second); n.resets.Load() == 0 && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	n.clear(1)
	// What was sent reset the connection at its other end, which says so to
	// whatever is sent again.
	for range 10 {
		if err = echo(c); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a connection that is reset: %v", err)
	}
	if !reach(0, kafka) || n.resets.Load() == 0 || n.dropped.Load() == 0 || n.delayed.Load() == 0 {
		t.Error("not whole again, or nothing was done")
	}
}
