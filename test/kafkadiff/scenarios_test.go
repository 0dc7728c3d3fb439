package kafkadiff_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/test/firntest"
	"github.com/firnlog/firn/test/kafka"
	"github.com/firnlog/firn/test/kafkadiff"
)

var (
	record = flag.Bool("record", false, "TestRecord writes Apache Kafka's answers beside the scenarios")
	only   = flag.String("only", "", "of TestRecord: the scenarios whose name begins so, or so; separated by commas")
)

const folder = "scenarios"

func load(t *testing.T) []*kafkadiff.Scenario {
	t.Helper()
	all, err := kafkadiff.Load(folder)
	if err != nil {
		t.Error(err)
	}
	return all
}

func recordingFile(s *kafkadiff.Scenario) string {
	return filepath.Join(folder, filepath.FromSlash(s.Name)+".kafka")
}

// settings turns NAME=VALUE pairs into firn's flags, and has Firn acknowledge
// as Kafka does, so that what was sent with acks=0 or 1 can be fetched by the
// next request.
func settings(pairs []string) []string {
	args := []string{"--set", "firn.ack.policy=replicated"}
	for _, p := range pairs {
		args = append(args, "--set", p)
	}
	return args
}

// shared is a broker that several scenarios speak to: started by the first,
// ended by the last.
type shared struct {
	once sync.Once
	addr string
	err  error
	stop func()

	mu   sync.Mutex
	left int
}

func (b *shared) done() {
	b.mu.Lock()
	b.left--
	last := b.left == 0
	b.mu.Unlock()
	if last && b.stop != nil {
		b.stop()
	}
}

// TestScenarios runs every scenario against a real firn and compares with what
// Kafka answered. One of them: -run 'TestScenarios/^groups$/^join$'.
func TestScenarios(t *testing.T) {
	all, parent := load(t), t
	bound := make(chan struct{}, 16)
	brokers := map[string]*shared{}
	for _, s := range all {
		if s.Fresh {
			continue
		}
		if brokers[s.BrokerKey()] == nil {
			brokers[s.BrokerKey()] = &shared{}
		}
		brokers[s.BrokerKey()].left++
	}
	areas := map[string][]*kafkadiff.Scenario{}
	for _, s := range all {
		area, _, _ := strings.Cut(s.Name, "/")
		areas[area] = append(areas[area], s)
	}
	for area, scenarios := range areas {
		t.Run(area, func(t *testing.T) {
			t.Parallel()
			for _, s := range scenarios {
				t.Run(strings.TrimPrefix(s.Name, area+"/"), func(t *testing.T) {
					t.Parallel()
					bound <- struct{}{}
					defer func() { <-bound }()
					compare(t, parent, s, brokers[s.BrokerKey()])
				})
			}
		})
	}
	steps := 0
	for _, s := range all {
		steps += len(s.Uses())
	}
	t.Logf("%d scenarios, %d steps", len(all), steps)
}

// compare runs one scenario against firn: broker, unless it wants a fresh one.
func compare(t, parent *testing.T, s *kafkadiff.Scenario, broker *shared) {
	text, err := os.ReadFile(recordingFile(s))
	if err != nil {
		t.Fatalf("there is no recording: run make record-kafka ONLY=%s (%v)", s.Name, err)
	}
	recorded, err := kafkadiff.ParseRecording(string(text))
	if err != nil {
		t.Fatalf("%s: %v", recordingFile(s), err)
	}
	var addr string
	if s.Fresh {
		b := firntest.Start(t, settings(s.Broker)...)
		if err := kafkadiff.Prime(b.Kafka); err != nil {
			t.Fatal(err)
		}
		addr = b.Kafka
	} else {
		broker.once.Do(func() { broker.start(parent, s.Broker) })
		defer broker.done()
		if broker.err != nil || broker.addr == "" {
			t.Fatalf("the broker for all of them: %v", broker.err)
		}
		addr = broker.addr
	}
	begun := time.Now()
	got, err := kafkadiff.Run(addr, s)
	problems := s.Compare(recorded, got)
	if err != nil {
		problems = append(problems, err.Error())
	}
	if took := time.Since(begun); took > time.Minute {
		problems = append(problems, fmt.Sprintf("it took %v: a scenario ends within a minute", took))
	}
	if len(problems) > 0 {
		t.Errorf("%s\n%s", s.About, strings.Join(problems, "\n"))
	}
}

