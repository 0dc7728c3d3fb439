package main

import (
	"strings"
	"testing"
)

func TestParseTools(t *testing.T) {
	cases, err := parseTools("# c\n== a\n$ TopicCommand --list\n> ^x$\n!> y\n~ sort\n$! GetOffsetShell\n< in\nfile f.json {\"a\": 1}\n== b\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) != 2 || cases[0].name != "a" || len(cases[0].steps) != 3 {
		t.Fatalf("%+v", cases)
	}
	first, second, third := cases[0].steps[0], cases[0].steps[1], cases[0].steps[2]
	if first.args[1] != "--list" || len(first.want) != 1 || len(first.wantNot) != 1 || !first.sort || first.loose || first.fails {
		t.Errorf("first: %+v", first)
	}
	if !second.fails || len(second.stdin) != 1 || third.file != "f.json" || third.text != `{"a": 1}` {
		t.Errorf("second: %+v, third: %+v", second, third)
	}
	for _, bad := range []string{"$ A\n", "== a\n> x\n", "== a\n$ A\n> (\n", "== a\n$ A\n~ fast\n", "== a\n$ A\n? x\n"} {
		if _, err := parseTools(bad); err == nil || !strings.Contains(err.Error(), "line ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestToolsText(t *testing.T) {
	cases, err := parseTools(toolsText)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range cases {
		if seen[c.name] || len(c.steps) == 0 {
			t.Errorf("case %q is there twice, or empty", c.name)
		}
		seen[c.name] = true
	}
}

func TestNormalOutput(t *testing.T) {
	in := "Topic: t1\tTopicId: kK1x_0123456789abcdefg\tReplicas: 1\n\tat org.apache.X(Y.java:1)\n" +
		"Error while executing topic command : Topic 't1' already exists.\norg.apache.kafka.common.errors.TopicExistsException: Topic 't1'.\nread /tmp/x/f.json\n\n"
	want := "Topic: t1 TopicId: ID Replicas: 1\nError …\norg.apache.kafka.common.errors.TopicExistsException …\nread DIR/f.json\n"
	if got := normalOutput(in, "/tmp/x", false); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := normalOutput("b\na\n", "/tmp/x", true); got != "a\nb\n" {
		t.Errorf("sorted: %q", got)
	}
}

func TestFirstDifference(t *testing.T) {
	parts := splitTranscript("== a\n$ A 1\nx\n$ A 2\ny\n\n== b\n$ B\n\n")
	if parts["a"] != "$ A 1\nx\n$ A 2\ny" || parts["b"] != "$ B" {
		t.Fatalf("%q", parts)
	}
	if d := firstDifference(parts["a"], "$ A 1\nx\n$ A 2\ny\n"); d != "" {
		t.Errorf("the same: %q", d)
	}
	if d := firstDifference(parts["a"], "$ A 1\nx\n$ A 2\nz\n"); d != `A 2: Kafka prints "y", Firn "z"` {
		t.Errorf("another line: %q", d)
	}
	if d := firstDifference(parts["a"], "$ A 1\nx\n$ A 2\n"); d != `A 2: Kafka prints "y", Firn ""` {
		t.Errorf("a missing line: %q", d)
	}
}
