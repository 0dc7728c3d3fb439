package group

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const simPartitions = 12

// simClient is one consumer: it joins, syncs, beats, and dies when told.
type simClient struct {
	name     string
	instance *string
	version  int16
	alive    bool
	memberID string
	gen      int32
	proto    []protocol
	serial   int      // of its last request: only that one's answer counts
	members  []string // as the last JoinGroup told a leader
	phase    string   // "", joining, syncing, stable
	lastBeat time.Time
}

// sim drives one core with virtual time, delayed and failing writes, and
// restarts from the last write.
type sim struct {
	t       *testing.T
	rng     *rand.Rand
	now     time.Time
	g       *classic
	rules   *rules
	clients []*simClient
	writes  []groupWrite // not yet done
	last    *kmsg.GroupMetadataValue
	open    int                         // tickets not answered
	epoch   int                         // restarts: tickets of before are void
	nonce   map[int32]string            // by generation: which SyncGroup of a leader won
	owner   map[int32]map[string]string // by generation: partition to who was given it
	highest int32
	begun   int32
	quick   int // of 10 steps, so many let a write end
	ids     int
	stables int
	seen    map[string]int
}

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 7)), now: time.UnixMilli(1_700_000_000_000),
		nonce: map[int32]string{}, owner: map[int32]map[string]string{}, seen: map[string]int{}}
	s.quick = []int{7, 3, 1}[seed%3]
	s.rules = &rules{initialDelay: 3 * time.Second, maxSize: 6, maxBytes: 1 << 20, newID: func() string { s.ids++; return fmt.Sprint(s.ids) }}
	s.g = newClassic("g", s.rules, s.now)
	for i := range 8 {
		c := &simClient{name: fmt.Sprintf("c%d", i), version: int16(s.rng.IntN(10)), alive: true}
		if i%3 == 0 {
			c.instance, c.version = kmsg.StringPtr("i"+c.name), int16(5+s.rng.IntN(5))
		}
		c.proto = []protocol{{"range", []byte(c.name)}, {"sticky", []byte(c.name)}}
		if i%4 == 1 {
			slices.Reverse(c.proto)
		}
		s.clients = append(s.clients, c)
	}
	return s
}

func (s *sim) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("at %v: %s\n%+v", s.now.UnixMilli(), fmt.Sprintf(format, args...), s.g)
}

// run performs what a step asked for.
func (s *sim) run(fx *effects) {
	s.stables += fx.rebalances
	for _, w := range fx.writes {
		s.writes = append(s.writes, groupWrite{meta: copyMeta(w.meta), token: w.token})
	}
	if s.g.state == completing && s.g.generation != s.begun {
		s.begun = s.g.generation
		if !slices.ContainsFunc(fx.joins, func(r joinReply) bool {
			return r.resp.MemberID == s.g.leader && len(r.resp.Members) == len(s.g.members)
		}) {
			s.fail("a generation begins and its leader is not told")
		}
	}
	for _, r := range fx.joins {
		r.to.reply(r.resp)
	}
	for _, r := range fx.syncs {
		r.to.reply(r.resp)
	}
	s.check()
}

// checkLog compares the log with memory: a restart may not change what
// members of the current generation are told.
func (s *sim) checkLog() {
	if s.g.state != stable || len(s.writes) > 0 {
		return
	}
	if s.last == nil || s.last.Generation != s.g.generation {
		s.fail("the stable generation is not in the log")
	}
	for _, m := range s.last.Members {
		if g := s.g.byID[m.MemberID]; g != nil && string(g.assignment) != string(m.Assignment) {
			s.fail("%s has assignment %q, in the log %q", m.MemberID, g.assignment, m.Assignment)
		}
	}
}

func copyMeta(v *kmsg.GroupMetadataValue) *kmsg.GroupMetadataValue {
	out, err := decodeGroup(v.AppendTo(nil))
	if err != nil {
		panic(err)
	}
	return out
}

// once makes sure that a ticket is answered once, and drops answers that a
// restart made void.
func once[T any](s *sim, what string, fn func(T)) func(T) {
	answered, epoch := false, s.epoch
	s.open++
	return func(v T) {
		if answered {
			s.fail("%s answered twice", what)
		}
		answered = true
		s.open--
		if epoch == s.epoch {
			fn(v)
		}
	}
}

func (s *sim) join(c *simClient) {
	c.phase = "joining"
	c.serial++
	serial := c.serial
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.MemberID, req.InstanceID, req.ProtocolType = c.version, c.memberID, c.instance, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 10_000, 20_000
	if c.instance != nil {
		req.SessionTimeoutMillis = 60_000 // outlives a join phase
	}
	for _, p := range c.proto {
		req.Protocols = append(req.Protocols, kmsg.JoinGroupRequestProtocol{Name: p.name, Metadata: p.metadata})
	}
	var fx effects
	s.g.joinGroup(s.now, newJoining(ClientInfo{c.name, "/h"}, req, &joinTicket{c.version, once(s, "join", func(r *kmsg.JoinGroupResponse) {
		s.seen[codeName(r.ErrorCode)]++
		if c.alive && c.serial == serial {
			s.joined(c, r)
		}
	})}), &fx)
	s.run(&fx)
}

