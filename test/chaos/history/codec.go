package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
)

// A line is a JSON object without spaces:
//
//	{"t":TIME,"e":"KIND", then those of these that are not 0 or empty:
//	 "p":PROCESS,"k":KEY,"n":NUMBER,"b":BROKER,"ep":EPOCH,"f":TRAITS,"v":VALUE,
//	 "o":OFFSET,"s":START,"hw":HIGH,"g":"GROUP","x":"TEXT","r":[OFFSET,VALUE,OFFSET,VALUE,…]}

// AppendLine appends e as a line of a history to b.
func AppendLine(b []byte, e *Event) []byte {
	b = strconv.AppendInt(append(b, `{"t":`...), e.Time, 10)
	b = append(append(append(b, `,"e":"`...), e.Kind.String()...), '"')
	for _, f := range [...]struct {
		name string
		n    int64
	}{{`,"p":`, int64(e.Process)}, {`,"k":`, int64(e.Key)}, {`,"n":`, int64(e.Number)}, {`,"b":`, int64(e.Broker)}, {`,"ep":`, int64(e.Epoch)},
		{`,"f":`, int64(e.Traits)}, {`,"v":`, int64(e.Value)}, {`,"o":`, e.Offset}, {`,"s":`, e.Start}, {`,"hw":`, e.High}} {
		if f.n != 0 {
			b = strconv.AppendInt(append(b, f.name...), f.n, 10)
		}
	}
	b = appendText(b, `,"g":`, e.Group)
	b = appendText(b, `,"x":`, e.Text)
	if len(e.Records) > 0 {
		b = append(b, `,"r":[`...)
		for i, r := range e.Records {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, r.Offset, 10)
			b = strconv.AppendInt(append(b, ','), int64(r.Value), 10)
		}
		b = append(b, ']')
	}
	return append(b, '}', '\n')
}

func appendText(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	quoted, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string can always be marshalled
	}
	return append(append(b, name...), quoted...)
}

// ErrFormat says that a line is not one of a history.
var ErrFormat = errors.New("no line of a history")

// ParseLine reads a line, without its end, into e. The records of e are used
// again; everything else is overwritten.
func ParseLine(line []byte, e *Event) error {
	*e = Event{Records: e.Records[:0]}
	p := parser{b: line}
	p.expect('{')
	for first := true; p.err == nil && !p.is('}'); first = false {
		if !first {
			p.expect(',')
		}
		name := p.text()
		p.expect(':')
		p.field(e, name)
	}
	p.expect('}')
	if p.err == nil && p.i != len(p.b) {
		p.fail("more follows")
	}
	if p.err == nil && e.Kind == 0 {
		p.fail("no kind")
	}
	if p.err == nil && (e.Process < 0 || e.Process > MaxProcess || e.Key < 0) {
		p.fail("a process or key that cannot be")
	}
	return p.err
}

type parser struct {
	b   []byte
	i   int
	err error
}

func (p *parser) fail(why string) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: %s at byte %d of %.200q", ErrFormat, why, p.i, p.b)
	}
}

func (p *parser) is(c byte) bool { return p.i < len(p.b) && p.b[p.i] == c }

func (p *parser) expect(c byte) {
	if p.err == nil && !p.is(c) {
		p.fail("no " + string(rune(c)))
	}
	p.i++
}

func (p *parser) field(e *Event, name []byte) {
	if p.err != nil {
		return
	}
	switch string(name) {
	case "t":
		e.Time = p.number()
	case "e":
		kind := slices.Index(names[:], string(p.text()))
		if kind <= 0 {
			p.fail("no such kind")
		}
		e.Kind = Kind(kind)
	case "p":
		e.Process = p.number32()
	case "k":
		e.Key = p.number32()
	case "n":
		e.Number = p.number32()
	case "b":
		e.Broker = p.number32()
	case "ep":
		e.Epoch = p.number32()
	case "f":
		e.Traits = Traits(p.number32())
	case "v":
		e.Value = Value(p.number())
	case "o":
		e.Offset = p.number()
	case "s":
		e.Start = p.number()
	case "hw":
		e.High = p.number()
	case "g":
		e.Group = string(p.text())
	case "x":
		e.Text = string(p.text())
	case "r":
		p.records(e)
	default:
		p.fail("no such field")
	}
}

func (p *parser) records(e *Event) {
	for p.expect('['); p.err == nil; p.expect(',') {
		o := p.number()
		p.expect(',')
		e.Records = append(e.Records, Record{o, Value(p.number())})
		if p.is(']') {
			p.i++
			return
		}
	}
}

func (p *parser) number32() int32 {
	n := p.number()
	if n != int64(int32(n)) {
		p.fail("too large")
	}
	return int32(n)
}

func (p *parser) number() int64 {
	if p.err != nil {
		return 0
	}
	negative := p.is('-')
	if negative {
		p.i++
	}
	from, n := p.i, int64(0)
	for ; p.i < len(p.b) && p.b[p.i] >= '0' && p.b[p.i] <= '9'; p.i++ {
		n = n*10 + int64(p.b[p.i]-'0')
	}
	if p.i == from || p.i-from > 18 {
		p.fail("no number")
		return 0
	}
	if negative {
		return -n
	}
	return n
}

// text reads a string. Without escapes it aliases the line.
func (p *parser) text() []byte {
	p.expect('"')
	from := p.i
	for ; p.i < len(p.b); p.i++ {
		switch p.b[p.i] {
		case '"':
			p.i++
			return p.b[from : p.i-1]
		case '\\':
			return p.escaped(from)
		}
	}
	p.fail("a string that does not end")
	return nil
}

func (p *parser) escaped(from int) []byte {
	for ; p.i < len(p.b) && p.b[p.i] != '"'; p.i++ {
		if p.b[p.i] == '\\' {
			p.i++
		}
	}
	if p.i >= len(p.b) {
		p.fail("a string that does not end")
		return nil
	}
	p.i++
	var s string
	if err := json.Unmarshal(p.b[from-1:p.i], &s); err != nil {
		p.fail("a string with a bad escape")
	}
	return []byte(s)
}

// Reader reads a history event by event.
type Reader struct {
	r    *bufio.Reader
	line int64
	long []byte
}

// NewReader reads from r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 1<<20)} }

// Line is the number of the event that was read last, from 1.
func (r *Reader) Line() int64 { return r.line }

// Next reads the next event into e; io.EOF after the last. A last line that
// has no end was being written when its writer died: it counts as not there.
func (r *Reader) Next(e *Event) error {
	line, err := r.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		r.long = append(r.long[:0], line...)
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = r.r.ReadSlice('\n')
			r.long = append(r.long, line...)
		}
		line = r.long
	}
	if err != nil {
		return err
	}
	r.line++
	if err := ParseLine(line[:len(line)-1], e); err != nil {
		return fmt.Errorf("line %d: %w", r.line, err)
	}
	return nil
}

// Each calls f with every event of a file and the number of its line. The
// event and its records are overwritten by the next.
func Each(path string, f func(line int64, e *Event) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	r := NewReader(file)
	var e Event
	for {
		err := r.Next(&e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = f(r.line, &e)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}
