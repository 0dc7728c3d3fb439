package metastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// MaxTxnOps is the greatest number of operations in one etcd transaction.
const MaxTxnOps = 1024

// ErrLocked says that another process has the metastore's folder open.
var ErrLocked = errors.New("metastore: folder is in use by another process")

// server is what of etcd runs in this process: a member with all of it, or only
// a client of the members.
//
// A broker on its own has no listener at all, neither for peers nor for
// clients: the only client is this process, and it calls etcd's functions
// directly. So there is no port to choose, and nothing that another user of the
// machine could talk to. The advertised URLs are placeholders that etcd insists
// on.
//
// A member of a cluster listens for its peers, and for the brokers that are
// clients. In its own process it is called directly, too.
type server struct {
	cli   *clientv3.Client // of the member in this process, or over the network to all members
	etcd  *embed.Etcd      // nil: this broker is a client
	alone bool             // a broker without a cluster
	lock  *os.File
	down  chan struct{} // closed when etcd no longer serves this process
	once  sync.Once

	// A member that stops by itself closes its database, and a call that then
	// reads from it would panic: calls are counted, and it stops after them.
	mu    sync.RWMutex // guards the two below; never held across I/O
	shut  bool         // no more calls
	grpc  *grpc.Server // for clients over the network, nil without
	calls sync.WaitGroup
}

var segmentSize sync.Once

// startServer starts etcd, or a client of it, and waits until it answers. One
// process at a time has the folder: dir/LOCK is held by flock, which the kernel
// gives up when the process dies, however it dies.
func startServer(ctx context.Context, cfg *Config, log *slog.Logger) (*server, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("metastore: make folder: %w", err)
	}
	lock, err := lockFolder(cfg.Dir)
	if err != nil {
		return nil, err
	}
	m := &member{cfg: cfg, home: filepath.Join(cfg.Dir, "etcd"), log: log}
	srv, err := m.start(ctx)
	if err != nil {
		lock.Close()
		return nil, err
	}
	srv.lock = lock
	return srv, nil
}

// running makes the server of an etcd that answers.
func running(e *embed.Etcd, alone bool) *server {
	srv := &server{etcd: e, alone: alone, cli: v3client.New(e.Server), down: make(chan struct{})}
	e.Server.GoAttach(func() { // etcd waits for it before it closes its database
		<-e.Server.StoppingNotify()
		srv.mu.Lock()
		srv.shut = true
		g := srv.grpc
		srv.mu.Unlock()
		if g != nil {
			g.Stop()
		}
		srv.calls.Wait() // they see StoppingNotify, too
	})
	go func() {
		<-e.Server.StopNotify()
		close(srv.down)
	}()
	return srv
}

