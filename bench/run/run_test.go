package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/firnlog/firn/record"
)

// The workloads of the checkout are whole, and each has a name of its own.
func TestWorkloadFiles(t *testing.T) {
	files, err := filepath.Glob("../workloads/*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d workload files: %v", len(files), err)
	}
	names := map[string]string{}
	for _, f := range files {
		w, err := readWorkload(f)
		if err != nil {
			t.Error(err)
			continue
		}
		if other := names[w.Name]; other != "" {
			t.Errorf("%s and %s have the same name", f, other)
		}
		names[w.Name] = f
		if w.About == "" {
			t.Errorf("%s says nothing about itself", f)
		}
	}
}

func TestWorkloadIsRead(t *testing.T) {
	w, err := write(t, `
name: x
about: some
systems: [ideal, firn]
partitions: 3
produce: {batch: {size: 16KiB, codec: zstd}, connections: 2, inFlight: 5, acks: -1, bytes: 1.5GB, passes: 2}
must:
  - {metric: throughput, of: firn@pass 1, over: ideal, atLeast: 0.5}
`)
	if err != nil {
		t.Fatal(err)
	}
	if w.Produce.Batch != (Batch{16 << 10, Codec(record.Zstd)}) || w.Produce.Bytes != 1_500_000_000 {
		t.Errorf("%+v", w.Produce)
	}
	if _, ok := w.step().(*Produce); !ok {
		t.Errorf("the step is %T", w.step())
	}
}

func TestWrongWorkloadsAreRefused(t *testing.T) {
	const good = "name: x\nsystems: [firn]\npartitions: 1\nidle: {batch: {size: 16KiB}, load: 1MB, for: 1s}\n"
	if _, err := write(t, good); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"is not a size":    strings.Replace(good, "1MB", "1MiBB", 1),
		"no system":        strings.Replace(good, "[firn]", "[fern]", 1),
		"partitions":       strings.Replace(good, "partitions: 1", "partitions: 0", 1),
		"one of produce":   good + "start: {batch: {size: 16KiB}, load: 1MB, after: stop}\n",
		"not found":        good + "idel: {}\n",
		"no metric":        good + "must: [{metric: speed, of: firn, atLeast: 1}]\n",
		"does not":         good + "must: [{metric: rss, of: firn, over: kafka, atLeast: 1}]\n",
		"atLeast":          good + "must: [{metric: rss, of: firn}]\n",
		"not none, lz4":    strings.Replace(good, "16KiB", "16KiB, codec: gzip", 1),
		"for produce only": strings.Replace(good, "[firn]", "[nats]", 1),
		"for Firn only":    "name: x\nsystems: [kafka]\npartitions: 1\ncold: {batch: {size: 1MiB}, load: 8MiB, maxBytes: 1MiB, streams: 1}\n",
		"with a delay":     "name: x\nsystems: [firn]\npartitions: 1\ncold: {batch: {size: 1MiB}, load: 8MiB, maxBytes: 1MiB, streams: 1, delay: 1s}\n",
		"name is missing":  strings.Replace(good, "name: x", "name: x y", 1),
	} {
		if _, err := write(t, text); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("want an error with %q, got %v", what, err)
		}
	}
}

func write(t *testing.T, text string) (*Workload, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "w.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return readWorkload(path)
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		in   []float64
		want spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{3, 3, 3, 1}},
		{[]float64{9, 1, 5}, spread{5, 1, 9, 3}},
		{[]float64{4, 1, 2, 9}, spread{3, 1, 9, 4}},
	} {
		if got := spreadOf(test.in); got != test.want {
			t.Errorf("%v: %v, want %v", test.in, got, test.want)
		}
	}
}

