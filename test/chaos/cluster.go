package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cluster is the brokers of a run: processes of the real binary.
type cluster struct {
	bin     string
	net     *network // nil where there can be none: then all share the loopback
	brokers []*broker
	members int // of etcd, the first of the brokers
	http    *http.Client
	log     func(format string, args ...any)
}

// broker is one firn process, over its restarts.
type broker struct {
	id               int
	kafka, http      string
	peer, peerClient string   // of its etcd member
	data             string   // absolute
	disk             *os.File // the data folder, if it is a disk of its own, which is seen in the sandbox only
	args             []string
	syncs            *slowDisk // nil where its syncs are left alone
	box              *sandbox  // nil without a network
	cluster          *cluster
	out              *os.File

	mu      sync.Mutex                  // orders what is done to the process
	proc    *process                    // nil while there is none
	down    int                         // steps that want it to be down
	leaving bool                        // its member of etcd is taken out
	letIn   func(context.Context) error // lets it in again, once a step took it out: the broker may hear of that at any time later
	paused  int                         // steps that want it to be stopped by signal
	filled  int                         // steps that keep its disk full
	drained time.Time                   // when its disk was full last
	starts  int
	odd     []string // ends that were not asked for, and other things that should not be
}

// process is one life of a broker.
type process struct {
	cmd   *exec.Cmd
	began time.Time
	ended chan struct{}
	err   error // valid once ended is closed
}

// membersOf says how many of so many brokers have a member of etcd, the first
// of them.
func membersOf(brokers int) int {
	if brokers < 3 {
		return 1
	}
	return 3
}

// newCluster prepares brokers in folders below dir; open starts them.
func newCluster(c Config, n *network, dir string) (*cluster, error) {
	cl := &cluster{bin: c.Binary, net: n, log: c.Log}
	transport := &http.Transport{DisableKeepAlives: true}
	if n != nil {
		transport.DialContext = n.nodes[0].dial
	}
	cl.http = &http.Client{Transport: transport, Timeout: 2 * time.Second}
	for id := 1; id <= c.Brokers; id++ {
		b, err := cl.broker(id, dir)
		if err != nil {
			return nil, err
		}
		cl.brokers = append(cl.brokers, b)
	}
	if cl.members = membersOf(c.Brokers); c.Brokers > 1 {
		var seeds []string
		for _, b := range cl.brokers[:cl.members] {
			seeds = append(seeds, b.peer)
		}
		for _, b := range cl.brokers {
			b.args = append(b.args, "--node-id", fmt.Sprint(b.id), "--peer", b.peer, "--peer-client", b.peerClient, "--seeds", strings.Join(seeds, ","),
				"--store", "file://"+filepath.Join(dir, "objects"), "--upload-check", "1s", "--upload-wait", "0s")
		}
	}
	for _, b := range cl.brokers {
		b.args = append(b.args, c.Args...)
	}
	return cl, nil
}

func (cl *cluster) broker(id int, dir string) (*broker, error) {
	b := &broker{id: id, cluster: cl, data: filepath.Join(dir, fmt.Sprintf("broker-%d", id))}
	if err := os.MkdirAll(b.data, 0o755); err != nil {
		return nil, err
	}
	var err error
	if b.out, err = os.Create(filepath.Join(dir, fmt.Sprintf("broker-%d.log", id))); err != nil {
		return nil, err
	}
	host, ports := fmt.Sprintf("127.0.0.%d", id), [4]int{9092, 9644, peerPort, peerPort - 1}
	if cl.net != nil {
		b.box = cl.net.nodes[id]
		host = net.IP(b.box.addr[:]).String()
	} else {
		for i := range ports {
			if ports[i], err = freePort(host); err != nil {
				return nil, err
			}
		}
	}
	at := func(port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }
	b.kafka, b.http, b.peer, b.peerClient = at(ports[0]), at(ports[1]), at(ports[2]), at(ports[3])
	b.args = []string{"start", "--data", b.data, "--kafka", b.kafka, "--http", b.http}
	return b, nil
}

