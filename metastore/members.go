package metastore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/firnlog/firn/record"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Member is one member of etcd: a broker's process that keeps the metadata.
type Member struct {
	ID      uint64          // etcd's
	Broker  record.BrokerID // -1 while it has not told: until its first start is over
	Peer    string          // HOST:PORT where members reach it, "" for a broker without a cluster
	Client  string          // HOST:PORT where clients do; "" like Peer, and while it has not told
	Learner bool            // it has no vote yet
}

// MemberHealth is how a member is at this moment.
type MemberHealth struct {
	Member
	Err      error // why the rest is not known: it does not answer
	Leader   bool
	Term     uint64
	Index    uint64 // of raft's log, applied
	Revision int64
	Lag      int64    // revisions that another member had when they were asked, and this one has not got yet
	DBBytes  int64    // size of the database file
	DBInUse  int64    // of that, not free
	DBQuota  int64    // what the file may grow to
	Alarms   []string // that this member has raised: NOSPACE, CORRUPT
}

// Quorum is the state of etcd's raft group, as brokers: etcd runs in their
// processes. Members whose broker is not known are left out.
type Quorum struct {
	Leader   record.BrokerID   // -1 when none is known
	Term     int32             // of the leader, counts elections
	Revision int64             // of the newest change that is committed, as far as it is known here
	Voters   []record.BrokerID // ascending
	Learners []record.BrokerID // ascending
}

// Quorum gives the state of etcd as a member sees it at this moment; a broker
// that is a client gives what it saw at its last look, some seconds ago.
func (s *Store) Quorum() Quorum {
	if s.srv.etcd == nil {
		if q := s.seen.Load(); q != nil {
			return *q
		}
		return Quorum{Leader: -1}
	}
	srv := s.srv.etcd.Server
	if s.cfg.Cluster == nil {
		q := Quorum{Leader: -1, Term: int32(min(srv.Term(), math.MaxInt32)), Revision: srv.KV().Rev(), Voters: []record.BrokerID{s.cfg.BrokerID}}
		if srv.Leader() == srv.MemberID() {
			q.Leader = s.cfg.BrokerID
		}
		return q
	}
	var all []Member
	for _, m := range srv.Cluster().Members() {
		all = append(all, s.member(uint64(m.ID), m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner))
	}
	return quorum(all, uint64(srv.Leader()), srv.Term(), srv.KV().Rev())
}

func quorum(all []Member, leader, term uint64, revision int64) Quorum {
	q := Quorum{Leader: -1, Term: int32(min(term, math.MaxInt32)), Revision: revision}
	for _, m := range all {
		switch {
		case m.Broker < 0:
			continue
		case m.Learner:
			q.Learners = append(q.Learners, m.Broker)
		default:
			q.Voters = append(q.Voters, m.Broker)
		}
		if m.ID == leader {
			q.Leader = m.Broker
		}
	}
	slices.Sort(q.Voters)
	slices.Sort(q.Learners)
	return q
}

// member makes a Member. One that has not told its name yet may be known by
// the peer address in its broker's registration.
func (s *Store) member(id uint64, name string, peers, clients []string, learner bool) Member {
	m := Member{ID: id, Broker: memberBroker(name), Learner: learner}
	if s.cfg.Cluster == nil {
		m.Broker = s.cfg.BrokerID
		return m
	}
	if len(peers) > 0 {
		m.Peer = strings.TrimPrefix(peers[0], peerScheme+"://")
	}
	if len(clients) > 0 {
		m.Client = strings.TrimPrefix(clients[0], peerScheme+"://")
	}
	if m.Broker < 0 && m.Peer != "" {
		for _, b := range s.Image().Brokers {
			if b.Peer == m.Peer {
				m.Broker = b.ID
			}
		}
	}
	return m
}

