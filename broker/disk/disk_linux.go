package disk

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sync is fdatasync for a file: its length and its bytes, not its times. For
// a folder the two calls are one.
func sync(f *os.File) error { return control(f, "fdatasync", unix.Fdatasync) }

func control(f *os.File, op string, call func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		for {
			if err = call(int(fd)); !errors.Is(err, syscall.EINTR) {
				return
			}
		}
	})
	if cerr != nil {
		return cerr
	}
	if err != nil {
		return &os.PathError{Op: op, Path: f.Name(), Err: err}
	}
	return nil
}

// syncAll is syncfs, from Linux 5.8 on: before, it said nothing of writes that
// had failed (syncfs(2)).
func syncAll() func(*os.File) error {
	var u unix.Utsname
	var major, minor int
	if unix.Uname(&u) != nil {
		return nil
	}
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); n < 2 || major < 5 || major == 5 && minor < 8 {
		return nil
	}
	return func(f *os.File) error {
		return control(f, "syncfs", unix.Syncfs)
	}
}

// OpenDirect opens a file, with flags of os.OpenFile, for reading and writing
// past the page cache, or through it where the file system does not offer that.
// What is read or written must begin and end at multiples of Block, in the file
// and in memory; at the end of a file less may be read. Errors: os.OpenFile's.
func OpenDirect(path string, flags int) (*os.File, error) {
	if f, err := os.OpenFile(path, flags|syscall.O_DIRECT, 0o644); err == nil {
		return f, nil
	}
	return os.OpenFile(path, flags, 0o644)
}

// reserve takes size bytes on disk for f without changing its length, so that
// after a crash no zeroes have to be told from records.
func reserve(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return nil
		}
		return err
	}
}