// freePort gives a port of an address that nobody listens on.
func freePort(host string) (int, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

// do runs f where the broker's files are.
func (b *broker) do(f func() error) error {
	if b.box == nil {
		return f()
	}
	return b.box.do(f)
}

// smallDisk gives the broker's data folder a disk of its own, so that it can be
// filled. What etcd writes stays where it was: it ends when its disk is full,
// as it should.
func (b *broker) smallDisk(size int64) error {
	metadata, to := b.data+"-etcd", filepath.Join(b.data, "etcd")
	if err := os.MkdirAll(metadata, 0o755); err != nil {
		return err
	}
	if err := b.box.disk(b.data, size); err != nil {
		return err
	}
	return b.do(func() error {
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(metadata, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s beside the small disk: %w", to, err)
		}
		var err error
		b.disk, err = os.Open(b.data)
		return err
	})
}

// logs is the folder of the broker's logs, as a path that leads there from
// outside of the sandbox too.
func (b *broker) logs() string {
	if b.disk != nil {
		return fmt.Sprintf("/proc/self/fd/%d/logs", b.disk.Fd())
	}
	return filepath.Join(b.data, "logs")
}

// launch starts the process. The caller has b.mu.
func (b *broker) launch() error {
	cmd := exec.Command(b.cluster.bin, b.args...)
	cmd.Dir = filepath.Dir(b.data)
	cmd.Stdout, cmd.Stderr = b.out, b.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	fmt.Fprintf(b.out, "== start %d: %s\n", b.starts, strings.Join(cmd.Args, " "))
	watched := func(error) {}
	if b.syncs != nil {
		var err error
		if watched, err = b.syncs.start(cmd); err != nil {
			return fmt.Errorf("start broker %d: %w", b.id, err)
		}
	}
	p := &process{cmd: cmd, began: time.Now(), ended: make(chan struct{})}
	started := make(chan error, 1)
	// The parent-death signal follows the thread that started the child: it
	// has to stay until the child is gone.
	run := func() error {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.ended)
		}
		return nil
	}
	go func() {
		if err := b.do(run); err != nil {
			started <- err
		}
	}()
	err := <-started
	watched(err)
	if err != nil {
		return fmt.Errorf("start broker %d: %w", b.id, err)
	}
	b.proc = p
	b.starts++
	go b.watch(p)
	return nil
}

// watch notices an end that nobody asked for, and starts the broker again.
func (b *broker) watch(p *process) {
	<-p.ended
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.proc != p {
		return
	}
	b.proc = nil
	if b.leaving {
		return // join starts it again
	}
	if b.letIn != nil && b.saidRemoved() {
		b.cluster.log("broker %d: its member was taken out after all", b.id)
		b.leaving = true
		b.down++
		go b.comeBack()
		return
	}
	if b.isFull() {
		b.cluster.log("broker %d ended while its disk was full: %v", b.id, p.err)
	} else {
		b.strange("ended by itself: %v", p.err)
	}
	if b.down > 0 {
		return
	}
	time.Sleep(500 * time.Millisecond) // not in a busy loop
	if err := b.launch(); err != nil {
		b.strange("%v", err)
	}
}

// saidRemoved says whether the process that ran last ended because the broker's
// member was taken out. The caller has b.mu.
func (b *broker) saidRemoved() bool {
	said, err := os.ReadFile(b.out.Name())
	if err != nil {
		return false
	}
	last := said[max(0, bytes.LastIndex(said, []byte("== start "))):]
	return bytes.Contains(last, []byte("member was removed from the cluster"))
}

// comeBack lets the member in again that was taken out late, and starts the
// broker.
func (b *broker) comeBack() {
	ctx, cancel := context.WithTimeout(context.Background(), healing)
	defer cancel()
	b.mu.Lock()
	letIn := b.letIn
	b.mu.Unlock()
	sleep(ctx, 500*time.Millisecond) // not in a busy loop
	err := letIn(ctx)
	b.mu.Lock()
	b.leaving = false
	b.mu.Unlock()
	if err = errors.Join(err, b.back()); err != nil {
		b.mu.Lock()
		b.strange("%v", err)
		b.mu.Unlock()
	}
}

// isFull says whether the broker has had a full disk until a moment ago. The
// caller has b.mu.
func (b *broker) isFull() bool { return b.filled > 0 || time.Since(b.drained) < 5*time.Second }

