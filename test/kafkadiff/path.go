package kafkadiff

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A path names values in a tree: Topics[0].Partitions[1].ErrorCode. Beside
// [N] there are [*], every element, and [Field=JSON,…], the elements with one
// of these values. The empty path is the whole tree.
type path []step

type step struct {
	field string // a field of an object, when not ""
	index int    // of a list, -1: see below
	all   bool
	where string // elements whose field where ...
	is    list   // ... has one of these values
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
			var is list
			tail := "," + value
			for strings.HasPrefix(tail, ",") {
				v, after, err := parseTree(tail[1:])
				if err != nil {
					return nil, fmt.Errorf("path %q: %w", s, err)
				}
				is, tail = append(is, v), after
			}
			if !strings.HasPrefix(tail, "]") {
				return nil, fmt.Errorf("path %q: [Field=JSON,…] is not closed", s)
			}
			p = append(p, step{index: -1, where: field, is: is})
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
		return ok && slices.ContainsFunc(s.is, func(is any) bool { return equal(v, is) })
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
		return listDifferences(at, w, g)
	default:
		if scalar(want) && scalar(got) && want == got {
			return nil
		}
	}
	return append(all, difference{at, want, got})
}

// listDifferences pairs elements that are about the same thing where each is
// about one, and by position otherwise.
func listDifferences(at string, want, got list) []difference {
	wantKeys, ok1 := elementKeys(want)
	gotKeys, ok2 := elementKeys(got)
	var all []difference
	if !ok1 || !ok2 {
		for i := range max(len(want), len(got)) {
			here := at + "[" + strconv.Itoa(i) + "]"
			switch {
			case i >= len(got):
				all = append(all, difference{here, want[i], gone{}})
			case i >= len(want):
				all = append(all, difference{here, gone{}, got[i]})
			default:
				all = append(all, differences(here, want[i], got[i])...)
			}
		}
		return all
	}
	var common list
	for i, k := range wantKeys {
		if j := slices.Index(gotKeys, k); j >= 0 {
			common = append(common, k)
			all = append(all, differences(at+"["+k+"]", want[i], got[j])...)
		} else {
			all = append(all, difference{at + "[" + k + "]", want[i], gone{}})
		}
	}
	var order list
	for j, k := range gotKeys {
		if slices.Contains(wantKeys, k) {
			order = append(order, k)
		} else {
			all = append(all, difference{at + "[" + k + "]", gone{}, got[j]})
		}
	}
	if !slices.Equal(common, order) {
		all = append(all, difference{at + ", the order", common, order})
	}
	return all
}

// elementKeys gives what each element is about, and false when they cannot be
// told apart so.
func elementKeys(l list) ([]string, bool) {
	var keys []string
	for _, e := range l {
		o, ok := e.(*object)
		if !ok {
			return nil, false
		}
		key := ""
		for _, f := range keyFields {
			if v, ok := o.get(f); ok && scalar(v) && v != nil {
				key = f + "=" + oneLine(v)
				break
			}
		}
		if key == "" || slices.Contains(keys, key) {
			return nil, false
		}
		keys = append(keys, key)
	}
	return keys, true
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
