package group

import (
	"bytes"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// joining is one JoinGroup, its bytes copied out of the request.
type joining struct {
	memberID         string
	instance         *string
	client           ClientInfo
	protocolType     string
	protocols        []protocol
	rebalanceTimeout time.Duration
	sessionTimeout   time.Duration
	reason           string
	to               *joinTicket
}

func newJoining(cl ClientInfo, req *kmsg.JoinGroupRequest, to *joinTicket) *joining {
	j := &joining{
		memberID: strings.Clone(req.MemberID), instance: clonePtr(req.InstanceID),
		client:       ClientInfo{strings.Clone(cl.ClientID), strings.Clone(cl.Host)},
		protocolType: strings.Clone(req.ProtocolType), sessionTimeout: millis(req.SessionTimeoutMillis),
		rebalanceTimeout: millis(req.RebalanceTimeoutMillis), reason: reason(req.Reason), to: to,
	}
	if req.Version == 0 { // the rebalance timeout came with version 1
		j.rebalanceTimeout = j.sessionTimeout
	}
	seen := make(map[string]bool, len(req.Protocols))
	for i := range req.Protocols {
		if p := &req.Protocols[i]; !seen[p.Name] {
			seen[p.Name] = true
			j.protocols = append(j.protocols, protocol{strings.Clone(p.Name), bytes.Clone(p.Metadata)})
		}
	}
	return j
}

func clonePtr(s *string) *string {
	if s == nil {
		return nil
	}
	c := strings.Clone(*s)
	return &c
}

// reason is a client's own words (KIP-800), for the log.
func reason(r *string) string {
	if r == nil || *r == "" {
		return "not provided"
	}
	return strings.Clone((*r)[:min(len(*r), 255)])
}

func (j *joining) size() int {
	n := 256 + len(j.memberID) + len(j.client.ClientID) + len(j.client.Host) + protocolsSize(j.protocols)
	if j.instance != nil {
		n += 2 * len(*j.instance)
	}
	return n
}

// joinGroup takes one JoinGroup.
func (g *classic) joinGroup(now time.Time, j *joining, fx *effects) {
	if fx.tooManyBytes = g.tooLarge(j); fx.tooManyBytes {
		g.refuse(now, j, fx)
		return
	}
	if fx.tooManyMembers = !g.accepts(j); fx.tooManyMembers {
		g.refuse(now, j, fx)
		return
	}
	switch {
	case g.state == dead:
		fx.joinError(j.to, j.memberID, kerr.CoordinatorNotAvailable)
	case !g.supports(j.protocolType, j.protocols):
		fx.joinError(j.to, j.memberID, kerr.InconsistentGroupProtocol)
	case j.memberID == "":
		g.joinNew(now, j, fx)
	default:
		g.joinKnown(now, j, fx)
	}
	if g.unwritten {
		// The group is made known to the log, so that it survives a restart
		// before its first generation; one whose first member was turned away
		// too, as in Kafka.
		g.unwritten = false
		if len(fx.writes) == 0 {
			v := newMeta()
			v.Version, v.CurrentStateTimestamp = groupValueVersion, g.since
			fx.writes = append(fx.writes, groupWrite{meta: v})
		}
	}
}

// tooLarge says whether the group would take more memory than one may.
func (g *classic) tooLarge(j *joining) bool {
	held := 0
	if m := g.byID[j.memberID]; m != nil {
		held = m.bytes
	}
	return g.bytes-held+j.size() > g.rules.maxBytes
}

// accepts says whether the group has a place for the member. While members
// join, those that wait count, so that the last to come of a group that is too
// large are turned away.
func (g *classic) accepts(j *joining) bool {
	m := g.byID[j.memberID]
	if m == nil && j.memberID == "" && len(g.pending) >= g.rules.maxSize {
		return false
	}
	switch g.state {
	case preparing:
		return m != nil && m.join != nil || g.awaitingJoin < g.rules.maxSize
	case completing, stable:
		return m != nil || len(g.members) < g.rules.maxSize
	}
	return true
}

// refuse turns away a member that the group has no room for. In its join
// phase a group too large sheds members that come late; elsewhere an existing
// member is only told.
func (g *classic) refuse(now time.Time, j *joining, fx *effects) {
	fx.joinError(j.to, "", kerr.GroupMaxSizeReached)
	if m := g.byID[j.memberID]; m == nil || g.state == preparing && m.join == nil && m.sync == nil {
		g.remove(j.memberID)
		g.maybeCompleteJoin(now, fx)
	}
}

func (g *classic) joinNew(now time.Time, j *joining, fx *effects) {
	if j.instance != nil {
		id := *j.instance + "-" + g.rules.newID()
		if old, ok := g.static[*j.instance]; ok {
			g.replaceStatic(now, j, old, id, fx)
		} else {
			g.addAndRebalance(now, j, id, fx)
		}
		return
	}
	id := j.client.ClientID + "-" + g.rules.newID()
	if j.to.version < 4 {
		g.addAndRebalance(now, j, id, fx)
		return
	}
	// From version 4 the client must come back with its id, so that one whose
	// connection broke does not leave a ghost (KIP-394).
	until := now.Add(j.sessionTimeout)
	g.pending[id] = until
	g.bytes += 64 + len(id)
	g.arm(until)
	fx.joinError(j.to, id, kerr.MemberIDRequired)
}

func (g *classic) joinKnown(now time.Time, j *joining, fx *effects) {
	if _, ok := g.pending[j.memberID]; ok {
		if j.instance != nil { // ids of static members are never pending
			fx.joinError(j.to, "", kerr.UnknownServerError) // Kafka fails inside, and names nobody
			return
		}
		g.addAndRebalance(now, j, j.memberID, fx)
		return
	}
	if err := g.validate(j.memberID, j.instance); err != nil {
		fx.joinError(j.to, j.memberID, err)
		return
	}
	m := g.byID[j.memberID]
	changed := !m.matches(j.protocols)
	switch {
	case g.state == preparing, g.state == completing && changed:
	case g.state == stable && (changed || g.leader == m.id):
		// The leader may know of changes that its metadata does not show.
	case g.state == completing || g.state == stable:
		// Nothing new: it may have missed the reply.
		fx.join(j.to, g.joinResponse(m, g.state == completing))
		return
	default: // Empty and a member: cannot be
		fx.joinError(j.to, j.memberID, kerr.UnknownMemberID)
		return
	}
	g.update(m, j, fx)
	g.rebalanceOrComplete(now, "member "+m.id+" joins again while "+g.state.String()+": "+j.reason, fx)
}

// joinResponse is the answer to a member of the current generation.
func (g *classic) joinResponse(m *member, membersToLeader bool) *kmsg.JoinGroupResponse {
	resp := kmsg.NewPtrJoinGroupResponse()
	resp.Generation = g.generation
	resp.MemberID = m.id
	resp.LeaderID = g.leader
	if g.protocol != "" {
		resp.Protocol = kmsg.StringPtr(g.protocol)
	}
	if g.protocolType != "" {
		resp.ProtocolType = kmsg.StringPtr(g.protocolType)
	}
	if membersToLeader && g.leader == m.id {
		resp.Members = make([]kmsg.JoinGroupResponseMember, 0, len(g.members))
		for _, o := range g.members {
			rm := kmsg.NewJoinGroupResponseMember()
			rm.MemberID, rm.InstanceID, rm.ProtocolMetadata = o.id, o.instance, o.metadata(g.protocol)
			resp.Members = append(resp.Members, rm)
		}
	}
	return resp
}

func (g *classic) addAndRebalance(now time.Time, j *joining, id string, fx *effects) {
	m := &member{
		id: id, instance: j.instance, clientID: j.client.ClientID, host: j.client.Host,
		rebalanceTimeout: j.rebalanceTimeout, sessionTimeout: j.sessionTimeout,
		protocols: j.protocols, join: j.to, isNew: true,
	}
	if g.state == preparing && g.previous == empty {
		g.grew = true // the initial rebalance may wait for still more
	}
	first := len(g.members) == 0
	g.add(m)
	if first {
		g.protocolType = j.protocolType
	}
	g.touchFor(now, m, newMemberTimeout)
	g.rebalanceOrComplete(now, "member "+id+" joins: "+j.reason, fx)
}

// replaceStatic gives a static member that came back without its id a new
// one. Whoever still holds the old id is fenced.
func (g *classic) replaceStatic(now time.Time, j *joining, oldID, newID string, fx *effects) {
	m := g.byID[oldID]
	swap := &staticSwap{oldID: oldID, newID: newID, leaderBefore: g.leader, protocols: m.protocols,
		rebalanceTimeout: m.rebalanceTimeout, sessionTimeout: m.sessionTimeout}
	g.answerJoinError(m, oldID, kerr.FencedInstanceID, fx)
	if m.sync != nil {
		fx.syncError(m.sync, kerr.FencedInstanceID)
		m.sync = nil
	}
	g.rename(m, newID)
	g.touch(now, m)
	g.update(m, j, fx)
	switch g.state {
	case stable:
		if g.selectProtocol() != g.protocol {
			g.rebalanceOrComplete(now, "static member "+*j.instance+" changed the chosen protocol: "+j.reason, fx)
			return
		}
		// Same protocol: the new id takes over the old assignment, and nobody
		// else notices (KIP-345). The reply waits for the write.
		g.token++
		g.stores[g.token] = &store{generation: g.generation, static: swap}
		fx.writes = append(fx.writes, groupWrite{meta: g.meta(nil), token: g.token})
	case completing:
		// The leader may have been given the old id to assign to.
		g.prepareRebalance(now, "static member "+*j.instance+" came back: "+j.reason, fx)
	default:
		g.maybeCompleteJoin(now, fx)
	}
}

// rename gives a static member another id in place.
func (g *classic) rename(m *member, id string) {
	old := m.id
	delete(g.byID, old)
	m.id = id
	g.byID[id] = m
	g.static[*m.instance] = id
	if g.leader == old {
		g.leader = id
	}
	if g.pendingSync[old] {
		delete(g.pendingSync, old)
		g.pendingSync[id] = true
	}
	g.weigh(m)
}

// staticStored ends the return of a static member to a stable group.
func (g *classic) staticStored(now time.Time, s *store, err *kerr.Error, fx *effects) {
	m := g.byID[s.static.newID]
	if m == nil || g.state != stable || g.generation != s.generation {
		return // replaced again, gone, or joining a new generation: answered there
	}
	if err != nil {
		to := m.join
		m.join = nil
		if to != nil {
			g.awaitingJoin--
		}
		g.countProtocols(m, -1)
		m.protocols = s.static.protocols
		g.countProtocols(m, 1)
		m.rebalanceTimeout, m.sessionTimeout = s.static.rebalanceTimeout, s.static.sessionTimeout
		g.rename(m, s.static.oldID)
		g.touch(now, m)
		if to != nil {
			resp := g.joinResponse(m, false)
			resp.MemberID, resp.LeaderID, resp.ErrorCode = "", s.static.leaderBefore, err.Code
			fx.join(to, resp)
		}
		return
	}
	if m.join == nil {
		return
	}
	// Older clients that led would see themselves as leader and assign again;
	// they are told the leader of before, whose id is no longer in use. From
	// version 9 they can be told to skip that (KIP-814).
	resp := g.joinResponse(m, m.join.version >= 9)
	if m.join.version >= 9 {
		resp.SkipAssignment = g.leader == m.id
	} else {
		resp.LeaderID = s.static.leaderBefore
	}
	g.answerJoin(m, resp, fx)
	g.touch(now, m) // the session may have ended while the write took its time
}

func (g *classic) rebalanceOrComplete(now time.Time, why string, fx *effects) {
	if g.canRebalance() {
		g.prepareRebalance(now, why, fx)
	} else {
		g.maybeCompleteJoin(now, fx)
	}
}

func (g *classic) prepareRebalance(now time.Time, why string, fx *effects) {
	if g.state == completing {
		g.resetAssignments(now, kerr.RebalanceInProgress, fx)
	}
	clear(g.pendingSync)
	g.syncTimer = time.Time{}
	initial := g.state == empty
	g.transition(now, preparing)
	fx.note("rebalance begins", "generation", g.generation, "reason", why)
	if initial {
		delay := g.rules.initialDelay
		g.grew = false
		g.startJoinTimer(now, joinTimer{initial: true, delay: delay, remaining: max(g.rebalanceTimeout()-delay, 0)})
		return
	}
	if g.allJoined() {
		g.completeJoin(now, fx)
		return
	}
	g.startJoinTimer(now, joinTimer{delay: g.rebalanceTimeout()})
}

func (g *classic) startJoinTimer(now time.Time, t joinTimer) {
	t.at = now.Add(t.delay)
	g.joinTimer = t
	g.arm(t.at)
}

// maybeCompleteJoin ends the join phase when everybody is there, unless it is
// the initial one, which always waits its delay.
func (g *classic) maybeCompleteJoin(now time.Time, fx *effects) {
	if g.state == preparing && g.previous != empty && g.allJoined() {
		g.completeJoin(now, fx)
	}
}

func (g *classic) joinTimerFired(now time.Time, fx *effects) {
	t := g.joinTimer
	g.joinTimer = joinTimer{}
	if g.state != preparing {
		return
	}
	if t.initial && g.grew && t.remaining > 0 {
		g.grew = false
		delay := min(g.rules.initialDelay, t.remaining)
		g.startJoinTimer(now, joinTimer{initial: true, delay: delay, remaining: max(t.remaining-delay, 0)})
		return
	}
	g.completeJoin(now, fx)
}

// completeJoin drops the dynamic members that did not come and begins the
// next generation. Static ones keep their place until their session ends.
func (g *classic) completeJoin(now time.Time, fx *effects) {
	g.joinTimer = joinTimer{}
	var late []string
	for _, m := range g.members {
		if m.join == nil && m.instance == nil {
			late = append(late, m.id)
		}
	}
	for _, id := range late {
		g.remove(id)
	}
	if len(late) > 0 {
		fx.note("members did not join in time and are removed", "members", late)
	}
	if !g.electLeader() && len(g.members) > 0 {
		// Only static members that are away: wait for them or their sessions.
		g.startJoinTimer(now, joinTimer{delay: g.rebalanceTimeout()})
		return
	}
	g.nextGeneration(now)
	if g.state == empty {
		fx.note("group is empty", "generation", g.generation)
		fx.writes = append(fx.writes, groupWrite{meta: g.meta(nil)})
		return
	}
	for _, m := range g.members {
		g.answerJoin(m, g.joinResponse(m, true), fx)
		g.touch(now, m)
		m.isNew = false
		g.pendingSync[m.id] = true
	}
	g.syncTimer = now.Add(g.rebalanceTimeout())
	g.arm(g.syncTimer)
}

// electLeader makes sure that the leader is a member that joined.
func (g *classic) electLeader() bool {
	if l := g.byID[g.leader]; l != nil && l.join != nil {
		return true
	}
	for _, m := range g.members {
		if m.join != nil {
			g.leader = m.id
			return true
		}
	}
	return false
}

func (g *classic) nextGeneration(now time.Time) {
	g.generation++
	clear(g.pendingSync)
	if len(g.members) > 0 {
		g.protocol = g.selectProtocol()
		g.transition(now, completing)
	} else {
		g.protocol = ""
		g.transition(now, empty)
	}
	g.subscribe()
}
