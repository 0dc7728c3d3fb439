package metastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/test/firntest"
	"github.com/twmb/franz-go/pkg/kerr"
	"go.uber.org/goleak"
)

// bucket is a Claim in memory.
type bucket struct {
	mu     sync.Mutex
	values map[string][]byte
	hook   func(name string) error // called before each put
}

func (b *bucket) PutIfAbsent(ctx context.Context, name string, value []byte) ([]byte, error) {
	b.mu.Lock()
	hook := b.hook
	b.mu.Unlock()
	if hook != nil {
		if err := hook(name); err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if was, ok := b.values[name]; ok {
		return was, nil
	}
	if b.values == nil {
		b.values = map[string][]byte{}
	}
	b.values[name] = value
	return nil, ctx.Err()
}

func (b *bucket) Get(ctx context.Context, name string) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.values[name], ctx.Err()
}

func (b *bucket) has(name string) bool {
	v, _ := b.Get(context.Background(), name)
	return v != nil
}

// testCluster is brokers in one process, on loopback addresses.
type testCluster struct {
	t      testing.TB
	claim  *bucket
	cfgs   map[record.BrokerID]Config
	stores map[record.BrokerID]*Store
}

// newCluster prepares brokers 1 to members, all of them seeds.
func newCluster(t testing.TB, members int) *testCluster {
	c := &testCluster{t: t, claim: &bucket{}, cfgs: map[record.BrokerID]Config{}, stores: map[record.BrokerID]*Store{}}
	var seeds []string
	for range members {
		seeds = append(seeds, firntest.FreePort(t))
	}
	for i, peer := range seeds {
		c.prepare(record.BrokerID(i+1), peer, seeds)
	}
	t.Cleanup(func() {
		// Together: the last members alone would have no leader to tell.
		var wg sync.WaitGroup
		for _, s := range c.stores {
			wg.Go(func() { s.Close(context.Background()) })
		}
		wg.Wait()
	})
	return c
}

func (c *testCluster) prepare(id record.BrokerID, peer string, seeds []string) {
	cfg := testConfig(filepath.Join(c.t.TempDir(), "etcd"))
	cfg.BrokerID, cfg.Disk = id, fmt.Sprintf("disk-%d", id)
	cfg.observeEvery = 100 * time.Millisecond
	cfg.Cluster = &Cluster{Seeds: seeds, Peer: peer, Claim: c.claim}
	if peer != "" {
		cfg.Cluster.Client = firntest.FreePort(c.t)
	}
	c.cfgs[id] = cfg
}

// open opens stores at the same time and fails the test when one does not.
func (c *testCluster) open(ids ...record.BrokerID) {
	c.t.Helper()
	errs := make([]error, len(ids))
	stores := make([]*Store, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { stores[i], errs[i] = Open(testCtx(c.t), c.cfgs[id], quiet) })
	}
	wg.Wait()
	for i, id := range ids {
		if stores[i] != nil {
			c.stores[id] = stores[i]
		}
		if errs[i] != nil {
			c.t.Errorf("broker %d: %v", id, errs[i])
		}
	}
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// ids are the brokers that are prepared.
func (c *testCluster) ids() []record.BrokerID { return slices.Sorted(maps.Keys(c.cfgs)) }

func (c *testCluster) register(ids ...record.BrokerID) {
	c.t.Helper()
	for _, id := range ids {
		if err := c.stores[id].Register(testCtx(c.t)); err != nil {
			c.t.Fatalf("broker %d: %v", id, err)
		}
	}
}

func (c *testCluster) close(id record.BrokerID) {
	c.t.Helper()
	begin := time.Now()
	if err := c.stores[id].Close(testCtx(c.t)); err != nil {
		c.t.Errorf("broker %d: %v", id, err)
	}
	c.t.Logf("broker %d: closed in %v", id, time.Since(begin))
	delete(c.stores, id)
}

// kill ends a store as the death of its process would: nothing is handed over
// and nothing given back.
func (c *testCluster) kill(id record.BrokerID) {
	s := c.stores[id]
	delete(c.stores, id)
	s.die()
}

// die ends a store without any grace.
func (s *Store) die() {
	s.closing.Do(func() {
		close(s.closed)
		s.endKeeping()
		for _, p := range s.srv.etcd.Peers {
			p.Listener.Close()
		}
		s.srv.etcd.Server.HardStop()
		<-s.sessionDone
		s.stop()
		s.running.Wait()
		s.srv.close()
		close(s.stopped)
	})
}

