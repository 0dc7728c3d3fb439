package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

func isTerminal(fd int) bool { return term.IsTerminal(fd) }

// printJSON writes v, indented, to standard output.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printEach prints results one below the other, an empty line between, or all
// of them as JSON.
func printEach[T any](a *app, all []T, print func(T) error) error {
	if a.json() {
		return a.printJSON(all)
	}
	for i, v := range all {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		if err := print(v); err != nil {
			return err
		}
	}
	return nil
}

// table prints rows under a header of capitals, columns aligned. A column
// whose header begins with ">" is aligned to the right.
type table struct {
	header []string
	rows   [][]string
}

func newTable(header ...string) *table { return &table{header: header} }

func (t *table) row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
		if row[i] == "" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

func (t *table) print(w io.Writer) error {
	widths := make([]int, len(t.header))
	right := make([]bool, len(t.header))
	header := make([]string, len(t.header))
	for i, h := range t.header {
		header[i], right[i] = strings.CutPrefix(h, ">")
		widths[i] = len(header[i])
	}
	for _, r := range t.rows {
		for i, c := range r {
			widths[i] = max(widths[i], len([]rune(c)))
		}
	}
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, r := range append([][]string{header}, t.rows...) {
		for i, c := range r {
			if right[i] {
				c = strings.Repeat(" ", widths[i]-len([]rune(c))) + c
			}
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, c)
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	if n < 0 {
		return "?"
	}
	const units = "KMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for f >= 999.95 && i < len(units)-1 {
		f /= 1000
		i++
	}
	return fmt.Sprintf("%.1f %cB", f, units[i])
}

// durationText writes a duration for people, to about two digits.
func durationText(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < 24*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%.1fd", d.Hours()/24)
}

func timeText(ms int64) string {
	if ms < 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

// plural writes "1 record", "2 records".
func plural[N int | int32 | int64](n N, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// dropLast takes the last column away.
func (t *table) dropLast() {
	n := len(t.header) - 1
	t.header = t.header[:n]
	for i := range t.rows {
		t.rows[i] = t.rows[i][:n]
	}
}

// outcome is how it went for one of the things that a command was given.
type outcome struct {
	Error string `json:"error,omitempty"`
	Code  string `json:"code,omitempty"` // the Kafka error code's name

	err error
}

// fail notes an error; what is what it is about, as for explain.
func (o *outcome) fail(a *app, what string, err error, message string) {
	o.note(err, a.explain(what, err, message))
}

// note notes an error and what the user is told of it.
func (o *outcome) note(err, explained error) {
	o.Code, o.err, o.Error = codeOf(err), explained, explained.Error()
}

func (o outcome) failed() error { return o.err }

// finish prints the results and gives the first error, or how many there were
// when there were several. Kind is what the results are of, in the plural.
func finish[R interface{ failed() error }](a *app, kind string, results []R, line func(R) string) error {
	var first error
	failed := 0
	for _, r := range results {
		if err := r.failed(); err != nil {
			if failed++; first == nil {
				first = err
			}
		}
	}
	if a.json() {
		if err := a.printJSON(results); err != nil {
			return err
		}
		return first
	}
	for _, r := range results {
		if err := r.failed(); err == nil {
			fmt.Fprintln(a.out, line(r))
		} else if failed > 1 {
			fmt.Fprintf(a.err, "firn: %s\n", err)
		}
	}
	if failed > 1 {
		hint := ""
		if f, ok := errors.AsType[*failure](first); ok {
			hint = f.hint
		}
		return failf(hint, "%d of %d %s failed", failed, len(results), kind)
	}
	return first
}
