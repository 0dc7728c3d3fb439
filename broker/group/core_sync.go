package group

import (
	"bytes"
	"encoding/binary"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// syncing is one SyncGroup, its bytes copied out of the request.
type syncing struct {
	memberID     string
	instance     *string
	generation   int32
	protocolType *string
	protocol     *string
	assignment   map[string][]byte
	size         int
	to           *syncTicket
}

func newSyncing(req *kmsg.SyncGroupRequest, to *syncTicket) *syncing {
	s := &syncing{
		memberID: req.MemberID, instance: req.InstanceID, generation: req.Generation,
		protocolType: req.ProtocolType, protocol: req.Protocol, to: to,
		assignment: make(map[string][]byte, len(req.GroupAssignment)),
	}
	for i := range req.GroupAssignment {
		a := &req.GroupAssignment[i]
		s.size += len(a.MemberID) + len(a.MemberAssignment)
		s.assignment[strings.Clone(a.MemberID)] = bytes.Clone(a.MemberAssignment)
	}
	return s
}

func differs(asked *string, have string) bool { return asked != nil && have != "" && *asked != have }

// syncGroup takes one SyncGroup. In completing, members wait until the
// leader's assignments are in the log.
func (g *classic) syncGroup(now time.Time, s *syncing, fx *effects) {
	if g.state == empty {
		fx.syncError(s.to, kerr.UnknownMemberID)
		return
	}
	if g.state == dead {
		fx.syncError(s.to, kerr.CoordinatorNotAvailable)
		return
	}
	if err := g.validate(s.memberID, s.instance); err != nil {
		fx.syncError(s.to, err)
		return
	}
	m := g.byID[s.memberID]
	switch {
	case s.generation != g.generation:
		fx.syncError(s.to, kerr.IllegalGeneration)
	case differs(s.protocolType, g.protocolType) || differs(s.protocol, g.protocol):
		fx.syncError(s.to, kerr.InconsistentGroupProtocol)
	case g.state == preparing:
		fx.syncError(s.to, kerr.RebalanceInProgress)
	case g.state == stable:
		g.synced(m)
		fx.sync(s.to, g.syncResponse(m))
	default:
		if m.sync != nil { // of a request the client has given up
			fx.syncError(m.sync, kerr.RebalanceInProgress)
		}
		m.sync = s.to
		g.synced(m)
		if m.id == g.leader && !g.assigning() {
			g.assign(now, s, fx)
		}
	}
}

// synced notes that a member of this generation has sent SyncGroup.
func (g *classic) synced(m *member) {
	delete(g.pendingSync, m.id)
	if len(g.pendingSync) == 0 {
		g.syncTimer = time.Time{}
	}
}

// assigning says whether this generation's assignment is being written. A
// leader that sends another meanwhile gets the first: two could reach the log
// and the members in different order.
func (g *classic) assigning() bool {
	for _, s := range g.stores {
		if s.static == nil && s.generation == g.generation {
			return true
		}
	}
	return false
}

// assign writes the leader's assignments; members it forgot get none.
func (g *classic) assign(now time.Time, s *syncing, fx *effects) {
	if s.size > g.rules.maxBytes {
		fx.tooManyBytes = true
		g.assignFailed(now, kerr.UnknownServerError, fx)
		return
	}
	all := make(map[string][]byte, len(g.members))
	for _, m := range g.members {
		all[m.id] = s.assignment[m.id]
	}
	g.token++
	g.stores[g.token] = &store{generation: g.generation, assignment: all}
	fx.writes = append(fx.writes, groupWrite{meta: g.meta(all), token: g.token})
}

// stored tells the core how the write with this token ended.
func (g *classic) stored(now time.Time, token uint64, err *kerr.Error, fx *effects) {
	s := g.stores[token]
	delete(g.stores, token)
	switch {
	case s == nil:
	case s.static != nil:
		g.staticStored(now, s, err, fx)
	case g.state != completing || g.generation != s.generation:
		// A new rebalance began meanwhile and has answered everybody.
	case err != nil:
		g.assignFailed(now, err, fx)
	default:
		for _, m := range g.members {
			m.assignment = s.assignment[m.id]
			g.weigh(m)
		}
		g.transition(now, stable)
		fx.rebalances++
		fx.note("group is stable", "generation", g.generation, "members", len(g.members), "protocol", g.protocol)
		for _, m := range g.members {
			if m.sync != nil {
				fx.sync(m.sync, g.syncResponse(m))
				m.sync = nil
				g.touch(now, m)
			}
		}
	}
}

func (g *classic) assignFailed(now time.Time, err *kerr.Error, fx *effects) {
	g.resetAssignments(now, err, fx)
	g.prepareRebalance(now, "the assignment could not be stored: "+err.Message, fx)
}

// resetAssignments ends a generation that did not get its assignments.
func (g *classic) resetAssignments(now time.Time, err *kerr.Error, fx *effects) {
	for _, m := range g.members {
		m.assignment = nil
		g.weigh(m)
		if m.sync != nil {
			fx.syncError(m.sync, err)
			m.sync = nil
			g.touch(now, m)
		}
	}
}

func (g *classic) syncResponse(m *member) *kmsg.SyncGroupResponse {
	resp := kmsg.NewPtrSyncGroupResponse()
	if g.protocolType != "" {
		resp.ProtocolType = kmsg.StringPtr(g.protocolType)
	}
	resp.Protocol = kmsg.StringPtr(g.protocol)
	resp.MemberAssignment = m.assignment
	return resp
}

// heartbeat keeps a member's session alive.
func (g *classic) heartbeat(now time.Time, req *kmsg.HeartbeatRequest) *kerr.Error {
	if g.state == dead {
		return kerr.CoordinatorNotAvailable
	}
	if err := g.validate(req.MemberID, req.InstanceID); err != nil {
		return err
	}
	if req.Generation != g.generation {
		return kerr.IllegalGeneration
	}
	g.touch(now, g.byID[req.MemberID])
	if g.state == preparing {
		return kerr.RebalanceInProgress
	}
	return nil
}

// leave removes members, named by id or, by an administrator, by instance.
// The result has one error per entry of members, nil for none.
func (g *classic) leave(now time.Time, members []kmsg.LeaveGroupRequestMember, fx *effects) []*kerr.Error {
	errs := make([]*kerr.Error, len(members))
	gone := 0
	for i := range members {
		lm := &members[i]
		id := lm.MemberID
		if id == "" && lm.InstanceID != nil {
			id = g.static[*lm.InstanceID]
		}
		if _, ok := g.pending[id]; ok {
			g.remove(id)
		} else if errs[i] = g.leaveOne(id, lm.InstanceID, fx); errs[i] != nil {
			continue
		}
		gone++
		fx.note("member leaves", "member", id, "reason", reason(lm.Reason))
	}
	if gone > 0 {
		switch g.state {
		case stable, completing:
			g.prepareRebalance(now, "members left", fx)
		case preparing:
			g.maybeCompleteJoin(now, fx)
		}
	}
	return errs
}

func (g *classic) leaveOne(id string, instance *string, fx *effects) *kerr.Error {
	if err := g.validate(id, instance); err != nil {
		return err
	}
	g.evict(g.byID[id], fx)
	return nil
}

// evict removes a member and answers what it waits for: with an error that
// makes a client that is still there join anew.
func (g *classic) evict(m *member, fx *effects) {
	g.answerJoinError(m, "", kerr.UnknownMemberID, fx)
	if m.sync != nil {
		fx.syncError(m.sync, kerr.UnknownMemberID)
		m.sync = nil
	}
	g.remove(m.id)
}

// tick lets every deadline up to now take effect and sets next anew.
func (g *classic) tick(now time.Time, fx *effects) {
	if g.next.IsZero() || now.Before(g.next) {
		return
	}
	g.expireSessions(now, fx)
	if t := g.syncTimer; !t.IsZero() && !now.Before(t) {
		g.syncTimer = time.Time{}
		g.expirePendingSync(now, fx)
	}
	if t := g.joinTimer.at; !t.IsZero() && !now.Before(t) {
		g.joinTimerFired(now, fx)
	}
	g.next = time.Time{}
	for _, t := range []time.Time{g.syncTimer, g.joinTimer.at} {
		if !t.IsZero() {
			g.arm(t)
		}
	}
	for _, m := range g.members {
		if !m.deadline.IsZero() {
			g.arm(m.deadline)
		}
	}
	for _, t := range g.pending {
		g.arm(t)
	}
}

func (g *classic) expireSessions(now time.Time, fx *effects) {
	var due []*member
	for _, m := range g.members {
		if !m.deadline.IsZero() && !now.Before(m.deadline) {
			due = append(due, m)
		}
	}
	for _, m := range due {
		// An earlier one of due may have ended the phase and so renewed or
		// removed this one.
		if g.byID[m.id] != m || m.deadline.IsZero() || now.Before(m.deadline) {
			continue
		}
		m.deadline = time.Time{}
		if !m.isNew && (m.join != nil || m.sync != nil) {
			continue // it waits for us; its session goes on with the answer
		}
		fx.note("member's session ended", "member", m.id)
		g.evict(m, fx)
		g.memberGone(now, "session of "+m.id+" ended", fx)
	}
	expired := false
	for id, t := range g.pending {
		if !now.Before(t) {
			g.dropPending(id)
			expired = true
		}
	}
	if expired && g.state == preparing && g.allJoined() {
		g.completeJoin(now, fx)
	}
}

func (g *classic) memberGone(now time.Time, why string, fx *effects) {
	switch {
	case g.state == stable || g.state == completing:
		g.prepareRebalance(now, why, fx)
	case g.state == preparing && g.allJoined():
		g.completeJoin(now, fx)
	}
}

// expirePendingSync removes members of the generation that did not send
// SyncGroup within the rebalance timeout (KAFKA-9935).
func (g *classic) expirePendingSync(now time.Time, fx *effects) {
	if len(g.pendingSync) == 0 || g.state != completing && g.state != stable {
		return
	}
	var late []string
	for _, m := range g.members {
		if g.pendingSync[m.id] {
			late = append(late, m.id)
		}
	}
	for _, id := range late {
		g.evict(g.byID[id], fx)
	}
	fx.note("members did not sync in time and are removed", "members", late)
	g.prepareRebalance(now, "members did not sync in time", fx)
}

// unload answers everything that waits: this broker no longer coordinates.
func (g *classic) unload(now time.Time, fx *effects) {
	for _, m := range g.members {
		g.answerJoinError(m, m.id, kerr.NotCoordinator, fx)
		if m.sync != nil {
			fx.syncError(m.sync, kerr.NotCoordinator)
			m.sync = nil
		}
	}
	clear(g.stores)
	g.transition(now, dead)
}

// commit checks an OffsetCommit and, if it comes from a member, takes it as a
// sign of life.
func (g *classic) commit(now time.Time, generation int32, id string, instance *string) *kerr.Error {
	switch {
	case g.state == dead:
		return kerr.CoordinatorNotAvailable
	case generation < 0 && g.state == empty:
		return nil // a consumer that assigns itself, or an administrator
	case generation >= 0 || id != "" || instance != nil:
		if err := g.validate(id, instance); err != nil {
			return err
		}
		if generation != g.generation {
			return kerr.IllegalGeneration
		}
	case g.state != empty:
		return kerr.UnknownMemberID
	}
	if g.state == completing {
		return kerr.RebalanceInProgress
	}
	if m := g.byID[id]; m != nil {
		g.touch(now, m)
	}
	return nil
}

// offsetExpired says whether a committed offset has outlived its retention
// (KIP-211): its own, if the commit gave one; else since the group became
// empty, or since the commit where the group has no members by design or no
// longer reads the topic. Milliseconds.
func (g *classic) offsetExpired(topic string, o *offsetValue, now, retention int64) bool {
	base := o.commitTime
	switch {
	case g.protocolType == "":
	case g.state == empty:
		if g.since != -1 {
			base = g.since
		}
	case g.state == stable && g.protocolType == consumerProtocol:
		if g.reads(topic) {
			return false
		}
	default:
		return false
	}
	if o.expireTime != -1 {
		return now >= o.expireTime
	}
	return now-base >= retention
}

// consumerProtocol is the protocol type whose subscriptions the coordinator
// can read.
const consumerProtocol = "consumer"

// subscribe notes which topics the consumers of a generation read; unknown
// when one of their subscriptions cannot be read.
func (g *classic) subscribe() {
	g.topics = nil
	if g.protocolType != consumerProtocol {
		return
	}
	topics := map[string]bool{}
	for _, m := range g.members {
		if !subscription(m.metadata(g.protocol), topics) {
			return
		}
	}
	g.topics = topics
}

// reads says whether the group's consumers read the topic, or may do so.
func (g *classic) reads(topic string) bool {
	return g.protocolType == consumerProtocol && (g.topics == nil || g.topics[topic])
}

// subscription reads the topics of a consumer's metadata. All its versions
// begin with: version (2), count (4), names (2 + n each).
func subscription(b []byte, topics map[string]bool) bool {
	if len(b) < 6 {
		return false
	}
	n := int32(binary.BigEndian.Uint32(b[2:]))
	for b = b[6:]; n > 0; n-- {
		if len(b) < 2 {
			return false
		}
		l := int(int16(binary.BigEndian.Uint16(b)))
		if b = b[2:]; l < 0 || l > len(b) {
			return false
		}
		topics[string(b[:l])] = true
		b = b[l:]
	}
	return true
}
