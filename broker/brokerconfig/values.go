package brokerconfig

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Values are the broker configs in effect. They are never changed; a change
// gives new ones.
type Values struct {
	Network           Network
	Fetch             Fetch
	Topics            Topics
	Groups            Groups
	Cleaner           Cleaner
	Storage           Storage
	Replication       Replication
	Balance           Balance
	TelemetryMaxBytes int // of one push, compressed

	layers        [layers]map[string]string // what was set, the strongest first
	topicDefaults map[string]string
}

// Network are the limits of connections and requests.
type Network struct {
	MaxConnections    int                // in all, ≥ 1
	MaxPerIP          int                // from one address, ≥ 0
	PerIPOverrides    map[netip.Addr]int // other limits than MaxPerIP; IPv4 addresses in their short form
	MaxConnectionRate int                // new ones per second; math.MaxInt32: no limit
	MaxIdle           time.Duration      // in which nothing moves; < 0: no limit
	MaxRequestBytes   int                // of one request
	SendBuffer        int                // of one connection, in the kernel
	QueuedBytes       int64              // of requests being handled; < 1: no limit
}

// Fetch are the limits of Fetch requests.
type Fetch struct {
	MaxBytes int // of one reply
	Sessions int // kept at one time, ≥ 0
}

// Topics are how topics are made and looked after; defaults of topic configs
// are TopicDefaults.
type Topics struct {
	AutoCreate           bool
	Delete               bool
	Partitions           int32 // of a topic made without a number, ≥ 1
	ReplicationFactor    int16 // of a topic made without a number, ≥ 1
	MaxTopics            int   // ≥ 1
	MaxPartitions        int   // of all topics, ≥ 1
	MaxDescribed         int   // partitions in a reply to DescribeTopicPartitions, ≥ 1
	RetentionCheck       time.Duration
	ProducerIDExpiration time.Duration
}

// Groups are the limits and times of consumer groups.
type Groups struct {
	MaxGroups             int   // ≥ 1
	MaxSize               int   // members of one, ≥ 1
	MaxGroupBytes         int   // ids, subscriptions and assignments of one
	MaxGroupOffsets       int   // partitions that one may commit, ≥ 1
	MaxBytes              int64 // of all groups and offsets in memory, about
	InitialRebalanceDelay time.Duration
	MinSession            time.Duration
	MaxSession            time.Duration
	MaxMetadataBytes      int // stored with one offset, ≥ 0
	OffsetsPartitions     int32
	OffsetsReplicas       int16 // ≥ 1
	OffsetsSegmentBytes   int
	OffsetsRetention      time.Duration
	OffsetsCheck          time.Duration
}

// Storage is how records become durable.
type Storage struct {
	JournalBytes int64 // of all files of the journal together
}

// Replication is how followers keep up with leaders.
type Replication struct {
	Lag               time.Duration // after which a follower is not in sync, > 0
	Fetchers          int           // connections to each leader's broker, ≥ 1
	MaxBytes          int32         // of one answer
	PartitionMaxBytes int32         // of one partition in it
	MaxWait           time.Duration // of a leader, for records
	Backoff           time.Duration // after errors, at most
	SocketTimeout     time.Duration
	Rebalance         bool          // leadership goes back to the first replica
	RebalanceEvery    time.Duration // between looks for that
	RackAware         bool          // consumers are sent to replicas in their racks (KIP-392)
	LeaderRate        int64         // bytes per second to followers that are named to be throttled, ≥ 0; math.MaxInt64: no limit
	FollowerRate      int64         // bytes per second of replicas that are named to be throttled, ≥ 0; math.MaxInt64: no limit
	MoveRate          int64         // bytes per second of replicas that are moved here, ≥ 1; math.MaxInt64: no limit
}

// Balance is how replicas are moved by themselves.
type Balance struct {
	On      bool
	Delay   time.Duration // without a broker that comes or goes, ≥ 0
	Moves   int           // at the same time, ≥ 1
	Drained []int32       // brokers that are to have no replicas
}

// Cleaner are the means of compaction.
type Cleaner struct {
	Threads        int           // partitions at the same time, ≥ 1
	KeyBytes       int64         // memory for keys, all threads together
	BytesPerSecond float64       // read and written, all threads together; > 0
	Backoff        time.Duration // between looks when nothing is worth compacting, > 0
}

// Source says which layer a value is from, in the numbers that DescribeConfigs
// answers (KIP-226).
type Source int8

// The sources, the strongest first.
const (
	DynamicBroker  Source = 2 // set at run time for this broker
	DynamicDefault Source = 3 // set at run time for all brokers
	Static         Source = 4 // given at the start
	Default        Source = 5 // the table's
)

// layers is how many layers there are above the table's defaults.
const layers = 3

