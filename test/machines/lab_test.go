// Package machines runs the user data of machines for real: each machine is a
// Debian of its own, booted by systemd-nspawn in a network namespace, with a
// loop device for its disk, its cloud's metadata at 169.254.169.254 and an
// object store; cloud-init runs what Terraform rendered, and nothing else is
// done to it. The test stands for the cloud alone: it gives disks, starts a new
// machine when one is off, and gives notice.
package machines

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lab is a network of machines, cut off from everything else.
type lab struct {
	t     testing.TB
	id    string // of namespaces and links, different for each test process
	dir   string
	image string // root of the machines, read only
	hosts string // their /etc/hosts, which stands for a private DNS zone
	store string // where machines reach the object store, HOST:PORT
}

const (
	domain   = "lab.internal"
	subnet   = "10.231.77."
	hubAddr  = subnet + "1"
	storeTCP = hubAddr + ":9000"
	diskSize = 2 << 30 // bytes, sparse
)

func addrOf(id int) string { return fmt.Sprintf("%s%d", subnet, 10+id) }
func hostOf(id int) string { return fmt.Sprintf("broker-%d.%s", id, domain) }

// newLab makes the hub: a namespace with a bridge, where the store is reached
// and clients stand. Everything goes with the test.
func newLab(t testing.TB, storeAt string) *lab {
	t.Helper()
	needs(t)
	id := fmt.Sprintf("fm%d", os.Getpid())
	l := &lab{t: t, id: id, dir: filepath.Join(os.TempDir(), id), image: image(t), store: storeTCP}
	if out, err := tryRun(time.Minute, "systemd-nspawn", "--quiet", "--directory="+l.image, "--volatile=overlay", "--register=no", "--keep-unit", "--private-network", "--pipe", "/usr/bin/mount", "-t", "tmpfs", "x", "/mnt"); err != nil {
		t.Skipf("MISSING: the right to run systemd-nspawn (%v: %s): THE BOOT OF MACHINES IS NOT TESTED", err, out)
	}
	sweep(t)
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(l.dir); err != nil {
			t.Error(err)
		}
	})
	hosts := "127.0.0.1 localhost\n"
	for id := 1; id <= 9; id++ {
		hosts += fmt.Sprintf("%s %s\n", addrOf(id), hostOf(id))
	}
	l.hosts = l.file("hosts", hosts)
	hub := l.id + "-hub"
	l.namespace(hub)
	in := func(args ...string) { run(t, append([]string{"ip", "-n", hub}, args...)...) }
	in("link", "add", "br0", "type", "bridge")
	in("addr", "add", hubAddr+"/24", "dev", "br0")
	in("link", "set", "br0", "up")
	// Programs in the namespace read their own hosts file (ip-netns(8)).
	etc := filepath.Join("/etc/netns", hub)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(etc); err != nil {
			t.Error(err)
		}
		_ = os.Remove("/etc/netns") // if it was ours
	})
	if err := os.WriteFile(filepath.Join(etc, "hosts"), []byte(hosts), 0o644); err != nil {
		t.Fatal(err)
	}
	l.relay(hub, storeTCP, storeAt)
	return l
}

// sweep takes down what a test process that was killed has left.
func sweep(t testing.TB) {
	t.Helper()
	out, err := tryRun(time.Minute, "ip", "netns", "list")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		var pid int
		if n, err := fmt.Sscanf(name, "fm%d-", &pid); n != 1 || err != nil || syscall.Kill(pid, 0) == nil {
			continue
		}
		t.Logf("taking down %s, which a test that was killed has left", name)
		for pid := range strings.FieldsSeq(run(t, "ip", "netns", "pids", name)) {
			if n, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL) // others of its machine go with the first
			}
		}
		run(t, "ip", "netns", "del", name)
		if err := os.RemoveAll("/etc/netns/" + name); err != nil {
			t.Error(err)
		}
		left := filepath.Join(os.TempDir(), fmt.Sprintf("fm%d", pid))
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		for m := range strings.Lines(string(mounts)) {
			if f := strings.Fields(m); len(f) > 1 && strings.HasPrefix(f[1], left+"/") {
				run(t, "umount", f[1])
			}
		}
		loops, err := tryRun(time.Minute, "losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(loops) {
			if f := strings.Fields(l); len(f) > 1 && strings.HasPrefix(f[1], left+"/") {
				run(t, "losetup", "--detach", f[0])
			}
		}
		if err := os.RemoveAll(left); err != nil {
			t.Error(err)
		}
	}
}

