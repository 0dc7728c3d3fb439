package clients

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// rec is a record as every client must give it back.
type rec struct {
	key, value []byte
	headers    []header
	millis     int64
}

type header struct {
	key   string
	value []byte
}

// someTime is about when the records were made, in milliseconds: an hour ago,
// so that no retention takes them away.
var someTime = time.Now().Add(-time.Hour).UnixMilli()

// sample makes n records of all sorts, the same ones for the same n: without
// and with keys, empty, tombstones, headers more than one of a name, large,
// compressible or not, timestamps that go back.
func sample(n int) []rec {
	rnd := rand.New(rand.NewPCG(uint64(n), 7))
	out := make([]rec, n)
	for i := range out {
		r := rec{key: fmt.Appendf(nil, "key %d", i%17), value: fmt.Appendf(nil, "value %d", i), millis: someTime + int64(i/3)*1000 - int64(i%5)}
		switch i % 10 {
		case 1:
			r.key = nil
		case 2:
			r.value = nil
		case 3:
			r.headers = []header{{"h", fmt.Append(nil, i)}, {"h", []byte("again")}, {"", []byte{0, 255}}}
		case 4:
			r.value = bytes.Repeat([]byte("firn "), i%2000)
			if len(r.value) == 0 {
				r.value = []byte("x")
			}
		case 5:
			r.value = make([]byte, 1+rnd.IntN(3000))
			for j := range r.value {
				r.value[j] = byte(rnd.Uint32())
			}
		case 6:
			r.key = []byte("ключ 🔑")
		}
		out[i] = r
	}
	return out
}

func (r rec) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "key %s value %s at %d", brief(r.key), brief(r.value), r.millis)
	for _, h := range r.headers {
		fmt.Fprintf(&b, " %q=%s", h.key, brief(h.value))
	}
	return b.String()
}

func brief(b []byte) string {
	if b == nil {
		return "nil"
	}
	if len(b) > 40 {
		return fmt.Sprintf("%q… (%d bytes)", b[:40], len(b))
	}
	return fmt.Sprintf("%q", b)
}

func (r rec) equal(o rec) bool {
	same := func(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }
	return same(r.key, o.key) && same(r.value, o.value) && r.millis == o.millis &&
		slices.EqualFunc(r.headers, o.headers, func(a, b header) bool { return a.key == b.key && same(a.value, b.value) })
}

// wantRecords compares in order and exactly.
func wantRecords(t testing.TB, got, want []rec) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if !got[i].equal(want[i]) {
			t.Fatalf("record %d\n got %v\nwant %v", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("got %d records, want %d", len(got), len(want))
	}
}

// tally counts how often each value came.
type tally map[string]int

// wantEachOnce fails unless exactly the values 0 to n-1 came, once each.
func (c tally) wantEachOnce(t testing.TB, n int) {
	t.Helper()
	for i := range n {
		if k := c[fmt.Sprint(i)]; k != 1 {
			t.Errorf("record %d came %d times", i, k)
		}
	}
	if len(c) != n {
		t.Errorf("%d different records came, want %d", len(c), n)
	}
}
