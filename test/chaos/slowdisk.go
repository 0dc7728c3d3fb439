package chaos

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// slowDisk holds up a broker's syncs. The kernel asks it about each (seccomp's
// user notification), and goes on when it says so; nothing else of the broker
// is touched. It outlives the broker's processes.
type slowDisk struct {
	delay atomic.Int64 // nanoseconds per sync
	syncs atomic.Int64 // that were held up
}

// ExecEnv names the variable that makes a program which calls ExecBroker become
// a broker.
const ExecEnv = "FIRN_CHAOS_EXEC"

// ExecBroker becomes the program that ExecEnv names, with this one's arguments,
// its syncs watched by who started it, on descriptor 3. It does nothing when
// the variable is not set, and does not return otherwise: a program that runs
// chaos has to call it before anything else.
func ExecBroker() {
	program := os.Getenv(ExecEnv)
	if program == "" {
		return
	}
	os.Unsetenv(ExecEnv)
	runtime.LockOSThread() // the filter is the thread's; execve keeps it
	err := watchSyncs(3)
	if err == nil {
		err = syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ())
	}
	fmt.Fprintf(os.Stderr, "chaos: %s: %v\n", program, err)
	os.Exit(1)
}

// watchSyncs gives the descriptor that tells of this thread's syncs to the
// socket.
func watchSyncs(socket int) error {
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: load, K: 0}, // the number of the system call
		{Code: equal, K: unix.SYS_FSYNC, Jt: 2},
		{Code: equal, K: unix.SYS_FDATASYNC, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	defer unix.Close(int(fd))
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(int(fd)), nil, 0); err != nil {
		return fmt.Errorf("hand over the syncs: %w", err)
	}
	return unix.Close(socket)
}

// start makes cmd start through this program, and holds up its syncs until it
// ends. What it gives has to be called when cmd has been started, or was not.
func (d *slowDisk) start(cmd *exec.Cmd) (started func(error), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "syncs")
	cmd.Env = append(os.Environ(), ExecEnv+"="+cmd.Path)
	cmd.Path = self
	cmd.ExtraFiles = []*os.File{theirs}
	return func(err error) {
		theirs.Close()
		if err != nil {
			unix.Close(pair[0])
			return
		}
		go d.serve(pair[0])
	}, nil
}

// serve answers the kernel until the processes behind the socket's descriptor
// have ended.
func (d *slowDisk) serve(socket int) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	unix.Close(socket)
	if err != nil || n == 0 {
		return // it ended before it was a broker
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return
	}
	var answering sync.WaitGroup
	defer unix.Close(fds[0])
	defer answering.Wait()
	for {
		// struct seccomp_notif: id (8), pid (4), flags (4), the call (64).
		poll := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil || poll[0].Revents&unix.POLLIN == 0 {
			return // nobody is left
		}
		var asked [80]byte
		if err := ioctl(fds[0], unix.SECCOMP_IOCTL_NOTIF_RECV, asked[:]); err != nil {
			continue // who asked is gone
		}
		id := binary.NativeEndian.Uint64(asked[:])
		delay := time.Duration(d.delay.Load())
		if delay == 0 {
			goOn(fds[0], id)
			continue
		}
		d.syncs.Add(1)
		answering.Go(func() {
			time.Sleep(delay)
			goOn(fds[0], id)
		})
	}
}

// goOn lets a call be done. Who made it may be gone.
func goOn(fd int, id uint64) {
	// struct seccomp_notif_resp: id (8), val (8), error (4), flags (4).
	var answer [24]byte
	binary.NativeEndian.PutUint64(answer[:], id)
	binary.NativeEndian.PutUint32(answer[20:], unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
	_ = ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, answer[:])
}

func ioctl(fd int, request uintptr, b []byte) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return errno
	}
	return nil
}
