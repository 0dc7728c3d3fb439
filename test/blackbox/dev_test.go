package blackbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/test/firntest"
)

// dev is a running firn dev.
type dev struct {
	t     *testing.T
	cmd   *exec.Cmd
	end   chan error
	err   lockedBuffer
	temp  string // in which its folder is
	ready struct {
		Event, Bootstrap, Data, Store string
		Brokers                       []struct {
			ID          int
			Kafka, HTTP string
			PID         int
		}
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// startDev starts a cluster and waits until it is ready.
func startDev(t *testing.T, brokers int) *dev {
	t.Helper()
	var offsets []int
	for i := range brokers {
		offsets = append(offsets, i, 100+i, 100+brokers+i, 100+2*brokers+i)
	}
	d := &dev{t: t, temp: t.TempDir(), end: make(chan error, 1)}
	d.cmd = exec.Command(firntest.Binary(t), "dev", "--output", "json", "--brokers", fmt.Sprint(brokers), "--port", fmt.Sprint(firntest.FreePorts(t, offsets...)))
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.temp)
	d.cmd.Stderr = &d.err
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the brokers end with their parent
		d.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("firn dev printed:\n%s", d.err.String())
		}
	})
	if err := json.NewDecoder(stdout).Decode(&d.ready); err != nil || d.ready.Event != "ready" || len(d.ready.Brokers) != brokers {
		t.Fatalf("%v, %+v\n%s", err, d.ready, d.err.String())
	}
	go func() { d.end <- d.cmd.Wait() }()
	return d
}

// run runs a command against the cluster, wants its exit code, and gives what
// it printed.
func (d *dev) run(code int, args ...string) string {
	d.t.Helper()
	out, stderr, got := firntest.Run(d.t, append(args, "--brokers", d.ready.Bootstrap)...)
	if got != code {
		d.t.Fatalf("firn %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, stderr)
	}
	return out + stderr
}

func (d *dev) wants(text string, parts ...string) {
	d.t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			d.t.Errorf("%q is not said in:\n%s", p, text)
		}
	}
}

// stop sends SIGINT, as Ctrl-C does, and wants that nothing is left: no
// process, no folder.
func (d *dev) stop() {
	d.t.Helper()
	d.cmd.Process.Signal(os.Interrupt)
	select {
	case err := <-d.end:
		if err != nil {
			d.t.Errorf("firn dev ended with %v", err)
		}
	case <-time.After(time.Minute):
		d.t.Fatal("firn dev does not end")
	}
	for _, b := range d.ready.Brokers {
		if err := syscall.Kill(b.PID, 0); !errors.Is(err, syscall.ESRCH) {
			d.t.Errorf("broker %d, process %d, is still there: %v", b.ID, b.PID, err)
		}
	}
	if left, err := os.ReadDir(d.temp); err != nil || len(left) > 0 {
		d.t.Errorf("it left %v, %v", left, err)
	}
}

