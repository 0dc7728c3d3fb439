package topicconfig

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Check says whether v, without surrounding spaces, is of the type.
func (t Type) Check(v string) error {
	var err error
	switch t {
	case Boolean:
		if !strings.EqualFold(v, "true") && !strings.EqualFold(v, "false") {
			return fmt.Errorf("%q is neither true nor false", v)
		}
	case Short:
		_, err = strconv.ParseInt(v, 10, 16)
	case Int:
		_, err = strconv.ParseInt(v, 10, 32)
	case Long:
		_, err = strconv.ParseInt(v, 10, 64)
	case Double:
		var f float64
		if f, err = strconv.ParseFloat(v, 64); err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
			return fmt.Errorf("%q is not finite", v)
		}
	}
	if err != nil {
		return fmt.Errorf("%q is not a number of type %v", v, t)
	}
	return nil
}

// Canonical spells a value that passed Check in the way that defaults are:
// without surrounding spaces, booleans in lower case, numbers in plain digits.
func (t Type) Canonical(v string) string {
	v = strings.TrimSpace(v)
	switch t {
	case Boolean:
		return strings.ToLower(v)
	case Short, Int, Long:
		n, _ := strconv.ParseInt(v, 10, 64)
		return strconv.FormatInt(n, 10)
	case Double:
		f, _ := strconv.ParseFloat(v, 64)
		return strconv.FormatFloat(f, 'f', -1, 64)
	case List:
		items := strings.Split(v, ",")
		for i := range items {
			items[i] = strings.TrimSpace(items[i])
		}
		return strings.Join(items, ",")
	}
	return v
}

// SplitList cuts a list's value at its commas; "" is the empty list.
func SplitList(v string) []string {
	var out []string
	for s := range strings.SplitSeq(v, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// AtLeast makes a check of whole numbers.
func AtLeast(least int64) func(string) error { return Between(least, math.MaxInt64) }

// Between makes a check of whole numbers; both bounds are taken.
func Between(least, most int64) func(string) error {
	return func(v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		switch {
		case err != nil:
			return err
		case n < least:
			return fmt.Errorf("%d is too small; the least is %d", n, least)
		case n > most:
			return fmt.Errorf("%d is too large; the most is %d", n, most)
		}
		return nil
	}
}

// OneOf makes a check of words; case counts.
func OneOf(names ...string) func(string) error {
	return func(v string) error {
		if slices.Contains(names, v) {
			return nil
		}
		return fmt.Errorf("%q is not one of %s", v, strings.Join(names, ", "))
	}
}

// values reads configs that passed Check: what is set, else the broker's
// default, else the table's.
type values struct{ set, defaults map[string]string }

func (v values) str(name string) string {
	s, ok := v.set[name]
	if !ok {
		s, ok = v.defaults[name]
	}
	if !ok {
		s = byName[name].Default
	}
	return strings.TrimSpace(s)
}

func (v values) list(name string) []string { return SplitList(v.str(name)) }
func (v values) bool(name string) bool     { return strings.EqualFold(v.str(name), "true") }

func (v values) long(name string) int64 {
	n, _ := strconv.ParseInt(v.str(name), 10, 64)
	return n
}

func (v values) double(name string) float64 {
	f, _ := strconv.ParseFloat(v.str(name), 64)
	return f
}

// ms turns milliseconds into a duration; what does not fit is as good as
// for ever.
func (v values) ms(name string) time.Duration {
	n := v.long(name)
	if n > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(n) * time.Millisecond
}
