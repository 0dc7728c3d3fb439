package chaos

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A program's syncs take as long as they are told to, and what they sync is
// synced; nothing else is held up.
func TestSlowDisk(t *testing.T) {
	dd, err := exec.LookPath("dd")
	if err != nil {
		t.Skip("no dd to sync with")
	}
	d := &slowDisk{}
	run := func(args ...string) time.Duration {
		t.Helper()
		cmd := exec.Command(dd, append([]string{"if=/dev/zero", "bs=4096", "count=3", "status=none"}, args...)...)
		started, err := d.start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err = cmd.Start()
		started(err)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	out := "of=" + filepath.Join(t.TempDir(), "file")
	run(out, "conv=fsync")
	if n := d.syncs.Load(); n != 0 {
		t.Errorf("%d syncs were held up, which none should have been", n)
	}
	d.delay.Store(int64(300 * time.Millisecond))
	if took := run(out, "conv=fsync"); took < 300*time.Millisecond || d.syncs.Load() != 1 {
		t.Errorf("took %v with %d syncs held up", took, d.syncs.Load())
	}
	if took := run(out, "conv=fdatasync"); took < 300*time.Millisecond || d.syncs.Load() != 2 {
		t.Errorf("took %v with %d syncs held up", took, d.syncs.Load())
	}
	run(out)
	if n := d.syncs.Load(); n != 2 {
		t.Errorf("a program that does not sync had %d syncs", n-2)
	}
}
