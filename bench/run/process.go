package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// process is a broker that the runner started.
type process struct {
	sv     server
	dir    string // everything it keeps
	cmd    *exec.Cmd
	log    string // file of what it prints
	ended  chan struct{}
	began  time.Time
	others []*process // of its cluster
}

// startProcess runs a broker in dir, with the others of its cluster beside it,
// and returns once they serve clients. They die with the runner.
func startProcess(ctx context.Context, sv server, dir string) (*process, error) {
	p, err := launch(sv, dir)
	if err != nil {
		return nil, err
	}
	for i, other := range sv.others() {
		o, err := launch(other, fmt.Sprintf("%s-%d", dir, i+2))
		if err != nil {
			p.kill()
			return nil, err
		}
		p.others = append(p.others, o)
	}
	if err := p.awaitReady(ctx); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

func launch(sv server, dir string) (*process, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	args, err := sv.command(dir)
	if err != nil {
		return nil, err
	}
	p := &process{sv: sv, dir: dir, log: filepath.Join(dir, "output.log"), ended: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	// The signal at the parent's death follows the thread that started the
	// child: it stays until the child is gone.
	go func() {
		runtime.LockOSThread()
		p.began = time.Now()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // whoever waits for ended knows how
		}
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	return p, nil
}

func (p *process) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := p.sv.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("the broker ended before it was ready:\n%s", p.tail())
		case <-ctx.Done():
			return fmt.Errorf("the broker was not ready: %w\n%s", err, p.tail())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// tail is the end of what the broker printed.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-3000):])
}

// pids are those of the broker and of the others of its cluster.
func (p *process) pids() []int {
	all := []int{p.cmd.Process.Pid}
	for _, o := range p.others {
		all = append(all, o.pids()...)
	}
	return all
}

// stop asks the broker to end and waits for it; then the others of its cluster.
func (p *process) stop() error {
	err := p.stopOne()
	for _, o := range p.others {
		err = errors.Join(err, o.stop())
	}
	return err
}

func (p *process) stopOne() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(2 * time.Minute):
		p.killOne()
		return errors.New("the broker did not end within two minutes of SIGTERM and was killed")
	}
}

// kill ends the broker and the others of its cluster at once.
func (p *process) kill() {
	p.killOne()
	for _, o := range p.others {
		o.kill()
	}
}

func (p *process) killOne() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.ended
}

// freeAddr gives a loopback address that nobody listens on.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
