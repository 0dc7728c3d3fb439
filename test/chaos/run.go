// Package chaos runs real brokers and real clients, does to the brokers what
// machines, disks and networks do to them, and checks afterwards that what the
// clients saw can be true of logs that lose nothing.
//
// What is done, and when, follows from a seed (Plan); what comes of it depends
// on the machine. What clients saw is a history (test/chaos/history), judged by
// test/chaos/check.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/test/chaos/check"
	"github.com/firnlog/firn/test/chaos/history"
	"github.com/firnlog/firn/test/chaos/timeline"
)

// Config is a run.
type Config struct {
	Seed     uint64
	Brokers  int           // 1 to 9
	Replicas int           // of each partition; 0 for three, or as many as there are brokers
	Length   time.Duration // of the faults; reading everything comes after it
	Binary   string        // firn, absolute
	// Librdkafka is the program of test/librdkafka/chaosclient, absolute; "" for
	// a run without it.
	Librdkafka string
	Dir        string   // absolute; data folders, logs, history and picture go there
	Args       []string // further arguments of `firn start`
	Plan       []Step   // instead of the seed's
	Log        func(format string, args ...any)
}

// Result is what came of a run.
type Result struct {
	Report   *check.Report
	Problems []string // what is wrong beside the anomalies: brokers that ended or did not come back, clients that were told impossible things
	Steps    map[Action]int
	Lives    int   // of clients
	Same     int64 // bytes that were compared between replicas, and equal
	History  string
	Picture  string
	Skipped  string // what could not be done here, and why
}

// Good says that nothing is wrong.
func (r *Result) Good() bool { return r.Report.Good() && len(r.Problems) == 0 }

// healing is how long brokers and clients may take, when all faults have ended,
// until everything is acknowledged, in sync and read.
const healing = 2 * time.Minute

// runner is a run under way.
type runner struct {
	Config
	net     *network
	cluster *cluster
	rec     *history.Recorder
	topics  *topics
	clients *clients
	result  *Result
	origin  int64 // of the history's times

	found []check.Anomaly // on the brokers' disks
}

// Run takes all the steps of the seed's plan and checks what was seen. An error
// says that the run itself could not be done.
func Run(ctx context.Context, c Config) (*Result, error) {
	if c.Brokers < 1 || c.Brokers > 9 {
		return nil, fmt.Errorf("%d brokers: can be 1 to 9", c.Brokers)
	}
	if c.Replicas == 0 {
		c.Replicas = min(c.Brokers, 3)
	}
	r := &runner{Config: c, result: &Result{History: filepath.Join(c.Dir, "history.jsonl"), Picture: filepath.Join(c.Dir, "timeline.svg")}}
	var err error
	if r.net, err = newNetwork(c.Brokers); err != nil {
		r.result.Skipped = fmt.Sprintf("no link is cut and no disk filled, which needs root: %v", err)
		c.Log("%s", r.result.Skipped)
	} else {
		defer r.net.close()
	}
	members := membersOf(c.Brokers)
	if c.Length < 5*time.Minute {
		members = 0 // one that has left needs long to be back, among other faults
	}
	plan := Plan(c.Seed, PlanConfig{Brokers: c.Brokers, Length: c.Length, Network: r.net != nil, Disks: r.net != nil, Syncs: true, Clocks: canMoveClocks(), Wipe: c.Replicas >= 3, Members: members})
	if c.Plan != nil {
		plan = c.Plan
	}
	parts := []string{filepath.Join(c.Dir, "history-go.jsonl"), filepath.Join(c.Dir, "history-librdkafka.jsonl")}
	if c.Librdkafka == "" {
		parts = parts[:1]
	}
	r.origin = history.Now()
	if r.rec, err = history.Create(parts[0], r.origin); err != nil {
		return nil, err
	}
	began := time.Now()
	err = r.run(ctx, plan, parts)
	length := time.Since(began)
	if cerr := r.rec.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = history.Merge(r.result.History, parts...)
	}
	if err != nil {
		return nil, fmt.Errorf("chaos with seed %d: %w", c.Seed, err)
	}
	return r.result, r.judge(length)
}

func (r *runner) problem(format string, args ...any) {
	r.result.Problems = append(r.result.Problems, fmt.Sprintf(format, args...))
}

