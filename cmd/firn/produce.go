package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type produceFlags struct {
	file, format, key, separator, compression, acks string
	headers                                         []string
	partition                                       int32
}

func (a *app) produceCommand() *cobra.Command {
	var p produceFlags
	cmd := &cobra.Command{
		Use:   "produce TOPIC",
		Short: "Append records read from standard input or a file",
		Long: `Append records to a topic. They are read from standard input, or from --file:

  text   one record per line; with --key-separator what stands before it is the key
  json   one object per line: {"key": "k", "value": "v", "headers": {"h": "x"},
         "partition": 0, "timestamp": 1700000000000}, where only value is needed. A value
         that is not a string is stored as its JSON text, null as a null value (a
         tombstone). Bytes that are not text go into keyBase64 and valueBase64.
         Headers may also be a list of {"key": …, "value": …}. timestamp is in
         milliseconds or RFC 3339. What "firn consume --format json" prints can be read.
  raw    the whole input is the value of one record

Records with the same key go to the same partition. The topic is created if the broker
allows that (its config auto.create.topics.enable).`,
		Example: `  echo "hello" | firn produce greetings
  firn produce flights --file flights.jsonl --format json --compression zstd
  printf 'de:Hallo\nfr:Salut\n' | firn produce greetings --key-separator :`,
		Args:              args(cobra.ExactArgs(1), "the name of one topic"),
		ValidArgsFunction: a.completeOneTopic,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.produce(cmd.Context(), names[0], p, cmd.Flags().Changed("key"))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&p.file, "file", "f", "", "read this `FILE` instead of standard input")
	f.StringVar(&p.format, "format", "text", "what the input is, `FORM`: text, json or raw")
	f.StringVarP(&p.key, "key", "k", "", "`KEY` of every record that has none of its own")
	f.StringVarP(&p.separator, "key-separator", "K", "", "text: cut each line at the first `SEP` into key and value (\\t is a tab)")
	f.StringArrayVarP(&p.headers, "header", "H", nil, "header of every record, `NAME=VALUE`; may be repeated")
	f.Int32VarP(&p.partition, "partition", "p", -1, "partition `N` for every record that names none; -1 goes by the key")
	f.StringVarP(&p.compression, "compression", "z", "none", "`CODEC`: none, gzip, snappy, lz4 or zstd")
	f.StringVar(&p.acks, "acks", "all", "`WHO` must have a record before it counts: all, 1 (the leader) or 0 (nobody)")
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"text", "json", "raw"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("compression", cobra.FixedCompletions(codecNames, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("acks", cobra.FixedCompletions([]string{"all", "1", "0"}, cobra.ShellCompDirectiveNoFileComp))
	return a.addBrokers(cmd)
}

var codecNames = []string{"none", "gzip", "snappy", "lz4", "zstd"}

var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

// clientOptions turns flags into what the client needs.
func (p *produceFlags) clientOptions(topic string, maxBatch int32, count *atomic.Int32) ([]kgo.Opt, error) {
	codec, ok := codecs[p.compression]
	if !ok {
		return nil, usageError("--compression %s: choose %s", p.compression, strings.Join(codecNames, ", "))
	}
	opts := []kgo.Opt{
		kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codec), kgo.AllowAutoTopicCreation(),
		kgo.RecordPartitioner(choosePartition{count}), kgo.ProducerLinger(5 * time.Millisecond),
		kgo.UnknownTopicRetries(10), kgo.MaxBufferedBytes(64 << 20), kgo.MaxBufferedRecords(100_000),
		kgo.ProducerBatchMaxBytes(maxBatch), kgo.BrokerMaxWriteBytes(max(maxBatch+(1<<20), 100<<20)),
	}
	switch p.acks {
	case "all", "-1":
	case "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	default:
		return nil, usageError("--acks %s: choose all, 1 or 0", p.acks)
	}
	return opts, nil
}

// choosePartition takes the partition that the record names; -1 goes by key
// as other Kafka clients do (murmur2). It notes how many partitions there are.
type choosePartition struct{ count *atomic.Int32 }

func (c choosePartition) ForTopic(topic string) kgo.TopicPartitioner {
	return topicPartitioner{kgo.StickyKeyPartitioner(nil).ForTopic(topic), c.count}
}

type topicPartitioner struct {
	byKey kgo.TopicPartitioner
	count *atomic.Int32
}

func (t topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return r.Partition >= 0 || t.byKey.RequiresConsistency(r)
}

func (t topicPartitioner) Partition(r *kgo.Record, n int) int {
	t.count.Store(int32(n))
	if r.Partition >= 0 {
		return int(r.Partition) // out of range fails the record, which is right
	}
	return t.byKey.Partition(r, n)
}

func (t topicPartitioner) OnNewBatch() {
	if b, ok := t.byKey.(kgo.TopicPartitionerOnNewBatch); ok {
		b.OnNewBatch()
	}
}

// producedPartition is one partition's part of a run's outcome.
type producedPartition struct {
	Partition   int32 `json:"partition"`
	Records     int64 `json:"records"`
	FirstOffset int64 `json:"firstOffset"` // -1 with acks=0
	LastOffset  int64 `json:"lastOffset"`
}

type produced struct {
	mu      sync.Mutex // guards all below; callbacks come from the client's goroutines
	parts   map[int32]*producedPartition
	records int64
	bytes   int64
	err     error // of the first that failed
	place   string
	asked   int32        // partition that one named, -1 for none
	count   atomic.Int32 // partitions of the topic

	sent, ended atomic.Int64 // records given to the client, and come back from it
}

// stallTimeout is how long records may wait without any being taken.
const stallTimeout = 30 * time.Second

// watch calls stalled when records wait and none came back for stallTimeout.
func (run *produced) watch(ctx context.Context, stalled func()) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	seen, since := int64(0), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if n := run.ended.Load(); n != seen || n == run.sent.Load() {
				seen, since = n, now
			}
			if now.Sub(since) > stallTimeout {
				stalled()
				return
			}
		}
	}
}

