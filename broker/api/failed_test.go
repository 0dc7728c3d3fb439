package api

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/time/rate"
)

// TestFailuresDoNotFloodTheLog: a client that repeats a failing request gets
// a few lines into the log and every time into the metric.
func TestFailuresDoNotFloodTheLog(t *testing.T) {
	var out bytes.Buffer
	a := &API{log: slog.New(slog.NewTextHandler(&out, nil)), failLines: rate.NewLimiter(failLinesPerSecond, failLinesAtOnce)}
	before := failures.Get()
	for range 10_000 {
		a.failed("fetch failed", "offset", 7)
	}
	if n := failures.Get() - before; n != 10_000 {
		t.Errorf("%d failures were counted of 10000", n)
	}
	// A line a second more, should this loop take that long.
	if n := strings.Count(out.String(), "fetch failed"); n < failLinesAtOnce || n > 10*failLinesAtOnce {
		t.Errorf("%d lines for 10000 failures", n)
	}
}
