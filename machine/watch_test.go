package machine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/objectstore"
)

func sha(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// bucket is a store that opens as any URL; objects are below the bucket's root.
type bucket struct {
	objectstore.Store
	asked []string
}

func (b *bucket) open(_ context.Context, url string) (objectstore.Store, error) {
	b.asked = append(b.asked, url)
	return keptOpen{b.Store}, nil
}

type keptOpen struct{ objectstore.Store }

func (keptOpen) Close() error { return nil }

func put(t *testing.T, s objectstore.Store, key string, data []byte) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
}

func TestStage(t *testing.T) {
	good, bad := []byte("#!/bin/sh\nexit 0\n"), []byte("#!/bin/sh\necho wrong machine >&2\nexit 3\n")
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/firn" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(good)
	}))
	defer server.Close()
	defer server.Client().CloseIdleConnections()
	b := &bucket{Store: testStore(t)}
	put(t, b, "firn/binaries/good", good)
	put(t, b, "firn/binaries/bad", bad)
	f := fetcher{store: "s3://prod-logs/firn?region=eu-central-1", open: b.open, http: server.Client(), run: System, dir: t.TempDir()}
	for name, c := range map[string]struct {
		binary Binary
		says   string // "" for success
	}{
		"https":             {Binary{server.URL + "/firn", sha(good)}, ""},
		"bucket":            {Binary{"s3://releases/firn/binaries/good", sha(good)}, ""},
		"not there":         {Binary{server.URL + "/other", sha(good)}, "404"},
		"no object":         {Binary{"s3://releases/firn/binaries/none", sha(good)}, "not found"},
		"another sum":       {Binary{server.URL + "/firn", sha(bad)}, "correct the one that is wrong"},
		"does not run":      {Binary{"s3://releases/firn/binaries/bad", sha(bad)}, "wrong machine"},
		"the other cloud's": {Binary{"gs://releases/firn", sha(good)}, "give an object of that, or https://"},
	} {
		t.Run(name, func(t *testing.T) {
			err := f.stage(t.Context(), c.binary)
			got, sumErr := fileSum(filepath.Join(f.dir, stagedName))
			if c.says == "" {
				if err != nil || got != c.binary.SHA256 {
					t.Errorf("%v, %v, %s", err, sumErr, got)
				}
				if err := f.install(); err != nil {
					t.Error(err)
				}
				st, err := os.Stat(filepath.Join(f.dir, "firn"))
				if err != nil || st.Mode().Perm() != 0o755 {
					t.Errorf("in place: %v, %v", st, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.binary.URL) {
				t.Errorf("says %v, want …%s…", err, c.says)
			}
			entries, err := os.ReadDir(f.dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if n := e.Name(); n != "firn" && n != beforeName {
					t.Errorf("%s is left", n)
				}
			}
		})
	}
	if !slices.Contains(b.asked, "s3://releases?region=eu-central-1") {
		t.Errorf("opened %v", b.asked)
	}
}

// aMachine is a Watcher with all that it looks at.
type aMachine struct {
	*system
	t       *testing.T
	store   objectstore.Store
	file    File
	notices chan []Notice
	log     *lockedBuffer

	mu      sync.Mutex // guards what follows, and the system
	cluster *Cluster
	stuck   chan struct{} // the next look takes as long as it may, and closes this; nil for none
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// runs runs the machine's commands: a restart gives the broker the deployment
// of what is in place.
func (a *aMachine) runs(ctx context.Context, name string, args ...string) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	line := strings.Join(append([]string{name}, args...), " ")
	switch {
	case strings.HasSuffix(name, ".part"): // the staged binary says its version
		return []byte("firn\n"), nil
	case name == BinaryPath:
		a.system.log = append(a.system.log, line)
		sum, err := fileSum(filepath.Join(a.root, BinaryPath))
		if err == nil {
			a.cluster.Deployments[a.file.Broker] = Deployment(sum, a.file.Machine)
		}
		return nil, err
	case line == "systemctl stop firn.service":
		a.active = false
	}
	return a.system.run(ctx, name, args...)
}

func (a *aMachine) look(ctx context.Context) (*Cluster, error) {
	a.mu.Lock()
	stuck := a.stuck
	a.mu.Unlock()
	if stuck != nil {
		close(stuck)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cluster == nil {
		return nil, errors.New("nobody answers")
	}
	c := *a.cluster
	c.Deployments = map[int32]string{}
	for id, d := range a.cluster.Deployments {
		c.Deployments[id] = d
	}
	return &c, nil
}

func (a *aMachine) does(line string) func() bool {
	return func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return slices.Contains(a.system.log, line)
	}
}

func (a *aMachine) fleet(f Fleet) {
	a.t.Helper()
	data, err := json.Marshal(f)
	if err != nil {
		a.t.Fatal(err)
	}
	etag := ""
	if o, err := a.store.Head(a.t.Context(), FleetKey); err == nil {
		etag = o.ETag
	}
	if _, err := a.store.Swap(a.t.Context(), FleetKey, data, etag); err != nil {
		a.t.Fatal(err)
	}
}

// newMachine starts the watcher of a machine; ended is closed when it ends.
func newMachine(t *testing.T) (a *aMachine, wanted Fleet, ended chan error) {
	t.Helper()
	s, m := newSystem(t, AWS, LocalDisk, 1)
	s.active = true
	s.write("proc/uptime", "7200.55 100.00\n")
	s.write("run/here", "")
	a = &aMachine{system: s, t: t, store: testStore(t), file: m, notices: make(chan []Notice), log: &lockedBuffer{}}
	runs := Deployment(sha([]byte("a binary")), m.Machine)
	a.cluster = &Cluster{Deployments: map[int32]string{1: runs, 2: runs, 3: runs}, MayRestart: true}
	wanted = Fleet{Cluster: "prod", Binary: Binary{"s3://prod-logs/firn/binaries/next", sha([]byte("a binary"))},
		Machines: map[string]string{"1": m.Machine, "2": m.Machine, "3": m.Machine}}
	a.fleet(wanted)
	b := &bucket{Store: a.store}
	w := NewWatcher(WatchConfig{Root: s.root, File: m}, WatchDeps{
		Log: slog.New(slog.NewTextHandler(a.log, nil)), Run: a.runs, Store: a.store, Open: b.open, Look: a.look,
		Notices: func(ctx context.Context, told func([]Notice, error)) {
			for {
				select {
				case n := <-a.notices:
					told(n, nil)
				case <-ctx.Done():
					return
				}
			}
		},
	})
	w.every, w.soon = 20*time.Millisecond, 10*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- w.Watch(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if t.Failed() {
			t.Logf("%s\n%s", strings.Join(a.system.log, "\n"), a.log)
		}
	})
	return a, wanted, ended
}

