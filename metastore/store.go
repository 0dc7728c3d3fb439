package metastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/google/uuid"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Errors that callers act on.
var (
	// ErrConflict says that a compare-and-swap lost: what it compared has
	// changed or is gone. Nothing was written.
	ErrConflict = errors.New("metastore: conflict")
	// ErrClosed says that the store is closed.
	ErrClosed = errors.New("metastore: closed")
	// ErrNoSpace says that etcd's database has reached its quota: it refuses
	// to grow until compaction has made room.
	ErrNoSpace = errors.New("metastore: database quota reached")

	errCompacted = errors.New("metastore: revision was compacted")
)

// Defaults of Config.
const (
	DefaultLeaseTTL     = 10 * time.Second
	DefaultQuotaBytes   = 2 << 30
	DefaultCompactEvery = time.Minute

	minLeaseTTL   = 2 * time.Second
	minQuotaBytes = 16 << 20
	warnSlow      = time.Second
	closeRevoke   = 2 * time.Second // at most, for giving up the lease
)

// Config says where the metastore lives and who this broker is.
type Config struct {
	Dir          string          // the metastore's folder, made if missing; etcd's is below it
	BrokerID     record.BrokerID // ≥ 0
	Host         string          // advertised Kafka host
	Port         int32           // advertised Kafka port
	HTTP         string          // host:port of the HTTP listener
	Rack         string          // "" for none
	Deployment   string          // what it runs as, for those who roll out binaries and machines; at most MaxDeployment bytes, "" for not told
	Disk         string          // id of the data folder, a UUID's text
	Cache        string          // id of what the page cache may hold, a UUID's text: a new one when the machine was restarted
	LeaseTTL     time.Duration   // of the registration, whole seconds, ≥ 2 s; 0: DefaultLeaseTTL
	QuotaBytes   int64           // of etcd's database, ≥ 16 MiB; 0: DefaultQuotaBytes
	CompactEvery time.Duration   // between compactions; 0: DefaultCompactEvery
	// Cluster is nil for a broker on its own: etcd then has no listener.
	Cluster *Cluster
	// Copy says that Dir is the copy of a broker's folder, to be read: when it
	// was a member's, it is opened as a cluster of its own. Never the folder
	// itself, which could not go back to its cluster.
	Copy bool

	observeEvery time.Duration // between looks at etcd; tests set it
}

func (c *Config) validate() error {
	if c.LeaseTTL == 0 {
		c.LeaseTTL = DefaultLeaseTTL
	}
	if c.QuotaBytes == 0 {
		c.QuotaBytes = DefaultQuotaBytes
	}
	if c.CompactEvery == 0 {
		c.CompactEvery = DefaultCompactEvery
	}
	if c.observeEvery == 0 {
		c.observeEvery = min(observeEvery, c.CompactEvery)
	}
	switch {
	case c.Dir == "":
		return errors.New("metastore: no folder given")
	case c.BrokerID < 0:
		return fmt.Errorf("metastore: broker id %d is negative", c.BrokerID)
	case len(c.Deployment) > MaxDeployment:
		return fmt.Errorf("metastore: deployment %.40q… is longer than %d bytes", c.Deployment, MaxDeployment)
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("metastore: port %d is not a port", c.Port)
	case c.LeaseTTL < minLeaseTTL:
		return fmt.Errorf("metastore: lease TTL %v is below %v", c.LeaseTTL, minLeaseTTL)
	case c.QuotaBytes < minQuotaBytes:
		return fmt.Errorf("metastore: quota of %d bytes is below %d", c.QuotaBytes, minQuotaBytes)
	case c.CompactEvery < 0:
		return fmt.Errorf("metastore: compaction every %v", c.CompactEvery)
	}
	c.LeaseTTL = c.LeaseTTL.Round(time.Second) // etcd counts seconds
	if c.Cluster != nil {
		cl := *c.Cluster
		c.Cluster = &cl
		return c.Cluster.check()
	}
	return nil
}

