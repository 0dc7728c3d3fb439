package main

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"
)

func readRecords(t interface{ Fatal(...any) }, text string, flags produceFlags, keySet bool) []*kgo.Record {
	r, err := newRecordReader(strings.NewReader(text), "input", flags, keySet)
	if err != nil {
		t.Fatal(err)
	}
	var out []*kgo.Record
	for {
		rec, err := r.next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
}

// TestJSONRoundTrip: produce reads back exactly what consume prints, whatever
// bytes keys, values and headers hold.
func TestJSONRoundTrip(t *testing.T) {
	blob := rapid.OneOf(
		rapid.Just([]byte(nil)),
		rapid.SliceOf(rapid.Byte()),
		rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		want := &kgo.Record{
			Topic: "t", Partition: rapid.Int32Range(0, 1000).Draw(t, "partition"), Offset: rapid.Int64Min(0).Draw(t, "offset"),
			Key: blob.Draw(t, "key"), Value: blob.Draw(t, "value"),
			Timestamp: time.UnixMilli(rapid.Int64Range(0, 1<<50).Draw(t, "ms")),
		}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			want.Headers = append(want.Headers, kgo.RecordHeader{Key: rapid.StringMatching(`[a-zé"<]{0,5}`).Draw(t, "name"), Value: blob.Draw(t, "header")})
		}
		line := appendJSON(nil, want)
		if bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("not one line: %q", line)
		}
		all := readRecords(t, string(line), produceFlags{format: "json", partition: -1}, false)
		if len(all) != 1 {
			t.Fatalf("%d records of %s", len(all), line)
		}
		got := all[0]
		same := func(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }
		if !same(got.Key, want.Key) || !same(got.Value, want.Value) || got.Partition != want.Partition || !got.Timestamp.Equal(want.Timestamp) ||
			!slices.EqualFunc(got.Headers, want.Headers, func(a, b kgo.RecordHeader) bool { return a.Key == b.Key && same(a.Value, b.Value) }) {
			t.Fatalf("%s\nis read as %+v", line, got)
		}
	})
}

// TestTextLines: lines come out as they are, however the input is cut.
func TestTextLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOf(rapid.StringMatching(`[^\r\n]{0,40}`)).Draw(t, "lines")
		text := strings.Join(lines, "\n")
		if len(lines) > 0 && rapid.Bool().Draw(t, "last") {
			text += "\n"
		} else if len(lines) > 0 && lines[len(lines)-1] == "" {
			lines = lines[:len(lines)-1] // an empty last line without an end is none
		}
		got := readRecords(t, text, produceFlags{format: "text", partition: -1}, false)
		if len(got) != len(lines) {
			t.Fatalf("%q gives %d records, want %d", text, len(got), len(lines))
		}
		for i := range got {
			if string(got[i].Value) != lines[i] || got[i].Key != nil {
				t.Fatalf("line %d is %q, want %q", i, got[i].Value, lines[i])
			}
		}
	})
}

func TestLongLine(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	got := readRecords(t, "a\n"+long+"\r\nb", produceFlags{format: "text", partition: 2}, false)
	if len(got) != 3 || string(got[1].Value) != long || string(got[2].Value) != "b" || got[0].Partition != 2 {
		t.Errorf("%d records", len(got))
	}
}

func TestKeys(t *testing.T) {
	got := readRecords(t, "a\tb\tc\nnone\n\tempty\n", produceFlags{format: "text", separator: `\t`, key: "dflt", partition: -1}, true)
	want := [][2]string{{"a", "b\tc"}, {"dflt", "none"}, {"", "empty"}}
	for i, w := range want {
		if string(got[i].Key) != w[0] || string(got[i].Value) != w[1] || got[i].Key == nil {
			t.Errorf("record %d is %q=%q, want %q", i, got[i].Key, got[i].Value, w)
		}
	}
}

func TestTemplates(t *testing.T) {
	r := &kgo.Record{Partition: 3, Offset: 42, Key: []byte("k"), Value: []byte("v"), Timestamp: time.UnixMilli(1769860800123),
		Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "b", Value: nil}}}
	for in, want := range map[string]string{
		"text":               "v\n",
		"raw":                "v",
		`%p:%o %k=%v`:        "3:42 k=v",
		`%t\t%m\n`:           "2026-01-31T12:00:00.123Z\t1769860800123\n",
		`%h%%\\\0`:           "a=1,b=%\\\x00",
		`no verb at end: %v`: "no verb at end: v",
	} {
		f, err := parseFormat(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := string(f(nil, r)); got != want {
			t.Errorf("%s gives %q, want %q", in, got, want)
		}
	}
	for _, bad := range []string{"%", "%x", `%v\q`, `%v\`, "words", ""} {
		if _, err := parseFormat(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestFrom(t *testing.T) {
	for in, want := range map[string]position{
		"start": {fromStart, 0}, "end": {fromEnd, 0}, "0": {fromOffset, 0}, "12": {fromOffset, 12}, "-5": {fromTail, 5},
		"@1000": {fromTime, 1000}, "@1970-01-02": {fromTime, 86400000}, "@1970-01-01T00:00:01Z": {fromTime, 1000},
		"@1970-01-01T01:00:00+01:00": {fromTime, 0},
	} {
		if got, err := parseFrom(in); err != nil || got != want {
			t.Errorf("%s is %v, %v; want %v", in, got, err, want)
		}
	}
}

func TestRanges(t *testing.T) {
	for want, in := range map[string][]int32{"": nil, "0": {0}, "0-2": {0, 1, 2}, "0-1,5,7-8": {0, 1, 5, 7, 8}} {
		if got := ranges(in); got != want {
			t.Errorf("%v is written %q, want %q", in, got, want)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 KB", 999_949: "999.9 KB", 999_999: "1.0 MB", 259_000_000: "259.0 MB", -1: "?"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d is written %q, want %q", n, got, want)
		}
	}
}

// FuzzJSONInput: no line makes the reader panic, and every error is one for
// the user.
func FuzzJSONInput(f *testing.F) {
	for _, s := range []string{`{"value":1}`, `{"value":"x","headers":[{"key":"a"}]}`, `{"headers":{"a":null},"value":null,"timestamp":1e300}`, `[]`, `{"value":"x"}{}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		r, err := newRecordReader(strings.NewReader(line), "input", produceFlags{format: "json", partition: -1}, false)
		if err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := r.next(); err != nil {
				if _, ok := errors.AsType[*failure](err); !ok && !errors.Is(err, io.EOF) {
					t.Errorf("error %v of type %T", err, err)
				}
				return
			}
		}
	})
}
