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
	f, err := d.Create(mark)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = errors.Join(f.Close(), d.SyncDir(dir))
	}
	if err != nil {
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

// FinishRemoval deletes a folder whose removal a crash has cut short. Any other
// one it leaves as it is.
func FinishRemoval(d *disk.Disk, dir string) error {
	if !Removing(dir) {
		return nil
	}
	return RemoveFolder(d, dir)
}

// Removing says whether the removal of a folder has begun.
func Removing(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, removedFile))
	return err == nil
}