func (r *runner) run(ctx context.Context, plan []Step, parts []string) error {
	cl, err := newCluster(r.Config, r.net, r.Dir)
	if err != nil {
		return err
	}
	r.cluster = cl
	defer cl.close()
	for _, s := range plan {
		for _, b := range s.Brokers {
			if b := cl.brokers[b-1]; s.Action == Fill && b.disk == nil {
				if err := b.smallDisk(diskSize); err != nil {
					return err
				}
			}
		}
	}
	for _, s := range plan {
		if s.Action == Sync {
			cl.brokers[s.Brokers[0]-1].syncs = &slowDisk{}
		}
	}
	octx, cancel := context.WithTimeout(ctx, healing)
	defer cancel()
	if err := cl.open(octx); err != nil {
		return fmt.Errorf("the first start: %w", err)
	}
	r.clients = &clients{rec: r.rec, seeds: cl.kafka(), dial: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, seed: r.Seed, log: r.Log}
	if r.net != nil {
		r.clients.dial = r.net.nodes[0].dial
	}
	admin, err := r.clients.open()
	if err != nil {
		return err
	}
	defer admin.Close()
	r.topics = newTopics(r.rec, admin, r.Brokers, r.Replicas)
	r.clients.topics = r.topics
	for i, name := range []string{"base-a", "base-b"} {
		if err := r.topics.create(octx, name, 3+i, true); err != nil {
			return err
		}
	}
	var other *rdkafka
	if r.Librdkafka != "" {
		if other, err = r.startRdkafka(parts[1]); err != nil {
			return err
		}
	}
	err = r.load(ctx, plan)
	if other != nil {
		err = errors.Join(err, other.stop())
	}
	if err != nil {
		return err
	}
	r.heal(ctx)
	return r.disks()
}

// diskSize is that of a disk that is filled: the journal's files, and room for
// what a run of a few minutes writes to one broker.
const diskSize = 1 << 30

// load lets clients work while the steps are taken, and after them until all
// producers have what they sent acknowledged.
func (r *runner) load(ctx context.Context, plan []Step) error {
	wctx, stopWatching := context.WithCancel(ctx)
	lctx, stop := context.WithCancel(ctx)
	defer stopWatching()
	defer stop()
	var watching, living sync.WaitGroup
	watching.Go(func() { r.topics.watch(wctx) })
	c := r.clients
	for i, life := range []struct {
		name string
		run  func(context.Context, string, *rand.Rand) error
	}{
		{"idempotent-1", c.producer(history.All | history.Idempotent | history.Ordered)},
		{"idempotent-2", c.producer(history.All|history.Idempotent|history.Ordered, kgo.ProducerBatchCompression(kgo.ZstdCompression()))},
		{"idempotent-impatient", c.producer(history.All|history.Idempotent|history.Ordered, kgo.RecordDeliveryTimeout(4*time.Second))},
		{"plain", c.producer(history.All, kgo.DisableIdempotentWrite(), kgo.RecordDeliveryTimeout(10*time.Second))},
		{"leader-only", c.producer(0, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()), kgo.RecordDeliveryTimeout(4*time.Second))},
		{"single", c.single},
		{"assigned-1", c.assigned()},
		{"assigned-2", c.assigned()},
		{"member-1", c.member},
		{"member-2", c.member},
		{"member-3", c.member},
	} {
		living.Go(func() { c.live(lctx, life.name, i, life.run) })
	}
	n := &nemesis{cluster: r.cluster, rec: r.rec, topics: r.topics, log: r.Log, count: map[Action]int{}}
	n.run(ctx, plan)
	r.Log("all faults have ended")
	r.result.Steps = n.count
	for _, err := range n.errs {
		r.problem("the harness: %v", err)
	}
	sleep(ctx, 3*time.Second) // clients work on for a while without faults
	stop()
	living.Wait()
	stopWatching()
	watching.Wait()
	r.result.Lives = c.lives
	return ctx.Err()
}

