package terraform

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// root is the project's folder, from this one.
const root = "../.."

// missing skips a test and says, where it cannot be overlooked, what is
// missing.
func missing(t *testing.T, what string, args ...any) {
	t.Helper()
	fmt.Fprintf(os.Stderr, "SKIPPED %s: %s\n", t.Name(), fmt.Sprintf(what, args...))
	t.Skipf(what, args...)
}

// cacheDir is where tools are kept, as in tools/build.
func cacheDir() (string, error) {
	if d := os.Getenv("FIRN_CACHE"); d != "" {
		return d, nil
	}
	d, err := os.UserCacheDir()
	return filepath.Join(d, "firn"), err
}

// terraformPath finds Terraform.
func terraformPath(t *testing.T) string {
	t.Helper()
	p, err := exec.LookPath("terraform")
	if err != nil {
		missing(t, "no terraform on the PATH (1.9 or newer)")
	}
	return p
}

// provider is a folder of the form that a filesystem_mirror has, or a reason
// why there is none.
type provider struct {
	mirror string
	err    error
}

// awsMirror looks for the AWS provider where Terraform's own search and
// packages of distributions put plugins.
var awsMirror = sync.OnceValue(func() provider {
	home, _ := os.UserHomeDir()
	places := []string{os.Getenv("FIRN_TF_PLUGINS"), filepath.Join(home, ".terraform.d", "plugins"), "/opt", "/usr/local", "/usr/share"}
	const want = "registry.terraform.io/hashicorp/aws"
	for _, p := range places {
		if p == "" {
			continue
		}
		found := ""
		_ = filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(p, path)
			switch {
			case err != nil || strings.Count(rel, string(filepath.Separator)) > 6:
				return fs.SkipDir
			case d.IsDir() && strings.HasSuffix(filepath.ToSlash(path), want):
				found = strings.TrimSuffix(filepath.ToSlash(path), want)
				return fs.SkipAll
			}
			return nil
		})
		if found != "" {
			return provider{mirror: found}
		}
	}
	return provider{err: fmt.Errorf("no AWS provider in a plugin folder: set FIRN_TF_PLUGINS to one that has %s", want)}
})

// python gives the python3 of a folder that has what requirements.txt names,
// made once.
var python = sync.OnceValues(func() (string, error) {
	want, err := os.ReadFile("requirements.txt")
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	system, err := exec.LookPath("python3")
	if err != nil {
		return "", fmt.Errorf("no python3 on the PATH, which moto needs: %w", err)
	}
	version, err := exec.Command(system, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("python3 --version: %w", err)
	}
	sum := sha256.Sum256(append(version, want...))
	dir := filepath.Join(cache, "tools", fmt.Sprintf("moto-%x", sum[:6]))
	bin := filepath.Join(dir, "bin", "python3")
	if _, err := os.Stat(filepath.Join(dir, "done")); err == nil {
		return bin, nil
	}
	fmt.Fprintf(os.Stderr, "installing moto, once: half a minute (into %s)\n", dir)
	for _, args := range [][]string{
		{system, "-m", "venv", "--clear", dir},
		{bin, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s (Debian: apt-get install python3-venv)", strings.Join(args, " "), err, out)
		}
	}
	return bin, os.WriteFile(filepath.Join(dir, "done"), nil, 0o644)
})

// cloud is a moto that runs.
type cloud struct{ url string }

var standIn struct {
	sync.Mutex
	*cloud
	cmd    *exec.Cmd
	remove []string // folders, at the end
}

// startCloud gives the process's one moto; TestMain ends it.
func startCloud(t *testing.T) *cloud {
	t.Helper()
	bin, err := python()
	if err != nil {
		missing(t, "no moto: %v", err)
	}
	standIn.Lock()
	defer standIn.Unlock()
	if standIn.cloud != nil {
		return standIn.cloud
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	_ = l.Close()
	var out bytes.Buffer
	cmd := exec.Command(bin, "standin/aws.py", "--host", "127.0.0.1", "--port", port)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	url := "http://127.0.0.1:" + port
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/moto-api/", nil)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("moto ended: %v\n%s", err, out.String())
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			<-ended
			t.Fatalf("moto does not answer within a minute:\n%s", out.String())
		case <-time.After(100 * time.Millisecond):
		}
	}
	standIn.cloud, standIn.cmd = &cloud{url: url}, cmd
	return standIn.cloud
}

func TestMain(m *testing.M) {
	code := m.Run()
	if standIn.cmd != nil {
		_ = standIn.cmd.Process.Signal(syscall.SIGTERM)
		_, _ = standIn.cmd.Process.Wait()
	}
	for _, dir := range standIn.remove {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}
