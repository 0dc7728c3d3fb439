package metastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/test/firntest"
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
		// Without grace: the last member would have nobody to give back to.
		var wg sync.WaitGroup
		for _, s := range c.stores {
			wg.Go(s.die)
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
		if e := s.srv.etcd; e != nil {
			for _, p := range e.Peers {
				p.Listener.Close()
			}
			e.Server.HardStop()
		}
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

// dirClaim is a Claim that processes share.
type dirClaim string

func (d dirClaim) PutIfAbsent(ctx context.Context, name string, value []byte) ([]byte, error) {
	path := filepath.Join(string(d), strings.ReplaceAll(name, "/", "-"))
	tmp, err := os.CreateTemp(string(d), "tmp")
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(value); err != nil {
		return nil, err
	}
	if err := tmp.Close(); err != nil {
		return nil, err
	}
	if err := os.Link(tmp.Name(), path); errors.Is(err, os.ErrExist) {
		return d.Get(ctx, name)
	} else if err != nil {
		return nil, err
	}
	return nil, nil
}

func (d dirClaim) Get(_ context.Context, name string) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(string(d), strings.ReplaceAll(name, "/", "-")))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return raw, err
}

const clusterChild = "FIRN_METASTORE_CLUSTER_CHILD"

// TestClusterChild is a member that TestFormingKilled kills: node id, folder,
// claim's folder, client address, seeds.
func TestClusterChild(t *testing.T) {
	args := strings.Split(os.Getenv(clusterChild), "|")
	if len(args) < 5 {
		t.Skip("is started by TestFormingKilled")
	}
	id, err := strconv.Atoi(args[0])
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(args[1])
	cfg.BrokerID = record.BrokerID(id)
	cfg.Cluster = &Cluster{Seeds: args[4:], Peer: args[4+id-1], Client: args[3], Claim: dirClaim(args[2])}
	s, err := Open(context.Background(), cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Register(context.Background()); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("formed %s\n", s.Image().ClusterID)
	for i := 0; ; i++ {
		results, _, err := s.CreateTopics(context.Background(), []TopicSpec{{Name: fmt.Sprintf("by-%d-%d", id, i), Assignment: assign(1)}})
		if err != nil || results[0].Err != nil {
			panic(fmt.Sprint(err, results))
		}
		fmt.Printf("topic by-%d-%d\n", id, i)
	}
}

// Processes killed at any time while they form a cluster leave folders that
// form one; what one of them had answered is there.
func TestFormingKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	for round := range 6 {
		c := newCluster(t, 3)
		claim := dirClaim(t.TempDir())
		var out [3]bytes.Buffer
		var cmds []*exec.Cmd
		for i, id := range c.ids() {
			cfg := c.cfgs[id]
			cfg.Cluster.Claim = claim
			cmd := exec.CommandContext(testCtx(t), os.Args[0], "-test.run=^TestClusterChild$")
			cmd.Env = append(os.Environ(), clusterChild+"="+strings.Join(append([]string{fmt.Sprint(id), cfg.Dir, string(claim), cfg.Cluster.Client}, cfg.Cluster.Seeds...), "|"))
			cmd.Stdout = &out[i]
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			cmds = append(cmds, cmd)
		}
		time.Sleep(time.Duration(150+250*round) * time.Millisecond) // any moment will do
		for _, cmd := range cmds {
			cmd.Process.Kill()
		}
		for _, cmd := range cmds {
			cmd.Wait()
		}
		c.open(c.ids()...)
		c.register(1)
		c.same()
		img := c.stores[1].Image()
		said := 0
		for i := range out {
			for line := range strings.Lines(out[i].String()) {
				switch what, rest, whole := strings.Cut(strings.TrimSuffix(line, "\n"), " "); {
				case !whole || !strings.HasSuffix(line, "\n"):
				case what == "formed" && rest != img.ClusterID:
					t.Errorf("round %d: member %d was told cluster %s, it is %s", round, i+1, rest, img.ClusterID)
				case what == "topic" && img.Topics[rest] == nil:
					t.Errorf("round %d: topic %s was answered and is gone", round, rest)
				default:
					said++
				}
			}
		}
		t.Logf("round %d: %d answers before the kill", round, said)
		for _, id := range c.ids() {
			c.close(id)
		}
	}
}
