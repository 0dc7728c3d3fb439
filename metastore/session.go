package metastore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/twmb/franz-go/pkg/kerr"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// session is this broker's presence: a lease that its registration key and,
// when it is controller, the controller key hang on.
//
// Leases are for liveness only. What a controller writes is guarded by the
// creation revision of its controller key, so that one which lost its lease
// without noticing writes nothing.
type session struct {
	renew func(context.Context, clientv3.LeaseID) error // tests replace it

	registered atomic.Bool               // Register has succeeded
	lastRenew  atomic.Pointer[time.Time] // when the last successful renewal was sent
	controller atomic.Int64              // creation revision of our controller key, 0 when not controller

	busy chan struct{} // capacity 1: held by Register, and by Close for good
	went chan struct{} // closed when Register has succeeded

	// Of Register, then of the goroutine that keepAlive runs in, then of Close.
	lease clientv3.LeaseID
	epoch int64 // creation revision of our registration
	won   int64 // creation revision of our controller key, before its leftovers are collected
}

// margin is how long before the lease runs out the broker fences itself.
func (s *Store) margin() time.Duration { return s.cfg.LeaseTTL / 4 }

// Fenced says that this broker's lease may have run out, or will very soon: it
// must not act as a live member of the cluster. It is false before Register
// and true after Close. It follows the clock, not etcd's answers: it turns
// true even when nothing answers at all.
func (s *Store) Fenced() bool {
	select {
	case <-s.closed:
		return true
	default:
	}
	if !s.session.registered.Load() {
		return false
	}
	last := s.session.lastRenew.Load()
	return last == nil || time.Since(*last) > s.cfg.LeaseTTL-s.margin()
}

// Register writes this broker's key under a lease that is kept alive, and
// makes this broker controller if there is none. A key that an earlier run of
// this broker left behind is replaced: its data folder is ours now. When the
// lease is lost the broker registers again by itself, with a new epoch.
// Register is called once; after an error it may be called again.
func (s *Store) Register(ctx context.Context) error {
	if err := acquire(ctx, s.session.busy); err != nil {
		return fmt.Errorf("metastore: register broker %d: %w", s.cfg.BrokerID, err)
	}
	defer func() { <-s.session.busy }()
	if s.keeping.Err() != nil {
		return ErrClosed
	}
	if s.session.registered.Load() {
		return errors.New("metastore: registered already")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.keeping, cancel)() // Close does not wait for us
	err := s.enlist(ctx)
	if err == nil {
		err = s.campaign(ctx)
	}
	if err != nil {
		return fmt.Errorf("metastore: register broker %d: %w", s.cfg.BrokerID, err)
	}
	s.session.registered.Store(true)
	close(s.session.went)
	return nil
}

// enlist gets a lease and writes the registration under it.
func (s *Store) enlist(ctx context.Context) error {
	begin := time.Now()
	s.session.controller.Store(0)
	s.session.won = 0
	grant, err := s.srv.cli.Grant(ctx, int64(s.cfg.LeaseTTL/time.Second))
	if err != nil {
		return mapError(err)
	}
	key := brokerKey(s.cfg.BrokerID)
	value := encodeBroker(Broker{
		Host: s.cfg.Host, Port: s.cfg.Port, HTTP: s.cfg.HTTP, Rack: s.cfg.Rack, StartedMs: begin.UnixMilli(),
	})
	for range 3 {
		if err := s.evict(ctx, key); err != nil {
			return err
		}
		resp, err := s.txn(ctx, "register",
			[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)},
			[]clientv3.Op{clientv3.OpPut(key, string(value), clientv3.WithLease(grant.ID))}, nil)
		if err != nil {
			return err
		}
		if resp.Succeeded {
			s.session.lease, s.session.epoch = grant.ID, resp.Header.Revision
			s.session.lastRenew.Store(&begin)
			metricLeaseHeld.Set(1)
			return nil
		}
	}
	return fmt.Errorf("%w: broker %d is registered by somebody else again and again", ErrConflict, s.cfg.BrokerID)
}

// evict removes what an earlier run left at the broker's key, with its lease
// and all that hangs on it. The new key must be created, not overwritten: its
// creation revision is the broker's epoch.
func (s *Store) evict(ctx context.Context, key string) error {
	resp, err := s.srv.cli.Get(ctx, key)
	if err != nil {
		return mapError(err)
	}
	if len(resp.Kvs) == 0 {
		return nil
	}
	old := resp.Kvs[0]
	if old.Lease != 0 {
		_, err := s.srv.cli.Revoke(ctx, clientv3.LeaseID(old.Lease))
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return mapError(err)
		}
	}
	_, err = s.txn(ctx, "evict",
		[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", old.ModRevision)},
		[]clientv3.Op{clientv3.OpDelete(key)}, nil)
	return err
}

// campaign makes this broker controller if nobody is, and then clears away
// what an earlier controller left half done. Only after that it may change
// topics: nothing that is under way is taken for a leftover.
func (s *Store) campaign(ctx context.Context) error {
	if s.session.won == 0 {
		resp, err := s.txn(ctx, "campaign",
			[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(controllerKey), "=", 0)},
			[]clientv3.Op{clientv3.OpPut(controllerKey, string(encodeController(s.cfg.BrokerID)), clientv3.WithLease(s.session.lease))}, nil)
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			return nil // another broker is; keepAlive tries again when it goes
		}
		s.session.won = resp.Header.Revision
	}
	if err := s.collectLeftovers(ctx, s.session.won); err != nil {
		return err
	}
	s.session.controller.Store(s.session.won)
	metricController.Set(1)
	return nil
}

