package metastore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/twmb/franz-go/pkg/kerr"
	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"
)

// fatal is what *testing.T and *rapid.T have in common.
type fatal interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func create(t fatal, s *Store, spec TopicSpec) *Topic {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	results, rev, err := s.CreateTopics(ctx, []TopicSpec{spec})
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Err != nil {
		t.Fatal(results[0].Err)
	}
	waitFor(t, s, rev)
	return results[0].Topic
}

func waitFor(t fatal, s *Store, revision int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.WaitFor(ctx, revision); err != nil {
		t.Fatal(err)
	}
}

// sameAsLoaded checks that the image kept up by the watch is the one that a
// fresh load gives.
func sameAsLoaded(t fatal, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	st, err := load(ctx, s.srv)
	if err != nil {
		t.Fatal(err)
	}
	want, incomplete := st.image(nil)
	if len(incomplete) > 0 {
		t.Fatalf("topics %v lack partitions", incomplete)
	}
	waitFor(t, s, want.Revision)
	got := s.Image()
	if got.Revision != want.Revision {
		t.Fatalf("the image is at revision %d, the load at %d, though nothing else writes", got.Revision, want.Revision)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("the image of the watch is\n%+v\nand of a load\n%+v", got, want)
	}
}

func TestTopicLifecycle(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	made := create(t, s, TopicSpec{Name: "flights", Configs: map[string]string{"retention.ms": "1000"}, Assignment: [][]record.BrokerID{{1}, {2, 1}}})
	img := s.Image()
	if got := img.Topics["flights"]; !reflect.DeepEqual(got, made) || img.TopicIDs[made.ID] != got {
		t.Fatalf("image has %+v, created was %+v", got, made)
	}
	if p := made.Partitions[1]; p.Leader != 2 || !reflect.DeepEqual(p.ISR, []record.BrokerID{2, 1}) || p.ID != 1 {
		t.Fatalf("partition 1 is %+v", p)
	}
	results, rev, err := s.CreateTopics(ctx, []TopicSpec{{Name: "flights", Assignment: assign(1)}})
	if err != nil || rev != 0 || !errors.Is(results[0].Err, kerr.TopicAlreadyExists) {
		t.Fatalf("created twice: %v %v %v", results, rev, err)
	}
	var ke *kerr.Error
	if !errors.As(results[0].Err, &ke) || ke.Code != kerr.TopicAlreadyExists.Code {
		t.Fatalf("%v has no code", results[0].Err)
	}

	if rev, err = s.DeleteTopic(ctx, made.ID); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, rev)
	if img := s.Image(); img.Topics["flights"] != nil || img.TopicIDs[made.ID] != nil {
		t.Fatal("the deleted topic is still there")
	}
	if _, err := s.DeleteTopic(ctx, made.ID); !errors.Is(err, kerr.UnknownTopicID) {
		t.Fatalf("deleted twice: %v", err)
	}
	again := create(t, s, TopicSpec{Name: "flights", Internal: true, Assignment: assign(1)})
	if again.ID == made.ID || !s.Image().Topics["flights"].Internal || len(s.Image().Topics) != 1 {
		t.Fatalf("recreated as %+v", again)
	}
	if img.Topics["flights"].ID != made.ID {
		t.Fatal("an image that was published has changed")
	}
	sameAsLoaded(t, s)
}

