// Package disk is every call by which the broker changes durable bytes, in one
// place, so that a test can make each of them fail, stop the machine at each
// of them, or record them and build what a power loss could have left.
package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Disk is the calls, as functions that a test may replace one by one. None but
// SyncAll is nil. All of them may be called from several goroutines.
type Disk struct {
	// Create opens a file for reading and writing, makes it if it is not
	// there, and leaves it empty. The folder is not synced.
	Create func(path string) (*os.File, error)
	// WriteAt writes b at a position. After an error any part of it may have
	// been written.
	WriteAt func(f *os.File, b []byte, off int64) (int, error)
	// Sync makes everything written to a file, or all names in a folder,
	// durable. After an error nothing is known of what was written since the
	// last one that succeeded, and trying again tells nothing.
	Sync func(f *os.File) error
	// SyncAll does the same for everything, names too, that was written to the
	// file system of f, which had been open before that was written. It costs
	// one round through the disk instead of one for each file. Nil where the
	// system has no such call, or one that does not say that it failed.
	SyncAll func(f *os.File) error
	// Truncate cuts a file or makes it longer.
	Truncate func(f *os.File, size int64) error
	// Reserve takes room for a file of a size without changing its length. A
	// file system that cannot leaves it as it is.
	Reserve func(f *os.File, size int64) error
	Rename  func(from, to string) error
	Remove  func(path string) error
}

// Real is the disk itself.
func Real() *Disk {
	return &Disk{
		Create: func(path string) (*os.File, error) {
			return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
		},
		WriteAt:  func(f *os.File, b []byte, off int64) (int, error) { return f.WriteAt(b, off) },
		Sync:     sync,
		SyncAll:  syncAll(),
		Truncate: func(f *os.File, size int64) error { return f.Truncate(size) },
		Reserve:  reserve,
		Rename:   os.Rename,
		Remove:   os.Remove,
	}
}

// SyncDir makes a folder's names durable.
func (d *Disk) SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.Sync(f)
}

// TmpSuffix ends the name of a file that Replace has not finished.
const TmpSuffix = ".tmp"

// Replace writes a whole file beside its final name, syncs it and renames it.
// The folder is not synced. On error nothing has changed.
func (d *Disk) Replace(path string, content []byte) error {
	tmp := path + TmpSuffix
	f, err := d.Create(tmp)
	if err != nil {
		return err
	}
	_, err = d.WriteAt(f, content, 0)
	if err == nil {
		err = d.Sync(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = d.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", filepath.Base(path), err), ignoreMissing(d.Remove(tmp)))
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
