package blackbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/test/firntest"
)

// TestRollingRestart: the loop of docs/cluster.md, with a producer that runs
// meanwhile: each of its records is there once, and it is told of no error.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	var seeds, kafka []string
	for range 3 {
		seeds = append(seeds, firntest.FreePort(t))
	}
	store := "file://" + t.TempDir()
	members := make([]*firntest.Broker, 3)
	for i := range members {
		members[i] = firntest.New(t, "--node-id", fmt.Sprint(i+1), "--seeds", strings.Join(seeds, ","), "--store", store, "--peer", seeds[i], "--peer-client", firntest.FreePort(t))
		members[i].Launch()
		kafka = append(kafka, members[i].Kafka)
	}
	brokers := strings.Join(kafka, ",")
	firntest.Eventually(t, "three brokers and a topic", func() error {
		_, stderr, code := firntest.Run(t, "topic", "create", "kept", "--brokers", brokers, "--partitions", "6", "--replicas", "3", "--config", "min.insync.replicas=2", "--if-not-exists")
		if code != 0 {
			return fmt.Errorf("%s", stderr)
		}
		return nil
	})
	check := func(args ...string) string {
		t.Helper()
		out, stderr, code := firntest.Run(t, slices.Concat([]string{"cluster", "restart-check", "--wait", "60s", "--brokers", brokers}, args)...)
		if code != 0 {
			t.Fatalf("restart-check %v: exit code %d\n%s%s", args, code, out, stderr)
		}
		return stderr
	}
	written, stop := keepProducing(t, brokers, "kept")
	written(20)
	for i, b := range members {
		check(fmt.Sprint(i + 1))
		b.Stop()
		if _, stderr, code := firntest.Run(t, "cluster", "restart-check", fmt.Sprint((i+1)%3+1), "--brokers", brokers); code != 1 || !strings.Contains(stderr, fmt.Sprintf("broker %d is not running", i+1)) {
			t.Errorf("broker %d is away: exit code %d, %s", i+1, code, stderr)
		}
		b.Start()
	}
	check()
	written(20)
	readNumbers(t, brokers, "kept", stop())
}

// keepProducing produces rising numbers to a topic, each acknowledged before
// the next, until stop is called, which gives how many there were. written waits
// until there are that many more. A client of this kind asks where leaders are
// every five seconds at most; here it asks as often as others do.
func keepProducing(t *testing.T, brokers, topic string) (written func(more int), stop func() int) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.DefaultProduceTopic(topic),
		kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	n := 0
	var work sync.WaitGroup
	work.Go(func() {
		defer close(done)
		defer cl.Close()
		for ctx.Err() == nil {
			if err := cl.ProduceSync(context.WithoutCancel(ctx), kgo.StringRecord(fmt.Sprint(n))).FirstErr(); err != nil {
				t.Errorf("record %d: %v", n, err)
				return
			}
			n++
			select {
			case done <- n:
			default:
			}
		}
	})
	written = func(more int) {
		t.Helper()
		deadline := time.After(time.Minute)
		first, ok := <-done
		for now := first; ok && now < first+more; {
			select {
			case now, ok = <-done:
			case <-deadline:
				t.Fatalf("%d records are not written within a minute", more)
			}
		}
	}
	return written, func() int { cancel(); work.Wait(); return n }
}
