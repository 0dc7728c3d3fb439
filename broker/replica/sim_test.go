package replica

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/record"
)

var (
	simSteps = flag.Int("steps", 3_000_000, "steps of the simulation, in all its runs")
	simSeed  = flag.Uint64("seed", 0, "seed of the simulation's first run; 0 is one by the clock")
)

const stepsOfRun = 3000

// sightings counts what happened in all runs of a test: a simulation in which
// something never happens says nothing about it.
type sightings struct {
	moved, elected, electedELR, leaderless, unclean, zombies              int
	entered, shrunk, refused, overtaken, unknown, ctlRefused              int
	diverged, truncated, anew, awaited, uncounted, takenInLost, lastStays int
	reassigned, appendRefused, settledRuns, committedRecords, stuck       int
}

func (s *sightings) missing() (names []string) {
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		if v.Field(i).Int() == 0 {
			names = append(names, v.Type().Field(i).Name)
		}
	}
	return names
}

// someRules are those of the run with that seed.
func someRules(rnd *rand.Rand) rules {
	r := rules{brokers: 3 + rnd.IntN(3), minInsync: 1 + rnd.IntN(3), fsync: rnd.IntN(3) > 0, unclean: rnd.IntN(8) == 0}
	r.factor = min(r.brokers, 1+rnd.IntN(5))
	if rnd.IntN(2) == 0 {
		r.factor, r.minInsync = 3, 2
	}
	return r
}

// run does ops in a new world, up to the first violation, and gives it.
func run(r rules, ops []op, seen *sightings, print func(string, ...any)) (bad string, at int) {
	w := newWorld(r, seen)
	w.print = print
	for i, o := range ops {
		if w.step(o); w.bad != "" {
			return w.bad, i
		}
	}
	w.heal()
	seen.committedRecords += int(w.committed.End())
	return w.bad, len(ops)
}

// heal ends all faults and lets everybody go on: then somebody leads, if
// somebody has what was acknowledged, and all replicas are equal and in-sync.
func (w *world) heal() {
	w.say("---- no more faults")
	w.healing = true
	w.put(func(s *snapshot) {
		for i := range s.reg {
			s.reg[i].leaving = false
		}
	})
	for round := range 400 {
		for i := range w.brokers {
			a := uint8(i)
			for _, k := range []opKind{opStart, opLearn, opRegister, opCampaign, opControl, opSync, opFetch, opWant} {
				w.step(op{k, a, 0})
			}
			if round%8 == 7 {
				w.step(op{opGiveUp, a, 0})
			}
		}
		for len(w.net) > 0 {
			w.step(op{opDeliver, 0, 0})
		}
		w.step(op{opTime, 0, 19})
		if w.bad != "" || round > 20 && w.settled() {
			break
		}
	}
	if w.bad != "" {
		return
	}
	s := w.etcd()
	switch {
	case len(s.rec.ISR)+len(s.rec.ELR) == 0 && !w.unclean:
		w.seen.stuck++ // whoever had it lost it, as wrote has checked
	case !w.settled():
		w.fail("not settled long after the last fault: %s", w.state())
	default:
		w.seen.settledRuns++
	}
}

// settled says that the replicas are equal, in-sync, and led.
func (w *world) settled() bool {
	s := w.etcd()
	if s.rec.Leader == None || s.rec.Reassigning() || len(s.rec.ISR) != len(s.rec.Replicas) || len(s.rec.ELR) > 0 {
		return false
	}
	lead := &w.brokers[s.rec.Leader]
	if lead.leader == nil || lead.leader.HighWatermark() != lead.log.End() {
		return false
	}
	for _, id := range s.rec.Replicas {
		if l := &w.brokers[id].log; l.End() != lead.log.End() || l.sums[l.End()] != lead.log.sums[l.End()] {
			return false
		}
	}
	return true
}

func (w *world) state() string {
	s := w.etcd()
	var b strings.Builder
	fmt.Fprintf(&b, "record: leader %d, epoch %d, replicas %v, ISR %v, ELR %v, adding %v, removing %v, min %d", s.rec.Leader, s.rec.Epoch, s.rec.Replicas, s.rec.ISR, s.rec.ELR, s.rec.Adding, s.rec.Removing, s.minInsync)
	for i := range w.brokers {
		x := &w.brokers[i]
		fmt.Fprintf(&b, "; broker %d: up %v, eligible %v, leads %v, follows %d, log %d to %d, epochs %v, high watermark %d", i, x.up, s.eligible(x.id), x.leader != nil, x.leads, x.log.start, x.log.End(), x.log.epochs, x.hw)
	}
	return b.String()
}

// shrink leaves out what a failing run does not need.
func shrink(r rules, ops []op) []op {
	first, _ := run(r, ops, &sightings{}, nil)
	fails := func(ops []op) (int, bool) {
		bad, at := run(r, ops, &sightings{}, nil)
		return at, bad != "" && bad[:min(9, len(bad))] == first[:min(9, len(first))]
	}
	deadline := time.Now().Add(20 * time.Second)
	for again := true; again && time.Now().Before(deadline); {
		again = false
		for size := max(1, len(ops)/2); size > 0; size /= 2 {
			for from := 0; from+size <= len(ops); {
				less := append(append([]op{}, ops[:from]...), ops[from+size:]...)
				if at, still := fails(less); still {
					ops, again = less[:min(at+1, len(less))], true
				} else {
					from += size
				}
			}
		}
	}
	return ops
}

// explain prints a failing run, made small.
func explain(t *testing.T, r rules, seed uint64, ops []op, bad string) {
	t.Helper()
	small := shrink(r, ops)
	var text strings.Builder
	run(r, small, &sightings{}, func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) })
	t.Errorf("seed %d (go test ./broker/replica -run TestSimulation -seed %d -steps %d): %s\n%s; %d steps, made small:\n%s", seed, seed, stepsOfRun, bad, r, len(small), text.String())
}

// TestSimulation runs worlds of random rules through random steps and checks
// the invariants after each.
func TestSimulation(t *testing.T) {
	seed := *simSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000_007
	}
	t.Logf("seed %d", seed)
	var seen sightings
	began := time.Now()
	runs := max(1, *simSteps/stepsOfRun)
	for i := range runs {
		rnd := rand.New(rand.NewPCG(seed+uint64(i), 6))
		r := someRules(rnd)
		ops := someOps(rnd, stepsOfRun)
		bad, _ := run(r, ops, &seen, nil)
		if bad != "" {
			explain(t, r, seed+uint64(i), ops, bad)
			return
		}
	}
	t.Logf("%d steps in %v: %+v", runs*stepsOfRun, time.Since(began).Round(time.Millisecond), seen)
	if missing := seen.missing(); runs > 200 && len(missing) > 0 {
		t.Errorf("never seen: %v", missing)
	}
}

var _ = record.Offset(0)
