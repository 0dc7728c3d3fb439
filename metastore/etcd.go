package metastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// MaxTxnOps is the greatest number of operations in one etcd transaction.
const MaxTxnOps = 1024

// ErrLocked says that another process has the metastore's folder open.
var ErrLocked = errors.New("metastore: folder is in use by another process")

// server is the embedded etcd of a single member.
//
// It has no listener at all, neither for peers nor for clients: the only
// client is this process, and it calls etcd's functions directly. So there is
// no port to choose, no socket whose path could be too long, and nothing that
// another user of the machine could talk to. The advertised URLs are
// placeholders that etcd insists on; they change when a second member joins.
type server struct {
	etcd *embed.Etcd
	cli  *clientv3.Client
	lock *os.File
	once sync.Once
}

var segmentSize sync.Once

// startServer starts etcd in dir/etcd and waits until it answers. One process
// at a time: dir/LOCK is held by flock, which the kernel gives up when the
// process dies, however it dies.
//
// A member that is killed before its first entry is committed never elects a
// leader again: its write-ahead log exists, so etcd takes it for a member that
// restarts, but holds no membership. Therefore the very first start happens in
// dir/etcd.new, which becomes dir/etcd by rename when etcd has answered, and
// is thrown away when it has not: nothing was ever promised from it.
func startServer(ctx context.Context, dir string, quota int64, log *slog.Logger) (*server, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("metastore: make folder: %w", err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	home := filepath.Join(dir, "etcd")
	if _, err = os.Lstat(home); errors.Is(err, os.ErrNotExist) {
		err = bootstrap(ctx, dir, home, quota, log)
	}
	var e *embed.Etcd
	if err == nil {
		e, err = launch(ctx, home, quota, log)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &server{etcd: e, cli: v3client.New(e.Server), lock: lock}, nil
}

// bootstrap makes the folder home of a new member, whole.
func bootstrap(ctx context.Context, dir, home string, quota int64, log *slog.Logger) error {
	fresh := home + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("metastore: remove unfinished %s: %w", fresh, err)
	}
	e, err := launch(ctx, fresh, quota, log)
	if err != nil {
		return err
	}
	e.Close()
	if err := os.Rename(fresh, home); err != nil {
		return fmt.Errorf("metastore: finish new member: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("metastore: sync folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("metastore: sync folder %s: %w", dir, err)
	}
	return nil
}

// launch starts etcd in the folder home and waits until it answers.
func launch(ctx context.Context, home string, quota int64, log *slog.Logger) (*embed.Etcd, error) {
	// etcd allocates two write-ahead files in advance. 64 MB each is much for
	// a broker that has one topic, and slow on a disk without fallocate.
	segmentSize.Do(func() { wal.SegmentSizeBytes = 16 << 20 })
	e, err := embed.StartEtcd(etcdConfig(home, quota, log))
	if err != nil {
		return nil, fmt.Errorf("metastore: start etcd in %s: %w", home, err)
	}
	select {
	case <-e.Server.ReadyNotify():
		return e, nil
	case <-e.Server.StopNotify():
		err = errors.New("it stopped by itself")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	e.Close()
	return nil, fmt.Errorf("metastore: etcd in %s does not get ready: %w", home, err)
}

// close stops etcd: it waits for requests under way, syncs and closes the
// files. Later calls do nothing (etcd itself must not be closed twice).
func (s *server) close() {
	s.once.Do(func() {
		_ = s.cli.Close() // reports only that its own context was cancelled
		s.etcd.Close()
		s.lock.Close()
	})
}

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

func etcdConfig(dir string, quota int64, log *slog.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Name = "firn"
	c.Dir = dir
	placeholder := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	c.ListenPeerUrls, c.ListenClientUrls = nil, nil
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = placeholder, placeholder
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.InitialClusterToken = uuid.NewString() // read at the very first start only
	c.EnableGRPCGateway = false

	// A single member elects itself 1 to 5 ticks after its start, and nobody
	// can win against it. 20 ms make the start quick; shorter ticks would show
	// in the CPU time of an idle broker (1 % of a core at 10 ms).
	c.TickMs, c.ElectionMs = 20, 100
	c.PreVote = false

	// An entry may hold a pointer of 64 KiB. What is kept in memory for slow
	// followers (there are none) and replayed at a start is bounded by these.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 2000, 200
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

// zapBridge passes etcd's log lines of level WARN and up to slog. For fatal
// ones zap itself ends the process after they are written: etcd logs such a
// line when the disk refuses its write-ahead log, where nothing that follows
// could be promised to anybody.
type zapBridge struct{ log *slog.Logger }

// notForUs are lines about how we run etcd, which is on purpose, and about
// versions in its files, which a new member looks for before its first commit
// and then again every few seconds.
var notForUs = map[string]bool{
	"Failed to detect schema version":  true,
	"failed to update storage version": true,
	"failed to update cluster version": true, // cut off by a quick Close; tried again at the next start
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"simple token is not cryptographically signed":                                         true,
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