// needs skips the test, loudly, where something is missing.
func needs(t testing.TB) {
	t.Helper()
	var missing []string
	if os.Getuid() != 0 {
		missing = append(missing, "root")
	}
	for program, pkg := range map[string]string{"systemd-nspawn": "systemd-container", "debootstrap": "debootstrap", "ip": "iproute2", "losetup": "mount", "nsenter": "util-linux", "curl": "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, fmt.Sprintf("%s (Debian: apt-get install %s)", program, pkg))
		}
	}
	if fs, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(fs), "xfs") {
		missing = append(missing, "xfs in the kernel")
	}
	if len(missing) == 0 {
		name := fmt.Sprintf("fm%d-try", os.Getpid())
		if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
			missing = append(missing, fmt.Sprintf("the right to make network namespaces (%v: %s)", err, out))
		} else {
			_ = exec.Command("ip", "netns", "del", name).Run()
		}
		if out, err := exec.Command("losetup", "--find").CombinedOutput(); err != nil {
			missing = append(missing, fmt.Sprintf("loop devices (%v: %s)", err, out))
		}
	}
	if len(missing) > 0 {
		t.Skipf("MISSING: %s: THE BOOT OF MACHINES IS NOT TESTED", strings.Join(missing, ", "))
	}
}

func (l *lab) hub() string { return l.id + "-hub" }

func (l *lab) file(name, content string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// run runs a command of the host that has to succeed.
func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := tryRun(time.Minute, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryRun(within time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// namespace makes a network namespace that goes with the test.
func (l *lab) namespace(name string) {
	l.t.Helper()
	run(l.t, "ip", "netns", "add", name)
	l.t.Cleanup(func() {
		if _, err := tryRun(time.Minute, "ip", "netns", "del", name); err != nil {
			l.t.Error(err)
		}
	})
	run(l.t, "ip", "-n", name, "link", "set", "lo", "up")
}

// inside calls f on a thread that is in a network namespace: sockets that f
// makes stay there.
func inside[T any](namespace string, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var r result
		file, err := os.Open("/run/netns/" + namespace)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("enter %s: %w", namespace, err)}
			return
		}
		r.v, r.err = f()
		done <- r
	}()
	r := <-done
	return r.v, r.err
}

// listen opens a listener in a namespace, closed with the test.
func (l *lab) listen(namespace, addr string) net.Listener {
	l.t.Helper()
	ln, err := inside(namespace, func() (net.Listener, error) { return net.Listen("tcp", addr) })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// dial connects from the hub, where clients stand; names are the brokers'.
func (l *lab) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	for id := 1; id <= 9; id++ {
		addr = strings.Replace(addr, hostOf(id)+":", addrOf(id)+":", 1)
	}
	return inside(l.hub(), func() (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
	})
}

// relay hands connections to an address of a namespace on to one of this
// process's network.
func (l *lab) relay(namespace, at, to string) {
	ln := l.listen(namespace, at)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				up, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer up.Close()
				done := make(chan struct{}, 2)
				for _, p := range [][2]net.Conn{{c, up}, {up, c}} {
					go func() {
						_, _ = io.Copy(p[0], p[1])
						_ = p[0].(*net.TCPConn).CloseWrite()
						done <- struct{}{}
					}()
				}
				<-done
				<-done
			}()
		}
	}()
}

// vm is one machine; it may be started several times, each time as a new one.
type vm struct {
	l    *lab
	id   int
	gcp  bool
	meta *metadata

	network bool // its disk is a network disk, which outlives the machine

	process atomic.Pointer[os.Process] // of nspawn
	ended   chan struct{}              // closed when the machine is off; nil before the first
	root    string                     // what it wrote over the image, "" when there is no machine
	loop    string
	log     *os.File
	number  int // how many machines there were
}

