package kafkadiff

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// memberOf gives a member of a group, a new one at times.
func (g *generator) memberOf() *walkMember {
	idle := slices.DeleteFunc(slices.Clone(g.members), func(m *walkMember) bool { return m.waiting })
	if len(idle) == 0 || len(g.members) < 4 && g.chance(40) {
		if len(g.members) >= 6 {
			return nil
		}
		g.made++
		m := &walkMember{group: "$" + pick(g, g.groups), conn: fmt.Sprintf("m%d", g.made)}
		if g.chance(25) {
			m.instance = pick(g, []string{"i1", "i2"})
		}
		g.members = append(g.members, m)
		return m
	}
	return pick(g, idle)
}

// id is what a request says about who sends it.
func (g *generator) id(m *walkMember) string {
	if g.chance(4) {
		return pick(g, []string{"", "nobody"})
	}
	if m.id == "" {
		return ""
	}
	return "$" + m.id
}

func (g *generator) instance(m *walkMember) any {
	if g.chance(4) {
		return pick(g, []any{nil, "i1", "i9", ""})
	}
	if m.instance == "" {
		return nil
	}
	return m.instance
}

// join sends a JoinGroup. It may wait for other members: then its answer is
// looked for after each of the steps that follow.
func (g *generator) join() error {
	m := g.memberOf()
	if m == nil {
		return nil
	}
	version := g.between(0, 9)
	reads := o("subscription", o("Version", pick(g, []int{0, 1, 3}), "Topics", list{"$" + g.topic().name}))
	protocols := pick(g, []list{
		{o("Name", "range", "Metadata", "a")}, {o("Name", "range", "Metadata", reads)}, {o("Name", "range", "Metadata", reads)},
		{o("Name", "range", "Metadata", "a"), o("Name", "sticky", "Metadata", reads)},
		{o("Name", "sticky", "Metadata", "c"), o("Name", "range", "Metadata", "d")}, {o("Name", "range", "Metadata", "e")},
	})
	if g.chance(3) {
		protocols = pick(g, []list{{}, {o("Name", "other", "Metadata", "")}, {o("Name", "", "Metadata", "x")}})
	}
	kind := "consumer"
	if g.chance(2) {
		kind = pick(g, []string{"", "connect"})
	}
	fields := o("Group", m.group, "SessionTimeoutMillis", 1_000_000, "RebalanceTimeoutMillis", 1_000_000,
		"MemberID", g.id(m), "InstanceID", g.instance(m), "ProtocolType", kind, "Protocols", protocols)
	if g.chance(2) {
		fields.set("SessionTimeoutMillis", number(pick(g, []int64{0, -1, 1, math.MaxInt32, 5999, 1_800_001})))
	}
	if g.chance(2) {
		fields.set("Group", pick(g, []string{"", "$n"}))
	}
	return g.held(m, "JoinGroup", version, fields, true)
}

func (g *generator) sync() error {
	m := g.memberOf()
	if m == nil || m.id == "" && g.chance(90) {
		return nil
	}
	version := g.between(0, 5)
	fields := o("Group", m.group, "Generation", g.nearRef(m.gen, 8), "MemberID", g.id(m), "InstanceID", g.instance(m))
	if version >= 5 {
		fields.set("ProtocolType", pick(g, []any{"consumer", "consumer", nil, "connect"}))
		fields.set("Protocol", pick(g, []any{nil, nil, "range"}))
	}
	assignment := list{}
	if m.leader {
		for _, x := range g.members {
			if x.group == m.group && x.id != "" && g.chance(90) {
				assignment = append(assignment, o("MemberID", "$"+x.id, "MemberAssignment", "for "+x.conn))
			}
		}
	}
	fields.set("GroupAssignment", assignment)
	return g.held(m, "SyncGroup", version, fields, false)
}

// held sends a request that may have to wait, and waits for a moment.
func (g *generator) held(m *walkMember, api string, version int, fields *object, joins bool) error {
	g.step++
	step := g.step
	if err := g.p.do(fmt.Sprintf("%d @%s %s %d %s & within 5s", step, m.conn, api, version, oneLine(fields))); err != nil {
		return err
	}
	m.waiting = true
	p := pendingJoin{step, m, joins}
	if g.p.kafka.waiting[step].wait(settle) {
		return g.await(p)
	}
	if err := g.barrier(); err != nil {
		return err
	}
	g.pending = append(g.pending, p)
	return nil
}

