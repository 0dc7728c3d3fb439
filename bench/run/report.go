package main

import (
	"errors"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// page is a report as blocks, which both forms are written from.
type page struct{ blocks []block }

// block is one of a heading, a paragraph, a table, a picture and a piece of
// code.
type block struct {
	heading string
	level   int
	text    string
	table   [][]string // the first row is its head
	picture string     // SVG
	alt     string     // the picture's title, and the name of its file
	code    string
}

func (p *page) add(b block) { p.blocks = append(p.blocks, b) }

// writeReport writes report.md with the plots beside it, and report.html with
// everything in it.
func writeReport(r *Results, out string) error {
	p := r.page()
	plots := filepath.Join(out, "plots")
	if err := os.MkdirAll(plots, 0o755); err != nil {
		return err
	}
	for _, b := range p.blocks {
		if b.picture == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(plots, fileName(b.alt)), []byte(b.picture), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(out, "report.md"), []byte(p.markdown()), 0o644),
		os.WriteFile(filepath.Join(out, "report.html"), []byte(p.html()), 0o644))
}

func fileName(title string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, title) + ".svg"
}

func (r *Results) page() *page {
	p := &page{}
	p.add(block{heading: "Bench", level: 1})
	p.add(block{text: "Begun " + r.Began + ". Figures are medians over the rounds that count, with the least and the greatest; a ratio is the median of the ratios within each round. MB and GB are 10⁶ and 10⁹ bytes of record batches before compression. Broker and driver share the machine."})
	if goals := r.goals(); len(goals) > 1 {
		p.add(block{heading: "What must be reached", level: 2})
		p.add(block{table: goals})
	}
	if len(r.Failures) > 0 {
		p.add(block{heading: "What could not be measured", level: 2})
		t := [][]string{{"workload", "system", "round", "why"}}
		for _, f := range r.Failures {
			why, _, _ := strings.Cut(f.Error, "\n")
			t = append(t, []string{f.Workload, f.System, strconv.Itoa(f.Round), why})
		}
		p.add(block{table: t})
	}
	for _, key := range []string{"throughput", "brokerCPU", "peakRSS"} {
		if bars := r.bars(key); len(bars) > 0 {
			m := findMetric(key)
			p.add(block{picture: barChart(m.title+", "+m.unit, bars), alt: m.title})
		}
	}
	for i := range r.Workloads {
		if r.Workloads[i].Rounds > 0 {
			r.workload(p, &r.Workloads[i])
		}
	}
	p.add(block{heading: "Machine, versions and configs", level: 2})
	t := [][]string{{"", ""}}
	for _, f := range r.Facts {
		t = append(t, []string{f.Name, f.Value})
	}
	p.add(block{table: t})
	t = [][]string{{"system", "", "topics"}}
	for _, s := range systems {
		var configs []string
		for k, v := range s.topic {
			configs = append(configs, k+"="+v)
		}
		slices.Sort(configs)
		t = append(t, []string{s.name, s.about, strings.Join(configs, " ")})
	}
	p.add(block{table: t})
	for _, w := range r.Workloads {
		p.add(block{heading: w.Name + ".yaml", level: 3})
		p.add(block{code: w.Text})
	}
	return p
}

func (r *Results) workload(p *page, w *Measured) {
	p.add(block{heading: w.Name, level: 2})
	rounds := strconv.Itoa(w.Rounds) + " rounds"
	if w.Rounds == 1 {
		rounds = "1 round"
	}
	switch {
	case w.Every:
		rounds += ", **all of them disturbed: others took too much CPU. All are shown, and none proves anything**"
	case len(w.Dropped) > 0:
		rounds += fmt.Sprintf(", %d of them dropped because others took too much CPU", len(w.Dropped))
	}
	p.add(block{text: w.About + " (" + rounds + ".)"})
	p.add(block{table: r.figures(w)})
	if t := r.ratioTable(w); len(t) > 1 {
		p.add(block{table: t})
	}
	if lines := r.curves(w); len(lines) > 0 {
		p.add(block{picture: curveChart("latency, ms, by quantile: "+w.Name, lines), alt: "latency " + w.Name})
	}
}

