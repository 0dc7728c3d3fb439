package metastore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.uber.org/zap"
)

// Keys outside of the Image that members of etcd come and go by.
const (
	joinKey       = rootPrefix + "join"     // peer address of who joins at the moment, leased
	removedPrefix = rootPrefix + "removed/" // peer addresses of members that were taken out
)

func removedKey(peer string) string { return removedPrefix + peer }

const (
	joinTTL  = 15 // seconds that the join lock outlives a joiner that died
	askAgain = 200 * time.Millisecond
	askFor   = 2 * time.Second // one look at one seed
	maxReply = 1 << 20

	// A connection over which nothing comes for the sum of both is dead.
	keepaliveTime    = 2 * time.Second
	keepaliveTimeout = 2 * time.Second
)

// membersReply is what a member's peer listener says of the cluster.
type membersReply struct {
	cluster string // etcd's id of it
	all     []membership.Member
}

// started says whether a member with that peer address has ever run.
func (r *membersReply) started(peer string) bool {
	return slices.ContainsFunc(r.all, func(m membership.Member) bool {
		return slices.Contains(m.PeerURLs, peerURL(peer)) && len(m.ClientURLs) > 0
	})
}

// clients are the URLs where members but that of peer answer clients.
func (r *membersReply) clients(but string) []string {
	var urls []string
	for _, m := range r.all {
		if !slices.Contains(m.PeerURLs, peerURL(but)) && !m.IsLearner {
			urls = append(urls, m.ClientURLs...)
		}
	}
	return urls
}

// asking is for questions that come once in a while: it keeps no connection,
// and no proxy stands between members.
var asking = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// askMembers asks the member at a peer address who is in its cluster. etcd's
// peer listener answers that, and nothing that a client of etcd could use.
func askMembers(ctx context.Context, peer string) (*membersReply, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, peerURL(peer)+"/members", nil)
	if err != nil {
		return nil, fmt.Errorf("metastore: ask %s: %w", peer, err)
	}
	resp, err := asking.Do(req)
	if err != nil {
		return nil, fmt.Errorf("metastore: ask %s: %w", peer, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("metastore: ask %s: %w", peer, err)
	}
	out := membersReply{cluster: resp.Header.Get("X-Etcd-Cluster-ID")}
	if err := json.Unmarshal(raw, &out.all); err != nil || resp.StatusCode != http.StatusOK || out.cluster == "" {
		return nil, fmt.Errorf("metastore: ask %s: it answers as no etcd member does (HTTP status %d)", peer, resp.StatusCode)
	}
	return &out, nil
}

// find asks the other seeds until one of them knows members that answer
// clients, and connects to those.
func (m *member) find(ctx context.Context, why string) (*clientv3.Client, error) {
	c := m.cfg.Cluster
	last := time.Now()
	for {
		var errs []error
		for _, peer := range c.others() {
			all, err := askMembers(ctx, peer)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if urls := all.clients(c.Peer); len(urls) > 0 {
				return dial(urls, m.log)
			}
		}
		if time.Since(last) >= sayAgain {
			last = time.Now()
			m.log.Info("no seed knows a member that answers, asking again: "+why, "seeds", strings.Join(c.others(), ","), "err", errors.Join(errs...))
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return nil, fmt.Errorf("metastore: find the members of the cluster at %s: %w", strings.Join(c.others(), ","), errors.Join(append(errs, context.Cause(ctx))...))
		}
	}
}

// dial connects to members over the network, as needed.
func dial(urls []string, log *slog.Logger) (*clientv3.Client, error) {
	cli, err := clientv3.New(clientv3.Config{
		Endpoints:            urls,
		DialKeepAliveTime:    keepaliveTime,
		DialKeepAliveTimeout: keepaliveTimeout,
		PermitWithoutStream:  true,
		Logger:               zap.New(zapBridge{log: log.With("component", "etcd")}),
	})
	if err != nil {
		return nil, fmt.Errorf("metastore: connect to %s: %w", strings.Join(urls, ","), err)
	}
	return cli, nil
}

// connect makes this broker a client of the members.
func (m *member) connect(ctx context.Context) (*server, error) {
	if c := m.cfg.Cluster; c.Peer != "" {
		m.log.Warn("the peer address is none of the seeds: this broker is a client of the members and listens for no peers", "peer", c.Peer, "seeds", strings.Join(c.Seeds, ","))
	}
	cli, err := m.find(ctx, "this broker needs the cluster's members")
	if err != nil {
		return nil, err
	}
	return &server{cli: cli, down: make(chan struct{})}, nil
}

