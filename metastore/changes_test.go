package metastore

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/firnlog/firn/record"
	"github.com/twmb/franz-go/pkg/kerr"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// putBroker registers a broker past its own session and gives its epoch.
func putBroker(t *testing.T, s *Store, id record.BrokerID) int64 {
	t.Helper()
	resp, err := s.srv.cli.Txn(testCtx(t)).Then(clientv3.OpDelete(brokerKey(id))).Commit()
	if err != nil {
		t.Fatal(err)
	}
	put, err := s.srv.cli.Put(testCtx(t), brokerKey(id), string(encodeBroker(Broker{Host: "h"})))
	if err != nil || put.Header.Revision <= resp.Header.Revision {
		t.Fatal(put, err)
	}
	waitFor(t, s, put.Header.Revision)
	return put.Header.Revision
}

func unfence(t *testing.T, s *Store, id record.BrokerID, epoch int64) {
	t.Helper()
	rev, err := s.Unfence(testCtx(t), s.session.controller.Load(), id, Unfenced{epoch, "disk", "cache"})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, rev)
}

// The controller's batches: what is stale is left out, everything else is
// written, also beyond one transaction.
func TestLead(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	const n = 2*changesPut + 100
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(n)})
	controller, ok := s.ControllerEpoch()
	if !ok || s.Image().ControllerRevision != controller {
		t.Fatalf("controller at %d %v, image says %d", controller, ok, s.Image().ControllerRevision)
	}
	var changes []PartitionChange
	for _, p := range topic.Partitions {
		if p.Revision <= 0 || p.Revision > topic.Revision {
			t.Fatalf("partition %+v of a topic of revision %d", p, topic.Revision)
		}
		p.Leader, p.Epoch, p.PartitionEpoch = -1, p.Epoch+1, p.PartitionEpoch+1
		p.ISR, p.ELR = nil, []record.BrokerID{1}
		changes = append(changes, PartitionChange{topic.ID, p})
	}
	stale := []int{0, 1, 511, 700, n - 1}
	for _, i := range stale {
		changes[i].Partition.Revision--
	}
	changes[20].Topic = record.TopicID{1} // there is none
	changes[21].Partition.ID = n          // nor such a partition
	changes[22].Partition.Revision = 0    // would create it
	changes[23].Partition.ID = -1
	changes[24] = changes[25] // twice
	stale = append(stale, 20, 21, 22, 23, 25)
	slices.Sort(stale)
	revisions, err := s.Lead(ctx, controller, changes)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, slices.Max(revisions))
	now := s.Image().Topics["a"].Partitions
	for i, c := range changes {
		if (revisions[i] == 0) != slices.Contains(stale, i) {
			t.Fatalf("change %d was written at revision %d", i, revisions[i])
		}
		if revisions[i] == 0 {
			continue
		}
		want := c.Partition
		want.Revision = revisions[i]
		if got := now[want.ID]; !reflect.DeepEqual(got, want) {
			t.Fatalf("partition is %+v, written was %+v", got, want)
		}
	}
	for _, i := range stale {
		if i != 25 && !reflect.DeepEqual(now[i], topic.Partitions[i]) {
			t.Fatalf("partition %d became %+v by a stale change", i, now[i])
		}
	}
	if len(now) != n || len(s.Image().Topics) != 1 {
		t.Fatalf("%d partitions", len(now))
	}
	sameAsLoaded(t, s)
	for i, p := range topic.Partitions {
		if p.Leader != 1 || p.Epoch != 0 {
			t.Fatalf("an image that was published has changed: partition %d is %+v", i, p)
		}
	}

	// Another controller: nothing is written, and the error says so.
	fresh := []PartitionChange{{topic.ID, now[3]}}
	if _, err := s.Lead(ctx, controller-1, fresh); !errors.Is(err, kerr.NotController) {
		t.Fatalf("an older controller: %v", err)
	}
	if _, err := s.Lead(ctx, 0, fresh); !errors.Is(err, kerr.NotController) {
		t.Fatalf("no controller: %v", err)
	}
	if _, err := s.Unfence(ctx, controller-1, 1, Unfenced{Epoch: s.BrokerEpoch()}); !errors.Is(err, kerr.NotController) {
		t.Fatalf("unfence by an older controller: %v", err)
	}
	if revisions, err := s.Lead(ctx, controller, fresh); err != nil || revisions[0] == 0 {
		t.Fatal(revisions, err)
	}
	if revisions, err := s.Lead(ctx, controller, nil); err != nil || len(revisions) != 0 {
		t.Fatal(revisions, err)
	}
}

