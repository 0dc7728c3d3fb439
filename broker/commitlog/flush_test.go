package commitlog

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/firnlog/firn/broker/disk"
)

// TestSyncDataOnAFullDisk: small files that find no room keep nothing of what
// was appended from the disk. The segments that could not be sealed are synced,
// the active one and the folder that has their names. Those above it are synced
// once, when there is a second segment.
func TestSyncDataOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	d := disk.Real()
	var synced []string
	noted, full := false, false
	above := 0
	d.Sync = func(f *os.File) error {
		if f.Name() == filepath.Dir(dir) {
			above++
		}
		if noted {
			synced = append(synced, f.Name())
		}
		return nil
	}
	write := d.WriteAt
	d.WriteAt = func(f *os.File, p []byte, off int64) (int, error) {
		if full && filepath.Ext(f.Name()) == tmpSuffix {
			return 0, &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
		}
		return write(f, p, off)
	}
	l := openLog(t, dir, Config{}, Deps{Disk: d})
	defer l.Remove()
	mustAdd(t, l, 1, 1, 100)
	sealAll(t, l)
	full = true
	for range 2 {
		mustAdd(t, l, 1, 1, 100)
		if err := l.Roll(); err != nil {
			t.Fatal(err)
		}
	}
	mustAdd(t, l, 1, 1, 100)
	l.flush.stop() // what it can do is done
	noted = true
	segments := []string{l.dir + "/00000000000000000001.log", l.dir + "/00000000000000000002.log", l.dir + "/00000000000000000003.log"}
	for call, want := range [][]string{append([]string{l.dir}, segments...), segments} {
		synced = nil
		if err := l.SyncData(); err != nil {
			t.Fatalf("call %d: %v", call, err)
		}
		slices.Sort(synced)
		slices.Sort(want)
		if !slices.Equal(synced, want) {
			t.Errorf("call %d synced %q, want %q", call, synced, want)
		}
	}
	if above != 1 {
		t.Errorf("the folder above was synced %d times", above)
	}
	if err := l.Sync(); !errors.Is(err, ErrFull) {
		t.Errorf("the recovery point cannot move, and Sync says %v", err)
	}
}
