package kafkadiff

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// recordingHead is how each file of recorded answers begins.
const recordingHead = "# Answers of Apache Kafka 4.3.1, written by `make record-kafka`: not edited by hand.\n"

// FormatRecording writes answers as a .kafka file holds them.
func FormatRecording(answers []Answer) string {
	var b strings.Builder
	b.WriteString(recordingHead)
	for _, a := range answers {
		fmt.Fprintf(&b, "\n%d %s\n%s\n", a.Step, a.Title, renderTree(a.Tree))
	}
	return b.String()
}

var stepHead = regexp.MustCompile(`(?m)^([0-9]+) (.*)\n`)

// ParseRecording reads what FormatRecording wrote.
func ParseRecording(text string) ([]Answer, error) {
	rest, ok := strings.CutPrefix(text, recordingHead)
	if !ok {
		return nil, fmt.Errorf("it does not begin with %q", recordingHead)
	}
	var answers []Answer
	for strings.TrimSpace(rest) != "" {
		m := stepHead.FindStringSubmatchIndex(rest)
		if m == nil || strings.TrimSpace(rest[:m[0]]) != "" {
			return nil, fmt.Errorf("after answer %d: want \"STEP API VERSION\"", len(answers))
		}
		a := Answer{Title: rest[m[4]:m[5]]}
		var err error
		if a.Step, err = strconv.Atoi(rest[m[2]:m[3]]); err != nil {
			return nil, err
		}
		if a.Tree, rest, err = parseTree(rest[m[1]:]); err != nil {
			return nil, fmt.Errorf("answer of step %d: %w", a.Step, err)
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// ignore replaces what the scenario does not look at, but for whether there is
// anything: null, empty and a zero id stay. seen, where it is not nil, is told
// the lines that found something.
func (s *Scenario) ignore(step int, tree any, seen func(line int)) any {
	for _, a := range s.ignores {
		if !a.concerns(step) {
			continue
		}
		tree, _ = a.path.apply(tree, func(v any) any {
			if _, none := v.(gone); none {
				return v
			}
			if seen != nil {
				seen(a.line)
			}
			if l, ok := v.(list); ok && len(l) == 0 || v == nil || v == "" || v == "0" {
				return v
			}
			return "<ignored>"
		})
	}
	return tree
}

// Compare lists where a broker's answers are not the recorded ones, except for
// the scenario's `differs` lines, each of which must be needed, and for messages
// that come with an error of which Kafka says nothing. It is empty when all is
// well.
func (s *Scenario) Compare(recorded, got []Answer) []string {
	return s.compare(recorded, got, "Kafka", "Firn")
}

func (s *Scenario) compare(recorded, got []Answer, who, other string) []string {
	var problems []string
	answers := map[int]Answer{}
	for _, a := range got {
		answers[a.Step] = a
	}
	needed := uses{}
	for _, want := range recorded {
		if s.titles[want.Step] == "" {
			problems = append(problems, fmt.Sprintf("step %d is recorded and not in the scenario: run make record-kafka", want.Step))
			continue
		}
		tree := s.ignore(want.Step, clone(want.Tree), func(line int) { needed.add(line, want.Step) })
		changed := false
		for _, d := range s.differs {
			if !d.concerns(want.Step) {
				continue
			}
			var n int
			tree, n = d.path.apply(tree, func(v any) any {
				if differences("", v, d.value) != nil {
					changed = true
					needed.add(d.line, want.Step)
				}
				return clone(d.value)
			})
			if n == 0 && d.value != (any)(gone{}) {
				problems = append(problems, fmt.Sprintf("line %d: Kafka's answer to step %d has nothing at the path", d.line, want.Step))
			}
		}
		a, ok := answers[want.Step]
		if !ok {
			problems = append(problems, fmt.Sprintf("step %d (%s) has no answer", want.Step, want.Title))
			continue
		}
		delete(answers, want.Step)
		if changed {
			name, _, _ := strings.Cut(want.Title, " ")
			key, _ := keyOf(name)
			n := newNormaliser("", "", time.Now())
			n.sort(key, tree)
			n.sort(key, a.Tree)
		}
		takeMessages(tree, a.Tree)
		for _, d := range differences("", tree, a.Tree) {
			at := d.path
			if at == "" {
				at = "the answer"
			}
			problems = append(problems, fmt.Sprintf("step %d (%s): %s\n    %-6s %s\n    %-6s %s", want.Step, want.Title, at, who+":", show(d.want), other+":", show(d.got)))
		}
	}
	for _, a := range got {
		if _, left := answers[a.Step]; left {
			problems = append(problems, fmt.Sprintf("step %d (%s) is not recorded: run make record-kafka", a.Step, a.Title))
		}
	}
	for _, d := range s.differs {
		if where := needed.missing(d); where != "" {
			problems = append(problems, fmt.Sprintf("line %d: differs is not needed%s: Kafka answers that itself", d.line, where))
		}
	}
	for _, a := range s.ignores {
		if where := needed.missing(a); where != "" {
			problems = append(problems, fmt.Sprintf("line %d: there is nothing to ignore%s", a.line, where))
		}
	}
	return problems
}

// uses are the steps at which lines were of use, by the lines' numbers.
type uses map[int][]int

func (u uses) add(line, step int) { u[line] = append(u[line], step) }

// missing says where an allowance was of no use: at a step that it names, or,
// when it names none, at all. It is empty when there is no such.
func (u uses) missing(a allowance) string {
	if a.steps == nil && u[a.line] == nil {
		return " at any step"
	}
	for _, step := range a.steps {
		if !slices.Contains(u[a.line], step) {
			return fmt.Sprintf(" at step %d", step)
		}
	}
	return ""
}

// takeMessages makes want's silence as good as got's message where both refuse
// with the same code: Firn says what to do where Kafka often says nothing.
func takeMessages(want, got any) {
	switch w := want.(type) {
	case *object:
		g, ok := got.(*object)
		if !ok {
			return
		}
		for i, n := range w.names {
			gv, ok := g.get(n)
			if !ok {
				continue
			}
			if silent := w.values[i] == nil || w.values[i] == ""; n == "ErrorMessage" && silent && gv == "<message>" {
				code, _ := w.get("ErrorCode")
				other, _ := g.get("ErrorCode")
				if _, refused := code.(string); refused && code == other {
					w.values[i] = gv
				}
				continue
			}
			takeMessages(w.values[i], gv)
		}
	case list:
		g, ok := got.(list)
		if !ok {
			return
		}
		for i := range min(len(w), len(g)) {
			takeMessages(w[i], g[i])
		}
	}
}

// CompareTwice lists where two runs against the same broker differ.
func (s *Scenario) CompareTwice(a, b []Answer) []string {
	plain := *s
	plain.differs, plain.ignores = nil, nil // what is ignored is so already
	return plain.compare(a, b, "once", "again")
}

// ErrorCodes lists the names of the error codes in an answer, each once.
func (a Answer) ErrorCodes() []string {
	var codes []string
	var walk func(field string, v any)
	walk = func(field string, v any) {
		switch v := v.(type) {
		case *object:
			for i, n := range v.names {
				walk(n, v.values[i])
			}
		case list:
			for _, e := range v {
				walk(field, e)
			}
		case string:
			if strings.HasSuffix(field, "ErrorCode") && !slices.Contains(codes, v) {
				codes = append(codes, v)
			}
		}
	}
	walk("", a.Tree)
	return codes
}
