package journal

import (
	"fmt"
	"sync"
	"testing"

	"github.com/firnlog/firn/record"
)

// ackLog lets one appender wait for its record.
type ackLog struct {
	p    Partition
	acks chan record.Offset
	end  record.Offset
}

func (l *ackLog) Journaled(m Mark)              { l.acks <- m.End }
func (l *ackLog) Flush() (record.Offset, error) { return l.end, nil }
func (l *ackLog) End() record.Offset            { return l.end }

// BenchmarkAppend is what acknowledged bytes cost: each of a number of
// appenders waits until its record is durable before it appends another.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10, 256 << 10, 1 << 20} {
		for _, appenders := range []int{1, 4, 64} {
			b.Run(fmt.Sprintf("%dKiB/%d", size>>10, appenders), func(b *testing.B) {
				j, err := Open(b.TempDir(), Config{}, Deps{})
				if err != nil {
					b.Fatal(err)
				}
				defer j.Close()
				data := make([]byte, size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for i := range appenders {
					l := &ackLog{p: partitionOf(i), acks: make(chan record.Offset, 1)}
					wg.Go(func() {
						for k := i; k < b.N; k += appenders {
							if err := j.Append(l, Entry{Partition: l.p, Base: l.end, End: l.end + 1}, Mark{End: l.end + 1}, data); err != nil {
								b.Error(err)
								return
							}
							l.end = <-l.acks
						}
					})
				}
				wg.Wait()
			})
		}
	}
}
