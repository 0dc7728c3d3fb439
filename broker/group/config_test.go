package group

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestSetConfig changes every setting that a request can feel while a group
// of two is stable.
func TestSetConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, Config{}, newMemLog())
		ms := stableGroup(t, c, 2, "")
		newcomer := func(edit func(*kmsg.JoinGroupRequest)) int16 {
			m := &consumer{c: c, version: 9, group: "g"}
			req := m.joinReq()
			edit(req)
			return (<-m.joinLater(req)).ErrorCode
		}
		plain := func(*kmsg.JoinGroupRequest) {}
		wantCode(t, "before", newcomer(plain), kerr.MemberIDRequired)
		c.SetConfig(Config{MaxSize: 2})
		wantCode(t, "group.max.size", newcomer(plain), kerr.GroupMaxSizeReached)
		wantCode(t, "members stay", ms[1].beat(), nil)
		c.SetConfig(Config{MinSessionTimeout: 20 * time.Second})
		wantCode(t, "group.min.session.timeout.ms", newcomer(plain), kerr.InvalidSessionTimeout)
		c.SetConfig(Config{MaxSessionTimeout: 9 * time.Second})
		wantCode(t, "group.max.session.timeout.ms", newcomer(plain), kerr.InvalidSessionTimeout)
		c.SetConfig(Config{MaxGroups: 1})
		wantCode(t, "groups", newcomer(func(r *kmsg.JoinGroupRequest) { r.Group = "other" }), kerr.GroupMaxSizeReached)
		c.SetConfig(Config{MaxGroupBytes: 1})
		wantCode(t, "bytes of a group", newcomer(plain), kerr.GroupMaxSizeReached)
		long := commitReq(9, "g", ms[0].id, ms[0].gen, "t", 0, 1)
		long.Topics[0].Partitions[0].Metadata = kmsg.StringPtr("long")
		c.SetConfig(Config{MaxMetadataBytes: 3})
		wantCode(t, "offset.metadata.max.bytes", c.OffsetCommit(long).Topics[0].Partitions[0].ErrorCode, kerr.OffsetMetadataTooLarge)
		c.SetConfig(Config{OffsetsPartitions: 7})
		wantCode(t, "defaults again", c.OffsetCommit(long).Topics[0].Partitions[0].ErrorCode, nil)
		if p := c.PartitionFor("g"); p != 0 {
			t.Errorf("the group is in partition %d of 1", p)
		}

		c.SetConfig(Config{InitialRebalanceDelay: 10 * time.Second, MaxSize: 9})
		begin := time.Now()
		m := &consumer{c: c, version: 9, group: "slow"}
		m.join()
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("group.initial.rebalance.delay.ms: joined after %v", d)
		}

		wantCode(t, "commit", commit(c, "simple", "t", 0, 5), nil)
		c.SetConfig(Config{OffsetsRetention: 2 * time.Second, RetentionCheck: time.Second})
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if got := fetch(c, "simple", "t", 0); got != -1 {
			t.Errorf("offsets.retention.minutes and its check: %d is still there", got)
		}
	})
}
