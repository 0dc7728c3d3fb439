package librdkafka

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/firnlog/firn/test/clients/bytewise"
)

// node is one broker of a cluster.
type node struct {
	kafka, http string
	cmd         *exec.Cmd
}

// startRacks runs three brokers, in the racks a, b and c.
func startRacks(t *testing.T) []*node {
	t.Helper()
	port := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().String()
	}
	dir := t.TempDir()
	peers := []string{port(), port(), port()}
	var nodes []*node
	for i, peer := range peers {
		n := &node{kafka: port(), http: port()}
		n.cmd = exec.Command(bytewise.Binary(), "start", "--node-id", fmt.Sprint(i+1), "--rack", string(rune('a'+i)), "--data", filepath.Join(dir, fmt.Sprint(i+1)),
			"--kafka", n.kafka, "--http", n.http, "--peer", peer, "--peer-client", port(), "--seeds", strings.Join(peers, ","), "--store", "file://"+filepath.Join(dir, "objects"),
			"--set", "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector")
		log, err := os.Create(filepath.Join(dir, fmt.Sprintf("%d.log", i+1)))
		if err != nil {
			t.Fatal(err)
		}
		n.cmd.Stdout, n.cmd.Stderr = log, log
		n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := n.cmd.Start(); err != nil {
			t.Fatalf("%v (make builds bin/firn)", err)
		}
		t.Cleanup(func() {
			n.kill()
			if t.Failed() {
				b, _ := os.ReadFile(log.Name())
				t.Logf("%s", b)
			}
		})
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		awaitTrue(t, "a broker being ready", func() bool {
			resp, err := http.Get("http://" + n.http + "/readyz")
			if err == nil {
				resp.Body.Close()
			}
			return err == nil && resp.StatusCode == http.StatusOK
		})
	}
	return nodes
}

func (n *node) kill() {
	_ = n.cmd.Process.Kill() // it may be over
	_ = n.cmd.Wait()
}

// metric gives the value of a series without labels.
func (n *node) metric(t *testing.T, name string) int64 {
	t.Helper()
	resp, err := http.Get("http://" + n.http + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			v, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

func awaitTrue(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// A consumer with client.rack reads from the follower there (KIP-392). When that
// is killed, it goes on at the leader, without a gap and without a repetition.
func TestReadsFromNearFollower(t *testing.T) {
	nodes := startRacks(t)
	bootstrap := nodes[0].kafka + "," + nodes[2].kafka
	adm, err := kafka.NewAdminClient(&kafka.ConfigMap{"bootstrap.servers": bootstrap})
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	const topic = "near"
	res, err := adm.CreateTopics(context.Background(), []kafka.TopicSpecification{{Topic: topic, NumPartitions: 1, ReplicaAssignment: [][]int32{{1, 2, 3}}, Config: map[string]string{"min.insync.replicas": "2"}}})
	if err != nil || res[0].Error.Code() != kafka.ErrNoError {
		t.Fatal(err, res)
	}
	sent := 0
	send := func() {
		t.Helper()
		produce(t, bootstrap, topic, 50, nil)
		sent += 50
	}
	send()
	c, err := kafka.NewConsumer(&kafka.ConfigMap{"bootstrap.servers": bootstrap, "group.id": "near", "enable.auto.commit": false, "client.rack": "b", "check.crcs": true, "fetch.wait.max.ms": 500})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	name := topic
	if err := c.Assign([]kafka.TopicPartition{{Topic: &name, Partition: 0, Offset: 0}}); err != nil {
		t.Fatal(err)
	}
	read := 0
	consume := func() {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); read < sent; {
			m, err := c.ReadMessage(100 * time.Millisecond)
			if err != nil {
				if e, ok := err.(kafka.Error); ok && (e.IsTimeout() || e.IsRetriable() || e.Code() == kafka.ErrTransport || e.Code() == kafka.ErrAllBrokersDown) && time.Now().Before(deadline) {
					continue
				}
				t.Fatalf("after %d of %d records: %v", read, sent, err)
			}
			if m.TopicPartition.Offset != kafka.Offset(read) {
				t.Fatalf("offset %v where %d is next", m.TopicPartition.Offset, read)
			}
			read++
		}
	}
	consume()
	awaitTrue(t, "reading from broker 2", func() bool {
		before := nodes[1].metric(t, "firn_partition_hot_reads_total") // it leads nothing
		send()
		consume()
		return nodes[1].metric(t, "firn_partition_hot_reads_total") > before
	})
	if nodes[0].metric(t, "firn_api_fetches_sent_to_near_replicas_total") == 0 {
		t.Error("the leader has sent nobody elsewhere")
	}
	nodes[1].kill()
	send()
	consume()
}
