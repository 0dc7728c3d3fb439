package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/objectstore"
)

const (
	lookEvery = 30 * time.Second // at the fleet file
	lookSoon  = 3 * time.Second  // while the turn is this broker's, and after something was done
	lookTime  = time.Minute      // one look at fleet file, turn and cluster
)

// WatchConfig says what a Watcher looks after.
type WatchConfig struct {
	Root string // "/", or a folder in its place for tests
	File File
}

// WatchDeps is what a Watcher is given.
type WatchDeps struct {
	Log     *slog.Logger
	Run     Run
	Notices Notices
	Store   objectstore.Store // the cluster's
	// Open opens another store by its URL, for binaries.
	Open func(ctx context.Context, url string) (objectstore.Store, error)
	// Look asks how the cluster is, and whether this broker may be restarted.
	Look func(ctx context.Context) (*Cluster, error)
}

// Watcher obeys the cloud's notices and takes its broker's turns.
type Watcher struct {
	cfg   WatchConfig
	deps  WatchDeps
	fetch fetcher
	every time.Duration // lookEvery; shorter in tests
	soon  time.Duration // lookSoon

	mu      sync.Mutex // guards what follows
	notices []Notice
	deaf    bool               // they cannot be asked for
	hurry   context.CancelFunc // ends what may take long, since notices changed; nil while nothing does
	noticed chan struct{}      // capacity 1: they changed

	holds bool // the turn, when it was last looked at

	said  string            // the last thing that was logged, so that it is said once
	wrong map[string]string // what could not be looked at, and why
	last  fileID            // of the binary in place, when its sum was taken
}

// fileID is what tells that a file is still the one whose sum is known.
type fileID struct {
	modified time.Time
	size     int64
	sum      string
}

// NewWatcher makes a Watcher; Watch runs it.
func NewWatcher(cfg WatchConfig, deps WatchDeps) *Watcher {
	w := &Watcher{cfg: cfg, deps: deps, noticed: make(chan struct{}, 1), wrong: map[string]string{}, every: lookEvery, soon: lookSoon}
	w.fetch = fetcher{
		store: cfg.File.Store, open: deps.Open, run: deps.Run, dir: filepath.Dir(filepath.Join(cfg.Root, BinaryPath)),
		http: &http.Client{Timeout: fetchTime},
	}
	return w
}

