package chaos

import (
	"reflect"
	"testing"
	"time"
)

// The steps follow from the seed; every action and every shape comes; all have
// ended when the run has.
func TestPlan(t *testing.T) {
	actions, shapes := map[Action]bool{}, map[string]bool{}
	for seed := range uint64(200) {
		c := PlanConfig{Brokers: 3, Length: 5 * time.Minute, Network: true, Disks: true, Syncs: true, Clocks: true, Wipe: true, Members: 3}
		steps := Plan(seed, c)
		if !reflect.DeepEqual(steps, Plan(seed, c)) {
			t.Fatalf("seed %d: two plans", seed)
		}
		if len(steps) < 50 {
			t.Errorf("seed %d: %d steps only", seed, len(steps))
		}
		for i, s := range steps {
			if i > 0 && s.At < steps[i-1].At || s.At+s.For > c.Length || s.For < 0 {
				t.Fatalf("seed %d: step %d, %v, from %v for %v", seed, i, s, s.At, s.For)
			}
			for _, b := range s.Brokers {
				if b < 1 || b > c.Brokers {
					t.Fatalf("seed %d: %v", seed, s)
				}
			}
			for _, l := range s.Links {
				if l.From == l.To || l.From < 0 || l.To < 0 || l.From > 3 || l.To > 3 {
					t.Fatalf("seed %d: %v", seed, s)
				}
			}
			actions[s.Action] = true
			if s.Action == Cut {
				shapes[s.String()] = true
			}
		}
	}
	if len(actions) != 14 || len(shapes) < 50 {
		t.Errorf("%d actions, %d partitions: %v", len(actions), len(shapes), actions)
	}
}

// One broker has nobody to be cut from but its clients.
func TestPlanOfOneBroker(t *testing.T) {
	cuts := 0
	for seed := range uint64(50) {
		for _, s := range Plan(seed, PlanConfig{Brokers: 1, Length: time.Minute, Network: true}) {
			switch s.Action {
			case Cut:
				cuts++
				for _, l := range s.Links {
					if l.From != 0 && l.To != 0 {
						t.Fatalf("%v", s)
					}
				}
			case Wipe, Fill, Leaders, Move, Leave, Clock:
				t.Fatalf("%v of one broker", s)
			}
		}
	}
	if cuts == 0 {
		t.Error("the clients were never cut off")
	}
	for _, s := range Plan(1, PlanConfig{Brokers: 1, Length: time.Minute}) {
		if s.Action == Cut || s.Action == Slow {
			t.Errorf("%v without a network", s)
		}
	}
}
