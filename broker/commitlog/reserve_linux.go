package commitlog

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve takes size bytes on disk for f without changing its length, so that
// after a crash no zeroes have to be told from records. A file system that
// cannot do so is left as it is.
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
