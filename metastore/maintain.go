package metastore

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	keepRevisions = 1000            // history that compaction leaves, at least,
	keepHistory   = 5 * time.Minute // and at least as long; watchers that lag more read everything again
	observeEvery  = 5 * time.Second // between looks at sizes and revisions
	maxSamples    = 64              // revisions noted within keepHistory
	defragFree    = 32 << 20        // bytes that must be free in the file before it is rewritten
)

// sample says what etcd's revision was at a time.
type sample struct {
	at       time.Time
	revision int64
}

// keeper looks after etcd's database. It belongs to one goroutine.
type keeper struct {
	samples   []sample // ascending; the first is the newest one that is old enough, or the oldest
	compacted int64
	leader    uint64 // etcd's, at the last look
	warned    bool
	noSpace   bool
}

// maintain compacts etcd's history every cfg.CompactEvery, gives free space
// back, watches the quota, and keeps the gauges fresh, until ctx ends.
func (s *Store) maintain(ctx context.Context, k *keeper) {
	observe := time.NewTicker(s.cfg.observeEvery)
	defer observe.Stop()
	compact := time.NewTicker(s.cfg.CompactEvery)
	defer compact.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-observe.C:
			s.logMaintain(s.look(ctx, k))
		case now := <-compact.C:
			s.logMaintain(s.compact(ctx, k, now))
		}
	}
}

// logMaintain reports a failed look after etcd, unless the store is closing.
func (s *Store) logMaintain(err error) {
	if err == nil {
		return
	}
	select {
	case <-s.closed:
	default:
		metricMaintainFails.Inc()
		s.log.Warn("looking after etcd failed, trying again later", "err", err)
	}
}

// look reads sizes and revisions into the gauges and acts on the quota.
func (s *Store) look(ctx context.Context, k *keeper) error {
	st := s.srv.status()
	metricRevision.Set(float64(st.Header.Revision))
	metricWatchLag.Set(float64(max(0, st.Header.Revision-s.Image().Revision)))
	metricDBBytes.Set(float64(st.DbSize))
	metricDBInUse.Set(float64(st.DbSizeInUse))
	metricDBQuota.Set(float64(s.cfg.QuotaBytes))
	setBool(metricFenced, s.Fenced())
	setBool(metricLeader, s.leads())

	if st.Leader != k.leader {
		k.leader = st.Leader
		switch {
		case s.cfg.Cluster == nil:
		case st.Leader == 0:
			s.log.Warn("etcd has no leader: metadata cannot be changed", "term", st.RaftTerm)
		default:
			s.log.Info("etcd's leader is another one", "broker", int32(s.Quorum().Leader), "term", st.RaftTerm)
		}
	}
	if over := st.DbSizeInUse > s.cfg.QuotaBytes/2; over != k.warned {
		k.warned = over
		setBool(metricQuotaWarning, over)
		if over {
			s.log.Warn("metadata takes more than half of its quota", "bytes", st.DbSizeInUse, "quota", s.cfg.QuotaBytes)
		}
	}
	return s.handleNoSpace(ctx, k, st)
}

// leads says whether the member in this process is etcd's leader: what is done
// once for all members, it does.
func (s *Store) leads() bool {
	srv := s.srv.etcd.Server
	return srv.Leader() == srv.MemberID()
}

