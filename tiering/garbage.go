package tiering

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// garbage remembers what may go and what may not yet. It is in memory only:
// a restart makes orphans wait a quarantine more.
type garbage struct {
	mu        sync.Mutex
	protected map[ObjectID]time.Time // made here and not settled; until when
	doomed    map[ObjectID]time.Time // no longer referred to by a pointer; since when
	orphans   map[string]time.Time   // keys found by the sweep with no reference; since when
	gone      map[partKey]time.Time  // pointers whose topic is not in the image; since when
}

const (
	maxDoomed   = 1 << 17 // more are left to the sweep
	maxSuspects = 1 << 18 // more are left to later sweeps
)

func newGarbage() *garbage {
	return &garbage{
		protected: map[ObjectID]time.Time{}, doomed: map[ObjectID]time.Time{},
		orphans: map[string]time.Time{}, gone: map[partKey]time.Time{},
	}
}

func (g *garbage) protect(id ObjectID, until time.Time) {
	g.mu.Lock()
	g.protected[id] = until
	g.mu.Unlock()
}

func (g *garbage) unprotect(id ObjectID) {
	g.mu.Lock()
	delete(g.protected, id)
	g.mu.Unlock()
}

func (g *garbage) isProtected(id ObjectID, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	until, ok := g.protected[id]
	if ok && now.After(until) {
		delete(g.protected, id)
		return false
	}
	return ok
}

func (g *garbage) doom(ids []ObjectID, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range ids {
		if _, known := g.doomed[id]; !known && len(g.doomed) < maxDoomed {
			g.doomed[id] = now
		}
	}
}

