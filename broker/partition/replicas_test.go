package partition

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/disk/disktest"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

var replicasSeed = flag.Uint64("replicas.seed", 0, "seed of TestReplicas; 0: another one each time")

// three are three replicas of one partition, each with its own folder and, by
// the ack policy, its own journal. Whoever is asked fetches; nothing else moves.
type three struct {
	t   *testing.T
	p   [3]*Partition
	rec replica.Record

	mu    sync.Mutex
	acked map[record.Offset][]byte // values of records that were acknowledged, by offset
}

func newThree(t *testing.T, fsync bool) *three {
	x := &three{t: t, acked: map[record.Offset][]byte{}}
	x.rec = replica.Record{Leader: 0, Epoch: 1, Revision: 1, Replicas: []record.BrokerID{0, 1, 2}, ISR: []record.BrokerID{0, 1, 2}, Unfenced: []int64{1, 1, 1}}
	cfg := testConfig()
	cfg.Fsync, cfg.MinInsync, cfg.ReplicaLag, cfg.SegmentBytes = fsync, 2, time.Hour, 2000
	var journals []*journal.Journal
	for i := range x.p {
		deps := Deps{Log: testLog, Broker: record.BrokerID(i), Standby: true}
		if fsync {
			deps.Journal = openJournal(t, filepath.Join(t.TempDir(), "journal"), nil)
			journals = append(journals, deps.Journal)
		}
		x.p[i] = open(t, t.TempDir(), cfg, deps)
	}
	t.Cleanup(func() {
		for _, p := range x.p {
			p.Close()
		}
		for _, j := range journals {
			j.Close()
		}
	})
	x.tell()
	return x
}

// tell gives all replicas the record.
func (x *three) tell() {
	x.t.Helper()
	for i, p := range x.p {
		if x.rec.Leader == record.BrokerID(i) {
			p.Lead(x.rec)
		} else if err := p.Follow(x.rec); err != nil {
			x.t.Fatal(err)
		}
	}
}

// append has the leader take a record, and notes when it is acknowledged.
func (x *three) append(value string) {
	x.t.Helper()
	p := x.p[x.rec.Leader]
	if err := p.MayAppend(); err != nil {
		x.t.Fatal(err)
	}
	res, err := p.Append(plain(x.t, 1, value), Client)
	if err != nil {
		x.t.Fatal(err)
	}
	p.AwaitHighWatermark(res.LastOffset+1, func(err error) {
		x.mu.Lock()
		defer x.mu.Unlock()
		if err == nil {
			x.acked[res.BaseOffset] = []byte(value)
		} else if !errors.Is(err, kerr.NotLeaderForPartition) {
			x.t.Errorf("offset %d: %v", res.BaseOffset, err)
		}
	})
}

// fetch has a replica ask the leader once, and waits until it has what came.
func (x *three) fetch(i int) {
	x.t.Helper()
	l, f := x.p[x.rec.Leader], x.p[i]
	synced := make(chan error, 1)
	end := f.log.End()
	f.synced.await(end, func() bool { return f.durableEnd() >= end }, func(err error) { synced <- err })
	if err := <-synced; err != nil {
		x.t.Fatal(err)
	}
	ask, _, ok := f.NextFetch()
	if !ok {
		x.t.Fatalf("replica %d has nothing to ask", i)
	}
	l.ReplicaFetched(replica.Fetch{Replica: record.BrokerID(i), BrokerEpoch: 1, Epoch: ask.Epoch, Offset: ask.Offset}, ask.LastEpoch)
	res, err := l.Read(x.t.Context(), ReadRequest{Offset: ask.Offset, MaxBytes: 300, MinOneBatch: true, Replica: true, CurrentEpoch: ask.Epoch, LastFetchedEpoch: ask.LastEpoch})
	a := replica.Answer{Ask: ask, HighWatermark: res.HighWatermark, LogStart: res.LogStartOffset}
	var batches []byte
	switch {
	case err != nil:
		x.t.Fatalf("replica %d at %+v: %v", i, ask, err)
	case res.Diverging != nil:
		a.Result, a.DivergingEpoch, a.DivergingEnd = replica.Diverging, res.Diverging.Epoch, res.Diverging.Start
	default:
		batches = bytesOf(x.t, res.Spans)
	}
	durable := make(chan error, 1)
	if err := f.Replicate(a, batches, func(err error) { durable <- err }); err != nil {
		x.t.Fatalf("replica %d, %+v: %v", i, a, err)
	}
	if err := <-durable; err != nil {
		x.t.Fatal(err)
	}
}

