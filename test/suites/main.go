// Command suites runs other people's test suites against a real firn process
// and, in the same harness, against Apache Kafka: the tests of franz-go,
// kfake, sarama and kafka-go from their Go modules, and Kafka's own
// command-line tools. A test that passes against Kafka and not against Firn
// fails the command, unless notbuilt.txt says which feature it needs that Firn
// does not have yet. What became of each test is kept in results/.
//
// Their code is taken at run time, at pinned versions and sums, into Firn's
// cache; none of it is in this repository. Every run has a network namespace
// of its own, where the ports that the suites have fixed are free.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	runtime.LockOSThread() // children die with this thread
	against := flag.String("against", "both", "`BROKER`: firn, kafka or both; of the other one the recorded results count")
	only := flag.String("only", "", "one `SUITE`, or several with commas: "+strings.Join(suiteNames(), ", "))
	firn := flag.String("firn", "bin/firn", "`FILE`: the binary under test")
	output := flag.String("output", "text", "`FORM` of the summary: text or json")
	logs := flag.String("logs", "bin/suites", "`DIR` for what brokers and tests print")
	run := flag.String("run", "", "only top-level tests that match this `REGEXP`; what is recorded of the others stays")
	inside := flag.String("inside", "", "used by the command itself")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := options{firn: *firn, logs: *logs, json: *output == "json", run: *run}
	var err error
	switch {
	case *inside != "":
		err = runInside(ctx, *inside, o)
	case *output != "text" && *output != "json":
		err = fmt.Errorf("--output %q is neither text nor json", *output)
	default:
		err = runAll(ctx, *against, *only, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "suites:", err)
		os.Exit(1)
	}
}

type options struct {
	firn, logs, run string
	json            bool
	tries           int      // runs of a test that fails
	expected        notBuilt // tests that Firn cannot pass yet; nil when Kafka runs
}

// report is the summary of one suite.
type report struct {
	Suite       string           `json:"suite"`
	Version     string           `json:"version"`
	Counts      map[string]tally `json:"counts"`
	NotBuilt    int              `json:"notBuilt"` // pass against Kafka, need a feature that Firn does not have yet
	Differences []row            `json:"differences"`
}

func runAll(ctx context.Context, against, only string, o options) error {
	brokers := []string{"kafka", "firn"}
	if against != "both" {
		if !slices.Contains(brokers, against) {
			return fmt.Errorf("--against %q is none of firn, kafka, both", against)
		}
		brokers = []string{against}
	}
	picked := suiteNames()
	if only != "" {
		picked = strings.Split(only, ",")
	}
	list, err := parseNotBuilt(notBuiltText)
	if err != nil {
		return err
	}
	// Everything is built before: there is no network inside, and what cannot
	// be had is said at once.
	var all []*suite
	for _, name := range picked {
		s, err := suiteNamed(name)
		if err != nil {
			return err
		}
		if err := s.prepare(ctx); err != nil {
			return fmt.Errorf("suite %s: %w", name, err)
		}
		all = append(all, s)
	}
	if o.firn, err = keepBinary(o.firn, o.logs); err != nil {
		return err
	}
	var reports []report
	var broken error
	for _, s := range all {
		if ctx.Err() != nil {
			break // stopped: runSuite said so
		}
		r, err := runSuite(ctx, s, brokers, list, o)
		if err != nil {
			broken = errors.Join(broken, fmt.Errorf("suite %s, whose list is as it was: %w", s.name, err))
			continue
		}
		reports = append(reports, r)
	}
	return errors.Join(broken, summarise(reports, o))
}

// keepBinary copies the binary under test, so that a build in the meantime
// does not change it within a run.
func keepBinary(bin, dir string) (string, error) {
	kept, err := filepath.Abs(filepath.Join(dir, "firn"))
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(bin)
	if err != nil {
		return "", err
	}
	return kept, errors.Join(os.MkdirAll(dir, 0o755), os.RemoveAll(kept), os.WriteFile(kept, text, 0o755))
}

