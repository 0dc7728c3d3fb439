package partition

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// tier is a Cold whose end a test sets.
type tier struct {
	fakeCold
	mu    sync.Mutex
	end   record.TieredEnd
	err   error
	asked int
}

func (c *tier) ColdEnd(context.Context, record.TopicID, record.TopicPartition) (record.TieredEnd, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	return c.end, c.err
}

func (c *tier) set(end record.TieredEnd, err error) (asked int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end, c.err = end, err
	asked, c.asked = c.asked, 0
	return asked
}

func tieredFollower(t *testing.T, c Cold) *Partition {
	t.Helper()
	cfg := testConfig()
	cfg.Tiered = true
	p := open(t, t.TempDir(), cfg, Deps{Log: testLog, Cold: c, Broker: 2, Standby: true})
	t.Cleanup(func() { p.Close() })
	return p
}

func ledBy1(epoch record.Epoch) replica.Record {
	return replica.Record{Leader: 1, Epoch: epoch, Replicas: []record.BrokerID{1, 2}, ISR: []record.BrokerID{1}}
}

// nextFetch polls as the fetcher does.
func nextFetch(t *testing.T, p *Partition) replica.Ask {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		if ask, _, ok := p.NextFetch(); ok {
			return ask
		}
		if time.Now().After(deadline) {
			t.Fatal("it asks nothing")
		}
		time.Sleep(time.Millisecond)
	}
}

// tieredSnapshot is a producer state at offset 40 that knows producer 4, whose
// batch with sequence 0 is there.
func tieredSnapshot(t *testing.T) (at record.Offset, snapshot []byte) {
	t.Helper()
	cfg := testConfig()
	p := open(t, t.TempDir(), cfg, Deps{})
	defer p.Close()
	for range 39 {
		if _, err := p.Append(plain(t, 1, "x"), Client); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Append(idempotent(t, 4, 0, 0, 1), Client); err != nil {
		t.Fatal(err)
	}
	if err := p.Roll(); err != nil {
		t.Fatal(err)
	}
	s := p.Sealed(0)
	f, err := p.OpenSealed(s[len(s)-1].Base)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return f.End, f.Producers
}

// A replica that has nothing asks nothing before it knows where the tiered part
// ends, however long that takes, and begins there with what the object says of
// leader epochs and producers.
func TestFollowerBeginsAtTheTieredEnd(t *testing.T) {
	end, snapshot := tieredSnapshot(t)
	c := &tier{}
	c.set(record.TieredEnd{}, errors.New("not now"))
	p := tieredFollower(t, c)
	if err := p.Follow(ledBy1(7)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, _, ok := p.NextFetch(); ok {
			t.Fatal("it asks before it knows where to begin")
		}
		c.mu.Lock()
		asked := c.asked
		c.mu.Unlock()
		if asked >= 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not try again")
		}
	}
	epochs := []record.EpochStart{{Epoch: 2, Start: 0}, {Epoch: 5, Start: 30}}
	c.set(record.TieredEnd{Start: 3, End: end, Epochs: epochs, Producers: snapshot}, nil)
	if ask := nextFetch(t, p); ask != (replica.Ask{Epoch: 7, Offset: end, LastEpoch: 5}) {
		t.Fatalf("it asks for %+v", ask)
	}
	if st := p.State(); st.LogStart != 0 || st.LocalStart != end || st.LogEnd != end || st.HighWatermark != end || st.TieredEnd != end {
		t.Errorf("%+v", st)
	}
	if got := fmt.Sprint(p.Epochs()); got != fmt.Sprint(epochs) {
		t.Errorf("it knows the epochs %s", got)
	}
	p.Lead(replica.Record{Leader: 2, Epoch: 8, Replicas: []record.BrokerID{2}, ISR: []record.BrokerID{2}})
	if res, err := p.Append(idempotent(t, 4, 0, 0, 1), Client); err != nil || !res.Duplicate || res.BaseOffset != end-1 {
		t.Errorf("a batch that is in the object store was sent again: %+v, %v", res, err)
	}
	if res, err := p.Append(idempotent(t, 4, 0, 1, 1), Client); err != nil || res.BaseOffset != end {
		t.Errorf("the next one: %+v, %v", res, err)
	}
}

