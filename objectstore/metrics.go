package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Stats counts what went through a Metered store since it was made. A Put in
// parts counts as one, and a listing counts as one whatever its pages.
type Stats struct {
	Puts, Swaps, Gets, Heads, Lists, Deletes int64
	Errors                                   int64 // of all of them, not-found and taken keys included
	BytesRead                                int64 // handed out by bodies
	BytesWritten                             int64 // of Puts and Swaps that succeeded
}

// Calls gives the sum of all calls.
func (s Stats) Calls() int64 { return s.Puts + s.Swaps + s.Gets + s.Heads + s.Lists + s.Deletes }

// Sub gives what was counted since earlier.
func (s Stats) Sub(earlier Stats) Stats {
	return Stats{
		Puts: s.Puts - earlier.Puts, Swaps: s.Swaps - earlier.Swaps, Gets: s.Gets - earlier.Gets,
		Heads: s.Heads - earlier.Heads, Lists: s.Lists - earlier.Lists, Deletes: s.Deletes - earlier.Deletes,
		Errors: s.Errors - earlier.Errors, BytesRead: s.BytesRead - earlier.BytesRead,
		BytesWritten: s.BytesWritten - earlier.BytesWritten,
	}
}

// Metered is a Store that counts. It shows, with store=name:
//
//	firn_objectstore_requests_total{store,op}         calls ended
//	firn_objectstore_errors_total{store,op,kind}      of them, failed; kind as ErrorKind names it
//	firn_objectstore_bytes_total{store,dir}           dir="read" and dir="written"
//	firn_objectstore_duration_seconds{store,op}       histogram; op="get" up to the first byte, op="body" reading it
//	firn_objectstore_inflight{store}                  calls under way, open bodies included
//
// Under WithRetry it counts attempts, which are what a provider bills; over
// it, calls.
type Metered struct {
	Store
	label string
	ops   map[string]*opMetrics

	read, written *metrics.Counter
	stats         struct {
		puts, swaps, gets, heads, lists, deletes, errs, read, written atomic.Int64
	}
	inflight *metrics.Counter
}

type opMetrics struct {
	requests *metrics.Counter
	duration *metrics.Histogram
	count    *atomic.Int64
}

// WithMetrics decorates s; name tells stores apart, s3 or minio for example.
// The result is a *Metered; see ReadStats.
func WithMetrics(s Store, name string) Store {
	label := fmt.Sprintf("store=%q", strings.Map(func(r rune) rune {
		if r == '"' || r == '\\' || r < ' ' {
			return '_'
		}
		return r
	}, name))
	m := &Metered{Store: s, label: label}
	m.ops = map[string]*opMetrics{}
	for op, n := range map[string]*atomic.Int64{
		"put": &m.stats.puts, "swap": &m.stats.swaps, "get": &m.stats.gets, "head": &m.stats.heads,
		"list": &m.stats.lists, "delete": &m.stats.deletes, "body": new(atomic.Int64),
	} {
		m.ops[op] = &opMetrics{
			requests: metrics.GetOrCreateCounter(fmt.Sprintf("firn_objectstore_requests_total{%s,op=%q}", label, op)),
			duration: metrics.GetOrCreateHistogram(fmt.Sprintf("firn_objectstore_duration_seconds{%s,op=%q}", label, op)),
			count:    n,
		}
	}
	m.read = metrics.GetOrCreateCounter(fmt.Sprintf("firn_objectstore_bytes_total{%s,dir=\"read\"}", label))
	m.written = metrics.GetOrCreateCounter(fmt.Sprintf("firn_objectstore_bytes_total{%s,dir=\"written\"}", label))
	m.inflight = metrics.GetOrCreateCounter(fmt.Sprintf("firn_objectstore_inflight{%s}", label))
	return m
}

