package group

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	scaleGroups  = 1000
	scaleMembers = 10 // of each group
)

// crowd is scaleGroups groups of scaleMembers consumers on one coordinator.
type crowd struct {
	c       *Coordinator
	groups  [][]*consumer
	leaders []*kmsg.JoinGroupResponse // by group: what its leader was told
}

// joinCrowd lets everybody join and sync; the leaders assign partition i of
// each group's topic to its i-th member. The clock must go on while it waits:
// the initial rebalance delay is what gathers a group's members.
func joinCrowd(tb testing.TB, c *Coordinator, session time.Duration, wait func()) *crowd {
	cr := &crowd{c: c, leaders: make([]*kmsg.JoinGroupResponse, scaleGroups)}
	var joined, synced atomic.Int64
	for g := range scaleGroups {
		var ms []*consumer
		for i := range scaleMembers {
			m := &consumer{c: c, version: 3, group: fmt.Sprint("group-", g), meta: fmt.Sprint("m", i)}
			ms = append(ms, m)
			req := m.joinReq()
			req.SessionTimeoutMillis = int32(session.Milliseconds())
			c.JoinGroup(ClientInfo{fmt.Sprint("client-", i), "/127.0.0.1"}, req, func(r *kmsg.JoinGroupResponse) {
				if r.ErrorCode == 0 && r.Generation == 1 {
					joined.Add(1)
				}
				m.id, m.gen = r.MemberID, r.Generation
				if r.LeaderID == r.MemberID {
					cr.leaders[g] = r
				}
			})
		}
		cr.groups = append(cr.groups, ms)
	}
	wait()
	if n := joined.Load(); n != scaleGroups*scaleMembers {
		tb.Fatalf("%d members joined generation 1", n)
	}
	for g, ms := range cr.groups {
		assign := map[string]string{}
		for i, o := range cr.leaders[g].Members {
			assign[o.MemberID] = fmt.Sprint("partition ", i)
		}
		for _, m := range ms {
			var a map[string]string
			if m.id == cr.leaders[g].MemberID {
				a = assign
			}
			c.SyncGroup(ClientInfo{}, m.syncReq(a), func(r *kmsg.SyncGroupResponse) {
				m.meta = string(r.MemberAssignment)
				if r.ErrorCode == 0 {
					synced.Add(1)
				}
			})
		}
	}
	wait()
	if n := synced.Load(); n != scaleGroups*scaleMembers {
		tb.Fatalf("%d members synced", n)
	}
	return cr
}

func (cr *crowd) beat(t *testing.T, want *kerr.Error) {
	t.Helper()
	wrong := 0
	for _, ms := range cr.groups {
		for _, m := range ms {
			m.c = cr.c
			if m.beat() != code(want) {
				wrong++
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d heartbeats were not answered %v", wrong, want)
	}
}

// TestThousandGroups has 1,000 groups of 10 members join, sync, commit and
// beat, survive a restart without a rebalance, and end with their sessions.
func TestThousandGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs []*memLog
		for range 8 {
			logs = append(logs, newMemLog())
		}
		before := runtime.NumGoroutine()
		c := start(t, Config{}, logs...)
		cr := joinCrowd(t, c, 10*time.Second, func() { time.Sleep(7 * time.Second); synctest.Wait() })
		if n := runtime.NumGoroutine() - before; n > len(logs)+1 {
			t.Errorf("%d goroutines for %d partitions", n, len(logs))
		}
		for g, ms := range cr.groups {
			owner := map[string]string{}
			for _, m := range ms {
				if o := owner[m.meta]; o != "" || m.meta == "" {
					t.Fatalf("group %d: %q is given to %s and %s", g, m.meta, o, m.id)
				}
				owner[m.meta] = m.id
			}
			m := ms[g%scaleMembers]
			wantCode(t, "commit", c.OffsetCommit(commitReq(8, m.group, m.id, m.gen, "t", 0, int64(g))).Topics[0].Partitions[0].ErrorCode, nil)
		}
		for range 5 {
			cr.beat(t, nil)
			time.Sleep(3 * time.Second)
		}
		synctest.Wait()
		c.Close()
		for i := range logs {
			logs[i] = logs[i].revive()
		}
		c = start(t, Config{}, logs...)
		cr.c = c
		for range 5 {
			cr.beat(t, nil)
			time.Sleep(3 * time.Second)
		}
		for g, ms := range cr.groups {
			if got := fetch(c, ms[0].group, "t", 0); got != int64(g) {
				t.Fatalf("offset of group %d after the restart: %d", g, got)
			}
			if d := describe(c, 6, ms[0].group); d.State != "Stable" || len(d.Members) != scaleMembers {
				t.Fatalf("group %d after the restart: %s with %d members", g, d.State, len(d.Members))
			}
		}
		time.Sleep(80 * time.Second) // sessions of 10 s; the groups wait 60 s for members to join again
		synctest.Wait()
		cr.beat(t, kerr.UnknownMemberID)
		if n := len(c.ListGroups(&kmsg.ListGroupsRequest{Version: 4, StatesFilter: []string{"Empty"}}).Groups); n != scaleGroups {
			t.Errorf("%d empty groups in the end", n)
		}
	})
}

// BenchmarkHeartbeat is the cost of a heartbeat among 1,000 groups and 10,000
// members; with several processors (-cpu 1,2), of all of them together.
func BenchmarkHeartbeat(b *testing.B) {
	c := New(Config{OffsetsPartitions: 8, InitialRebalanceDelay: time.Second, MaxSessionTimeout: time.Hour}, Deps{})
	defer c.Close()
	for p := range int32(8) {
		if err := c.Load(b.Context(), p, newMemLog()); err != nil {
			b.Fatal(err)
		}
	}
	cr := joinCrowd(b, c, time.Hour, func() { time.Sleep(4 * time.Second) })
	var reqs []*kmsg.HeartbeatRequest
	for i := range scaleMembers {
		for _, ms := range cr.groups {
			req := kmsg.NewPtrHeartbeatRequest()
			req.Version, req.Group, req.MemberID, req.Generation = 4, ms[i].group, ms[i].id, ms[i].gen
			reqs = append(reqs, req)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		i := int(next.Add(3671))
		for pb.Next() {
			i++
			if e := c.Heartbeat(reqs[i%len(reqs)]).ErrorCode; e != 0 {
				b.Error(kerr.ErrorForCode(e))
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/float64(runtime.GOMAXPROCS(0)), "heartbeats/s/core")
}
