package group

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// crashSim is many consumers of several groups on a coordinator whose log
// dies at any of its writes, with replies that get lost and requests that
// come twice. Invariants:
//
//  1. In one generation of a group a partition has one owner, over restarts
//     too: whatever a member was told was in the log before.
//  2. The generations that members are told of only grow.
//  3. An acknowledged commit is read back until a later one replaces it.
type crashSim struct {
	t      *testing.T
	rng    *rand.Rand
	logs   []*memLog
	c      *Coordinator
	people []*person

	owner   map[string]string         // "group generation partition" to a person's name
	highest map[string]int32          // by group
	may     map[string]map[int64]bool // "group partition" to the offsets that may be read; none: nothing was tried
	next    int64
	crashes int
	seen    map[string]int
}

// person is one consumer process. inbox takes replies; one that is replaced
// has lost them.
type person struct {
	consumer
	name  string
	phase string // "", joining, joined, syncing, stable
	since time.Time
	inbox chan kmsg.Response
	owns  []int32
	leads []string // the members to assign to
}

const crashPartitions = 9

func (s *crashSim) open() {
	s.c = New(Config{OffsetsPartitions: int32(len(s.logs)), InitialRebalanceDelay: time.Second, RetentionCheck: 1000 * time.Hour, SnapshotBytes: 20_000, MaxBatchBytes: 2000}, Deps{})
	for i, l := range s.logs {
		l.torn, l.left = s.rng.IntN(2) == 0, s.rng.IntN(150)
		if err := s.c.Load(s.t.Context(), int32(i), l); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, p := range s.people {
		p.c = s.c
	}
}

// crashed starts anew when a log died, and reads every offset back.
func (s *crashSim) crashed(force bool) {
	synctest.Wait()
	dead := force
	for _, l := range s.logs {
		l.mu.Lock()
		dead = dead || l.dead
		l.mu.Unlock()
	}
	if !dead {
		return
	}
	s.crashes++
	s.c.Close()
	for i := range s.logs {
		s.logs[i] = s.logs[i].revive()
	}
	s.open()
	for g := range 4 {
		for p := range int32(crashPartitions) {
			key := fmt.Sprint("g", g, " ", p)
			got := fetch(s.c, fmt.Sprint("g", g), "t", p)
			if may := s.may[key]; may == nil && got != -1 || may != nil && !may[got] {
				s.t.Fatalf("%s: read %d after a crash, may be %v", key, got, may)
			}
			if got == -1 {
				delete(s.may, key)
			} else {
				s.may[key] = map[int64]bool{got: true}
			}
		}
	}
}

func (s *crashSim) join(p *person) {
	req := p.joinReq()
	s.c.JoinGroup(ClientInfo{p.name, "/h"}, req, p.deliver())
	p.phase, p.since = "joining", time.Now()
	if s.rng.IntN(8) == 0 {
		s.c.JoinGroup(ClientInfo{p.name, "/h"}, req, func(*kmsg.JoinGroupResponse) {}) // comes twice
	}
}

// deliver gives a reply's way to the person as it is now.
func (p *person) deliver() func(*kmsg.JoinGroupResponse) {
	in := make(chan kmsg.Response, 1)
	p.inbox = in
	return func(r *kmsg.JoinGroupResponse) { in <- r }
}

func (s *crashSim) sync(p *person) {
	assign := map[string]string{}
	for part := range crashPartitions {
		if len(p.leads) > 0 {
			id := p.leads[s.rng.IntN(len(p.leads))]
			assign[id] += fmt.Sprint(part, ",")
		}
	}
	in := make(chan kmsg.Response, 1)
	p.inbox = in
	s.c.SyncGroup(ClientInfo{p.name, "/h"}, p.syncReq(assign), func(r *kmsg.SyncGroupResponse) { in <- r })
	p.phase, p.since = "syncing", time.Now()
}

// read takes the reply that came, if any.
func (s *crashSim) read(p *person) {
	select {
	case r := <-p.inbox:
		if s.rng.IntN(15) == 0 { // lost on the way
			p.phase = ""
			return
		}
		switch r := r.(type) {
		case *kmsg.JoinGroupResponse:
			s.joined(p, r)
		case *kmsg.SyncGroupResponse:
			s.synced(p, r)
		}
	default:
		if time.Since(p.since) > 20*time.Second {
			p.phase = "" // gives up waiting
		}
	}
}

func (s *crashSim) joined(p *person, r *kmsg.JoinGroupResponse) {
	s.seen["join "+codeName(r.ErrorCode)]++
	p.phase, p.owns, p.leads = "", nil, nil
	switch r.ErrorCode {
	case 0:
		p.id, p.gen, p.phase = r.MemberID, r.Generation, "joined"
		for _, m := range r.Members {
			p.leads = append(p.leads, m.MemberID)
		}
	case kerr.MemberIDRequired.Code:
		p.id = r.MemberID
	case kerr.UnknownMemberID.Code:
		p.id = ""
	}
}

func (s *crashSim) synced(p *person, r *kmsg.SyncGroupResponse) {
	s.seen["sync "+codeName(r.ErrorCode)]++
	p.phase = ""
	if r.ErrorCode == kerr.UnknownMemberID.Code {
		p.id = ""
	}
	if r.ErrorCode != 0 {
		return
	}
	if p.gen < s.highest[p.group] {
		s.t.Fatalf("%s of %s is assigned in generation %d after %d", p.name, p.group, p.gen, s.highest[p.group])
	}
	s.highest[p.group] = p.gen
	p.phase = "stable"
	for _, part := range strings.Split(strings.TrimSuffix(string(r.MemberAssignment), ","), ",") {
		if part == "" {
			continue
		}
		key := fmt.Sprint(p.group, " ", p.gen, " ", part)
		if o := s.owner[key]; o != "" && o != p.id {
			s.t.Fatalf("%s is given to %s and %s", key, o, p.id)
		}
		s.owner[key] = p.id
		var n int32
		fmt.Sscan(part, &n)
		p.owns = append(p.owns, n)
	}
}

func (s *crashSim) work(p *person) {
	if s.rng.IntN(3) > 0 && len(p.owns) > 0 {
		part := p.owns[s.rng.IntN(len(p.owns))]
		key := fmt.Sprint(p.group, " ", part)
		s.next++
		err := s.c.OffsetCommit(commitReq(9, p.group, p.id, p.gen, "t", part, s.next)).Topics[0].Partitions[0].ErrorCode
		s.seen["commit "+codeName(err)]++
		switch err {
		case 0:
			s.may[key] = map[int64]bool{s.next: true}
		default: // may be there or not
			if s.may[key] == nil {
				s.may[key] = map[int64]bool{-1: true}
			}
			s.may[key][s.next] = true
		}
		return
	}
	switch err := p.beat(); err {
	case 0:
	case kerr.UnknownMemberID.Code:
		p.id, p.phase = "", ""
	default:
		p.phase = ""
	}
}

func (s *crashSim) step() {
	p := s.people[s.rng.IntN(len(s.people))]
	switch s.rng.IntN(150) {
	case 0:
		p.id, p.phase = "", "" // a new process
		return
	case 1:
		if p.id != "" {
			p.leave()
			p.id, p.phase = "", ""
		}
		return
	}
	switch p.phase {
	case "":
		s.join(p)
	case "joining", "syncing":
		s.read(p)
	case "joined":
		s.sync(p)
	case "stable":
		s.work(p)
	}
}

func TestGroupsOverCrashes(t *testing.T) {
	seen := map[string]int{}
	crashes := 0
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			s := &crashSim{t: t, rng: rand.New(rand.NewPCG(seed, 11)), logs: []*memLog{newMemLog(), newMemLog()},
				owner: map[string]string{}, highest: map[string]int32{}, may: map[string]map[int64]bool{}, seen: seen}
			for i := range 40 {
				p := &person{name: fmt.Sprint("p", i)}
				p.group, p.version, p.meta = fmt.Sprint("g", i%4), int16(3+s.rng.IntN(7)), fmt.Sprint(i)
				s.people = append(s.people, p)
			}
			s.open()
			for i := range 4000 {
				s.step()
				s.crashed(false)
				if i%4 == 0 {
					time.Sleep(time.Duration(s.rng.IntN(300)) * time.Millisecond)
				}
			}
			s.crashed(true)
			crashes += s.crashes
			s.c.Close()
		})
	}
	t.Log(crashes, "crashes", seen)
	for _, k := range []string{"join ", "join NOT_COORDINATOR", "sync ", "sync REBALANCE_IN_PROGRESS", "commit ", "commit NOT_COORDINATOR", "commit UNKNOWN_MEMBER_ID"} {
		if seen[k] < 10 {
			t.Errorf("%q was seen %d times", k, seen[k])
		}
	}
	if crashes < 50 {
		t.Errorf("only %d crashes", crashes)
	}
}
