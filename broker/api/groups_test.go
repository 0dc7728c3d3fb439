package api

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func commitFor(t *testing.T, group, topic string, partitions ...int32) {
	t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.Generation = 9, group, -1
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic = topic
	for _, p := range partitions {
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.LeaderEpoch = p, 7, -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	for _, p := range ask[*kmsg.OffsetCommitResponse](t, req).Topics[0].Partitions {
		wantCode(t, "commit", p.ErrorCode, nil)
	}
}

func offsetDelete(t *testing.T, group string, topics map[string][]int32) (int16, map[string]map[int32]int16) {
	t.Helper()
	req := kmsg.NewPtrOffsetDeleteRequest()
	req.Group = group
	for name, parts := range topics {
		rt := kmsg.NewOffsetDeleteRequestTopic()
		rt.Topic = name
		for _, p := range parts {
			rt.Partitions = append(rt.Partitions, kmsg.OffsetDeleteRequestTopicPartition{Partition: p})
		}
		req.Topics = append(req.Topics, rt)
	}
	resp := ask[*kmsg.OffsetDeleteResponse](t, req)
	out := map[string]map[int32]int16{}
	for _, rt := range resp.Topics {
		if out[rt.Topic] != nil {
			t.Errorf("topic %s is answered twice", rt.Topic)
		}
		out[rt.Topic] = map[int32]int16{}
		for _, rp := range rt.Partitions {
			out[rt.Topic][rp.Partition] = rp.ErrorCode
		}
	}
	return resp.ErrorCode, out
}

func TestOffsetDelete(t *testing.T) {
	if err := shared.ensureOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	topic := makeTopic(t, 2)
	group := "od-" + topic.Name
	asked := map[string][]int32{topic.Name: {0, 2, -1}, "absent": {0}, "nothing-asked": nil}
	code, _ := offsetDelete(t, group, asked)
	wantCode(t, "unknown group", code, kerr.GroupIDNotFound)
	commitFor(t, group, topic.Name, 0, 1)
	code, got := offsetDelete(t, group, asked)
	wantCode(t, "known group", code, nil)
	if len(got) != 2 {
		t.Errorf("answered: %v", got)
	}
	wantCode(t, "partition 0", got[topic.Name][0], nil)
	wantCode(t, "partition 2", got[topic.Name][2], kerr.UnknownTopicOrPartition)
	wantCode(t, "partition -1", got[topic.Name][-1], kerr.UnknownTopicOrPartition)
	wantCode(t, "absent topic", got["absent"][0], kerr.UnknownTopicOrPartition)
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.Group, req.Topics = 7, group, nil
	left := ask[*kmsg.OffsetFetchResponse](t, req).Topics
	if len(left) != 1 || len(left[0].Partitions) != 1 || left[0].Partitions[0].Partition != 1 {
		t.Errorf("left: %+v", left)
	}
	code, _ = offsetDelete(t, "", asked)
	wantCode(t, "no group", code, kerr.InvalidGroupID)
}

func TestDeleteGroups(t *testing.T) {
	if err := shared.ensureOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	topic := makeTopic(t, 1)
	group := "dg-" + topic.Name
	commitFor(t, group, topic.Name, 0)
	for version := int16(0); version <= 2; version++ {
		req := kmsg.NewPtrDeleteGroupsRequest()
		req.Version, req.Groups = version, []string{group, "never-seen", group}
		resp := ask[*kmsg.DeleteGroupsResponse](t, req)
		if len(resp.Groups) != 2 || resp.Groups[0].Group != group {
			t.Fatalf("got %+v", resp.Groups)
		}
		want := kerr.GroupIDNotFound
		if version == 0 {
			want = nil
		}
		wantCode(t, group, resp.Groups[0].ErrorCode, want)
		wantCode(t, "never seen", resp.Groups[1].ErrorCode, kerr.GroupIDNotFound)
	}
}
