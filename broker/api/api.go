// Package api answers decoded requests: one file per API key, each opening
// with the versions it answers. It decides what a request means for topics,
// partitions, groups and configs; sockets and decoding belong to wire, logs to
// partition, membership to group, storage of metadata to metastore.
package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/time/rate"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/telemetry"
	"github.com/firnlog/firn/broker/throttle"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering"
)

// Partitions gives the partitions that are open on this broker.
type Partitions interface {
	// Get gives an open partition, nil when it is not open here.
	Get(topic string, p record.PartitionID) *partition.Partition
	// OpenError says why a partition that belongs here did not open, and nil
	// where that is not known. It is tried again.
	OpenError(topic string, p record.PartitionID) error
	// AwaitApplied returns once what the metadata of revision says is open
	// (or gone), or with ctx's error.
	AwaitApplied(ctx context.Context, revision int64) error
}

// Metadata is what the API needs of the metastore; *metastore.Store is the
// one implementation.
type Metadata interface {
	Image() *metastore.Image
	CreateTopics(ctx context.Context, specs []metastore.TopicSpec) ([]metastore.CreateResult, int64, error)
	DeleteTopic(ctx context.Context, id record.TopicID) (int64, error)
	AddPartitions(ctx context.Context, id record.TopicID, assignment [][]record.BrokerID, wantCurrent int) (int64, error)
	SetTopicConfigs(ctx context.Context, id record.TopicID, edit func(map[string]string) (map[string]string, error)) (int64, error)
	SetConfigs(ctx context.Context, r metastore.ConfigResource, edit func(map[string]string) (map[string]string, error)) (int64, error)
	ChangePartitions(ctx context.Context, changes []metastore.PartitionChange) (revisions []int64, err error)
	AllocateProducerIDs(ctx context.Context, n int64) (int64, error)
	Forget(ctx context.Context, id record.BrokerID) (int64, error)
	Members(ctx context.Context) ([]metastore.Member, error)
	Health(ctx context.Context) ([]metastore.MemberHealth, error)
	AddMember(ctx context.Context, peer string) error
	RemoveMember(ctx context.Context, peer string) error
}

// Config is plain values; zero values take the defaults named here.
type Config struct {
	BrokerID             record.BrokerID
	LogDir               string        // folder of the partitions' logs, as DescribeLogDirs names it
	MaxFetchBytes        int           // of one Fetch reply, whatever is asked; 55 MiB
	FetchSessions        int           // kept at one time; 1,000; negative: none
	FetchSessionParts    int           // partitions in all sessions; 1,000,000
	FetchSessionMinAge   time.Duration // before a session may be evicted; 2 min
	MaxWaitingFetches    int           // at one time, further ones are answered at once; 20,000
	MaxWaitingParts      int           // partitions of all fetches that wait; beyond it, further ones are answered at once; 2,000,000
	ColdReads            int           // partitions read from object storage at one time; 64
	ColdWait             time.Duration // least time that a cold read is given when nothing else can be returned; 500 ms
	ColdWaitMax          time.Duration // most; 10 s
	SlowRequests         int           // requests that wait for metadata or disk at one time; 128
	LargeAnswers         int           // answers of up to maxAnswer that are made at one time; 4
	SizedAnswers         int           // answers that are made at one time and grow with what there is; 16
	ProducerIDBlock      int64         // producer ids taken from the metastore at one time; 1,000
	MaxPartitionsPerCall int           // that one request may create; 10,000
}

