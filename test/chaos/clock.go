package chaos

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A process reads the time without a system call, from code that the kernel maps
// into it (vdso(7)). To move its clock, that code is replaced in this one
// process, where it is the process's own copy from then on: by the system call,
// and a number of seconds that is added to what it says of CLOCK_REALTIME.
// Clocks that only go on are left alone, as the kernel leaves them alone when
// somebody sets the time.

// clockCode is __vdso_clock_gettime(rdi: clock, rsi: struct timespec *), for
// amd64; the seconds follow it.
var clockCode = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228 (clock_gettime)
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi
	0x75, 0x0a, // jnz over the next two
	0x48, 0x8b, 0x0d, 0x04, 0x00, 0x00, 0x00, // mov rcx, [the seconds]
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3, // ret
}

// errNoClock says that a process's clock cannot be moved here.
var errNoClock = errors.New("clocks of processes cannot be moved on this machine")

// vdso says where in the kernel's mapping the code begins, and how long it is.
var vdso = sync.OnceValues(func() (struct{ at, size uint64 }, error) {
	var none struct{ at, size uint64 }
	if runtime.GOARCH != "amd64" {
		return none, errNoClock
	}
	from, to, err := vdsoOf(os.Getpid())
	if err != nil {
		return none, err
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		return none, err
	}
	defer mem.Close()
	image, err := io.ReadAll(io.NewSectionReader(mem, int64(from), int64(to-from)))
	if err != nil {
		return none, err
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return none, err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return none, err
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" && s.Size >= uint64(len(clockCode))+8 {
			return struct{ at, size uint64 }{s.Value, s.Size}, nil
		}
	}
	return none, fmt.Errorf("%w: no __vdso_clock_gettime of %d bytes", errNoClock, len(clockCode)+8)
})

// canMoveClocks says whether processes that this one starts can be told another
// time: root may write to their memory.
func canMoveClocks() bool {
	_, err := vdso()
	return err == nil && os.Geteuid() == 0
}

// vdsoOf says from where to where a process has the kernel's code.
func vdsoOf(pid int) (from, to uint64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			_, err := fmt.Sscanf(line, "%x-%x ", &from, &to)
			return from, to, err
		}
	}
	return 0, 0, fmt.Errorf("%w: process %d has no vdso", errNoClock, pid)
}

// moveClock makes a process read a time that is so many whole seconds ahead; 0
// puts it right again. The process stands still meanwhile, and goes on after it
// even if it was stopped before.
func moveClock(pid int, ahead time.Duration) error {
	code, err := vdso()
	if err != nil {
		return err
	}
	from, to, err := vdsoOf(pid)
	for end := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(end); from, to, err = vdsoOf(pid) {
		time.Sleep(5 * time.Millisecond) // a process that becomes another program has nothing mapped for a moment
	}
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	with := binary.LittleEndian.AppendUint64(bytes.Clone(clockCode), uint64(ahead/time.Second))
	defer syscall.Kill(pid, syscall.SIGCONT)
	for end := time.Now().Add(5 * time.Second); ; {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		inside, err := anyIn(pid, from, to)
		if err != nil {
			return err
		}
		if !inside {
			_, err := mem.WriteAt(with, int64(from+code.at))
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("process %d reads the time whenever it is looked at", pid)
		}
		time.Sleep(time.Millisecond)
	}
}

// anyIn says whether some thread of a process that was told to stop is between
// two addresses, or does not stop. On a busy machine a thread stops when it is
// its turn to run: one that was told to go on before that would never stop.
func anyIn(pid int, from, to uint64) (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(threads) == 0 {
		return false, fmt.Errorf("process %d is gone: %w", pid, err)
	}
	for _, t := range threads {
		state := stateOf(t)
		for end := time.Now().Add(time.Second); state != 'T' && state != 0 && time.Now().Before(end); state = stateOf(t) {
			time.Sleep(200 * time.Microsecond)
		}
		if state == 0 {
			continue
		}
		if state != 'T' {
			return true, nil
		}
		where, err := os.ReadFile(filepath.Join(t, "syscall")) // the last is the program counter
		if err != nil {
			continue
		}
		f := strings.Fields(string(where))
		at, err := strconv.ParseUint(strings.TrimPrefix(f[len(f)-1], "0x"), 16, 64)
		if err != nil {
			return true, nil // it runs
		}
		if at >= from && at < to {
			return true, nil
		}
	}
	return false, nil
}

// stateOf is the letter of a thread's state (proc_pid_stat(5)), 0 when it has
// ended.
func stateOf(task string) byte {
	stat, err := os.ReadFile(filepath.Join(task, "stat"))
	if err != nil {
		return 0
	}
	_, state, _ := bytes.Cut(stat, []byte(") "))
	if len(state) == 0 || state[0] == 'Z' || state[0] == 'X' {
		return 0
	}
	return state[0]
}