// Three brokers by one command, seen and changed with firn cluster: all is
// well; one dies; it is removed for good.
func TestDevCluster(t *testing.T) {
	t.Parallel()
	d := startDev(t, 3)
	var twin sync.WaitGroup
	twin.Go(func() { d.refuseTwin() })
	d.wants(d.run(0, "cluster", "status"), "3 alive (1,2,3)", "voters 1,2,3", "all is well")
	d.wants(d.run(0, "cluster", "health"), "all is well", "leader")
	d.wants(d.run(0, "cluster", "restart-check", "2"), "broker 2 may be restarted now")
	d.create("safe", []int32{1, 2})
	d.create("wide", []int32{1, 2, 3})
	d.counts(2, 5, 0)
	d.wants(d.run(1, "cluster", "remove", "1"), "broker 1 has replicas of 2 partitions, safe-0", "decommission 1", "--member-only")
	d.wants(d.run(1, "cluster", "remove", "9"), "there is no broker 9")
	d.wants(d.run(1, "cluster", "add", "2", "127.0.0.1:1"), "DUPLICATE_VOTER")

	// Broker 3 dies.
	if err := syscall.Kill(d.ready.Brokers[2].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	firntest.Eventually(t, "the death is reported and noticed", func() error {
		out, stderr, code := firntest.Run(t, "cluster", "status", "--brokers", d.ready.Bootstrap)
		if said := d.err.String(); code != 1 || !strings.Contains(out, "2 alive (1,2)") || !strings.Contains(said, "broker 3 ended: signal: killed; start it again with: firn start --node-id 3") {
			return fmt.Errorf("exit code %d\n%s%s%s", code, out, stderr, said)
		}
		return nil
	})
	d.wants(d.run(1, "cluster", "health"), "broker 3 does not answer")
	d.wants(d.run(1, "cluster", "restart-check", "1"), "etcd would lose its quorum: 1 of 3 voters would answer, 2 must")
	d.wants(d.run(1, "cluster", "remove", "2", "--member-only"), "too few of etcd's voters")
	d.produceAndConsume("safe", 50)
	d.counts(2, 4, 1)
	d.wants(d.run(1, "cluster", "status", "--partitions"), "1 dead (3)", "1 partition is under-replicated", "1,2,3")
	d.wants(d.run(1, "cluster", "remove", "3"), "broker 3 has replicas of 1 partition, wide-0")
	d.unregister(3, kerr.InvalidRequest, "partitions: 1, one of them wide-0")
	d.run(0, "topic", "delete", "wide", "--yes")
	d.unregister(3, kerr.InvalidRequest, "is a member of etcd")
	d.unregister(1, kerr.InvalidRequest, "is running")
	d.quorum([]int32{1, 2, 3}, 3)
	d.wants(d.run(0, "cluster", "remove", "3"), "broker 3 is removed")
	d.quorum([]int32{1, 2}, -1)
	d.wants(d.run(1, "cluster", "remove", "3"), "there is no broker 3")
	d.wants(d.run(0, "cluster", "nodes"), "in sync")
	d.wants(d.run(0, "cluster", "status"), "all is well")
	twin.Wait()
	d.stop()
}

// refuseTwin starts a broker with the node id of one that lives, and one whose
// folder is of another cluster.
func (d *dev) refuseTwin() {
	var seeds []string
	for _, b := range d.ready.Brokers { // their peer addresses follow the HTTP addresses
		host, port, _ := strings.Cut(b.HTTP, ":")
		var n int
		fmt.Sscan(port, &n)
		seeds = append(seeds, fmt.Sprintf("%s:%d", host, n+len(d.ready.Brokers)))
	}
	start := func(id string, folder string) (stderr string, code int) {
		_, stderr, code = firntest.Run(d.t, "start", "--node-id", id, "--data", folder, "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0",
			"--store", d.ready.Store, "--seeds", strings.Join(seeds, ","))
		return stderr, code
	}
	said, code := start("1", filepath.Join(d.t.TempDir(), "twin"))
	if code != 1 || !strings.Contains(said, "node id is taken: broker 1 runs at "+d.ready.Brokers[0].Kafka) || !strings.Contains(said, "--node-id") {
		d.t.Errorf("the id of a live broker: exit code %d, %s", code, said)
	}
	other := filepath.Join(d.t.TempDir(), "other")
	if err := errors.Join(os.MkdirAll(other, 0o755), os.WriteFile(filepath.Join(other, "firn.json"), []byte(`{"version":1,"clusterId":"of-another","nodeId":8,"diskId":"d","cacheId":"c"}`), 0o644)); err != nil {
		d.t.Error(err)
	}
	if said, code := start("8", other); code != 1 || !strings.Contains(said, "belongs to cluster of-another") || !strings.Contains(said, "--seeds") {
		d.t.Errorf("the folder of another cluster: exit code %d, %s", code, said)
	}
}

// create makes a topic of one partition on these brokers.
func (d *dev) create(topic string, replicas []int32) {
	d.t.Helper()
	ctx, cancel := firntest.Context(d.t)
	defer cancel()
	cl := d.client()
	defer cl.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, -1, -1
	ra := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
	ra.Replicas = replicas
	rt.ReplicaAssignment = append(rt.ReplicaAssignment, ra)
	req.Topics, req.TimeoutMillis = append(req.Topics, rt), 10_000
	resp, err := req.RequestWith(ctx, cl)
	if err != nil || resp.Topics[0].ErrorCode != 0 {
		d.t.Fatalf("%v, %+v", err, resp)
	}
}

func (d *dev) client(opts ...kgo.Opt) *kgo.Client {
	d.t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(strings.Split(d.ready.Bootstrap, ",")...))...)
	if err != nil {
		d.t.Fatal(err)
	}
	return cl
}

func (d *dev) produceAndConsume(topic string, n int) {
	d.t.Helper()
	ctx, cancel := firntest.Context(d.t)
	defer cancel()
	cl := d.client(kgo.ConsumeTopics(topic), kgo.DefaultProduceTopic(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	for i := range n {
		if err := cl.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint(i))).FirstErr(); err != nil {
			d.t.Fatal(err)
		}
	}
	for got := 0; got < n; {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			d.t.Fatal(err)
		}
		got += f.NumRecords()
	}
}