func (c *Config) setDefaults() {
	def(&c.MaxFetchBytes, 55<<20)
	def(&c.FetchSessions, 1000)
	def(&c.FetchSessionParts, 1_000_000)
	def(&c.FetchSessionMinAge, 2*time.Minute)
	def(&c.MaxWaitingFetches, 20_000)
	def(&c.MaxWaitingParts, 2_000_000)
	def(&c.ColdReads, 64)
	def(&c.ColdWait, 500*time.Millisecond)
	def(&c.ColdWaitMax, 10*time.Second)
	def(&c.SlowRequests, 128)
	def(&c.LargeAnswers, 4)
	def(&c.SizedAnswers, 16)
	def(&c.ProducerIDBlock, 1000)
	def(&c.MaxPartitionsPerCall, 10_000)
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Deps are what the API uses and does not own.
type Deps struct {
	Log        *slog.Logger // nil: slog.Default
	Meta       Metadata
	Partitions Partitions
	Groups     *group.Coordinator
	Tier       *tiering.Manager // nil: no object store, remote.storage.enable is refused
	// EnsureOffsetsTopic makes __consumer_offsets if it does not exist.
	EnsureOffsetsTopic func(context.Context) error
	// Config gives the broker configs in effect; nil: the defaults.
	Config func() *brokerconfig.Values
	// LeaderQuota gives what bounds how fast followers that are not in sync copy
	// a partition from here (KIP-73); nil, or a nil Quota: nothing does.
	LeaderQuota func(record.TopicID, record.PartitionID) *throttle.Quota
	// Traffic gives bytes per second, from producers and to consumers, of a
	// partition that is open here; nil: it is not known of any.
	Traffic func(*partition.Partition) (in, out int64)
	// LogLevel is the level of what the process logs; nil: clients cannot
	// change it.
	LogLevel *slog.LevelVar
	Now      func() time.Time // nil: time.Now
}

// API answers requests; it implements wire.Handler.
type API struct {
	cfg  Config
	deps Deps
	log  *slog.Logger
	now  func() time.Time

	sessions     *sessionCache
	producers    producerIDs
	members      membersSeen
	telemetry    *telemetry.Manager
	subscribed   atomic.Pointer[metastore.Image] // whose client metrics configs telemetry has; changed under subscribing
	subscribing  sync.Mutex
	waiting      atomic.Int64  // fetches that wait
	waitingParts atomic.Int64  // their partitions
	cold         chan struct{} // a place for each cold read
	slow         chan struct{} // a place for each request that waits
	large        chan struct{} // a place for each answer that may be large
	sized        chan struct{} // a place for each answer that grows with what there is

	failLines *rate.Limiter // of what failed logs: clients try again and again
}

var _ wire.Handler = (*API)(nil)

// New gives an API that is ready to serve.
func New(cfg Config, deps Deps) *API {
	cfg.setDefaults()
	a := &API{cfg: cfg, deps: deps, log: deps.Log, now: deps.Now}
	if a.log == nil {
		a.log = slog.Default()
	}
	if a.now == nil {
		a.now = time.Now
	}
	if deps.Config == nil {
		a.deps.Config = sync.OnceValue(defaultConfigs)
	}
	a.failLines = rate.NewLimiter(failLinesPerSecond, failLinesAtOnce)
	a.sessions = newSessionCache(cfg.FetchSessions, cfg.FetchSessionParts, cfg.FetchSessionMinAge, a.now)
	a.producers.block = cfg.ProducerIDBlock
	a.producers.take = deps.Meta.AllocateProducerIDs
	a.telemetry = telemetry.New(telemetry.Config{Now: a.now})
	a.cold = make(chan struct{}, cfg.ColdReads)
	a.slow = make(chan struct{}, cfg.SlowRequests)
	a.large = make(chan struct{}, cfg.LargeAnswers)
	a.sized = make(chan struct{}, cfg.SizedAnswers)
	return a
}

func defaultConfigs() *brokerconfig.Values {
	v, err := brokerconfig.Resolve(nil, nil, nil)
	if err != nil {
		panic(err) // the table's own defaults
	}
	return v
}

// WriteMetrics writes the series that clients pushed, as Prometheus reads them.
func (a *API) WriteMetrics(w io.Writer) { a.telemetry.WritePrometheus(w) }

// operation is how one API key is answered.
type operation struct {
	handle func(a *API, c *call)
	// waits: answering may take long (metadata is written, disks or objects
	// are read), so it does not happen on the connection's reader.
	waits bool
	// large: the answer may have maxAnswer bytes, so that few are made at one
	// time.
	large bool
	// sized: the answer is made at once, but grows with the topics and groups
	// that there are or with the numbers that are listed.
	sized bool
}

// operations is the dispatch table, by API key. wire.Supported says which
// versions reach it.
var operations = map[int16]operation{
	0:  {handle: (*API).produce},
	1:  {handle: (*API).fetch},
	2:  {handle: (*API).listOffsets},
	3:  {handle: (*API).metadata},
	8:  {handle: (*API).offsetCommit},
	9:  {handle: (*API).offsetFetch},
	10: {handle: (*API).findCoordinator},
	11: {handle: (*API).joinGroup},
	12: {handle: (*API).heartbeat},
	13: {handle: (*API).leaveGroup},
	14: {handle: (*API).syncGroup},
	15: {handle: (*API).describeGroups, large: true},
	16: {handle: (*API).listGroups, sized: true},
	18: {handle: (*API).apiVersions},
	19: {handle: (*API).createTopics, waits: true},
	20: {handle: (*API).deleteTopics, waits: true},
	21: {handle: (*API).deleteRecords, waits: true},
	22: {handle: (*API).initProducerID, waits: true},
	23: {handle: (*API).offsetForLeaderEpoch},
	32: {handle: (*API).describeConfigs, large: true},
	33: {handle: (*API).alterConfigs, waits: true},
	34: {handle: (*API).alterReplicaLogDirs, sized: true},
	35: {handle: (*API).describeLogDirs, waits: true},
	37: {handle: (*API).createPartitions, waits: true},
	42: {handle: (*API).deleteGroups, waits: true},
	43: {handle: (*API).electLeaders, waits: true},
	44: {handle: (*API).incrementalAlterConfigs, waits: true},
	45: {handle: (*API).alterPartitionReassignments, waits: true},
	46: {handle: (*API).listPartitionReassignments, sized: true},
	47: {handle: (*API).offsetDelete, waits: true},
	55: {handle: (*API).describeQuorum, waits: true},
	57: {handle: (*API).updateFeatures},
	60: {handle: (*API).describeCluster},
	61: {handle: (*API).describeProducers, large: true},
	64: {handle: (*API).unregisterBroker, waits: true},
	71: {handle: (*API).getTelemetrySubscriptions},
	72: {handle: (*API).pushTelemetry, waits: true},
	74: {handle: (*API).listConfigResources, sized: true},
	75: {handle: (*API).describeTopicPartitions, sized: true},
	80: {handle: (*API).addRaftVoter, waits: true},
	81: {handle: (*API).removeRaftVoter, waits: true},
}

var (
	panics         = metrics.NewCounter("firn_api_panics_total")
	failures       = metrics.NewCounter("firn_api_failures_total")
	fetchesNotKept = metrics.NewCounter("firn_api_fetches_not_kept_waiting_total") // more than MaxWaitingFetches or MaxWaitingParts
	fetchWakeUps   = metrics.NewCounter("firn_api_fetch_wakeups_total")            // of fetches that wait
)

// Clients repeat a request that met a damaged file or a store that is away,
// many times a second: the log gets these many lines, the metric all.
const (
	failLinesPerSecond = 1
	failLinesAtOnce    = 20
)

// failed logs what went wrong on this side of a request.
func (a *API) failed(msg string, args ...any) {
	failures.Inc()
	if a.failLines.Allow() {
		a.log.Error(msg, args...)
	}
}

// call is one request on its way to its one reply.
type call struct {
	ctx     context.Context
	req     *wire.Request
	start   time.Time
	replied atomic.Bool
	out     func(wire.Reply)
}

// reply sends r, once; what comes later is dropped, its spans released.
func (c *call) reply(r wire.Reply) {
	if c.replied.Swap(true) {
		if r.Fetch != nil {
			releaseAll(r.Fetch.Spans)
		}
		return
	}
	c.out(r)
}

func (c *call) send(resp kmsg.Response) { c.reply(wire.Reply{Body: resp}) }

// client says who asks, in the form that group descriptions show.
func (c *call) client() group.ClientInfo {
	ci := group.ClientInfo{ClientID: c.req.ClientID}
	if c.req.Client != nil && c.req.Client.Remote != nil {
		host, _, err := net.SplitHostPort(c.req.Client.Remote.String())
		if err != nil {
			host = c.req.Client.Remote.String()
		}
		ci.Host = "/" + host
	}
	return ci
}

// response gives an empty response of the request's type and version.
func response[T kmsg.Response](c *call) T { return c.req.Body.ResponseKind().(T) }

// Serve answers one request. It is called by the connection's reader, in
// order; appends happen before it returns, so that they keep that order.
func (a *API) Serve(ctx context.Context, req *wire.Request, reply func(wire.Reply)) {
	key := req.Body.Key()
	c := &call{ctx: ctx, req: req, start: time.Now(), out: reply}
	op, ok := operations[key]
	if !ok {
		c.reply(wire.Reply{Close: true, Reason: fmt.Sprintf("API key %d is not answered", key)})
		return
	}
	switch {
	case op.large:
		a.laterIn(a.large, c, func() { op.handle(a, c) })
	case op.waits:
		a.later(c, func() { op.handle(a, c) })
	case op.sized:
		a.guard(c, func() { a.inPlace(c, func() { op.handle(a, c) }) })
	default:
		a.guard(c, func() { op.handle(a, c) })
	}
}

// inPlace runs f, which makes a sized answer, when there is a place and room
// for it.
func (a *API) inPlace(c *call, f func()) {
	if c.enter(a.sized) {
		defer func() { <-a.sized }()
		c.whenRoom(f)
	}
}

// later runs f beside the connection's reader, which waits only while all
// places for slow requests are taken.
func (a *API) later(c *call, f func()) { a.laterIn(a.slow, c, f) }

// laterIn is later with places of another kind.
func (a *API) laterIn(places chan struct{}, c *call, f func()) {
	if !c.enter(places) {
		return
	}
	go func() {
		defer func() { <-places }()
		a.guard(c, func() { c.whenRoom(f) })
	}()
}

// enter waits for one of places; false, with c answered, when its connection
// ends first.
func (c *call) enter(places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	case <-c.ctx.Done():
		c.ended()
		return false
	}
}

