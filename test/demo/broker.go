package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is the `firn start` under demonstration.
type process struct {
	cmd   *exec.Cmd
	kafka string
	http  string
	data  string
	log   string // its output
	done  chan error
}

// freePort asks the kernel for a loopback port that nobody listens on.
func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// startBroker runs bin with its data under dir and waits until it is ready.
func startBroker(ctx context.Context, bin, dir, store string, env []string) (*process, time.Duration, error) {
	kafka, err := freePort()
	if err != nil {
		return nil, 0, err
	}
	httpAddr, err := freePort()
	if err != nil {
		return nil, 0, err
	}
	p := &process{kafka: kafka, http: httpAddr, data: filepath.Join(dir, "firn-data"), log: filepath.Join(dir, "firn.log"), done: make(chan error, 1)}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, 0, err
	}
	defer out.Close()
	args := []string{"start", "--data", p.data, "--kafka", kafka, "--http", httpAddr, "--upload-check", "1s", "--upload-wait", "2s", "--set", "log.retention.check.interval.ms=1000"}
	if store != "" {
		args = append(args, "--store", store)
	}
	p.cmd = exec.Command(bin, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, 0, fmt.Errorf("start %s: %w", bin, err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	deadline := time.Now().Add(30 * time.Second)
	for {
		if resp, err := http.Get("http://" + httpAddr + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return p, time.Since(began), nil
			}
		}
		select {
		case err := <-p.done:
			return nil, 0, fmt.Errorf("the broker stopped before it was ready (%v); its log:\n%s", err, p.tail())
		case <-ctx.Done():
			p.stop()
			return nil, 0, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.stop()
			return nil, 0, fmt.Errorf("the broker was not ready within 30 s; its log:\n%s", p.tail())
		}
	}
}

func (p *process) tail() string {
	b, _ := os.ReadFile(p.log)
	if len(b) > 4000 {
		b = b[len(b)-4000:]
	}
	return string(b)
}

// stop ends the broker by its pid and says how it went.
func (p *process) stop() error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.done:
		return err
	case <-time.After(30 * time.Second):
		p.cmd.Process.Kill()
		return errors.New("the broker did not stop within 30 s of SIGTERM and was killed")
	}
}

// tierPartition is what the demo reads of GET /v1/tier/TOPIC.
type tierPartition struct {
	Partition   int32  `json:"partition"`
	RemoteEnd   int64  `json:"remoteEnd"`
	RemoteBytes int64  `json:"remoteBytes"`
	LogEnd      int64  `json:"logEnd"`
	LocalBytes  int64  `json:"localBytes"`
	LastError   string `json:"lastError"`
}

func (p *process) tier(topic string) ([]tierPartition, error) {
	resp, err := http.Get("http://" + p.http + "/v1/tier/" + topic)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET /v1/tier/%s: %s: %s", topic, resp.Status, body)
	}
	var status struct {
		Partitions []tierPartition `json:"partitions"`
	}
	if err := json.Unmarshal(body, &status); err != nil {
		return nil, fmt.Errorf("GET /v1/tier/%s: %w", topic, err)
	}
	return status.Partitions, nil
}

// metric adds up the values of every series of that name whose labels contain
// all of the given parts.
func (p *process) metric(name string, labels ...string) (float64, error) {
	resp, err := http.Get("http://" + p.http + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var sum float64
	sc := bufio.NewScanner(resp.Body)
lines:
	for sc.Scan() {
		series, value, ok := strings.Cut(sc.Text(), " ")
		if !ok || (series != name && !strings.HasPrefix(series, name+"{")) {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(series, l) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", series, err)
		}
		sum += v
	}
	return sum, sc.Err()
}

// rss is the broker's resident memory in bytes.
func (p *process) rss() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}
