package group

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// start gives a coordinator with all its partitions on one log each.
func start(t *testing.T, cfg Config, logs ...*memLog) *Coordinator {
	t.Helper()
	cfg.OffsetsPartitions = int32(len(logs))
	c := New(cfg, Deps{})
	t.Cleanup(c.Close)
	for i, l := range logs {
		if err := c.Load(t.Context(), int32(i), l); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

type consumer struct {
	c        *Coordinator
	version  int16
	group    string
	id       string
	instance *string
	gen      int32
	meta     string
}

func (m *consumer) joinReq() *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.ProtocolType = m.version, m.group, m.id, m.instance, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 10_000, 60_000
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte(m.meta)}}
	return req
}

func (m *consumer) joinLater(req *kmsg.JoinGroupRequest) <-chan *kmsg.JoinGroupResponse {
	ch := make(chan *kmsg.JoinGroupResponse, 2)
	m.c.JoinGroup(ClientInfo{"client", "/127.0.0.1"}, req, func(r *kmsg.JoinGroupResponse) { ch <- r })
	return ch
}

// join joins as a consumer does: once more when it was given an id.
func (m *consumer) join() *kmsg.JoinGroupResponse {
	r := <-m.joinLater(m.joinReq())
	if r.ErrorCode == kerr.MemberIDRequired.Code {
		m.id = r.MemberID
		r = <-m.joinLater(m.joinReq())
	}
	if r.ErrorCode == 0 {
		m.id, m.gen = r.MemberID, r.Generation
	}
	return r
}

func (m *consumer) syncReq(assign map[string]string) *kmsg.SyncGroupRequest {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = min(m.version, 5), m.group, m.id, m.instance, m.gen
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	for id, a := range assign {
		req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: id, MemberAssignment: []byte(a)})
	}
	return req
}

func (m *consumer) syncLater(req *kmsg.SyncGroupRequest) <-chan *kmsg.SyncGroupResponse {
	ch := make(chan *kmsg.SyncGroupResponse, 2)
	m.c.SyncGroup(ClientInfo{"client", "/127.0.0.1"}, req, func(r *kmsg.SyncGroupResponse) { ch <- r })
	return ch
}

func (m *consumer) sync(assign map[string]string) *kmsg.SyncGroupResponse {
	return <-m.syncLater(m.syncReq(assign))
}

func (m *consumer) beat() int16 {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 4, m.group, m.id, m.instance, m.gen
	return m.c.Heartbeat(req).ErrorCode
}

func (m *consumer) leave() *kmsg.LeaveGroupResponse {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group = 5, m.group
	req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: m.id, InstanceID: m.instance, Reason: kmsg.StringPtr("bye")}}
	return m.c.LeaveGroup(req)
}

func commitReq(version int16, group, id string, gen int32, topic string, partition int32, offset int64) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.MemberID, req.Generation, req.RetentionTimeMillis = version, group, id, gen, -1
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = partition, offset, 7, kmsg.StringPtr("m")
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func commit(c *Coordinator, group, topic string, partition int32, offset int64) int16 {
	return c.OffsetCommit(commitReq(9, group, "", -1, topic, partition, offset)).Topics[0].Partitions[0].ErrorCode
}

func fetch(c *Coordinator, group, topic string, partition int32) int64 {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 9
	req.Groups = []kmsg.OffsetFetchRequestGroup{{Group: group, Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: topic, Partitions: []int32{partition}}}}}
	return c.OffsetFetch(req).Groups[0].Topics[0].Partitions[0].Offset
}

func wantCode(t *testing.T, what string, got int16, want *kerr.Error) {
	t.Helper()
	if got != code(want) {
		t.Errorf("%s: got %v, want %v", what, kerr.ErrorForCode(got), want)
	}
}