func (s *sim) joined(c *simClient, r *kmsg.JoinGroupResponse) {
	c.phase = ""
	switch r.ErrorCode {
	case 0:
		if r.Generation < s.g.generation {
			s.fail("%s joined generation %d", c.name, r.Generation)
		}
		c.memberID, c.gen, c.phase, c.lastBeat = r.MemberID, r.Generation, "joined", s.now
		c.members = nil
		if r.LeaderID != c.memberID {
			return
		}
		c.phase, c.members = "leads", nil
		for _, m := range r.Members {
			c.members = append(c.members, m.MemberID)
		}
		if r.SkipAssignment {
			c.phase = "joined"
		}
	case kerr.MemberIDRequired.Code:
		c.memberID = r.MemberID
	case kerr.UnknownMemberID.Code:
		c.memberID = ""
	case kerr.FencedInstanceID.Code:
		c.alive = false
	}
}

// sync sends SyncGroup; a leader assigns every partition to one member.
func (s *sim) sync(c *simClient) {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.MemberID, req.InstanceID, req.Generation = min(c.version, 5), c.memberID, c.instance, c.gen
	if c.phase == "leads" {
		nonce := fmt.Sprintf("n%d", s.rng.IntN(1<<30))
		ids := c.members
		parts := make([][]string, len(ids))
		for p := range simPartitions {
			i := s.rng.IntN(len(ids))
			parts[i] = append(parts[i], fmt.Sprint(p))
		}
		for i, id := range ids {
			req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{
				MemberID: id, MemberAssignment: []byte(nonce + ":" + strings.Join(parts[i], ","))})
		}
	}
	c.serial++
	gen, serial := c.gen, c.serial
	c.phase = "syncing"
	var fx effects
	s.g.syncGroup(s.now, newSyncing(req, &syncTicket{req.Version, once(s, "sync", func(r *kmsg.SyncGroupResponse) {
		s.seen["sync "+codeName(r.ErrorCode)]++
		if r.ErrorCode == 0 {
			s.given(c, gen, string(r.MemberAssignment))
		}
		if c.alive && c.serial == serial {
			s.synced(c, r)
		}
	})}), &fx)
	s.run(&fx)
}

// given checks that a generation has one assignment, and a partition one
// owner (a static member's place may change its id, not its owner).
func (s *sim) given(c *simClient, gen int32, a string) {
	nonce, parts, _ := strings.Cut(a, ":")
	if a == "" {
		return
	}
	if s.nonce[gen] == "" {
		s.nonce[gen], s.owner[gen] = nonce, map[string]string{}
	}
	if s.nonce[gen] != nonce {
		s.fail("generation %d has two assignments", gen)
	}
	for _, p := range strings.Split(parts, ",") {
		if p == "" {
			continue
		}
		if o := s.owner[gen][p]; o != "" && o != c.name {
			s.fail("generation %d gives partition %s to %s and %s", gen, p, o, c.name)
		}
		s.owner[gen][p] = c.name
	}
}

func (s *sim) synced(c *simClient, r *kmsg.SyncGroupResponse) {
	c.phase = ""
	switch r.ErrorCode {
	case 0:
		c.phase, c.lastBeat = "stable", s.now
	case kerr.UnknownMemberID.Code:
		c.memberID = ""
	case kerr.FencedInstanceID.Code:
		c.alive = false
	}
}

func (s *sim) beat(c *simClient) {
	req := kmsg.NewPtrHeartbeatRequest()
	req.MemberID, req.InstanceID, req.Generation = c.memberID, c.instance, c.gen
	c.lastBeat = s.now
	err := s.g.heartbeat(s.now, req)
	s.check()
	s.seen["beat "+codeName(code(err))]++
	switch err {
	case nil:
	case kerr.UnknownMemberID:
		c.memberID, c.phase = "", ""
	case kerr.FencedInstanceID:
		c.alive, c.phase = false, ""
	default:
		c.phase = ""
	}
}

func (s *sim) leave(c *simClient) {
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID, m.InstanceID = c.memberID, c.instance
	if c.instance != nil && s.rng.IntN(2) == 0 {
		m.MemberID = ""
	}
	var fx effects
	s.g.leave(s.now, []kmsg.LeaveGroupRequestMember{m}, &fx)
	c.memberID, c.phase = "", ""
	c.serial++
	s.run(&fx)
}

