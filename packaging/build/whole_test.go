package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/sys/unix"
)

var packagesDir = flag.String("packages", "", "folder that `make packages` filled: test what is in it, too")

// built gives the one file of the built packages that matches pattern.
func built(t *testing.T, pattern string) string {
	t.Helper()
	if *packagesDir == "" {
		t.Skip("needs the packages: make test-packages")
	}
	all, err := filepath.Glob(filepath.Join(*packagesDir, pattern))
	if err != nil || len(all) != 1 {
		t.Fatalf("%d files %s in %s (%v)", len(all), pattern, *packagesDir, err)
	}
	return all[0]
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("MISSING: root: nothing is installed")
	}
}

// need gives a program's path.
func need(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("MISSING: %s (Debian: apt-get install %s)", name, debian)
	}
	return path
}

// TestBuiltSums has sha256sum check the checksums, and wants one for each file.
func TestBuiltSums(t *testing.T) {
	sums := built(t, sumsName)
	cmd := exec.Command(need(t, "sha256sum", "coreutils"), "--check", "--strict", sumsName)
	cmd.Dir = filepath.Dir(sums)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
	entries, err := os.ReadDir(cmd.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(out, []byte(": OK\n")); got != len(entries)-1 || got != 10 {
		t.Errorf("%d files are checked, %d are there, and 10 are made", got, len(entries)-1)
	}
}

func TestBuiltBinaries(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		f, err := elf.Open(built(t, "firn-*-linux-"+arch))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if libs, err := f.ImportedLibraries(); f.Machine != machine || err != nil || len(libs) > 0 {
			t.Errorf("%s: %v, with libraries %q (%v)", arch, f.Machine, libs, err)
		}
	}
}

// TestBuiltOtherArchitecture runs a broker of the architecture that this
// machine is not of, in an emulator of it.
func TestBuiltOtherArchitecture(t *testing.T) {
	firn := firnBinary(t)
	other, machine := "arm64", "aarch64"
	if hostArch(t) == other {
		other, machine = "amd64", "x86_64"
	}
	binary := built(t, "firn-*-linux-"+other)
	qemu := need(t, "qemu-"+machine, "qemu-user")
	const addr = "127.77.8.2:9092"
	broker := startProcess(t, []string{"HOME=/", "PATH=/usr/bin"}, qemu, binary, "start", "--data", t.TempDir(), "--kafka", addr, "--http", "127.77.8.2:9644")
	command := func(stdin string, args ...string) (string, error) {
		cmd := exec.Command(firn, args...)
		cmd.Env, cmd.Stdin = []string{"FIRN_BROKERS=" + addr}, strings.NewReader(stdin)
		out, err := cmd.Output()
		return string(out), err
	}
	poll(t, "the broker serves", func() bool { _, err := command("", "topic", "create", "flights"); return err == nil })
	if _, err := command("one\ntwo\n", "produce", "flights", "--compression", "zstd"); err != nil {
		t.Fatal(err)
	}
	if out, err := command("", "consume", "flights", "--from", "start", "--until", "end"); err != nil || out != "one\ntwo\n" {
		t.Errorf("consumed %q (%v)", out, err)
	}
	broker.stop(t, time.Minute)
}

// TestBuiltSBOM compares the SBOM with what the Go command reads in the binary,
// and checks it against the schema of CycloneDX.
func TestBuiltSBOM(t *testing.T) {
	schema := cycloneDXSchema(t)
	for _, arch := range arches {
		binary := built(t, "firn-*-linux-"+arch)
		raw, err := os.ReadFile(binary + ".cdx.json")
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(doc); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
		var bom cdx.BOM
		if err := cdx.NewBOMDecoder(bytes.NewReader(raw), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
			t.Fatal(err)
		}
		info, err := buildinfo.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		there := map[string]bool{}
		for _, c := range *bom.Components {
			there[c.PackageURL] = true
		}
		for _, m := range info.Deps {
			if !there["pkg:golang/"+m.Path+"@"+m.Version] {
				t.Errorf("%s: %s %s is not in the SBOM", arch, m.Path, m.Version)
			}
		}
		if len(*bom.Components) != len(info.Deps)+1 || len(info.Deps) < 50 {
			t.Errorf("%s: %d components, %d modules and the standard library are in the binary", arch, len(*bom.Components), len(info.Deps))
		}
	}
}

