package kafkadiff

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Scenario is a conversation with a broker, as its file tells it.
type Scenario struct {
	Name   string   // the file's path below scenarios, without .txt
	About  string   // the comment that it begins with
	Broker []string // NAME=VALUE of the broker that it wants, sorted
	Kafka  []string // NAME=VALUE that only Kafka needs, sorted
	Fresh  bool     // it wants a broker that nobody else speaks to

	lines   []line
	differs []allowance
	ignores []allowance
	titles  map[int]string // of the steps
}

// BrokerKey names the broker that the scenario can share with others that
// have the same key; a fresh one is shared with nobody.
func (s *Scenario) BrokerKey() string {
	key := strings.Join(s.Broker, " ")
	for _, k := range s.Kafka {
		key += " kafka:" + k
	}
	return key
}

// line is one thing to do.
type line struct {
	number int // of the line in the file
	do     action
}

type action interface{ isAction() }

type (
	declare struct{ names []string }
	topic   struct {
		name, spec string // without $; what follows
	}
	request struct {
		step         int
		conn         string
		key, version int16
		fields       string // JSON, variables not yet replaced
		async        bool
		within       time.Duration // 0: the usual limit
		until        *condition
	}
	rawRequest struct {
		step   int
		conn   string
		hex    string
		async  bool
		within time.Duration
	}
	await   struct{ step int }
	pending struct{ step, of int }
	let     struct {
		name string
		step int
		path string
	}
	sleep      struct{ d time.Duration }
	closeConn  struct{ conn string }
	halfClose  struct{ conn string }
	awaitTopic struct {
		name  string
		gone  bool
		parts int // at least so many partitions
	}
)

func (declare) isAction()    {}
func (topic) isAction()      {}
func (request) isAction()    {}
func (rawRequest) isAction() {}
func (await) isAction()      {}
func (pending) isAction()    {}
func (let) isAction()        {}
func (sleep) isAction()      {}
func (closeConn) isAction()  {}
func (halfClose) isAction()  {}
func (awaitTopic) isAction() {}

// condition is what a step repeats its request for.
type condition struct {
	path path
	is   any
}

// allowance is a difference that may be: a line differs or ignore.
type allowance struct {
	line   int
	steps  []int // nil: every step
	path   path
	value  any // of differs; gone{} for absent
	reason string
}

// Load reads every scenario below dir, sorted by name. The error names each
// file that is none; the others are given all the same.
func Load(dir string) ([]*Scenario, error) {
	var all []*Scenario
	var bad []error
	err := filepath.WalkDir(dir, func(file string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(file) != ".txt" {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		s, err := Parse(strings.TrimSuffix(filepath.ToSlash(rel), ".txt"), string(text))
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", file, err))
			return nil
		}
		all = append(all, s)
		return nil
	})
	slices.SortFunc(all, func(a, b *Scenario) int { return strings.Compare(a.Name, b.Name) })
	return all, errors.Join(append(bad, err)...)
}

// Parse reads one scenario; an error names the line.
func Parse(name, text string) (*Scenario, error) {
	s := &Scenario{Name: name, titles: map[int]string{}}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		whole, at := strings.TrimRight(lines[i], " \t\r"), i+1
		for i+1 < len(lines) && whole != "" && !strings.HasPrefix(whole, "#") && strings.TrimSpace(lines[i+1]) != "" && (lines[i+1][0] == ' ' || lines[i+1][0] == '\t') {
			i++
			whole += " " + strings.TrimSpace(lines[i])
		}
		if err := s.line(at, whole); err != nil {
			return nil, fmt.Errorf("line %d: %w", at, err)
		}
	}
	if s.About == "" {
		return nil, errors.New("it begins with a comment that says what is asked")
	}
	if len(s.titles) == 0 {
		return nil, errors.New("there is no step")
	}
	slices.Sort(s.Broker)
	slices.Sort(s.Kafka)
	for _, a := range slices.Concat(s.differs, s.ignores) {
		for _, n := range a.steps {
			if s.titles[n] == "" {
				return nil, fmt.Errorf("line %d: there is no step %d", a.line, n)
			}
		}
	}
	return s, nil
}

func (s *Scenario) add(at int, a action) { s.lines = append(s.lines, line{at, a}) }