func (a *app) produce(ctx context.Context, topic string, p produceFlags, keySet bool) error {
	in, size, name, closeInput, err := a.openInput(p.file)
	if err != nil {
		return err
	}
	defer closeInput()
	reader, err := newRecordReader(in, name, p, keySet)
	if err != nil {
		return err
	}
	if _, err := p.clientOptions(topic, 1<<20, nil); err != nil {
		return err
	}
	limit, count, err := a.topicLimits(ctx, topic)
	if err != nil {
		return err
	}
	if count > 0 && p.partition >= count {
		return failf("see the partitions with: firn topic describe "+topic, "topic %s has no partition %d: it has %s, counted from 0", topic, p.partition, plural(count, "partition"))
	}
	run := produced{parts: map[int32]*producedPartition{}}
	opts, err := p.clientOptions(topic, limit, &run.count)
	if err != nil {
		return err
	}
	cl, err := a.connect(ctx, opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	began := time.Now()
	bar := a.progress("producing to "+topic, size)
	// What was read before a signal is still sent, so sending has a context of
	// its own, which ends when no broker takes anything any more.
	sending, stalled := context.WithCancel(context.WithoutCancel(ctx))
	defer stalled()
	go run.watch(sending, stalled)
	readErr := run.feed(ctx, sending, cl, reader, bar)
	flushErr := cl.Flush(sending)
	bar.stop()
	if err := a.printProduced(topic, &run, time.Since(began)); err != nil {
		return err
	}
	switch {
	case sending.Err() != nil:
		return &failure{err: fmt.Errorf("topic %s: no broker took a record for %s; of %s sent, %d are not confirmed", topic, stallTimeout, plural(run.sent.Load(), "record"), run.sent.Load()-run.ended.Load()),
			hint: "is the broker still running? its log says more", code: exitUnreachable}
	case run.err != nil:
		return a.produceError(topic, &run)
	case readErr != nil:
		return readErr
	case flushErr != nil:
		return a.explain("topic "+topic, flushErr, "")
	case ctx.Err() != nil:
		return failf("", "stopped before the end of the input")
	}
	return nil
}

// feed gives records to the client until the input, the first error or a
// signal ends it.
func (run *produced) feed(ctx, sending context.Context, cl *kgo.Client, reader *recordReader, bar *bar) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(sending, cancel)()
	inputs := make(chan input, 64)
	// A read of a terminal cannot be interrupted; left alone, it ends with the
	// process.
	go reader.readAll(ctx, inputs)
	for {
		var in input
		select {
		case in = <-inputs:
		case <-ctx.Done():
			return nil // a failed record or a signal: both are told elsewhere
		}
		if errors.Is(in.err, io.EOF) {
			return nil
		}
		if in.err != nil {
			return in.err
		}
		asked := in.record.Partition
		run.sent.Add(1)
		cl.Produce(sending, in.record, func(r *kgo.Record, err error) {
			run.ended.Add(1)
			if run.done(r, err, in.place, asked) != nil {
				cancel()
			}
			bar.advance(in.size)
		})
	}
}