// strange notes what should not be. The caller has b.mu.
func (b *broker) strange(format string, args ...any) {
	if len(b.odd) < 100 {
		b.odd = append(b.odd, fmt.Sprintf("broker %d ", b.id)+fmt.Sprintf(format, args...))
	}
}

// unclean notes a stop that was not clean. One of several brokers may be cut off
// from those it has to hand over to: that is told and no more. The caller has
// b.mu.
func (b *broker) unclean(format string, args ...any) {
	if len(b.cluster.brokers) == 1 {
		b.strange(format, args...)
	} else {
		b.cluster.log("broker %d "+format, append([]any{b.id}, args...)...)
	}
}

// end takes the process down with a signal; another that wants that counts.
func (b *broker) end(sig syscall.Signal, patience time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down++
	p := b.proc
	if p == nil {
		return
	}
	b.proc = nil // it is expected to end
	p.cmd.Process.Signal(sig)
	if sig != syscall.SIGKILL {
		if b.paused > 0 {
			p.cmd.Process.Signal(syscall.SIGCONT)
		}
		select {
		case <-p.ended:
			// One that has just begun does not listen to signals yet; one whose disk
			// is full says what it could not write.
			if p.err != nil && time.Since(p.began) > 5*time.Second && !b.isFull() {
				b.unclean("was stopped and said %v", p.err)
			}
			return
		case <-time.After(patience):
			b.unclean("did not stop within %v; what it was doing then is in its log", patience)
			p.cmd.Process.Signal(syscall.SIGQUIT) // prints all goroutines
			select {
			case <-p.ended:
			case <-time.After(5 * time.Second):
				p.cmd.Process.Kill()
			}
		}
	}
	<-p.ended
}

// back starts the process if nobody wants it down any more.
func (b *broker) back() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down--; b.down > 0 || b.proc != nil {
		return nil
	}
	if err := b.launch(); err != nil {
		return err
	}
	if b.paused > 0 {
		b.proc.cmd.Process.Signal(syscall.SIGSTOP)
	}
	return nil
}

// leave has the broker's member of etcd taken out, upon which the broker ends.
func (b *broker) leave(ctx context.Context, t *topics) error {
	b.mu.Lock()
	b.down++
	b.leaving = true
	b.letIn = func(ctx context.Context) error { return b.letInBy(ctx, t) }
	p := b.proc
	b.mu.Unlock()
	rctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	if err := t.takeOut(rctx, int32(b.id)); err != nil {
		return fmt.Errorf("%w: %w", errLeftOut, err) // join undoes it all the same
	}
	if p == nil {
		return nil
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopPatience):
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.proc != p {
		return nil // another step has ended it
	}
	if b.paused == 0 {
		b.unclean("did not end within %v of its member's removal", stopPatience)
	}
	b.proc = nil
	p.cmd.Process.Kill()
	<-p.ended
	return nil
}

// join lets the member in again and starts the broker, which may not have
// ended.
func (b *broker) join(ctx context.Context, t *topics) error {
	jctx, cancel := context.WithTimeout(ctx, healing)
	defer cancel()
	if err := b.letInBy(jctx, t); err != nil {
		return err
	}
	b.mu.Lock()
	b.leaving = false
	b.mu.Unlock()
	return b.back()
}

func (b *broker) letInBy(ctx context.Context, t *topics) error {
	host, port, err := net.SplitHostPort(b.peer)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	if err := eventually(ctx, func(ctx context.Context) error { return t.letIn(ctx, int32(b.id), host, uint16(n)) }); err != nil {
		return fmt.Errorf("let its member in again: %w", err)
	}
	return nil
}

// pause stops the process where it is, until resume.
func (b *broker) pause() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.paused++; b.proc != nil {
		b.proc.cmd.Process.Signal(syscall.SIGSTOP)
	}
}

func (b *broker) resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.paused--; b.paused == 0 && b.proc != nil {
		b.proc.cmd.Process.Signal(syscall.SIGCONT)
	}
}

