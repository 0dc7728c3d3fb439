// Command demo is Firn's main job, end to end, on real input: 3 million US
// flight records are produced with a standard client, tiered to an object
// store, dropped locally, replayed from the object store by a standard
// consumer group and compared record by record; then one day is replayed by
// timestamp.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/objectstore/storetest/servers"
	"github.com/firnlog/firn/test/flights"
)

const topic = "flights"

type options struct {
	bin, input, store, day string
	partitions, limit      int
	segmentBytes           int64
	keep                   bool
}

func main() {
	var o options
	flag.StringVar(&o.bin, "firn", "bin/firn", "the binary to demonstrate")
	flag.StringVar(&o.input, "input", "", "flights-3m.parquet (default: from the npm package vega-datasets, got once)")
	flag.StringVar(&o.store, "store", "file", "where history goes: file, or minio (a real MinIO that the demo starts)")
	flag.StringVar(&o.day, "day", "2001-03-15", "the UTC day that is replayed by timestamp")
	flag.IntVar(&o.partitions, "partitions", 6, "partitions of the topic")
	flag.IntVar(&o.limit, "limit", 0, "take only so many rows (0: all)")
	flag.Int64Var(&o.segmentBytes, "segment-bytes", 16<<20, "segment.bytes of the topic")
	flag.BoolVar(&o.keep, "keep", false, "keep the data folder and say where it is")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	if err := demo(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "demo failed:", err)
		os.Exit(1)
	}
}

// demo runs everything in a fresh folder and cleans up after itself.
func demo(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "firn-demo-")
	if err != nil {
		return err
	}
	defer func() {
		if o.keep {
			fmt.Println("data kept in", dir)
			return
		}
		os.RemoveAll(dir)
	}()
	storeURL, env, stopStore, err := openStore(o.store, dir)
	if err != nil {
		return err
	}
	defer stopStore()

	var r report
	r.store = o.store
	if o.input == "" {
		if o.input, err = flights.Fetch(ctx); err != nil {
			return err
		}
	}
	bar := newProgress("reading the input", 3_000_000)
	in, err := flights.Read(o.input, o.limit, bar.set)
	bar.finish()
	if err != nil {
		return err
	}
	broker, ready, err := startBroker(ctx, o.bin, dir, storeURL, env)
	if err != nil {
		return err
	}
	r.ready = ready
	r.idleRSS = broker.rss()
	defer func() {
		if serr := broker.stop(); serr != nil && err == nil {
			err = fmt.Errorf("stopping the broker: %w; its log:\n%s", serr, broker.tail())
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "the end of the broker's log:\n%s\n", broker.tail())
		}
	}()
	if err := mainJob(ctx, o, broker, in, &r); err != nil {
		return err
	}
	r.print(os.Stdout)
	return nil
}

// openStore gives the store's URL for `firn start` ("" is its own default)
// and the environment with its credentials.
func openStore(kind, dir string) (url string, env []string, stop func(), err error) {
	switch kind {
	case "file":
		return "", nil, func() {}, nil
	case "minio":
		s, err := servers.StartMinIO(filepath.Join(dir, "minio"))
		if err != nil {
			return "", nil, nil, err
		}
		env = []string{"MINIO_ROOT_USER=" + s.AccessKey, "MINIO_ROOT_PASSWORD=" + s.SecretKey}
		return fmt.Sprintf("minio://%s/%s/demo?tls=false", s.Host, s.Bucket), env, func() { s.Stop() }, nil
	}
	return "", nil, nil, fmt.Errorf("--store %s: choose file or minio", kind)
}

// mainJob is the story: produce, read hot, tier, let go, replay cold, replay
// one day.
func mainJob(ctx context.Context, o options, b *process, in []flights.Flight, r *report) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	configs := map[string]*string{
		"remote.storage.enable": kadm.StringPtr("true"),
		"retention.ms":          kadm.StringPtr("-1"),
		"local.retention.ms":    kadm.StringPtr("-1"), // for now: the hot read comes first
		"segment.ms":            kadm.StringPtr("31536000000"),
		"segment.bytes":         kadm.StringPtr(fmt.Sprint(o.segmentBytes)),
	}
	if _, err := adm.CreateTopic(ctx, int32(o.partitions), 1, configs, topic); err != nil {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	led := &ledger{rows: make([][]int32, o.partitions), in: in}
	if err := produceAll(ctx, b, led, r); err != nil {
		return err
	}
	start, end := make([]int64, o.partitions), make([]int64, o.partitions)
	for p := range end {
		end[p] = int64(len(led.rows[p]))
	}
	hot, took, err := replayGroup(ctx, b, led, "demo-hot", start, end, "reading hot")
	if err != nil {
		return fmt.Errorf("hot read: %w", err)
	}
	r.hotBytes, r.hotTook = hot, took
	if r.localBefore, err = localBytes(b); err != nil {
		return err
	}
	if err := letGo(ctx, adm, b, end, r); err != nil {
		return err
	}
	cold, took, err := replayGroup(ctx, b, led, "demo-cold", start, end, "replaying from the store")
	if err != nil {
		return fmt.Errorf("replay from the object store: %w", err)
	}
	r.coldBytes, r.coldTook = cold, took
	if err := replayDay(ctx, o.day, b, led, r); err != nil {
		return fmt.Errorf("replay of %s: %w", o.day, err)
	}
	r.rss = b.rss()
	return r.storeCounts(b)
}