// shown are the metrics that any sample of the workload has.
func (r *Results) shown(w *Measured) []metric {
	var some []metric
	for _, m := range metrics {
		if slices.ContainsFunc(r.Samples, func(s Sample) bool { _, ok := s.Values[m.key]; return s.Workload == w.Name && ok }) {
			some = append(some, m)
		}
	}
	return some
}

// figures has a row for each system and phase.
func (r *Results) figures(w *Measured) [][]string {
	shown := r.shown(w)
	head := []string{"system", "phase"}
	for _, m := range shown {
		head = append(head, strings.TrimSuffix(m.title+", "+m.unit, ", "))
	}
	t := [][]string{append(head, "CPU of others, %")}
	for _, sys := range w.Systems {
		for _, phase := range r.phases(w.Name, sys) {
			row := []string{sys, phase}
			for _, m := range shown {
				row = append(row, spreadOf(values(r.series(w, m.key, sys+"@"+phase))).text(m.decimals))
			}
			t = append(t, append(row, strconv.FormatFloat(100*r.foreign(w, sys, phase), 'f', 0, 64)))
		}
	}
	return t
}

// foreign is the greatest part that others had of the CPU in a round that
// counts.
func (r *Results) foreign(w *Measured, sys, phase string) float64 {
	worst := 0.0
	for _, s := range r.Samples {
		if s.Workload == w.Name && s.System == sys && s.Phase == phase && w.counts(s.Round) {
			worst = max(worst, s.Foreign)
		}
	}
	return worst
}

func (s spread) text(decimals int) string {
	switch s.n {
	case 0:
		return "–"
	case 1:
		return strconv.FormatFloat(s.median, 'f', decimals, 64)
	default:
		return fmt.Sprintf("%.*f (%.*f–%.*f)", decimals, s.median, decimals, s.low, decimals, s.high)
	}
}

// compared are the metrics of which ratios say something.
var compared = []string{"throughput", "brokerCPU", "ackP99", "endP50", "endP99", "seconds", "cpuSeconds", "rss", "peakRSS"}

// ratioTable sets each system of Firn over each that is not.
func (r *Results) ratioTable(w *Measured) [][]string {
	isFirn := func(s string) bool { return strings.HasPrefix(s, "firn") }
	var shown []metric
	head := []string{"last phase"}
	for _, m := range r.shown(w) {
		if slices.Contains(compared, m.key) {
			shown = append(shown, m)
			head = append(head, m.title)
		}
	}
	t := [][]string{head}
	for _, of := range w.Systems {
		for _, over := range w.Systems {
			if of == over || isFirn(over) || !isFirn(of) {
				continue
			}
			row := []string{of + " / " + over}
			for _, m := range shown {
				row = append(row, spreadOf(ratios(r.series(w, m.key, of), r.series(w, m.key, over))).text(2))
			}
			t = append(t, row)
		}
	}
	return t
}

func (r *Results) goals() [][]string {
	t := [][]string{{"workload", "what", "must", "is", ""}}
	for i := range r.Workloads {
		w := &r.Workloads[i]
		for _, g := range w.Must {
			m := findMetric(g.Metric)
			what, decimals := m.title+" of "+g.Of, m.decimals
			if g.Over != "" {
				what, decimals = what+" / "+g.Over, 2
			} else if m.unit != "" {
				what += ", " + m.unit
			}
			got, reached := r.judge(w, g)
			verdict := "reached"
			switch {
			case got.n == 0:
				verdict = "not measured"
			case !reached:
				verdict = "**falls short**"
			}
			bound := ""
			if g.AtLeast != nil {
				bound = "≥ " + strconv.FormatFloat(*g.AtLeast, 'f', -1, 64)
			} else {
				bound = "≤ " + strconv.FormatFloat(*g.AtMost, 'f', -1, 64)
			}
			if w.Every && got.n > 0 {
				verdict += ", but disturbed"
			}
			t = append(t, []string{w.Name, what, bound, got.text(decimals), verdict})
		}
	}
	return t
}

