package commitlog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/firnlog/firn/broker/disk"
)

// removedFile is in a folder that is being removed, from before the first of
// its files goes until after the last: a log without its first segments would
// pass for one that begins behind them.
const removedFile = "removed"

// RemoveFolder deletes a log's folder. After a crash the log is whole, or
// FinishRemoval knows that it was being removed. That there is no such folder
// is no error.
func RemoveFolder(d *disk.Disk, dir string) error {
	mark := filepath.Join(dir, removedFile)
	switch err := markRemoved(d, dir, mark); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range files {
		path := filepath.Join(dir, e.Name())
		switch {
		case path == mark:
		case e.IsDir():
			err = os.RemoveAll(path)
		default:
			err = d.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := d.SyncDir(dir); err != nil {
		return err
	}
	if err := d.Remove(mark); err != nil {
		return err
	}
	return os.Remove(dir)
}

// markRemoved makes the mark, durably, of a file that is there: on a full disk
// there may be no room for another one, and what is deleted then makes some.
func markRemoved(d *disk.Disk, dir, mark string) error {
	err := d.Rename(filepath.Join(dir, metaName), mark)
	if errors.Is(err, fs.ErrNotExist) {
		var f *os.File
		if f, err = d.Create(mark); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	return d.SyncDir(dir)
}

// FinishRemoval deletes a folder whose removal a crash has cut short, also at
// its very end, when it is empty. Any other one it leaves as it is.
func FinishRemoval(d *disk.Disk, dir string) error {
	if !Removing(dir) {
		_ = os.Remove(dir) // fails unless it is empty, which is what is wanted
		return nil
	}
	return RemoveFolder(d, dir)
}

// Removing says whether the removal of a folder has begun.
func Removing(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, removedFile))
	return err == nil
}
