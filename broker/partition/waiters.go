package partition

import (
	"container/heap"
	"sync"

	"github.com/firnlog/firn/record"
)

// waiters are those who wait for the high watermark to reach an offset, the
// lowest first, and those who want to hear of any change. There are no more
// of them than requests in flight, which wire bounds.
type waiters struct {
	mu     sync.Mutex // never held while a callback runs
	queue  waitQueue
	subs   map[*subscription]struct{}
	closed error
}

type waiter struct {
	at    record.Offset
	fn    func(error)
	index int // in the queue, -1 when it is not there any more
}

type subscription struct {
	wake    chan<- struct{}
	replica bool // a follower's: it wants to hear of the log's end too
}

type waitQueue []*waiter

func (q waitQueue) Len() int           { return len(q) }
func (q waitQueue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q waitQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *waitQueue) Push(x any) {
	w := x.(*waiter)
	w.index = len(*q)
	*q = append(*q, w)
}

func (q *waitQueue) Pop() any {
	old := *q
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*q, w.index = old[:len(old)-1], -1
	return w
}

// await queues fn for offset o, unless reached says that it is there already
// or the partition is closed; then it runs at once.
func (ws *waiters) await(o record.Offset, reached func() bool, fn func(error)) (cancel func()) {
	ws.mu.Lock()
	if err := ws.closed; err != nil || reached() {
		ws.mu.Unlock()
		fn(err)
		return func() {}
	}
	w := &waiter{at: o, fn: fn}
	heap.Push(&ws.queue, w)
	ws.mu.Unlock()
	return func() {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		if w.index >= 0 {
			heap.Remove(&ws.queue, w.index)
		}
	}
}

// advance releases all who wait for hw or less, and wakes every subscriber.
func (ws *waiters) advance(hw record.Offset) {
	ws.mu.Lock()
	var ready []*waiter
	for len(ws.queue) > 0 && ws.queue[0].at <= hw {
		ready = append(ready, heap.Pop(&ws.queue).(*waiter))
	}
	ws.wakeLocked(false)
	ws.mu.Unlock()
	for _, w := range ready {
		w.fn(nil)
	}
}

// appended wakes the followers.
func (ws *waiters) appended() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.wakeLocked(true)
}

// moved wakes every subscriber, and nobody who waits for the high watermark:
// that of a follower says nothing of what it appended as the leader.
func (ws *waiters) moved() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.wakeLocked(false)
}

// abort releases those who wait for the high watermark with err, and wakes
// every subscriber.
func (ws *waiters) abort(err error) {
	ws.mu.Lock()
	queue := ws.queue
	ws.queue = nil
	for _, w := range queue {
		w.index = -1
	}
	ws.wakeLocked(false)
	ws.mu.Unlock()
	for _, w := range queue {
		w.fn(err)
	}
}

func (ws *waiters) wakeLocked(replicasOnly bool) {
	for s := range ws.subs {
		if replicasOnly && !s.replica {
			continue
		}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (ws *waiters) subscribe(wake chan<- struct{}, replica bool) (cancel func()) {
	s := &subscription{wake, replica}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.subs == nil {
		ws.subs = map[*subscription]struct{}{}
	}
	ws.subs[s] = struct{}{}
	if ws.closed != nil {
		ws.wakeLocked(false)
	}
	return func() {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		delete(ws.subs, s)
	}
}

// close releases everybody with err, now and from then on.
func (ws *waiters) close(err error) {
	ws.mu.Lock()
	closed := ws.closed != nil
	if !closed {
		ws.closed = err
	}
	ws.mu.Unlock()
	if !closed {
		ws.abort(err)
	}
}