// Deps holds what the store is given.
type Deps struct {
	Log *slog.Logger // nil: slog.Default()
}

// Store is the metastore of one broker. All methods may be called from many
// goroutines at once.
type Store struct {
	cfg Config
	log *slog.Logger
	srv *server

	seen        atomic.Pointer[Quorum] // what a client of the members saw last
	image       atomic.Pointer[Image]
	mu          sync.Mutex // guards the two below; never held across I/O
	published   chan struct{}
	subscribers []*subscriber
	notify      chan struct{} // capacity 1: an image or a subscriber is new

	session     session
	sessionDone chan struct{}   // keepAlive has ended
	keeping     context.Context // of the session: ends when Close begins
	endKeeping  context.CancelFunc
	changing    chan struct{} // capacity 1: held while partitions are added
	ids         chan struct{} // capacity 1: held while producer ids are taken

	stop     context.CancelFunc // ends the goroutines
	running  sync.WaitGroup
	closed   chan struct{}
	closing  sync.Once
	stopped  chan struct{} // etcd is down too
	closeErr error         // set before stopped is closed

	failed  chan struct{} // etcd has stopped
	failure atomic.Pointer[error]
}

// Open starts etcd in cfg.Dir, or connects to the members of the cluster, makes
// the cluster id if there is none yet, loads the Image and keeps it up to date.
// The store may read at once; topics are changed only after Register. In a
// cluster it returns when that is formed: most members run and have a leader.
// Meanwhile it says again and again what it waits for. ctx bounds the start
// only.
func Open(ctx context.Context, cfg Config, deps Deps) (*Store, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	log := deps.Log
	if log == nil {
		log = slog.Default()
	}
	srv, err := startServer(ctx, &cfg, log)
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, log: log, srv: srv,
		published: make(chan struct{}),
		notify:    make(chan struct{}, 1),
		changing:  make(chan struct{}, 1),
		ids:       make(chan struct{}, 1),
		closed:    make(chan struct{}),
		stopped:   make(chan struct{}),
		failed:    make(chan struct{}),

		sessionDone: make(chan struct{}),
	}
	s.session.went = make(chan struct{})
	s.session.renew = func(ctx context.Context, id clientv3.LeaseID) error {
		_, err := srv.cli.KeepAliveOnce(s.watched(ctx), id)
		return err
	}
	s.session.busy = make(chan struct{}, 1)
	s.session.collecting = make(chan struct{}, 1)
	s.image.Store(&Image{Controller: -1})
	k := &keeper{}
	if srv.etcd != nil {
		// A full database that can be made smaller must not prevent the start.
		s.logMaintain(s.look(ctx, k))
	}
	st, err := s.start(ctx)
	if err != nil {
		srv.close()
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.keeping, s.endKeeping = context.WithCancel(run)
	go func() {
		defer close(s.sessionDone)
		s.keepAlive(s.keeping)
	}()
	s.running.Go(func() { s.watch(run, st) })
	s.running.Go(s.callbacks)
	if srv.etcd != nil {
		s.running.Go(func() { s.maintain(run, k) })
		s.running.Go(func() { s.mind(run) })
	} else {
		s.running.Go(func() { s.follow(run) })
	}
	return s, nil
}

// start makes the cluster id and loads the first image.
func (s *Store) start(ctx context.Context) (*state, error) {
	if s.cfg.Cluster == nil { // else the members' forming makes it
		if _, err := ensureClusterID(ctx, s.srv); err != nil {
			return nil, err
		}
	}
	for {
		st, err := s.reload(ctx, nil)
		if err == nil || s.srv.solitary() || !transient(err) || ctx.Err() != nil {
			return st, err
		}
	}
}

// ensureClusterID makes the cluster id if there is none, and gives it.
func ensureClusterID(ctx context.Context, srv *server) (string, error) {
	mine := record.TopicID(newUUID()).String()
	var resp *clientv3.TxnResponse
	_, err := try(ctx, srv, func(ctx context.Context) (err error) {
		resp, err = srv.cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(clusterKey), "=", 0)).
			Then(clientv3.OpPut(clusterKey, string(encodeClusterID(mine)))).
			Else(clientv3.OpGet(clusterKey)).Commit()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("metastore: make cluster id: %w", mapError(err))
	}
	if resp.Succeeded {
		return mine, nil
	}
	return decodeClusterID(resp.Responses[0].GetResponseRange().Kvs[0].Value)
}

