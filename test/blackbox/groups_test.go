package blackbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/firnlog/firn/test/firntest"
)

// groupMember is a member that says what it is told to, and no more: a real
// client would hide a rebalance by joining again.
type groupMember struct {
	cl       *kgo.Client
	group    string
	instance *string // of a static member
	id       string
	leader   bool
	assigned string

	generation int32
	acked      int64 // the last offset whose commit succeeded; it commits its own partition
	sent       int64
}

// coordinated is a request that is sent again as long as the coordinator is
// away or loads.
func coordinated[R kmsg.Response](ctx context.Context, cl *kgo.Client, req kmsg.Request, code func(R) int16) (R, error) {
	for {
		resp, err := cl.Request(ctx, req)
		if err == nil {
			r := resp.(R)
			switch code(r) {
			case kerr.CoordinatorLoadInProgress.Code, kerr.CoordinatorNotAvailable.Code, kerr.NotCoordinator.Code:
				err = kerr.ErrorForCode(code(r))
			default:
				return r, nil
			}
		}
		if ctx.Err() != nil {
			var none R
			return none, fmt.Errorf("%s: %w", kmsg.NameForKey(req.Key()), err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// join joins, and gives the members that the leader is told of.
func (m *groupMember) join(ctx context.Context) ([]kmsg.JoinGroupResponseMember, error) {
	for {
		req := kmsg.NewPtrJoinGroupRequest()
		req.Group, req.MemberID, req.InstanceID = m.group, m.id, m.instance
		req.SessionTimeoutMillis, req.RebalanceTimeoutMillis, req.ProtocolType = 60_000, 60_000, "consumer"
		req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "p", Metadata: []byte("of " + m.id)}}
		resp, err := coordinated(ctx, m.cl, req, func(r *kmsg.JoinGroupResponse) int16 { return r.ErrorCode })
		switch {
		case err != nil:
			return nil, err
		case resp.ErrorCode == kerr.MemberIDRequired.Code:
			m.id = resp.MemberID
			continue
		case resp.ErrorCode != 0:
			return nil, fmt.Errorf("JoinGroup: %w", kerr.ErrorForCode(resp.ErrorCode))
		}
		m.id, m.generation, m.leader = resp.MemberID, resp.Generation, resp.LeaderID == resp.MemberID
		return resp.Members, nil
	}
}

func (m *groupMember) sync(ctx context.Context, assign []kmsg.SyncGroupRequestGroupAssignment) error {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.InstanceID, req.Generation = m.group, m.id, m.instance, m.generation
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("p")
	req.GroupAssignment = assign
	resp, err := coordinated(ctx, m.cl, req, func(r *kmsg.SyncGroupResponse) int16 { return r.ErrorCode })
	if err == nil && resp.ErrorCode != 0 {
		err = fmt.Errorf("SyncGroup: %w", kerr.ErrorForCode(resp.ErrorCode))
	}
	if err == nil {
		m.assigned = string(resp.MemberAssignment)
	}
	return err
}

func (m *groupMember) heartbeat(ctx context.Context) error {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.InstanceID, req.Generation = m.group, m.id, m.instance, m.generation
	resp, err := coordinated(ctx, m.cl, req, func(r *kmsg.HeartbeatResponse) int16 { return r.ErrorCode })
	if err == nil && resp.ErrorCode != 0 {
		err = fmt.Errorf("Heartbeat: %w", kerr.ErrorForCode(resp.ErrorCode))
	}
	return err
}

// commit commits the next offset of a partition, as a member does.
func (m *groupMember) commit(ctx context.Context, topic string, partition int32) error {
	m.sent++
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.InstanceID, req.Generation = m.group, m.id, m.instance, m.generation
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Partition, rp.Offset = partition, m.sent
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	code := func(r *kmsg.OffsetCommitResponse) int16 { return r.Topics[0].Partitions[0].ErrorCode }
	resp, err := coordinated(ctx, m.cl, req, code)
	if err == nil && code(resp) != 0 {
		err = fmt.Errorf("OffsetCommit: %w", kerr.ErrorForCode(code(resp)))
	}
	if err == nil {
		m.acked = m.sent
	}
	return err
}

// each calls f for every member at once.
func each(t *testing.T, members []*groupMember, f func(i int, m *groupMember) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() {
			if err := f(i, m); err != nil {
				t.Errorf("member %d (%s): %v", i, m.id, err)
			}
		})
	}
	wg.Wait()
}

