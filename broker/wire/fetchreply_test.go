package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

// cut makes spans of a partition's records: some in memory, some in the file,
// where they are appended.
func cut(t *rapid.T, f *os.File, data []byte) []record.Span {
	var spans []record.Span
	for len(data) > 0 || rapid.IntRange(0, 9).Draw(t, "empty") == 0 {
		n := rapid.IntRange(0, len(data)).Draw(t, "cut")
		piece := data[:n]
		data = data[n:]
		if rapid.Bool().Draw(t, "memory") {
			spans = append(spans, record.Span{Bytes: piece})
			continue
		}
		off, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(piece); err != nil {
			t.Fatal(err)
		}
		spans = append(spans, record.Span{File: record.NewFile(f), Off: off, Len: int64(n)})
	}
	return spans
}

// The segments of a Fetch reply, put together, are what kmsg encodes with the
// records in place.
func TestFetchPlanEqualsKmsg(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "records"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for version := int16(4); version <= 18; version++ {
		rapid.Check(t, func(t *rapid.T) {
			body := kmsg.NewPtrFetchResponse()
			fill(t, reflect.ValueOf(body).Elem())
			body.Version = version
			reply := &FetchReply{Body: body}
			inlined := *body
			inlined.Topics = nil
			for _, topic := range body.Topics {
				whole := topic
				whole.Partitions = nil
				var spans [][]record.Span
				for _, p := range topic.Partitions {
					if rapid.Bool().Draw(t, "default tags") {
						d := kmsg.NewFetchResponseTopicPartition()
						p.DivergingEpoch, p.CurrentLeader, p.SnapshotID = d.DivergingEpoch, d.CurrentLeader, d.SnapshotID
					}
					topic.Partitions[len(whole.Partitions)] = p
					p.RecordBatches = rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "records")
					if p.RecordBatches == nil {
						p.RecordBatches = []byte{}
					}
					spans = append(spans, cut(t, f, p.RecordBatches))
					whole.Partitions = append(whole.Partitions, p)
				}
				inlined.Topics = append(inlined.Topics, whole)
				reply.Spans = append(reply.Spans, spans)
			}
			want, err := encodeReply(77, &inlined)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := newFetchPlan(nil, 77, reply)
			if err != nil {
				t.Fatal(err)
			}
			var got []byte
			for _, s := range plan.segments {
				if !s.isSpan {
					got = append(got, plan.meta[s.from:s.to]...)
					continue
				}
				b := make([]byte, s.span.Size())
				if _, err := s.span.ReadAt(b, 0); err != nil {
					t.Fatal(err)
				}
				got = append(got, b...)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("version %d:\n got %x\nwant %x", version, got, want)
			}
		})
	}
}

// Spans may be missing for some topics and partitions: those have no records.
func TestFetchPlanWithoutSpans(t *testing.T) {
	reply := fetchOf()
	for _, spans := range [][][][]record.Span{nil, {}, {{}}, {{nil}}} {
		reply.Spans = spans
		for v := int16(4); v <= 18; v++ {
			reply.Body.Version = v
			plan, err := newFetchPlan(nil, 1, reply)
			if err != nil {
				t.Fatal(err)
			}
			reply.Body.Topics[0].Partitions[0].RecordBatches = []byte{}
			if want, _ := encodeReply(1, reply.Body); !bytes.Equal(plan.meta, want) {
				t.Fatalf("version %d: got %x, want %x", v, plan.meta, want)
			}
		}
	}
}

func TestFetchPlanLimits(t *testing.T) {
	for _, v := range []int16{-1, 3, 19} {
		reply := fetchOf()
		reply.Body.Version = v
		if _, err := newFetchPlan(nil, 1, reply); err == nil {
			t.Errorf("version %d was encoded", v)
		}
	}
	reply := fetchOf(record.Span{File: &record.File{}, Len: 1 << 31})
	reply.Body.Version = 12
	if _, err := newFetchPlan(nil, 1, reply); err == nil {
		t.Error("2 GiB were encoded")
	}
}

// Sizes between slab classes round up, by a quarter at most; released memory
// comes back.
func TestSlabClasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5<<20).Draw(t, "size")
		class, size := slabClass(n)
		switch {
		case size < n, n > 1<<minSlabShift && size > n+n/4:
			t.Fatalf("%d bytes get %d", n, size)
		case class >= slabClasses, (class < 0) != (n > 1<<maxSlabShift):
			t.Fatalf("%d bytes are of class %d", n, class)
		}
		if c, s := slabClass(size); c != class || s != size {
			t.Fatalf("class %d of %d bytes, but %d of its own size %d", class, n, c, size)
		}
		s := newSlab(n, true)
		if len(s.buf) != n || cap(s.buf) < size {
			t.Fatalf("slab of %d bytes, room for %d", len(s.buf), cap(s.buf))
		}
		s.release()
	})
}

func BenchmarkEncodeFetch(b *testing.B) {
	for _, partitions := range []int{1, 100} {
		name := "1partition"
		if partitions > 1 {
			name = "100partitions"
		}
		b.Run(name, func(b *testing.B) {
			reply := fetchOf()
			reply.Body.Version = 12
			reply.Spans[0] = nil
			ps := &reply.Body.Topics[0].Partitions
			for i := range partitions {
				if i > 0 {
					*ps = append(*ps, (*ps)[0])
				}
				reply.Spans[0] = append(reply.Spans[0], []record.Span{{File: &record.File{}, Len: 1 << 20}})
			}
			meta := make([]byte, 0, stagingSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := newFetchPlan(meta, 1, reply); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkServeFetch sends 1 MiB of a file per reply over loopback.
func BenchmarkServeFetch(b *testing.B) {
	file, data := fetchFile(b, 1<<20)
	defer file.Release()
	for _, network := range []string{"tcp", "unix"} { // sendfile, copy
		b.Run(network, func(b *testing.B) {
			addr := "127.0.0.1:0"
			if network == "unix" {
				addr = filepath.Join(b.TempDir(), "s")
			}
			s := startServerOn(b, Config{}, fetchHandler(file, int64(len(data))), network, addr)
			nc := s.dial()
			nc.SetDeadline(time.Time{})
			req := frame(1, fetchRequest(12))
			buf := make([]byte, 256<<10)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := nc.Write(req); err != nil {
					b.Fatal(err)
				}
				discardReply(b, nc, buf)
			}
		})
	}
}

func discardReply(b *testing.B, nc net.Conn, buf []byte) {
	if _, err := io.ReadFull(nc, buf[:4]); err != nil {
		b.Fatal(err)
	}
	for left := int(binary.BigEndian.Uint32(buf)); left > 0; {
		n, err := nc.Read(buf[:min(left, len(buf))])
		if err != nil {
			b.Fatal(err)
		}
		left -= n
	}
}

func BenchmarkServeProduce(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		b.Run(byteSize(size), func(b *testing.B) {
			s := startServer(b, Config{}, echo)
			nc := s.dial()
			nc.SetDeadline(time.Time{})
			p := kmsg.NewPtrProduceRequest()
			p.Version = 11
			p.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: []kmsg.ProduceRequestTopicPartition{{Records: make([]byte, size)}}}}
			req := frame(1, p)
			buf := make([]byte, 4096)
			poison = false
			defer func() { poison = true }()
			b.SetBytes(int64(len(req)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := nc.Write(req); err != nil {
					b.Fatal(err)
				}
				discardReply(b, nc, buf)
			}
		})
	}
}
