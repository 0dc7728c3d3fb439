package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/objectstore"
)

// TurnKey is the key, below the store's prefix, of the object that says whose
// turn it is. It is written by compare-and-swap only: two machines that read
// the fleet file at different times still take turns.
const TurnKey = "fleet/turn.json"

// Turn says who may take its broker away. The zero value is nobody.
type Turn struct {
	// Broker has the turn; 0 for nobody. It keeps it over its machine's end,
	// until it is in sync as what the fleet file wants.
	Broker int32 `json:"broker"`
	// Deployment is what it is to become.
	Deployment string `json:"deployment"`
	// Since is when it took the turn, in RFC 3339.
	Since time.Time `json:"since"`

	etag string // of what was read, "" when there was nothing
}

// ReadTurn reads whose turn it is.
func ReadTurn(ctx context.Context, store objectstore.Store) (Turn, error) {
	// The ETag first: when the object changes in between, the compare fails.
	o, err := store.Head(ctx, TurnKey)
	if errors.Is(err, objectstore.ErrNotFound) {
		return Turn{}, nil
	}
	if err != nil {
		return Turn{}, fmt.Errorf("whose turn it is: %w", err)
	}
	data, err := read(ctx, store, TurnKey)
	if err != nil {
		return Turn{}, fmt.Errorf("whose turn it is: %w", err)
	}
	var t Turn
	if err := decode("turn", data, &t); err != nil {
		return Turn{}, fmt.Errorf("%s: %w; delete the object when no broker is away", TurnKey, err)
	}
	t.etag = o.ETag
	return t, nil
}

// Take takes the turn for a broker if it is still as t says. It is
// objectstore.ErrExists when somebody else was faster.
func (t Turn) Take(ctx context.Context, store objectstore.Store, broker int32, deployment string, now time.Time) error {
	return t.swap(ctx, store, Turn{Broker: broker, Deployment: deployment, Since: now.UTC().Truncate(time.Second)})
}

// End gives the turn back.
func (t Turn) End(ctx context.Context, store objectstore.Store) error {
	return t.swap(ctx, store, Turn{})
}

func (t Turn) swap(ctx context.Context, store objectstore.Store, next Turn) error {
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if _, err := store.Swap(ctx, TurnKey, append(data, '\n'), t.etag); err != nil {
		return fmt.Errorf("%s: %w", TurnKey, err)
	}
	return nil
}

// ReadFleet reads the fleet file of a store and holds it to the cluster's name.
func ReadFleet(ctx context.Context, store objectstore.Store, cluster string) (Fleet, error) {
	data, err := read(ctx, store, FleetKey)
	if err != nil {
		return Fleet{}, fmt.Errorf("fleet file: %w; Terraform writes it to %s of %s", err, FleetKey, store)
	}
	f, err := ParseFleet(data)
	if err == nil && f.Cluster != cluster {
		err = &FieldError{"fleet file", "cluster", fmt.Sprintf("it is of %q and this machine of %q", f.Cluster, cluster), "give each cluster a prefix or a bucket of its own"}
	}
	return f, err
}