func (s *Scenario) line(at int, text string) error {
	if c, ok := strings.CutPrefix(text, "#"); ok || text == "" {
		if len(s.lines) == 0 && ok {
			s.About = strings.TrimSpace(s.About + " " + strings.TrimSpace(c))
		}
		return nil
	}
	word, rest, _ := strings.Cut(text, " ")
	rest = strings.TrimSpace(rest)
	if step, err := strconv.Atoi(word); err == nil {
		return s.step(at, step, rest)
	}
	args := strings.Fields(rest)
	bad := fmt.Errorf("%q is not understood; README.md has every form", text)
	switch word {
	case "broker", "kafka":
		for _, a := range args {
			if !strings.Contains(a, "=") {
				return bad
			}
		}
		if word == "broker" {
			s.Broker = append(s.Broker, args...)
		} else {
			s.Kafka = append(s.Kafka, args...)
		}
	case "fresh":
		s.Fresh = true
	case "name":
		var names []string
		for _, a := range args {
			name, ok := variable(a)
			if !ok {
				return bad
			}
			names = append(names, name)
		}
		s.add(at, declare{names})
	case "topic":
		name, spec, _ := strings.Cut(rest, " ")
		name, ok := variable(name)
		if !ok {
			return bad
		}
		s.add(at, topic{name, spec})
	case "await-topic":
		a := awaitTopic{}
		switch {
		case len(args) == 2 && args[1] == "gone":
			a.gone = true
		case len(args) == 2:
			n, ok := strings.CutPrefix(args[1], "partitions=")
			parts, err := strconv.Atoi(n)
			if !ok || err != nil {
				return bad
			}
			a.parts = parts
		case len(args) != 1:
			return bad
		}
		a.name = args[0]
		s.add(at, a)
	case "let":
		name, from, ok := strings.Cut(rest, "=")
		if !ok {
			return bad
		}
		step, path, _ := strings.Cut(strings.TrimSpace(from), " ")
		n, err := strconv.Atoi(step)
		if err != nil || s.titles[n] == "" {
			return fmt.Errorf("let: there is no step %q before it", step)
		}
		s.add(at, let{strings.TrimPrefix(strings.TrimSpace(name), "$"), n, strings.TrimSpace(path)})
	case "await":
		n, err := strconv.Atoi(rest)
		if err != nil || s.titles[n] == "" {
			return fmt.Errorf("await: there is no step %q before it", rest)
		}
		s.add(at, await{n})
	case "sleep":
		d, err := time.ParseDuration(rest)
		if err != nil {
			return err
		}
		s.add(at, sleep{d})
	case "close", "halfclose":
		if !strings.HasPrefix(rest, "@") {
			return bad
		}
		if word == "close" {
			s.add(at, closeConn{rest[1:]})
		} else {
			s.add(at, halfClose{rest[1:]})
		}
	case "differs", "ignore":
		return s.allowance(at, word, rest)
	default:
		return bad
	}
	return nil
}

var variableName = regexp.MustCompile(`^\$([A-Za-z][A-Za-z0-9]*)$`)

