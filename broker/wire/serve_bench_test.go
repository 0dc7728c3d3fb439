package wire

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
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

// BenchmarkServeSmall sends replies of many partitions with 1 KiB of a file
// each, which are copied.
func BenchmarkServeSmall(b *testing.B) {
	file, _ := fetchFile(b, 1<<20)
	defer releaseOwner(b, file)
	for _, partitions := range []int{1, 1000} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			body := kmsg.NewPtrFetchResponse()
			topic := kmsg.NewFetchResponseTopic()
			topic.Partitions = make([]kmsg.FetchResponseTopicPartition, partitions)
			for i := range topic.Partitions {
				topic.Partitions[i] = kmsg.NewFetchResponseTopicPartition()
			}
			body.Topics = append(body.Topics, topic)
			h := handlerFunc(func(_ context.Context, _ *Request, reply func(Reply)) {
				spans := make([]record.Span, partitions)
				lists := make([][]record.Span, partitions)
				for i := range lists {
					spans[i] = acquired(file, int64(i)<<10, 1<<10)
					lists[i] = spans[i : i+1]
				}
				reply(Reply{Fetch: &FetchReply{Body: body, Spans: [][][]record.Span{lists}}})
			})
			s := startServer(b, Config{}, h)
			nc, ask := s.dial(), frame(1, fetchRequest(11))
			work := make(chan struct{})
			var reading sync.WaitGroup
			reading.Go(func() { drain(b, nc, ask, work) })
			b.SetBytes(int64(partitions) << 10)
			b.ReportAllocs()
			for b.Loop() {
				work <- struct{}{}
			}
			close(work)
			reading.Wait()
		})
	}
}