// The hashes are what Java prints for "…".hashCode().
func TestPartitionFor(t *testing.T) {
	for s, want := range map[string]int32{
		"": 0, "a": 97, "abc": 96354, "hello": 99162322, "polygenelubricants": -2147483648,
		"Aa": 2112, "BB": 2112, "\u00e9": 233, "\U0001F600": 1772899,
	} {
		if got := javaHash(s); got != want {
			t.Errorf("hash of %q: got %d, want %d", s, got, want)
		}
	}
	c := New(Config{}, Deps{})
	defer c.Close()
	// -2147483648 & 0x7fffffff is 0.
	for s, want := range map[string]int32{"": 0, "a": 47, "abc": 4, "hello": 22, "polygenelubricants": 0} {
		if got := c.PartitionFor(s); got != want {
			t.Errorf("partition of %q: got %d, want %d", s, got, want)
		}
	}
}

func TestLifeOfAGroup(t *testing.T) {
	for version := int16(0); version <= 9; version++ {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := newMemLog()
				c := start(t, Config{}, log)
				a := &consumer{c: c, version: version, group: "g", meta: "A"}
				b := &consumer{c: c, version: version, group: "g", meta: "B"}
				begin := time.Now()
				var rb *kmsg.JoinGroupResponse
				done := make(chan struct{})
				go func() { rb = b.join(); close(done) }()
				synctest.Wait()
				time.Sleep(2 * time.Second)
				ra := a.join()
				<-done
				// The member that came during the first delay got it extended.
				if d := time.Since(begin); d != 6*time.Second {
					t.Errorf("initial delay took %v", d)
				}
				if ra.ErrorCode != 0 || rb.ErrorCode != 0 || ra.Generation != 1 || ra.LeaderID != rb.MemberID || len(rb.Members) != 2 || len(ra.Members) != 0 {
					t.Fatalf("joined: %+v %+v", ra, rb)
				}
				if *ra.Protocol != "range" || version >= 7 && *ra.ProtocolType != "consumer" {
					t.Errorf("protocol: %+v", ra)
				}
				wait := a.syncLater(a.syncReq(nil))
				sb := b.sync(map[string]string{a.id: "pa", b.id: "pb"})
				sa := <-wait
				if string(sa.MemberAssignment) != "pa" || string(sb.MemberAssignment) != "pb" || *sa.Protocol != "range" {
					t.Fatalf("synced: %+v %+v", sa, sb)
				}
				wantCode(t, "heartbeat", a.beat(), nil)
				roundTrips(t, c, version, a, ra, sa)

				// A restart keeps the members and their assignments.
				c.Close()
				wantCode(t, "heartbeat after close", a.beat(), kerr.NotCoordinator)
				c = start(t, Config{}, log.revive())
				a.c, b.c = c, c
				wantCode(t, "heartbeat after restart", a.beat(), nil)
				if s := a.sync(nil); string(s.MemberAssignment) != "pa" {
					t.Errorf("assignment after restart: %+v", s)
				}
				// b falls silent; a learns of it by its heartbeats.
				for range 3 {
					time.Sleep(4 * time.Second)
					a.beat()
				}
				wantCode(t, "heartbeat after a death", a.beat(), kerr.RebalanceInProgress)
				if r := a.join(); r.Generation != 2 || r.LeaderID != a.id || len(r.Members) != 1 {
					t.Errorf("joined again: %+v", r)
				}
				wantCode(t, "b is gone", b.beat(), kerr.UnknownMemberID)
				a.sync(map[string]string{a.id: "all"})
				wantCode(t, "leave", a.leave().Members[0].ErrorCode, nil)
				if got := describe(c, 5, "g"); got.State != "Empty" || len(got.Members) != 0 {
					t.Errorf("in the end: %+v", got)
				}
			})
		})
	}
}

func describe(c *Coordinator, version int16, group string) kmsg.DescribeGroupsResponseGroup {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Version, req.Groups = version, []string{group}
	return c.DescribeGroups(req).Groups[0]
}

