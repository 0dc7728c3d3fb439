package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/health"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// clusterView is what brokers say of their cluster, the controller where one
// answers: it knows first.
type clusterView struct {
	health.Cluster
	id      string
	brokers []kmsg.DescribeClusterResponseBroker // that are registered, by id
	voters  []quorumMember
	nodes   map[int32]map[string]string // listeners by broker and name
	handles map[int32]*kgo.Broker       // by which each broker is asked, without asking another where it is
	detail  *clusterDetail              // nil: no broker's HTTP address answers
}

// quorumMember is a member of etcd as DescribeQuorum tells.
type quorumMember struct {
	health.Member
	dir      [16]byte
	revision int64 // -1: not known
	lag      int64 // behind the newest that is known; -1: not known
}

// clusterDetail is what a broker answers to GET /v1/cluster.
type clusterDetail struct {
	Brokers []struct {
		ID         int32  `json:"id"`
		StartedMs  int64  `json:"startedMs"`
		Leaving    bool   `json:"leaving"`
		Deployment string `json:"deployment"`
	} `json:"brokers"`
	Members []memberDetail `json:"members"`
	Error   string         `json:"error"`
}

type memberDetail struct {
	ID       string   `json:"id"`
	Broker   int32    `json:"broker"`
	Peer     string   `json:"peer"`
	Client   string   `json:"client"`
	Learner  bool     `json:"learner"`
	Leader   bool     `json:"leader"`
	Error    string   `json:"error,omitempty"`
	Term     uint64   `json:"term"`
	Index    uint64   `json:"index"`
	Revision int64    `json:"revision"`
	Lag      int64    `json:"lag"`
	DBBytes  int64    `json:"dbBytes"`
	DBInUse  int64    `json:"dbInUse"`
	DBQuota  int64    `json:"dbQuota"`
	Alarms   []string `json:"alarms"`
}

// withView connects and calls f with what is known of the cluster, of its
// partitions only if they are asked for.
func (a *app) withView(ctx context.Context, partitions bool, f func(context.Context, *kgo.Client, *clusterView) error) error {
	ctx, cl, done, err := a.connectAdmin(ctx)
	if err != nil {
		return err
	}
	defer done()
	v, err := a.viewCluster(ctx, cl, partitions)
	if err != nil {
		return err
	}
	return f(ctx, cl, v)
}

// viewCluster asks what there is to know. Partitions are left out unless asked
// for: there may be many.
func (a *app) viewCluster(ctx context.Context, cl *kgo.Client, partitions bool) (*clusterView, error) {
	v := &clusterView{nodes: map[int32]map[string]string{}, handles: map[int32]*kgo.Broker{}}
	resp, err := askFor[*kmsg.DescribeClusterResponse](ctx, func(ctx context.Context, _ kmsg.Request) (kmsg.Response, error) {
		return askAny(ctx, cl, func() kmsg.Request {
			req := kmsg.NewPtrDescribeClusterRequest()
			req.EndpointType, req.IncludeFencedBrokers = 1, true
			return req
		})
	}, nil)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, a.explain("cluster", err, "")
	}
	v.id, v.Controller, v.brokers = resp.ClusterID, record.BrokerID(resp.ControllerID), resp.Brokers
	slices.SortFunc(v.brokers, func(x, y kmsg.DescribeClusterResponseBroker) int { return int(x.NodeID) - int(y.NodeID) })
	for _, b := range v.brokers {
		v.Brokers = append(v.Brokers, health.Broker{ID: record.BrokerID(b.NodeID), Fenced: b.IsFenced})
	}
	if err := v.reach(a, cl); err != nil {
		return nil, err
	}
	ask := v.asker(cl)
	if err := v.quorum(ctx, ask); err != nil {
		return nil, a.explain("metadata quorum", err, "")
	}
	v.askDetail(ctx)
	if partitions {
		if err := v.partitions(ctx, ask); err != nil {
			return nil, a.explain("topics", err, "")
		}
	}
	return v, nil
}

