package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteGroups answers versions 0–2 when the deletions are in the log. A group
// named twice is answered once.
func (c *Coordinator) DeleteGroups(req *kmsg.DeleteGroupsRequest) *kmsg.DeleteGroupsResponse {
	resp := req.ResponseKind().(*kmsg.DeleteGroupsResponse)
	at := map[string]int{}
	byShard := map[*shard][]string{}
	for _, id := range req.Groups {
		if _, twice := at[id]; twice {
			continue
		}
		at[id] = len(resp.Groups)
		rg := kmsg.NewDeleteGroupsResponseGroup()
		rg.Group = id
		if s, err := c.acquire(id); err != nil {
			rg.ErrorCode = err.Code
		} else {
			s.mu.Unlock()
			byShard[s] = append(byShard[s], id)
		}
		resp.Groups = append(resp.Groups, rg)
	}
	for s, ids := range byShard {
		errs := make([]*kerr.Error, len(ids))
		if err := s.alone(func() *kerr.Error { return s.deleteGroups(ids, errs) }); err != nil {
			for i := range errs {
				errs[i] = err
			}
		}
		for i, id := range ids {
			resp.Groups[at[id]].ErrorCode = code(errs[i])
		}
	}
	return resp
}

// OffsetDelete answers version 0, for topics and partitions that exist, when
// the deletions are in the log. Deleting what was never committed succeeds.
func (c *Coordinator) OffsetDelete(req *kmsg.OffsetDeleteRequest) *kmsg.OffsetDeleteResponse {
	resp := req.ResponseKind().(*kmsg.OffsetDeleteResponse)
	err := func() *kerr.Error {
		if req.Group == "" {
			return kerr.InvalidGroupID
		}
		s, err := c.acquire(req.Group)
		if err != nil {
			return err
		}
		s.mu.Unlock()
		return s.alone(func() *kerr.Error { return s.deleteOffsets(req, resp) })
	}()
	if err != nil {
		resp.ErrorCode, resp.Topics = err.Code, nil
	}
	return resp
}

// alone has the writer run f, behind everything that was queued before, so
// that f sees in durable what those wrote; it gives f's error.
func (s *shard) alone(f func() *kerr.Error) *kerr.Error {
	done := make(chan *kerr.Error, 1)
	o := op{run: func() { done <- f() }, after: func(err *kerr.Error) { done <- err }}
	s.mu.Lock()
	if err := s.available(); err != nil {
		s.mu.Unlock()
		return err
	}
	s.push(o)
	s.mu.Unlock()
	return <-done
}

// deleteGroups deletes those of the groups that are empty, offsets and all. It
// runs in the writer. Its error is of the log; errs has one per group.
func (s *shard) deleteGroups(ids []string, errs []*kerr.Error) *kerr.Error {
	var due []entry
	var gone []string
	s.mu.Lock()
	for i, id := range ids {
		gs := s.groups[id]
		switch {
		case gs == nil:
			errs[i] = kerr.GroupIDNotFound
		case gs.core.state != empty:
			errs[i] = kerr.NonEmptyGroup
		default:
			if d := s.durable[id]; d != nil {
				for topic, parts := range d.offsets {
					for p := range parts {
						due = append(due, entry{group: id, isOffset: true, topic: topic, partition: p})
					}
				}
			}
			due = append(due, entry{group: id})
			// Whoever joins from here on makes a new group, whose records
			// follow the tombstones.
			s.forget(gs)
			gs.deleted = true
			gone = append(gone, id)
		}
	}
	s.mu.Unlock()
	if err := s.tombstones(due); err != nil {
		s.restore(gone)
		return responseError(err)
	}
	metricDeleted.Add(len(gone))
	return nil
}

// restore makes groups known again whose deletion could not be written.
func (s *shard) restore(ids []string) {
	var fx effects
	s.mu.Lock()
	now := s.c.deps.Now()
	for _, id := range ids {
		if s.phase == active && s.groups[id] == nil {
			s.remember(id, now, &fx)
		}
	}
	s.mu.Unlock()
	fx.send(s.c.deps.Log)
}

// remember makes the core of a group from what the log says of it, if
// anything. mu is held.
func (s *shard) remember(id string, now time.Time, fx *effects) {
	d := s.durable[id]
	if d == nil || d.meta == nil {
		s.simple(id, now)
		return
	}
	v, err := decodeGroup(d.meta)
	if err != nil { // cannot be: what is in durable was decoded or encoded by us
		s.c.deps.Log.Error("group metadata does not parse", "group", id, "err", err)
		return
	}
	s.settle(s.create(id, loadClassic(id, v, &s.rules, now, fx)), fx)
}

// deleteOffsets runs in the writer. A topic that the group's members read
// keeps its offsets (KIP-496).
func (s *shard) deleteOffsets(req *kmsg.OffsetDeleteRequest, resp *kmsg.OffsetDeleteResponse) *kerr.Error {
	var due []entry
	s.mu.Lock()
	gs := s.groups[req.Group]
	var refused *kerr.Error
	switch {
	case gs == nil:
		refused = kerr.GroupIDNotFound
	case gs.core.state != empty && gs.core.protocolType != consumerProtocol:
		refused = kerr.NonEmptyGroup
	}
	if refused != nil {
		s.mu.Unlock()
		return refused
	}
	var offsets map[string]map[int32]*offsetValue
	if d := s.durable[req.Group]; d != nil {
		offsets = d.offsets
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewOffsetDeleteResponseTopic()
		rt.Topic = t.Topic
		reads := gs.core.reads(t.Topic)
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetDeleteResponseTopicPartition()
			rp.Partition = p.Partition
			if reads {
				rp.ErrorCode = kerr.GroupSubscribedToTopic.Code
			} else if offsets[t.Topic][p.Partition] != nil {
				due = append(due, entry{group: req.Group, isOffset: true, topic: t.Topic, partition: p.Partition})
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	s.mu.Unlock()
	return responseError(s.tombstones(due))
}