func TestCreateTopicsRefuses(t *testing.T) {
	s := openRegistered(t, t.TempDir())
	for what, c := range map[string]struct {
		spec TopicSpec
		want error
	}{
		"no name":           {TopicSpec{Assignment: assign(1)}, kerr.InvalidTopicException},
		"long name":         {TopicSpec{Name: string(make([]byte, 250)), Assignment: assign(1)}, kerr.InvalidTopicException},
		"no partitions":     {TopicSpec{Name: "a"}, kerr.InvalidPartitions},
		"no replicas":       {TopicSpec{Name: "a", Assignment: [][]record.BrokerID{{}}}, kerr.InvalidReplicaAssignment},
		"replica twice":     {TopicSpec{Name: "a", Assignment: [][]record.BrokerID{{1, 1}}}, kerr.InvalidReplicaAssignment},
		"negative replica":  {TopicSpec{Name: "a", Assignment: [][]record.BrokerID{{-1}}}, kerr.InvalidReplicaAssignment},
		"too large configs": {TopicSpec{Name: "a", Assignment: assign(1), Configs: map[string]string{"x": string(make([]byte, MaxConfigBytes))}}, kerr.InvalidConfig},
	} {
		results, _, err := s.CreateTopics(testCtx(t), []TopicSpec{c.spec, {Name: "good " + what, Assignment: assign(1)}})
		if err != nil || !errors.Is(results[0].Err, c.want) {
			t.Errorf("%s: %v, %v; want %v", what, results[0].Err, err, c.want)
		}
		if results[1].Err != nil {
			t.Errorf("%s spoils its neighbour: %v", what, results[1].Err)
		}
	}
}

