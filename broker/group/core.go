package group

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// state is a classic group's state, with the transitions of Kafka's
// coordinator: Empty → Preparing → Completing → Stable, back to Preparing on
// any change of members, and to Empty when the last one is gone.
type state int8

const (
	empty      state = iota // no members; may have offsets
	preparing               // members are to send JoinGroup
	completing              // members are to send SyncGroup, the leader with assignments
	stable                  // every member has or can fetch its assignment
	dead                    // unloaded
)

var stateNames = [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}

// String gives the name that DescribeGroups and ListGroups show.
func (s state) String() string { return stateNames[s] }

// newMemberTimeout is how long a member that was just given its id may wait
// in JoinGroup before it is dropped: it cannot send heartbeats yet, and a
// client that gave up would otherwise stay for ever.
const newMemberTimeout = 5 * time.Minute

// rules are the settings the core decides by.
type rules struct {
	initialDelay time.Duration
	maxSize      int           // members, and members to be, of one group
	maxBytes     int           // of one group's ids, subscriptions and assignments
	newID        func() string // the random part of member ids
}

// joinTicket is where the answer to one JoinGroup goes. The core never calls
// reply: it hands ticket and answer out in its effects, exactly once.
type joinTicket struct {
	version int16
	reply   func(*kmsg.JoinGroupResponse)
}

// syncTicket is a joinTicket for SyncGroup.
type syncTicket struct {
	version int16
	reply   func(*kmsg.SyncGroupResponse)
}

type joinReply struct {
	to   *joinTicket
	resp *kmsg.JoinGroupResponse
}

type syncReply struct {
	to   *syncTicket
	resp *kmsg.SyncGroupResponse
}

// groupWrite asks for the group's metadata to be written. With a token, the
// core is to be told of the outcome by stored.
type groupWrite struct {
	meta  *kmsg.GroupMetadataValue
	token uint64
}

// note is something worth a log line.
type note struct {
	group string // filled in by the shard
	msg   string
	args  []any
	again bool // the group has had its share of lines: for those who debug
}

// effects is what a step of the core wants done: writes in their order, then
// replies.
type effects struct {
	joins      []joinReply
	syncs      []syncReply
	writes     []groupWrite
	notes      []note
	rebalances int // completed: the group became stable

	tooManyMembers, tooManyBytes bool // why a JoinGroup was refused
}

func (fx *effects) join(to *joinTicket, resp *kmsg.JoinGroupResponse) {
	resp.Version = to.version
	if resp.Protocol == nil && to.version < 7 {
		resp.Protocol = new(string) // not nullable before version 7
	}
	fx.joins = append(fx.joins, joinReply{to, resp})
}

func (fx *effects) joinError(to *joinTicket, memberID string, err *kerr.Error) {
	resp := kmsg.NewPtrJoinGroupResponse()
	resp.Generation = -1
	resp.MemberID = memberID
	resp.ErrorCode = err.Code
	fx.join(to, resp)
}

func (fx *effects) sync(to *syncTicket, resp *kmsg.SyncGroupResponse) {
	resp.Version = to.version
	if resp.MemberAssignment == nil {
		resp.MemberAssignment = []byte{}
	}
	fx.syncs = append(fx.syncs, syncReply{to, resp})
}

func (fx *effects) syncError(to *syncTicket, err *kerr.Error) {
	resp := kmsg.NewPtrSyncGroupResponse()
	resp.ErrorCode = err.Code
	fx.sync(to, resp)
}

func (fx *effects) note(msg string, args ...any) {
	fx.notes = append(fx.notes, note{msg: msg, args: args})
}

type protocol struct {
	name     string
	metadata []byte
}

// member is one member of a group. join and sync hold the ticket of a request
// that waits; a member has at most one of each.
type member struct {
	id               string
	instance         *string // of a static member (KIP-345)
	clientID, host   string
	rebalanceTimeout time.Duration
	sessionTimeout   time.Duration
	protocols        []protocol // in the member's order of preference, names distinct
	assignment       []byte
	join             *joinTicket
	sync             *syncTicket
	isNew            bool      // has not been in a generation yet
	deadline         time.Time // of its session; zero: no timer runs
	bytes            int       // as counted in the group's bytes
}

