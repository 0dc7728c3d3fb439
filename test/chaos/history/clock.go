package history

import "golang.org/x/sys/unix"

// Now is the system's monotonic time in nanoseconds, the same for every
// program of this machine (CLOCK_MONOTONIC).
func Now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // the clock is always there
	}
	return ts.Nano()
}
