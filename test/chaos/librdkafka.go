package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// rdkafkaGroup is the group of librdkafka's members, in test/librdkafka/chaosclient.
const rdkafkaGroup = "chaos-rdkafka"

// rdkafkaProcesses is how many lives librdkafka's clients may have.
const rdkafkaProcesses = 1000

// rdkafka is the program of librdkafka's clients under way.
type rdkafka struct {
	cmd   *exec.Cmd
	in    io.Closer
	out   bytes.Buffer
	ended chan error
}

// startRdkafka runs librdkafka's clients where the other clients are; they
// write a history of their own.
func (r *runner) startRdkafka(path string) (*rdkafka, error) {
	var topics []string
	for _, at := range r.topics.base {
		if at.partition == 0 {
			n := 0
			for _, other := range r.topics.base {
				if other.topic == at.topic {
					n++
				}
			}
			topics = append(topics, fmt.Sprintf("%s:%d:%d", at.topic, n, at.key))
		}
	}
	p := &rdkafka{ended: make(chan error, 1)}
	p.cmd = exec.Command(r.Librdkafka, "-brokers", strings.Join(r.cluster.kafka(), ","), "-history", path, "-origin", fmt.Sprint(r.origin),
		"-first", fmt.Sprint(r.clients.reserve(rdkafkaProcesses)), "-processes", fmt.Sprint(rdkafkaProcesses), "-topics", strings.Join(topics, ","), "-seed", fmt.Sprint(r.Seed))
	p.cmd.Dir = r.Dir
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	run := func() error {
		runtime.LockOSThread() // Pdeathsig follows the thread
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.ended <- p.cmd.Wait()
		}
		return nil
	}
	go func() {
		var err error
		if r.net != nil {
			err = r.net.nodes[0].do(run)
		} else {
			err = run()
		}
		if err != nil {
			started <- err
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("librdkafka's clients: %w", err)
	}
	return p, nil
}

// stop lets the clients end and waits for it.
func (p *rdkafka) stop() error {
	p.in.Close()
	select {
	case err := <-p.ended:
		if err != nil {
			return fmt.Errorf("librdkafka's clients: %w\n%s", err, tail(p.out.String(), 2000))
		}
		return nil
	case <-time.After(time.Minute):
		p.cmd.Process.Kill()
		<-p.ended
		return errors.New("librdkafka's clients did not end within a minute: " + tail(p.out.String(), 2000))
	}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }
