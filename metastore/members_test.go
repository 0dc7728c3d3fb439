package metastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/test/firntest"
	"github.com/twmb/franz-go/pkg/kerr"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// quick is a write that needs etcd's leader.
func quick(ctx context.Context, s *Store) error {
	_, err := s.AllocateProducerIDs(ctx, 1)
	return err
}

// etcd's leader dies: writes go on after the election, those under way
// included, and none is done twice or lost.
func TestLeaderDies(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	c.register(1, 2, 3)
	dead := c.leader()
	var rest []*Store
	for id, s := range c.stores {
		if id != dead {
			rest = append(rest, s)
		}
	}
	topic := create(t, rest[0], TopicSpec{Name: "a", Assignment: assign(1)})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	longest := make([]time.Duration, len(rest))
	for i, s := range rest {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				begin := time.Now()
				if _, err := s.SetTopicConfigs(ctx, topic.ID, func(m map[string]string) (map[string]string, error) {
					m[fmt.Sprintf("writes-%d", i)] += "x"
					return m, nil
				}); err != nil {
					t.Error(err)
					return
				}
				longest[i] = max(longest[i], time.Since(begin))
				if n > 2000 {
					return
				}
			}
		})
	}
	time.Sleep(100 * time.Millisecond) // any moment will do
	c.kill(dead)
	killed := time.Now()
	for _, s := range rest {
		if err := quick(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("a write by each of the others is done %v after the kill", time.Since(killed))
	close(stop)
	wg.Wait()
	t.Logf("the longest writes took %v", longest)
	c.same()
	// The dead one's registration runs out, or is revoked by who knows.
	epoch := rest[0].Image().Brokers[dead].Epoch
	if err := rest[0].RevokeRegistration(ctx, dead, epoch); err != nil {
		t.Fatal(err)
	}
	for _, s := range rest {
		until(t, s, "it is gone, and there is a controller", func(img *Image) bool {
			_, there := img.Brokers[dead]
			return !there && img.Controller != dead && img.Controller >= 0
		})
	}
	c.open(dead) // on its folder, as it is
	c.register(dead)
	c.voters(1, 2, 3)
	c.same()
}

// A member that lost its disk comes back as itself, with a learner's way in;
// it never votes as if it still knew what it had promised.
func TestDiskLoss(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	c.register(1, 2, 3)
	create(t, c.stores[1], TopicSpec{Name: "a", Assignment: assign(3000)})
	for _, lost := range []record.BrokerID{c.leader(), 2} {
		old := memberID(t, c, lost)
		c.kill(lost)
		c.lose(lost)
		cfg := c.cfgs[lost]
		cfg.Disk += "-new"
		c.cfgs[lost] = cfg
		c.open(lost)
		c.voters(1, 2, 3)
		if now := memberID(t, c, lost); now == old {
			t.Fatalf("broker %d votes as the member that it was", lost)
		}
		// Its registration of the old disk is gone by somebody's revocation.
		for id, s := range c.stores {
			if id != lost {
				if err := s.RevokeRegistration(ctx, lost, s.Image().Brokers[lost].Epoch); err != nil {
					t.Fatal(err)
				}
				break
			}
		}
		c.register(lost)
		if err := quick(ctx, c.stores[lost]); err != nil {
			t.Fatal(err)
		}
		c.same()
	}
	if img := c.stores[2].Image(); img.Partitions != 3000 {
		t.Fatalf("%d partitions", img.Partitions)
	}
}

// A broker that was killed while it joined does not wait for itself when it is
// started again, however long its lease lives on; for another one it waits.
func TestJoinAfterJoin(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	c.kill(3)
	c.lose(3)
	cli := c.stores[1].srv.cli
	lock := func(peer string) (id clientv3.LeaseID) {
		if _, err := try(ctx, c.stores[1].srv, func(ctx context.Context) error { // the one that died may have been etcd's leader
			lease, err := cli.Grant(ctx, 3600)
			if err == nil {
				id = lease.ID
				_, err = cli.Put(ctx, joinKey, peer, clientv3.WithLease(id))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	other := lock(c.cfgs[2].Cluster.Peer)
	waits, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if s, err := Open(waits, c.cfgs[3], quiet); err == nil {
		c.stores[3] = s
		t.Fatal("two brokers joined at the same time")
	}
	if _, err := cli.Revoke(ctx, other); err != nil {
		t.Fatal(err)
	}
	lock(c.cfgs[3].Cluster.Peer)
	c.open(3)
	c.voters(1, 2, 3)
	resp, err := cli.Get(ctx, joinKey)
	if err != nil || len(resp.Kvs) != 0 {
		t.Fatalf("the lock is left: %v, %v", resp, err)
	}
}

// While etcd has no leader, a broker that is to join and one that is to be
// registered wait for it, however long that takes.
func TestStartWaitsForLeader(t *testing.T) {
	for _, p := range []*time.Duration{&tryFor, &longAttempt} { // else it takes a minute
		old := *p
		*p = 300 * time.Millisecond
		t.Cleanup(func() { *p = old }) // after the stores have ended
	}
	ctx := testCtx(t)
	c := newCluster(t, 3)
	c.prepare(4, "", c.cfgs[1].Cluster.Seeds)
	c.open(1, 2, 3, 4)
	c.kill(1)
	c.lose(1)
	c.kill(2)
	for c.stores[3].Quorum().Leader > 0 {
		time.Sleep(10 * time.Millisecond)
		if ctx.Err() != nil {
			t.Fatal("one member of three has a leader")
		}
	}
	registered, joined := make(chan error, 1), make(chan error, 1)
	go func() { registered <- c.stores[4].Register(ctx) }()
	go func() {
		s, err := Open(ctx, c.cfgs[1], quiet)
		if err == nil {
			s.die()
		}
		joined <- err
	}()
	select {
	case err := <-registered:
		t.Fatalf("registered by whom? %v", err)
	case err := <-joined:
		t.Fatalf("joined whom? %v", err)
	case <-time.After(5 * tryFor):
	}
	c.open(2)
	if err := <-registered; err != nil {
		t.Error(err)
	}
	if err := <-joined; err != nil {
		t.Error(err)
	}
}

func memberID(t *testing.T, c *testCluster, id record.BrokerID) uint64 {
	t.Helper()
	for _, s := range c.stores {
		all, err := s.Members(testCtx(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if m.Broker == id {
				return m.ID
			}
		}
	}
	t.Fatalf("broker %d has no member", id)
	return 0
}

// A member that is removed deletes its folder, both when it runs and when it
// starts later, and does not come back uninvited.
func TestRemoveMember(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	c.register(1, 2, 3)
	peer := func(id record.BrokerID) string { return c.cfgs[id].Cluster.Peer }
	if err := c.stores[1].RemoveMember(ctx, "127.0.0.1:1"); !errors.Is(err, ErrConflict) {
		t.Fatalf("removed nobody: %v", err)
	}
	if err := c.stores[1].RemoveMember(ctx, peer(3)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.stores[3].Done():
	case <-ctx.Done():
		t.Fatal("the removed member goes on")
	}
	if err := c.stores[3].Err(); !errors.Is(err, ErrRemoved) {
		t.Fatalf("it stopped with %v", err)
	}
	c.stores[3].Close(ctx)
	delete(c.stores, 3)
	gone := func(id record.BrokerID) {
		t.Helper()
		for _, name := range []string{"etcd", noteName} {
			if _, err := os.Stat(filepath.Join(c.cfgs[id].Dir, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s of broker %d: %v", name, id, err)
			}
		}
	}
	gone(3)
	c.voters(1, 2)
	if _, err := Open(ctx, c.cfgs[3], quiet); !errors.Is(err, ErrRemoved) {
		t.Fatalf("it came back: %v", err)
	}
	if err := c.stores[2].AddMember(ctx, peer(3)); err != nil {
		t.Fatal(err)
	}
	c.open(3)
	c.voters(1, 2, 3)
	c.register(3)

	// While it is down it is removed and let in again: it joins when it starts.
	old := memberID(t, c, 3)
	c.kill(3)
	if err := errors.Join(c.stores[2].RemoveMember(ctx, peer(3)), c.stores[2].AddMember(ctx, peer(3))); err != nil {
		t.Fatal(err)
	}
	c.open(3)
	c.voters(1, 2, 3)
	if memberID(t, c, 3) == old {
		t.Error("the member that was removed is there")
	}

	// The same while it is down; then only itself can go.
	c.kill(3)
	if err := c.stores[1].RemoveMember(ctx, peer(2)); !errors.Is(err, ErrQuorum) {
		t.Fatalf("one of the two that are left: %v", err)
	}
	if err := c.stores[2].RemoveMember(ctx, peer(3)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, c.cfgs[3], quiet); !errors.Is(err, ErrRemoved) {
		t.Fatalf("it came back: %v", err)
	}
	gone(3)
	// As a client it may go on.
	cfg := c.cfgs[3]
	client := *cfg.Cluster
	client.Peer = ""
	cfg.Cluster = &client
	c.cfgs[3] = cfg
	c.open(3)
	c.same()
	if err := c.stores[1].RemoveMember(ctx, peer(2)); err != nil {
		t.Fatal(err)
	}
	if err := c.stores[1].RemoveMember(ctx, peer(1)); !errors.Is(err, ErrQuorum) {
		t.Fatalf("the last one: %v", err)
	}
}

// Of several that believe to be controller only one writes.
func TestOneController(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	c.register(1, 2, 3)
	img := until(t, c.stores[1], "a controller", func(img *Image) bool { return img.Controller > 0 })
	old := img.Controller
	zombie := c.stores[old]
	epoch, _ := zombie.ControllerEpoch()
	topic := create(t, zombie, TopicSpec{Name: "a", Assignment: assign(1)})
	for id, s := range c.stores {
		if id == old {
			continue
		}
		if _, ok := s.ControllerEpoch(); ok {
			t.Fatalf("brokers %d and %d are controllers", id, old)
		}
	}
	// It loses its lease without noticing.
	zombie.endKeeping()
	<-zombie.sessionDone
	if err := c.stores[old%3+1].RevokeRegistration(ctx, old, img.Brokers[old].Epoch); err != nil {
		t.Fatal(err)
	}
	img = until(t, c.stores[old%3+1], "another controller", func(img *Image) bool { return img.Controller > 0 && img.Controller != old })
	p := topic.Partitions[0]
	p.Epoch++
	if now, ok := zombie.ControllerEpoch(); !ok || now != epoch {
		t.Fatal("the test's zombie has noticed")
	}
	if _, err := zombie.Lead(ctx, epoch, []PartitionChange{{topic.ID, p}}); !errors.Is(err, kerr.NotController) {
		t.Fatalf("the zombie's election: %v", err)
	}
	if _, err := zombie.SetTopicConfigs(ctx, topic.ID, func(map[string]string) (map[string]string, error) { return map[string]string{"a": "b"}, nil }); !errors.Is(err, kerr.NotController) {
		t.Fatalf("the zombie's config: %v", err)
	}
	heir := c.stores[img.Controller]
	now, ok := heir.ControllerEpoch()
	if !ok || now != img.ControllerRevision {
		t.Fatalf("broker %d is controller at %d %v, the image says %d", img.Controller, now, ok, img.ControllerRevision)
	}
	revisions, err := heir.Lead(ctx, now, []PartitionChange{{topic.ID, p}})
	if err != nil || revisions[0] == 0 {
		t.Fatal(revisions, err)
	}
}

// cut separates a member from the others, or joins it with them again.
func (c *testCluster) cut(id record.BrokerID, mend bool) {
	self := c.stores[id].srv.etcd.Server
	for other, s := range c.stores {
		if other == id || s.srv.etcd == nil {
			continue
		}
		peer := s.srv.etcd.Server
		if mend {
			self.MendPeer(peer.MemberID())
			peer.MendPeer(self.MemberID())
		} else {
			self.CutPeer(peer.MemberID())
			peer.CutPeer(self.MemberID())
		}
	}
}

// etcd's leader is cut off from the other members, but not from clients: those
// go to the others, it fences itself, and catches up when it is back.
func TestLeaderIsCutOff(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	for id, cfg := range c.cfgs {
		cfg.LeaseTTL = 2 * time.Second
		c.cfgs[id] = cfg
	}
	c.open(1, 2, 3)
	c.prepare(4, "", c.cfgs[1].Cluster.Seeds)
	c.open(4)
	c.register(1, 2, 3, 4)
	topic := create(t, c.stores[4], TopicSpec{Name: "a", Assignment: assign(1)})
	gone := c.leader()
	alone := c.stores[gone]
	c.cut(gone, false)
	var last int64
	for i := range 20 { // through whichever member the client has
		rev, err := c.stores[4].SetTopicConfigs(ctx, topic.ID, func(m map[string]string) (map[string]string, error) {
			m[fmt.Sprint(i)] = "x"
			return m, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, c.stores[4], rev)
		last = rev
	}
	for !alone.Fenced() {
		time.Sleep(10 * time.Millisecond)
		if ctx.Err() != nil {
			t.Fatal("it does not fence itself")
		}
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := alone.WaitFor(short, last); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("what it was not told is there: %v", err)
	}
	if err := quick(short, alone); err == nil {
		t.Fatal("a write without the others")
	}
	until(t, c.stores[4], "its registration has run out", func(img *Image) bool {
		_, there := img.Brokers[gone]
		return !there
	})
	c.cut(gone, true)
	waitFor(t, alone, last)
	until(t, alone, "it is registered again", func(img *Image) bool { return img.Brokers[gone].Epoch > last })
	for alone.BrokerEpoch() == 0 { // the answer may come after the image
		time.Sleep(10 * time.Millisecond)
		if ctx.Err() != nil {
			t.Fatal("it does not know of its registration")
		}
	}
	for alone.Fenced() {
		time.Sleep(10 * time.Millisecond)
		if ctx.Err() != nil {
			t.Fatal("it is still fenced")
		}
	}
	c.same()
}

// A client goes on whichever member dies, and each member comes back.
func TestMembersDieInTurn(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	c.prepare(4, "", c.cfgs[1].Cluster.Seeds)
	c.open(4)
	c.register(4)
	client := c.stores[4]
	for id := range record.BrokerID(3) {
		c.kill(id + 1)
		create(t, client, TopicSpec{Name: fmt.Sprintf("without-%d", id+1), Assignment: assign(2)})
		if q := client.Quorum(); !slices.Equal(q.Voters, []record.BrokerID{1, 2, 3}) {
			t.Errorf("voters %v", q.Voters)
		}
		all, err := client.Health(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if (m.Err != nil) != (m.Broker == id+1) {
				t.Errorf("with broker %d dead, health is %+v", id+1, m)
			}
		}
		c.open(id + 1)
	}
	c.voters(1, 2, 3)
	c.same()
}

// The members' files are rewritten one after the other, never that of etcd's
// leader, and none while another member is not well.
func TestDefragmentCluster(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	leader := c.leader()
	var asked []record.BrokerID
	only := func(id record.BrokerID) func(*MemberHealth) bool {
		return func(m *MemberHealth) bool {
			asked = append(asked, m.Broker)
			return m.Broker == id
		}
	}
	for id := range c.stores {
		done, err := c.stores[leader].defragmentOne(ctx, only(id))
		if err != nil || done != (id != leader) {
			t.Fatalf("broker %d of leader %d: %v, %v", id, leader, done, err)
		}
		if id == leader {
			now := c.leader()
			if now == id {
				t.Fatal("it did not hand over")
			}
			if done, err := c.stores[now].defragmentOne(ctx, only(id)); err != nil || !done {
				t.Fatalf("by the new leader: %v, %v", done, err)
			}
			break // the old one leads no longer
		}
	}
	leader = c.leader()
	dead := leader%3 + 1
	c.kill(dead)
	asked = nil
	if done, err := c.stores[leader].defragmentOne(ctx, only((leader+1)%3+1)); err != nil || done {
		t.Fatalf("with a dead member: %v, %v", done, err)
	}
	c.open(dead)
}

// A broker on its own becomes a cluster by being started with seeds, with all
// that it had; and a member may move to another address.
func TestGrow(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	alone := c.cfgs[1]
	alone.Cluster = nil
	s, err := Open(ctx, alone, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Register(ctx); err != nil {
		t.Fatal(err)
	}
	create(t, s, TopicSpec{Name: "a", Assignment: assign(3)})
	id := s.Image().ClusterID
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	c.open(1)
	c.open(2)
	c.open(3)
	c.register(1, 2, 3)
	c.voters(1, 2, 3)
	c.same()
	if img := c.stores[3].Image(); img.ClusterID != id || img.Partitions != 3 {
		t.Fatalf("cluster %s, was %s; %d partitions", img.ClusterID, id, img.Partitions)
	}

	c.close(3)
	moved := firntest.FreePort(t)
	for id, cfg := range c.cfgs {
		cl := *cfg.Cluster
		cl.Seeds = append(slices.Clone(cl.Seeds[:2]), moved)
		if id == 3 {
			cl.Peer = moved
		}
		cfg.Cluster = &cl
		c.cfgs[id] = cfg
	}
	c.open(3)
	all, err := c.stores[1].Members(ctx)
	if err != nil || !slices.ContainsFunc(all, func(m Member) bool { return m.Broker == 3 && m.Peer == moved && !m.Learner }) {
		t.Fatalf("%+v, %v", all, err)
	}
	c.close(1)
	c.open(1)
	c.voters(1, 2, 3)
	c.same()
}

// relay passes connections on to an address until it freezes: then it takes
// bytes from nobody any more, as a process that is stopped.
type relay struct {
	ln     net.Listener
	frozen chan struct{}
}

func newRelay(t *testing.T, to string) *relay {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{ln, make(chan struct{})}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := []net.Conn{}
	pass := func(to, from net.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := from.Read(buf)
			select {
			case <-r.frozen:
				return
			default:
			}
			if err != nil {
				to.Close()
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, in, out)
			mu.Unlock()
			wg.Go(func() { pass(out, in) })
			wg.Go(func() { pass(in, out) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return r
}

// The member that a client watches hangs without closing anything: the client
// goes on with another one.
func TestMemberHangs(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	hangs := newRelay(t, c.cfgs[2].Cluster.Client)
	c.prepare(4, "", c.cfgs[1].Cluster.Seeds)
	cfg := c.cfgs[4]
	cfg.observeEvery = time.Hour // the test says where members are
	c.cfgs[4] = cfg
	c.open(4)
	client := c.stores[4]
	for client.seen.Load() == nil { // its first look at where members are
		time.Sleep(time.Millisecond)
		if ctx.Err() != nil {
			t.Fatal("it does not look at the members")
		}
	}
	client.srv.cli.SetEndpoints("http://" + hangs.ln.Addr().String())
	for id := range record.BrokerID(3) { // streams of older connections end with their members
		c.close(id + 1)
		c.open(id + 1)
	}
	c.register(1)
	for create(t, c.stores[1], TopicSpec{Name: "a", Assignment: assign(1)}); client.Image().Topics["a"] == nil; time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatal("no watch over the one member")
		}
	}
	client.srv.cli.SetEndpoints("http://"+hangs.ln.Addr().String(), peerURL(c.cfgs[3].Cluster.Client))
	before := metricWatchStalls.Get()
	close(hangs.frozen)
	for i := range 5 {
		topic := create(t, c.stores[1], TopicSpec{Name: fmt.Sprintf("b-%d", i), Assignment: assign(1)})
		waitFor(t, client, topic.Revision)
		if err := quick(ctx, client); err != nil {
			t.Fatal(err)
		}
	}
	if metricWatchStalls.Get() == before {
		t.Fatal("the watch was not on the member that hangs")
	}
}

// A cluster whose database is full makes room by itself, member after member,
// and takes writes again.
func TestQuotaOfCluster(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	for id, cfg := range c.cfgs {
		cfg.QuotaBytes = minQuotaBytes
		c.cfgs[id] = cfg
	}
	c.open(1, 2, 3)
	c.register(1, 2, 3)
	s := c.stores[1]
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	value := bytes.Repeat([]byte{1}, MaxTierPointer)
	rev := int64(0)
	full := false
	for i := 0; ; i++ {
		next, err := s.CommitTierPointer(ctx, topic.ID, 0, rev, 0, value)
		switch {
		case err == nil:
			rev = next
		case errors.Is(err, ErrNoSpace):
			full = true
			time.Sleep(10 * time.Millisecond)
		case full && errors.Is(err, ErrConflict): // the one before was written, and its answer lost
			p, err := s.TierPointer(ctx, topic.ID, 0)
			if err != nil {
				t.Fatal(err)
			}
			rev = p.Revision
		default:
			t.Fatal(err)
		}
		if full && err == nil {
			break
		}
		if i > 100*minQuotaBytes/MaxTierPointer {
			t.Fatal("the quota was never reached, or never left")
		}
	}
	c.voters(1, 2, 3)
	c.same()
}

// The copy of a member's folder is opened without the others.
func TestCopyOfMember(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	c.register(1)
	create(t, c.stores[1], TopicSpec{Name: "a", Assignment: assign(3)})
	c.same()
	want := c.stores[2].Image()
	c.kill(2)
	cfg := testConfig(t.TempDir())
	cfg.Copy = true
	if err := os.CopyFS(cfg.Dir, os.DirFS(c.cfgs[2].Dir)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a copy may be opened again
		s, err := Open(ctx, cfg, quiet)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Image(); got.ClusterID != want.ClusterID || got.Partitions != 3 {
			t.Errorf("cluster %s with %d partitions, want %s", got.ClusterID, got.Partitions, want.ClusterID)
		}
		if err := s.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c.open(2)
	c.voters(1, 2, 3)
}
