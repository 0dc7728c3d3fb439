package partition

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/firnlog/firn/broker/commitlog"
)

// Closing a partition does not wait for a compaction that the rate of I/O
// holds up: that could be hours.
func TestCloseEndsAThrottledCompaction(t *testing.T) {
	cfg := testConfig()
	cfg.Compact = true
	p := open(t, t.TempDir(), cfg, Deps{})
	fill(t, p, 60, 2)
	c := NewCleaner(CleanerConfig{BytesPerSecond: 1e-3}, slog.New(slog.DiscardHandler), nil, func(f func(*Partition)) { f(p) })
	c.limit.AllowN(time.Now(), paceStep) // the burst is used up
	var work sync.WaitGroup
	work.Go(func() { c.compact(t.Context(), p, 1<<20) })
	for p.compacting.TryLock() { // bounded by the test's own deadline
		p.compacting.Unlock()
		<-time.After(time.Millisecond)
	}
	if err := p.Delete(); err != nil {
		t.Fatal(err)
	}
	work.Wait()
	if u := p.Uncleanable(); u != nil {
		t.Errorf("closing made it uncleanable: %v", u.Reason)
	}
}

// What passes by itself does not keep a partition from compaction for good.
func TestPassingErrorsOfCompaction(t *testing.T) {
	p := open(t, t.TempDir(), testConfig(), Deps{})
	defer p.Delete()
	for _, err := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, commitlog.ErrOutOfRange, commitlog.ErrStale, context.Canceled} {
		if p.judgeCompaction(fmt.Errorf("compacting: %w", err)) {
			t.Errorf("%v is taken to last", err)
		}
	}
	if !p.judgeCompaction(syscall.EIO) {
		t.Error("an I/O error is taken to pass")
	}
}