// barrier returns when both brokers have come to an end with what groups were
// asked before: a coordinator writes one thing after the other, and shows what
// is in the log.
func (g *generator) barrier() error {
	for range 2 {
		if _, err := g.ask("main", "OffsetCommit", 2, o("Group", "$z", "Generation", -1, "Topics", list{o("Topic", "$z", "Partitions", list{o("Partition", 0, "Offset", 1)})})); err != nil {
			return err
		}
	}
	return g.p.do("sleep 10ms") // and see settle
}

// settle waits, after a sleep of a walk, until both brokers show the same of
// the walk's groups and have answered the same joins and syncs, twice in a row:
// a group that was empty begins its generation when a timer of no time is over,
// and a busy machine lets that take its time. Where they do not come to the
// same within patience, the next answers say so.
func (p *pair) settle() error {
	for deadline, before := time.Now().Add(patience), ""; time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		k, err := p.kafka.groupsNow()
		if err != nil {
			return err
		}
		f, err := p.firn.groupsNow()
		if err != nil {
			return p.found("DescribeGroups", "", "it goes on", err.Error())
		}
		if k == f && k == before {
			return nil
		}
		before = k
	}
	return nil
}

// groupsNow shows the groups of a walk: their states, how many members they
// have, and which requests are still without an answer.
func (r *runner) groupsNow() (string, error) {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Version = 5
	for _, name := range []string{"g", "h", "n"} {
		if group, ok := r.vars[name]; ok {
			req.Groups = append(req.Groups, group)
		}
	}
	resp, err := ask[*kmsg.DescribeGroupsResponse](r.addr, r.conns, req)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, group := range resp.Groups {
		fmt.Fprintf(&b, "%s of %d; ", group.State, len(group.Members))
	}
	for _, step := range r.order {
		if !r.waiting[step].over() {
			fmt.Fprintf(&b, "%d ", step)
		}
	}
	return b.String(), nil
}

// over says whether the exchange has come to its end.
func (e *exchange) over() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

var joinLine = regexp.MustCompile(`^([0-9]+) (?:@\S+ )?JoinGroup [0-9]+ \{"Group": "(\$[a-z]+)"`)

// leader judges a LeaderID that is not the same. When the leader has left, a
// coordinator takes any member for the next: then the path is NewLeaderID, and
// what the two leaders were told of the members must be the same. It also
// remembers who leads.
func (p *pair) leader(k, f Answer, all []difference) []difference {
	if !strings.HasPrefix(k.Title, "JoinGroup ") {
		return all
	}
	group := p.joins[k.Step]
	i := slices.IndexFunc(all, func(d difference) bool { return d.path == "LeaderID" })
	if i < 0 {
		if id := leaderOf(k.Tree); id != "" && group != "" {
			p.leads[group] = id
		}
		return all
	}
	if old := p.leads[group]; leaderOf(k.Tree) == old || leaderOf(f.Tree) == old {
		return all
	}
	all[i].path = "NewLeaderID"
	kafka, firn := p.kafka.roll(k.Step), p.firn.roll(f.Step)
	if kafka != firn {
		return []difference{{path: "Members, whoever leads", want: kafka, got: firn}}
	}
	return all
}

func leaderOf(tree any) string {
	if o, ok := tree.(*object); ok {
		v, _ := o.get("LeaderID")
		id, _ := v.(string)
		return id
	}
	return ""
}

var numberedUUID = regexp.MustCompile(`<uuid[0-9]+>`)

