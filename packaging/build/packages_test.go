package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sassoftware/go-rpmutils"
)

// TestPackagesAreTheSameTwice builds all packages in two folders.
func TestPackagesAreTheSameTwice(t *testing.T) {
	sums := func() string {
		r, dir, stage := testRelease(t)
		if err := r.packages(dir, stage); err != nil {
			t.Fatal(err)
		}
		if err := writeSums(dir); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, sumsName))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := sums()
	if second := sums(); first != second {
		t.Errorf("the same sources gave\n%s\nand\n%s", first, second)
	}
	for _, want := range []string{
		"  firn_1.2.3+5.gabc1234_amd64.deb\n", "  firn_1.2.3+5.gabc1234_arm64.deb\n",
		"  firn-1.2.3+5.gabc1234-1.x86_64.rpm\n", "  firn-1.2.3+5.gabc1234-1.aarch64.rpm\n",
	} {
		if !strings.Contains(first, want) {
			t.Errorf("no %q among\n%s", strings.TrimSpace(want), first)
		}
	}
}

// packed are the files of both packages: mode, and c for what an upgrade keeps.
var packed = map[string]string{
	"/etc/firn/firn.env":                             "0600 c",
	"/etc/firn/firn.yaml":                            "0644 c",
	"/usr/bin/firn":                                  "0755",
	"/usr/lib/systemd/system/firn.service":           "0644",
	"/usr/lib/sysusers.d/firn.conf":                  "0644",
	"/usr/lib/tmpfiles.d/firn.conf":                  "0644",
	"/usr/share/bash-completion/completions/firn":    "0644",
	"/usr/share/doc/firn/CHANGELOG.md":               "0644",
	"/usr/share/doc/firn/configuration.md":           "0644",
	"/usr/share/fish/vendor_completions.d/firn.fish": "0644",
}

