package machine

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

// world is several machines of one cluster, in steps. What a machine reads may
// be old when it acts: each look is three steps, with anything in between.
type world struct {
	t        *testing.T
	rng      *rand.Rand
	now      time.Time
	fleet    Fleet
	broken   map[string]bool // sums of binaries that do not come up
	turn     Turn
	etag     int
	brokers  []*simBroker
	trace    []string
	replaced int
	acted    map[Action]int
}

// simBroker is a broker, its machine and the watcher there.
type simBroker struct {
	id        int32
	machine   string
	installed string
	staged    string
	runs      string // binary that was last started
	up        int    // steps until it is registered; -1: never as it is
	sync      int    // steps after that until it is in sync
	off       int    // steps until a new machine is there; 0: it is there
	planned   bool   // it is away by an action other than a drain
	stopped   bool   // drained
	age       time.Duration
	notices   []Notice

	phase int
	state State
}

func (b *simBroker) registered() bool { return b.off == 0 && !b.stopped && b.up == 0 }
func (b *simBroker) inSync() bool     { return b.registered() && b.sync == 0 }

// unit is the state of its unit: one that does not come up is started again
// and again, or given up.
func (b *simBroker) unit() string {
	switch {
	case b.stopped:
		return "inactive"
	case b.up < 0:
		return []string{"activating", "failed"}[b.id%2]
	}
	return "active"
}

func (w *world) start(b *simBroker) {
	b.runs, b.up, b.sync = b.installed, 1+w.rng.IntN(20), 1+w.rng.IntN(30)
	if w.broken[b.installed] {
		b.up = -1
	}
}

// pass lets time go by.
func (w *world) pass() {
	w.now = w.now.Add(time.Duration(w.rng.IntN(10)) * time.Second)
	for _, b := range w.brokers {
		b.age += 5 * time.Second
		switch {
		case b.off > 1:
			b.off--
		case b.off == 1: // the cloud's newest template, and the script of its user data
			b.off, b.phase, b.notices, b.age = 0, 0, nil, 0
			b.machine, b.installed, b.staged = w.fleet.Machines[strconv.Itoa(int(b.id))], w.fleet.Binary.SHA256, ""
			w.start(b)
		case b.stopped:
		case b.up > 0:
			b.up--
		case b.up == 0 && b.sync > 0:
			b.sync--
		}
		if b.inSync() {
			b.planned = false
		}
	}
}

func (w *world) cluster(self int32) *Cluster {
	c := &Cluster{Deployments: map[int32]string{}, MayRestart: true}
	for _, b := range w.brokers {
		if b.registered() {
			c.Deployments[b.id] = Deployment(b.runs, b.machine)
		}
		if !b.inSync() {
			c.MayRestart = false
			c.Reasons = append(c.Reasons, fmt.Sprintf("broker %d is not in sync", b.id))
		}
	}
	return c
}

// step lets one machine go on with its look.
func (w *world) step(b *simBroker) {
	if b.off > 0 {
		return
	}
	switch b.phase {
	case 0:
		turn, fleet := w.turn, w.fleet
		turn.etag = strconv.Itoa(w.etag)
		b.state = State{Self: b.id, Machine: b.machine, Turn: &turn, Now: w.now}
		b.state.Fleet = &fleet
	case 1:
		if len(w.brokers) == 0 || w.rng.IntN(20) > 0 { // now and then nobody answers
			b.state.Cluster = w.cluster(b.id)
		}
		s := &b.state
		s.Installed, s.Staged, s.Age, s.Unit, s.Waits, s.Notices = b.installed, b.staged, b.age, b.unit(), b.stopped, b.notices
	case 2:
		act, why := Decide(&b.state)
		w.do(b, act, why)
	}
	b.phase = (b.phase + 1) % 3
}