// roll is what the leader of a generation was told of its members, when a
// member of it was answered in step: in an answer that is there or will be.
func (r *runner) roll(step int) string {
	joined, _ := r.raw[step].(*object)
	id, _ := joined.get("MemberID")
	generation, _ := joined.get("Generation")
	members := func(tree any) list {
		o, ok := tree.(*object)
		if !ok {
			return nil
		}
		gen, _ := o.get("Generation")
		v, _ := o.get("Members")
		l, _ := v.(list)
		if gen != generation || !slices.ContainsFunc(l, func(m any) bool { own, _ := m.(*object).get("MemberID"); return own == id }) {
			return nil
		}
		return l
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		trees := slices.Collect(maps.Values(r.raw))
		for _, step := range r.order {
			if e := r.waiting[step]; e.over() && e.word == "" {
				trees = append(trees, decodeAnswer(e.frame.key, e.frame.version, e.body, r.sent))
			}
		}
		for _, tree := range trees {
			if l := members(tree); l != nil {
				r.n.peek = true
				var out []string
				for _, m := range l { // the instance is told from version 5 on
					id, _ := m.(*object).get("MemberID")
					metadata, _ := m.(*object).get("ProtocolMetadata")
					out = append(out, numberedUUID.ReplaceAllString(oneLine(r.n.tree(list{id, metadata})), "<uuid>"))
				}
				r.n.peek = false
				slices.Sort(out)
				return strings.Join(out, ", ")
			}
		}
	}
	return "nothing"
}

// collect awaits what Kafka has answered by now. Where one broker has answered
// and the other has not for long, `pending` says so.
func (g *generator) collect() error {
	for first := true; len(g.pending) > 0; first = false {
		limit := time.Duration(0)
		if first {
			limit = 2 * time.Millisecond
		}
		i := slices.IndexFunc(g.pending, func(p pendingJoin) bool {
			return g.p.kafka.waiting[p.step].wait(limit) || g.p.firn.waiting[p.step].wait(0)
		})
		if i < 0 {
			return nil
		}
		p := g.pending[i]
		g.pending = slices.Delete(g.pending, i, i+1)
		if !g.p.kafka.waiting[p.step].wait(patience) {
			if err := g.p.do("sleep 100ms"); err != nil {
				return err
			}
			g.step++
			return g.p.do(fmt.Sprintf("%d pending %d", g.step, p.step))
		}
		if err := g.await(p); err != nil {
			return err
		}
	}
	return nil
}

// patience is how long one broker may take for what the other has done.
const patience = 3 * time.Second

// await takes the answer of a join or a sync and learns from it.
func (g *generator) await(p pendingJoin) error {
	if err := g.p.do(fmt.Sprintf("await %d", p.step)); err != nil {
		return err
	}
	m := p.member
	m.waiting = false
	code := g.p.answeredInt(p.step, "ErrorCode", -1)
	if id, _ := g.p.answered(p.step, "MemberID").(string); p.joins && id != "" && (code == 0 || code == 79) {
		g.made++
		m.id = fmt.Sprintf("id%d", g.made)
		if err := g.p.do(fmt.Sprintf("let %s = %d MemberID", m.id, p.step)); err != nil {
			return err
		}
		if code == 0 {
			m.gen = fmt.Sprintf("gen%d", g.made)
			leader, _ := g.p.answered(p.step, "LeaderID").(string)
			m.leader = leader == id
			return g.p.do(fmt.Sprintf("let %s = %d Generation", m.gen, p.step))
		}
	}
	if code == 25 { // UNKNOWN_MEMBER_ID
		m.id = ""
	}
	return nil
}

func (g *generator) heartbeat() error {
	m := g.memberOf()
	if m == nil || m.id == "" && g.chance(80) {
		return nil
	}
	_, err := g.ask(m.conn, "Heartbeat", g.between(0, 4), o("Group", m.group, "Generation", g.nearRef(m.gen, 8), "MemberID", g.id(m), "InstanceID", g.instance(m)))
	return err
}

func (g *generator) leave() error {
	m := g.memberOf()
	if m == nil || m.id == "" && g.chance(80) {
		return nil
	}
	version := g.between(0, 5)
	fields := o("Group", m.group, "MemberID", g.id(m))
	if version >= 3 {
		one := func(m *walkMember) *object {
			id := g.id(m)
			if m.instance != "" && g.chance(25) {
				id = "" // as an administrator names it
			}
			return o("MemberID", id, "InstanceID", g.instance(m))
		}
		members := list{one(m)}
		if g.chance(20) {
			members = append(members, one(pick(g, g.members)))
		}
		if g.chance(4) {
			members = list{}
		}
		fields = o("Group", m.group, "Members", members)
	}
	step, err := g.ask(m.conn, "LeaveGroup", version, fields)
	if err == nil && g.p.answeredInt(step, "ErrorCode", 1) == 0 {
		g.members = slices.DeleteFunc(g.members, func(x *walkMember) bool { return x == m })
		return g.p.do("sleep 1ms") // the others' rebalance may wait for nobody
	}
	return err
}

