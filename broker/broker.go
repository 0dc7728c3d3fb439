// Package broker is one Firn broker: its root wires metastore, partitions,
// tiering, groups, the API and the listeners together, and holds no logic of
// theirs. Open builds everything, Serve answers clients, Close stops in the
// order that loses nothing.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/firnlog/firn/broker/api"
	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/controller"
	"github.com/firnlog/firn/broker/fetcher"
	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering"
)

// Config is a broker's settings as plain values; package config reads them
// from flags, environment and file.
type Config struct {
	NodeID      int32             // this broker's id, ≥ 0
	DataDir     string            // everything on local disk is below it
	Kafka       string            // HOST:PORT that Kafka clients connect to; port 0 takes a free one
	Advertise   string            // HOST:PORT that Metadata names; "" is Kafka's
	HTTP        string            // HOST:PORT of health, metrics and admin; port 0 takes a free one
	Rack        string            // "" for none
	Deployment  string            // what it runs as, shown by cluster nodes; "" for not told
	Seeds       []string          // HOST:PORT of the cluster's etcd members; none for a broker on its own
	Peer        string            // HOST:PORT of this broker's etcd member, when it is one of Seeds
	PeerClient  string            // HOST:PORT where that answers other brokers; "": Peer's host and the port below
	Configs     map[string]string // broker configs given at the start, by name; package brokerconfig checks them
	CacheBytes  int64             // local disk for chunks of cold objects
	CacheMemory int64             // memory for chunks of cold objects; 0 is package cache's default
	UploadCheck time.Duration     // how often sealed segments are looked for
	UploadWait  time.Duration     // how long a small segment waits for others to share an object with, and one that may go from local disk for more records; <0 not at all
}

// Deps are what a broker uses and does not make.
type Deps struct {
	Log      *slog.Logger
	Store    objectstore.Store // closed by the broker
	StoreURL string            // for people to read, without credentials
	LogLevel *slog.LevelVar    // Log's level; nil: clients cannot change it
}

// Broker is a running broker.
type Broker struct {
	cfg      Config
	log      *slog.Logger
	storeURL string
	store    objectstore.Store

	configs         *configs
	kafkaLn, httpLn net.Listener
	meta            *metastore.Store
	tier            *tiering.Manager
	cache           *cache.Cache
	groups          *groups
	journal         *journal.Journal
	topics          *topics
	fetcher         *fetcher.Fetcher
	throttles       *throttles
	isr             *isrChanges
	controller      *controller.Controller
	balancer        *controller.Balancer
	traffic         *traffic
	neighbours      *neighbours
	background      sync.WaitGroup // of isr
	endBackground   context.CancelFunc
	wire            *wire.Server
	http            *http.Server
	series          *metrics.Set // what clients pushed, on /metrics

	storeErr atomic.Pointer[string] // why the store cannot be used, nil: it can, or is not known yet
	ready    atomic.Bool
	failed   chan struct{} // closed by the first failure
	mu       sync.Mutex    // guards err
	err      error         // why the broker cannot go on

	powerLost bool // the machine was restarted since the data folder was last used

	unwatch func()
}

