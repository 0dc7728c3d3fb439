package blast

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBucketsAreInOrderAndNarrow(t *testing.T) {
	for i := range buckets - 1 {
		if got := bucket(uint64(upper(i))); got != i {
			t.Fatalf("the upper end %d of bucket %d is in bucket %d", upper(i), i, got)
		}
		if got := bucket(uint64(upper(i)) + 1); got != i+1 {
			t.Fatalf("what follows bucket %d is in bucket %d", i, got)
		}
	}
	if got := bucket(1<<topBits - 1); got != buckets-1 {
		t.Fatalf("the longest duration is in bucket %d of %d", got, buckets)
	}
}

// Quantiles are those of the sorted durations, to 1/128.
func TestQuantiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ds := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour)), 1, 200).Draw(t, "durations")
		cut := rapid.IntRange(0, len(ds)).Draw(t, "cut")
		var h, other Histogram
		for i, d := range ds {
			if i < cut {
				h.Record(time.Duration(d), 1)
			} else {
				other.Record(time.Duration(d), 1)
			}
		}
		h.Add(&other)
		slices.Sort(ds)
		for _, q := range []float64{0, 0.5, 0.9, 0.99, 0.999, 1} {
			rank := max(int(math.Ceil(q*float64(len(ds))-1e-6)), 1)
			want, got := ds[rank-1], int64(h.Quantile(q))
			if got < want || float64(got-want) > float64(want)/128 {
				t.Fatalf("quantile %v is %d, want %d", q, got, want)
			}
		}
		if int64(h.Max()) != ds[len(ds)-1] || h.Count() != uint64(len(ds)) {
			t.Fatalf("max %d of %d, want %d of %d", h.Max(), h.Count(), ds[len(ds)-1], len(ds))
		}
	})
}

func TestEmptyHistogram(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 || h.Max() != 0 {
		t.Fatal("an empty histogram has no durations")
	}
	h.Record(-time.Second, 2)
	if h.Count() != 2 || h.Quantile(1) != 0 {
		t.Fatal("a negative duration counts as zero")
	}
}
