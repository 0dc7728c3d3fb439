package group

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

func deleteGroups(c *Coordinator, groups ...string) map[string]int16 {
	out := map[string]int16{}
	for _, g := range c.DeleteGroups(&kmsg.DeleteGroupsRequest{Version: 2, Groups: groups}).Groups {
		out[g.Group] = g.ErrorCode
	}
	return out
}

func TestDeleteGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := []*memLog{newMemLog(), newMemLog(), newMemLog()}
		c := start(t, Config{MaxBatchBytes: 200}, logs...)
		stableGroup(t, c, 1, "")
		for i := range 9 {
			for p := range int32(5) {
				wantCode(t, "commit", commit(c, fmt.Sprint("simple", i), "t", p, 5), nil)
			}
		}
		got := deleteGroups(c, "g", "simple0", "simple1", "simple2", "never", "simple1")
		want := map[string]*kerr.Error{"g": kerr.NonEmptyGroup, "simple0": nil, "simple1": nil, "simple2": nil, "never": kerr.GroupIDNotFound}
		if len(got) != len(want) {
			t.Errorf("answered: %v", got)
		}
		for g, err := range want {
			wantCode(t, g, got[g], err)
		}
		if fetch(c, "simple0", "t", 1) != -1 || fetch(c, "simple3", "t", 1) != 5 {
			t.Error("the wrong offsets are gone")
		}
		c.Close()
		for i := range logs {
			logs[i] = logs[i].revive()
		}
		c = start(t, Config{}, logs...)
		if n := c.groups.Load(); n != 7 || fetch(c, "simple1", "t", 4) != -1 {
			t.Errorf("%d groups after a restart", n)
		}
		c.Close()
		wantCode(t, "closed", deleteGroups(c, "g")["g"], kerr.NotCoordinator)
	})
}

// TestDeleteGroupsFails has the log fail at each of a deletion's writes: the
// group is whole or partly there, never forgotten, and can be deleted then.
func TestDeleteGroupsFails(t *testing.T) {
	for failIn := 1; failIn <= 3; failIn++ {
		synctest.Test(t, func(t *testing.T) {
			log := newMemLog()
			c := start(t, Config{MaxBatchBytes: 100}, log)
			m := stableGroup(t, c, 1, "")[0]
			for p := range int32(5) {
				wantCode(t, "commit", c.OffsetCommit(commitReq(8, "g", m.id, m.gen, "t", p, 5)).Topics[0].Partitions[0].ErrorCode, nil)
			}
			m.leave()
			log.failIn = failIn
			wantCode(t, "deleted", deleteGroups(c, "g")["g"], kerr.NotCoordinator)
			if d := describe(c, 6, "g"); d.State != "Empty" || d.ProtocolType != "consumer" {
				t.Errorf("after a failure: %+v", d)
			}
			if r := m.c.Heartbeat(&kmsg.HeartbeatRequest{Version: 4, Group: "g", MemberID: m.id, Generation: m.gen}); r.ErrorCode != kerr.UnknownMemberID.Code {
				t.Errorf("heartbeat: %v", r.ErrorCode)
			}
			wantCode(t, "deleted again", deleteGroups(c, "g")["g"], nil)
			wantCode(t, "and again", deleteGroups(c, "g")["g"], kerr.GroupIDNotFound)
			c.Close()
			if c = start(t, Config{}, log.revive()); c.groups.Load() != 0 {
				t.Error("the group is there after a restart")
			}
		})
	}
}

// TestDeleteBehindQueuedWrites: what was decided before a deletion and is
// still on its way to the log does not bring the group back.
func TestDeleteBehindQueuedWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		c := start(t, Config{}, log)
		m := stableGroup(t, c, 1, "")[0]
		log.gate = make(chan struct{})
		codes := make(chan int16, 3)
		go func() { codes <- commit(c, "other", "t", 0, 1) }() // occupies the writer
		synctest.Wait()
		go func() { codes <- deleteGroups(c, "g")["g"] }()
		synctest.Wait()
		go func() { codes <- m.leave().ErrorCode }() // its write is behind the deletion
		synctest.Wait()
		close(log.gate)
		synctest.Wait()
		for range 3 {
			wantCode(t, "answer", <-codes, nil)
		}
		if d := describe(c, 6, "g"); d.State != "Dead" {
			t.Errorf("deleted: %+v", d)
		}
		m.id = ""
		if r := m.join(); r.Generation != 1 {
			t.Errorf("a new group begins at generation %d", r.Generation)
		}
	})
}

func TestOffsetDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		c := start(t, Config{}, log)
		req := func(group string) *kmsg.OffsetDeleteRequest {
			return &kmsg.OffsetDeleteRequest{Group: group, Topics: []kmsg.OffsetDeleteRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}, {Partition: 3}}}}}
		}
		wantCode(t, "unknown", c.OffsetDelete(req("g")).ErrorCode, kerr.GroupIDNotFound)
		wantCode(t, "no group", c.OffsetDelete(req("")).ErrorCode, kerr.InvalidGroupID)
		wantCode(t, "commit", commit(c, "g", "t", 0, 5), nil)
		wantCode(t, "commit", commit(c, "g", "t", 1, 6), nil)
		log.fail = errors.New("disk")
		wantCode(t, "the log fails", c.OffsetDelete(req("g")).ErrorCode, kerr.NotCoordinator)
		if got := fetch(c, "g", "t", 0); got != 5 {
			t.Errorf("after a failure: %d", got)
		}
		r := c.OffsetDelete(req("g"))
		if r.ErrorCode != 0 || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 2 || r.Topics[0].Partitions[1].ErrorCode != 0 {
			t.Errorf("got %+v", r)
		}
		if fetch(c, "g", "t", 0) != -1 || fetch(c, "g", "t", 1) != 6 {
			t.Error("the wrong offset is gone")
		}
		c.Close()
		if c = start(t, Config{}, log.revive()); fetch(c, "g", "t", 0) != -1 || fetch(c, "g", "t", 1) != 6 {
			t.Error("after a restart the wrong offset is gone")
		}
	})
}

// TestTopicMadeAgain: a topic of an old name does not inherit offsets, even
// when the broker died between the deletion and DropTopic; and what was
// committed for the new topic survives a DropTopic of the old one.
func TestTopicMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		older, newer := record.TopicID{1}, record.TopicID{2}
		now := older
		cfg := Config{OffsetsPartitions: 1}
		deps := Deps{TopicID: func(name string) record.TopicID {
			if name == "t" {
				return now
			}
			return record.TopicID{}
		}}
		open := func(l *memLog) *Coordinator {
			c := New(cfg, deps)
			t.Cleanup(c.Close)
			if err := c.Load(t.Context(), 0, l); err != nil {
				t.Fatal(err)
			}
			return c
		}
		commitFor := func(c *Coordinator, id record.TopicID, p int32, o int64) {
			req := commitReq(9, "g", "", -1, "t", p, o)
			req.Topics[0].TopicID = id
			wantCode(t, "commit", c.OffsetCommit(req).Topics[0].Partitions[0].ErrorCode, nil)
		}
		log := newMemLog()
		c := open(log)
		commitFor(c, older, 0, 10)
		commitFor(c, older, 1, 11)
		if fetch(c, "g", "t", 0) != 10 || len(fetchAll(c, "g")) != 2 {
			t.Error("the offset of the topic is not shown")
		}
		c.Close() // dies; the topic is deleted and made again meanwhile
		now = newer
		log = log.revive()
		c = open(log)
		if got := fetch(c, "g", "t", 0); got != -1 {
			t.Errorf("the new topic inherits offset %d", got)
		}
		if all := fetchAll(c, "g"); len(all) != 0 {
			t.Errorf("all offsets: %+v", all)
		}
		commitFor(c, newer, 0, 3)
		c.DropTopic("t", older)
		synctest.Wait()
		if got := fetch(c, "g", "t", 0); got != 3 {
			t.Errorf("the new topic's offset is %d", got)
		}
		if n := c.shards[0].Load().durable["g"].count; n != 1 {
			t.Errorf("%d offsets are kept", n)
		}
		// Without a DropTopic the next look at retention takes them.
		commitFor(c, older, 5, 1)
		c.SetConfig(Config{RetentionCheck: time.Second})
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if n := c.shards[0].Load().durable["g"].count; n != 1 {
			t.Errorf("%d offsets are kept after a look at retention", n)
		}
	})
}
