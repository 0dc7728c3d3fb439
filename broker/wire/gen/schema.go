package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// versions is an inclusive range; hi is math.MaxInt16 for "and all later".
type versions struct{ lo, hi int16 }

// within cuts the range to that of what it is in.
func (v versions) within(o versions) versions { return versions{max(v.lo, o.lo), min(v.hi, o.hi)} }

type request struct {
	key       int16
	goType    string
	vs        versions
	advertise int16 // the lowest version in the ApiVersions list
	flexible  int16 // the first version with tags and compact lengths
	fields    []field
}

type field struct {
	name    string
	typ     string // of an element, for an array
	array   bool
	pointer bool // a struct that may be null
	vs      versions
	null    int16 // the first version that allows null, -1 for never
	tag     int   // -1 for none
	fields  []field
}

var fixedSizes = map[string]int{"bool": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "int64": 8, "uuid": 16}

// minSize is the least number of bytes of the field.
func (f field) minSize(flex bool) int {
	switch {
	case f.pointer:
		return 1
	case f.array || f.typ == "bytes":
		if flex {
			return 1
		}
		return 4
	case f.typ == "string" || f.typ == "*string":
		if flex {
			return 1
		}
		return 2
	case strings.HasPrefix(f.typ, "enum:"):
		return 1
	}
	return fixedSizes[f.typ]
}

func (f field) check() error {
	_, fixed := fixedSizes[f.typ]
	known := fixed || f.typ == "string" || f.typ == "*string" || f.typ == "bytes" || strings.HasPrefix(f.typ, "enum:")
	switch {
	case f.array && f.typ != "int32" && f.typ != "int8" && f.typ != "string" && known:
		return fmt.Errorf("field %s: arrays of %s are not built", f.name, f.typ)
	case known && len(f.fields) > 0:
		return fmt.Errorf("field %s: a %s has no fields", f.name, f.typ)
	case !known && len(f.fields) == 0:
		return fmt.Errorf("field %s: %s has no fields", f.name, f.typ)
	case f.pointer && (f.array || f.tag >= 0):
		return fmt.Errorf("field %s: a struct that may be null in an array or a tag is not built", f.name)
	case !known && !f.array && !f.pointer && f.tag < 0:
		return fmt.Errorf("field %s: a struct that is neither array, pointer nor tagged is not built", f.name)
	case f.array && f.tag >= 0:
		return fmt.Errorf("field %s: tagged arrays are not built", f.name)
	}
	return nil
}

// parse reads the schema; see its first lines for the form.
func parse(text string) ([]request, error) {
	var reqs []request
	// open[d] is where fields of depth d go.
	var open []*[]field
	var all []*field
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || strings.HasPrefix(trimmed, "#") {
			continue
		}
		words := strings.Fields(trimmed)
		if words[0] == "request" {
			r, err := parseRequest(words)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			reqs = append(reqs, r)
			open = []*[]field{nil, &reqs[len(reqs)-1].fields}
			continue
		}
		depth := (len(line) - len(strings.TrimLeft(line, " "))) / 2
		if depth < 1 || depth >= len(open) {
			return nil, fmt.Errorf("line %d: indented too far or too little", i+1)
		}
		f, err := parseField(words)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		to := open[depth]
		if cap(*to) == 0 {
			*to = make([]field, 0, 64) // pointers into it must stay good
		}
		if len(*to) == cap(*to) {
			return nil, fmt.Errorf("line %d: too many fields", i+1)
		}
		*to = append(*to, f)
		p := &(*to)[len(*to)-1]
		all = append(all, p)
		open = append(open[:depth+1], &p.fields)
	}
	for _, f := range all {
		if err := f.check(); err != nil {
			return nil, err
		}
	}
	return reqs, nil
}

func parseRequest(words []string) (request, error) {
	bad := fmt.Errorf("want: request KEY GoType VERSIONS [advertise MIN] flexible FROM, got %q", words)
	if len(words) < 6 {
		return request{}, bad
	}
	var r request
	var err error
	if r.key, err = number(words[1]); err != nil {
		return r, err
	}
	r.goType = words[2]
	if r.vs, err = parseVersions(words[3]); err != nil {
		return r, err
	}
	r.advertise = r.vs.lo
	words = words[4:]
	if words[0] == "advertise" && len(words) == 4 {
		if r.advertise, err = number(words[1]); err != nil {
			return r, err
		}
		words = words[2:]
	}
	if len(words) != 2 || words[0] != "flexible" {
		return r, bad
	}
	r.flexible, err = number(words[1])
	return r, err
}

func parseField(words []string) (field, error) {
	f := field{name: words[0], vs: versions{0, math.MaxInt16}, null: -1, tag: -1}
	if len(words) < 2 {
		return f, fmt.Errorf("field %s has no type", f.name)
	}
	f.typ, f.array = strings.CutPrefix(words[1], "[]")
	if f.typ == "*string" {
		f.null = 0
	} else {
		f.typ, f.pointer = strings.CutPrefix(f.typ, "*")
	}
	for rest := words[2:]; len(rest) > 0; {
		var err error
		switch {
		case rest[0] == "null" && len(rest) > 1:
			var vs versions
			vs, err = parseVersions(rest[1])
			f.null, rest = vs.lo, rest[2:]
		case rest[0] == "tag" && len(rest) > 1:
			f.tag, err = strconv.Atoi(rest[1])
			rest = rest[2:]
		default:
			f.vs, err = parseVersions(rest[0])
			rest = rest[1:]
		}
		if err != nil {
			return f, fmt.Errorf("field %s: %w", f.name, err)
		}
	}
	return f, nil
}

func parseVersions(s string) (versions, error) {
	if lo, ok := strings.CutSuffix(s, "+"); ok {
		n, err := number(lo)
		return versions{n, math.MaxInt16}, err
	}
	a, b, ranged := strings.Cut(s, "-")
	lo, err := number(a)
	if err != nil || !ranged {
		return versions{lo, lo}, err
	}
	hi, err := number(b)
	if err == nil && hi < lo {
		err = fmt.Errorf("versions %q run backwards", s)
	}
	return versions{lo, hi}, err
}

func number(s string) (int16, error) {
	n, err := strconv.ParseInt(s, 10, 16)
	return int16(n), err
}