// Open makes everything ready to serve: sockets bound, etcd running,
// partitions recovered, the broker registered. On an error nothing is left
// running. Errors name the folder, file or address at fault.
func Open(ctx context.Context, cfg Config, deps Deps) (_ *Broker, err error) {
	b := &Broker{cfg: cfg, log: deps.Log, store: deps.Store, storeURL: deps.StoreURL, failed: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close(context.WithoutCancel(ctx)))
		}
	}()
	if b.configs, err = newConfigs(cfg.Configs, b.log); err != nil {
		return nil, err
	}
	if b.kafkaLn, err = net.Listen("tcp", cfg.Kafka); err != nil {
		return nil, fmt.Errorf("listen for Kafka clients on %s: %w (choose another address with --kafka)", cfg.Kafka, err)
	}
	if b.httpLn, err = net.Listen("tcp", cfg.HTTP); err != nil {
		return nil, fmt.Errorf("listen for HTTP on %s: %w (choose another address with --http)", cfg.HTTP, err)
	}
	if err := b.openMetastore(ctx); err != nil {
		return nil, err
	}
	if err := b.openTiering(ctx); err != nil {
		return nil, err
	}
	if err := b.openPartitions(ctx); err != nil {
		return nil, err
	}
	sessions := b.configs.values().Fetch.Sessions
	if sessions == 0 {
		sessions = -1 // what package api calls none
	}
	handler := api.New(api.Config{
		BrokerID:      record.BrokerID(cfg.NodeID),
		LogDir:        b.topics.dir,
		MaxFetchBytes: b.configs.values().Fetch.MaxBytes,
		FetchSessions: sessions,
	}, api.Deps{
		Log:                b.log,
		Meta:               b.meta,
		Partitions:         b.topics,
		Groups:             b.groups.coord,
		Tier:               b.tier,
		EnsureOffsetsTopic: b.groups.ensureTopic,
		Config:             b.configs.values,
		LeaderQuota:        b.throttles.leader,
		Traffic:            b.traffic.of,
		LogLevel:           deps.LogLevel,
	})
	b.wire = wire.NewServer(wireConfig(b.configs.values()), wire.Deps{Log: b.log, Handler: handler})
	b.series = metrics.NewSet()
	b.series.RegisterMetricsWriter(handler.WriteMetrics)
	b.series.RegisterMetricsWriter(b.writeCounts)
	metrics.RegisterSet(b.series)
	b.http = b.httpServer()
	// Calls come from one goroutine; the image of this moment comes first.
	b.startReplication()
	b.unwatch = b.meta.OnChange(b.apply)
	if err := b.meta.Register(ctx); err != nil {
		return nil, fmt.Errorf("register this broker: %w", err)
	}
	select {
	case <-b.topics.acted:
	case <-b.failed:
		return nil, b.failure()
	case <-ctx.Done():
		return nil, fmt.Errorf("no controller has taken this broker in: %w", context.Cause(ctx))
	}
	return b, nil
}

// startReplication starts what decides who leads, and what follows from it.
func (b *Broker) startReplication() {
	ctx, cancel := context.WithCancel(context.Background())
	b.endBackground = cancel
	b.background.Go(func() { b.isr.run(ctx) })
	b.background.Go(func() { b.traffic.run(ctx, b.topics.all) })
	b.neighbours = newNeighbours(record.BrokerID(b.cfg.NodeID), b.meta.RevokeRegistration, b.log)
	b.controller = controller.New(controller.Deps{
		Log:  b.log,
		Meta: b.meta,
		Node: record.BrokerID(b.cfg.NodeID),
		Topics: func(t *metastore.Topic) controller.Topic {
			cfg, err := topicconfig.Parse(t.Configs, b.configs.values().TopicDefaults())
			if err != nil {
				cfg, _ = topicconfig.Parse(nil, nil)
			}
			return controller.Topic{MinInsync: cfg.MinInSyncReplicas, Unclean: cfg.UncleanElection, Fsync: cfg.Partition.Fsync || t.Internal}
		},
		Preferred: func() time.Duration {
			if r := b.configs.values().Replication; r.Rebalance {
				return r.RebalanceEvery
			}
			return 0
		},
	})
	b.balancer = controller.NewBalancer(controller.BalancerDeps{
		Log:  b.log,
		Meta: b.meta,
		Config: func() controller.BalanceConfig {
			v := b.configs.values().Balance
			return controller.BalanceConfig{On: v.On, Delay: v.Delay, Moves: v.Moves, Drained: v.Drained}
		},
		Loads: b.loads,
	})
}

// address is where the other brokers reach a broker, "" for one that is not
// registered.
func (b *Broker) address(id record.BrokerID) string {
	o, ok := b.meta.Image().Brokers[id]
	if !ok {
		return ""
	}
	return o.Addr()
}