// bytesOf reads and releases spans.
func bytesOf(t *testing.T, spans []record.Span) []byte {
	t.Helper()
	defer record.ReleaseSpans(spans)
	var all []byte
	for _, s := range spans {
		b := make([]byte, s.Size())
		if _, err := s.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// contents is all of a replica's log.
func (x *three) contents(i int) []byte {
	x.t.Helper()
	var all []byte
	p := x.p[i]
	for at := p.log.Start(); at < p.log.End(); {
		run, err := p.log.Read(at, 1<<20, p.log.End(), true)
		if err != nil {
			x.t.Fatal(err)
		}
		all = append(all, bytesOf(x.t, []record.Span{run.Span})...)
		at = run.Next
	}
	return all
}

// Leaders come and go with records that nobody else has. What was acknowledged
// stays, and in the end all have the same bytes.
func TestReplicas(t *testing.T) {
	for _, fsync := range []bool{true, false} {
		t.Run(fmt.Sprintf("fsync=%v", fsync), func(t *testing.T) {
			seed := *replicasSeed
			if seed == 0 {
				seed = rand.Uint64()
			}
			t.Logf("-replicas.seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 1))
			x := newThree(t, fsync)
			for step := range 600 {
				switch n := rng.IntN(20); {
				case n < 8:
					x.append(fmt.Sprint("value ", step))
				case n < 19:
					if i := rng.IntN(3); record.BrokerID(i) != x.rec.Leader {
						x.fetch(i)
					}
				default:
					x.rec.Leader = record.BrokerID(rng.IntN(3))
					x.rec.Epoch++
					x.rec.Revision++
					x.tell()
				}
				for i, p := range x.p {
					if s := p.State(); s.HighWatermark > s.LogEnd {
						t.Fatalf("step %d: replica %d has high watermark %d and ends at %d", step, i, s.HighWatermark, s.LogEnd)
					}
				}
			}
			leader := x.p[x.rec.Leader]
			for range 400 {
				for i := range x.p {
					if record.BrokerID(i) != x.rec.Leader {
						x.fetch(i)
					}
				}
			}
			want := x.contents(int(x.rec.Leader))
			for i := range x.p {
				if !bytes.Equal(x.contents(i), want) {
					t.Errorf("replica %d has other bytes than the leader", i)
				}
				if s := x.p[i].State(); s.HighWatermark != leader.log.End() {
					t.Errorf("replica %d has high watermark %d, the log ends at %d", i, s.HighWatermark, leader.log.End())
				}
			}
			if len(x.acked) < 50 {
				t.Errorf("%d records were acknowledged: the test tells nothing", len(x.acked))
			}
			for o, v := range x.acked {
				res, err := leader.Read(t.Context(), ReadRequest{Offset: o, MaxBytes: 1, MinOneBatch: true, CurrentEpoch: -1, LastFetchedEpoch: -1})
				if err != nil {
					t.Fatal(err)
				}
				if b := bytesOf(t, res.Spans); !bytes.Contains(b, v) {
					t.Errorf("offset %d was acknowledged with %q and has something else", o, v)
				}
			}
		})
	}
}

// A follower may have on its disk what its leader's disk has not taken yet: its
// fetch counts all the same, and it need not say so twice.
func TestFollowerIsDurableBeforeItsLeader(t *testing.T) {
	var slow atomic.Bool
	stuck, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	d := faulty(disktest.Unsynced(), func(call, path string) error {
		if slow.Load() && call == "sync" && strings.HasSuffix(path, ".journal") {
			once.Do(func() { close(stuck) })
			<-release
		}
		return nil
	})
	j := openJournal(t, filepath.Join(t.TempDir(), "journal"), d)
	defer j.Close()
	cfg := testConfig()
	cfg.Fsync, cfg.ReplicaLag = true, time.Hour
	p := open(t, t.TempDir(), cfg, Deps{Log: testLog, Standby: true, Journal: j, Disk: d})
	defer p.Close()
	both := []record.BrokerID{0, 1}
	p.Lead(replica.Record{Leader: 0, Epoch: 1, Revision: 1, Replicas: both, ISR: both, Unfenced: []int64{1, 1}})
	slow.Store(true)
	if _, err := p.Append(plain(t, 1, "value"), Client); err != nil {
		t.Fatal(err)
	}
	<-stuck
	p.ReplicaFetched(replica.Fetch{Replica: 1, BrokerEpoch: 1, Epoch: 1, Offset: 1}, 1)
	acked := make(chan error, 1)
	p.AwaitHighWatermark(1, func(err error) { acked <- err })
	select {
	case err := <-acked:
		t.Errorf("acknowledged while the leader's disk does nothing: %v", err)
	default:
	}
	close(release)
	select {
	case err := <-acked:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the fetch did not count")
	}
}

// A leader that is about to hand over has producers wait, and those of
// coordinators not; when another leads it has nothing that must be cut off.
func TestHold(t *testing.T) {
	x := newThree(t, false)
	x.append("before")
	old := x.p[0]
	x.p[1].Hold(time.Now().Add(time.Hour)) // a follower: nobody waits
	if _, err := x.p[1].Append(plain(t, 1, "to a follower"), Client); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Errorf("a follower: %v", err)
	}
	old.Hold(time.Now()) // over already
	x.append("after a hold that is over")
	x.rec.Epoch++
	x.tell() // releases
	old.Hold(time.Now().Add(time.Hour))
	if _, err := old.Append(plain(t, 1, "of a coordinator"), Coordinator); err != nil {
		t.Errorf("a coordinator: %v", err)
	}
	end := old.log.End()
	held := make(chan error)
	for range 3 {
		go func() {
			_, err := old.Append(plain(t, 1, "held"), Client)
			held <- err
		}()
	}
	select {
	case err := <-held:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	x.rec.Leader, x.rec.Epoch = 1, x.rec.Epoch+1
	x.tell()
	for range 3 {
		if err := <-held; !errors.Is(err, kerr.NotLeaderForPartition) {
			t.Errorf("held: %v", err)
		}
	}
	if now := old.log.End(); now != end {
		t.Errorf("the log grew from %d to %d", end, now)
	}
	x.rec.Leader, x.rec.Epoch = 0, x.rec.Epoch+1
	x.tell()
	x.append("it leads again")
	old.Hold(time.Now().Add(time.Hour))
	go func() {
		_, err := old.Append(plain(t, 1, "held"), Client)
		held <- err
	}()
	old.Rest()
	if err := <-held; !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Errorf("at rest: %v", err)
	}
}
