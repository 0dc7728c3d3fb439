package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// goTests runs one test binary until every top-level test has an outcome. A
// test that takes longer than limit, or that takes the whole process down, is
// a failure, and the run goes on with those that have not ended yet.
type goTests struct {
	bin      binary
	env      []string
	limit    time.Duration
	parallel int
	tries    int                    // how often a failed test is run, in all
	oneTry   func(test string) bool // tests that are known to fail, and are not tried again
	pattern  string                 // only top-level tests that match; empty: all
	log      *os.File               // everything the binary prints

	results map[string]*result
	output  map[string][]string // last lines of each test
	top     map[string]time.Time
}

// event is a line of `go tool test2json`.
type event struct {
	Action  string
	Test    string
	Elapsed float64
	Output  string
}

// notHere starts the failure of a test whose surroundings cannot be had: ours
// (package kfake) can only return errors, and they count as skips.
const notHere = "skipped: "

const keptLines = 400 // of a test's output, for the reason of a failure

func (g *goTests) run(ctx context.Context) ([]result, error) {
	g.results, g.output = map[string]*result{}, map[string][]string{}
	names, err := g.list(ctx)
	if err != nil {
		return nil, err
	}
	left := names
	for len(left) > 0 {
		done, err := g.once(ctx, left)
		if err != nil {
			return nil, err
		}
		if done == 0 {
			for _, n := range left {
				g.results[n] = &result{Name: n, Outcome: failed, Reason: "the test process ended before the test began"}
			}
		}
		left = slices.DeleteFunc(slices.Clone(names), g.ended)
	}
	if err := g.tryAgain(ctx, names); err != nil {
		return nil, err
	}
	return leaves(g.results), nil
}

func (g *goTests) ended(name string) bool {
	r := g.results[name]
	return r != nil && r.Outcome != ""
}

func (g *goTests) list(ctx context.Context) ([]string, error) {
	cmd := exec.CommandContext(ctx, g.bin.path, "-test.list", cmp.Or(g.pattern, "^Test"))
	cmd.Dir, cmd.Env = g.bin.dir, append(os.Environ(), g.env...)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the tests of %s: %w\n%s", g.bin.pkg, err, out)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "Test") && !strings.Contains(line, " ") {
			names = append(names, line)
		}
	}
	return names, nil
}

// once runs the named tests in one process and gives how many of them ended.
func (g *goTests) once(ctx context.Context, names []string) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json", "-t", g.bin.path, "-test.v=test2json", "-test.paniconexit0",
		fmt.Sprintf("-test.parallel=%d", g.parallel), "-test.timeout=0", "-test.run", "^("+strings.Join(names, "|")+")$")
	cmd.Dir, cmd.Env = g.bin.dir, append(os.Environ(), g.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	cmd.Stderr = g.log
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	lines := make(chan event, 1024)
	go func() {
		defer close(lines)
		in := bufio.NewReaderSize(stdout, 1<<20)
		for {
			line, err := in.ReadBytes('\n')
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				lines <- e
			}
			if err != nil {
				return
			}
		}
	}()
	g.top = map[string]time.Time{}
	before := g.count(names)
	overdue := g.follow(lines, cancel)
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		return 0, err
	}
	for name := range g.top {
		if !g.ended(name) {
			why := "the test process ended"
			if overdue != "" {
				why = fmt.Sprintf("no result after %s", g.limitOf(name))
				if name != overdue {
					continue // it ran beside the one that hung, and is tried again
				}
			}
			if said := g.reason(name); said != "" {
				why += ": " + said
			}
			g.set(name, failed, why, 0)
		}
	}
	return g.count(names) - before, nil
}

// follow reads events until they end, and ends the process when a top-level
// test is over its limit; that test's name is returned.
func (g *goTests) follow(lines <-chan event, kill func()) (overdue string) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case e, ok := <-lines:
			if !ok {
				return overdue
			}
			g.take(e)
		case <-tick.C:
			for name, since := range g.top {
				if overdue == "" && !since.IsZero() && time.Since(since) > g.limitOf(name) && !g.ended(name) {
					overdue = name
					kill()
				}
			}
		}
	}
}