// A group of static and dynamic members commits while its broker is killed
// and started again: no member notices more than that the broker was away,
// and no commit is lost.
func TestGroupSurvivesKill(t *testing.T) {
	const members, kills = 6, 3
	b := firntest.Start(t, "--set", "group.initial.rebalance.delay.ms=1000")
	b.CreateTopic("work", members)
	ctx, cancel := firntest.Context(t)
	defer cancel()
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(kmsg.OffsetCommit.Int16(), 9) // the last with names of topics
	all := make([]*groupMember, members)
	for i := range all {
		all[i] = &groupMember{cl: b.Client(kgo.MaxVersions(versions)), group: "survivors"}
		if i%2 == 1 {
			all[i].instance = kmsg.StringPtr(fmt.Sprintf("static-%d", i))
		}
	}
	each(t, all, func(_ int, m *groupMember) error {
		told, err := m.join(ctx)
		if err != nil {
			return err
		}
		var assign []kmsg.SyncGroupRequestGroupAssignment
		for _, o := range told {
			assign = append(assign, kmsg.SyncGroupRequestGroupAssignment{MemberID: o.MemberID, MemberAssignment: []byte("for " + o.MemberID)})
		}
		return m.sync(ctx, assign)
	})
	if t.Failed() {
		t.FailNow()
	}
	generation := all[0].generation
	for _, m := range all {
		if m.generation != generation || m.assigned != "for "+m.id {
			t.Fatalf("%s is in generation %d of %d with assignment %q", m.id, m.generation, generation, m.assigned)
		}
	}

	for range kills {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			each(t, all, func(i int, m *groupMember) error {
				for {
					select {
					case <-stop:
						return nil
					default:
					}
					if err := m.commit(ctx, "work", int32(i)); err != nil {
						return err
					}
				}
			})
		})
		firntest.Eventually(t, "commits are under way", func() error {
			if n := b.Metric("firn_group_offset_commits_total"); n < 50 {
				return fmt.Errorf("%v commits", n)
			}
			return nil
		})
		b.Kill()
		b.Start()
		firntest.Eventually(t, "commits go on", func() error {
			if n := b.Metric("firn_group_offset_commits_total"); n < 10 {
				return fmt.Errorf("%v commits", n)
			}
			return nil
		})
		close(stop)
		wg.Wait()
		if n := b.Metric("firn_group_rebalances_total"); n != 0 {
			t.Errorf("%v rebalances after a restart", n)
		}
		each(t, all, func(_ int, m *groupMember) error { return m.heartbeat(ctx) })
		checkSurvivors(ctx, t, b, all)
		if t.Failed() {
			t.FailNow()
		}
	}

	// A static member whose process was restarted too takes its place again.
	m := all[1]
	old := m.id
	m.id = ""
	if _, err := m.join(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.sync(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if m.generation != generation || m.assigned != "for "+old {
		t.Errorf("the static member came back to generation %d of %d with assignment %q", m.generation, generation, m.assigned)
	}
	b.Kill()
	b.Start()
	each(t, all, func(_ int, m *groupMember) error { return m.heartbeat(ctx) })
	if n := b.Metric("firn_group_rebalances_total"); n != 0 {
		t.Errorf("%v rebalances after a static member's return", n)
	}
}

// checkSurvivors compares what the broker says of the group and its offsets
// with what its members know. Nobody commits meanwhile.
func checkSurvivors(ctx context.Context, t *testing.T, b *firntest.Broker, all []*groupMember) {
	t.Helper()
	adm := kadm.NewClient(b.Client())
	described, err := adm.DescribeGroups(ctx, all[0].group)
	if err != nil {
		t.Fatal(err)
	}
	g := described[all[0].group]
	if g.State != "Stable" || len(g.Members) != len(all) {
		t.Fatalf("the group is %s and has %d members, want Stable and %d", g.State, len(g.Members), len(all))
	}
	var want, got []string
	for i, m := range all {
		want, got = append(want, m.id), append(got, g.Members[i].MemberID)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("members are %v, want %v", got, want)
	}
	offsets, err := adm.FetchOffsets(ctx, all[0].group)
	if err != nil {
		t.Fatal(err)
	}
	if parts := slices.Sorted(maps.Keys(offsets["work"])); len(parts) != len(all) {
		t.Fatalf("offsets of partitions %v are there, want %d", parts, len(all))
	}
	for i, m := range all {
		if at := offsets["work"][int32(i)].At; at < m.acked || at > m.sent {
			t.Errorf("partition %d: offset %d, the last acknowledged commit was %d, the last sent %d", i, at, m.acked, m.sent)
		}
	}
}

// The limits of groups are broker configs that change while it runs.
func TestGroupLimitsAreConfigs(t *testing.T) {
	b := firntest.Start(t, "--set", "firn.group.max.offsets=3", "--set", "group.initial.rebalance.delay.ms=0")
	b.CreateTopic("t", 10)
	ctx, cancel := firntest.Context(t)
	defer cancel()
	adm := kadm.NewClient(b.Client())
	set := func(name, value string) {
		t.Helper()
		setBrokerConfig(t, b, name, value)
	}
	committed := func(group string, partitions int, metadata string) (ok int) {
		t.Helper()
		var o kadm.Offsets
		for p := range partitions {
			o.Add(kadm.Offset{Topic: "t", Partition: int32(p), At: 1, LeaderEpoch: -1, Metadata: metadata})
		}
		resps, err := adm.CommitOffsets(ctx, group, o)
		if err != nil {
			t.Fatal(err)
		}
		resps.Each(func(r kadm.OffsetResponse) {
			if r.Err == nil {
				ok++
			} else if r.Err != kerr.InvalidCommitOffsetSize {
				t.Errorf("group %s, partition %d: %v", group, r.Partition, r.Err)
			}
		})
		return ok
	}
	if n := committed("start", 5, ""); n != 3 {
		t.Errorf("%d offsets of 5 were taken, the limit given at the start is 3", n)
	}
	set("firn.group.max.offsets", "4")
	if n := committed("live", 5, ""); n != 4 {
		t.Errorf("%d offsets of 5 were taken, the limit set at run time is 4", n)
	}

	set("firn.group.max.bytes", "2000")
	m := &groupMember{cl: b.Client(), group: "large", instance: kmsg.StringPtr(strings.Repeat("i", 1500))}
	if _, err := m.join(ctx); err == nil {
		t.Error("a member of 3000 bytes joined a group that may have 2000")
	}
	set("firn.group.max.bytes", "20000")
	if _, err := m.join(ctx); err != nil {
		t.Error(err)
	}
	if n := b.Metric("firn_group_refused_total", `limit="group_bytes"`); n != 1 {
		t.Errorf("%v members were refused for the bytes of their group", n)
	}

	set("firn.max.groups", "3") // as many as there are
	o := kadm.Offsets{}
	o.Add(kadm.Offset{Topic: "t", At: 1, LeaderEpoch: -1})
	if resps, err := adm.CommitOffsets(ctx, "one-more", o); err != nil || !errors.Is(resps.Error(), kerr.GroupMaxSizeReached) {
		t.Errorf("a fourth group of three: %v, %v", err, resps.Error())
	}
	if n := b.Metric("firn_group_refused_total", `limit="groups"`); n != 1 {
		t.Errorf("%v groups were refused for their number", n)
	}
	set("firn.max.groups", "1000")

	set("firn.groups.max.bytes", "1048576")
	full := 0
	for i := range 400 {
		if committed(fmt.Sprint("group-", i), 1, strings.Repeat("m", 4000)) == 0 {
			full++
		}
	}
	if full < 140 || full > 300 {
		t.Errorf("%d groups of 400, each of about 4 to 10 KiB, were refused when 1 MiB was allowed", full)
	}
}
