package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/bench/blast"
	"github.com/firnlog/firn/bench/franz"
)

// trial is one round of one workload with one system: a fresh broker in a
// fresh folder.
type trial struct {
	ctx     context.Context
	w       *Workload
	sys     *system
	server  server
	dir     string
	batches func(Batch) (*blast.Batches, error)
	values  [][]byte
	settle  func(dir string, writes int64) error // the machine, before something is measured
	profile func(phase string) (wait func() error)
	configs map[string]string // of the topics
	store   *store            // nil: none
	p       *process          // that runs now
	topic   blast.Topic
	asked   time.Time // for the topic
	round   int
	samples []Sample
}

const (
	trialLimit = 5 * time.Minute
	passLimit  = 20 * time.Second // of producing as fast as it goes
)

// run measures and ends every process that it started.
func (t *trial) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	t.ctx = ctx
	defer func() {
		if t.p != nil {
			t.p.kill()
		}
	}()
	t.configs = t.sys.topic
	if st, ok := t.w.step().(interface{ prepare(t *trial) error }); ok {
		defer func() { t.store.stop() }()
		if err := st.prepare(t); err != nil {
			return err
		}
	}
	// What the system before it left dirty is not this one's to wait for.
	if err := t.settle(t.dir, 0); err != nil {
		return err
	}
	if err := t.start(); err != nil {
		return err
	}
	t.topic = blast.Topic{Addr: t.server.addr(), Name: "bench", Partitions: t.w.Partitions, Replicas: len(t.p.pids())}
	m, err := t.begin()
	if err != nil {
		return err
	}
	t.asked = time.Now()
	if err := t.server.create(ctx, t.topic, t.configs); err != nil {
		return err
	}
	if t.w.Many != nil {
		if err := t.since(t.asked, "created", m, &blast.Result{}); err != nil {
			return err
		}
	}
	err = t.w.step().run(t)
	if err != nil && t.p != nil {
		return fmt.Errorf("%w\nthe end of what the broker printed:\n%s", err, t.p.tail())
	}
	return err
}

func (t *trial) start() error {
	p, err := startProcess(t.ctx, t.server, filepath.Join(t.dir, t.sys.name))
	t.p = p
	return err
}