// limitOf is how long a test may take; one that cannot pass is not waited for
// long.
func (g *goTests) limitOf(name string) time.Duration {
	if g.oneTry(name) {
		return min(g.limit, 40*time.Second)
	}
	return g.limit
}

func (g *goTests) count(names []string) int {
	n := 0
	for _, name := range names {
		if g.ended(name) {
			n++
		}
	}
	return n
}

// take applies one event.
func (g *goTests) take(e event) {
	if e.Output != "" {
		fmt.Fprint(g.log, e.Output)
	}
	if e.Test == "" {
		return
	}
	top := !strings.Contains(e.Test, "/")
	switch e.Action {
	case "run", "cont":
		if top {
			g.top[e.Test] = time.Now()
		}
	case "pause":
		if top {
			g.top[e.Test] = time.Time{} // its time does not run
		}
	case "output":
		out := append(g.output[e.Test], e.Output)
		if len(out) > keptLines {
			out = out[len(out)-keptLines:]
		}
		g.output[e.Test] = out
	case "pass":
		g.set(e.Test, passed, "", e.Elapsed)
	case "fail":
		why := cmp.Or(g.reason(e.Test), "no message")
		if rest, ok := strings.CutPrefix(why, notHere); ok {
			g.set(e.Test, skipped, rest, e.Elapsed)
			break
		}
		g.set(e.Test, failed, why, e.Elapsed)
	case "skip":
		g.set(e.Test, skipped, g.reason(e.Test), e.Elapsed)
	}
}

func (g *goTests) set(name string, o outcome, why string, seconds float64) {
	g.results[name] = &result{Name: name, Outcome: o, Reason: why, Seconds: seconds}
	delete(g.output, name)
}

// tryAgain runs each failed top-level test again, alone, until it passes or
// was tried often enough: many of these tests wait for fixed times, and the
// machine may have been busy.
func (g *goTests) tryAgain(ctx context.Context, names []string) error {
	for _, name := range names {
		for try := 2; try <= g.tries && g.results[name].Outcome == failed && !g.oneTry(name); try++ {
			if err := g.again(ctx, name, try); err != nil {
				return err
			}
		}
	}
	return nil
}

// again runs one top-level test once more. Of each of its subtests the better
// outcome stays.
func (g *goTests) again(ctx context.Context, name string, try int) error {
	before := map[string]*result{}
	for n, r := range g.results {
		if n == name || strings.HasPrefix(n, name+"/") {
			before[n] = r
			delete(g.results, n)
		}
	}
	if _, err := g.once(ctx, []string{name}); err != nil {
		return err
	}
	// A test whose subtests have all passed, each in some try, passes, unless
	// it failed by itself this time.
	settled := g.subtestFailed(name)
	for n, r := range before {
		now := g.results[n]
		switch {
		case now == nil || r.Outcome == passed:
			g.results[n] = r
		case now.Outcome == passed && r.Outcome == failed:
			now.Reason = fmt.Sprintf("try %d; first: %s", try, r.Reason)
		}
	}
	if top := g.results[name]; settled && !g.subtestFailed(name) {
		top.Outcome = passed
	}
	return nil
}

func (g *goTests) subtestFailed(name string) bool {
	for n, r := range g.results {
		if strings.HasPrefix(n, name+"/") && r.Outcome == failed {
			return true
		}
	}
	return false
}

// source position that the testing package puts before a message
var position = regexp.MustCompile(`^\s*\w+\.go:\d+: `)

