package kafkadiff

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// keyOf finds an API by kmsg's name, in any case, or by its number.
func keyOf(name string) (int16, bool) {
	if n, err := strconv.ParseInt(name, 10, 16); err == nil {
		return int16(n), true
	}
	for k := int16(0); k <= kmsg.MaxKey; k++ {
		if strings.EqualFold(kmsg.NameForKey(k), name) {
			return k, true
		}
	}
	return 0, false
}

// frame is a request as it goes to the broker.
type frame struct {
	key, version int16
	correlation  int32
	bytes        []byte       // size included
	batches      [][]byte     // payloads of the record batches inside
	body         kmsg.Request // nil for a raw one
}

// header says what stands before a request's body.
type header struct {
	client      *string
	correlation *int32 // nil: the next one of the connection
	tags        kmsg.Tags
	tail        []byte // bytes after the body
	cut         int    // bytes that the frame lacks at its end
}

// buildRequest makes the frame of a request: fields is the tree of its JSON.
// A field "@header" is not the request's: {"client": "c" or null,
// "correlation": N, "tags": {"7": "bytes"}, "tail": "bytes", "cut": N}.
func buildRequest(key, version int16, fields *object, client string, correlation int32, clock int64) (frame, error) {
	h := header{client: &client}
	if err := h.read(fields); err != nil {
		return frame{}, err
	}
	if h.correlation != nil {
		correlation = *h.correlation
	}
	f := frame{key: key, version: version, correlation: correlation}
	req := kmsg.RequestForKey(key)
	flexible := false
	if req != nil {
		req.SetVersion(version)
		flexible = req.IsFlexible()
		s := setter{clock: clock}
		if err := s.set(reflect.ValueOf(req).Elem(), fields, kmsg.NameForKey(key)); err != nil {
			return frame{}, err
		}
		f.batches, f.body = s.payloads, req
	} else if len(fields.names) > 0 {
		return frame{}, fmt.Errorf("API key %d has no fields here: use raw", key)
	}
	b := make([]byte, 4, 256)
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	if h.client == nil {
		b = append(b, 0xff, 0xff)
	} else {
		b = binary.BigEndian.AppendUint16(b, uint16(len(*h.client)))
		b = append(b, *h.client...)
	}
	if flexible {
		b = binary.AppendUvarint(b, uint64(h.tags.Len()))
		b = h.tags.AppendEach(b)
	}
	if req != nil {
		b = req.AppendTo(b)
	}
	b = append(b, h.tail...)
	if h.cut > len(b)-4 {
		return frame{}, fmt.Errorf("cut %d: the frame has %d bytes", h.cut, len(b)-4)
	}
	b = b[:len(b)-h.cut]
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	f.bytes = b
	return f, nil
}

func (h *header) read(fields *object) error {
	v, ok := fields.get("@header")
	if !ok {
		return nil
	}
	fields.remove("@header")
	o, ok := v.(*object)
	if !ok {
		return fmt.Errorf("@header: want an object, not %s", oneLine(v))
	}
	for i, n := range o.names {
		var err error
		dst := map[string]any{"client": &h.client, "correlation": &h.correlation, "tags": &h.tags, "tail": &h.tail, "cut": &h.cut}[n]
		if dst == nil {
			err = fmt.Errorf("there is client, correlation, tags, tail and cut")
		} else {
			err = (&setter{}).set(reflect.ValueOf(dst).Elem(), o.values[i], "@header."+n)
		}
		if err != nil {
			return fmt.Errorf("@header.%s: %w", n, err)
		}
	}
	return nil
}

// setter fills a struct of kmsg from a tree.
type setter struct {
	payloads [][]byte // of record batches that were built on the way
	clock    int64    // timestamp of records that name none, milliseconds
}

var tagsType = reflect.TypeFor[kmsg.Tags]()

