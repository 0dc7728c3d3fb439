package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// What a member was when it last answered stays known, for as long as it is a
// member.
func TestMembersSeen(t *testing.T) {
	member := func(id uint64, revision, lag int64, err error) metastore.MemberHealth {
		m := metastore.MemberHealth{Revision: revision, Lag: lag, Err: err}
		m.ID, m.Broker = id, 1
		return m
	}
	gone := errors.New("gone")
	var s membersSeen
	for i, c := range []struct {
		m                    metastore.MemberHealth
		end, fetched, caught int64
	}{
		{member(1, 0, 0, gone), -1, -1, -1},
		{member(1, 7, 2, nil), 7, 101, -1},
		{member(1, 9, 0, nil), 9, 102, 102},
		{member(1, 11, 5, nil), 11, 103, 102},
		{member(1, 0, 0, gone), 11, 103, 102},
		{member(2, 0, 0, gone), -1, -1, -1}, // another disk
		{member(1, 0, 0, gone), -1, -1, -1},
	} {
		v := s.states([]metastore.MemberHealth{c.m}, int64(100+i))[0]
		if v.LogEndOffset != c.end || v.LastFetchTimestamp != c.fetched || v.LastCaughtUpTimestamp != c.caught || v.ReplicaDirectoryID != memberUUID(c.m.ID) {
			t.Errorf("look %d: %+v, want end %d, fetched %d, caught up %d", i, v, c.end, c.fetched, c.caught)
		}
	}
	if len(s.last) != 1 {
		t.Errorf("%d members are remembered, one is there", len(s.last))
	}
}

// A broker's addresses are such that others can connect to them.
func TestQuorumNode(t *testing.T) {
	b := metastore.Broker{ID: 3, Host: "b3.test", Port: 9092, HTTP: "[::]:9644", Peer: "10.0.0.3:2380"}
	want := []kmsg.DescribeQuorumResponseNodeListener{{Name: "PLAINTEXT", Host: "b3.test", Port: 9092}, {Name: "HTTP", Host: "b3.test", Port: 9644}, {Name: "PEER", Host: "10.0.0.3", Port: 2380}}
	got := quorumNode(b).Listeners
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i].Name != want[i].Name || got[i].Host != want[i].Host || got[i].Port != want[i].Port {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
	b.HTTP, b.Peer = "127.0.0.1:1", ""
	if got := quorumNode(b).Listeners; len(got) != 2 || got[1].Host != "127.0.0.1" {
		t.Errorf("%+v", got)
	}
}

// fakeMembers is metadata of a cluster: broker 1, which is asked, 2 that does
// not answer, 3 that joins, and one that has never run.
type fakeMembers struct {
	Metadata
	img     *metastore.Image
	refuse  error    // of what is to be changed
	changed []string // what was
}

func (f *fakeMembers) Image() *metastore.Image { return f.img }

func (f *fakeMembers) Members(context.Context) (all []metastore.Member, _ error) {
	for _, m := range f.health() {
		all = append(all, m.Member)
	}
	return all, nil
}

func (f *fakeMembers) Health(context.Context) ([]metastore.MemberHealth, error) {
	return f.health(), nil
}

func (f *fakeMembers) health() []metastore.MemberHealth {
	return []metastore.MemberHealth{
		{Member: metastore.Member{ID: 11, Broker: 1, Peer: "a:1"}, Leader: true, Term: 7, Revision: 100},
		{Member: metastore.Member{ID: 12, Broker: 2, Peer: "b:1"}, Err: errors.New("silent")},
		{Member: metastore.Member{ID: 13, Broker: 3, Peer: "c:1", Learner: true}, Term: 7, Revision: 90, Lag: 10},
		{Member: metastore.Member{ID: 14, Broker: -1, Peer: "d:1"}, Err: errors.New("never")},
	}
}

func (f *fakeMembers) change(what string) error {
	if f.refuse == nil {
		f.changed = append(f.changed, what)
	}
	return f.refuse
}

func (f *fakeMembers) AddMember(_ context.Context, peer string) error {
	return f.change("add " + peer)
}

func (f *fakeMembers) RemoveMember(_ context.Context, peer string) error {
	return f.change("remove " + peer)
}

func (f *fakeMembers) Forget(_ context.Context, id record.BrokerID) (int64, error) {
	return 0, f.change(fmt.Sprintf("forget %d", id))
}

