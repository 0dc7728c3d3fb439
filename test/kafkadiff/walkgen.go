package kafkadiff

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// generator makes up a conversation, line by line, from what Kafka answered so
// far: a few topics, groups, members and producers, so that requests collide,
// and now and then a value that is a little, or very, wrong.
type generator struct {
	r *rand.Rand
	p *pair

	step      int
	topics    []*walkTopic
	groups    []string // names of variables
	members   []*walkMember
	producers []*walkProducer
	sessions  []*walkSession
	pending   []pendingJoin
	actions   []weighted
	total     int
	made      int // topics, members and producers so far, to name them
}

type weighted struct {
	weight int
	do     func() error
}

type walkTopic struct {
	name  string // of the variable
	parts int32
	ends  map[int32]int64
	id    string         // variable of the id, where it is not NAME.id
	cut   map[int32]bool // records were deleted
	anew  bool           // batches may be compressed anew, and two brokers do not come to the same sizes
}

func (t *walkTopic) idRef() string {
	if t.id != "" {
		return "$" + t.id
	}
	return "$" + t.name + ".id"
}

type walkMember struct {
	group, conn string
	id          string // variable of the member id; "" before there is one
	gen         string // variable of the generation
	instance    string // "" for none
	leader      bool
	waiting     bool // for an answer to join or sync
}

type walkProducer struct {
	id    string // variable
	epoch int64
	next  map[string]int64 // sequence by topic and partition
}

type walkSession struct {
	id    string // variable
	epoch int64
}

// pendingJoin is a join or sync that had no answer when it was sent.
type pendingJoin struct {
	step   int
	member *walkMember
	joins  bool
}

// settle is how long a broker may take to say at once what it says at once.
const settle = 15 * time.Millisecond

func newGenerator(r *rand.Rand, p *pair) *generator {
	g := &generator{r: r, p: p}
	g.actions = []weighted{
		{22, g.produce}, {14, g.fetch}, {6, g.sessionFetch}, {9, g.listOffsets}, {5, g.metadata},
		{9, g.offsetCommit}, {8, g.offsetFetch}, {2, g.findCoordinator}, {10, g.join}, {8, g.sync}, {8, g.heartbeat},
		{4, g.leave}, {5, g.describeGroups}, {2, g.deleteGroups}, {3, g.offsetDelete}, {3, g.initProducer},
		{4, g.offsetForLeaderEpoch}, {4, g.deleteRecords}, {2, g.createTopics}, {1, g.deleteTopics}, {2, g.createPartitions},
		{3, g.describeConfigs}, {2, g.alterConfigs}, {3, g.describeProducers}, {2, g.electLeaders}, {1, g.listReassignments},
		{2, g.alterReassignments}, {2, g.describeTopicPartitions}, {1, g.describeCluster},
	}
	for _, a := range g.actions {
		g.total += a.weight
	}
	return g
}

// run makes the conversation; the last steps look at what is there at the end.
func (g *generator) run(steps int) error {
	if err := g.setUp(); err != nil {
		return err
	}
	for len(g.p.kafka.answers) < steps {
		n := g.r.IntN(g.total)
		for _, a := range g.actions {
			if n -= a.weight; n < 0 {
				if err := a.do(); err != nil {
					return err
				}
				break
			}
		}
		if err := g.collect(); err != nil {
			return err
		}
	}
	return g.finish()
}

func (g *generator) setUp() error {
	for _, line := range []string{"name $g $h $n", "topic $z"} {
		if err := g.p.do(line); err != nil {
			return err
		}
	}
	g.groups = []string{"g", "h"}
	configs := []string{"", "", " cleanup.policy=compact", " message.timestamp.type=LogAppendTime", " max.message.bytes=200", " compression.type=gzip", " compression.type=uncompressed"}
	for _, name := range []string{"t", "u"} {
		parts := int32(1 + g.r.IntN(2))
		config := pick(g, configs)
		if err := g.p.do(fmt.Sprintf("topic $%s partitions=%d%s", name, parts, config)); err != nil {
			return err
		}
		g.topics = append(g.topics, &walkTopic{name: name, parts: parts, ends: map[int32]int64{}, cut: map[int32]bool{}, anew: strings.Contains(config, "compression")})
	}
	return nil
}