// sources of the layers.
var sources = [layers]Source{DynamicBroker, DynamicDefault, Static}

// Synonym is a place where a value is, or would be, taken from.
type Synonym struct {
	Name   string
	Value  string // as it was written
	Source Source
}

// Resolve puts the layers together: what was given at the start, what was set
// at run time for all brokers, and for this one. Layers are not kept. The
// error is an *Error; values that do not fit together name the strongest one.
func Resolve(static, dynamicDefault, dynamicBroker map[string]string) (*Values, error) {
	v := &Values{layers: [layers]map[string]string{maps.Clone(dynamicBroker), maps.Clone(dynamicDefault), maps.Clone(static)}}
	for i, layer := range v.layers {
		for _, name := range slices.Sorted(maps.Keys(layer)) {
			if err := checkLayer(sources[i], name, layer[name]); err != nil {
				return nil, err
			}
		}
	}
	for i := range table {
		d := &table[i]
		if d.put == nil {
			continue
		}
		if s, ok := v.Get(d.Name); ok {
			d.put(v, &s)
		} else {
			d.put(v, nil)
		}
	}
	v.topicDefaults = v.makeTopicDefaults()
	if err := v.together(); err != nil {
		return nil, err
	}
	return v, nil
}

// CheckChange says whether what is set at run time may go from old to next:
// [0] for all brokers, [1] for one. What is wrong already does not prevent
// another change. Values that next has and old has not have passed
// CheckDynamic.
func (v *Values) CheckChange(old, next [2]map[string]string) error {
	static := v.layers[2]
	_, before, err := ResolveStored(static, old[0], old[1])
	if err != nil {
		return err
	}
	_, after, err := ResolveStored(static, next[0], next[1])
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, e := range before {
		known[e.Error()] = true
	}
	for _, e := range after {
		if !known[e.Error()] {
			return e
		}
	}
	return nil
}

// checkLayer checks one value; rows that a setting gives are in the static
// layer, too.
func checkLayer(s Source, name, value string) error {
	if s != Static {
		return CheckDynamic(name, value)
	}
	if d := byName[name]; d != nil && d.Setting != "" {
		return d.valid(value)
	}
	return CheckStatic(name, value)
}

// ResolveStored is Resolve for a start: dynamic values that this version does
// not take (another one stored them) are left out and told, instead of keeping
// the broker from starting. err is about static alone.
func ResolveStored(static, dynamicDefault, dynamicBroker map[string]string) (v *Values, ignored []error, err error) {
	dyn := [2]map[string]string{maps.Clone(dynamicBroker), maps.Clone(dynamicDefault)}
	for _, layer := range dyn {
		for _, name := range slices.Sorted(maps.Keys(layer)) {
			if err := CheckDynamic(name, layer[name]); err != nil {
				ignored = append(ignored, err)
				delete(layer, name)
			}
		}
	}
	// What is left is wrong only together; each turn takes one out.
	for {
		v, err = Resolve(static, dyn[1], dyn[0])
		if err == nil {
			return v, ignored, nil
		}
		at, name := conflicting(err, dyn)
		if at < 0 {
			return nil, ignored, err
		}
		ignored = append(ignored, err)
		delete(dyn[at], name)
	}
}

// conflicting finds the dynamic value that err is about; any, when it names
// none of them; at is -1 when there are none.
func conflicting(err error, dyn [2]map[string]string) (at int, name string) {
	if e, ok := err.(*Error); ok {
		for i, layer := range dyn {
			if _, ok := layer[e.Name]; ok {
				return i, e.Name
			}
		}
	}
	for i, layer := range dyn {
		for _, name := range slices.Sorted(maps.Keys(layer)) {
			return i, name
		}
	}
	return -1, ""
}

// Get gives the value in effect of one name, spelled as the table's defaults
// are; ok is false for null.
func (v *Values) Get(name string) (value string, ok bool) {
	d := byName[name]
	if d == nil {
		return "", false
	}
	for _, layer := range v.layers {
		if s, ok := layer[name]; ok {
			return d.normal(s), true
		}
	}
	return d.Default, !d.NoDefault
}

// Dynamic gives the names that were set at run time for all brokers, sorted.
func (v *Values) Dynamic() []string { return slices.Sorted(maps.Keys(v.layers[1])) }

// Synonyms gives the places that have a value for name, the strongest first:
// each layer's, under the name itself and under those that stand in for it.
// As in Kafka, it begins with the first place that has the name itself.
func (v *Values) Synonyms(name string) []Synonym {
	names := []string{name}
	if d := byName[name]; d != nil && chains[d.Topic] != nil {
		names = names[:0]
		for _, l := range chains[d.Topic] {
			names = append(names, l.name)
		}
	}
	var out []Synonym
	for i, layer := range v.layers {
		for _, n := range names {
			if s, ok := layer[n]; ok {
				out = append(out, Synonym{n, s, sources[i]})
			}
		}
	}
	for _, n := range names {
		if d := byName[n]; d != nil && !d.NoDefault {
			out = append(out, Synonym{n, d.Default, Default})
		}
	}
	for i := range out {
		if out[i].Name == name {
			return out[i:]
		}
	}
	return nil
}

