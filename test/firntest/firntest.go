// Package firntest runs the real firn binary for black-box tests: start,
// stop, kill −9, restart on the same folder. Nothing of Firn's own packages is
// used: tests see what a user sees.
package firntest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var build struct {
	once sync.Once
	path string
	err  error
}

// Binary gives the firn under test: $FIRNDEV_BIN, or one built with the race
// detector from this checkout, once per test process.
func Binary(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv("FIRNDEV_BIN"); bin != "" {
		// go test looks at what a test looked at: with another binary a cached
		// result no longer counts.
		if _, err := os.Stat(bin); err != nil {
			t.Fatal(err)
		}
		return bin
	}
	build.once.Do(func() {
		_, here, _, _ := runtime.Caller(0)
		root := filepath.Join(filepath.Dir(here), "..", "..")
		// A fixed place, so that the test processes of several packages share
		// Go's link cache and leave nothing behind.
		build.path = filepath.Join(root, "bin", "firn-race")
		cmd := exec.Command("go", "build", "-race", "-o", build.path, "./cmd/firn")
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("build firn: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

// Broker is one firn process with its data folder.
type Broker struct {
	Kafka string   // HOST:PORT
	HTTP  string   // HOST:PORT
	Data  string   // --data
	Args  []string // further arguments of `firn start`
	Env   []string // further environment

	t   testing.TB
	bin string
	cmd *exec.Cmd
	out *output
	end chan error
}

// output keeps the end of what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Ports of FreePort are below those that the kernel gives by itself, to
// whoever listens on port 0 or connects.
const (
	firstPort = 20_000
	ports     = 12_000
)

var (
	given   []net.Listener // one for each port that FreePort gave, which says so to other processes
	givenMu sync.Mutex
)

// FreePort gives a loopback address that nobody listens on, another one each
// time it is called, also by other test processes.
func FreePort(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", FreePorts(t, 0))
}

// FreePorts gives a port such that those at these distances from it, itself
// only if 0 is one of them, are free as for FreePort.
func FreePorts(t testing.TB, offsets ...int) int {
	t.Helper()
	for range 10 * ports {
		port := firstPort + rand.IntN(ports-slices.Max(offsets))
		if marks, ok := claim(port, offsets); ok {
			givenMu.Lock()
			given = append(given, marks...)
			givenMu.Unlock()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// claim marks ports as given, all or none.
func claim(port int, offsets []int) (marks []net.Listener, ok bool) {
	defer func() {
		for _, m := range marks {
			if !ok {
				m.Close()
			}
		}
	}()
	for _, o := range offsets {
		mark, err := net.Listen("unix", fmt.Sprintf("@firntest-%d", port+o)) // gone with the process
		if err != nil {
			return marks, false
		}
		marks = append(marks, mark)
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+o))
		if err != nil {
			return marks, false
		}
		ln.Close()
	}
	return marks, true
}

// New prepares a broker with a fresh data folder; Start runs it. It is ended
// with the test, and a data race or panic that it printed fails the test.
func New(t testing.TB, args ...string) *Broker {
	t.Helper()
	b := &Broker{Kafka: FreePort(t), HTTP: FreePort(t), Data: filepath.Join(t.TempDir(), "data"), Args: args, t: t, bin: Binary(t), out: &output{}}
	t.Cleanup(func() {
		if b.Running() {
			b.Kill()
		}
		log := b.Output()
		if strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") || strings.Contains(log, "panic=") {
			t.Errorf("the broker printed a data race or a panic:\n%s", log)
		}
		if t.Failed() {
			t.Logf("the end of the broker's output:\n%s", tail(log, 6000))
		}
	})
	return b
}

// Start prepares a broker and runs it until it is ready.
func Start(t testing.TB, args ...string) *Broker {
	t.Helper()
	b := New(t, args...)
	b.Start()
	return b
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// Output is everything the broker printed so far, over restarts.
func (b *Broker) Output() string { return b.out.String() }

// Running says whether the process is there.
func (b *Broker) Running() bool { return b.cmd != nil }

// Pid is the process's id.
func (b *Broker) Pid() int { return b.cmd.Process.Pid }

// Launch runs the broker and does not wait for it to be ready.
func (b *Broker) Launch() {
	b.t.Helper()
	if b.cmd != nil {
		b.t.Fatal("firntest: the broker runs already")
	}
	// Nothing waits for company or for the next look: tests wait for the outcome.
	args := append([]string{"start", "--data", b.Data, "--kafka", b.Kafka, "--http", b.HTTP,
		"--upload-check", "200ms", "--upload-wait", "0s"}, b.Args...)
	for _, set := range []string{"log.retention.check.interval.ms=200", "group.initial.rebalance.delay.ms=0"} {
		name, _, _ := strings.Cut(set, "=")
		if !slices.ContainsFunc(b.Args, func(a string) bool { return strings.HasPrefix(a, name+"=") }) {
			args = append(args, "--set", set)
		}
	}
	cmd := exec.Command(b.bin, args...)
	cmd.Env = append(os.Environ(), b.Env...)
	cmd.Stdout, cmd.Stderr = b.out, b.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, end := make(chan error, 1), make(chan error, 1)
	// The parent-death signal follows the thread that started the child: it
	// has to stay until the child is gone.
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			end <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		b.t.Fatal(err)
	}
	b.cmd, b.end = cmd, end
}

// Start runs the broker and waits until /readyz answers 200.
func (b *Broker) Start() {
	b.t.Helper()
	b.Launch()
	b.AwaitReady()
}

// AwaitReady waits until /readyz of a launched broker answers 200.
func (b *Broker) AwaitReady() {
	b.t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		if resp, err := http.Get("http://" + b.HTTP + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case err := <-b.end:
			b.cmd = nil
			b.t.Fatalf("the broker ended before it was ready: %v\n%s", err, tail(b.Output(), 6000))
		case <-deadline:
			b.t.Fatalf("the broker was not ready within 60 s\n%s", tail(b.Output(), 6000))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Wait waits until the process ends by itself and gives its exit code.
func (b *Broker) Wait() int {
	b.t.Helper()
	select {
	case err := <-b.end:
		b.cmd = nil
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		if err != nil {
			b.t.Fatal(err)
		}
		return 0
	case <-time.After(60 * time.Second):
		b.t.Fatalf("the broker did not end within 60 s\n%s", tail(b.Output(), 6000))
		return -1
	}
}

// Stop sends SIGTERM and fails the test unless the broker exits with 0.
func (b *Broker) Stop() {
	b.t.Helper()
	b.cmd.Process.Signal(syscall.SIGTERM)
	if code := b.Wait(); code != 0 {
		b.t.Fatalf("exit code %d after SIGTERM\n%s", code, tail(b.Output(), 6000))
	}
}

// Kill sends SIGKILL and waits until the process is gone.
func (b *Broker) Kill() {
	b.t.Helper()
	b.cmd.Process.Kill()
	<-b.end
	b.cmd = nil
}

// Run runs firn's other commands and gives standard output and error and the
// exit code.
func Run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(Binary(t), args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// Metric adds up the series of that name whose labels contain all the given
// parts; a name that is not there counts 0.
func (b *Broker) Metric(name string, labels ...string) float64 {
	b.t.Helper()
	resp, err := http.Get("http://" + b.HTTP + "/metrics")
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		b.t.Fatal(err)
	}
	var sum float64
lines:
	for line := range strings.Lines(body.String()) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || (series != name && !strings.HasPrefix(series, name+"{")) {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(series, l) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			b.t.Fatalf("metric %s: %v", series, err)
		}
		sum += v
	}
	return sum
}

// Eventually calls f until it returns nil; after a minute the last error
// fails the test.
func Eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute: %v", what, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}