// finish asks for all that a consumer sees.
func (g *generator) finish() error {
	if err := g.barrier(); err != nil {
		return err
	}
	if err := g.collect(); err != nil {
		return err
	}
	for _, t := range g.topics {
		for part := range t.parts {
			if _, err := g.ask("main", "Fetch", 12, o("MaxBytes", 50_000_000, "Topics", list{o("Topic", "$"+t.name, "Partitions", list{
				o("Partition", part, "CurrentLeaderEpoch", -1, "LastFetchedEpoch", -1, "LogStartOffset", -1, "FetchOffset", g.start(t, part), "PartitionMaxBytes", 50_000_000)})})); err != nil {
				return err
			}
		}
		for _, ts := range []int{-1, -2, latestRecord} {
			var parts list
			for part := range t.parts {
				if ts != latestRecord || !t.cut[part] {
					parts = append(parts, o("Partition", part, "CurrentLeaderEpoch", -1, "Timestamp", ts))
				}
			}
			if _, err := g.ask("main", "ListOffsets", 7, o("ReplicaID", -1, "Topics", list{o("Topic", "$"+t.name, "Partitions", parts)})); err != nil {
				return err
			}
		}
	}
	for _, group := range g.groups {
		if _, err := g.ask("main", "OffsetFetch", 7, o("Group", "$"+group, "Topics", nil)); err != nil {
			return err
		}
		if _, err := g.ask("main", "DescribeGroups", 5, o("Groups", list{"$" + group})); err != nil {
			return err
		}
	}
	return nil
}

// start asks where a partition begins: Kafka's answer is where reading starts.
func (g *generator) start(t *walkTopic, part int32) int64 {
	step, err := g.ask("main", "ListOffsets", 7, o("ReplicaID", -1, "Topics", list{o("Topic", "$"+t.name, "Partitions", list{o("Partition", part, "CurrentLeaderEpoch", -1, "Timestamp", -2)})}))
	if err != nil {
		return 0
	}
	return max(0, g.p.answeredInt(step, "Topics[0].Partitions[0].Offset", 0))
}

// o makes an object of names and values; an int of any size becomes a number,
// a ref a variable without quotes.
func o(pairs ...any) *object {
	obj := &object{}
	for i := 0; i+1 < len(pairs); i += 2 {
		obj.set(pairs[i].(string), leaf(pairs[i+1]))
	}
	return obj
}

type ref string

func leaf(v any) any {
	switch v := v.(type) {
	case int:
		return number(int64(v))
	case int32:
		return number(int64(v))
	case int64:
		return number(v)
	case ref:
		return json.Number(v)
	}
	return v
}

// ask sends a request and gives its step.
func (g *generator) ask(conn, api string, version int, fields *object) (int, error) {
	g.step++
	at := ""
	if conn != "main" {
		at = "@" + conn + " "
	}
	return g.step, g.p.do(fmt.Sprintf("%d %s%s %d %s", g.step, at, api, version, oneLine(fields)))
}

func pick[T any](g *generator, from []T) T { return from[g.r.IntN(len(from))] }

// chance is true in so many of a hundred cases.
func (g *generator) chance(percent int) bool { return g.r.IntN(100) < percent }

// between gives a version.
func (g *generator) between(low, high int) int { return low + g.r.IntN(high-low+1) }

var extremes = []int64{0, 1, -1, -2, 5, 99, math.MaxInt16, math.MinInt16, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64}

