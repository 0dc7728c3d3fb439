package broker

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objectstore/file"
	"github.com/firnlog/firn/record"
)

// lines is a log that a test can read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// openBroker opens and serves a broker on dir; stop ends it cleanly.
func openBroker(t *testing.T, dir string, static map[string]string) (b *Broker, log *lines, stop func()) {
	t.Helper()
	store, err := file.Open(t.Context(), file.Config{Dir: filepath.Join(dir, "objects")})
	if err != nil {
		t.Fatal(err)
	}
	log = &lines{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err = Open(ctx, Config{
		NodeID: 3, DataDir: dir, Kafka: "127.0.0.1:0", HTTP: "127.0.0.1:0", Configs: static,
		CacheBytes: 16 << 20, UploadCheck: time.Hour, UploadWait: -1,
	}, Deps{Log: slog.New(slog.NewTextHandler(log, nil)), Store: store})
	if err != nil {
		t.Fatal(err)
	}
	serving, end := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- b.Serve(serving) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			end()
			if err := <-served; err != nil {
				t.Error(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := b.Close(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return b, log, stop
}

// setConfigs stores broker configs past the API and waits until they hold.
func setConfigs(t *testing.T, b *Broker, name string, set map[string]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rev, err := b.meta.SetConfigs(ctx, metastore.ConfigResource{Type: metastore.BrokerConfigs, Name: name}, func(map[string]string) (map[string]string, error) { return set, nil })
	if err == nil {
		err = b.topics.AwaitApplied(ctx, rev)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestConfigsHoldLive: what is set at run time reaches open partitions and the
// listener at once, and is there after a restart.
func TestConfigsHoldLive(t *testing.T) {
	dir := t.TempDir()
	b, _, stop := openBroker(t, dir, map[string]string{"message.max.bytes": "5000", "num.partitions": "2"})
	ctx := t.Context()
	results, rev, err := b.meta.CreateTopics(ctx, []metastore.TopicSpec{{Name: "plain", Assignment: [][]record.BrokerID{{3}}}, {Name: "own", Assignment: [][]record.BrokerID{{3}}, Configs: map[string]string{"max.message.bytes": "77"}}})
	if err != nil || results[0].Err != nil || results[1].Err != nil {
		t.Fatal(err, results)
	}
	if err := b.topics.AwaitApplied(ctx, rev); err != nil {
		t.Fatal(err)
	}
	check := func(what string, b *Broker, plain int) {
		t.Helper()
		for topic, want := range map[string]int{"plain": plain, "own": 77} {
			if got := b.topics.Get(topic, 0).Config().MaxMessageBytes; got != want {
				t.Errorf("%s: topic %s takes batches of %d bytes, want %d", what, topic, got, want)
			}
		}
		if v := b.configs.values(); v.Topics.Partitions != 2 {
			t.Errorf("%s: num.partitions is %d", what, v.Topics.Partitions)
		}
	}
	check("at the start", b, 5000)
	setConfigs(t, b, "", map[string]string{"message.max.bytes": "6000", "max.connections.per.ip": "1"})
	check("set for all", b, 6000)
	setConfigs(t, b, "3", map[string]string{"message.max.bytes": "7000"})
	setConfigs(t, b, "4", map[string]string{"message.max.bytes": "8000"})
	check("set for this broker", b, 7000)
	oneConnection(t, b)
	stop()

	b, _, _ = openBroker(t, dir, map[string]string{"message.max.bytes": "5000", "num.partitions": "2"})
	check("after a restart", b, 7000)
	oneConnection(t, b)
	setConfigs(t, b, "3", nil)
	check("deleted for this broker", b, 6000)
	setConfigs(t, b, "", nil)
	check("deleted for all", b, 5000)
}

// TestWireConfig: each limit of the listener has its config, and what means
// "none" or "no limit" keeps that meaning.
func TestWireConfig(t *testing.T) {
	of := func(given map[string]string) wire.Config {
		v, err := brokerconfig.Resolve(given, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return wireConfig(v)
	}
	got := of(map[string]string{
		"socket.request.max.bytes": "70000", "max.connections": "2", "max.connections.per.ip": "3", "max.connections.per.ip.overrides": "10.0.0.1:4",
		"max.connection.creation.rate": "5", "queued.max.request.bytes": "80000", "socket.send.buffer.bytes": "6000", "connections.max.idle.ms": "7",
	})
	want := wire.Config{
		MaxFrameBytes: 70000, MaxConnections: 2, MaxConnectionsPerIP: 3, MaxConnectionsOf: map[netip.Addr]int{netip.MustParseAddr("10.0.0.1"): 4},
		MaxConnectionRate: 5, MaxInflightBytes: 80000, SendBuffer: 6000, IdleTimeout: 7 * time.Millisecond,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := of(map[string]string{"max.connections.per.ip": "0", "max.connections.per.ip.overrides": "10.0.0.1:4", "queued.max.request.bytes": "-1"}); got.MaxConnectionsPerIP != -1 || got.MaxInflightBytes != -1 {
		t.Errorf("none and no limit: %+v", got)
	}
}

// oneConnection checks that a second connection from one address is closed.
func oneConnection(t *testing.T, b *Broker) {
	t.Helper()
	first, err := net.Dial("tcp", b.KafkaAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := net.Dial("tcp", b.KafkaAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	second.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := second.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("a second connection from one address is not closed: %d, %v", n, err)
	}
}

// TestConfigsOfAnotherVersion: a broker whose stored configs are not valid any
// more starts, says which, and obeys the rest.
func TestConfigsOfAnotherVersion(t *testing.T) {
	dir := t.TempDir()
	b, _, stop := openBroker(t, dir, nil)
	setConfigs(t, b, "", map[string]string{"of.another.version": "x", "max.connections": "-3", "message.max.bytes": "9000"})
	stop()
	b, log, _ := openBroker(t, dir, nil)
	v := b.configs.values()
	if v.Network.MaxConnections != 10_000 || v.TopicDefaults()["max.message.bytes"] != "9000" {
		t.Errorf("got %+v", v)
	}
	for _, name := range []string{"of.another.version", "max.connections"} {
		if n := strings.Count(log.String(), name+": "); n != 1 {
			t.Errorf("%s is told %d times:\n%s", name, n, log)
		}
	}
	// A change of something else does not make a difference.
	setConfigs(t, b, "", map[string]string{"of.another.version": "x", "message.max.bytes": "9001"})
	if got := b.configs.values().TopicDefaults()["max.message.bytes"]; got != "9001" {
		t.Errorf("message.max.bytes is %s", got)
	}
}

// TestDefaultsThatDoNotFit: a topic whose own configs contradict the broker's
// defaults stays open, also over a restart.
func TestDefaultsThatDoNotFit(t *testing.T) {
	dir := t.TempDir()
	b, _, stop := openBroker(t, dir, nil)
	ctx := t.Context()
	results, rev, err := b.meta.CreateTopics(ctx, []metastore.TopicSpec{{Name: "tiered", Assignment: [][]record.BrokerID{{3}}, Configs: map[string]string{"remote.storage.enable": "true", "local.retention.ms": "5000"}}})
	if err != nil || results[0].Err != nil {
		t.Fatal(err, results)
	}
	if err := b.topics.AwaitApplied(ctx, rev); err != nil {
		t.Fatal(err)
	}
	setConfigs(t, b, "", map[string]string{"log.retention.ms": "1000"})
	open := func(b *Broker) {
		t.Helper()
		p := b.topics.Get("tiered", 0)
		if p == nil {
			t.Fatal("the topic is closed")
		}
		if got := p.Config().Retention; got != 7*24*time.Hour {
			t.Errorf("records are kept for %v", got)
		}
	}
	open(b)
	stop()
	b, log, _ := openBroker(t, dir, nil)
	open(b)
	if !strings.Contains(log.String(), "do not fit a topic's own configs") {
		t.Errorf("nothing is said:\n%s", log)
	}
}