// jump moves the process's clock; it is put right by the next start, too.
func (b *broker) jump(ahead time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.proc
	if p == nil {
		return nil
	}
	err := moveClock(p.cmd.Process.Pid, ahead)
	if b.paused > 0 {
		p.cmd.Process.Signal(syscall.SIGSTOP)
	}
	if err == nil {
		return nil
	}
	select { // one that is just ending has no memory any more
	case <-p.ended:
		return nil
	case <-time.After(patience):
		return err
	}
}

// wipe empties the logs and the journal of a broker that is down, and what else
// its data folder has.
func (b *broker) wipe(all bool) error {
	dirs := []string{filepath.Join(b.data, "logs"), filepath.Join(b.data, "journal")}
	if all {
		dirs = append(dirs, filepath.Join(b.data, "etcd"), b.data)
	}
	return b.do(func() error {
		for _, dir := range dirs {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			for _, e := range entries {
				if e.Name() == ballast {
					continue
				}
				if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, syscall.EBUSY) {
					return err // the folder of etcd may be a mount
				}
			}
		}
		return nil
	})
}

const ballast = "ballast"

// fill takes all room that the broker's small disk has left; drain gives it back.
func (b *broker) fill() error {
	b.mu.Lock()
	b.filled++
	b.mu.Unlock()
	return b.do(func() error {
		f, err := os.Create(filepath.Join(b.data, ballast))
		if err != nil {
			return err
		}
		defer f.Close()
		block := make([]byte, 1<<20)
		for size := len(block); size >= 512; {
			if _, err := f.Write(block[:size]); errors.Is(err, syscall.ENOSPC) {
				size /= 2
			} else if err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *broker) drain() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drained = time.Now()
	if b.filled--; b.filled > 0 {
		return nil // another step wants it full
	}
	return b.do(func() error { return os.Remove(filepath.Join(b.data, ballast)) })
}

// ready says whether the broker answers and says that it is ready.
func (b *broker) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.http+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := b.cluster.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("broker %d is not ready: %s: %s", b.id, resp.Status, bytes.TrimSpace(text))
	}
	return nil
}

// open starts all brokers and waits until they are ready.
func (cl *cluster) open(ctx context.Context) error {
	for _, b := range cl.brokers {
		b.mu.Lock()
		err := b.launch()
		b.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return cl.await(ctx)
}

// await waits until all brokers are ready.
func (cl *cluster) await(ctx context.Context) error {
	for _, b := range cl.brokers {
		if err := eventually(ctx, b.ready); err != nil {
			return err
		}
	}
	return nil
}

// eventually calls f until it gives no error. When ctx ends, the last error
// counts.
func eventually(ctx context.Context, f func(context.Context) error) error {
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// close ends every process.
func (cl *cluster) close() {
	for _, b := range cl.brokers {
		b.end(syscall.SIGKILL, 0)
		b.out.Close()
		if b.disk != nil {
			b.disk.Close()
		}
	}
}

// kafka gives the brokers' addresses.
func (cl *cluster) kafka() []string {
	var all []string
	for _, b := range cl.brokers {
		all = append(all, b.kafka)
	}
	return all
}

// withoutEtcdsRace leaves out reports of one race inside of etcd: a member that
// takes in a snapshot makes its list of alarms anew, in (*EtcdServer).restoreAlarms,
// without the lock that whoever asks for alarms or for the member's status would
// need.
func withoutEtcdsRace(log []byte) []byte {
	frame := []byte("==================\n")
	parts := bytes.Split(log, frame)
	kept := parts[:0]
	for _, part := range parts {
		if !bytes.HasPrefix(part, []byte("WARNING: DATA RACE")) || !bytes.Contains(part, []byte("(*EtcdServer).restoreAlarms()")) {
			kept = append(kept, part)
		}
	}
	return bytes.Join(kept, frame)
}

// printed gives lines of the brokers' output that no broker should print.
func (cl *cluster) printed() ([]string, error) {
	var found []string
	for _, b := range cl.brokers {
		log, err := os.ReadFile(b.out.Name())
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(withoutEtcdsRace(log)) {
			for _, bad := range []string{"DATA RACE", "panic:", "panic=", "fatal error:"} {
				if bytes.Contains(line, []byte(bad)) && len(found) < 20 {
					found = append(found, fmt.Sprintf("broker %d printed: %s", b.id, bytes.TrimSpace(line)))
				}
			}
		}
	}
	return found, nil
}