// Members lists etcd's members as its leader knows them.
func (s *Store) Members(ctx context.Context) ([]Member, error) {
	var resp *clientv3.MemberListResponse
	_, err := try(ctx, s.srv, func(ctx context.Context) (err error) {
		resp, err = s.srv.cli.MemberList(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("metastore: list members: %w", mapError(err))
	}
	var all []Member
	for _, m := range resp.Members {
		all = append(all, s.member(m.ID, m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner))
	}
	return all, nil
}

// known lists the members as they are known here, without asking etcd's leader:
// there may be none.
func (s *Store) known(ctx context.Context) ([]Member, error) {
	var all []Member
	if s.srv.etcd != nil {
		for _, m := range s.srv.etcd.Server.Cluster().Members() {
			all = append(all, s.member(uint64(m.ID), m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner))
		}
		slices.SortFunc(all, func(x, y Member) int { return cmp.Compare(x.ID, y.ID) })
		return all, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	resp, err := s.srv.cli.MemberList(ctx, clientv3.WithSerializable())
	for err != nil && transient(err) && ctx.Err() == nil { // the member that was asked went away: another one answers
		select {
		case <-time.After(tryPause):
		case <-ctx.Done():
		}
		resp, err = s.srv.cli.MemberList(ctx, clientv3.WithSerializable())
	}
	if err != nil {
		return nil, fmt.Errorf("metastore: list members: %w", mapError(err))
	}
	for _, m := range resp.Members {
		all = append(all, s.member(m.ID, m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner))
	}
	return all, nil
}

// Health asks each member that is known here how it is, two seconds long at
// most. It needs no leader of etcd.
func (s *Store) Health(ctx context.Context) ([]MemberHealth, error) {
	all, err := s.known(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]MemberHealth, len(all))
	s.askEach(ctx, all, out, func(int) bool { return true })
	newest := int64(0)
	for i := range out {
		newest = max(newest, out[i].Revision)
	}
	// They were asked one by one: who was asked early is asked again.
	late := func(i int) bool { return out[i].Err == nil && out[i].Revision < newest }
	s.askEach(ctx, all, out, late)
	for i := range out {
		if late(i) {
			out[i].Lag = newest - out[i].Revision
		}
	}
	return out, nil
}

// askEach asks those members for which want is true, all at the same time.
func (s *Store) askEach(ctx context.Context, all []Member, out []MemberHealth, want func(int) bool) {
	var asked sync.WaitGroup
	for i, m := range all {
		if want(i) {
			asked.Go(func() { out[i] = s.health(ctx, m) })
		}
	}
	asked.Wait()
}

// health asks one member, for askFor at most.
func (s *Store) health(ctx context.Context, m Member) MemberHealth {
	h := MemberHealth{Member: m}
	st, err := s.status(ctx, m)
	if err != nil {
		h.Err = err
		return h
	}
	h.Leader, h.Term, h.Index, h.Revision = st.Leader == m.ID, st.RaftTerm, st.RaftAppliedIndex, st.Header.Revision
	h.DBBytes, h.DBInUse, h.DBQuota, h.Alarms = st.DbSize, st.DbSizeInUse, st.DbSizeQuota, alarmsOf(st, m.ID)
	if st.Leader == 0 {
		h.Err = fmt.Errorf("metastore: member %s: %w", m.Peer, errNoLeader)
	}
	return h
}

var errNoLeader = errors.New("it knows no leader of etcd")

// alarmsOf gives the alarms that a member has raised: each member knows those
// of all, and lists them as etcd's AlarmMember prints itself.
func alarmsOf(st *pb.StatusResponse, id uint64) (raised []string) {
	for _, text := range st.Errors {
		for _, kind := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			if a := (&pb.AlarmMember{MemberID: id, Alarm: kind}); sameAlarm(text, a) {
				raised = append(raised, kind.String())
			}
		}
	}
	return raised
}

// sameAlarm compares without spaces: how many there are is not promised.
func sameAlarm(text string, a *pb.AlarmMember) bool {
	return strings.ReplaceAll(text, " ", "") == strings.ReplaceAll(a.String(), " ", "")
}

func (s *Store) status(ctx context.Context, m Member) (*pb.StatusResponse, error) {
	if s.srv.etcd != nil && m.ID == uint64(s.srv.etcd.Server.MemberID()) {
		return s.srv.status(), nil
	}
	err := errors.New("it has never run")
	var st *pb.StatusResponse
	if m.Client != "" {
		st, err = askStatus(ctx, m.Client)
	}
	if err != nil {
		return nil, fmt.Errorf("metastore: status of member %s: %w", m.Peer, err)
	}
	return st, nil
}

// askMaintenance connects to the one member that answers clients at an
// address, which a client of all members would not do.
func askMaintenance(addr string, do func(pb.MaintenanceClient) error) error {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // of one call, which is over
	return do(pb.NewMaintenanceClient(conn))
}

// askStatus asks the member at an address how it is, for askFor at most.
func askStatus(ctx context.Context, addr string) (st *pb.StatusResponse, err error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	err = askMaintenance(addr, func(c pb.MaintenanceClient) (err error) {
		st, err = c.Status(ctx, &pb.StatusRequest{})
		return err
	})
	return st, err
}

// status is that of the member in this process, also of one that has stopped:
// it does not touch the database.
func (s *server) status() *pb.StatusResponse {
	srv := s.etcd.Server
	st := &pb.StatusResponse{
		Header: &pb.ResponseHeader{Revision: srv.KV().Rev()}, Leader: uint64(srv.Leader()), RaftTerm: srv.Term(),
		RaftAppliedIndex: srv.AppliedIndex(), DbSize: srv.Backend().Size(), DbSizeInUse: srv.Backend().SizeInUse(),
		DbSizeQuota: srv.Cfg.QuotaBackendBytes,
	}
	for _, a := range srv.Alarms() {
		st.Errors = append(st.Errors, a.String())
	}
	return st
}

// RemoveMember takes the member at a peer address out of the cluster. Its
// broker deletes its etcd folder and stops; it does not come back as a member
// before AddMember. It fails with ErrConflict when there is no such member,
// with ErrQuorum when it is the only one or too few of the others are well.
func (s *Store) RemoveMember(ctx context.Context, peer string) error {
	err := s.removeMember(ctx, peer)
	if err != nil {
		return fmt.Errorf("metastore: remove member %s: %w", peer, err)
	}
	return nil
}

func (s *Store) removeMember(ctx context.Context, peer string) error {
	all, err := s.Members(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(m Member) bool { return m.Peer == peer && peer != "" })
	if i < 0 {
		return fmt.Errorf("%w: no member has that peer address", ErrConflict)
	}
	if !all[i].Learner {
		if err := s.quorumWithout(ctx, all[i].ID); err != nil {
			return err
		}
	}
	if _, err := s.txn(ctx, "remove_member", nil, []clientv3.Op{clientv3.OpPut(removedKey(peer), "")}, nil); err != nil {
		return err
	}
	_, err = try(ctx, s.srv, func(ctx context.Context) error {
		_, err := s.srv.cli.MemberRemove(ctx, all[i].ID)
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			return nil // by an earlier attempt
		}
		return err
	})
	select {
	case <-s.srv.down:
		return nil // it was this one
	default:
	}
	if err != nil {
		s.letIn(context.WithoutCancel(ctx), peer)
		return mapError(err)
	}
	return nil
}

