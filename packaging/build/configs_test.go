package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// firnBinary is the broker that configurations and commands are tried with:
// FIRNDEV_BIN, or what make built.
func firnBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("FIRNDEV_BIN")
	if path == "" {
		path = "../../bin/firn"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("MISSING: %s (make builds it): nothing is tried with a real firn", path)
	}
	return path
}

// TestConfigs has firn check the files of settings that are shipped: as they
// are, and with all that is commented out in them taken in.
func TestConfigs(t *testing.T) {
	firn := firnBinary(t)
	check := func(name, text string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "firn.yaml")
		write(t, path, text)
		if out, err := exec.Command(firn, "config", "check", "--config", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s\n%s", name, err, out, text)
		}
	}
	commented := regexp.MustCompile(`(?m)^# ((  )?[a-z][a-z.-]*:( .*)?)$`)
	for _, path := range []string{"../files/firn.yaml", "../image/firn.yaml"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		check(path, string(b))
		if all := commented.ReplaceAllString(string(b), "$1"); all != string(b) {
			check(path+", all of it", all)
		} else if strings.HasPrefix(path, "../files") {
			t.Errorf("%s: nothing is commented out any more", path)
		}
	}
}
