// Package librdkafka drives a real firn with librdkafka (confluent-kafka-go
// links it, so this module needs cgo and stays apart from the others).
package librdkafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/firnlog/firn/test/clients/bytewise"
)

// start runs $FIRNDEV_BIN (or the checkout's bin/firn) on a fresh folder.
func start(t *testing.T) (bootstrap, httpAddr string) {
	t.Helper()
	port := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().String()
	}
	bootstrap, httpAddr = port(), port()
	log, err := os.Create(filepath.Join(t.TempDir(), "firn.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bytewise.Binary(), "start", "--data", filepath.Join(t.TempDir(), "data"), "--kafka", bootstrap, "--http", httpAddr,
		"--upload-check", "200ms", "--upload-wait", "0s", "--set", "log.retention.check.interval.ms=200")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (make builds bin/firn)", err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("firn stopped with %v", err)
		}
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("%s", b)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		if resp, err := http.Get("http://" + httpAddr + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return bootstrap, httpAddr
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("firn was not ready within a minute")
		}
		<-time.After(20 * time.Millisecond)
	}
}

func createTopic(t *testing.T, bootstrap, name string, partitions int, config map[string]string) {
	t.Helper()
	adm, err := kafka.NewAdminClient(&kafka.ConfigMap{"bootstrap.servers": bootstrap})
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	res, err := adm.CreateTopics(t.Context(), []kafka.TopicSpecification{{Topic: name, NumPartitions: partitions, ReplicationFactor: 1, Config: config}})
	if err != nil {
		t.Fatal(err)
	}
	if code := res[0].Error.Code(); code != kafka.ErrNoError {
		t.Fatalf("create topic %s: %v", name, res[0].Error)
	}
}

// produce sends n numbered records and waits for every acknowledgement.
func produce(t *testing.T, bootstrap, topic string, n int, extra kafka.ConfigMap) {
	t.Helper()
	cfg := kafka.ConfigMap{"bootstrap.servers": bootstrap, "enable.idempotence": true, "linger.ms": 5}
	for k, v := range extra {
		cfg[k] = v
	}
	p, err := kafka.NewProducer(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	delivered := make(chan error, 1)
	go func() {
		var failed error
		for i := 0; i < n; {
			switch e := (<-p.Events()).(type) {
			case *kafka.Message:
				i++
				failed = errors.Join(failed, e.TopicPartition.Error)
			case kafka.Error:
				if e.IsFatal() {
					failed = errors.Join(failed, e)
					i = n
				}
			}
		}
		delivered <- failed
	}()
	for i := range n {
		m := &kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: kafka.PartitionAny},
			Key: fmt.Appendf(nil, "k%d", i%100), Value: fmt.Appendf(nil, "value %d", i), Headers: []kafka.Header{{Key: "n", Value: fmt.Append(nil, i)}}}
		for {
			err := p.Produce(m, nil)
			if err == nil {
				break
			}
			var kerr kafka.Error
			if !errors.As(err, &kerr) || kerr.Code() != kafka.ErrQueueFull {
				t.Fatal(err)
			}
			p.Flush(10)
		}
	}
	select {
	case err := <-delivered:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("not everything was delivered within a minute")
	}
}

// consume reads with a group until n different records came.
func consume(t *testing.T, bootstrap, group, topic string, n int, extra kafka.ConfigMap) map[string]bool {
	t.Helper()
	cfg := kafka.ConfigMap{"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": false, "check.crcs": true}
	for k, v := range extra {
		cfg[k] = v
	}
	c, err := kafka.NewConsumer(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Subscribe(topic, nil); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for deadline := time.Now().Add(time.Minute); len(got) < n; {
		m, err := c.ReadMessage(time.Second)
		var kerr kafka.Error
		if errors.As(err, &kerr) && kerr.IsTimeout() {
			if time.Now().After(deadline) {
				t.Fatalf("%d records of %d within a minute", len(got), n)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got[string(m.Value)] = true
	}
	if _, err := c.Commit(); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestProduceConsumeEveryCodec(t *testing.T) {
	bootstrap, _ := start(t)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			topic := "codec-" + codec
			createTopic(t, bootstrap, topic, 3, nil)
			produce(t, bootstrap, topic, 5000, kafka.ConfigMap{"compression.type": codec})
			consume(t, bootstrap, "readers-"+codec, topic, 5000, nil)
		})
	}
}

func TestReplayFromTheObjectStore(t *testing.T) {
	bootstrap, httpAddr := start(t)
	createTopic(t, bootstrap, "cold", 1, map[string]string{"remote.storage.enable": "true", "segment.bytes": "1048576", "local.retention.ms": "1", "retention.ms": "-1"})
	produce(t, bootstrap, "cold", 100_000, kafka.ConfigMap{"compression.type": "none"})
	for deadline := time.Now().Add(time.Minute); ; {
		resp, err := http.Get("http://" + httpAddr + "/v1/tier/cold")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(body), `"localBytes":0,`) && strings.Contains(string(body), `"remoteEnd":100000`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not tiered within a minute: %s", body)
		}
		<-time.After(100 * time.Millisecond)
	}
	consume(t, bootstrap, "replay", "cold", 100_000, nil)
}

// TestRebalances lets members come and go under each assignor; together they
// must see every record.
func TestRebalances(t *testing.T) {
	bootstrap, _ := start(t)
	for _, strategy := range []string{"range", "roundrobin", "cooperative-sticky"} {
		t.Run(strategy, func(t *testing.T) {
			topic := "shared-" + strategy
			createTopic(t, bootstrap, topic, 6, nil)
			extra := kafka.ConfigMap{"partition.assignment.strategy": strategy, "session.timeout.ms": 6000, "heartbeat.interval.ms": 200}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			const n = 3000
			values := make(chan string, n)
			for i := range 3 {
				member := make(chan error, 1)
				go func() { member <- read(ctx, bootstrap, "g-"+strategy, topic, i, extra, values) }()
				t.Cleanup(func() {
					cancel()
					if err := <-member; err != nil {
						t.Error(err)
					}
				})
			}
			produce(t, bootstrap, topic, n, nil)
			seen := map[string]bool{}
			for len(seen) < n {
				select {
				case v := <-values:
					seen[v] = true
				case <-ctx.Done():
					t.Fatalf("%d records of %d", len(seen), n)
				}
			}
		})
	}
}

// read is one member of a group; the last of them leaves after some records.
func read(ctx context.Context, bootstrap, group, topic string, member int, extra kafka.ConfigMap, values chan<- string) error {
	cfg := kafka.ConfigMap{"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", "group.instance.id": fmt.Sprintf("%s-%d", group, member)}
	for k, v := range extra {
		cfg[k] = v
	}
	c, err := kafka.NewConsumer(&cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Subscribe(topic, nil); err != nil {
		return err
	}
	for ctx.Err() == nil {
		m, err := c.ReadMessage(200 * time.Millisecond)
		var kerr kafka.Error
		if errors.As(err, &kerr) && (kerr.IsTimeout() || kerr.IsRetriable()) {
			continue
		}
		if err != nil {
			return fmt.Errorf("member %d: %w", member, err)
		}
		select {
		case values <- string(m.Value):
		case <-ctx.Done():
		}
	}
	return nil
}
