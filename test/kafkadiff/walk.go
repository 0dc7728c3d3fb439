package kafkadiff

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Finding is a place where Firn did not answer as Kafka in a walk.
type Finding struct {
	Signature string // API, path and both values, without what is particular to the walk
	Title     string // API and version of the step
	Path      string
	Kafka     string
	Firn      string
	Lines     []string // of the conversation up to there
	Request   string   // the last line
}

// pair runs one conversation with two brokers at once, line by line.
type pair struct {
	s           *Scenario
	lines       []string
	kafka, firn *runner
	seen        int // answers that were compared
	rules       *Rules
	tolerated   map[string]int
	findings    []Finding
	joins       map[int]string    // the group of each JoinGroup
	leads       map[string]string // who leads a group, while the brokers agree
}

// errDiffers ends a walk; errParted too, where a rule lets one broker do what
// the other refuses: what follows says nothing.
var (
	errDiffers = errors.New("the brokers differ")
	errParted  = errors.New("the brokers differ, as they may")
)

func newPair(kafka, firn string, rules *Rules) *pair {
	s := &Scenario{Name: "walk", About: "walk", titles: map[int]string{}}
	return &pair{
		s: s, kafka: newRunner(kafka, s), firn: newRunner(firn, s), rules: rules,
		tolerated: map[string]int{}, joins: map[int]string{}, leads: map[string]string{},
	}
}

func (p *pair) close() {
	p.kafka.closeAll()
	p.firn.closeAll()
}

// do runs one line on both brokers and compares what was answered. An error
// other than errDiffers is Kafka's: the line makes no sense.
func (p *pair) do(line string) error {
	before := len(p.s.lines)
	if err := p.s.line(len(p.lines)+1, line); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	p.lines = append(p.lines, line)
	if m := joinLine.FindStringSubmatch(line); m != nil {
		step, _ := strconv.Atoi(m[1])
		p.joins[step] = m[2]
	}
	for _, l := range p.s.lines[before:] {
		var wg sync.WaitGroup
		var firnErr error
		wg.Go(func() { firnErr = p.firn.do(l.do) })
		err := p.kafka.do(l.do)
		wg.Wait()
		if diff := p.compare(); diff != nil {
			return diff
		}
		if err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		if firnErr != nil {
			word := strings.Fields(line)[0]
			return p.found(word, "", "it goes on", firnErr.Error())
		}
	}
	if strings.HasPrefix(line, "sleep ") {
		return p.settle()
	}
	return nil
}

// compare looks at the answers that came since the last time.
func (p *pair) compare() error {
	for ; p.seen < len(p.kafka.answers) && p.seen < len(p.firn.answers); p.seen++ {
		k, f := p.kafka.answers[p.seen], p.firn.answers[p.seen]
		// A difference of an error code brings others with it: it comes first.
		want := clone(k.Tree)
		takeMessages(want, f.Tree)
		all := differences("", want, f.Tree)
		all = p.leader(k, f, all)
		slices.SortStableFunc(all, func(a, b difference) int { return rank(a) - rank(b) })
		for len(all) > 0 {
			d := all[0]
			if err := p.found(k.Title, d.path, show(d.want), show(d.got)); err != nil {
				return err
			}
			refused, ok := strings.CutSuffix(d.path, "ErrorCode")
			all = slices.DeleteFunc(all[1:], func(x difference) bool { return ok && strings.HasPrefix(x.path, refused) })
		}
	}
	return nil
}

// found notes a difference that no rule lets pass.
func (p *pair) found(title, path, kafka, firn string) error {
	api, _, _ := strings.Cut(title, " ")
	general := generalPath(path)
	if r := p.rules.allow(api, path, kafka, firn); r != nil {
		p.tolerated[r.String()]++
		if decides(path) && (!strings.HasSuffix(path, "ErrorCode") || kafka == "0" || firn == "0") {
			return errParted // not where both refused
		}
		return nil
	}
	p.findings = append(p.findings, Finding{
		Signature: strings.Join([]string{api, general, generalValue(kafka), generalValue(firn)}, " | "),
		Title:     title, Path: path, Kafka: kafka, Firn: firn,
		Lines: slices.Clone(p.lines), Request: p.lines[len(p.lines)-1],
	})
	return errDiffers
}

func rank(d difference) int {
	if decides(d.path) {
		return 0
	}
	return 1
}

