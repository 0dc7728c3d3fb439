package machines

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// suite and packages are what the machines' root is made of: what Debian's
// cloud images have of it. python3-cffi-backend is named because debootstrap
// does not resolve what it provides.
var (
	suite    = "bookworm"
	packages = []string{"systemd", "systemd-sysv", "dbus", "udev", "cloud-init", "python3", "python3-cffi-backend", "curl", "ca-certificates", "xfsprogs", "mdadm", "iproute2"}
)

// imageConfig is what a cloud's own image would have, for a machine whose
// network is there, whose data source is a folder, and which speaks no language.
const imageConfig = `datasource_list: [NoCloud]
network: {config: disabled}
locale: C.UTF-8
`

// image gives the machines' root, made once by debootstrap from the packages
// that apt is configured for, and kept in the cache below a name that says what
// it was made of. Machines do not write to it.
func image(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("FIRN_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(dir, "firn")
	}
	sum := sha256.Sum256([]byte(suite + strings.Join(packages, ",") + imageConfig))
	dir := filepath.Join(cache, "machines", suite+"-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		return dir
	} else if !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		t.Fatal(err)
	}
	t.Logf("making the machines' root with debootstrap, once: two minutes (into %s)", dir)
	began := time.Now()
	out, err := tryRun(15*time.Minute, "debootstrap", "--variant=minbase", "--include="+strings.Join(packages, ","), suite, part, mirror(t))
	if err != nil {
		t.Skipf("MISSING: a root made by debootstrap (%v: %s): THE BOOT OF MACHINES IS NOT TESTED", err, tailOf(out, 2000))
	}
	for path, content := range map[string]string{
		"etc/cloud/cloud.cfg.d/99-lab.cfg":        imageConfig,
		"etc/machine-id":                          "", // each machine makes its own
		"etc/systemd/journald.conf.d/lab.conf":    "[Journal]\nStorage=volatile\n",
		"etc/systemd/system.conf.d/emulator.conf": "",                      // a place for what vm.boot shows
		"var/lib/cloud/seed/nocloud/meta-data":    "instance-id: nobody\n", // likewise
	} {
		at := filepath.Join(part, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, trash := range []string{"var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"} {
		if err := os.RemoveAll(filepath.Join(part, trash)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(part, dir); err != nil {
		t.Fatal(err)
	}
	t.Logf("made in %v", time.Since(began).Round(time.Second))
	return dir
}

// mirror is where apt takes Debian's packages from on this machine.
func mirror(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages").Output()
	if err == nil {
		for line := range strings.Lines(string(out)) {
			if site, codename, _ := strings.Cut(strings.TrimSpace(line), " "); codename == suite {
				return site
			}
		}
	}
	t.Skipf("MISSING: apt on this machine knows no %s (%v): THE BOOT OF MACHINES IS NOT TESTED", suite, err)
	return ""
}

func tailOf(s string, n int) string { return s[max(0, len(s)-n):] }
