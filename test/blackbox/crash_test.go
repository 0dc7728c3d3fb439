package blackbox

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/test/firntest"
)

// writer produces numbered records for as long as it is let, over crashes of
// the broker, and remembers what was acknowledged where.
type writer struct {
	cl    *kgo.Client
	topic string
	size  int

	mu    sync.Mutex
	next  uint64
	acked map[int32]map[int64]uint64 // partition → offset → number
	errs  []error
}

func newWriter(b *firntest.Broker, topic string, size int) *writer {
	w := &writer{topic: topic, size: size, acked: map[int32]map[int64]uint64{}}
	w.cl = b.Client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(200), kgo.ProducerBatchMaxBytes(int32(max(64<<10, 2*size))),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }))
	return w
}

// value is a record's whole content, made from its number.
func value(n uint64, size int) []byte {
	v := make([]byte, size)
	binary.BigEndian.PutUint64(v, n)
	r := rand.New(rand.NewPCG(n, 1))
	for i := 8; i+8 <= size; i += 8 {
		binary.BigEndian.PutUint64(v[i:], r.Uint64())
	}
	return v
}

func number(v []byte) uint64 { return binary.BigEndian.Uint64(v) }

func (w *writer) send(ctx context.Context) {
	w.mu.Lock()
	n := w.next
	w.next++
	w.mu.Unlock()
	w.cl.Produce(ctx, &kgo.Record{Value: value(n, w.size)}, func(r *kgo.Record, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil {
			w.errs = append(w.errs, fmt.Errorf("record %d: %w", n, err))
			return
		}
		p := w.acked[r.Partition]
		if p == nil {
			p = map[int64]uint64{}
			w.acked[r.Partition] = p
		}
		if old, dup := p[r.Offset]; dup {
			w.errs = append(w.errs, fmt.Errorf("partition %d, offset %d: acknowledged for record %d and for %d", r.Partition, r.Offset, old, n))
		}
		p[r.Offset] = n
	})
}

// start sends until stop is called, which returns when everything sent was
// acknowledged.
func (w *writer) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			w.send(context.Background())
		}
	})
	return func() {
		t.Helper()
		cancel()
		wg.Wait()
		fctx, done := firntest.Context(t)
		defer done()
		if err := w.cl.Flush(fctx); err != nil {
			t.Fatal(err)
		}
	}
}

// verify reads every partition whole: each acknowledged record is at its
// offset, each record is there once, and offsets are dense.
func (w *writer) verify(t *testing.T, b *firntest.Broker) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, err := range w.errs {
		t.Error(err)
	}
	seen := map[uint64]string{}
	total := 0
	for p, acked := range w.acked {
		recs := b.ReadAll(w.topic, p, 0)
		at := map[int64]bool{}
		for i, r := range recs {
			if r.Offset != int64(i) {
				t.Fatalf("partition %d: offset %d at place %d", p, r.Offset, i)
			}
			n := number(r.Value)
			if string(r.Value) != string(value(n, w.size)) {
				t.Fatalf("partition %d, offset %d: the value is damaged", p, r.Offset)
			}
			where := fmt.Sprintf("partition %d, offset %d", p, r.Offset)
			if other, dup := seen[n]; dup {
				t.Errorf("record %d is at %s and at %s", n, other, where)
			}
			seen[n] = where
			if want, ok := acked[r.Offset]; ok && want != n {
				t.Errorf("%s: record %d was acknowledged here, %d is read", where, want, n)
			}
			at[r.Offset] = true
		}
		for o, n := range acked {
			if !at[o] {
				t.Errorf("partition %d, offset %d: acknowledged record %d is lost (the log ends at %d)", p, o, n, len(recs))
			}
		}
		total += len(acked)
	}
	if total < 100 {
		t.Errorf("only %d records were acknowledged: the test did not test much", total)
	}
	t.Logf("%d records acknowledged and read back", total)
}

// TestKillWhileEverythingMoves kills the broker again and again while records
// are produced, uploaded, committed and deleted locally.
func TestKillWhileEverythingMoves(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("moving", 3, "remote.storage.enable", "true", "segment.bytes", "1048576", "local.retention.ms", "1", "retention.ms", "-1")
	w := newWriter(b, "moving", 4096)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	stop := w.start(t)
	for range 8 {
		<-time.After(time.Duration(300+rnd.IntN(2500)) * time.Millisecond)
		b.Kill()
		b.Start()
	}
	stop()
	w.verify(t, b)
	b.AwaitCold("moving")
	w.verify(t, b)
	b.Stop()
	b.Start()
	w.verify(t, b)
}

// TestKillWhileJournaling kills the broker again and again while records are
// acknowledged by the journal, which is used up and used again meanwhile.
func TestKillWhileJournaling(t *testing.T) {
	b := firntest.Start(t, "--set", "firn.journal.bytes=134217728", "--set", "firn.ack.policy=fsync")
	b.CreateTopic("durable", 5, "segment.bytes", "4194304")
	w := newWriter(b, "durable", 32<<10)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	stop := w.start(t)
	syncs, checkpoints := 0.0, 0.0
	for range 6 {
		<-time.After(time.Duration(500+rnd.IntN(1500)) * time.Millisecond)
		syncs += b.Metric("firn_journal_syncs_total")
		checkpoints += b.Metric("firn_journal_checkpoints_total")
		b.Kill()
		b.Start()
	}
	stop()
	w.verify(t, b)
	t.Logf("%v syncs, %v checkpoints", syncs, checkpoints)
	if syncs == 0 || checkpoints == 0 {
		t.Error("the journal was not used, or not used up")
	}
	b.Stop()
	b.Start()
	w.verify(t, b)
	if n := b.Metric("firn_log_recovery_journal_bytes_total"); n > 0 {
		t.Errorf("after a clean stop %v bytes were taken from the journal", n)
	}
}

// TestCleanStopKeepsEverything stops and starts politely in mid-traffic.
func TestCleanStopKeepsEverything(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("plain", 2)
	w := newWriter(b, "plain", 512)
	stop := w.start(t)
	for range 3 {
		<-time.After(300 * time.Millisecond)
		b.Stop()
		b.Start()
	}
	stop()
	w.verify(t, b)
}
