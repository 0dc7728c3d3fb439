package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

const (
	devPort     = 9092
	devInternal = 100 // from the first Kafka port to the first of the other ports
	devMost     = 9   // brokers on one machine
	devStop     = stopTimeout + 5*time.Second
)

// devConfig is what firn dev was told.
type devConfig struct {
	brokers  int
	port     int
	data     string // "": a temporary folder
	store    string // "": a folder in data
	logLevel string
	set      []string
}

func (a *app) devCommand() *cobra.Command {
	c := devConfig{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Start a cluster on this machine, to try things with",
		Long: `Start several brokers on this machine as one cluster, each a process of its own, and end them
with Ctrl-C. Their log lines are printed with the broker's number in front; when all are ready,
their addresses are.

Kafka clients reach the first broker at --port, the next ones at the ports that follow. HTTP and
etcd's two ports are 100 above that: first HTTP of all brokers, then the members' own ports, then
those for brokers that are no members. All of them listen on 127.0.0.1 only. Of up to four
brokers, the first three are members of etcd, of more the first five, and of two the first one.

Without --data everything is in a temporary folder that is deleted at the end. A broker that
dies is reported and the others go on, so that one can see what a cluster does then: the line
that starts it again is printed.`,
		Example: `  firn dev
  firn dev --brokers 1
  firn dev --brokers 5 --port 19092 --data ./try --set num.partitions=6`,
		Args: args(cobra.NoArgs, "no arguments, only flags"),
		RunE: func(*cobra.Command, []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return a.dev(c)
		},
	}
	f := cmd.Flags()
	f.IntVar(&c.brokers, "brokers", 3, "how many `N` brokers, 1 to 9")
	f.IntVar(&c.port, "port", devPort, "first `PORT` for Kafka clients")
	f.StringVar(&c.data, "data", "", "`DIR` to keep the brokers' data in; default: a temporary folder, deleted at the end")
	f.StringVar(&c.store, "store", "", "object store, as for firn start (`URL`); default: a folder beside the data")
	f.StringVar(&c.logLevel, "log-level", "warn", "least `LEVEL` of log lines: debug, info, warn or error")
	f.StringArrayVar(&c.set, "set", nil, "broker config `NAME=VALUE` for all brokers; repeatable")
	return cmd
}

func (c *devConfig) check() error {
	switch {
	case c.brokers < 1 || c.brokers > devMost:
		return usageError("--brokers %d: choose 1 to %d", c.brokers, devMost)
	case c.port < 1 || c.port+devInternal+3*c.brokers > 65536:
		return usageError("--port %d: choose 1 to %d", c.port, 65536-devInternal-3*c.brokers)
	}
	return nil
}

// seeds are the peer addresses of etcd's members.
func (c *devConfig) seeds() []string {
	members := 1
	switch {
	case c.brokers >= 5:
		members = 5
	case c.brokers >= 3:
		members = 3
	}
	var all []string
	for i := range members {
		all = append(all, c.addr(devInternal+c.brokers+i))
	}
	return all
}

func (c *devConfig) addr(offset int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port+offset))
}

// args are the arguments of the i-th broker's firn start, from 0.
func (c *devConfig) args(i int) []string {
	args := []string{
		"start", "--node-id", strconv.Itoa(i + 1), "--data", filepath.Join(c.data, strconv.Itoa(i+1)), "--store", c.store,
		"--kafka", c.addr(i), "--http", c.addr(devInternal + i), "--log-level", c.logLevel,
	}
	if c.brokers > 1 {
		seeds := c.seeds()
		args = append(args, "--seeds", strings.Join(seeds, ","))
		if i < len(seeds) {
			args = append(args, "--peer", seeds[i], "--peer-client", c.addr(devInternal+2*c.brokers+i))
		}
	}
	for _, s := range c.set {
		args = append(args, "--set", s)
	}
	return args
}

// devBroker is a broker that firn dev runs. Its fields but cmd belong to the
// goroutine of dev.
type devBroker struct {
	ID    int    `json:"id"`
	Kafka string `json:"kafka"`
	HTTP  string `json:"http"`
	PID   int    `json:"pid"`

	args  []string
	cmd   *exec.Cmd
	ended bool
}

// devEvent is something that happened to a broker.
type devEvent struct {
	broker *devBroker
	ready  bool  // it serves clients; else its process has ended
	err    error // of the process
}

func (a *app) dev(c devConfig) (err error) {
	ctx, stopped := a.stopOnSignal()
	defer stopped()
	began := time.Now()
	temporary := c.data == ""
	if temporary {
		if c.data, err = os.MkdirTemp("", "firn-dev-"); err != nil {
			return failf("name a folder with --data DIR", "temporary folder: %w", err)
		}
		defer func() {
			if rerr := os.RemoveAll(c.data); err == nil && rerr != nil {
				err = failf("", "the temporary folder cannot be deleted: %w", rerr)
			}
		}()
	}
	if c.data, err = filepath.Abs(c.data); err != nil {
		return failf("name the folder by its whole path: --data /DIR", "data folder: %w", err)
	}
	if c.store == "" {
		c.store = "file://" + filepath.Join(c.data, "store")
	}
	// A child is told when the thread that started it ends: this one stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	events := make(chan devEvent)
	var all []*devBroker
	for i := range c.brokers {
		b, serr := a.startDev(c, i, events)
		if serr != nil {
			err = errors.Join(serr, a.stopDev(all, events))
			return err
		}
		all = append(all, b)
	}
	err = a.watchDev(ctx, c, all, events, began, temporary)
	return errors.Join(err, a.stopDev(all, events))
}