// cycloneDXSchema reads the schema that the library of CycloneDX brings along.
func cycloneDXSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	for url, file := range map[string]string{
		"http://cyclonedx.org/schema/bom-1.6.schema.json":  "bom-1.6.schema.json",
		"http://cyclonedx.org/schema/spdx.schema.json":     "spdx.schema.json",
		"http://cyclonedx.org/schema/jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "schema", file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		doc, err := jsonschema.UnmarshalJSON(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(url, doc); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBuiltImageRuns unpacks the image of this architecture into a folder, and
// runs what its configuration says in it, as its user, in namespaces of its own
// with the root file system read-only.
func TestBuiltImageRuns(t *testing.T) {
	needRoot(t)
	path := built(t, "firn-*-oci.tar")
	ownMounts(t)
	index, err := openImage(path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	img := images(t, index)[runtime.GOARCH]
	root := t.TempDir()
	extract(t, img, root)
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	var uid, gid uint32
	if _, err := fmt.Sscanf(c.User, "%d:%d", &uid, &gid); err != nil || uid == 0 {
		t.Fatalf("user %q (%v)", c.User, err)
	}
	inside := func(args ...string) *exec.Cmd {
		cmd := exec.Command(c.Entrypoint[0], args...)
		cmd.Env, cmd.Dir = append(c.Env, "FIRN_KAFKA=127.77.8.1:9092", "FIRN_ADVERTISE=127.77.8.1:9092", "FIRN_HTTP=127.77.8.1:9644", "FIRN_BROKERS=127.77.8.1:9092"), c.WorkingDir
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Chroot: root, Credential: &syscall.Credential{Uid: uid, Gid: gid},
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL,
		}
		return cmd
	}
	// As an engine would: /proc, and everything but the volume read-only.
	mountIn(t, "proc", filepath.Join(root, "proc"), "proc", 0)
	mountIn(t, root, root, "", unix.MS_BIND|unix.MS_REC)
	if err := unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("read-only root: %v", err)
	}
	volume := t.TempDir()
	if err := os.Chown(volume, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
	mountIn(t, volume, filepath.Join(root, "var/lib/firn"), "", unix.MS_BIND)

	out, err := inside("version", "--output", "json").CombinedOutput()
	var version struct{ Version string }
	if err := errors.Join(err, json.Unmarshal(out, &version)); err != nil || version.Version == "" || version.Version == "dev" {
		t.Fatalf("firn version in the image: %s (%v)", out, err)
	}
	broker := inside(c.Cmd...)
	var log bytes.Buffer
	broker.Stdout, broker.Stderr = &log, &log
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: broker, log: &log, done: make(chan error, 1)}
	go func() { p.done <- broker.Wait(); close(p.done) }()
	t.Cleanup(func() {
		_ = broker.Process.Kill() // it may be gone
		<-p.done
		if t.Failed() {
			t.Logf("the broker printed:\n%s", &log)
		}
	})
	poll(t, "the broker in the image serves", func() bool { return inside("topic", "create", "flights").Run() == nil })
	produce := inside("produce", "flights")
	produce.Stdin = strings.NewReader("one\ntwo\n")
	if out, err := produce.CombinedOutput(); err != nil {
		t.Fatalf("produce: %v\n%s", err, out)
	}
	if out, err := inside("consume", "flights", "--from", "start", "--until", "end").CombinedOutput(); err != nil || string(out) != "one\ntwo\n" {
		t.Errorf("consumed %q (%v)", out, err)
	}
	if got := statusOf(t, broker.Process.Pid, "Uid"); got != fmt.Sprintf("%d %d %d %d", uid, uid, uid, uid) {
		t.Errorf("the broker runs as %s", got)
	}
	p.stop(t, time.Minute)
}

// statusOf reads a field of /proc/PID/status.
func statusOf(t *testing.T, pid int, field string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), field+":"); ok {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	t.Fatalf("no %s in %s", field, b)
	return ""
}

// ownMounts gives this test, and what it starts, mounts of its own: whatever
// becomes of the test, none of them is left. The thread ends with the test.
func ownMounts(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		t.Skipf("MISSING: the right to a mount namespace: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

// mountIn mounts until the test's end.
func mountIn(t *testing.T, from, to, kind string, flags uintptr) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(from, to, kind, flags, ""); err != nil {
		t.Fatalf("mount %s on %s: %v", from, to, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(to, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", to, err)
		}
	})
}

// extract writes the files of an image below root, with owners and modes.
func extract(t *testing.T, img v1.Image, root string) {
	t.Helper()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	in := mutate.Extract(img)
	defer in.Close()
	for tr := tar.NewReader(in); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(root, filepath.Clean("/"+h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(to, 0o755)
		} else {
			var b []byte
			if b, err = io.ReadAll(tr); err == nil {
				err = os.MkdirAll(filepath.Dir(to), 0o755)
			}
			if err == nil {
				err = os.WriteFile(to, b, 0o600)
			}
		}
		if err = errors.Join(err, os.Chown(to, h.Uid, h.Gid), os.Chmod(to, h.FileInfo().Mode())); err != nil {
			t.Fatal(err)
		}
	}
}
