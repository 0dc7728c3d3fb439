package group

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, Config{MaxSize: 2, MaxGroups: 3, MaxGroupOffsets: 3, MaxMetadataBytes: 5, MaxGroupBytes: 20_000}, newMemLog())
		ms := stableGroup(t, c, 2, "")
		joinCode := func(edit func(*kmsg.JoinGroupRequest)) int16 {
			m := &consumer{c: c, version: 9, group: "g"}
			req := m.joinReq()
			edit(req)
			return (<-m.joinLater(req)).ErrorCode
		}
		for _, tt := range []struct {
			name string
			want *kerr.Error
			edit func(*kmsg.JoinGroupRequest)
		}{
			{"no group", kerr.InvalidGroupID, func(r *kmsg.JoinGroupRequest) { r.Group = "" }},
			{"session too short", kerr.InvalidSessionTimeout, func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 5999 }},
			{"session too long", kerr.InvalidSessionTimeout, func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 1800001 }},
			{"session negative", kerr.InvalidSessionTimeout, func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = -1 }},
			{"too many members", kerr.GroupMaxSizeReached, func(r *kmsg.JoinGroupRequest) {}},
			{"unknown member", kerr.GroupMaxSizeReached, func(r *kmsg.JoinGroupRequest) { r.MemberID = "x" }},
			{"unknown group and id", kerr.UnknownMemberID, func(r *kmsg.JoinGroupRequest) { r.Group, r.MemberID = "new", "x" }},
			{"other type", kerr.InconsistentGroupProtocol, func(r *kmsg.JoinGroupRequest) { r.MemberID, r.ProtocolType = ms[0].id, "connect" }},
			{"other protocol", kerr.InconsistentGroupProtocol, func(r *kmsg.JoinGroupRequest) { r.MemberID, r.Protocols[0].Name = ms[0].id, "sticky" }},
			{"no protocols", kerr.InconsistentGroupProtocol, func(r *kmsg.JoinGroupRequest) { r.Group, r.Protocols = "new", nil }},
			{"no type", kerr.InconsistentGroupProtocol, func(r *kmsg.JoinGroupRequest) { r.Group, r.ProtocolType = "new", "" }},
			{"unknown instance", kerr.UnknownMemberID, func(r *kmsg.JoinGroupRequest) { r.MemberID, r.InstanceID = ms[0].id, kmsg.StringPtr("i") }},
			{"too much metadata", kerr.GroupMaxSizeReached, func(r *kmsg.JoinGroupRequest) {
				r.Group, r.Protocols[0].Metadata = "new", make([]byte, 20_000)
			}},
		} {
			wantCode(t, tt.name, joinCode(tt.edit), tt.want)
		}
		if n := c.groups.Load(); n != 2 {
			t.Errorf("%d groups after refused joins: that of a join without protocols is there, as in Kafka", n)
		}
		syncCode := func(edit func(*kmsg.SyncGroupRequest)) int16 {
			req := ms[1].syncReq(nil)
			edit(req)
			return (<-ms[1].syncLater(req)).ErrorCode
		}
		for _, tt := range []struct {
			name string
			want *kerr.Error
			edit func(*kmsg.SyncGroupRequest)
		}{
			{"fine", nil, func(r *kmsg.SyncGroupRequest) {}},
			{"no group", kerr.InvalidGroupID, func(r *kmsg.SyncGroupRequest) { r.Group = "" }},
			{"unknown group", kerr.UnknownMemberID, func(r *kmsg.SyncGroupRequest) { r.Group = "new" }},
			{"unknown member", kerr.UnknownMemberID, func(r *kmsg.SyncGroupRequest) { r.MemberID = "x" }},
			{"old generation", kerr.IllegalGeneration, func(r *kmsg.SyncGroupRequest) { r.Generation = 0 }},
			{"other type", kerr.InconsistentGroupProtocol, func(r *kmsg.SyncGroupRequest) { r.ProtocolType = kmsg.StringPtr("connect") }},
			{"other protocol", kerr.InconsistentGroupProtocol, func(r *kmsg.SyncGroupRequest) { r.Protocol = kmsg.StringPtr("sticky") }},
			{"no protocol in v5", kerr.InconsistentGroupProtocol, func(r *kmsg.SyncGroupRequest) { r.Protocol = nil }},
			{"no protocol in v4", nil, func(r *kmsg.SyncGroupRequest) { r.Version, r.Protocol, r.ProtocolType = 4, nil, nil }},
		} {
			wantCode(t, "sync: "+tt.name, syncCode(tt.edit), tt.want)
		}
		wantCode(t, "beat: no group", (&consumer{c: c}).beat(), kerr.InvalidGroupID)
		wantCode(t, "beat: unknown group", (&consumer{c: c, group: "new"}).beat(), kerr.UnknownMemberID)
		wantCode(t, "beat: unknown member", (&consumer{c: c, group: "g", id: "x"}).beat(), kerr.UnknownMemberID)
		wantCode(t, "beat: generation", (&consumer{c: c, group: "g", id: ms[0].id, gen: 9}).beat(), kerr.IllegalGeneration)
		wantCode(t, "leave: no group", (&consumer{c: c}).leave().ErrorCode, kerr.InvalidGroupID)
		wantCode(t, "leave: unknown group", (&consumer{c: c, group: "new"}).leave().Members[0].ErrorCode, kerr.UnknownMemberID)

		commitCode := func(req *kmsg.OffsetCommitRequest) int16 {
			return c.OffsetCommit(req).Topics[0].Partitions[0].ErrorCode
		}
		wantCode(t, "commit: no member", commitCode(commitReq(9, "g", "", -1, "t", 0, 1)), kerr.UnknownMemberID)
		wantCode(t, "commit: unknown member", commitCode(commitReq(9, "g", "x", 1, "t", 0, 1)), kerr.UnknownMemberID)
		wantCode(t, "commit: generation", commitCode(commitReq(9, "g", ms[0].id, 0, "t", 0, 1)), kerr.IllegalGeneration)
		wantCode(t, "commit: unknown group v8", commitCode(commitReq(8, "newer", "x", 1, "t", 0, 1)), kerr.IllegalGeneration)
		wantCode(t, "commit: unknown group v9", commitCode(commitReq(9, "newer", "x", 1, "t", 0, 1)), kerr.GroupIDNotFound)
		long := commitReq(9, "g", ms[0].id, 1, "t", 0, 1)
		long.Topics[0].Partitions[0].Metadata = kmsg.StringPtr("123456")
		wantCode(t, "commit: metadata", commitCode(long), kerr.OffsetMetadataTooLarge)
		long.Topics[0].Partitions[0].Metadata = kmsg.StringPtr("äöüß€") // as Java counts
		wantCode(t, "commit: metadata", commitCode(long), nil)
		for p := range int32(3) {
			wantCode(t, "commit", commitCode(commitReq(9, "g", ms[0].id, 1, "t", p, 1)), nil)
		}
		wantCode(t, "commit: too many", commitCode(commitReq(9, "g", ms[0].id, 1, "t", 3, 1)), kerr.InvalidCommitOffsetSize)
		wantCode(t, "commit: known partition", commitCode(commitReq(9, "g", ms[0].id, 1, "t", 2, 2)), nil)
		wantCode(t, "commit: simple", commit(c, "simple", "t", 0, 1), nil)
		wantCode(t, "commit: too many groups", commit(c, "third", "t", 0, 1), kerr.GroupMaxSizeReached)
		wantCode(t, "join: too many groups", joinCode(func(r *kmsg.JoinGroupRequest) { r.Group = "third" }), kerr.GroupMaxSizeReached)
		if g := describe(c, 6, "simple"); g.State != "Empty" || g.ProtocolType != "" || g.ErrorCode != 0 {
			t.Errorf("simple group: %+v", g)
		}
		list := kmsg.NewPtrListGroupsRequest()
		for _, tt := range []struct{ states, types, want string }{
			{"", "", "g new simple"}, {"stable", "", "g"}, {" EMPTY ,Stable", "Classic", "g new simple"}, {"", "consumer", ""}, {"Dead", "", ""},
		} {
			list.Version, list.StatesFilter, list.TypesFilter = 5, split(tt.states), split(tt.types)
			var got []string
			for _, g := range c.ListGroups(list).Groups {
				got = append(got, g.Group)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("list %q %q: %v", tt.states, tt.types, got)
			}
		}
	})
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
