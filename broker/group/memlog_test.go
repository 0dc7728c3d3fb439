package group

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errCrash = errors.New("crashed")

// memLog is a Log that keeps whatever Append returned for. With left ≥ 0, it
// dies after so many more appends and trims; the one at which it dies may or
// may not have been done.
type memLog struct {
	mu      sync.Mutex
	batches []record.Batch
	end     record.Offset
	left    int // -1: never dies
	dead    bool
	torn    bool  // at death: it was done, and its caller not told
	keep    int   // batches below the trim point that TrimTo leaves
	fail    error // Append's, once
	failIn  int   // if > 0: the so manieth Append from now fails, once
	trims   int
	gate    chan struct{} // if set, Append waits for it
}

func newMemLog() *memLog { return &memLog{left: -1} }

// step says whether the next change happens, and whether its caller lives.
func (l *memLog) step() (done, lives bool) {
	switch {
	case l.dead:
		return false, false
	case l.left == 0:
		l.dead = true
		return l.torn, false
	case l.left > 0:
		l.left--
	}
	return true, true
}

func (l *memLog) Append(b record.Batch) (record.Offset, error) {
	if l.gate != nil {
		<-l.gate
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fail; err != nil {
		l.fail = nil
		return -1, err
	}
	if l.failIn--; l.failIn == 0 {
		return -1, errCrash
	}
	done, lives := l.step()
	base := l.end
	if done {
		b.SetBaseOffset(base)
		l.batches = append(l.batches, bytes.Clone(b))
		l.end = b.LastOffset() + 1
	}
	if !lives {
		return -1, errCrash
	}
	return base, nil
}

func (l *memLog) Replay(ctx context.Context, fn func(record.Batch) error) error {
	l.mu.Lock()
	batches := l.batches
	l.mu.Unlock()
	for _, b := range batches {
		c := bytes.Clone(b)
		if err := fn(c); err != nil {
			return err
		}
		clear(c) // the batch need not stay valid
	}
	return ctx.Err()
}

func (l *memLog) TrimTo(o record.Offset) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	done, lives := l.step()
	if done {
		n := 0
		for n < len(l.batches) && l.batches[n].LastOffset() < o {
			n++
		}
		l.batches = l.batches[max(n-l.keep, 0):]
		l.trims++
	}
	if !lives {
		return errCrash
	}
	return nil
}

func (l *memLog) End() record.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// revive gives what a process that starts after the crash finds.
func (l *memLog) revive() *memLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &memLog{batches: l.batches, end: l.end, left: -1, keep: l.keep}
}

// put appends records by hand.
func (l *memLog) put(t *testing.T, recs ...record.Record) {
	t.Helper()
	for i := range recs {
		recs[i].Offset = record.Offset(i)
	}
	b, err := record.NewBatch(record.BatchSpec{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, recs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(b); err != nil {
		t.Fatal(err)
	}
}

func (l *hookLog) Replay(ctx context.Context, fn func(record.Batch) error) error {
	l.hook()
	b, err := encodeBatch([]entry{{group: "nobody"}}, time.UnixMilli(0)) // a tombstone
	if err != nil {
		return err
	}
	if err := fn(b); err != nil {
		return err
	}
	return l.memLog.Replay(ctx, fn)
}