// near gives v, mostly, or a value around it or far from it, within the bounds.
func (g *generator) near(v, low, high int64, wrong int) int64 {
	if !g.chance(wrong) {
		return v
	}
	if g.chance(60) {
		v += pick(g, []int64{-1, 1, 2, -2})
	} else {
		v = pick(g, extremes)
	}
	return min(max(v, low), high)
}

// nearRef is near for a variable.
func (g *generator) nearRef(name string, wrong int) ref {
	switch {
	case name == "":
		return ref(strconv.FormatInt(pick(g, []int64{0, 1, -1}), 10))
	case !g.chance(wrong):
		return ref("$" + name)
	case g.chance(70):
		return ref(pick(g, []string{"$(" + name + "-1)", "$(" + name + "+1)"}))
	}
	return ref(pick(g, []string{"-1", "0", "-2", "2147483647"}))
}

func (g *generator) topic() *walkTopic { return pick(g, g.topics) }

// topicName is a name for a request, at times of no topic.
func (g *generator) topicName(t *walkTopic) string {
	if g.chance(4) {
		return pick(g, []string{"$n", "", ".", "a b", "$n/x", "__consumer_offsets_", strings.Repeat("x", 250)})
	}
	return "$" + t.name
}

func (g *generator) topicID(t *walkTopic) string {
	if g.chance(4) {
		return pick(g, []string{"00000000000000000000000000000000", "0123456789abcdef0123456789abcdef"})
	}
	return t.idRef()
}

func (g *generator) partition(t *walkTopic) int32 {
	if g.chance(4) {
		return pick(g, []int32{-1, t.parts, 99, math.MaxInt32, math.MinInt32})
	}
	return g.r.Int32N(t.parts)
}

// named gives "Topic", name or "TopicID", id, as the version wants it.
func (g *generator) named(t *walkTopic, byID bool, more ...any) *object {
	if byID {
		return o(append([]any{"TopicID", g.topicID(t)}, more...)...)
	}
	return o(append([]any{"Topic", g.topicName(t)}, more...)...)
}

func (g *generator) group() string {
	if g.chance(3) {
		return "$n"
	}
	return "$" + pick(g, g.groups)
}

// plainBatch is a batch that lies about nothing and is nobody's.
func (g *generator) plainBatch() *object {
	b := &object{}
	if g.chance(40) {
		b.set("codec", pick(g, []string{"gzip", "snappy", "lz4", "zstd"}))
	}
	n := 1 + g.r.IntN(3)
	records := list{}
	for range n {
		rec := o("key", "k"+strconv.Itoa(g.r.IntN(5)), "value", "v"+strconv.Itoa(g.r.IntN(1000)))
		if g.chance(5) {
			rec.set("key", nil)
		}
		if g.chance(5) {
			rec.set("value", nil)
		}
		if g.chance(8) {
			rec.set("headers", list{list{"h", "x"}, list{"n", nil}})
		}
		if g.chance(10) {
			rec.set("time", json.Number(fmt.Sprintf("$(now%+d)", g.r.IntN(2000)-1000)))
		}
		records = append(records, rec)
	}
	b.set("records", records)
	return b
}

// batch gives a batch, mostly of a producer, what its sequences are counted by
// and the one after it. It may lie where lies are wanted.
func (g *generator) batch(t *walkTopic, part int32, lies bool) (*object, *walkProducer, string, int64) {
	b := g.plainBatch()
	v, _ := b.get("records")
	records := v.(list)
	if lies {
		g.lie(b, records)
	}
	if len(g.producers) == 0 || g.chance(55) {
		return b, nil, "", 0
	}
	p := pick(g, g.producers)
	key := fmt.Sprintf("%s-%d", t.name, part)
	n := int64(len(records))
	sequence, known := p.next[key]
	switch { // a partition that knows nothing of a producer: scenarios/produce
	case known && g.chance(8):
		sequence = max(0, sequence-n) // the last one again
	case known:
		sequence = g.near(sequence, math.MinInt32, math.MaxInt32, 15)
	}
	epoch := g.near(p.epoch, math.MinInt16, math.MaxInt16, 8)
	if epoch == -1 { // without an epoch: scenarios/produce
		epoch = -2
	}
	b.set("producer", json.Number("$"+p.id))
	b.set("epoch", number(epoch))
	b.set("sequence", number(sequence))
	return b, p, key, sequence + n
}

