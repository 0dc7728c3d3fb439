package broker

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRestarted: a power loss counts until recovery from it is over, and the
// next one counts again.
func TestRestarted(t *testing.T) {
	if _, err := os.Stat(bootID); err != nil {
		t.Skip("the system has no boot id")
	}
	dir := t.TempDir()
	want := func(when string, want bool) {
		t.Helper()
		if got, err := restarted(dir); got != want || err != nil {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	want("a new folder", true)
	want("a crash before recovery was over", true)
	if err := noteStart(dir); err != nil {
		t.Fatal(err)
	}
	want("a start of the broker alone", false)
	if err := os.WriteFile(filepath.Join(dir, "boot"), []byte("of another start\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	want("a start of the machine", true)
}
