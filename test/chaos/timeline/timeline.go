// Package timeline draws a chaos run: what was done to the brokers, who led
// each partition, and what each client got done meanwhile, over time.
package timeline

import (
	"bufio"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/test/chaos/history"
)

// Drawing collects what is to be drawn. It keeps counts per column of the
// picture, so its size does not depend on the history's length.
type Drawing struct {
	length  int64 // of the run, nanoseconds
	faults  []*bar
	open    map[int32]*bar
	keys    map[int32]*lane
	rows    []*row
	clients map[int32]*row
	marks   []mark
}

type bar struct {
	from, to int64
	text     string
	end      string
}

// lane is who led a partition.
type lane struct {
	name string
	led  []bar
	by   []int32
}

// row is what a client did, by column.
type row struct {
	name                     string
	good, bad, unknown, read [columns]int32
}

type mark struct {
	at   int64
	text string
}

const (
	columns   = 1000
	left      = 190 // pixels before the first column
	rowHeight = 18
	maxLanes  = 60
	maxMarks  = 200
)

// New begins a drawing of a run that took that long (nanoseconds).
func New(length int64) *Drawing {
	return &Drawing{length: max(length, 1), open: map[int32]*bar{}, keys: map[int32]*lane{}, clients: map[int32]*row{}}
}

// Event takes in an event. It has the form that history.Each wants.
func (d *Drawing) Event(_ int64, e *history.Event) error {
	switch e.Kind {
	case history.Client:
		d.clients[e.Process] = d.row(e.Text)
	case history.Partition:
		d.keys[e.Key] = &lane{name: fmt.Sprintf("%s-%d", e.Text, e.Number)}
	case history.Fault:
		b := &bar{from: e.Time, to: d.length, text: e.Text}
		d.faults = append(d.faults, b)
		d.open[e.Number] = b
	case history.Heal:
		if b := d.open[e.Number]; b != nil {
			b.to, b.end = e.Time, e.Text
			delete(d.open, e.Number)
		}
	case history.Leader:
		if l := d.keys[e.Key]; l != nil {
			if n := len(l.led); n > 0 {
				l.led[n-1].to = e.Time
			}
			l.led = append(l.led, bar{from: e.Time, to: d.length, text: fmt.Sprintf("%s: broker %d, epoch %d", l.name, e.Broker, e.Epoch)})
			l.by = append(l.by, e.Broker)
		}
	case history.Acked, history.Committed:
		d.count(e, func(r *row) *[columns]int32 { return &r.good }, 1)
	case history.Failed:
		d.count(e, func(r *row) *[columns]int32 { return &r.bad }, 1)
	case history.Unknown:
		d.count(e, func(r *row) *[columns]int32 { return &r.unknown }, 1)
	case history.Poll:
		d.count(e, func(r *row) *[columns]int32 { return &r.read }, int32(len(e.Records)))
	}
	return nil
}

// row gives the row of a client. Lives of one (NAME/1, NAME/2, …) share it.
func (d *Drawing) row(client string) *row {
	name, _, _ := strings.Cut(client, "/")
	for _, r := range d.rows {
		if r.name == name {
			return r
		}
	}
	r := &row{name: name}
	d.rows = append(d.rows, r)
	return r
}

func (d *Drawing) count(e *history.Event, of func(*row) *[columns]int32, n int32) {
	if r := d.clients[e.Process]; r != nil {
		of(r)[min(max(e.Time, 0)*columns/d.length, columns-1)] += n
	}
}

// Mark shows that something is wrong at a time (nanoseconds); the first 200 are
// drawn.
func (d *Drawing) Mark(at int64, text string) {
	if at >= 0 && len(d.marks) < maxMarks {
		d.marks = append(d.marks, mark{at, text})
	}
}

