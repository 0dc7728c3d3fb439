package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/firnlog/firn/test/kafka"
)

// listener is where a broker listens and what it tells clients.
type listener struct {
	listen, advertise string
}

// server is one running broker, Kafka or Firn.
type server struct {
	addr string // what clients connect to
	stop func()
}

// startServer runs a broker. set are configs under Kafka's names, the same
// for both.
func startServer(ctx context.Context, which, firnBin string, at listener, set map[string]string, logDir string) (*server, error) {
	if which == "kafka" {
		return startKafka(ctx, at, set, logDir)
	}
	return startFirn(ctx, firnBin, at, set, logDir)
}

func startKafka(ctx context.Context, at listener, set map[string]string, logDir string) (*server, error) {
	controller, err := freeAddr()
	if err != nil {
		return nil, err
	}
	props := map[string]string{
		"listeners":                           "PLAINTEXT://" + at.listen + ",CONTROLLER://" + controller,
		"advertised.listeners":                "PLAINTEXT://" + at.advertise,
		"controller.quorum.bootstrap.servers": controller,
	}
	maps.Copy(props, set)
	b, err := kafka.Start(ctx, props)
	if err != nil {
		return nil, err
	}
	return &server{addr: at.advertise, stop: func() {
		_ = os.WriteFile(filepath.Join(logDir, "kafka.log"), []byte(b.Output()), 0o644) // for who looks; nothing depends on it
		b.Stop()
	}}, nil
}

func startFirn(ctx context.Context, bin string, at listener, set map[string]string, logDir string) (*server, error) {
	data, err := os.MkdirTemp("", "firn-")
	if err != nil {
		return nil, err
	}
	httpAddr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	args := []string{"start", "--data", data, "--kafka", at.listen, "--advertise", at.advertise, "--http", httpAddr}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		args = append(args, "--set", name+"="+set[name])
	}
	log, err := os.OpenFile(filepath.Join(logDir, "firn.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// The parent-death signal follows the thread that starts the child; main
	// holds the first one for this.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in the log
		close(ended)
	}()
	s := &server{addr: at.advertise, stop: func() {
		_ = cmd.Process.Kill()
		<-ended
		log.Close()
		os.RemoveAll(data)
	}}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if resp, err := http.Get("http://" + httpAddr + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		select {
		case <-ended:
			s.stop()
			return nil, errors.New("firn ended before it was ready: see firn.log in " + logDir)
		case <-ctx.Done():
			s.stop()
			return nil, fmt.Errorf("firn was not ready: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// awaitDial returns once every address accepts connections.
func awaitDial(ctx context.Context, addrs ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, addr := range addrs {
		for {
			conn, err := net.DialTimeout("tcp", addr, time.Second)
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s does not answer: %w", addr, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}
