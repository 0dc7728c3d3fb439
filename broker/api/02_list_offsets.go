package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// ListOffsets, versions 1–11.
//
//	 1  one offset per partition, with its timestamp (KIP-79)
//	 2  isolation level
//	 4  leader epochs (KIP-320)
//	 5  OFFSET_NOT_AVAILABLE (KIP-207)
//	 6  flexible
//	 7  -3: the greatest timestamp (KIP-734)
//	 8  -4: the earliest offset on local disk (KIP-405)
//	 9  -5: the latest tiered offset (KIP-1005)
//	10  timeout (KIP-1075)
//	11  -6: the earliest offset that is not tiered yet (KIP-1023)
func (a *API) listOffsets(c *call) {
	req := c.req.Body.(*kmsg.ListOffsetsRequest)
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			if ts := req.Topics[i].Partitions[j].Timestamp; ts >= 0 || ts == tsMax {
				a.later(c, func() { a.answerListOffsets(c, req) }) // reads disks or objects
				return
			}
		}
	}
	a.answerListOffsets(c, req)
}

// Special timestamps.
const (
	tsLatest        = -1
	tsEarliest      = -2
	tsMax           = -3
	tsEarliestLocal = -4
	tsLatestTiered  = -5
	tsPendingUpload = -6
)

// Who asks, as Kafka's requests say it: a consumer, or somebody who wants to
// know of this very replica, leader or not.
const (
	consumerReplica  = -1
	debuggingReplica = -2
)

// tsSince says from which version a special timestamp is understood.
var tsSince = map[int64]int16{tsLatest: 1, tsEarliest: 1, tsMax: 7, tsEarliestLocal: 8, tsLatestTiered: 9, tsPendingUpload: 11}

func (a *API) answerListOffsets(c *call, req *kmsg.ListOffsetsRequest) {
	timeout := int32(30_000)
	if req.Version >= 10 && req.TimeoutMillis > 0 {
		timeout = req.TimeoutMillis
	}
	ctx, cancel := c.deadline(timeout)
	defer cancel()
	img := a.deps.Meta.Image()
	const answered = -1
	seen := map[partitionKey]int{}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			seen[partitionKey{topic: t.Topic, p: p.Partition}]++
		}
	}
	resp := response[*kmsg.ListOffsetsResponse](c)
	for _, t := range req.Topics {
		out := kmsg.NewListOffsetsResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			key := partitionKey{topic: t.Topic, p: p.Partition}
			if seen[key] == answered {
				continue // a partition that is named twice is refused once
			}
			po := kmsg.NewListOffsetsResponseTopicPartition()
			po.Partition = p.Partition
			got, err := record.NoTimestampOffset, error(kerr.InvalidRequest)
			if seen[key] == 1 {
				got, err = a.listOffset(ctx, req, img.Topics[t.Topic], &p)
			}
			seen[key] = answered
			if err != nil {
				got = record.NoTimestampOffset
				if po.ErrorCode = codeOf(err); po.ErrorCode == kerr.UnknownServerError.Code {
					a.failed("list offsets failed", "topic", t.Topic, "partition", p.Partition, "error", err)
				}
			}
			po.Offset, po.Timestamp, po.LeaderEpoch = int64(got.Offset), got.Timestamp, int32(got.Epoch)
			out.Partitions = append(out.Partitions, po)
		}
		if len(out.Partitions) > 0 {
			resp.Topics = append(resp.Topics, out)
		}
	}
	c.send(resp)
}

func (a *API) listOffset(ctx context.Context, req *kmsg.ListOffsetsRequest, t *metastore.Topic, in *kmsg.ListOffsetsRequestTopicPartition) (record.TimestampOffset, error) {
	if since, ok := tsSince[in.Timestamp]; in.Timestamp < 0 && (!ok || req.Version < since) {
		return record.NoTimestampOffset, kerr.UnsupportedVersion
	}
	epoch := record.Epoch(-1)
	if req.Version >= 4 {
		epoch = record.Epoch(in.CurrentLeaderEpoch)
	}
	p, err := a.open(t, in.Partition)
	if err == nil {
		err = p.Answers(epoch, req.ReplicaID == debuggingReplica)
	}
	if err != nil {
		return record.NoTimestampOffset, err
	}
	s := p.State()
	if req.ReplicaID != consumerReplica {
		s.HighWatermark, s.LastStableOffset = s.LogEnd, s.LogEnd
	} else if !p.Settled() && in.Timestamp != tsEarliest {
		return record.NoTimestampOffset, fail(kerr.OffsetNotAvailable, "the leader was elected a moment ago and does not know yet what was acknowledged before")
	}
	iso := record.ReadUncommitted
	if req.Version >= 2 {
		if iso = record.Isolation(req.IsolationLevel); iso != record.ReadUncommitted && iso != record.ReadCommitted {
			return record.NoTimestampOffset, kerr.InvalidRequest
		}
	}
	if in.Timestamp >= 0 {
		return p.OffsetForTimestamp(ctx, in.Timestamp, iso)
	}
	if in.Timestamp == tsPendingUpload && s.TieredEnd <= 0 && !tiered(t) {
		return record.NoTimestampOffset, nil // nothing will ever be uploaded
	}
	return specialOffset(ctx, p, s, in.Timestamp, iso, req.Version)
}

// tiered says whether the topic's segments go to object storage.
func tiered(t *metastore.Topic) bool {
	const key = "remote.storage.enable"
	return topicconfig.Canonical(key, t.Configs[key]) == "true"
}

func specialOffset(ctx context.Context, p *partition.Partition, s partition.State, ts int64, iso record.Isolation, version int16) (record.TimestampOffset, error) {
	end := s.HighWatermark
	if iso == record.ReadCommitted {
		end = s.LastStableOffset
	}
	at := func(o record.Offset) (record.TimestampOffset, error) {
		return record.TimestampOffset{Offset: o, Timestamp: -1, Epoch: p.EpochAt(o)}, nil
	}
	switch ts {
	case tsLatest:
		// A new leader's high watermark may lag behind what was known before.
		if e := p.Epochs(); len(e) > 0 && e[len(e)-1].Start > s.HighWatermark {
			if version < 5 {
				return record.NoTimestampOffset, kerr.LeaderNotAvailable
			}
			return record.NoTimestampOffset, kerr.OffsetNotAvailable
		}
		return record.TimestampOffset{Offset: end, Timestamp: -1, Epoch: s.Epoch}, nil
	case tsEarliest:
		return at(s.LogStart)
	case tsEarliestLocal:
		return at(s.LocalStart)
	case tsMax:
		got, err := p.MaxTimestamp(ctx)
		if err == nil && got.Offset >= end {
			got = record.NoTimestampOffset
		}
		return got, err
	case tsLatestTiered:
		if s.TieredEnd <= s.LogStart {
			return record.NoTimestampOffset, nil
		}
		return at(s.TieredEnd - 1)
	case tsPendingUpload:
		return at(max(s.TieredEnd, s.LogStart))
	}
	return record.NoTimestampOffset, kerr.UnsupportedVersion
}