// reason finds the line that says why a test failed or was skipped.
func (g *goTests) reason(name string) string {
	var first, panicked string
	lines := g.output[name]
	for i, line := range lines {
		text := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(text, "panic:") && panicked == "":
			panicked = text
		case position.MatchString(line):
			text = position.ReplaceAllString(line, "")
			if strings.TrimSpace(text) == "" && i+1 < len(lines) { // testify starts on the next line
				text = testifyText(lines[i+1:])
			}
			if chatter(text) {
				continue
			}
			first = strings.TrimSpace(text)
		}
	}
	if panicked != "" {
		return steady(panicked)
	}
	return steady(first)
}

// chatter are messages that tests log on their way, whatever the outcome.
func chatter(text string) bool {
	for _, p := range []string{"deleting topic", "deleting group", "FAILED TESTING", "unable to delete", "completed in"} {
		if strings.Contains(text, p) {
			return true
		}
	}
	return strings.TrimSpace(text) == ""
}

// testifyText joins what testify prints under "Error:".
func testifyText(lines []string) string {
	var text []string
	in := false
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if rest, ok := strings.CutPrefix(l, "Error:"); ok {
			in, l = true, strings.TrimSpace(rest)
		} else if strings.HasPrefix(l, "Test:") || strings.HasPrefix(l, "Messages:") || position.MatchString(l) {
			break
		}
		if in && l != "" {
			text = append(text, l)
		}
	}
	return strings.Join(text, " ")
}

var unsteady = []struct {
	what *regexp.Regexp
	name string
}{
	{regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`), "UUID"},
	{regexp.MustCompile(`0x[0-9a-f]{6,}`), "ADDRESS"},
	{regexp.MustCompile(`\b[0-9a-f]{16,}\b`), "HEX"},
	{regexp.MustCompile(`127\.0\.0\.1:[1-9]\d{4}\b`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*( ?[+-]\d{4})?( UTC| m=[+-][\d.]+|Z)*`), "TIME"},
	{regexp.MustCompile(`\b1[78]\d{8,11}\b`), "TIME"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(ms|µs|s)\b`), "SPAN"},
	{regexp.MustCompile(`\b[0-9a-z]{0,8}\d{10,}[0-9a-z]*\b`), "NUMBER"},
	{regexp.MustCompile(`\s+`), " "},
}

// steady takes out of a message what changes from run to run, so that the
// lists change only when an outcome does.
func steady(s string) string {
	for _, u := range unsteady {
		s = u.what.ReplaceAllString(s, u.name)
	}
	if r := []rune(s); len(r) > 200 {
		s = string(r[:200]) + "…"
	}
	return strings.TrimSpace(s)
}

// leaves drops a test with subtests, unless it failed though none of them
// did.
func leaves(results map[string]*result) []result {
	parents := map[string]bool{} // name: some subtest failed
	for name, r := range results {
		for {
			i := strings.LastIndexByte(name, '/')
			if i < 0 {
				break
			}
			name = name[:i]
			parents[name] = parents[name] || r.Outcome == failed
		}
	}
	var all []result
	for name, r := range results {
		subFailed, parent := parents[name]
		if parent && (r.Outcome != failed || subFailed) {
			continue
		}
		all = append(all, *r)
	}
	return all
}

// goSuite runs all binaries of a suite against the server.
func goSuite(ctx context.Context, s *suite, bins []binary, env []string, o options) ([]result, error) {
	var all []result
	for _, bin := range bins {
		log, err := os.Create(filepath.Join(o.logs, filepath.Base(bin.path)+".log"))
		if err != nil {
			return nil, err
		}
		g := &goTests{bin: bin, env: env, limit: s.limit, parallel: s.parallel, tries: o.tries, pattern: o.run, log: log,
			oneTry: func(test string) bool { return o.expected != nil && o.expected.feature(s.name, test) != "" }}
		results, err := g.run(ctx)
		log.Close()
		if err != nil {
			return nil, err
		}
		for i := range results {
			if bin.pkg != "." && len(bins) > 1 {
				results[i].Name = bin.pkg + ":" + results[i].Name
			}
		}
		all = append(all, results...)
	}
	return all, nil
}
