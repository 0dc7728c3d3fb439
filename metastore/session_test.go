package metastore

import (
	"context"
	"errors"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/record"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// until waits for an image that fits.
func until(t testing.TB, s *Store, what string, fits func(*Image) bool) *Image {
	t.Helper()
	found := make(chan *Image, 1)
	cancel := s.OnChange(func(img *Image) {
		if fits(img) {
			select {
			case found <- img:
			default:
			}
		}
	})
	defer cancel()
	select {
	case img := <-found:
		return img
	case <-testCtx(t).Done():
		t.Fatalf("no image in which %s; the last is %+v", what, s.Image())
		return nil
	}
}

func TestRegister(t *testing.T) {
	ctx := testCtx(t)
	s := openStore(t, t.TempDir())
	if img := s.Image(); img.Controller != -1 || len(img.Brokers) != 0 || len(img.ClusterID) != 22 {
		t.Fatalf("a new image is %+v", img)
	}
	if s.Fenced() {
		t.Fatal("fenced before Register")
	}
	if err := s.Register(ctx); err != nil {
		t.Fatal(err)
	}
	img := until(t, s, "broker 1 is controller", func(img *Image) bool { return img.Controller == 1 })
	b := img.Brokers[1]
	want := Broker{ID: 1, Host: "127.0.0.1", Port: 9092, HTTP: "127.0.0.1:9644", Epoch: b.Epoch, StartedMs: b.StartedMs}
	if b != want || b.Epoch <= 0 || b.StartedMs <= 0 {
		t.Fatalf("registered as %+v", b)
	}
	if s.Fenced() {
		t.Fatal("fenced right after Register")
	}
	if err := s.Register(ctx); err == nil {
		t.Fatal("registered twice")
	}
}

// Close gives the lease back: the keys are gone in the next run.
func TestCloseRevokes(t *testing.T) {
	ctx := testCtx(t)
	dir := t.TempDir()
	s := openRegistered(t, dir)
	id := s.Image().ClusterID
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(ctx); err != nil {
		t.Fatalf("closed twice: %v", err)
	}
	if !s.Fenced() {
		t.Error("not fenced after Close")
	}
	select {
	case <-s.Done():
	default:
		t.Error("Done is open after Close")
	}
	if err := s.WaitFor(ctx, 1<<60); !errors.Is(err, ErrClosed) {
		t.Errorf("WaitFor after Close: %v", err)
	}
	if _, err := s.AllocateProducerIDs(ctx, 1); err == nil {
		t.Error("a write after Close succeeds")
	}
	s = openStore(t, dir)
	if img := s.Image(); img.Controller != -1 || len(img.Brokers) != 0 || img.ClusterID != id {
		t.Fatalf("after the restart the image is %+v", img)
	}
}

// When renewals stop, the broker fences itself before the lease runs out; then
// its keys go; when etcd answers again, it registers anew and is controller.
func TestLeaseExpires(t *testing.T) {
	ctx := testCtx(t)
	cfg := testConfig(t.TempDir())
	cfg.LeaseTTL = 2 * time.Second
	s, err := Open(ctx, cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	renew := s.session.renew
	var cut atomic.Bool
	s.session.renew = func(ctx context.Context, id clientv3.LeaseID) error {
		if cut.Load() {
			return errors.New("cut off by the test")
		}
		return renew(ctx, id)
	}
	if err := s.Register(ctx); err != nil {
		t.Fatal(err)
	}
	before := until(t, s, "registered", func(img *Image) bool { return img.Controller == 1 }).Brokers[1]
	guard := s.session.controller.Load()
	cut.Store(true)
	until(t, s, "the keys expire", func(img *Image) bool { return img.Controller == -1 && len(img.Brokers) == 0 })
	if !s.Fenced() {
		t.Fatal("the lease has run out and the broker is not fenced")
	}
	cut.Store(false)
	img := until(t, s, "registered again", func(img *Image) bool { return img.Controller == 1 && len(img.Brokers) == 1 })
	if after := img.Brokers[1]; after.Epoch <= before.Epoch {
		t.Fatalf("epoch %d after %d", after.Epoch, before.Epoch)
	}
	for s.session.controller.Load() == 0 { // collecting leftovers
		time.Sleep(time.Millisecond)
		if ctx.Err() != nil {
			t.Fatal("never controller again")
		}
	}
	if now := s.session.controller.Load(); now <= guard {
		t.Fatalf("controller guard %d after %d", now, guard)
	}
	if s.Fenced() {
		t.Fatal("still fenced")
	}
	create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
}

// A controller key that vanishes alone is taken again.
func TestControllerKeyVanishes(t *testing.T) {
	s := openRegistered(t, t.TempDir())
	before := s.session.controller.Load()
	waitFor(t, s, before)
	resp, err := s.srv.cli.Delete(testCtx(t), controllerKey)
	if err != nil {
		t.Fatal(err)
	}
	img := until(t, s, "controller again", func(img *Image) bool { return img.Controller == 1 && img.Revision > resp.Header.Revision })
	if len(img.Brokers) != 1 || img.Brokers[1].Epoch >= resp.Header.Revision {
		t.Fatalf("the registration was touched: %+v", img.Brokers)
	}
}

// A registration that vanishes though its lease lives is made again.
func TestRegistrationVanishes(t *testing.T) {
	s := openRegistered(t, t.TempDir())
	epoch := until(t, s, "registered", func(img *Image) bool { return len(img.Brokers) == 1 }).Brokers[1].Epoch
	if _, err := s.srv.cli.Delete(testCtx(t), brokerKey(1)); err != nil {
		t.Fatal(err)
	}
	until(t, s, "registered anew", func(img *Image) bool { return img.Brokers[1].Epoch > epoch && img.Controller == 1 })
}

// A second store on the same folder is refused while the first lives.
func TestFolderIsLocked(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if _, err := Open(testCtx(t), testConfig(dir), quiet); !errors.Is(err, ErrLocked) {
		t.Fatalf("opened twice: %v", err)
	}
	if err := s.Close(testCtx(t)); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir)
}

func TestConfigIsChecked(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"no folder":     func(c *Config) { c.Dir = "" },
		"negative id":   func(c *Config) { c.BrokerID = -1 },
		"port":          func(c *Config) { c.Port = 70000 },
		"short lease":   func(c *Config) { c.LeaseTTL = time.Second },
		"small quota":   func(c *Config) { c.QuotaBytes = 1 },
		"negative pace": func(c *Config) { c.CompactEvery = -1 },
	} {
		cfg := testConfig(t.TempDir())
		change(&cfg)
		if s, err := Open(testCtx(t), cfg, quiet); err == nil {
			s.Close(testCtx(t))
			t.Errorf("%s: opened", what)
		}
	}
}

