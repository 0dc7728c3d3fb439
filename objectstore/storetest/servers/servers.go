// Package servers starts real object-store servers for tests and for the demo:
// MinIO, versitygw (a second, independent S3) and fake-gcs-server, as processes
// of their own on loopback, from the binaries that tools/build makes. The first
// start on a machine builds; later ones take well under a second.
package servers

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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mc "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Bucket is the name of the bucket that every server is started with.
const Bucket = "firn-test"

// S3 is how a test reaches an S3 server.
type S3 struct {
	Endpoint  string // http://127.0.0.1:port
	Host      string // 127.0.0.1:port
	AccessKey string
	SecretKey string
	Bucket    string // it exists
}

// GCS is how a test reaches an emulator of Google Cloud Storage.
type GCS struct {
	Endpoint string // http://127.0.0.1:port, also the value for STORAGE_EMULATOR_HOST
	Host     string // 127.0.0.1:port
	Bucket   string // it exists
}

// Server is a running process. Access and secret key are empty where the
// server asks for none.
type Server struct {
	S3
	name string
	cmd  *exec.Cmd
	log  *tail
	done chan struct{} // closed when the process has ended
	once sync.Once
}

// MinIO starts a MinIO server with its data in t.TempDir and stops it when the
// test ends. It fails the test if that does not work.
func MinIO(t testing.TB) S3 {
	t.Helper()
	return inTest(t, StartMinIO).S3
}

// VersityGW starts versitygw as MinIO does.
func VersityGW(t testing.TB) S3 {
	t.Helper()
	return inTest(t, StartVersityGW).S3
}

// FakeGCS starts fake-gcs-server, with its data in memory.
func FakeGCS(t testing.TB) GCS {
	t.Helper()
	s := inTest(t, StartFakeGCS)
	return GCS{Endpoint: s.Endpoint, Host: s.Host, Bucket: s.Bucket}
}

func inTest(t testing.TB, start func(string) (*Server, error)) *Server {
	t.Helper()
	s, err := start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s said at last:\n%s", s.name, s.log.String())
		}
		s.Stop()
	})
	return s
}

// StartMinIO starts a MinIO server with its data in dir, which it makes. The
// caller calls Stop.
func StartMinIO(dir string) (*Server, error) {
	return start("minio", dir, func(s *Server, bin, port string) *exec.Cmd {
		cmd := exec.Command(bin, "server", "--quiet", "--address", s.Host, dir)
		cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+s.AccessKey, "MINIO_ROOT_PASSWORD="+s.SecretKey,
			"MINIO_BROWSER=off", "MINIO_UPDATE=off")
		return cmd
	}, makeBucket)
}

// StartVersityGW starts versitygw over the folder dir, as StartMinIO does.
func StartVersityGW(dir string) (*Server, error) {
	return start("versitygw", dir, func(s *Server, bin, port string) *exec.Cmd {
		cmd := exec.Command(bin, "--port", s.Host, "--quiet", "posix", dir)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
		return cmd
	}, makeBucket)
}

// StartFakeGCS starts fake-gcs-server with its data in memory; dir is not used
// but for its working folder.
func StartFakeGCS(dir string) (*Server, error) {
	return start("fakegcs", dir, func(s *Server, bin, port string) *exec.Cmd {
		s.AccessKey, s.SecretKey = "", ""
		return exec.Command(bin, "-scheme", "http", "-host", "127.0.0.1", "-port", port, "-backend", "memory",
			"-public-host", s.Host, "-log-level", "error")
	}, makeGCSBucket)
}