func TestChangesNeedRegistration(t *testing.T) {
	ctx := testCtx(t)
	s := openStore(t, t.TempDir())
	if _, _, err := s.CreateTopics(ctx, []TopicSpec{{Name: "a", Assignment: assign(1)}}); !errors.Is(err, kerr.NotController) {
		t.Fatalf("before Register: %v", err)
	}
	if err := s.Register(ctx); err != nil {
		t.Fatal(err)
	}
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	// Somebody else registers under the same id: every guarded write must fail,
	// even while this broker believes that its registration stands.
	s.endKeeping()
	<-s.sessionDone
	if _, err := s.srv.cli.Delete(ctx, brokerKey(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.srv.cli.Put(ctx, brokerKey(1), string(encodeBroker(Broker{Host: "other"}))); err != nil {
		t.Fatal(err)
	}
	results, _, err := s.CreateTopics(ctx, []TopicSpec{{Name: "b", Assignment: assign(1)}, {Name: "large", Assignment: assign(partitionsPut + 1)}})
	if err != nil || !errors.Is(results[0].Err, kerr.NotController) || !errors.Is(results[1].Err, kerr.NotController) {
		t.Errorf("create by a zombie: %v %v", results, err)
	}
	if _, err := s.DeleteTopic(ctx, topic.ID); !errors.Is(err, kerr.NotController) {
		t.Errorf("delete by a zombie: %v", err)
	}
	if _, err := s.AddPartitions(ctx, topic.ID, assign(1), 1); !errors.Is(err, kerr.NotController) {
		t.Errorf("add partitions by a zombie: %v", err)
	}
	_, err = s.SetTopicConfigs(ctx, topic.ID, func(map[string]string) (map[string]string, error) { return map[string]string{"a": "b"}, nil })
	if !errors.Is(err, kerr.NotController) {
		t.Errorf("set configs by a zombie: %v", err)
	}
	if _, err := s.SetLeaving(ctx); !errors.Is(err, kerr.NotController) {
		t.Errorf("leaving by a zombie: %v", err)
	}
}

// New partitions are led by, and in sync on, the replicas that are eligible.
func TestNewPartitionsAreEligible(t *testing.T) {
	img := &Image{
		Brokers:  map[record.BrokerID]Broker{1: {Epoch: 5}, 2: {Epoch: 6}, 3: {Epoch: 7}},
		Unfenced: map[record.BrokerID]Unfenced{1: {Epoch: 4}, 2: {Epoch: 6}, 3: {Epoch: 7}, 4: {Epoch: 8}},
	}
	for id, want := range map[record.BrokerID]bool{0: false, 1: false, 2: true, 3: true, 4: false} {
		if img.Eligible(id) != want {
			t.Errorf("broker %d is eligible: %v", id, !want)
		}
	}
	parts, err := newPartitions(img, 3, [][]record.BrokerID{{1, 3, 2}, {4, 1}})
	want := []Partition{
		{ID: 3, Leader: 3, Replicas: []record.BrokerID{1, 3, 2}, ISR: []record.BrokerID{3, 2}},
		{ID: 4, Leader: 4, Replicas: []record.BrokerID{4, 1}, ISR: []record.BrokerID{4, 1}},
	}
	if err != nil || !reflect.DeepEqual(parts, want) {
		t.Errorf("%+v, %v", parts, err)
	}
}

// What a controller takes for the leftovers of a crash may be under way at
// another broker: nothing is then there by halves, and the other one begins
// anew.
func TestCollectionMeetsChange(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	g, err := s.asBroker()
	if err != nil {
		t.Fatal(err)
	}
	controller := s.session.controller.Load()
	old := create(t, s, TopicSpec{Name: "old", Assignment: assign(1)})
	half := &Topic{Name: "half", ID: record.TopicID{7}}
	if half.Partitions, err = newPartitions(s.Image(), 0, assign(2*partitionsPut+1)); err != nil {
		t.Fatal(err)
	}
	free := clientv3.Compare(clientv3.CreateRevision(nameKey(half.Name)), "=", 0)
	rest, stands, ok, err := s.writeAhead(ctx, "create_topic", g, half.ID, half.Partitions, free)
	if err != nil || !ok || len(rest) != 1 || len(stands) != 2 {
		t.Fatalf("%d left, %d compares, %v %v", len(rest), len(stands), ok, err)
	}
	if err := s.collectLeftovers(ctx, controller); err != nil {
		t.Fatal(err)
	}
	ok, _, err = s.change(ctx, "create_topic", g, append(stands, free), []clientv3.Op{clientv3.OpPut(topicKey(half.ID), string(topicValue{Name: half.Name, Partitions: 1}.encode()))})
	if err != nil || ok {
		t.Fatalf("a topic without its first partitions was written: %v", err)
	}
	// The same while one collection follows the other.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 50 { // not for ever: a change must get through at last
			select {
			case <-stop:
				return
			default:
				if err := s.collectLeftovers(ctx, controller); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for i := range 3 {
		create(t, s, TopicSpec{Name: fmt.Sprintf("large-%d", i), Assignment: assign(partitionsPut + 2)})
		if _, err := s.AddPartitions(ctx, old.ID, assign(partitionsPut+2), 1+i*(partitionsPut+2)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	sameAsLoaded(t, s)
	if img := s.Image(); len(img.Topics) != 4 || img.Partitions != 1+6*(partitionsPut+2) {
		t.Fatalf("%d topics with %d partitions", len(img.Topics), img.Partitions)
	}
}

func TestAddPartitions(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(2)})
	const more = partitionsPut + 5
	rev, err := s.AddPartitions(ctx, topic.ID, assign(more), 2)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, rev)
	if got := s.Image().Topics["a"]; len(got.Partitions) != 2+more || got.Partitions[more].ID != more || got.Revision != rev {
		t.Fatalf("%d partitions at revision %d", len(got.Partitions), got.Revision)
	}
	if _, err := s.AddPartitions(ctx, topic.ID, assign(1), 2); !errors.Is(err, ErrConflict) || !errors.Is(err, kerr.InvalidPartitions) {
		t.Fatalf("from a wrong count: %v", err)
	}
	if _, err := s.AddPartitions(ctx, record.TopicID{1}, assign(1), 2); !errors.Is(err, kerr.UnknownTopicID) {
		t.Fatalf("to no topic: %v", err)
	}
	// Of many at once from the same count, one wins, and its assignment is
	// what is there.
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = s.AddPartitions(ctx, topic.ID, [][]record.BrokerID{{record.BrokerID(i)}, {record.BrokerID(i)}}, 2+more)
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		if err == nil && winner < 0 {
			winner = i
		} else if !errors.Is(err, ErrConflict) {
			t.Fatalf("attempt %d: %v", i, err)
		}
	}
	sameAsLoaded(t, s)
	for _, p := range s.Image().Topics["a"].Partitions[2+more:] {
		if int(p.Leader) != winner {
			t.Fatalf("attempt %d won, partition is %+v", winner, p)
		}
	}
}

func TestSetTopicConfigs(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	// Read-modify-write by many at once loses nothing.
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, err := s.SetTopicConfigs(ctx, topic.ID, func(m map[string]string) (map[string]string, error) {
				m[fmt.Sprint(i)] = "x"
				return m, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	sameAsLoaded(t, s)
	if got := s.Image().Topics["a"].Configs; len(got) != 20 {
		t.Fatalf("configs are %v", got)
	}
	before := s.Image().Revision
	rev, err := s.SetTopicConfigs(ctx, topic.ID, func(m map[string]string) (map[string]string, error) { return maps.Clone(m), nil })
	if err != nil || rev > before {
		t.Fatalf("a change of nothing wrote revision %d after %d, %v", rev, before, err)
	}
	boom := errors.New("boom")
	if _, err := s.SetTopicConfigs(ctx, topic.ID, func(map[string]string) (map[string]string, error) { return nil, boom }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if _, err := s.SetTopicConfigs(ctx, record.TopicID{1}, nil); !errors.Is(err, kerr.UnknownTopicID) {
		t.Fatal(err)
	}
	if rev, err = s.SetTopicConfigs(ctx, topic.ID, func(map[string]string) (map[string]string, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, rev)
	if got := s.Image().Topics["a"]; len(got.Configs) != 0 || got.Revision != rev {
		t.Fatalf("after all are gone: %+v", got)
	}
}

// A topic of many transactions appears whole: no image in between has a part.
func TestLargeTopicAppearsAtOnce(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	const n = 5000
	var mu sync.Mutex
	seen := map[int]int{}
	last := int64(0)
	cancel := s.OnChange(func(img *Image) {
		mu.Lock()
		defer mu.Unlock()
		if img.Revision < last {
			t.Errorf("image %d after %d", img.Revision, last)
		}
		last = img.Revision
		if topic := img.Topics["large"]; topic != nil {
			seen[len(topic.Partitions)]++
		}
	})
	defer cancel()
	begin := time.Now()
	results, rev, err := s.CreateTopics(ctx, []TopicSpec{{Name: "large", Assignment: assign(n)}})
	if err != nil || results[0].Err != nil {
		t.Fatal(err, results[0].Err)
	}
	created := time.Since(begin)
	waitFor(t, s, rev)
	t.Logf("%d partitions of one topic: created in %v, in the image after %v", n, created, time.Since(begin))

	begin = time.Now()
	specs := make([]TopicSpec, n/5)
	for i := range specs {
		specs[i] = TopicSpec{Name: fmt.Sprintf("small-%d", i), Assignment: assign(5)}
	}
	results, rev, err = s.CreateTopics(ctx, specs)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	created = time.Since(begin)
	waitFor(t, s, rev)
	t.Logf("%d partitions of %d topics: created in %v, in the image after %v", n, len(specs), created, time.Since(begin))
	sameAsLoaded(t, s)

	begin = time.Now()
	if rev, err = s.DeleteTopic(ctx, s.Image().Topics["large"].ID); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, rev)
	t.Logf("deleted in %v", time.Since(begin))
	sameAsLoaded(t, s)
	mu.Lock()
	defer mu.Unlock()
	for parts := range seen {
		if parts != n {
			t.Errorf("an image had %d of %d partitions", parts, n)
		}
	}
}

// What a crash in the middle of a change leaves is not seen, and is gone after
// the next start.
func TestLeftoversAreCollected(t *testing.T) {
	ctx := testCtx(t)
	dir := t.TempDir()
	s := openRegistered(t, dir)
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(2)})
	lost := record.TopicID{7}
	parts, err := newPartitions(&Image{}, 0, assign(5))
	if err != nil {
		t.Fatal(err)
	}
	ops := append(putPartitions(lost, parts), clientv3.OpPut(configKey(lost), string(encodeConfigs(nil))))
	ops = append(ops, putPartitions(topic.ID, parts[2:])...) // an AddPartitions that was not finished
	resp, err := s.srv.cli.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, resp.Header.Revision)
	if img := s.Image(); len(img.Topics) != 1 || len(img.Topics["a"].Partitions) != 2 || img.TopicIDs[lost] != nil {
		t.Fatalf("an unfinished change is seen: %+v", img)
	}
	sameAsLoaded(t, s)
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}

	s = openRegistered(t, dir)
	keysBelow(t, s, partitionPrefix, 2)
	keysBelow(t, s, configPrefix, 1)
	sameAsLoaded(t, s)
	if got := s.Image().Topics["a"]; !reflect.DeepEqual(got, topic) {
		t.Fatalf("the topic became %+v", got)
	}
}