// startDev starts a broker, and has its lines printed and its events told.
func (a *app) startDev(c devConfig, i int, events chan<- devEvent) (*devBroker, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, failf("", "find this program: %w", err)
	}
	b := &devBroker{ID: i + 1, Kafka: c.addr(i), HTTP: c.addr(devInternal + i), args: c.args(i)}
	b.cmd = exec.Command(exe, append(b.args, "--output", "json")...)
	b.cmd.SysProcAttr = devChild() // Ctrl-C at the terminal is for this process, which stops them in its way
	b.cmd.Env = slices.DeleteFunc(slices.Clone(a.environ), func(kv string) bool { return strings.HasPrefix(kv, "FIRN_") })
	stdout, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, failf("", "broker %d: %w", b.ID, err)
	}
	stderr, err := b.cmd.StderrPipe()
	if err != nil {
		return nil, failf("", "broker %d: %w", b.ID, err)
	}
	if err := b.cmd.Start(); err != nil {
		return nil, failf("", "start broker %d: %w", b.ID, err)
	}
	b.PID = b.cmd.Process.Pid
	go func() {
		var read sync.WaitGroup
		read.Go(func() { a.prefix(b.ID, stderr) })
		var ready struct{ Event string }
		if json.NewDecoder(stdout).Decode(&ready) == nil && ready.Event == "ready" {
			events <- devEvent{broker: b, ready: true}
		}
		_, _ = io.Copy(io.Discard, stdout) // until it is closed
		read.Wait()
		events <- devEvent{broker: b, err: b.cmd.Wait()}
	}()
	return b, nil
}

// prefix prints lines with a broker's number in front.
func (a *app) prefix(id int, r io.Reader) {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if line = strings.TrimSuffix(line, "\n"); line != "" {
			fmt.Fprintf(a.err, "[%d] %s\n", id, line) // one write: lines of several brokers are not mixed
		}
		if err != nil {
			return
		}
	}
}

// watchDev says when all brokers are ready, and which of them end, until ctx
// ends or none is left.
func (a *app) watchDev(ctx context.Context, c devConfig, all []*devBroker, events <-chan devEvent, began time.Time, temporary bool) error {
	ready, left := 0, len(all)
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			if e.ready {
				if ready++; ready == len(all) {
					a.devReady(c, all, time.Since(began), temporary)
				}
				continue
			}
			e.broker.ended = true
			left--
			what := fmt.Sprintf("broker %d ended: %s", e.broker.ID, endText(e.err))
			switch {
			case ready < len(all):
				return failf("its lines above say why; other ports: --port PORT", "%s, before all brokers were ready", what)
			case left == 0:
				return failf("", "%s; it was the last one", what)
			}
			fmt.Fprintf(a.err, "firn: %s; start it again with: firn %s\n", what, strings.Join(e.broker.args, " "))
		}
	}
}

func endText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func (a *app) devReady(c devConfig, all []*devBroker, took time.Duration, temporary bool) {
	var kafka, web []string
	for _, b := range all {
		kafka, web = append(kafka, b.Kafka), append(web, b.HTTP)
	}
	bootstrap := strings.Join(kafka, ",")
	if a.json() {
		_ = a.printJSON(map[string]any{"event": "ready", "bootstrap": bootstrap, "brokers": all, "data": c.data, "temporary": temporary, "store": c.store, "startMs": took.Milliseconds()})
		return
	}
	kept := ""
	if temporary {
		kept = "  (deleted at the end)"
	}
	fmt.Fprintf(a.out, "%s ready (%s)\n\n  Kafka  %s\n  HTTP   %s\n  data   %s%s\n  store  %s\n\n", pluralAre(len(all), "broker"), durationText(took),
		bootstrap, strings.Join(web, " "), c.data, kept, c.store)
	fmt.Fprintf(a.out, "Try it from another terminal:\n\n  export FIRN_BROKERS=%s\n  firn cluster status\n  firn topic create safe --partitions 6 --replicas %d\n  echo hello | firn produce safe\n\nStop with Ctrl-C.\n", bootstrap, min(3, len(all)))
}

func pluralAre(n int, word string) string {
	if n == 1 {
		return "1 " + word + " is"
	}
	return plural(n, word) + " are"
}

// stopDev stops those that still run, all at the same time, and waits for them.
func (a *app) stopDev(all []*devBroker, events <-chan devEvent) error {
	left := 0
	for _, b := range all {
		if !b.ended {
			left++
			_ = b.cmd.Process.Signal(syscall.SIGTERM) // one that has ended says so below
		}
	}
	var errs []error
	late := time.NewTimer(devStop)
	defer late.Stop()
	for left > 0 {
		select {
		case e := <-events:
			if e.ready {
				continue
			}
			left--
			e.broker.ended = true
			if e.err != nil {
				errs = append(errs, failf("", "broker %d ended: %w", e.broker.ID, e.err))
			}
		case <-late.C:
			for _, b := range all {
				if !b.ended {
					fmt.Fprintf(a.err, "firn: broker %d does not stop and is killed\n", b.ID)
					_ = b.cmd.Process.Kill() // likewise
				}
			}
		}
	}
	return errors.Join(errs...)
}
