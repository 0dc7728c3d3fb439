package firntest

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*`)
	labelName  = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*`)
)

// ParseMetrics reads Prometheus's text format, version 0.0.4, as strictly as
// its description goes: names and labels well formed, none reserved, no label
// twice, no series twice, lines of one name (or of one histogram) together. It
// gives the values by series, as they are written.
// (https://prometheus.io/docs/instrumenting/exposition_formats/)
func ParseMetrics(text string) (map[string]float64, error) {
	if text != "" && !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("the last line has no end")
	}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("is not UTF-8")
	}
	values := map[string]float64{}
	ended := map[string]bool{} // names, and families, that another came after
	last, family := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name := metricName.FindString(line)
		labels, rest, err := parseLabels(line[len(name):])
		if name == "" || err != nil {
			return nil, fmt.Errorf("line %q: bad name or labels: %v", line, err)
		}
		of := familyOf(name)
		if name != last && of != family && ended[name] && ended[of+"*"] {
			return nil, fmt.Errorf("line %q: %s comes in two places", line, name)
		}
		if name != last {
			ended[last], last = true, name
		}
		if of != family {
			ended[family+"*"], family = true, of
		}
		v, err := parseValue(strings.TrimPrefix(rest, " "))
		if err != nil || !strings.HasPrefix(rest, " ") {
			return nil, fmt.Errorf("line %q: bad value %q: %v", line, rest, err)
		}
		series := name + labels
		if _, twice := values[series]; twice {
			return nil, fmt.Errorf("line %q: the series is there twice", line)
		}
		values[series] = v
	}
	return values, nil
}

// familyOf gives the name of the histogram that a series may be of.
func familyOf(name string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			return base
		}
	}
	return name
}

// parseLabels takes {name="value",…} off s.
func parseLabels(s string) (labels, rest string, err error) {
	if !strings.HasPrefix(s, "{") {
		return "", s, nil
	}
	all := s
	seen := map[string]bool{}
	for s = s[1:]; ; s = s[1:] {
		s = strings.TrimLeft(s, " ") // allowed between tokens; go_info_ext has some
		name := labelName.FindString(s)
		switch {
		case name == "":
			return "", "", fmt.Errorf("no label name at %q", s)
		case strings.HasPrefix(name, "__"):
			return "", "", fmt.Errorf("label %s is reserved", name)
		case seen[name]:
			return "", "", fmt.Errorf("label %s is there twice", name)
		}
		seen[name] = true
		if s = s[len(name):]; !strings.HasPrefix(s, `="`) {
			return "", "", fmt.Errorf("label %s has no value", name)
		}
		n := endOfQuoted(s[2:])
		if n < 0 {
			return "", "", fmt.Errorf("the value of label %s does not end", name)
		}
		if s = s[2+n+1:]; strings.HasPrefix(s, "}") {
			return all[:len(all)-len(s)+1], s[1:], nil
		}
		if !strings.HasPrefix(s, ",") {
			return "", "", fmt.Errorf("%q follows label %s", s, name)
		}
	}
}

// endOfQuoted finds the quote that ends a label's value; -1 for none, or for
// an escape that there is not.
func endOfQuoted(s string) int {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return i
		case '\\':
			if i++; i == len(s) || !strings.ContainsRune(`\"n`, rune(s[i])) {
				return -1
			}
		}
	}
	return -1
}

func parseValue(s string) (float64, error) {
	switch s {
	case "+Inf":
		return math.Inf(1), nil
	case "-Inf":
		return math.Inf(-1), nil
	case "NaN":
		return math.NaN(), nil
	}
	if strings.ContainsAny(s, "xXpP_iInN") {
		return 0, fmt.Errorf("%q is no decimal number", s)
	}
	return strconv.ParseFloat(s, 64)
}
