package blackbox

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/test/firntest"
)

// TestDiskFull fills the disk under the logs: produce is refused, reads and
// the process go on, nothing acknowledged is lost; with room again, produce
// goes on. It needs root, for a small tmpfs.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a tmpfs")
	}
	b := firntest.New(t)
	logs := filepath.Join(b.Data, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", logs, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("a tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if b.Running() {
			b.Kill()
		}
		syscall.Unmount(logs, syscall.MNT_DETACH)
	})
	b.Start()
	b.CreateTopic("full", 1, "retention.ms", "-1")
	w := newWriter(b, "full", 8192)
	w.cl.Close()
	w.cl = b.Client(kgo.DefaultProduceTopic("full"), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(64<<10), kgo.MaxBufferedRecords(64),
		kgo.RecordRetries(3), kgo.RecordDeliveryTimeout(2*time.Second), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }))
	ctx, cancel := firntest.Context(t)
	defer cancel()
	refused := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.errs) > 0
	}
	for i := 0; i < 10_000 && !refused(); i++ {
		w.send(ctx)
	}
	w.cl.Flush(ctx)
	if !refused() {
		t.Fatal("80 MB went onto a disk of 24 MB")
	}
	t.Logf("refused with: %v", w.errs[0])
	w.errs = nil
	w.verify(t, b)

	if err := syscall.Mount("tmpfs", logs, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	cl := b.Client(kgo.DefaultProduceTopic("full"))
	firntest.Eventually(t, "produce with room again", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return cl.ProduceSync(ctx, &kgo.Record{Value: value(1<<40, 8192)}).FirstErr()
	})
	w.verify(t, b)
	b.Stop()
	b.Start()
	w.verify(t, b)
}