// results of two systems over three rounds, of which the second is dropped and
// the third lacks a system.
func example() *Results {
	sample := func(system string, round int, phase string, mbs float64) Sample {
		return Sample{Workload: "w", System: system, Round: round, Phase: phase, Values: map[string]float64{"throughput": mbs}, Curve: []float64{0.5, 0.6, 0.7, 0.8, 0.9, 1, 2, 3, 4, 50}}
	}
	half := 0.5
	return &Results{
		Workloads: []Measured{{Name: "w", About: "An example.", Text: "name: w\n", Systems: []string{"ideal", "firn"}, Rounds: 4, Dropped: []int{2},
			Must: []Goal{{Metric: "throughput", Of: "firn", Over: "ideal", AtLeast: &half}, {Metric: "throughput", Of: "firn", AtMost: &half}, {Metric: "rss", Of: "firn", AtMost: &half}}}},
		Samples: []Sample{
			sample("ideal", 1, "pass 1", 1), sample("ideal", 1, "pass 2", 1000), sample("firn", 1, "pass 1", 2), sample("firn", 1, "pass 2", 600),
			sample("ideal", 2, "pass 2", 10), sample("firn", 2, "pass 2", 1),
			sample("ideal", 3, "pass 2", 2000),
			sample("ideal", 4, "pass 2", 500), sample("firn", 4, "pass 2", 400),
		},
		Failures: []Failure{{"w", "firn", 3, "it ended\nand more"}},
		Facts:    []Fact{{"CPU", "2 <fast>"}},
	}
}

// A ratio is that within a round: medians of the two would give 500/1000.
func TestRatiosAreOfTheSameRound(t *testing.T) {
	r := example()
	w := &r.Workloads[0]
	got, reached := r.judge(w, w.Must[0])
	if !near(got.median, 0.7) || !near(got.low, 0.6) || !near(got.high, 0.8) || got.n != 2 || !reached {
		t.Errorf("%+v, reached %v", got, reached)
	}
	if got, reached := r.judge(w, w.Must[1]); got.median != 500 || reached {
		t.Errorf("%+v, reached %v", got, reached)
	}
	if got, reached := r.judge(w, w.Must[2]); got.n != 0 || reached {
		t.Errorf("what was not measured: %+v, reached %v", got, reached)
	}
	if got := spreadOf(values(r.series(w, "throughput", "firn@pass 1"))); got.median != 2 {
		t.Errorf("of a phase: %+v", got)
	}
	w.Every = true
	if got, _ := r.judge(w, w.Must[0]); got.n != 3 || !near(got.low, 0.1) {
		t.Errorf("with all rounds: %+v", got)
	}
}

func TestReport(t *testing.T) {
	dir := t.TempDir()
	if err := writeReport(example(), dir); err != nil {
		t.Fatal(err)
	}
	for file, wants := range map[string][]string{
		"report.md": {
			"| w | throughput of firn / ideal | ≥ 0.5 | 0.70 (0.60–0.80) | reached |",
			"| w | throughput of firn, MB/s | ≤ 0.5 | 500 (400–600) | **falls short** |",
			"| w | memory of firn, MiB | ≤ 0.5 | – | not measured |",
			"| w | firn | 3 | it ended |",
			"| ideal | pass 2 | 1000 (500–2000) | 0 |",
			"| firn | pass 1 | 2 | 0 |",
			"| firn / ideal | 0.70 (0.60–0.80) |",
			"4 rounds, 1 of them dropped",
			"(plots/throughput.svg)", "(plots/latency-w.svg)", "```yaml\nname: w\n```",
		},
		"report.html":          {"<b>falls short</b>", "<svg", "2 &lt;fast&gt;"},
		"plots/throughput.svg": {">1000</text>", ">500</text>"},
		"plots/latency-w.svg":  {"<polyline", "99.9 %"},
	} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, want := range wants {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s lacks %q:\n%s", file, want, b)
			}
		}
	}
}

func TestProcFiles(t *testing.T) {
	cpu, err := parseAllCPU([]byte("cpu  100 20 300 4000 50 6 7 80 9 10\ncpu0 1 2 3\n"))
	if err != nil || !near(cpu, 5) {
		t.Errorf("%v CPU seconds, %v; want user, nice, system and steal: 5", cpu, err)
	}
	for _, bad := range []string{"", "cpu 1 2", "intr 1 2 3 4 5 6 7 8 9"} {
		if _, err := parseAllCPU([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	m, err := begin([]int{os.Getpid()}, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	u, err := m.end()
	if err != nil || u.peakRSS <= 0 || u.broker < 0 {
		t.Errorf("%+v, %v", u, err)
	}
}