// lie makes a batch something that no client sends, now and then.
func (g *generator) lie(b *object, records list) {
	for i, rec := range records {
		if g.r.IntN(400) == 0 {
			rec.(*object).set("delta", number(int64(i+1)))
		}
	}
	for _, c := range strange {
		if g.r.IntN(300) == 0 {
			b.set(c.name, number(pick(g, c.values)))
		}
	}
	if g.r.IntN(150) == 0 {
		b.set("corrupt", pick(g, []string{"crc", "payload"}))
	}
}

// strange are fields of a batch that lie.
var strange = []struct {
	name   string
	values []int64
}{
	{"attributes", []int64{8, 16, 32, 5, 7, 64, 1}}, {"count", []int64{0, 1, 2, -1, math.MaxInt32}}, {"lastDelta", []int64{0, 5, -1}},
	{"magic", []int64{3, -1}}, {"baseOffset", []int64{1, 7, -1, math.MaxInt64}}, {"leaderEpoch", []int64{0, 5, -2}},
	{"first", []int64{0, -1}}, {"max", []int64{0, -1, math.MaxInt64}},
}

var acksOfProduce = append(slices.Repeat([]int{-1}, 24), 1, 1, 1, 1, 0, 0, 2, -2)

func (g *generator) produce() error {
	version := g.between(3, 13)
	t := g.topic()
	part := g.partition(t)
	u, other := t, part
	if g.chance(10) {
		u = g.topic()
		other = g.partition(u)
	}
	acks := pick(g, acksOfProduce)
	// A lie about one partition may be told of all others.
	batch, producer, key, next := g.batch(t, part, u == t)
	records := any(o("batch", batch))
	switch {
	case acks == 0: // what Firn refuses on purpose would not be told apart: the connection closes
		records = o("batch", g.plainBatch())
	case g.chance(2):
		second, _, _, _ := g.batch(t, part, false)
		records = o("batches", list{batch, second})
	}
	topics := list{g.named(t, version >= 13, "Partitions", list{o("Partition", part, "Records", records)})}
	if u != t && acks != 0 {
		b, _, _, _ := g.batch(u, other, false)
		more := g.named(u, version >= 13, "Partitions", list{o("Partition", other, "Records", o("batch", b))})
		if first := topics[0].(*object); more.values[0] != first.values[0] {
			topics = append(topics, more)
		}
	}
	step, err := g.ask("main", "Produce", version, o("Acks", acks, "TimeoutMillis", 5000, "Topics", topics))
	if err != nil {
		return err
	}
	if acks == 0 { // what follows on the connection shows whether it was closed
		return g.findCoordinator()
	}
	if producer != nil && g.p.answered(step, "Topics[0].Partitions[0].ErrorCode") == json.Number("0") {
		producer.next[key] = max(producer.next[key], next)
	}
	if base := g.p.answeredInt(step, "Topics[0].Partitions[0].BaseOffset", -1); base >= 0 {
		t.ends[part] = max(t.ends[part], base+1)
	}
	return nil
}

func (g *generator) fetchPartition(t *walkTopic) *object {
	part := g.partition(t)
	offset := g.near(g.r.Int64N(t.ends[part]+1), math.MinInt64, math.MaxInt64, 12)
	return o("Partition", part, "CurrentLeaderEpoch", g.near(-1, -2, 5, 8), "FetchOffset", offset, "LastFetchedEpoch", g.near(-1, -2, 5, 5),
		"LogStartOffset", -1, "PartitionMaxBytes", g.limit(t))
}

