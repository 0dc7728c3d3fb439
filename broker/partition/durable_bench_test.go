package partition

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/record"
)

// BenchmarkDurable is what acknowledged bytes cost in the two ways of the
// journal: copied into it, the segments synced now and then, or synced in the
// segments with each group. 16 producers, one batch under way each.
func BenchmarkDurable(b *testing.B) {
	ways := map[string]journal.Config{
		"copied": {CopyBytes: 4 << 20, FileBytes: 32 << 20, Files: 16},
		"synced": {CopyBytes: 1, FileBytes: 32 << 20, Files: 16},
	}
	for _, size := range []int{16 << 10, 64 << 10, 256 << 10, 1 << 20} {
		for _, partitions := range []int{1, 16, 256} {
			for _, way := range []string{"copied", "synced"} {
				b.Run(fmt.Sprintf("%dKiB/%dpartitions/%s", size>>10, partitions, way), func(b *testing.B) {
					benchmarkDurable(b, ways[way], size, partitions)
				})
			}
		}
	}
}

func benchmarkDurable(b *testing.B, cfg journal.Config, size, partitions int) {
	dir := b.TempDir()
	j, err := journal.Open(filepath.Join(dir, "journal"), cfg, journal.Deps{Log: testLog})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	pc := testConfig()
	pc.Fsync, pc.MaxMessageBytes = true, 4<<20
	var ps []*Partition
	for i := range partitions {
		ps = append(ps, open(b, filepath.Join(dir, fmt.Sprint(i)), pc, Deps{Journal: j}))
	}
	batch := plain(b, 1, slices.Repeat([]string{strings.Repeat("x", 1000)}, size/1010)...)
	b.SetBytes(int64(len(batch)))
	before := cpuSeconds()
	b.ResetTimer()
	var producers sync.WaitGroup
	const count = 16
	for i := range count {
		producers.Go(func() {
			batch, done := slices.Clone(batch), make(chan error, 1)
			for n := i; n < b.N; n += count {
				record.Batch(batch).SetBaseOffset(0)
				p := ps[n%partitions]
				res, err := p.Append(batch, Client)
				if err == nil {
					p.AwaitHighWatermark(res.LastOffset+1, func(err error) { done <- err })
					err = <-done
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	producers.Wait()
	b.ReportMetric((cpuSeconds()-before)/(float64(b.N)*float64(len(batch))/1e9), "cpu-s/GB")
	b.StopTimer()
	for _, p := range ps {
		if err := p.Close(); err != nil {
			b.Error(err)
		}
	}
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	s := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return s(u.Utime) + s(u.Stime)
}