// roundTrips encodes replies at every version that carries them.
func roundTrips(t *testing.T, c *Coordinator, version int16, m *consumer, j *kmsg.JoinGroupResponse, s *kmsg.SyncGroupResponse) {
	t.Helper()
	check := func(r kmsg.Response, version int16) {
		t.Helper()
		if r.GetVersion() != version {
			t.Errorf("%T has version %d, want %d", r, r.GetVersion(), version)
		}
		again := kmsg.ResponseForKey(r.Key())
		again.SetVersion(version)
		raw := r.AppendTo(nil)
		if err := again.ReadFrom(raw); err != nil {
			t.Errorf("%T v%d: %v", r, version, err)
		}
		if string(again.AppendTo(nil)) != string(raw) {
			t.Errorf("%T v%d changes when read again", r, version)
		}
	}
	check(j, version)
	check(s, min(version, 5))
	for v := int16(0); v <= 6; v++ {
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Version, req.Groups = v, []string{m.group, "nobody"}
		r := c.DescribeGroups(req)
		check(r, v)
		g, no := r.Groups[0], r.Groups[1]
		if g.State != "Stable" || g.Protocol != "range" || g.ProtocolType != "consumer" || len(g.Members) != 2 || string(g.Members[0].MemberAssignment) == "" || string(g.Members[0].ProtocolMetadata) == "" || g.Members[0].ClientHost != "/127.0.0.1" {
			t.Errorf("described v%d: %+v", v, g)
		}
		if no.State != "Dead" || (v >= 6) != (no.ErrorCode == kerr.GroupIDNotFound.Code) || (v >= 6) != (no.ErrorMessage != nil) {
			t.Errorf("described nobody v%d: %+v", v, no)
		}
	}
	for v := int16(0); v <= 5; v++ {
		req := kmsg.NewPtrListGroupsRequest()
		req.Version = v
		r := c.ListGroups(req)
		check(r, v)
		if len(r.Groups) != 1 || r.Groups[0].Group != m.group || r.Groups[0].GroupState != "Stable" || r.Groups[0].GroupType != "classic" {
			t.Errorf("listed v%d: %+v", v, r.Groups)
		}
	}
	for v := int16(2); v <= 10; v++ {
		req := commitReq(v, m.group, m.id, m.gen, "t", int32(v), 40)
		req.Topics[0].TopicID[0] = 9
		r := c.OffsetCommit(req)
		check(r, v)
		wantCode(t, fmt.Sprint("commit v", v), r.Topics[0].Partitions[0].ErrorCode, nil)
		wantCode(t, fmt.Sprint("commit of an old generation v", v), c.OffsetCommit(commitReq(v, m.group, m.id, m.gen+1, "t", 0, 1)).Topics[0].Partitions[0].ErrorCode, kerr.IllegalGeneration)
	}
	for v := int16(1); v <= 10; v++ {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Version, req.Group = v, m.group
		if v >= 8 {
			req.Groups = []kmsg.OffsetFetchRequestGroup{{Group: m.group, Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: []int32{6, 99}}}}, {Group: "nobody"}}
		} else {
			req.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{6, 99}}}
		}
		r := c.OffsetFetch(req)
		check(r, v)
		var got string
		if v >= 8 {
			for _, p := range r.Groups[0].Topics[0].Partitions {
				got += fmt.Sprintf("%d:%d/%d/%s/%d ", p.Partition, p.Offset, p.LeaderEpoch, *p.Metadata, p.ErrorCode)
			}
			if len(r.Groups) != 2 || len(r.Groups[1].Topics) != 0 || r.Groups[1].ErrorCode != 0 {
				t.Errorf("fetched of nobody: %+v", r.Groups)
			}
		} else {
			for _, p := range r.Topics[0].Partitions {
				got += fmt.Sprintf("%d:%d/%d/%s/%d ", p.Partition, p.Offset, p.LeaderEpoch, *p.Metadata, p.ErrorCode)
			}
		}
		if want := "6:40/7/m/0 99:-1/-1//0 "; got != want {
			t.Errorf("fetched v%d: %s, want %s", v, got, want)
		}
	}
	for v := int16(0); v <= 4; v++ {
		req := kmsg.NewPtrHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.Generation = v, m.group, m.id, m.gen
		check(c.Heartbeat(req), v)
	}
	for v := int16(0); v <= 5; v++ {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Version, req.Group, req.MemberID = v, m.group, "nobody"
		req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: "nobody"}, {InstanceID: kmsg.StringPtr("none")}}
		r := c.LeaveGroup(req)
		check(r, v)
		if v < 3 {
			wantCode(t, "leave", r.ErrorCode, kerr.UnknownMemberID)
		} else if len(r.Members) != 2 || r.Members[1].ErrorCode != kerr.UnknownMemberID.Code || r.ErrorCode != 0 {
			t.Errorf("leave v%d: %+v", v, r)
		}
	}
}