func (w *world) do(b *simBroker, act Action, why string) {
	w.acted[act]++
	if act != Wait {
		w.trace = append(w.trace, fmt.Sprintf("%s broker %d: %s: %s", w.now.Format(time.TimeOnly), b.id, act, why))
	}
	s := &b.state
	switch act {
	case Wait:
	case Drain:
		b.stopped = true
	case Resume:
		b.stopped = false
		w.start(b)
	case Fetch:
		b.staged = s.Fleet.Binary.SHA256
	case TakeTurn, EndTurn:
		if s.Turn.etag != strconv.Itoa(w.etag) {
			return // somebody was faster
		}
		w.etag++
		w.turn = Turn{}
		if act == TakeTurn {
			wanted, _ := s.Fleet.Wanted(b.id)
			w.turn = Turn{Broker: b.id, Deployment: wanted, Since: w.now}
		}
	case Restart:
		if s.Installed != s.Fleet.Binary.SHA256 {
			if b.staged != s.Fleet.Binary.SHA256 {
				w.t.Fatalf("broker %d installs %q with %q staged", b.id, s.Fleet.Binary.SHA256, b.staged)
			}
			b.installed, b.staged = b.staged, ""
		}
		b.planned = true
		w.start(b)
	case Replace:
		b.planned, b.off = true, 5+w.rng.IntN(30)
		w.replaced++
	default:
		w.t.Fatalf("no action: %q", act)
	}
}

// check holds the world to what is promised at any moment.
func (w *world) check() {
	var away, bad []int32
	for _, b := range w.brokers {
		if b.planned && !b.inSync() {
			away = append(away, b.id)
		}
		if b.off == 0 && w.broken[b.runs] {
			bad = append(bad, b.id)
		}
	}
	if len(away) > 1 {
		w.fail("brokers %v are away at the same time", away)
	}
	if len(bad) > 1 {
		w.fail("brokers %v run a broken binary", bad)
	}
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(w.trace, "\n"))
}

func sumOf(n int) string { return fmt.Sprintf("%012x%052x", n+1, 0) }

func newWorld(t *testing.T, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 7))
	w := &world{t: t, rng: rng, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), broken: map[string]bool{}, acted: map[Action]int{}}
	w.fleet = Fleet{Cluster: "sim", Binary: Binary{"https://a/b", sumOf(0)}, Machines: map[string]string{}}
	for id := range int32(3 + rng.IntN(3)) {
		b := &simBroker{id: id + 1, machine: "m0", installed: sumOf(0), runs: sumOf(0), age: time.Duration(rng.IntN(120)) * time.Minute}
		w.brokers = append(w.brokers, b)
		w.fleet.Machines[strconv.Itoa(int(b.id))] = "m0"
	}
	return w
}

// change writes another fleet file.
func (w *world) change(n int, broken bool) {
	next := w.fleet
	next.Machines = map[string]string{}
	for id, m := range w.fleet.Machines {
		if next.Machines[id] = m; !broken && w.rng.IntN(3) == 0 {
			next.Machines[id] = fmt.Sprintf("m%d", n)
		}
	}
	if broken || w.rng.IntN(2) == 0 {
		next.Binary.SHA256 = sumOf(n)
		w.broken[sumOf(n)] = broken
	}
	w.fleet = next
	w.trace = append(w.trace, fmt.Sprintf("%s fleet file: binary %d broken %v, machines %v", w.now.Format(time.TimeOnly), n, broken, next.Machines))
}

func (w *world) run(steps int) {
	for range steps {
		w.pass()
		w.step(w.brokers[w.rng.IntN(len(w.brokers))])
		w.check()
	}
}

// settled says that all is as the fleet file wants it.
func (w *world) settled() bool {
	for _, b := range w.brokers {
		want, _ := w.fleet.Wanted(b.id)
		if !b.inSync() || Deployment(b.runs, b.machine) != want {
			return false
		}
	}
	return w.turn == Turn{}
}

// TestTurnsOfManyMachines lets machines take turns while the fleet file changes,
// and wants, at every moment, never two away at the same time; in the end all
// are as wanted.
func TestTurnsOfManyMachines(t *testing.T) {
	acted, replaced := map[Action]int{}, 0
	for seed := range uint64(300) {
		w := newWorld(t, seed)
		for n := 1; n <= 4; n++ {
			w.change(n, false)
			w.run(w.rng.IntN(1500)) // the next change comes at any time
		}
		for tries := 0; !w.settled(); tries++ {
			if w.run(1000); tries == 100 {
				w.fail("seed %d: not all is as wanted in the end: turn %+v", seed, w.turn)
			}
		}
		for a, n := range w.acted {
			acted[a] += n
		}
		replaced += w.replaced
	}
	for _, a := range []Action{Wait, Fetch, TakeTurn, Restart, Replace, EndTurn} {
		if acted[a] == 0 {
			t.Errorf("in no run anybody did: %s", a)
		}
	}
	t.Logf("actions %v, machines replaced %d", acted, replaced)
}