func (m *member) metadata(protocol string) []byte {
	for i := range m.protocols {
		if m.protocols[i].name == protocol {
			return m.protocols[i].metadata
		}
	}
	return nil
}

func (m *member) size() int {
	n := 256 + len(m.id) + len(m.clientID) + len(m.host) + len(m.assignment)
	if m.instance != nil {
		n += len(*m.instance)
	}
	return n + protocolsSize(m.protocols)
}

func protocolsSize(ps []protocol) int {
	n := 0
	for i := range ps {
		n += 48 + len(ps[i].name) + len(ps[i].metadata)
	}
	return n
}

func (m *member) matches(ps []protocol) bool {
	return slices.EqualFunc(m.protocols, ps, func(a, b protocol) bool {
		return a.name == b.name && string(a.metadata) == string(b.metadata)
	})
}

// joinTimer ends the join phase. The initial one, of a group that was empty,
// is extended while members keep arriving (KIP-134).
type joinTimer struct {
	at               time.Time // zero: not running
	initial          bool
	delay, remaining time.Duration
}

// store is a write of the group's metadata that is under way and decides how
// the group goes on.
type store struct {
	generation int32
	assignment map[string][]byte // of all members: the leader's SyncGroup
	static     *staticSwap       // or: a static member came back
}

// staticSwap remembers what a static member's return replaced.
type staticSwap struct {
	oldID, newID     string
	leaderBefore     string
	protocols        []protocol
	rebalanceTimeout time.Duration
	sessionTimeout   time.Duration
}

// classic is the pure core of one classic group. Every method is a step: it
// takes the time and an event and puts what must happen into fx. Calls are
// serialised by the owner. Invariants:
//
//  1. members, byID and static agree; leader is "" or a member.
//  2. supported[p] counts the members that list p.
//  3. A member waits for SyncGroup only in completing.
//  4. generation only grows.
//  5. next is not later than any running deadline.
type classic struct {
	id           string
	rules        *rules
	state        state
	previous     state
	since        int64  // when state began, milliseconds since the Unix epoch; -1 unknown
	protocolType string // "" when no member ever joined: a "simple" group of offsets only
	protocol     string // chosen for this generation
	generation   int32
	leader       string
	members      []*member // in the order they came
	byID         map[string]*member
	static       map[string]string    // instance id to member id
	pending      map[string]time.Time // ids given out by MEMBER_ID_REQUIRED, until when
	pendingSync  map[string]bool      // members whose SyncGroup this generation lacks
	supported    map[string]int
	awaitingJoin int // members with a join ticket
	grew         bool
	joinTimer    joinTimer
	syncTimer    time.Time
	next         time.Time // the owner calls tick at this time; zero: never
	stores       map[uint64]*store
	token        uint64
	bytes        int
	unwritten    bool            // the group's existence is not in the log yet
	topics       map[string]bool // that this generation's consumers read; nil: unknown
}

func newClassic(id string, r *rules, now time.Time) *classic {
	return &classic{
		id: id, rules: r, state: empty, previous: dead, since: now.UnixMilli(),
		byID: map[string]*member{}, static: map[string]string{}, pending: map[string]time.Time{},
		pendingSync: map[string]bool{}, supported: map[string]int{}, stores: map[uint64]*store{},
		bytes: 512 + len(id),
	}
}

// arm makes sure that tick is called at t or earlier.
func (g *classic) arm(t time.Time) {
	if g.next.IsZero() || t.Before(g.next) {
		g.next = t
	}
}

func (g *classic) weigh(m *member) {
	n := m.size()
	g.bytes += n - m.bytes
	m.bytes = n
}

func (g *classic) touch(now time.Time, m *member) { g.touchFor(now, m, m.sessionTimeout) }

func (g *classic) touchFor(now time.Time, m *member, d time.Duration) {
	m.deadline = now.Add(d)
	g.arm(m.deadline)
}

