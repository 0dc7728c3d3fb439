package api

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/balance"
	"github.com/firnlog/firn/metastore"
)

// DescribeLogDirs, versions 1–5.
//
//	2  flexible
//	3  error code of the whole reply
//	4  size and room of the file system (KIP-827)
//	5  whether the folder takes new replicas (KIP-1066); this one always does
//
// The one folder is that of the partitions' logs. Sizes are of what is on
// local disk. What is asked for and not here is left out. From version 2 on a
// tagged field of ours says what goes through a partition (balance.TagTraffic).
func (a *API) describeLogDirs(c *call) {
	req := c.req.Body.(*kmsg.DescribeLogDirsRequest)
	resp := response[*kmsg.DescribeLogDirsResponse](c)
	img := a.deps.Meta.Image()
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = a.cfg.LogDir
	for _, t := range logDirTopics(req, img) {
		if t.Partitions = a.localPartitions(img.Topics[t.Topic], t.Partitions); len(t.Partitions) > 0 {
			dir.Topics = append(dir.Topics, t)
		}
	}
	if req.Version >= 4 {
		total, usable, err := diskSpace(a.cfg.LogDir)
		if err != nil {
			a.failed("the file system of the logs cannot be looked at", "dir", a.cfg.LogDir, "error", err)
			dir.ErrorCode = kerr.KafkaStorageError.Code
		} else {
			dir.TotalBytes, dir.UsableBytes = total, usable
		}
	}
	resp.Dirs = append(resp.Dirs, dir)
	c.send(resp)
}

// logDirTopics gives each topic that is asked for once, with the partitions
// asked for (also such as do not exist) in ascending order.
func logDirTopics(req *kmsg.DescribeLogDirsRequest, img *metastore.Image) []kmsg.DescribeLogDirsResponseDirTopic {
	asked := map[string]map[int32]struct{}{}
	if req.Topics == nil {
		for name, t := range img.Topics {
			asked[name] = make(map[int32]struct{}, len(t.Partitions))
			for i := range t.Partitions {
				asked[name][int32(i)] = struct{}{}
			}
		}
	}
	for _, t := range req.Topics {
		if asked[t.Topic] == nil {
			asked[t.Topic] = map[int32]struct{}{}
		}
		for _, p := range t.Partitions {
			asked[t.Topic][p] = struct{}{}
		}
	}
	var out []kmsg.DescribeLogDirsResponseDirTopic
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		t := kmsg.NewDescribeLogDirsResponseDirTopic()
		t.Topic = name
		for _, p := range slices.Sorted(maps.Keys(asked[name])) {
			po := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
			po.Partition = p
			t.Partitions = append(t.Partitions, po)
		}
		out = append(out, t)
	}
	return out
}

// localPartitions keeps those of a topic's partitions that are open here, and
// fills in their sizes. None has a future replica, and none lags: its log is
// the leader's.
func (a *API) localPartitions(t *metastore.Topic, asked []kmsg.DescribeLogDirsResponseDirTopicPartition) []kmsg.DescribeLogDirsResponseDirTopicPartition {
	here := asked[:0]
	for _, po := range asked {
		if part, err := a.open(t, po.Partition); err == nil {
			po.Size = part.State().LocalBytes
			if a.deps.Traffic != nil {
				in, out := a.deps.Traffic(part)
				balance.TagTraffic(&po, in, out)
			}
			here = append(here, po)
		}
	}
	return here
}
