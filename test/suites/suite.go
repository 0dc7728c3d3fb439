package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/firnlog/firn/test/kafka"
	"github.com/firnlog/firn/test/suites/kfake"
)

// suite is one set of other people's tests and what it needs around it.
type suite struct {
	name  string
	about []string // for the head of its list: what was changed or set, and why
	source
	packages []string
	at       listener
	set      map[string]string // configs of the broker, Kafka's names, for both brokers
	setKafka map[string]string // configs for Kafka alone, of what Firn does not have
	env      []string
	limit    time.Duration // longest that one top-level test may take
	parallel int           // tests at once that ask to run beside others

	// around starts what the tests need beside the broker, and gives them
	// environment variables; stop ends it.
	around func(ctx context.Context, w *world) (env []string, stop func(), err error)
	// script runs a suite that is no Go tests.
	script func(ctx context.Context, w *world) ([]result, error)
}

// world is one run: a suite against a broker.
type world struct {
	suite  *suite
	broker string // kafka or firn
	firn   string
	logs   string
	server *server
}

//go:embed kfake/kfake.go
var kfakeText string

//go:embed kfake/proxy.go
var kfakeProxyText string

var plain = listener{"127.0.0.1:9092", "127.0.0.1:9092"}

func suites() []*suite {
	return []*suite{
		{
			name: "kgo",
			about: []string{
				"franz-go's pkg/kgo, unchanged. KGO_TEST_RF=1, KGO_TEST_RECORDS=20000 (500000 by default: too many for a machine of two cores).",
				"Most tests of this package need no broker and pass anywhere; those that start with TestGroup, TestTxn, TestShare, TestAddRemove, TestPause… do.",
			},
			source:   source{module: "github.com/twmb/franz-go", version: "v1.22.2", sum: "h1:EdwIHGzD/4mgCpl/sNS0C74JYn6cL/r2KYS+8UC96Ww="},
			packages: []string{"pkg/kgo"},
			at:       plain,
			setKafka: map[string]string{"group.share.delivery.count.limit": "10"},
			env:      []string{"KGO_TEST_RF=1", "KGO_TEST_RECORDS=20000", "KGO_SEEDS=127.0.0.1:9092", "KGO_LOG_LEVEL=none", "KGO_TEST_STABLE_FETCH=true"},
			limit:    8 * time.Minute,
			parallel: 2,
		},
		{
			name: "kfake",
			about: []string{
				"franz-go's pkg/kfake/kafka_tests, which were ported from Kafka's own tests. Their code is unchanged; package kfake beneath them is ours",
				"(test/suites/kfake): a Cluster is a proxy before the real broker. Tests that ask for several brokers are skipped.",
			},
			source: source{
				module: "github.com/twmb/franz-go/pkg/kfake", version: "v0.0.0-20260918054303-01f206a7e32c", sum: "h1:+VhoCwJ6sXP2wjfeoVlPkj68NQ4rzdcqH6pXlr+FY5E=",
				keep: "kafka_tests", files: map[string]string{"kfake.go": kfakeText, "proxy.go": kfakeProxyText},
				// The module's go.mod names a kgo that lacks what its tests call.
				require: []string{"github.com/twmb/franz-go@v1.22.2", "github.com/twmb/franz-go/pkg/kadm@v1.19.0", "github.com/twmb/franz-go/pkg/kmsg@v1.15.0"},
			},
			packages: []string{"kafka_tests"},
			at:       plain,
			limit:    90 * time.Second,
			parallel: 2,
			around:   otherBrokers,
		},
		{
			name: "sarama",
			about: []string{
				"sarama's functional_*_test.go. They expect five brokers behind toxiproxy: here its five proxies lead to one broker, whose advertised",
				"address is the first of them, and the replication factor 3 of their topics is 1. Tests that need Docker are skipped by themselves.",
			},
			source: source{
				module: "github.com/IBM/sarama", version: "v1.61.1", sum: "h1:I59MWPHQUWqJNdRpsDUcbeCriog8SxjQaPfHNWxidEg=", tags: "functional",
				edits: []edit{{"functional_test.go", "ReplicationFactor: 3,", "ReplicationFactor: 1,", 5}},
			},
			packages: []string{"."},
			at:       listener{"127.0.0.1:19092", "127.0.0.1:29091"},
			set:      map[string]string{"auto.create.topics.enable": "false"},
			env:      []string{"TOXIPROXY_ADDR=http://127.0.0.1:8474", "KAFKA_VERSION=" + kafka.Version},
			limit:    4 * time.Minute,
			parallel: 1,
			around:   toxiproxy,
		},
		{
			name:     "kafka-go",
			about:    []string{"segmentio/kafka-go, unchanged; its tests have localhost:9092 fixed and run in a network namespace. Package sasl needs a SASL listener."},
			source:   source{module: "github.com/segmentio/kafka-go", version: "v0.4.51", sum: "h1:JgDPPG75tC1rWIS2Me6MwcvXJ6f49UQ4HjAOef71Hno="},
			packages: []string{".", "topics", "compress", "sasl"},
			at:       listener{"localhost:9092", "localhost:9092"},
			env:      []string{"KAFKA_VERSION=" + kafka.Version, "KAFKA_SKIP_NETTEST=1"},
			// As where these tests come from: several of them count on members that
			// come within the delay.
			set:      map[string]string{"message.max.bytes": "200000000", "group.initial.rebalance.delay.ms": "3000"},
			limit:    2 * time.Minute,
			parallel: 2,
		},
		{
			name:   "tools",
			about:  []string{"Kafka's own command-line tools by tools.txt: each command's exit code, what it must print, and, of Firn, that it prints what it prints of Kafka."},
			source: source{version: kafka.Version},
			at:     plain,
			limit:  3 * time.Minute, // a command; most take 2 s
			script: runTools,
		},
	}
}

