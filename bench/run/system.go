package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/firnlog/firn/bench/blast"
	"github.com/firnlog/firn/test/kafka"
)

// system is what a workload names: a server, and how its topics are made.
type system struct {
	name   string
	server string
	topic  map[string]string // configs
	about  string
}

var systems = []system{
	{"ideal", "ideal", nil, "the bare server: one write, no sync; fetch by sendfile"},
	{"ideal-copy", "ideal-copy", nil, "the bare server: fetch by copying"},
	{"ideal-synced", "ideal", map[string]string{"flush.messages": "1"}, "the bare server: one write to a shared file, one sync for a group"},
	{"firn", "firn", map[string]string{"firn.ack.policy": "replicated"}, "Firn, this checkout: acknowledged from the page cache"},
	{"firn-synced", "firn", map[string]string{"firn.ack.policy": "fsync"}, "Firn, this checkout: acknowledged from the disk, by the journal"},
	{"firn-3", "firn-3", clustered("firn.ack.policy", "replicated"), "three brokers of Firn, each partition on all of them: acknowledged from the page caches of two or more"},
	{"firn-3-synced", "firn-3", clustered("firn.ack.policy", "fsync"), "three brokers of Firn, each partition on all of them: acknowledged from the disks of two or more"},
	{"kafka-3", "kafka-3", clustered(), "three brokers of Apache Kafka, each partition on all of them: acknowledged from the page caches of two or more"},
	{"kafka", "kafka", nil, "Apache Kafka, its defaults: acknowledged from the page cache"},
	{"kafka-synced", "kafka", map[string]string{"flush.messages": "1"}, "Apache Kafka, flush.messages=1: a sync for each batch"},
	{"nats", "nats", nil, "NATS JetStream, its defaults, by its own protocol and client: a batch is one message, a partition a stream"},
	{"nats-synced", "nats-synced", nil, "NATS JetStream, sync_interval: always: a sync for each message"},
	{"nisshi", "nisshi", nil, "Nisshi, its data in memory"},
	{"nisshi-sqlite", "nisshi-sqlite", nil, "Nisshi, its data in SQLite"},
}

// clustered are the configs of a topic of three replicas, and others.
func clustered(others ...string) map[string]string {
	configs := map[string]string{"min.insync.replicas": "2"}
	for i := 0; i < len(others); i += 2 {
		configs[others[i]] = others[i+1]
	}
	return configs
}

func findSystem(name string) *system {
	if i := slices.IndexFunc(systems, func(s system) bool { return s.name == name }); i >= 0 {
		return &systems[i]
	}
	return nil
}

// server is a program that the runner can start, on one address for the whole
// run, in any folder.
type server interface {
	addr() string
	// ping gives an error until the program serves clients.
	ping(ctx context.Context) error
	// create makes a topic.
	create(ctx context.Context, t blast.Topic, configs map[string]string) error
	// produce does what blast.Produce does.
	produce(ctx context.Context, job blast.Produce) (*blast.Result, error)
	// command gives the program's arguments for a folder, which it prepares
	// when nothing is in it.
	command(dir string) ([]string, error)
	// others are the rest of its cluster, none for a broker alone.
	others() []server
	facts() []Fact
	// profile is the address of net/http/pprof's CPU profiles, or empty.
	profile() string
}

// errNotHere says that this machine lacks what a server is built with.
var errNotHere = errors.New("cannot be had on this machine")

// newServer makes a server ready to be started: built, or downloaded. work is
// a folder for what it needs. errNotHere: the others can be measured without.
func newServer(ctx context.Context, name, work string) (server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	switch name {
	case "firn", "firn-3":
		bin, err := build(ctx, work, "firn", "./cmd/firn")
		if err != nil {
			return nil, err
		}
		if name == "firn-3" {
			return newFirnCluster(bin)
		}
		http, err := freeAddr()
		return &firnServer{kafkaAPI: kafkaAPI(addr), bin: bin, http: http}, err
	case "ideal", "ideal-copy":
		bin, err := build(ctx, work, "ideal", "./bench/ideal")
		args := []string{"-kafka", addr}
		if name == "ideal-copy" {
			args = append(args, "-copy")
		}
		return &idealServer{kafkaAPI(addr), bin, args}, err
	case "kafka":
		return newKafka(ctx, work, addr)
	case "kafka-3":
		return newKafkaCluster(ctx, work)
	case "nisshi":
		return newNisshi(ctx, addr, "memory://nisshi/")
	case "nisshi-sqlite":
		return newNisshi(ctx, addr, "sqlite://nisshi.db")
	case "nats", "nats-synced":
		return newNATS(addr, name == "nats-synced")
	default:
		return nil, fmt.Errorf("no server is called %q", name)
	}
}