// limit is for bytes of an answer: where sizes differ none that lies between.
func (g *generator) limit(topics ...*walkTopic) int64 {
	limit := pick(g, []int64{1_000_000, 1_000_000, 1_000_000, 100, 1, 0, math.MaxInt32, 150})
	if slices.ContainsFunc(topics, func(t *walkTopic) bool { return t.anew }) && (limit == 100 || limit == 150) {
		return 1
	}
	return limit
}

func (g *generator) fetch() error {
	version := g.between(4, 18)
	t := g.topic()
	topics := list{g.named(t, version >= 13, "Partitions", list{g.fetchPartition(t)})}
	u := g.topic()
	if g.chance(20) && u != t {
		topics = append(topics, g.named(u, version >= 13, "Partitions", list{g.fetchPartition(u)}))
	}
	_, err := g.ask("main", "Fetch", version, o("MaxWaitMillis", pick(g, []int{0, 0, 0, 5}), "MinBytes", pick(g, []int{0, 1, 1, 100000, -1}),
		"MaxBytes", g.limit(t, u), "IsolationLevel", pick(g, []int{0, 0, 1}), "Topics", topics, "SessionID", 0, "SessionEpoch", -1))
	return err
}

// sessionFetch opens a fetch session or goes on with one.
func (g *generator) sessionFetch() error {
	version := g.between(7, 18)
	t := g.topic()
	topics := list{g.named(t, version >= 13, "Partitions", list{g.fetchPartition(t)})}
	if len(g.sessions) == 0 || g.chance(30) {
		step, err := g.ask("main", "Fetch", version, o("MaxWaitMillis", 0, "MinBytes", 0, "MaxBytes", 1_000_000, "SessionID", 0, "SessionEpoch", 0, "Topics", topics))
		if err != nil {
			return err
		}
		if g.p.answeredInt(step, "SessionID", 0) > 0 {
			g.made++
			s := &walkSession{fmt.Sprintf("s%d", g.made), 1}
			g.sessions = append(g.sessions, s)
			return g.p.do(fmt.Sprintf("let %s = %d SessionID", s.id, step))
		}
		return nil
	}
	s := pick(g, g.sessions)
	id := g.nearRef(s.id, 3)
	if id == "2147483647" { // scenarios/found
		id = "1"
	}
	fields := o("MaxWaitMillis", 0, "MinBytes", 0, "MaxBytes", 1_000_000, "SessionID", id, "SessionEpoch", g.near(s.epoch, -1, math.MaxInt32, 10), "Topics", list{})
	if g.chance(50) {
		fields.set("Topics", topics)
	}
	if g.chance(15) {
		fields.set("ForgottenTopics", list{g.named(t, version >= 13, "Partitions", list{leaf(g.partition(t))})})
	}
	step, err := g.ask("main", "Fetch", version, fields)
	if err != nil {
		return err
	}
	if code := g.p.answeredInt(step, "ErrorCode", 1); code == 0 {
		if epoch, _ := fields.get("SessionEpoch"); epoch == number(-1) || epoch == number(0) {
			g.sessions = slices.DeleteFunc(g.sessions, func(x *walkSession) bool { return x == s })
		} else {
			s.epoch++
		}
	}
	return nil
}

// latestRecord asks ListOffsets for the greatest timestamp. Where records were
// deleted Kafka may name one of those, which scenarios/offsets pins: a walk
// does not ask there.
const latestRecord = -3

func (g *generator) listOffsets() error {
	t := g.topic()
	part := g.partition(t)
	at := pick(g, []any{-1, -1, -2, -2, -3, -4, -5, -6, -7, 0, ref("$now"), ref("$(now-500)"), ref("$(now+500)"), ref("$(now+2000)"), int64(math.MaxInt64), int64(math.MinInt64)})
	if at == latestRecord && t.cut[part] {
		at = -1
	}
	version := g.between(1, 11)
	_, err := g.ask("main", "ListOffsets", version, o("ReplicaID", pick(g, []int{-1, -1, -1, -1, -2}), "IsolationLevel", pick(g, []int{0, 0, 1}), "TimeoutMillis", 1000,
		"Topics", list{g.named(t, false, "Partitions", list{o("Partition", part, "CurrentLeaderEpoch", g.near(-1, -2, 5, 10), "Timestamp", at)})}))
	return err
}

