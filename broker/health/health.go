// Package health says what of a cluster is not as it should be, and whether a
// broker may be restarted now. It is given what is known of the cluster and
// asks nobody: the command line reads it over Kafka's protocol, a broker's
// metrics from its image. What a partition's record means belongs to replica.
package health

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// Cluster is what is known of a cluster at one moment.
type Cluster struct {
	Controller record.BrokerID // -1: none
	Brokers    []Broker        // that are registered
	Members    []Member        // of etcd
	Partitions []Partition
}

// Broker is a registered broker.
type Broker struct {
	ID      record.BrokerID
	Fenced  bool // not taken in yet
	Leaving bool // about to stop
}

// Member is a member of etcd.
type Member struct {
	Broker   record.BrokerID // -1: not known
	Learner  bool            // has no vote
	Leader   bool
	Answers  bool
	CaughtUp bool // has all that the others have
}

// Partition is a partition and how many in-sync replicas its topic wants.
type Partition struct {
	Topic string
	ID    record.PartitionID
	replica.Record
	Want int // min.insync.replicas as configured
}

func (p *Partition) String() string { return fmt.Sprintf("%s-%d", p.Topic, p.ID) }

// Offline says that nobody leads it: it can be neither read nor written.
func (p *Partition) Offline() bool { return p.Leader == replica.None }

// UnderReplicated says that a replica is not in sync; those that a
// reassignment adds may come late.
func (p *Partition) UnderReplicated() bool { return len(p.ISR) < len(p.Original()) }

// UnderMin says that acks=all is refused: too few replicas are in sync.
func (p *Partition) UnderMin() bool { return len(p.ISR) < p.MinInsync(p.Want) }

// AtMin says that with one in-sync replica less acks=all is refused.
func (p *Partition) AtMin() bool { return len(p.ISR) == p.MinInsync(p.Want) }

// Counts are numbers of partitions.
type Counts struct {
	Offline         int `json:"offline"`
	UnderReplicated int `json:"underReplicated"`
	UnderMin        int `json:"underMinIsr"`
	AtMin           int `json:"atMinIsr"`
	Reassigning     int `json:"reassigning"`
}

// Add counts a partition.
func (c *Counts) Add(p *Partition) {
	count := func(n *int, is bool) {
		if is {
			*n++
		}
	}
	count(&c.Offline, p.Offline())
	count(&c.UnderReplicated, p.UnderReplicated())
	count(&c.UnderMin, p.UnderMin())
	count(&c.AtMin, p.AtMin())
	count(&c.Reassigning, p.Reassigning())
}

// Count counts all partitions.
func (c *Cluster) Count() (n Counts) {
	for i := range c.Partitions {
		n.Add(&c.Partitions[i])
	}
	return n
}

// Dead lists the brokers that are named as replicas and are not registered.
func (c *Cluster) Dead() []record.BrokerID {
	alive := map[record.BrokerID]bool{}
	for _, b := range c.Brokers {
		alive[b.ID] = true
	}
	var dead []record.BrokerID
	for i := range c.Partitions {
		for _, id := range c.Partitions[i].Replicas {
			if !alive[id] && !slices.Contains(dead, id) {
				dead = append(dead, id)
			}
		}
	}
	slices.Sort(dead)
	return dead
}

// Problems says in words what is not as it should be, the worst first; none for
// a cluster that is well.
func (c *Cluster) Problems() []string {
	n := c.Count()
	var all []string
	say := func(n int, what, whats string) {
		switch {
		case n == 1:
			all = append(all, "1 "+what)
		case n > 1:
			all = append(all, fmt.Sprintf("%d %s", n, whats))
		}
	}
	say(n.Offline, "partition has no leader", "partitions have no leader")
	say(n.UnderMin, "partition has fewer in-sync replicas than min.insync.replicas", "partitions have fewer in-sync replicas than min.insync.replicas")
	if c.Controller < 0 {
		all = append(all, "there is no controller")
	}
	all = append(all, c.etcd(replica.None)...)
	if dead := c.Dead(); len(dead) > 0 {
		all = append(all, brokers(dead)+" not running and named as a replica")
	}
	say(n.UnderReplicated, "partition is under-replicated", "partitions are under-replicated")
	return all
}

// etcd says what is wrong with etcd, or would be while the broker without is
// away (None: nobody).
func (c *Cluster) etcd(without record.BrokerID) (wrong []string) {
	voters, well, leader := 0, 0, false
	for _, m := range c.Members {
		leader = leader || m.Leader
		who := fmt.Sprintf("the etcd member of broker %d", m.Broker)
		if m.Broker < 0 {
			who = "an etcd member that has never run"
		}
		switch {
		case !m.Answers && m.Broker < 0:
			wrong = append(wrong, who+" is in the cluster")
		case !m.Answers:
			wrong = append(wrong, who+" does not answer")
		case !m.CaughtUp:
			wrong = append(wrong, who+" is behind the others")
		}
		if !m.Learner {
			voters++
			if m.Answers && m.Broker != without {
				well++
			}
		}
	}
	if !leader {
		wrong = append(wrong, "etcd has no leader")
	}
	if need := voters/2 + 1; without != replica.None && well < need {
		wrong = append(wrong, fmt.Sprintf("etcd would lose its quorum: %d of %d voters would answer, %d must", well, voters, need))
	}
	return wrong
}