func (g *classic) transition(now time.Time, to state) {
	g.previous, g.state, g.since = g.state, to, now.UnixMilli()
}

func (g *classic) canRebalance() bool {
	return g.state == stable || g.state == completing || g.state == empty
}

func (g *classic) allJoined() bool {
	return g.awaitingJoin == len(g.members) && len(g.pending) == 0
}

// rebalanceTimeout is the longest that any member asks for.
func (g *classic) rebalanceTimeout() time.Duration {
	var d time.Duration
	for _, m := range g.members {
		d = max(d, m.rebalanceTimeout)
	}
	return d
}

func (g *classic) countProtocols(m *member, by int) {
	for i := range m.protocols {
		name := m.protocols[i].name
		if g.supported[name] += by; g.supported[name] == 0 {
			delete(g.supported, name)
		}
	}
}

// supports says whether a member with these protocols could be in the group:
// at least one of them must be known to all members.
func (g *classic) supports(typ string, ps []protocol) bool {
	if g.state == empty {
		return typ != "" && len(ps) > 0
	}
	if typ != g.protocolType {
		return false
	}
	for i := range ps {
		if g.supported[ps[i].name] == len(g.members) {
			return true
		}
	}
	return false
}

// selectProtocol lets every member vote for the first of its protocols that
// all know. Most votes win; of equals, the one that Kafka would come upon
// first.
func (g *classic) selectProtocol() string {
	votes := map[string]int{}
	best := ""
	for _, m := range g.members {
		for i := range m.protocols {
			if name := m.protocols[i].name; g.supported[name] == len(g.members) {
				votes[name]++
				break
			}
		}
	}
	for _, m := range g.members { // in a settled order, unlike that of votes
		for i := range m.protocols {
			name := m.protocols[i].name
			if n := votes[name]; n > votes[best] || n > 0 && n == votes[best] && bucket(name) < bucket(best) {
				best = name
			}
		}
	}
	return best
}

// bucket is where Java's HashMap of up to twelve entries keeps a name: Kafka
// goes through the votes in this order.
func bucket(name string) uint32 {
	h := uint32(javaHash(name))
	return (h ^ h>>16) & 15
}

func (g *classic) add(m *member) {
	if len(g.members) == 0 {
		g.protocolType = ""
	}
	if m.instance != nil {
		g.static[*m.instance] = m.id
	}
	if g.leader == "" {
		g.leader = m.id
	}
	g.members = append(g.members, m)
	g.byID[m.id] = m
	g.countProtocols(m, 1)
	if m.join != nil {
		g.awaitingJoin++
	}
	g.dropPending(m.id)
	g.weigh(m)
}

func (g *classic) dropPending(id string) {
	if _, ok := g.pending[id]; ok {
		delete(g.pending, id)
		g.bytes -= 64 + len(id)
	}
}

// remove forgets a member or a pending id. The caller has answered the
// member's tickets.
func (g *classic) remove(id string) {
	if m := g.byID[id]; m != nil {
		delete(g.byID, id)
		g.members = slices.DeleteFunc(g.members, func(o *member) bool { return o == m })
		g.countProtocols(m, -1)
		if m.join != nil {
			g.awaitingJoin--
		}
		if m.instance != nil {
			delete(g.static, *m.instance)
		}
		g.bytes -= m.bytes
	}
	if g.leader == id {
		g.leader = ""
		if len(g.members) > 0 {
			g.leader = g.members[0].id
		}
	}
	g.dropPending(id)
	delete(g.pendingSync, id)
}

// update takes over what a member says in a new JoinGroup, and its ticket. A
// ticket that still waits is of a request the client has given up; it is told
// to join again.
func (g *classic) update(m *member, j *joining, fx *effects) {
	g.countProtocols(m, -1)
	m.protocols = j.protocols
	g.countProtocols(m, 1)
	m.rebalanceTimeout, m.sessionTimeout = j.rebalanceTimeout, j.sessionTimeout
	if m.join != nil {
		fx.joinError(m.join, m.id, kerr.RebalanceInProgress)
	} else {
		g.awaitingJoin++
	}
	m.join = j.to
	g.weigh(m)
}

