package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kmsg"
)

//go:generate go run ./gen schema/requests.txt decode_gen.go fuzz_gen_test.go

// Errors of requests that came from outside.
var (
	// ErrMalformed says that the bytes are not a request of that key and
	// version, or that it is out of proportion.
	ErrMalformed = errors.New("malformed request")
	// ErrUnsupported says that the key or its version is not answered.
	ErrUnsupported = errors.New("unsupported request")
)

// A decoded request takes at most decodeSlack + decodeFactor × its length of
// memory, the frame itself not counted. The slack lets small frames through
// whatever they hold; the minimum sizes of array elements bound those anyway.
const (
	decodeSlack  = 4 << 20
	decodeFactor = 6
)

// maxListed is how many partitions and brokers a request may list by number.
// Four bytes of it can ask for a hundred bytes of a reply, so that a large
// request could take more memory than there is; no cluster has that many.
const maxListed = 1_000_000

// DecodeRequest decodes body, what follows a request's header, as the key
// and version say. Every length and count is checked against the bytes that
// remain before anything is allocated. Byte slices (Records, Metadata …) of
// the result alias body; strings are copies. Tagged fields that are not known
// are skipped and not kept; so are bytes after the last field, as Kafka does.
// Errors wrap ErrMalformed or ErrUnsupported.
func DecodeRequest(key, version int16, body []byte) (kmsg.Request, error) {
	api := lookup(key)
	if api == nil || version < api.min || version > api.max {
		return nil, fmt.Errorf("%w: key %d, version %d", ErrUnsupported, key, version)
	}
	r := newReader(body)
	req := api.decode(r, version)
	if r.err == nil && len(r.src) > 0 {
		mTrailing.Inc()
	}
	if r.err != nil {
		return nil, fmt.Errorf("%w: %s version %d: %w", ErrMalformed, api.name, version, r.err)
	}
	return req, nil
}

// reader takes Kafka's primitive types off src. The first failure empties
// src, so that whatever is read after it is zero; callers look at err once,
// at the end.
type reader struct {
	src    []byte
	behind int // bytes of the body that come after src, when src is one tag's value
	total  int
	budget int // bytes that may still be allocated
	listed int // numbers in arrays, see maxListed
	err    error
}

func newReader(body []byte) *reader {
	return &reader{src: body, total: len(body), budget: decodeSlack + decodeFactor*len(body)}
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		at := r.total - r.behind - len(r.src)
		r.err = fmt.Errorf("at byte %d: %s", at, fmt.Sprintf(format, args...))
	}
	r.src = nil
}

// take cuts n bytes off; nil when there are not that many.
func (r *reader) take(n int) []byte {
	if uint(n) > uint(len(r.src)) {
		r.fail("%d bytes wanted, %d remain", n, len(r.src))
		return nil
	}
	b := r.src[:n:n]
	r.src = r.src[n:]
	return b
}

// spend counts an allocation against the budget.
func (r *reader) spend(n int) bool {
	if n > r.budget {
		r.fail("the request needs more memory than one of %d bytes may", r.total)
		return false
	}
	r.budget -= n
	return true
}

func (r *reader) bool() bool { return r.int8() != 0 }

func (r *reader) int8() int8 {
	if b := r.take(1); b != nil {
		return int8(b[0])
	}
	return 0
}

func (r *reader) int16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) uint16() uint16 { return uint16(r.int16()) }

func (r *reader) int32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *reader) int64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

func (r *reader) uuid() (id [16]byte) {
	copy(id[:], r.take(16))
	return id
}

// uvarint reads an unsigned 32-bit integer of at most five bytes.
func (r *reader) uvarint() uint32 {
	var x uint64
	for i := range 5 {
		if i >= len(r.src) {
			r.fail("a variable-length integer is cut short")
			return 0
		}
		c := r.src[i]
		x |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if x > math.MaxUint32 {
				break
			}
			r.src = r.src[i+1:]
			return uint32(x)
		}
	}
	r.fail("a variable-length integer is over 32 bits")
	return 0
}

// length reads a length in one of its forms: compact (KIP-482), 16 or 32
// bits. Negative is null.
func (r *reader) length(flex bool, bits int) int {
	switch {
	case flex:
		return int(int64(r.uvarint()) - 1)
	case bits == 16:
		return int(r.int16())
	}
	return int(r.int32())
}

func (r *reader) span(flex bool, bits int, nullable bool) []byte {
	n := r.length(flex, bits)
	switch {
	case r.err != nil:
		return nil
	case n < 0:
		if !nullable {
			r.fail("null where it is not allowed")
		}
		return nil
	case bits == 16 && n > math.MaxInt16:
		r.fail("string of %d bytes, at most %d are allowed", n, math.MaxInt16)
		return nil
	}
	return r.take(n)
}

func (r *reader) string(flex bool) string {
	return r.text(r.span(flex, 16, false))
}

