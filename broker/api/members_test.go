package api

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
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