func (g *generator) describeGroups() error {
	groups := list{g.group()}
	if g.chance(20) {
		groups = append(groups, "$n", g.group())
	}
	_, err := g.ask("main", "DescribeGroups", g.between(0, 6), o("Groups", groups, "IncludeAuthorizedOperations", g.chance(20)))
	return err
}

func (g *generator) deleteGroups() error {
	groups := list{g.group()}
	if g.chance(20) {
		groups = append(groups, g.group())
	}
	_, err := g.ask("main", "DeleteGroups", g.between(0, 2), o("Groups", groups))
	return err
}

func (g *generator) offsetDelete() error {
	t := g.topic()
	parts := list{o("Partition", g.partition(t))}
	if g.chance(20) {
		parts = append(parts, o("Partition", g.partition(t)))
	}
	_, err := g.ask("main", "OffsetDelete", 0, o("Group", g.group(), "Topics", list{g.named(t, false, "Partitions", parts)}))
	return err
}

func (g *generator) offsetCommit() error {
	version := g.between(2, 10)
	t := g.topic()
	group, member, gen, instance := g.group(), any(""), any(-1), any(nil)
	if m := g.memberOf(); m != nil && g.chance(60) && m.id != "" {
		group, member, gen, instance = m.group, g.id(m), g.nearRef(m.gen, 8), g.instance(m)
	}
	metadata := pick(g, []any{"", "m", nil})
	if g.chance(2) {
		metadata = strings.Repeat("m", 5000)
	}
	one := func() *object {
		return o("Partition", g.partition(t), "Offset", g.near(g.r.Int64N(20), math.MinInt64, math.MaxInt64, 15),
			"LeaderEpoch", g.near(-1, -2, 5, 10), "Metadata", metadata)
	}
	parts := list{one()}
	for g.chance(15) {
		parts = append(parts, one())
	}
	topics := list{g.named(t, version >= 10, "Partitions", parts)}
	if u := g.topic(); u != t && g.chance(10) {
		topics = append(topics, g.named(u, version >= 10, "Partitions", list{o("Partition", g.partition(u), "Offset", 1, "LeaderEpoch", -1, "Metadata", nil)}))
	}
	_, err := g.ask("main", "OffsetCommit", version, o("Group", group, "Generation", gen, "MemberID", member, "InstanceID", instance,
		"RetentionTimeMillis", pick(g, []int{-1, -1, 100_000_000}), "Topics", topics))
	if err != nil || metadata == nil || len(metadata.(string)) <= 1 {
		return err
	}
	return g.barrier() // a group that was made without an offset shows after the next commit
}

// offsetsGone waits until no group has offsets of a topic that was deleted:
// Kafka's coordinator deletes them when the topic has gone.
func (g *generator) offsetsGone(topic string) error {
	for _, group := range []string{"$g", "$h", "$n"} {
		g.step++
		if err := g.p.do(fmt.Sprintf(`%d OffsetFetch 7 %s until Topics[Topic="%s"] = absent`, g.step, oneLine(o("Group", group, "Topics", nil)), topic)); err != nil {
			return err
		}
	}
	return nil
}

func (g *generator) offsetFetch() error {
	version := g.between(1, 10)
	t := g.topic()
	parts := list{leaf(g.partition(t))}
	for g.chance(15) {
		parts = append(parts, leaf(g.partition(t)))
	}
	if version < 8 {
		topics := any(list{g.named(t, false, "Partitions", parts)})
		if version >= 2 && g.chance(25) {
			topics = nil
		}
		_, err := g.ask("main", "OffsetFetch", version, o("Group", g.group(), "Topics", topics, "RequireStable", g.chance(30)))
		return err
	}
	one := o("Group", g.group(), "Topics", list{g.named(t, version >= 10, "Partitions", parts)})
	if version >= 9 && g.chance(10) {
		one.set("MemberID", "nobody")
		one.set("MemberEpoch", number(pick(g, []int64{-1, 0, 3})))
	}
	if g.chance(25) {
		one.set("Topics", nil)
	}
	groups := list{one}
	if g.chance(15) {
		groups = append(groups, o("Group", "$n", "Topics", nil))
	}
	_, err := g.ask("main", "OffsetFetch", version, o("Groups", groups, "RequireStable", g.chance(30)))
	return err
}
