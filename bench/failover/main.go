// Command failover measures how long a cluster of three brokers takes until
// all partitions of a broker that died, or was stopped, take writes again: from
// the signal to the last acknowledgement of one record to each of them.
//
//	go run ./bench/failover [-firn BINARY] [-partitions 1000] [-rounds 50] [-stop] [-idle 30s]
//
// The client is franz-go, told to look for new leaders at once, so that the
// brokers are measured and not its pauses.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	brokers = 3
	topic   = "failover"
	settle  = 2 * time.Minute // for a broker to be in sync again
)

func main() {
	firn := flag.String("firn", "bin/firn", "the `BINARY` to start")
	partitions := flag.Int("partitions", 1000, "partitions in all; each broker leads a third")
	rounds := flag.Int("rounds", 50, "how many brokers die, one after another")
	stop := flag.Bool("stop", false, "stop brokers (SIGTERM) instead of killing them (SIGKILL)")
	idle := flag.Duration("idle", 0, "before it, say what the brokers take while nothing is asked of them for so long")
	keep := flag.Bool("keep", false, "keep the brokers' folders and logs, and say where they are")
	flag.Parse()
	dir, err := os.MkdirTemp("", "failover-")
	if err == nil {
		if *keep {
			fmt.Println("folder:", dir)
		} else {
			defer os.RemoveAll(dir)
		}
		err = run(dir, *firn, *partitions, *rounds, *stop, *idle)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

func run(dir, firn string, partitions, rounds int, stop bool, idle time.Duration) error {
	ctx := context.Background()
	c, err := newCluster(dir, firn)
	if err != nil {
		return err
	}
	defer c.close()
	for i := range c.all {
		if err := c.start(i); err != nil {
			return err
		}
	}
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(c.kafka...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.MetadataMinAge(20*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }),
		kgo.ProducerLinger(0), kgo.DialTimeout(time.Second),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if err := c.ready(ctx, adm); err != nil {
		return err
	}
	before, err := c.sizes(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := create(ctx, adm, partitions); err != nil {
		return err
	}
	created := time.Since(began)
	if err := write(ctx, cl, every(partitions)); err != nil {
		return err
	}
	after, err := c.sizes(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%d partitions on %d brokers each: made in %v, all took a write after %v; %.0f writes to etcd\n", partitions, brokers,
		created.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), after.revision-before.revision)
	if idle > 0 {
		if err := c.idle(ctx, idle); err != nil {
			return err
		}
	}
	var took []time.Duration
	for round := range rounds {
		if err := inSync(ctx, adm, partitions); err != nil {
			return err
		}
		victim := round % brokers
		led, err := ledBy(ctx, adm, int32(victim+1), partitions/brokers)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := write(ctx, cl, led); err != nil { // its connections are open, its leaders known
			return err
		}
		plain := time.Since(began)
		began = time.Now()
		if err := c.end(victim, stop); err != nil {
			return err
		}
		if err := write(ctx, cl, led); err != nil {
			return err
		}
		took = append(took, time.Since(began))
		fmt.Printf("round %d: broker %d led %d partitions, all took a write after %v; before, with nothing wrong, in %v\n",
			round+1, victim+1, len(led), took[round].Round(time.Millisecond), plain.Round(time.Millisecond))
		c.gone(victim)
		if err := c.start(victim); err != nil {
			return err
		}
	}
	if len(took) == 0 {
		return nil
	}
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1)+0.5)].Round(time.Millisecond) }
	fmt.Printf("%d rounds: least %v, p50 %v, p90 %v, p99 %v, most %v\n", len(took), at(0), at(0.5), at(0.9), at(0.99), at(1))
	return nil
}

// atOnce is how many partitions are asked for with one request.
const atOnce = 5000

