//go:build !linux

package disk

import (
	"errors"
	"os"
)

func sync(f *os.File) error { return f.Sync() }

func syncAll() func(*os.File) error { return nil }

// OpenDirect opens a file for reading and writing past the page cache, which
// this system does not offer.
func OpenDirect(string, int) (*os.File, error) { return nil, errors.ErrUnsupported }

func reserve(*os.File, int64) error { return nil }
