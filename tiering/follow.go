package tiering

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// refreshEvery is how often at most a followed partition's pointer is read for
// readers of what the one known does not have.
const refreshEvery = time.Second

// Follow makes the tiered part of a partition readable whose leader is another
// broker: nothing of it is uploaded or deleted. It asks nobody; the pointer is
// read by Tell, by ColdEnd, and when somebody reads what the one known does not
// have. Attach or Detach end it.
func (m *Manager) Follow(hot Hot) error {
	k := partKey{hot.TopicID(), hot.TP().Partition}
	if p := m.part(k.id, k.p); p != nil && p.reads != nil && p.hot == hot {
		return nil
	}
	return m.add(m.follower(m.ctx, hot))
}

func (m *Manager) follower(ctx context.Context, hot Hot) *part {
	p := &part{key: partKey{hot.TopicID(), hot.TP().Partition}, tp: hot.TP(), hot: hot, reads: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

// Tell says to a log that is not attached, that of a follower, what its leader
// has put into the object store, so that local copies may go there too. It asks
// the metastore.
func (m *Manager) Tell(ctx context.Context, hot Hot) error {
	p := m.part(hot.TopicID(), hot.TP().Partition)
	if p == nil || p.hot != hot {
		p = m.follower(ctx, hot)
		defer p.cancel()
	}
	if p.reads == nil {
		return nil // it leads by now, and tells itself
	}
	_, err := m.refresh(ctx, p)
	return err
}

// refresh reads the pointer of a followed partition.
func (m *Manager) refresh(ctx context.Context, p *part) (metastore.TierPointer, error) {
	select {
	case p.reads <- struct{}{}:
		defer func() { <-p.reads }()
	case <-ctx.Done():
		return metastore.TierPointer{}, ctx.Err()
	}
	return m.refreshHeld(ctx, p)
}

func (m *Manager) refreshHeld(ctx context.Context, p *part) (metastore.TierPointer, error) {
	ctx, cancel := context.WithTimeout(ctx, metaTimeout)
	defer cancel()
	tp, err := m.deps.Meta.TierPointer(ctx, p.key.id, p.key.p)
	if v := p.view.Load(); err == nil && (v == nil || v.rev != tp.Revision || v.rev == 0) {
		err = m.install(p, tp)
	}
	if err == nil {
		p.refreshed = m.deps.Now()
		err = p.tellHot()
	}
	if err != nil {
		return metastore.TierPointer{}, fmt.Errorf("tiering: pointer of %v: %w", p.tp, err)
	}
	return tp, nil
}

// catchUp sees to it that the view of a followed partition has the entry of
// offset o, if there is one: it reads pointer and manifest where it has not.
func (m *Manager) catchUp(ctx context.Context, p *part, o record.Offset) error {
	has := func() bool {
		v := p.view.Load()
		if v == nil || !v.contains(o) {
			return false
		}
		_, ok := findEntry(v.entries(), o)
		return ok
	}
	if p.reads == nil || has() {
		return nil
	}
	select {
	case p.reads <- struct{}{}:
		defer func() { <-p.reads }()
	case <-ctx.Done():
		return ctx.Err()
	}
	v := p.view.Load()
	if has() || v != nil && v.loaded && m.deps.Now().Sub(p.refreshed) < refreshEvery {
		return nil
	}
	if _, err := m.refreshHeld(ctx, p); err != nil {
		return err
	}
	if v = p.view.Load(); v.loaded || has() {
		return nil
	}
	return m.loadManifest(ctx, p)
}

// ColdEnd gives where what is tiered ends now, by the metastore, and what a log
// has to know that begins there, from the last object's footer. If only that
// cannot be read, TieredEnd.Missing says why, and the epoch of the last record
// is known from the pointer, or from the manifest.
func (m *Manager) ColdEnd(ctx context.Context, id record.TopicID, tp record.TopicPartition) (record.TieredEnd, error) {
	p := m.part(id, tp.Partition)
	var read metastore.TierPointer
	var err error
	if p != nil && p.reads != nil {
		read, err = m.refresh(ctx, p)
	} else {
		read, err = m.deps.Meta.TierPointer(ctx, id, tp.Partition)
		p = &part{key: partKey{id, tp.Partition}, tp: tp} // for reading its footer
	}
	if err != nil || read.Revision == 0 {
		return record.TieredEnd{}, err
	}
	end, ptr, err := endOf(id, tp, read)
	if err != nil || end.Start == end.End {
		return end, err
	}
	entries := ptr.Tail
	if len(entries) == 0 {
		if entries, end.Missing = m.readManifest(ctx, ptr); end.Missing != nil {
			return end, nil
		}
	}
	last := &entries[len(entries)-1]
	end.Epochs = lastEpoch(last)
	r, err := m.cold.index(ctx, p, ptr.Cluster, last)
	if err != nil {
		end.Missing = err
		return end, nil
	}
	if n := len(r.Epochs); n > 0 && r.Epochs[n-1].Epoch == last.Epoch {
		end.Epochs = slices.Clone(r.Epochs)
	}
	if len(r.Producers) > 0 {
		end.Producers = slices.Clone(r.Producers)
	}
	return end, nil
}

// EndOf is ColdEnd by a pointer that was read, and without what is only in
// objects: the epoch of the last record is not always known, producers never.
func (m *Manager) EndOf(id record.TopicID, tp record.TopicPartition, read metastore.TierPointer) (record.TieredEnd, error) {
	if read.Revision == 0 {
		return record.TieredEnd{}, nil
	}
	end, ptr, err := endOf(id, tp, read)
	if err == nil && len(ptr.Tail) > 0 {
		end.Epochs = lastEpoch(&ptr.Tail[len(ptr.Tail)-1])
	}
	return end, err
}

// endOf decodes a pointer that is there, and gives where what is tiered ends.
func endOf(id record.TopicID, tp record.TopicPartition, read metastore.TierPointer) (record.TieredEnd, *Pointer, error) {
	ptr, err := DecodePointer(read.Value)
	if err == nil && (ptr.TopicID != id || ptr.Partition != tp.Partition) {
		err = corruptf("it is that of %s-%d, topic id %v", ptr.Topic, ptr.Partition, ptr.TopicID)
	}
	if err != nil {
		return record.TieredEnd{}, nil, fmt.Errorf("tiering: pointer of %v at revision %d: %w", tp, read.Revision, err)
	}
	return record.TieredEnd{Start: ptr.Start, End: ptr.End}, ptr, nil
}

// lastEpoch is what an entry says of leader epochs: that of its last record.
func lastEpoch(e *Entry) []record.EpochStart {
	return []record.EpochStart{{Epoch: e.Epoch, Start: e.End - 1}}
}
