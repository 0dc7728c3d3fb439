//go:build !linux

package disk

import "os"

func sync(f *os.File) error { return f.Sync() }

func syncAll() func(*os.File) error { return nil }

// OpenDirect opens a file, with flags of os.OpenFile. This system does not offer
// to read and write past the page cache.
func OpenDirect(path string, flags int) (*os.File, error) { return os.OpenFile(path, flags, 0o644) }

func reserve(*os.File, int64) error { return nil }
