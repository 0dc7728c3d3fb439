package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func anyEvent(t *rapid.T) Event {
	e := Event{
		Time: rapid.Int64Range(0, 1e15).Draw(t, "time"), Kind: Kind(rapid.IntRange(1, len(names)-1).Draw(t, "kind")),
		Process: rapid.Int32Range(0, MaxProcess).Draw(t, "process"), Key: rapid.Int32Range(0, 1<<20).Draw(t, "key"),
		Number: rapid.Int32().Draw(t, "number"), Broker: rapid.Int32().Draw(t, "broker"), Epoch: rapid.Int32().Draw(t, "epoch"),
		Traits: Traits(rapid.IntRange(0, 15).Draw(t, "traits")), Value: Value(rapid.Int64Range(-1, 1<<53-1).Draw(t, "value")),
		Offset: rapid.Int64Range(-1, 1e17).Draw(t, "offset"), Start: rapid.Int64Range(0, 1e17).Draw(t, "start"), High: rapid.Int64Range(-1, 1e17).Draw(t, "high"),
		Group: rapid.String().Draw(t, "group"), Text: rapid.String().Draw(t, "text"),
	}
	for range rapid.IntRange(0, 5).Draw(t, "records") {
		e.Records = append(e.Records, Record{rapid.Int64Range(0, 1e17).Draw(t, "o"), Value(rapid.Int64Range(-1, 1<<53-1).Draw(t, "v"))})
	}
	return e
}

// Every line is JSON, and read as what was written.
func TestLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := anyEvent(t)
		line := AppendLine(nil, &e)
		if !json.Valid(line) || bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("%s", line)
		}
		got := Event{Text: "left over", Records: make([]Record, 0, 8)}
		if err := ParseLine(line[:len(line)-1], &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Records) == 0 {
			got.Records = nil
		}
		if !reflect.DeepEqual(got, e) {
			t.Fatalf("%s\nwritten %+v\nread    %+v", line, e, got)
		}
		for cut := range len(line) - 1 {
			if ParseLine(line[:cut], &got) == nil {
				t.Fatalf("%s is taken", line[:cut])
			}
		}
	})
}

func TestBadLines(t *testing.T) {
	for _, bad := range []string{``, `{}`, `{"t":1}`, `{"t":1,"e":"send"}x`, `{"t":1,"e":"other"}`, `{"t":1,"e":"send","q":1}`, `{"t":"1","e":"send"}`,
		`{"t":1,"e":"send","p":-1}`, `{"t":1,"e":"send","p":8192}`, `{"t":1,"e":"send","k":4294967296}`, `{"t":99999999999999999999,"e":"send"}`,
		`{"t":1,"e":"poll","r":[]}`, `{"t":1,"e":"poll","r":[1]}`, `{"t":1,"e":"poll","r":[1,2,]}`, `{"t":1,,"e":"send"}`, `{"t":1,"e":"send","x":"\q"}`, `{"t":1,"e":"send","x":"`} {
		var e Event
		if err := ParseLine([]byte(bad), &e); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	for _, e := range []Event{{Kind: Send, Process: 1, Key: 2, Value: 3}, {Kind: Poll, Records: []Record{{1, 2}, {3, 4}}, High: 9}, {Kind: Fault, Number: 1, Text: "kill \"2\"\n"}} {
		line := AppendLine(nil, &e)
		f.Add(line[:len(line)-1])
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var e, again Event
		if ParseLine(line, &e) != nil {
			return
		}
		written := AppendLine(nil, &e)
		if err := ParseLine(written[:len(written)-1], &again); err != nil {
			t.Fatalf("%s was written of %s: %v", written, line, err)
		}
	})
}

// What many goroutines recorded is read in an order of time that no goroutine
// disagrees with; what was being written at the end does not count.
func TestRecorder(t *testing.T) {
	const goroutines, each = 8, 2000
	path := filepath.Join(t.TempDir(), "history")
	r, err := Create(path, Now())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for p := range int32(goroutines) {
		wg.Go(func() {
			for n := range int64(each) {
				r.Record(Event{Kind: Send, Process: p, Value: MakeValue(p, n)})
			}
		})
	}
	wg.Wait()
	r.Record(Event{Kind: Poll, Text: strings.Repeat("long", 1<<19)}) // longer than any buffer
	if r.Events() != goroutines*each+1 {
		t.Errorf("%d events", r.Events())
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"t":1,"e":"se`)
	f.Close()
	var next [goroutines]int64
	last, lines, long := int64(0), int64(0), 0
	err = Each(path, func(line int64, e *Event) error {
		if lines++; line != lines || e.Time < last {
			t.Errorf("line %d is the %dth, at %d after %d", line, lines, e.Time, last)
		}
		last = e.Time
		if e.Kind == Poll {
			long = len(e.Text)
			return nil
		}
		if e.Value.Count() != next[e.Process] || e.Value.Process() != e.Process {
			t.Errorf("line %d: %v after %d", line, e.Value, next[e.Process])
		}
		next[e.Process]++
		return nil
	})
	if err != nil || lines != goroutines*each+1 || long != 4<<19 {
		t.Errorf("%d lines, the long one has %d bytes: %v", lines, long, err)
	}
	bad := errors.New("enough")
	if err := Each(path, func(int64, *Event) error { return bad }); !errors.Is(err, bad) {
		t.Errorf("an error of the caller became %v", err)
	}
}

func TestMerge(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, times ...int64) string {
		var b []byte
		for i, at := range times {
			b = AppendLine(b, &Event{Time: at, Kind: Send, Text: name, Offset: int64(i)})
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	out := filepath.Join(dir, "out")
	if err := Merge(out, write("a", 1, 3, 3, 9), write("b", 2, 3, 4), write("empty"), write("c", 10)); err != nil {
		t.Fatal(err)
	}
	got := ""
	if err := Each(out, func(_ int64, e *Event) error { got += e.Text; return nil }); err != nil {
		t.Fatal(err)
	}
	if got != "abaabbac" {
		t.Errorf("merged as %s", got)
	}
	bad := filepath.Join(dir, "bad")
	os.WriteFile(bad, []byte("x\n"), 0o644)
	if err := Merge(out, bad); !errors.Is(err, ErrFormat) {
		t.Errorf("a bad file: %v", err)
	}
	f, _ := os.Open(bad)
	defer f.Close()
	if err := NewReader(f).Next(&Event{}); !errors.Is(err, ErrFormat) || errors.Is(err, io.EOF) {
		t.Errorf("a bad line: %v", err)
	}
}

func TestPayload(t *testing.T) {
	sizes := map[int]bool{}
	for p := range int32(20) {
		for n := range int64(50) {
			v := MakeValue(p*400, n*n*n)
			b := Payload(v, 500)
			sizes[len(b)] = true
			if got := ParsePayload(b); got != v || v.Process() != p*400 || v.Count() != n*n*n {
				t.Fatalf("%v was read as %v", v, got)
			}
			if len(b) < 32 || len(b) > 500 || !bytes.Equal(b, Payload(v, 500)) {
				t.Fatalf("%v: %d bytes", v, len(b))
			}
			for i := range b {
				b[i] ^= 0x40
				if got := ParsePayload(b); got != Damaged {
					t.Fatalf("%v with byte %d changed was read as %v", v, i, got)
				}
				b[i] ^= 0x40
			}
		}
	}
	if len(sizes) < 300 {
		t.Errorf("only %d sizes of 1,000 records", len(sizes))
	}
	if ParsePayload(nil) != Damaged || ParsePayload(make([]byte, 31)) != Damaged {
		t.Error("bytes that are too short are taken")
	}
}
