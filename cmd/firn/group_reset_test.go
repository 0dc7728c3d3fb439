package main

import (
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParsePartitions(t *testing.T) {
	for _, c := range []struct {
		given []string
		want  map[string][]int32 // nil: an error
	}{
		{[]string{"a"}, map[string][]int32{"a": nil}},
		{[]string{"a:0"}, map[string][]int32{"a": {0}}},
		{[]string{"a:7,0,3-5,4"}, map[string][]int32{"a": {0, 3, 4, 5, 7}}},
		{[]string{"a:1", "b", "a:0"}, map[string][]int32{"a": {0, 1}, "b": nil}},
		{nil, map[string][]int32{}},
		{[]string{"a", "a"}, nil},
		{[]string{"a", "a:1"}, nil},
		{[]string{"a:1", "a"}, nil},
		{[]string{""}, nil},
		{[]string{":1"}, nil},
		{[]string{"a:"}, nil},
		{[]string{"a:1-"}, nil},
		{[]string{"a:-1"}, nil},
		{[]string{"a:5-3"}, nil},
		{[]string{"a:99999999999"}, nil},
		{[]string{"a:0-2147483647"}, nil},
	} {
		got, err := parsePartitions(c.given)
		if (err != nil) != (c.want == nil) || err == nil && !maps.EqualFunc(got, c.want, slices.Equal) {
			t.Errorf("%q: got %v, %v; want %v", c.given, got, err, c.want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "7d": 7 * 24 * time.Hour, "1.5d": 36 * time.Hour, "0s": 0,
		"": -1, "d": -1, "7": -1, "-1h": -1, "-1d": -1, "soon": -1, "NaNd": -1, "1e300d": -1,
	} {
		got, err := parseDuration(s)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: got %v, %v; want %v", s, got, err, want)
		}
	}
}

func TestShifted(t *testing.T) {
	for _, c := range [][3]int64{{5, 3, 8}, {5, -3, 2}, {5, -9, -4}, {5, 0, 5}, {5, math.MaxInt64, math.MaxInt64},
		{0, math.MinInt64, math.MinInt64}, {math.MaxInt64, math.MinInt64, -1}, {math.MaxInt64, 1, math.MaxInt64}} {
		if got := shifted(c[0], c[1]); got != c[2] {
			t.Errorf("%d by %d: got %d, want %d", c[0], c[1], got, c[2])
		}
	}
}

func TestReadOffsetsFile(t *testing.T) {
	for _, c := range []struct {
		text string
		want map[partitionID]int64 // nil: an error
	}{
		{"a,0,5\nb,1,6\n", map[partitionID]int64{{"a", 0}: 5, {"b", 1}: 6}},
		{"\"a\",0,5", map[partitionID]int64{{"a", 0}: 5}},
		{`{"group":"g","partitions":[{"topic":"a","partition":3,"before":-1,"after":9}]}`, map[partitionID]int64{{"a", 3}: 9}},
		{"a,0,5\na,0,6", nil},
		{"a,0", nil},
		{"a,x,5", nil},
		{"a,0,-1", nil},
		{",0,1", nil},
		{"", nil},
		{"{}", nil},
		{"{", nil},
		{`{"partitions":[{"topic":"a","partition":3}]}`, nil},
		{`{"partitions":[{"topic":"a","after":3}]}`, nil},
	} {
		path := filepath.Join(t.TempDir(), "offsets")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readOffsetsFile(path)
		if (err != nil) != (c.want == nil) || err == nil && !maps.Equal(got, c.want) {
			t.Errorf("%q: got %v, %v; want %v", c.text, got, err, c.want)
		}
	}
}

func TestInUnitOf(t *testing.T) {
	for _, c := range [][4]string{
		{"retention.ms", "log.retention.hours", "168", "604800000"},
		{"retention.ms", "log.retention.minutes", "2", "120000"},
		{"retention.ms", "log.retention.hours", "-1", "-1"},
		{"retention.ms", "log.retention.ms", "5", "5"},
		{"log.retention.hours", "log.retention.hours", "168", "168"},
		{"cleanup.policy", "log.cleanup.policy", "delete", "delete"},
	} {
		if got := inUnitOf(c[0], c[1], &c[2]); got == nil || *got != c[3] {
			t.Errorf("%s by %s=%s: got %v, want %s", c[0], c[1], c[2], got, c[3])
		}
	}
	if inUnitOf("a.ms", "a.hours", nil) != nil {
		t.Error("null became a value")
	}
}

func TestParseResource(t *testing.T) {
	for _, s := range []string{"topic/a", "broker/7", "brokers", "group/a/b", "client-metrics/x"} {
		r, err := parseResource(s)
		if err != nil || r.String() != s {
			t.Errorf("%s: got %s, %v", s, r, err)
		}
	}
	for _, s := range []string{"", "topic", "topic/", "broker/", "broker/-1", "broker/x", "brokers/1", "user/x"} {
		if r, err := parseResource(s); err == nil {
			t.Errorf("%q is taken as %s", s, r)
		}
	}
}

func TestWrap(t *testing.T) {
	text := strings.Repeat("some words ", 40)
	lines := wrap(text, 30)
	for _, l := range lines {
		if len(l) > 30 {
			t.Errorf("%d letters: %s", len(l), l)
		}
	}
	if strings.Join(lines, " ") != strings.TrimSpace(text) {
		t.Error("words got lost")
	}
}
