package group

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestTenThousandMembersOfOneGroup has as many members as a group may have
// join, sync and beat, refuses one more, and loses all of them at once.
func TestTenThousandMembersOfOneGroup(t *testing.T) {
	const members = 10_000
	synctest.Test(t, func(t *testing.T) {
		c := start(t, Config{}, newMemLog())
		all := make([]*consumer, members)
		var leader *kmsg.JoinGroupResponse
		joined, synced := 0, 0
		for i := range all {
			m := &consumer{c: c, version: 9, group: "g", meta: fmt.Sprint("topics of ", i)}
			all[i] = m
			m.id = (<-m.joinLater(m.joinReq())).MemberID
			c.JoinGroup(ClientInfo{"client", "/127.0.0.1"}, m.joinReq(), func(r *kmsg.JoinGroupResponse) {
				if r.ErrorCode == 0 {
					joined++ // one goroutine calls them all: the timers'
				}
				m.gen = r.Generation
				if r.LeaderID == m.id {
					leader = r
				}
			})
		}
		late := &consumer{c: c, version: 9, group: "g"}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if joined != members || leader == nil || len(leader.Members) != members {
			t.Fatalf("%d members joined", joined)
		}
		assign := map[string]string{}
		for i, m := range leader.Members {
			assign[m.MemberID] = fmt.Sprint("partition ", i)
		}
		for _, m := range all {
			var a map[string]string
			if m.id == leader.MemberID {
				a = assign
			}
			c.SyncGroup(ClientInfo{}, m.syncReq(a), func(r *kmsg.SyncGroupResponse) {
				if r.ErrorCode == 0 && string(r.MemberAssignment) == assign[m.id] {
					synced++
				}
			})
			synctest.Wait()
		}
		if synced != members {
			t.Fatalf("%d members synced", synced)
		}
		wantCode(t, "one more", late.join().ErrorCode, kerr.GroupMaxSizeReached)
		for range 3 {
			for _, m := range all {
				if code := m.beat(); code != 0 {
					t.Fatalf("%s: %v", m.id, kerr.ErrorForCode(code))
				}
			}
			time.Sleep(3 * time.Second)
		}
		if d := describe(c, 6, "g"); d.State != "Stable" || len(d.Members) != members {
			t.Errorf("%s with %d members", d.State, len(d.Members))
		}
		time.Sleep(80 * time.Second)
		synctest.Wait()
		if d := describe(c, 6, "g"); d.State != "Empty" || len(d.Members) != 0 {
			t.Errorf("after their sessions: %s with %d members", d.State, len(d.Members))
		}
		wantCode(t, "one more, to an empty group", late.join().ErrorCode, nil)
	})
}