// heal waits until brokers are well again, and reads everything.
func (r *runner) heal(ctx context.Context) {
	hctx, cancel := context.WithTimeoutCause(ctx, healing, fmt.Errorf("not within %v", healing))
	defer cancel()
	if err := r.cluster.await(hctx); err != nil {
		r.problem("after all faults: %v", err)
		return
	}
	if err := eventually(hctx, r.topics.healthy); err != nil {
		r.problem("after all faults: %v", err)
		return
	}
	process := r.clients.process("all", "", history.Final)
	for _, at := range r.topics.all() {
		if err := eventually(hctx, func(ctx context.Context) error { return r.clients.acknowledged(ctx, at) }); err != nil {
			r.problem("after all faults: no record is acknowledged in %s-%d: %v", at.topic, at.partition, err)
		}
		if err := r.clients.whole(hctx, process, at); err != nil {
			r.problem("after all faults: %s-%d is not read to its end: %v", at.topic, at.partition, err)
		}
	}
	for _, group := range []string{groupName, rdkafkaGroup} {
		if err := eventually(hctx, func(ctx context.Context) error { return r.clients.committed(ctx, group) }); err != nil {
			r.problem("after all faults: committed offsets of %s: %v", group, err)
		}
	}
	var stopping sync.WaitGroup
	for _, b := range r.cluster.brokers {
		stopping.Go(func() { b.end(syscall.SIGTERM, stopPatience) })
	}
	stopping.Wait()
}

// acknowledged writes a record, with a new client.
func (c *clients) acknowledged(ctx context.Context, at target) error {
	cl, err := c.open(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	s := sender{c: c, process: c.process("last", "", history.All|history.Idempotent|history.Ordered)}
	v := s.next(at)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	r, err := cl.ProduceSync(ctx, &kgo.Record{Topic: at.topic, Partition: at.partition, Value: history.Payload(v, 100)}).First()
	offset := int64(-1)
	if err == nil {
		offset = r.Offset
	}
	s.answered(at, v, offset, err, false)
	return err
}

// whole reads a partition from its start to its end.
func (c *clients) whole(ctx context.Context, process int32, at target) error {
	cl, err := c.open(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{at.topic: {at.partition: kgo.NewOffset().At(0)}}), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	if err != nil {
		return err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, at.topic)
	if err != nil {
		return err
	}
	end, ok := ends.Lookup(at.topic, at.partition)
	if !ok || end.Err != nil {
		return fmt.Errorf("its end: %w", errors.Join(end.Err, errNotHealthy))
	}
	c.rec.Record(history.Event{Kind: history.Position, Process: process, Key: at.key})
	for next := int64(0); next < end.Offset; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			return fmt.Errorf("at offset %d of %d: %w", next, end.Offset, err)
		}
		c.polled(process, "all", fs)
		fs.EachRecord(func(r *kgo.Record) { next = r.Offset + 1 })
	}
	c.rec.Record(history.Event{Kind: history.End, Key: at.key, Offset: end.Offset})
	return nil
}

// committed asks for a group's offsets, as a member that begins would.
func (c *clients) committed(ctx context.Context, group string) error {
	cl, err := c.open()
	if err != nil {
		return err
	}
	defer cl.Close()
	process := c.process("offsets of "+group, group, 0)
	for _, at := range c.topics.base {
		c.rec.Record(history.Event{Kind: history.Assign, Process: process, Key: at.key})
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	offsets, err := kadm.NewClient(cl).FetchOffsets(ctx, group)
	if err != nil {
		return err
	}
	for _, at := range c.topics.base {
		e := history.Event{Kind: history.Position, Process: process, Key: at.key, Offset: -1}
		if o, ok := offsets.Lookup(at.topic, at.partition); ok {
			if o.Err != nil {
				return o.Err
			}
			e.Offset = o.At
		}
		c.rec.Record(e)
	}
	return nil
}

// judge checks the history, draws it, and writes the report.
func (r *runner) judge(length time.Duration) error {
	var err error
	if r.result.Report, err = check.File(r.result.History); err != nil {
		return err
	}
	for _, a := range r.found {
		r.result.Report.Add(a)
	}
	d := timeline.New(int64(length))
	if err := history.Each(r.result.History, d.Event); err != nil {
		return err
	}
	for _, a := range r.result.Report.Examples {
		d.Mark(a.Time, a.String())
	}
	f, err := os.Create(r.result.Picture)
	if err != nil {
		return err
	}
	defer f.Close()
	title := fmt.Sprintf("firn chaos: seed %d, %d brokers, %v", r.Seed, r.Brokers, r.Length)
	if err := d.WriteSVG(f, title); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.Dir, "report.txt"), []byte(title+"\n"+r.result.String()), 0o644)
}

// String tells what came out.
func (r *Result) String() string {
	var b strings.Builder
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "problem: %s\n", p)
	}
	fmt.Fprintf(&b, "%d lives of clients, steps taken: %v, %d bytes equal in all replicas\n%s", r.Lives, r.Steps, r.Same, r.Report)
	return b.String()
}