func (s *setter) set(dst reflect.Value, v any, at string) error {
	if dst.Type() == tagsType {
		return setTags(dst, v, at)
	}
	switch dst.Kind() {
	case reflect.Pointer:
		if v == nil {
			dst.SetZero()
			return nil
		}
		p := reflect.New(dst.Type().Elem())
		setDefault(p)
		if err := s.set(p.Elem(), v, at); err != nil {
			return err
		}
		dst.Set(p)
		return nil
	case reflect.Struct:
		return s.setStruct(dst, v, at)
	case reflect.Slice:
		if v == nil {
			dst.SetZero()
			return nil
		}
		if dst.Type().Elem().Kind() == reflect.Uint8 {
			b, err := s.bytes(v)
			if err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
			dst.SetBytes(b)
			return nil
		}
		l, ok := v.(list)
		if !ok {
			return fmt.Errorf("%s: want a list, not %s", at, oneLine(v))
		}
		slice := reflect.MakeSlice(dst.Type(), len(l), len(l))
		for i, e := range l {
			setDefault(slice.Index(i).Addr())
			if err := s.set(slice.Index(i), e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		dst.Set(slice)
		return nil
	case reflect.Array:
		text, ok := v.(string)
		b, err := hex.DecodeString(text)
		if !ok || err != nil || len(b) != dst.Len() {
			return fmt.Errorf("%s: want an id of %d hexadecimal digits, not %s", at, 2*dst.Len(), oneLine(v))
		}
		reflect.Copy(dst, reflect.ValueOf(b))
		return nil
	}
	return setScalar(dst, v, at)
}

func (s *setter) setStruct(dst reflect.Value, v any, at string) error {
	o, ok := v.(*object)
	if !ok {
		return fmt.Errorf("%s: want an object, not %s", at, oneLine(v))
	}
	for i, n := range o.names {
		f := dst.FieldByName(n)
		if !f.IsValid() || n == "Version" {
			return fmt.Errorf("%s has no field %s; there is %s", at, n, strings.Join(fieldNames(dst.Type()), ", "))
		}
		if err := s.set(f, o.values[i], at+"."+n); err != nil {
			return err
		}
	}
	return nil
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		if n := t.Field(i).Name; n != "Version" {
			names = append(names, n)
		}
	}
	return names
}

func setDefault(p reflect.Value) {
	if d, ok := p.Interface().(interface{ Default() }); ok {
		d.Default()
	}
}

func setTags(dst reflect.Value, v any, at string) error {
	o, ok := v.(*object)
	if !ok {
		return fmt.Errorf("%s: want an object of tags", at)
	}
	tags := dst.Addr().Interface().(*kmsg.Tags)
	for i, n := range o.names {
		key, err := strconv.ParseUint(n, 10, 32)
		text, ok := o.values[i].(string)
		if err != nil || !ok {
			return fmt.Errorf("%s: want {\"NUMBER\": \"bytes\"}", at)
		}
		b, err := unescapeBytes(text)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		tags.Set(uint32(key), b)
	}
	return nil
}

func setScalar(dst reflect.Value, v any, at string) error {
	wrong := fmt.Errorf("%s: %s does not fit a %s", at, oneLine(v), dst.Kind())
	switch v := v.(type) {
	case bool:
		if dst.Kind() != reflect.Bool {
			return wrong
		}
		dst.SetBool(v)
	case string:
		if dst.Kind() != reflect.String {
			return wrong
		}
		dst.SetString(v)
	case json.Number:
		switch {
		case dst.CanInt():
			n, err := strconv.ParseInt(v.String(), 10, 64)
			if err != nil || dst.OverflowInt(n) {
				return wrong
			}
			dst.SetInt(n)
		case dst.CanUint():
			n, err := strconv.ParseUint(v.String(), 10, 64)
			if err != nil || dst.OverflowUint(n) {
				return wrong
			}
			dst.SetUint(n)
		case dst.CanFloat():
			f, err := strconv.ParseFloat(v.String(), 64)
			if err != nil {
				return wrong
			}
			dst.SetFloat(f)
		default:
			return wrong
		}
	default:
		return wrong
	}
	return nil
}

// bytes makes the value of a bytes field: text with %XX for bytes that are
// not printable, or an object that says what to build.
func (s *setter) bytes(v any) ([]byte, error) {
	switch v := v.(type) {
	case string:
		return unescapeBytes(v)
	case *object:
		if len(v.names) != 1 {
			return nil, fmt.Errorf("want one of batch, batches, messages, subscription, assignment, hex, fill; not %s", oneLine(v))
		}
		return s.build(v.names[0], v.values[0])
	}
	return nil, fmt.Errorf("want bytes, not %s", oneLine(v))
}

func (s *setter) build(what string, v any) ([]byte, error) {
	switch what {
	case "hex":
		text, _ := v.(string)
		return hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	case "fill": // so many times the letter x
		n, err := integer(v, 0, 64<<20)
		return []byte(strings.Repeat("x", int(n))), err
	case "batch":
		return s.batch(v)
	case "batches":
		l, ok := v.(list)
		if !ok {
			return nil, fmt.Errorf("batches: want a list")
		}
		b := []byte{}
		for _, e := range l {
			one, err := s.batch(e)
			if err != nil {
				return nil, err
			}
			b = append(b, one...)
		}
		return b, nil
	case "messages":
		return messageSet(v)
	case "subscription":
		m := kmsg.NewConsumerMemberMetadata()
		err := setVersioned(s, &m.Version, reflect.ValueOf(&m).Elem(), v, what)
		return m.AppendTo(nil), err
	case "assignment":
		m := kmsg.NewConsumerMemberAssignment()
		err := setVersioned(s, &m.Version, reflect.ValueOf(&m).Elem(), v, what)
		return m.AppendTo(nil), err
	}
	return nil, fmt.Errorf("bytes cannot be built of %q; there is batch, batches, messages, subscription, assignment, hex, fill", what)
}

// setVersioned fills a struct whose version is a field of the tree.
func setVersioned(s *setter, version *int16, dst reflect.Value, v any, at string) error {
	o, ok := v.(*object)
	if !ok {
		return fmt.Errorf("%s: want an object", at)
	}
	if n, ok := o.get("Version"); ok {
		i, err := integer(n, math.MinInt16, math.MaxInt16)
		if err != nil {
			return err
		}
		*version = int16(i)
		o = clone(o).(*object)
		o.remove("Version")
	}
	return s.set(dst, o, at)
}

func integer(v any, low, high int64) (int64, error) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, fmt.Errorf("%s is not a number", oneLine(v))
	}
	i, err := strconv.ParseInt(n.String(), 10, 64)
	if err != nil || i < low || i > high {
		return 0, fmt.Errorf("%s is not between %d and %d", n, low, high)
	}
	return i, nil
}

// escapeBytes writes bytes as text: printable ASCII as it is, anything else
// and % as %XX.
func escapeBytes(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		if c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&s, "%%%02x", c)
		} else {
			s.WriteByte(c)
		}
	}
	return s.String()
}

func unescapeBytes(s string) ([]byte, error) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+3 > len(s) {
			return nil, fmt.Errorf("%q: %% wants two hexadecimal digits after it", s)
		}
		c, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			return nil, fmt.Errorf("%q: %% wants two hexadecimal digits after it", s)
		}
		b = append(b, c[0])
		i += 2
	}
	return b, nil
}