func read(ctx context.Context, store objectstore.Store, key string) (data []byte, err error) {
	body, err := store.GetRange(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	return io.ReadAll(io.LimitReader(body, maxFile+1))
}

// lateAfter is how long a turn may last before it is said aloud: a broker that
// only restarts needs seconds, one with an empty disk what its replicas take.
const lateAfter = 10 * time.Minute

// leastAge is how old a machine must be for a recommendation to replace it:
// where a cloud gives the same advice about each new machine, this keeps the
// replacing from going round and round.
const leastAge = time.Hour

// State is what a machine knows when it decides. Everything in it was read
// after whose turn it is was read, and Turn first.
type State struct {
	Self      int32  // this broker
	Machine   string // the machine file's
	Installed string // SHA-256 of the binary in place
	Staged    string // SHA-256 of a checked binary beside it, "" for none
	Age       time.Duration

	Unit  string // the state of the broker's unit: active, activating, deactivating, inactive, failed
	Waits bool   // it was stopped because of a notice and waits for that to pass

	Notices []Notice
	Now     time.Time

	Fleet *Fleet // nil: cannot be read
	Turn  *Turn  // nil: cannot be read

	// Cluster is nil when nobody tells how it is.
	Cluster *Cluster
}

// Cluster is what a machine knows of its cluster.
type Cluster struct {
	// Deployments has every registered broker and what it runs as, "" when it
	// was not told.
	Deployments map[int32]string
	// MayRestart is what restart-check says of this broker, and Reasons why not.
	MayRestart bool
	Reasons    []string
}

// Action is what to do now.
type Action string

// The actions. Each leaves a State from which the next decision follows; none
// relies on having been the last one.
const (
	Wait     Action = "wait"
	Drain    Action = "drain"     // stop the broker: a notice says that the machine will go
	Resume   Action = "resume"    // start it again: the notice has passed
	Fetch    Action = "fetch"     // get the wanted binary and check it, beside the one in place
	TakeTurn Action = "take turn" // by compare-and-swap; then look again
	Restart  Action = "restart"   // put the staged binary in place if need be, and restart the broker
	Replace  Action = "replace"   // power off, which stops the broker cleanly first
	EndTurn  Action = "end turn"  // the broker is in sync as what is wanted
)

// Decide says what a machine does now, and why in words. It asks nobody.
//
// A broker is taken away only by who holds the turn, and only when
// restart-check says yes after it was taken; so of all that machines do by
// themselves, notices aside, no two brokers are away at the same time, and one
// that does not come back keeps the turn and stops the others.
func Decide(s *State) (Action, string) {
	if act, why, decided := s.obeyNotices(); decided {
		return act, why
	}
	switch {
	case s.Fleet == nil:
		return Wait, "the fleet file cannot be read"
	case s.Turn == nil:
		return Wait, "whose turn it is cannot be read"
	}
	if s.Unit == "inactive" {
		return Wait, "the broker was stopped by hand; start it with: systemctl start firn"
	}
	machine, named := s.Fleet.Machines[strconv.Itoa(int(s.Self))]
	if !named {
		return Wait, fmt.Sprintf("the fleet file does not name broker %d: empty it with firn cluster decommission, then remove it", s.Self)
	}
	want := s.want(machine)
	if s.Turn.Broker == s.Self {
		return s.holdTurn(want)
	}
	if want == nothing {
		return Wait, "all is as it should be"
	}
	if want == anotherBinary && s.Installed != s.Fleet.Binary.SHA256 && s.Staged != s.Fleet.Binary.SHA256 {
		return Fetch, "the fleet file names another binary"
	}
	if _, there := s.Fleet.Machines[strconv.Itoa(int(s.Turn.Broker))]; s.Turn.Broker != 0 && there {
		return Wait, fmt.Sprintf("it is broker %d's turn%s", s.Turn.Broker, s.late())
	}
	if s.Cluster == nil {
		return Wait, "nobody tells how the cluster is"
	}
	if s.down() {
		if want == anotherBinary {
			return TakeTurn, "the broker is down, another binary may help"
		}
		return Wait, "the broker is down: its machine is not thrown away by itself, since its disk may be needed; start it, or end the machine by hand"
	}
	if other, why := s.before(want); other != 0 {
		return Wait, fmt.Sprintf("broker %d comes first: %s", other, why)
	}
	if !s.may(want) {
		return Wait, "not yet: " + strings.Join(s.Cluster.Reasons, "; ")
	}
	return TakeTurn, string(want)
}

// wish is what a machine wants to become, in words.
type wish string

const (
	nothing        wish = ""
	anotherBinary  wish = "the fleet file wants another binary"
	anotherMachine wish = "the fleet file wants another machine"
	leave          wish = "the cloud would rather have the machine gone"
)

func (s *State) want(machine string) wish {
	switch {
	case machine != s.Machine:
		return anotherMachine
	case s.Installed != s.Fleet.Binary.SHA256:
		return anotherBinary
	}
	if s.Cluster != nil {
		if d, registered := s.Cluster.Deployments[s.Self]; registered && d != Deployment(s.Installed, s.Machine) {
			return anotherBinary // it is in place, and the broker not restarted yet
		}
	}
	if s.Age >= leastAge && slices.ContainsFunc(s.Notices, func(n Notice) bool { return n.Kind == Leave }) {
		return leave
	}
	return nothing
}

// obeyNotices drains the broker of a machine that goes or stands still soon,
// and starts it again after that. It needs no turn: the cloud does not wait.
func (s *State) obeyNotices() (Action, string, bool) {
	for _, n := range s.Notices {
		if n.Kind != Away || n.At.Sub(s.Now) > noticeAhead {
			continue
		}
		if active(s.Unit) {
			return Drain, n.What, true
		}
		return Wait, "stopped: " + n.What, true
	}
	if s.Waits {
		return Resume, "the notice has passed", true
	}
	return Wait, "", false
}

// may says whether the broker may go away now. A broker that is the only one of
// its fleet is missed whenever it restarts, and restart-check never lets it;
// with its disk it may, and without never.
func (s *State) may(want wish) bool {
	return s.Cluster.MayRestart || want == anotherBinary && len(s.Fleet.Machines) == 1
}

// down says that the broker is not there for others: nothing is lost by
// restarting it.
func (s *State) down() bool {
	_, registered := s.Cluster.Deployments[s.Self]
	return !registered
}

// holdTurn goes on with a turn that this broker has.
func (s *State) holdTurn(want wish) (Action, string) {
	if s.Cluster == nil {
		// A broker that runs may be one that others need: without anybody to
		// ask it stays. One that does not run can only win.
		if want == anotherBinary && !active(s.Unit) {
			return s.change()
		}
		return Wait, "nobody tells how the cluster is" + s.late()
	}
	down, different := s.down(), s.Installed != s.Fleet.Binary.SHA256
	switch {
	case want == nothing && !down && s.may(anotherBinary):
		return EndTurn, "the broker is in sync"
	case want == nothing && down:
		return Wait, "the broker does not come up; see: journalctl -u firn; another binary in the fleet file is tried at once" + s.late()
	case want == nothing:
		return Wait, "the turn ends when all is in sync: " + strings.Join(s.Cluster.Reasons, "; ") + s.late()
	case down && different:
		return s.change() // also of a machine that is to go: first it has to come up
	case down:
		return Wait, "the broker is down, and its machine is not thrown away by itself: its disk may be needed; see: journalctl -u firn" + s.late()
	case !s.may(want):
		return Wait, "it is this broker's turn, but: " + strings.Join(s.Cluster.Reasons, "; ") + s.late()
	case want == anotherBinary:
		return s.change()
	}
	return Replace, string(want)
}

func (s *State) change() (Action, string) {
	if s.Installed != s.Fleet.Binary.SHA256 && s.Staged != s.Fleet.Binary.SHA256 {
		return Fetch, "the fleet file names another binary"
	}
	return Restart, string(anotherBinary)
}

// before gives a broker that goes first: of all that are not as wanted, the one
// with the lowest number; and before anybody goes, all that the fleet file
// names are there.
func (s *State) before(want wish) (int32, string) {
	ids := make([]int32, 0, len(s.Fleet.Machines))
	for text := range s.Fleet.Machines {
		id, err := strconv.ParseInt(text, 10, 32)
		if err == nil && int32(id) != s.Self { // ParseFleet lets only numbers pass
			ids = append(ids, int32(id))
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		runs, registered := s.Cluster.Deployments[id]
		wanted, _ := s.Fleet.Wanted(id)
		switch {
		case !registered:
			return id, "it is not there"
		case id < s.Self && runs != wanted && want != leave:
			return id, fmt.Sprintf("it runs as %q and should as %q", runs, wanted)
		}
	}
	return 0, ""
}

// late says aloud that a turn lasts long.
func (s *State) late() string {
	if d := s.Now.Sub(s.Turn.Since); d >= lateAfter {
		return fmt.Sprintf(" (for %s now: no other broker is touched before broker %d is in sync)", d.Round(time.Minute), s.Turn.Broker)
	}
	return ""
}
