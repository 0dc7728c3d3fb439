package group

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// JoinGroup answers versions 0–9; reply is called exactly once, maybe much
// later. The request is not used after JoinGroup returns.
func (c *Coordinator) JoinGroup(cl ClientInfo, req *kmsg.JoinGroupRequest, reply func(*kmsg.JoinGroupResponse)) {
	j := newJoining(cl, req, &joinTicket{req.Version, reply})
	var fx effects
	if err := c.join(req.Group, j, &fx); err != nil {
		id := j.memberID
		if err == kerr.GroupMaxSizeReached {
			id = ""
		}
		fx.joinError(j.to, id, err)
	}
	fx.send(c.deps.Log)
}

func (c *Coordinator) join(group string, j *joining, fx *effects) *kerr.Error {
	switch {
	case group == "":
		return kerr.InvalidGroupID
	case j.sessionTimeout < c.config().MinSessionTimeout || j.sessionTimeout > c.config().MaxSessionTimeout:
		return kerr.InvalidSessionTimeout
	}
	s, err := c.acquire(group)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	now := c.deps.Now()
	gs := s.groups[group]
	switch {
	case gs == nil && j.memberID != "":
		return kerr.UnknownMemberID
	case gs == nil && c.groups.Load() >= int64(c.config().MaxGroups):
		refusedGroups.Inc()
		return kerr.GroupMaxSizeReached
	case (gs == nil || gs.core.byID[j.memberID] == nil) && c.full():
		refusedMemory.Inc()
		return kerr.GroupMaxSizeReached
	}
	if gs == nil {
		gs = s.create(strings.Clone(group), newClassic(strings.Clone(group), &s.rules, now))
		gs.core.unwritten = true
	}
	gs.core.joinGroup(now, j, fx)
	s.settle(gs, fx)
	if gs.core.unwritten {
		s.forget(gs) // too large for a group
	}
	return nil
}

// SyncGroup answers versions 0–5; reply is called exactly once, maybe much
// later. The request is not used after SyncGroup returns.
func (c *Coordinator) SyncGroup(cl ClientInfo, req *kmsg.SyncGroupRequest, reply func(*kmsg.SyncGroupResponse)) {
	to := &syncTicket{req.Version, reply}
	var fx effects
	if err := c.sync(req, to, &fx); err != nil {
		fx.syncError(to, err)
	}
	fx.send(c.deps.Log)
}

func (c *Coordinator) sync(req *kmsg.SyncGroupRequest, to *syncTicket, fx *effects) *kerr.Error {
	switch {
	case req.Version >= 5 && (req.ProtocolType == nil || req.Protocol == nil):
		return kerr.InconsistentGroupProtocol // mandatory from version 5 (KIP-559)
	case req.Group == "":
		return kerr.InvalidGroupID
	}
	sy := newSyncing(req, to)
	s, err := c.acquire(req.Group)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	gs := s.groups[req.Group]
	if gs == nil {
		return kerr.UnknownMemberID
	}
	gs.core.syncGroup(c.deps.Now(), sy, fx)
	s.settle(gs, fx)
	return nil
}

// Heartbeat answers versions 0–4. While the group is being loaded it says
// that all is well, so that members keep quiet.
func (c *Coordinator) Heartbeat(req *kmsg.HeartbeatRequest) *kmsg.HeartbeatResponse {
	resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
	err := c.heartbeat(req)
	if err != kerr.CoordinatorLoadInProgress {
		resp.ErrorCode = code(err)
	}
	return resp
}

func (c *Coordinator) heartbeat(req *kmsg.HeartbeatRequest) *kerr.Error {
	if req.Group == "" {
		return kerr.InvalidGroupID
	}
	s, err := c.acquire(req.Group)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	gs := s.groups[req.Group]
	if gs == nil {
		return kerr.UnknownMemberID
	}
	err = gs.core.heartbeat(c.deps.Now(), req)
	s.settle(gs, &effects{})
	return err
}

// LeaveGroup answers versions 0–5. When the last member leaves, it waits
// until that is in the log.
func (c *Coordinator) LeaveGroup(req *kmsg.LeaveGroupRequest) *kmsg.LeaveGroupResponse {
	resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
	members := req.Members
	if req.Version < 3 {
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID = req.MemberID
		members = []kmsg.LeaveGroupRequestMember{m}
	}
	errs, err := c.leave(req.Group, members)
	switch {
	case err != nil:
		resp.ErrorCode = err.Code
	case req.Version < 3:
		resp.ErrorCode = code(errs[0])
	default:
		for i, m := range members {
			rm := kmsg.NewLeaveGroupResponseMember()
			rm.MemberID, rm.InstanceID, rm.ErrorCode = m.MemberID, m.InstanceID, code(errs[i])
			resp.Members = append(resp.Members, rm)
		}
	}
	return resp
}

func (c *Coordinator) leave(group string, members []kmsg.LeaveGroupRequestMember) ([]*kerr.Error, *kerr.Error) {
	if group == "" {
		return nil, kerr.InvalidGroupID
	}
	s, err := c.acquire(group)
	if err != nil {
		return nil, err
	}
	var fx effects
	gs := s.groups[group]
	if gs == nil {
		s.mu.Unlock()
		errs := make([]*kerr.Error, len(members))
		for i := range errs {
			errs[i] = kerr.UnknownMemberID
		}
		return errs, nil
	}
	errs := gs.core.leave(c.deps.Now(), members, &fx)
	stored := make(chan *kerr.Error, 1)
	waits := s.settleThen(gs, &fx, func(err *kerr.Error) { stored <- err })
	s.mu.Unlock()
	fx.send(c.deps.Log)
	if waits {
		err = <-stored
	}
	return errs, err
}
