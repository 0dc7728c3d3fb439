package metastore

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/firnlog/firn/record"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	changesPut     = 992 // partition records per transaction
	changesAtOnce  = 4   // transactions of one call under way at the same time
	entrantsAtMost = (MaxTxnOps - changesPut - 1) / 2
)

// PartitionChange is what a partition's record is to become.
type PartitionChange struct {
	Topic record.TopicID
	// Partition is the new record. Its ID says which one, and its Revision is
	// that of the record which the change was decided on.
	Partition Partition
}

// Lead writes partition records as their controller: leaders, epochs,
// replicas, reassignments, and ISR and ELR at an election. Each is written
// only if the record is still at the revision given, and all of them only if
// this broker still is the controller that it was at revision controller (see
// ControllerEpoch). revisions[i] is the revision at which changes[i] was
// written, 0 when it was not: its record has changed or is gone, look at a
// newer Image. WaitFor the greatest of them shows all.
//
// An error says that not all were tried: it wraps kerr.NotController when this
// broker is no longer that controller, or is etcd's. Those with a revision are
// written nevertheless.
func (s *Store) Lead(ctx context.Context, controller int64, changes []PartitionChange) (revisions []int64, err error) {
	todo := make([]write, len(changes))
	for i, c := range changes {
		todo[i] = write{topic: c.Topic, part: c.Partition}
	}
	revisions, err = s.writePartitions(ctx, "lead", guard{controllerKey, controller}, todo)
	if err != nil {
		err = fmt.Errorf("metastore: write %d partition records: %w", len(changes), err)
	}
	return revisions, err
}

// ChangePartitions writes partition records as an operator asked this broker
// to: moves and elections. Each is written only if the record is still at the
// revision given, and all of them only under this broker's registration. What
// it gives is as for Lead.
func (s *Store) ChangePartitions(ctx context.Context, changes []PartitionChange) (revisions []int64, err error) {
	todo := make([]write, len(changes))
	for i, c := range changes {
		todo[i] = write{topic: c.Topic, part: c.Partition}
	}
	revisions, err = s.writePartitions(ctx, "change_partitions", guard{brokerKey(s.cfg.BrokerID), s.BrokerEpoch()}, todo)
	if err != nil {
		err = fmt.Errorf("metastore: change %d partition records: %w", len(changes), err)
	}
	return revisions, err
}

// ISRChange is a new ISR, and what follows from it, of a partition that this
// broker leads.
type ISRChange struct {
	PartitionChange
	Enter []Entrant // the replicas that are in the new ISR and not in the old
}

// Entrant is a replica that enters an ISR, as the registration under which it
// fetched.
type Entrant struct {
	Broker record.BrokerID
	Epoch  int64
}

// ChangeISR writes partition records as their leader. Each is written only if
// the record is still at the revision given (so leader and leader epoch are
// still this broker's), if this broker still has the registration of epoch, and
// if each replica that enters still has the registration under which it
// fetched and the controller has taken that in (KIP-903). Results are as those
// of Lead: revision 0 also says that a replica could not enter, or not yet by
// what this broker's Image knows.
func (s *Store) ChangeISR(ctx context.Context, epoch int64, changes []ISRChange) (revisions []int64, err error) {
	todo := make([]write, len(changes))
	img := s.Image()
	for i, c := range changes {
		todo[i] = write{topic: c.Topic, part: c.Partition}
		for _, e := range c.Enter {
			u := img.Unfenced[e.Broker]
			if u.Epoch != e.Epoch {
				todo[i].part.Revision = 0 // not to be written
			}
			todo[i].enter = append(todo[i].enter, entrant{e, string(encodeUnfenced(u))})
		}
	}
	revisions, err = s.writePartitions(ctx, "change_isr", guard{brokerKey(s.cfg.BrokerID), epoch}, todo)
	if err != nil {
		err = fmt.Errorf("metastore: change the ISR of %d partitions: %w", len(changes), err)
	}
	return revisions, err
}

// write is a partition record to be written and what it depends on.
type write struct {
	topic record.TopicID
	part  Partition
	enter []entrant
	at    int // index among the call's changes
}

// entrant is an Entrant with the value that its unfenced key has.
type entrant struct {
	Entrant
	unfenced string
}

