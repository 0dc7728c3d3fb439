package metastore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/twmb/franz-go/pkg/kerr"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// session is this broker's presence: a lease that its registration key and,
// when it is controller, the controller key hang on.
//
// Leases are for liveness only. What a controller writes is guarded by the
// creation revision of its controller key, and what any broker writes by that
// of its registration, so that one which lost its lease without noticing
// writes nothing.
type session struct {
	renew func(context.Context, clientv3.LeaseID) error // tests replace it

	registered atomic.Bool               // Register has succeeded
	lastRenew  atomic.Pointer[time.Time] // when the last successful renewal was sent
	epoch      atomic.Int64              // creation revision of our registration, 0 without
	controller atomic.Int64              // creation revision of our controller key, 0 when not controller
	leaving    atomic.Bool               // SetLeaving was called: so do later registrations say

	busy       chan struct{} // capacity 1: held by Register, and by Close for good
	went       chan struct{} // closed when Register has succeeded
	collecting chan struct{} // capacity 1: held while leftovers are collected

	// Of Register, then of the goroutine that keepAlive runs in, then of Close.
	lease clientv3.LeaseID
}

// BrokerEpoch is the creation revision of this broker's registration, 0 when
// it has none: before Register, and from when its lease was lost until it has
// registered again.
func (s *Store) BrokerEpoch() int64 { return s.session.epoch.Load() }

// ControllerEpoch is the creation revision of the controller key that this
// broker created; ok is false when it is not controller. It may be another
// broker already: each write of a controller finds out.
func (s *Store) ControllerEpoch() (revision int64, ok bool) {
	rev := s.session.controller.Load()
	return rev, rev != 0
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
// lease is lost the broker registers again by itself, with a new epoch. In a
// cluster it waits as long as ctx does for etcd to have a leader.
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
	err := s.enter(ctx)
	for err != nil && ctx.Err() == nil && transient(err) && !s.srv.solitary() {
		s.log.Info("this broker cannot be registered yet, trying on", "broker", int32(s.cfg.BrokerID), "err", err)
		err = s.enter(ctx)
	}
	if err != nil {
		return fmt.Errorf("metastore: register broker %d: %w", s.cfg.BrokerID, err)
	}
	s.session.registered.Store(true)
	close(s.session.went)
	return nil
}

// enter registers this broker, and makes it controller if there is none.
func (s *Store) enter(ctx context.Context) error {
	if err := s.enlist(ctx); err != nil {
		return err
	}
	return s.campaign(ctx)
}

// enlist gets a lease and writes the registration under it.
func (s *Store) enlist(ctx context.Context) error {
	s.session.controller.Store(0)
	key := brokerKey(s.cfg.BrokerID)
	if err := s.waitForID(ctx, key); err != nil {
		return err
	}
	begin := time.Now() // the lease runs from here at the earliest
	var grant *clientv3.LeaseGrantResponse
	_, err := try(ctx, s.srv, func(ctx context.Context) (err error) {
		begin = time.Now()
		grant, err = s.srv.cli.Grant(ctx, int64(s.cfg.LeaseTTL/time.Second))
		return err
	})
	if err != nil {
		return s.callError(err)
	}
	for range 3 {
		value := encodeBroker(Broker{
			Host: s.cfg.Host, Port: s.cfg.Port, HTTP: s.cfg.HTTP, Rack: s.cfg.Rack, StartedMs: begin.UnixMilli(),
			Disk: s.cfg.Disk, Cache: s.cfg.Cache, Leaving: s.session.leaving.Load(), Peer: s.peer(),
		})
		if err := s.evict(ctx, key); err != nil {
			return err
		}
		resp, err := s.txn(ctx, "register",
			[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)},
			[]clientv3.Op{clientv3.OpPut(key, string(value), clientv3.WithLease(grant.ID)), s.tellDeployment(grant.ID)},
			[]clientv3.Op{clientv3.OpGet(key)})
		if err != nil {
			return err
		}
		epoch, ok := created(resp, grant.ID)
		if ok {
			s.session.lease = grant.ID
			s.session.lastRenew.Store(&begin)
			s.session.epoch.Store(epoch)
			metricLeaseHeld.Set(1)
			return nil
		}
	}
	return fmt.Errorf("%w: broker %d is registered by somebody else again and again", ErrConflict, s.cfg.BrokerID)
}

// tellDeployment writes what the broker runs as beside its registration. It is
// a key of its own, which brokers of before leave alone.
func (s *Store) tellDeployment(lease clientv3.LeaseID) clientv3.Op {
	key := deploymentKey(s.cfg.BrokerID)
	if s.cfg.Deployment == "" {
		return clientv3.OpDelete(key)
	}
	return clientv3.OpPut(key, string(encodeDeployment(s.cfg.Deployment)), clientv3.WithLease(lease))
}

