package metastore

import (
	"errors"
	"slices"
	"testing"

	"github.com/firnlog/firn/record"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestQuorum(t *testing.T) {
	s := openStore(t, t.TempDir())
	before := s.Quorum()
	if before.Leader != s.cfg.BrokerID || !slices.Equal(before.Voters, []record.BrokerID{s.cfg.BrokerID}) {
		t.Errorf("leader %d and voters %v, want this broker alone", before.Leader, before.Voters)
	}
	if before.Term < 1 || before.Revision < s.Image().Revision {
		t.Errorf("term %d, revision %d with an image of revision %d", before.Term, before.Revision, s.Image().Revision)
	}
	if _, err := s.AllocateProducerIDs(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if after := s.Quorum(); after.Revision <= before.Revision {
		t.Errorf("revision %d after a change, %d before it", after.Revision, before.Revision)
	}
}

// A member's alarms are told from those of others, and from what else is wrong.
func TestAlarms(t *testing.T) {
	alarm := func(id uint64, kind pb.AlarmType) string {
		return (&pb.AlarmMember{MemberID: id, Alarm: kind}).String()
	}
	st := &pb.StatusResponse{Errors: []string{
		"etcdserver: no leader", alarm(1, pb.AlarmType_NOSPACE), alarm(2, pb.AlarmType_CORRUPT), alarm(2, pb.AlarmType_NOSPACE),
	}}
	for id, want := range map[uint64][]string{1: {"NOSPACE"}, 2: {"CORRUPT", "NOSPACE"}, 3: nil, 12: nil} {
		if got := alarmsOf(st, id); !slices.Equal(got, want) {
			t.Errorf("member %d raised %v, want %v", id, got, want)
		}
	}
}

// Who is left without a leader is still told how each member is.
func TestHealthWithoutLeader(t *testing.T) {
	ctx := testCtx(t)
	c := newCluster(t, 3)
	c.open(1, 2, 3)
	c.prepare(4, "", c.cfgs[1].Cluster.Seeds)
	c.open(4)
	c.voters(1, 2, 3)
	for _, m := range mustHealth(t, c.stores[4]) {
		if m.Err != nil || m.DBQuota < minQuotaBytes || len(m.Alarms) > 0 || m.Lag < 0 {
			t.Errorf("when all is well: %+v", m)
		}
	}
	c.kill(1)
	c.kill(2)
	for _, id := range []record.BrokerID{3, 4} {
		for alone := false; !alone; { // until 3 has noticed
			alone = true
			for _, m := range mustHealth(t, c.stores[id]) {
				alone = alone && m.Err != nil
				if m.Broker == 3 && m.Err != nil && (!errors.Is(m.Err, errNoLeader) || m.Revision == 0) {
					t.Fatalf("broker %d says of the one that is left: %+v", id, m)
				}
			}
			if ctx.Err() != nil {
				t.Fatalf("broker %d sees members that are well", id)
			}
		}
	}
	c.open(1)
	c.open(2)
	c.voters(1, 2, 3)
}

func mustHealth(t *testing.T, s *Store) []MemberHealth {
	t.Helper()
	all, err := s.Health(testCtx(t))
	if err != nil || len(all) != 3 {
		t.Fatalf("%d members, %v", len(all), err)
	}
	return all
}