// writePartitions writes each record whose conditions hold. Batches are
// independent, so several are under way at the same time.
func (s *Store) writePartitions(ctx context.Context, op string, g guard, todo []write) (revisions []int64, err error) {
	revisions = make([]int64, len(todo))
	if g.revision <= 0 {
		return revisions, s.lost(g)
	}
	var valid []write
	type partition struct {
		topic record.TopicID
		id    record.PartitionID
	}
	seen := make(map[partition]struct{}, len(todo))
	for i, w := range todo {
		key := partition{w.topic, w.part.ID}
		// No record has revision 0: to compare it would create the key. And of
		// two changes of one record the second cannot know what it changes.
		if _, twice := seen[key]; twice || w.part.ID < 0 || w.part.Revision <= 0 {
			metricRecordConflicts.Inc()
			continue
		}
		seen[key] = struct{}{}
		w.at = i
		valid = append(valid, w)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards first
	var first error
	slots := make(chan struct{}, changesAtOnce)
	for len(valid) > 0 {
		n := batch(valid)
		now := valid[:n:n]
		valid = valid[n:]
		slots <- struct{}{}
		mu.Lock()
		stop := first != nil
		mu.Unlock()
		if stop {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := s.writeBatch(ctx, op, g, now, revisions); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
				}
			}
		})
	}
	wg.Wait()
	return revisions, first
}

// batch says how many of todo fit into one transaction.
func batch(todo []write) int {
	seen := map[Entrant]struct{}{}
	for i, w := range todo {
		if i == changesPut {
			return i
		}
		for _, e := range w.enter {
			seen[e.Entrant] = struct{}{}
		}
		if len(seen) > entrantsAtMost && i > 0 {
			return i
		}
	}
	return len(todo)
}

// writeBatch writes what it can of one batch. When a compare fails, the answer
// says which: the others are written without it. Each round either writes all
// that is left or takes at least one out.
func (s *Store) writeBatch(ctx context.Context, op string, g guard, todo []write, revisions []int64) error {
	for len(todo) > 0 {
		cmps := []clientv3.Cmp{g.cmp()}
		look := []clientv3.Op{clientv3.OpGet(g.key, clientv3.WithKeysOnly())}
		var puts []clientv3.Op
		at := map[Entrant]int{} // where look asks for it
		for _, w := range todo {
			key := partitionKey(w.topic, w.part.ID)
			cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(key), "=", w.part.Revision))
			look = append(look, clientv3.OpGet(key))
			puts = append(puts, clientv3.OpPut(key, string(encodePartition(w.part))))
		}
		for _, w := range todo {
			for _, e := range w.enter {
				if _, ok := at[e.Entrant]; ok {
					continue
				}
				at[e.Entrant] = len(look)
				cmps = append(cmps, brokerGuard(e.Broker, e.Epoch), clientv3.Compare(clientv3.Value(unfencedKey(e.Broker)), "=", e.unfenced))
				look = append(look, clientv3.OpGet(brokerKey(e.Broker), clientv3.WithKeysOnly()), clientv3.OpGet(unfencedKey(e.Broker)))
			}
		}
		resp, err := s.txn(ctx, op, cmps, puts, look)
		if err != nil {
			return err
		}
		if resp.Succeeded {
			for _, w := range todo {
				revisions[w.at] = resp.Header.Revision
			}
			return nil
		}
		found := func(i int) *mvccpb.KeyValue { return first(resp.Responses[i].GetResponseRange().Kvs) }
		if kv := found(0); kv == nil || kv.CreateRevision != g.revision {
			return s.lost(g)
		}
		left := todo[:0]
		for i, w := range todo {
			kv := found(1 + i)
			switch {
			case kv != nil && resp.unsure && string(kv.Value) == string(encodePartition(w.part)):
				revisions[w.at] = kv.ModRevision // by an attempt whose answer did not come
			case kv == nil || kv.ModRevision != w.part.Revision:
				metricRecordConflicts.Inc()
			case !entrantsStand(w.enter, at, found):
				metricRecordConflicts.Inc()
			default:
				left = append(left, w)
			}
		}
		todo = left
	}
	return nil
}

func entrantsStand(enter []entrant, at map[Entrant]int, found func(int) *mvccpb.KeyValue) bool {
	for _, e := range enter {
		reg, unfenced := found(at[e.Entrant]), found(at[e.Entrant]+1)
		if reg == nil || reg.CreateRevision != e.Epoch || unfenced == nil || string(unfenced.Value) != e.unfenced {
			return false
		}
	}
	return true
}

