package metastore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/google/uuid"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Errors of forming a cluster and of coming back to it. Each is wrapped with
// what to do.
var (
	// ErrSeeds says that the cluster was formed, or is being formed, with
	// other seeds.
	ErrSeeds = errors.New("metastore: other seeds")
	// ErrOtherCluster says that a folder, the object store or the members that
	// were found belong to different clusters.
	ErrOtherCluster = errors.New("metastore: another cluster")
	// ErrRemoved says that this broker's member was taken out of the cluster.
	ErrRemoved = errors.New("metastore: member was removed from the cluster")
	// ErrNodeID says that another broker has this node id.
	ErrNodeID = errors.New("metastore: node id is taken")
	// ErrVersion says that the cluster runs an etcd that this one cannot join.
	ErrVersion = errors.New("metastore: etcd of the cluster is too different")
	// ErrQuorum says that without that member too few voters would be well for
	// metadata to be changed.
	ErrQuorum = errors.New("metastore: etcd would lose its quorum")
)

// Cluster says how a broker takes part in a cluster of several.
type Cluster struct {
	// Seeds are the peer addresses of the members, the first 1, 3 or 5 brokers,
	// as HOST:PORT. All brokers are given the same ones.
	Seeds []string
	// Peer is this broker's peer address. It is a member when that is one of
	// Seeds, and a client of the members otherwise. "" for none.
	Peer string
	// Client is where a member answers brokers that are clients; "" is Peer's
	// host and the port below Peer's.
	Client string
	// Claim is what all brokers of the cluster share, and nobody else.
	Claim Claim
}

// Claim keeps small values that are written once, in the object store.
type Claim interface {
	// PutIfAbsent writes value unless there is one of that name; existing is
	// the one there is, nil when value was written.
	PutIfAbsent(ctx context.Context, name string, value []byte) (existing []byte, err error)
	// Get reads a value, nil when there is none of that name.
	Get(ctx context.Context, name string) ([]byte, error)
}

// The names of a cluster's values in the object store.
//
//	cluster/claim.json    {"version":1,"token":"…","seeds":["…"]}   by the first seed that starts; the others follow it
//	cluster/formed.json   {"version":1,"clusterId":"…"}             when the members have a leader and the id is written
//
// Until the second is there, no member's Open has returned: nothing was
// promised, and members begin anew as they like. From then on a member without
// its folder has lost its disk, and must not vote as if it had never promised
// anything: it joins as a new one.
const (
	claimName  = "cluster/claim.json"
	formedName = "cluster/formed.json"
)

type claim struct {
	Version int      `json:"version"`
	Token   string   `json:"token"` // of etcd's bootstrap
	Seeds   []string `json:"seeds"` // sorted
}

// formed is also what a member keeps beside its etcd folder, as cluster.json.
type formed struct {
	Version   int    `json:"version"`
	ClusterID string `json:"clusterId"`
}

const (
	claimVersion = 1
	noteName     = "cluster.json"
	peerScheme   = "http"

	// A member that hears nothing from its leader for 8 to 16 of these stands
	// for election: in the mean of three members that is half a second after
	// the leader's death. Two cores that do nothing but work delay a tick by
	// less than a tenth of a second.
	clusterTick     = 50 * time.Millisecond
	clusterElection = 400 * time.Millisecond

	maxClientConns = 1000 // of other brokers and of operators
	sayAgain       = 10 * time.Second
)

// check validates what is given and fills in the client address.
func (c *Cluster) check() error {
	switch n := len(c.Seeds); {
	case n != 1 && n != 3 && n != 5:
		return fmt.Errorf("metastore: %d seeds: a cluster has 1, 3 or 5 members", n)
	case c.Claim == nil:
		return errors.New("metastore: a cluster needs a Claim")
	}
	for i, s := range c.Seeds {
		if _, _, err := splitAddr(s); err != nil {
			return fmt.Errorf("metastore: seed %w", err)
		}
		if slices.Contains(c.Seeds[:i], s) {
			return fmt.Errorf("metastore: seed %s is there twice", s)
		}
	}
	if c.Peer == "" {
		return nil
	}
	host, port, err := splitAddr(c.Peer)
	if err != nil {
		return fmt.Errorf("metastore: peer address %w", err)
	}
	if c.Client == "" {
		if port == 1 {
			return fmt.Errorf("metastore: peer address %s: there is no port below 1 for clients; give a client address", c.Peer)
		}
		c.Client = net.JoinHostPort(host, strconv.Itoa(port-1))
	}
	if _, _, err := splitAddr(c.Client); err != nil {
		return fmt.Errorf("metastore: client address %w", err)
	}
	if c.Client == c.Peer {
		return fmt.Errorf("metastore: %s is given for peers and for clients", c.Peer)
	}
	return nil
}

