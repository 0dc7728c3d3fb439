package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/record"
)

// threads gives the number of the process's threads.
func threads(t *testing.T) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nThreads:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Hundreds of consumers of records that are not in memory get them, by
// sendfile and by copying, and take no thread each.
func TestColdConsumersTakeNoThreads(t *testing.T) {
	const consumers, share, small = 256, 512 << 10, 20 << 10
	path := filepath.Join(t.TempDir(), "segment")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	byteOf := func(off int64) byte { return byte(off/4093 ^ off>>19) }
	b := make([]byte, share)
	for i := range int64(consumers) {
		for j := range b {
			b[j] = byteOf(i*share + int64(j))
		}
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	file := record.NewFile(f)
	defer releaseOwner(t, file)
	// The correlation id says which part is asked for, and how much of it.
	h := handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		n := int64(share)
		if req.CorrelationID >= consumers {
			n = small
		}
		reply(Reply{Fetch: fetchOf(acquired(file, int64(req.CorrelationID%consumers)*share, n))})
	})
	s := startServer(t, Config{}, h)
	conns := make([]net.Conn, consumers)
	for i := range conns {
		conns[i] = s.dial()
	}
	ask := func(first int32, n int) {
		start := make(chan struct{})
		var asking sync.WaitGroup
		for i, nc := range conns {
			asking.Go(func() {
				<-start
				nc.Write(frame(first+int32(i), fetchRequest(11)))
				_, got, err := readReply(nc)
				if err != nil {
					t.Errorf("consumer %d: %v", i, err)
					return
				}
				want := make([]byte, n)
				for j := range want {
					want[j] = byteOf(int64(i)*share + int64(j))
				}
				if !bytes.HasSuffix(got, want) {
					t.Errorf("consumer %d got other bytes than asked for", i)
				}
			})
		}
		close(start)
		asking.Wait()
	}
	ask(0, share) // from memory: what threads that takes
	before := threads(t)
	var most atomic.Int64
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for tick := time.NewTicker(200 * time.Microsecond); ; {
			select {
			case <-tick.C:
				most.Store(max(most.Load(), int64(threads(t))))
			case <-stop:
				tick.Stop()
				return
			}
		}
	})
	reads := metrics.GetOrCreateCounter("firn_file_cold_reads_total")
	none := reads.Get()
	for _, r := range []struct {
		first int32
		n     int
	}{{0, share}, {consumers, small}} {
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		ask(r.first, r.n)
	}
	close(stop)
	watching.Wait()
	t.Logf("%d threads before, %d at most, %d cold reads", before, most.Load(), reads.Get()-none)
	if reads.Get() == none {
		t.Skip("this file system does not forget pages, or does not say so")
	}
	if most.Load() > int64(before)+24 {
		t.Errorf("%d threads, %d before", most.Load(), before)
	}
}

// What was found in memory is looked for again when the peer took its time:
// it may be gone. The bytes are right however often that happens.
func TestMemoryIsLookedAtAgainAfterAWait(t *testing.T) {
	defer func(d time.Duration) { cachedFor = d }(cachedFor)
	cachedFor = -time.Second
	const size = 8 << 20
	file, data := fetchFile(t, size)
	defer releaseOwner(t, file)
	if err := file.OS().Sync(); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, Config{SendBuffer: 64 << 10}, fetchHandler(file, size))
	nc := s.dial()
	nc.Write(frame(1, fetchRequest(11)))
	got := make([]byte, 0, size+200)
	for want := len(got); ; {
		n, err := nc.Read(got[len(got):min(cap(got), len(got)+128<<10)])
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(got), err)
		}
		got = got[:len(got)+n]
		if want == 0 && len(got) >= 4 {
			want = 4 + int(binary.BigEndian.Uint32(got))
		}
		if want > 0 && len(got) >= want {
			break
		}
		// What is not on its way yet may have to come from the disk again.
		if err := unix.Fadvise(int(file.OS().Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.HasSuffix(got, data) {
		t.Error("other bytes arrived")
	}
	closeNow(t, s) // the writer is gone before cachedFor is restored
	stale := transfer{waited: true, fresh: time.Now().Add(-time.Second), n: 100}
	if !stale.try(^uintptr(0)) || !stale.stale || stale.n != 0 {
		t.Errorf("sent without a look: %+v", stale)
	}
}

// BenchmarkCatchUp has one consumer read a file from its beginning that is not
// in memory, a piece per request, one request after the other.
func BenchmarkCatchUp(b *testing.B) {
	const size = 512 << 20
	file, _ := fetchFile(b, size)
	defer releaseOwner(b, file)
	if err := file.OS().Sync(); err != nil {
		b.Fatal(err)
	}
	for _, piece := range []int64{1 << 20, 8 << 20} {
		b.Run(fmt.Sprintf("piece=%dMiB", piece>>20), func(b *testing.B) {
			next := int64(0)
			h := handlerFunc(func(_ context.Context, _ *Request, reply func(Reply)) {
				reply(Reply{Fetch: fetchOf(acquired(file, next, piece))})
				next = (next + piece) % size
			})
			s := startServer(b, Config{}, h)
			ask, work := frame(1, fetchRequest(11)), make(chan struct{})
			nc := s.dial()
			var reading sync.WaitGroup
			reading.Go(func() { drain(b, nc, ask, work) })
			b.SetBytes(piece)
			left := int64(0)
			for b.Loop() {
				if left == 0 {
					b.StopTimer()
					if err := unix.Fadvise(int(file.OS().Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
						b.Fatal(err)
					}
					left = size
					b.StartTimer()
				}
				left -= piece
				work <- struct{}{}
			}
			close(work)
			reading.Wait()
		})
	}
}
