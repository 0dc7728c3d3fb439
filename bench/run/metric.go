package main

import (
	"slices"
	"strings"
)

// metric is one figure of a measurement.
type metric struct {
	key      string // in workload files and results.json
	title    string
	unit     string
	decimals int
}

// metrics in the order in which reports show them.
var metrics = []metric{
	{"throughput", "throughput", "MB/s", 0},
	{"brokerCPU", "broker CPU", "s/GB", 2},
	{"driverCPU", "driver CPU", "s/GB", 2},
	{"storeCPU", "object store CPU", "s/GB", 2},
	{"ackP50", "acknowledged p50", "ms", 2},
	{"ackP99", "acknowledged p99", "ms", 2},
	{"ackP999", "acknowledged p99.9", "ms", 2},
	{"endP50", "end to end p50", "ms", 2},
	{"endP99", "end to end p99", "ms", 2},
	{"endP999", "end to end p99.9", "ms", 2},
	{"read", "read meanwhile", "MB/s", 0},
	{"seconds", "time", "s", 2},
	{"cpuSeconds", "CPU time", "s", 2},
	{"rss", "memory", "MiB", 0},
	{"peakRSS", "peak memory", "MiB", 0},
	{"retries", "writes not taken yet", "", 0},
}

func findMetric(key string) *metric {
	if i := slices.IndexFunc(metrics, func(m metric) bool { return m.key == key }); i >= 0 {
		return &metrics[i]
	}
	return nil
}

// Sample is what one phase of one round measured of one system.
type Sample struct {
	Workload string             `json:"workload"`
	System   string             `json:"system"`
	Round    int                `json:"round"` // from 1
	Phase    string             `json:"phase"`
	Values   map[string]float64 `json:"values"`          // by metric key
	Curve    []float64          `json:"curve,omitempty"` // latency in ms at each of quantiles
	Foreign  float64            `json:"foreign"`         // CPU of others, part of all cores
}

// quantiles of a Curve.
var quantiles = []float64{0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1}

// Failure is a system that could not be measured in a round.
type Failure struct {
	Workload string `json:"workload"`
	System   string `json:"system"`
	Round    int    `json:"round"`
	Error    string `json:"error"`
}

// Results is everything that a run measured, as results.json keeps it.
type Results struct {
	Began     string     `json:"began"`
	Facts     []Fact     `json:"facts"` // machine, versions, commands
	Workloads []Measured `json:"workloads"`
	Samples   []Sample   `json:"samples"`
	Failures  []Failure  `json:"failures,omitempty"`
}

// Fact is one line about the machine or a system.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Measured is a workload and how its rounds went.
type Measured struct {
	Name    string   `json:"name"`
	About   string   `json:"about"`
	Text    string   `json:"text"` // of its file
	Systems []string `json:"systems"`
	Must    []Goal   `json:"must,omitempty"`
	Rounds  int      `json:"rounds"`            // made
	Dropped []int    `json:"dropped,omitempty"` // those with too much foreign CPU
	Every   bool     `json:"every,omitempty"`   // all were dropped, so all are shown
}

// series gives the values of a metric by round. ref is SYSTEM or SYSTEM@PHASE;
// without a phase the last that was measured counts.
func (r *Results) series(w *Measured, key, ref string) map[int]float64 {
	system, phase, _ := strings.Cut(ref, "@")
	if phase == "" {
		if all := r.phases(w.Name, system); len(all) > 0 {
			phase = all[len(all)-1]
		}
	}
	values := map[int]float64{}
	for _, s := range r.Samples {
		if s.Workload != w.Name || s.System != system || s.Phase != phase || !w.counts(s.Round) {
			continue
		}
		if v, ok := s.Values[key]; ok {
			values[s.Round] = v
		}
	}
	return values
}

// counts says whether a round was not dropped.
func (w *Measured) counts(round int) bool { return w.Every || !slices.Contains(w.Dropped, round) }

// phases gives a system's phases in the order they were measured.
func (r *Results) phases(workload, system string) []string {
	var all []string
	for _, s := range r.Samples {
		if s.Workload == workload && s.System == system && !slices.Contains(all, s.Phase) {
			all = append(all, s.Phase)
		}
	}
	return all
}

// spread is a median with the least and the greatest value it was made of.
type spread struct {
	median, low, high float64
	n                 int
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return spread{mid, v[0], v[len(v)-1], len(v)}
}

func values(m map[int]float64) []float64 {
	var all []float64
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// ratios are those of two series in the rounds that have both.
func ratios(of, over map[int]float64) []float64 {
	var all []float64
	for round, v := range of {
		if d, ok := over[round]; ok && d != 0 {
			all = append(all, v/d)
		}
	}
	return all
}

// judge gives what a goal's figure is, and whether it is reached.
func (r *Results) judge(w *Measured, g Goal) (spread, bool) {
	got := spreadOf(values(r.series(w, g.Metric, g.Of)))
	if g.Over != "" {
		got = spreadOf(ratios(r.series(w, g.Metric, g.Of), r.series(w, g.Metric, g.Over)))
	}
	switch {
	case got.n == 0:
		return got, false
	case g.AtLeast != nil:
		return got, got.median >= *g.AtLeast
	default:
		return got, got.median <= *g.AtMost
	}
}