func TestChangeISR(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	epoch := s.BrokerEpoch()
	two := putBroker(t, s, 2)
	unfence(t, s, 1, epoch)
	unfence(t, s, 2, two)
	img := until(t, s, "both are eligible", func(img *Image) bool { return img.Eligible(1) && img.Eligible(2) && !img.Eligible(3) })
	if img.Unfenced[2] != (Unfenced{two, "disk", "cache"}) {
		t.Fatalf("%+v", img.Unfenced)
	}
	topic := create(t, s, TopicSpec{Name: "a", Assignment: [][]record.BrokerID{{1, 3, 2}, {1, 2, 3}, {1, 2, 3}}})
	if p := topic.Partitions[0]; p.Leader != 1 || !slices.Equal(p.ISR, []record.BrokerID{1, 2}) {
		t.Fatalf("with broker 3 away the partition is %+v", p)
	}
	change := func(i int, isr []record.BrokerID, enter ...Entrant) ISRChange {
		p := s.Image().Topics["a"].Partitions[i]
		p.ISR = isr
		p.PartitionEpoch++
		return ISRChange{PartitionChange{topic.ID, p}, enter}
	}
	// try gives which of the changes were written.
	try := func(epoch int64, changes ...ISRChange) (written []bool) {
		t.Helper()
		revisions, err := s.ChangeISR(ctx, epoch, changes)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range revisions {
			written = append(written, r > 0)
		}
		waitFor(t, s, slices.Max(revisions))
		return written
	}
	alone := []record.BrokerID{1}
	both := []record.BrokerID{1, 2}
	if got := try(epoch, change(0, alone), change(1, alone)); !slices.Equal(got, []bool{true, true}) {
		t.Fatal("shrink", got)
	}
	if p := s.Image().Topics["a"].Partitions[0]; !slices.Equal(p.ISR, alone) || p.PartitionEpoch != 1 {
		t.Fatalf("%+v", p)
	}
	old := change(2, alone)
	if got := try(epoch, change(0, both, Entrant{2, two}), change(1, both, Entrant{2, two - 1}), old); !slices.Equal(got, []bool{true, false, true}) {
		t.Fatal("entry by an older registration", got)
	}
	if got := try(epoch, old); got[0] {
		t.Fatal("a change decided on an older record was written")
	}
	if _, err := s.ChangeISR(ctx, epoch-1, []ISRChange{change(0, alone)}); !errors.Is(err, kerr.NotController) {
		t.Fatalf("by an older registration of ours: %v", err)
	}
	if _, err := s.ChangeISR(ctx, 0, []ISRChange{change(0, alone)}); !errors.Is(err, kerr.NotController) {
		t.Fatalf("without a registration: %v", err)
	}

	// Broker 2 comes back: by its new registration it may enter only once the
	// controller has taken that in; the Image may be behind.
	again := putBroker(t, s, 2)
	if got := try(epoch, change(1, both, Entrant{2, again}), change(1, both, Entrant{2, two})); got[0] || got[1] {
		t.Fatal("entry of a fenced replica", got)
	}
	unfence(t, s, 2, again)
	third := putBroker(t, s, 2)
	if got := try(epoch, change(1, both, Entrant{2, again}), change(0, alone)); !slices.Equal(got, []bool{false, true}) {
		t.Fatal("entry by a registration that is gone", got)
	}
	if _, err := s.Unfence(ctx, s.session.controller.Load(), 2, Unfenced{Epoch: again}); !errors.Is(err, ErrConflict) {
		t.Fatalf("unfence of a registration that is gone: %v", err)
	}
	unfence(t, s, 2, third)
	if got := try(epoch, change(1, both, Entrant{2, third})); !got[0] {
		t.Fatal("entry", got)
	}
	sameAsLoaded(t, s)
}

