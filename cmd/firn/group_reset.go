package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// maxOffsetsFile bounds what --from-file reads: 100,000 partitions and more.
const maxOffsetsFile = 64 << 20

// resetPlan is what reset-offsets prints, and what --from-file reads.
type resetPlan struct {
	Group      string           `json:"group"`
	State      string           `json:"state"`
	Executed   bool             `json:"executed"`
	Partitions []resetPartition `json:"partitions"`
}

// resetPartition is one partition of a plan. Before is -1 where nothing was
// committed. Start and End are what the log holds.
type resetPartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Before    int64  `json:"before"`
	After     int64  `json:"after"`
	Start     int64  `json:"start"`
	End       int64  `json:"end"`
	Note      string `json:"note,omitempty"` // why After is not what was asked for
}

// resetFlags are the flags of reset-offsets.
type resetFlags struct {
	topics                    []string
	allTopics                 bool
	earliest, latest, current bool
	offset, shift             int64
	datetime, duration, file  string
	execute                   bool
}

// resetTarget says where to move offsets to.
type resetTarget struct {
	flag   string                // the flag that chose it
	offset int64                 // --to-offset and --shift-by
	millis int64                 // --to-datetime and --by-duration, since 1970
	file   map[partitionID]int64 // --from-file
}

type partitionID struct {
	topic     string
	partition int32
}

func (p partitionID) String() string { return p.topic + ":" + strconv.Itoa(int(p.partition)) }