// newVM gives a broker its place: namespace, address, metadata. They outlive
// its machines.
func (l *lab) newVM(id int, gcp bool, role func() (string, error)) *vm {
	l.t.Helper()
	v := &vm{l: l, id: id, gcp: gcp}
	ns := v.namespace()
	l.namespace(ns)
	outer := fmt.Sprintf("v%d", id)
	run(l.t, "ip", "-n", l.hub(), "link", "add", outer, "type", "veth", "peer", "name", "host0", "netns", ns)
	run(l.t, "ip", "-n", l.hub(), "link", "set", outer, "master", "br0", "up")
	run(l.t, "ip", "-n", ns, "addr", "add", addrOf(id)+"/24", "dev", "host0")
	run(l.t, "ip", "-n", ns, "link", "set", "host0", "up")
	run(l.t, "ip", "-n", ns, "addr", "add", "169.254.169.254/32", "dev", "lo")
	v.meta = serveMetadata(l.listen(ns, "169.254.169.254:80"), gcp, role)
	l.t.Cleanup(func() {
		v.destroy()
		v.detach()
	})
	return v
}

func (v *vm) namespace() string { return fmt.Sprintf("%s-%d", v.l.id, v.id) }

// boot starts a new machine from user data, with an empty disk unless that is a
// network disk of before.
func (v *vm) boot(userData string) {
	v.l.t.Helper()
	t := v.l.t
	v.number++
	name := fmt.Sprintf("b%d-m%d", v.id, v.number)
	dir := filepath.Join(v.l.dir, name)
	seed := filepath.Join(dir, "seed")
	v.l.file(name+"/seed/user-data", userData)
	v.l.file(name+"/seed/meta-data", fmt.Sprintf("instance-id: %s\nlocal-hostname: %s\n", name, name))
	v.mountRoot(dir)
	args := []string{"systemd-nspawn", "--quiet", "--directory=" + v.root, "--machine=" + v.l.id + "-" + name,
		"--hostname=" + name, "--network-namespace-path=/run/netns/" + v.namespace(), "--register=no", "--keep-unit", "--boot",
		"--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--capability=CAP_SYS_ADMIN",
		"--bind-ro=" + seed + ":/var/lib/cloud/seed/nocloud", "--bind-ro=" + v.l.hosts + ":/etc/hosts"}
	args = append(args, v.attach(dir)...)
	if v.gcp {
		conf := v.l.file(name+"/emulator.conf", "[Manager]\nDefaultEnvironment=STORAGE_EMULATOR_HOST="+v.l.store+"\n")
		args = append(args, "--bind-ro="+conf+":/etc/systemd/system.conf.d/emulator.conf")
	}
	var err error
	if v.log, err = os.Create(filepath.Join(dir, "console.log")); err != nil {
		t.Fatal(err)
	}
	v.ended = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		defer close(v.ended)
		// A test that is killed takes nspawn along; the signal follows this
		// thread. The machine itself is left for the next test's sweep.
		runtime.LockOSThread()
		for {
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Stdout, cmd.Stderr = v.log, v.log
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
			err := cmd.Start()
			select {
			case started <- err: // the first time
			default:
			}
			if err != nil {
				return
			}
			v.process.Store(cmd.Process)
			_ = cmd.Wait()
			if cmd.ProcessState.ExitCode() != rebooted {
				return
			}
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
}

// rebooted is nspawn's exit code when its machine wants to be started again
// (systemd-nspawn(1), --keep-unit).
const rebooted = 133

// mountRoot makes a machine's root of the image and of what it writes, which
// lasts over reboots and goes with the machine.
func (v *vm) mountRoot(dir string) {
	v.l.t.Helper()
	root, upper, work := filepath.Join(dir, "root"), filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{root, upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			v.l.t.Fatal(err)
		}
	}
	run(v.l.t, "mount", "-t", "overlay", "overlay", "-o", fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", v.l.image, upper, work), root)
	v.root = root
}

// attach shows a machine its disk as its cloud does. It is a new and empty one,
// unless a network disk is there.
func (v *vm) attach(dir string) []string {
	v.l.t.Helper()
	if v.loop == "" {
		v.newDisk(dir)
	}
	if v.gcp {
		link := "google-local-nvme-ssd-0"
		if v.network {
			link = "google-firn-data"
		}
		byID := filepath.Join(dir, "by-id")
		if err := os.MkdirAll(byID, 0o755); err != nil {
			v.l.t.Fatal(err)
		}
		if err := os.Symlink("../../nvme0n1", filepath.Join(byID, link)); err != nil {
			v.l.t.Fatal(err)
		}
		return []string{"--bind=" + v.loop + ":/dev/nvme0n1", "--bind-ro=" + byID + ":/dev/disk/by-id"}
	}
	block := filepath.Base(dir) + "/block/"
	v.l.file(block+"nvme0n1/device/model", "Amazon Elastic Block Store              \n")
	v.l.file(block+"nvme0n1/nvme0n1p1/partition", "1\n")
	v.l.file(block+"nvme1n1/device/model", "Amazon EC2 NVMe Instance Storage        \n")
	return []string{"--bind=" + v.loop + ":/dev/nvme1n1", "--bind-ro=" + filepath.Join(dir, "block") + ":/sys/block"}
}

func (v *vm) newDisk(dir string) {
	t := v.l.t
	t.Helper()
	disk := filepath.Join(dir, "disk")
	f, err := os.Create(disk)
	if err == nil {
		err = errors.Join(f.Truncate(diskSize), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	v.loop = strings.TrimSpace(run(t, "losetup", "--find", "--show", disk))
	// The file lives on with the loop device, and goes with it.
	if err := os.Remove(disk); err != nil {
		t.Fatal(err)
	}
}

func (v *vm) detach() {
	if v.loop == "" {
		return
	}
	if _, err := tryRun(time.Minute, "losetup", "--detach", v.loop); err != nil {
		v.l.t.Error(err)
	}
	v.loop = ""
}

// leader is the process that is the machine's first, 0 when it is off.
func (v *vm) leader() int {
	nspawn := v.process.Load()
	if nspawn == nil {
		return 0
	}
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", nspawn.Pid, nspawn.Pid))
	if err != nil {
		return 0
	}
	var pid int
	_, _ = fmt.Sscan(string(out), &pid)
	return pid
}

// off says whether the machine has ended.
func (v *vm) off() bool {
	select {
	case <-v.ended:
		return true
	default:
		return false
	}
}

// destroy ends the machine at once, and its disk with it, unless that is a
// network disk.
func (v *vm) destroy() {
	if v.root == "" {
		return
	}
	if pid := v.leader(); pid != 0 && !v.off() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	select {
	case <-v.ended:
	case <-time.After(30 * time.Second):
		_ = v.process.Load().Kill()
		<-v.ended
	}
	if v.l.t.Failed() {
		v.l.t.Logf("the end of the console of machine %d of broker %d:\n%s", v.number, v.id, tail(v.log.Name(), 3000))
	}
	_ = v.log.Close()
	if _, err := tryRun(time.Minute, "umount", v.root); err != nil {
		v.l.t.Error(err)
	}
	v.root = ""
	if !v.network {
		v.detach()
	}
}

// sh runs a shell command in the machine.
func (v *vm) sh(command string) (string, error) {
	pid := v.leader()
	if pid == 0 {
		return "", fmt.Errorf("machine of broker %d is off", v.id)
	}
	return tryRun(30*time.Second, "nsenter", "--all", "--target", fmt.Sprint(pid), "/bin/sh", "-c", command)
}

// journal gives the end of what the machine logged, for a test that fails.
func (v *vm) journal() string {
	out, err := v.sh("systemctl --no-pager --failed; cloud-init status --long; journalctl --no-pager -n 60 -u firn-boot; journalctl --no-pager -n 40 -u firn; journalctl --no-pager -n 40 -u firn-watch")
	if err != nil {
		return err.Error()
	}
	return out
}

func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-n):])
}

// eventually polls until f succeeds. What fails in the end is told with the
// machines' journals.
func (l *lab) eventually(within time.Duration, what string, machines []*vm, f func() error) time.Duration {
	l.t.Helper()
	began := time.Now()
	for {
		err := f()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > within {
			for _, v := range machines {
				l.t.Logf("=== broker %d\n%s", v.id, v.journal())
			}
			l.t.Fatalf("not within %v: %s: %v", within, what, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}