// bars gives a metric of each system's last phase, by workload.
func (r *Results) bars(key string) []barGroup {
	var groups []barGroup
	for i := range r.Workloads {
		w := &r.Workloads[i]
		g := barGroup{label: w.Name}
		for _, sys := range w.Systems {
			if s := spreadOf(values(r.series(w, key, sys))); s.n > 0 {
				g.bars = append(g.bars, bar{sys, s})
			}
		}
		if len(g.bars) > 0 {
			groups = append(groups, g)
		}
	}
	return groups
}

// curves are the medians over the rounds of the last phases' latencies.
func (r *Results) curves(w *Measured) []curve {
	var all []curve
	for _, sys := range w.Systems {
		phases := r.phases(w.Name, sys)
		if len(phases) == 0 {
			continue
		}
		points := make([][]float64, len(quantiles))
		for _, s := range r.Samples {
			if s.Workload == w.Name && s.System == sys && s.Phase == phases[len(phases)-1] && w.counts(s.Round) {
				for i, v := range s.Curve {
					points[i] = append(points[i], v)
				}
			}
		}
		if len(points[0]) == 0 {
			continue
		}
		c := curve{label: sys}
		for _, p := range points {
			c.values = append(c.values, spreadOf(p).median)
		}
		all = append(all, c)
	}
	return all
}

func (p *page) markdown() string {
	var b strings.Builder
	for _, k := range p.blocks {
		switch {
		case k.heading != "":
			fmt.Fprintf(&b, "%s %s\n\n", strings.Repeat("#", k.level), k.heading)
		case k.table != nil:
			for i, row := range k.table {
				fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
				if i == 0 {
					b.WriteString("|" + strings.Repeat("---|", len(row)) + "\n")
				}
			}
			b.WriteString("\n")
		case k.picture != "":
			fmt.Fprintf(&b, "![%s](plots/%s)\n\n", k.alt, fileName(k.alt))
		case k.code != "":
			fmt.Fprintf(&b, "```yaml\n%s```\n\n", k.code)
		default:
			b.WriteString(k.text + "\n\n")
		}
	}
	return b.String()
}

const style = `body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;font-size:13px}td,th{border:1px solid #ddd;padding:3px 8px;text-align:left;vertical-align:top}
th{background:#f4f4f4}pre{background:#f7f7f7;padding:1em;overflow:auto}`

func (p *page) html() string {
	var b strings.Builder
	b.WriteString("<!doctype html>\n<meta charset=\"utf-8\">\n<title>Firn: bench</title>\n<style>" + style + "</style>\n")
	for _, k := range p.blocks {
		switch {
		case k.heading != "":
			fmt.Fprintf(&b, "<h%d>%s</h%d>\n", k.level, html.EscapeString(k.heading), k.level)
		case k.table != nil:
			b.WriteString("<table>\n")
			for i, row := range k.table {
				cell := "td"
				if i == 0 {
					cell = "th"
				}
				b.WriteString("<tr>")
				for _, v := range row {
					fmt.Fprintf(&b, "<%s>%s</%s>", cell, bold(v), cell)
				}
				b.WriteString("</tr>\n")
			}
			b.WriteString("</table>\n")
		case k.picture != "":
			b.WriteString(k.picture + "\n")
		case k.code != "":
			fmt.Fprintf(&b, "<pre>%s</pre>\n", html.EscapeString(k.code))
		default:
			fmt.Fprintf(&b, "<p>%s</p>\n", bold(k.text))
		}
	}
	return b.String()
}

// bold turns a text with **words** into HTML.
func bold(s string) string {
	parts := strings.Split(html.EscapeString(s), "**")
	for i := 1; i < len(parts)-1; i += 2 {
		parts[i] = "<b>" + parts[i] + "</b>"
	}
	return strings.Join(parts, "")
}