// start runs the broker, ended at the latest with parent, the test of all.
func (b *shared) start(parent *testing.T, pairs []string) {
	var wg sync.WaitGroup
	wg.Go(func() {
		broker := firntest.Start(outside{parent}, settings(pairs)...)
		b.addr, b.stop = broker.Kafka, broker.Kill
		b.err = kafkadiff.Prime(b.addr)
	})
	wg.Wait()
}

// outside is a test as seen from a goroutine that is not its own: what is
// fatal ends that goroutine.
type outside struct{ testing.TB }

func (o outside) Fatal(args ...any) {
	o.Error(args...)
	runtime.Goexit()
}

func (o outside) Fatalf(format string, args ...any) {
	o.Errorf(format, args...)
	runtime.Goexit()
}

// TestRecord asks Apache Kafka. Each scenario runs twice, on different brokers
// where it wants one of its own: answers that are not the same twice cannot be
// compared with, and fail.
func TestRecord(t *testing.T) {
	if !*record {
		t.Skip("-record is not given: make record-kafka does")
	}
	type group struct {
		props     map[string]string
		scenarios []*kafkadiff.Scenario
	}
	var groups []*group
	byKey := map[string]*group{}
	count := 0
	for _, s := range load(t) {
		if !slices.ContainsFunc(strings.Split(*only, ","), func(begin string) bool { return strings.HasPrefix(s.Name, begin) }) {
			continue
		}
		count++
		g := byKey[s.BrokerKey()]
		if g == nil || s.Fresh {
			g = &group{props: map[string]string{}}
			for _, p := range slices.Concat(s.Broker, s.Kafka) {
				k, v, _ := strings.Cut(p, "=")
				g.props[k] = v
			}
			groups = append(groups, g)
			if !s.Fresh {
				byKey[s.BrokerKey()] = g
			}
		}
		g.scenarios = append(g.scenarios, s)
	}
	for _, g := range groups {
		first := recordAll(t, g.props, g.scenarios)
		second := recordAll(t, g.props, g.scenarios)
		for i, s := range g.scenarios {
			if first[i] == nil || second[i] == nil {
				continue
			}
			a, b := kafkadiff.FormatRecording(first[i]), kafkadiff.FormatRecording(second[i])
			if a != b {
				t.Errorf("%s: Kafka's answers are not the same twice:\n%s", s.Name, strings.Join(s.CompareTwice(first[i], second[i]), "\n"))
				continue
			}
			if err := os.WriteFile(recordingFile(s), []byte(a), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d scenarios recorded on %d brokers", count, len(groups))
}

func recordAll(t *testing.T, props map[string]string, scenarios []*kafkadiff.Scenario) [][]kafkadiff.Answer {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, err := kafka.Start(ctx, props)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Stop()
	if err := kafkadiff.Prime(b.Addr); err != nil {
		t.Fatal(err)
	}
	answers := make([][]kafkadiff.Answer, len(scenarios))
	var wg sync.WaitGroup
	bound := make(chan struct{}, 4*runtime.NumCPU())
	for i, s := range scenarios {
		wg.Go(func() {
			bound <- struct{}{}
			defer func() { <-bound }()
			var err error
			if answers[i], err = kafkadiff.Run(b.Addr, s); err != nil {
				t.Errorf("%s against Kafka: %v\n%s", s.Name, err, kafkadiff.FormatRecording(answers[i]))
				answers[i] = nil
			}
		})
	}
	wg.Wait()
	return answers
}