// runSuite runs one suite against the brokers and keeps its list.
func runSuite(ctx context.Context, s *suite, brokers []string, list notBuilt, o options) (report, error) {
	ran, seconds := map[string][]result{}, map[string]float64{}
	for _, broker := range brokers {
		start := time.Now()
		fmt.Fprintf(os.Stderr, "== %s against %s\n", s.name, broker)
		results, err := runOutside(ctx, s, broker, o)
		if err != nil {
			return report{}, fmt.Errorf("against %s: %w", broker, err)
		}
		ran[broker], seconds[broker] = results, time.Since(start).Seconds()
	}
	path := filepath.Join(root(), "test", "suites", "results", s.name+".txt")
	recorded, err := readRows(path)
	if err != nil {
		return report{}, err
	}
	rows := merge(s.name, recorded, ran, o.run != "", list)
	if err := writeRows(path, s.head(), rows); err != nil {
		return report{}, err
	}
	k, f := count(rows, func(r row) outcome { return r.Kafka }), count(rows, func(r row) outcome { return r.Firn })
	k.Seconds, f.Seconds = seconds["kafka"], seconds["firn"]
	rep := report{Suite: s.name, Version: s.version(), Counts: map[string]tally{"kafka": k, "firn": f}, Differences: []row{}}
	for _, r := range rows {
		if r.differs() && r.NotBuilt != "" {
			rep.NotBuilt++
		} else if r.differs() {
			rep.Differences = append(rep.Differences, r)
		}
	}
	return rep, nil
}

// runOutside calls this program again in a namespace and reads its results.
func runOutside(ctx context.Context, s *suite, broker string, o options) ([]result, error) {
	logs, err := filepath.Abs(filepath.Join(o.logs, s.name, broker))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(logs), os.MkdirAll(logs, 0o755)); err != nil {
		return nil, err
	}
	cmd := inNamespace(ctx, "--inside", s.name+"/"+broker, "--firn", o.firn, "--logs", logs, "--run", o.run)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w (what was printed is in %s)", err, logs)
	}
	var results []result
	return results, json.Unmarshal(out, &results)
}

// runInside is the part within the namespace: what names suite and broker.
func runInside(ctx context.Context, what string, o options) error {
	name, broker, _ := strings.Cut(what, "/")
	s, err := suiteNamed(name)
	if err != nil {
		return err
	}
	if err := raiseLoopback(); err != nil {
		return err
	}
	// The judge has the more tries: what passes against it at all is asked of
	// Firn, and a busy machine must not lower the bar.
	o.tries = 4
	if broker == "firn" {
		o.tries = 2
		if o.expected, err = parseNotBuilt(notBuiltText); err != nil {
			return err
		}
	}
	results, err := s.run(ctx, broker, o)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

func summarise(reports []report, o options) error {
	differences := 0
	for _, r := range reports {
		differences += len(r.Differences)
	}
	if o.json {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(reports); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "suite\tKafka: passed\tfailed\tskipped\ttime\tFirn: passed\tfailed\tskipped\ttime\tnot built yet\tto be fixed")
		for _, r := range reports {
			k, f := r.Counts["kafka"], r.Counts["firn"]
			fmt.Fprintf(w, "%s %s\t%d\t%d\t%d\t%s\t%d\t%d\t%d\t%s\t%d\t%d\n", r.Suite, r.Version,
				k.Passed, k.Failed, k.Skipped, took(k), f.Passed, f.Failed, f.Skipped, took(f), r.NotBuilt, len(r.Differences))
		}
		w.Flush()
		for _, r := range reports {
			for _, d := range r.Differences {
				fmt.Printf("\n%s: %s passes against Kafka, %s against Firn\n    %s\n", r.Suite, d.Name, d.Firn, d.FirnReason)
			}
		}
	}
	if differences > 0 {
		return fmt.Errorf("%d tests pass against Kafka and not against Firn", differences)
	}
	return nil
}

func took(t tally) string {
	if t.Seconds == 0 {
		return "recorded"
	}
	return (time.Duration(t.Seconds) * time.Second).String()
}

// root is the checkout.
func root() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "..", "..")
}

// freeAddr gives a loopback address that nobody listens on.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
