package blackbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/test/firntest"
)

// memory gives the resident memory of the broker's process, in bytes.
func memory(t *testing.T, b *firntest.Broker) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.Pid()))
	if err != nil {
		t.Skipf("resident memory is not to be had here: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no VmRSS in %s", status)
	return 0
}

// dialMany opens n connections; after says what each does first.
func dialMany(t *testing.T, b *firntest.Broker, n int, after func(net.Conn) error) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	errs := make([]error, n)
	places := make(chan struct{}, 50)
	var wg sync.WaitGroup
	for i := range conns {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			c, err := net.Dial("tcp", b.Kafka)
			if err != nil {
				errs[i] = err
				return
			}
			conns[i] = c
			c.SetDeadline(time.Now().Add(time.Minute))
			errs[i] = after(c)
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return conns
}

// works fails unless a client can make a topic, write to it and read it back.
func works(t *testing.T, b *firntest.Broker, topic string) {
	t.Helper()
	b.CreateTopic(topic, 1)
	ctx, cancel := firntest.Context(t)
	defer cancel()
	if err := b.Client().ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if recs := b.ReadAll(topic, 0, 0); len(recs) != 1 {
		t.Fatalf("%d records were read back", len(recs))
	}
}

// 10,000 connections, of which all but a few are idle, cost little and hold
// up nobody.
func TestTenThousandConnections(t *testing.T) {
	const idle = 9_950 // the rest of max.connections is for those that work
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Max < idle+200 {
		t.Skipf("a process may have %d open files here: raise it with ulimit -Hn (%v)", files.Max, err)
	}
	b := firntest.Start(t)
	works(t, b, "before")
	before := memory(t, b)
	conns := dialMany(t, b, idle, roundTrip)
	each := (memory(t, b) - before) / idle
	t.Logf("%d bytes of resident memory per idle connection", each)
	if each > 100<<10 { // the race detector takes several times what is needed without
		t.Errorf("%d bytes of resident memory per idle connection", each)
	}
	works(t, b, "beside")
	for i := 0; i < len(conns); i += 97 {
		conns[i].SetDeadline(time.Now().Add(time.Minute))
		if err := roundTrip(conns[i]); err != nil {
			t.Fatalf("idle connection %d: %v", i, err)
		}
	}
	if n := b.Metric("firn_wire_connections"); n < idle {
		t.Errorf("firn_wire_connections is %v", n)
	}
	for _, c := range conns {
		c.Close()
	}
	firntest.Eventually(t, "the connections are gone", func() error {
		if n := b.Metric("firn_wire_connections"); n > 100 {
			return fmt.Errorf("firn_wire_connections is %v", n)
		}
		return nil
	})
}

// setBrokerConfig changes a config of all brokers.
func setBrokerConfig(t *testing.T, b *firntest.Broker, name, value string) {
	t.Helper()
	ctx, cancel := firntest.Context(t)
	defer cancel()
	resps, err := kadm.NewClient(b.Client()).AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range resps {
		if r.Err != nil {
			t.Fatalf("%s=%s: %v", name, value, r.Err)
		}
	}
}

// The limits of connections, given at start and changed while the broker runs.
func TestConnectionLimits(t *testing.T) {
	b := firntest.Start(t, "--set", "max.connections.per.ip=3", "--set", "max.connections.per.ip.overrides=127.0.0.2:1")
	from := func(ip string) error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		c, err := d.Dial("tcp", b.Kafka)
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Skipf("this machine has no address %s: %v", ip, err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(30 * time.Second))
		return roundTrip(c)
	}
	for ip, limit := range map[string]int{"127.0.0.2": 1, "127.0.0.3": 3, "127.0.0.4": 3} {
		for i := range limit {
			if err := from(ip); err != nil {
				t.Errorf("connection %d from %s: %v", i+1, ip, err)
			}
		}
		if from(ip) == nil {
			t.Errorf("connection %d from %s is served", limit+1, ip)
		}
	}
	if n := b.Metric("firn_wire_closed_total", `reason="max_connections_per_ip"`); n != 3 {
		t.Errorf("%v were counted", n)
	}
	setBrokerConfig(t, b, "max.connections.per.ip", "5")
	firntest.Eventually(t, "the new limit is in force", func() error {
		return from("127.0.0.3")
	})
}

