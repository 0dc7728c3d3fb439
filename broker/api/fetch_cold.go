package api

import (
	"context"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/record"
)

var coldLate = metrics.NewCounter("firn_api_cold_reads_late_total")

// coldRead is one read of a partition's tiered part, which may outlive the
// request: what it reads stays in the cache for the next one.
type coldRead struct {
	part  coldPart
	reply fetchPart // private to the read until it is handed over
	n     int64
	fail  bool
}

// readCold reads state's cold partitions side by side. It returns when all
// have answered, or when the time is up that a cold read may take of this
// request; what comes later is released. Hot partitions that move meanwhile
// (wake) shorten that time.
func (f *fetchCall) readCold(state *readState, wake <-chan struct{}) {
	ctx, cancel := context.WithCancel(f.c.ctx)
	defer cancel()
	g := &coldGather{results: make(chan *coldRead, len(state.cold))}
	own := *f // what outlives this call must not see its changes
	for _, cp := range state.cold {
		r := &coldRead{part: cp, reply: fetchPart{key: cp.part.key, topic: cp.part.topic, want: cp.part.want, p: cp.part.p}}
		r.reply.reply.extent = untold
		go own.coldOne(ctx, g, r)
	}
	timer := time.NewTimer(time.Until(f.coldDeadline(state)))
	defer timer.Stop()
	moved := false
	for left, late := len(state.cold), false; left > 0 && !late; {
		select {
		case r := <-g.results:
			state.take(r)
			left--
		case <-wake:
			if !moved && f.hotMoved(state) {
				moved = true
				timer.Reset(min(coldGrace, max(0, time.Until(f.coldDeadline(state)))))
			}
		case <-timer.C:
			late = true
		case <-ctx.Done():
			late = true
		}
	}
	for _, r := range g.close() { // came at the last moment
		state.take(r)
	}
	if moved || state.bytes == 0 && !state.failed {
		f.readHotAgain(state)
	}
}

// take puts a cold read's outcome into the request's.
func (s *readState) take(r *coldRead) {
	s.bytes += r.n
	s.failed = s.failed || r.fail
	if r.n > 0 || r.fail {
		r.part.part.reply = r.reply.reply
	}
}

// hotMoved says whether a partition on local disk has got something for the
// reader.
func (f *fetchCall) hotMoved(state *readState) (moved bool) {
	f.eachIdleHot(state, func(fp *fetchPart, p *partition.Partition) bool {
		moved = p.State().HighWatermark > record.Offset(fp.want.offset)
		return !moved
	})
	return moved
}

// readHotAgain reads hot partitions that gave nothing before: they may have
// moved, or may now have the right to an oversized batch that a cold one had
// and did not use.
func (f *fetchCall) readHotAgain(state *readState) {
	f.eachIdleHot(state, func(fp *fetchPart, p *partition.Partition) bool {
		budget := min(max(0, f.maxBytes-int(state.bytes)), max(0, int(fp.want.maxBytes)))
		n, failed := f.read(f.c.ctx, fp, budget, state.bytes == 0)
		state.bytes += n
		state.failed = state.failed || failed
		return true
	})
}

// eachIdleHot calls do with each hot partition that has given nothing yet,
// until do returns false.
func (f *fetchCall) eachIdleHot(state *readState, do func(*fetchPart, *partition.Partition) bool) {
	cold := make(map[*fetchPart]bool, len(state.cold))
	for _, c := range state.cold {
		cold[c.part] = true
	}
	for _, fp := range f.fc.parts {
		if cold[fp] || fp.reply.code != 0 || fp.reply.spans != nil || fp.reply.elsewhere {
			continue
		}
		p, _, err := f.resolve(fp)
		if err != nil || p.IsCold(record.Offset(fp.want.offset)) {
			continue
		}
		if !do(fp, p) {
			return
		}
	}
}

// coldDeadline is how long cold reads may hold up the reply: little when
// there is something else to return, else the client's own wait, within what
// makes progress possible and what clients bear.
func (f *fetchCall) coldDeadline(state *readState) time.Time {
	now := time.Now()
	if state.bytes > 0 && state.enough(f) || state.failed {
		return now.Add(coldGrace)
	}
	wait := f.deadline.Sub(now)
	return now.Add(min(max(wait, f.a.cfg.ColdWait), f.a.cfg.ColdWaitMax))
}

func (f *fetchCall) coldOne(ctx context.Context, g *coldGather, r *coldRead) {
	defer func() {
		if v := recover(); v != nil {
			r.reply.reply.release()
			f.a.panicked(f.c, v)
		}
	}()
	select {
	case f.a.cold <- struct{}{}:
		defer func() { <-f.a.cold }()
	case <-ctx.Done():
		return
	}
	r.n, r.fail = f.read(ctx, &r.reply, max(1, r.part.maxBytes), true)
	g.give(r)
}

// coldGather takes results until it is closed.
type coldGather struct {
	mu      sync.Mutex // guards closed
	closed  bool
	results chan *coldRead // has room for all
}

func (g *coldGather) give(r *coldRead) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		coldLate.Inc()
		r.reply.reply.release()
		return
	}
	g.results <- r
}

func (g *coldGather) close() (rest []*coldRead) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for {
		select {
		case r := <-g.results:
			rest = append(rest, r)
		default:
			return rest
		}
	}
}
