package commitlog

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/firnlog/firn/broker/disk"
)

// A folder goes on a full disk, too; a removal that was cut short at any call
// is finished, and only such a one.
func TestRemoveFolder(t *testing.T) {
	for calls := 0; ; calls++ {
		dir := filepath.Join(t.TempDir(), "0-x")
		l := openLog(t, dir, Config{}, Deps{})
		mustAdd(t, l, 3, 2, 50)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		d, left := disk.Real(), calls
		crash := errors.New("the power is gone")
		step := func(do func() error) error {
			if left--; left < 0 {
				return crash
			}
			return do()
		}
		real := *d
		d.Create = func(string) (*os.File, error) { return nil, syscall.ENOSPC }
		d.Rename = func(from, to string) error { return step(func() error { return real.Rename(from, to) }) }
		d.Remove = func(path string) error { return step(func() error { return real.Remove(path) }) }
		d.Sync = func(f *os.File) error { return step(func() error { return real.Sync(f) }) }
		err := RemoveFolder(d, dir)
		if err == nil {
			if calls < 5 {
				t.Errorf("it took %d calls", calls)
			}
			break
		}
		if !errors.Is(err, crash) {
			t.Fatal(err)
		}
		if begun := Removing(dir); begun != (calls > 0) {
			t.Fatalf("after %d calls: begun %v", calls, begun)
		}
		if err := FinishRemoval(disk.Real(), dir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); (err == nil) != (calls == 0) {
			t.Fatalf("after %d calls and a start: %v", calls, err)
		}
	}
	empty := t.TempDir()
	if err := FinishRemoval(disk.Real(), empty); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(empty); err == nil {
		t.Error("an empty folder is left")
	}
	if err := RemoveFolder(disk.Real(), filepath.Join(t.TempDir(), "none")); err != nil {
		t.Error(err)
	}
}
