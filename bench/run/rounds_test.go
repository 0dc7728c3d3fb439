package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/firnlog/firn/bench/blast"
)

// tiny has every step that the bare server can do, at a size that takes no
// time.
const tiny = `
name: produce
partitions: 2
produce: {batch: {size: 16KiB, codec: lz4}, connections: 2, inFlight: 2, acks: -1, bytes: 200KB, passes: 2}
---
name: tail
partitions: 1
tail: {batch: {size: 16KiB}, load: 200KB, consumers: 2, maxBytes: 50KB, bytes: 1MB}
---
name: latency
partitions: 2
openLoop: {batch: {size: 16KiB}, acks: 1, rate: 2MB, for: 200ms, settle: 50ms}
---
name: catchup
partitions: 2
catchUp: {batch: {size: 16KiB}, acks: -1, rate: 2MB, for: 200ms, settle: 50ms, backlog: 3MB}
---
name: many
partitions: 200
many: {trickle: {batch: {size: 4KiB}, acks: -1, rate: 2MB, for: 200ms, settle: 50ms}, batch: {size: 16KiB}, connections: 2, inFlight: 2, bytes: 1MB}
---
name: idle
partitions: 1
idle: {batch: {size: 16KiB}, load: 100KB, for: 50ms}
`

func testRunner(t *testing.T, o options) (*runner, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(root) // where build finds the packages
	var rows [][]byte
	for i := range 60_000 {
		rows = append(rows, fmt.Appendf(nil, `{"row":%d,"next":%d}`, i, i+1))
	}
	o.out = filepath.Join(dir, "out")
	r := &runner{options: o, settle: func(string, int64) error { return nil }, servers: map[string]server{}, batches: map[Batch]*blast.Batches{}, values: blast.Join(rows, valueSize, pool), results: &Results{}}
	if r.servers["ideal"], err = newServer(t.Context(), "ideal", dir); err != nil {
		t.Fatal(err)
	}
	return r, dir
}

func tinyWorkloads(t *testing.T) []*Workload {
	t.Helper()
	var all []*Workload
	for _, text := range strings.Split(tiny, "---") {
		w, err := write(t, "systems: [ideal, ideal-synced]\n"+text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	return all
}

func TestRounds(t *testing.T) {
	r, dir := testRunner(t, options{rounds: 2, foreign: 1000})
	if err := r.rounds(t.Context(), tinyWorkloads(t), dir); err != nil {
		t.Fatal(err)
	}
	for _, f := range r.results.Failures {
		t.Errorf("%s, %s: %s", f.Workload, f.System, f.Error)
	}
	phases := map[string]string{"produce": "pass 1,pass 2", "tail": "read", "latency": "open loop", "catchup": "alone,catching up", "many": "created,first write,trickle,100 partitions,200 partitions", "idle": "idle"}
	want := map[string]string{"produce": "throughput brokerCPU driverCPU ackP999 peakRSS", "tail": "throughput brokerCPU", "latency": "ackP50 endP50 endP999", "catchup": "endP99 read", "many": "throughput ackP99", "idle": "rss cpuSeconds"}
	for i := range r.results.Workloads {
		w := &r.results.Workloads[i]
		if w.Rounds != 2 || len(w.Dropped) != 0 {
			t.Errorf("%s: %d rounds, dropped %v", w.Name, w.Rounds, w.Dropped)
		}
		for _, sys := range w.Systems {
			if got := strings.Join(r.results.phases(w.Name, sys), ","); got != phases[w.Name] {
				t.Errorf("%s, %s: phases %s, want %s", w.Name, sys, got, phases[w.Name])
			}
			for _, key := range strings.Fields(want[w.Name]) {
				if got := r.results.series(w, key, sys); len(got) != 2 {
					t.Errorf("%s, %s: %d values of %s, want 2", w.Name, sys, len(got), key)
				}
			}
		}
	}
	// A B A B, and one round of each workload after the other.
	var order []string
	for _, s := range r.results.Samples {
		if next := fmt.Sprint(s.Workload, s.Round, s.System); len(order) == 0 || order[len(order)-1] != next {
			order = append(order, next)
		}
	}
	if first := []string{"produce1ideal", "produce1ideal-synced", "tail1ideal"}; len(order) < 13 || !slices.Equal(order[:3], first) || order[12] != "produce2ideal" {
		t.Errorf("the order is %v", order)
	}
	for _, file := range []string{"report.md", "report.html", "results.json"} {
		if _, err := os.Stat(filepath.Join(r.out, file)); err != nil {
			t.Error(err)
		}
	}
	left := int64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(path, "round-") && d.Type().IsRegular() {
			st, statErr := d.Info()
			left, err = left+st.Size(), statErr
		}
		return err
	})
	if err != nil || left > 0 {
		t.Errorf("%d bytes of brokers are left, %v", left, err)
	}
}