// start runs the binary until the bucket could be made. A port that was free a
// moment ago may be taken: then it tries another.
func start(name, dir string, command func(s *Server, bin, port string) *exec.Cmd, ready func(context.Context, *Server) error) (*Server, error) {
	bin, err := Binary(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var failed error
	for range 3 {
		host, port, err := freePort()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		s := &Server{name: name, log: &tail{}, done: make(chan struct{}), S3: S3{
			Endpoint: "http://" + host, Host: host, AccessKey: "firntest", SecretKey: "firntest-secret", Bucket: Bucket}}
		s.cmd = command(s, bin, port)
		s.cmd.Dir = dir
		s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
		// A test binary that is killed takes its servers along.
		s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := launch(s.cmd); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		go func() {
			_ = s.cmd.Wait()
			close(s.done)
		}()
		if failed = s.await(ready); failed == nil {
			return s, nil
		}
		s.Stop()
	}
	return nil, failed
}

// launches hands commands to one thread that lives as long as the process:
// Pdeathsig fires when the thread that started the child ends, not the process.
var launches = sync.OnceValue(func() chan<- func() {
	ch := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range ch {
			f()
		}
	}()
	return ch
})

func launch(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	launches() <- func() { err <- cmd.Start() }
	return <-err
}

// await calls ready until it succeeds, the process ends, or a minute is over.
func (s *Server) await(ready func(context.Context, *Server) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		actx, acancel := context.WithTimeout(ctx, 5*time.Second)
		err := ready(actx, s)
		acancel()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.done:
			return fmt.Errorf("%s ended at once:\n%s", s.name, s.log.String())
		case <-ctx.Done():
			return fmt.Errorf("%s on %s is not ready after a minute: %w\n%s", s.name, s.Host, err, s.log.String())
		}
	}
}

// PID gives the process's id, for tests that stop or kill it themselves.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Pause stops the process where it is (SIGSTOP): connections stay open and
// nothing is answered any more.
func (s *Server) Pause() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (s *Server) Resume() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

// Stop kills the process and returns when it has ended. Its data stays.
func (s *Server) Stop() {
	s.once.Do(func() { _ = s.cmd.Process.Kill() })
	<-s.done
}

func freePort() (host, port string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	host = ln.Addr().String()
	_, port, err = net.SplitHostPort(host)
	return host, port, errors.Join(err, ln.Close())
}

func makeBucket(ctx context.Context, s *Server) error {
	tr := &http.Transport{DisableKeepAlives: true}
	c, err := mc.New(s.Host, &mc.Options{Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""),
		Region: "us-east-1", MaxRetries: 1, BucketLookup: mc.BucketLookupPath, Transport: tr})
	if err != nil {
		return err
	}
	ok, err := c.BucketExists(ctx, s.Bucket)
	if err != nil || ok {
		return err
	}
	return c.MakeBucket(ctx, s.Bucket, mc.MakeBucketOptions{Region: "us-east-1"})
}

func makeGCSBucket(ctx context.Context, s *Server) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Endpoint+"/storage/v1/b?project=test",
		strings.NewReader(`{"name":"`+s.Bucket+`"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusConflict {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("making the bucket: %s: %s", resp.Status, body)
	}
	return nil
}

// environ is as it was at the start: a test that changes HOME must not send
// the build looking for another cache.
var environ = os.Environ()

// Binary gives the path of a tool from tools/, building it first if this
// machine has it not yet; what is being built goes to standard error.
func Binary(name string) (string, error) {
	script, err := findScript()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("bash", script, name)
	cmd.Env = environ
	var errs bytes.Buffer
	cmd.Stderr = io.MultiWriter(os.Stderr, &errs)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", script, name, err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// findScript looks for tools/build from the working folder upwards, and then
// from where this file was compiled.
func findScript() (string, error) {
	var from []string
	if wd, err := os.Getwd(); err == nil {
		from = append(from, wd)
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		from = append(from, filepath.Dir(file))
	}
	for _, dir := range from {
		for {
			script := filepath.Join(dir, "tools", "build")
			if st, err := os.Stat(script); err == nil && st.Mode().IsRegular() {
				return script, nil
			}
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	return "", fmt.Errorf("no tools/build from %s upwards: run inside the repository", strings.Join(from, " or "))
}

// tail keeps the last of what a process writes.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytes; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