// join makes this broker a member of the cluster that there is: what it was
// before goes, and it comes back as a learner, which becomes a voter when it
// has everything. One broker at a time. done names the cluster, nil where that
// is not known.
func (m *member) join(ctx context.Context, done *formed) (*server, error) {
	c := m.cfg.Cluster
	if len(c.Seeds) == 1 {
		return nil, fmt.Errorf("%w: the metadata of cluster %s was in %s, which is gone, and there is no other member: restore it, or start a new cluster with another object store", ErrOtherCluster, done.id(), m.home)
	}
	m.log.Info("this broker has no metadata of its cluster: it joins as a new member", "cluster", done.id(), "peer", c.Peer)
	cli, err := m.find(ctx, "this broker has lost its metadata, or never had any, and joins the others; when all members have lost theirs, it must be restored from a backup")
	if err != nil {
		return nil, err
	}
	defer func() { _ = cli.Close() }() // reports only that its own context was cancelled
	if err := m.mayJoin(ctx, cli, done); err != nil {
		return nil, err
	}
	unlock, err := m.lockJoin(ctx, cli)
	if err != nil {
		return nil, err
	}
	defer unlock()
	all, err := m.replace(ctx, cli)
	if err != nil {
		return nil, err
	}
	ec, err := m.clustered(ctx, embed.ClusterStateFlagExisting, all, "")
	if err != nil {
		return nil, err
	}
	srv, err := m.run(ctx, ec)
	if err != nil && strings.Contains(err.Error(), "incompatible with current running cluster") { // etcd has no value for it
		err = fmt.Errorf("%w: upgrade one broker after the other, by one minor version of etcd at a time: %w", ErrVersion, err)
	}
	return srv, err
}

func (f *formed) id() string {
	if f == nil {
		return "not known yet"
	}
	return f.ClusterID
}

// mayJoin checks that the members found are those of this broker's cluster,
// and did not take it out.
func (m *member) mayJoin(ctx context.Context, cli *clientv3.Client, done *formed) error {
	var resp *clientv3.TxnResponse
	err := m.again(ctx, "look whether this broker may join", func(ctx context.Context) (err error) {
		resp, err = cli.Txn(ctx).Then(clientv3.OpGet(clusterKey), clientv3.OpGet(removedKey(m.cfg.Cluster.Peer))).Commit()
		return err
	})
	if err != nil {
		return err
	}
	if kv := first(resp.Responses[0].GetResponseRange().Kvs); kv != nil && done != nil {
		id, err := decodeClusterID(kv.Value)
		if err != nil {
			return err
		}
		if id != done.ClusterID {
			return fmt.Errorf("%w: the members at %s are cluster %s, the object store and this folder are of %s: check --seeds and --store",
				ErrOtherCluster, strings.Join(m.cfg.Cluster.others(), ","), id, done.ClusterID)
		}
	}
	if first(resp.Responses[1].GetResponseRange().Kvs) != nil {
		return fmt.Errorf("%w: %s was taken out: start this broker with --seeds that do not name it, or let it in again with: firn cluster add %d %s",
			ErrRemoved, m.cfg.Cluster.Peer, m.cfg.BrokerID, m.cfg.Cluster.Peer)
	}
	return nil
}

// lockJoin waits until no other broker joins.
func (m *member) lockJoin(ctx context.Context, cli *clientv3.Client) (unlock func(), err error) {
	var lease *clientv3.LeaseGrantResponse
	if err := m.again(ctx, "lock joining", func(ctx context.Context) (err error) {
		lease, err = cli.Grant(ctx, joinTTL)
		return err
	}); err != nil {
		return nil, err
	}
	keep, end := context.WithCancel(context.WithoutCancel(ctx))
	alive, err := cli.KeepAlive(keep, lease.ID)
	if err != nil {
		end()
		return nil, fmt.Errorf("metastore: lock joining: %w", mapError(err))
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for range alive { // else the client complains
		}
	}()
	unlock = func() {
		end()
		<-drained
		ctx, cancel := context.WithTimeout(context.Background(), closeRevoke)
		defer cancel()
		_, _ = cli.Revoke(ctx, lease.ID) // or it runs out
	}
	said := m.saying(ctx, "another broker joins the cluster at the moment, waiting for it")
	defer said()
	for {
		got, err := m.takeJoin(ctx, cli, lease.ID)
		if got {
			return unlock, nil
		}
		if errors.Is(err, rpctypes.ErrLeaseNotFound) { // it ran out while there was no leader
			unlock()
			return m.lockJoin(ctx, cli)
		}
		if err != nil && !transient(err) {
			unlock()
			return nil, fmt.Errorf("metastore: lock joining: %w", mapError(err))
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			unlock()
			return nil, fmt.Errorf("metastore: lock joining: %w", context.Cause(ctx))
		}
	}
}