func brokers(ids []record.BrokerID) string {
	text := make([]string, len(ids))
	for i, id := range ids {
		text[i] = fmt.Sprint(int32(id))
	}
	if len(ids) == 1 {
		return "broker " + text[0] + " is"
	}
	return "brokers " + strings.Join(text, ", ") + " are"
}

// Restart says whether a broker may be restarted without anybody noticing.
type Restart struct {
	Broker   record.BrokerID `json:"broker"`
	May      bool            `json:"may"`
	Reasons  []string        `json:"reasons"`  // why not
	Warnings []string        `json:"warnings"` // what speaks against it and does not forbid it
}

// MayRestart says whether a broker may be restarted now: all brokers are there
// and taken in, every replica is in sync, each partition of the broker has
// another in-sync replica to lead it and enough of them for min.insync.replicas,
// and etcd has its quorum without it. Topics in but are not looked at.
func (c *Cluster) MayRestart(id record.BrokerID, but []string) Restart {
	r := Restart{Broker: id, Reasons: []string{}, Warnings: []string{}}
	no := func(format string, args ...any) { r.Reasons = append(r.Reasons, fmt.Sprintf(format, args...)) }
	here := false
	for _, b := range c.Brokers {
		here = here || b.ID == id
		switch {
		case b.Fenced:
			no("broker %d is starting and not taken in yet", b.ID)
		case b.Leaving:
			no("broker %d is stopping", b.ID)
		}
	}
	if !here {
		no("broker %d is not registered: it does not run, or there is none", id)
	}
	if dead := slices.DeleteFunc(c.Dead(), func(d record.BrokerID) bool { return d == id }); len(dead) > 0 {
		no("%s not running and named as a replica", brokers(dead))
	}
	if c.Controller < 0 {
		no("there is no controller")
	}
	r.Reasons = append(r.Reasons, c.etcd(id)...)
	r.Reasons = append(r.Reasons, c.withoutReplica(id, but)...)
	if n := c.Count().Reassigning; n > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%s being moved: a restart makes that longer", partitions(n)))
	}
	r.May = len(r.Reasons) == 0
	return r
}

// withoutReplica says what of the partitions forbids a restart of a broker,
// with an example of each kind.
func (c *Cluster) withoutReplica(id record.BrokerID, but []string) (reasons []string) {
	var offline, under, only, few example
	for i := range c.Partitions {
		p := &c.Partitions[i]
		if slices.Contains(but, p.Topic) {
			continue
		}
		left := slices.DeleteFunc(slices.Clone(p.ISR), func(o record.BrokerID) bool { return o == id })
		switch {
		case p.Offline():
			offline.add(p)
		case p.HasReplica(id) && len(p.Original()) == 1 && len(left) == 0:
			only.add(p)
		case p.HasReplica(id) && len(p.Original()) <= p.MinInsync(p.Want) && len(left) < p.MinInsync(p.Want):
			few.add(p)
		case p.UnderReplicated(), p.HasReplica(id) && len(left) < p.MinInsync(p.Want):
			under.add(p)
		}
	}
	for _, kind := range []struct {
		e    example
		what string
	}{
		{offline, "%s without a leader, %s"},
		{under, "%s with a replica that is not in sync, %s"},
		{only, "%s on no other broker, %s: give the topic more replicas, or leave it out"},
		{few, "%s whose min.insync.replicas is as many as there are replicas, %s: lower that, give the topic more replicas, or leave it out"},
	} {
		if kind.e.n > 0 {
			reasons = append(reasons, fmt.Sprintf(kind.what, partitions(kind.e.n), kind.e.text()))
		}
	}
	return reasons
}

func partitions(n int) string {
	if n == 1 {
		return "1 partition"
	}
	return fmt.Sprintf("%d partitions", n)
}

// example counts partitions and keeps the first.
type example struct {
	n int
	p *Partition
}

func (e *example) add(p *Partition) {
	e.n++
	if e.p == nil || Order(*p, *e.p) < 0 {
		e.p = p
	}
}

func (e *example) text() string {
	if e.n == 1 {
		return e.p.String()
	}
	return e.p.String() + " for one"
}

// Next chooses the broker that had better be restarted next: one that may be,
// and rather one that is neither controller nor etcd's leader, so that these
// move as seldom as can be. Without any that may, it is the first of them.
func (c *Cluster) Next(but []string) Restart {
	last := func(id record.BrokerID) int {
		if id == c.Controller || slices.ContainsFunc(c.Members, func(m Member) bool { return m.Leader && m.Broker == id }) {
			return 1
		}
		return 0
	}
	ids := make([]record.BrokerID, 0, len(c.Brokers))
	for _, b := range c.Brokers {
		ids = append(ids, b.ID)
	}
	slices.SortFunc(ids, func(x, y record.BrokerID) int { return cmp.Or(cmp.Compare(last(x), last(y)), cmp.Compare(x, y)) })
	first := Restart{Broker: replica.None, Reasons: []string{"no broker is registered"}, Warnings: []string{}}
	for i, id := range ids {
		r := c.MayRestart(id, but)
		if r.May {
			return r
		}
		if i == 0 {
			first = r
		}
	}
	return first
}

// Order compares partitions by topic and number.
func Order(p, q Partition) int {
	return cmp.Or(strings.Compare(p.Topic, q.Topic), cmp.Compare(p.ID, q.ID))
}

// EtcdProblems says what is wrong with etcd, none when nothing is.
func (c *Cluster) EtcdProblems() []string { return c.etcd(replica.None) }