// newFakeMembers gives an API over it; brokers 1 and 9 are registered, 2, 4 and
// 5 were, and 5 has a replica.
func newFakeMembers() (*API, *fakeMembers) {
	img := takenIn(1, 9)
	img.ClusterID = "ours"
	for _, id := range []record.BrokerID{2, 4, 5} {
		img.Unfenced[id] = metastore.Unfenced{Epoch: 3}
	}
	img.Topics = map[string]*metastore.Topic{"t": {Name: "t", Partitions: []metastore.Partition{{Replicas: []record.BrokerID{1, 5}}}}}
	f := &fakeMembers{img: img}
	deps := shared.deps
	deps.Meta = f
	return New(Config{BrokerID: 1}, deps), f
}

// Voters and observers are told apart, with what is known of each.
func TestDescribeQuorumOfCluster(t *testing.T) {
	a, _ := newFakeMembers()
	for version := range int16(3) {
		req := kmsg.NewPtrDescribeQuorumRequest()
		req.Version = version
		req.Topics = []kmsg.DescribeQuorumRequestTopic{{Topic: metadataTopic, Partitions: []kmsg.DescribeQuorumRequestTopicPartition{{}}}}
		resp := serve(t, a, "test", req).resp.(*kmsg.DescribeQuorumResponse)
		p := resp.Topics[0].Partitions[0]
		if p.LeaderID != 1 || p.LeaderEpoch != 7 || p.HighWatermark != 100 || len(p.CurrentVoters) != 3 || len(p.Observers) != 1 {
			t.Fatalf("version %d: %+v", version, p)
		}
		o, silent, never := p.Observers[0], p.CurrentVoters[1], p.CurrentVoters[2]
		if o.ReplicaID != 3 || o.LogEndOffset != 90 || silent.ReplicaID != 2 || silent.LogEndOffset != -1 || never.ReplicaID != -1 {
			t.Errorf("version %d: %+v", version, p)
		}
		if version >= 1 && (o.LastFetchTimestamp < 0 || o.LastCaughtUpTimestamp != -1 || silent.LastFetchTimestamp != -1) {
			t.Errorf("version %d: %+v, %+v", version, o, silent)
		}
		if version >= 2 && (o.ReplicaDirectoryID != memberUUID(13) || len(resp.Nodes) != 2) {
			t.Errorf("version %d: %+v, nodes %+v", version, o, resp.Nodes)
		}
	}
}

