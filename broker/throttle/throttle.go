// Package throttle bounds how fast replicas are copied (KIP-73): a Quota is so
// many bytes per second, which many partitions share. It says when a partition
// is to be left out, and counts what was copied all the same; which partitions
// it is for, and where they are left out, is its user's matter.
package throttle

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"golang.org/x/time/rate"
)

// Unlimited is the rate of a quota that holds nothing back.
const Unlimited = math.MaxInt64

// longest is how long Wait says to wait at most, so that another rate is soon
// obeyed.
const longest = time.Second

// Quota is a token bucket that holds one second's bytes and can be overdrawn:
// what was asked for when there were tokens comes whole, be it more than they
// were, and the next asks wait until that is made up for. A nil Quota and the
// zero one hold nothing back. Its methods may be called from any goroutine.
type Quota struct {
	limit atomic.Pointer[limit]

	copied, held *metrics.Counter
}

// limit is a rate in force.
type limit struct {
	bytes  int64 // per second, ≥ 0
	bucket *rate.Limiter
}

// New makes a Quota without a limit. side is the label of its metrics: it is
// made once for each.
func New(side string) *Quota {
	return &Quota{
		copied: metrics.GetOrCreateCounter(fmt.Sprintf(`firn_throttle_bytes_total{side=%q}`, side)), // of replicas that the quota is for
		held:   metrics.GetOrCreateCounter(fmt.Sprintf(`firn_throttle_held_total{side=%q}`, side)),  // times that one was left out
	}
}

// Set changes the rate to so many bytes per second, ≥ 0; at 0 nothing is copied.
func (q *Quota) Set(bytesPerSecond int64) {
	was := q.limit.Load()
	switch {
	case was != nil && was.bytes == bytesPerSecond:
	case bytesPerSecond == Unlimited:
		q.limit.Store(nil)
	default:
		burst := int(min(max(1, bytesPerSecond), math.MaxInt32))
		q.limit.Store(&limit{bytesPerSecond, rate.NewLimiter(rate.Limit(bytesPerSecond), burst)})
	}
}

// Wait says for how long a partition is to be left out: 0 not at all, and never
// more than a second, after which it is asked again.
func (q *Quota) Wait(now time.Time) time.Duration {
	if q == nil {
		return 0
	}
	l := q.limit.Load()
	if l == nil {
		return 0
	}
	wait := longest
	if l.bytes > 0 {
		tokens := l.bucket.TokensAt(now)
		if tokens >= 0 {
			return 0
		}
		wait = time.Duration(min(-tokens/float64(l.bytes)*float64(time.Second)+1, float64(longest)))
	}
	q.held.Inc()
	return wait
}

// Copied counts bytes that were copied.
func (q *Quota) Copied(now time.Time, bytes int64) {
	if q == nil || bytes <= 0 {
		return
	}
	l := q.limit.Load()
	if l == nil {
		return
	}
	q.copied.AddInt64(bytes)
	if l.bytes == 0 {
		return
	}
	for burst := int64(l.bucket.Burst()); bytes > 0; bytes -= burst { // it is asked for no more than that at a time
		l.bucket.ReserveN(now, int(min(bytes, burst)))
	}
}
