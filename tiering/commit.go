package tiering

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objectstore"
)

var (
	// errLost says that somebody else changed the pointer first.
	errLost = errors.New("the partition's pointer was changed by another")
	// errUnknown says that it could not be learnt whether a commit happened.
	errUnknown = errors.New("the outcome of the commit is not known")
)

const (
	metaTimeout = 10 * time.Second // of one call to the metastore
	commitTries = 4
	inlineLimit = 48 << 10 // encoded bytes from which a pointer is folded
)

// commit swaps the held partition's pointer to next and publishes the view;
// all is the live entries of next, as view.all. A tail that is too long is
// folded into a new manifest first. started is when the objects that next
// brings in were named: what took longer than half of the quarantine may be
// collected any moment and is not committed.
func (m *Manager) commit(p *part, next Pointer, all []Entry, started time.Time) error {
	v := p.view.Load()
	loaded := v.loaded || next.Manifest.IsZero()
	value := encodePointer(&next)
	var manifest ObjectID
	if len(next.Tail) > m.cfg.InlineEntries || len(value) > inlineLimit {
		if !loaded {
			return errors.New("the tail of the pointer is full and its manifest is not loaded yet")
		}
		var err error
		if manifest, all, err = m.fold(p, &next, all); err != nil {
			return err
		}
		value = encodePointer(&next)
	}
	if len(value) > maxPointer {
		return fmt.Errorf("pointer takes %d bytes, the metastore takes %d", len(value), maxPointer)
	}
	if took := m.deps.Now().Sub(started); took > m.cfg.QuarantineFor/2 {
		return fmt.Errorf("upload took %v, longer than half of the quarantine: it is given up", took)
	}
	rev, err := m.swap(p, v, value)
	if !manifest.IsZero() && !errors.Is(err, errUnknown) {
		m.garbage.unprotect(manifest)
	}
	if err != nil {
		return err
	}
	commits.Inc()
	nv := makeView(rev, &next, all, loaded)
	p.view.Store(nv)
	m.garbage.doom(dropped(v, nv), m.deps.Now())
	return nil
}

// fold writes the live entries as a new manifest and empties next's tail.
func (m *Manager) fold(p *part, next *Pointer, all []Entry) (ObjectID, []Entry, error) {
	live := 0
	for live < len(all)-1 && all[live].End <= next.Start {
		live++
	}
	entries := append([]Entry(nil), all[live:]...)
	b, err := encodeManifest(&Manifest{
		Cluster: m.deps.ClusterID, Topic: p.tp.Topic, TopicID: p.key.id, Partition: p.key.p,
		Generation: next.Generation, Entries: entries,
	})
	if err != nil {
		return ObjectID{}, nil, err
	}
	id := m.newID()
	m.garbage.protect(id, m.deps.Now().Add(m.cfg.QuarantineFor))
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.StoreTimeout)
	defer cancel()
	key := ObjectKey(m.deps.ClusterID, id)
	if _, err := m.deps.Store.Put(ctx, key, bytes.NewReader(b), int64(len(b))); err != nil && !errors.Is(err, objectstore.ErrExists) {
		return ObjectID{}, nil, fmt.Errorf("writing manifest %s: %w", key, err)
	}
	// Once it is committed the entries are nowhere else: look whether the
	// store has what it was given.
	got, err := m.readSmall(ctx, key)
	if err != nil {
		return ObjectID{}, nil, fmt.Errorf("verifying manifest %s: %w", key, err)
	}
	if !bytes.Equal(got, b) {
		return ObjectID{}, nil, corruptf("manifest %s is not what was written", key)
	}
	folds.Inc()
	next.Manifest, next.ManifestEnd, next.Tail = id, next.End, nil
	return id, entries, nil
}

// swap replaces the pointer of v by value. After a failure that leaves the
// outcome open it reads the pointer to learn it, and tries again if nothing
// happened. errLost: another's pointer was found and installed.
func (m *Manager) swap(p *part, v *view, value []byte) (int64, error) {
	var last error
	for range commitTries {
		rev, err := m.swapOnce(p, v.rev, value)
		if err == nil {
			return rev, nil
		}
		last = err
		casFailures.Inc()
		now, rerr := m.readPointer(p)
		if rerr != nil {
			last = errors.Join(last, rerr)
			if m.ctx.Err() != nil {
				break
			}
			continue
		}
		if now.Revision != 0 && bytes.Equal(now.Value, value) {
			return now.Revision, nil // it was ours all along
		}
		if now.Revision != v.rev {
			if err := m.install(p, now); err != nil {
				m.fail(p, err)
				return 0, err
			}
			if err := p.tellHot(); err != nil {
				return 0, fmt.Errorf("%w: %w", errLost, err)
			}
			return 0, errLost
		}
		if errors.Is(err, metastore.ErrConflict) {
			// The pointer is as we knew it: it is the epoch or the topic.
			return 0, fmt.Errorf("no longer leader of %v or its topic is gone: %w", p.tp, err)
		}
	}
	return 0, fmt.Errorf("%w: %w", errUnknown, last)
}

