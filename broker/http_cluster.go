package broker

import (
	"cmp"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
)

// clusterStatus is what GET /v1/cluster answers: what Kafka has no request for,
// as this broker sees it.
type clusterStatus struct {
	ClusterID  string         `json:"clusterId"`
	Controller int32          `json:"controller"` // -1: none is known
	Revision   int64          `json:"revision"`   // of etcd, which brokers are by
	Brokers    []brokerStatus `json:"brokers"`    // that are registered, by id
	Members    []memberStatus `json:"members"`    // of etcd, asked now
	Error      string         `json:"error,omitempty"`
}

type brokerStatus struct {
	ID        int32 `json:"id"`
	Epoch     int64 `json:"epoch"` // of the registration
	StartedMs int64 `json:"startedMs"`
	Fenced    bool  `json:"fenced"`  // not taken in yet
	Leaving   bool  `json:"leaving"` // it gives away what it leads, and stops
	// Deployment is what it runs as, "" where it was not told.
	Deployment string `json:"deployment,omitempty"`
}

type memberStatus struct {
	ID       string   `json:"id"`     // etcd's, hexadecimal
	Broker   int32    `json:"broker"` // -1: not known, it has never run
	Peer     string   `json:"peer"`
	Client   string   `json:"client"`
	Learner  bool     `json:"learner"`
	Leader   bool     `json:"leader"`
	Error    string   `json:"error,omitempty"` // why it is not well; what follows is then 0, or old
	Term     uint64   `json:"term"`
	Index    uint64   `json:"index"` // of raft's log, applied
	Revision int64    `json:"revision"`
	Lag      int64    `json:"lag"` // revisions that others have and it has not
	DBBytes  int64    `json:"dbBytes"`
	DBInUse  int64    `json:"dbInUse"`
	DBQuota  int64    `json:"dbQuota"`
	Alarms   []string `json:"alarms"`
}

func (b *Broker) serveCluster(w http.ResponseWriter, r *http.Request) {
	img := b.meta.Image()
	st := clusterStatus{ClusterID: img.ClusterID, Controller: int32(img.Controller), Revision: img.Revision, Brokers: []brokerStatus{}, Members: []memberStatus{}}
	for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
		o := img.Brokers[id]
		st.Brokers = append(st.Brokers, brokerStatus{int32(id), o.Epoch, o.StartedMs, !img.Eligible(id), o.Leaving, img.Deployments[id]})
	}
	all, err := b.meta.Health(r.Context())
	if err != nil {
		st.Error = err.Error()
	}
	for _, m := range all {
		ms := memberStatus{
			ID: strconv.FormatUint(m.ID, 16), Broker: int32(m.Broker), Peer: m.Peer, Client: m.Client, Learner: m.Learner, Leader: m.Leader,
			Term: m.Term, Index: m.Index, Revision: m.Revision, Lag: m.Lag, DBBytes: m.DBBytes, DBInUse: m.DBInUse, DBQuota: m.DBQuota, Alarms: m.Alarms,
		}
		if ms.Alarms == nil {
			ms.Alarms = []string{}
		}
		if m.Err != nil {
			ms.Error = cmp.Or(errors.Unwrap(m.Err), m.Err).Error() // which member it is stands beside it
		}
		st.Members = append(st.Members, ms)
	}
	writeJSON(w, http.StatusOK, st)
}