// stableGroup makes a group of n members with a stable generation.
func stableGroup(t *testing.T, c *Coordinator, n int, instance string) []*consumer {
	t.Helper()
	var ms []*consumer
	var wg sync.WaitGroup
	for i := range n {
		m := &consumer{c: c, version: 9, group: "g", meta: fmt.Sprint(i)}
		if instance != "" {
			m.instance = kmsg.StringPtr(fmt.Sprint(instance, i))
		}
		ms = append(ms, m)
		wg.Go(func() { m.join() })
		synctest.Wait()
	}
	wg.Wait()
	assign := map[string]string{}
	for _, m := range ms {
		assign[m.id] = "for " + m.meta
	}
	for _, m := range ms {
		wg.Go(func() {
			if r := m.sync(assign); string(r.MemberAssignment) != assign[m.id] {
				t.Errorf("synced: %+v", r)
			}
		})
	}
	wg.Wait()
	return ms
}

func TestStaticMembers(t *testing.T) {
	for _, version := range []int16{5, 8, 9} {
		synctest.Test(t, func(t *testing.T) {
			log := newMemLog()
			c := start(t, Config{}, log)
			ms := stableGroup(t, c, 2, "inst")
			lead, other := ms[0], ms[1]
			for _, m := range ms { // each bounces: no rebalance, new id, old assignment
				old := *m
				m.version, m.id = version, ""
				r := m.join()
				if r.ErrorCode != 0 || r.Generation != old.gen || m.id == old.id || !strings.HasPrefix(m.id, *m.instance+"-") {
					t.Fatalf("v%d rejoined: %+v", version, r)
				}
				if wantSkip := version >= 9 && m == lead; r.SkipAssignment != wantSkip || (len(r.Members) == 2) != wantSkip {
					t.Errorf("v%d: skip assignment: %+v", version, r)
				}
				if version < 9 && r.LeaderID == m.id {
					t.Errorf("v%d: told to lead: %+v", version, r)
				}
				wantCode(t, "the old id", old.beat(), kerr.FencedInstanceID)
				wantCode(t, "the old id leaves", old.leave().Members[0].ErrorCode, kerr.FencedInstanceID)
				wantCode(t, "the old id syncs", old.sync(nil).ErrorCode, kerr.FencedInstanceID)
				wantCode(t, "the old id joins", (<-old.joinLater(old.joinReq())).ErrorCode, kerr.FencedInstanceID)
				wantCode(t, "an unknown instance", (&consumer{c: c, version: 9, group: "g", id: m.id, instance: kmsg.StringPtr("x"), gen: m.gen}).beat(), kerr.UnknownMemberID)
				if s := m.sync(nil); string(s.MemberAssignment) != "for "+m.meta {
					t.Errorf("assignment: %+v", s)
				}
			}
			wantCode(t, "still stable", other.beat(), nil)
			// The new ids are what a restart knows.
			c.Close()
			c = start(t, Config{}, log.revive())
			lead.c, other.c = c, c
			wantCode(t, "after restart", lead.beat(), nil)
			wantCode(t, "after restart", other.beat(), nil)
			// An administrator removes one by its instance.
			req := kmsg.NewPtrLeaveGroupRequest()
			req.Version, req.Group = 3, "g"
			req.Members = []kmsg.LeaveGroupRequestMember{{InstanceID: other.instance}, {InstanceID: other.instance}}
			r := c.LeaveGroup(req)
			wantCode(t, "removed", r.Members[0].ErrorCode, nil)
			wantCode(t, "removed twice", r.Members[1].ErrorCode, kerr.UnknownMemberID)
			wantCode(t, "a rebalance", lead.beat(), kerr.RebalanceInProgress)
		})
	}
}

func TestStaticStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		c := start(t, Config{}, log)
		m := stableGroup(t, c, 1, "inst")[0]
		log.fail = kerr.NotEnoughReplicas
		req := m.joinReq()
		req.MemberID = ""
		wantCode(t, "join", (<-m.joinLater(req)).ErrorCode, kerr.CoordinatorNotAvailable)
		wantCode(t, "the old id is back", m.beat(), nil)
		// A leader's assignment that cannot be stored begins the join anew.
		j := m.join()
		log.fail = errors.New("disk")
		wantCode(t, "sync", m.sync(nil).ErrorCode, kerr.NotCoordinator)
		wantCode(t, "rejoin", m.beat(), kerr.RebalanceInProgress)
		if r := m.join(); r.ErrorCode != 0 || r.Generation != j.Generation+1 {
			t.Errorf("joined: %+v", r)
		}
		wantCode(t, "sync", m.sync(nil).ErrorCode, nil)
		log.fail = kerr.MessageTooLarge
		wantCode(t, "commit", c.OffsetCommit(commitReq(9, "g", m.id, m.gen, "t", 0, 1)).Topics[0].Partitions[0].ErrorCode, kerr.UnknownServerError)
		if got := fetch(c, "g", "t", 0); got != -1 {
			t.Errorf("an offset that was not stored is shown: %d", got)
		}
		log.fail = kerr.NotLeaderForPartition
		wantCode(t, "leave", m.leave().ErrorCode, kerr.NotCoordinator)
	})
}

func TestPendingMemberAndSyncTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, Config{}, newMemLog())
		ms := stableGroup(t, c, 1, "")
		ghost := &consumer{c: c, version: 5, group: "g"}
		r := <-ghost.joinLater(ghost.joinReq())
		wantCode(t, "first join", r.ErrorCode, kerr.MemberIDRequired)
		// A pending member holds a join phase up, until its session ends.
		begin := time.Now()
		ms[0].meta = "changed"
		ms[0].join()
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("joined after %v", d)
		}
		ghost.id = r.MemberID
		wantCode(t, "a pending id that is gone", (<-ghost.joinLater(ghost.joinReq())).ErrorCode, kerr.UnknownMemberID)
		// One that beats but does not sync is expelled after the rebalance timeout.
		for range 14 {
			wantCode(t, "beat", ms[0].beat(), nil)
			time.Sleep(4 * time.Second)
		}
		wantCode(t, "commit while completing", c.OffsetCommit(commitReq(9, "g", ms[0].id, ms[0].gen, "t", 0, 1)).Topics[0].Partitions[0].ErrorCode, kerr.RebalanceInProgress)
		ms[0].beat()
		time.Sleep(5 * time.Second)
		wantCode(t, "expelled", ms[0].beat(), kerr.UnknownMemberID)
	})
}

func TestCooperativeRejoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, Config{}, newMemLog())
		ms := stableGroup(t, c, 2, "")
		r := ms[1].join() // unchanged follower: told what is
		if r.ErrorCode != 0 || r.Generation != 1 {
			t.Fatalf("unchanged: %+v", r)
		}
		wantCode(t, "no rebalance", ms[0].beat(), nil)
		ms[1].meta = "owns less"
		later := ms[1].joinLater(ms[1].joinReq())
		wantCode(t, "changed metadata", ms[0].beat(), kerr.RebalanceInProgress)
		wantCode(t, "commit while preparing", c.OffsetCommit(commitReq(9, "g", ms[0].id, ms[0].gen, "t", 0, 1)).Topics[0].Partitions[0].ErrorCode, nil)
		if r := ms[0].join(); r.Generation != 2 || len(r.Members) != 2 || string(r.Members[1].ProtocolMetadata) != "owns less" {
			t.Fatalf("rejoined: %+v", r)
		}
		ms[1].gen = (<-later).Generation
		wantCode(t, "sync", ms[0].sync(nil).ErrorCode, nil)
		wantCode(t, "sync", ms[1].sync(nil).ErrorCode, nil)
		later = ms[0].joinLater(ms[0].joinReq()) // the leader always rebalances
		wantCode(t, "leader joins", ms[1].beat(), kerr.RebalanceInProgress)
		wantCode(t, "sync while preparing", ms[1].sync(nil).ErrorCode, kerr.RebalanceInProgress)
		c.Close()
		wantCode(t, "close", (<-later).ErrorCode, kerr.NotCoordinator)
	})
}

func TestLoadingAndUnloaded(t *testing.T) {
	c := New(Config{OffsetsPartitions: 1}, Deps{})
	defer c.Close()
	m := &consumer{c: c, version: 9, group: "g", id: "x"}
	codes := func() (out []int16) {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Version, req.Group, req.Topics = 1, "g", []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0}}}
		v1 := c.OffsetFetch(req).Topics[0].Partitions[0].ErrorCode
		req.Version = 7
		return []int16{(<-m.joinLater(m.joinReq())).ErrorCode, m.sync(nil).ErrorCode, m.beat(), m.leave().ErrorCode,
			commit(c, "g", "t", 0, 1), v1, c.OffsetFetch(req).ErrorCode, describe(c, 6, "g").ErrorCode}
	}
	if got := codes(); !slices.Equal(got, slices.Repeat([]int16{kerr.NotCoordinator.Code}, 8)) {
		t.Errorf("not loaded: %v", got)
	}
	var during []int16
	log := &hookLog{memLog: newMemLog(), hook: func() {
		during = codes()
		if r := c.ListGroups(kmsg.NewPtrListGroupsRequest()); r.ErrorCode != kerr.CoordinatorLoadInProgress.Code {
			t.Errorf("list while loading: %+v", r)
		}
		if err := c.Load(t.Context(), 0, newMemLog()); err == nil {
			t.Error("loaded twice at once")
		}
		c.DropTopic("t", record.TopicID{})
	}}
	if err := c.Load(t.Context(), 0, log); err != nil {
		t.Fatal(err)
	}
	want := slices.Repeat([]int16{kerr.CoordinatorLoadInProgress.Code}, 8)
	want[2] = 0 // heartbeats: Kafka says all is well
	if !slices.Equal(during, want) {
		t.Errorf("loading: %v", during)
	}
	wantCode(t, "loaded", commit(c, "g", "t", 0, 1), nil)
	if err := c.Load(t.Context(), 0, log); err == nil {
		t.Error("loaded twice")
	}
	if err := c.Load(t.Context(), 1, log); err == nil {
		t.Error("loaded a partition that is not there")
	}
	c.Unload(0)
	wantCode(t, "unloaded", commit(c, "g", "t", 0, 1), kerr.NotCoordinator)
	if err := c.Load(t.Context(), 0, &hookLog{memLog: newMemLog(), hook: func() { c.Unload(0) }}); !errors.Is(err, errClosing) {
		t.Errorf("unloaded while loading: %v", err)
	}
	if n := c.bytes.Load(); n != 0 {
		t.Errorf("%d bytes still accounted", n)
	}
}