func (b *Broker) openMetastore(ctx context.Context) (err error) {
	advertise := b.cfg.Advertise
	if advertise == "" {
		advertise = b.kafkaLn.Addr().String()
	}
	host, portText, err := net.SplitHostPort(advertise)
	if err != nil {
		return fmt.Errorf("advertised address %q: %w", advertise, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return fmt.Errorf("advertised address %q: the port is not a number", advertise)
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		return fmt.Errorf("advertised address %q cannot be connected to: name this machine with --advertise HOST:PORT", advertise)
	}
	if b.powerLost, err = restarted(b.cfg.DataDir); err != nil {
		return err
	}
	disk, cache, err := contents(b.cfg.DataDir, b.powerLost)
	if err != nil {
		return err
	}
	b.meta, err = metastore.Open(ctx, metastore.Config{
		Dir:        filepath.Join(b.cfg.DataDir, "etcd"),
		Cluster:    b.cluster(),
		BrokerID:   record.BrokerID(b.cfg.NodeID),
		Host:       host,
		Port:       int32(port),
		HTTP:       reachable(b.httpLn.Addr().String(), host),
		Rack:       b.cfg.Rack,
		Deployment: b.cfg.Deployment,
		Disk:       disk,
		Cache:      cache,
	}, metastore.Deps{Log: b.log})
	if err != nil {
		return fmt.Errorf("metadata in %s: %w", filepath.Join(b.cfg.DataDir, "etcd"), err)
	}
	b.configs.identify(b.cfg, b.kafkaLn.Addr().String(), metastore.Broker{Host: host, Port: int32(port)})
	b.configs.update(b.meta.Image())
	return checkIdentity(b.cfg.DataDir, b.meta.Image().ClusterID, b.cfg.NodeID, disk, cache, b.cfg.Seeds)
}

// reachable is where others reach an address that is listened on: by the
// advertised host where it is every address of the machine.
func reachable(listen, host string) string {
	h, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(h); err != nil || ip == nil || !ip.IsUnspecified() {
		return listen
	}
	return net.JoinHostPort(host, port)
}

func (b *Broker) openTiering(ctx context.Context) (err error) {
	b.cache, err = cache.Open(cache.Config{Dir: filepath.Join(b.cfg.DataDir, "cache"), MaxBytes: b.cfg.CacheBytes, MemoryBytes: b.cfg.CacheMemory}, b.log)
	if err != nil {
		return fmt.Errorf("chunk cache: %w", err)
	}
	b.tier, err = tiering.Open(ctx, tiering.Config{Every: b.cfg.UploadCheck, PackWait: b.cfg.UploadWait, ReadaheadKept: b.cache.MemoryChunks()}, tiering.Deps{
		Log:       b.log,
		Store:     b.store,
		Meta:      b.meta,
		Cache:     b.cache,
		ClusterID: b.meta.Image().ClusterID,
	})
	return err
}

// openPartitions brings the partitions to what the metastore says.
func (b *Broker) openPartitions(ctx context.Context) error {
	offsetsParts := b.configs.values().Groups.OffsetsPartitions
	if ot := b.meta.Image().Topics[offsetsTopic]; ot != nil && len(ot.Partitions) != int(offsetsParts) {
		// Where a group's offsets are follows from how many partitions there
		// are, so the setting counts only when the topic is made.
		b.log.Warn("the topic of group offsets has another number of partitions than offsets.topic.num.partitions says; the topic's counts",
			"topic", offsetsTopic, "partitions", len(ot.Partitions), "config", offsetsParts)
		offsetsParts = int32(len(ot.Partitions))
	}
	coord := group.New(groupConfig(b.configs.values(), offsetsParts), group.Deps{Log: b.log, TopicID: topicID(b.meta)})
	b.groups = newGroups(coord, b.meta, record.BrokerID(b.cfg.NodeID), offsetsParts, b.log)
	b.groups.members = len(b.cfg.Seeds)
	b.groups.replicas = b.configs.values().Groups.OffsetsReplicas
	b.groups.drained = func() []int32 { return b.configs.values().Balance.Drained }
	b.groups.segmentBytes = b.configs.values().Groups.OffsetsSegmentBytes
	if err := b.openJournal(); err != nil {
		return err
	}
	logs := filepath.Join(b.cfg.DataDir, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil { // also where there is no partition yet: clients ask for its room
		return fmt.Errorf("folder of the partitions' logs: %w", err)
	}
	b.topics = newTopics(logs, record.BrokerID(b.cfg.NodeID), b.log, b.tier, b.groups, b.fail, max(0, b.cfg.UploadWait))
	b.topics.journal, b.topics.powerLost = b.journal, b.powerLost
	b.traffic = newTraffic()
	b.throttles = newThrottles(record.BrokerID(b.cfg.NodeID))
	r := b.configs.values().Replication
	b.fetcher = fetcher.New(fetcher.Config{
		BrokerID:    record.BrokerID(b.cfg.NodeID),
		Connections: r.Fetchers, MaxBytes: r.MaxBytes, PartitionMax: r.PartitionMaxBytes,
		MaxWait: r.MaxWait, Backoff: r.Backoff, SocketTimeout: r.SocketTimeout,
	}, fetcher.Deps{Log: b.log, Addr: b.address, Epoch: b.meta.BrokerEpoch, Quota: b.throttles.follower})
	b.isr = newISRChanges(b.meta, b.log)
	b.isr.all, b.isr.every = b.topics.all, func() time.Duration { return b.configs.values().Replication.Lag / 2 }
	b.topics.fetcher, b.topics.epoch, b.topics.isrWanted = b.fetcher, b.meta.BrokerEpoch, b.isr.wanted
	b.groups.await = b.topics.AwaitApplied
	img := b.meta.Image()
	b.throttles.update(img, b.configs.values())
	if err := b.topics.setStraysAside(img); err != nil {
		return fmt.Errorf("folders of deleted topics: %w", err)
	}
	b.topics.cleaner.SetConfig(cleanerConfig(b.configs.values()))
	b.topics.apply(img, b.configs.values())
	for _, p := range b.journal.Unclaimed() {
		if img.TopicIDs[p.Topic] == nil { // deleted; that of a partition which did not open waits for it
			b.journal.Drop(p)
		}
	}
	if err := noteStart(b.cfg.DataDir); err != nil {
		return err
	}
	return ctx.Err()
}

// openJournal opens the disk's journal.
func (b *Broker) openJournal() (err error) {
	dir := filepath.Join(b.cfg.DataDir, "journal")
	files := max(4, int(b.configs.values().Storage.JournalBytes/journalFile))
	b.journal, err = journal.Open(dir, journal.Config{FileBytes: journalFile, Files: files}, journal.Deps{
		Log: b.log,
		Failed: func(err error) {
			b.fail(fmt.Errorf("the journal's disk failed, so nothing more can be acknowledged as durable: %w", err))
		},
	})
	return err
}

// journalFile is the size of one file of the journal.
const journalFile = 32 << 20

// apply brings broker configs and partitions to what the metadata says.
func (b *Broker) apply(img *metastore.Image) {
	was := b.configs.values()
	v := b.configs.update(img)
	if v != was {
		b.wire.SetConfig(wireConfig(v))
		b.groups.coord.SetConfig(groupConfig(v, b.groups.parts))
		b.topics.cleaner.SetConfig(cleanerConfig(v))
	}
	b.throttles.update(img, v)
	b.topics.apply(img, v)
	b.neighbours.apply(img)
}

// KafkaAddr is the address that Kafka clients connect to.
func (b *Broker) KafkaAddr() net.Addr { return b.kafkaLn.Addr() }

// HTTPAddr is the address of health, metrics and admin.
func (b *Broker) HTTPAddr() net.Addr { return b.httpLn.Addr() }

// ClusterID is the id that the cluster was given when it first started.
func (b *Broker) ClusterID() string { return b.meta.Image().ClusterID }

// fail notes why the broker cannot go on and ends Serve with it.
func (b *Broker) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
		close(b.failed)
	}
}

