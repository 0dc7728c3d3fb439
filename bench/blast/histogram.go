package blast

import (
	"math/bits"
	"time"
)

// Histogram counts durations in buckets whose width is at most 1/128 of their
// value, as HdrHistogram does, so that quantiles are right to 0.8 %. The zero
// value is empty and ready. Not safe for concurrent use: one per goroutine,
// and Add.
type Histogram struct {
	counts [buckets]uint64
	total  uint64
	max    time.Duration
}

const (
	subBits = 7  // 128 buckets for each power of two
	topBits = 42 // 2^42 ns is 73 minutes; what is longer counts as that
	buckets = (topBits - subBits + 1) << subBits
)

func bucket(ns uint64) int {
	shift := max(bits.Len64(ns)-subBits-1, 0)
	return shift<<subBits + int(ns>>shift)
}

// upper is the greatest duration that falls into the bucket.
func upper(i int) time.Duration {
	shift := max(i>>subBits-1, 0)
	return time.Duration(uint64(i-shift<<subBits+1)<<shift - 1)
}

// Record counts d n times; a negative d counts as zero.
func (h *Histogram) Record(d time.Duration, n uint64) {
	d = min(max(d, 0), 1<<topBits-1)
	h.counts[bucket(uint64(d))] += n
	h.total += n
	h.max = max(h.max, d)
}

// Add counts everything that o counted.
func (h *Histogram) Add(o *Histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
	h.max = max(h.max, o.max)
}

// Count is the number of durations counted.
func (h *Histogram) Count() uint64 { return h.total }

// Max is the longest duration counted, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile gives a duration that the fraction q of all does not exceed; 0 when
// nothing was counted.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	// The rank of the duration asked for, from 1.
	rank := min(max(uint64(q*float64(h.total)+0.9999999), 1), h.total)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return min(upper(i), h.max)
		}
	}
	return h.max
}