// decides says whether other differences follow from one there.
func decides(path string) bool {
	return path == "" || strings.HasSuffix(path, "ErrorCode") || strings.HasSuffix(path, "LeaderID")
}

var (
	anyElement = regexp.MustCompile(`\[[^\]]*\]`)
	anyNumber  = regexp.MustCompile(`\b[0-9]{1,}\b`)
	anyMember  = regexp.MustCompile(`[a-z]+[0-9]+-<uuid[0-9]*>`)
	anyName    = regexp.MustCompile(`\$[A-Za-z][A-Za-z0-9]*`)
)

func generalPath(path string) string { return anyElement.ReplaceAllString(path, "[*]") }

// generalValue makes values of different walks alike: numbers above one become
// N, names $x, member ids <member>, and what is long its beginning.
func generalValue(v string) string {
	v = anyMember.ReplaceAllString(anyName.ReplaceAllString(v, "$$x"), "<member>")
	v = anyNumber.ReplaceAllStringFunc(v, func(n string) string {
		if n == "0" || n == "1" {
			return n
		}
		return "N"
	})
	if len(v) > 60 {
		v = v[:60] + "…"
	}
	return v
}

// Rules are the differences that a walk does not stop at. A line of its file:
//
//	API PATH KAFKA -> FIRN : reason
//
// with [*] in the path for any element and . for the whole answer, and * for
// any value (else JSON, or nothing; N in it is any number above one). It is the walks' form of a scenario's differs.
type Rules struct {
	rules []rule
}

type rule struct{ api, path, kafka, firn, reason string }

func (r *rule) String() string {
	return fmt.Sprintf("%s %s %s -> %s : %s", r.api, r.path, r.kafka, r.firn, r.reason)
}

// ParseRules reads the lines; blank ones and comments (#) are left out.
func ParseRules(text string) (*Rules, error) {
	r := &Rules{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndex(line, " : ")
		if at < 0 {
			return nil, fmt.Errorf("line %d: no reason", i+1)
		}
		what, reason := line[:at], strings.TrimSpace(line[at+3:])
		before, firn, ok := strings.Cut(what, " -> ")
		parts := strings.SplitN(strings.TrimSpace(before), " ", 3)
		if !ok || len(parts) != 3 || reason == "" {
			return nil, fmt.Errorf("line %d: want API PATH KAFKA -> FIRN : reason", i+1)
		}
		r.rules = append(r.rules, rule{parts[0], parts[1], parts[2], strings.TrimSpace(firn), reason})
	}
	return r, nil
}

// allow gives the rule by which a difference may be, or nil.
func (r *Rules) allow(api, path, kafka, firn string) *rule {
	for i, x := range r.rules {
		if x.api == api && pathAllowed(x.path, path) && valueAllowed(x.kafka, kafka) && valueAllowed(x.firn, firn) {
			return &r.rules[i]
		}
	}
	return nil
}

// pathAllowed says whether a rule is about a path: its [*] is any element, and
// what else stands in brackets that one.
func pathAllowed(rule, path string) bool {
	if rule == "." {
		return path == ""
	}
	is := anyElement.FindAllString(path, -1)
	for i, want := range anyElement.FindAllString(rule, -1) {
		if i >= len(is) || want != "[*]" && want != is[i] {
			return false
		}
	}
	return generalPath(rule) == generalPath(path)
}

func valueAllowed(rule, v string) bool { return rule == "*" || rule == v || rule == generalValue(v) }

// Walk is one random conversation.
type Walk struct {
	Steps     int // requests that both brokers answered
	Finding   *Finding
	Tolerated map[string]int // differences that a rule let pass, by rule
	Err       error          // the walk could not go on
}

// RandomWalk holds a conversation of so many steps with both brokers. What it
// sends depends on the seed and on Kafka's answers only.
func RandomWalk(kafka, firn string, seed uint64, steps int, rules *Rules) Walk {
	p := newPair(kafka, firn, rules)
	defer p.close()
	g := newGenerator(rand.New(rand.NewPCG(seed, 20260501)), p)
	err := g.run(steps)
	w := Walk{Steps: len(p.kafka.answers), Tolerated: p.tolerated}
	switch {
	case errors.Is(err, errDiffers):
		w.Finding = &p.findings[0]
	case err != nil && !errors.Is(err, errParted):
		w.Err = fmt.Errorf("seed %d: %w", seed, err)
	}
	return w
}