// requestFunc sends a request to whoever is to answer it.
type requestFunc func(context.Context, kmsg.Request) (kmsg.Response, error)

// reach makes the handles: seeds of the client, which need no metadata, after
// those that the command line named.
func (v *clusterView) reach(a *app, cl *kgo.Client) error {
	addrs, err := a.seeds()
	if err != nil {
		return err
	}
	first := len(addrs)
	for _, b := range v.brokers {
		addrs = append(addrs, net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))))
	}
	if err := cl.UpdateSeedBrokers(addrs...); err != nil {
		return failf("", "addresses of the brokers: %w", err)
	}
	for i, h := range cl.SeedBrokers()[first:] {
		v.handles[v.brokers[i].NodeID] = h
	}
	return nil
}

const askOneWithin = 5 * time.Second // when there are others to ask

// asker asks the controller, or else the other brokers in turn, and stays with
// the one that answers.
func (v *clusterView) asker(cl *kgo.Client) requestFunc {
	var order []int32
	for _, b := range v.brokers {
		order = append(order, b.NodeID)
	}
	if i := slices.Index(order, int32(v.Controller)); i > 0 {
		order[0], order[i] = order[i], order[0]
	}
	return func(ctx context.Context, req kmsg.Request) (resp kmsg.Response, err error) {
		for len(order) > 0 {
			one, cancel := ctx, context.CancelFunc(func() {})
			if len(order) > 1 {
				one, cancel = context.WithTimeout(ctx, askOneWithin)
			}
			resp, err = v.handles[order[0]].Request(one, req)
			cancel()
			if err == nil || ctx.Err() != nil || len(order) == 1 {
				return resp, err
			}
			order = order[1:]
		}
		return cl.Request(ctx, req)
	}
}

// askFor sends a request and gives its answer by its type.
func askFor[R kmsg.Response](ctx context.Context, ask requestFunc, req kmsg.Request) (resp R, err error) {
	got, err := ask(ctx, req)
	if err != nil {
		return resp, err
	}
	resp, ok := got.(R)
	if !ok {
		return resp, fmt.Errorf("the broker answers %T", got)
	}
	return resp, nil
}

// quorum asks for etcd's members and the brokers' addresses.
func (v *clusterView) quorum(ctx context.Context, ask requestFunc) error {
	req := kmsg.NewPtrDescribeQuorumRequest()
	req.Topics = []kmsg.DescribeQuorumRequestTopic{{Topic: "__cluster_metadata", Partitions: []kmsg.DescribeQuorumRequestTopicPartition{{}}}}
	resp, err := askFor[*kmsg.DescribeQuorumResponse](ctx, ask, req)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return errors.New("the broker does not describe its quorum")
	}
	p := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
		return err
	}
	newest := int64(0) // who answers, has just done so
	for _, s := range append(slices.Clone(p.CurrentVoters), p.Observers...) {
		newest = max(newest, s.LastFetchTimestamp)
	}
	for i, s := range append(slices.Clone(p.CurrentVoters), p.Observers...) {
		m := quorumMember{dir: s.ReplicaDirectoryID, revision: s.LogEndOffset, lag: -1}
		m.Broker, m.Learner, m.Leader = record.BrokerID(s.ReplicaID), i >= len(p.CurrentVoters), s.ReplicaID == p.LeaderID && p.LeaderID >= 0
		m.Answers = s.LastFetchTimestamp > 0 && s.LastFetchTimestamp == newest
		m.CaughtUp = m.Answers && s.LastCaughtUpTimestamp == newest
		switch {
		case m.CaughtUp:
			m.lag = 0
		case s.LogEndOffset >= 0:
			m.lag = max(0, p.HighWatermark-s.LogEndOffset)
		}
		v.voters, v.Members = append(v.voters, m), append(v.Members, m.Member)
	}
	slices.SortStableFunc(v.voters, func(x, y quorumMember) int { return int(x.Broker) - int(y.Broker) })
	for _, n := range resp.Nodes {
		v.nodes[n.NodeID] = map[string]string{}
		for _, l := range n.Listeners {
			v.nodes[n.NodeID][l.Name] = net.JoinHostPort(l.Host, strconv.Itoa(int(l.Port)))
		}
	}
	return nil
}

