// Package kafka runs Apache Kafka, the judge of behaviour: one node, broker
// and controller in one, on loopback and in a folder of its own. The jars come
// from Maven Central, once, into Firn's cache; Java 17 and mvn are needed.
// `make test` does without this package; what records answers anew, compares
// live, or runs other people's suites starts here.
package kafka

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Version of Apache Kafka that ClassPath gives; tools/kafka/pom.xml names it
// to Maven.
const Version = "4.3.1"

// Broker is one running node.
type Broker struct {
	Addr string // HOST:PORT of the clients' listener
	Dir  string // everything it keeps; its log folder is Dir/data

	cmd   *exec.Cmd
	ended chan struct{} // closed once the process is gone
}

//go:embed log4j2.yaml
var logConfig []byte

// ClientMetrics is the value of metric.reporters for a node that takes the
// metrics of clients and throws them away; without such a plug-in Kafka does
// not list the requests of KIP-714. It needs javac.
const ClientMetrics = "ClientMetrics"

//go:embed ClientMetrics.java
var clientMetrics []byte

// compile puts the plug-in's class into dir.
func compile(ctx context.Context, cp, dir string) error {
	source := filepath.Join(dir, ClientMetrics+".java")
	if err := os.WriteFile(source, clientMetrics, 0o644); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "javac", "-cp", cp, "-d", dir, source).CombinedOutput()
	if err != nil {
		return fmt.Errorf("compile %s: %w\n%s", source, err, out)
	}
	return nil
}