// takeJoin writes the join lock if nobody has it, or if a process of this very
// broker had it, which has ended: it had this one's folder. Its lease may
// outlive it by much longer than joinTTL, since each new leader of etcd lets
// leases begin anew.
func (m *member) takeJoin(ctx context.Context, cli *clientv3.Client, lease clientv3.LeaseID) (bool, error) {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), askFor)
	defer cancel()
	for held := int64(0); ; {
		resp, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(joinKey), "=", held)).
			Then(clientv3.OpPut(joinKey, m.cfg.Cluster.Peer, clientv3.WithLease(lease))).
			Else(clientv3.OpGet(joinKey)).Commit()
		if err != nil || resp.Succeeded {
			return err == nil, err
		}
		kv := first(resp.Responses[0].GetResponseRange().Kvs)
		switch {
		case holdsLease(resp, lease):
			return true, nil
		case kv == nil: // given back meanwhile
			held = 0
		case string(kv.Value) == m.cfg.Cluster.Peer:
			held = kv.ModRevision
		default:
			return false, nil
		}
	}
}

// holdsLease says whether the one key that a transaction looked at hangs on a
// lease: whether it was written by an attempt whose answer did not come.
func holdsLease(resp *clientv3.TxnResponse, id clientv3.LeaseID) bool {
	kv := first(resp.Responses[0].GetResponseRange().Kvs)
	return kv != nil && clientv3.LeaseID(kv.Lease) == id
}

// errSameID says that a new member would get the id of one that was removed:
// etcd makes it of the address and the second.
var errSameID = errors.New("metastore: a member of this address was removed in this very second")

// replace takes what this broker was as a member out of the cluster and adds
// it anew as a learner. It gives the other members' names by peer address.
func (m *member) replace(ctx context.Context, cli *clientv3.Client) (others map[string]string, err error) {
	c := m.cfg.Cluster
	list, err := m.members(ctx, cli)
	if err != nil {
		return nil, err
	}
	var mine []uint64
	for _, old := range list.Members {
		switch samePeer := slices.Contains(old.PeerURLs, peerURL(c.Peer)); {
		case !samePeer && old.Name != memberName(m.cfg.BrokerID):
			continue
		case !samePeer && answers(ctx, old):
			return nil, fmt.Errorf("%w: node %d is a running member at %s: give this broker another --node-id", ErrNodeID, m.cfg.BrokerID, strings.Join(old.PeerURLs, ","))
		}
		mine = append(mine, old.ID)
	}
	left := len(list.Members) - len(mine)
	if left >= len(c.Seeds) {
		return nil, fmt.Errorf("%w: the cluster has %d members already and --seeds names %d: take one out first with: firn cluster remove N", ErrSeeds, left, len(c.Seeds))
	}
	for _, id := range mine {
		if err := m.again(ctx, "take out what this broker was before", func(ctx context.Context) error {
			_, err := cli.MemberRemove(ctx, id)
			if errors.Is(err, rpctypes.ErrMemberNotFound) {
				err = nil
			}
			return err
		}); err != nil {
			return nil, err
		}
	}
	if err := m.again(ctx, "add this broker", func(ctx context.Context) error {
		_, err := cli.MemberAddAsLearner(ctx, []string{peerURL(c.Peer)})
		switch {
		case errors.Is(err, rpctypes.ErrPeerURLExist), errors.Is(err, rpctypes.ErrMemberExist):
			return nil // by an attempt whose answer did not come, perhaps in this second
		case errors.Is(err, rpctypes.ErrMemberNotFound):
			return errSameID
		}
		return err
	}); err != nil {
		return nil, err
	}
	if list, err = m.members(ctx, cli); err != nil {
		return nil, err
	}
	others = map[string]string{}
	for _, o := range list.Members {
		if len(o.PeerURLs) == 0 || slices.Contains(o.PeerURLs, peerURL(c.Peer)) {
			continue
		}
		peer := strings.TrimPrefix(o.PeerURLs[0], peerScheme+"://")
		others[peer] = o.Name
		if o.Name == "" {
			others[peer] = peer
		}
	}
	return others, nil
}

