package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// OriginalError says that a file of a shadow's original would be changed.
type OriginalError struct{ Name string }

func (e *OriginalError) Error() string { return e.Name + " would be changed" }

// Shadow makes folder to look like folder from, which may be missing, and
// gives a Disk for it: names and new files change in to only. A file of from
// is linked, and changing its bytes is an *OriginalError, unless it is among
// copies; then it is copied. So a program that has a Disk can be asked what it
// would do to a folder: where it needs to change a file, make the shadow again
// with that file among copies, and ask again. Nothing is synced.
func Shadow(from, to string, copies []string) (*Disk, error) {
	names, err := os.ReadDir(from)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return nil, err
	}
	for _, e := range names {
		if e.IsDir() {
			continue
		}
		original, err := filepath.Abs(filepath.Join(from, e.Name()))
		if err != nil {
			return nil, err
		}
		shadow := filepath.Join(to, e.Name())
		if slices.Contains(copies, e.Name()) {
			err = copyFile(original, shadow)
		} else {
			err = os.Symlink(original, shadow)
		}
		if err != nil {
			return nil, fmt.Errorf("a shadow of %s: %w", original, err)
		}
	}
	d := Real()
	real := *d
	d.Create = func(path string) (*os.File, error) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		return real.Create(path)
	}
	d.WriteAt = func(f *os.File, b []byte, off int64) (int, error) {
		if err := ownFile(f); err != nil {
			return 0, err
		}
		return real.WriteAt(f, b, off)
	}
	d.Truncate = func(f *os.File, size int64) error {
		if err := ownFile(f); err != nil {
			return err
		}
		return real.Truncate(f, size)
	}
	d.Sync = func(*os.File) error { return nil }
	d.SyncAll = d.Sync
	d.Reserve = func(*os.File, int64) error { return nil }
	return d, nil
}

// ownFile is an *OriginalError for a file that is not what its name in the
// shadow is, but what that links to.
func ownFile(f *os.File) error {
	name, err := os.Lstat(f.Name())
	if err == nil {
		var file os.FileInfo
		if file, err = f.Stat(); err == nil && os.SameFile(name, file) {
			return nil
		}
	}
	return &OriginalError{filepath.Base(f.Name())}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
