package blackbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/test/firntest"
)

// rebalanced is what of `firn cluster rebalance --output json` the test reads.
type rebalanced struct {
	Moves   []struct{ To []int32 }
	Brokers []struct {
		Broker        int32
		Drained       bool
		Before, After struct{ Replicas, Leaders int }
	}
}

func planOf(t *testing.T, brokers string) (p rebalanced, err error) {
	stdout, stderr, code := firntest.Run(t, "cluster", "rebalance", "--brokers", brokers, "--output", "json")
	if code != 0 {
		return p, errors.New(stderr)
	}
	return p, json.Unmarshal([]byte(stdout), &p)
}

// on gives what a broker has.
func (p *rebalanced) on(id int32) (replicas, leaders int) {
	for _, b := range p.Brokers {
		if b.Broker == id {
			return b.Before.Replicas, b.Before.Leaders
		}
	}
	return 0, 0
}

// numbers produces rising numbers to a topic until stop is called, which gives
// how many there were. Each is acknowledged, and none is written twice.
func numbers(t *testing.T, brokers, topic string) (stop func() int) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	var work sync.WaitGroup
	work.Go(func() {
		defer cl.Close()
		for ; ctx.Err() == nil; n++ {
			if err := cl.ProduceSync(context.WithoutCancel(ctx), kgo.StringRecord(fmt.Sprint(n))).FirstErr(); err != nil {
				t.Errorf("record %d: %v", n, err)
				return
			}
		}
	})
	return func() int { cancel(); work.Wait(); return n }
}

// TestMoves: a fourth broker gets its part of the replicas by itself, gives it
// back when it is drained, and gets it again when somebody asks for that; and
// clients notice nothing.
func TestMoves(t *testing.T) {
	var seeds, kafka []string
	members := make([]*firntest.Broker, 3)
	for range members {
		seeds = append(seeds, firntest.FreePort(t))
	}
	store := "file://" + t.TempDir()
	common := []string{"--seeds", strings.Join(seeds, ","), "--store", store, "--set", "firn.balance.delay.ms=0", "--set", "offsets.topic.num.partitions=3"}
	for i := range members {
		members[i] = firntest.New(t, slices.Concat(common, []string{"--node-id", fmt.Sprint(i + 1), "--peer", seeds[i], "--peer-client", firntest.FreePort(t)})...)
		members[i].Launch()
		kafka = append(kafka, members[i].Kafka)
	}
	brokers := strings.Join(kafka, ",")
	firntest.Eventually(t, "three brokers", func() error {
		for _, addr := range kafka {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				return err
			}
			c.Close()
		}
		stdout, stderr, code := firntest.Run(t, "topic", "create", "moved", "--brokers", brokers, "--partitions", "8", "--replicas", "3", "--config", "min.insync.replicas=2", "--if-not-exists")
		if code != 0 {
			return fmt.Errorf("%s%s", stdout, stderr)
		}
		return nil
	})
	stop := numbers(t, brokers, "moved")

	_, stderr, code := firntest.Run(t, "cluster", "decommission", "3", "--brokers", brokers)
	if code == 0 || !strings.Contains(stderr, "cannot be emptied") {
		t.Errorf("of three brokers one is emptied, with three replicas: exit code %d, %s", code, stderr)
	}
	fourth := firntest.Start(t, slices.Concat(common, []string{"--node-id", "4"})...)
	even := func() error {
		p, err := planOf(t, brokers)
		if replicas, leaders := p.on(4); err != nil || replicas != 6 || leaders != 2 || len(p.Moves) > 0 {
			return fmt.Errorf("%v; %+v", err, p)
		}
		return nil
	}
	firntest.Eventually(t, "the fourth broker has its part", even)

	stdout, stderr, code := firntest.Run(t, "cluster", "decommission", "4", "--brokers", brokers, "--throttle", "1000000000")
	if code != 0 || !strings.Contains(stdout, "firn cluster remove 4") {
		t.Fatalf("decommission: exit code %d\n%s%s", code, stdout, stderr)
	}
	if p, err := planOf(t, brokers); err != nil || len(p.Moves) > 0 || !slices.ContainsFunc(p.Brokers, func(b struct {
		Broker        int32
		Drained       bool
		Before, After struct{ Replicas, Leaders int }
	}) bool {
		return b.Broker == 4 && b.Drained && b.Before.Replicas == 0
	}) {
		t.Errorf("after it is drained: %v, %+v", err, p)
	}
	if stdout, stderr, code := firntest.Run(t, "config", "describe", "brokers", "--brokers", brokers); code != 0 || strings.Contains(stdout, "firn.move.rate") || !strings.Contains(stdout, "firn.drained.brokers") {
		t.Errorf("the configs that are left: exit code %d\n%s%s", code, stdout, stderr)
	}

	for _, args := range [][]string{
		{"config", "alter", "brokers", "--set", "firn.balance=false"},
		{"cluster", "decommission", "4", "--cancel"},
		{"cluster", "rebalance", "--execute"},
	} {
		if stdout, stderr, code := firntest.Run(t, append(args, "--brokers", brokers)...); code != 0 {
			t.Fatalf("%v: exit code %d\n%s%s", args, code, stdout, stderr)
		}
	}
	if err := even(); err != nil {
		t.Errorf("the moves are done, and the fourth broker has not its part: %v", err)
	}

	cancelled(t, brokers)
	n := stop()
	readNumbers(t, brokers, "moved", n)
	elections(t, members[0].Kafka, members[2], fourth)
}

