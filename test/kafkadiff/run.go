package kafkadiff

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Answer is what a broker answered to one step, normalised.
type Answer struct {
	Step  int
	Title string // API and version
	Tree  any    // an object, or a string such as "closed"
}

const (
	usualLimit   = 20 * time.Second      // for an answer
	acks0Limit   = 2 * time.Second       // to see that a request without acknowledgement has no answer
	untilLimit   = 30 * time.Second      // for a step with until
	pollInterval = 50 * time.Millisecond // between its attempts
	maxScenario  = 60 * time.Second      // for all of a scenario
)

// runner is one run of a scenario.
type runner struct {
	s       *Scenario
	addr    string
	n       *normaliser
	vars    map[string]string // what $NAME is replaced by
	conns   map[string]*conn
	next    map[string]int32 // correlation ids
	sent    map[string]bool  // payloads of batches
	waiting map[int]*exchange
	limits  map[int]time.Duration
	order   []int // of steps that are waited for
	raw     map[int]any
	answers []Answer
	begun   time.Time
}

// Run sends the scenario to the broker at addr. The answers are in the order
// in which they were awaited. An error says what kept it from going on; the
// answers up to there come with it.
func Run(addr string, s *Scenario) ([]Answer, error) {
	r := newRunner(addr, s)
	defer r.closeAll()
	for _, l := range s.lines {
		if time.Since(r.begun) > maxScenario {
			return r.answers, fmt.Errorf("line %d: the scenario takes longer than %v", l.number, maxScenario)
		}
		if err := r.do(l.do); err != nil {
			return r.answers, fmt.Errorf("line %d: %w", l.number, err)
		}
	}
	for len(r.order) > 0 {
		r.collect(r.order[0])
	}
	return r.answers, nil
}

func newRunner(addr string, s *Scenario) *runner {
	now := time.Now()
	r := &runner{
		s: s, addr: addr, n: newNormaliser(addr, randomSuffix(), now), begun: now,
		vars: map[string]string{}, conns: map[string]*conn{}, next: map[string]int32{}, sent: map[string]bool{},
		waiting: map[int]*exchange{}, limits: map[int]time.Duration{}, raw: map[int]any{},
	}
	r.vars["now"] = strconv.FormatInt(r.n.clock, 10)
	return r
}

func (r *runner) closeAll() {
	for _, c := range r.conns {
		c.close()
	}
}

func randomSuffix() string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	b := []byte{letters[rand.IntN(26)]}
	for range 7 {
		b = append(b, letters[rand.IntN(len(letters))])
	}
	return string(b)
}

func (r *runner) do(a action) error {
	switch a := a.(type) {
	case declare:
		for _, name := range a.names {
			r.vars[name] = name + r.n.suffix
		}
	case topic:
		return r.createTopic(a)
	case awaitTopic:
		name, err := r.expand(a.name)
		if err != nil {
			return err
		}
		return r.awaitTopic(name, a)
	case request:
		return r.request(a)
	case rawRequest:
		return r.rawRequest(a)
	case await:
		if r.waiting[a.step] == nil {
			return fmt.Errorf("step %d is not waited for: it has no & or was awaited before", a.step)
		}
		r.collect(a.step)
	case pending:
		word := "answered"
		if e := r.waiting[a.of]; e != nil && !e.wait(0) {
			word = "pending"
		}
		r.answers = append(r.answers, Answer{a.step, r.s.titles[a.step], word})
	case let:
		return r.let(a)
	case sleep:
		time.Sleep(a.d)
	case closeConn:
		if c := r.conns[a.conn]; c != nil {
			c.close()
		}
	case halfClose:
		c, err := r.conn(a.conn)
		if err != nil {
			return err
		}
		c.closeWrite()
	}
	return nil
}

// conn gives the connection of that name, opened anew when it is not there.
func (r *runner) conn(name string) (*conn, error) {
	if c := r.conns[name]; c != nil && c.usable() {
		return c, nil
	}
	c, err := dial(r.addr)
	if err != nil {
		return nil, err
	}
	r.conns[name], r.next[name] = c, 0
	return c, nil
}

// build makes the next frame of a connection.
func (r *runner) build(name string, key, version int16, fields *object) (frame, error) {
	r.next[name]++
	f, err := buildRequest(key, version, fields, name, r.next[name], r.n.clock)
	for _, b := range f.batches {
		r.sent[string(b)] = true
	}
	return f, err
}

func (r *runner) fields(text string) (*object, error) {
	text, err := r.expand(text)
	if err != nil {
		return nil, err
	}
	v, rest, err := parseTree(text)
	if err != nil {
		return nil, fmt.Errorf("%w in %s", err, text)
	}
	o, ok := v.(*object)
	if !ok || strings.TrimSpace(rest) != "" {
		return nil, fmt.Errorf("want one JSON object: %s", text)
	}
	return o, nil
}

