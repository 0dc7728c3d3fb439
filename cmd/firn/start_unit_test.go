package main

import (
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/firnlog/firn/packaging/systemd"
)

// TestStopBeforeUnitKills wants systemd to wait longer than a clean stop may
// take: what serves is ended first, then all is closed within stopTimeout.
func TestStopBeforeUnitKills(t *testing.T) {
	m := regexp.MustCompile(`(?m)^TimeoutStopSec=([0-9]+)$`).FindSubmatch(systemd.Broker)
	if m == nil {
		t.Fatal("the unit has no TimeoutStopSec in seconds")
	}
	sec, err := strconv.Atoi(string(m[1]))
	if kill := time.Duration(sec) * time.Second; err != nil || kill < 2*stopTimeout {
		t.Errorf("systemd kills after %v (%v); a clean stop may take %v", kill, err, stopTimeout)
	}
	if m := regexp.MustCompile(`(?m)^RestartPreventExitStatus=([0-9]+)$`).FindSubmatch(systemd.Broker); m == nil || string(m[1]) != strconv.Itoa(exitUsage) {
		t.Errorf("RestartPreventExitStatus is %q, wrong settings end with %d", m, exitUsage)
	}
}
