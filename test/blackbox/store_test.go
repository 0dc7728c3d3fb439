package blackbox

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/objectstore/storetest/servers"
	"github.com/firnlog/firn/test/firntest"
)

// gate is a TCP proxy in front of an object store that can be shut: then
// connections are refused and open ones cut.
type gate struct {
	addr, target string
	mu           sync.Mutex
	shut         bool
	conns        map[net.Conn]bool
}

func newGate(t *testing.T, target string) *gate {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{addr: ln.Addr().String(), target: target, conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { g.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		g.set(true)
		wg.Wait()
	})
	return g
}

func (g *gate) track(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		c.Close()
		return false
	}
	g.conns[c] = true
	return true
}

func (g *gate) serve(c net.Conn) {
	defer c.Close()
	if !g.track(c) {
		return
	}
	up, err := net.Dial("tcp", g.target)
	if err != nil {
		return
	}
	defer up.Close()
	if !g.track(up) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(up, c); up.(*net.TCPConn).CloseWrite() })
	wg.Go(func() { io.Copy(c, up); c.(*net.TCPConn).CloseWrite() })
	wg.Wait()
	g.mu.Lock()
	delete(g.conns, c)
	delete(g.conns, up)
	g.mu.Unlock()
}

// set shuts or opens the gate.
func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	for c := range g.conns {
		if shut {
			c.Close()
			delete(g.conns, c)
		}
	}
}

func tieredTopic(b *firntest.Broker, name string, partitions int32) {
	b.CreateTopic(name, partitions, "remote.storage.enable", "true", "segment.bytes", "1048576", "local.retention.ms", "1", "retention.ms", "-1")
}

func fill(t *testing.T, b *firntest.Broker, topic string, records, size int) *writer {
	t.Helper()
	w := newWriter(b, topic, size)
	ctx, cancel := firntest.Context(t)
	defer cancel()
	for range records {
		w.send(ctx)
	}
	if err := w.cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestObjectStoreDown: everything hot goes on while the store is away, over a
// restart too; nothing local is dropped; when it is back, all is tiered and
// read again.
func TestObjectStoreDown(t *testing.T) {
	m := servers.MinIO(t)
	g := newGate(t, m.Host)
	b := firntest.New(t, "--store", fmt.Sprintf("minio://%s/%s/down?tls=false", g.addr, m.Bucket))
	b.Env = []string{"MINIO_ROOT_USER=" + m.AccessKey, "MINIO_ROOT_PASSWORD=" + m.SecretKey}
	b.Start()
	tieredTopic(b, "early", 1)
	early := fill(t, b, "early", 400, 8192)
	b.AwaitCold("early")

	g.set(true)
	tieredTopic(b, "late", 1)
	late := fill(t, b, "late", 400, 8192)
	late.verify(t, b)
	b.Stop()
	os.RemoveAll(filepath.Join(b.Data, "cache")) // so that cold reads need the store
	b.Start()
	late.verify(t, b) // hot: served though the store is down
	more := fill(t, b, "late", 100, 8192)
	if ps, err := b.Tier("late"); err != nil || ps[0].RemoteEnd > 0 {
		t.Errorf("tiered with the store down? %+v %v", ps, err)
	}
	// Cold records are not lost, only late: a reader waits and gets no wrong answer.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	if recs, err := b.TryReadAll(ctx, "early", 0, 0); err == nil {
		t.Errorf("%d records of an unreachable store were read", len(recs))
	}
	cancel()

	g.set(false)
	b.AwaitCold("late")
	early.verify(t, b)
	_ = more
	recs := b.ReadAll("late", 0, 0)
	if len(recs) != 500 {
		t.Errorf("%d records of 500", len(recs))
	}
}