// turnIs says whether the turn is a broker's.
func (a *aMachine) turnIs(broker int32) func() bool {
	return func() bool {
		turn, err := ReadTurn(context.Background(), a.store)
		return err == nil && turn.Broker == broker && turn.etag != ""
	}
}

func TestWatchInstallsABinary(t *testing.T) {
	a, wanted, ended := newMachine(t)
	next := []byte("another binary")
	wanted.Binary.SHA256 = sha(next)
	a.fleet(wanted)
	eventually(t, "what cannot be fetched is said", func() bool { return strings.Contains(a.log.String(), "binaries/next") })
	put(t, a.store, "firn/binaries/next", next)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the watcher ends with %v", err)
		}
		ended <- nil
	case <-time.After(time.Minute):
		t.Fatal("the watcher does not go on as the new binary")
	}
	if !a.does(BinaryPath + " machine up --restart")() {
		t.Error("the broker was not restarted")
	}
	if sum, err := fileSum(filepath.Join(a.root, BinaryPath)); err != nil || sum != sha(next) {
		t.Errorf("in place is %s, %v", sum, err)
	}
	if before, err := os.ReadFile(filepath.Join(a.root, filepath.Dir(BinaryPath), beforeName)); err != nil || string(before) != "a binary" {
		t.Errorf("the binary of before is %q, %v", before, err)
	}
	if !a.turnIs(0)() {
		t.Error("the turn was not given back")
	}
}

