package tiering

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// Manager tiers the partitions attached to it. Safe for concurrent use.
type Manager struct {
	cfg    Config
	deps   Deps
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup
	wake   chan struct{} // of the loop, 1 deep
	newID  func() ObjectID

	uploads chan struct{} // one place per upload under way
	chores  chan struct{} // … per retention, manifest load or pointer copy
	cold    *coldReader
	garbage *garbage
	health  health

	// mu protects the map alone.
	mu     sync.RWMutex
	closed bool
	parts  map[partKey]*part
}

// part is one attached partition.
type part struct {
	key  partKey
	tp   record.TopicPartition
	hot  Hot
	view atomic.Pointer[view] // nil until the pointer was read and understood
	// ctx ends when the partition is detached.
	ctx    context.Context
	cancel context.CancelFunc

	// mu protects what follows. No I/O happens under it.
	mu         sync.Mutex
	policy     Policy
	busy       bool      // somebody may change the pointer: there is one at a time
	failed     error     // tiering of this partition stopped for good
	err        error     // of the last try, nil after a success
	errAt      time.Time //
	retryAt    time.Time // not before
	backoff    time.Duration
	waiting    time.Time // since when the oldest segment not tiered is known; zero: none
	lastUpload time.Time
	copied     copyState
	streams    streams

	ahead     atomic.Int32  // chunks got ahead of readers that nobody has asked for yet
	indexing  atomic.Bool   // an index is got ahead
	reads     chan struct{} // one place, for who reads the pointer of a followed partition; nil: it is attached
	refreshed time.Time     // when that was done last, guarded by the place
}

// Open starts a Manager. It makes no call to the store. ctx is not kept.
func Open(_ context.Context, cfg Config, deps Deps) (*Manager, error) {
	m, err := newManager(cfg, deps)
	if err != nil {
		return nil, err
	}
	m.work.Add(1)
	go m.loop()
	return m, nil
}

func newManager(cfg Config, deps Deps) (*Manager, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	if err := deps.check(); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, deps: deps, wake: make(chan struct{}, 1),
		uploads: make(chan struct{}, cfg.Uploads), chores: make(chan struct{}, 4),
		parts: map[partKey]*part{},
	}
	m.newID = func() ObjectID { return newObjectID(m.deps.Now()) }
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.cold = newColdReader(m)
	m.garbage = newGarbage()
	return m, nil
}

// ErrClosed says that the Manager is closed.
var ErrClosed = errors.New("tiering: closed")

// Close stops uploads and sweeps and waits for them until ctx ends. Cold
// reads fail from then on.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.cancel()
	done := make(chan struct{})
	go func() { m.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("tiering: uploads still under way: %w", ctx.Err())
	}
}

// readAllFrom is from how many on a topic's pointers are read together.
const readAllFrom = 16

// Pointers gives the pointers of a topic's partitions, of which about wanted
// will be asked for: when they are many, all are read with one call, at the
// first question. An error is the metastore's.
func (m *Manager) Pointers(ctx context.Context, id record.TopicID, wanted int) func(record.PartitionID) (metastore.TierPointer, error) {
	if wanted < readAllFrom {
		return func(p record.PartitionID) (metastore.TierPointer, error) { return m.deps.Meta.TierPointer(ctx, id, p) }
	}
	read := sync.OnceValues(func() (map[record.PartitionID]metastore.TierPointer, error) {
		all := map[record.PartitionID]metastore.TierPointer{}
		for e, err := range m.deps.Meta.TierPointersOf(ctx, id) {
			if err != nil {
				return nil, err
			}
			all[e.Partition] = e.TierPointer
		}
		return all, nil
	})
	return func(p record.PartitionID) (metastore.TierPointer, error) {
		all, err := read()
		return all[p], err
	}
}

// Attach takes charge of a partition: hot is told the tiered end and the log
// start that its pointer says, and uploads begin if policy says so. The pointer
// was read (Pointers) when no leader of an earlier epoch could change it any
// more. The store is not needed: a manifest that cannot be read now is tried
// again in the background. A pointer that is damaged is not an error of
// Attach: the partition is attached, its Status says failed, nothing of it is
// uploaded or deleted, cold reads give an error.
func (m *Manager) Attach(hot Hot, tp metastore.TierPointer, policy Policy) error {
	p := &part{key: partKey{hot.TopicID(), hot.TP().Partition}, tp: hot.TP(), hot: hot, policy: policy}
	p.ctx, p.cancel = context.WithCancel(m.ctx)
	if err := m.install(p, tp); err != nil {
		m.fail(p, err)
	} else if err := p.tellHot(); err != nil {
		p.cancel()
		return fmt.Errorf("tiering: %v: %w", p.tp, err)
	}
	if err := m.add(p); err != nil {
		return err
	}
	m.poke()
	return nil
}

// add makes p the one part of its partition.
func (m *Manager) add(p *part) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		p.cancel()
		return ErrClosed
	}
	old := m.parts[p.key]
	m.parts[p.key] = p
	m.mu.Unlock()
	if old != nil {
		old.cancel()
	}
	return nil
}