// However many replicas enter at once, transactions stay within etcd's limit.
func TestBatches(t *testing.T) {
	var todo []write
	for i := range 3000 {
		w := write{part: Partition{ID: record.PartitionID(i)}}
		for j := range 10 {
			w.enter = append(w.enter, entrant{Entrant: Entrant{record.BrokerID(i*7%900 + j), 1}})
		}
		todo = append(todo, w)
	}
	for len(todo) > 0 {
		n := batch(todo)
		seen := map[Entrant]bool{}
		for _, w := range todo[:n] {
			for _, e := range w.enter {
				seen[e.Entrant] = true
			}
		}
		if n < 1 || 1+n+2*len(seen) > MaxTxnOps {
			t.Fatalf("%d records with %d entrants", n, len(seen))
		}
		todo = todo[n:]
	}
	if n := batch(make([]write, 3000)); n != changesPut {
		t.Fatalf("%d records in a batch", n)
	}
}

// A broker that leaves says so in its registration, which keeps its epoch and
// lease, and in those that follow.
func TestSetLeaving(t *testing.T) {
	ctx := testCtx(t)
	s := openStore(t, t.TempDir())
	s.cfg.Disk, s.cfg.Cache = "disk-1", "cache-1"
	if err := s.Register(ctx); err != nil {
		t.Fatal(err)
	}
	before := until(t, s, "registered", func(img *Image) bool { return len(img.Brokers) == 1 }).Brokers[1]
	if before.Leaving || before.Disk != "disk-1" || before.Cache != "cache-1" || before.Epoch != s.BrokerEpoch() {
		t.Fatalf("registered as %+v", before)
	}
	for range 2 {
		rev, err := s.SetLeaving(ctx)
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, s, rev)
	}
	want := before
	want.Leaving = true
	if got := s.Image().Brokers[1]; got != want {
		t.Fatalf("registration is %+v, want %+v", got, want)
	}
	kv, err := s.get(ctx, brokerKey(1))
	if err != nil || clientv3.LeaseID(kv.Lease) != s.session.lease {
		t.Fatalf("lease %x, %v", kv.Lease, err)
	}

	// Somebody who saw the process end revokes the registration; it lives after
	// all and registers again, still leaving.
	if err := s.RevokeRegistration(ctx, 1, before.Epoch-1); !errors.Is(err, ErrConflict) {
		t.Fatalf("of another epoch: %v", err)
	}
	if err := s.RevokeRegistration(ctx, 7, 1); !errors.Is(err, ErrConflict) {
		t.Fatalf("of nobody: %v", err)
	}
	if err := s.RevokeRegistration(ctx, 1, before.Epoch); err != nil {
		t.Fatal(err)
	}
	img := until(t, s, "registered again", func(img *Image) bool { return img.Brokers[1].Epoch > before.Epoch && img.Controller == 1 })
	if !img.Brokers[1].Leaving {
		t.Fatalf("registered again as %+v", img.Brokers[1])
	}
}

func TestForget(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	unfence(t, s, 2, putBroker(t, s, 2))
	if _, err := s.Forget(ctx, 2); !errors.Is(err, ErrConflict) {
		t.Fatalf("while it is registered: %v", err)
	}
	if _, err := s.srv.cli.Delete(ctx, brokerKey(2)); err != nil {
		t.Fatal(err)
	}
	if img := until(t, s, "it is gone", func(img *Image) bool { return len(img.Brokers) == 1 }); img.Unfenced[2].Disk != "disk" || img.Eligible(2) {
		t.Fatalf("%+v", img.Unfenced)
	}
	rev, err := s.Forget(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, rev)
	if len(s.Image().Unfenced) != 0 {
		t.Fatalf("%+v", s.Image().Unfenced)
	}
	sameAsLoaded(t, s)
}