// TestTimestampsAcrossHotAndCold looks records up by time where the older ones
// are in the object store and the newer on disk.
func TestTimestampsAcrossHotAndCold(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("timed", 1, "remote.storage.enable", "true", "segment.bytes", "1048576", "local.retention.bytes", "1", "retention.ms", "-1")
	ctx, cancel := firntest.Context(t)
	defer cancel()
	cl := b.Client(kgo.DefaultProduceTopic("timed"), kgo.ProducerBatchMaxBytes(32<<10))
	const n = 600
	base := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		cl.Produce(ctx, &kgo.Record{Value: value(uint64(i), 8192), Timestamp: base.Add(time.Duration(i) * time.Minute)}, nil)
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	firntest.Eventually(t, "some of it only in the store, some only local", func() error {
		ps, err := b.Tier("timed")
		if err != nil {
			return err
		}
		if p := ps[0]; p.LocalStart == 0 || p.RemoteEnd == 0 {
			return fmt.Errorf("local from %d, tiered to %d", p.LocalStart, p.RemoteEnd)
		}
		return nil
	})
	adm := kadm.NewClient(cl)
	for _, i := range []int{0, 1, 77, 128, 300, 500, n - 1} {
		at := base.Add(time.Duration(i) * time.Minute)
		for _, ms := range []int64{at.UnixMilli(), at.UnixMilli() - 30_000} {
			offs, err := adm.ListOffsetsAfterMilli(ctx, ms, "timed")
			if err != nil {
				t.Fatal(err)
			}
			if o, _ := offs.Lookup("timed", 0); o.Offset != int64(i) || o.Timestamp != at.UnixMilli() {
				t.Errorf("time of record %d: offset %d with time %d", i, o.Offset, o.Timestamp)
			}
		}
	}
	max, err := adm.ListMaxTimestampOffsets(ctx, "timed")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := max.Lookup("timed", 0); o.Offset != n-1 {
		t.Errorf("greatest timestamp at offset %d, expected %d", o.Offset, n-1)
	}
	recs := b.ReadAll("timed", 0, 0)
	for i, r := range recs {
		if number(r.Value) != uint64(i) || r.Offset != int64(i) {
			t.Fatalf("place %d: offset %d, record %d", i, r.Offset, number(r.Value))
		}
	}
}

