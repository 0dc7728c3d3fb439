package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// cpuSeconds is the user and system time that a process has used so far
// (proc_pid_stat(5): fields 14 and 15, in hundredths of a second).
func cpuSeconds(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	user, _ := strconv.ParseFloat(string(f[11]), 64)
	sys, _ := strconv.ParseFloat(string(f[12]), 64)
	return (user + sys) / 100
}
