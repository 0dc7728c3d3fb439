package throttle

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestNoLimit(t *testing.T) {
	now := time.Unix(1000, 0)
	var none *Quota
	for _, q := range []*Quota{none, New("test")} {
		q.Copied(now, 1<<40)
		if wait := q.Wait(now); wait != 0 {
			t.Errorf("without a limit: %v", wait)
		}
	}
	q := New("test")
	q.Set(100)
	q.Copied(now, 1000)
	if q.Wait(now) == 0 {
		t.Error("nothing is held back")
	}
	q.Set(Unlimited)
	if wait := q.Wait(now); wait != 0 {
		t.Errorf("the limit is gone, and yet %v", wait)
	}
}

func TestNothingAtAll(t *testing.T) {
	q := New("test")
	q.Set(0)
	for now := time.Unix(1000, 0); now.Unix() < 1100; now = now.Add(time.Second) {
		if q.Wait(now) == 0 {
			t.Fatal("at a rate of 0 something is let through")
		}
	}
}

// Setting the same rate again does not fill the bucket.
func TestSetAgain(t *testing.T) {
	q, now := New("test"), time.Unix(1000, 0)
	q.Set(100)
	q.Copied(now, 1000)
	q.Set(100)
	if q.Wait(now) == 0 {
		t.Error("the debt is forgotten")
	}
}

// Whoever asks whenever it may, for pieces of any size, gets the rate, but for
// one second's bytes at the beginning and one piece at the end.
func TestRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const seconds = 60
		bytes := rapid.Int64Range(1, 1<<40).Draw(t, "rate")
		piece := rapid.Int64Range(1, 20*bytes).Draw(t, "piece")
		if piece < bytes/1000 {
			piece = bytes / 1000 // or it takes for ever
		}
		q := New("test")
		q.Set(bytes)
		begin := time.Unix(1000, 0)
		got := int64(0)
		for now := begin; now.Sub(begin) < seconds*time.Second; {
			if wait := q.Wait(now); wait > 0 {
				if wait > longest {
					t.Fatalf("a wait of %v", wait)
				}
				now = now.Add(wait)
				continue
			}
			q.Copied(now, piece)
			got += piece
		}
		least, most := float64(bytes)*seconds-float64(piece), float64(bytes)*(seconds+1)+float64(piece)
		if float64(got) < 0.99*least || float64(got) > 1.01*most {
			t.Fatalf("%d bytes in %d s at %d per second, in pieces of %d", got, seconds, bytes, piece)
		}
	})
}