// lose deletes a broker's folder.
func (c *testCluster) lose(id record.BrokerID) {
	c.t.Helper()
	if err := os.RemoveAll(c.cfgs[id].Dir); err != nil {
		c.t.Fatal(err)
	}
}

// leader is the broker that has etcd's leader.
func (c *testCluster) leader() record.BrokerID {
	c.t.Helper()
	ctx := testCtx(c.t)
	for {
		for id, s := range c.stores {
			if s.srv.etcd != nil && s.leads() {
				return id
			}
		}
		select {
		case <-ctx.Done():
			c.t.Fatal("no leader")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// same checks that all stores have the same image at last.
func (c *testCluster) same() {
	c.t.Helper()
	for _, s := range c.stores {
		sameAsLoaded(c.t, s)
	}
}

// voters waits until the cluster has those voters and no learner.
func (c *testCluster) voters(want ...record.BrokerID) {
	c.t.Helper()
	ctx := testCtx(c.t)
	for id, s := range c.stores {
		for {
			q := s.Quorum()
			if slices.Equal(q.Voters, want) && len(q.Learners) == 0 && q.Leader > 0 {
				break
			}
			select {
			case <-ctx.Done():
				c.t.Fatalf("broker %d sees %+v, want voters %v", id, q, want)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// Three brokers form a cluster, a fourth is a client of it, each of them reads
// and writes the same, and all of it is there after a restart.
func TestCluster(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		// Connections between members end with a read that times out after 5 s.
		ctx := testCtx(t)
		for goleak.Find(before) != nil && ctx.Err() == nil {
		}
		goleak.VerifyNone(t, before)
	})
	ctx := testCtx(t)
	c := newCluster(t, 3)
	begin := time.Now()
	c.open(1, 2, 3)
	t.Logf("formed in %v", time.Since(begin))
	if !c.claim.has(claimName) || !c.claim.has(formedName) {
		t.Fatal("the object store does not say that the cluster is formed")
	}
	c.prepare(4, "", c.cfgs[1].Cluster.Seeds)
	c.open(4)
	c.register(1, 2, 3, 4)
	cluster := c.stores[1].Image().ClusterID
	for id, s := range c.stores {
		img := until(t, s, "all are registered", func(img *Image) bool { return len(img.Brokers) == 4 && img.Controller >= 0 })
		if img.ClusterID != cluster {
			t.Errorf("broker %d is in cluster %s, broker 1 in %s", id, img.ClusterID, cluster)
		}
		if img.Brokers[id].Epoch != s.BrokerEpoch() || img.Brokers[id].Disk != c.cfgs[id].Disk || img.Brokers[id].Peer != c.cfgs[id].Cluster.Peer {
			t.Errorf("registration %+v", img.Brokers[id])
		}
	}
	c.voters(1, 2, 3)
	for id, s := range c.stores {
		topic := create(t, s, TopicSpec{Name: fmt.Sprintf("by-%d", id), Assignment: [][]record.BrokerID{{1, 2, 3}}})
		if _, err := s.CommitTierPointer(ctx, topic.ID, 0, 0, 0, []byte("x")); err != nil {
			t.Errorf("broker %d: %v", id, err)
		}
		if _, err := s.AllocateProducerIDs(ctx, 10); err != nil {
			t.Errorf("broker %d: %v", id, err)
		}
		all, err := s.Health(ctx)
		if err != nil || len(all) != 3 {
			t.Fatalf("broker %d: %+v, %v", id, all, err)
		}
		leaders := 0
		for _, m := range all {
			if m.Err != nil || m.DBBytes == 0 || m.Revision == 0 || m.Term == 0 || m.Peer != c.cfgs[m.Broker].Cluster.Peer || m.Client != c.cfgs[m.Broker].Cluster.Client {
				t.Errorf("broker %d sees %+v", id, m)
			}
			if m.Leader {
				leaders++
			}
		}
		if leaders != 1 {
			t.Errorf("broker %d sees %d leaders", id, leaders)
		}
	}
	c.same()
	img := c.stores[4].Image()
	if len(img.Topics) != 4 || img.Partitions != 4 {
		t.Fatalf("%d topics", len(img.Topics))
	}
	if _, ok := c.stores[img.Controller].ControllerEpoch(); !ok {
		t.Fatalf("broker %d does not know that it is controller", img.Controller)
	}

	c.close(4)
	for _, id := range []record.BrokerID{1, 2, 3} {
		c.close(id)
	}
	c.open(1, 2, 3)
	c.open(4)
	c.register(4, 1)
	c.same()
	if got := c.stores[2].Image(); len(got.Topics) != 4 || got.ClusterID != cluster {
		t.Fatalf("after a restart: %+v", got)
	}
}

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

	// The same while it is down.
	c.kill(3)
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
	if err := c.stores[1].RemoveMember(ctx, peer(1)); !errors.Is(err, ErrConflict) {
		t.Fatalf("the last one: %v", err)
	}
}

// Forming is ended anywhere and begun again by some of the members: they find
// together, and what the first one did is not lost.
func TestFormingInterrupted(t *testing.T) {
	c := newCluster(t, 3)
	for i := range 6 { // alone or two of them, for ever longer
		ctx, cancel := context.WithTimeout(testCtx(t), time.Duration(100+150*i)*time.Millisecond)
		var wg sync.WaitGroup
		for _, id := range []record.BrokerID{record.BrokerID(i%3 + 1), record.BrokerID((i+1)%3 + 1)}[:1+i%2] {
			wg.Go(func() {
				s, err := Open(ctx, c.cfgs[id], Deps{Log: slog.New(slog.DiscardHandler)})
				if err == nil {
					s.Close(context.Background())
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("broker %d, attempt %d: %v", id, i, err)
				}
			})
		}
		wg.Wait()
		cancel()
	}
	c.open(1, 2, 3)
	c.register(1, 2, 3)
	c.voters(1, 2, 3)
	c.same()
}

// Nobody is told that the cluster is there before all can know it: while the
// object store does not take the last note, no Open returns.
func TestFormedIsNoted(t *testing.T) {
	c := newCluster(t, 3)
	boom := errors.New("the bucket is away")
	c.claim.hook = func(name string) error {
		if name == formedName {
			return boom
		}
		return nil
	}
	var wg sync.WaitGroup
	var booms atomic.Int64
	ctx, cancel := context.WithTimeout(testCtx(t), 3*time.Second) // for the last one, which has no leader
	defer cancel()
	for _, id := range []record.BrokerID{1, 2, 3} {
		wg.Go(func() {
			s, err := Open(ctx, c.cfgs[id], Deps{Log: slog.New(slog.DiscardHandler)})
			if err == nil {
				s.Close(context.Background())
				t.Errorf("broker %d is open", id)
			}
			if errors.Is(err, boom) {
				booms.Add(1)
			}
		})
	}
	wg.Wait()
	if booms.Load() == 0 {
		t.Fatal("nobody tried to note that the cluster is formed")
	}
	c.claim.mu.Lock()
	c.claim.hook = nil
	c.claim.mu.Unlock()
	c.open(1, 2, 3)
	// From now on the store is not needed for a restart.
	c.claim.mu.Lock()
	c.claim.values = nil
	c.claim.hook = func(string) error { return boom }
	c.claim.mu.Unlock()
	for _, id := range []record.BrokerID{1, 2, 3} {
		c.close(id)
	}
	c.open(1, 2, 3)
}

// Bad input is refused with what to do.
func TestClusterRefuses(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	seeds := c.cfgs[1].Cluster.Seeds
	for what, cl := range map[string]Cluster{
		"two seeds":    {Seeds: seeds[:2], Claim: c.claim},
		"no seeds":     {Claim: c.claim},
		"twice":        {Seeds: []string{seeds[0], seeds[1], seeds[0]}, Claim: c.claim},
		"no claim":     {Seeds: seeds},
		"bad seed":     {Seeds: []string{"host"}, Claim: c.claim},
		"any address":  {Seeds: []string{"0.0.0.0:2380"}, Claim: c.claim},
		"port 0":       {Seeds: seeds, Peer: "127.0.0.1:0", Claim: c.claim},
		"same address": {Seeds: seeds, Peer: seeds[0], Client: seeds[0], Claim: c.claim},
	} {
		cfg := testConfig(t.TempDir())
		cfg.Cluster = &cl
		if s, err := Open(ctx, cfg, quiet); err == nil {
			s.Close(ctx)
			t.Errorf("%s: opened", what)
		}
	}
	c.open(1, 2, 3)
	c.register(1, 2, 3)
	refuse := func(what string, cfg Config, want error, hint string) {
		t.Helper()
		s, err := Open(ctx, cfg, quiet)
		if err == nil {
			s.Close(ctx)
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The default client address is the port below the peer's.
	cl := Cluster{Seeds: seeds, Peer: "127.0.0.1:2380", Claim: c.claim}
	if err := cl.check(); err != nil || cl.Client != "127.0.0.1:2379" {
		t.Errorf("client address %q, %v", cl.Client, err)
	}

	c.close(3)
	cfg := c.cfgs[3]
	cfg.Cluster = nil
	refuse("a member's folder without a cluster", cfg, ErrOtherCluster, "seeds")
	other := *c.cfgs[3].Cluster
	other.Peer = firntest.FreePort(t)
	cfg.Cluster = &other
	refuse("a member's folder of a client", cfg, ErrSeeds, "name it among them")

	// Another cluster's folder or bucket.
	stranger := newCluster(t, 1)
	stranger.open(1)
	stranger.close(1)
	mixed := c.cfgs[3]
	wrong := *mixed.Cluster
	wrong.Claim = stranger.claim
	mixed.Cluster, mixed.Dir = &wrong, t.TempDir()
	refuse("another cluster's bucket", mixed, ErrOtherCluster, "--store")
	stranger.lose(1)
	refuse("the only member's disk is lost", stranger.cfgs[1], ErrOtherCluster, "restore it")

	// A node id that a running broker has.
	c.prepare(9, "", seeds)
	twin := c.cfgs[9]
	twin.BrokerID = 2
	s, err := Open(ctx, twin, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	if err := s.Register(ctx); !errors.Is(err, ErrNodeID) || !strings.Contains(err.Error(), "127.0.0.1:9092") {
		t.Errorf("the id of a live broker: %v", err)
	}
	// A member cannot take another's place either.
	thief := c.cfgs[3]
	thief.BrokerID, thief.Dir = 2, t.TempDir()
	refuse("the id of a live member", thief, ErrNodeID, "--node-id")
	c.open(3)
	c.voters(1, 2, 3)
}

// A cluster that is being formed with other seeds is not joined.
func TestOtherSeeds(t *testing.T) {
	c := newCluster(t, 3)
	ctx, cancel := context.WithTimeout(testCtx(t), 300*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, c.cfgs[1], Deps{Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	cfg := c.cfgs[2]
	other := *cfg.Cluster
	other.Seeds = []string{other.Peer}
	cfg.Cluster = &other
	if _, err := Open(testCtx(t), cfg, quiet); !errors.Is(err, ErrSeeds) || !strings.Contains(err.Error(), c.cfgs[1].Cluster.Peer) {
		t.Fatal(err)
	}
}

// A broker that dies with another disk under its name loses its registration
// with its lease: the new one waits for that.
func TestDeadNodeID(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 1)
	c.open(1)
	c.prepare(2, "", c.cfgs[1].Cluster.Seeds)
	cfg := c.cfgs[2]
	cfg.LeaseTTL = minLeaseTTL
	c.cfgs[2] = cfg
	c.open(2)
	c.register(1, 2)
	dead := c.stores[2]
	dead.endKeeping() // it no longer renews
	<-dead.sessionDone
	cfg.Disk, cfg.Dir = "another", t.TempDir()
	s, err := Open(ctx, cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	if err := s.Register(ctx); err != nil {
		t.Fatal(err)
	}
	img := until(t, c.stores[1], "it is registered with its disk", func(img *Image) bool { return img.Brokers[2].Disk == "another" })
	if img.Brokers[2].Epoch != s.BrokerEpoch() {
		t.Fatalf("%+v", img.Brokers[2])
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
	until(t, c.stores[4], "its registration has run out", func(img *Image) bool { return len(img.Brokers) == 3 })
	c.cut(gone, true)
	waitFor(t, alone, last)
	until(t, alone, "it is registered again", func(img *Image) bool { return len(img.Brokers) == 4 && img.Brokers[gone].Epoch == alone.BrokerEpoch() })
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