func with(more map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range []map[string]string{packed, more} {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

func compare(t *testing.T, got, want map[string]string) {
	t.Helper()
	for path, w := range want {
		if got[path] != w {
			t.Errorf("%s is %q, want %q", path, got[path], w)
		}
	}
	for path, g := range got {
		if want[path] == "" {
			t.Errorf("%s (%s) is not to be in it", path, g)
		}
	}
}

// debTar reads one of the two tars of a deb: --fsys-tarfile or --ctrl-tarfile.
func debTar(t *testing.T, which, path string, each func(*tar.Header, []byte)) {
	t.Helper()
	dpkg, err := exec.LookPath("dpkg-deb")
	if err != nil {
		t.Skip("MISSING: dpkg-deb (Debian: apt-get install dpkg): the deb's contents are not checked")
	}
	out, err := exec.Command(dpkg, which, path).Output()
	if err != nil {
		t.Fatalf("dpkg-deb %s %s: %v", which, path, err)
	}
	for tr := tar.NewReader(bytes.NewReader(out)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		each(h, body)
	}
}

func TestDeb(t *testing.T) {
	r, dir, stage := testRelease(t)
	if err := r.packages(dir, stage); err != nil {
		t.Fatal(err)
	}
	for _, arch := range arches {
		path := filepath.Join(dir, "firn_"+r.packageVersion+"_"+arch+".deb")
		control := map[string]string{}
		debTar(t, "--ctrl-tarfile", path, func(h *tar.Header, body []byte) {
			control[strings.TrimPrefix(h.Name, "./")] = string(body)
			if !h.ModTime.Equal(r.when) {
				t.Errorf("%s: %s is of %v, not of the commit's time", arch, h.Name, h.ModTime)
			}
		})
		for _, want := range []string{"Package: firn\n", "Version: " + r.packageVersion + "\n", "Architecture: " + arch + "\n", "Recommends: ca-certificates\n", "\nDescription: Kafka-compatible broker with tiered storage\n Standard Kafka"} {
			if !strings.Contains(control["control"], want) {
				t.Errorf("%s: no %q in\n%s", arch, want, control["control"])
			}
		}
		if strings.Contains(control["control"], "\nDepends:") {
			t.Errorf("%s: a static binary depends on something:\n%s", arch, control["control"])
		}
		for _, script := range []string{"postinst", "prerm", "postrm"} {
			if !strings.HasPrefix(control[script], "#!/bin/sh\n") {
				t.Errorf("%s: no script %s", arch, script)
			}
		}
		conffiles := strings.Fields(control["conffiles"])
		got := map[string]string{}
		debTar(t, "--fsys-tarfile", path, func(h *tar.Header, body []byte) {
			if h.Uid != 0 || h.Gid != 0 || h.Uname != "root" || h.Gname != "root" || !h.ModTime.Equal(r.when) {
				t.Errorf("%s: %s is %d:%d (%s:%s) of %v", arch, h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime)
			}
			name := strings.TrimPrefix(h.Name, ".")
			switch h.Typeflag {
			case tar.TypeReg:
				got[name] = fmt.Sprintf("%04o", h.Mode)
				if slices.Contains(conffiles, name) {
					got[name] += " c"
				}
			case tar.TypeDir:
				if h.Mode != 0o755 {
					t.Errorf("%s: folder %s has mode %o", arch, name, h.Mode)
				}
			default:
				t.Errorf("%s: %s is of type %q", arch, name, h.Typeflag)
			}
			if name == "/usr/bin/firn" && !bytes.HasPrefix(body, []byte("not a program of "+arch+"\n")) {
				t.Errorf("the deb of %s has another one's binary", arch)
			}
		})
		compare(t, got, with(map[string]string{
			"/usr/share/doc/firn/copyright":                "0644",
			"/usr/share/doc/firn/THIRD-PARTY-LICENSES.txt": "0644",
			"/usr/share/zsh/vendor-completions/_firn":      "0644",
		}))
	}
}

func TestRPM(t *testing.T) {
	r, dir, stage := testRelease(t)
	if err := r.packages(dir, stage); err != nil {
		t.Fatal(err)
	}
	for arch, as := range map[string]string{"amd64": "x86_64", "arm64": "aarch64"} {
		f, err := os.Open(filepath.Join(dir, "firn-"+r.packageVersion+"-1."+as+".rpm"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		rpm, err := rpmutils.ReadRpm(f)
		if err != nil {
			t.Fatal(err)
		}
		for tag, want := range map[int]string{
			rpmutils.NAME: "firn", rpmutils.VERSION: r.packageVersion, rpmutils.RELEASE: "1", rpmutils.ARCH: as,
			rpmutils.LICENSE: "Apache-2.0", rpmutils.PAYLOADCOMPRESSOR: "zstd", rpmutils.BUILDHOST: "localhost",
			rpmutils.SUMMARY: "Kafka-compatible broker with tiered storage",
		} {
			if got, err := rpm.Header.GetString(tag); got != want {
				t.Errorf("%s: tag %d is %q (%v), want %q", arch, tag, got, err, want)
			}
		}
		for tag, want := range map[int]string{rpmutils.POSTIN: "systemd-sysusers firn.conf", rpmutils.PREUN: "systemctl stop firn.service", rpmutils.POSTUN: "daemon-reload"} {
			if got, err := rpm.Header.GetString(tag); !strings.Contains(got, want) {
				t.Errorf("%s: script %d has no %q (%v):\n%s", arch, tag, want, err, got)
			}
		}
		infos, err := rpm.Header.GetFiles()
		if err != nil {
			t.Fatal(err)
		}
		got, licences := map[string]string{}, 0
		for _, fi := range infos {
			if fi.UserName() != "root" || fi.GroupName() != "root" || int64(fi.Mtime()) != r.when.Unix() {
				t.Errorf("%s: %s is %s:%s of %d", arch, fi.Name(), fi.UserName(), fi.GroupName(), fi.Mtime())
			}
			if fi.Mode()&0o170000 == 0o040000 {
				continue
			}
			got[fi.Name()] = fmt.Sprintf("%04o", fi.Mode()&0o7777)
			if fi.Flags()&(rpmutils.RPMFILE_CONFIG|rpmutils.RPMFILE_NOREPLACE) == rpmutils.RPMFILE_CONFIG|rpmutils.RPMFILE_NOREPLACE {
				got[fi.Name()] += " c"
			}
			if fi.Flags()&rpmutils.RPMFILE_LICENSE != 0 {
				licences++
			}
		}
		compare(t, got, with(map[string]string{
			"/usr/share/licenses/firn/LICENSE":                  "0644",
			"/usr/share/licenses/firn/THIRD-PARTY-LICENSES.txt": "0644",
			"/usr/share/zsh/site-functions/_firn":               "0644",
		}))
		if licences != 2 {
			t.Errorf("%s: %d licences", arch, licences)
		}
	}
}

// TestScripts has a shell read the scripts.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("../scripts/*/*")
	if err != nil || len(scripts) != 6 {
		t.Fatalf("scripts: %q (%v)", scripts, err)
	}
	for _, s := range scripts {
		if out, err := exec.Command("sh", "-n", s).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", s, err, out)
		}
	}
}