func (m *Manager) swapOnce(p *part, expect int64, value []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(m.ctx, metaTimeout)
	defer cancel()
	return m.deps.Meta.CommitTierPointer(ctx, p.key.id, p.key.p, expect, p.policyNow().Epoch, value)
}

func (m *Manager) readPointer(p *part) (metastore.TierPointer, error) {
	ctx, cancel := context.WithTimeout(m.ctx, metaTimeout)
	defer cancel()
	return m.deps.Meta.TierPointer(ctx, p.key.id, p.key.p)
}

// copyState is what is known of the pointer's copy in the bucket.
type copyState struct {
	written    bool // since the partition was attached
	failing    bool // the last try failed
	etag       string
	manifest   ObjectID
	bytes      int64 // tiered since
	at         time.Time
	generation int64
}

const (
	copyBytes = 64 << 20       // of new runs after which the copy is renewed
	copyEvery = 24 * time.Hour // … and at the latest
)

// copyIfDue renews the copy of the pointer in the bucket, from which, with
// the footers of newer objects, a bucket alone can restore a cluster. It is
// written with the first commit, with each new manifest and from time to time
// in between; writing it at every commit would cost a quiet partition more
// PUTs than its data. A failure, of which false tells, is tried again at the
// next commit. The partition is held.
func (m *Manager) copyIfDue(p *part) bool {
	v := p.view.Load()
	now := m.deps.Now()
	p.mu.Lock()
	c := p.copied
	p.mu.Unlock()
	if c.written && c.manifest == v.ptr.Manifest && c.bytes < copyBytes && now.Sub(c.at) < copyEvery {
		return true
	}
	etag, err := m.writeCopy(p, v, c.etag)
	if err != nil {
		copyFailures.Inc()
		p.mu.Lock()
		first := !p.copied.failing
		p.copied.failing = true
		p.mu.Unlock()
		if first {
			m.deps.Log.Warn("the bucket's copy of a pointer is out of date; it is tried again with each commit", "partition", p.tp.String(), "err", err)
		}
		return false
	}
	p.mu.Lock()
	p.copied = copyState{written: true, etag: etag, manifest: v.ptr.Manifest, at: now, generation: v.ptr.Generation}
	p.mu.Unlock()
	return true
}

func (m *Manager) writeCopy(p *part, v *view, etag string) (string, error) {
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.StoreTimeout)
	defer cancel()
	key := PointerKey(m.deps.ClusterID, p.key.id, p.key.p)
	value := encodePointer(&v.ptr)
	for range 3 {
		obj, err := m.deps.Store.Swap(ctx, key, value, etag)
		if err == nil {
			return obj.ETag, nil
		}
		if !errors.Is(err, objectstore.ErrExists) && !errors.Is(err, objectstore.ErrNotFound) {
			return "", fmt.Errorf("copying the pointer of %v to %s: %w", p.tp, key, err)
		}
		present, err := m.deps.Store.Head(ctx, key)
		if errors.Is(err, objectstore.ErrNotFound) {
			etag = ""
			continue
		}
		if err != nil {
			return "", fmt.Errorf("looking at %s: %w", key, err)
		}
		if newer, err := m.copyIsNewer(ctx, key, v.ptr.Generation); err != nil {
			return "", err
		} else if newer {
			return "", nil // of a later leader, or of a metastore that is lost: not to be replaced
		}
		etag = present.ETag
	}
	return "", fmt.Errorf("copying the pointer of %v to %s: it keeps changing", p.tp, key)
}

// copyIsNewer says whether the copy under key is of a later generation. One
// that cannot be decoded is not.
func (m *Manager) copyIsNewer(ctx context.Context, key string, generation int64) (bool, error) {
	rc, err := m.deps.Store.GetRange(ctx, key, 0, -1)
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", key, err)
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, maxPointer+1))
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", key, err)
	}
	ptr, err := DecodePointer(b)
	return err == nil && ptr.Generation > generation, nil
}
