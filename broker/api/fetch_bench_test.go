package api

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

func usedMemory() int64 {
	runtime.GC()
	runtime.GC() // what pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// idleCPU is what the process uses in a second.
func idleCPU(b *testing.B) time.Duration {
	before := cpuTime(b)
	time.Sleep(time.Second)
	return cpuTime(b) - before
}

// poller is a consumer without a socket.
type poller struct {
	a   *API
	req *kmsg.FetchRequest
}

func newPoller(a *API, topic *metastore.Topic, first, width int) *poller {
	req := fetchRequest(topic, 13, make([]int64, width)...)
	req.MaxWaitMillis, req.MinBytes = 300_000, 1
	for i := range req.Topics[0].Partitions {
		req.Topics[0].Partitions[i].Partition = int32((first + i) % len(topic.Partitions))
	}
	return &poller{a: a, req: req}
}

// send asks for what comes after what there is now.
func (p *poller) send(ctx context.Context, answered *atomic.Int64) {
	t := &p.req.Topics[0]
	for i := range t.Partitions {
		t.Partitions[i].FetchOffset = int64(partitionOf(t, i).State().HighWatermark)
	}
	req := *p.req // the API takes it over
	p.a.Serve(ctx, &wire.Request{Client: &wire.Client{}, Body: &req}, func(r wire.Reply) {
		if r.Fetch != nil {
			releaseAll(r.Fetch.Spans)
		}
		answered.Add(1)
	})
}

func partitionOf(t *kmsg.FetchRequestTopic, i int) *partition.Partition {
	return shared.Get(t.Topic, record.PartitionID(t.Partitions[i].Partition))
}

// BenchmarkWaitingFetches has 10,000 fetches wait for records of 5,000
// partitions, width partitions each. Per fetch: what is held (B/fetch), what it
// costs while nothing comes (idle-µs/s of CPU, all together, beyond what the
// process uses anyway). The time is that
// of an append, of which the fetches of that partition hear, 2*width of them:
// with reached they are answered and sent again, else what came is too little
// (they read it beside the next append).
func BenchmarkWaitingFetches(b *testing.B) {
	const fetches, partitions = 10_000, 5_000
	topic := makeTopic(b, partitions)
	for _, width := range []int{1, 20} {
		for _, reached := range []bool{true, false} {
			b.Run(fmt.Sprintf("width=%d/reached=%v", width, reached), func(b *testing.B) {
				a := New(Config{BrokerID: testBroker}, shared.deps)
				ctx, cancel := context.WithCancel(context.Background())
				var answered atomic.Int64
				pollers, of := make([]*poller, fetches), make([][]*poller, partitions)
				for i := range pollers {
					pollers[i] = newPoller(a, topic, i*width, width)
					if !reached {
						pollers[i].req.MinBytes = 1 << 20
					}
					for j := range width {
						p := (i*width + j) % partitions
						of[p] = append(of[p], pollers[i])
					}
				}
				quiet := idleCPU(b)
				before, goroutines := usedMemory(), runtime.NumGoroutine()
				for _, p := range pollers {
					p.send(ctx, &answered)
				}
				time.Sleep(200 * time.Millisecond)
				held, routines := usedMemory()-before, runtime.NumGoroutine()-goroutines
				idle := idleCPU(b) - quiet
				records := record.Batch(batch(b, 1))
				cpu, n := cpuTime(b), 0
				for b.Loop() {
					p := n * 7 % partitions
					n++
					records.SetBaseOffset(0)
					answered.Store(0)
					if _, err := shared.Get(topic.Name, record.PartitionID(p)).Append(records, partition.Client); err != nil {
						b.Fatal(err)
					}
					if reached {
						for answered.Load() < int64(len(of[p])) {
							runtime.Gosched()
						}
						for _, po := range of[p] {
							po.send(ctx, &answered)
						}
					}
				}
				b.ReportMetric(float64(cpuTime(b)-cpu)/float64(n)/1e3, "CPU-µs/append")
				b.ReportMetric(float64(held)/fetches, "B/fetch")
				b.ReportMetric(float64(routines)/fetches, "goroutines/fetch")
				b.ReportMetric(float64(idle.Microseconds()), "idle-µs/s")
				cancel()
				for a.waiting.Load() > 0 {
					time.Sleep(time.Millisecond)
				}
			})
		}
	}
}

// BenchmarkFetch is one Fetch without a socket, of a session with 1,000
// partitions or without one, of which some have a record for the reader.
func BenchmarkFetch(b *testing.B) {
	const partitions = 1000
	topic := makeTopic(b, partitions)
	for i := range int32(partitions) {
		write(b, topic, i, 1)
	}
	ctx := context.Background()
	for _, c := range []struct {
		name           string
		session        bool
		width, changed int
	}{
		{"session=1000/with-records=0", true, 1000, 0},
		{"session=1000/with-records=1", true, 1000, 1},
		{"session=1000/with-records=1000", true, 1000, 1000},
		{"whole=1/with-records=1", false, 1, 1},
		{"whole=100/with-records=100", false, 100, 100},
	} {
		b.Run(c.name, func(b *testing.B) {
			a := New(Config{BrokerID: testBroker}, shared.deps)
			req := fetchRequest(topic, 13, make([]int64, c.width)...)
			req.MaxBytes = 50 << 20
			for i := range c.width - c.changed {
				req.Topics[0].Partitions[c.changed+i].FetchOffset = 1
			}
			var last wire.Reply
			reply := func(r wire.Reply) { last = r }
			serve := func(req *kmsg.FetchRequest) *kmsg.FetchResponse {
				sent := *req // the API takes it over
				a.Serve(ctx, &wire.Request{Client: &wire.Client{}, Body: &sent}, reply)
				releaseAll(last.Fetch.Spans)
				if last.Fetch.Body.ErrorCode != 0 {
					b.Fatalf("error %d", last.Fetch.Body.ErrorCode)
				}
				return last.Fetch.Body
			}
			if c.session {
				req.SessionEpoch = 0
				resp := serve(req)
				req.SessionID, req.Topics = resp.SessionID, nil
			}
			b.ReportAllocs()
			for b.Loop() {
				if c.session {
					req.SessionEpoch = nextSessionEpoch(req.SessionEpoch)
				}
				resp := serve(req)
				named := 0
				if len(resp.Topics) > 0 {
					named = len(resp.Topics[0].Partitions)
				}
				if named != c.changed {
					b.Fatalf("%d partitions are named", named)
				}
			}
		})
	}
}