func (b *Broker) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Serve answers clients until ctx ends (then it returns nil) or the broker
// cannot go on: a listener or a disk failed. Close must follow in any case.
func (b *Broker) Serve(ctx context.Context) error {
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { b.retention(ctx) })
	wg.Go(func() { b.topics.cleaner.Run(ctx) })
	wg.Go(func() { b.followTiers(ctx) })
	wg.Go(func() { b.probeStore(ctx) })
	go func() {
		if err := b.http.Serve(b.httpLn); !errors.Is(err, http.ErrServerClosed) {
			b.fail(fmt.Errorf("HTTP on %s: %w", b.httpLn.Addr(), err))
		}
	}()
	go func() {
		if err := b.wire.Serve(b.kafkaLn); err != nil && !errors.Is(err, net.ErrClosed) {
			b.fail(fmt.Errorf("Kafka clients on %s: %w", b.kafkaLn.Addr(), err))
		}
	}()
	b.ready.Store(true)
	defer b.ready.Store(false)
	select {
	case <-ctx.Done():
		return nil
	case <-b.failed:
		return b.failure()
	case <-b.meta.Done():
		return b.meta.Err()
	}
}

const (
	probeTimeout = 30 * time.Second
	probeAgain   = 30 * time.Second
)

// probeStore asks the object store for one page of its listing until it
// answers: a wrong URL or credential is told at the start, not when the first
// upload is due. The broker works without the store, but nothing local goes.
func (b *Broker) probeStore(ctx context.Context) {
	for {
		err := b.askStore(ctx)
		if ctx.Err() != nil {
			return
		}
		was := b.storeErr.Load()
		if err == nil {
			b.storeErr.Store(nil)
			if was != nil {
				b.log.Info("the object store can be used now", "store", b.storeURL)
			}
			return
		}
		text := err.Error()
		b.storeErr.Store(&text)
		if was == nil {
			b.log.Error("the object store cannot be used: records stay on local disk, and what only the store has cannot be read; it is tried again", "store", b.storeURL, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(probeAgain):
		}
	}
}

func (b *Broker) askStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for _, err := range b.store.List(ctx, "", "") {
		return err
	}
	return nil
}

