package replica

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// guards are what can be taken out.
var guards = []struct {
	guard  guard
	likely []opKind     // steps that it is about, if the usual ones do not find it soon
	rules  func(*rules) // what it takes, if not any rules
	from   uint64       // the seed to begin with: a run soon after finds it
	stalls bool         // nothing is lost, but not everybody can go on
}{
	{guard: fetchLeaderEpoch, from: 600, likely: []opKind{opPreferred, opShuffle, opHold, opRelease}},
	{guard: fetchFromAfter},
	{guard: fetchBrokerEpoch, likely: []opKind{opDiskLoss, opStart, opHold, opRelease}},
	{guard: historyFirst},
	{guard: truncateByEpoch},
	{guard: ownAnswer},
	{guard: durableEnds},
	{guard: enteringCounts},
	{guard: unsureCounts},
	{guard: minIsr},
	{guard: elrEmpty},
	{guard: entryFromBegin},
	{guard: recordRevision},
	{guard: entryEpoch},
	{guard: controllerWrites},
	{guard: newEpoch},
	{guard: ownImage},
	{guard: recordsFirst},
	{guard: isrDisk},
	{guard: elrDisk},
	{guard: bootSticks, rules: func(r *rules) { r.fsync = false }},
	{guard: removalEpoch, from: 2550, likely: []opKind{opReassign, opHold, opRelease}},
	{guard: removalMin},
	{guard: emptyEpoch, stalls: true},
	{guard: beginsBehind, from: 89300, likely: []opKind{opDiskLoss, opStart, opTier, opTrim, opCrash},
		rules: func(r *rules) { r.brokers, r.factor, r.minInsync, r.fsync = 3, 3, 1, false }},
}

// TestGuards takes out one guard after another: the simulation has to find what
// is lost without it. One that could not fail would prove nothing. With -v each
// loss is told, step by step.
func TestGuards(t *testing.T) {
	for _, g := range guards {
		t.Run(string(g.guard), func(t *testing.T) {
			const most = 30000 // runs
			for seed := g.from; seed < g.from+most; seed++ {
				rnd := rand.New(rand.NewPCG(seed, 6))
				r := someRules(rnd)
				r.without, r.unclean = g.guard, false
				if g.rules != nil {
					g.rules(&r)
				}
				ops := someOps(rnd, stepsOfRun, g.likely...)
				bad, _ := run(r, ops, &sightings{}, nil)
				if bad == "" || !g.stalls && !strings.HasPrefix(bad, "invariant") {
					continue
				}
				if testing.Verbose() {
					var text strings.Builder
					small := shrink(r, ops)
					bad, _ = run(r, small, &sightings{}, func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) })
					t.Logf("seed %d: %s\n%s; %d steps, made small:\n%s", seed, bad, r, len(small), text.String())
				}
				return
			}
			t.Errorf("nothing was lost in %d runs without it", most)
		})
	}
}
