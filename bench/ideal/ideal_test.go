package main

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/firnlog/firn/bench/blast"
	"github.com/firnlog/firn/record"
)

func start(t *testing.T, o options) string {
	t.Helper()
	o.dir = t.TempDir()
	s, err := newServer(o)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ln) }()
	t.Cleanup(func() {
		ln.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func batches(t *testing.T, size int, codec record.Codec) *blast.Batches {
	t.Helper()
	var rows [][]byte
	for i := range 2000 {
		rows = append(rows, fmt.Appendf(nil, `{"row":%d,"text":"%s"}`, i, bytes.Repeat([]byte{'a' + byte(i%26)}, 60)))
	}
	b, err := blast.Encode(blast.Join(rows, 512, 1<<20), size, codec, 1700000000000)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What blast sends, it reads again: every way of keeping and of sending.
func TestBlastAndIdeal(t *testing.T) {
	for _, test := range []struct {
		name    string
		o       options
		configs map[string]string
		codec   record.Codec
	}{
		{name: "plain", o: options{sndbuf: 200 << 10}},
		{name: "copy", o: options{copy: true}},
		{name: "synced", o: options{sndbuf: 200 << 10}, configs: map[string]string{"flush.messages": "1"}},
		{name: "zstd", o: options{sndbuf: 200 << 10}, codec: record.Zstd},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr := start(t, test.o)
			ctx := t.Context()
			topic := blast.Topic{Addr: addr, Name: "t", Partitions: 5}
			if err := topic.Create(ctx, test.configs); err != nil {
				t.Fatal(err)
			}
			b := batches(t, 20_000, test.codec)
			const sends = 100
			r, err := blast.Produce{Topic: topic, Batches: b, Connections: 3, InFlight: 4, Acks: -1, Bytes: sends * b.Bytes}.Run(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if r.Requests != sends || r.Bytes != sends*b.Bytes || r.Latency.Count() != sends || r.Retries != 0 {
				t.Fatalf("%d requests of %d bytes, %d latencies, %d retries", r.Requests, r.Bytes, r.Latency.Count(), r.Retries)
			}
			ends, err := topic.Ends(ctx)
			if err != nil {
				t.Fatal(err)
			}
			sum := int64(0)
			for _, e := range ends {
				sum += e
			}
			if want := int64(sends * b.Records); sum != want {
				t.Fatalf("%d records, want %d", sum, want)
			}
			wire := int64(0)
			for _, e := range b.Encoded {
				wire += int64(len(e))
			}
			wire = wire * sends / int64(len(b.Encoded)) * 3 // about three times round
			r, err = blast.Consume{Topic: topic, Consumers: 2, MaxBytes: 50_000, Bytes: wire}.Run(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if r.Bytes < wire {
				t.Fatalf("%d bytes read, want %d", r.Bytes, wire)
			}
			loop := blast.Topic{Addr: addr, Name: "loop", Partitions: 3}
			if err := loop.Create(ctx, test.configs); err != nil {
				t.Fatal(err)
			}
			r, err = blast.OpenLoop{Topic: loop, Batches: b, Acks: -1, Rate: 1000 * b.Bytes, For: 100 * time.Millisecond, Settle: 20 * time.Millisecond}.Run(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if r.Latency.Count() != 80 || r.EndToEnd.Count() != 80 {
				t.Fatalf("%d acknowledgements and %d arrivals counted, want 80", r.Latency.Count(), r.EndToEnd.Count())
			}
		})
	}
}