// What cannot be done to members is refused with its reason, and nothing is
// changed.
func TestChangeMembers(t *testing.T) {
	add := func(cluster string, id int32, host string, port uint16) kmsg.Request {
		req := kmsg.NewPtrAddRaftVoterRequest()
		req.ClusterID, req.VoterID = &cluster, id
		req.Listeners = []kmsg.AddRaftVoterRequestListener{{Name: "PEER", Host: host, Port: port}}
		return req
	}
	remove := func(cluster string, id int32, member uint64) kmsg.Request {
		req := kmsg.NewPtrRemoveRaftVoterRequest()
		req.ClusterID, req.VoterID, req.VoterDirectoryID = &cluster, id, memberUUID(member)
		return req
	}
	unregister := func(id int32) kmsg.Request {
		req := kmsg.NewPtrUnregisterBrokerRequest()
		req.BrokerID = id
		return req
	}
	for name, c := range map[string]struct {
		req    kmsg.Request
		refuse error // of the metastore
		want   *kerr.Error
		says   string
		done   string
	}{
		"add":                      {add("ours", 4, "e", 1), nil, nil, "", "add e:1"},
		"add to another cluster":   {add("theirs", 4, "e", 1), nil, kerr.InconsistentClusterID, `cluster "theirs"`, ""},
		"add nobody":               {add("ours", -1, "e", 1), nil, kerr.InvalidRequest, "node id", ""},
		"add without an address":   {add("ours", 4, "", 1), nil, kerr.InvalidRequest, "--peer", ""},
		"add without a port":       {add("ours", 4, "e", 0), nil, kerr.InvalidRequest, "--peer", ""},
		"add one that is there":    {add("ours", 2, "e", 1), nil, kerr.DuplicateVoter, "broker 2", ""},
		"add one at its address":   {add("ours", 2, "b", 1), nil, kerr.DuplicateVoter, "if its folder is lost", "add b:1"}, // a note of a removal that failed goes
		"add an address again":     {add("ours", 4, "c", 1), nil, kerr.DuplicateVoter, "c:1", ""},
		"remove":                   {remove("ours", 2, 12), nil, nil, "", "remove b:1"},
		"remove a learner":         {remove("ours", 3, 13), nil, nil, "", "remove c:1"},
		"remove one never run":     {remove("ours", -1, 14), nil, nil, "", "remove d:1"},
		"remove of another":        {remove("theirs", 2, 12), nil, kerr.InconsistentClusterID, "theirs", ""},
		"remove a stranger":        {remove("ours", 8, 12), nil, kerr.VoterNotFound, "broker 8", ""},
		"remove an earlier disk":   {remove("ours", 2, 99), nil, kerr.VoterNotFound, "broker 2", ""},
		"remove without a folder":  {remove("ours", 2, 0), nil, kerr.InvalidRequest, "folder id", ""},
		"remove too many":          {remove("ours", 2, 12), fmt.Errorf("no: %w", metastore.ErrQuorum), kerr.InvalidRequest, "too few", ""},
		"removed meanwhile":        {remove("ours", 2, 12), fmt.Errorf("no: %w", metastore.ErrConflict), kerr.VoterNotFound, "any more", ""},
		"forget":                   {unregister(4), nil, nil, "", "forget 4"},
		"forget one that runs":     {unregister(9), nil, kerr.InvalidRequest, "is running", ""},
		"forget one with replicas": {unregister(5), nil, kerr.InvalidRequest, "partitions: 1, one of them t-0", ""},
		"forget a member":          {unregister(2), nil, kerr.InvalidRequest, "member of etcd", ""},
		"forget a stranger":        {unregister(8), nil, kerr.BrokerIDNotRegistered, "no broker 8", ""},
		"forget nobody":            {unregister(-1), nil, kerr.BrokerIDNotRegistered, "no broker -1", ""},
		"it is back":               {unregister(4), fmt.Errorf("no: %w", metastore.ErrConflict), kerr.InvalidRequest, "is running", ""},
	} {
		a, f := newFakeMembers()
		f.refuse = c.refuse
		var code int16
		var message *string
		switch r := serve(t, a, "test", c.req).resp.(type) {
		case *kmsg.AddRaftVoterResponse:
			code, message = r.ErrorCode, r.ErrorMessage
		case *kmsg.RemoveRaftVoterResponse:
			code, message = r.ErrorCode, r.ErrorMessage
		case *kmsg.UnregisterBrokerResponse:
			code, message = r.ErrorCode, r.ErrorMessage
		}
		wantCode(t, name, code, c.want)
		if c.want != nil && message == nil {
			t.Errorf("%s: it says nothing", name)
		} else if c.want != nil && !strings.Contains(*message, c.says) {
			t.Errorf("%s: it says %q, not %q", name, *message, c.says)
		}
		if done := strings.Join(f.changed, ","); done != c.done {
			t.Errorf("%s: done is %q, want %q", name, done, c.done)
		}
	}
}

// A producer that waited for acknowledgements while another broker took over is
// told who leads now, not who led when it asked: a hint with the epoch that it
// knows is none to it (KIP-951), and it waits for its next look at metadata.
func TestProduceIsToldOfTheNewLeader(t *testing.T) {
	a, f := newFakeMembers()
	image := func(leader record.BrokerID, epoch record.Epoch) *metastore.Image {
		img := takenIn(1, 9)
		topic := &metastore.Topic{Name: "t", ID: [16]byte{1}, Partitions: []metastore.Partition{{Leader: leader, Epoch: epoch}}}
		img.Topics, img.TopicIDs = map[string]*metastore.Topic{"t": topic}, map[record.TopicID]*metastore.Topic{topic.ID: topic}
		return img
	}
	before := image(1, 3)
	req := kmsg.NewPtrProduceRequest()
	req.Version = 10
	for what, now := range map[string]*metastore.Image{"another leads": image(9, 4), "the topic is gone": takenIn(1)} {
		f.img = now
		p := &produceCall{a: a, req: req, resp: kmsg.NewPtrProduceResponse(), img: before}
		out := kmsg.NewProduceResponseTopicPartition()
		p.failed(before.Topics["t"], &out, kerr.NotLeaderForPartition)
		want := kmsg.NewProduceResponseTopicPartitionCurrentLeader()
		if len(now.Topics) > 0 {
			want.LeaderID, want.LeaderEpoch = 9, 4
		}
		if got := out.CurrentLeader; got.LeaderID != want.LeaderID || got.LeaderEpoch != want.LeaderEpoch || (len(p.resp.Brokers) == 1) != (want.LeaderID == 9) {
			t.Errorf("%s: %+v, %+v", what, got, p.resp.Brokers)
		}
	}
}
