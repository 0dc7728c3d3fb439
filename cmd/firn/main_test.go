package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write docs/cli.md and the scripts' expected output")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"firn": func() { os.Exit(run()) }})
}

// TestScripts runs testdata/script: the real binary, with the real broker
// where a script asks for one. Commands beside testscript's own:
//
//	exits CODE COMMAND…   run it and want this exit code
//	broker DIR FLAGS…     start a broker on free ports; sets FIRN_BROKERS and HTTP
//	stopbroker            SIGTERM, and want exit code 0
//	killbroker            SIGKILL
//	flip FILE BYTE        change one byte of a file
//	until COMMAND…        run it again until it succeeds, for up to a minute
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "broker": startBroker, "stopbroker": stopBroker, "killbroker": killBroker, "flip": flip, "until": until,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		got = ee.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: until COMMAND...")
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("never succeeded: %v", err)
		}
	}
}

func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE BYTE")
	}
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x40
	ts.Check(os.WriteFile(path, b, 0o644))
}

// running is the broker of a script.
type running struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended
	err  error         // of Wait, after done
}

// brokers is by script; scripts run in parallel.
var (
	brokersMu sync.Mutex
	brokers   = map[*testscript.TestScript]*running{}
)

func startBroker(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: broker DIR FLAGS...")
	}
	bin, err := "", error(os.ErrNotExist)
	for _, dir := range strings.Split(ts.Getenv("PATH"), ":") {
		if p := dir + "/firn"; err != nil && fileExists(p) {
			bin, err = p, nil
		}
	}
	ts.Check(err)
	cmd := exec.Command(bin, append([]string{"start", "--output", "json", "--data", args[0], "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0"}, args[1:]...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "TMPDIR=" + ts.Getenv("TMPDIR")}
	var log strings.Builder
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	b := &running{cmd: cmd, done: make(chan struct{})}
	var ready struct{ Event, Kafka, HTTP string }
	line, rerr := bufio.NewReader(out).ReadString('}')
	go func() {
		b.err = cmd.Wait()
		close(b.done)
	}()
	ts.Defer(func() {
		select {
		case <-b.done:
		default:
			cmd.Process.Kill()
			<-b.done
		}
	})
	if rerr != nil || json.Unmarshal([]byte(line), &ready) != nil || ready.Event != "ready" {
		cmd.Process.Kill()
		<-b.done
		ts.Fatalf("the broker did not become ready (%v): %s%s", rerr, line, log.String())
	}
	brokersMu.Lock()
	brokers[ts] = b
	brokersMu.Unlock()
	ts.Setenv("FIRN_BROKERS", ready.Kafka)
	ts.Setenv("KAFKA", ready.Kafka)
	ts.Setenv("HTTP", ready.HTTP)
	ts.Setenv("PID", fmt.Sprint(cmd.Process.Pid))
}

func fileExists(p string) bool { _, err := os.Stat(p); return err == nil }

func stopBroker(ts *testscript.TestScript, neg bool, args []string) {
	brokersMu.Lock()
	b := brokers[ts]
	delete(brokers, ts)
	brokersMu.Unlock()
	if neg || len(args) > 0 || b == nil {
		ts.Fatalf("usage: stopbroker, after broker")
	}
	ts.Check(b.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-b.done:
		ts.Check(b.err)
	case <-time.After(time.Minute):
		ts.Fatalf("the broker did not stop")
	}
}

func killBroker(ts *testscript.TestScript, neg bool, args []string) {
	brokersMu.Lock()
	b := brokers[ts]
	delete(brokers, ts)
	brokersMu.Unlock()
	if neg || len(args) > 0 || b == nil {
		ts.Fatalf("usage: killbroker, after broker")
	}
	ts.Check(b.cmd.Process.Kill())
	<-b.done
}