// drainFor is how long requests in flight may take to be answered at a stop;
// what still waits then is a poll or a join, which clients repeat.
const drainFor = time.Second

// retention looks after every open partition again and again.
func (b *Broker) retention(ctx context.Context) {
	every := time.NewTicker(b.configs.values().Topics.RetentionCheck)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-every.C:
			b.topics.all(func(p *partition.Partition) {
				if _, err := p.RunRetention(now); err != nil && ctx.Err() == nil {
					b.log.Warn("retention of a partition failed; it is tried again", "partition", p.TP().String(), "error", err)
				}
			})
		}
	}
}

// followTiersEvery is how often followers hear of what their leaders have put
// into the object store.
const followTiersEvery = time.Minute

// followTiers tells the followers of tiered topics, one after another, so that
// their local copies go as those of their leaders do.
func (b *Broker) followTiers(ctx context.Context) {
	every := time.NewTicker(followTiersEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		b.topics.all(func(p *partition.Partition) {
			if ctx.Err() != nil || p.Leads() || !p.Config().Tiered {
				return
			}
			if err := errors.Join(b.tier.Follow(p), b.tier.Tell(ctx, p)); err != nil && ctx.Err() == nil {
				b.log.Warn("a follower cannot be told what is in the object store; it is tried again", "partition", p.TP().String(), "error", err)
			}
		})
	}
}

// Close stops the broker in the order that loses nothing: leaderships, groups, clients,
// uploads, partitions synced, leases revoked and etcd stopped, the store. It
// may be called after a failed Open or before Serve.
func (b *Broker) Close(ctx context.Context) error {
	var errs []error
	note := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	b.ready.Store(false)
	if b.meta != nil && b.neighbours != nil && b.failure() == nil {
		b.leave(ctx)
	}
	if b.groups != nil {
		b.groups.close() // first: joins that wait are answered
	}
	if b.wire != nil {
		drain, cancel := context.WithTimeout(ctx, drainFor)
		if err := b.wire.Close(drain); !errors.Is(err, context.DeadlineExceeded) {
			note("stop the Kafka listener", err)
		}
		cancel()
	}
	for _, ln := range []net.Listener{b.kafkaLn, b.httpLn} {
		if ln != nil {
			ln.Close() // closed already by its server, as a rule
		}
	}
	if b.unwatch != nil {
		b.unwatch()
	}
	if b.balancer != nil {
		b.balancer.Close()
	}
	if b.controller != nil {
		b.controller.Close()
	}
	if b.neighbours != nil {
		b.neighbours.close()
	}
	if b.endBackground != nil {
		b.endBackground()
		b.background.Wait()
	}
	if b.fetcher != nil {
		b.fetcher.Close()
	}
	if b.series != nil {
		metrics.UnregisterSet(b.series, true)
	}
	if b.topics != nil {
		b.topics.stop()
	}
	if b.tier != nil {
		note("stop tiering", b.tier.Close(ctx))
	}
	if b.topics != nil {
		note("close partitions", b.topics.close())
	}
	if b.journal != nil {
		note("close the journal", b.journal.Close())
	}
	if b.cache != nil {
		note("close the chunk cache", b.cache.Close())
	}
	if b.meta != nil {
		note("stop etcd", b.meta.Close(ctx))
	}
	if b.store != nil {
		note("close the object store", b.store.Close())
	}
	if b.http != nil {
		note("stop HTTP", b.http.Shutdown(ctx))
	}
	return errors.Join(errs...)
}