func (r *runner) request(a request) error {
	deadline := time.Now().Add(untilLimit)
	for {
		fields, err := r.fields(a.fields)
		if err != nil {
			return err
		}
		c, err := r.conn(a.conn)
		if err != nil {
			return err
		}
		f, err := r.build(a.conn, a.key, a.version, fields)
		if err != nil {
			return err
		}
		limit := a.within
		if limit == 0 {
			limit = usualLimit
		}
		async := a.async
		p, ok := f.body.(*kmsg.ProduceRequest)
		silent := ok && p.Acks == 0
		if silent && a.within == 0 {
			async, limit = true, acks0Limit
		}
		r.hold(a.step, c.send(f), limit)
		c.tell(silent)
		if async {
			return nil
		}
		tree := r.take(a.step)
		if a.until == nil || r.holds(a.until, tree) {
			r.keep(a.step, f.key, tree)
			return nil
		}
		if time.Now().After(deadline) {
			r.keep(a.step, f.key, tree)
			return fmt.Errorf("step %d: not within %v; the last answer: %s", a.step, untilLimit, oneLine(r.answers[len(r.answers)-1].Tree))
		}
		time.Sleep(pollInterval)
	}
}

func (r *runner) rawRequest(a rawRequest) error {
	b, err := hex.DecodeString(a.hex)
	if err != nil {
		return err
	}
	c, err := r.conn(a.conn)
	if err != nil {
		return err
	}
	f := frame{key: -1, bytes: b}
	if len(b) >= 12 {
		f.key, f.version = int16(binary.BigEndian.Uint16(b[4:])), int16(binary.BigEndian.Uint16(b[6:]))
		f.correlation = int32(binary.BigEndian.Uint32(b[8:]))
	}
	limit := a.within
	if limit == 0 {
		limit = usualLimit
	}
	r.hold(a.step, c.send(f), limit)
	if !a.async {
		r.collect(a.step)
	}
	return nil
}

func (r *runner) hold(step int, e *exchange, limit time.Duration) {
	r.waiting[step], r.limits[step] = e, limit
	r.order = append(r.order, step)
}

// take waits for a step's answer and gives it as the broker sent it, its lists
// in order.
func (r *runner) take(step int) any {
	e := r.waiting[step]
	delete(r.waiting, step)
	for i, n := range r.order {
		if n == step {
			r.order = append(r.order[:i:i], r.order[i+1:]...)
			break
		}
	}
	switch {
	case !e.wait(r.limits[step]):
		return noAnswer
	case e.word != "":
		e.conn.tell(false) // it has been told
		return e.word
	}
	tree := decodeAnswer(e.frame.key, e.frame.version, e.body, r.sent)
	r.n.sort(e.frame.key, tree)
	return tree
}

func (r *runner) collect(step int) {
	key := r.waiting[step].frame.key
	r.keep(step, key, r.take(step))
}

// keep makes a step's answer final.
func (r *runner) keep(step int, key int16, tree any) {
	r.raw[step] = tree
	r.answers = append(r.answers, Answer{step, r.s.titles[step], r.s.ignore(step, r.n.tree(tree), nil)})
}

func (r *runner) holds(c *condition, tree any) bool {
	r.n.peek = true
	defer func() { r.n.peek = false }()
	found := c.path.lookup(r.n.tree(tree))
	for _, v := range found {
		if !equal(v, c.is) {
			return false
		}
	}
	_, absent := c.is.(gone)
	return len(found) > 0 != absent
}

func (r *runner) let(a let) error {
	tree, ok := r.raw[a.step]
	if !ok {
		return fmt.Errorf("let: step %d has no answer yet", a.step)
	}
	text, err := r.expand(a.path)
	if err != nil {
		return err
	}
	p, err := parsePath(text)
	if err != nil {
		return err
	}
	found := p.lookup(tree)
	if len(found) != 1 {
		return fmt.Errorf("let: the answer of step %d has %d values at %s", a.step, len(found), a.path)
	}
	field := ""
	if len(p) > 0 {
		field = p[len(p)-1].field
	}
	return r.bind(a.name, field, found[0])
}

func (r *runner) bind(name, field string, v any) error {
	switch x := v.(type) {
	case id:
		r.vars[name] = string(x)
	case string:
		quoted := quote(x)
		r.vars[name] = quoted[1 : len(quoted)-1]
	case json.Number:
		r.vars[name] = x.String()
	case nil:
		return fmt.Errorf("let: %s would be null", name)
	default:
		return fmt.Errorf("let: %s would be no string and no number", name)
	}
	r.n.bind(name, field, v)
	return nil
}

var reference = regexp.MustCompile(`\$(\$|[A-Za-z][A-Za-z0-9]*(?:\.id\b)?|\([A-Za-z][A-Za-z0-9]*[+-][0-9]+\))`)

// expand replaces $NAME, $NAME.id, $(NAME+N) and $$.
func (r *runner) expand(text string) (string, error) {
	var bad error
	out := reference.ReplaceAllStringFunc(text, func(ref string) string {
		name := strings.Trim(ref[1:], "()")
		if name == "$" {
			return "$"
		}
		if i := strings.IndexAny(name, "+-"); i > 0 {
			base, err1 := strconv.ParseInt(r.vars[name[:i]], 10, 64)
			plus, err2 := strconv.ParseInt(name[i:], 10, 64)
			if err := errors.Join(err1, err2); err != nil {
				bad = fmt.Errorf("%s: %w", ref, err)
			}
			return strconv.FormatInt(base+plus, 10)
		}
		if v, ok := r.vars[name]; ok {
			return v
		}
		if base, ok := strings.CutSuffix(name, ".id"); ok && r.vars[base] != "" {
			return r.vars[base] + ".id"
		}
		bad = fmt.Errorf("%s is not declared: name, topic and let do that", ref)
		return ref
	})
	return out, bad
}