// done counts one record's outcome and gives its error.
func (run *produced) done(r *kgo.Record, err error, place string, asked int32) error {
	run.mu.Lock()
	defer run.mu.Unlock()
	if err != nil {
		if run.err == nil {
			run.err, run.place, run.asked = err, place, asked
		}
		return err
	}
	run.records++
	run.bytes += int64(len(r.Key) + len(r.Value))
	p := run.parts[r.Partition]
	if p == nil {
		p = &producedPartition{Partition: r.Partition, FirstOffset: r.Offset, LastOffset: r.Offset}
		run.parts[r.Partition] = p
	}
	p.Records++
	p.FirstOffset = min(p.FirstOffset, r.Offset)
	p.LastOffset = max(p.LastOffset, r.Offset)
	return nil
}

func (a *app) printProduced(topic string, run *produced, took time.Duration) error {
	run.mu.Lock()
	defer run.mu.Unlock()
	out := struct {
		Topic      string              `json:"topic"`
		Records    int64               `json:"records"`
		Bytes      int64               `json:"bytes"`
		Seconds    float64             `json:"seconds"`
		Partitions []producedPartition `json:"partitions"`
	}{topic, run.records, run.bytes, took.Seconds(), []producedPartition{}}
	for _, id := range sortedKeys(run.parts) {
		out.Partitions = append(out.Partitions, *run.parts[id])
	}
	if a.json() {
		return a.printJSON(out)
	}
	fmt.Fprintf(a.err, "produced %s (%s) to %s, %s, in %s\n", plural(out.Records, "record"), bytesText(out.Bytes), topic,
		plural(len(out.Partitions), "partition"), durationText(took))
	return nil
}

func (a *app) produceError(topic string, run *produced) error {
	count := run.count.Load()
	switch {
	case count > 0 && run.asked >= count:
		return failf("see the partitions with: firn topic describe "+topic, "topic %s, %s: there is no partition %d, the topic has %s, counted from 0", topic, run.place, run.asked, plural(count, "partition"))
	}
	return a.explain("topic "+topic+", "+run.place, run.err, "")
}

// topicLimits asks for the largest batch that a topic takes and how many
// partitions it has (0 when it is not there yet).
func (a *app) topicLimits(ctx context.Context, topic string) (maxBatch, partitions int32, err error) {
	const usual = 1_000_000
	actx, adm, done, err := a.admin(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	topics, err := adm.ListTopicsWithInternal(actx, topic)
	if err != nil {
		return 0, 0, a.explain("topic "+topic, err, "")
	}
	td := topics[topic]
	if td.Err != nil {
		return usual, 0, nil // producing makes it, or says why not
	}
	partitions = int32(len(td.Partitions))
	rcs, err := adm.DescribeTopicConfigs(actx, topic)
	if err != nil {
		return usual, partitions, nil
	}
	rc, err := rcs.On(topic, nil)
	if err != nil || rc.Err != nil {
		return usual, partitions, nil
	}
	return maxBatchOf(rc, usual), partitions, nil
}

func maxBatchOf(rc kadm.ResourceConfig, usual int32) int32 {
	for _, c := range rc.Configs {
		if c.Key == "max.message.bytes" {
			var n int64
			if _, err := fmt.Sscan(c.MaybeValue(), &n); err == nil && n > 1024 {
				return int32(min(n, 512<<20))
			}
		}
	}
	return usual
}

// openInput opens the file, or standard input for "". size is -1 when it is
// not known.
func (a *app) openInput(file string) (in io.Reader, size int64, name string, done func(), err error) {
	if file == "" || file == "-" {
		if terminal(a.in) && terminal(a.err) {
			fmt.Fprintln(a.err, "type one record per line; end with Ctrl-D")
		}
		return a.in, regularSize(a.in), "input", func() {}, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, "", nil, usageError("--file: %w", err)
	}
	return f, regularSize(f), file, func() { f.Close() }, nil
}

func regularSize(in any) int64 {
	f, ok := in.(*os.File)
	if !ok {
		return -1
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return -1
	}
	return st.Size()
}