// enter notes a call of this process's member that is under way until leave.
// ok is false when the member stops.
func (s *server) enter() (leave func(), ok bool) {
	if s == nil || s.etcd == nil {
		return func() {}, true
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.shut {
		return nil, false
	}
	s.calls.Add(1)
	return s.calls.Done, true
}

// serve answers clients over the network from ln, which it closes at the end.
func (s *server) serve(g *grpc.Server, ln net.Listener) {
	s.mu.Lock()
	shut := s.shut
	s.grpc = g
	s.mu.Unlock()
	if shut {
		g.Stop()
		ln.Close()
		return
	}
	go func() { _ = g.Serve(ln) }() // ends with its Stop, or says that nobody can connect any more: Health shows it
}

// launch starts etcd and waits until it answers, which a member of several
// does when most of them run.
func launch(ctx context.Context, c *embed.Config) (*embed.Etcd, error) {
	// etcd allocates two write-ahead files in advance. 64 MB each is much for
	// a broker that has one topic, and slow on a disk without fallocate.
	segmentSize.Do(func() { wal.SegmentSizeBytes = 16 << 20 })
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, fmt.Errorf("metastore: start etcd in %s: %w", c.Dir, err)
	}
	select {
	case <-e.Server.ReadyNotify():
		return e, nil
	case <-e.Server.StopNotify():
		err = errStoppedItself
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	e.Close()
	return nil, fmt.Errorf("metastore: etcd in %s does not get ready: %w", c.Dir, err)
}

var errStoppedItself = errors.New("it stopped by itself")

// dropUnused removes an etcd folder from which nothing was ever promised.
//
// A member that is killed before its very first write is whole never elects a
// leader again: its write-ahead log exists, so etcd takes it for a member that
// restarts, but holds no membership. Such a log has no raft state yet, and
// before that is on disk a member sends nothing to anybody: no vote, no
// acknowledgement. So it may begin anew under the same name.
func dropUnused(home string, log *slog.Logger) error {
	if _, err := os.Lstat(home); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	snapshots, err := filepath.Glob(filepath.Join(home, "member", "snap", "*.snap"))
	if err != nil || len(snapshots) > 0 {
		return err // it has long been in use
	}
	used, err := walUsed(filepath.Join(home, "member", "wal"))
	if err != nil || used {
		return err
	}
	log.Info("an unfinished first start of etcd is begun anew", "folder", home)
	return os.RemoveAll(home)
}

// walUsed says whether a write-ahead log holds raft's state. What cannot be
// read is left for etcd to judge.
func walUsed(dir string) (bool, error) {
	if !wal.Exist(dir) {
		return false, nil
	}
	w, err := wal.OpenForRead(zap.NewNop(), dir, &walpb.Snapshot{})
	if err != nil {
		return true, nil
	}
	defer func() { _ = w.Close() }() // was only read
	_, state, _, err := w.ReadAll()
	return err != nil || state.GetTerm() > 0 || state.GetCommit() > 0, nil
}

// close stops etcd: it waits for requests under way, syncs and closes the
// files. Later calls do nothing (etcd itself must not be closed twice).
func (s *server) close() {
	s.once.Do(func() {
		_ = s.cli.Close() // reports only that its own context was cancelled
		if s.etcd == nil {
			close(s.down)
		} else {
			_ = s.handOver()         // or the others elect
			s.etcd.Server.HardStop() // else Close tries to hand over, too, and for long
			s.etcd.Close()
			<-s.down
		}
		if s.lock != nil {
			s.lock.Close()
		}
	})
}

// handOver gives etcd's leadership to another voter while this member still
// answers, so that nobody waits for an election when it stops.
func (s *server) handOver() error {
	srv := s.etcd.Server
	self := srv.MemberID()
	select {
	case <-srv.StoppingNotify():
		return nil
	default:
	}
	if srv.Leader() != self {
		return nil
	}
	err := errNobody
	for _, m := range srv.Cluster().Members() {
		if m.ID == self || m.IsLearner {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), handOverFor)
		err = srv.MoveLeader(ctx, uint64(self), uint64(m.ID))
		cancel()
		if err == nil || srv.Leader() != self {
			return nil
		}
	}
	return err
}

var errNobody = errors.New("metastore: there is no other voter")

const handOverFor = 10 * clusterTick // to one voter; it needs a tick or two

func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("metastore: open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
		}
		return nil, fmt.Errorf("metastore: lock %s: %w", dir, err)
	}
	return f, nil
}

// etcdConfig is what all members have in common; see solitary and clustered.
func etcdConfig(dir string, quota int64, log *slog.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Dir = dir
	c.ListenPeerUrls, c.ListenClientUrls = nil, nil
	c.EnableGRPCGateway = false

	// An entry may hold a pointer of 64 KiB. What is kept in memory for slow
	// followers and replayed at a start is bounded by these.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 2000, 500
	c.MaxSnapFiles, c.MaxWalFiles = 2, 2

	c.QuotaBackendBytes = quota
	c.MaxTxnOps = MaxTxnOps
	c.BackendFreelistType = "map"
	c.AutoCompactionRetention = "0" // maintain does it
	// Slow disks are seen in firn_metastore_txn_seconds; a warning is for
	// what an operator should look at.
	c.WarningApplyDuration = warnSlow
	c.WarningUnaryRequestDuration = warnSlow
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(zapBridge{log: log.With("component", "etcd")}))
	return c
}

