// Package telemetry takes the metrics that Kafka clients push to their broker
// (KIP-714): it says which client is asked for which metrics how often, judges
// pushes, and shows what was pushed to Prometheus. Subscriptions are client
// metrics configs, kept in the metastore by others; requests and replies
// belong to package api.
//
// A client is who its instance id says, as in Kafka: KIP-714 knows no other
// identity, and lets a client go on with its id over a new connection. Two
// connections with one id are therefore one client: they share its interval,
// its end and its series, which are labelled with the client as it first asked.
// It is forgotten when the connection ends on which it first asked; its id is
// enough to begin anew on another one. The id is a random UUID that only its
// client is told, and no secret: who guesses it can push in that client's name.
package telemetry

import (
	"bytes"
	"container/list"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/record"
)

// Config bounds what clients can make a broker keep; zero values take the
// defaults named here.
type Config struct {
	MaxInstances    int   // clients known at one time; the longest silent go first; 16,384
	MaxClientSeries int   // series of one client; 2,000
	MaxSeries       int   // series of all clients; 200,000
	MaxBytes        int64 // of their names and labels, about; 64 MiB
	Now             func() time.Time
}

// minExpiry is how long an instance may be silent, or three intervals.
const minExpiry = time.Minute

// Client is what is known of who asks; match patterns choose by it.
type Client struct {
	ID              string // client.id
	SoftwareName    string // KIP-511
	SoftwareVersion string
	Host            string // address without port
	Port            string
}

// shown is as much of c as labels show of it: what is kept is small, however
// long the names are that the client gave.
func (c Client) shown() Client {
	cut := func(s string) string { return strings.Clone(s[:min(len(s), maxValueLen)]) }
	return Client{cut(c.ID), cut(c.SoftwareName), cut(c.SoftwareVersion), cut(c.Host), cut(c.Port)}
}

// Push is the content of one PushTelemetry request.
type Push struct {
	SubscriptionID int32
	Terminating    bool
	Codec          int8
	Metrics        []byte // OTLP MetricsData, compressed
	MaxBytes       int    // that Metrics may have
}

// Answer is what a client is told to push.
type Answer struct {
	Instance       [16]byte
	SubscriptionID int32
	Interval       time.Duration
	Metrics        []string // prefixes of names, "*" alone for all; none: nothing
}

// Manager knows the clients that asked what to push, and the newest values
// of what they pushed. Its methods may be called from many goroutines.
type Manager struct {
	cfg     Config
	parsing chan struct{} // a place for each push that is decoded

	mu        sync.Mutex // guards all below; held for memory work only
	subs      []subscription
	version   int64 // counts changes of subs
	instances map[[16]byte]*list.Element
	used      *list.List // of *instance, the latest used first
	total     int        // series of all instances
	bytes     int64      // of them, see Config.MaxBytes
}

// instance is one client, from its first request to its expiry.
type instance struct {
	id          [16]byte
	client      Client
	version     int64 // of the subscriptions that answer is made of
	answer      Answer
	lastGet     time.Time
	lastPush    time.Time
	lastError   *kerr.Error
	terminating bool
	expires     time.Time
	connection  uint64 // that it was last made on
	series      map[string]*series
	unwatch     func() bool // of the connection's end
}

var (
	pushes      = metrics.NewCounter("firn_client_telemetry_pushes_total")
	pushedBytes = metrics.NewCounter("firn_client_telemetry_bytes_total")
	evictions   = metrics.NewCounter("firn_client_telemetry_evictions_total")
)

func refused(err *kerr.Error) {
	metrics.GetOrCreateCounter(`firn_client_telemetry_refused_total{error="` + err.Message + `"}`).Inc()
}

