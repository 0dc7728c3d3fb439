package wire

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Clients come, ask, read some of it and go in every way there is, while
// replies are made out of order by other goroutines: each span is released
// exactly once, and everybody who stays is served.
func TestSpansAreReleasedWhateverHappens(t *testing.T) {
	file, _ := fetchFile(t, 1<<20)
	var replying sync.WaitGroup
	h := handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		n := []int64{0, 100, 40 << 10, 1 << 20}[req.CorrelationID%4]
		f := fetchOf(acquired(file, 0, n), acquired(file, 0, n/2))
		replying.Add(1)
		go func() {
			defer replying.Done()
			for range rand.IntN(50) {
				runtime.Gosched()
			}
			reply(Reply{Fetch: f, Close: req.CorrelationID%97 == 96})
		}()
	})
	for _, network := range []string{"tcp", "unix"} {
		addr := "127.0.0.1:0"
		if network == "unix" {
			addr = filepath.Join(t.TempDir(), "s")
		}
		s := startServerOn(t, Config{MaxInflight: 8}, h, network, addr)
		var clients sync.WaitGroup
		for range 40 {
			clients.Add(1)
			go func() {
				defer clients.Done()
				for range 10 {
					visit(t, s)
				}
			}()
		}
		clients.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
	replying.Wait()
	releaseOwner(t, file)
}

func visit(t *testing.T, s *testServer) {
	nc, err := net.Dial(s.network, s.addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	first := rand.Int32N(1000)
	n := 1 + rand.Int32N(12)
	var out []byte
	for i := range n {
		out = append(out, frame(first+i, produce(12))...) // those are served together
	}
	switch rand.IntN(5) {
	case 0: // stays for all
		go nc.Write(out)
		for i := range n {
			id, _, err := readReply(nc)
			if err != nil || id != first+i {
				t.Errorf("reply %d: id %d, %v", first+i, id, err)
				return
			}
			if id%97 == 96 {
				return // the handler closes there
			}
		}
	case 1: // goes at once
		nc.Write(out)
	case 2: // resets in the middle
		nc.Write(out)
		nc.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(5)) * time.Millisecond))
		io.Copy(io.Discard, nc)
		if tcp, ok := nc.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
	case 3: // leaves a frame unfinished
		nc.Write(out[:len(out)-rand.IntN(5)])
		nc.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(5)) * time.Millisecond))
		io.Copy(io.Discard, nc)
	case 4: // ends with garbage
		nc.Write(append(out, "garbage garbage"...))
		io.Copy(io.Discard, nc)
	}
}