// produceAll sends every flight with its date as the record's time and fills
// the ledger from the acknowledgements.
func produceAll(ctx context.Context, b *process, led *ledger, r *report) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka), kgo.DefaultProduceTopic(topic),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	var mu sync.Mutex
	var failed error
	acked := 0
	bar := newProgress("producing", len(led.in))
	defer bar.finish()
	began := time.Now()
	for i := range led.in {
		row := &led.in[i]
		rec := &kgo.Record{Key: row.Key(), Value: row.AppendJSON(make([]byte, 0, 96)), Timestamp: time.UnixMilli(row.TimeMs)}
		r.bytes += int64(len(rec.Key) + len(rec.Value))
		cl.Produce(ctx, rec, func(rec *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				err = led.acknowledged(rec.Partition, rec.Offset, int32(i))
			}
			if err != nil && failed == nil {
				failed = fmt.Errorf("produce row %d: %w", i, err)
			}
			if acked++; acked%10_000 == 0 {
				bar.set(acked)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	r.records, r.produceTook = len(led.in), time.Since(began)
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(failed, led.finish())
}

// replayGroup reads [start, end) of every partition as a new consumer group
// and commits at the end.
func replayGroup(ctx context.Context, b *process, led *ledger, group string, start, end []int64, label string) (int64, time.Duration, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	bar := newProgress(label, len(led.in))
	defer bar.finish()
	n, took, err := led.replay(ctx, cl, start, end, bar.set)
	if err != nil {
		return 0, 0, err
	}
	if err := cl.CommitUncommittedOffsets(ctx); err != nil {
		return 0, 0, fmt.Errorf("commit of group %s: %w", group, err)
	}
	committed, err := kadm.NewClient(cl).FetchOffsets(ctx, group)
	if err != nil {
		return 0, 0, err
	}
	for p, want := range end {
		if got, ok := committed.Lookup(topic, int32(p)); want > 0 && (!ok || got.At != want) {
			return 0, 0, fmt.Errorf("group %s, partition %d: committed offset is %d, expected %d", group, p, got.At, want)
		}
	}
	return n, took, nil
}

// letGo lowers local retention to a second and waits until every record is in
// the object store and none on local disk.
func letGo(ctx context.Context, adm *kadm.Client, b *process, end []int64, r *report) error {
	began := time.Now()
	if _, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "local.retention.ms", Value: kadm.StringPtr("1000")}}, topic); err != nil {
		return fmt.Errorf("lower local.retention.ms: %w", err)
	}
	total := int64(0)
	for _, e := range end {
		total += e
	}
	bar := newProgress("tiering", int(total))
	defer bar.finish()
	for {
		status, err := b.tier(topic)
		if err != nil {
			return err
		}
		var tiered, local int64
		for _, p := range status {
			if p.LastError != "" {
				return fmt.Errorf("partition %d does not get into the object store: %s", p.Partition, p.LastError)
			}
			tiered += p.RemoteEnd
			local += p.LocalBytes
		}
		bar.set(int(tiered))
		if tiered == total && local == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d records tiered, %d bytes still local: %w", tiered, total, local, ctx.Err())
		case err := <-b.done:
			b.done <- err
			return fmt.Errorf("the broker stopped: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
	var err error
	r.tierTook = time.Since(began)
	r.localAfter, err = localBytes(b)
	return err
}

// replayDay finds the day's first and last offsets by timestamp, reads what
// is between and compares it with the day's rows of the input.
func replayDay(ctx context.Context, day string, b *process, led *ledger, r *report) error {
	t, err := time.Parse("2006-01-02", day)
	if err != nil {
		return err
	}
	firstRow, endRow := rowsOfDay(led.in, t.UnixMilli())
	if firstRow == endRow {
		return fmt.Errorf("the input has no flight on that day (with --limit, choose an earlier --day)")
	}
	began := time.Now()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AfterMilli(t.UnixMilli())))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	from, err := adm.ListOffsetsAfterMilli(ctx, t.UnixMilli(), topic)
	if err != nil {
		return err
	}
	to, err := adm.ListOffsetsAfterMilli(ctx, t.Add(24*time.Hour).UnixMilli(), topic)
	if err != nil {
		return err
	}
	lo, hi := make([]int64, len(led.rows)), make([]int64, len(led.rows))
	for p := range led.rows {
		f, _ := from.Lookup(topic, int32(p))
		e, _ := to.Lookup(topic, int32(p))
		lo[p], hi[p] = f.Offset, e.Offset
		for o, row := range led.rows[p] {
			if in := int(row) >= firstRow && int(row) < endRow; in != (int64(o) >= lo[p] && int64(o) < hi[p]) {
				return fmt.Errorf("partition %d, offset %d: is it of that day? the input says %v, the broker's offsets [%d, %d) say %v", p, o, in, lo[p], hi[p], !in)
			}
		}
	}
	bar := newProgress("replaying "+day, endRow-firstRow)
	defer bar.finish()
	if _, _, err := led.replay(ctx, cl, lo, hi, bar.set); err != nil {
		return err
	}
	r.day, r.dayRecords, r.dayTook = day, endRow-firstRow, time.Since(began)
	return nil
}