// Peers that announce a request and send it a byte at a time, or no more of
// it, hold little and hold up nobody. (That they are closed after a minute is
// tested in package wire, with a clock that can be turned.)
func TestSlowPeersBlockNobody(t *testing.T) {
	b := firntest.Start(t)
	const n = 500
	join := frame(11, 0, make([]byte, 900<<10))
	dialMany(t, b, n, func(c net.Conn) error {
		for _, x := range join[:20] {
			if _, err := c.Write([]byte{x}); err != nil {
				return err
			}
		}
		return nil
	})
	works(t, b, "beside")
	if held := b.Metric("firn_wire_inflight_request_bytes"); held > n*8<<10 {
		t.Errorf("%v bytes are held for %d requests of which 20 bytes came", held, n)
	}
	// A few that announce more than there may be in flight keep nobody out.
	produce := frame(0, 9, make([]byte, 90<<20))
	dialMany(t, b, 12, func(c net.Conn) error {
		_, err := c.Write(produce[:1000])
		return err
	})
	works(t, b, "among")
	if err := roundTrip(dial(t, b)); err != nil {
		t.Error(err)
	}
}

// A peer that closes its side gets its replies, then the broker closes.
func TestHalfClosedPeersAreAnswered(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("t", 1)
	fetch := kmsg.NewPtrFetchRequest()
	fetch.Version, fetch.MaxWaitMillis, fetch.MinBytes, fetch.MaxBytes, fetch.SessionEpoch = 11, 700, 1, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = "t"
	rt.Partitions = append(rt.Partitions, kmsg.NewFetchRequestTopicPartition())
	fetch.Topics = append(fetch.Topics, rt)
	waits := frame(1, 11, fetch.AppendTo(nil)) // for records that do not come
	before := b.Metric("firn_wire_closed_total", `reason="peer"`)
	const n = 200
	dialMany(t, b, n, func(c net.Conn) error {
		if _, err := c.Write(append(append([]byte{}, waits...), frame(18, 0, nil)...)); err != nil {
			return err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		for range 2 {
			if _, err := readFrame(c); err != nil {
				return err
			}
		}
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			return fmt.Errorf("after its replies: %d bytes, %w", len(rest), err)
		}
		return nil
	})
	firntest.Eventually(t, "they are counted", func() error {
		if got := b.Metric("firn_wire_closed_total", `reason="peer"`) - before; got < n {
			return fmt.Errorf("%v of %d", got, n)
		}
		return nil
	})
}

// readFrame reads a reply without its length: correlation id, header, body.
func readFrame(c net.Conn) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(c, b)
	return b, err
}

// Clients that ask and never read their answers cost bounded memory and block
// nobody.
func TestClientsThatNeverRead(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("wide", 2000)
	before := memory(t, b)
	ask := frame(3, 1, binary.BigEndian.AppendUint32(nil, 0xffffffff)) // everything there is
	var batch []byte
	for range 1000 {
		batch = append(batch, ask...)
	}
	const n = 30
	conns := dialMany(t, b, n, func(c net.Conn) error {
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := c.Write(batch); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		return nil
	})
	works(t, b, "beside")
	var waiting float64
	firntest.Eventually(t, "replies wait", func() error {
		if waiting = b.Metric("firn_wire_held_bytes"); waiting < 1<<20 {
			return fmt.Errorf("%v bytes", waiting)
		}
		return nil
	})
	t.Logf("%.1f MiB of replies wait for %d clients; resident memory grew by %d MiB", waiting/(1<<20), n, (memory(t, b)-before)>>20)
	if waiting > n*(17<<20) {
		t.Errorf("%v bytes of replies wait for %d clients", waiting, n)
	}
	for _, c := range conns {
		c.Close()
	}
	firntest.Eventually(t, "their replies are given up", func() error {
		if left := b.Metric("firn_wire_held_bytes"); left > 0 {
			return fmt.Errorf("%v bytes of replies still wait", left)
		}
		return nil
	})
}