// Unfence notes, as the controller of revision controller, that the
// registration of a broker that u says was taken in; the partition
// records that follow from it are written before. It fails with ErrConflict
// when the broker has no such registration any more, with kerr.NotController.
func (s *Store) Unfence(ctx context.Context, controller int64, id record.BrokerID, u Unfenced) (revision int64, err error) {
	ok, revision, err := s.change(ctx, "unfence", guard{controllerKey, controller},
		[]clientv3.Cmp{brokerGuard(id, u.Epoch)},
		[]clientv3.Op{clientv3.OpPut(unfencedKey(id), string(encodeUnfenced(u)))})
	if err == nil && !ok {
		err = fmt.Errorf("%w: it is not registered at epoch %d", ErrConflict, u.Epoch)
	}
	if err != nil {
		return 0, fmt.Errorf("metastore: unfence broker %d: %w", id, err)
	}
	return revision, nil
}

// Forget deletes what is known of a broker that will not come back: its
// unfenced key, and with it the disk that it had. If it comes back after all,
// it is taken in as one with another disk. It is written under the registration
// of this broker, which was asked to. It fails with ErrConflict while that
// broker is registered.
func (s *Store) Forget(ctx context.Context, id record.BrokerID) (revision int64, err error) {
	g, err := s.asBroker()
	if err != nil {
		return 0, err
	}
	ok, revision, err := s.change(ctx, "forget", g,
		[]clientv3.Cmp{brokerGuard(id, 0)},
		[]clientv3.Op{clientv3.OpDelete(unfencedKey(id))})
	if err == nil && !ok {
		err = fmt.Errorf("%w: it is registered", ErrConflict)
	}
	if err != nil {
		return 0, fmt.Errorf("metastore: forget broker %d: %w", id, err)
	}
	return revision, nil
}

// SetLeaving notes in this broker's registration that it wants to stop: the
// controller gives its leaderships to others. It stays so through
// registrations that follow in this process.
func (s *Store) SetLeaving(ctx context.Context) (revision int64, err error) {
	s.session.leaving.Store(true)
	key := brokerKey(s.cfg.BrokerID)
	for {
		g, err := s.asBroker()
		if err != nil {
			return 0, err
		}
		kv, err := s.get(ctx, key)
		if err != nil {
			return 0, fmt.Errorf("metastore: leave: %w", err)
		}
		if kv == nil || kv.CreateRevision != g.revision {
			return 0, fmt.Errorf("metastore: leave: %w", s.lost(g))
		}
		v, err := decodeBroker(kv.Value)
		if err != nil {
			return 0, fmt.Errorf("metastore: leave: %w", err)
		}
		if v.Leaving {
			return kv.ModRevision, nil
		}
		v.Leaving = true
		resp, err := s.txn(ctx, "leaving", []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)},
			[]clientv3.Op{clientv3.OpPut(key, string(encodeBroker(v)), clientv3.WithIgnoreLease())}, nil)
		if err != nil {
			return 0, fmt.Errorf("metastore: leave: %w", err)
		}
		if resp.Succeeded {
			return resp.Header.Revision, nil
		}
	}
}

// RevokeRegistration ends the registration of a broker at epoch, and its being
// controller: for whoever knows that its process is gone. It fails with
// ErrConflict when the broker has another registration by now, or none. A
// broker that lives after all registers again.
func (s *Store) RevokeRegistration(ctx context.Context, id record.BrokerID, epoch int64) error {
	kv, err := s.get(ctx, brokerKey(id))
	switch {
	case err != nil:
	case kv == nil || kv.CreateRevision != epoch:
		err = fmt.Errorf("%w: it is not registered at epoch %d", ErrConflict, epoch)
	case kv.Lease == 0:
		err = fmt.Errorf("%w: the registration has no lease", ErrCorrupt)
	default:
		// Each registration has a lease of its own: this one is no other's.
		if err = s.revoke(ctx, clientv3.LeaseID(kv.Lease)); err == nil {
			metricRevoked.Inc()
		}
	}
	if err != nil {
		return fmt.Errorf("metastore: revoke the registration of broker %d: %w", id, err)
	}
	return nil
}

// revoke ends a lease; one that has ended is no error.
func (s *Store) revoke(ctx context.Context, id clientv3.LeaseID) error {
	_, err := try(ctx, s.srv, func(ctx context.Context) error {
		_, err := s.srv.cli.Revoke(ctx, id)
		return err
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return s.callError(err)
}