// handleNoSpace makes room when etcd has raised its NOSPACE alarm: history is
// compacted to the newest revision, the files are rewritten, and when that has
// helped, the alarm is taken back. Until then etcd refuses writes.
func (s *Store) handleNoSpace(ctx context.Context, k *keeper, st *pb.StatusResponse) error {
	// The member's own list: asking through the client would be a raft entry.
	var raised []*clientv3.AlarmMember
	for _, a := range s.srv.etcd.Server.Alarms() {
		if a.Alarm == pb.AlarmType_NOSPACE {
			raised = append(raised, (*clientv3.AlarmMember)(a))
		}
	}
	setBool(metricNoSpace, len(raised) > 0)
	if len(raised) == 0 {
		k.noSpace = false
		return nil
	}
	if !k.noSpace {
		k.noSpace = true
		s.log.Error("metadata has reached its quota and cannot be changed; making room",
			"bytes", st.DbSize, "in_use", st.DbSizeInUse, "quota", s.cfg.QuotaBytes)
	}
	if !s.leads() {
		return nil
	}
	if err := s.compactTo(ctx, k, st.Header.Revision); err != nil {
		return err
	}
	for {
		more, err := s.defragmentOne(ctx, func(m *MemberHealth) bool { return m.DBBytes >= s.cfg.QuotaBytes/10*9 })
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if !s.leads() {
		return nil // the new leader goes on
	}
	all, err := s.Health(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Err == nil && m.DBBytes >= s.cfg.QuotaBytes/10*9 {
			return fmt.Errorf("%w: %d of %d bytes are in use", ErrNoSpace, m.DBInUse, s.cfg.QuotaBytes)
		}
	}
	for _, a := range raised {
		if _, err := try(ctx, s.srv, func(ctx context.Context) error {
			_, err := s.srv.cli.AlarmDisarm(ctx, a)
			return err
		}); err != nil {
			return fmt.Errorf("metastore: disarm alarm: %w", err)
		}
	}
	s.log.Info("metadata can be changed again", "bytes", st.DbSize, "quota", s.cfg.QuotaBytes)
	return nil
}

// compact drops old history, and rewrites one member's file of which much is
// free. etcd's leader does it for all.
func (s *Store) compact(ctx context.Context, k *keeper, now time.Time) error {
	st := s.srv.status()
	target := k.target(now, st.Header.Revision) // noted by all: the leader changes
	if !s.leads() {
		return nil
	}
	if err := s.compactTo(ctx, k, target); err != nil {
		return err
	}
	_, err := s.defragmentOne(ctx, func(m *MemberHealth) bool {
		free := m.DBBytes - m.DBInUse
		return free >= defragFree && free > m.DBBytes/2
	})
	return err
}

// target notes the revision and gives the one up to which history may go, 0
// for none.
func (k *keeper) target(now time.Time, revision int64) int64 {
	if n := len(k.samples); n == 0 || now.Sub(k.samples[n-1].at) >= keepHistory/maxSamples {
		k.samples = append(k.samples, sample{now, revision})
	}
	old := 0
	for old+1 < len(k.samples) && now.Sub(k.samples[old+1].at) >= keepHistory {
		old++
	}
	k.samples = k.samples[old:]
	if now.Sub(k.samples[0].at) < keepHistory {
		return 0
	}
	return min(k.samples[0].revision, revision-keepRevisions)
}

func (s *Store) compactTo(ctx context.Context, k *keeper, revision int64) error {
	if revision <= k.compacted {
		return nil
	}
	// Physical: when it returns, the space is free in the file.
	_, err := try(ctx, s.srv, func(ctx context.Context) error {
		_, err := s.srv.cli.Compact(ctx, revision, clientv3.WithCompactPhysical())
		return err
	})
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("metastore: compact to revision %d: %w", revision, err)
	}
	k.compacted = revision
	metricCompactions.Inc()
	return nil
}

// defragmentOne rewrites the database file of one member that is due, and
// says whether one was. While a member rewrites its file it answers nothing
// (with metadata of some hundred megabytes for about a second), so it is done
// only while all the others are well, and never to the leader: that hands its
// leadership over when it is the only one due, and the new leader does it.
func (s *Store) defragmentOne(ctx context.Context, due func(*MemberHealth) bool) (done bool, err error) {
	all, err := s.Health(ctx)
	if err != nil {
		return false, err
	}
	var which *MemberHealth
	for i := range all {
		m := &all[i]
		if m.Err != nil {
			return false, nil // another time
		}
		if due(m) && (which == nil || which.Leader) {
			which = m
		}
	}
	if which == nil {
		return false, nil
	}
	begin := time.Now()
	switch self := uint64(s.srv.etcd.Server.MemberID()); {
	case len(all) == 1:
		leave, ok := s.srv.enter()
		if !ok {
			return false, nil
		}
		err = s.srv.etcd.Server.Defragment()
		leave()
	case which.ID == self && which.Leader:
		return false, s.MoveLeader()
	case which.Leader:
		return false, nil // the leader was another one a moment ago
	case which.ID == self:
		return false, nil // no longer leader
	default:
		err = askMaintenance(which.Client, func(c pb.MaintenanceClient) error {
			_, err := c.Defragment(ctx, &pb.DefragmentRequest{})
			return err
		})
	}
	if err != nil {
		return false, fmt.Errorf("metastore: defragment member %s: %w", which.Peer, err)
	}
	metricDefrags.Inc()
	s.log.Info("metadata file was rewritten", "member", which.Peer, "took", time.Since(begin))
	return true, nil
}