const detailWithin = 5 * time.Second // an etcd member that hangs takes 2 s, twice

// askDetail asks the HTTP addresses of all brokers, and takes what the first
// one answers. They may listen where only their own machine reaches them.
func (v *clusterView) askDetail(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, detailWithin)
	defer cancel()
	answers := make(chan *clusterDetail, len(v.nodes))
	for _, listeners := range v.nodes {
		go func() {
			d, err := fetchDetail(ctx, listeners["HTTP"])
			if err != nil {
				d = nil
			}
			answers <- d
		}()
	}
	for range v.nodes {
		if d := <-answers; d != nil && (v.detail == nil || v.detail.Error != "") {
			v.detail = d
			if d.Error == "" {
				break
			}
		}
	}
	if v.detail == nil {
		return
	}
	slices.SortStableFunc(v.detail.Members, func(x, y memberDetail) int { return int(x.Broker) - int(y.Broker) })
	for _, b := range v.detail.Brokers {
		for i := range v.Brokers {
			if v.Brokers[i].ID == record.BrokerID(b.ID) {
				v.Brokers[i].Leaving = b.Leaving
			}
		}
	}
}

// deployment is what a registered broker runs as, "" where that is not known.
func (v *clusterView) deployment(id int32) string {
	if v.detail == nil {
		return ""
	}
	for _, b := range v.detail.Brokers {
		if b.ID == id {
			return b.Deployment
		}
	}
	return ""
}

func fetchDetail(ctx context.Context, addr string) (*clusterDetail, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1/cluster", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", addr, resp.Status)
	}
	var d clusterDetail
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&d); err != nil {
		return nil, fmt.Errorf("the answer of %s: %w", addr, err)
	}
	return &d, nil
}

// partitions asks for all partitions, what moves, and how many in-sync replicas
// their topics want.
func (v *clusterView) partitions(ctx context.Context, ask requestFunc) error {
	mreq := kmsg.NewPtrMetadataRequest()
	meta, err := askFor[*kmsg.MetadataResponse](ctx, ask, mreq)
	if err != nil {
		return err
	}
	moves, err := askMoves(ctx, ask)
	if err != nil {
		return err
	}
	var names []string
	for _, t := range meta.Topics {
		if t.Topic != nil && kerr.ErrorForCode(t.ErrorCode) == nil {
			names = append(names, *t.Topic)
		}
	}
	want, err := askMinInsync(ctx, ask, names)
	if err != nil {
		return err
	}
	for _, t := range meta.Topics {
		if t.Topic == nil || kerr.ErrorForCode(t.ErrorCode) != nil {
			continue // deleted meanwhile
		}
		for _, p := range t.Partitions {
			h := health.Partition{Topic: *t.Topic, ID: record.PartitionID(p.Partition), Want: want[*t.Topic]}
			h.Leader, h.Replicas, h.ISR = record.BrokerID(p.Leader), brokerIDs(p.Replicas), brokerIDs(p.ISR)
			if m, ok := moves[h.String()]; ok {
				h.Adding, h.Removing = brokerIDs(m.AddingReplicas), brokerIDs(m.RemovingReplicas)
			}
			v.Partitions = append(v.Partitions, h)
		}
	}
	slices.SortFunc(v.Partitions, health.Order)
	return nil
}

