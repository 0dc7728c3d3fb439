package broker

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
)

// Rates come to what goes through in a time, and are forgotten with the
// partition.
func TestTraffic(t *testing.T) {
	tr, p := newTraffic(), &partition.Partition{}
	all := func(f func(*partition.Partition)) { f(p) }
	if in, out := tr.of(p); in != 0 || out != 0 {
		t.Errorf("%d, %d of one that nobody looked at", in, out)
	}
	for range 100 {
		p.Served(50_000)
		tr.look(10*time.Second, all)
	}
	if in, out := tr.of(p); in != 0 || out < 4990 || out > 5000 {
		t.Errorf("%d, %d, want 0 and 5000", in, out)
	}
	for range 100 {
		tr.look(10*time.Second, all)
	}
	if _, out := tr.of(p); out > 1 {
		t.Errorf("%d a thousand seconds after the last", out)
	}
	tr.look(time.Second, func(func(*partition.Partition)) {})
	if len(tr.rates) != 0 {
		t.Error("a partition that is gone is kept")
	}
}

// A broker that answers nonsense, or nothing, is an error, and is not waited
// for beyond the time given.
func TestDescribeLogDirsOfAnother(t *testing.T) {
	good := kmsg.NewPtrDescribeLogDirsResponse()
	good.Version, good.Dirs = 4, []kmsg.DescribeLogDirsResponseDir{{Dir: "d", TotalBytes: 5}}
	framed := func(body []byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	whole := framed(good.AppendTo(make([]byte, 5)))
	for name, c := range map[string]struct {
		answer []byte
		ok     bool
	}{
		"an answer":   {whole, true},
		"cut off":     {whole[:len(whole)-1], false},
		"nothing":     {nil, false},
		"empty":       {framed(nil), false},
		"nonsense":    {framed([]byte("0000000000000000")), false},
		"much of it":  {binary.BigEndian.AppendUint32(nil, 1<<31), false},
		"no response": {framed(make([]byte, 5)), false},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			served := make(chan struct{})
			go func() {
				defer close(served)
				c2, err := ln.Accept()
				if err != nil {
					return
				}
				defer c2.Close()
				var size [4]byte
				if _, err := io.ReadFull(c2, size[:]); err != nil {
					return
				}
				_, _ = io.CopyN(io.Discard, c2, int64(binary.BigEndian.Uint32(size[:])))
				_, _ = c2.Write(c.answer)
			}()
			resp, err := describeLogDirs(context.Background(), ln.Addr().String())
			if (err == nil) != c.ok || c.ok && (len(resp.Dirs) != 1 || resp.Dirs[0].TotalBytes != 5) {
				t.Errorf("%+v, %v", resp, err)
			}
			<-served
		})
	}
}