// install takes a pointer just read as the partition's view. The manifest's
// entries are kept when it is the same manifest; otherwise they are loaded in
// the background.
func (m *Manager) install(p *part, tp metastore.TierPointer) error {
	if tp.Revision == 0 {
		start := p.hot.LogStart()
		p.view.Store(newView(0, &Pointer{Cluster: m.deps.ClusterID, Topic: p.tp.Topic, TopicID: p.key.id, Partition: p.key.p, Start: start, End: start}, nil, true))
		return nil
	}
	ptr, err := DecodePointer(tp.Value)
	if err != nil {
		return fmt.Errorf("pointer of %v at revision %d: %w", p.tp, tp.Revision, err)
	}
	if ptr.TopicID != p.key.id || ptr.Partition != p.key.p {
		return corruptf("pointer of %v is that of %s-%d, topic id %v", p.tp, ptr.Topic, ptr.Partition, ptr.TopicID)
	}
	var manifest []Entry
	old := p.view.Load()
	same := old != nil && old.loaded && !ptr.Manifest.IsZero() && old.ptr.Manifest == ptr.Manifest
	if same {
		manifest = old.manifest()
	}
	p.view.Store(newView(tp.Revision, ptr, manifest, same))
	return nil
}

// tellHot says to the local log what the pointer says.
func (p *part) tellHot() error {
	v := p.view.Load()
	if v == nil || v.rev == 0 {
		return nil
	}
	p.hot.SetTieredEnd(v.ptr.End)
	if p.hot.LogStart() >= v.ptr.Start {
		return nil
	}
	return p.hot.AdvanceLogStart(v.ptr.Start)
}

// loadManifest reads the entries of the manifest that the view lacks. The
// partition is held.
func (m *Manager) loadManifest(ctx context.Context, p *part) error {
	v := p.view.Load()
	entries, err := m.readManifest(ctx, &v.ptr)
	if err != nil {
		return fmt.Errorf("manifest of %v: %w", p.tp, err)
	}
	p.view.Store(newView(v.rev, &v.ptr, entries, true))
	return nil
}

// readManifest reads the manifest that ptr names and checks that it is its.
func (m *Manager) readManifest(ctx context.Context, ptr *Pointer) ([]Entry, error) {
	key := ObjectKey(ptr.Cluster, ptr.Manifest)
	b, err := m.readSmall(ctx, key)
	if err != nil {
		return nil, err
	}
	man, err := DecodeManifest(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	n := len(man.Entries)
	if man.TopicID != ptr.TopicID || man.Partition != ptr.Partition || n == 0 || man.Entries[n-1].End != ptr.ManifestEnd || man.Entries[0].Base > ptr.Start {
		return nil, corruptf("%s is not the manifest of %s-%d up to %d", key, ptr.Topic, ptr.Partition, ptr.ManifestEnd)
	}
	return man.Entries, nil
}

// readSmall reads a whole object that is expected to fit memory.
func (m *Manager) readSmall(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.StoreTimeout)
	defer cancel()
	rc, err := m.deps.Store.GetRange(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	var buf bytes.Buffer
	if n, err := buf.ReadFrom(io.LimitReader(rc, maxManifest+1)); err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	} else if n > maxManifest {
		return nil, corruptf("%s has more than %d bytes", key, int64(maxManifest))
	}
	return buf.Bytes(), nil
}

// SetPolicy changes an attached partition's policy.
func (m *Manager) SetPolicy(id record.TopicID, p record.PartitionID, policy Policy) {
	if pt := m.part(id, p); pt != nil {
		pt.mu.Lock()
		pt.policy = policy
		pt.mu.Unlock()
		m.poke()
	}
}

// Detach gives a partition up; what is being uploaded for it is abandoned.
func (m *Manager) Detach(id record.TopicID, p record.PartitionID) {
	k := partKey{id, p}
	m.mu.Lock()
	pt := m.parts[k]
	delete(m.parts, k)
	m.mu.Unlock()
	if pt != nil {
		pt.cancel()
		m.health.forget(pt.tp)
	}
}

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Manager) part(id record.TopicID, p record.PartitionID) *part {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.parts[partKey{id, p}]
}

// attached lists those that are attached, not only followed.
func (m *Manager) attached() []*part {
	m.mu.RLock()
	parts := make([]*part, 0, len(m.parts))
	for _, p := range m.parts {
		if p.reads == nil {
			parts = append(parts, p)
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(parts, func(a, b *part) int { return a.key.compare(b.key) })
	return parts
}

// hold makes the caller the partition's one writer, unless there is one, the
// partition failed, or it is to be left alone for a while after an error.
func (p *part) hold(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy || p.failed != nil || now.Before(p.retryAt) || p.ctx.Err() != nil {
		return false
	}
	p.busy = true
	return true
}

func (p *part) release() {
	p.mu.Lock()
	p.busy = false
	p.mu.Unlock()
}

func (p *part) policyNow() Policy {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.policy
}

// fail stops tiering of a partition for good (until it is attached again).
func (m *Manager) fail(p *part, err error) {
	partitionFailures.Inc()
	p.mu.Lock()
	first := p.failed == nil
	p.failed, p.err, p.errAt = err, err, m.deps.Now()
	p.mu.Unlock()
	m.health.forget(p.tp)
	if first {
		m.deps.Log.Error("tiering of a partition stopped: nothing more of it is uploaded or deleted", "partition", p.tp.String(), "err", err)
	}
}

// outcome notes how a try went and when the next may be.
func (m *Manager) outcome(p *part, err error) {
	if p.ctx.Err() != nil {
		return // detached or closing: nobody asks
	}
	if errors.Is(err, errLost) {
		err = nil // another got on with it, and its pointer is ours now
	}
	now := m.deps.Now()
	p.mu.Lock()
	if err == nil {
		p.err, p.backoff, p.retryAt = nil, 0, time.Time{}
	} else {
		p.err, p.errAt = err, now
		p.backoff = min(max(2*p.backoff, time.Second), time.Minute)
		p.retryAt = now.Add(p.backoff/2 + rand.N(p.backoff/2+1))
	}
	p.mu.Unlock()
	m.health.note(m.deps.Log, p.tp, err)
	if p.ctx.Err() != nil {
		m.health.forget(p.tp) // it was detached meanwhile, after its forget
	}
}
