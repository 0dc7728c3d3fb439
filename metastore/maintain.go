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
	st, err := s.srv.cli.Status(ctx, "")
	if err != nil {
		return fmt.Errorf("metastore: status: %w", err)
	}
	metricRevision.Set(float64(st.Header.Revision))
	metricWatchLag.Set(float64(max(0, st.Header.Revision-s.Image().Revision)))
	metricDBBytes.Set(float64(st.DbSize))
	metricDBInUse.Set(float64(st.DbSizeInUse))
	metricDBQuota.Set(float64(s.cfg.QuotaBytes))
	setBool(metricFenced, s.Fenced())

	if over := st.DbSizeInUse > s.cfg.QuotaBytes/2; over != k.warned {
		k.warned = over
		setBool(metricQuotaWarning, over)
		if over {
			s.log.Warn("metadata takes more than half of its quota", "bytes", st.DbSizeInUse, "quota", s.cfg.QuotaBytes)
		}
	}
	return s.handleNoSpace(ctx, k, st)
}

// handleNoSpace makes room when etcd has raised its NOSPACE alarm: history is
// compacted to the newest revision, the file is rewritten, and when that has
// helped, the alarm is taken back. Until then etcd refuses writes.
func (s *Store) handleNoSpace(ctx context.Context, k *keeper, st *clientv3.StatusResponse) error {
	// The member's own list: asking through the client would be a raft entry.
	var raised *clientv3.AlarmMember
	for _, a := range s.srv.etcd.Server.Alarms() {
		if a.Alarm == pb.AlarmType_NOSPACE {
			raised = (*clientv3.AlarmMember)(a)
		}
	}
	setBool(metricNoSpace, raised != nil)
	if raised == nil {
		k.noSpace = false
		return nil
	}
	if !k.noSpace {
		k.noSpace = true
		s.log.Error("metadata has reached its quota and cannot be changed; making room",
			"bytes", st.DbSize, "in_use", st.DbSizeInUse, "quota", s.cfg.QuotaBytes)
	}
	if err := s.compactTo(ctx, k, st.Header.Revision); err != nil {
		return err
	}
	if err := s.defragment(); err != nil {
		return err
	}
	after, err := s.srv.cli.Status(ctx, "")
	if err != nil {
		return fmt.Errorf("metastore: status: %w", err)
	}
	if after.DbSize >= s.cfg.QuotaBytes/10*9 {
		return fmt.Errorf("%w: %d of %d bytes are in use", ErrNoSpace, after.DbSizeInUse, s.cfg.QuotaBytes)
	}
	if _, err := s.srv.cli.AlarmDisarm(ctx, raised); err != nil {
		return fmt.Errorf("metastore: disarm alarm: %w", err)
	}
	s.log.Info("metadata can be changed again", "bytes", after.DbSize, "quota", s.cfg.QuotaBytes)
	return nil
}

// compact drops old history and rewrites the file when much of it is free.
func (s *Store) compact(ctx context.Context, k *keeper, now time.Time) error {
	st, err := s.srv.cli.Status(ctx, "")
	if err != nil {
		return fmt.Errorf("metastore: status: %w", err)
	}
	if err := s.compactTo(ctx, k, k.target(now, st.Header.Revision)); err != nil {
		return err
	}
	if free := st.DbSize - st.DbSizeInUse; free >= defragFree && free > st.DbSize/2 {
		return s.defragment()
	}
	return nil
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
	_, err := s.srv.cli.Compact(ctx, revision, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("metastore: compact to revision %d: %w", revision, err)
	}
	k.compacted = revision
	metricCompactions.Inc()
	return nil
}

// defragment rewrites etcd's database file. Meanwhile etcd answers nothing;
// with metadata of some hundred megabytes that takes about a second.
func (s *Store) defragment() error {
	begin := time.Now()
	if err := s.srv.etcd.Server.Defragment(); err != nil {
		return fmt.Errorf("metastore: defragment: %w", err)
	}
	metricDefrags.Inc()
	s.log.Info("metadata file was rewritten", "took", time.Since(begin))
	return nil
}