// write ends the oldest write that is under way.
func (s *sim) write(ok bool) {
	if len(s.writes) == 0 {
		return
	}
	w := s.writes[0]
	s.writes = s.writes[1:]
	var err *kerr.Error
	if ok {
		s.last = w.meta
	} else {
		err = kerr.NotCoordinator
	}
	if w.token != 0 {
		var fx effects
		s.g.stored(s.now, w.token, err, &fx)
		s.run(&fx)
	}
}

func (s *sim) advance(d time.Duration) {
	end := s.now.Add(d)
	for i := 0; !s.g.next.IsZero() && !s.g.next.After(end); i++ {
		if i > 1000 {
			s.fail("tick does not make progress")
		}
		if s.g.next.After(s.now) {
			s.now = s.g.next
		}
		var fx effects
		s.g.tick(s.now, &fx)
		s.run(&fx)
	}
	s.now = end
}

// restart loses the core and everything not written.
func (s *sim) restart() {
	s.epoch++
	var fx effects
	s.g.unload(s.now, &fx)
	s.run(&fx)
	if s.open != 0 {
		s.fail("%d tickets unanswered after unload", s.open)
	}
	s.writes = nil
	fx = effects{}
	if s.last == nil {
		s.g = newClassic("g", s.rules, s.now)
	} else {
		s.g = loadClassic("g", s.last, s.rules, s.now, &fx)
	}
	s.highest, s.begun = 0, 0
	for _, c := range s.clients {
		c.phase = ""
	}
	s.run(&fx)
}

// check tests the core's invariants.
func (s *sim) check() {
	g := s.g
	awaiting, bytes := 0, 512+len(g.id)
	supported := map[string]int{}
	for _, m := range g.members {
		if g.byID[m.id] != m {
			s.fail("byID lacks %s", m.id)
		}
		if m.instance != nil && g.static[*m.instance] != m.id {
			s.fail("static lacks %s", m.id)
		}
		if m.join != nil {
			awaiting++
			if g.state == completing || g.state == stable && len(g.stores) == 0 {
				s.fail("%s waits for a join phase that is over", m.id)
			}
		}
		if m.sync != nil && g.state != completing {
			s.fail("%s waits for sync", m.id)
		}
		if m.join == nil && m.sync == nil && m.deadline.IsZero() && g.state != dead {
			s.fail("%s can stay for ever", m.id)
		}
		if !m.deadline.IsZero() && (g.next.IsZero() || g.next.After(m.deadline)) {
			s.fail("the session of %s ends before the next tick", m.id)
		}
		for _, p := range m.protocols {
			supported[p.name]++
		}
		bytes += m.size()
	}
	for id := range g.pending {
		bytes += 64 + len(id)
	}
	switch {
	case awaiting != g.awaitingJoin:
		s.fail("awaitingJoin %d, counted %d", g.awaitingJoin, awaiting)
	case len(g.byID) != len(g.members) || len(g.static) > len(g.members):
		s.fail("indexes disagree")
	case bytes != g.bytes:
		s.fail("bytes %d, counted %d", g.bytes, bytes)
	case fmt.Sprint(supported) != fmt.Sprint(g.supported):
		s.fail("supported %v, counted %v", g.supported, supported)
	case g.leader != "" && g.byID[g.leader] == nil, g.leader == "" && len(g.members) > 0:
		s.fail("leader %q", g.leader)
	case g.state == empty && len(g.members) > 0, (g.state == stable || g.state == completing) && len(g.members) == 0:
		s.fail("members do not fit the state")
	case g.state == preparing && g.previous != empty && g.allJoined():
		s.fail("all have joined, and still preparing")
	case g.generation < s.highest:
		s.fail("generation went back from %d", s.highest)
	case len(g.members) > 2*s.rules.maxSize || len(g.pending) > 6 || len(g.stores) > len(s.writes)+1:
		s.fail("unbounded")
	case g.state != dead && awaiting > 0 && g.next.IsZero() && len(g.stores) == 0:
		s.fail("members wait, and for neither a timer nor a write")
	}
	s.highest = g.generation
}

// act lets a client do the next thing a consumer would do.
func (s *sim) act(c *simClient) {
	switch {
	case !c.alive || c.phase == "joining" || c.phase == "syncing":
	case c.phase == "":
		s.join(c)
	case c.phase == "joined" || c.phase == "leads":
		s.sync(c)
	case s.now.Sub(c.lastBeat) >= 3*time.Second:
		s.beat(c)
	}
}