// A folder whose path is longer than a Unix socket's may be is no trouble.
func TestLongPath(t *testing.T) {
	dir := t.TempDir()
	for len(dir) < 300 {
		dir += "/a-rather-long-folder-name"
	}
	openRegistered(t, dir)
}

// A value that cannot be read stops the start and names the key; met while
// running, it changes nothing.
func TestCorruptValue(t *testing.T) {
	ctx := testCtx(t)
	dir := t.TempDir()
	s := openRegistered(t, dir)
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	resp, err := s.srv.cli.Put(ctx, partitionKey(topic.ID, 0), "\x07nonsense")
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, resp.Header.Revision)
	if got := s.Image().Topics["a"]; !reflect.DeepEqual(got.Partitions, topic.Partitions) {
		t.Fatalf("the topic became %+v", got)
	}
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(ctx, testConfig(dir), quiet); !errors.Is(err, ErrCorrupt) {
		s.Close(ctx)
		t.Fatalf("opened: %v", err)
	}
}

// A topic whose partition is gone is not forgotten while running, and refused
// at the start: forgetting it would delete its records.
func TestMissingPartition(t *testing.T) {
	ctx := testCtx(t)
	dir := t.TempDir()
	s := openRegistered(t, dir)
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(2)})
	resp, err := s.srv.cli.Delete(ctx, partitionKey(topic.ID, 0))
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, resp.Header.Revision)
	if got := s.Image().Topics["a"]; !reflect.DeepEqual(got, topic) {
		t.Fatalf("the topic became %+v", got)
	}
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(ctx, testConfig(dir), quiet); !errors.Is(err, ErrCorrupt) {
		s.Close(ctx)
		t.Fatalf("opened: %v", err)
	}
}

