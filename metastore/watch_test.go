package metastore

import (
	"testing"
	"time"
)

// Images in a row wait for nothing at first; in the long run they take their
// share of the time and no more.
func TestImagePace(t *testing.T) {
	var pace imagePace
	began := time.Now()
	now, work, free := began, time.Duration(0), 0
	const took = 5 * time.Millisecond
	for now.Sub(began) < 10*time.Second {
		end := now.Add(took)
		wait := pace.wait(now, end)
		if wait <= 0 && work < imageBurst/imageShare {
			free++
		}
		work += took
		now = end.Add(max(wait, 0))
	}
	if free < 3 {
		t.Errorf("%d images of %v went without a wait", free, took)
	}
	if share := now.Sub(began) / work; share < imageShare-1 {
		t.Errorf("images took one part in %d of the time", share)
	}
	now = now.Add(time.Hour) // what was not used does not add up
	for range 20 {
		end := now.Add(took)
		now = end.Add(max(0, pace.wait(now, end)))
	}
	if wait := pace.wait(now, now.Add(took)); wait <= 0 {
		t.Errorf("after 20 images of %v in a row the next waits %v", took, wait)
	}
}
