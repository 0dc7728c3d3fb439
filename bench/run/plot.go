package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

type barGroup struct {
	label string
	bars  []bar
}

type bar struct {
	label string
	spread
}

// curve has a value for each of quantiles.
type curve struct {
	label  string
	values []float64
}

// colours of systems, the same in every plot.
var colours = []string{"#9aa0a6", "#c5c9cd", "#5f6368", "#1a73e8", "#f29900", "#d93025", "#188038", "#8430ce"}

func colour(name string) string {
	i := slices.IndexFunc(systems, func(s system) bool { return s.name == name })
	return colours[max(i, 0)%len(colours)]
}

const chartWidth = 900

func svg(height int, body string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12" fill="#222"><rect width="%d" height="%d" fill="#fff"/>%s</svg>`,
		chartWidth, height, chartWidth, height, chartWidth, height, body)
}

func text(x, y float64, anchor, s string) string {
	return fmt.Sprintf(`<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, html.EscapeString(s))
}

// barChart draws a horizontal bar for each system of each group, with a line
// from the least to the greatest value.
func barChart(title string, groups []barGroup) string {
	const left, right, height, gap = 330.0, 820.0, 16.0, 12.0
	greatest := 0.0
	for _, g := range groups {
		for _, b := range g.bars {
			greatest = max(greatest, b.high)
		}
	}
	x := func(v float64) float64 { return left + (right-left)*v/max(greatest, 1e-9) }
	var s strings.Builder
	s.WriteString(`<g font-size="15">` + text(10, 22, "start", title) + `</g>`)
	y := 40.0
	for _, g := range groups {
		s.WriteString(`<g font-weight="bold">` + text(10, y+12, "start", g.label) + `</g>`)
		for _, b := range g.bars {
			s.WriteString(text(left-8, y+12, "end", b.label))
			fmt.Fprintf(&s, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, left, y, x(b.median)-left, height-3, colour(b.label))
			fmt.Fprintf(&s, `<path d="M%.1f %.1fH%.1f" stroke="#222"/>`, x(b.low), y+(height-3)/2, x(b.high))
			s.WriteString(text(x(b.high)+6, y+11, "start", number(b.median)))
			y += height
		}
		y += gap
	}
	return svg(int(y), s.String())
}

// number has three digits that count.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// curveChart draws values over quantiles, with nines evenly apart (as
// HdrHistogram plots are) and values by their logarithm.
func curveChart(title string, lines []curve) string {
	const left, right, top, bottom = 70.0, 720.0, 40.0, 320.0
	least, greatest := math.Inf(1), 0.0
	for _, l := range lines {
		for _, v := range l.values {
			if v > 0 {
				least, greatest = min(least, v), max(greatest, v)
			}
		}
	}
	if greatest == 0 {
		return svg(int(bottom), text(10, 22, "start", title+": nothing was measured"))
	}
	low, high := math.Floor(math.Log10(least)), math.Ceil(math.Log10(greatest))
	high = max(high, low+1)
	y := func(v float64) float64 {
		return bottom - (bottom-top)*(math.Log10(max(v, math.Pow(10, low)))-low)/(high-low)
	}
	const maximum = 3.6 // where the greatest value stands, beyond three nines
	x := func(q float64) float64 {
		nines := maximum
		if q < 1 {
			nines = -math.Log10(1 - q)
		}
		return left + (right-left)*nines/maximum
	}
	var s strings.Builder
	s.WriteString(`<g font-size="15">` + text(10, 22, "start", title) + `</g>`)
	for e := low; e <= high; e++ {
		v := math.Pow(10, e)
		fmt.Fprintf(&s, `<path d="M%.1f %.1fH%.1f" stroke="#ddd"/>`, left, y(v), right)
		s.WriteString(text(left-6, y(v)+4, "end", fmt.Sprintf("%g", v)))
	}
	for _, tick := range []struct {
		q    float64
		name string
	}{{0.5, "50 %"}, {0.9, "90 %"}, {0.99, "99 %"}, {0.999, "99.9 %"}, {1, "max"}} {
		s.WriteString(text(x(tick.q), bottom+18, "middle", tick.name))
	}
	for i, l := range lines {
		var path strings.Builder
		for j, v := range l.values {
			fmt.Fprintf(&path, "%.1f,%.1f ", x(quantiles[j]), y(v))
		}
		fmt.Fprintf(&s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`, path.String(), colour(l.label))
		at := top + 10 + 18*float64(i)
		fmt.Fprintf(&s, `<path d="M%.1f %.1fh20" stroke="%s" stroke-width="3"/>`, right+20, at-4, colour(l.label))
		s.WriteString(text(right+46, at, "start", l.label))
	}
	return svg(int(bottom)+30, s.String())
}