// splitAddr takes an address apart that others can connect to.
func splitAddr(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not HOST:PORT", addr)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if ip := net.ParseIP(host); err != nil || n == 0 || host == "" || ip != nil && ip.IsUnspecified() {
		return "", 0, fmt.Errorf("%q is not an address that other brokers could connect to", addr)
	}
	return host, int(n), nil
}

// isMember says whether this broker's process has a member of etcd.
func (c *Cluster) isMember() bool {
	return c != nil && c.Peer != "" && slices.Contains(c.Seeds, c.Peer)
}

// others are the seeds but this broker.
func (c *Cluster) others() []string {
	return slices.DeleteFunc(slices.Clone(c.Seeds), func(s string) bool { return s == c.Peer })
}

// memberName is the name of a broker's etcd member: members are told to node
// ids by it. Until a member has started for the first time, etcd has its peer
// address or nothing instead.
func memberName(id record.BrokerID) string { return "node-" + strconv.Itoa(int(id)) }

// memberBroker is the broker of a member's name, -1 when it does not tell.
func memberBroker(name string) record.BrokerID {
	text, ok := strings.CutPrefix(name, "node-")
	if n, err := strconv.ParseInt(text, 10, 32); ok && err == nil && n >= 0 {
		return record.BrokerID(n)
	}
	return -1
}

// member is a start of this broker's etcd.
type member struct {
	cfg  *Config
	home string // etcd's folder
	log  *slog.Logger
}

// start starts etcd in whatever role this broker has.
func (m *member) start(ctx context.Context) (*server, error) {
	if err := os.RemoveAll(m.home + ".new"); err != nil { // where earlier versions began
		return nil, fmt.Errorf("metastore: %w", err)
	}
	if err := dropUnused(m.home, m.log); err != nil {
		return nil, fmt.Errorf("metastore: look at %s: %w", m.home, err)
	}
	note, err := m.readNote()
	if err != nil {
		return nil, err
	}
	_, err = os.Lstat(m.home)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("metastore: %w", err)
	}
	exists := err == nil
	c := m.cfg.Cluster
	switch {
	case m.cfg.Copy:
		return m.startCopy(ctx)
	case c == nil && note != nil:
		return nil, fmt.Errorf("%w: %s is that of a member of cluster %s: start this broker with the cluster's seeds", ErrOtherCluster, m.home, note.ClusterID)
	case c == nil:
		e, err := launch(ctx, solitary(m.home, m.cfg.QuotaBytes, m.log))
		if err != nil {
			return nil, err
		}
		return running(e, true), nil
	case !c.isMember() && exists:
		return nil, fmt.Errorf("%w: this broker has an etcd member in %s, but its peer address %q is none of the seeds %s: name it among them, or remove the member from the cluster first",
			ErrSeeds, m.home, c.Peer, strings.Join(c.Seeds, ","))
	case !c.isMember():
		return m.connect(ctx)
	case exists:
		srv, err := m.restart(ctx)
		if _, left := os.Lstat(m.home); errors.Is(err, ErrRemoved) && errors.Is(left, os.ErrNotExist) && note != nil {
			return m.join(ctx, note) // it may have been let in again meanwhile; that is refused if not
		}
		return srv, err
	}
	return m.first(ctx, note)
}

// startCopy opens the copy of a member's folder as a cluster of its own.
func (m *member) startCopy(ctx context.Context) (*server, error) {
	c := solitary(m.home, m.cfg.QuotaBytes, m.log)
	c.ForceNewCluster = true
	e, err := launch(ctx, c)
	if err != nil {
		return nil, err
	}
	return running(e, true), nil
}

