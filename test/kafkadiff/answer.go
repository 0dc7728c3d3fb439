package kafkadiff

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Answers that are not a response. They stand in a recording as strings.
const (
	closed   = "closed"    // the broker closed the connection
	noAnswer = "no answer" // a later request was answered first, or nothing came in time
)

// decodeAnswer makes a tree of the bytes that follow the correlation id. It
// has every field of that version in the order of kmsg's struct, values as the
// broker sent them.
func decodeAnswer(key, version int16, b []byte, sent map[string]bool) any {
	tree, ok := decodeAs(key, version, b, sent)
	if !ok && key == int16(kmsg.ApiVersions) && version != 0 {
		// An unknown version is answered in the form of version 0.
		if v0, ok := decodeAs(key, 0, b, sent); ok {
			return v0
		}
	}
	return tree
}

// decodeAs says false when b is not exactly what kmsg would write for what it
// read, so that nothing in an answer goes unseen.
func decodeAs(key, version int16, b []byte, sent map[string]bool) (tree any, exact bool) {
	raw := &object{names: []string{"@bytes"}, values: []any{hex.EncodeToString(b)}}
	resp := kmsg.ResponseForKey(key)
	if resp == nil || version < 0 {
		return raw, false
	}
	resp.SetVersion(version)
	body := b
	o := &object{}
	if resp.IsFlexible() && key != int16(kmsg.ApiVersions) {
		var tags kmsg.Tags
		var ok bool
		if tags, body, ok = readTags(b); !ok {
			return raw, false
		}
		if tags.Len() > 0 {
			o.set("@header", tagsTree(&tags))
		}
	}
	if err := resp.ReadFrom(body); err != nil {
		raw.set("@error", "cut short")
		return raw, false
	}
	d := decoder{sent: sent}
	d.structFields(o, reflect.ValueOf(resp).Elem(), planOf(key, version))
	if again := resp.AppendTo(nil); !bytes.Equal(again, body) {
		o.set("@bytes", hex.EncodeToString(body))
		return o, false
	}
	return o, true
}

func readTags(b []byte) (kmsg.Tags, []byte, bool) {
	var tags kmsg.Tags
	next := func() (uint64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, false
		}
		b = b[n:]
		return v, true
	}
	num, ok := next()
	for ; ok && num > 0; num-- {
		key, ok1 := next()
		size, ok2 := next()
		if !ok1 || !ok2 || size > uint64(len(b)) {
			return tags, nil, false
		}
		tags.Set(uint32(key), b[:size])
		b = b[size:]
	}
	return tags, b, ok
}

func tagsTree(tags *kmsg.Tags) *object {
	o := &object{}
	tags.Each(func(k uint32, v []byte) { o.set(strconv.Itoa(int(k)), escapeBytes(v)) })
	return o
}

// plan says which fields of a struct exist in one version.
type plan struct {
	fields []plannedField
}

type plannedField struct {
	index int
	name  string
	null  bool  // of a list or bytes: null is not the same as empty
	sub   *plan // of a struct, a pointer to one, or the elements of a list of them
}

type planKey struct{ key, version int16 }

var plans sync.Map // of planKey: *plan

// planOf finds out by trying: a field belongs to a version when setting it
// changes what kmsg writes.
func planOf(key, version int16) *plan {
	if p, ok := plans.Load(planKey{key, version}); ok {
		return p.(*plan)
	}
	p := probe(func() (reflect.Value, func() []byte) {
		resp := kmsg.ResponseForKey(key)
		resp.SetVersion(version)
		return reflect.ValueOf(resp).Elem(), func() []byte { return resp.AppendTo(nil) }
	})
	plans.Store(planKey{key, version}, p)
	return p
}

// probe makes the plan of the struct that fresh gives: a new one each time,
// and what writes the whole answer it is part of.
func probe(fresh func() (reflect.Value, func() []byte)) *plan {
	v, _ := fresh()
	p := &plan{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Name == "Version" || f.Type == tagsType {
			continue
		}
		// inside gives the struct behind field i, made if it is not there.
		inside := func() (reflect.Value, func() []byte) {
			v, write := fresh()
			return structBehind(v.Field(i)), write
		}
		planned := plannedField{index: i, name: f.Name}
		if f.Type.Kind() == reflect.Slice {
			null := writeWith(fresh, func(v reflect.Value) { v.Field(i).SetZero() })
			empty := writeWith(fresh, func(v reflect.Value) { v.Field(i).Set(reflect.MakeSlice(f.Type, 0, 0)) })
			planned.null = !bytes.Equal(null, empty)
		}
		switch {
		case holdsStruct(f.Type):
			planned.sub = probe(inside)
			if f.Type.Kind() == reflect.Struct {
				if len(planned.sub.fields) > 0 {
					p.fields = append(p.fields, planned)
				}
				continue
			}
			before := writeWith(fresh, nil)
			after := writeWith(fresh, func(v reflect.Value) { structBehind(v.Field(i)) })
			if !bytes.Equal(before, after) {
				p.fields = append(p.fields, planned)
			}
		default:
			before := writeWith(fresh, nil)
			after := writeWith(fresh, func(v reflect.Value) { alter(v.Field(i)) })
			if !bytes.Equal(before, after) {
				p.fields = append(p.fields, planned)
			}
		}
	}
	return p
}

