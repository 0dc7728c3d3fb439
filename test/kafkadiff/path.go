package kafkadiff

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// A path names values in a tree: Topics[0].Partitions[1].ErrorCode. Beside
// [N] there are [*], every element, and [Field=JSON], the elements with that
// value. The empty path is the whole tree.
type path []step

type step struct {
	field string // a field of an object, when not ""
	index int    // of a list, -1: see below
	all   bool
	where string // elements whose field where ...
	is    any    // ... has this value
}

func parsePath(s string) (path, error) {
	var p path
	rest := s
	for rest != "" {
		if rest[0] != '[' {
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			if end == 0 {
				return nil, fmt.Errorf("path %q: empty name", s)
			}
			p = append(p, step{field: rest[:end], index: -1})
			rest = strings.TrimPrefix(rest[end:], ".")
			continue
		}
		inner := rest[1:]
		if field, value, ok := strings.Cut(inner, "="); ok && isName(field) {
			v, tail, err := parseTree(value)
			if err != nil || !strings.HasPrefix(tail, "]") {
				return nil, fmt.Errorf("path %q: [Field=JSON] is not closed: %v", s, err)
			}
			p = append(p, step{index: -1, where: field, is: v})
			rest = strings.TrimPrefix(tail[1:], ".")
			continue
		}
		index, tail, ok := strings.Cut(inner, "]")
		if !ok {
			return nil, fmt.Errorf("path %q: [ without ]", s)
		}
		if index == "*" {
			p = append(p, step{index: -1, all: true})
		} else {
			n, err := strconv.Atoi(index)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("path %q: [%s] is not [N], [*] or [Field=JSON]", s, index)
			}
			p = append(p, step{index: n})
		}
		rest = strings.TrimPrefix(tail, ".")
	}
	return p, nil
}

func isName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '@'
	}) < 0
}

// cutPath takes a path off the front of text: it ends at the first space that
// is outside of brackets.
func cutPath(text string) (p path, rest string, err error) {
	depth, end, quoted := 0, len(text), false
loop:
	for i, r := range text {
		switch {
		case r == '"':
			quoted = !quoted
		case quoted:
		case r == '[':
			depth++
		case r == ']':
			depth--
		case r == ' ' && depth == 0:
			end = i
			break loop
		}
	}
	p, err = parsePath(text[:end])
	return p, strings.TrimSpace(text[end:]), err
}

// matches says which elements of a list a step means.
func (s step) matches(i int, e any) bool {
	switch {
	case s.all:
		return true
	case s.where != "":
		o, ok := e.(*object)
		if !ok {
			return false
		}
		v, ok := o.get(s.where)
		return ok && equal(v, s.is)
	}
	return i == s.index
}

// lookup gives every value that the path names.
func (p path) lookup(v any) []any {
	if len(p) == 0 {
		return []any{v}
	}
	var found []any
	switch v := v.(type) {
	case *object:
		if f, ok := v.get(p[0].field); ok && p[0].field != "" {
			found = p[1:].lookup(f)
		}
	case list:
		if p[0].field == "" {
			for i, e := range v {
				if p[0].matches(i, e) {
					found = append(found, p[1:].lookup(e)...)
				}
			}
		}
	}
	return found
}

// gone is what apply's function returns to take a value out.
type gone struct{}

// apply replaces every value that the path names by what f makes of it, and
// gives the new tree and how many there were. A last step that is a missing
// field of an object is offered as gone, so that f can add it.
func (p path) apply(v any, f func(any) any) (any, int) {
	if len(p) == 0 {
		return f(v), 1
	}
	n := 0
	switch v := v.(type) {
	case *object:
		if p[0].field == "" {
			return v, 0
		}
		old, ok := v.get(p[0].field)
		if !ok {
			if len(p) > 1 {
				return v, 0
			}
			old = gone{}
		}
		fresh, k := p[1:].apply(old, f)
		n = k
		if fresh == (any)(gone{}) {
			v.remove(p[0].field)
		} else {
			v.set(p[0].field, fresh)
		}
		return v, n
	case list:
		if p[0].field != "" {
			return v, 0
		}
		kept := list{}
		for i, e := range v {
			if p[0].matches(i, e) {
				fresh, k := p[1:].apply(e, f)
				n += k
				if fresh == (any)(gone{}) {
					continue
				}
				e = fresh
			}
			kept = append(kept, e)
		}
		if n == 0 && len(p) == 1 && !p[0].all {
			// An element that is not there can be added: it is offered once.
			if fresh := f(gone{}); fresh != (any)(gone{}) {
				return append(kept, fresh), 1
			}
		}
		return kept, n
	}
	return v, 0
}

// difference is one place where two trees are not equal.
type difference struct {
	path      string
	want, got any // gone{} when there is none
}

// differences lists where got is not want, in the order of want.
func differences(at string, want, got any) []difference {
	var all []difference
	switch w := want.(type) {
	case *object:
		g, ok := got.(*object)
		if !ok {
			break
		}
		for i, n := range w.names {
			gv, ok := g.get(n)
			if !ok {
				gv = gone{}
			}
			all = append(all, differences(join(at, n), w.values[i], gv)...)
		}
		for i, n := range g.names {
			if _, ok := w.get(n); !ok {
				all = append(all, difference{join(at, n), gone{}, g.values[i]})
			}
		}
		return all
	case list:
		g, ok := got.(list)
		if !ok {
			break
		}
		for i := range max(len(w), len(g)) {
			here := at + "[" + strconv.Itoa(i) + "]"
			switch {
			case i >= len(g):
				all = append(all, difference{here, w[i], gone{}})
			case i >= len(w):
				all = append(all, difference{here, gone{}, g[i]})
			default:
				all = append(all, differences(here, w[i], g[i])...)
			}
		}
		return all
	default:
		if scalar(want) && scalar(got) && want == got {
			return nil
		}
	}
	return append(all, difference{at, want, got})
}

func scalar(v any) bool {
	switch v.(type) {
	case nil, bool, string, json.Number, gone:
		return true
	}
	return false
}

func firstDifference(at string, a, b any) *difference {
	if d := differences(at, a, b); len(d) > 0 {
		return &d[0]
	}
	return nil
}

func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

func show(v any) string {
	if _, ok := v.(gone); ok {
		return "nothing"
	}
	return oneLine(v)
}