// TestBlockedAppend has many wait for one slow append: they are then written
// together, and a member of another group does not wait for them.
func TestBlockedAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		log.gate = make(chan struct{})
		c := start(t, Config{}, log)
		codes := make(chan int16, 50)
		for i := range 50 {
			go func() { codes <- commit(c, "g", "t", int32(i), 1) }()
		}
		synctest.Wait()
		m := &consumer{c: c, group: "other", version: 9}
		wantCode(t, "others go on", (<-m.joinLater(m.joinReq())).ErrorCode, kerr.MemberIDRequired)
		close(log.gate)
		for range 50 {
			wantCode(t, "commit", <-codes, nil)
		}
		if n := len(log.batches); n != 2 {
			t.Errorf("%d batches: one was at the log when the others queued up", n)
		}
	})
}

// TestLogLines: what a client does in a loop is at the level of debugging
// after a few lines, until it has been quiet for a while.
func TestLogLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var info, all lineCount
		log := slog.New(slog.NewMultiHandler(slog.NewTextHandler(&info, nil), slog.NewTextHandler(&all, &slog.HandlerOptions{Level: slog.LevelDebug})))
		c := New(Config{OffsetsPartitions: 1, InitialRebalanceDelay: -1}, Deps{Log: log})
		defer c.Close()
		if err := c.Load(t.Context(), 0, newMemLog()); err != nil {
			t.Fatal(err)
		}
		m := &consumer{c: c, group: "g", version: 9}
		m.join()
		loop := func(n int) (atInfo, atAll lineCount) {
			atInfo, atAll = info, all
			for i := range n {
				m.meta = fmt.Sprint(i)
				wantCode(t, "join", m.join().ErrorCode, nil)
			}
			return info - atInfo, all - atAll
		}
		if atInfo, atAll := loop(1000); atInfo > linesAtOnce || atAll != 1000 {
			t.Errorf("%d lines, %d with those for debugging", atInfo, atAll)
		}
		time.Sleep(9 * time.Second) // the session of 10 s goes on
		if atInfo, _ := loop(5); atInfo != 1 {
			t.Errorf("%d lines after 9 s", atInfo)
		}
	})
}

// lineCount counts what is written to it: once a line.
type lineCount int

func (n *lineCount) Write(b []byte) (int, error) { *n++; return len(b), nil }

