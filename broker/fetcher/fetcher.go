// Package fetcher keeps the follower replicas of this broker in step with
// their leaders: connections to the other brokers, fetch sessions, and handing
// over what comes. What an answer means for a log is the replica's matter.
package fetcher

import (
	"context"
	"hash/maphash"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/broker/throttle"
	"github.com/firnlog/firn/record"
)

// Replica is a follower's log; *partition.Partition is the one implementation.
type Replica interface {
	TP() record.TopicPartition
	TopicID() record.TopicID
	// NextFetch gives what to ask the leader for; false while there is nothing
	// to ask.
	NextFetch() (ask replica.Ask, logStart record.Offset, ok bool)
	// Replicate takes in what the leader answered. Batches, the last of which
	// may be cut off, are not kept. Unless it gives an error, it calls durable
	// once, when all of the log survives or never will. Both errors say to ask
	// again later.
	Replicate(a replica.Answer, batches []byte, durable func(error)) error
}

// Config is fixed for a Fetcher's life.
type Config struct {
	BrokerID      record.BrokerID
	Connections   int           // to each leader (num.replica.fetchers), ≥ 1
	MaxBytes      int32         // of an answer (replica.fetch.response.max.bytes)
	PartitionMax  int32         // of a partition in it (replica.fetch.max.bytes)
	MaxWait       time.Duration // that the leader may wait for records (replica.fetch.wait.max.ms)
	Backoff       time.Duration // at most, before a partition or a leader is asked again after an error (replica.fetch.backoff.ms)
	SocketTimeout time.Duration // for a connection, and for an answer beyond MaxWait (replica.socket.timeout.ms)
}

// Deps are what a Fetcher uses.
type Deps struct {
	Log *slog.Logger // nil: slog.Default
	// Addr gives the host:port of a broker's Kafka listener, "" for one that
	// is not known.
	Addr func(record.BrokerID) string
	// Epoch gives this broker's epoch; 0: not registered.
	Epoch func() int64
	// Quota gives what bounds how fast a replica is copied; nil, or a nil
	// Quota: nothing does.
	Quota func(record.TopicID, record.PartitionID) *throttle.Quota
	// Dial connects to an address; nil: by TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Fetcher has the connections to all leaders. Its methods may be called from
// any goroutine.
type Fetcher struct {
	cfg  Config
	deps Deps
	ctx  context.Context
	end  context.CancelFunc
	done sync.WaitGroup

	mu     sync.Mutex
	links  map[linkKey]*link
	places map[key]*link // of each replica that is fetched
}

type linkKey struct {
	leader record.BrokerID
	n      int
}

// New makes a Fetcher without replicas.
func New(cfg Config, deps Deps) *Fetcher {
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	if deps.Dial == nil {
		deps.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}
	}
	if deps.Quota == nil {
		deps.Quota = func(record.TopicID, record.PartitionID) *throttle.Quota { return nil }
	}
	cfg.Connections = max(1, cfg.Connections)
	f := &Fetcher{cfg: cfg, deps: deps, links: map[linkKey]*link{}, places: map[key]*link{}}
	f.ctx, f.end = context.WithCancel(context.Background())
	return f
}

func keyOf(r Replica) key { return key{r.TopicID(), r.TP().Partition} }

var seed = maphash.MakeSeed()

// Follow has r fetch from leader, from now on and instead of what it did
// before. Call it again when r follows another leader epoch.
func (f *Fetcher) Follow(r Replica, leader record.BrokerID) {
	k := keyOf(r)
	lk := linkKey{leader, int(maphash.Comparable(seed, k) % uint64(f.cfg.Connections))}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return
	}
	if old := f.places[k]; old != nil && old.key != lk {
		f.removeLocked(k, old)
	}
	l := f.links[lk]
	if l == nil {
		l = newLink(f, lk)
		f.links[lk] = l
		f.done.Go(l.run)
	}
	f.places[k] = l
	l.set(k, &follower{Replica: r})
	following.Set(float64(len(f.places)))
}

// Stop ends the fetching of a partition. An answer that is being taken in may
// still be.
func (f *Fetcher) Stop(id record.TopicID, p record.PartitionID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := key{id, p}
	if l := f.places[k]; l != nil {
		f.removeLocked(k, l)
	}
	following.Set(float64(len(f.places)))
}

// removeLocked takes a replica from its link, which ends when it has no more.
func (f *Fetcher) removeLocked(k key, l *link) {
	delete(f.places, k)
	if l.set(k, nil) == 0 {
		delete(f.links, l.key)
		l.end()
	}
}

// Close ends all fetching, and waits for it.
func (f *Fetcher) Close() {
	f.mu.Lock()
	f.end()
	f.mu.Unlock()
	f.done.Wait()
}
