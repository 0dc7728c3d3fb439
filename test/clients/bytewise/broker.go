package bytewise

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Broker is a running firn that advertises its Tap.
type Broker struct {
	Addr string // of the Tap, for clients: HOST:PORT
	Tap  *Tap

	bin   string
	data  string
	kafka string // the broker's own address
}

// Binary is the firn under test: $FIRNDEV_BIN, or the checkout's bin/firn as
// seen from a folder of test/.
func Binary() string {
	if bin := os.Getenv("FIRNDEV_BIN"); bin != "" {
		return bin
	}
	return filepath.Join("..", "..", "bin", "firn")
}

// Start runs firn on a fresh folder and ends it with the test; it must stop
// cleanly, and have printed no race and no panic.
func Start(t testing.TB) *Broker {
	t.Helper()
	tap, err := NewTap()
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{Addr: tap.Addr(), Tap: tap, bin: Binary(), data: filepath.Join(t.TempDir(), "data")}
	// What was sent with acks=1 is read at once, as with Kafka.
	cmd := exec.Command(b.bin, "start", "--output", "json", "--data", b.data, "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0", "--advertise", b.Addr, "--set", "firn.ack.policy=replicated")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log bytes.Buffer // read once the process is gone
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		tap.Close()
		t.Fatalf("%v (make builds bin/firn)", err)
	}
	t.Cleanup(func() {
		tap.Close()
		cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		defer late.Stop()
		if err := cmd.Wait(); err != nil || t.Failed() || bytes.Contains(log.Bytes(), []byte("DATA RACE")) || bytes.Contains(log.Bytes(), []byte("panic")) {
			t.Errorf("firn ended with %v\n%s", err, log.Bytes())
		}
	})
	var ready struct{ Event, Kafka string }
	stdout := bufio.NewReader(out)
	line, err := stdout.ReadBytes('}')
	if err != nil || json.Unmarshal(line, &ready) != nil || ready.Event != "ready" {
		t.Fatalf("firn did not become ready (%v): %s", err, line)
	}
	b.kafka = ready.Kafka
	tap.Serve(b.kafka)
	return b
}

// Ask sends one request to the broker itself, past the Tap, and gives the
// reply.
func (b *Broker) Ask(t testing.TB, req kmsg.Request) kmsg.Response {
	t.Helper()
	c, err := net.Dial("tcp", b.kafka)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("bytewise")).AppendRequest(nil, req, 7)); err != nil {
		t.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		t.Fatalf("no reply to %T: %v", req, err)
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, body); err != nil {
		t.Fatal(err)
	}
	resp := req.ResponseKind()
	body = body[4:]
	if resp.IsFlexible() {
		body = body[1:] // no tags in the header
	}
	if err := resp.ReadFrom(body); err != nil {
		t.Fatalf("%T: %v", resp, err)
	}
	return resp
}

// Topic makes a topic of one partition that keeps records of whatever age;
// appendTime gives it message.timestamp.type=LogAppendTime.
func (b *Broker) Topic(t testing.TB, name string, appendTime bool) {
	t.Helper()
	configs := map[string]string{"retention.ms": "-1", "message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": "9223372036854775807"}
	if appendTime {
		configs["message.timestamp.type"] = "LogAppendTime"
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 5, 30_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, 1, 1
	for k, v := range configs {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, &v
		rt.Configs = append(rt.Configs, c)
	}
	req.Topics = append(req.Topics, rt)
	resp := b.Ask(t, req).(*kmsg.CreateTopicsResponse)
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
}

// meta gives a topic's id and the leader epoch of its partition.
func (b *Broker) meta(t testing.TB, topic string) (id [16]byte, epoch int32) {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = &topic
	req.Topics = append(req.Topics, mt)
	resp := b.Ask(t, req).(*kmsg.MetadataResponse)
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		t.Fatalf("metadata of %s: %v", topic, err)
	}
	return resp.Topics[0].TopicID, resp.Topics[0].Partitions[0].LeaderEpoch
}

// Replay sends batches to partition 0 of a topic, each in a request of the
// version and with the acks that it was recorded with.
func (b *Broker) Replay(t testing.TB, topic string, recorded []Batch) {
	t.Helper()
	id, _ := b.meta(t, topic)
	for i, batch := range recorded {
		req := kmsg.NewPtrProduceRequest()
		req.Version, req.Acks, req.TimeoutMillis = batch.Version, batch.Acks, 30_000
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic, rt.TopicID = topic, id
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Records = batch.Bytes
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		p := b.Ask(t, req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			message := ""
			if p.ErrorMessage != nil {
				message = *p.ErrorMessage
			}
			t.Fatalf("recorded batch %d: %v %s", i, err, message)
		}
	}
}

// ReadBatches reads the batches of a file of Produce requests, each with its
// length before it as on the wire.
func ReadBatches(path string) ([]Batch, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []Batch
	for len(b) > 0 {
		if len(b) < 4 || uint32(len(b)-4) < binary.BigEndian.Uint32(b) {
			return nil, fmt.Errorf("%s: %w", path, io.ErrUnexpectedEOF)
		}
		n := 4 + int(binary.BigEndian.Uint32(b))
		req, err := ParseProduce(b[4:n])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, batchesOf(req, nil)...)
		b = b[n:]
	}
	return all, nil
}