func suiteNames() []string {
	var names []string
	for _, s := range suites() {
		names = append(names, s.name)
	}
	return names
}

func suiteNamed(name string) (*suite, error) {
	for _, s := range suites() {
		if s.name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("there is no suite %q; there are %s", name, strings.Join(suiteNames(), ", "))
}

func (s *suite) version() string { return s.source.version }

// head is the comment above a suite's list.
func (s *suite) head() []string {
	first := "Apache Kafka's tools " + s.source.version
	if s.module != "" {
		first = s.module + " " + s.source.version + ", package " + strings.Join(s.packages, ", ")
	}
	return append([]string{first + "; written by `make test-clients`"}, s.about...)
}

// prepare downloads and builds, outside of the namespace.
func (s *suite) prepare(ctx context.Context) error {
	if _, err := kafka.ClassPath(ctx); err != nil {
		return err
	}
	if s.name == "sarama" {
		if _, err := toolPath(ctx, "toxiproxy"); err != nil {
			return err
		}
	}
	if s.module == "" {
		return nil
	}
	_, err := s.build(ctx, s.name, s.packages)
	return err
}

// run starts the broker and what else is needed and runs the suite; it is
// called inside the namespace.
func (s *suite) run(ctx context.Context, broker string, o options) ([]result, error) {
	w := &world{suite: s, broker: broker, firn: o.firn, logs: o.logs}
	var err error
	if w.server, err = startServer(ctx, broker, o.firn, s.at, s.configs(broker), o.logs); err != nil {
		return nil, err
	}
	defer w.server.stop()
	env := s.env
	if s.around != nil {
		more, stop, err := s.around(ctx, w)
		if err != nil {
			return nil, err
		}
		defer stop()
		env = append(env, more...)
	}
	if s.script != nil {
		return s.script(ctx, w)
	}
	bins, err := s.build(ctx, s.name, s.packages) // found built
	if err != nil {
		return nil, err
	}
	return goSuite(ctx, s, bins, env, o)
}

// configs are what a broker is started with. No group waits for company,
// unless the suite says so.
func (s *suite) configs(broker string) map[string]string {
	set := map[string]string{"group.initial.rebalance.delay.ms": "0"}
	maps.Copy(set, s.set)
	if broker == "kafka" {
		maps.Copy(set, s.setKafka)
	}
	return set
}

// otherBrokers starts a second broker, for the tests of package kfake that
// want small groups, and names both.
func otherBrokers(ctx context.Context, w *world) ([]string, func(), error) {
	small := map[string]string{"group.max.size": "1"}
	key, err := json.Marshal(small)
	if err != nil {
		return nil, nil, err
	}
	maps.Copy(small, w.suite.configs(w.broker))
	if w.broker == "kafka" {
		small["group.consumer.max.size"] = "1" // what the original takes group.max.size for in KIP-848 groups
	}
	s, err := startServer(ctx, w.broker, w.firn, listener{"127.0.0.1:9192", "127.0.0.1:9192"}, small, w.logs)
	if err != nil {
		return nil, nil, err
	}
	names, err := json.Marshal(map[string]string{"{}": w.server.addr, string(key): s.addr})
	if err != nil {
		s.stop()
		return nil, nil, err
	}
	return []string{kfake.BrokersEnv + "=" + string(names)}, s.stop, nil
}

// toolPath builds a program of tools/ and gives its path.
func toolPath(ctx context.Context, name string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(root(), "tools", "build"), name)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// toxiproxy runs the proxies that sarama's tests steer: five names, one broker.
func toxiproxy(ctx context.Context, w *world) ([]string, func(), error) {
	bin, err := toolPath(ctx, "toxiproxy")
	if err != nil {
		return nil, nil, err
	}
	type entry struct {
		Name     string `json:"name"`
		Listen   string `json:"listen"`
		Upstream string `json:"upstream"`
		Enabled  bool   `json:"enabled"`
	}
	var entries []entry
	for i := 1; i <= 5; i++ {
		entries = append(entries, entry{fmt.Sprintf("kafka%d", i), fmt.Sprintf("127.0.0.1:%d", 29090+i), w.suite.at.listen, true})
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return nil, nil, err
	}
	conf := filepath.Join(w.logs, "toxiproxy.json")
	if err := os.WriteFile(conf, text, 0o644); err != nil {
		return nil, nil, err
	}
	log, err := os.Create(filepath.Join(w.logs, "toxiproxy.log"))
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(bin, "-config", conf, "-host", "127.0.0.1", "-port", "8474")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		log.Close()
	}
	if err := awaitDial(ctx, "127.0.0.1:8474", "127.0.0.1:29095"); err != nil {
		stop()
		return nil, nil, err
	}
	return nil, stop, nil
}
