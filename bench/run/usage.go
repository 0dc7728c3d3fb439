package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/firnlog/firn/bench/observe"
)

// usage is what a phase cost.
type usage struct {
	took    time.Duration
	broker  float64 // CPU seconds, user and system, of all brokers
	driver  float64
	store   float64 // of the object store
	foreign float64 // CPU of everybody else, part of what all cores had
	peakRSS int64   // of the brokers since their start, bytes
}

// meter measures from begin to end. Kernel threads do not count as foreign:
// they write the broker's own pages to the disk.
type meter struct {
	pids                               []int // of the brokers; none: they are not there yet
	store                              int   // pid of the object store, 0 for none
	at                                 time.Time
	all, kernel, broker, driver, other float64
}

func begin(pids []int, store int) (*meter, error) {
	m := &meter{pids: pids, store: store}
	return m, m.read()
}

func (m *meter) read() error {
	var err error
	if m.broker, err = brokersCPU(m.pids); err != nil {
		return err
	}
	if m.store != 0 {
		if m.other, err = observe.CPU(m.store); err != nil {
			return err
		}
	}
	if m.driver, err = ownCPU(); err != nil {
		return err
	}
	if m.kernel, err = kernelCPU(); err != nil {
		return err
	}
	m.all, err = allCPU()
	m.at = time.Now()
	return err
}

func (m *meter) end() (usage, error) {
	now := meter{pids: m.pids, store: m.store}
	if err := now.read(); err != nil {
		return usage{}, fmt.Errorf("the broker or its store is gone: %w", err)
	}
	_, peak, err := brokersMemory(m.pids)
	if err != nil {
		return usage{}, err
	}
	u := usage{took: now.at.Sub(m.at), broker: now.broker - m.broker, driver: now.driver - m.driver, store: now.other - m.other, peakRSS: peak}
	foreign := (now.all - m.all) - (now.kernel - m.kernel) - u.broker - u.driver - u.store
	u.foreign = max(foreign, 0) / (u.took.Seconds() * float64(runtime.NumCPU()))
	return u, nil
}

// allCPU is the time that all cores were busy with threads or stolen by the
// hypervisor (proc_stat(5)).
func allCPU() (float64, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseAllCPU(b)
}

func parseAllCPU(b []byte) (float64, error) {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f := strings.Fields(string(line)) // cpu user nice system idle iowait irq softirq steal …
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	sum := 0.0
	for _, i := range []int{1, 2, 3, 8} {
		v, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += v / observe.Ticks
	}
	return sum, nil
}

func brokersCPU(pids []int) (float64, error) {
	sum := 0.0
	for _, pid := range pids {
		cpu, err := observe.CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += cpu
	}
	return sum, nil
}

func brokersMemory(pids []int) (now, peak int64, err error) {
	for _, pid := range pids {
		n, p, err := observe.Memory(pid)
		if err != nil {
			return 0, 0, err
		}
		now, peak = now+n, peak+p
	}
	return now, peak, nil
}

func ownCPU() (float64, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0, err
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds(), nil
}

// kernelCPU is the time of all kernel threads, the children of process 2.
func kernelCPU() (float64, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has just ended
		}
		parent, cpu, err := observe.ParseStat(b)
		if err != nil {
			return 0, err
		}
		if parent == 2 {
			sum += cpu
		}
	}
	return sum, nil
}