func (r *reader) stringPtr(flex, nullable bool) *string {
	b := r.span(flex, 16, nullable)
	if b == nil || !r.spend(int(unsafe.Sizeof(""))) {
		return nil
	}
	s := r.text(b)
	return &s
}

// text copies a string. What is not UTF-8 in it is replaced; with that it may
// have become longer than a reply can carry.
func (r *reader) text(b []byte) string {
	if utf8.Valid(b) {
		if !r.spend(len(b)) {
			return ""
		}
		return string(b)
	}
	if !r.spend(len(b) * len("\uFFFD")) {
		return ""
	}
	s := replaceInvalid(b)
	if len(s) > math.MaxInt16 {
		r.fail("string of %d bytes once what is not UTF-8 is replaced, at most %d are allowed", len(s), math.MaxInt16)
		return ""
	}
	return s
}

// bytes aliases the body.
func (r *reader) bytes(flex, nullable bool) []byte { return r.span(flex, 32, nullable) }

// arrayLen reads an array's count of elements, each of at least minSize
// bytes: -1 is null.
func (r *reader) arrayLen(flex bool, minSize int, nullable bool) int {
	n := r.length(flex, 32)
	switch {
	case r.err != nil:
		return -1
	case n < 0:
		if !nullable {
			r.fail("null array where it is not allowed")
		}
		return -1
	case n > len(r.src)/minSize:
		r.fail("array of %d elements of %d bytes or more, %d bytes remain", n, minSize, len(r.src))
		return -1
	}
	return n
}

// array makes room for an array's elements, nil when there are none.
func array[T any](r *reader, flex bool, minSize int) []T {
	n := r.arrayLen(flex, minSize, false)
	var t T
	if n <= 0 || !r.spend(n*int(unsafe.Sizeof(t))) {
		return nil
	}
	return make([]T, n)
}

// nullableArray is array where null (nil) and empty (not nil) differ. Where
// nullable is false, in versions before null was allowed, null is refused.
func nullableArray[T any](r *reader, flex bool, minSize int, nullable bool) []T {
	n := r.arrayLen(flex, minSize, nullable)
	var t T
	if n < 0 || !r.spend(n*int(unsafe.Sizeof(t))) {
		return nil
	}
	return make([]T, n)
}

func (r *reader) int32s(flex bool) []int32 { return r.fill(array[int32](r, flex, 4)) }

func (r *reader) nullableInt32s(flex, nullable bool) []int32 {
	return r.fill(nullableArray[int32](r, flex, 4, nullable))
}

func (r *reader) fill(a []int32) []int32 {
	if r.listed += len(a); r.listed > maxListed {
		r.fail("more than %d partitions or brokers are listed", maxListed)
		return nil
	}
	for i := range a {
		a[i] = r.int32()
	}
	return a
}

func (r *reader) int8s(flex bool) []int8 {
	a := array[int8](r, flex, 1)
	for i := range a {
		a[i] = r.int8()
	}
	return a
}

// present reads the byte before a struct that may be null; negative is null.
func (r *reader) present() bool { return r.int8() >= 0 && r.err == nil }

func minString(flex bool) int {
	if flex {
		return 1
	}
	return 2
}

func (r *reader) strings(flex bool) []string {
	return r.fillStrings(array[string](r, flex, minString(flex)), flex)
}

func (r *reader) nullableStrings(flex, nullable bool) []string {
	return r.fillStrings(nullableArray[string](r, flex, minString(flex), nullable), flex)
}

func (r *reader) fillStrings(a []string, flex bool) []string {
	for i := range a {
		a[i] = r.string(flex)
		if r.err != nil {
			return nil
		}
	}
	return a
}

// tagCount reads how many tagged fields follow; each takes two bytes or more.
func (r *reader) tagCount() int {
	n := int(r.uvarint())
	if n > len(r.src)/2 {
		r.fail("%d tagged fields in %d bytes", n, len(r.src))
		return 0
	}
	return n
}

// skipTags passes over a struct's tagged fields, all of them unknown.
func (r *reader) skipTags() {
	for n := r.tagCount(); n > 0 && r.err == nil; n-- {
		r.uvarint()
		r.skip()
	}
}

func (r *reader) skip() {
	n := r.uvarint()
	if r.err == nil {
		r.take(int(n))
	}
}

// enterTag reads a tag and its length and makes its value all that can be
// read until leaveTag, which wants outer.
func (r *reader) enterTag() (tag uint32, outer []byte) {
	tag = r.uvarint()
	n := r.uvarint()
	v := r.take(int(n))
	outer = r.src
	r.src, r.behind = v, r.behind+len(outer)
	return tag, outer
}

// skipTag passes over the value of an unknown tag.
func (r *reader) skipTag() { r.src = r.src[len(r.src):] }

func (r *reader) leaveTag(outer []byte) {
	if len(r.src) > 0 {
		r.fail("%d bytes follow a tagged field's value", len(r.src))
	}
	r.behind -= len(outer)
	if r.err == nil {
		r.src = outer
	}
}
