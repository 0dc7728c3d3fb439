package kafkadiff

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A tree is an answer in a form that can be compared, written and read back:
// nil, bool, json.Number, string, list or *object.

// object is a tree node whose fields keep their order.
type object struct {
	names  []string
	values []any
}

type list []any

func (o *object) get(name string) (any, bool) {
	for i, n := range o.names {
		if n == name {
			return o.values[i], true
		}
	}
	return nil, false
}

func (o *object) set(name string, v any) {
	for i, n := range o.names {
		if n == name {
			o.values[i] = v
			return
		}
	}
	o.names = append(o.names, name)
	o.values = append(o.values, v)
}

func (o *object) remove(name string) {
	for i, n := range o.names {
		if n == name {
			o.names = append(o.names[:i:i], o.names[i+1:]...)
			o.values = append(o.values[:i:i], o.values[i+1:]...)
			return
		}
	}
}

func number(i int64) json.Number { return json.Number(strconv.FormatInt(i, 10)) }

// clone copies a tree, so that the copy can be changed.
func clone(v any) any {
	switch v := v.(type) {
	case *object:
		o := &object{names: append([]string(nil), v.names...), values: make([]any, len(v.values))}
		for i := range v.values {
			o.values[i] = clone(v.values[i])
		}
		return o
	case list:
		l := make(list, len(v))
		for i := range v {
			l[i] = clone(v[i])
		}
		return l
	}
	return v
}

// equal compares two trees; the order of an object's fields does not count.
func equal(a, b any) bool { return firstDifference("", a, b) == nil }

// parseTree reads one JSON value from the front of text and gives what
// follows it.
func parseTree(text string) (v any, rest string, err error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	v, err = decodeTree(dec)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, "", err
	}
	return v, text[dec.InputOffset():], nil
}

func decodeTree(dec *json.Decoder) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	switch delim {
	case '{':
		o := &object{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, err
			}
			v, err := decodeTree(dec)
			if err != nil {
				return nil, err
			}
			if _, twice := o.get(name.(string)); twice {
				return nil, fmt.Errorf("field %q is given twice", name)
			}
			o.set(name.(string), v)
		}
		_, err = dec.Token()
		return o, err
	case '[':
		l := list{}
		for dec.More() {
			v, err := decodeTree(dec)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		_, err = dec.Token()
		return l, err
	}
	return nil, fmt.Errorf("unexpected %v", delim)
}

// width is how long a rendered line may get before its value is broken up.
const width = 110

// renderTree writes a tree as JSON: what fits stays on one line.
func renderTree(v any) string {
	var b bytes.Buffer
	render(&b, v, "", 0)
	return b.String()
}

func render(b *bytes.Buffer, v any, indent string, used int) {
	one := oneLine(v)
	if len(indent)+used+utf8.RuneCountInString(one) <= width {
		b.WriteString(one)
		return
	}
	deeper := indent + "  "
	switch v := v.(type) {
	case *object:
		b.WriteString("{\n")
		for i, n := range v.names {
			key := quote(n) + ": "
			b.WriteString(deeper + key)
			render(b, v.values[i], deeper, len(key)+1)
			if i < len(v.names)-1 {
				b.WriteByte(',')
			}
			b.WriteByte('\n')
		}
		b.WriteString(indent + "}")
	case list:
		b.WriteString("[\n")
		for i, e := range v {
			b.WriteString(deeper)
			render(b, e, deeper, 1)
			if i < len(v)-1 {
				b.WriteByte(',')
			}
			b.WriteByte('\n')
		}
		b.WriteString(indent + "]")
	default:
		b.WriteString(one)
	}
}

func oneLine(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(v)
	case json.Number:
		return v.String()
	case string:
		return quote(v)
	case list:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = oneLine(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case *object:
		parts := make([]string, len(v.names))
		for i, n := range v.names {
			parts[i] = quote(n) + ": " + oneLine(v.values[i])
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	panic(fmt.Sprintf("kafkadiff: a %T is no part of a tree", v))
}

func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic(err) // a string can always be encoded
	}
	return strings.TrimSuffix(b.String(), "\n")
}