// TestBrokenBinaryStopsTheRoll rolls out a binary that does not come up: one
// broker is lost to it, no other is touched, and the next binary heals all.
func TestBrokenBinaryStopsTheRoll(t *testing.T) {
	for seed := range uint64(100) {
		w := newWorld(t, seed)
		w.change(1, true)
		for tries := 0; ; tries++ {
			if w.run(500); w.turn.Broker != 0 && w.brokers[0].up < 0 {
				break
			}
			if tries == 50 {
				w.fail("seed %d: nobody tried the binary", seed)
			}
		}
		w.run(5000)
		for _, b := range w.brokers[1:] {
			if !b.inSync() || b.runs != sumOf(0) {
				w.fail("seed %d: broker %d was touched: %+v", seed, b.id, b)
			}
		}
		if w.turn.Broker != 1 {
			w.fail("seed %d: the turn of broker 1 ended: %+v", seed, w.turn)
		}
		w.change(2, false)
		w.fleet.Binary.SHA256 = sumOf(2)
		for tries := 0; !w.settled(); tries++ {
			if w.run(1000); tries == 100 {
				w.fail("seed %d: the next binary does not heal: turn %+v", seed, w.turn)
			}
		}
	}
}

// TestNoticesAmongTurns gives notices at any time: who is drained comes back,
// and turns still end.
func TestNoticesAmongTurns(t *testing.T) {
	drained, left := 0, 0
	for seed := range uint64(150) {
		w := newWorld(t, seed)
		for n := 1; n <= 6; n++ {
			if n%2 == 0 {
				w.change(n, false)
			}
			b := w.brokers[w.rng.IntN(len(w.brokers))]
			b.notices = []Notice{{Kind: []Kind{Away, Leave}[w.rng.IntN(2)], What: "notice"}}
			w.run(w.rng.IntN(1200))
			if w.rng.IntN(2) == 0 {
				b.notices = nil
			}
		}
		for _, b := range w.brokers {
			b.notices = nil
		}
		for tries := 0; !w.settled(); tries++ {
			if w.run(1000); tries == 100 {
				w.fail("seed %d: not all is as wanted in the end: turn %+v", seed, w.turn)
			}
		}
		drained += w.acted[Drain]
		left += w.replaced
		if w.acted[Drain] != w.acted[Resume] && w.replaced == 0 {
			w.fail("seed %d: %d drained, %d resumed", seed, w.acted[Drain], w.acted[Resume])
		}
	}
	if drained == 0 || left == 0 {
		t.Errorf("%d were drained and %d replaced", drained, left)
	}
}

// TestTurnGuards takes away what Decide relies on, and wants the simulation to
// notice: it would pass by doing nothing otherwise.
func TestTurnGuards(t *testing.T) {
	// Without the turn, two that read different fleet files go at once.
	failed := false
	for seed := uint64(0); seed < 300 && !failed; seed++ {
		w := newWorld(t, seed)
		free := Turn{}
		for n := 1; n <= 4 && !failed; n++ {
			w.change(n, false)
			for range 1500 {
				w.pass()
				b := w.brokers[w.rng.IntN(len(w.brokers))]
				if b.off == 0 && b.phase == 2 { // it holds what it thinks it holds
					own := free
					own.Broker, own.etag = b.id, strconv.Itoa(w.etag)
					b.state.Turn = &own
				}
				w.step(b)
				away := 0
				for _, b := range w.brokers {
					if b.planned && !b.inSync() {
						away++
					}
				}
				failed = failed || away > 1
			}
		}
	}
	if !failed {
		t.Error("without turns the simulation never sees two brokers away at the same time")
	}
}