func askMoves(ctx context.Context, ask requestFunc) (map[string]kmsg.ListPartitionReassignmentsResponseTopicPartition, error) {
	req := kmsg.NewPtrListPartitionReassignmentsRequest()
	req.TimeoutMillis = int32(adminTimeout / time.Millisecond)
	resp, err := askFor[*kmsg.ListPartitionReassignmentsResponse](ctx, ask, req)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, err
	}
	moves := map[string]kmsg.ListPartitionReassignmentsResponseTopicPartition{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			moves[fmt.Sprintf("%s-%d", t.Topic, p.Partition)] = p
		}
	}
	return moves, nil
}

// askMinInsync asks for min.insync.replicas of topics; one that is gone has
// none.
func askMinInsync(ctx context.Context, ask requestFunc, names []string) (map[string]int, error) {
	want := make(map[string]int, len(names))
	for some := range slices.Chunk(names, 1000) {
		req := kmsg.NewPtrDescribeConfigsRequest()
		for _, name := range some {
			req.Resources = append(req.Resources, kmsg.DescribeConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: name, ConfigNames: []string{"min.insync.replicas"}})
		}
		resp, err := askFor[*kmsg.DescribeConfigsResponse](ctx, ask, req)
		if err != nil {
			return nil, err
		}
		for _, r := range resp.Resources {
			for _, c := range r.Configs {
				if n, err := strconv.Atoi(deref(c.Value)); err == nil {
					want[r.ResourceName] = n
				}
			}
		}
	}
	return want, nil
}

func brokerIDs(ids []int32) []record.BrokerID {
	out := make([]record.BrokerID, len(ids))
	for i, id := range ids {
		out[i] = record.BrokerID(id)
	}
	return out
}

// member finds the etcd member of a broker.
func (v *clusterView) member(id record.BrokerID) (quorumMember, bool) {
	i := slices.IndexFunc(v.voters, func(m quorumMember) bool { return m.Broker == id })
	if i < 0 {
		return quorumMember{}, false
	}
	return v.voters[i], true
}

// registered says whether a broker is.
func (v *clusterView) registered(id record.BrokerID) bool {
	return slices.ContainsFunc(v.Brokers, func(b health.Broker) bool { return b.ID == id })
}

// all are the brokers that are registered, or named as replicas or members.
func (v *clusterView) all() []record.BrokerID {
	ids := map[record.BrokerID]bool{}
	for _, b := range v.Brokers {
		ids[b.ID] = true
	}
	for _, id := range v.Dead() {
		ids[id] = true
	}
	for _, m := range v.voters {
		if m.Broker != replica.None {
			ids[m.Broker] = true
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

// role is what a member is in etcd, in a word.
func (m quorumMember) role() string {
	switch {
	case m.Leader:
		return "leader"
	case m.Learner:
		return "learner"
	}
	return "voter"
}

// memberID is the folder id of a member as etcd's own tools write it.
func (m quorumMember) memberID() string {
	return strconv.FormatUint(binary.BigEndian.Uint64(m.dir[8:]), 16)
}

// diskBytes asks each broker how much its logs take, -1 where it does not say.
func (v *clusterView) diskBytes(ctx context.Context) map[record.BrokerID]int64 {
	ctx, cancel := context.WithTimeout(ctx, askOneWithin)
	defer cancel()
	var mu sync.Mutex
	var asked sync.WaitGroup
	sizes := map[record.BrokerID]int64{}
	for id, h := range v.handles {
		asked.Go(func() {
			n := logBytes(ctx, h)
			mu.Lock()
			defer mu.Unlock()
			sizes[record.BrokerID(id)] = n
		})
	}
	asked.Wait()
	return sizes
}

func logBytes(ctx context.Context, h *kgo.Broker) int64 {
	resp, err := askFor[*kmsg.DescribeLogDirsResponse](ctx, h.Request, kmsg.NewPtrDescribeLogDirsRequest())
	if err != nil || resp.ErrorCode != 0 {
		return -1
	}
	n := int64(0)
	for _, d := range resp.Dirs {
		if d.ErrorCode != 0 {
			return -1
		}
		for _, t := range d.Topics {
			for _, p := range t.Partitions {
				n += p.Size
			}
		}
	}
	return n
}