// create makes the topic.
func create(ctx context.Context, adm *kadm.Client, partitions int) error {
	least := "2"
	if _, err := adm.CreateTopic(ctx, int32(min(partitions, atOnce)), brokers, map[string]*string{"min.insync.replicas": &least}, topic); err != nil {
		return err
	}
	for n := atOnce; n < partitions; {
		n = min(n+atOnce, partitions)
		resp, err := adm.UpdatePartitions(ctx, n, topic)
		if err == nil {
			err = resp.Error()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// write has each of the partitions take one record.
func write(ctx context.Context, cl *kgo.Client, partitions []int32) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for _, p := range partitions {
		wg.Add(1)
		cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: p, Value: []byte("one record")}, func(_ *kgo.Record, err error) {
			if err != nil {
				mu.Lock()
				failed = errors.Join(failed, err)
				mu.Unlock()
			}
			wg.Done()
		})
	}
	wg.Wait()
	return failed
}

func every(n int) []int32 {
	all := make([]int32, n)
	for i := range all {
		all[i] = int32(i)
	}
	return all
}

// ledBy lists the partitions that a broker leads, once those are so many.
func ledBy(ctx context.Context, adm *kadm.Client, id int32, atLeast int) ([]int32, error) {
	until := time.Now().Add(settle)
	for {
		var led []int32
		t, err := adm.ListTopics(ctx, topic)
		if err == nil {
			for _, p := range t[topic].Partitions.Sorted() {
				if p.Leader == id {
					led = append(led, p.Partition)
				}
			}
		}
		if len(led) >= atLeast {
			return led, nil
		}
		if time.Now().After(until) {
			return nil, fmt.Errorf("broker %d leads %d partitions, %d are its own: %w", id, len(led), atLeast, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// inSync waits until every partition has all its replicas in sync, and gives
// each to its preferred leader.
func inSync(ctx context.Context, adm *kadm.Client, partitions int) error {
	until := time.Now().Add(settle)
	for {
		t, err := adm.ListTopics(ctx, topic)
		whole := 0
		if err == nil {
			for _, p := range t[topic].Partitions {
				if len(p.ISR) == brokers {
					whole++
				}
			}
		}
		if whole == partitions {
			break
		}
		if time.Now().After(until) {
			return fmt.Errorf("%d of %d partitions are in sync: %w", whole, partitions, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	_, err := adm.ElectLeaders(ctx, kadm.ElectPreferredReplica, nil)
	return err
}

// cluster is three processes on loopback.
type cluster struct {
	dir, firn              string
	kafka, http, peer, cli []string
	all                    [brokers]*exec.Cmd
	ended                  [brokers]chan struct{}
}

func newCluster(dir, firn string) (*cluster, error) {
	c := &cluster{dir: dir, firn: firn}
	for _, list := range []*[]string{&c.kafka, &c.http, &c.peer, &c.cli} {
		for range brokers {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			defer ln.Close() // all of them are taken until all are known
			*list = append(*list, ln.Addr().String())
		}
	}
	return c, os.Mkdir(filepath.Join(dir, "store"), 0o755)
}

func (c *cluster) start(i int) error {
	out, err := os.OpenFile(filepath.Join(c.dir, fmt.Sprint(i+1, ".log")), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(c.firn, "start", "--node-id", fmt.Sprint(i+1), "--data", filepath.Join(c.dir, fmt.Sprint(i+1)),
		"--kafka", c.kafka[i], "--http", c.http[i], "--peer", c.peer[i], "--peer-client", c.cli[i],
		"--seeds", strings.Join(c.peer, ","), "--store", "file://"+filepath.Join(c.dir, "store"))
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	c.all[i], c.ended[i] = cmd, ended
	return nil
}

// ready waits until all brokers are registered.
func (c *cluster) ready(ctx context.Context, adm *kadm.Client) error {
	until := time.Now().Add(settle)
	for {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		b, err := adm.ListBrokers(ctx)
		cancel()
		if len(b) == brokers {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("%d of %d brokers are there: %w", len(b), brokers, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// end sends a broker its signal.
func (c *cluster) end(i int, stop bool) error {
	if stop {
		return c.all[i].Process.Signal(syscall.SIGTERM)
	}
	return c.all[i].Process.Kill()
}

// gone waits until a broker's process has ended.
func (c *cluster) gone(i int) { <-c.ended[i] }

func (c *cluster) close() {
	for i, cmd := range c.all {
		if cmd != nil {
			_ = cmd.Process.Kill()
			c.gone(i)
		}
	}
}
