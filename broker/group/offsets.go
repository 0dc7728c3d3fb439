package group

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// OffsetCommit answers versions 2–10; topics are known by name, and by the id
// that the caller fills in for every version. It returns when the offsets are
// in the log.
func (c *Coordinator) OffsetCommit(req *kmsg.OffsetCommitRequest) *kmsg.OffsetCommitResponse {
	resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
	entries, where := c.commitEntries(req, resp)
	err := c.commit(req, resp, entries, where)
	for i := range where {
		p := where[i].in(resp)
		if p.ErrorCode == 0 {
			p.ErrorCode = code(err)
		}
	}
	return resp
}

// place is where in a response an entry is answered.
type place struct{ topic, partition int }

func (w place) in(resp *kmsg.OffsetCommitResponse) *kmsg.OffsetCommitResponseTopicPartition {
	return &resp.Topics[w.topic].Partitions[w.partition]
}

// commitEntries lays out the response and makes the records of a commit,
// whether or not they will be written.
func (c *Coordinator) commitEntries(req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse) ([]entry, []place) {
	now := c.deps.Now().UnixMilli()
	expire := int64(-1)
	if req.Version <= 4 && req.RetentionTimeMillis != -1 { // KIP-211 took it out in version 5
		expire = now + req.RetentionTimeMillis
	}
	group := strings.Clone(req.Group)
	var entries []entry
	var where []place
	for ti := range req.Topics {
		t := &req.Topics[ti]
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		name := strings.Clone(t.Topic)
		for pi := range t.Partitions {
			p := &t.Partitions[pi]
			rp := kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition = p.Partition
			where = append(where, place{ti, pi})
			o := &offsetValue{offset: p.Offset, epoch: -1, commitTime: now, expireTime: expire, topicID: t.TopicID}
			if p.Metadata != nil {
				o.metadata = strings.Clone(*p.Metadata)
			}
			if req.Version >= 6 {
				o.epoch = p.LeaderEpoch
			}
			entries = append(entries, entry{group: group, isOffset: true, topic: name, partition: p.Partition, offset: o})
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return entries, where
}

// javaLength is String.length: UTF-16 units.
func javaLength(s string) int {
	n := 0
	for _, r := range s {
		n += max(utf16.RuneLen(r), 1)
	}
	return n
}

// commit writes the entries that are not refused one by one. Its error is of
// the whole request.
func (c *Coordinator) commit(req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, entries []entry, where []place) *kerr.Error {
	s, err := c.acquire(req.Group)
	if err != nil {
		return err
	}
	gs, err := s.mayCommit(req)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	entries = s.admit(req.Group, entries, where, resp)
	if len(entries) == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.queued > queueBytes {
		s.mu.Unlock()
		refusedQueue.Inc()
		return kerr.CoordinatorNotAvailable
	}
	stored := make(chan *kerr.Error, 1)
	s.push(op{entries: entries, group: gs, after: func(err *kerr.Error) { stored <- err }})
	s.mu.Unlock()
	if err = <-stored; err == nil {
		metricCommits.Add(len(entries))
	}
	return err
}

// mayCommit checks the sender against the group, and makes a group that is not
// there yet: as in Kafka it then is, whatever becomes of the offsets. The group
// is nil when memory is full, so that none of them will be taken. mu is held.
func (s *shard) mayCommit(req *kmsg.OffsetCommitRequest) (*groupState, *kerr.Error) {
	now := s.c.deps.Now()
	gs := s.groups[req.Group]
	switch {
	case gs != nil:
	case req.Generation >= 0 && req.Version >= 9: // KIP-848
		return nil, kerr.GroupIDNotFound
	case req.Generation >= 0:
		return nil, kerr.IllegalGeneration
	case s.c.groups.Load() >= int64(s.c.config().MaxGroups):
		refusedGroups.Inc()
		return nil, kerr.GroupMaxSizeReached
	case s.c.full():
		return nil, nil
	default:
		id := strings.Clone(req.Group)
		gs = s.create(id, newClassic(id, &s.rules, now))
	}
	err := gs.core.commit(now, req.Generation, req.MemberID, req.InstanceID)
	s.settle(gs, &effects{})
	return gs, err
}

// admit takes out what has too much metadata and, where a limit is reached,
// offsets of partitions that the group has not committed before. mu is held.
func (s *shard) admit(group string, entries []entry, where []place, resp *kmsg.OffsetCommitResponse) []entry {
	d := s.durable[group]
	count := 0
	if d != nil {
		count = d.count
	}
	full := s.c.full()
	kept := entries[:0]
	for i := range entries {
		e := &entries[i]
		rp := where[i].in(resp)
		if javaLength(e.offset.metadata) > s.c.config().MaxMetadataBytes {
			refusedMetadata.Inc()
			rp.ErrorCode = kerr.OffsetMetadataTooLarge.Code
			continue
		}
		if d == nil || d.offsets[e.topic][e.partition] == nil {
			if count++; full || count > s.c.config().MaxGroupOffsets {
				if full {
					refusedMemory.Inc()
				} else {
					refusedOffsets.Inc()
				}
				rp.ErrorCode = kerr.InvalidCommitOffsetSize.Code
				continue
			}
		}
		kept = append(kept, *e)
	}
	return kept
}

// OffsetFetch answers versions 1–10; topics are known by name. What was never
// committed, by a group never seen too, has offset -1 and no error. Once the
// answer has maxAnswer bytes, further groups are refused.
func (c *Coordinator) OffsetFetch(req *kmsg.OffsetFetchRequest) *kmsg.OffsetFetchResponse {
	resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
	if req.Version >= 8 {
		size := 0
		for i := range req.Groups {
			if size >= maxAnswer {
				rg := kmsg.NewOffsetFetchResponseGroup()
				rg.Group, rg.ErrorCode = req.Groups[i].Group, kerr.InvalidRequest.Code
				resp.Groups = append(resp.Groups, rg)
				continue
			}
			rg := c.fetchGroup(&req.Groups[i])
			size += offsetsSize(&rg)
			resp.Groups = append(resp.Groups, rg)
		}
		return resp
	}
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = req.Group
	if req.Topics != nil {
		g.Topics = make([]kmsg.OffsetFetchRequestGroupTopic, 0, len(req.Topics))
		for i := range req.Topics {
			t := kmsg.NewOffsetFetchRequestGroupTopic()
			t.Topic, t.Partitions = req.Topics[i].Topic, req.Topics[i].Partitions
			g.Topics = append(g.Topics, t)
		}
	}
	rg := c.fetchGroup(&g)
	if req.Version < 2 && rg.ErrorCode != 0 {
		// Version 1 has errors only per partition.
		rg.Topics = failedTopics(g.Topics, rg.ErrorCode)
	} else {
		resp.ErrorCode = rg.ErrorCode
	}
	for i := range rg.Topics {
		t := kmsg.NewOffsetFetchResponseTopic()
		t.Topic = rg.Topics[i].Topic
		for _, p := range rg.Topics[i].Partitions {
			rp := kmsg.NewOffsetFetchResponseTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata, rp.ErrorCode = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode
			t.Partitions = append(t.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}

// offsetsSize is about what a group takes of a reply.
func offsetsSize(rg *kmsg.OffsetFetchResponseGroup) (n int) {
	for i := range rg.Topics {
		n += 64 + len(rg.Topics[i].Topic)
		for _, p := range rg.Topics[i].Partitions {
			n += 64 + len(*p.Metadata)
		}
	}
	return n
}

func failedTopics(topics []kmsg.OffsetFetchRequestGroupTopic, code int16) []kmsg.OffsetFetchResponseGroupTopic {
	var out []kmsg.OffsetFetchResponseGroupTopic
	for _, t := range topics {
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := fetched(p, nil)
			rp.ErrorCode = code
			rt.Partitions = append(rt.Partitions, rp)
		}
		out = append(out, rt)
	}
	return out
}

// fetched is the answer for one partition; o is nil when there is no commit.
func fetched(p int32, o *offsetValue) kmsg.OffsetFetchResponseGroupTopicPartition {
	rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	rp.Partition, rp.Offset, rp.LeaderEpoch = p, -1, -1
	rp.Metadata = kmsg.StringPtr("")
	if o != nil {
		rp.Offset, rp.LeaderEpoch, rp.Metadata = o.offset, o.epoch, kmsg.StringPtr(o.metadata)
	}
	return rp
}

// fetchGroup reads one group's offsets; null topics ask for all of them.
func (c *Coordinator) fetchGroup(req *kmsg.OffsetFetchRequestGroup) kmsg.OffsetFetchResponseGroup {
	rg := kmsg.NewOffsetFetchResponseGroup()
	rg.Group = req.Group
	s, err := c.acquire(req.Group)
	if err != nil {
		rg.ErrorCode = err.Code
		return rg
	}
	found := s.committed(req)
	s.mu.Unlock()
	if req.Topics == nil {
		rg.Topics = c.allOffsets(found)
		return rg
	}
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		known := record.TopicID(t.TopicID)
		if known == (record.TopicID{}) {
			known = c.deps.TopicID(t.Topic)
		}
		for _, p := range t.Partitions {
			o := found[0].value
			found = found[1:]
			if o != nil && o.stale(known) {
				o = nil
			}
			rt.Partitions = append(rt.Partitions, fetched(p, o))
		}
		rg.Topics = append(rg.Topics, rt)
	}
	return rg
}

// committed is what a group has committed for a partition, nil for nothing. The
// value does not change: another commit puts another in its place.
type committed struct {
	topic     string
	partition int32
	value     *offsetValue
}

// committed gives the offsets that are asked for, in the order of the request;
// all of them in none. A group may have a million: what can be done with them
// without mu is left to the caller. mu is held.
func (s *shard) committed(req *kmsg.OffsetFetchRequestGroup) []committed {
	d := s.durable[req.Group]
	if d == nil {
		d = &durable{}
	}
	var found []committed
	if req.Topics == nil {
		found = make([]committed, 0, d.count)
		for topic, parts := range d.offsets {
			for p, o := range parts {
				found = append(found, committed{topic, p, o})
			}
		}
	}
	for _, t := range req.Topics {
		parts := d.offsets[t.Topic]
		for _, p := range t.Partitions {
			found = append(found, committed{t.Topic, p, parts[p]})
		}
	}
	return found
}

// allOffsets answers with every offset, by topic and partition, but for those
// of another topic than the one that has its name now.
func (c *Coordinator) allOffsets(found []committed) []kmsg.OffsetFetchResponseGroupTopic {
	slices.SortFunc(found, func(a, b committed) int {
		return cmp.Or(strings.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
	})
	var topics []kmsg.OffsetFetchResponseGroupTopic
	for len(found) > 0 {
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.Topic = found[0].topic
		known := c.deps.TopicID(rt.Topic)
		for ; len(found) > 0 && found[0].topic == rt.Topic; found = found[1:] {
			if o := found[0]; !o.value.stale(known) {
				rt.Partitions = append(rt.Partitions, fetched(o.partition, o.value))
			}
		}
		if len(rt.Partitions) > 0 {
			topics = append(topics, rt)
		}
	}
	return topics
}