func (g *generator) metadata() error {
	version := g.between(0, 13)
	t := g.topic()
	topics := list{}
	if version >= 10 && g.chance(50) {
		topics = append(topics, o("TopicID", g.topicID(t), "Topic", nil))
	} else {
		topics = append(topics, o("Topic", "$"+t.name))
	}
	if g.chance(10) && version >= 4 {
		topics = append(topics, o("Topic", pick(g, []string{"$n", "", "a b"})))
	}
	_, err := g.ask("main", "Metadata", version, o("Topics", topics, "AllowAutoTopicCreation", false, "IncludeTopicAuthorizedOperations", g.chance(20)))
	return err
}

func (g *generator) initProducer() error {
	version := g.between(0, 5)
	fields := o("TransactionalID", nil, "TransactionTimeoutMillis", pick(g, []int{60000, 0, -1, math.MaxInt32}))
	var old *walkProducer
	if version >= 3 && len(g.producers) > 0 && g.chance(25) {
		old = pick(g, g.producers)
		fields.set("ProducerID", json.Number("$"+old.id))
		fields.set("ProducerEpoch", number(g.near(old.epoch, math.MinInt16, math.MaxInt16, 15)))
	}
	step, err := g.ask("main", "InitProducerID", version, fields)
	if err != nil || g.p.answeredInt(step, "ErrorCode", 1) != 0 {
		return err
	}
	g.made++
	p := &walkProducer{fmt.Sprintf("p%d", g.made), g.p.answeredInt(step, "ProducerEpoch", 0), map[string]int64{}}
	g.producers = append(g.producers, p)
	if len(g.producers) > 3 {
		g.producers = g.producers[1:]
	}
	return g.p.do(fmt.Sprintf("let %s = %d ProducerID", p.id, step))
}

func (g *generator) offsetForLeaderEpoch() error {
	t := g.topic()
	_, err := g.ask("main", "OffsetForLeaderEpoch", g.between(2, 4), o("ReplicaID", pick(g, []int{-1, -2}), "Topics", list{g.named(t, false, "Partitions", list{
		o("Partition", g.partition(t), "CurrentLeaderEpoch", g.near(-1, -2, 5, 20), "LeaderEpoch", g.near(0, -2, 5, 50))})}))
	return err
}

func (g *generator) deleteRecords() error {
	t := g.topic()
	part := g.partition(t)
	t.cut[part] = true
	_, err := g.ask("main", "DeleteRecords", g.between(0, 2), o("TimeoutMillis", 5000, "Topics", list{g.named(t, false, "Partitions", list{
		o("Partition", part, "Offset", g.near(g.r.Int64N(t.ends[part]+1), math.MinInt64, math.MaxInt64, 20))})}))
	return err
}

func (g *generator) describeProducers() error {
	t := g.topic()
	_, err := g.ask("main", "DescribeProducers", 0, o("Topics", list{g.named(t, false, "Partitions", list{leaf(g.partition(t))})}))
	return err
}

func (g *generator) describeCluster() error {
	_, err := g.ask("main", "DescribeCluster", g.between(0, 2), o("IncludeClusterAuthorizedOperations", g.chance(50)))
	return err
}

func (g *generator) findCoordinator() error {
	version := g.between(0, 6)
	fields := o("CoordinatorType", pick(g, []int{0, 0, 0, 9, -1}), "CoordinatorKey", g.group())
	if version >= 4 {
		fields = o("CoordinatorType", pick(g, []int{0, 0, 0, 9, -1}), "CoordinatorKeys", list{g.group(), "other"})
	}
	_, err := g.ask("main", "FindCoordinator", version, fields)
	return err
}