// phase measures what f does and keeps it under that name. f writes about so
// many bytes to each replica.
func (t *trial) phase(name string, writes Size, f func() (*blast.Result, error)) error {
	if err := t.settle(t.dir, int64(writes)*int64(len(t.p.pids()))); err != nil {
		return err
	}
	runtime.GC()
	m, err := t.begin()
	if err != nil {
		return err
	}
	profiled := t.profile(name)
	r, err := f()
	if err != nil {
		return err
	}
	u, err := m.end()
	if err != nil {
		return err
	}
	if err := profiled(); err != nil {
		return err
	}
	v := map[string]float64{"peakRSS": float64(u.peakRSS) / (1 << 20)}
	if r.Bytes > 0 {
		gb := float64(r.Bytes) / 1e9
		v["throughput"] = gb * 1000 / r.Took.Seconds()
		v["brokerCPU"], v["driverCPU"] = u.broker/gb, u.driver/gb
		if t.store != nil {
			v["storeCPU"] = u.store / gb
		}
	}
	if r.Retries > 0 {
		v["retries"] = float64(r.Retries)
	}
	latencies(v, "ack", &r.Latency)
	latencies(v, "end", &r.EndToEnd)
	s := Sample{Workload: t.w.Name, System: t.sys.name, Round: t.round, Phase: name, Values: v, Foreign: u.foreign}
	curve := &r.Latency
	if r.EndToEnd.Count() > 0 {
		curve = &r.EndToEnd
	}
	for _, q := range quantiles {
		if curve.Count() == 0 {
			break
		}
		s.Curve = append(s.Curve, ms(curve.Quantile(q)))
	}
	t.samples = append(t.samples, s)
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

func latencies(v map[string]float64, what string, h *blast.Histogram) {
	if h.Count() == 0 {
		return
	}
	v[what+"P50"], v[what+"P99"], v[what+"P999"] = ms(h.Quantile(0.5)), ms(h.Quantile(0.99)), ms(h.Quantile(0.999))
}

func (p *Produce) run(t *trial) error {
	batches, err := t.batches(p.Batch)
	if err != nil {
		return err
	}
	job := blast.Produce{Topic: t.topic, Batches: batches, Connections: p.Connections, InFlight: p.InFlight, Acks: p.Acks, Bytes: int64(p.Bytes), Limit: passLimit}
	for pass := 1; pass <= p.Passes; pass++ {
		if err := t.phase("pass "+strconv.Itoa(pass), p.Bytes, func() (*blast.Result, error) { return t.server.produce(t.ctx, job) }); err != nil {
			return err
		}
		// So that what follows the first pass is not a first touch of anything.
		if _, err := t.writeAll(); err != nil {
			return err
		}
	}
	return nil
}

// load writes before what is measured.
func (t *trial) load(b Batch, bytes Size) error {
	batches, err := t.batches(b)
	if err != nil {
		return err
	}
	_, err = blast.Produce{Topic: t.topic, Batches: batches, Connections: 4, InFlight: 5, Acks: -1, Bytes: int64(bytes)}.Run(t.ctx)
	return err
}

func (s *Tail) run(t *trial) error {
	if err := t.load(s.Batch, s.Load); err != nil {
		return err
	}
	read := func(bytes Size) (*blast.Result, error) {
		r, err := blast.Consume{Topic: t.topic, Consumers: s.Consumers, MaxBytes: int(s.MaxBytes), Bytes: int64(bytes)}.Run(t.ctx)
		if err == nil {
			r.Latency = blast.Histogram{} // of a fetch: its size decides it
		}
		return r, err
	}
	if _, err := read(s.Bytes / 8); err != nil { // a JVM has to see the code once
		return err
	}
	return t.phase("read", 0, func() (*blast.Result, error) { return read(s.Bytes) })
}

func (o *OpenLoop) run(t *trial) error {
	return o.named(t, "open loop", t.topic)
}

// writes is how much it sends.
func (o *OpenLoop) writes() Size { return Size(o.For.Seconds() * float64(o.Rate)) }

func (o *OpenLoop) named(t *trial, phase string, topic blast.Topic) error {
	batches, err := t.batches(o.Batch)
	if err != nil {
		return err
	}
	job := blast.OpenLoop{Topic: topic, Batches: batches, Acks: o.Acks, Rate: int64(o.Rate), For: o.For, Settle: o.Settle}
	return t.phase(phase, o.writes(), func() (*blast.Result, error) { return job.Run(t.ctx) })
}

func (c *CatchUp) run(t *trial) error {
	backlog := t.topic
	backlog.Name, backlog.Partitions = "backlog", 1
	if err := backlog.Create(t.ctx, t.sys.topic); err != nil {
		return err
	}
	batches, err := t.batches(Batch{Size: 1 << 20})
	if err != nil {
		return err
	}
	_, err = blast.Produce{Topic: backlog, Batches: batches, Connections: 4, InFlight: 5, Acks: -1, Bytes: int64(c.Backlog)}.Run(t.ctx)
	if err != nil {
		return err
	}
	if err := c.OpenLoop.named(t, "alone", t.topic); err != nil {
		return err
	}
	again := t.topic // an open loop wants an empty topic
	again.Name = "again"
	if err := again.Create(t.ctx, t.sys.topic); err != nil {
		return err
	}
	done := make(chan struct{})
	var read *blast.Result
	var g errgroup.Group
	g.Go(func() (err error) {
		read, err = blast.Consume{Topic: backlog, Consumers: 1, MaxBytes: 1 << 20, Bytes: math.MaxInt64, Done: done}.Run(t.ctx)
		return err
	})
	err = c.OpenLoop.named(t, "catching up", again)
	close(done)
	if err := errors.Join(err, g.Wait()); err != nil {
		return err
	}
	t.samples[len(t.samples)-1].Values["read"] = float64(read.Bytes) / 1e6 / read.Took.Seconds()
	return nil
}

// begin starts to measure what the broker and others take of the machine.
func (t *trial) begin() (*meter, error) { return begin(t.p.pids(), t.store.pid()) }

// since keeps how long it took and what the broker's process cost so far. m
// tells how much of the machine others took meanwhile, r what the driver did.
func (t *trial) since(began time.Time, phase string, m *meter, r *blast.Result) error {
	took := time.Since(began)
	u, err := m.end()
	if err != nil {
		return err
	}
	cpu, err := brokersCPU(t.p.pids())
	if err != nil {
		return err
	}
	v := map[string]float64{"seconds": took.Seconds(), "cpuSeconds": cpu, "peakRSS": float64(u.peakRSS) / (1 << 20)}
	if r.Retries > 0 {
		v["retries"] = float64(r.Retries)
	}
	t.samples = append(t.samples, Sample{Workload: t.w.Name, System: t.sys.name, Round: t.round, Phase: phase, Foreign: u.foreign, Values: v})
	return nil
}

func (m *Many) run(t *trial) error {
	meter, err := t.begin()
	if err != nil {
		return err
	}
	r, err := t.writeAll()
	if err != nil {
		return err
	}
	if err := t.since(t.asked, "first write", meter, r); err != nil {
		return err
	}
	trickle, err := t.batches(m.Trickle.Batch)
	if err != nil {
		return err
	}
	job := blast.OpenLoop{Topic: t.topic, Batches: trickle, Acks: m.Trickle.Acks, Rate: int64(m.Trickle.Rate), For: m.Trickle.For, Settle: m.Trickle.Settle, Unread: true}
	if err := t.phase("trickle", m.Trickle.writes(), func() (*blast.Result, error) { return job.Run(t.ctx) }); err != nil {
		return err
	}
	few := t.topic
	few.Name, few.Partitions = "few", 100
	if err := few.Create(t.ctx, t.sys.topic); err != nil {
		return err
	}
	batches, err := t.batches(m.Batch)
	if err != nil {
		return err
	}
	for _, topic := range []blast.Topic{few, t.topic} {
		job := blast.Produce{Topic: topic, Batches: batches, Connections: m.Connections, InFlight: m.InFlight, Acks: -1, Bytes: int64(m.Bytes), Limit: passLimit}
		if err := t.phase(fmt.Sprintf("%d partitions", topic.Partitions), m.Bytes, func() (*blast.Result, error) { return job.Run(t.ctx) }); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) run(t *trial) error {
	client := franz.Client{Topic: t.topic, Values: t.values, Bytes: int64(c.Bytes)}
	if err := t.phase("produce", c.Bytes, func() (*blast.Result, error) { return client.Produce(t.ctx) }); err != nil {
		return err
	}
	return t.phase("consume", 0, func() (*blast.Result, error) { return client.Consume(t.ctx) })
}

func (i *Idle) run(t *trial) error {
	if err := t.load(i.Batch, i.Load); err != nil {
		return err
	}
	m, err := t.begin()
	if err != nil {
		return err
	}
	select {
	case <-t.ctx.Done():
		return t.ctx.Err()
	case <-t.p.ended:
		return errors.New("the broker ended")
	case <-time.After(i.For):
	}
	u, err := m.end()
	if err != nil {
		return err
	}
	now, _, err := brokersMemory(t.p.pids())
	if err != nil {
		return err
	}
	t.samples = append(t.samples, Sample{Workload: t.w.Name, System: t.sys.name, Round: t.round, Phase: "idle", Foreign: u.foreign,
		Values: map[string]float64{"rss": float64(now) / (1 << 20), "peakRSS": float64(u.peakRSS) / (1 << 20), "cpuSeconds": u.broker}})
	return nil
}