// answerJoin gives the member's waiting JoinGroup, if there is one, its reply.
func (g *classic) answerJoin(m *member, resp *kmsg.JoinGroupResponse, fx *effects) {
	if m.join != nil {
		fx.join(m.join, resp)
		m.join = nil
		g.awaitingJoin--
	}
}

func (g *classic) answerJoinError(m *member, id string, err *kerr.Error, fx *effects) {
	if m.join != nil {
		fx.joinError(m.join, id, err)
		m.join = nil
		g.awaitingJoin--
	}
}

// validate checks that a request comes from a current member.
func (g *classic) validate(id string, instance *string) *kerr.Error {
	if instance != nil {
		switch current, ok := g.static[*instance]; {
		case !ok:
			return kerr.UnknownMemberID
		case current != id:
			return kerr.FencedInstanceID
		}
	}
	if g.byID[id] == nil {
		return kerr.UnknownMemberID
	}
	return nil
}

// meta is the record that describes the group now, with the given assignments
// or, if nil, those the members have.
func (g *classic) meta(assignment map[string][]byte) *kmsg.GroupMetadataValue {
	v := newMeta()
	v.Version = groupValueVersion
	v.ProtocolType = g.protocolType
	v.Generation = g.generation
	v.CurrentStateTimestamp = g.since
	if len(g.members) > 0 {
		v.Protocol = kmsg.StringPtr(g.protocol)
	}
	if g.leader != "" {
		v.Leader = kmsg.StringPtr(g.leader)
	}
	for _, m := range g.members {
		mv := kmsg.NewGroupMetadataValueMember()
		mv.MemberID, mv.InstanceID, mv.ClientID, mv.ClientHost = m.id, m.instance, m.clientID, m.host
		mv.RebalanceTimeoutMillis = int32(m.rebalanceTimeout.Milliseconds())
		mv.SessionTimeoutMillis = int32(m.sessionTimeout.Milliseconds())
		mv.Subscription = m.metadata(g.protocol)
		mv.Assignment = m.assignment
		if assignment != nil {
			mv.Assignment = assignment[m.id]
		}
		v.Members = append(v.Members, mv)
	}
	return v
}

// loadClassic makes the core from its last record; all members' sessions
// begin anew.
func loadClassic(id string, v *kmsg.GroupMetadataValue, r *rules, now time.Time, fx *effects) *classic {
	g := newClassic(id, r, now)
	g.generation = v.Generation
	g.since = v.CurrentStateTimestamp
	g.protocolType = v.ProtocolType
	if len(v.Members) == 0 {
		g.subscribe()
		return g
	}
	if v.Protocol != nil {
		g.protocol = *v.Protocol
	}
	typ := g.protocolType
	for i := range v.Members {
		mv := &v.Members[i]
		if g.byID[mv.MemberID] != nil {
			continue
		}
		rebalance := mv.RebalanceTimeoutMillis
		if rebalance == -1 { // written before version 1
			rebalance = mv.SessionTimeoutMillis
		}
		m := &member{
			id: mv.MemberID, instance: mv.InstanceID, clientID: mv.ClientID, host: mv.ClientHost,
			rebalanceTimeout: millis(rebalance), sessionTimeout: millis(mv.SessionTimeoutMillis),
			protocols:  []protocol{{g.protocol, mv.Subscription}},
			assignment: mv.Assignment,
		}
		g.add(m)
		g.touch(now, m)
	}
	g.protocolType = typ
	if v.Leader != nil && g.byID[*v.Leader] != nil {
		g.leader = *v.Leader
	}
	g.subscribe()
	g.previous, g.state = completing, stable
	if len(g.members) > r.maxSize {
		g.prepareRebalance(now, "loaded with more members than allowed", fx)
	}
	return g
}

func millis(ms int32) time.Duration { return time.Duration(max(ms, 0)) * time.Millisecond }

// idle says that forgetting the group would lose nothing but its log state.
func (g *classic) idle() bool {
	return g.state == empty && len(g.pending) == 0 && len(g.stores) == 0
}