// build compiles a program of the checkout as `make build` does.
func build(ctx context.Context, work, name, pkg string) (string, error) {
	bin := filepath.Join(work, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return bin, nil
}

// kafkaAPI is the address of a server that speaks Kafka's protocol.
type kafkaAPI string

func (a kafkaAPI) addr() string { return string(a) }

func (a kafkaAPI) ping(ctx context.Context) error { return blast.Ping(ctx, string(a), 1) }

func (a kafkaAPI) create(ctx context.Context, t blast.Topic, configs map[string]string) error {
	return t.Create(ctx, configs)
}

func (a kafkaAPI) produce(ctx context.Context, job blast.Produce) (*blast.Result, error) {
	return job.Run(ctx)
}

func (a kafkaAPI) others() []server { return nil }

type firnServer struct {
	kafkaAPI
	bin, http string
}

func (f *firnServer) profile() string { return "http://" + f.http + "/debug/pprof/profile" }

func (f *firnServer) command(dir string) ([]string, error) {
	return []string{f.bin, "start", "--data", filepath.Join(dir, "data"), "--kafka", f.addr(), "--http", f.http, "--log-level", "warn"}, nil
}

func (f *firnServer) facts() []Fact {
	return []Fact{{"Firn", output("git", "describe", "--always", "--dirty") + ", " + output("git", "log", "-1", "--format=%cs %s")}, {"Firn's command", "firn start --data DIR --kafka ADDR --http ADDR --log-level warn"}}
}

type idealServer struct {
	kafkaAPI
	bin  string
	args []string
}

func (i *idealServer) command(dir string) ([]string, error) {
	return append([]string{i.bin, "-data", filepath.Join(dir, "data")}, i.args...), nil
}

func (i *idealServer) facts() []Fact { return nil }

func (i *idealServer) profile() string { return "" }

// kafkaServer is Apache Kafka as one node, broker and controller in one.
type kafkaServer struct {
	kafkaAPI
	controller string
	java       []string
	work       string
	formatted  bool
}

const kafkaClusterID = "MkU3OEVBNTcwNTJENDM2Qg"

var kafkaFlags = []string{"-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35"}

func newKafka(ctx context.Context, work, addr string) (*kafkaServer, error) {
	cp, err := kafka.ClassPath(ctx)
	if err != nil {
		return nil, err
	}
	controller, err := freeAddr()
	if err != nil {
		return nil, err
	}
	k := &kafkaServer{kafkaAPI: kafkaAPI(addr), controller: controller, work: work}
	log := filepath.Join(work, "log4j2.yaml")
	k.java = append([]string{"java"}, append(slices.Clone(kafkaFlags), "-Dlog4j2.configurationFile="+log, "-cp", cp)...)
	return k, os.WriteFile(log, []byte(log4j), 0o644)
}

// log4j has Kafka print warnings; without a configuration nothing is.
const log4j = `Configuration:
  Appenders:
    Console:
      name: out
      PatternLayout: {pattern: "%d %p %m (%c)%n"}
  Loggers:
    Root: {level: WARN, AppenderRef: {ref: out}}
`

func (k *kafkaServer) profile() string { return "" }

// properties of a single node; all that is not about being one is Kafka's
// default.
func (k *kafkaServer) properties(dir string) []string {
	return []string{
		"process.roles=broker,controller",
		"node.id=1",
		"controller.quorum.bootstrap.servers=" + k.controller,
		"listeners=PLAINTEXT://" + k.addr() + ",CONTROLLER://" + k.controller,
		"advertised.listeners=PLAINTEXT://" + k.addr(),
		"controller.listener.names=CONTROLLER",
		"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
		"inter.broker.listener.name=PLAINTEXT",
		"log.dirs=" + dir,
		"offsets.topic.replication.factor=1",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"share.coordinator.state.topic.replication.factor=1",
		"share.coordinator.state.topic.min.isr=1",
		"group.initial.rebalance.delay.ms=0",
	}
}

// format makes the folder that a properties file names.
func (k *kafkaServer) format(conf string, more ...string) error {
	args := append(slices.Clone(k.java[1:]), "kafka.tools.StorageTool", "format", "-t", kafkaClusterID, "-c", conf)
	if out, err := exec.Command(k.java[0], append(args, more...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("format Kafka's folder: %w\n%s", err, out)
	}
	return nil
}

func (k *kafkaServer) command(dir string) ([]string, error) {
	data, conf := filepath.Join(dir, "data"), filepath.Join(dir, "server.properties")
	if _, err := os.Stat(conf); err == nil {
		return append(slices.Clone(k.java), "kafka.Kafka", conf), nil
	}
	// A folder is formatted once; each that follows is a copy.
	template := filepath.Join(k.work, "formatted")
	if !k.formatted {
		conf := filepath.Join(k.work, "format.properties")
		if err := os.WriteFile(conf, []byte(strings.Join(k.properties(template), "\n")), 0o644); err != nil {
			return nil, err
		}
		if err := k.format(conf, "--standalone"); err != nil {
			return nil, err
		}
		k.formatted = true
	}
	if err := os.CopyFS(data, os.DirFS(template)); err != nil {
		return nil, err
	}
	return append(slices.Clone(k.java), "kafka.Kafka", conf), os.WriteFile(conf, []byte(strings.Join(k.properties(data), "\n")), 0o644)
}

func (k *kafkaServer) facts() []Fact {
	java, err := exec.Command("java", "-version").CombinedOutput()
	if err != nil {
		java = []byte(err.Error())
	}
	first, _, _ := bytes.Cut(java, []byte("\n"))
	return []Fact{
		{"Apache Kafka", kafka.Version + ", " + string(first)},
		{"Kafka's command", "java " + strings.Join(kafkaFlags, " ") + " kafka.Kafka server.properties"},
		{"Kafka's server.properties", strings.Join(k.properties("DIR"), " ")},
	}
}

// output is what a program prints on one line, or why it does not.
func output(name string, args ...string) string {
	b, err := exec.Command(name, args...).Output()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}
