package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The Debians that packages are installed into, with systemd 252 and 257.
var debianSuites = []string{"bookworm", "trixie"}

// debianPackages are installed in them beside what every Debian has.
const debianPackages = "systemd,systemd-sysv,dbus"

// cacheFolder is where tools/build keeps what is made once.
func cacheFolder(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("FIRN_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir() // XDG_CACHE_HOME, or ~/.cache
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "firn")
}

// debianRoot gives a Debian of the test's own: a copy of one that debootstrap
// made once, with the debs of two versions in /packages.
func debianRoot(t *testing.T, suite string) string {
	t.Helper()
	needRoot(t)
	deb := built(t, "firn_*_"+hostArch(t)+".deb")
	debootstrap := need(t, "debootstrap", "debootstrap")
	key := fmt.Sprintf("%x", sha256.Sum256([]byte(suite+" "+debianPackages)))[:12]
	cached := filepath.Join(cacheFolder(t), "debian", suite+"-"+key)
	if _, err := os.Stat(filepath.Join(cached, "usr/bin/dpkg")); err != nil {
		t.Logf("making a Debian in %s, once: about a minute, 240 MB", cached)
		if err := os.MkdirAll(filepath.Dir(cached), 0o755); err != nil {
			t.Fatal(err)
		}
		tmp, err := os.MkdirTemp(filepath.Dir(cached), ".new-*")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(tmp)
		if err := runQuiet(exec.Command(debootstrap, "--variant=minbase", "--include="+debianPackages, suite, filepath.Join(tmp, "root"))); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(tmp, "root"), cached); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(t.TempDir(), "debian")
	if err := runQuiet(exec.Command("cp", "--archive", cached, root)); err != nil {
		t.Fatal(err)
	}
	packages := filepath.Join(root, "packages")
	if err := os.MkdirAll(packages, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := runQuiet(exec.Command("cp", deb, filepath.Join(packages, "new.deb"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(oldPackage(t, "deb"), filepath.Join(packages, "old.deb")); err != nil {
		t.Fatal(err)
	}
	return root
}

// hostArch is this machine's architecture, one of those that packages are for.
func hostArch(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOHOSTARCH").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// oldPackage makes a package of a version older than all, with the binary
// of the new one.
func oldPackage(t *testing.T, format string) string {
	t.Helper()
	r, dir, stage := testRelease(t)
	r.packageVersion = "0.0.0+0.old"
	arch := hostArch(t)
	if err := r.pack(format, arch, built(t, "firn-*-linux-"+arch), stage, dir); err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(dir, "*."+format))
	if err != nil || len(all) != 1 {
		t.Fatalf("%q (%v)", all, err)
	}
	return all[0]
}

// script puts a script of testdata into root, and gives its path there.
func script(t *testing.T, root, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, name), string(b))
	return "/" + name
}

// finished reads what a script printed: its last line has to say that it came
// to its end.
func finished(t *testing.T, out []byte, err error) {
	t.Helper()
	if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); err != nil || lines[len(lines)-1] != "== ALL DONE" {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDebBesideSystemd boots a Debian with systemd as its first process, and
// has booted.sh run the package's life there.
func TestDebBesideSystemd(t *testing.T) {
	for _, suite := range debianSuites {
		t.Run(suite, func(t *testing.T) { besideSystemd(t, suite) })
	}
}

func besideSystemd(t *testing.T, suite string) {
	root := debianRoot(t, suite)
	need(t, "systemd-nspawn", "systemd-container")
	unshare := need(t, "unshare", "util-linux")
	script(t, root, "booted.sh")
	write(t, filepath.Join(root, "etc/systemd/system/try.service"), `[Service]
Type=exec
Environment=HOME=/root
ExecStart=/bin/sh /booted.sh
StandardOutput=append:/printed
StandardError=append:/printed
TimeoutStartSec=600
ExecStopPost=/bin/sh -c "systemctl --no-block poweroff >/dev/null 2>&1"
`)
	wants := filepath.Join(root, "etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/systemd/system/try.service", filepath.Join(wants, "try.service")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	boot := exec.CommandContext(ctx, unshare, "--mount", "--propagation=private", "sh", "testdata/boot.sh", root, fmt.Sprintf("firn-%d", os.Getpid()))
	boot.Cancel = func() error { return boot.Process.Signal(syscall.SIGTERM) } // nspawn has the machine powered off
	boot.WaitDelay = time.Minute
	console, bootErr := boot.CombinedOutput()
	printed, err := os.ReadFile(filepath.Join(root, "printed"))
	if err != nil {
		t.Skipf("MISSING: a machine on which systemd-nspawn boots a Debian (%v): no systemd starts the unit; TestDebAlone runs what it would\n%s", bootErr, console)
	}
	finished(t, printed, nil)
}

// TestDebAlone installs where no systemd runs: where its programs are there, as
// in a container or while an image is made, and where they are not.
func TestDebAlone(t *testing.T) {
	for _, c := range []struct {
		name    string
		missing []string
	}{
		{"systemd not running", nil},
		{"no systemd", []string{"systemctl", "systemd-sysusers"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := debianRoot(t, debianSuites[0])
			for _, program := range c.missing {
				if err := os.Remove(filepath.Join(root, "usr/bin", program)); err != nil {
					t.Fatal(err)
				}
			}
			out, err := inRoot(t, root, "sh", script(t, root, "chroot.sh")).CombinedOutput()
			finished(t, out, err)
		})
	}
}

// inRoot makes a command that runs in root, with a network, processes and
// mounts of its own.
func inRoot(t *testing.T, root string, args ...string) *exec.Cmd {
	t.Helper()
	need(t, "ip", "iproute2")
	setup := `ip link set lo up && mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/dev" && mknod -m 666 "$0/dev/null" c 1 3 && exec chroot "$0" "$@"`
	cmd := exec.Command(need(t, "unshare", "util-linux"), append([]string{"--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts", "sh", "-c", setup, root}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"}
	return cmd
}

// TestRPMInstalls has rpm install, upgrade and erase the package in a root.
// That is Debian's, since no other can be had here: so nothing is asked of it
// but a shell and what makes users.
func TestRPMInstalls(t *testing.T) {
	root := debianRoot(t, debianSuites[0])
	rpm := need(t, "rpm", "rpm")
	pattern := "firn-*-1.x86_64.rpm"
	if hostArch(t) == "arm64" {
		pattern = "firn-*-1.aarch64.rpm"
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(rpm, append([]string{"--root", root, "--dbpath", "/var/lib/rpm"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("rpm %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	at := func(name string) string { return filepath.Join(root, name) }
	packed := built(t, pattern)
	run("--initdb")
	run("--install", "--nodeps", oldPackage(t, "rpm"))
	run("--verify", "--nodeps", "firn") // every file as the package has it
	if out, err := inRoot(t, root, "sh", "-c", "stat -c '%U:%G %a' /var/lib/firn; getent passwd firn | cut -d: -f6,7; firn version").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "firn:firn 750\n/var/lib/firn:/usr/sbin/nologin\nfirn ") {
		t.Errorf("after the installation: %v\n%s", err, out)
	}
	f, err := os.OpenFile(at("etc/firn/firn.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("# by the administrator\n"); err != nil {
		t.Fatal(err)
	}
	write(t, at("var/lib/firn/firn.json"), "{}")
	run("--upgrade", "--nodeps", packed)
	if got := run("--query", "--queryformat", "%{VERSION}", "firn"); !strings.Contains(filepath.Base(packed), got) || got == "0.0.0+0.old" {
		t.Errorf("%s is installed after the upgrade to %s", got, packed)
	}
	if b, err := os.ReadFile(at("etc/firn/firn.yaml")); err != nil || !bytes.HasSuffix(b, []byte("# by the administrator\n")) {
		t.Errorf("the upgrade took the administrator's settings: %v", err)
	}
	if out := run("--erase", "firn"); !strings.Contains(out, "records in /var/lib/firn are left") {
		t.Errorf("the removal does not tell of the records:\n%s", out)
	}
	for name, there := range map[string]bool{
		"usr/bin/firn": false, "usr/lib/systemd/system/firn.service": false, "usr/share/licenses/firn": false,
		"etc/firn/firn.yaml.rpmsave": true, "var/lib/firn/firn.json": true,
	} {
		if _, err := os.Lstat(at(name)); (err == nil) != there {
			t.Errorf("after the removal: %s is there: %v", name, err == nil)
		}
	}
}