func (m *member) members(ctx context.Context, cli *clientv3.Client) (list *clientv3.MemberListResponse, err error) {
	err = m.again(ctx, "list the members", func(ctx context.Context) (err error) {
		list, err = cli.MemberList(ctx)
		return err
	})
	return list, err
}

// again does what a start needs of etcd until that is done, however long there
// is no leader. Changes of the membership are refused, too, while too few
// members are known to be well.
func (m *member) again(ctx context.Context, what string, do func(context.Context) error) error {
	said := m.saying(ctx, "the cluster's members do not take this yet, trying on", "what", what)
	defer said()
	for {
		attempt, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), longAttempt)
		err := do(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if !transient(err) && !errors.Is(err, rpctypes.ErrUnhealthy) && !errors.Is(err, rpctypes.ErrMemberNotEnoughStarted) &&
			!errors.Is(err, rpctypes.ErrMemberLearnerNotReady) && !errors.Is(err, rpctypes.ErrTooManyLearners) && err != errSameID {
			return fmt.Errorf("metastore: %s: %w", what, mapError(err))
		}
		select {
		case <-time.After(askAgain / 2):
		case <-ctx.Done():
			return fmt.Errorf("metastore: %s: %w: %w", what, context.Cause(ctx), mapError(err))
		}
	}
}

// answers says whether a member runs.
func answers(ctx context.Context, m *etcdserverpb.Member) bool {
	return slices.ContainsFunc(m.ClientURLs, func(url string) bool {
		_, err := askStatus(ctx, strings.TrimPrefix(url, peerScheme+"://"))
		return err == nil
	})
}

// settle makes a member that runs a full one: a voter, at its own address, of
// a cluster that has an id and that is known to be formed.
func (m *member) settle(ctx context.Context, srv *server) error {
	self := uint64(srv.etcd.Server.MemberID())
	me := srv.etcd.Server.Cluster().Member(types.ID(self))
	if me != nil && !slices.Equal(me.PeerURLs, []string{peerURL(m.cfg.Cluster.Peer)}) {
		if err := m.again(ctx, "tell the other members this broker's new peer address", func(ctx context.Context) error {
			_, err := srv.cli.MemberUpdate(ctx, self, []string{peerURL(m.cfg.Cluster.Peer)})
			return err
		}); err != nil {
			return err
		}
	}
	if srv.etcd.Server.IsLearner() {
		if err := m.again(ctx, "make this broker a voter", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, askFor)
			defer cancel()
			_, err := srv.cli.MemberPromote(ctx, self)
			if errors.Is(err, rpctypes.ErrMemberNotLearner) {
				err = nil
			}
			return err
		}); err != nil {
			return err
		}
		m.log.Info("this broker's etcd member has caught up and votes", "peer", m.cfg.Cluster.Peer)
	}
	var id string
	if err := m.again(ctx, "name the cluster", func(ctx context.Context) (err error) {
		id, err = ensureClusterID(ctx, srv)
		return err
	}); err != nil {
		return err
	}
	return m.finish(ctx, id)
}

// finish notes that the cluster is formed: first for all, then in this folder.
func (m *member) finish(ctx context.Context, id string) error {
	note, err := m.readNote()
	if err != nil {
		return err
	}
	noted := note != nil
	if !noted {
		if note, err = putClaim(ctx, m.cfg.Cluster.Claim, formedName, formed{Version: claimVersion, ClusterID: id}); err != nil {
			return err
		}
	}
	if note.ClusterID != id {
		return fmt.Errorf("%w: etcd in %s is of cluster %s, the object store and %s are of %s: give this broker its own data folder and store",
			ErrOtherCluster, m.home, id, m.notePath(), note.ClusterID)
	}
	if noted {
		return nil
	}
	return m.writeNote(*note)
}

// removed asks the other members whether this one is no longer among them.
func (m *member) removed(ctx context.Context) bool {
	for _, peer := range m.cfg.Cluster.others() {
		all, err := askMembers(ctx, peer)
		if err != nil {
			continue
		}
		return !slices.ContainsFunc(all.all, func(o membership.Member) bool {
			return slices.Contains(o.PeerURLs, peerURL(m.cfg.Cluster.Peer))
		})
	}
	return false
}

// reachable says whether somebody listens at an address.
func reachable(ctx context.Context, addr string) bool {
	d := net.Dialer{Timeout: askFor}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