// Rounds that others disturbed are made again, twice as many at most, and if
// there are no others they are shown and said to be.
func TestDisturbedRounds(t *testing.T) {
	r, dir := testRunner(t, options{rounds: 2, foreign: -1})
	if err := r.rounds(t.Context(), tinyWorkloads(t)[:1], dir); err != nil {
		t.Fatal(err)
	}
	w := &r.results.Workloads[0]
	if w.Rounds != 4 || len(w.Dropped) != 4 || !w.Every {
		t.Errorf("%+v", w)
	}
	if got := r.results.series(w, "throughput", "ideal"); len(got) != 4 {
		t.Errorf("%d values are shown, want 4", len(got))
	}
}

// A system that fails is reported, its process is gone, and the others go on.
func TestAFailingSystem(t *testing.T) {
	r, dir := testRunner(t, options{rounds: 2, foreign: 1000})
	w, err := write(t, "name: x\nsystems: [ideal, kafka]\npartitions: 1\nidle: {batch: {size: 16KiB}, load: 1KB, for: 1ms}\n")
	if err != nil {
		t.Fatal(err)
	}
	r.servers["kafka"] = broken{r.servers["ideal"]}
	if err := r.rounds(t.Context(), []*Workload{w}, dir); err != nil {
		t.Fatal(err)
	}
	if f := r.results.Failures; len(f) != 1 || f[0].System != "kafka" || !strings.Contains(f[0].Error, "flag provided but not defined") {
		t.Errorf("failures: %+v", f)
	}
	if got := r.results.series(&r.results.Workloads[0], "rss", "ideal"); len(got) != 2 {
		t.Errorf("the other was measured %d times, want 2", len(got))
	}
}

// broken is a server that ends at once.
type broken struct{ server }

func (b broken) command(dir string) ([]string, error) {
	args, err := b.server.command(dir)
	return append(args, "-nonsense"), err
}

func TestTimeLimit(t *testing.T) {
	r, dir := testRunner(t, options{rounds: 5, foreign: 1000, limit: time.Nanosecond})
	if err := r.rounds(t.Context(), tinyWorkloads(t)[:2], dir); err != nil {
		t.Fatal(err)
	}
	for _, w := range r.results.Workloads {
		if w.Rounds != 1 {
			t.Errorf("%s: %d rounds, want the one that each gets", w.Name, w.Rounds)
		}
	}
}

func TestProcessEndsWithItsTrial(t *testing.T) {
	r, dir := testRunner(t, options{})
	p, err := startProcess(t.Context(), r.servers["ideal"], filepath.Join(dir, "p"))
	if err != nil {
		t.Fatal(err)
	}
	pid := p.pids()[0]
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d after its stop: %v", pid, err)
	}
	p.kill() // of what is gone does nothing
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := startProcess(ctx, r.servers["ideal"], filepath.Join(dir, "q")); !errors.Is(err, context.Canceled) {
		t.Errorf("a start that was called off: %v", err)
	}
}

// firnRound runs workloads once with Firn.
func firnRound(t *testing.T, texts ...string) *runner {
	t.Helper()
	r, dir := testRunner(t, options{rounds: 1, foreign: 1000})
	var err error
	if r.servers["firn"], err = newServer(t.Context(), "firn", dir); err != nil {
		t.Fatal(err)
	}
	var all []*Workload
	for _, text := range texts {
		w, err := write(t, text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	if err := r.rounds(t.Context(), all, dir); err != nil {
		t.Fatal(err)
	}
	for _, f := range r.results.Failures {
		t.Errorf("%s, %s: %s", f.Workload, f.System, f.Error)
	}
	return r
}

// A start is measured until all partitions took a write, after a stop and
// after a kill with as much in the journal as was asked for.
func TestStart(t *testing.T) {
	r := firnRound(t,
		"name: stop\nsystems: [firn]\npartitions: 5\nstart: {batch: {size: 64KiB}, load: 1MB, after: stop}\n",
		"name: kill\nsystems: [firn-synced]\npartitions: 5\nstart: {batch: {size: 64KiB}, load: 1MB, window: 8MiB, after: kill}\n",
	)
	for i := range r.results.Workloads {
		w := &r.results.Workloads[i]
		for _, key := range []string{"seconds", "cpuSeconds"} {
			if got := r.results.series(w, key, w.Systems[0]); got[1] <= 0 {
				t.Errorf("%s: %s is %v", w.Name, key, got)
			}
		}
	}
}
