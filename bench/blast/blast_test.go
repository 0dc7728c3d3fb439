package blast

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

func TestJoin(t *testing.T) {
	rows := [][]byte{[]byte("aaa"), []byte("bbbb"), []byte("cc"), []byte("dddddd"), []byte("e")}
	got := Join(rows, 8, 100)
	if want := [][]byte{[]byte("aaa\nbbbb"), []byte("cc\nddddd")}; len(got) != 2 || !bytes.Equal(got[0], want[0]) || !bytes.Equal(got[1], want[1]) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := Join(rows, 8, 15); len(got) != 1 {
		t.Errorf("%d values within 15 bytes, want 1", len(got))
	}
}

func TestEncode(t *testing.T) {
	var values [][]byte
	for i := range 100 {
		values = append(values, bytes.Repeat([]byte{byte(i)}, 1000))
	}
	for _, codec := range []record.Codec{record.None, record.Zstd, record.LZ4} {
		b, err := Encode(values, 10_300, codec, 12345)
		if err != nil {
			t.Fatal(err)
		}
		if b.Records != 10 || len(b.Encoded) != 10 || b.Bytes > 10_300 || b.Bytes < 10_000 {
			t.Fatalf("%d batches of %d records, %d bytes", len(b.Encoded), b.Records, b.Bytes)
		}
		at := 0
		for _, e := range b.Encoded {
			batch, rest, err := record.Next(e)
			if err != nil || len(rest) != 0 || batch.CheckCRC() != nil || batch.Codec() != codec || batch.ProducerID() != -1 {
				t.Fatalf("a batch that is not right: %v, %d more bytes, codec %v", err, len(rest), batch.Codec())
			}
			if codec != record.None && int64(len(e)) >= b.Bytes {
				t.Errorf("codec %v: %d bytes of %d", codec, len(e), b.Bytes)
			}
			err = batch.EachRecord(1<<20, func(r *record.Record) bool {
				if !bytes.Equal(r.Value, values[at]) || r.Timestamp != 12345 {
					t.Errorf("record %d is another", at)
				}
				at++
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := Encode(values, 900, record.None, 0); err == nil {
		t.Error("a value that is larger than the batch was encoded")
	}
	if _, err := Encode(nil, 900, record.None, 0); err == nil {
		t.Error("batches of no values were made")
	}
}

// broker answers Produce requests to topic "t" with what handle says for each;
// what is nil is not answered yet. It leads partitions 0 and 1.
func broker(t *testing.T, handle func(n int, correlation []byte, partition int) []byte) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		ln.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		for n := 0; ; { // one connection after the other
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serve(c, ln.Addr().(*net.TCPAddr), &n, handle)
		}
	}()
	return ln.Addr().String()
}

// serve answers until the client goes. n counts Produce requests.
func serve(c net.Conn, addr *net.TCPAddr, n *int, handle func(n int, correlation []byte, partition int) []byte) {
	defer c.Close()
	for {
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		answer := metadata(b[4:8], addr)
		if key := binary.BigEndian.Uint16(b); key == 0 {
			at := 8 + 2 + len(clientID) + 2 + 2 + 4 + 4 + 2 + len("t") + 4
			answer = handle(*n, b[4:8], int(binary.BigEndian.Uint32(b[at:])))
			*n++
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// metadata names a leader of two of topic "t"'s partitions, 0 and 1.
func metadata(correlation []byte, addr *net.TCPAddr) []byte {
	resp := kmsg.NewPtrMetadataResponse()
	resp.Version = 8
	node := kmsg.NewMetadataResponseBroker()
	node.NodeID, node.Host, node.Port = 1, addr.IP.String(), int32(addr.Port)
	topic := kmsg.NewMetadataResponseTopic()
	topic.Topic = kmsg.StringPtr("t")
	for p := range int32(2) {
		partition := kmsg.NewMetadataResponseTopicPartition()
		partition.Partition, partition.Leader = p, 1
		topic.Partitions = append(topic.Partitions, partition)
	}
	resp.Brokers, resp.Topics = append(resp.Brokers, node), append(resp.Topics, topic)
	b := resp.AppendTo(append(binary.BigEndian.AppendUint32(nil, 0), correlation...))
	setSize(b, 0)
	return b
}

func produced(correlation []byte, partition int, code int16) []byte {
	be := binary.BigEndian
	b := append(be.AppendUint32(nil, 0), correlation...)
	b = appendString(be.AppendUint32(b, 1), "t")
	b = be.AppendUint32(be.AppendUint32(b, 1), uint32(partition))
	b = append(be.AppendUint16(b, uint16(code)), make([]byte, 8+8+8+4+2+4)...)
	setSize(b, 0)
	return b
}

func small(t *testing.T) *Batches {
	t.Helper()
	b, err := Encode([][]byte{[]byte("a value")}, 200, record.None, 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What a partition does not take yet is sent to it again, and counted once.
func TestProduceWaitsForPartitions(t *testing.T) {
	taken := map[int]int{}
	refused := 0
	addr := broker(t, func(n int, correlation []byte, partition int) []byte {
		if partition == 2 && refused < 3 {
			refused++
			return produced(correlation, partition, []int16{kerr.NotLeaderForPartition.Code, kerr.UnknownTopicOrPartition.Code, kerr.LeaderNotAvailable.Code}[refused-1])
		}
		taken[partition]++
		return produced(correlation, partition, 0)
	})
	b := small(t)
	p := Produce{Topic: Topic{Addr: addr, Name: "t", Partitions: 3}, Batches: b, Connections: 1, InFlight: 2, Acks: -1, Bytes: 9 * b.Bytes}
	r, err := p.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests != 9 || r.Bytes != 9*b.Bytes || r.Retries != 3 || fmt.Sprint(taken) != "map[0:3 1:3 2:3]" {
		t.Errorf("%d requests, %d bytes, %d retries, taken %v", r.Requests, r.Bytes, r.Retries, taken)
	}
}

// A partition that takes no writes does not hold up a limited run for ever.
func TestProduceEndsAtItsLimit(t *testing.T) {
	addr := broker(t, func(n int, correlation []byte, partition int) []byte {
		return produced(correlation, partition, kerr.NotLeaderForPartition.Code)
	})
	b := small(t)
	r, err := Produce{Topic: Topic{Addr: addr, Name: "t", Partitions: 1}, Batches: b, Connections: 1, InFlight: 2, Acks: -1, Bytes: b.Bytes, Limit: time.Millisecond}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Bytes != 0 {
		t.Errorf("%d bytes were acknowledged by nobody", r.Bytes)
	}
}

func TestProduceReportsErrors(t *testing.T) {
	addr := broker(t, func(n int, correlation []byte, partition int) []byte {
		return produced(correlation, partition, kerr.CorruptMessage.Code)
	})
	b := small(t)
	_, err := Produce{Topic: Topic{Addr: addr, Name: "t", Partitions: 1}, Batches: b, Connections: 1, InFlight: 2, Acks: 1, Bytes: b.Bytes}.Run(t.Context())
	if !errors.Is(err, kerr.CorruptMessage) {
		t.Errorf("%v, want the broker's error", err)
	}
}

// A broker that answers nothing until everything was sent delays each batch
// for as long as it lay there: all of them count, not only the first.
func TestOpenLoopCountsAllThatWaited(t *testing.T) {
	const sends, interval = 100, time.Millisecond
	var held []byte
	addr := broker(t, func(n int, correlation []byte, partition int) []byte {
		if n == 0 { // asks whether the partition takes writes
			return produced(correlation, partition, 0)
		}
		held = append(held, produced(correlation, partition, 0)...)
		if n < sends {
			return nil
		}
		return held
	})
	b := small(t)
	r, err := OpenLoop{Topic: Topic{Addr: addr, Name: "t", Partitions: 1}, Batches: b, Acks: -1, Rate: b.Bytes * int64(time.Second/interval), For: sends * interval, Unread: true}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Latency.Count() != sends || r.Requests != sends {
		t.Fatalf("%d latencies of %d sends, want %d", r.Latency.Count(), r.Requests, sends)
	}
	// Batch i was due (sends-1-i) intervals before the last one.
	for _, q := range []float64{0.01, 0.25, 0.5, 0.75, 1} {
		if got, least := r.Latency.Quantile(q), time.Duration(q*sends-1)*interval; got < least {
			t.Errorf("quantile %v is %v, want at least %v", q, got, least)
		}
	}
}

// The connections to a leader share its partitions: each has one at least, and
// none belongs to two of them where there are enough.
func TestConnectionsShareTheLeadersPartitions(t *testing.T) {
	for _, c := range []struct {
		partitions []int
		n          int
		want       string
	}{
		{[]int{2, 5, 8, 11}, 3, "[[2 11] [5] [8]]"},
		{[]int{0, 1}, 1, "[[0 1]]"},
		{[]int{4}, 3, "[[4] [4] [4]]"},
	} {
		got := make([][]int, c.n)
		for i := range got {
			var s sender
			s.share(c.partitions, i, c.n)
			got[i] = s.mine
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%v by %d: %v, want %s", c.partitions, c.n, got, c.want)
		}
	}
}