func variable(s string) (string, bool) {
	m := variableName.FindStringSubmatch(s)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// step reads what follows a step's number.
func (s *Scenario) step(at, step int, text string) error {
	if s.titles[step] != "" {
		return fmt.Errorf("step %d is there twice", step)
	}
	conn := "main"
	word, rest, _ := strings.Cut(text, " ")
	if of, ok := strings.CutPrefix(text, "pending "); ok {
		n, err := strconv.Atoi(strings.TrimSpace(of))
		if err != nil || s.titles[n] == "" {
			return fmt.Errorf("pending: there is no step %q before it", of)
		}
		s.titles[step] = text
		s.add(at, pending{step, n})
		return nil
	}
	raw := false
	for word == "raw" || strings.HasPrefix(word, "@") {
		if word == "raw" {
			raw = true
		} else {
			conn = word[1:]
		}
		word, rest, _ = strings.Cut(strings.TrimSpace(rest), " ")
	}
	if raw {
		return s.raw(at, rawRequest{step: step, conn: conn}, word+" "+rest)
	}
	key, ok := keyOf(word)
	if !ok {
		return fmt.Errorf("there is no API %q", word)
	}
	version, rest, _ := strings.Cut(strings.TrimSpace(rest), " ")
	v, err := strconv.ParseInt(version, 10, 16)
	if err != nil {
		return fmt.Errorf("version %q is not a number", version)
	}
	r := request{step: step, conn: conn, key: key, version: int16(v), fields: "{}"}
	rest = strings.TrimSpace(rest)
	if strings.HasPrefix(rest, "{") {
		end := closing(rest)
		if end < 0 {
			return errors.New("the request's { is not closed")
		}
		r.fields, rest = rest[:end], strings.TrimSpace(rest[end:])
	}
	if err := suffixes(rest, &r.async, &r.within, &r.until); err != nil {
		return err
	}
	s.titles[step] = strings.TrimSuffix(word+" "+version, " ")
	s.add(at, r)
	return nil
}

func (s *Scenario) raw(at int, r rawRequest, text string) error {
	text = strings.TrimSpace(text)
	end := strings.IndexFunc(text, func(c rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF ", c) })
	if i := strings.Index(text, "within"); i >= 0 {
		end = i
	}
	if end < 0 {
		end = len(text)
	}
	r.hex = strings.ReplaceAll(text[:end], " ", "")
	if _, err := hex.DecodeString(r.hex); err != nil {
		return fmt.Errorf("raw: %w", err)
	}
	if err := suffixes(strings.TrimSpace(text[end:]), &r.async, &r.within, nil); err != nil {
		return err
	}
	s.titles[r.step] = "raw"
	s.add(at, r)
	return nil
}

// closing gives the index behind the bracket that closes the first one.
func closing(text string) int {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// suffixes reads what may follow a request: &, within DURATION, until PATH = JSON.
func suffixes(rest string, async *bool, within *time.Duration, until **condition) error {
	for rest != "" {
		word, tail, _ := strings.Cut(rest, " ")
		tail = strings.TrimSpace(tail)
		switch {
		case word == "&":
			*async, rest = true, tail
		case word == "within":
			d, more, _ := strings.Cut(tail, " ")
			limit, err := time.ParseDuration(d)
			if err != nil {
				return err
			}
			*within, rest = limit, strings.TrimSpace(more)
		case word == "until" && until != nil:
			p, value, err := pathAndValue(tail)
			if err != nil {
				return err
			}
			*until, rest = &condition{p, value}, ""
		default:
			return fmt.Errorf("%q after the request: there is &, within DURATION, until PATH = JSON", rest)
		}
	}
	return nil
}

// pathAndValue reads PATH = JSON, or PATH = absent.
func pathAndValue(text string) (path, any, error) {
	p, rest, err := cutPath(text)
	if err != nil {
		return nil, nil, err
	}
	value, ok := strings.CutPrefix(rest, "=")
	value = strings.TrimSpace(value)
	if !ok && len(p) == 1 && p[0].field == "=" { // no path: the whole answer
		p, value, ok = nil, rest, true
	}
	if !ok {
		return nil, nil, fmt.Errorf("want PATH = JSON, not %q", text)
	}
	if value == "absent" {
		return p, gone{}, nil
	}
	v, tail, err := parseTree(value)
	if err == nil && strings.TrimSpace(tail) != "" {
		err = fmt.Errorf("%q follows it", strings.TrimSpace(tail))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%q is not JSON: %w", value, err)
	}
	return p, v, nil
}

// allowance reads: STEP[,STEP…]|* PATH [= JSON] : reason.
func (s *Scenario) allowance(at int, word, text string) error {
	i := strings.LastIndex(text, " : ")
	if i < 0 || strings.TrimSpace(text[i+3:]) == "" {
		return fmt.Errorf("%s wants \" : reason\" at its end", word)
	}
	a := allowance{line: at, reason: strings.TrimSpace(text[i+3:])}
	steps, rest, _ := strings.Cut(strings.TrimSpace(text[:i]), " ")
	if steps != "*" {
		for _, f := range strings.Split(steps, ",") {
			n, err := strconv.Atoi(f)
			if err != nil {
				return fmt.Errorf("%s: %q is not a step", word, f)
			}
			a.steps = append(a.steps, n)
		}
	}
	var err error
	if word == "ignore" {
		a.path, err = parsePath(strings.TrimSpace(rest))
		s.ignores = append(s.ignores, a)
		return err
	}
	a.path, a.value, err = pathAndValue(strings.TrimSpace(rest))
	s.differs = append(s.differs, a)
	return err
}

func (a allowance) concerns(step int) bool { return a.steps == nil || slices.Contains(a.steps, step) }

// Use is an API and version that a step asks.
type Use struct {
	Step         int
	Key, Version int16
}

// Uses lists what the scenario's steps ask, in their order; what stands in raw
// bytes is included.
func (s *Scenario) Uses() []Use {
	var all []Use
	for _, l := range s.lines {
		switch a := l.do.(type) {
		case request:
			all = append(all, Use{a.step, a.key, a.version})
		case rawRequest:
			if b, err := hex.DecodeString(a.hex); err == nil && len(b) >= 8 {
				all = append(all, Use{a.step, int16(binary.BigEndian.Uint16(b[4:])), int16(binary.BigEndian.Uint16(b[6:]))})
			}
		}
	}
	return all
}
