package main

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseNotBuilt(t *testing.T) {
	list, err := parseNotBuilt("# comment\n\nkgo\tTestTxnEtl\ttransactions\nkgo\tTestGroupETL/range/848\tKIP-848\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ suite, test, want string }{
		{"kgo", "TestTxnEtl", "transactions"},
		{"kgo", "TestTxnEtl/range/static", "transactions"},
		{"kgo", "TestGroupETL/range", ""},
		{"kgo", "TestGroupETL/range/848", "KIP-848"},
		{"kgo", "TestTxnEtlMore", ""},
		{"sarama", "TestTxnEtl", ""},
	} {
		if got := list.feature(c.suite, c.test); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.suite, c.test, got, c.want)
		}
	}
	for _, bad := range []string{"kgo\tTestA\n", "kgo TestA transactions\n", "kgo\tTestA\tlaziness\n"} {
		if _, err := parseNotBuilt(bad); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// The list that is compiled in has to be right, and to name suites there are.
func TestNotBuiltList(t *testing.T) {
	list, err := parseNotBuilt(notBuiltText)
	if err != nil {
		t.Fatal(err)
	}
	for key := range list {
		name, test, _ := strings.Cut(key, " ")
		if _, err := suiteNamed(name); err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		rows, err := readRows(filepath.Join("results", name+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		known := false
		for _, r := range rows {
			known = known || r.Name == test || strings.HasPrefix(r.Name, test+"/")
		}
		if !known {
			t.Errorf("%s has no test %s", name, test)
		}
	}
}

func TestMerge(t *testing.T) {
	list := notBuilt{"s TestTxn": "transactions"}
	rows := merge("s", nil, map[string][]result{"kafka": {
		{Name: "TestB", Outcome: passed},
		{Name: "TestTxn/a", Outcome: passed},
		{Name: "TestA", Outcome: failed, Reason: "no rack"},
	}}, false, list)
	want := []row{
		{Name: "TestA", Kafka: failed, Firn: notRun, KafkaReason: "no rack"},
		{Name: "TestB", Kafka: passed, Firn: notRun},
		{Name: "TestTxn/a", Kafka: passed, Firn: notRun},
	}
	if !reflect.DeepEqual(rows, want) {
		t.Fatalf("after Kafka:\n%v\nwant\n%v", rows, want)
	}
	for _, r := range rows {
		if r.differs() {
			t.Errorf("%s differs though Firn never ran", r.Name)
		}
	}

	path := filepath.Join(t.TempDir(), "s.txt")
	if err := writeRows(path, []string{"head"}, rows); err != nil {
		t.Fatal(err)
	}
	rows, err := readRows(path)
	if err != nil {
		t.Fatal(err)
	}
	rows = merge("s", rows, map[string][]result{"firn": {
		{Name: "TestA", Outcome: failed, Reason: "no\track"},
		{Name: "TestTxn/a", Outcome: failed, Reason: "UNSUPPORTED_VERSION"},
	}}, false, list)
	want = []row{
		{Name: "TestA", Kafka: failed, Firn: failed, KafkaReason: "no rack", FirnReason: "no\track"},
		{Name: "TestB", Kafka: passed, Firn: absent},
		{Name: "TestTxn/a", Kafka: passed, Firn: failed, FirnReason: "UNSUPPORTED_VERSION", NotBuilt: "transactions"},
	}
	if !reflect.DeepEqual(rows, want) {
		t.Fatalf("after Firn:\n%v\nwant\n%v", rows, want)
	}
	if rows[0].differs() || !rows[1].differs() || !rows[2].differs() {
		t.Errorf("differs: %v %v %v", rows[0].differs(), rows[1].differs(), rows[2].differs())
	}

	// A second run of Firn replaces the first one whole.
	rows = merge("s", rows, map[string][]result{"firn": {{Name: "TestB", Outcome: passed}}}, false, list)
	if rows[0].Firn != absent || rows[1].Firn != passed || rows[2].Firn != absent || rows[2].FirnReason != "" {
		t.Errorf("after Firn again: %v", rows)
	}
	// A partial run replaces what it ran.
	rows = merge("s", rows, map[string][]result{"firn": {{Name: "TestTxn/a", Outcome: skipped, Reason: "no"}}}, true, list)
	if rows[0].Firn != absent || rows[1].Firn != passed || rows[2].Firn != skipped || rows[2].FirnReason != "no" {
		t.Errorf("after a partial run: %v", rows)
	}
	if got := count(rows, func(r row) outcome { return r.Kafka }); got != (tally{Passed: 2, Failed: 1}) {
		t.Errorf("counts of Kafka: %+v", got)
	}
}

func TestSteady(t *testing.T) {
	for in, want := range map[string]string{
		"dial tcp 127.0.0.1:34567: refused":                                   "dial tcp 127.0.0.1:PORT: refused",
		"port 127.0.0.1:9092":                                                 "port 127.0.0.1:9092",
		"topic 0123456789abcdef0123 after 12.5s":                              "topic HEX after SPAN",
		"at 2026-11-22T20:38:41.98Z, id 0a0b0c0d-1111-2222-3333-444455556666": "at TIME, id UUID",
		"two\n  lines": "two lines",
	} {
		if got := steady(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := steady(strings.Repeat("é", 500)); got != strings.Repeat("é", 200)+"…" {
		t.Errorf("a long message: %q", got)
	}
}