// clustered is the configuration of a member. all holds the other members'
// peer addresses and names; it and token are read at a first start only.
func (m *member) clustered(ctx context.Context, state string, all map[string]string, token string) (*embed.Config, error) {
	c := etcdConfig(m.home, m.cfg.QuotaBytes, m.log)
	cl := m.cfg.Cluster
	bind, err := bindAddr(ctx, cl.Peer)
	if err != nil {
		return nil, fmt.Errorf("metastore: peer address: %w", err)
	}
	c.Name = memberName(m.cfg.BrokerID)
	c.ListenPeerUrls = []url.URL{{Scheme: peerScheme, Host: bind}}
	c.AdvertisePeerUrls = []url.URL{{Scheme: peerScheme, Host: cl.Peer}}
	c.AdvertiseClientUrls = []url.URL{{Scheme: peerScheme, Host: cl.Client}}
	c.ClusterState, c.InitialClusterToken = state, token
	parts := []string{c.Name + "=" + peerURL(cl.Peer)}
	for peer, name := range all {
		parts = append(parts, name+"="+peerURL(peer))
	}
	c.InitialCluster = strings.Join(parts, ",")
	c.TickMs, c.ElectionMs = uint(clusterTick.Milliseconds()), uint(clusterElection.Milliseconds())
	c.PreVote = true
	c.StrictReconfigCheck = true
	return c, nil
}

func peerURL(addr string) string { return peerScheme + "://" + addr }

// bindAddr is what to listen on for an address that others connect to: etcd
// wants an IP address.
func bindAddr(ctx context.Context, addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	if net.ParseIP(host) != nil {
		return addr, nil
	}
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil {
		return "", fmt.Errorf("%s: %w", addr, err)
	}
	return net.JoinHostPort(ips[0].String(), port), nil
}

// first starts a member whose folder is empty: the cluster is being formed, or
// this broker has lost its disk, or it is to be a further member.
func (m *member) first(ctx context.Context, note *formed) (*server, error) {
	c := m.cfg.Cluster
	done, err := readClaim[formed](ctx, c.Claim, formedName)
	if err != nil {
		return nil, err
	}
	if done == nil {
		done = note // the store was emptied, or is another one: this member knows that the cluster exists
	}
	if done != nil {
		return m.join(ctx, done)
	}
	mine := claim{Version: claimVersion, Token: uuid.NewString(), Seeds: slices.Sorted(slices.Values(c.Seeds))}
	agreed, err := putClaim(ctx, c.Claim, claimName, mine)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(agreed.Seeds, mine.Seeds) {
		return nil, fmt.Errorf("%w: the cluster is being formed with --seeds %s; start all of its brokers with these, or give this one another object store",
			ErrSeeds, strings.Join(agreed.Seeds, ","))
	}
	// Who was seen running before and has no folder has lost it meanwhile.
	for _, peer := range c.others() {
		if all, err := askMembers(ctx, peer); err == nil && all.started(c.Peer) {
			return m.join(ctx, nil)
		}
	}
	all := map[string]string{}
	for _, peer := range c.others() {
		all[peer] = peer // by the peer address until the member tells its name
	}
	m.log.Info("forming a cluster", "seeds", strings.Join(mine.Seeds, ","), "peer", c.Peer)
	ec, err := m.clustered(ctx, embed.ClusterStateFlagNew, all, agreed.Token)
	if err != nil {
		return nil, err
	}
	return m.run(ctx, ec)
}

// restart starts a member that has its folder.
func (m *member) restart(ctx context.Context) (*server, error) {
	c, err := m.clustered(ctx, embed.ClusterStateFlagExisting, nil, "")
	if err != nil {
		return nil, err
	}
	return m.run(ctx, c)
}

// run starts etcd as configured, with its listener for clients, and waits until
// it is a full member of a cluster that has a leader.
func (m *member) run(ctx context.Context, ec *embed.Config) (*server, error) {
	said := m.saying(ctx, "waiting until most of the cluster's members run", "seeds", strings.Join(m.cfg.Cluster.Seeds, ","))
	e, err := launch(ctx, ec)
	said()
	if errors.Is(err, errStoppedItself) && m.removed(ctx) {
		return nil, m.wipe()
	}
	if err != nil {
		return nil, err
	}
	srv := running(e, false)
	if err = m.serveClients(ctx, srv); err == nil {
		err = m.settle(ctx, srv)
	}
	if err != nil {
		srv.close()
		return nil, err
	}
	return srv, nil
}