// cancelled begins a move that cannot be completed, because nothing may be
// copied, looks at it, and takes it back.
func cancelled(t *testing.T, brokers string) {
	ctx, cancel := firntest.Context(t)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	run := func(args ...string) (stdout string) {
		t.Helper()
		stdout, stderr, code := firntest.Run(t, append(args, "--brokers", brokers)...)
		if code != 0 {
			t.Fatalf("%v: exit code %d\n%s%s", args, code, stdout, stderr)
		}
		return stdout
	}
	run("config", "alter", "brokers", "--set", "follower.replication.throttled.rate=0")
	run("config", "alter", "topic/moved", "--set", "follower.replication.throttled.replicas=*")
	now := func() (d kadm.PartitionDetail, moving []kmsg.ListPartitionReassignmentsResponseTopic) {
		t.Helper()
		topics, err := adm.ListTopics(ctx, "moved")
		if err != nil || topics["moved"].Err != nil {
			t.Fatal(err, topics["moved"].Err)
		}
		list, err := kmsg.NewPtrListPartitionReassignmentsRequest().RequestWith(ctx, cl)
		if err != nil {
			t.Fatal(err)
		}
		return topics["moved"].Partitions[0], list.Topics
	}
	before, _ := now()
	fresh := 10 - before.Replicas[0] - before.Replicas[1] - before.Replicas[2] // of 1 to 4
	var req kadm.AlterPartitionAssignmentsReq
	req.Assign("moved", 0, []int32{fresh, before.Replicas[1], before.Replicas[2]})
	if resps, err := adm.AlterPartitionAssignments(ctx, req); err != nil || resps["moved"][0].Err != nil {
		t.Fatal(err, resps)
	}
	firntest.Eventually(t, "the move is under way", func() error {
		d, moving := now()
		if len(moving) != 1 || len(moving[0].Partitions) != 1 || !slices.Equal(moving[0].Partitions[0].AddingReplicas, []int32{fresh}) || !slices.Equal(moving[0].Partitions[0].RemovingReplicas, before.Replicas[:1]) ||
			len(d.Replicas) != 4 || slices.Contains(d.ISR, fresh) || d.Leader != before.Leader {
			return fmt.Errorf("%+v, %+v", d, moving)
		}
		return nil
	})
	if stdout := run("cluster", "rebalance", "--cancel"); stdout != "1 move taken back\n" {
		t.Error(stdout)
	}
	firntest.Eventually(t, "the move is taken back", func() error {
		d, moving := now()
		if len(moving) > 0 || len(d.ISR) != 3 || !slices.Equal(slices.Sorted(slices.Values(d.Replicas)), slices.Sorted(slices.Values(before.Replicas))) {
			return fmt.Errorf("%+v, %+v; it was %+v", d, moving, before)
		}
		return nil
	})
	run("config", "alter", "topic/moved", "--unset", "follower.replication.throttled.replicas")
	run("config", "alter", "brokers", "--unset", "follower.replication.throttled.rate")
}

// elections has brokers 3 and 4, one after the other, lose a partition's leader,
// and asks for another (KIP-460).
func elections(t *testing.T, seed string, three, four *firntest.Broker) {
	ctx, cancel := firntest.Context(t)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.MetadataMinAge(10*time.Millisecond), kgo.DefaultProduceTopic("voted"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	create := kmsg.NewPtrCreateTopicsRequest()
	create.TimeoutMillis = 30_000
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "voted", -1, -1
	topic.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Replicas: []int32{4, 3}}}
	create.Topics = append(create.Topics, topic)
	if resp, err := create.RequestWith(ctx, cl); err != nil || resp.Topics[0].ErrorCode != 0 {
		t.Fatalf("%+v, %v", resp, err)
	}
	until := func(what string, leader int32, isr ...int32) {
		t.Helper()
		firntest.Eventually(t, what, func() error {
			req := kmsg.NewPtrMetadataRequest()
			req.Topics = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("voted")}}
			resp, err := req.RequestWith(ctx, cl)
			if err != nil || len(resp.Topics[0].Partitions) != 1 {
				return fmt.Errorf("%+v, %w", resp, err)
			}
			if p := resp.Topics[0].Partitions[0]; p.Leader != leader || !slices.Equal(slices.Sorted(slices.Values(p.ISR)), isr) {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
	}
	elect := func(kind int8, want *kerr.Error) {
		t.Helper()
		req := kmsg.NewPtrElectLeadersRequest()
		req.ElectionType, req.TimeoutMillis, req.Topics = kind, 30_000, []kmsg.ElectLeadersRequestTopic{{Topic: "voted", Partitions: []int32{0}}}
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			t.Fatal(err)
		}
		if got := kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode); !errors.Is(got, want) && (got != nil || want != nil) {
			t.Fatalf("election of kind %d: %v, want %v", kind, got, want)
		}
	}
	const preferred, unclean = 0, 1
	until("the first replica leads", 4, 3, 4)
	elect(preferred, kerr.ElectionNotNeeded)
	elect(unclean, kerr.ElectionNotNeeded)
	three.Kill()
	until("broker 4 is alone", 4, 4)
	if err := cl.ProduceSync(ctx, kgo.StringRecord("only on broker 4")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	four.Kill()
	three.Start()
	until("nobody leads", -1)
	elect(preferred, kerr.PreferredLeaderNotAvailable)
	elect(unclean, nil)
	until("broker 3 leads", 3, 3)
	four.Start()
	until("broker 4 is in sync", 3, 3, 4)
	elect(preferred, nil)
	until("broker 4 leads", 4, 3, 4)
}

// readNumbers reads a topic and wants each of the numbers below n once, in order
// in each partition.
func readNumbers(t *testing.T, brokers, topic string, n int) {
	t.Helper()
	ctx, cancel := firntest.Context(t)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.ConsumeTopics(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil || ends.Error() != nil {
		t.Fatal(err, ends.Error())
	}
	total := int64(0)
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	if total != int64(n) {
		t.Errorf("%d records, %d were acknowledged", total, n)
	}
	seen, last := make([]bool, n), map[int32]int{}
	for total > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			var i int
			if _, err := fmt.Sscan(string(r.Value), &i); err != nil || i >= n || seen[i] || i <= last[r.Partition]-1 {
				t.Fatalf("%s-%d at %d has %q, the last one was %d", topic, r.Partition, r.Offset, r.Value, last[r.Partition]-1)
			}
			seen[i], last[r.Partition] = true, i+1
			total--
		})
	}
}