// WaitFor also ends when the revision is that of a write that is not watched,
// and with its context.
func TestWaitForUnwatched(t *testing.T) {
	s := openRegistered(t, t.TempDir())
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	for range 20 {
		p, err := s.TierPointer(testCtx(t), topic.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		rev, err := s.CommitTierPointer(testCtx(t), topic.ID, 0, p.Revision, 0, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, s, rev)
	}
	ctx, cancel := context.WithTimeout(testCtx(t), 50*time.Millisecond)
	defer cancel()
	if err := s.WaitFor(ctx, 1<<60); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

// A watch that falls behind compaction reads everything again, and callbacks
// see what it missed.
func TestWatchCompacted(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	var rev int64
	for i := range 10 {
		var err error
		rev, err = s.SetTopicConfigs(ctx, topic.ID, func(map[string]string) (map[string]string, error) {
			return map[string]string{"i": string(rune('0' + i))}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, s, rev)
	if _, err := s.srv.cli.Compact(ctx, rev); err != nil {
		t.Fatal(err)
	}
	old := newState() // at revision 0: everything it asks for is compacted
	if err := s.watchFrom(ctx, old); !errors.Is(err, errCompacted) {
		t.Fatalf("a watch from the start ended with %v", err)
	}
	before := metricReloads.Get()
	late, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); s.watch(late, newState()) }()
	for metricReloads.Get() == before && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	sameAsLoaded(t, s)
	if got := s.Image().Topics["a"].Configs["i"]; got != "9" {
		t.Fatalf("config is %q", got)
	}
}

func TestOnChangeCancel(t *testing.T) {
	s := openRegistered(t, t.TempDir())
	var calls [3]atomic.Int64
	var cancels [3]func()
	first := make(chan struct{}, 3)
	for i := range calls {
		cancels[i] = s.OnChange(func(*Image) {
			if calls[i].Add(1) == 1 {
				first <- struct{}{}
			}
		})
	}
	for range calls {
		<-first // each is called once without any change
	}
	cancels[1]()
	cancels[1]() // harmless
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	until(t, s, "the topic is there", func(img *Image) bool { return img.TopicIDs[topic.ID] != nil })
	// until's own callback came after those that were registered before it.
	before := calls[1].Load()
	create(t, s, TopicSpec{Name: "b", Assignment: [][]record.BrokerID{{1}}})
	until(t, s, "b is there", func(img *Image) bool { return img.Topics["b"] != nil })
	if calls[0].Load() < 2 || calls[2].Load() < 2 || calls[1].Load() != before {
		t.Fatalf("calls %d %d %d", calls[0].Load(), calls[1].Load(), calls[2].Load())
	}
}

// Only who lives renews a lease within a term of etcd's; a new leader lets all
// of them begin anew.
func TestLeaseWatch(t *testing.T) {
	type look struct {
		ttl  int64
		term uint64
	}
	for name, c := range map[string]struct {
		looks []look
		want  int
	}{
		"runs out":                {[]look{{10, 4}, {9, 4}, {3, 4}, {0, 4}}, 0},
		"renewed":                 {[]look{{9, 4}, {7, 4}, {10, 4}}, 1},
		"and again":               {[]look{{9, 4}, {7, 4}, {10, 4}, {8, 4}, {10, 4}}, 2},
		"elections":               {[]look{{5, 4}, {10, 5}, {9, 5}, {10, 6}, {10, 7}}, 0},
		"renewed, then elections": {[]look{{7, 4}, {10, 4}, {10, 5}, {9, 5}}, 0},
		"told a term late":        {[]look{{7, 4}, {10, 5}, {9, 5}, {8, 5}}, 0},
	} {
		var w leaseWatch
		got := 0
		for _, l := range c.looks {
			got = w.renewed(l.ttl, l.term)
		}
		if got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