func TestWatchReplacesTheMachine(t *testing.T) {
	a, wanted, _ := newMachine(t)
	a.mu.Lock()
	a.cluster.MayRestart, a.cluster.Reasons = false, []string{"broker 3 is starting"}
	a.mu.Unlock()
	wanted.Machines["1"] = "m2"
	a.fleet(wanted)
	eventually(t, "it says what it waits for", func() bool { return strings.Contains(a.log.String(), "broker 3 is starting") })
	if a.does("systemctl poweroff")() {
		t.Fatal("it powers off while the cluster is not well")
	}
	a.mu.Lock()
	a.cluster.MayRestart, a.cluster.Reasons = true, nil
	a.mu.Unlock()
	eventually(t, "it powers off", a.does("systemctl poweroff"))
	if !a.turnIs(1)() {
		t.Error("the turn does not outlive the machine")
	}
}

func TestWatchObeysNotices(t *testing.T) {
	a, _, _ := newMachine(t)
	a.notices <- []Notice{{Kind: Away, What: "spot interruption"}}
	eventually(t, "the broker is stopped", a.does("systemctl stop firn.service"))
	a.notices <- nil
	eventually(t, "and started again", a.does("systemctl start firn.service"))
	eventually(t, "nothing says that it waits", func() bool {
		_, err := os.Stat(filepath.Join(a.root, drainedPath))
		return errors.Is(err, os.ErrNotExist)
	})
	if log := a.log.String(); !strings.Contains(log, "spot interruption") || !strings.Contains(log, "the notice has passed") {
		t.Errorf("it does not say why:\n%s", log)
	}
}

// A preempted machine has half a minute: its broker is stopped while the store
// or the cluster does not answer, and while a binary is fetched.
func TestWatchHurries(t *testing.T) {
	a, _, _ := newMachine(t)
	stuck := make(chan struct{})
	a.mu.Lock()
	a.stuck = stuck
	a.mu.Unlock()
	<-stuck
	a.mu.Lock()
	a.stuck = nil
	a.mu.Unlock()
	began := time.Now()
	a.notices <- []Notice{{Kind: Away, What: "preempted"}}
	eventually(t, "the broker is stopped", a.does("systemctl stop firn.service"))
	if took := time.Since(began); took > lookTime/2 {
		t.Errorf("it was stopped after %v, when the look had timed out", took)
	}
}

// What cannot be read is said, and keeps nobody from obeying notices.
func TestWatchWithoutStore(t *testing.T) {
	a, _, _ := newMachine(t)
	if err := a.store.Delete(t.Context(), FleetKey); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.cluster = nil
	a.mu.Unlock()
	eventually(t, "what is missing is said", func() bool {
		return strings.Contains(a.log.String(), FleetKey) && strings.Contains(a.log.String(), "nobody answers")
	})
	a.notices <- []Notice{{Kind: Away, What: "preempted"}}
	eventually(t, "the broker is stopped", a.does("systemctl stop firn.service"))
}

func TestSystem(t *testing.T) {
	ctx := context.Background()
	if out, err := System(ctx, "echo", "a", "b"); err != nil || string(out) != "a b\n" {
		t.Errorf("echo: %q, %v", out, err)
	}
	_, err := System(ctx, "sh", "-c", "echo why >&2; exit 7")
	if e, ok := errors.AsType[*ExitError](err); !ok || e.Code != 7 || !strings.Contains(err.Error(), "why") {
		t.Errorf("a command that fails: %v", err)
	}
	if _, err := System(ctx, "no-such-command-of-ours"); err == nil {
		t.Error("a command that is not there succeeds")
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := System(short, "sleep", "60"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "not done in time") {
		t.Errorf("a command that takes too long: %v", err)
	}
}

func ExampleDeployment() {
	fmt.Println(Deployment("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "3f9a1c2b"))
	// Output: 9f86d081884c.3f9a1c2b
}
