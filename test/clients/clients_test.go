// Package clients drives a real firn with the Go clients that people use
// (sarama, kafka-go, franz-go), and with requests written by hand where a
// client would never send them. It is a module of its own, so that these
// clients stay out of Firn's.
package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/test/clients/bytewise"
)

// broker is where the one firn of this test process listens.
var broker, brokerHTTP string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// run starts $FIRNDEV_BIN (or the checkout's bin/firn) on a fresh folder, runs
// the tests and stops it. It must stop cleanly and without having printed a
// data race or a panic.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "firn-clients-")
	if err != nil {
		return failed("%v", err)
	}
	defer os.RemoveAll(dir)
	if broker, err = freePort(); err != nil {
		return failed("%v", err)
	}
	if brokerHTTP, err = freePort(); err != nil {
		return failed("%v", err)
	}
	var log bytes.Buffer // read once the process is gone
	cmd := exec.Command(bytewise.Binary(), "start", "--data", filepath.Join(dir, "data"), "--kafka", broker, "--http", brokerHTTP,
		"--upload-check", "200ms", "--upload-wait", "0s", "--set", "log.retention.check.interval.ms=200", "--set", "group.initial.rebalance.delay.ms=0")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return failed("%v (make builds bin/firn)", err)
	}
	var waitErr error // how the process ended, once ended is closed
	ended := make(chan struct{})
	go func() { waitErr = cmd.Wait(); close(ended) }()
	if err := awaitReady(ended); err != nil {
		cmd.Process.Kill()
		<-ended
		return failed("%v (%v)\n%s", err, waitErr, log.String())
	}
	code := m.Run()
	cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	<-ended
	late.Stop()
	out := log.String()
	if waitErr != nil || strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic:") || strings.Contains(out, "panic=") {
		fmt.Fprintf(os.Stderr, "firn ended badly: %v\n", waitErr)
		code = max(code, 1)
	}
	if code != 0 {
		if len(out) > 100_000 {
			out = "…" + out[len(out)-100_000:]
		}
		fmt.Fprintf(os.Stderr, "the end of firn's output:\n%s", out)
	}
	return code
}

func failed(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	return 1
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

func awaitReady(ended <-chan struct{}) error {
	deadline := time.After(time.Minute)
	for {
		if resp, err := http.Get("http://" + brokerHTTP + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ended:
			return errors.New("firn ended before it was ready")
		case <-deadline:
			return errors.New("firn was not ready within a minute")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// limit ends a minute from now; nothing here takes that long.
func limit(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually calls f until it returns nil; after a minute the last error
// fails the test.
func eventually(t testing.TB, what string, f func() error) {
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

// topics remembers which name belongs to which test, so that a test that runs
// again (-count) gets another.
var topics = struct {
	mu   sync.Mutex // guards what follows
	of   map[testing.TB]string
	runs map[string]int
}{of: map[testing.TB]string{}, runs: map[string]int{}}

// topicOf names a topic (or a group) after the test.
func topicOf(t testing.TB) string {
	topics.mu.Lock()
	defer topics.mu.Unlock()
	name, ok := topics.of[t]
	if !ok {
		name = strings.NewReplacer("/", ".", " ", "-", "_", "-", "#", "-").Replace(t.Name())
		if topics.runs[t.Name()]++; topics.runs[t.Name()] > 1 {
			name += fmt.Sprint("-run", topics.runs[t.Name()])
		}
		topics.of[t] = name
	}
	return name
}

// newTopic makes the test's topic; configs are pairs of key and value.
func newTopic(t testing.TB, partitions int32, configs ...string) string {
	t.Helper()
	name := topicOf(t)
	makeTopic(t, name, partitions, configs...)
	return name
}

func makeTopic(t testing.TB, name string, partitions int32, configs ...string) {
	t.Helper()
	set := map[string]*string{}
	for i := 0; i+1 < len(configs); i += 2 {
		set[configs[i]] = &configs[i+1]
	}
	if _, err := admin(t).CreateTopic(limit(t), partitions, 1, set, name); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
}

// franz gives a franz-go client, closed with the test.
func franz(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(broker)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func admin(t testing.TB) *kadm.Client {
	t.Helper()
	return kadm.NewClient(franz(t))
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