// TopicDefaults gives the defaults of topic configs by the topic config's
// name. It is not to be changed.
func (v *Values) TopicDefaults() map[string]string { return v.topicDefaults }

// SameForTopics says whether open partitions work alike by v and by o.
func (v *Values) SameForTopics(o *Values) bool {
	return v.Topics.ProducerIDExpiration == o.Topics.ProducerIDExpiration && v.Replication.Lag == o.Replication.Lag && maps.Equal(v.topicDefaults, o.topicDefaults)
}

func (v *Values) makeTopicDefaults() map[string]string {
	out := map[string]string{}
	for i := range table {
		d := &table[i]
		if d.Topic == "" || out[d.Topic] != "" {
			continue
		}
		chain := chains[d.Topic]
		if chain == nil {
			out[d.Topic], _ = v.Get(d.Name)
			continue
		}
		for _, l := range chain {
			if s, ok := v.Get(l.name); ok {
				n, _ := strconv.ParseInt(s, 10, 64) // valid
				if l.factor != 1 {
					n *= l.factor // of 32 bits: it fits
				}
				if d.Topic == "retention.ms" {
					n = max(n, -1) // any negative number is no limit
				}
				out[d.Topic] = strconv.FormatInt(n, 10)
				break
			}
		}
	}
	return out
}

// together checks what several values must agree on, as Kafka does.
func (v *Values) together() error {
	n, g := &v.Network, &v.Groups
	if n.QueuedBytes > 0 && n.QueuedBytes < int64(n.MaxRequestBytes) {
		return &Error{Name: "queued.max.request.bytes", Reason: fmt.Sprintf("%d is less than socket.request.max.bytes (%d), so that the largest request could never be read", n.QueuedBytes, n.MaxRequestBytes)}
	}
	if n.MaxPerIP == 0 && len(n.PerIPOverrides) == 0 {
		return &Error{Name: "max.connections.per.ip", Reason: "is 0 and max.connections.per.ip.overrides lets nobody in either"}
	}
	if r := &v.Replication; r.MaxWait >= r.Lag {
		return &Error{Name: "replica.fetch.wait.max.ms", Reason: fmt.Sprintf("%d is not less than replica.lag.time.max.ms (%d), so that a follower of a quiet leader would not count as in sync", r.MaxWait.Milliseconds(), r.Lag.Milliseconds())}
	}
	if g.MinSession > g.MaxSession {
		return &Error{Name: "group.min.session.timeout.ms", Reason: fmt.Sprintf("%d is more than group.max.session.timeout.ms (%d)", g.MinSession.Milliseconds(), g.MaxSession.Milliseconds())}
	}
	for _, unit := range []string{"bytes", "ms"} {
		local, total := v.topicLong("local.retention."+unit), v.topicLong("retention."+unit)
		if local == -2 || total == -1 {
			continue
		}
		if local == -1 || local > total {
			return &Error{Name: "log.local.retention." + unit, Reason: fmt.Sprintf("%d is more than topics keep in all (log.retention.%s is %d)", local, unit, total)}
		}
	}
	return nil
}

func (v *Values) topicLong(name string) int64 {
	n, _ := strconv.ParseInt(v.topicDefaults[name], 10, 64)
	return n
}

func flag(field func(*Values) *bool) func(*Values, *string) {
	return func(v *Values, s *string) { *field(v) = s != nil && strings.EqualFold(*s, "true") }
}

// number puts a value that its type and check have found to fit.
func number[T int | int16 | int32 | int64](field func(*Values) *T) func(*Values, *string) {
	return func(v *Values, s *string) {
		if s != nil {
			n, _ := strconv.ParseInt(*s, 10, 64)
			*field(v) = T(n)
		}
	}
}

func ms(field func(*Values) *time.Duration) func(*Values, *string) {
	return unit(time.Millisecond, field)
}

// unit puts a number of units as a duration; what does not fit is as good as
// for ever.
func unit(u time.Duration, field func(*Values) *time.Duration) func(*Values, *string) {
	return func(v *Values, s *string) {
		if s == nil {
			return
		}
		n, _ := strconv.ParseInt(*s, 10, 64)
		switch most := math.MaxInt64 / int64(u); {
		case n > most:
			*field(v) = math.MaxInt64
		case n < -most:
			*field(v) = math.MinInt64
		default:
			*field(v) = time.Duration(n) * u
		}
	}
}
