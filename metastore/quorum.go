package metastore

import (
	"math"

	"github.com/firnlog/firn/record"
)

// Quorum is the state of the embedded etcd's raft group, as brokers: etcd runs
// in their processes.
type Quorum struct {
	Leader   record.BrokerID   // -1 when none is known
	Term     int32             // of the leader, counts elections
	Revision int64             // of the newest change that is committed
	Voters   []record.BrokerID // ascending
}

// Quorum gives the state of etcd at this moment. The one member is this
// broker's.
func (s *Store) Quorum() Quorum {
	srv := s.srv.etcd.Server
	q := Quorum{Leader: -1, Term: int32(min(srv.Term(), math.MaxInt32)), Revision: srv.KV().Rev(), Voters: []record.BrokerID{s.cfg.BrokerID}}
	if srv.Leader() == srv.MemberID() {
		q.Leader = s.cfg.BrokerID
	}
	return q
}
