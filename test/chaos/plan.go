package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Action is what a step does to the brokers.
type Action string

// The actions. Each lasts for the step's time and is undone after it.
const (
	Kill    Action = "kill"     // SIGKILL; started again
	Stop    Action = "stop"     // SIGTERM; started again
	Pause   Action = "pause"    // SIGSTOP; SIGCONT
	Wipe    Action = "wipe"     // SIGKILL and the data folder emptied; started again
	Forget  Action = "forget"   // SIGKILL, and logs and journal emptied; in no plan of a seed: what finds nothing then, finds nothing
	Fill    Action = "fill"     // the disk is full; there is room again
	Sync    Action = "sync"     // each sync of the disk takes longer; they are fast again
	Cut     Action = "cut"      // links drop everything; they work again
	Slow    Action = "slow"     // links have a delay, and lose packets; they are good again
	Reset   Action = "reset"    // connections that send something are reset
	Topic   Action = "topic"    // a topic is made; it is deleted
	Leaders Action = "leaders"  // preferred leaders are elected
	Move    Action = "reassign" // partitions are moved to other brokers
	Clock   Action = "clock"    // the process's clock jumps; it is right again
	Leave   Action = "leave"    // its member of etcd is taken out, which ends the broker; let in again and started
)

// Step is one thing that is done to the brokers.
type Step struct {
	At, For time.Duration // since the run began; how long
	Action  Action
	Brokers []int // whom; 1 is the first
	Whom    Whom  // if it can be told when the step is taken; Brokers otherwise
	Links   []Link
	Delay   time.Duration // of Slow and Sync; of Clock: how far it is ahead
	Loss    float64       // of Slow: the share of packets that is lost
	Seed    uint64        // for what is chosen when the step is taken, from what is there then
}

// Whom is a broker by what it is.
type Whom string

// Those that can be told.
const (
	Anybody    Whom = ""
	Controller Whom = "controller"
	Leader     Whom = "leader" // of some partition
	EtcdLeader Whom = "etcd"   // etcd's leader
)

// Link is one direction between two brokers; 0 stands for the clients.
type Link struct {
	From, To int
	Port     Port
}

// Port is which connections of a link are meant.
type Port uint8

// The ports.
const (
	AnyPort   Port = iota
	PeerPort       // those to members of etcd
	KafkaPort      // everything else
)

var portNames = [...]string{AnyPort: "", PeerPort: " (etcd)", KafkaPort: " (kafka)"}

// String says what the step does.
func (s Step) String() string {
	var b strings.Builder
	b.WriteString(string(s.Action))
	if s.Whom != Anybody {
		fmt.Fprintf(&b, " %s,", s.Whom)
	}
	for _, n := range s.Brokers {
		fmt.Fprintf(&b, " %d", n)
	}
	for i, l := range s.Links {
		if i == 8 {
			fmt.Fprintf(&b, " and %d more", len(s.Links)-i)
			break
		}
		fmt.Fprintf(&b, " %s→%s%s", nodeName(l.From), nodeName(l.To), portNames[l.Port])
	}
	switch s.Action {
	case Sync, Clock:
		fmt.Fprintf(&b, " by %v", s.Delay)
	case Slow:
		fmt.Fprintf(&b, " by %v, %.0f %% lost", s.Delay, 100*s.Loss)
	}
	return b.String()
}

func nodeName(n int) string {
	if n == 0 {
		return "clients"
	}
	return fmt.Sprint(n)
}

// PlanConfig says what a plan may do.
type PlanConfig struct {
	Brokers int
	Length  time.Duration // every step has ended by then
	Network bool          // links can be cut
	Disks   bool          // disks can be filled
	Syncs   bool          // syncs can be held up
	Clocks  bool          // clocks of processes can be moved
	Wipe    bool          // a broker may lose its disk: others have what it had
	Members int           // of etcd, the first of the brokers: with three or more one can leave
}

