package machine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/file"
)

func testStore(t *testing.T) objectstore.Store {
	t.Helper()
	s, err := file.Open(t.Context(), file.FromURL(objectstore.URL{Scheme: "file", Dir: t.TempDir()}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Only one of those that saw the turn free takes it.
func TestTurnIsTakenOnce(t *testing.T) {
	ctx, store, now := context.Background(), testStore(t), time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	read := func() Turn {
		t.Helper()
		turn, err := ReadTurn(ctx, store)
		if err != nil {
			t.Fatal(err)
		}
		return turn
	}
	for round := range 2 { // without an object, and with one of before
		one, two := read(), read()
		if one.Broker != 0 {
			t.Fatalf("round %d begins with %+v", round, one)
		}
		if err := one.Take(ctx, store, 1, "d.m", now); err != nil {
			t.Fatal(err)
		}
		if err := two.Take(ctx, store, 2, "d.m", now); !errors.Is(err, objectstore.ErrExists) {
			t.Errorf("broker 2 takes the turn of broker 1: %v", err)
		}
		turn := read()
		if turn.Broker != 1 || turn.Deployment != "d.m" || !turn.Since.Equal(now.Truncate(time.Second)) {
			t.Errorf("the turn is %+v", turn)
		}
		if err := turn.End(ctx, store); err != nil {
			t.Fatal(err)
		}
		if err := turn.End(ctx, store); !errors.Is(err, objectstore.ErrExists) {
			t.Errorf("a turn ends twice: %v", err)
		}
	}
}

func TestReadFleet(t *testing.T) {
	ctx, store := context.Background(), testStore(t)
	if _, err := ReadFleet(ctx, store, "prod"); !errors.Is(err, objectstore.ErrNotFound) || !strings.Contains(err.Error(), FleetKey) {
		t.Errorf("without a fleet file: %v", err)
	}
	if _, err := store.Swap(ctx, FleetKey, []byte(goodFleet), ""); err != nil {
		t.Fatal(err)
	}
	if f, err := ReadFleet(ctx, store, "prod"); err != nil || len(f.Machines) != 2 {
		t.Errorf("read %+v, %v", f, err)
	}
	if f, ok := errors.AsType[*FieldError](func() error { _, err := ReadFleet(ctx, store, "test"); return err }()); !ok || f.Field != "cluster" {
		t.Errorf("the fleet file of another cluster: %v", f)
	}
	if _, err := store.Swap(ctx, TurnKey, []byte("{"), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTurn(ctx, store); err == nil || !strings.Contains(err.Error(), "delete the object") {
		t.Errorf("a torn turn: %v", err)
	}
}

// TestDecide goes through what the simulation does not tell apart by itself.
func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	is, other := sumOf(0), sumOf(1)
	base := func() *State {
		runs := Deployment(is, "m1")
		return &State{
			Self: 2, Machine: "m1", Installed: is, Age: 2 * time.Hour, Unit: "active", Now: now,
			Fleet:   &Fleet{Cluster: "prod", Binary: Binary{"https://a/b", is}, Machines: map[string]string{"1": "m1", "2": "m1", "3": "m1"}},
			Turn:    &Turn{},
			Cluster: &Cluster{Deployments: map[int32]string{1: runs, 2: runs, 3: runs}, MayRestart: true},
		}
	}
	down := func(s *State) {
		delete(s.Cluster.Deployments, 2)
		s.Cluster.MayRestart, s.Cluster.Reasons = false, []string{"broker 2 is not registered"}
	}
	mine := func(s *State) { s.Turn = &Turn{Broker: 2, Since: now.Add(-time.Minute)} }
	binary := func(s *State) {
		s.Fleet.Binary.SHA256 = other
		for id := range s.Cluster.Deployments {
			if id != 2 {
				s.Cluster.Deployments[id] = Deployment(other, "m1")
			}
		}
	}
	staged := func(s *State) { s.Staged = other }
	only := func(s *State) {
		s.Fleet.Machines = map[string]string{"2": "m1"}
		s.Cluster.Deployments = map[int32]string{2: s.Cluster.Deployments[2]}
		s.Cluster.MayRestart, s.Cluster.Reasons = false, []string{"1 partition on no other broker"}
	}
	machine := func(s *State) { s.Fleet.Machines["2"] = "m2" }
	for name, c := range map[string]struct {
		change []func(*State)
		want   Action
		why    string
	}{
		"all is well":                        {nil, Wait, "as it should be"},
		"no fleet file":                      {[]func(*State){func(s *State) { s.Fleet = nil }}, Wait, "fleet file"},
		"no turn":                            {[]func(*State){func(s *State) { s.Turn = nil }}, Wait, "whose turn"},
		"not named":                          {[]func(*State){func(s *State) { delete(s.Fleet.Machines, "2") }}, Wait, "decommission"},
		"another binary is fetched first":    {[]func(*State){binary}, Fetch, ""},
		"also in another's turn":             {[]func(*State){binary, func(s *State) { s.Turn.Broker = 1 }}, Fetch, ""},
		"another's turn":                     {[]func(*State){binary, staged, func(s *State) { s.Turn.Broker = 1 }}, Wait, "broker 1's turn"},
		"the turn of one that is gone":       {[]func(*State){binary, staged, func(s *State) { s.Turn.Broker = 9 }}, TakeTurn, ""},
		"nobody tells":                       {[]func(*State){binary, staged, func(s *State) { s.Cluster = nil }}, Wait, "nobody tells"},
		"its turn comes":                     {[]func(*State){binary, staged}, TakeTurn, "another binary"},
		"broker 1 first":                     {[]func(*State){binary, staged, func(s *State) { s.Cluster.Deployments[1] = "old" }}, Wait, "broker 1 comes first"},
		"not before broker 3 is there":       {[]func(*State){binary, staged, func(s *State) { delete(s.Cluster.Deployments, 3) }}, Wait, "broker 3 comes first: it is not there"},
		"restart-check says no":              {[]func(*State){binary, staged, func(s *State) { s.Cluster.MayRestart, s.Cluster.Reasons = false, []string{"x"} }}, Wait, "not yet: x"},
		"restart":                            {[]func(*State){binary, staged, mine}, Restart, ""},
		"restart what is in place":           {[]func(*State){binary, mine, func(s *State) { s.Installed = other }}, Restart, ""},
		"in its turn, not fetched":           {[]func(*State){binary, mine}, Fetch, ""},
		"in its turn, no":                    {[]func(*State){binary, staged, mine, func(s *State) { s.Cluster.MayRestart, s.Cluster.Reasons = false, []string{"x"} }}, Wait, "but: x"},
		"another machine":                    {[]func(*State){machine}, TakeTurn, "another machine"},
		"replace":                            {[]func(*State){machine, mine}, Replace, ""},
		"machine and binary are one step":    {[]func(*State){machine, binary, mine}, Replace, ""},
		"a broker that is down keeps its":    {[]func(*State){machine, down}, Wait, "disk may be needed"},
		"in its turn, too":                   {[]func(*State){machine, mine, down}, Wait, "disk may be needed"},
		"but another binary is tried":        {[]func(*State){machine, binary, staged, mine, down}, Restart, ""},
		"down, another binary":               {[]func(*State){binary, staged, down}, TakeTurn, "may help"},
		"the turn ends":                      {[]func(*State){mine}, EndTurn, ""},
		"not before it is in sync":           {[]func(*State){mine, func(s *State) { s.Cluster.MayRestart, s.Cluster.Reasons = false, []string{"x"} }}, Wait, "when all is in sync: x"},
		"it does not come up":                {[]func(*State){mine, down}, Wait, "journalctl -u firn"},
		"for long":                           {[]func(*State){mine, down, func(s *State) { s.Turn.Since = now.Add(-11 * time.Minute) }}, Wait, "for 11m0s now"},
		"nobody tells, in its turn, it runs": {[]func(*State){binary, staged, mine, func(s *State) { s.Cluster = nil }}, Wait, "nobody tells"},
		"nobody tells, in its turn, stopped": {[]func(*State){binary, staged, mine, func(s *State) { s.Cluster, s.Unit = nil, "failed" }}, Restart, ""},
		"stopped by hand":                    {[]func(*State){binary, staged, down, func(s *State) { s.Unit = "inactive" }}, Wait, "by hand"},
		"it starts over and over":            {[]func(*State){binary, staged, down, func(s *State) { s.Unit = "activating" }}, TakeTurn, ""},
		"an only broker, another binary":     {[]func(*State){only, binary, staged}, TakeTurn, ""},
		"an only broker, in its turn":        {[]func(*State){only, binary, staged, mine}, Restart, ""},
		"an only broker, done":               {[]func(*State){only, mine}, EndTurn, ""},
		"an only broker, down":               {[]func(*State){only, mine, down}, Wait, "journalctl"},
		"an only broker keeps its machine":   {[]func(*State){only, machine}, Wait, "on no other broker"},
		"a notice":                           {[]func(*State){func(s *State) { s.Notices = []Notice{{Kind: Away, What: "spot"}} }}, Drain, "spot"},
		"a notice without a fleet file":      {[]func(*State){func(s *State) { s.Notices, s.Fleet = []Notice{{Kind: Away, What: "spot"}}, nil }}, Drain, "spot"},
		"a notice, drained":                  {[]func(*State){func(s *State) { s.Notices, s.Unit, s.Waits = []Notice{{Kind: Away, What: "spot"}}, "inactive", true }}, Wait, "spot"},
		"the notice has passed":              {[]func(*State){func(s *State) { s.Unit, s.Waits = "inactive", true }}, Resume, ""},
		"a notice of tomorrow":               {[]func(*State){func(s *State) { s.Notices = []Notice{{Away, "maintenance", now.Add(24 * time.Hour)}} }}, Wait, "as it should be"},
		"a notice of now":                    {[]func(*State){func(s *State) { s.Notices = []Notice{{Away, "maintenance", now.Add(time.Minute)}} }}, Drain, "maintenance"},
		"leave":                              {[]func(*State){func(s *State) { s.Notices = []Notice{{Kind: Leave, What: "rebalance"}} }}, TakeTurn, "rather have"},
		"leave, in its turn":                 {[]func(*State){mine, func(s *State) { s.Notices = []Notice{{Kind: Leave, What: "rebalance"}} }}, Replace, ""},
		"leave, a young machine":             {[]func(*State){func(s *State) { s.Notices, s.Age = []Notice{{Kind: Leave, What: "rebalance"}}, time.Minute }}, Wait, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := base()
			for _, change := range slices.Concat(c.change) {
				change(s)
			}
			if act, why := Decide(s); act != c.want || !strings.Contains(why, c.why) {
				t.Errorf("%s: %s; want %s: …%s…", act, why, c.want, c.why)
			}
		})
	}
}
