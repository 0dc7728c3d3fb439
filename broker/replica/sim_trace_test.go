package replica

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/firnlog/firn/record"
)

var simTraces = flag.String("traces", "", "folder to which TestTraces writes runs for spec/check --trace")

// acts are the actions of spec/replication.tla that runs consist of.
var acts = []string{
	"Learned", "LearnedAll", "Appended", "Synced", "Asked", "Fetched", "Answered", "Wanted", "Written", "WrittenLate",
	"Refused", "Unsure", "Elect", "Preferred", "TakenIn", "Unfenced", "Reassign", "Progress", "TakenOver",
	"ChangeMinInsync", "Expire", "Crash", "LoseDisk", "LoseCache", "Register",
}

// notInSpec is what the spec does not have.
var notInSpec = []opKind{opTier, opTrim, opDelete, opShuffle, opLeave}

// did notes a step of spec/replication.tla, with what there is to see of b, if
// the rules are plain.
func (w *world) did(act string, b *broker, more ...any) {
	if !w.plain {
		return
	}
	var s strings.Builder
	fmt.Fprintf(&s, "[act |-> %q", act)
	if b != nil {
		fmt.Fprintf(&s, ", b |-> %d", b.id+1)
	}
	for i := 0; i < len(more); i += 2 {
		fmt.Fprintf(&s, ", %s |-> %s", more[i], tla(more[i+1]))
	}
	if b != nil {
		epochs := make([]string, len(b.log.recs))
		for i, e := range b.log.recs {
			epochs[i] = fmt.Sprint(e.epoch)
		}
		fmt.Fprintf(&s, ", end |-> %d, durable |-> %d, hw |-> %d, epochs |-> <<%s>>", b.log.End(), w.durable(b), b.hw, strings.Join(epochs, ", "))
	}
	s.WriteByte(']')
	w.steps = append(w.steps, s.String())
}

// tla writes a value as TLA+ does; brokers are 1, 2, ... there, and None is 0.
func tla(v any) string {
	switch v := v.(type) {
	case record.BrokerID:
		return fmt.Sprint(v + 1)
	case []record.BrokerID:
		ids := make([]string, len(v))
		for i, id := range v {
			ids[i] = tla(id)
		}
		return "{" + strings.Join(ids, ", ") + "}"
	case Record:
		return fmt.Sprintf("[leader |-> %s, le |-> %d, replicas |-> %s, isr |-> %s, elr |-> %s, adding |-> %s, removing |-> %s]",
			tla(v.Leader), v.Epoch, tla(v.Replicas), tla(v.ISR), tla(v.ELR), tla(v.Adding), tla(v.Removing))
	}
	return fmt.Sprint(v)
}

// TestTraces makes runs in the steps of spec/replication.tla. With -traces they
// are kept, each a module Steps that `spec/check --trace` compares with the
// spec: the same Leader, Follower and Elect that the broker runs on are then
// known to do nothing that the spec does not allow.
func TestTraces(t *testing.T) {
	const runs, length = 60, 400
	seen := map[string]bool{}
	for seed := range uint64(runs) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		r := rules{brokers: 2 + rnd.IntN(2), minInsync: 1 + rnd.IntN(2), fsync: rnd.IntN(3) > 0, plain: true}
		r.factor = r.brokers - rnd.IntN(2)
		var likely []opKind
		if seed%2 == 0 { // what makes a change refused
			likely = []opKind{opExpire, opRegister, opTime}
		}
		ops := slices.DeleteFunc(someOps(rnd, length, likely...), func(o op) bool { return slices.Contains(notInSpec, o.kind) })
		w := newWorld(r, &sightings{})
		for _, o := range ops {
			if w.step(o); w.bad != "" {
				t.Fatalf("seed %d, %s: %s", seed, r, w.bad)
			}
		}
		for _, s := range w.steps {
			seen[strings.Split(s, `"`)[1]] = true
		}
		if *simTraces == "" {
			continue
		}
		name := filepath.Join(*simTraces, fmt.Sprintf("%d.tla", seed))
		if err := os.WriteFile(name, []byte(w.module(seed)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, act := range acts {
		if !seen[act] {
			t.Errorf("no run has the step %s", act)
		}
	}
	if len(seen) != len(acts) {
		t.Errorf("runs have the steps %v, the spec %v", seen, acts)
	}
}

// module is the run as the module that spec/Trace.tla reads.
func (w *world) module(seed uint64) string {
	policy, mid := "replicated", w.revs[0].minInsync
	if w.fsync {
		policy = "fsync"
	}
	return fmt.Sprintf(`------------------------------- MODULE Steps -------------------------------
\* Run %d of TestTraces of broker/replica.
\* settings: Brokers=%d Factor=%d MinInsync=%d Policy=%s Unclean=FALSE
EXTENDS Integers, Sequences

Steps == <<
  %s
>>
=============================================================================
`, seed, w.rules.brokers, w.factor, mid, policy, strings.Join(w.steps, ",\n  "))
}