// whenRoom runs f once there is room for its answer in memory: there was when
// the request came, but it may have waited since.
func (c *call) whenRoom(f func()) {
	if !c.req.AwaitRoom() {
		c.ended()
		return
	}
	f()
}

func (c *call) ended() { c.reply(wire.Reply{Close: true, Reason: "the connection ended"}) }

// guard runs f and turns a panic into a closed connection: the request's
// state is unknown, so that no reply would be true.
func (a *API) guard(c *call, f func()) {
	defer func() {
		if v := recover(); v != nil {
			a.panicked(c, v)
		}
	}()
	f()
}

func (a *API) panicked(c *call, v any) {
	panics.Inc()
	a.log.Error("a request caused a panic; its connection is closed", "api_key", c.req.Body.Key(), "version", c.req.Body.GetVersion(),
		"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	c.reply(wire.Reply{Close: true, Reason: "internal error"})
}

// expired says whether a request came with no time to do it in: Kafka then
// tries nothing and answers everything with REQUEST_TIMED_OUT, without words.
func expired(ms int32) bool { return ms <= 0 }

// maxAnswer is how large, in bytes and about, the reply to a request that
// describes many things may grow before what else was asked for is refused:
// the same thing may be named thousands of times.
const maxAnswer = 64 << 20

var errTooMuch = fail(kerr.InvalidRequest, "the answer would be too large; ask for less at a time")

// deadline gives a context that ends after the request's own timeout in
// milliseconds, within limits that keep it from being useless or endless.
func (c *call) deadline(ms int32) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.ctx, min(max(time.Duration(ms)*time.Millisecond, time.Second), 5*time.Minute))
}

// ended says whether err is that of a context.
func ended(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