func (a *app) groupResetCommand() *cobra.Command {
	var r resetFlags
	cmd := &cobra.Command{
		Use:   "reset-offsets GROUP",
		Short: "Move a group's committed offsets",
		Long: `Move the offsets that a group committed, so that its members read on from there. Without
--execute nothing is changed: what would be is printed. The group must have no members then;
they would go on from where they are and commit that.

Which partitions: --topic TOPIC, --topic TOPIC:0,3-5 (may be repeated), or --all-topics, which
is everything that the group committed. Where to (one of):
  --to-earliest       the oldest record that is still there
  --to-latest         the end: only records that come from now on
  --to-offset N       this offset
  --to-datetime TIME  the first record not older than TIME: 2026-01-31T12:00:00Z, 2026-01-31 or
                      milliseconds since 1970
  --by-duration D     the first record not older than D: 90m, 36h, 7d
  --shift-by N        N records on, or back when N is negative
  --to-current        where it is; where nothing is committed, the end
  --from-file FILE    what FILE says: the JSON that this command prints, or lines of
                      topic,partition,offset

An offset before the log's start or after its end becomes the start or the end. To keep
what is committed for later: firn group reset-offsets GROUP --all-topics --to-current -o json`,
		Example: `  firn group reset-offsets reporting --topic flights --to-earliest
  firn group reset-offsets reporting --topic flights --to-earliest --execute
  firn group reset-offsets reporting --all-topics --by-duration 36h --execute
  firn group reset-offsets reporting --all-topics --to-current -o json > offsets.json
  firn group reset-offsets reporting --from-file offsets.json --execute`,
		Args:              args(cobra.ExactArgs(1), "the name of one group"),
		ValidArgsFunction: a.completeOneGroup,
		RunE: func(cmd *cobra.Command, given []string) error {
			target, err := r.target(cmd.Flags(), time.Now())
			if err != nil {
				return err
			}
			wanted, err := parsePartitions(r.topics)
			if err != nil {
				return err
			}
			ctx, adm, done, err := a.admin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			return a.resetOffsets(ctx, adm, given[0], wanted, target, r.execute)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVarP(&r.topics, "topic", "t", nil, "a `TOPIC`, or TOPIC:PARTITIONS as in flights:0,3-5; may be repeated")
	f.BoolVar(&r.allTopics, "all-topics", false, "everything that the group committed")
	f.BoolVar(&r.earliest, "to-earliest", false, "to the oldest record")
	f.BoolVar(&r.latest, "to-latest", false, "to the end")
	f.Int64Var(&r.offset, "to-offset", 0, "to offset `N`")
	f.StringVar(&r.datetime, "to-datetime", "", "to the first record not older than `TIME`")
	f.StringVar(&r.duration, "by-duration", "", "to the first record not older than `DURATION`")
	f.Int64Var(&r.shift, "shift-by", 0, "`N` records on, or back")
	f.BoolVar(&r.current, "to-current", false, "to where it is")
	f.StringVar(&r.file, "from-file", "", "to what `FILE` says; - is standard input")
	f.BoolVar(&r.execute, "execute", false, "do it; without this flag it is only shown")
	cmd.RegisterFlagCompletionFunc("topic", a.completeTopicFlag)
	return cmd
}

// target finds the one flag that says where to, and reads its value.
func (r *resetFlags) target(fs *pflag.FlagSet, now time.Time) (resetTarget, error) {
	var given []string
	for _, n := range []string{"to-earliest", "to-latest", "to-offset", "to-datetime", "by-duration", "shift-by", "to-current", "from-file"} {
		if fs.Changed(n) {
			given = append(given, n)
		}
	}
	switch {
	case len(given) == 0:
		return resetTarget{}, usageError("say where to: --to-earliest, --to-latest, --to-offset N, --to-datetime TIME, --by-duration D, --shift-by N, --to-current or --from-file FILE")
	case len(given) > 1:
		return resetTarget{}, usageError("--%s and --%s do not go together: say one place to move to", given[0], given[1])
	}
	t := resetTarget{flag: given[0], offset: r.offset}
	byFile := t.flag == "from-file"
	switch {
	case byFile && (len(r.topics) > 0 || r.allTopics):
		return t, usageError("--from-file says which partitions; leave --topic and --all-topics out")
	case !byFile && len(r.topics) == 0 && !r.allTopics:
		return t, usageError("say which partitions: --topic TOPIC, --topic TOPIC:0,1 or --all-topics")
	case len(r.topics) > 0 && r.allTopics:
		return t, usageError("--topic and --all-topics do not go together")
	}
	var err error
	switch t.flag {
	case "to-offset":
		if r.offset < 0 {
			return t, usageError("--to-offset %d: an offset is 0 or more", r.offset)
		}
	case "shift-by":
		t.offset = r.shift
	case "to-datetime":
		if t.millis, err = parseTime(r.datetime); err != nil {
			return t, usageError("--to-datetime %s: %w", r.datetime, err)
		}
	case "by-duration":
		d, err := parseDuration(r.duration)
		if err != nil {
			return t, usageError("--by-duration %s: %w", r.duration, err)
		}
		t.millis = now.Add(-d).UnixMilli()
	case "from-file":
		if t.file, err = readOffsetsFile(r.file); err != nil {
			return t, err
		}
	}
	return t, nil
}

// parseDuration reads what time.ParseDuration does, and days as in 7d.
func parseDuration(s string) (time.Duration, error) {
	var d time.Duration
	var err error
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n float64
		if n, err = strconv.ParseFloat(days, 64); !(n >= 0 && n < 100_000) {
			d = -1
		} else {
			d = time.Duration(n * 24 * float64(time.Hour))
		}
	} else {
		d, err = time.ParseDuration(s)
	}
	if err != nil || d < 0 {
		return 0, errors.New("write a duration such as 90m, 36h or 7d")
	}
	return d, nil
}

// readOffsetsFile reads a plan as reset-offsets prints it with --output json,
// or lines of topic,partition,offset, as Kafka's own tool exports them.
func readOffsetsFile(name string) (map[partitionID]int64, error) {
	in := io.Reader(os.Stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usageError("--from-file: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxOffsetsFile+1))
	if err != nil {
		return nil, usageError("--from-file: %w", err)
	}
	if len(b) > maxOffsetsFile {
		return nil, usageError("--from-file %s is larger than %s", name, bytesText(maxOffsetsFile))
	}
	offsets := map[partitionID]int64{}
	put := func(where string, id partitionID, offset int64) error {
		if _, twice := offsets[id]; twice {
			return usageError("%s: %s: %s is there twice", name, where, id)
		}
		if id.topic == "" || id.partition < 0 || offset < 0 {
			return usageError("%s: %s: a topic, a partition and an offset of 0 or more are wanted", name, where)
		}
		offsets[id] = offset
		return nil
	}
	if b = bytes.TrimSpace(b); bytes.HasPrefix(b, []byte("{")) {
		err = readPlan(b, name, put)
	} else {
		err = readOffsetLines(b, name, put)
	}
	if err == nil && len(offsets) == 0 {
		err = usageError("--from-file %s names no partition", name)
	}
	return offsets, err
}

type putOffset func(where string, id partitionID, offset int64) error

func readPlan(b []byte, name string, put putOffset) error {
	var plan struct {
		Partitions []struct {
			Topic     string
			Partition *int32
			After     *int64
		}
	}
	if err := json.Unmarshal(b, &plan); err != nil {
		return usageError("%s: not what firn group reset-offsets prints with --output json: %w", name, err)
	}
	for i, p := range plan.Partitions {
		where := fmt.Sprintf("partitions[%d]", i)
		if p.Partition == nil || p.After == nil {
			return usageError("%s: %s has no \"partition\" or no \"after\"", name, where)
		}
		if err := put(where, partitionID{p.Topic, *p.Partition}, *p.After); err != nil {
			return err
		}
	}
	return nil
}

func readOffsetLines(b []byte, name string, put putOffset) error {
	lines := csv.NewReader(bytes.NewReader(b))
	lines.FieldsPerRecord, lines.TrimLeadingSpace = 3, true
	for {
		fields, err := lines.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return usageError("%s: lines of topic,partition,offset are wanted: %w", name, err)
		}
		line, _ := lines.FieldPos(0)
		where := fmt.Sprintf("line %d", line)
		part, perr := strconv.ParseInt(fields[1], 10, 32)
		offset, oerr := strconv.ParseInt(fields[2], 10, 64)
		if perr != nil || oerr != nil {
			return usageError("%s: %s: a topic, a partition and an offset are wanted", name, where)
		}
		if err := put(where, partitionID{fields[0], int32(part)}, offset); err != nil {
			return err
		}
	}
}

// parsePartitions reads TOPIC and TOPIC:0,3-5 arguments. A topic without
// partitions gives nil: all of them.
func parsePartitions(given []string) (map[string][]int32, error) {
	out := map[string][]int32{}
	for _, g := range given {
		topic, list, some := strings.Cut(g, ":")
		old, twice := out[topic]
		if topic == "" || twice && (!some || old == nil) {
			return nil, usageError("--topic %s: write TOPIC or TOPIC:PARTITIONS as in flights:0,3-5, each topic once", g)
		}
		if !some {
			out[topic] = nil
			continue
		}
		parts := old
		for _, s := range strings.Split(list, ",") {
			from, to, isRange := strings.Cut(s, "-")
			first, err := strconv.ParseInt(from, 10, 32)
			last := first
			if err == nil && isRange {
				last, err = strconv.ParseInt(to, 10, 32)
			}
			if err != nil || first < 0 || last < first || last-first > 1_000_000 {
				return nil, usageError("--topic %s: %q is no partition and no range of them", g, s)
			}
			for p := first; p <= last; p++ {
				parts = append(parts, int32(p))
			}
		}
		slices.Sort(parts)
		out[topic] = slices.Compact(parts)
	}
	return out, nil
}

// resetOffsets makes the plan, prints it, and carries it out when told to.
func (a *app) resetOffsets(ctx context.Context, adm *kadm.Client, group string, wanted map[string][]int32, target resetTarget, execute bool) error {
	state, err := a.groupState(ctx, adm, group)
	if err != nil {
		return err
	}
	if execute && len(state.members) > 0 {
		return state.refuse("its offsets can only be moved while it has no members")
	}
	fetched, err := adm.FetchOffsets(ctx, group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return a.explain("committed offsets of group "+group, err, "")
	}
	committed := map[partitionID]int64{}
	for t, ps := range fetched {
		for p, o := range ps {
			if o.Err == nil && o.At >= 0 {
				committed[partitionID{t, p}] = o.At
			}
		}
	}
	r := resetter{app: a, adm: adm, group: group, committed: committed, target: target}
	plan := resetPlan{Group: group, State: state.state, Executed: execute}
	if plan.Partitions, err = r.plan(ctx, wanted); err != nil {
		return err
	}
	if execute {
		if err := r.commit(ctx, plan.Partitions); err != nil {
			return err
		}
	}
	if a.json() {
		return a.printJSON(plan)
	}
	if err := printResetPlan(a.out, plan); err != nil {
		return err
	}
	switch {
	case execute:
		fmt.Fprintf(a.out, "\nmoved %s of group %s\n", plural(len(plan.Partitions), "offset"), group)
	case len(state.members) > 0:
		fmt.Fprintf(a.out, "\nnothing was changed. It can be, with --execute, once these are stopped: %s\n", strings.Join(state.members, ", "))
	default:
		fmt.Fprintln(a.out, "\nnothing was changed; do it with --execute")
	}
	return nil
}

func printResetPlan(w io.Writer, plan resetPlan) error {
	t := newTable("TOPIC", ">PARTITION", ">BEFORE", ">AFTER", ">START", ">END", "NOTE")
	noted := false
	for _, p := range plan.Partitions {
		t.row(p.Topic, p.Partition, known(p.Before), p.After, p.Start, p.End, p.Note)
		noted = noted || p.Note != ""
	}
	if !noted {
		t.dropLast()
	}
	return t.print(w)
}

// resetter works out where each partition's offset goes.
type resetter struct {
	app       *app
	adm       *kadm.Client
	group     string
	committed map[partitionID]int64
	target    resetTarget
}

func (r resetter) plan(ctx context.Context, wanted map[string][]int32) ([]resetPartition, error) {
	byTopic := wanted // nil: all partitions of the topic
	switch {
	case r.target.file != nil:
		byTopic = groupByTopic(sortedIDs(r.target.file))
	case len(wanted) == 0:
		if byTopic = groupByTopic(sortedIDs(r.committed)); len(byTopic) == 0 {
			return nil, failf("name topics with --topic; groups: firn group list", "group %s has committed nothing", r.group)
		}
	}
	topics := sortedKeys(byTopic)
	starts, err := r.adm.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, r.app.explain("start offsets", err, "")
	}
	ends, err := r.adm.ListEndOffsets(ctx, topics...)
	if err != nil {
		return nil, r.app.explain("end offsets", err, "")
	}
	var timed kadm.ListedOffsets
	if r.target.flag == "to-datetime" || r.target.flag == "by-duration" {
		if timed, err = r.adm.ListOffsetsAfterMilli(ctx, r.target.millis, topics...); err != nil {
			return nil, r.app.explain("offsets by time", err, "")
		}
	}
	plan := []resetPartition{}
	for _, t := range topics {
		parts := byTopic[t]
		if parts == nil {
			parts = sortedKeys(ends[t])
		}
		for _, part := range parts {
			id := partitionID{t, part}
			p := resetPartition{Topic: t, Partition: part, Before: -1}
			if c, ok := r.committed[id]; ok {
				p.Before = c
			}
			if p.Start, err = r.listed(starts, id); err == nil {
				p.End, err = r.listed(ends, id)
			}
			if err == nil {
				err = r.place(&p, timed)
			}
			if err != nil {
				return nil, err
			}
			plan = append(plan, p)
		}
	}
	return plan, nil
}

// listed gives one partition's offset; a topic or partition that does not
// exist is an error, before anything is changed.
func (r resetter) listed(all kadm.ListedOffsets, id partitionID) (int64, error) {
	o, ok := all.Lookup(id.topic, id.partition)
	if !ok {
		o.Err = kerr.UnknownTopicOrPartition
		if whole, none := all.Lookup(id.topic, -1); none {
			o.Err = whole.Err // kadm's way to say it of a topic
		}
	}
	if o.Err == nil {
		return o.Offset, nil
	}
	what := "partition " + id.String()
	if id.partition < 0 {
		what = "topic " + id.topic
	}
	if errors.Is(o.Err, kerr.UnknownTopicOrPartition) {
		return 0, failf("topics: firn topic list; if it was deleted: firn group delete-offsets "+r.group+" --topic "+id.topic,
			"%s does not exist (%s); no offset was changed", what, codeOf(o.Err))
	}
	return 0, r.app.explain(what, o.Err, "")
}

// place works out p.After.
func (r resetter) place(p *resetPartition, timed kadm.ListedOffsets) (err error) {
	id := partitionID{p.Topic, p.Partition}
	asked := p.End
	switch r.target.flag {
	case "to-earliest":
		asked = p.Start
	case "to-latest":
	case "to-current":
		if p.Before >= 0 {
			asked = p.Before
		} else {
			p.Note = "nothing was committed: the end"
		}
	case "to-offset":
		asked = r.target.offset
	case "shift-by":
		if p.Before < 0 {
			return failf("leave it out, or place it with --to-earliest, --to-latest or --to-offset",
				"group %s has committed nothing for %s, so there is nothing to shift from; no offset was changed", r.group, id)
		}
		asked = shifted(p.Before, r.target.offset)
	case "from-file":
		asked = r.target.file[id]
	default: // by time; kadm gives the end where no record is as young
		asked, err = r.listed(timed, id)
	}
	p.After = min(max(asked, p.Start), p.End)
	switch {
	case asked < p.Start:
		p.Note = fmt.Sprintf("%d is before the start", asked)
	case asked > p.End:
		p.Note = fmt.Sprintf("%d is after the end", asked)
	}
	return err
}

// shifted is n+by without wrapping around.
func shifted(n, by int64) int64 {
	if s := n + by; (by >= 0) == (s >= n) {
		return s
	}
	if by < 0 {
		return -1
	}
	return 1<<63 - 1
}

func (r resetter) commit(ctx context.Context, plan []resetPartition) error {
	offsets := kadm.Offsets{}
	for _, p := range plan {
		offsets.AddOffset(p.Topic, p.Partition, p.After, -1)
	}
	resp, err := r.adm.CommitOffsets(ctx, r.group, offsets)
	if err != nil {
		return r.app.explain("group "+r.group, err, "")
	}
	moved := 0
	var first error
	for _, o := range resp.Sorted() {
		if o.Err == nil {
			moved++
		} else if first == nil {
			first = r.app.explain(fmt.Sprintf("group %s, partition %s:%d", r.group, o.Topic, o.Partition), o.Err, "")
		}
	}
	if first != nil {
		return fmt.Errorf("%d of %d offsets were moved; %w", moved, len(plan), first)
	}
	return nil
}

func sortedIDs(m map[partitionID]int64) []partitionID {
	ids := make([]partitionID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b partitionID) int {
		if c := strings.Compare(a.topic, b.topic); c != 0 {
			return c
		}
		return int(a.partition) - int(b.partition)
	})
	return ids
}

func groupByTopic(ids []partitionID) map[string][]int32 {
	out := map[string][]int32{}
	for _, id := range ids {
		out[id.topic] = append(out[id.topic], id.partition)
	}
	return out
}