// ReadStats finds the Metered store in a chain of decorators and reads it.
func ReadStats(s Store) (Stats, bool) {
	for s != nil {
		if m, ok := s.(*Metered); ok {
			return m.Stats(), true
		}
		u, ok := s.(interface{ Unwrap() Store })
		if !ok {
			break
		}
		s = u.Unwrap()
	}
	return Stats{}, false
}

// Unwrap gives the decorated Store.
func (m *Metered) Unwrap() Store { return m.Store }

// Stats reads the counts.
func (m *Metered) Stats() Stats {
	s := &m.stats
	return Stats{
		Puts: s.puts.Load(), Swaps: s.swaps.Load(), Gets: s.gets.Load(), Heads: s.heads.Load(),
		Lists: s.lists.Load(), Deletes: s.deletes.Load(), Errors: s.errs.Load(),
		BytesRead: s.read.Load(), BytesWritten: s.written.Load(),
	}
}

func (m *Metered) begin() time.Time {
	m.inflight.Inc()
	return time.Now()
}

func (m *Metered) end(op string, from time.Time, err error) {
	m.inflight.Dec()
	o := m.ops[op]
	o.requests.Inc()
	o.count.Add(1)
	o.duration.UpdateDuration(from)
	if err != nil {
		m.stats.errs.Add(1)
		metrics.GetOrCreateCounter(fmt.Sprintf("firn_objectstore_errors_total{%s,op=%q,kind=%q}", m.label, op, ErrorKind(err))).Inc()
	}
}

func (m *Metered) wrote(n int64, err error) {
	if err == nil {
		m.written.AddInt64(n)
		m.stats.written.Add(n)
	}
}

func (m *Metered) Put(ctx context.Context, key string, r io.ReadSeeker, size int64) (Object, error) {
	from := m.begin()
	obj, err := m.Store.Put(ctx, key, r, size)
	m.end("put", from, err)
	m.wrote(size, err)
	return obj, err
}

func (m *Metered) Swap(ctx context.Context, key string, data []byte, etag string) (Object, error) {
	from := m.begin()
	obj, err := m.Store.Swap(ctx, key, data, etag)
	m.end("swap", from, err)
	m.wrote(int64(len(data)), err)
	return obj, err
}

func (m *Metered) Head(ctx context.Context, key string) (Object, error) {
	from := m.begin()
	obj, err := m.Store.Head(ctx, key)
	m.end("head", from, err)
	return obj, err
}

func (m *Metered) Delete(ctx context.Context, key string) error {
	from := m.begin()
	err := m.Store.Delete(ctx, key)
	m.end("delete", from, err)
	return err
}

func (m *Metered) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		from := m.begin()
		var failed error
		defer func() { m.end("list", from, failed) }()
		for obj, err := range m.Store.List(ctx, prefix, after) {
			failed = err
			if !yield(obj, err) {
				return
			}
		}
	}
}

func (m *Metered) GetRange(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	from := m.begin()
	rc, err := m.Store.GetRange(ctx, key, off, n)
	m.end("get", from, err)
	if err != nil {
		return nil, err
	}
	b := &meteredBody{ReadCloser: rc, m: m, from: m.begin()}
	if body, ok := rc.(Body); ok {
		return &meteredFullBody{meteredBody: b, Body: body}, nil
	}
	return b, nil
}

type meteredBody struct {
	io.ReadCloser
	m      *Metered
	from   time.Time
	failed error
	closed atomic.Bool
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.m.read.Add(n)
	b.m.stats.read.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		b.failed = err
	}
	return n, err
}

func (b *meteredBody) Close() error {
	err := b.ReadCloser.Close()
	if !b.closed.Swap(true) {
		b.m.end("body", b.from, b.failed)
	}
	return err
}

// meteredFullBody keeps what a Body says besides its bytes.
type meteredFullBody struct {
	*meteredBody
	Body
}

func (b *meteredFullBody) Read(p []byte) (int, error) { return b.meteredBody.Read(p) }
func (b *meteredFullBody) Close() error               { return b.meteredBody.Close() }