// Watch looks and acts until ctx ends, or until the broker is in sync with
// another binary, which the watcher is to go on as, too: both give nil. What
// fails is logged and tried again at the next look.
func (w *Watcher) Watch(ctx context.Context) error {
	mine, err := w.installed()
	if err != nil {
		return fmt.Errorf("the binary of this machine: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { w.deps.Notices(ctx, w.told) })
	for ctx.Err() == nil {
		act, done := w.step(ctx)
		if done && act == EndTurn && w.last.sum != mine {
			w.deps.Log.Info("the broker is in sync with another binary; firn-watch goes on as that")
			return nil
		}
		pause := w.every
		if act == Drain || done && (act != Wait || w.holds) {
			pause = w.soon
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-w.noticed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// told takes in the cloud's notices.
func (w *Watcher) told(all []Notice, err error) {
	w.mu.Lock()
	same := slices.Equal(all, w.notices)
	w.notices = slices.Clone(all)
	if !same && w.hurry != nil {
		w.hurry()
	}
	first := err != nil && !w.deaf
	w.deaf = err != nil
	w.mu.Unlock()
	if first {
		w.deps.Log.Warn("the cloud's notices cannot be asked for; asking on", "err", err)
	}
	if same {
		return
	}
	for _, n := range all {
		w.deps.Log.Warn("the cloud gives notice", "kind", string(n.Kind), "what", n.What)
	}
	select {
	case w.noticed <- struct{}{}:
	default:
	}
}

// step looks, decides and acts once. done is false when that failed.
//
// Notices come first, and end whatever waits for the store or the cluster: a
// machine that is preempted has half a minute.
func (w *Watcher) step(ctx context.Context) (act Action, done bool) {
	s, err := w.lookHere(ctx)
	if err != nil {
		w.deps.Log.Error("this machine cannot be looked at", "err", err)
		return Wait, false
	}
	patient, cancel := w.untilNoticed(ctx, s.Notices)
	defer cancel()
	act, why, decided := s.obeyNotices()
	if !decided {
		w.lookAround(patient, s)
		if patient.Err() != nil {
			return Wait, false // there are other notices, or this is the end
		}
		act, why = Decide(s)
		w.holds = s.Turn != nil && s.Turn.Broker == s.Self
	}
	if line := string(act) + ": " + why; line != w.said {
		w.said = line
		w.deps.Log.Info("machine", "does", string(act), "why", why)
	}
	if err := w.do(ctx, patient, act, s); err != nil {
		w.said = ""
		if !errors.Is(err, objectstore.ErrExists) && patient.Err() == nil { // else another machine was faster
			w.deps.Log.Error("machine", "does", string(act), "err", err, "then", "it is tried again")
		}
		return act, false
	}
	return act, true
}

// untilNoticed gives a context that ends when the notices are others than these.
func (w *Watcher) untilNoticed(ctx context.Context, these []Notice) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hurry = cancel
	if !slices.Equal(these, w.notices) {
		cancel()
	}
	return ctx, cancel
}

// lookHere reads what this machine knows without asking anybody.
func (w *Watcher) lookHere(ctx context.Context) (*State, error) {
	s := &State{Self: w.cfg.File.Broker, Machine: w.cfg.File.Machine, Now: time.Now()}
	w.mu.Lock()
	s.Notices = slices.Clone(w.notices)
	w.mu.Unlock()
	var err error
	if s.Unit, err = unitState(ctx, w.deps.Run, brokerUnit); err != nil {
		return nil, err
	}
	if _, err = os.Stat(w.drained()); err == nil {
		s.Waits = true
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if s.Installed, err = w.installed(); err != nil {
		return nil, err
	}
	if s.Staged, err = fileSum(filepath.Join(w.fetch.dir, stagedName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	s.Age, err = uptime(w.cfg.Root)
	return s, err
}

// lookAround reads what others know, whose turn it is first: what is read after
// that is not older. What cannot be read is said, and stays nil.
func (w *Watcher) lookAround(ctx context.Context, s *State) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	turn, err := ReadTurn(ctx, w.deps.Store)
	if w.warn("turn", err); err == nil {
		s.Turn = &turn
	}
	fleet, err := ReadFleet(ctx, w.deps.Store, w.cfg.File.Cluster)
	if w.warn("fleet", err); err == nil {
		s.Fleet = &fleet
	}
	s.Cluster, err = w.deps.Look(ctx)
	w.warn("cluster", err)
}

// warn says what cannot be read, once as long as it stays the same.
func (w *Watcher) warn(what string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != w.wrong[what] && !errors.Is(err, context.Canceled) {
		w.deps.Log.Warn("not everything can be looked at; trying on", "what", what, "err", err)
	}
	w.wrong[what] = text
}

func (w *Watcher) drained() string { return filepath.Join(w.cfg.Root, drainedPath) }

// installed is the sum of the binary in place.
func (w *Watcher) installed() (string, error) {
	path := filepath.Join(w.cfg.Root, BinaryPath)
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if w.last.sum != "" && st.ModTime().Equal(w.last.modified) && st.Size() == w.last.size {
		return w.last.sum, nil
	}
	sum, err := fileSum(path)
	if err != nil {
		return "", err
	}
	w.last = fileID{st.ModTime(), st.Size(), sum}
	return sum, nil
}

// uptime is for how long the machine runs.
func uptime(root string) (time.Duration, error) {
	data, err := os.ReadFile(filepath.Join(root, "proc/uptime"))
	if err != nil {
		return 0, err
	}
	var seconds float64
	if _, err := fmt.Sscan(string(data), &seconds); err != nil {
		return 0, fmt.Errorf("/proc/uptime: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// do carries an action out. What only gets things ready ends with patient.
func (w *Watcher) do(ctx, patient context.Context, act Action, s *State) error {
	stop := func(verb string) error {
		ctx, cancel := context.WithTimeout(ctx, stopTime)
		defer cancel()
		_, err := w.deps.Run(ctx, "systemctl", verb, brokerUnit)
		return err
	}
	switch act {
	case Wait:
		return nil
	case Drain:
		if err := os.WriteFile(w.drained(), nil, 0o644); err != nil {
			return err
		}
		return stop("stop")
	case Resume:
		if err := stop("start"); err != nil {
			return err
		}
		return os.Remove(w.drained())
	case Fetch:
		return w.fetch.stage(patient, s.Fleet.Binary)
	case TakeTurn:
		wanted, _ := s.Fleet.Wanted(s.Self)
		return s.Turn.Take(ctx, w.deps.Store, s.Self, wanted, s.Now)
	case EndTurn:
		return s.Turn.End(ctx, w.deps.Store)
	case Restart:
		if s.Installed != s.Fleet.Binary.SHA256 {
			if err := w.fetch.install(); err != nil {
				return err
			}
		}
		// The new binary knows its own units and settings.
		ctx, cancel := context.WithTimeout(ctx, 2*stopTime)
		defer cancel()
		_, err := w.deps.Run(ctx, BinaryPath, "machine", "up", "--restart")
		return err
	case Replace:
		// systemd stops the broker cleanly, before the network goes.
		_, err := w.deps.Run(ctx, "systemctl", "poweroff")
		return err
	}
	return fmt.Errorf("%q is nothing that can be done", act)
}