// WriteSVG writes the picture under a title.
func (d *Drawing) WriteSVG(to io.Writer, title string) error {
	w := &svg{Writer: bufio.NewWriter(to)}
	fault := d.stack()
	lanes := slices.Sorted(maps.Keys(d.keys))
	lanes = slices.DeleteFunc(lanes, func(k int32) bool { return len(d.keys[k].led) == 0 })
	lanes = lanes[:min(len(lanes), maxLanes)]
	slices.SortStableFunc(d.rows, func(a, b *row) int { return cmp.Compare(a.name, b.name) })
	height := 60 + rowHeight*(len(fault)+len(lanes)+len(d.rows))
	w.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`, left+columns+20, height)
	w.printf(`<rect width="100%%" height="100%%" fill="white"/><text x="8" y="16" font-size="13">%s</text>`, escape(title))
	for i := range 11 {
		x := left + i*columns/10
		w.printf(`<path d="M%d 36V%d" stroke="#ddd"/><text x="%d" y="32" fill="#666" text-anchor="middle">%s</text>`, x, height-8, x,
			(time.Duration(d.length) * time.Duration(i) / 10).Round(100*time.Millisecond))
	}
	y := 40
	for _, bars := range fault {
		for _, b := range bars {
			w.bar(d, b.from, b.to, y, "#e8a33d", b.text, b.text+": "+b.end)
		}
		y += rowHeight
	}
	for _, k := range lanes {
		l := d.keys[k]
		w.label(y, "leader of "+l.name)
		for i, b := range l.led {
			text, color := fmt.Sprint(l.by[i]), colors[max(int(l.by[i]), 0)%len(colors)]
			if l.by[i] < 0 {
				text, color = "none", "#444"
			}
			w.bar(d, b.from, b.to, y, color, text, b.text)
		}
		y += rowHeight
	}
	for _, r := range d.rows {
		w.label(y, r.name)
		w.row(r, y)
		y += rowHeight
	}
	for _, m := range d.marks {
		x := d.x(m.at)
		w.printf(`<path d="M%d 36V%d" stroke="#c00" stroke-width="1.5"><title>%s</title></path>`, x, height-8, escape(m.text))
	}
	w.printf("</svg>\n")
	if w.err != nil {
		return w.err
	}
	return w.Flush()
}

// stack puts faults into as few rows as hold them without overlap.
func (d *Drawing) stack() [][]*bar {
	var rows [][]*bar
	slices.SortStableFunc(d.faults, func(a, b *bar) int { return cmp.Compare(a.from, b.from) })
	for _, b := range d.faults {
		i := slices.IndexFunc(rows, func(r []*bar) bool { return r[len(r)-1].to < b.from })
		if i < 0 {
			i = len(rows)
			rows = append(rows, nil)
		}
		rows[i] = append(rows[i], b)
	}
	return rows
}

func (d *Drawing) x(at int64) int { return left + int(min(max(at, 0), d.length)*columns/d.length) }

// colors are those of brokers, by id.
var colors = [...]string{"#bbb", "#6baed6", "#74c476", "#fd8d3c", "#9e9ac8", "#fdd049", "#f768a1", "#41b6c4", "#c49c94"}

type svg struct {
	*bufio.Writer
	err error
}

func (w *svg) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(w.Writer, format, args...); err != nil && w.err == nil {
		w.err = err
	}
}

func (w *svg) label(y int, text string) {
	w.printf(`<text x="%d" y="%d" text-anchor="end">%s</text>`, left-6, y+13, escape(text))
}

func (w *svg) bar(d *Drawing, from, to int64, y int, color, text, title string) {
	x, width := d.x(from), max(d.x(to)-d.x(from), 2)
	w.printf(`<g><title>%s</title><rect x="%d" y="%d" width="%d" height="%d" fill="%s" stroke="white"/>`, escape(title), x, y+1, width, rowHeight-2, color)
	if fits := width / 6; fits > 0 {
		if len(text) > fits {
			text = strings.ToValidUTF8(text[:fits], "")
		}
		w.printf(`<text x="%d" y="%d">%s</text>`, x+2, y+13, escape(text))
	}
	w.printf(`</g>`)
}

// row draws what a client did: green what was acknowledged, blue what it read,
// red what was refused, grey what nobody knows; the darker the more.
func (w *svg) row(r *row, y int) {
	for _, kind := range []struct {
		n     *[columns]int32
		color string
		top   int
	}{{&r.good, "#238b45", 1}, {&r.read, "#2171b5", 1}, {&r.unknown, "#777", 7}, {&r.bad, "#cb181d", 12}} {
		most := slices.Max(kind.n[:])
		for x, n := range kind.n {
			if n > 0 {
				w.printf(`<rect x="%d" y="%d" width="1" height="%d" fill="%s" fill-opacity="%.2f"/>`, left+x, y+kind.top, rowHeight-1-kind.top, kind.color, 0.3+0.7*float64(n)/float64(most))
			}
		}
	}
}

func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}