// flip changes one bit in the middle of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if at < 0 {
		at = st.Size() / 2
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// find lists the files below dir whose names end so.
func find(t *testing.T, dir, suffix string) []string {
	t.Helper()
	var found []string
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && info.Size() > 0 && strings.HasSuffix(path, suffix) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestDamagedIndexesAreRebuilt flips bits in and truncates every index of a
// stopped broker: reads are as before.
func TestDamagedIndexesAreRebuilt(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("indexed", 1, "segment.bytes", "1048576", "retention.ms", "-1")
	w := fill(t, b, "indexed", 500, 8192)
	b.Stop()
	damaged := 0
	for i, suffix := range []string{".index", ".timeindex", ".snapshot"} {
		for j, path := range find(t, filepath.Join(b.Data, "logs", "indexed"), suffix) {
			damaged++
			switch (i + j) % 3 {
			case 0:
				flip(t, path, -1)
			case 1:
				if err := os.Truncate(path, 5); err != nil {
					t.Fatal(err)
				}
			case 2:
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if damaged < 6 {
		t.Fatalf("only %d index files were found", damaged)
	}
	b.Start()
	w.verify(t, b)
}

// TestDamagedChunkIsFetchedAgain flips a bit in every cached chunk: the store
// still has the truth.
func TestDamagedChunkIsFetchedAgain(t *testing.T) {
	b := firntest.Start(t)
	tieredTopic(b, "chunked", 1)
	w := fill(t, b, "chunked", 400, 8192)
	b.AwaitCold("chunked")
	w.verify(t, b)
	b.Stop()
	chunks := find(t, filepath.Join(b.Data, "cache"), "")
	if len(chunks) == 0 {
		t.Fatal("no chunk is cached")
	}
	for _, c := range chunks {
		flip(t, c, -1)
	}
	b.Start()
	w.verify(t, b)
}

// TestDamagedObjectIsNeverServed flips a bit of every object: a reader gets
// errors, never wrong bytes.
func TestDamagedObjectIsNeverServed(t *testing.T) {
	b := firntest.Start(t)
	tieredTopic(b, "rotten", 1)
	w := fill(t, b, "rotten", 400, 8192)
	b.AwaitCold("rotten")
	b.Stop()
	os.RemoveAll(filepath.Join(b.Data, "cache"))
	objects := 0
	for _, o := range find(t, filepath.Join(b.Data, "objects"), "") {
		if st, err := os.Stat(o); err == nil && st.Size() > 512<<10 {
			flip(t, o, 100_000)
			objects++
		}
	}
	if objects == 0 {
		t.Fatal("no object was found")
	}
	b.Start()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	recs, err := b.TryReadAll(ctx, "rotten", 0, 0)
	if err == nil {
		t.Error("damaged objects were read without an error")
	}
	for _, r := range recs {
		if n := number(r.Value); string(r.Value) != string(value(n, w.size)) {
			t.Fatalf("offset %d: damaged bytes were served", r.Offset)
		}
	}
	if b.Metric("firn_tiering_cold_corrupt_total") == 0 {
		t.Error("no metric counts the damage")
	}
}

// TestDamagedLogIsNeverServed flips a bit in the middle of a stopped broker's
// only copy: the partition is refused by name, others are served.
func TestDamagedLogIsNeverServed(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("damaged", 1, "retention.ms", "-1", "firn.ack.policy", "replicated")
	b.CreateTopic("sound", 1, "retention.ms", "-1")
	b.CreateTopic("healed", 1, "retention.ms", "-1")
	fill(t, b, "damaged", 200, 4096)
	sound, healed := fill(t, b, "sound", 200, 4096), fill(t, b, "healed", 200, 64)
	b.Kill()
	flip(t, find(t, filepath.Join(b.Data, "logs", "healed"), ".log")[0], -1)
	logs := find(t, filepath.Join(b.Data, "logs", "damaged"), ".log")
	if len(logs) != 1 {
		t.Fatalf("%d segments", len(logs))
	}
	flip(t, logs[0], -1)
	b.Start()
	sound.verify(t, b)
	healed.verify(t, b) // the journal had it
	if !strings.Contains(b.Output(), logs[0]) {
		t.Error("no log line names the damaged file")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if recs, err := b.TryReadAll(ctx, "damaged", 0, 0); err == nil {
		t.Errorf("%d records of a damaged log were read without an error", len(recs))
	}
}

// segments lists a topic's sealed segments and the active one, oldest first.
func segments(t *testing.T, b *firntest.Broker, topic string) []string {
	t.Helper()
	logs := find(t, filepath.Join(b.Data, "logs", topic), ".log")
	sort.Strings(logs)
	return logs
}

// TestDamagedSealedSegment flips a bit in a segment that was closed properly,
// long before the end: nobody looks at it at the start, so it must be noticed
// when it is read.
func TestDamagedSealedSegment(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("sealed", 1, "segment.bytes", "1048576", "retention.ms", "-1")
	w := fill(t, b, "sealed", 500, 8192)
	b.Stop()
	logs := segments(t, b, "sealed")
	if len(logs) < 3 {
		t.Fatalf("%d segments", len(logs))
	}
	flip(t, logs[1], -1)
	b.Start()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	recs, err := b.TryReadAll(ctx, "sealed", 0, 0)
	if err == nil {
		t.Error("a damaged segment was read without an error")
	}
	if len(recs) < 100 {
		t.Errorf("only %d records before the damage were read", len(recs))
	}
	for _, r := range recs {
		if string(r.Value) != string(value(number(r.Value), w.size)) {
			t.Fatalf("offset %d: damaged bytes were served", r.Offset)
		}
	}
	if !strings.Contains(b.Output(), logs[1]) {
		t.Error("no log line names the damaged file")
	}
}

// TestDamagedSegmentsHealFromTheStore does the same to every sealed segment of
// a tiered topic: the object store has them too, and readers notice nothing.
func TestDamagedSegmentsHealFromTheStore(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("healed", 1, "remote.storage.enable", "true", "segment.bytes", "1048576", "retention.ms", "-1")
	w := fill(t, b, "healed", 500, 8192)
	firntest.Eventually(t, "all sealed segments tiered", func() error {
		ps, err := b.Tier("healed")
		if err == nil && ps[0].LogEnd-ps[0].RemoteEnd > 140 {
			err = fmt.Errorf("tiered to %d of %d", ps[0].RemoteEnd, ps[0].LogEnd)
		}
		return err
	})
	b.Stop()
	logs := segments(t, b, "healed")
	for _, path := range logs[:len(logs)-1] {
		flip(t, path, -1)
	}
	b.Start()
	w.verify(t, b)
	if ps, err := b.Tier("healed"); err != nil || ps[0].LocalStart == 0 {
		t.Errorf("the damaged segments are still there: %+v %v", ps, err)
	}
}