// quorum wants what DescribeQuorum says at each version: these voters, of whom
// silent does not answer, -1 for none.
func (d *dev) quorum(voters []int32, silent int32) {
	d.t.Helper()
	ctx, cancel := firntest.Context(d.t)
	defer cancel()
	cl := d.client()
	defer cl.Close()
	for version := range int16(3) {
		req := kmsg.NewPtrDescribeQuorumRequest()
		req.Version = version
		req.Topics = []kmsg.DescribeQuorumRequestTopic{{Topic: "__cluster_metadata", Partitions: []kmsg.DescribeQuorumRequestTopicPartition{{}}}}
		got, err := cl.Broker(1).Request(ctx, req)
		if err != nil {
			d.t.Fatal(err)
		}
		resp := got.(*kmsg.DescribeQuorumResponse)
		p := resp.Topics[0].Partitions[0]
		now := int64(-1)
		for _, v := range p.CurrentVoters {
			now = max(now, v.LastFetchTimestamp)
		}
		var ids []int32
		for _, v := range p.CurrentVoters {
			ids = append(ids, v.ReplicaID)
			if well := v.LastCaughtUpTimestamp == now && v.LogEndOffset > 0; version >= 1 && well == (v.ReplicaID == silent) {
				d.t.Errorf("version %d: voter %+v", version, v)
			}
		}
		slices.Sort(ids)
		if !slices.Equal(ids, voters) || !slices.Contains(voters, p.LeaderID) || p.LeaderID == silent || p.LeaderEpoch < 1 || p.HighWatermark < 1 || len(p.Observers) > 0 {
			d.t.Errorf("version %d: %+v, want the voters %v", version, p, voters)
		}
		if version >= 2 && len(resp.Nodes) != 2 {
			d.t.Errorf("version %d: nodes %+v", version, resp.Nodes)
		}
	}
}

// One broker is a cluster, too.
func TestDevAlone(t *testing.T) {
	t.Parallel()
	d := startDev(t, 1)
	d.wants(d.run(0, "cluster", "status"), "1 alive (1)", "voters 1", "all is well")
	d.wants(d.run(1, "cluster", "restart-check"), "etcd would lose its quorum")
	d.wants(d.run(1, "cluster", "add", "2", "127.0.0.1:1"), "is on its own")
	d.wants(d.run(1, "cluster", "remove", "1"), "only voter")
	d.stop()
}

// counts waits until the brokers' metrics say so together: that many partitions
// that are led, replicas, and partitions that are under-replicated, all of them
// as many as topics ask for and none moved.
func (d *dev) counts(leaders, replicas, under float64) {
	d.t.Helper()
	want := map[string]float64{
		"firn_broker_leaders": leaders, "firn_broker_replicas": replicas, "firn_broker_partitions_under_replicated": under,
		"firn_broker_partitions_under_min_isr": 0, "firn_broker_partitions_at_min_isr": 0, "firn_broker_partitions_reassigning": 0,
		"firn_controller_partitions_without_leader": 0,
	}
	firntest.Eventually(d.t, "metrics count partitions", func() error {
		if got := d.metricsOf(slices.Collect(maps.Keys(want))...); !maps.Equal(got, want) {
			return fmt.Errorf("%v, want %v", got, want)
		}
		return nil
	})
	if got := d.metricsOf("firn_broker_isr_shrinks_total", "firn_broker_isr_expands_total", "firn_controller_isr_shrinks_total"); (got["firn_controller_isr_shrinks_total"] > 0) != (under > 0) {
		d.t.Errorf("with %v partitions under-replicated: %v", under, got)
	}
}

// unregister asks to have a broker forgotten, which is refused.
func (d *dev) unregister(id int32, want *kerr.Error, why string) {
	d.t.Helper()
	ctx, cancel := firntest.Context(d.t)
	defer cancel()
	cl := d.client()
	defer cl.Close()
	req := kmsg.NewPtrUnregisterBrokerRequest()
	req.BrokerID = id
	resp, err := req.RequestWith(ctx, cl)
	if err != nil || resp.ErrorCode != want.Code || resp.ErrorMessage == nil || !strings.Contains(*resp.ErrorMessage, why) {
		d.t.Errorf("broker %d: %v, %+v, want %v with %q", id, err, resp, want, why)
	}
}

// metricsOf adds up what the brokers that run show on /metrics.
func (d *dev) metricsOf(names ...string) map[string]float64 {
	d.t.Helper()
	sum := map[string]float64{}
	for _, b := range d.ready.Brokers {
		resp, err := http.Get("http://" + b.HTTP + "/metrics")
		if err != nil {
			continue // it is gone
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			d.t.Fatal(err)
		}
		values, err := firntest.ParseMetrics(string(text))
		if err != nil {
			d.t.Fatal(err)
		}
		for _, name := range names {
			if _, ok := values[name]; !ok {
				d.t.Fatalf("broker %d does not show %s", b.ID, name)
			}
			sum[name] += values[name]
		}
	}
	return sum
}