// mind waits for etcd to stop by itself, which it does when this member is
// removed from the cluster: then its folder goes when the store closes.
func (s *Store) mind(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-s.srv.down:
	}
	err := errors.New("metastore: the embedded etcd stopped by itself; its log lines above say why")
	m := s.asMember()
	if s.cfg.Cluster.isMember() && m.removed(context.WithoutCancel(ctx)) {
		s.srv.close()
		err = m.wipe()
	}
	s.failure.Store(&err)
	close(s.failed)
}

func (s *Store) asMember() *member {
	return &member{cfg: &s.cfg, home: filepath.Join(s.cfg.Dir, "etcd"), log: s.log}
}

// Image is the newest metadata. It is never nil and never changed.
func (s *Store) Image() *Image { return s.image.Load() }

// Done is closed when the store has closed, or its etcd has stopped by itself:
// then nothing of the store works any more and the broker had better end too.
func (s *Store) Done() <-chan struct{} { return s.failed }

// Err says why etcd stopped by itself, once Done is closed; it wraps ErrRemoved
// when this broker's member was removed from the cluster. It is nil before, and
// after Close.
func (s *Store) Err() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Close gives up this broker's registration, stops etcd and waits until its
// files are synced and closed. It must not be called from an OnChange callback:
// it waits for those. When ctx ends first, Close returns its error
// and the rest goes on behind. Later calls wait for the first and give the
// same result.
func (s *Store) Close(ctx context.Context) error {
	s.closing.Do(func() {
		close(s.closed)
		go func() {
			defer close(s.stopped)
			s.endKeeping()
			<-s.sessionDone
			s.session.busy <- struct{}{}
			s.closeErr = s.endSession(ctx)
			s.stop()
			s.running.Wait()
			s.srv.close()
			if s.failure.Load() == nil {
				close(s.failed)
			}
		}()
	})
	select {
	case <-s.stopped:
		return s.closeErr
	case <-ctx.Done():
		return fmt.Errorf("metastore: close: %w", context.Cause(ctx))
	}
}

// outcome is what a transaction gave.
type outcome struct {
	*clientv3.TxnResponse
	// unsure says that an earlier attempt of the same transaction may have been
	// done: when its compare failed, that may be the reason.
	unsure bool
}

// txn runs one transaction, again while etcd has no leader, and measures it.
func (s *Store) txn(ctx context.Context, name string, cmps []clientv3.Cmp, then, otherwise []clientv3.Op) (out outcome, err error) {
	begin := time.Now()
	out.unsure, err = try(ctx, s.srv, func(ctx context.Context) (err error) {
		out.TxnResponse, err = s.srv.cli.Txn(ctx).If(cmps...).Then(then...).Else(otherwise...).Commit()
		return err
	})
	observeTxn(name, time.Since(begin), err)
	if out.unsure {
		metricUnsure.Inc()
	}
	return out, s.callError(err)
}

// callError is an error of etcd as callers see it.
func (s *Store) callError(err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-s.closed:
		return ErrClosed
	default:
	}
	return mapError(err)
}

// mapError turns etcd's errors into ours where callers tell them apart.
func mapError(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.Is(err, rpctypes.ErrCompacted):
		return fmt.Errorf("%w: %w", errCompacted, err)
	}
	return err
}

// newUUID makes a random UUID that in Kafka's text form (URL-safe base64) does
// not begin with '-', which command lines would take for a flag. It is never
// one of the two reserved ids, which are not version 4.
func newUUID() uuid.UUID {
	for {
		// The first six bits make the first character; '-' is 62.
		if id := uuid.New(); id[0]>>2 != 62 {
			return id
		}
	}
}
