// Command run measures brokers against one another: it starts each in a fresh
// folder, one at a time and in turn (A B A B …), drives it with bench/blast,
// and writes a report. What is measured is in the workload files that it is
// given, one YAML file each.
//
//	go run ./bench/run -out bin/bench bench/workloads/small/*.yaml
//
// docs/bench.md says how to read the report.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/firnlog/firn/bench/blast"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/test/flights"
)

type options struct {
	out     string
	data    string
	rounds  int
	foreign float64
	limit   time.Duration
	only    string
	warm    int64
	profile time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.out, "out", "bin/bench", "folder for the report")
	flag.StringVar(&o.data, "data", "", "folder on the disk to measure, for the brokers (default: a temporary one)")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of each workload; those that are dropped are made again, at most as many")
	flag.Float64Var(&o.foreign, "foreign", 0.10, "drop rounds in which others took more than this part of all CPU")
	flag.DurationVar(&o.limit, "limit", 0, "begin no round that would take longer than this in all; each workload gets one (0: no limit)")
	flag.StringVar(&o.only, "systems", "", "measure only these of the workloads' systems, NAME,NAME")
	flag.Int64Var(&o.warm, "warm", 4<<30, "bytes written and deleted at the start, so that the machine's memory was touched")
	flag.DurationVar(&o.profile, "profile", 0, "save CPU profiles of Firn in -out/profiles, of so many seconds from the beginning of each phase; figures are then not to be quoted")
	report := flag.Bool("report", false, "write the report of results.json in -out anew and measure nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := error(nil)
	if *report {
		err = reportAgain(o.out)
	} else {
		err = run(ctx, o, flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func reportAgain(out string) error {
	b, err := os.ReadFile(filepath.Join(out, "results.json"))
	if err != nil {
		return err
	}
	var r Results
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	return writeReport(&r, out)
}

type runner struct {
	options
	results *Results
	servers map[string]server
	values  [][]byte
	batches map[Batch]*blast.Batches
	settle  func(dir string, writes int64) error // before each phase
}

func run(ctx context.Context, o options, files []string) error {
	if len(files) == 0 {
		return errors.New("no workload files; for example bench/workloads/small/*.yaml")
	}
	var all []*Workload
	for _, f := range files {
		w, err := readWorkload(f)
		if err != nil {
			return err
		}
		if o.only != "" {
			for _, s := range slices.Clone(w.Systems) {
				if !slices.Contains(strings.Split(o.only, ","), s) {
					w.without(s)
				}
			}
		}
		all = append(all, w)
	}
	dir, err := os.MkdirTemp(o.data, "firn-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := &runner{options: o, settle: settle, servers: map[string]server{}, batches: map[Batch]*blast.Batches{}, results: &Results{Began: time.Now().UTC().Format(time.RFC3339)}}
	if err := r.prepare(ctx, dir, all); err != nil {
		return err
	}
	if err := r.rounds(ctx, all, dir); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "report:", filepath.Join(o.out, "report.md"))
	return nil
}

func (r *runner) prepare(ctx context.Context, dir string, all []*Workload) error {
	path, err := flights.Fetch(ctx)
	if err != nil {
		return err
	}
	input, err := flights.Read(path, 400_000, func(int) {})
	if err != nil {
		return err
	}
	rows := make([][]byte, len(input))
	for i := range input {
		rows[i] = input[i].AppendJSON(nil)
	}
	r.values = blast.Join(rows, valueSize, pool)
	r.results.Facts = machine(dir)
	if err := r.prepareServers(ctx, dir, all); err != nil {
		return err
	}
	return warm(dir, r.warm)
}

// prepareServers makes the workloads' servers. One that cannot be had here is
// reported, and the workloads go on without.
func (r *runner) prepareServers(ctx context.Context, dir string, all []*Workload) error {
	missing := map[string]error{}
	for _, w := range all {
		for _, name := range slices.Clone(w.Systems) {
			kind := findSystem(name).server
			if r.servers[kind] == nil && missing[kind] == nil {
				sv, err := newServer(ctx, kind, dir)
				switch {
				case errors.Is(err, errNotHere) && ctx.Err() == nil:
					missing[kind] = err
				case err != nil:
					return err
				default:
					r.servers[kind] = sv
					r.results.Facts = append(r.results.Facts, sv.facts()...)
				}
			}
			if err := missing[kind]; err != nil {
				w.without(name)
				r.results.Failures = append(r.results.Failures, Failure{w.Name, name, 0, err.Error()})
				fmt.Fprintf(os.Stderr, "%s, %s: skipped: %v\n", w.Name, name, err)
			}
		}
	}
	return nil
}

const (
	valueSize = 1024     // bytes of a record's value
	pool      = 32 << 20 // bytes of different values, in memory; batches are sent again and again
)

// encoded gives batches of the pool's values, made once.
func (r *runner) encoded(b Batch) (*blast.Batches, error) {
	if made := r.batches[b]; made != nil {
		return made, nil
	}
	made, err := blast.Encode(r.values, int(b.Size), record.Codec(b.Codec), time.Now().UnixMilli())
	if err == nil {
		r.batches[b] = made
	}
	return made, err
}

// plan is a workload and what is left to do of it.
type plan struct {
	*Workload
	measured *Measured
	left     []string // systems that did not fail
	last     time.Duration
}

// rounds makes round after round of all workloads until each has enough that
// count, was tried twice as often, or has no time left.
func (r *runner) rounds(ctx context.Context, all []*Workload, dir string) error {
	var plans []*plan
	r.results.Workloads = make([]Measured, len(all))
	for i, w := range all {
		r.results.Workloads[i] = Measured{Name: w.Name, About: w.About, Text: w.text, Systems: w.Systems, Must: w.Must}
		plans = append(plans, &plan{Workload: w, measured: &r.results.Workloads[i], left: slices.Clone(w.Systems)})
	}
	began := time.Now()
	for more := true; more; {
		more = false
		for _, p := range plans {
			m := p.measured
			late := r.limit > 0 && m.Rounds > 0 && time.Since(began)+p.last > r.limit
			if len(p.left) == 0 || late || m.Rounds-len(m.Dropped) >= r.options.rounds || m.Rounds >= 2*r.options.rounds {
				continue
			}
			more = true
			start := time.Now()
			if err := r.round(ctx, p, dir); err != nil {
				return err
			}
			p.last = time.Since(start)
			// After each, so that an aborted run leaves what it has.
			if err := r.write(); err != nil {
				return err
			}
		}
	}
	return nil
}

// round measures each system of a workload once.
func (r *runner) round(ctx context.Context, p *plan, dir string) error {
	m := p.measured
	m.Rounds++
	worst := 0.0
	for _, name := range p.Systems {
		if !slices.Contains(p.left, name) {
			continue
		}
		samples, err := r.trial(ctx, p.Workload, findSystem(name), dir, m.Rounds)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			p.left = slices.DeleteFunc(p.left, func(s string) bool { return s == name })
			r.results.Failures = append(r.results.Failures, Failure{p.Name, name, m.Rounds, err.Error()})
			fmt.Fprintf(os.Stderr, "%s, %s: %v\n", p.Name, name, err)
		}
		for _, s := range samples {
			worst = max(worst, s.Foreign)
			fmt.Fprintln(os.Stderr, line(s))
		}
		r.results.Samples = append(r.results.Samples, samples...)
	}
	if worst > r.foreign {
		m.Dropped = append(m.Dropped, m.Rounds)
	}
	m.Every = len(m.Dropped) == m.Rounds
	return nil
}

func (r *runner) trial(ctx context.Context, w *Workload, sys *system, dir string, round int) (samples []Sample, err error) {
	trialDir, err := os.MkdirTemp(dir, "round-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, empty(trialDir)) }()
	t := &trial{w: w, sys: sys, server: r.servers[sys.server], dir: trialDir, batches: r.encoded, values: r.values, settle: r.settle, round: round}
	t.profile = func(phase string) func() error {
		if r.profile == 0 || t.server.profile() == "" {
			return func() error { return nil }
		}
		file := fmt.Sprintf("%s-%s-%s-%d.pprof", w.Name, sys.name, strings.ReplaceAll(phase, " ", "-"), round)
		return saveProfile(ctx, t.server.profile(), r.profile, filepath.Join(r.out, "profiles", file))
	}
	err = t.run(ctx)
	return t.samples, err
}

// line is a sample for whoever watches.
func line(s Sample) string {
	b := fmt.Sprintf("%-24s round %d %-13s %-10s", s.Workload, s.Round, s.System, s.Phase)
	for _, m := range metrics {
		if v, ok := s.Values[m.key]; ok {
			b += fmt.Sprintf("  %s %.*f", m.key, m.decimals, v)
		}
	}
	return b + fmt.Sprintf("  foreign %.0f %%", 100*s.Foreign)
}

func (r *runner) write() error {
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r.results, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.out, "results.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return writeReport(r.results, r.out)
}
