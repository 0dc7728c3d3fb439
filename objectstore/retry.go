package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// RetryConfig says how WithRetry tries again. Zero fields take the defaults
// in brackets.
type RetryConfig struct {
	Attempts int           // per call, the first included [6]
	Base     time.Duration // wait before the first retry; doubles each time, with jitter [100 ms]
	Max      time.Duration // longest wait between two attempts [5 s]
	Timeout  time.Duration // one attempt at a small call, a page of a listing, or a body's first byte [15 s]
	MinRate  int64         // bytes/s a Put must make: adds size/MinRate to its Timeout [1 MiB/s]
	Stall    time.Duration // longest wait for more bytes while a body is read [15 s]
	Total    time.Duration // one call with all its attempts and waits; a Put's transfer time comes on top [2 min]
	Budget   float64       // retries in store for all calls together; each retry takes one, each success gives back 0.1, each second 1 [64]

	Retryable func(error) bool // which errors are worth another attempt [Retryable]
}

func (c RetryConfig) withDefaults() RetryConfig {
	def(&c.Attempts, 6)
	def(&c.Base, 100*time.Millisecond)
	def(&c.Max, 5*time.Second)
	def(&c.Timeout, 15*time.Second)
	def(&c.MinRate, 1<<20)
	def(&c.Stall, 15*time.Second)
	def(&c.Total, 2*time.Minute)
	def(&c.Budget, 64)
	if c.Retryable == nil {
		c.Retryable = Retryable
	}
	return c
}

func def[T int | int64 | float64 | time.Duration](p *T, v T) {
	if *p <= 0 {
		*p = v
	}
}

var retriesTotal = metrics.NewCounter("firn_objectstore_retries_total")
var retryBudgetEmpty = metrics.NewCounter("firn_objectstore_retry_budget_exhausted_total")

// WithRetry gives every call of s an attempt deadline and retries what is
// worth it. It is the one retry policy: the adapters turn their clients' own
// off.
//
// A Put or Swap that failed may have been done all the same: before another
// attempt, and when a later attempt finds the key taken, the object that is
// there is compared with what was to be written (size and CRC-32C, read back
// where the store keeps none). If it is the same it counts as ours: keys are
// unique, and who swaps puts something of its own into the data. An object
// found by the first attempt is ErrExists without any such look. A Swap whose
// answer was lost, and whose object another Swap has replaced since, is
// ErrExists too, though it was done for a moment.
//
// A body that breaks off is opened again where it broke off, as long as the
// object's ETag is still the same; ErrChanged otherwise.
func WithRetry(s Store, cfg RetryConfig) Store {
	cfg = cfg.withDefaults()
	return &retrier{Store: s, cfg: cfg, budget: newBudget(cfg.Budget)}
}

type retrier struct {
	Store
	cfg    RetryConfig
	budget *budget
}

// Unwrap gives the decorated Store.
func (s *retrier) Unwrap() Store { return s.Store }

// budget is a token bucket shared by all calls: when a store is down, retries
// soon cost nothing more than the first attempts themselves.
type budget struct {
	mu     sync.Mutex // tokens, at
	tokens float64
	max    float64
	at     time.Time
}

func newBudget(n float64) *budget { return &budget{tokens: n, max: n, at: time.Now()} }

func (b *budget) refill() {
	now := time.Now()
	b.tokens = min(b.max, b.tokens+now.Sub(b.at).Seconds())
	b.at = now
}

func (b *budget) success() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill()
	b.tokens = min(b.max, b.tokens+0.1)
}

func (b *budget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill()
	if b.tokens < 1 {
		retryBudgetEmpty.Inc()
		return false
	}
	b.tokens--
	return true
}

// attemptError puts the attempt's own deadline into the error, as ErrTimeout,
// and the caller's ended context, as its error.
func attemptError(parent, attempt context.Context, err error) error {
	if err == nil {
		return nil
	}
	if perr := parent.Err(); perr != nil {
		if errors.Is(err, perr) {
			return err
		}
		if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			return err // it ended with an answer of its own
		}
		return fmt.Errorf("%w: %w", perr, err)
	}
	if attempt.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		if cause := context.Cause(attempt); errors.Is(cause, ErrTimeout) {
			return timedOut{cause, err}
		}
	}
	return err
}