// keepAlive renews the lease, registers again when it was lost, and runs for
// controller when there is none. It ends with ctx.
func (s *Store) keepAlive(ctx context.Context) {
	select {
	case <-s.session.went:
	case <-ctx.Done():
		return
	}
	wake := make(chan struct{}, 1)
	defer s.OnChange(func(*Image) { signal(wake) })()
	healthy := true
	timer := time.NewTimer(s.cfg.LeaseTTL / 3)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
			if !s.registrationGone() {
				s.lookAfterController(ctx)
				continue
			}
		case <-timer.C:
		}
		err := s.stayAlive(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			metricRenewErrors.Inc()
		}
		if ok := err == nil; ok != healthy {
			healthy = ok
			if ok {
				s.log.Info("lease is kept alive again", "broker", int32(s.cfg.BrokerID))
			} else {
				s.log.Warn("lease cannot be kept alive", "broker", int32(s.cfg.BrokerID), "ttl", s.cfg.LeaseTTL, "err", err)
			}
		}
		setBool(metricFenced, s.Fenced())
		next := s.cfg.LeaseTTL / 3
		if err != nil {
			next = s.cfg.LeaseTTL / 20
		}
		timer.Reset(next)
	}
}

// stayAlive renews the lease once, or gets a new one where it is gone.
func (s *Store) stayAlive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.LeaseTTL/3)
	defer cancel()
	begin := time.Now()
	err := error(rpctypes.ErrLeaseNotFound)
	if s.session.lease != 0 {
		err = s.session.renew(ctx, s.session.lease)
	}
	if err == nil && s.registrationGone() { // though the lease is alive
		if _, err := s.srv.cli.Revoke(ctx, s.session.lease); err != nil {
			return mapError(err)
		}
		err = rpctypes.ErrLeaseNotFound
	}
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		if s.session.lease != 0 {
			s.log.Warn("lease was lost, registering again", "broker", int32(s.cfg.BrokerID))
			metricLeasesLost.Inc()
			s.forgetLease()
		}
		if err := s.enlist(ctx); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		s.session.lastRenew.Store(&begin)
	}
	s.lookAfterController(ctx)
	return nil
}

// registrationGone says that the image knows of our registration's end.
func (s *Store) registrationGone() bool {
	img := s.Image()
	_, there := img.Brokers[s.cfg.BrokerID]
	return s.session.lease != 0 && img.Revision >= s.session.epoch && !there
}

func (s *Store) forgetLease() {
	s.session.lease, s.session.won = 0, 0
	s.session.controller.Store(0)
	metricLeaseHeld.Set(0)
	metricController.Set(0)
}

// lookAfterController runs for controller when the place is free, or was taken
// from under us.
func (s *Store) lookAfterController(ctx context.Context) {
	if s.session.lease == 0 || s.registrationGone() {
		return
	}
	img := s.Image()
	if mine := s.session.controller.Load(); mine != 0 {
		if img.Revision < mine || img.Controller == s.cfg.BrokerID {
			return
		}
		s.session.won = 0
		s.session.controller.Store(0)
		metricController.Set(0)
		s.log.Warn("no longer controller", "broker", int32(s.cfg.BrokerID), "controller", int32(img.Controller))
	}
	if img.Controller != -1 && s.session.won == 0 {
		return
	}
	if err := s.campaign(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("could not become controller, trying again", "broker", int32(s.cfg.BrokerID), "err", err)
	}
}

// endSession gives up the lease: the broker's keys go at once, not only when
// the lease runs out. It runs after keepAlive has ended.
func (s *Store) endSession(ctx context.Context) error {
	lease := s.session.lease
	if lease == 0 {
		return nil
	}
	s.forgetLease()
	ctx, cancel := context.WithTimeout(ctx, closeRevoke)
	defer cancel()
	_, err := s.srv.cli.Revoke(ctx, lease)
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("metastore: revoke lease of broker %d: %w", s.cfg.BrokerID, mapError(err))
	}
	return nil
}

// asController gives the creation revision of the controller key that this
// broker created, which guards every change of topics.
func (s *Store) asController() (int64, error) {
	rev := s.session.controller.Load()
	if rev == 0 {
		return 0, fmt.Errorf("metastore: broker %d is not controller (not registered, or lease lost): %w", s.cfg.BrokerID, kerr.NotController)
	}
	return rev, nil
}

func controllerGuard(rev int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(controllerKey), "=", rev)
}

// collectLeftovers deletes what a crash in the middle of creating a topic or
// of adding partitions left behind: keys of a topic without a topic key, and
// partitions beyond the topic's count.
func (s *Store) collectLeftovers(ctx context.Context, controller int64) error {
	st, err := load(ctx, s.srv.cli)
	if err != nil {
		return err
	}
	var ops []clientv3.Op
	keys := 0
	for id, ts := range st.topics {
		surplus := 0
		for p := range ts.parts {
			if int32(p) >= ts.value.Partitions { // 0 without a topic key
				surplus++
			}
		}
		if surplus > 0 {
			from := partitionKey(id, record.PartitionID(ts.value.Partitions))
			ops = append(ops, clientv3.OpDelete(from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(partitionsOf(id)))))
		}
		if ts.revision == 0 && ts.configsRev != 0 {
			ops = append(ops, clientv3.OpDelete(configKey(id)))
			surplus++
		}
		keys += surplus
	}
	for len(ops) > 0 {
		n := min(len(ops), MaxTxnOps)
		resp, err := s.txn(ctx, "collect", []clientv3.Cmp{controllerGuard(controller)}, ops[:n], nil)
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			return fmt.Errorf("%w: no longer controller", ErrConflict)
		}
		ops = ops[n:]
	}
	if keys > 0 {
		metricLeftoverKeys.Add(keys)
		s.log.Info("collected keys of unfinished topic changes", "keys", keys)
	}
	return nil
}