// solitary is the configuration of a broker without a cluster.
func solitary(dir string, quota int64, log *slog.Logger) *embed.Config {
	c := etcdConfig(dir, quota, log)
	c.Name = "firn"
	placeholder := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = placeholder, placeholder
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.InitialClusterToken = uuid.NewString() // read at the very first start only

	// A single member elects itself 1 to 5 ticks after its start, and nobody
	// can win against it. 20 ms make the start quick; shorter ticks would show
	// in the CPU time of an idle broker (1 % of a core at 10 ms).
	c.TickMs, c.ElectionMs = 20, 100
	c.PreVote = false
	return c
}

// zapBridge passes etcd's log lines of level WARN and up to slog. For fatal
// ones zap itself ends the process after they are written: etcd logs such a
// line when the disk refuses its write-ahead log, where nothing that follows
// could be promised to anybody.
type zapBridge struct{ log *slog.Logger }

// notForUs are lines about how we run etcd, which is on purpose, and about
// versions in its files, which a new member looks for before its first commit
// and then again every few seconds.
var notForUs = map[string]bool{
	"Failed to detect schema version":                                                      true,
	"failed to update storage version":                                                     true,
	"failed to update cluster version":                                                     true, // cut off by a quick Close; tried again at the next start
	"server has stopped; skipping GoAttach":                                                true, // at a quick Close
	"setting up serving from embedded etcd failed.":                                        true, // at a Close: the listener was closed
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"simple token is not cryptographically signed":                                         true,
}

// aboutPeers are lines of a member whose peers come and go, many for each; who
// leads is logged by Store.look.
var aboutPeers = map[string]bool{
	"lost TCP streaming connection with remote peer":             true,
	"closed TCP streaming connection with remote peer":           true,
	"peer became inactive (message send to peer failed)":         true,
	"failed to find remote peer in cluster":                      true,
	"prober detected unhealthy status":                           true,
	"prober found high clock drift":                              true,
	"dropped internal Raft message since sending buffer is full": true,
	"waiting for ReadIndex response took too long, retrying":     true,
	"failed to reach the peer URL":                               true,
	"failed to get version":                                      true,
	"failed to publish local member to cluster through raft":     true,
	"rejected connection":                                        true,
	"retrying of unary invoker failed":                           true,
	"request stats":                                              true,
	"leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk":                true,
	"rejected stream from remote peer because it was removed":                                                               true,
	"rejected Raft message from removed member":                                                                             true,
	"skipped attributes update of removed member":                                                                           true,
	"failed to process Raft message":                                                                                        true,
	"rejecting member remove request; local member has not been connected to all peers, reconfigure breaks active quorum":   true,
	"rejecting member add request; local member has not been connected to majority peers, reconfigure breaks active quorum": true,
	"rejecting promote learner: learner is not ready":                                                                       true,
	"failed to promote a member":                                                                                            true,
	"server error":                                                                                                          true, // Store.Err tells
	"ignored streaming request; ID mismatch":                                                                                true,
	"ignored out-of-date read index response; local node read indexes queueing up and waiting to be in sync with leader":    true,
	"data-dir used by this member must be removed":                                                                          true,
	"stopped publish because server is stopping":                                                                            true,
	"failed to apply request":                                                                                               true, // its caller has the error
	"Failed to check current member's leadership":                                                                           true,
	"leadership transfer failed":                                                                                            true,
}

func (z zapBridge) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (z zapBridge) With(fields []zapcore.Field) zapcore.Core {
	return zapBridge{log: slog.New(z.log.Handler().WithAttrs(zapAttrs(fields)))}
}

func (z zapBridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if z.Enabled(e.Level) && !notForUs[e.Message] {
		return c.AddCore(e, z)
	}
	return c
}

func (z zapBridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	if aboutPeers[e.Message] || strings.Contains(e.Message, "cannot campaign at term") {
		level = slog.LevelDebug
	}
	z.log.LogAttrs(context.Background(), level, e.Message, zapAttrs(fields)...)
	return nil
}

func (z zapBridge) Sync() error { return nil }

func zapAttrs(fields []zapcore.Field) []slog.Attr {
	enc := zapcore.NewMapObjectEncoder()
	attrs := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(enc)
		if v, ok := enc.Fields[f.Key]; ok {
			attrs = append(attrs, slog.Any(f.Key, v))
		}
	}
	return attrs
}