// quorumWithout says whether the voters that are left without one of them can
// go on: more than half of those answer. etcd itself looks only at those that
// were connected for some seconds.
func (s *Store) quorumWithout(ctx context.Context, id uint64) error {
	all, err := s.Health(ctx)
	if err != nil {
		return err
	}
	left, well := 0, 0
	var why []error
	for _, m := range all {
		switch {
		case m.ID == id || m.Learner:
			continue
		case m.Err != nil:
			why = append(why, m.Err)
		default:
			well++
		}
		left++
	}
	switch {
	case left == 0:
		return fmt.Errorf("%w: it is the only voter", ErrQuorum)
	case well < left/2+1:
		return fmt.Errorf("%w: of the %d voters that would be left %d answer, %d must: %w", ErrQuorum, left, well, left/2+1, errors.Join(why...))
	}
	return nil
}

// letIn takes back a note of a removal that did not come about.
func (s *Store) letIn(ctx context.Context, peer string) {
	ctx, cancel := context.WithTimeout(ctx, cleanUpWithin)
	defer cancel()
	if err := s.AddMember(ctx, peer); err != nil {
		s.log.Warn("a member that stays in the cluster is noted as removed", "peer", peer, "err", err)
	}
}

// AddMember lets a broker with that peer address become a member, also one
// that was removed before. It joins when it starts with seeds that name it.
func (s *Store) AddMember(ctx context.Context, peer string) error {
	if _, _, err := splitAddr(peer); err != nil {
		return fmt.Errorf("metastore: add member: %w", err)
	}
	_, err := s.txn(ctx, "add_member", nil, []clientv3.Op{clientv3.OpDelete(removedKey(peer))}, nil)
	if err != nil {
		return fmt.Errorf("metastore: add member %s: %w", peer, err)
	}
	return nil
}

// MoveLeader hands etcd's leadership from this broker's member to another
// voter, half a second for each of them; it fails when none takes it. It does
// nothing where this broker is not etcd's leader.
func (s *Store) MoveLeader() error {
	if s.srv.etcd == nil {
		return nil
	}
	if err := s.srv.handOver(); err != nil {
		return fmt.Errorf("metastore: hand etcd's leadership over: %w", err)
	}
	return nil
}

// follow keeps what a client of the members knows of them fresh until ctx
// ends: where they are, and their state for Quorum.
func (s *Store) follow(ctx context.Context) {
	tick := time.NewTicker(s.cfg.observeEvery)
	defer tick.Stop()
	for {
		s.followOnce(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Store) followOnce(ctx context.Context) {
	all, err := s.Members(ctx)
	if err != nil {
		return // seen as a lease that is not renewed, and by what needs etcd
	}
	var urls []string
	for _, m := range all {
		if m.Client != "" && !m.Learner {
			urls = append(urls, peerURL(m.Client))
		}
	}
	if len(urls) > 0 {
		slices.Sort(urls)
		if now := s.srv.cli.Endpoints(); !slices.Equal(slices.Sorted(slices.Values(now)), urls) {
			s.srv.cli.SetEndpoints(urls...)
		}
	}
	for _, m := range all {
		st, err := s.status(ctx, m)
		if err != nil {
			continue
		}
		q := quorum(all, st.Leader, st.RaftTerm, st.Header.Revision)
		s.seen.Store(&q)
		metricRevision.Set(float64(st.Header.Revision))
		metricWatchLag.Set(float64(max(0, st.Header.Revision-s.Image().Revision)))
		break
	}
	setBool(metricFenced, s.Fenced())
}