// Replay runs a conversation again and gives the first difference.
func Replay(kafka, firn string, lines []string, rules *Rules) *Finding {
	p := newPair(kafka, firn, rules)
	defer p.close()
	for _, l := range lines {
		if err := p.do(l); err != nil {
			if errors.Is(err, errDiffers) {
				return &p.findings[0]
			}
			return nil
		}
	}
	return nil
}

// Shrink takes out lines for as long as the same difference shows, and gives
// the smallest conversation that it came to, or nil when the difference does
// not come back: then it was a matter of time.
func Shrink(kafka, firn string, f *Finding, rules *Rules, limit time.Duration) *Finding {
	deadline := time.Now().Add(limit)
	same := func(lines []string) *Finding {
		if got := Replay(kafka, firn, lines, rules); got != nil && got.Signature == f.Signature {
			return got
		}
		return nil
	}
	best := same(f.Lines)
	if best == nil {
		return nil
	}
	for size := max(1, len(best.Lines)/2); ; size /= 2 {
		for at := len(best.Lines) - 1 - size; at > -size && time.Now().Before(deadline); at -= size {
			fewer := without(best.Lines, max(at, 0), min(at+size, len(best.Lines)-1))
			if len(fewer) == len(best.Lines) {
				continue
			}
			if got := same(fewer); got != nil {
				best = got
				at = min(at, len(best.Lines)-1)
			}
		}
		if size <= 1 {
			return best
		}
	}
}

var (
	stepNumber = regexp.MustCompile(`^([0-9]+) `)
	letLine    = regexp.MustCompile(`^let ([A-Za-z0-9]+) = ([0-9]+) `)
	ofStep     = regexp.MustCompile(`^(?:await|[0-9]+ pending) ([0-9]+)$`)
	nameLine   = regexp.MustCompile(`^(?:topic|name) \$([A-Za-z0-9]+)`)
	usedName   = regexp.MustCompile(`\$\(?([A-Za-z][A-Za-z0-9]*)`)
)

// without gives the lines except [from, to), and except those that need one
// that is gone: its answer or its variable.
func without(lines []string, from, to int) []string {
	steps, names := map[string]bool{}, map[string]bool{}
	var kept []string
	for i, l := range lines {
		gone := i >= from && i < to
		if m := letLine.FindStringSubmatch(l); m != nil {
			gone = gone || steps[m[2]]
		}
		if m := ofStep.FindStringSubmatch(l); m != nil {
			gone = gone || steps[m[1]]
		}
		// A line's own name is not one that it needs.
		own := nameLine.FindStringSubmatch(l)
		for _, m := range usedName.FindAllStringSubmatch(l, -1) {
			gone = gone || names[m[1]] && (own == nil || own[1] != m[1])
		}
		if !gone {
			kept = append(kept, l)
			continue
		}
		if m := stepNumber.FindStringSubmatch(l); m != nil {
			steps[m[1]] = true
		}
		if m := letLine.FindStringSubmatch(l); m != nil {
			names[m[1]] = true
		}
		if own != nil {
			names[own[1]] = true
		}
	}
	return kept
}

// ScenarioText writes a finding as a scenario file.
func (f *Finding) ScenarioText() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Found by a random walk: %s at %s.\n# Firn's answer was %s.\n", f.Title, cmpOr(f.Path, "the whole answer"), f.Firn)
	for _, l := range f.Lines {
		b.WriteString(l + "\n")
	}
	return b.String()
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// answered gives a value of Kafka's answer to a step, or nil.
func (p *pair) answered(step int, at string) any {
	tree, ok := p.kafka.raw[step]
	if !ok {
		return nil
	}
	path, err := parsePath(at)
	if err != nil {
		panic(err) // the generator's own path
	}
	if found := path.lookup(tree); len(found) == 1 {
		return found[0]
	}
	return nil
}

// answeredInt is answered for a number; otherwise when there is none.
func (p *pair) answeredInt(step int, at string, otherwise int64) int64 {
	n, ok := p.answered(step, at).(json.Number)
	if !ok {
		return otherwise
	}
	i, err := strconv.ParseInt(n.String(), 10, 64)
	if err != nil {
		return otherwise
	}
	return i
}
