package main

import (
	"strings"
	"testing"
)

// NATS takes what blast has encoded, each batch as a message, with and without
// a sync for each.
func TestNATS(t *testing.T) {
	r, dir := testRunner(t, options{rounds: 1, foreign: 1000})
	w, err := write(t, "name: nats\nsystems: [nats, nats-synced]\npartitions: 3\nproduce: {batch: {size: 16KiB}, connections: 2, inFlight: 3, acks: -1, bytes: 1MB, passes: 2}\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range w.Systems {
		if r.servers[name], err = newServer(t.Context(), name, dir); err != nil {
			t.Fatal(err)
		}
		if config := r.servers[name].(*natsServer).config("DIR"); strings.Contains(config, "sync_interval: always") != (name == "nats-synced") {
			t.Errorf("the config of %s is %s", name, config)
		}
	}
	if err := r.rounds(t.Context(), []*Workload{w}, dir); err != nil {
		t.Fatal(err)
	}
	for _, f := range r.results.Failures {
		t.Errorf("%s, %s: %s", f.Workload, f.System, f.Error)
	}
	for _, name := range w.Systems {
		for _, key := range []string{"throughput", "brokerCPU", "ackP99"} {
			got := r.results.series(&r.results.Workloads[0], key, name)
			// CPU is counted in hundredths of a second, of which it may take none.
			if len(got) != 1 || got[1] < 0 || got[1] == 0 && key != "brokerCPU" {
				t.Errorf("%s: %s is %v", name, key, got)
			}
		}
	}
}
