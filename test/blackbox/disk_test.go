package blackbox

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/test/firntest"
)

// TestDiskFull fills the disk under logs and journal: produce is refused, reads
// and the process go on, nothing acknowledged is lost; with room again, produce
// goes on. It needs root, for a small tmpfs.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a tmpfs")
	}
	t.Run("replicated", func(t *testing.T) { diskFull(t, "replicated", "size=24m") })
	t.Run("fsync", func(t *testing.T) { diskFull(t, "fsync", "size=88m") }) // two files of the journal, and 24 MB
}

// smallDisk makes the broker's logs and journal folders of one disk, and gives
// where that is mounted.
func smallDisk(t *testing.T, b *firntest.Broker, size string) string {
	t.Helper()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, size); err != nil {
		t.Skipf("a tmpfs cannot be mounted here: %v", err)
	}
	mounted := []string{disk}
	t.Cleanup(func() {
		if b.Running() {
			b.Kill()
		}
		for _, dir := range slices.Backward(mounted) {
			syscall.Unmount(dir, syscall.MNT_DETACH)
		}
	})
	for _, name := range []string{"logs", "journal"} {
		from, to := filepath.Join(disk, name), filepath.Join(b.Data, name)
		for _, dir := range []string{from, to} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
			t.Skipf("a folder cannot be mounted here: %v", err)
		}
		mounted = append(mounted, to)
	}
	return disk
}

func diskFull(t *testing.T, policy, size string) {
	b := firntest.New(t)
	disk := smallDisk(t, b, size)
	b.Start()
	b.CreateTopic("full", 1, "retention.ms", "-1", "firn.ack.policy", policy)
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
		t.Fatal("80 MB went onto a disk of 24 MB for them")
	}
	t.Logf("refused with: %v", w.errs[0])
	w.errs = nil
	w.verify(t, b)

	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=200m"); err != nil {
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
