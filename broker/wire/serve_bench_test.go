package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// BenchmarkServeFile sends 8 MiB of a file that is in memory per operation, to
// consumers that read it into one buffer each. "buffer" is what the kernel was
// asked for in the end.
func BenchmarkServeFile(b *testing.B) {
	const size = 8 << 20
	file, _ := fetchFile(b, 64<<20)
	defer releaseOwner(b, file)
	for _, configured := range []int{0, nearBuffer, -1} {
		for _, consumers := range []int{1, 2, 8} {
			b.Run(fmt.Sprintf("buffer=%d/consumers=%d", configured, consumers), func(b *testing.B) {
				s := startServer(b, Config{SendBuffer: configured}, fetchHandler(file, size))
				ask := frame(1, fetchRequest(11))
				b.SetBytes(size)
				b.ReportAllocs()
				work := make(chan struct{})
				var readers sync.WaitGroup
				for range consumers {
					nc := s.dial()
					readers.Go(func() { drain(b, nc, ask, work) })
				}
				for b.Loop() {
					work <- struct{}{}
				}
				close(work)
				readers.Wait()
				b.ReportMetric(mSendBuffer.Get()/float64(consumers), "buffer")
			})
		}
	}
}

// drain sends one request per item of work and reads its reply.
func drain(b *testing.B, nc net.Conn, ask []byte, work <-chan struct{}) {
	buf := make([]byte, 256<<10)
	for range work {
		if _, err := nc.Write(ask); err != nil {
			b.Error(err)
			return
		}
		if _, err := io.ReadFull(nc, buf[:4]); err != nil {
			b.Error(err)
			return
		}
		for left := int(binary.BigEndian.Uint32(buf)); left > 0; {
			n, err := nc.Read(buf[:min(left, len(buf))])
			if err != nil {
				b.Error(err)
				return
			}
			left -= n
		}
	}
}
