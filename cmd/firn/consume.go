package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

type consumeFlags struct {
	from, until, group, format string
	count                      int64
	partitions                 []int32
}

func (a *app) consumeCommand() *cobra.Command {
	var c consumeFlags
	cmd := &cobra.Command{
		Use:   "consume TOPIC",
		Short: "Read records and print them",
		Long: `Read records of a topic, the oldest first in each partition, and print them until it is
stopped (Ctrl-C), or --count or --until ends it. It makes no difference whether records are
on local disk or in object storage.

Where to begin (--from):
  start       the oldest record (the default)
  end         only what comes from now on
  1234        this offset
  -10         the last 10 of each partition
  @TIME       the first record not older than TIME: @2026-01-31T12:00:00Z, @2026-01-31 or
              milliseconds since 1970

With --group the group's committed offsets decide, --from only counts where there are none,
and what was printed is committed.

How to print (--format): text (the value and a line end), json (one object per line, which
"firn produce --format json" can read), raw (values, nothing between them), or a template of
  %k key   %v value   %o offset   %p partition   %t time   %m time in ms   %h headers   %%
and \n \t \r \0 \\.`,
		Example: `  firn consume flights --count 5
  firn consume flights --from -10 --until end --format '%o %k: %v\n'
  firn consume flights --from @2026-01-31 --format json
  firn consume flights --group reporting`,
		Args:              args(cobra.ExactArgs(1), "the name of one topic"),
		ValidArgsFunction: a.completeOneTopic,
		RunE: func(cmd *cobra.Command, names []string) error {
			if a.json() && !cmd.Flags().Changed("format") {
				c.format = "json"
			}
			return a.consume(cmd.Context(), names[0], c)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&c.from, "from", "start", "where to begin: start, end, an `OFFSET`, -N or @TIME")
	f.Int64VarP(&c.count, "count", "n", 0, "stop after `N` records; 0 is without limit")
	f.StringVar(&c.until, "until", "", "`end` stops at what was the end when it began")
	f.Int32SliceVarP(&c.partitions, "partition", "p", nil, "read only partition `N`; may be repeated")
	f.StringVarP(&c.group, "group", "g", "", "read as a member of this consumer group, `NAME`")
	f.StringVar(&c.format, "format", "text", "how to print, `FORM`: text, json, raw or a template")
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"text", "json", "raw"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("from", cobra.FixedCompletions([]string{"start", "end"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("group", a.completeGroupFlag)
	cmd.RegisterFlagCompletionFunc("until", cobra.FixedCompletions([]string{"end"}, cobra.ShellCompDirectiveNoFileComp))
	return a.addBrokers(cmd)
}

// position is a parsed --from.
type position struct {
	kind fromKind
	n    int64 // offset, number of records, or milliseconds
}

type fromKind int8

const (
	fromStart fromKind = iota
	fromEnd
	fromOffset
	fromTail
	fromTime
)

func parseFrom(s string) (position, error) {
	switch {
	case s == "start":
		return position{kind: fromStart}, nil
	case s == "end":
		return position{kind: fromEnd}, nil
	case strings.HasPrefix(s, "@"):
		ms, err := parseTime(s[1:])
		if err != nil {
			return position{}, usageError("--from %s: %w", s, err)
		}
		return position{fromTime, ms}, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return position{}, usageError("--from %s: choose start, end, an offset, -N for the last N, or @TIME", s)
	}
	if strings.HasPrefix(s, "-") {
		return position{fromTail, -n}, nil
	}
	return position{fromOffset, n}, nil
}

// consumer is one run of firn consume.
type consumer struct {
	app    *app
	topic  string
	flags  consumeFlags
	from   position
	format recordFormat
	out    *bufio.Writer
	buf    []byte

	start, end map[int32]int64 // what each partition held when it began
	next       map[int32]int64 // first offset not printed yet
	printed    int64
}

func (a *app) consume(ctx context.Context, topic string, flags consumeFlags) error {
	c := &consumer{app: a, topic: topic, flags: flags, out: bufio.NewWriterSize(a.out, 256<<10), next: map[int32]int64{}}
	var err error
	if c.from, err = parseFrom(flags.from); err != nil {
		return err
	}
	if c.format, err = parseFormat(flags.format); err != nil {
		return err
	}
	switch {
	case flags.until != "" && flags.until != "end":
		return usageError("--until %s: only end is possible", flags.until)
	case flags.count < 0:
		return usageError("--count %d: give a positive number", flags.count)
	case flags.group != "" && len(flags.partitions) > 0:
		return usageError("--group and --partition do not go together: a group hands the partitions out itself")
	}
	opts, err := c.plan(ctx)
	if err != nil {
		return err
	}
	if c.flags.group == "" && c.atEnd() {
		return nil
	}
	cl, err := a.connect(ctx, opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	err = c.poll(ctx, cl)
	if ferr := c.out.Flush(); err == nil && ferr != nil {
		err = failf("", "write to standard output: %w", ferr)
	}
	if c.flags.group != "" {
		// Also after a signal: what was printed counts as read.
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if cerr := cl.CommitMarkedOffsets(cctx); err == nil && cerr != nil {
			err = a.explain("commit the offsets of group "+c.flags.group, cerr, "")
		}
	}
	return err
}

// plan looks at the topic and gives the client's options for reading it.
func (c *consumer) plan(ctx context.Context) ([]kgo.Opt, error) {
	ctx, adm, done, err := c.app.admin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	topics, err := adm.ListTopicsWithInternal(ctx, c.topic)
	if err == nil {
		err = topics[c.topic].Err
	}
	if err != nil {
		return nil, c.app.explain("topic "+c.topic, err, "")
	}
	count := len(topics[c.topic].Partitions)
	for _, p := range c.flags.partitions {
		if p < 0 || int(p) >= count {
			return nil, failf("see the partitions with: firn topic describe "+c.topic, "topic %s has no partition %d: it has %s, counted from 0", c.topic, p, plural(count, "partition"))
		}
	}
	if c.start, err = c.list(ctx, adm.ListStartOffsets); err != nil {
		return nil, err
	}
	if c.end, err = c.list(ctx, adm.ListEndOffsets); err != nil {
		return nil, err
	}
	opts := []kgo.Opt{
		kgo.KeepControlRecords(), // they move the position on, and are not printed
		kgo.FetchMaxBytes(64 << 20), kgo.FetchMaxPartitionBytes(8 << 20), kgo.FetchMaxWait(time.Second), kgo.BrokerMaxReadBytes(512 << 20),
	}
	if c.flags.group != "" {
		return append(opts, c.groupOptions()...), nil
	}
	if err := c.resolveFrom(ctx, adm); err != nil {
		return nil, err
	}
	offsets := map[int32]kgo.Offset{}
	for p, o := range c.next {
		offsets[p] = kgo.NewOffset().At(o)
	}
	// Retention may have removed the beginning meanwhile.
	return append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{c.topic: offsets}), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())), nil
}

func (c *consumer) groupOptions() []kgo.Opt {
	at := kgo.NewOffset()
	switch c.from.kind {
	case fromEnd:
		at = at.AtEnd()
	case fromOffset:
		at = at.At(c.from.n)
	case fromTail:
		at = at.AtEnd().Relative(-c.from.n)
	case fromTime:
		at = at.AfterMilli(c.from.n)
	default:
		at = at.AtStart()
	}
	return []kgo.Opt{kgo.ConsumerGroup(c.flags.group), kgo.ConsumeTopics(c.topic), kgo.AutoCommitMarks(), kgo.AutoCommitInterval(time.Second),
		kgo.ConsumeStartOffset(at), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
}

// list asks for one kind of offset of the wanted partitions.
func (c *consumer) list(ctx context.Context, ask func(context.Context, ...string) (kadm.ListedOffsets, error)) (map[int32]int64, error) {
	listed, err := ask(ctx, c.topic)
	if err != nil {
		return nil, c.app.explain("offsets of topic "+c.topic, err, "")
	}
	out := map[int32]int64{}
	for p, o := range listed[c.topic] {
		if len(c.flags.partitions) > 0 && !slices.Contains(c.flags.partitions, p) {
			continue
		}
		if o.Err != nil {
			return nil, c.app.explain(fmt.Sprintf("offsets of topic %s, partition %d", c.topic, p), o.Err, "")
		}
		out[p] = o.Offset
	}
	return out, nil
}

// resolveFrom sets next to the offset that --from means in each partition.
func (c *consumer) resolveFrom(ctx context.Context, adm *kadm.Client) error {
	var byTime map[int32]int64
	if c.from.kind == fromTime {
		var err error
		if byTime, err = c.list(ctx, func(ctx context.Context, t ...string) (kadm.ListedOffsets, error) {
			return adm.ListOffsetsAfterMilli(ctx, c.from.n, t...)
		}); err != nil {
			return err
		}
	}
	inRange := false
	for p, start := range c.start {
		o := start
		end := c.end[p]
		switch c.from.kind {
		case fromEnd:
			o = end
		case fromOffset:
			o = min(max(c.from.n, start), end)
			inRange = inRange || c.from.n >= start && c.from.n <= end
		case fromTail:
			o = max(start, end-c.from.n)
		case fromTime:
			o = byTime[p]
		}
		c.next[p] = o
	}
	if c.from.kind == fromOffset && !inRange {
		var ranges []string
		for _, p := range sortedKeys(c.start) {
			if len(ranges) == 5 && len(c.start) > 6 {
				ranges = append(ranges, fmt.Sprintf("%d more", len(c.start)-5))
				break
			}
			ranges = append(ranges, fmt.Sprintf("partition %d has %d to %d", p, c.start[p], c.end[p]))
		}
		return failf("", "topic %s has no offset %d: %s", c.topic, c.from.n, strings.Join(ranges, ", "))
	}
	return nil
}

// atEnd says whether --until end is reached.
func (c *consumer) atEnd() bool {
	if c.flags.until != "end" {
		return false
	}
	for p, end := range c.end {
		if next, ok := c.next[p]; end > c.start[p] && (!ok || next < end) {
			return false
		}
	}
	return true
}

// poll reads and prints until it is done or ctx ends, which is no error.
func (c *consumer) poll(ctx context.Context, cl *kgo.Client) error {
	for {
		pctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		fetches := cl.PollFetches(pctx)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err := c.fetchError(fetches); err != nil {
			return err
		}
		if fetches.NumRecords() == 0 {
			if err := c.idle(ctx, cl); err != nil {
				return err
			}
		}
		done, err := c.print(cl, fetches)
		if err != nil || done || c.atEnd() {
			return err
		}
	}
}

func (c *consumer) fetchError(fetches kgo.Fetches) error {
	var first error
	fetches.EachError(func(_ string, p int32, err error) {
		var lost *kgo.ErrDataLoss
		switch {
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), first != nil:
		case errors.As(err, &lost):
			fmt.Fprintf(c.app.err, "firn: warning: partition %d: records from offset %d on are gone; reading goes on at %d\n", p, lost.ConsumedTo, lost.ResetTo)
		case p >= 0:
			first = c.app.explain(fmt.Sprintf("topic %s, partition %d", c.topic, p), err, "")
		default:
			first = c.app.explain("topic "+c.topic, err, "")
		}
	})
	return first
}

// print prints one poll's records. done is true when --count is reached.
func (c *consumer) print(cl *kgo.Client, fetches kgo.Fetches) (done bool, err error) {
	var last []*kgo.Record // of each partition, printed
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		var lastHere *kgo.Record
		for _, r := range p.Records {
			if done || err != nil || c.flags.until == "end" && r.Offset >= c.end[p.Partition] {
				break
			}
			c.next[p.Partition], lastHere = r.Offset+1, r
			if r.Attrs.IsControl() {
				continue
			}
			c.buf = c.format(c.buf[:0], r)
			if _, werr := c.out.Write(c.buf); werr != nil {
				err = failf("", "write to standard output: %w", werr)
				break
			}
			c.printed++
			done = c.flags.count > 0 && c.printed >= c.flags.count
		}
		if lastHere != nil {
			last = append(last, lastHere)
		}
	})
	if err != nil {
		return false, err
	}
	if err := c.out.Flush(); err != nil {
		return false, failf("", "write to standard output: %w", err)
	}
	if c.flags.group != "" {
		cl.MarkCommitRecords(last...)
	}
	return done, nil
}

// idle is called when nothing came for a while. With --until end it finds out
// what else moved a position: retention, or in a group the other members.
func (c *consumer) idle(ctx context.Context, cl *kgo.Client) error {
	if c.flags.until != "end" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	adm := kadm.NewClient(cl)
	starts, err := c.list(ctx, adm.ListStartOffsets)
	if err != nil {
		return err
	}
	for p, o := range starts {
		if o >= c.end[p] {
			c.next[p] = max(c.next[p], o)
		}
	}
	if c.flags.group == "" {
		return nil
	}
	committed, err := adm.FetchOffsets(ctx, c.flags.group)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil
	}
	if err != nil {
		return c.app.explain("offsets of group "+c.flags.group, err, "")
	}
	committed.Each(func(o kadm.OffsetResponse) {
		if o.Topic == c.topic && o.Err == nil {
			c.next[o.Partition] = max(c.next[o.Partition], o.At)
		}
	})
	return nil
}