// created gives the creation revision of a key that a transaction made under
// a lease: in this attempt, or in one whose answer did not come.
func created(resp outcome, lease clientv3.LeaseID) (revision int64, ok bool) {
	if resp.Succeeded {
		return resp.Header.Revision, true
	}
	if !holdsLease(resp.TxnResponse, lease) {
		return 0, false
	}
	return first(resp.Responses[0].GetResponseRange().Kvs).CreateRevision, true
}

// peer is the address that the registration names.
func (s *Store) peer() string {
	if !s.cfg.Cluster.isMember() {
		return ""
	}
	return s.cfg.Cluster.Peer
}

// waitForID waits until no broker with another disk is registered under this
// one's id. One that dies loses its registration with its lease, if nobody
// revokes it before; one that lives renews its lease, and then the id is taken:
// ErrNodeID. Without disks to tell apart it is taken for an earlier run of
// this broker.
func (s *Store) waitForID(ctx context.Context, key string) error {
	said := false
	var seen leaseWatch
	for {
		kv, err := s.get(ctx, key)
		if err != nil || kv == nil || kv.Lease == 0 {
			return err
		}
		other, err := decodeBroker(kv.Value)
		if err != nil {
			return err
		}
		if other.Disk == s.cfg.Disk || other.Disk == "" || s.cfg.Disk == "" {
			return nil
		}
		var ttl *clientv3.LeaseTimeToLiveResponse
		if _, err = try(ctx, s.srv, func(ctx context.Context) (err error) {
			ttl, err = s.srv.cli.TimeToLive(ctx, clientv3.LeaseID(kv.Lease))
			return err
		}); err != nil {
			return s.callError(err)
		}
		addr := other.Addr()
		mine := Broker{Host: s.cfg.Host, Port: s.cfg.Port}.Addr() // at which this process may answer itself
		if renewed := seen.renewed(ttl.TTL, ttl.RaftTerm); renewed > 1 || renewed == 1 && addr != mine && reachable(ctx, addr) {
			return fmt.Errorf("%w: broker %d runs at %s with another data folder; give this one another --node-id, or stop that one",
				ErrNodeID, s.cfg.BrokerID, addr)
		}
		if !said {
			said = true
			s.log.Info("a broker with this node id and another data folder is registered: waiting until that ends, or shows that it lives",
				"broker", int32(s.cfg.BrokerID), "addr", addr, "seconds", ttl.TTL)
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// leaseWatch counts how often somebody else renews a lease.
type leaseWatch struct {
	term  uint64 // of etcd at the last look
	ttl   int64  // seconds, at the last look
	times int
}

// renewed takes in how long the lease has to live, in seconds, and gives how
// often it was renewed. Each new leader of etcd has leases begin anew, and
// members may hear of it one after the other: only within a term it is the
// lease's holder who does it.
func (w *leaseWatch) renewed(ttl int64, term uint64) int {
	switch {
	case term != w.term:
		w.times = 0
	case ttl > w.ttl:
		w.times++
	}
	w.ttl, w.term = ttl, term
	return w.times
}

// evict removes what an earlier run left at the broker's key, with its lease
// and all that hangs on it. The new key must be created, not overwritten: its
// creation revision is the broker's epoch.
func (s *Store) evict(ctx context.Context, key string) error {
	old, err := s.get(ctx, key)
	if err != nil || old == nil {
		return err
	}
	if old.Lease != 0 {
		if err := s.revoke(ctx, clientv3.LeaseID(old.Lease)); err != nil {
			return err
		}
	}
	_, err = s.txn(ctx, "evict",
		[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", old.ModRevision)},
		[]clientv3.Op{clientv3.OpDelete(key)}, nil)
	return err
}

// campaign makes this broker controller if nobody is. What an earlier one left
// half done is cleared away behind: an election does not wait for it.
func (s *Store) campaign(ctx context.Context) error {
	resp, err := s.txn(ctx, "campaign",
		[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(controllerKey), "=", 0)},
		[]clientv3.Op{clientv3.OpPut(controllerKey, string(encodeController(s.cfg.BrokerID)), clientv3.WithLease(s.session.lease))},
		[]clientv3.Op{clientv3.OpGet(controllerKey)})
	if err != nil {
		return err
	}
	epoch, ok := created(resp, s.session.lease)
	if !ok {
		return nil // another broker is; keepAlive tries again when it goes
	}
	s.session.controller.Store(epoch)
	metricController.Set(1)
	s.running.Go(func() { s.collect(epoch) })
	return nil
}

// collect clears leftovers away, again when it fails, for as long as this
// broker is the controller that it was at revision controller.
func (s *Store) collect(controller int64) {
	s.session.collecting <- struct{}{}
	defer func() { <-s.session.collecting }()
	for s.session.controller.Load() == controller {
		err := s.collectLeftovers(s.keeping, controller)
		if err == nil || s.keeping.Err() != nil {
			return
		}
		s.log.Warn("keys of unfinished topic changes could not be collected, trying again", "err", err)
		select {
		case <-time.After(collectPause):
		case <-s.keeping.Done():
			return
		}
	}
}

const collectPause = 5 * time.Second

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
	// A renewal that went to a leader which died is never answered: there must
	// be time for another one before the broker fences itself.
	renew, end := context.WithTimeout(ctx, min(s.cfg.LeaseTTL/6, firstAttempt))
	defer end()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.LeaseTTL/3)
	defer cancel()
	begin := time.Now()
	err := error(rpctypes.ErrLeaseNotFound)
	if s.session.lease != 0 {
		err = s.session.renew(renew, s.session.lease)
	}
	if err == nil && s.registrationGone() { // though the lease is alive
		if err := s.revoke(ctx, s.session.lease); err != nil {
			return err
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
	return s.session.lease != 0 && img.Revision >= s.session.epoch.Load() && !there
}

func (s *Store) forgetLease() {
	s.session.lease = 0
	s.session.epoch.Store(0)
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
		if img.Revision < mine || img.ControllerRevision == mine {
			return
		}
		s.session.controller.Store(0)
		metricController.Set(0)
		s.log.Warn("no longer controller", "broker", int32(s.cfg.BrokerID), "controller", int32(img.Controller))
	}
	if img.Controller != -1 {
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
	_, err := try(ctx, s.srv, func(ctx context.Context) error {
		_, err := s.srv.cli.Revoke(ctx, lease)
		return err
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		err = nil
	}
	if err != nil && s.cfg.Cluster != nil {
		s.log.Warn("the registration cannot be given back and runs out by itself", "broker", int32(s.cfg.BrokerID), "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("metastore: revoke lease of broker %d: %w", s.cfg.BrokerID, mapError(err))
	}
	return nil
}

// guard is a key of this broker's and the revision at which it created it. A
// transaction that compares it writes nothing when the broker is no longer
// what it was.
type guard struct {
	key      string
	revision int64
}

func (g guard) cmp() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(g.key), "=", g.revision)
}

// holds says whether kvs, what the key is now, still is the guard's.
func (g guard) holds(kvs []*mvccpb.KeyValue) bool {
	return len(kvs) == 1 && kvs[0].CreateRevision == g.revision
}

// lost is the error of a transaction whose guard failed. Upon its code clients
// look for another broker.
func (s *Store) lost(g guard) error {
	what := "no longer controller"
	if g.key != controllerKey {
		what = "no longer registered as it was: its lease was lost"
	}
	return fmt.Errorf("broker %d is %s: %w", s.cfg.BrokerID, what, kerr.NotController)
}

// asBroker guards what any broker may write.
func (s *Store) asBroker() (guard, error) {
	epoch := s.BrokerEpoch()
	if epoch == 0 {
		return guard{}, fmt.Errorf("metastore: broker %d is not registered (not yet, or its lease was lost): %w", s.cfg.BrokerID, kerr.NotController)
	}
	return guard{brokerKey(s.cfg.BrokerID), epoch}, nil
}

// brokerGuard compares that a broker has the registration of epoch, 0: none.
func brokerGuard(id record.BrokerID, epoch int64) clientv3.Cmp {
	return guard{brokerKey(id), epoch}.cmp()
}

// collectLeftovers deletes what a crash in the middle of creating a topic or
// of adding partitions left behind: keys of a topic without a topic key, and
// partitions beyond the topic's count. What looks so may be under way at
// another broker: that one finds its keys gone and begins anew.
func (s *Store) collectLeftovers(ctx context.Context, controller int64) error {
	st, err := load(ctx, s.srv)
	if err != nil {
		return err
	}
	keys := 0
	for id, ts := range st.topics {
		var ops []clientv3.Op
		n := ts.surplus()
		if n > 0 {
			from := partitionKey(id, record.PartitionID(ts.value.Partitions))
			ops = append(ops, clientv3.OpDelete(from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(partitionsOf(id)))))
		}
		if ts.revision == 0 && ts.configsRev != 0 {
			ops = append(ops, clientv3.OpDelete(configKey(id)))
			n++
		}
		if n == 0 {
			continue
		}
		asSeen := clientv3.Compare(clientv3.ModRevision(topicKey(id)), "=", ts.revision)
		ok, _, err := s.change(ctx, "collect", guard{controllerKey, controller}, []clientv3.Cmp{asSeen}, ops)
		if err != nil {
			return err
		}
		if ok { // or else the topic was finished or changed meanwhile
			keys += n
		}
	}
	if keys > 0 {
		metricLeftoverKeys.Add(keys)
		s.log.Info("collected keys of unfinished topic changes", "keys", keys)
	}
	return nil
}
