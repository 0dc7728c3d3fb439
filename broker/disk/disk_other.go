//go:build !linux

package disk

import (
	"errors"
	"os"
)

func writeAt(f *os.File, off int64, bufs ...[]byte) error {
	for _, b := range bufs {
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

func sync(f *os.File) error { return f.Sync() }

// OpenDirect opens a file for writing past the page cache, which this system
// does not offer.
func OpenDirect(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func reserve(*os.File, int64) error { return nil }