func TestCorruptRecords(t *testing.T) {
	key := (&entry{group: "g", isOffset: true, topic: "t"}).key()
	good := (&entry{group: "g", isOffset: true, topic: "t", offset: &offsetValue{offset: 5, expireTime: -1}}).value()
	group := (&entry{group: "g"}).key()
	for name, r := range map[string]record.Record{
		"short key":            {Key: []byte{1}},
		"null key":             {},
		"cut key":              {Key: key[:5]},
		"cut group key":        {Key: group[:3]},
		"empty value":          {Key: key, Value: []byte{}},
		"cut value":            {Key: key, Value: good[:7]},
		"new value":            {Key: key, Value: []byte{0, 9}},
		"negative value":       {Key: key, Value: []byte{0xff, 0xff}},
		"cut group":            {Key: group, Value: []byte{0, 3, 0, 1}},
		"new version of group": {Key: group, Value: []byte{0, 4}},
	} {
		log := newMemLog()
		log.put(t, record.Record{Key: key, Value: good}, record.Record{Key: []byte{0, 9, 1}, Value: []byte("later")}, r)
		c := New(Config{OffsetsPartitions: 1}, Deps{})
		err := c.Load(t.Context(), 0, log)
		var ce *CorruptError
		if !errors.As(err, &ce) || ce.Offset != 2 || ce.Partition != 0 {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
	log := newMemLog()
	log.put(t, record.Record{Key: key, Value: good}, record.Record{Key: []byte{0, 9, 1}, Value: []byte("later")})
	if got := fetch(start(t, Config{}, log), "g", "t", 0); got != 5 {
		t.Errorf("beside a record of an unknown version: %d", got)
	}
	log.batches[0][70] ^= 1
	c := New(Config{OffsetsPartitions: 1}, Deps{})
	defer c.Close()
	if err := c.Load(t.Context(), 0, log); !errors.Is(err, record.ErrChecksum) {
		t.Errorf("flipped bit: %v", err)
	}
}

// hookLog calls hook in the middle of Replay.
type hookLog struct {
	*memLog
	hook func()
}

// TestManyAtOnce has real goroutines join, sync, commit, describe and leave.
func TestManyAtOnce(t *testing.T) {
	logs := []*memLog{newMemLog(), newMemLog(), newMemLog()}
	c := start(t, Config{InitialRebalanceDelay: -1, SnapshotBytes: 3000, MaxBatchBytes: 200}, logs...)
	var wg sync.WaitGroup
	for g := range 6 {
		for i := range 5 {
			wg.Go(func() {
				m := &consumer{c: c, version: 9, group: fmt.Sprint("g", g), meta: fmt.Sprint(i)}
				for n := range int64(60) {
					r := m.join()
					if r.ErrorCode != 0 {
						m.id = ""
						continue
					}
					assign := map[string]string{}
					for _, o := range r.Members {
						assign[o.MemberID] = "x"
					}
					if m.sync(assign).ErrorCode == 0 {
						c.OffsetCommit(commitReq(9, m.group, m.id, m.gen, "t", int32(i), n))
					}
					commit(c, "simple", "t", int32(i), n)
					describe(c, 6, m.group)
					c.ListGroups(kmsg.NewPtrListGroupsRequest())
					fetch(c, m.group, "t", 0)
					if n%7 == 0 {
						c.DropTopic("t", record.TopicID{})
					}
					if n%3 == 0 {
						m.leave()
						m.id = ""
					}
				}
				m.leave()
			})
		}
	}
	wg.Wait()
	for g := range 6 {
		if d := describe(c, 6, fmt.Sprint("g", g)); d.State != "Empty" {
			t.Errorf("in the end: %+v", d)
		}
	}
	commit(c, "simple", "t", 99, 1) // behind the last DropTopic
	for g := range 6 {
		commit(c, fmt.Sprint("g", g), "t", 99, 1)
	}
	state := func() (out string) {
		for g := range 6 {
			out += fmt.Sprint(fetchAll(c, fmt.Sprint("g", g)))
		}
		return out + fmt.Sprint(fetchAll(c, "simple"))
	}
	before := state()
	for i, l := range logs {
		if l.trims == 0 {
			t.Errorf("log %d was never trimmed", i)
		}
	}
	c.Close()
	for i := range logs {
		logs[i] = logs[i].revive()
	}
	if c = start(t, Config{}, logs...); state() != before {
		t.Errorf("before %s\nafter  %s", before, state())
	}
	c.Close()
	if n := c.bytes.Load(); n != 0 || c.groups.Load() != 0 {
		t.Errorf("still accounted: %d bytes, %d groups", n, c.groups.Load())
	}
}

func TestMemoryLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, Config{MaxBytes: 5000}, newMemLog())
		n := int64(0)
		for ; commit(c, "g", "t", int32(n), n) == 0; n++ {
			if n > 1000 {
				t.Fatal("never full")
			}
		}
		wantCode(t, "a new offset", commit(c, "g", "t", 1000, 1), kerr.InvalidCommitOffsetSize)
		wantCode(t, "a known offset", commit(c, "g", "t", 0, 1), nil)
		m := &consumer{c: c, version: 9, group: "other"}
		wantCode(t, "a new member", m.join().ErrorCode, kerr.GroupMaxSizeReached)
		c.DropTopic("t", record.TopicID{})
		synctest.Wait()
		wantCode(t, "room again", commit(c, "g", "t", 0, 1), nil)
	})
}
