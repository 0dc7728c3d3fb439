package wire

import (
	"bytes"
	"context"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// A thousand consumers that ask for one part of a segment again and again and
// take nothing hold a few KiB and a goroutine each, and no second reply; one
// that reads the same part is served its bytes meanwhile, and still is when
// they are closed for taking nothing. The file is closed with the last of them.
func TestStalledConsumersHoldLittle(t *testing.T) {
	const stalled, asked, size, most = 1000, 30, 4 << 20, 20 << 10
	file, data := fetchFile(t, size)
	s := startServer(t, Config{IdleTimeout: 4 * time.Second}, fetchHandler(file, size))
	usage := func() int64 {
		runtime.GC()
		runtime.GC() // what pools held
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	reader := s.dial()
	read := func(i int32) {
		t.Helper()
		reader.Write(frame(i, fetchRequest(11)))
		if id, b, err := readReply(reader); err != nil || id != i || !bytes.HasSuffix(b, data) {
			t.Fatalf("reply %d: id %d, %d bytes, %v", i, id, len(b), err)
		}
	}
	read(0)
	closed := mClosed[reasonSlowReader].Get()
	before, goroutines := usage(), runtime.NumGoroutine()
	conns := make([]net.Conn, stalled)
	for i := range conns {
		nc, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.(*net.TCPConn).SetReadBuffer(4 << 10)
		for j := range int32(asked) {
			nc.Write(frame(j, fetchRequest(11)))
		}
		conns[i] = nc
		if i%100 == 0 {
			read(int32(i))
		}
	}
	waitFor(t, func() bool { // all have an answer, nothing is taken
		s.mu.Lock()
		defer s.mu.Unlock()
		n := 0
		for c := range s.conns {
			c.mu.Lock()
			n += c.inflight - c.unanswered
			c.mu.Unlock()
		}
		return n >= stalled
	})
	each, routines := (usage()-before)/stalled, runtime.NumGoroutine()-goroutines
	t.Logf("%d bytes and %.2f goroutines per consumer that takes nothing", each, float64(routines)/stalled)
	if routines > stalled+stalled/10 {
		t.Errorf("%d goroutines for %d consumers", routines, stalled)
	}
	if each > most && !raceEnabled {
		t.Errorf("%d bytes per consumer, more than %d", each, most)
	}
	if n := s.held.Load(); n < stalled*partitionMemory {
		t.Errorf("%d bytes are counted as held", n)
	}
	file.Release() // as when the segment is deleted
	if !file.Acquire() {
		t.Fatal("the file was closed under its readers")
	}
	for i := range int32(20) {
		read(i)
	}
	file.Release()
	waitFor(t, func() bool { return mClosed[reasonSlowReader].Get()-closed == stalled })
	waitFor(t, func() bool {
		if !file.Acquire() {
			return true
		}
		file.Release()
		return false
	})
}

// Replies that nobody takes count as held even when their records are in
// files: those of many partitions are large without them.
func TestWideRepliesThatNobodyTakesAreBounded(t *testing.T) {
	const limit, partitions, hostile = 8 << 20, 2000, 40
	file, _ := fetchFile(t, 1<<20)
	h := handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		f := fetchOf(acquired(file, 0, 1<<20))
		topic := &f.Body.Topics[0]
		for len(topic.Partitions) < partitions {
			topic.Partitions = append(topic.Partitions, kmsg.NewFetchResponseTopicPartition())
		}
		for len(f.Spans[0]) < partitions {
			f.Spans[0] = append(f.Spans[0], []record.Span{})
		}
		reply(Reply{Fetch: f})
	})
	s := startServer(t, Config{MaxInflightBytes: limit}, h)
	closed := mClosed[reasonStalled].Get()
	var conns []net.Conn
	for range hostile {
		nc := s.dial()
		conns = append(conns, nc)
		nc.(*net.TCPConn).SetReadBuffer(4 << 10)
		for i := range int32(30) {
			nc.Write(frame(i, fetchRequest(11)))
		}
	}
	most := int64(0)
	waitFor(t, func() bool {
		most = max(most, s.held.Load())
		return mClosed[reasonStalled].Get() > closed && s.held.Load() <= limit
	})
	// Each connection may have one more under way when the limit is reached.
	if over := most - limit; over > hostile*partitions*(partitionMemory+spanMemory) {
		t.Errorf("%d bytes over the limit were held", over)
	}
	for _, nc := range conns {
		nc.Close()
	}
	closeNow(t, s)
	releaseOwner(t, file)
}
