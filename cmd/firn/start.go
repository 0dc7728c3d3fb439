package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/broker"
	"github.com/firnlog/firn/broker/config"
)

// stopTimeout bounds a clean stop; what is not done by then is left to the
// recovery of the next start.
const stopTimeout = 30 * time.Second

func (a *app) startCommand() *cobra.Command {
	var s *settingFlags
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Start a broker",
		Long: `Start a broker and run it until it is stopped. Without any flag it keeps its data below
./firn-data and is reached by Kafka clients at 127.0.0.1:9092.

Each setting is a flag, a FIRN_* variable and a key of the YAML file that --config names, as
in --cache-bytes, FIRN_CACHE_BYTES and cache-bytes. A flag wins over a variable, a variable
over the file. "firn config print" shows what is in effect.

Broker configs have Kafka's names and are given with --set, as in
--set num.partitions=6 --set auto.create.topics.enable=false. Many of them can also be changed
while the broker runs, with Kafka's own tools.

SIGTERM or Ctrl-C stops it cleanly: clients are answered, files are synced, leases are given
back, and the exit code is 0. A second one ends it at once; nothing acknowledged is lost then
either, but the next start has to look through the log.`,
		Example: `  firn start
  firn start --data /var/lib/firn --kafka 0.0.0.0:9092 --advertise broker-1.example.net:9092
  firn start --store 's3://my-logs/firn?region=eu-central-1'
  firn start --node-id 2 --seeds a.example.net:2380,b.example.net:2380,c.example.net:2380 \
      --peer b.example.net:2380 --store 's3://my-logs/firn?region=eu-central-1'
  firn start --set num.partitions=6 --set log.retention.hours=72
  firn start --config /etc/firn.yaml`,
		Args: args(cobra.NoArgs, "no arguments, only flags"),
		RunE: func(*cobra.Command, []string) error {
			l, err := a.load(s)
			if err != nil {
				return err
			}
			return a.start(l)
		},
	}
	s = addSettingFlags(cmd.Flags())
	cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) start(l *config.Loaded) error {
	began := time.Now()
	s := l.Settings
	ctx, stopped := a.stopOnSignal()
	defer stopped()
	release, err := lockFolder(s.Data, s.Kafka)
	if err != nil {
		return err
	}
	defer release()
	if s.Data, err = filepath.Abs(s.Data); err != nil { // what the broker says of it holds for every working folder
		return failf("name the folder by its whole path: --data /DIR", "data folder: %w", err)
	}
	log, level := a.logger(s)
	store, err := openStore(ctx, s.Store)
	if err != nil {
		return &failure{err: fmt.Errorf("object store %s: %w", config.Redact(s.Store), err), hint: "check --store, and the credentials where its provider looks for them", code: exitFailed}
	}
	b, err := broker.Open(ctx, brokerConfig(s), broker.Deps{Log: log, Store: store, StoreURL: config.Redact(s.Store), LogLevel: level})
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped while it was starting
		}
		return startError(err)
	}
	serving := make(chan error, 1)
	go func() { serving <- b.Serve(ctx) }()
	a.banner(s, b, time.Since(began))
	err = <-serving
	if err != nil {
		log.Error("the broker cannot go on and stops", "error", err)
	} else {
		log.Info("stopping")
	}
	cctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err = errors.Join(err, b.Close(cctx)); err != nil {
		return failf("", "%w", err)
	}
	log.Info("stopped cleanly")
	return nil
}

// stopOnSignal gives a context that SIGTERM or SIGINT ends. A second signal
// ends the process.
func (a *app) stopOnSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		fmt.Fprintln(a.err, "firn: stopped by force; the next start checks the log")
		os.Exit(exitForced)
	}()
	return ctx, cancel
}

// logger gives the broker's log and what its level can be changed with.
func (a *app) logger(s config.Settings) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil {
		panic(err) // config lets only levels pass
	}
	opts := &slog.HandlerOptions{Level: level}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(a.err, opts)), level
	}
	return slog.New(slog.NewTextHandler(a.err, opts)), level
}

func brokerConfig(s config.Settings) broker.Config {
	uploadWait := s.UploadWait
	if uploadWait == 0 {
		uploadWait = -1 // 0 would be tiering's default
	}
	return broker.Config{
		NodeID:      s.NodeID,
		DataDir:     s.Data,
		Kafka:       s.Kafka,
		Advertise:   s.Advertise,
		HTTP:        s.HTTP,
		Rack:        s.Rack,
		Deployment:  s.Deployment,
		Seeds:       s.Seeds,
		Peer:        s.Peer,
		PeerClient:  s.PeerClient,
		Configs:     s.Set,
		CacheBytes:  s.CacheBytes,
		CacheMemory: s.CacheMemory,
		UploadCheck: s.UploadCheck,
		UploadWait:  uploadWait,
	}
}

// startError adds what to do to an error of broker.Open.
func startError(err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "something else listens there, perhaps another firn or a Kafka; see with: ss -ltnp"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = "that is not an address of this machine"
	case errors.Is(err, syscall.EACCES):
		hint = "this user is not allowed to; ports below 1024 need a privilege"
	case errors.Is(err, syscall.ENOSPC):
		hint = "the disk is full"
	}
	return failf(hint, "%w", err)
}

// banner says that the broker is ready, and what next.
func (a *app) banner(s config.Settings, b *broker.Broker, took time.Duration) {
	kafka, httpAddr := b.KafkaAddr().String(), b.HTTPAddr().String()
	advertised := s.Advertise
	if advertised == "" {
		advertised = kafka
	}
	if a.json() {
		_ = a.printJSON(map[string]any{
			"event": "ready", "version": version, "kafka": kafka, "advertise": advertised, "http": httpAddr,
			"data": s.Data, "store": config.Redact(s.Store), "clusterId": b.ClusterID(), "nodeId": s.NodeID, "startMs": took.Milliseconds(),
		})
		return
	}
	fmt.Fprintf(a.out, "firn %s is ready (%s)\n\n", version, durationText(took))
	fmt.Fprintf(a.out, "  Kafka  %s", kafka)
	if advertised != kafka {
		fmt.Fprintf(a.out, "  (clients are told %s)", advertised)
	}
	fmt.Fprintf(a.out, "\n  HTTP   http://%s  (/healthz /readyz /metrics)\n  data   %s\n  store  %s\n\n", httpAddr, s.Data, config.Redact(s.Store))
	at := ""
	if addr := local(kafka); addr != defaultBrokers {
		at = " -b " + addr
	}
	fmt.Fprintf(a.out, "Try it from another terminal:\n\n  echo hello | firn produce%s greetings\n  firn consume%s greetings\n\nStop with Ctrl-C.\n", at, at)
}

// local turns an address that is listened on into one to connect to from this
// machine.
func local(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && net.ParseIP(host).IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}
