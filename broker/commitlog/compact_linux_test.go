package commitlog

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/broker/disk"
)

// A swap that has begun needs no further descriptor: that there is none left
// would fail the log, and with it the broker.
func TestSwapWithoutDescriptors(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	limit := func(n uint64) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: before.Max}); err != nil {
			t.Error(err)
		}
	}
	defer limit(before.Cur)
	d := disk.Real()
	rename := d.Rename
	d.Rename = func(from, to string) error {
		if filepath.Ext(to) == filepath.Ext(swapSuffix) {
			limit(1)
		}
		return rename(from, to)
	}
	l := openLog(t, t.TempDir(), Config{}, Deps{Disk: d})
	defer l.Remove()
	segmentsOf(t, l, 1, 5)
	_, err := l.Compact(compaction(l))
	limit(before.Cur)
	if failed := l.usable(); failed != nil {
		t.Fatalf("the log is %v; %v", failed, err)
	}
	if got := mustScan(t, l); len(got) != 1 || got[0].offset != 4 {
		t.Errorf("left are %v", got)
	}
}
