// Command franz produces and consumes fixed-size records through franz-go
// against a broker that runs already, and prints MB/s and the broker's CPU
// seconds per GB. With --profile it also saves a CPU profile of the broker for
// each phase. The client shares the machine, so compare ratios in one run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

type options struct {
	kafka, http, topic, profile string
	records, size, partitions   int
	pid                         int
}

func main() {
	var o options
	flag.StringVar(&o.kafka, "kafka", "127.0.0.1:9092", "the broker's Kafka address")
	flag.StringVar(&o.http, "http", "127.0.0.1:9644", "the broker's HTTP address")
	flag.StringVar(&o.topic, "topic", "bench", "topic to make and use")
	flag.StringVar(&o.profile, "profile", "", "save CPU profiles as PREFIX-produce.pprof and PREFIX-consume.pprof")
	flag.IntVar(&o.records, "records", 1_000_000, "records")
	flag.IntVar(&o.size, "size", 1024, "bytes of a record's value")
	flag.IntVar(&o.partitions, "partitions", 6, "partitions of the topic")
	flag.IntVar(&o.pid, "pid", 0, "the broker's process, for its CPU seconds")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "franz:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(o.kafka), kgo.DefaultProduceTopic(o.topic), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(1<<20, false, false, nil)), kgo.MaxBufferedRecords(50_000))
	if err != nil {
		return err
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, int32(o.partitions), 1, nil, o.topic); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return err
	}
	if err := o.phase("produce", func() error { return o.produce(ctx, cl) }); err != nil {
		return err
	}
	return o.phase("consume", func() error { return o.consume(ctx) })
}

func (o *options) produce(ctx context.Context, cl *kgo.Client) error {
	// Values differ, but making them must not be what is measured.
	values := make([][]byte, 1024)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range values {
		values[i] = make([]byte, o.size)
		for j := range values[i] {
			values[i][j] = byte(r.Uint32())
		}
	}
	var failed atomic.Pointer[error]
	for i := range o.records {
		cl.Produce(ctx, &kgo.Record{Value: values[i%len(values)]}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (o *options) consume(ctx context.Context) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(o.kafka), kgo.ConsumeTopics(o.topic), kgo.FetchMaxPartitionBytes(4<<20), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer cl.Close()
	for n := 0; n < o.records; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			return err
		}
		n += fs.NumRecords()
	}
	return nil
}

// phase times f and prints what it cost.
func (o *options) phase(name string, f func() error) error {
	var profile sync.WaitGroup
	if o.profile != "" {
		profile.Go(func() {
			if err := o.saveProfile(name); err != nil {
				fmt.Fprintln(os.Stderr, "profile:", err)
			}
		})
	}
	cpu, began := cpuSeconds(o.pid), time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took, cpu := time.Since(began), cpuSeconds(o.pid)-cpu
	total := float64(o.records) * float64(o.size)
	fmt.Printf("%-8s %8.1f MB/s  %d records of %d bytes in %v", name, total/1e6/took.Seconds(), o.records, o.size, took.Round(time.Millisecond))
	if o.pid != 0 {
		fmt.Printf("  broker %.2f CPU s/GB", cpu/(total/1e9))
	}
	fmt.Println()
	profile.Wait()
	return nil
}

func (o *options) saveProfile(name string) error {
	resp, err := http.Get("http://" + o.http + "/debug/pprof/profile?seconds=5")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(o.profile + "-" + name + ".pprof")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
