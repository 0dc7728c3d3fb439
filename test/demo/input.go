package main

import (
	"time"

	"github.com/firnlog/firn/test/flights"
)

// rowsOfDay finds the rows [from, to) of the UTC day that begins at startMs.
func rowsOfDay(fs []flights.Flight, startMs int64) (from, to int) {
	end := startMs + 24*time.Hour.Milliseconds()
	for from < len(fs) && fs[from].TimeMs < startMs {
		from++
	}
	for to = from; to < len(fs) && fs[to].TimeMs < end; to++ {
	}
	return from, to
}