// New gives a manager without subscriptions.
func New(cfg Config) *Manager {
	if cfg.MaxInstances == 0 {
		cfg.MaxInstances = 16_384
	}
	if cfg.MaxClientSeries == 0 {
		cfg.MaxClientSeries = 2_000
	}
	if cfg.MaxSeries == 0 {
		cfg.MaxSeries = 200_000
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 64 << 20
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Manager{cfg: cfg, instances: map[[16]byte]*list.Element{}, used: list.New(), parsing: make(chan struct{}, parsersAtOnce)}
}

// SetSubscriptions takes the client metrics configs in effect, by name. A
// config that cannot be read is left out.
func (m *Manager) SetSubscriptions(configs map[string]map[string]string) {
	subs := parseAll(configs)
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.EqualFunc(subs, m.subs, subscription.equal) {
		return
	}
	m.subs = subs
	m.version++
}

// Get answers GetTelemetrySubscriptions: a client without an id is given one.
// ctx ends with the client's connection, which any number tells from others,
// and then the client is forgotten. The error is
// kerr.ThrottlingQuotaExceeded when it asks again before its interval is over,
// unless its last push was refused for its subscription id or codec.
func (m *Manager) Get(ctx context.Context, id [16]byte, c Client, connection uint64) (Answer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	for id == [16]byte{} {
		if fresh := uuid.New(); m.instances[fresh] == nil {
			id = fresh
		}
	}
	in := m.instance(ctx, id, c, connection, now)
	last := in.lastGet
	if in.lastPush.After(last) {
		last = in.lastPush
	}
	switch {
	case now.Sub(last) >= in.answer.Interval:
		in.lastGet = now
	case in.lastError == kerr.UnknownSubscriptionID || in.lastError == kerr.UnsupportedCompressionType:
	default:
		refused(kerr.ThrottlingQuotaExceeded)
		return Answer{}, kerr.ThrottlingQuotaExceeded
	}
	in.lastError = nil
	return in.answer, nil
}

// Push takes what a client pushed. Its errors are kerr.InvalidRequest for ids
// that are reserved and clients that said they terminate,
// kerr.ThrottlingQuotaExceeded, kerr.UnknownSubscriptionID,
// kerr.UnsupportedCompressionType, kerr.TelemetryTooLarge, and
// kerr.InvalidRecord for bytes that are no metrics; ctx's when it ends first.
// Metrics that were not asked for are dropped.
func (m *Manager) Push(ctx context.Context, id [16]byte, c Client, connection uint64, p Push) error {
	if id == [16]byte{} || id == [16]byte{15: 1} {
		refused(kerr.InvalidRequest)
		return fmt.Errorf("%w: the client instance id is reserved", kerr.InvalidRequest)
	}
	asked, err := m.accept(ctx, id, c, connection, p)
	if err != nil {
		refused(err)
		return err
	}
	pushes.Inc()
	pushedBytes.Add(len(p.Metrics))
	if len(p.Metrics) == 0 {
		m.store(id, nil)
		return nil
	}
	select {
	case m.parsing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	data, parseErr := parse(p, asked)
	<-m.parsing
	if parseErr != nil {
		refused(kerr.InvalidRecord)
		m.setError(id, kerr.InvalidRecord)
		return fmt.Errorf("%w: %w", kerr.InvalidRecord, parseErr)
	}
	m.store(id, data)
	return nil
}

// accept judges a push before its metrics are looked at, and gives what the
// client was asked for.
func (m *Manager) accept(ctx context.Context, id [16]byte, c Client, connection uint64, p Push) (asked []string, err *kerr.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	in := m.instance(ctx, id, c, connection, now)
	err = in.judge(p, now)
	in.lastError, in.terminating = err, p.Terminating
	return in.answer.Metrics, err
}

func (in *instance) judge(p Push, now time.Time) *kerr.Error {
	if in.terminating {
		return kerr.InvalidRequest
	}
	// The first push after an answer comes at a random part of the interval.
	early := !in.lastGet.After(in.lastPush) && now.Sub(in.lastPush) < in.answer.Interval
	if !early {
		in.lastPush = now
	}
	switch {
	case early && !p.Terminating:
		return kerr.ThrottlingQuotaExceeded
	case p.SubscriptionID != in.answer.SubscriptionID:
		return kerr.UnknownSubscriptionID
	case p.Codec < int8(record.None) || p.Codec > int8(record.Zstd):
		return kerr.UnsupportedCompressionType
	case len(p.Metrics) > p.MaxBytes:
		return kerr.TelemetryTooLarge
	}
	return nil
}

func (m *Manager) setError(id [16]byte, err *kerr.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.instances[id]; e != nil {
		e.Value.(*instance).lastError = err
	}
}

// gone forgets an instance whose connection ended.
func (m *Manager) gone(id [16]byte, connection uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.instances[id]; e != nil && e.Value.(*instance).connection == connection {
		m.remove(e)
	}
}

// instance gives the instance of an id, new if need be, with an answer made of
// the subscriptions in effect.
func (m *Manager) instance(ctx context.Context, id [16]byte, c Client, connection uint64, now time.Time) *instance {
	e := m.instances[id]
	if e != nil && now.After(e.Value.(*instance).expires) {
		m.remove(e)
		e = nil
	}
	if e == nil {
		for m.used.Len() >= m.cfg.MaxInstances {
			evictions.Inc()
			m.remove(m.used.Back())
		}
		e = m.used.PushFront(&instance{id: id, version: -1, series: map[string]*series{}})
		m.instances[id] = e
	}
	m.used.MoveToFront(e)
	in := e.Value.(*instance)
	if in.version != m.version {
		// All is new but the series: Kafka makes another instance too.
		if in.unwatch != nil {
			in.unwatch()
		}
		in.client, in.connection = c.shown(), connection
		in.unwatch = context.AfterFunc(ctx, func() { m.gone(id, connection) })
		in.answer, in.version = m.subscribe(id, c), m.version
		in.lastGet, in.lastPush, in.lastError, in.terminating = time.Time{}, time.Time{}, nil, false
	}
	in.expires = now.Add(max(minExpiry, 3*in.answer.Interval))
	return in
}

func (m *Manager) remove(e *list.Element) {
	in := m.used.Remove(e).(*instance)
	in.unwatch()
	for key := range in.series {
		m.drop(in, key)
	}
	delete(m.instances, in.id)
}

// subscribe adds up the subscriptions that match a client.
func (m *Manager) subscribe(id [16]byte, c Client) Answer {
	a := Answer{Instance: id, Interval: defaultInterval}
	for _, s := range m.subs {
		if s.matches(id, c) {
			a.Interval = min(a.Interval, s.interval)
			a.Metrics = append(a.Metrics, s.metrics...)
		}
	}
	slices.Sort(a.Metrics)
	a.Metrics = slices.Compact(a.Metrics)
	if slices.Contains(a.Metrics, "*") {
		a.Metrics = []string{"*"}
	}
	a.SubscriptionID = subscriptionID(id, a.Metrics, a.Interval)
	return a
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// subscriptionID tells one answer from another: a CRC-32C over what is asked
// for, mixed with the instance's id (KIP-714 leaves the way open; this is
// Kafka's, but for the order of several metrics).
func subscriptionID(id [16]byte, metrics []string, interval time.Duration) int32 {
	var b bytes.Buffer
	b.WriteByte('[')
	b.WriteString(strings.Join(metrics, ", "))
	b.WriteByte(']')
	b.WriteString(strconv.FormatInt(interval.Milliseconds(), 10))
	x := binary.BigEndian.Uint64(id[:8]) ^ binary.BigEndian.Uint64(id[8:])
	return int32(crc32.Checksum(b.Bytes(), castagnoli) ^ uint32(x>>32) ^ uint32(x))
}
