package chaos

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"testing"
	"time"
)

// tellTime is what this test's program does with clockEnv: it says the time, and
// how long it runs, for each line that it reads.
const clockEnv = "FIRN_CHAOS_CLOCK"

func tellTime() {
	if os.Getenv(clockEnv) == "" {
		return
	}
	for range 2 { // threads that look at the time all along
		go func() {
			for b := make([]byte, 64<<10); ; {
				_ = time.Now()
				crc32.ChecksumIEEE(b)
			}
		}()
	}
	began := time.Now()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(time.Now().UnixMilli(), time.Since(began).Milliseconds())
	}
	os.Exit(0)
}

// A process's clock is moved, and no other's; how long something took is told
// right all the while.
func TestClockMoves(t *testing.T) {
	if _, err := vdso(); errors.Is(err, errNoClock) {
		t.Skip(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), clockEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	said := bufio.NewScanner(out)
	ask := func() (wall time.Time, runs time.Duration) {
		t.Helper()
		fmt.Fprintln(in)
		var unix, ms int64
		if !said.Scan() {
			t.Fatal("it says nothing")
		}
		if _, err := fmt.Sscan(said.Text(), &unix, &ms); err != nil {
			t.Fatal(err)
		}
		return time.UnixMilli(unix), time.Duration(ms) * time.Millisecond
	}
	_, before := ask() // it runs
	for i, ahead := range []time.Duration{0, 10 * time.Hour, -40 * time.Minute, time.Hour, 0, 0, 5 * time.Hour} {
		if err := moveClock(cmd.Process.Pid, ahead); err != nil {
			t.Fatal(err)
		}
		from := time.Now().Add(ahead).Truncate(time.Millisecond)
		wall, runs := ask()
		to := time.Now().Add(ahead)
		if wall.Before(from) || wall.After(to) {
			t.Errorf("move %d by %v: it is %v there, want %v to %v", i, ahead, wall, from, to)
		}
		if runs < before || runs > time.Minute {
			t.Errorf("move %d by %v: it runs for %v, before for %v", i, ahead, runs, before)
		}
		before = runs
	}
}