// Plan makes the steps of a run, in the order in which they begin. It is a pure
// function of its arguments. Steps of several kinds overlap.
func Plan(seed uint64, c PlanConfig) []Step {
	p := &planner{PlanConfig: c}
	type kind struct {
		make     func(*planner) Step
		gap, dur [2]time.Duration // from, to
		if_      bool
	}
	for i, k := range []kind{
		{(*planner).process, span(1500, 7000), span(200, 6000), true},
		{(*planner).cut, span(3000, 12000), span(500, 8000), c.Network},
		{(*planner).slow, span(5000, 30000), span(2000, 10000), c.Network},
		{(*planner).reset, span(1000, 8000), span(1, 100), c.Network},
		{(*planner).fill, span(10000, 40000), span(1000, 6000), c.Disks},
		{(*planner).sync, span(4000, 20000), span(500, 8000), c.Syncs},
		{(*planner).wipe, span(30000, 60000), span(500, 3000), c.Wipe},
		{(*planner).topic, span(2000, 15000), span(3000, 30000), true},
		{(*planner).leaders, span(5000, 20000), span(0, 0), c.Brokers > 1},
		{(*planner).move, span(5000, 25000), span(1000, 5000), c.Brokers > 1},
		{(*planner).leave, span(25000, 60000), span(200, 3000), c.Members > 2},
		{(*planner).clock, span(5000, 20000), span(500, 10000), c.Clocks},
	} {
		if !k.if_ {
			continue
		}
		// Each kind has numbers of its own: what one does changes no other.
		p.rnd = rand.New(rand.NewPCG(seed, uint64(i)))
		for at := p.between(k.gap) / 2; ; at += p.between(k.gap) {
			s := k.make(p)
			s.At, s.For, s.Seed = at, p.between(k.dur), p.rnd.Uint64()
			if s.At+s.For > c.Length {
				break
			}
			p.steps = append(p.steps, s)
			at += s.For
			if c.Brokers == 1 {
				at += p.between(k.gap) // its clients have nobody else
			}
		}
	}
	slices.SortStableFunc(p.steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return p.steps
}

type planner struct {
	PlanConfig
	rnd   *rand.Rand
	steps []Step
}

func span(from, to int) [2]time.Duration {
	return [2]time.Duration{time.Duration(from) * time.Millisecond, time.Duration(to) * time.Millisecond}
}

func (p *planner) between(r [2]time.Duration) time.Duration {
	return r[0] + time.Duration(p.rnd.Int64N(int64(r[1]-r[0])+1)).Round(time.Millisecond)
}

// some gives so many brokers.
func (p *planner) some(n int) []int {
	all := p.rnd.Perm(p.Brokers)[:n]
	for i := range all {
		all[i]++
	}
	slices.Sort(all)
	return all
}

// few is mostly one broker, sometimes more, rarely all.
func (p *planner) few() []int {
	switch n := p.rnd.IntN(10); {
	case n == 0:
		return p.some(p.Brokers)
	case n < 3:
		return p.some(1 + p.rnd.IntN(p.Brokers))
	}
	return p.some(1)
}

func (p *planner) process() Step {
	s := Step{Action: []Action{Kill, Kill, Stop, Pause}[p.rnd.IntN(4)], Brokers: p.few()}
	if p.Brokers > 1 && len(s.Brokers) == 1 {
		s.Whom = []Whom{Anybody, Controller, Leader, EtcdLeader}[p.rnd.IntN(4)]
	}
	return s
}

func (p *planner) fill() Step { return Step{Action: Fill, Brokers: p.some(1)} }
func (p *planner) sync() Step {
	delay := 20 + p.rnd.IntN(200)
	if p.rnd.IntN(4) == 0 {
		delay = 1000 + p.rnd.IntN(4000)
	}
	return Step{Action: Sync, Brokers: p.some(1), Delay: time.Duration(delay) * time.Millisecond}
}

// clock goes back by less than message.timestamp.after.max.ms, or clients'
// records would be refused as from the future; and ahead by less than
// producer.id.expiration.ms, or sequences would be forgotten.
func (p *planner) clock() Step {
	s := Step{Action: Clock, Brokers: p.few(), Delay: -time.Duration(1+p.rnd.IntN(50)) * time.Minute}
	if p.rnd.IntN(2) == 0 {
		s.Delay = time.Duration(1+p.rnd.IntN(20*60)) * time.Minute
	}
	return s
}

func (p *planner) wipe() Step { return Step{Action: Wipe, Brokers: p.some(1)} }

func (p *planner) leave() Step {
	return Step{Action: Leave, Brokers: []int{1 + p.rnd.IntN(p.Members)}}
}

func (p *planner) topic() Step   { return Step{Action: Topic} }
func (p *planner) leaders() Step { return Step{Action: Leaders} }
func (p *planner) move() Step    { return Step{Action: Move} }

// between two sets of nodes, from the first to the second.
func links(from, to []int, port Port) []Link {
	var all []Link
	for _, f := range from {
		for _, t := range to {
			if f != t {
				all = append(all, Link{f, t, port})
			}
		}
	}
	return all
}

func both(a, b []int, port Port) []Link { return append(links(a, b, port), links(b, a, port)...) }

// sides divides the brokers in two: n of them, and the others.
func (p *planner) sides(n int) (a, b []int) {
	a = p.some(n)
	for i := 1; i <= p.Brokers; i++ {
		if !slices.Contains(a, i) {
			b = append(b, i)
		}
	}
	return a, b
}

// cut makes a partition of one of the shapes.
func (p *planner) cut() Step {
	clients := []int{0}
	one, others := p.sides(1)
	minority, majority := p.sides(max(1, (p.Brokers-1)/2))
	shapes := []func() []Link{
		func() []Link { return both(one, clients, AnyPort) },
		func() []Link { return links(one, clients, AnyPort) },
		func() []Link { return links(clients, one, AnyPort) },
		func() []Link { return both(append(slices.Clone(one), others...), clients, AnyPort) },
	}
	if p.Brokers > 1 {
		shapes = append(shapes,
			func() []Link { return both(minority, majority, AnyPort) },                                    // clients see all
			func() []Link { return both(append(slices.Clone(minority), 0), majority, AnyPort) },           // clients with the minority
			func() []Link { return both(minority, append(slices.Clone(majority), 0), AnyPort) },           // with the majority
			func() []Link { return links(one, others, AnyPort) },                                          // is not heard
			func() []Link { return links(others, one, AnyPort) },                                          // hears nothing
			func() []Link { return links(one, others[:1], AnyPort) },                                      // one direction of one link
			func() []Link { return both(one, others[:1], AnyPort) },                                       // a bridge between the two is left
			func() []Link { return both(one, others, PeerPort) },                                          // etcd only
			func() []Link { return links(one, others, PeerPort) },                                         // one way
			func() []Link { return both(one, others, KafkaPort) },                                         // replication only
			func() []Link { return links(others, one, KafkaPort) },                                        // one way
			func() []Link { return both(p.some(p.Brokers), p.some(p.Brokers), AnyPort) },                  // everybody alone
			func() []Link { return both(p.some(p.Brokers), p.some(p.Brokers), PeerPort) },                 // etcd has no majority
			func() []Link { return both(p.some(p.Brokers), p.some(p.Brokers), KafkaPort) },                // no replication
			func() []Link { return append(both(one, clients, AnyPort), both(one, others, KafkaPort)...) }, // only its lease lives
		)
	}
	return Step{Action: Cut, Links: shapes[p.rnd.IntN(len(shapes))]()}
}

func (p *planner) reset() Step {
	one, others := p.sides(1)
	if p.rnd.IntN(2) == 0 {
		others = nil
	}
	return Step{Action: Reset, Links: both(one, append(others, 0), AnyPort)}
}

func (p *planner) slow() Step {
	one, others := p.sides(1)
	s := Step{Action: Slow, Links: both(one, append(others, 0), AnyPort), Delay: time.Duration(1+p.rnd.IntN(150)) * time.Millisecond}
	if p.rnd.IntN(2) == 0 {
		s.Loss = float64(1+p.rnd.IntN(20)) / 100
	}
	return s
}
