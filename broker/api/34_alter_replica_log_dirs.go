package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// AlterReplicaLogDirs, versions 1–2.
//
//	2  flexible
//
// A broker has one folder of logs, so that a replica can only be asked to go
// where it is: that succeeds, any other folder is LOG_DIR_NOT_FOUND. A
// partition that is named more than once is answered once, for its last
// folder.
func (a *API) alterReplicaLogDirs(c *call) {
	req := c.req.Body.(*kmsg.AlterReplicaLogDirsRequest)
	resp := response[*kmsg.AlterReplicaLogDirsResponse](c)
	img := a.deps.Meta.Image()
	type place struct{ topic, partition int } // in resp
	places := map[record.TopicPartition]place{}
	topics := map[string]int{}
	for _, dir := range req.Dirs {
		for _, t := range dir.Topics {
			for _, p := range t.Partitions {
				tp := record.TopicPartition{Topic: t.Topic, Partition: record.PartitionID(p)}
				at, seen := places[tp]
				if !seen {
					ti, ok := topics[t.Topic]
					if !ok {
						ti = len(resp.Topics)
						topics[t.Topic] = ti
						out := kmsg.NewAlterReplicaLogDirsResponseTopic()
						out.Topic = t.Topic
						resp.Topics = append(resp.Topics, out)
					}
					at = place{ti, len(resp.Topics[ti].Partitions)}
					places[tp] = at
					po := kmsg.NewAlterReplicaLogDirsResponseTopicPartition()
					po.Partition = p
					resp.Topics[ti].Partitions = append(resp.Topics[ti].Partitions, po)
				}
				err := error(kerr.LogDirNotFound)
				if dir.Dir == a.cfg.LogDir {
					_, err = a.open(img.Topics[t.Topic], p)
				}
				resp.Topics[at.topic].Partitions[at.partition].ErrorCode = codeOf(err)
			}
		}
	}
	c.send(resp)
}