// Each kind of bad frame closes its connection and is counted by its name;
// bytes after a request's last field are passed over, as Kafka does.
func TestGarbageIsCounted(t *testing.T) {
	b := firntest.Start(t)
	u32 := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	whole := frame(3, 1, u32(0))
	for _, tt := range []struct {
		name, reason string
		bytes        []byte
	}{
		{"negative length", "frame_size", u32(0xffffffff)},
		{"two gigabytes", "frame_size", u32(0x7fffffff)},
		{"nothing", "frame_size", u32(0)},
		{"no client id", "frame_size", append(u32(8), whole[4:12]...)},
		{"text", "frame_size", []byte("GET / HTTP/1.1\r\n\r\n")},
		{"unknown key", "unknown_key", frame(999, 0, nil)},
		{"negative key", "unknown_key", frame(-1, 0, nil)},
		{"unknown version", "unknown_version", frame(3, 99, nil)},
		{"cut in the length", "truncated", whole[:2]},
		{"cut in the header", "truncated", whole[:9]},
		{"cut in the body", "truncated", whole[:len(whole)-1]},
		{"array of five, none there", "malformed", frame(3, 1, u32(5))},
		{"client id of 32767 bytes", "malformed", append(u32(10), 0, 3, 0, 1, 0, 0, 0, 7, 0x7f, 0xff)},
		{"null where it may not be", "malformed", frame(42, 0, u32(0xffffffff))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			label := fmt.Sprintf("reason=%q", tt.reason)
			before := b.Metric("firn_wire_closed_total", label)
			c := dial(t, b)
			c.Write(tt.bytes)
			c.(*net.TCPConn).CloseWrite()
			if got, err := io.ReadAll(c); len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if n := b.Metric("firn_wire_closed_total", label) - before; n != 1 {
				t.Errorf("%s was counted %v times", tt.reason, n)
			}
		})
	}
	before := b.Metric("firn_wire_trailing_bytes_requests_total")
	c := dial(t, b)
	if _, err := c.Write(frame(3, 1, append(u32(0), "and more"...))); err != nil {
		t.Fatal(err)
	}
	if _, err := readFrame(c); err != nil {
		t.Errorf("with trailing bytes: %v", err)
	}
	if err := roundTrip(c); err != nil {
		t.Errorf("after trailing bytes: %v", err)
	}
	if n := b.Metric("firn_wire_trailing_bytes_requests_total") - before; n != 1 {
		t.Errorf("trailing bytes were counted %v times", n)
	}
}