// serveClients answers the brokers that are clients of this member.
func (m *member) serveClients(ctx context.Context, srv *server) error {
	addr, err := bindAddr(ctx, m.cfg.Cluster.Client)
	if err != nil {
		return fmt.Errorf("metastore: client address: %w", err)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("metastore: listen for etcd's clients: %w", err)
	}
	srv.serve(v3rpc.Server(srv.etcd.Server, nil, nil,
		grpc.WaitForHandlers(true), // at its Stop: the database is closed next
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout})),
		netutil.LimitListener(ln, maxClientConns))
	return nil
}

// saying repeats a line while something takes long; the function that it gives
// ends that.
func (m *member) saying(ctx context.Context, line string, args ...any) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-time.After(sayAgain):
				m.log.Info(line, args...)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// wipe deletes this member's folder after it was removed from the cluster.
func (m *member) wipe() error {
	if err := errors.Join(os.RemoveAll(m.home), os.Remove(m.notePath())); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w, and its folder cannot be deleted: %w", ErrRemoved, err)
	}
	m.log.Warn("this broker's etcd member was removed from the cluster; its folder is deleted", "folder", m.home, "peer", m.cfg.Cluster.Peer)
	return fmt.Errorf("%w: its folder %s is deleted; the broker can go on as a client, with --seeds that do not name %s, or be let in again with: firn cluster add %d %s",
		ErrRemoved, m.home, m.cfg.Cluster.Peer, m.cfg.BrokerID, m.cfg.Cluster.Peer)
}

func (m *member) notePath() string { return filepath.Join(m.cfg.Dir, noteName) }

// readNote reads which cluster this folder's member belongs to; nil when it
// was in none whose forming was finished.
func (m *member) readNote() (*formed, error) {
	raw, err := os.ReadFile(m.notePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("metastore: %w", err)
	}
	note, err := parseClaim[formed](raw)
	if err != nil {
		return nil, fmt.Errorf("metastore: %s: %w", m.notePath(), err)
	}
	return note, nil
}

// writeNote notes that the cluster was formed. It is there whole or not at
// all; without it the next start asks the object store again.
func (m *member) writeNote(note formed) error {
	raw, err := json.Marshal(note)
	if err != nil {
		return fmt.Errorf("metastore: %w", err)
	}
	tmp := m.notePath() + ".tmp"
	if err := writeSynced(tmp, raw); err != nil {
		return fmt.Errorf("metastore: %w", err)
	}
	if err := os.Rename(tmp, m.notePath()); err != nil {
		return fmt.Errorf("metastore: %w", err)
	}
	return syncFolder(m.cfg.Dir)
}

func writeSynced(path string, raw []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("metastore: sync folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("metastore: sync folder %s: %w", dir, err)
	}
	return nil
}

// claimed are the values of a Claim.
type claimed interface {
	claim | formed
}

func readClaim[T claimed](ctx context.Context, c Claim, name string) (*T, error) {
	raw, err := c.Get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("metastore: read %s of the object store: %w", name, err)
	}
	if raw == nil {
		return nil, nil
	}
	v, err := parseClaim[T](raw)
	if err != nil {
		return nil, fmt.Errorf("metastore: %s of the object store: %w", name, err)
	}
	return v, nil
}

// putClaim writes v, or gives what was there before.
func putClaim[T claimed](ctx context.Context, c Claim, name string, v T) (*T, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("metastore: %w", err)
	}
	existing, err := c.PutIfAbsent(ctx, name, raw)
	if err != nil {
		return nil, fmt.Errorf("metastore: write %s of the object store: %w", name, err)
	}
	if existing == nil {
		return &v, nil
	}
	was, err := parseClaim[T](existing)
	if err != nil {
		return nil, fmt.Errorf("metastore: %s of the object store: %w", name, err)
	}
	return was, nil
}

func parseClaim[T claimed](raw []byte) (*T, error) {
	var head struct {
		Version int `json:"version"`
	}
	var v T
	if err := errors.Join(json.Unmarshal(raw, &head), json.Unmarshal(raw, &v)); err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrCorrupt, raw, err)
	}
	if head.Version != claimVersion {
		return nil, fmt.Errorf("%w: version %d, this firn knows %d: upgrade it", ErrCorrupt, head.Version, claimVersion)
	}
	return &v, nil
}
