package group

import (
	"container/heap"
	"sync"
	"time"
)

// timer calls fire, without any lock, when its time has come. It belongs to
// at most one heap; its fields are the heap's.
type timer struct {
	at    time.Time
	index int // in the heap, -1: not running
	fire  func()
}

func newTimer(fire func()) *timer { return &timer{index: -1, fire: fire} }

// timers is the coordinator's one heap of deadlines, with one goroutine.
type timers struct {
	now  func() time.Time
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu   sync.Mutex // protects heap and its timers; taken after a shard's mu
	heap timerHeap
}

func startTimers(now func() time.Time) *timers {
	ts := &timers{now: now, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go ts.run()
	return ts
}

// soonest makes t fire at at, unless it is to fire earlier already.
func (ts *timers) soonest(t *timer, at time.Time) {
	ts.mu.Lock()
	switch {
	case t.index < 0:
		t.at = at
		heap.Push(&ts.heap, t)
	case at.Before(t.at):
		t.at = at
		heap.Fix(&ts.heap, t.index)
	}
	first := t.index == 0
	ts.mu.Unlock()
	if first {
		select {
		case ts.wake <- struct{}{}:
		default:
		}
	}
}

// cancel stops t. It may be firing at this moment.
func (ts *timers) cancel(t *timer) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t.index >= 0 {
		heap.Remove(&ts.heap, t.index)
	}
}

func (ts *timers) close() {
	close(ts.stop)
	<-ts.done
}

func (ts *timers) run() {
	defer close(ts.done)
	clock := time.NewTimer(time.Hour)
	defer clock.Stop()
	for {
		due, wait := ts.due()
		for _, t := range due {
			t.fire()
		}
		if len(due) > 0 {
			continue
		}
		clock.Reset(wait)
		select {
		case <-clock.C:
		case <-ts.wake:
		case <-ts.stop:
			return
		}
	}
}

// due takes the timers whose time has come off the heap, and says how long to
// sleep if there is none.
func (ts *timers) due() (due []*timer, wait time.Duration) {
	now := ts.now()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for len(ts.heap) > 0 && len(due) < 1024 {
		t := ts.heap[0]
		if t.at.After(now) {
			return due, t.at.Sub(now)
		}
		heap.Pop(&ts.heap)
		due = append(due, t)
	}
	return due, time.Hour
}

type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *timerHeap) Pop() any {
	old := *h
	n := len(old) - 1
	t := old[n]
	old[n] = nil
	*h = old[:n]
	t.index = -1
	return t
}