// ClassPath gives the value for java's -cp, downloading the jars first when
// the cache lacks them (about 54 MB). The error says what to install.
func ClassPath(ctx context.Context) (string, error) {
	_, here, _, _ := runtime.Caller(0)
	pom := filepath.Join(filepath.Dir(here), "..", "..", "tools", "kafka", "pom.xml")
	text, err := os.ReadFile(pom)
	if err != nil {
		return "", err
	}
	if !bytes.Contains(text, []byte("<version>"+Version+"</version>")) {
		return "", fmt.Errorf("%s does not name version %s", pom, Version)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(text)
	dir := filepath.Join(cache, "tools", "kafka-"+Version+"-"+hex.EncodeToString(hash[:6]))
	if _, err := os.Stat(dir); err == nil {
		return filepath.Join(dir, "*"), nil
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return "", errors.New("Apache Kafka's jars are fetched with Maven: install mvn and Java 17 (Debian: apt-get install maven openjdk-17-jre-headless)")
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	// Whoever is first renames; a folder that is there is whole.
	part, err := os.MkdirTemp(filepath.Dir(dir), ".kafka-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(part)
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "-f", pom, "dependency:copy-dependencies",
		"-DincludeScope=runtime", "-DoutputDirectory="+part)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetch Apache Kafka %s: %w\n%s", Version, err, out)
	}
	if err := os.Rename(part, dir); err != nil {
		if _, there := os.Stat(dir); there != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "*"), nil
}

func cacheDir() (string, error) {
	if dir := os.Getenv("FIRN_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "firn"), err
}

// Start runs a node on an empty folder and returns once it answers. props are
// lines of server.properties beside, or instead of, the ones of a single node
// whose groups start without a delay; with "listeners" the first of them, which
// must be PLAINTEXT, is Addr. Stop must follow.
func Start(ctx context.Context, props map[string]string) (*Broker, error) {
	dir, err := os.MkdirTemp("", "kafka-")
	if err != nil {
		return nil, err
	}
	b := &Broker{Dir: dir}
	if err := b.start(ctx, props); err != nil {
		b.Stop()
		return nil, err
	}
	return b, nil
}

func (b *Broker) start(ctx context.Context, props map[string]string) error {
	cp, err := ClassPath(ctx)
	if err != nil {
		return err
	}
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	b.Addr = "127.0.0.1:" + strconv.Itoa(ports[0])
	controller := "127.0.0.1:" + strconv.Itoa(ports[1])
	all := map[string]string{
		"process.roles":                                    "broker,controller",
		"node.id":                                          "1",
		"controller.quorum.bootstrap.servers":              controller,
		"listeners":                                        "PLAINTEXT://" + b.Addr + ",CONTROLLER://" + controller,
		"advertised.listeners":                             "PLAINTEXT://" + b.Addr,
		"controller.listener.names":                        "CONTROLLER",
		"listener.security.protocol.map":                   "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
		"inter.broker.listener.name":                       "PLAINTEXT",
		"log.dirs":                                         filepath.Join(b.Dir, "data"),
		"offsets.topic.replication.factor":                 "1",
		"transaction.state.log.replication.factor":         "1",
		"transaction.state.log.min.isr":                    "1",
		"share.coordinator.state.topic.replication.factor": "1",
		"share.coordinator.state.topic.min.isr":            "1",
		"group.initial.rebalance.delay.ms":                 "0",
	}
	maps.Copy(all, props)
	if first, _, _ := strings.Cut(all["listeners"], ","); props["listeners"] != "" {
		b.Addr = strings.TrimPrefix(first, "PLAINTEXT://")
	}
	var text strings.Builder
	for _, k := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s=%s\n", k, all[k])
	}
	if all["metric.reporters"] == ClientMetrics {
		if err := compile(ctx, cp, b.Dir); err != nil {
			return err
		}
		cp = b.Dir + string(os.PathListSeparator) + cp
	}
	conf := filepath.Join(b.Dir, "server.properties")
	log4j := filepath.Join(b.Dir, "log4j2.yaml")
	if err := errors.Join(os.WriteFile(conf, []byte(text.String()), 0o644), os.WriteFile(log4j, logConfig, 0o644)); err != nil {
		return err
	}
	format := exec.CommandContext(ctx, "java", "-XX:TieredStopAtLevel=1", "-Dlog4j2.configurationFile="+log4j, "-cp", cp,
		"kafka.tools.StorageTool", "format", "--standalone", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", conf)
	if out, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("format Kafka's folder: %w\n%s", err, out)
	}
	out, err := os.Create(b.outputPath())
	if err != nil {
		return err
	}
	defer out.Close() // the process has its own
	b.cmd = exec.Command("java", "-Xms256m", "-Xmx768m", "-XX:+UseSerialGC", "-Dlog4j2.configurationFile="+log4j, "-cp", cp, "kafka.Kafka", conf)
	b.cmd.Stdout, b.cmd.Stderr = out, out
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	b.ended = make(chan struct{})
	started := make(chan error, 1)
	// The parent-death signal follows the thread that started the child: it
	// has to stay until the child is gone.
	go func() {
		runtime.LockOSThread()
		err := b.cmd.Start()
		started <- err
		if err == nil {
			_ = b.cmd.Wait() // how it ended is in Output
		}
		close(b.ended)
	}()
	if err := <-started; err != nil {
		return err
	}
	return b.awaitReady(ctx)
}

// awaitReady returns once the node has answered an ApiVersions request and so
// is unfenced and serves clients.
func (b *Broker) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for {
		if err := ask(b.Addr); err == nil {
			return nil
		}
		select {
		case <-b.ended:
			return fmt.Errorf("Kafka ended before it was ready:\n%s", b.Output())
		case <-ctx.Done():
			return fmt.Errorf("Kafka was not ready: %w\n%s", ctx.Err(), b.Output())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ask sends an ApiVersions request of version 0 and waits for any answer.
func ask(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff}); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 8))
	return err
}

// Output is what the node printed so far; Stop removes it.
func (b *Broker) Output() string {
	text, _ := os.ReadFile(b.outputPath()) // not there: nothing was printed
	return string(text)
}

func (b *Broker) outputPath() string { return filepath.Join(b.Dir, "kafka.log") }

// Pid is the process's id.
func (b *Broker) Pid() int { return b.cmd.Process.Pid }

// Stop kills the node, waits until it is gone and removes its folder.
func (b *Broker) Stop() {
	if b.ended != nil && b.cmd.Process != nil {
		_ = b.cmd.Process.Kill() // it may have ended by itself
		<-b.ended
	}
	os.RemoveAll(b.Dir)
}

// Tool prepares one of Kafka's command-line programs by its class, for example
// org.apache.kafka.tools.TopicCommand.
func Tool(ctx context.Context, class string, args ...string) (*exec.Cmd, error) {
	cp, err := ClassPath(ctx)
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, "java", append([]string{"-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", cp, class}, args...)...), nil
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
