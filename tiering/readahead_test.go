package tiering

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/firnlog/firn/record"
)

// Readers that follow one another through n partitions, each read of all of
// them waiting for the last, keep about so many GETs under way, whatever a
// place in the order they have: a store that answers each after the same time
// is read as fast as by that many streams.
func TestReadaheadOfManyPartitions(t *testing.T) {
	for _, c := range []struct {
		partitions int
		objects    int // of each
		window     int // chunks
		streams    float64
	}{
		{1, 1, 16, 0.8 * 16}, // the first reads are without
		{1, 1, 32, 18},
		{1, 4, 128, 20.5}, // the share ends before the object: the index of the next is not waited for
		{2, 1, 16, 16},
		{4, 1, 16, 16},
		{4, 2, 32, 16},
		{16, 1, 16, 16},
	} {
		t.Run(fmt.Sprintf("%d partitions of %d objects, window %d", c.partitions, c.objects, c.window), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { readTogether(t, c.partitions, c.objects, c.window, c.streams) })
		})
	}
}

func readTogether(t *testing.T, partitions, objects, window int, streams float64) {
	const answers = 147 * time.Millisecond // 100 ms to the first byte and 4 MiB at 90 MB/s
	cfg := small
	cfg.TargetBytes, cfg.Readahead = 1<<20, int64(window*small.ChunkBytes)
	w := newWorld(t)
	up := w.manager(t, cfg)
	var logs []*memLog
	for p := range partitions {
		l := newLog(w, "a", record.PartitionID(p))
		attach(t, up, l, keepAll)
		logs = append(logs, l)
	}
	for range objects {
		for p, l := range logs {
			l.seal(t, rng(uint64(p)), 800/partitions/objects, 900, 0)
		}
		up.uploadAll()
	}
	up.Close(context.Background())
	m := w.manager(t, cfg)
	for _, l := range logs {
		l.dropLocal()
		attach(t, m, l, keepAll)
	}
	m.choresNow()
	w.hangAt(func(op, _ string) <-chan struct{} {
		ch := make(chan struct{})
		if op != "get" {
			close(ch)
			return ch
		}
		time.AfterFunc(answers, func() { close(ch) })
		return ch
	})
	blocks := 0
	for _, o := range w.objs {
		blocks += (len(o.data) + cfg.ChunkBytes - 1) / cfg.ChunkBytes
	}
	began := time.Now()
	at := make([]record.Offset, partitions)
	for left := partitions; left > 0; {
		left = 0
		var wg sync.WaitGroup
		for i, l := range logs {
			if at[i] >= l.end {
				continue
			}
			left++
			wg.Go(func() {
				spans, _, err := m.ReadCold(t.Context(), l.id, l.tp, at[i], cfg.ChunkBytes/4)
				if err != nil || len(spans) == 0 {
					t.Errorf("%v at %d: %d spans, %v", l.tp, at[i], len(spans), err)
					at[i] = l.end
					return
				}
				for rest := flat(t, spans); len(rest) > 0; {
					var b record.Batch
					if b, rest, err = record.Next(rest); err != nil {
						t.Error(err)
						return
					}
					at[i] = b.LastOffset() + 1
				}
				record.ReleaseSpans(spans)
			})
		}
		wg.Wait()
	}
	took := time.Since(began)
	time.Sleep(answers) // for what was read ahead and not asked for
	synctest.Wait()
	for _, l := range logs {
		if n := m.part(l.id, l.tp.Partition).ahead.Load(); n != 0 {
			t.Errorf("%v has %d chunks got ahead, and all was read", l.tp, n)
		}
	}
	if n, kept := len(m.cold.ahead), m.cold.kept.Load(); n != 0 || kept != 0 {
		t.Errorf("%d places are taken with no GET under way, %d chunks got ahead, and all was read", n, kept)
	}
	got := float64(blocks) * answers.Seconds() / took.Seconds()
	t.Logf("%d blocks in %v, as by %.1f streams", blocks, took, got)
	if got < streams {
		t.Errorf("%d blocks took %v, as long as with %.1f streams, want %.1f", blocks, took, got, streams)
	}
}
