package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

func composeProject(t *testing.T) *types.Project {
	t.Helper()
	opts, err := cli.NewProjectOptions([]string{"../compose/compose.yaml"}, cli.WithEnv([]string{"FIRN_IMAGE=firn:1.2.3"}))
	if err != nil {
		t.Fatal(err)
	}
	p, err := opts.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestCompose has the specification's own library read the file, and looks for
// what a user would trip over.
func TestCompose(t *testing.T) {
	p := composeProject(t)
	if want := []string{"broker-1", "broker-2", "broker-3", "minio"}; !slices.Equal(p.ServiceNames(), want) {
		t.Fatalf("services %q, want %q", p.ServiceNames(), want)
	}
	for _, s := range p.Services {
		if len(s.Volumes) != 1 || s.Volumes[0].Type != types.VolumeTypeVolume || s.Volumes[0].Source != s.Name {
			t.Errorf("%s keeps its data in %+v", s.Name, s.Volumes)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to others", s.Name, port.Published)
			}
		}
		if s.Name == "minio" {
			if image, tag, ok := strings.Cut(s.Image, ":"); !ok || image != "quay.io/minio/minio" || !strings.HasPrefix(tag, "RELEASE.") {
				t.Errorf("minio's image is not pinned: %s", s.Image)
			}
			continue
		}
		if s.Image != "firn:1.2.3" {
			t.Errorf("%s: image %s, FIRN_IMAGE is firn:1.2.3", s.Name, s.Image)
		}
		if time.Duration(*s.StopGracePeriod) < time.Minute || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) {
			t.Errorf("%s: %+v", s.Name, s)
		}
		// What clients are told has to be a port that is published under the same number.
		advertised := ""
		for _, arg := range s.Command {
			if v, ok := strings.CutPrefix(arg, "--advertise="+s.Name+":"); ok {
				advertised = v
			}
		}
		if !slices.ContainsFunc(s.Ports, func(port types.ServicePortConfig) bool {
			return port.Published == advertised && fmt.Sprint(port.Target) == advertised
		}) {
			t.Errorf("%s advertises port %q; published are %+v", s.Name, advertised, s.Ports)
		}
	}
}

// process is a service of the compose file as a process.
type process struct {
	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan error
}

// startProcess starts name with args. It is killed at the end, if it still
// runs, and what it printed is in the test's log, if that failed.
func startProcess(t *testing.T, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...), log: new(bytes.Buffer), done: make(chan error, 1)}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may be gone
		<-p.done
		if t.Failed() {
			t.Logf("%s %q printed:\n%s", name, args, p.log)
		}
	})
	return p
}

// stop ends p as an engine would, and wants it to end well in time.
func (p *process) stop(t *testing.T, within time.Duration) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.done:
		if err != nil {
			t.Errorf("%s ended with %v", p.cmd, err)
		}
	case <-time.After(within):
		t.Errorf("%s did not end within %v", p.cmd, within)
	}
}

// poll calls f until it is true, at most for two minutes.
func poll(t *testing.T, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for !f() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within two minutes", what)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// TestComposeCommands starts what the compose file says as processes: the same
// commands and variables, with an address of loopback for each service's name,
// and a folder for each volume.
func TestComposeCommands(t *testing.T) {
	firn := firnBinary(t)
	p, dir := composeProject(t), t.TempDir()
	here := loopback(t, p, dir)
	brokers, envs := map[string]*process{}, map[string][]string{}
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		env := []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
		for k, v := range s.Environment {
			env = append(env, k+"="+here(name, *v))
		}
		args := append(slices.Clone(s.Entrypoint), s.Command...)
		for i := range args {
			args[i] = here(name, args[i])
		}
		if name == "minio" {
			startProcess(t, env, args[0], args[1:]...)
			continue
		}
		envs[name] = append(env, "FIRN_DATA="+filepath.Join(dir, name))
		brokers[name] = startProcess(t, envs[name], firn, args...)
	}
	command := func(name string, stdin string, args ...string) (string, error) {
		cmd := exec.Command(firn, args...)
		cmd.Env, cmd.Stdin = envs[name], strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for name := range brokers {
		test := p.Services[name].HealthCheck.Test // CMD, the image's firn, arguments
		if len(test) < 3 || test[0] != "CMD" || test[1] != "/usr/bin/firn" {
			t.Fatalf("%s: health check %q", name, test)
		}
		poll(t, name+" is healthy", func() bool {
			select {
			case err := <-brokers[name].done:
				t.Fatalf("%s ended: %v", name, err)
			default:
			}
			_, err := command(name, "", test[2:]...)
			return err == nil
		})
	}
	poll(t, "firn cluster status is 0", func() bool { _, err := command("broker-1", "", "cluster", "status"); return err == nil })
	for _, c := range [][]string{
		{"", "topic", "create", "flights", "--config", "remote.storage.enable=true"},
		{"one\ntwo\nthree\n", "produce", "flights"},
	} {
		if out, err := command("broker-2", c[0], c[1:]...); err != nil {
			t.Fatalf("firn %q: %v\n%s", c[1:], err, out)
		}
	}
	if out, err := command("broker-3", "", "consume", "flights", "--from", "start", "--until", "end"); err != nil || out != "one\ntwo\nthree\n" {
		t.Errorf("consumed %q (%v)", out, err)
	}
	if out, err := command("broker-3", "", "topic", "describe", "flights", "--output", "json"); err != nil || !strings.Contains(out, `"replicas"`) {
		t.Errorf("described %s (%v)", out, err)
	}
	// The cluster met in MinIO.
	if _, err := os.Stat(filepath.Join(dir, "minio", "firn", "cluster", "cluster", "formed.json")); err != nil {
		t.Errorf("nothing of the cluster is in the bucket: %v", err)
	}
	for name, b := range brokers {
		b.stop(t, time.Duration(*p.Services[name].StopGracePeriod))
	}
}

// loopback gives what turns a text of the compose file into one for processes
// on this machine: names of services and addresses to listen on become
// addresses of loopback, one for each service; its volume a folder below dir;
// and the server of the image the one that tools/build has.
func loopback(t *testing.T, p *types.Project, dir string) func(service, text string) string {
	t.Helper()
	tool := exec.Command("../../tools/build", "minio")
	tool.Stderr = os.Stderr
	minio, err := tool.Output()
	if err != nil {
		t.Fatalf("tools/build minio: %v", err)
	}
	names := regexp.MustCompile(`\b(` + strings.Join(p.ServiceNames(), "|") + `):([0-9])`)
	address := func(service string) string {
		return fmt.Sprintf("127.77.9.%d:", 10+slices.Index(p.ServiceNames(), service))
	}
	return func(service, text string) string {
		text = names.ReplaceAllStringFunc(text, func(at string) string {
			name, digit, _ := strings.Cut(at, ":")
			return address(name) + digit
		})
		own := address(service)
		return strings.NewReplacer(
			"0.0.0.0:", own, "-address :", "-address "+own,
			"minio server", strings.TrimSpace(string(minio))+" server --quiet",
			p.Services[service].Volumes[0].Target, filepath.Join(dir, service)).Replace(text)
	}
}
