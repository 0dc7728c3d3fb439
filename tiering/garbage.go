package tiering

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objectstore"
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
	dropping  []record.TopicID       // deleted topics whose pointers are to go
	notBefore time.Time              // collectSoon's next run
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
	damaged  map[partKey]error // pointers that cannot be read, or their manifests: of these partitions nothing may go
}

// err tells what is damaged.
func (k *marks) err() error {
	var errs []error
	for _, err := range k.damaged {
		errs = append(errs, fmt.Errorf("no object of this partition is deleted: %w", err))
	}
	return errors.Join(errs...)
}

// mark reads every pointer and manifest. An error means that it is not
// complete: nothing may be deleted on the strength of it.
func (m *Manager) mark(ctx context.Context) (*marks, error) {
	k := &marks{objects: map[ObjectID]struct{}{}, pointers: map[partKey]metastore.TierPointerEntry{}, damaged: map[partKey]error{}}
	for e, err := range m.deps.Meta.TierPointers(ctx) {
		if err != nil {
			return nil, fmt.Errorf("listing pointers: %w", err)
		}
		k.pointers[partKey{e.ID, e.Partition}] = e
	}
	for key, e := range k.pointers {
		ptr, err := DecodePointer(e.Value)
		if err != nil {
			k.damaged[key] = fmt.Errorf("pointer of topic %v, partition %d: %w", key.id, key.p, err)
			continue
		}
		entries, err := m.entriesOf(ctx, key, ptr)
		if err != nil {
			err = fmt.Errorf("manifest of %s-%d: %w", ptr.Topic, ptr.Partition, err)
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, objectstore.ErrNotFound) {
				return nil, err
			}
			k.damaged[key] = err
			continue
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

// spared says whether an object that nothing refers to may be of a partition
// whose pointer is damaged: its footer, or the manifest that it is, says of
// which partitions it is. What cannot be read may be anybody's.
func (m *Manager) spared(ctx context.Context, k *marks, key string) bool {
	if _, copied := parsePointerKey(m.deps.ClusterID, key); copied || len(k.damaged) == 0 {
		return false // the key of a pointer's copy says whose it is
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.StoreTimeout)
	defer cancel()
	obj, err := m.deps.Store.Head(ctx, key)
	if err != nil {
		return true
	}
	r := objectReader{ctx, m.deps.Store, key}
	if f, err := ReadFooter(r, obj.Size); err == nil {
		return slices.ContainsFunc(f.Runs, func(r *Run) bool { return k.damaged[partKey{r.TopicID, r.Partition}] != nil })
	}
	mf, err := DumpManifest(r, obj.Size)
	return err != nil || k.damaged[partKey{mf.Manifest.TopicID, mf.Partition}] != nil
}

// objectReader reads an object of the store.
type objectReader struct {
	ctx   context.Context
	store objectstore.Store
	key   string
}

func (r objectReader) ReadAt(p []byte, off int64) (int, error) {
	rc, err := r.store.GetRange(r.ctx, r.key, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	defer rc.Close()
	return io.ReadFull(rc, p)
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
	errs := []error{k.err()}
	for _, id := range due {
		key := ObjectKey(m.deps.ClusterID, id)
		if _, used := k.objects[id]; !used && !m.garbage.isProtected(id, now) && !m.spared(ctx, k, key) {
			if err := m.deleteKey(ctx, key); err != nil {
				if errs = append(errs, err); len(errs) > maxFailures {
					break
				}
				continue
			}
			deletedObjects.Inc()
		}
		m.garbage.forget(id)
	}
	return errors.Join(errs...)
}

// maxFailures is how many calls may fail before a collection stops: the rest
// would very likely fail, too, and each takes its time.
const maxFailures = 4

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

// errOlder says that the bucket has a later copy of a pointer than the
// metastore has: it was put back from a backup, and what was uploaded since
// then is known to nothing but the copy.
var errOlder = errors.New("the metastore is older than the bucket: nothing is deleted; restore a later backup, or remove the copy to give up what this one does not know")

// checkAge is errOlder if any of the pointers is older than its copy.
func (m *Manager) checkAge(ctx context.Context, k *marks) error {
	for key, e := range k.pointers {
		ptr, err := DecodePointer(e.Value)
		if err != nil {
			continue // nothing of it is deleted
		}
		name := PointerKey(m.deps.ClusterID, key.id, key.p)
		newer, err := m.copyIsNewer(ctx, name, ptr.Generation)
		if errors.Is(err, objectstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if !newer {
			continue
		}
		now, err := m.deps.Meta.TierPointer(ctx, key.id, key.p)
		if err != nil {
			return err
		}
		if now.Revision == e.Revision { // else it was changed meanwhile, and the copy after it
			return fmt.Errorf("%w: pointer of %s-%d, copy %s", errOlder, ptr.Topic, ptr.Partition, name)
		}
	}
	return nil
}

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
	errs := []error{k.err(), m.dropGone(ctx, k, now)}
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
	if err == nil {
		err = m.checkAge(ctx, k)
	}
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, key := range keys {
		if !m.suspect(k, key, now) || m.spared(ctx, k, key) {
			continue
		}
		if err := m.deleteKey(ctx, key); err != nil {
			if errs = append(errs, err); len(errs) == maxFailures {
				break
			}
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
	var drop []metastore.TierPointerEntry
	for key, at := range age(m.garbage, m.garbage.gone, missing, now) {
		if now.Sub(at) >= m.cfg.QuarantineFor {
			drop = append(drop, k.pointers[key])
		}
	}
	return m.dropPointers(ctx, drop)
}

// dropPointers deletes pointers, dooms their objects, and deletes the copies.
// After a failure of the store it is not asked again: manifests not read
// leave their objects to the sweep, as copies not deleted are left to it.
func (m *Manager) dropPointers(ctx context.Context, pointers []metastore.TierPointerEntry) error {
	var errs []error
	var copies []string
	reachable := true
	for _, e := range pointers {
		var ids []ObjectID
		if ptr, err := DecodePointer(e.Value); err == nil {
			var entries []Entry
			if reachable {
				entries, err = m.entriesOf(ctx, partKey{e.ID, e.Partition}, ptr)
				reachable = err == nil || errors.Is(err, objectstore.ErrNotFound) || errors.Is(err, ErrCorrupt)
			}
			ids = dropped(newView(e.Revision, ptr, entries, true), &view{})
		}
		mctx, cancel := context.WithTimeout(ctx, metaTimeout)
		err := m.deps.Meta.DeleteTierPointer(mctx, e.ID, e.Partition, e.Revision)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("tiering: pointer of topic %v, partition %d: %w", e.ID, e.Partition, err))
			if len(errs) == maxFailures {
				break
			}
			continue
		}
		m.garbage.doom(ids, m.deps.Now())
		copies = append(copies, PointerKey(m.deps.ClusterID, e.ID, e.Partition))
	}
	for i, key := range copies {
		if !reachable || ctx.Err() != nil {
			m.deps.Log.Warn("copies of deleted topics' pointers stay until the sweep: the store did not answer", "copies", len(copies)-i)
			break
		}
		reachable = m.deleteKey(ctx, key) == nil
	}
	return errors.Join(errs...)
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
	var pointers []metastore.TierPointerEntry
	for e, err := range m.deps.Meta.TierPointersOf(ctx, id) {
		if err != nil {
			return fmt.Errorf("tiering: dropping topic %v: %w", id, err)
		}
		pointers = append(pointers, e)
	}
	err := m.dropPointers(ctx, pointers)
	m.poke()
	return err
}

// maxDropping bounds the topics that wait to be dropped; more are left to the
// sweep.
const maxDropping = 1 << 14

// DropTopicSoon is DropTopic in the background: the caller does not wait for
// the store, which may be down. The topic's partitions are detached already.
func (m *Manager) DropTopicSoon(id record.TopicID) {
	g := m.garbage
	g.mu.Lock()
	if len(g.dropping) < maxDropping {
		g.dropping = append(g.dropping, id)
	}
	g.mu.Unlock()
	m.poke()
}

// dropTopics does what DropTopicSoon put off.
func (m *Manager) dropTopics(ctx context.Context) error {
	g := m.garbage
	for {
		g.mu.Lock()
		if len(g.dropping) == 0 {
			g.mu.Unlock()
			return nil
		}
		id := g.dropping[0]
		g.dropping = g.dropping[1:]
		g.mu.Unlock()
		if err := m.DropTopic(ctx, id); err != nil {
			return fmt.Errorf("what is left of a deleted topic waits for the sweep: %w", err)
		}
	}
}

func (g *garbage) hasDropping() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.dropping) > 0
}

// collectSoon is collect, but not more often than is of use: each run reads
// all the pointers, and after a failure the store is left alone for a while.
func (m *Manager) collectSoon(ctx context.Context) error {
	g := m.garbage
	g.mu.Lock()
	early := time.Now().Before(g.notBefore)
	g.mu.Unlock()
	if early {
		return nil
	}
	err := m.collect(ctx)
	pause := min(max(m.cfg.DeleteDelay, 0)/2, 30*time.Second)
	if err != nil {
		pause = max(pause, min(m.cfg.StoreTimeout, time.Minute))
	}
	g.mu.Lock()
	g.notBefore = time.Now().Add(pause)
	g.mu.Unlock()
	return err
}
