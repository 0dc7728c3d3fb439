package tiering

import (
	"context"
	"time"
)

// loop starts everything that happens by itself. It never waits for the
// store: work goes on in goroutines, of which there are as many as places.
func (m *Manager) loop() {
	defer m.work.Done()
	tick := time.NewTicker(m.cfg.Every)
	defer tick.Stop()
	sweepEvery := m.cfg.SweepEvery
	if sweepEvery < 0 {
		sweepEvery = 1 << 62
	}
	sweepTick := time.NewTicker(sweepEvery)
	defer sweepTick.Stop()
	sweeping, dropping := make(chan struct{}, 1), make(chan struct{}, 1)
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.wake:
			m.startChores(func(p *part, v *view) bool { return !v.loaded || p.policyNow().Drop })
			m.startUploads()
			m.dropSome(dropping)
		case <-tick.C:
			m.measureLag()
			m.startChores(m.hasChore)
			m.startUploads()
			m.dropSome(dropping)
			m.once(sweeping, m.collectSoon)
		case <-sweepTick.C:
			m.once(sweeping, m.sweep)
		}
	}
}

const collectTimeout = 30 * time.Minute // of one sweep: a LIST that hangs must not hold it for ever

// once runs f in the background unless the place is taken.
func (m *Manager) once(place chan struct{}, f func(context.Context) error) {
	select {
	case place <- struct{}{}:
	default:
		return
	}
	m.work.Add(1)
	go func() {
		defer m.work.Done()
		defer func() { <-place }()
		ctx, cancel := context.WithTimeout(m.ctx, collectTimeout)
		defer cancel()
		if err := f(ctx); err != nil && m.ctx.Err() == nil {
			sweepFailures.Inc()
			m.deps.Log.Warn("collection of objects did not finish, it will be tried again", "err", err)
		}
	}()
}

// dropSome starts what DropTopicSoon put off.
func (m *Manager) dropSome(place chan struct{}) {
	if m.garbage.hasDropping() {
		m.once(place, m.dropTopics)
	}
}

// startUploads starts as many jobs as there are places.
func (m *Manager) startUploads() {
	free := cap(m.uploads) - len(m.uploads)
	if free == 0 {
		return // a job that ends wakes the loop
	}
	for _, j := range m.plan(free) {
		m.uploads <- struct{}{} // only the loop fills places: this does not wait
		m.work.Add(1)
		go func() {
			defer m.work.Done()
			defer func() { <-m.uploads; m.poke() }()
			m.run(j)
		}()
	}
}

// startChores looks after those idle partitions that due picks: manifests not
// loaded yet, and what retention says.
func (m *Manager) startChores(due func(*part, *view) bool) {
	for _, p := range m.attached() {
		v := p.view.Load()
		if v == nil || v.rev == 0 {
			continue
		}
		if !due(p, v) || !p.hold(m.deps.Now()) {
			continue
		}
		select {
		case m.chores <- struct{}{}:
		default:
			p.release()
			return // the rest at the next tick
		}
		m.work.Add(1)
		go func() {
			defer m.work.Done()
			defer func() { <-m.chores; p.release(); m.poke() }()
			m.outcome(p, m.chore(p))
		}()
	}
}

// hasChore says whether chore would do anything. It does no I/O.
func (m *Manager) hasChore(p *part, v *view) bool {
	return p.policyNow().Drop || !v.loaded || m.retainedStart(p, v) > v.ptr.Start
}

func (m *Manager) chore(p *part) error {
	if p.policyNow().Drop {
		return m.forsake(p)
	}
	if !p.view.Load().loaded {
		if err := m.loadManifest(p.ctx, p); err != nil {
			return err
		}
	}
	return m.retain(p)
}

// measureLag sets the gauges of what is sealed and not yet tiered.
func (m *Manager) measureLag() {
	now := m.deps.Now()
	var bytes int64
	var oldest time.Duration
	for _, p := range m.attached() {
		v := p.view.Load()
		if v == nil || !p.policyNow().Enabled {
			continue
		}
		segs, _ := pending(p, v) // an error is met and reported by the planner
		for _, s := range segs {
			bytes += s.Bytes
		}
		p.mu.Lock()
		if len(segs) > 0 && !p.waiting.IsZero() {
			oldest = max(oldest, now.Sub(p.waiting))
		}
		p.mu.Unlock()
	}
	lagBytes.Set(float64(bytes))
	lagSeconds.Set(oldest.Seconds())
}