// timedOut is an attempt's own time-out. The client's "context canceled"
// stays in the text but not in the chain: nobody cancelled the call.
type timedOut struct{ cause, err error }

func (t timedOut) Error() string { return t.cause.Error() + ": " + t.err.Error() }
func (t timedOut) Unwrap() error { return t.cause }

// pause waits before the retry with number n (0: the first). It says false
// when ctx ended or the budget is empty.
func (s *retrier) pause(ctx context.Context, n int) bool {
	if ctx.Err() != nil || !s.budget.take() {
		return false
	}
	retriesTotal.Inc()
	t := time.NewTimer(Backoff(s.cfg.Base, s.cfg.Max, n))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Backoff gives a random wait between half of and the whole of base·2ⁿ, at
// most max.
func Backoff(base, max time.Duration, n int) time.Duration {
	d := max
	if n < 32 && base<<n > 0 {
		d = min(base<<n, max)
	}
	return d/2 + rand.N(d/2+1)
}

// do runs op until it succeeds, its error is final, or attempts, time or
// budget are used up. op gets a context with the attempt's deadline, and the
// attempt's number from 0.
func (s *retrier) do(ctx context.Context, extra time.Duration, op func(ctx context.Context, n int) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	total := time.Now().Add(s.cfg.Total + time.Duration(s.cfg.Attempts)*extra)
	for n := 0; ; n++ {
		timeout := min(s.cfg.Timeout+extra, max(time.Until(total), time.Millisecond))
		actx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w after %v", ErrTimeout, timeout.Round(time.Millisecond)))
		err := attemptError(ctx, actx, op(actx, n))
		cancel()
		if err == nil {
			s.budget.success()
			return nil
		}
		if !s.cfg.Retryable(err) {
			return err
		}
		if n+1 >= s.cfg.Attempts || !time.Now().Before(total) || !s.pause(ctx, n) {
			return s.gaveUp(ctx, err, n+1)
		}
	}
}

func (s *retrier) gaveUp(ctx context.Context, err error, attempts int) error {
	if cerr := ctx.Err(); cerr != nil && !errors.Is(err, cerr) {
		return fmt.Errorf("%w, after %d attempts: %w", cerr, attempts, err)
	}
	if attempts <= 1 {
		return err
	}
	return fmt.Errorf("after %d attempts: %w", attempts, err)
}

func (s *retrier) Put(ctx context.Context, key string, r io.ReadSeeker, size int64) (Object, error) {
	var obj Object
	if err := CheckKey(key); err != nil {
		return obj, Fail(ctx, "put", key, ErrKey, err)
	}
	if size < 0 {
		return obj, Fail(ctx, "put", key, ErrKey, fmt.Errorf("%w: size %d", ErrKey, size))
	}
	start, err := r.Seek(0, io.SeekCurrent)
	if err != nil {
		return obj, Fail(ctx, "put", key, ErrSource, err)
	}
	extra := time.Duration(float64(size) / float64(s.cfg.MinRate) * float64(time.Second))
	sum := func() (string, error) {
		if _, err := r.Seek(start, io.SeekStart); err != nil {
			return "", err
		}
		return Sum(io.LimitReader(r, size))
	}
	err = s.do(ctx, extra, func(actx context.Context, n int) (err error) {
		if n > 0 {
			if obj, err = s.mine(actx, key, size, sum); !errors.Is(err, ErrNotFound) {
				return err
			}
			if _, err = r.Seek(start, io.SeekStart); err != nil {
				return Fail(actx, "put", key, ErrSource, err)
			}
		}
		obj, err = s.Store.Put(actx, key, r, size)
		if n > 0 && errors.Is(err, ErrExists) {
			obj, err = s.mine(actx, key, size, sum)
		}
		return err
	})
	return obj, err
}

func (s *retrier) Swap(ctx context.Context, key string, data []byte, etag string) (Object, error) {
	var obj Object
	err := s.do(ctx, 0, func(actx context.Context, n int) (err error) {
		obj, err = s.Store.Swap(actx, key, data, etag)
		if n > 0 && errors.Is(err, ErrExists) {
			obj, err = s.mine(actx, key, int64(len(data)), func() (string, error) { return SumBytes(data), nil })
			if errors.Is(err, ErrNotFound) { // somebody deleted it since: not what was expected
				err = Fail(actx, "swap", key, ErrExists, nil)
			}
		}
		return err
	})
	return obj, err
}

// mine gives the object at key if it is what an earlier attempt wrote,
// ErrExists if it is something else, ErrNotFound if there is none.
func (s *retrier) mine(ctx context.Context, key string, size int64, sum func() (string, error)) (Object, error) {
	obj, err := s.Store.Head(ctx, key)
	if err != nil {
		return Object{}, err
	}
	if obj.Size != size {
		return Object{}, Fail(ctx, "put", key, ErrExists, fmt.Errorf("%w: %d bytes, ours has %d", ErrExists, obj.Size, size))
	}
	want, err := sum()
	if err != nil {
		return Object{}, Fail(ctx, "put", key, ErrSource, err)
	}
	if obj.CRC32C == "" {
		if obj.CRC32C, err = s.readBack(ctx, key, obj); err != nil {
			return Object{}, err
		}
	}
	if obj.CRC32C != want {
		return Object{}, Fail(ctx, "put", key, ErrExists, fmt.Errorf("%w: CRC-32C %s, ours is %s", ErrExists, obj.CRC32C, want))
	}
	obj.Modified, obj.CRC32C = time.Time{}, ""
	return obj, nil
}

func (s *retrier) readBack(ctx context.Context, key string, obj Object) (string, error) {
	rc, err := s.Store.GetRange(ctx, key, 0, obj.Size)
	if err != nil {
		return "", err
	}
	defer func() { _ = rc.Close() }()
	if b, ok := rc.(Body); ok && b.ETag() != obj.ETag {
		return "", Fail(ctx, "get", key, ErrExists, ErrChanged)
	}
	return Sum(rc)
}

func (s *retrier) Head(ctx context.Context, key string) (Object, error) {
	var obj Object
	err := s.do(ctx, 0, func(actx context.Context, _ int) (err error) {
		obj, err = s.Store.Head(actx, key)
		return err
	})
	return obj, err
}

func (s *retrier) Delete(ctx context.Context, key string) error {
	return s.do(ctx, 0, func(actx context.Context, _ int) error { return s.Store.Delete(actx, key) })
}

// List goes on after the last key it yielded when a page fails. The attempt's
// deadline covers the waits for the store only, not what the caller does
// between two objects.
func (s *retrier) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		for n := 0; ; n++ {
			last, got, stopped, err := s.listOnce(ctx, prefix, after, yield)
			if stopped {
				return
			}
			if err == nil {
				s.budget.success()
				return
			}
			if got {
				after, n = last, 0
			}
			if !s.cfg.Retryable(err) || n+1 >= s.cfg.Attempts || !s.pause(ctx, n) {
				yield(Object{}, s.gaveUp(ctx, err, n+1))
				return
			}
		}
	}
}

func (s *retrier) listOnce(ctx context.Context, prefix, after string, yield func(Object, error) bool) (last string, got, stopped bool, _ error) {
	actx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timeout := time.AfterFunc(s.cfg.Timeout, func() { cancel(fmt.Errorf("%w after %v", ErrTimeout, s.cfg.Timeout)) })
	defer timeout.Stop()
	for obj, err := range s.Store.List(actx, prefix, after) {
		if err != nil {
			return last, got, false, attemptError(ctx, actx, err)
		}
		timeout.Stop()
		last, got = obj.Key, true
		if !yield(obj, nil) {
			return last, got, true, nil
		}
		timeout.Reset(s.cfg.Timeout)
	}
	return last, got, false, nil
}