// keysBelow waits until there are n keys that begin with prefix: a new
// controller collects what is too many.
func keysBelow(t *testing.T, s *Store, prefix string, n int64) {
	t.Helper()
	ctx := testCtx(t)
	for {
		keys, err := s.srv.cli.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatalf("waiting for %d keys below %s: %v", n, prefix, err)
		}
		if keys.Count == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// A cancelled creation of a large topic leaves no part of it in the image, and
// its name can be used again.
func TestCancelledCreate(t *testing.T) {
	s := openRegistered(t, t.TempDir())
	ctx, cancel := context.WithCancel(testCtx(t))
	stop := s.OnChange(func(img *Image) {
		cancel() // as soon as the first transaction is seen, if not before
	})
	defer stop()
	results, _, err := s.CreateTopics(ctx, []TopicSpec{{Name: "a", Assignment: assign(20 * partitionsPut)}})
	if err != nil || results[0].Err == nil {
		t.Skip("the creation was quicker than its cancellation")
	}
	sameAsLoaded(t, s)
	if s.Image().Topics["a"] != nil {
		t.Fatal("a part of the topic is there")
	}
	create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
}

// The image that the watch keeps is at all times the one a restart would load,
// whatever is done, finished or not.
func TestImageEqualsReload(t *testing.T) {
	s := openRegistered(t, t.TempDir())
	ctx := testCtx(t)
	rapid.Check(t, func(rt *rapid.T) {
		names := []string{"a", "b", "c"}
		topic := func(rt *rapid.T) *Topic {
			t := s.Image().Topics[rapid.SampledFrom(names).Draw(rt, "topic")]
			if t == nil {
				rt.Skip("no such topic")
			}
			return t
		}
		put := func(rt *rapid.T, ops ...clientv3.Op) {
			if _, err := s.srv.cli.Txn(ctx).Then(ops...).Commit(); err != nil {
				rt.Fatal(err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create": func(rt *rapid.T) {
				name := rapid.SampledFrom(names).Draw(rt, "name")
				n := rapid.SampledFrom([]int{1, 1, 2, 2, 3, 4, 5, 5, 5, 5, 5, partitionsPut + 1}).Draw(rt, "n")
				results, rev, err := s.CreateTopics(ctx, []TopicSpec{{Name: name, Assignment: assign(n), Configs: map[string]string{"x": name}}})
				if err != nil || results[0].Err != nil && !errors.Is(results[0].Err, kerr.TopicAlreadyExists) {
					rt.Fatal(err, results)
				}
				waitFor(rt, s, rev)
			},
			"delete": func(rt *rapid.T) {
				rev, err := s.DeleteTopic(ctx, topic(rt).ID)
				if err != nil {
					rt.Fatal(err)
				}
				waitFor(rt, s, rev)
			},
			"add": func(rt *rapid.T) {
				topic := topic(rt)
				rev, err := s.AddPartitions(ctx, topic.ID, assign(rapid.IntRange(1, 3).Draw(rt, "more")), len(topic.Partitions))
				if err != nil {
					rt.Fatal(err)
				}
				waitFor(rt, s, rev)
			},
			"configs": func(rt *rapid.T) {
				v := rapid.SampledFrom([]string{"", "1", "2"}).Draw(rt, "v")
				rev, err := s.SetTopicConfigs(ctx, topic(rt).ID, func(m map[string]string) (map[string]string, error) {
					if v == "" {
						return nil, nil
					}
					m["v"] = v
					return m, nil
				})
				if err != nil {
					rt.Fatal(err)
				}
				waitFor(rt, s, rev)
			},
			"resource": func(rt *rapid.T) {
				r := rapid.SampledFrom([]ConfigResource{{BrokerConfigs, ""}, {BrokerConfigs, "1"}, {GroupConfigs, "1"}}).Draw(rt, "resource")
				v := rapid.SampledFrom([]string{"", "1", "2"}).Draw(rt, "v")
				rev, err := s.SetConfigs(ctx, r, func(m map[string]string) (map[string]string, error) {
					if v == "" {
						return nil, nil
					}
					m["v"] = v
					return m, nil
				})
				if err != nil {
					rt.Fatal(err)
				}
				waitFor(rt, s, rev)
				if got := s.Image().Configs[r]["v"]; got != v {
					rt.Fatalf("%v has %q, set was %q", r, got, v)
				}
			},
			"unfinished": func(rt *rapid.T) {
				id := record.TopicID{9, byte(rapid.IntRange(0, 1).Draw(rt, "id"))}
				parts, _ := newPartitions(&Image{}, rapid.IntRange(0, 3).Draw(rt, "from"), assign(2))
				put(rt, putPartitions(id, parts)...)
			},
			"collect": func(rt *rapid.T) {
				if err := s.collectLeftovers(ctx, s.session.controller.Load()); err != nil {
					rt.Fatal(err)
				}
			},
			"lead": func(rt *rapid.T) {
				var changes []PartitionChange
				for _, topic := range s.Image().Topics {
					for _, p := range topic.Partitions {
						p.Epoch++
						p.PartitionEpoch++
						p.ELR = []record.BrokerID{9}
						changes = append(changes, PartitionChange{topic.ID, p})
					}
				}
				revisions, err := s.Lead(ctx, s.session.controller.Load(), changes)
				if err != nil || slices.Contains(revisions, 0) {
					rt.Fatal(revisions, err)
				}
			},
			"unfence": func(rt *rapid.T) {
				if rapid.Bool().Draw(rt, "gone") {
					put(rt, clientv3.OpDelete(unfencedKey(1)))
				} else if _, err := s.Unfence(ctx, s.session.controller.Load(), 1, Unfenced{Epoch: s.BrokerEpoch(), Disk: "disk"}); err != nil {
					rt.Fatal(err)
				}
			},
			"gap": func(rt *rapid.T) { // partition keys come and go in any order, as another version might do it
				id := record.TopicID{9, byte(rapid.IntRange(0, 1).Draw(rt, "id"))}
				p := record.PartitionID(rapid.IntRange(0, 6).Draw(rt, "partition"))
				if rapid.Bool().Draw(rt, "gone") {
					put(rt, clientv3.OpDelete(partitionKey(id, p)))
				} else {
					put(rt, putPartitions(id, []Partition{{ID: p, Leader: 3}})...)
				}
			},
			"unwatched": func(rt *rapid.T) {
				if _, err := s.AllocateProducerIDs(ctx, 10); err != nil {
					rt.Fatal(err)
				}
			},
			"broker": func(rt *rapid.T) {
				key := brokerKey(5)
				if rapid.Bool().Draw(rt, "gone") {
					put(rt, clientv3.OpDelete(key))
				} else {
					put(rt, clientv3.OpPut(key, string(encodeBroker(Broker{Host: "other", Port: 1}))))
				}
			},
			"": func(rt *rapid.T) { sameAsLoaded(rt, s) },
		})
	})
}