// Requests that were sent before the reply to the one before them are
// answered as if they had waited for it, as by Kafka.
func TestPipelinedRequestsTakeEffectInOrder(t *testing.T) {
	b := firntest.Start(t)
	c := dial(t, b)
	batch := recordBatch(b, t)
	ctx, cancel := firntest.Context(t)
	defer cancel()
	var offsets kadm.Offsets
	offsets.AddOffset("source", 0, 1, -1)
	if err := kadm.NewClient(b.Client()).CommitAllOffsets(ctx, "pipelined", offsets); err != nil { // makes the group's coordinator ready
		t.Fatal(err)
	}
	format := kmsg.NewRequestFormatter()
	for round := range 10 {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		topic := fmt.Sprintf("pipelined-%d", round)
		create := kmsg.NewPtrCreateTopicsRequest()
		create.Version, create.TimeoutMillis = 4, 10_000
		ct := kmsg.NewCreateTopicsRequestTopic()
		ct.Topic, ct.NumPartitions, ct.ReplicationFactor = topic, 1, 1
		create.Topics = append(create.Topics, ct)

		produce := kmsg.NewPtrProduceRequest()
		produce.Version, produce.Acks, produce.TimeoutMillis = 8, -1, 10_000
		pt := kmsg.NewProduceRequestTopic()
		pt.Topic = topic
		pp := kmsg.NewProduceRequestTopicPartition()
		pp.Records = batch
		pt.Partitions = append(pt.Partitions, pp)
		produce.Topics = append(produce.Topics, pt)

		list := kmsg.NewPtrListOffsetsRequest()
		list.Version = 4
		lt := kmsg.NewListOffsetsRequestTopic()
		lt.Topic = topic
		lp := kmsg.NewListOffsetsRequestTopicPartition()
		lp.Timestamp, lp.CurrentLeaderEpoch = -1, -1
		lt.Partitions = append(lt.Partitions, lp)
		list.Topics = append(list.Topics, lt)

		commit := kmsg.NewPtrOffsetCommitRequest()
		commit.Version, commit.Group, commit.Generation = 7, "pipelined", -1
		mt := kmsg.NewOffsetCommitRequestTopic()
		mt.Topic = topic
		mp := kmsg.NewOffsetCommitRequestTopicPartition()
		mp.Offset, mp.LeaderEpoch = 2, -1
		mt.Partitions = append(mt.Partitions, mp)
		commit.Topics = append(commit.Topics, mt)

		fetch := kmsg.NewPtrOffsetFetchRequest()
		fetch.Version, fetch.Group = 5, "pipelined"
		fetch.Topics = append(fetch.Topics, kmsg.OffsetFetchRequestTopic{Topic: topic, Partitions: []int32{0}})

		remove := kmsg.NewPtrDeleteTopicsRequest()
		remove.Version, remove.TopicNames, remove.TimeoutMillis = 3, []string{topic}, 10_000

		requests := []kmsg.Request{create, produce, produce, list, commit, fetch, remove, list}
		var out []byte
		for i, req := range requests {
			out = append(out, format.AppendRequest(nil, req, int32(i))...)
		}
		if _, err := c.Write(out); err != nil {
			t.Fatal(err)
		}
		responses := make([]kmsg.Response, len(requests))
		for i, req := range requests {
			body, err := readFrame(c)
			if err != nil {
				t.Fatalf("round %d: reply %d: %v", round, i, err)
			}
			if id := binary.BigEndian.Uint32(body); id != uint32(i) {
				t.Fatalf("reply %d has correlation id %d", i, id)
			}
			responses[i] = req.ResponseKind()
			if err := responses[i].ReadFrom(body[4:]); err != nil {
				t.Fatal(err)
			}
		}
		if code := responses[0].(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode; code != 0 {
			t.Fatalf("round %d: CreateTopics: error %d", round, code)
		}
		for i := range 2 {
			if p := responses[1+i].(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != int64(i) {
				t.Fatalf("round %d: Produce %d after CreateTopics: error %d, offset %d", round, i, p.ErrorCode, p.BaseOffset)
			}
		}
		if p := responses[3].(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.Offset != 2 {
			t.Fatalf("round %d: ListOffsets after Produce: error %d, offset %d", round, p.ErrorCode, p.Offset)
		}
		if p := responses[4].(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 {
			t.Fatalf("round %d: OffsetCommit: error %d", round, p.ErrorCode)
		}
		if p := responses[5].(*kmsg.OffsetFetchResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.Offset != 2 {
			t.Fatalf("round %d: OffsetFetch after OffsetCommit: error %d, offset %d", round, p.ErrorCode, p.Offset)
		}
		if code := responses[6].(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode; code != 0 {
			t.Fatalf("round %d: DeleteTopics: error %d", round, code)
		}
		if p := responses[7].(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]; p.ErrorCode != 3 {
			t.Fatalf("round %d: ListOffsets after DeleteTopics: error %d", round, p.ErrorCode)
		}
	}
}

// recordBatch gives the bytes of a batch of one record, as a client made it.
func recordBatch(b *firntest.Broker, t *testing.T) []byte {
	t.Helper()
	b.CreateTopic("source", 1)
	ctx, cancel := firntest.Context(t)
	defer cancel()
	// Without a producer id, so that it can be written again and again.
	if err := b.Client(kgo.DisableIdempotentWrite()).ProduceSync(ctx, &kgo.Record{Topic: "source", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxBytes, req.SessionEpoch = 11, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = "source"
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.PartitionMaxBytes = 1 << 20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	c := dial(t, b)
	if _, err := c.Write(frame(1, 11, req.AppendTo(nil))); err != nil {
		t.Fatal(err)
	}
	body, err := readFrame(c)
	if err != nil {
		t.Fatal(err)
	}
	resp := req.ResponseKind().(*kmsg.FetchResponse)
	if err := resp.ReadFrom(body[4:]); err != nil {
		t.Fatal(err)
	}
	records := resp.Topics[0].Partitions[0].RecordBatches
	if len(records) == 0 {
		t.Fatal("no records")
	}
	return records
}
