package main

import "testing"

// Everything is read from a real object store, once directly and once through
// the slow proxy, then from the cache.
func TestCold(t *testing.T) {
	r := firnRound(t,
		"name: cold\nsystems: [firn]\npartitions: 2\ncold: {batch: {size: 64KiB}, load: 20MB, maxBytes: 100KB, streams: 4}\n",
		"name: slow\nsystems: [firn]\npartitions: 1\ncold: {batch: {size: 64KiB}, load: 10MB, maxBytes: 100KB, streams: 2, delay: 20ms, rate: 50MB}\n",
	)
	for i := range r.results.Workloads {
		w := &r.results.Workloads[i]
		for _, phase := range []string{"ranged GETs", "cache empty", "cache warm"} {
			if got := r.results.series(w, "throughput", "firn@"+phase); len(got) != 1 || got[1] <= 0 {
				t.Errorf("%s, %s: MB/s %v", w.Name, phase, got)
			}
		}
	}
}