func writeWith(fresh func() (reflect.Value, func() []byte), change func(reflect.Value)) []byte {
	v, write := fresh()
	if change != nil {
		change(v)
	}
	return write()
}

func holdsStruct(t reflect.Type) bool {
	if t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct
}

func structBehind(f reflect.Value) reflect.Value {
	switch f.Kind() {
	case reflect.Slice:
		s := reflect.MakeSlice(f.Type(), 1, 1)
		setDefault(s.Index(0).Addr())
		f.Set(s)
		return f.Index(0)
	case reflect.Pointer:
		p := reflect.New(f.Type().Elem())
		setDefault(p)
		f.Set(p)
		return p.Elem()
	}
	return f
}

// alter gives a field a value other than its default.
func alter(f reflect.Value) {
	switch {
	case f.CanInt():
		f.SetInt(f.Int() ^ 1)
	case f.CanUint():
		f.SetUint(f.Uint() ^ 1)
	case f.CanFloat():
		f.SetFloat(f.Float() + 1)
	case f.Kind() == reflect.Bool:
		f.SetBool(!f.Bool())
	case f.Kind() == reflect.String:
		f.SetString(f.String() + "x")
	case f.Kind() == reflect.Slice:
		f.Set(reflect.MakeSlice(f.Type(), 1, 1))
	case f.Kind() == reflect.Array:
		alter(f.Index(0))
	case f.Kind() == reflect.Pointer:
		p := reflect.New(f.Type().Elem())
		if !f.IsNil() {
			p.Elem().Set(f.Elem())
		}
		alter(p.Elem())
		f.Set(p)
	default:
		panic(fmt.Sprintf("kafkadiff: a field of kind %s", f.Kind()))
	}
}

type decoder struct {
	sent map[string]bool // payloads that were produced
}

func (d decoder) structFields(o *object, v reflect.Value, p *plan) {
	for _, f := range p.fields {
		o.set(f.name, d.value(v.Field(f.index), f))
	}
	if tags := v.FieldByName("UnknownTags"); tags.IsValid() {
		if t := tags.Addr().Interface().(*kmsg.Tags); t.Len() > 0 {
			o.set("UnknownTags", tagsTree(t))
		}
	}
}

func (d decoder) value(v reflect.Value, f plannedField) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return d.value(v.Elem(), f)
	case reflect.Struct:
		o := &object{}
		d.structFields(o, v, f.sub)
		return o
	case reflect.Slice:
		if v.IsNil() {
			if f.null {
				return nil
			}
			v = reflect.MakeSlice(v.Type(), 0, 0)
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			if f.name == "RecordBatches" {
				return decodeBatches(v.Bytes(), d.sent)
			}
			return bytesTree(v.Bytes())
		}
		l := make(list, v.Len())
		for i := range l {
			l[i] = d.value(v.Index(i), f)
		}
		return l
	case reflect.Array:
		b := make([]byte, v.Len())
		reflect.Copy(reflect.ValueOf(b), v)
		return id(hex.EncodeToString(b))
	case reflect.String:
		return v.String()
	case reflect.Bool:
		return v.Bool()
	}
	switch {
	case v.CanFloat():
		return json.Number(strconv.FormatFloat(v.Float(), 'g', -1, 64))
	case v.CanUint():
		return json.Number(strconv.FormatUint(v.Uint(), 10))
	}
	return number(v.Int())
}

// id is what a field of 16 bytes holds, in hexadecimal; the normaliser names it.
type id string

// errorName gives the name of an error code, and the number of one that has
// no name.
func errorName(code int64) any {
	if code == 0 {
		return number(0)
	}
	if err := kerr.TypedErrorForCode(int16(code)); err != nil && err.Code == int16(code) {
		return err.Message
	}
	return number(code)
}