// due lists the doomed objects that may be deleted if nothing refers to them.
// One that is young may be packed with runs that its maker, maybe another
// broker, is still committing: it waits for a whole quarantine.
func (g *garbage) due(now time.Time, delay, quarantine time.Duration) (ids []ObjectID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, since := range g.doomed {
		wait := delay
		if age := now.Sub(id.Time()); age < quarantine {
			wait = max(delay, quarantine)
		}
		if _, busy := g.protected[id]; !busy && now.Sub(since) >= wait {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b ObjectID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

func (g *garbage) forget(id ObjectID) {
	g.mu.Lock()
	delete(g.doomed, id)
	g.mu.Unlock()
}

// age notes which keys are candidates now and gives since when each has been
// one without a break.
func age[K comparable](g *garbage, known map[K]time.Time, now map[K]bool, at time.Time) map[K]time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	for k := range known {
		if !now[k] {
			delete(known, k)
		}
	}
	for k := range now {
		if _, ok := known[k]; !ok {
			known[k] = at
		}
	}
	return maps.Clone(known)
}

// marks is everything that pointers refer to.
type marks struct {
	objects  map[ObjectID]struct{}
	pointers map[partKey]metastore.TierPointerEntry
}

// mark reads every pointer and manifest. An error means that it is not
// complete: nothing may be deleted on the strength of it.
func (m *Manager) mark(ctx context.Context) (*marks, error) {
	k := &marks{objects: map[ObjectID]struct{}{}, pointers: map[partKey]metastore.TierPointerEntry{}}
	for e, err := range m.deps.Meta.TierPointers(ctx) {
		if err != nil {
			return nil, fmt.Errorf("listing pointers: %w", err)
		}
		k.pointers[partKey{e.ID, e.Partition}] = e
	}
	for key, e := range k.pointers {
		ptr, err := DecodePointer(e.Value)
		if err != nil {
			return nil, fmt.Errorf("pointer of topic %v, partition %d: %w", key.id, key.p, err)
		}
		entries, err := m.entriesOf(ctx, key, ptr)
		if err != nil {
			return nil, fmt.Errorf("manifest of %s-%d: %w", ptr.Topic, ptr.Partition, err)
		}
		if !ptr.Manifest.IsZero() {
			k.objects[ptr.Manifest] = struct{}{}
		}
		for i := range entries {
			if entries[i].End > ptr.Start {
				k.objects[entries[i].Object] = struct{}{}
			}
		}
		for i := range ptr.Tail {
			if ptr.Tail[i].End > ptr.Start {
				k.objects[ptr.Tail[i].Object] = struct{}{}
			}
		}
	}
	return k, nil
}

// entriesOf gives the entries of a pointer's manifest, from memory if the
// partition is attached with the same one.
func (m *Manager) entriesOf(ctx context.Context, key partKey, ptr *Pointer) ([]Entry, error) {
	if ptr.Manifest.IsZero() {
		return nil, nil
	}
	if p := m.part(key.id, key.p); p != nil {
		if v := p.view.Load(); v != nil && v.loaded && v.ptr.Manifest == ptr.Manifest {
			return v.manifest(), nil
		}
	}
	return m.readManifest(ctx, ptr)
}

// collect deletes the doomed objects whose time has come, after looking once
// more that no pointer refers to them.
func (m *Manager) collect(ctx context.Context) error {
	now := m.deps.Now()
	due := m.garbage.due(now, max(m.cfg.DeleteDelay, 0), m.cfg.QuarantineFor)
	if len(due) == 0 {
		return nil
	}
	k, err := m.mark(ctx)
	if err != nil {
		return fmt.Errorf("collecting %d objects: %w", len(due), err)
	}
	var errs []error
	for _, id := range due {
		if _, used := k.objects[id]; !used && !m.garbage.isProtected(id, now) {
			if err := m.deleteKey(ctx, ObjectKey(m.deps.ClusterID, id)); err != nil {
				errs = append(errs, err)
				continue
			}
			deletedObjects.Inc()
		}
		m.garbage.forget(id)
	}
	return errors.Join(errs...)
}

func (m *Manager) deleteKey(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.StoreTimeout)
	defer cancel()
	if err := m.deps.Store.Delete(ctx, key); err != nil {
		return fmt.Errorf("deleting %s: %w", key, err)
	}
	return nil
}

// errNoPointers says that etcd has no pointer at all while the bucket has
// copies of some: more likely a metastore to be restored than a bucket to be
// emptied.
var errNoPointers = errors.New("the metastore has no pointers, the bucket has copies of some: nothing is deleted; restore the metastore, or remove the copies to give the objects up")

// sweep lists the bucket and deletes what nothing has referred to for a whole
// quarantine. What it does not know for one of this cluster's keys it leaves
// alone.
func (m *Manager) sweep(ctx context.Context) error {
	sweeps.Inc()
	k, err := m.mark(ctx)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	now := m.deps.Now()
	suspects := map[string]bool{}
	copies := 0
	for obj, err := range m.deps.Store.List(ctx, "", "") {
		if err != nil {
			return fmt.Errorf("sweep: listing: %w", err)
		}
		if _, ok := parsePointerKey(m.deps.ClusterID, obj.Key); ok {
			copies++
		}
		if len(suspects) < maxSuspects && m.suspect(k, obj.Key, now) {
			suspects[obj.Key] = true
		}
	}
	if len(k.pointers) == 0 && copies > 0 && len(m.attached()) == 0 {
		return errNoPointers
	}
	since := age(m.garbage, m.garbage.orphans, suspects, now)
	orphans.Set(float64(len(since)))
	var due []string
	for key, at := range since {
		if now.Sub(at) >= m.cfg.QuarantineFor {
			due = append(due, key)
		}
	}
	errs := []error{m.dropGone(ctx, k, now)}
	if len(due) > 0 {
		errs = append(errs, m.deleteOrphans(ctx, due, now))
	}
	return errors.Join(errs...)
}

// suspect says whether a key is one of ours that nothing refers to.
func (m *Manager) suspect(k *marks, key string, now time.Time) bool {
	if id, ok := parseKey(m.deps.ClusterID, key); ok {
		_, used := k.objects[id]
		return !used && !m.garbage.isProtected(id, now) && now.Sub(id.Time()) >= m.cfg.QuarantineFor
	}
	if pk, ok := parsePointerKey(m.deps.ClusterID, key); ok {
		_, used := k.pointers[pk]
		return !used
	}
	return false
}

func (m *Manager) deleteOrphans(ctx context.Context, keys []string, now time.Time) error {
	slices.Sort(keys)
	k, err := m.mark(ctx) // what was committed meanwhile stays
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, key := range keys {
		if !m.suspect(k, key, now) {
			continue
		}
		if err := m.deleteKey(ctx, key); err != nil {
			errs = append(errs, err)
			continue
		}
		m.deps.Log.Info("orphan deleted from the object store", "key", key)
		orphansDeleted.Inc()
		m.garbage.mu.Lock()
		delete(m.garbage.orphans, key)
		m.garbage.mu.Unlock()
	}
	return errors.Join(errs...)
}

// dropGone gives up pointers of topics that have been out of the metastore's
// image for a whole quarantine: a DropTopic that was interrupted.
func (m *Manager) dropGone(ctx context.Context, k *marks, now time.Time) error {
	im, ok := m.deps.Meta.(interface{ Image() *metastore.Image })
	if !ok {
		return nil
	}
	image := im.Image()
	if image == nil {
		return nil
	}
	missing := map[partKey]bool{}
	for key := range k.pointers {
		if image.TopicIDs[key.id] == nil && m.part(key.id, key.p) == nil {
			missing[key] = true
		}
	}
	var errs []error
	for key, at := range age(m.garbage, m.garbage.gone, missing, now) {
		if now.Sub(at) >= m.cfg.QuarantineFor {
			errs = append(errs, m.dropPointer(ctx, k.pointers[key]))
		}
	}
	return errors.Join(errs...)
}

// dropPointer deletes one pointer, dooms its objects, and deletes its copy.
func (m *Manager) dropPointer(ctx context.Context, e metastore.TierPointerEntry) error {
	var ids []ObjectID
	if ptr, err := DecodePointer(e.Value); err == nil {
		// A manifest that cannot be read now leaves its objects to the sweep.
		entries, _ := m.entriesOf(ctx, partKey{e.ID, e.Partition}, ptr)
		ids = dropped(newView(e.Revision, ptr, entries, true), &view{})
	}
	mctx, cancel := context.WithTimeout(ctx, metaTimeout)
	defer cancel()
	if err := m.deps.Meta.DeleteTierPointer(mctx, e.ID, e.Partition, e.Revision); err != nil {
		return fmt.Errorf("tiering: pointer of topic %v, partition %d: %w", e.ID, e.Partition, err)
	}
	m.garbage.doom(ids, m.deps.Now())
	if err := m.deleteKey(ctx, PointerKey(m.deps.ClusterID, e.ID, e.Partition)); err != nil {
		m.deps.Log.Warn("copy of a deleted topic's pointer stays until the sweep", "err", err)
	}
	return nil
}

// DropTopic gives up all the pointers of a deleted topic; call it after the
// topic is gone from the metastore. Its objects follow after the delete
// delay. What is interrupted, the sweep finishes.
func (m *Manager) DropTopic(ctx context.Context, id record.TopicID) error {
	for _, p := range m.attached() {
		if p.key.id == id {
			m.Detach(id, p.key.p)
		}
	}
	var errs []error
	for e, err := range m.deps.Meta.TierPointers(ctx) {
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("tiering: dropping topic %v: %w", id, err))...)
		}
		if e.ID == id {
			errs = append(errs, m.dropPointer(ctx, e))
		}
	}
	m.poke()
	return errors.Join(errs...)
}