// A replica whose leader has what it asks for in the object store only begins at
// the tiered end as it is then, also when it has moved, or was heard of late.
func TestFollowerBehindTheLeadersDisk(t *testing.T) {
	c := &tier{}
	p := tieredFollower(t, c)
	if err := p.Follow(ledBy1(7)); err != nil {
		t.Fatal(err)
	}
	ask := nextFetch(t, p) // nothing is tiered
	if ask.Offset != 0 {
		t.Fatalf("%+v", ask)
	}
	moved := func(ask replica.Ask) error {
		return p.Replicate(replica.Answer{Ask: ask, Result: replica.OutOfRange, LogStart: 5}, nil, func(error) {})
	}
	until := func(want record.Offset) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); p.State().LogEnd != want; time.Sleep(time.Millisecond) {
			_ = moved(nextFetch(t, p))
			if time.Now().After(deadline) {
				t.Fatalf("the log ends at %d, want %d", p.State().LogEnd, want)
			}
		}
	}
	at := func(end record.Offset) record.TieredEnd {
		return record.TieredEnd{Start: 5, End: end, Epochs: []record.EpochStart{{Epoch: 3, Start: end - 1}}}
	}
	c.set(at(20), nil) // of a while ago: the leader's disk begins at 30
	if err := moved(ask); !errors.Is(err, errAskLater) {
		t.Fatalf("at first it has to be looked up: %v", err)
	}
	until(20)
	c.set(at(30), nil)
	until(30)
	if st := p.State(); st.LogStart != 5 || st.HighWatermark != 30 {
		t.Errorf("%+v", st)
	}
	// The last object is gone: all that it has may be deleted by now, or not.
	c.set(record.TieredEnd{Start: 5, End: 40, Epochs: at(40).Epochs, Missing: errors.New("no such object")}, nil)
	until(40)
	if asked := c.set(record.TieredEnd{}, nil); asked < withoutFooter {
		t.Errorf("it was satisfied without the footer after %d tries, %d are due", asked, withoutFooter)
	}
	if ask := nextFetch(t, p); ask.Offset != 40 || ask.LastEpoch != 3 {
		t.Errorf("it asks for %+v", ask)
	}
}

// Closing a follower ends the look-up that it waits for.
func TestLookUpEndsWithThePartition(t *testing.T) {
	c := &hangingTier{asked: make(chan struct{})}
	p := tieredFollower(t, c)
	if err := p.Follow(ledBy1(7)); err != nil {
		t.Fatal(err)
	}
	p.NextFetch()
	<-c.asked
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p.NextFetch() // and begins no other
}

type hangingTier struct {
	fakeCold
	asked chan struct{}
}

func (c *hangingTier) ColdEnd(ctx context.Context, _ record.TopicID, _ record.TopicPartition) (record.TieredEnd, error) {
	close(c.asked)
	<-ctx.Done()
	return record.TieredEnd{}, ctx.Err()
}

// A leader that has other records than the object store, or fewer, goes on after
// what is there; one that continues it stays as it is.
func TestLeaderBeginsAtTheTieredEnd(t *testing.T) {
	for _, c := range []struct {
		name  string
		end   record.TieredEnd
		stays bool
	}{
		{"nothing is tiered", record.TieredEnd{}, true},
		{"the same", record.TieredEnd{End: 6, Epochs: []record.EpochStart{{Epoch: 3, Start: 5}}}, true},
		{"all that was tiered is deleted", record.TieredEnd{Start: 6, End: 6}, true},
		{"the epoch is not known", record.TieredEnd{End: 6, Missing: errors.New("no manifest")}, true},
		{"another epoch", record.TieredEnd{End: 6, Epochs: []record.EpochStart{{Epoch: 4, Start: 5}}}, false},
		{"more", record.TieredEnd{End: 11, Epochs: []record.EpochStart{{Epoch: 3, Start: 10}}}, false},
		{"more, which is deleted", record.TieredEnd{Start: 11, End: 11}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Tiered = true
			p := open(t, t.TempDir(), cfg, Deps{Cold: &tier{}, Standby: true})
			defer p.Close()
			rec := replica.Record{Epoch: 3, Replicas: []record.BrokerID{0}, ISR: []record.BrokerID{0}}
			p.Lead(rec)
			for range 10 {
				if _, err := p.Append(plain(t, 1, "x"), Client); err != nil {
					t.Fatal(err)
				}
			}
			p.Rest()
			if err := p.BeginAtTiered(c.end); err != nil {
				t.Fatal(err)
			}
			want := record.Offset(10)
			if !c.stays {
				want = c.end.End
			}
			rec.Epoch = 5
			p.Lead(rec)
			if res, err := p.Append(plain(t, 1, "y"), Client); err != nil || res.BaseOffset != want {
				t.Fatalf("it goes on at %d, want %d: %v", res.BaseOffset, want, err)
			}
			if n := len(c.end.Epochs); !c.stays && n > 0 && p.EpochAt(want-1) != c.end.Epochs[n-1].Epoch {
				t.Errorf("offset %d is of epoch %d", want-1, p.EpochAt(want-1))
			}
		})
	}
}

// A leader that has just started knows of no high watermark, but of what is in
// object storage: a reader that gets that is not told that nothing is readable.
func TestHighWatermarkIsNotBelowTheTieredEnd(t *testing.T) {
	dir, cfg := t.TempDir(), testConfig()
	cfg.Tiered = true
	p := open(t, dir, cfg, Deps{Log: testLog})
	for range 10 {
		if _, err := p.Append(plain(t, 1, "value"), Client); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open(t, dir, cfg, Deps{Log: testLog, Standby: true})
	defer p.Close()
	p.SetTieredEnd(7)
	all := []record.BrokerID{0, 1, 2}
	p.Lead(replica.Record{Leader: 0, Epoch: 5, Revision: 1, Replicas: all, ISR: all, Unfenced: []int64{1, 1, 1}})
	if hw := p.State().HighWatermark; hw != 7 {
		t.Errorf("the high watermark is %d, want 7", hw)
	}
}