// trouble does one bad thing.
func (s *sim) trouble(c *simClient) {
	switch s.rng.IntN(14) {
	case 0, 1:
		c.alive, c.phase = false, ""
		c.serial++
	case 2, 3: // starts again, as a new process
		c.alive, c.phase, c.memberID = true, "", ""
		c.serial++
	case 4:
		if c.alive && c.memberID != "" {
			s.leave(c)
		}
	case 5:
		s.write(false)
	case 6:
		c.proto = []protocol{{"range", []byte(fmt.Sprint(s.rng.IntN(9)))}, {"sticky", []byte(c.name)}}
		if c.alive && c.phase == "stable" {
			s.join(c)
		}
	case 7:
		if c.alive && c.phase == "stable" { // the same again
			s.join(c)
		}
	case 8, 12, 13: // a request that is repeated while the first one waits
		if c.alive && c.phase == "joining" {
			s.join(c)
		} else if c.alive && c.phase == "syncing" {
			if c.phase = "joined"; len(c.members) > 0 {
				c.phase = "leads"
			}
			s.sync(c)
		}
	case 9:
		if s.rng.IntN(10) == 0 {
			s.restart()
		}
	case 10:
		s.advance(time.Duration(s.rng.IntN([]int{25, 25, 25, 100}[s.rng.IntN(4)])) * time.Second)
	case 11:
		if c.instance != nil && c.alive { // the bounce of a static member
			c.memberID = ""
			s.join(c)
		}
	}
}

func TestSimulation(t *testing.T) {
	seen := map[string]int{}
	stables := 0
	for seed := range uint64(150) {
		s := newSim(t, seed)
		for range 2500 {
			c := s.clients[s.rng.IntN(len(s.clients))]
			if s.rng.IntN(12) == 0 {
				s.trouble(c)
			} else {
				s.act(c)
			}
			if s.rng.IntN(10) < s.quick {
				s.write(true)
			}
			s.checkLog()
			s.advance(time.Duration(s.rng.IntN(900)) * time.Millisecond)
		}
		s.settleDown()
		stables += s.stables
		for k, n := range s.seen {
			seen[k] += n
		}
	}
	t.Log("stable generations", stables, seen)
	for _, k := range []string{"MEMBER_ID_REQUIRED", "UNKNOWN_MEMBER_ID", "FENCED_INSTANCE_ID", "GROUP_MAX_SIZE_REACHED",
		"REBALANCE_IN_PROGRESS", "", "sync ", "sync REBALANCE_IN_PROGRESS", "sync NOT_COORDINATOR", "beat REBALANCE_IN_PROGRESS", "sync FENCED_INSTANCE_ID"} {
		if seen[k] == 0 {
			t.Errorf("the simulation never saw %q", k)
		}
	}
	if stables < 1000 {
		t.Errorf("only %d generations became stable", stables)
	}
}

// settleDown ends all trouble: everybody alive must end in one stable
// generation, and after everybody is gone nothing is left waiting.
func (s *sim) settleDown() {
	for i, c := range s.clients {
		if c.alive != (i < 5) {
			c.alive, c.phase = i < 5, ""
			c.serial++
		}
		if !c.alive {
			c.phase = ""
		}
	}
	for range 600 {
		for i, c := range s.clients {
			if i < 5 && !c.alive { // fenced: its id died with a restart; a new process
				c.alive, c.phase, c.memberID = true, "", ""
			}
			s.act(c)
		}
		s.write(true)
		s.advance(500 * time.Millisecond)
	}
	if s.g.state != stable || len(s.g.members) != 5 {
		s.fail("not stable in the end: %v, %d members, %+v", s.g.state, len(s.g.members), *s.clients[0])
	}
	for _, c := range s.clients[:5] {
		if c.phase != "stable" || c.gen != s.g.generation {
			s.fail("%s is %q in generation %d", c.name, c.phase, c.gen)
		}
	}
	if len(s.owner[s.g.generation]) != simPartitions {
		s.fail("partitions without owner: %v", s.owner[s.g.generation])
	}
	for range 20 {
		s.advance(time.Minute)
		s.write(true)
	}
	if !s.g.idle() || s.open != 0 || !s.g.next.IsZero() || s.g.bytes != 512+len(s.g.id) {
		s.fail("left over: %d tickets", s.open)
	}
}

func codeName(c int16) string {
	if err := kerr.TypedErrorForCode(c); err != nil {
		return err.Message
	}
	return ""
}

// TestSlowStaticStore: a static member whose return took longer to write than
// its session lasts has a session again, and can end.
func TestSlowStaticStore(t *testing.T) {
	s := newSim(t, 0)
	c := s.clients[0]
	for c.phase != "stable" {
		s.act(c)
		s.advance(time.Second)
		s.write(true)
	}
	c.memberID, c.version = "", 9
	s.join(c)
	s.advance(2 * time.Minute)
	s.write(true)
	if c.phase != "joined" || s.g.byID[c.memberID].deadline.IsZero() {
		t.Fatalf("client is %q, member %+v", c.phase, s.g.byID[c.memberID])
	}
	s.advance(2 * time.Minute)
	if len(s.g.members) != 0 {
		t.Fatal("it stays for ever")
	}
}
