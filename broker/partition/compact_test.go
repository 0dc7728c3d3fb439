package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/record"
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

// Producers, readers, look-ups, DeleteRecords, rolls and changes of settings
// go on while the partition is compacted again and again. Nobody meets an
// error or a record that was not written, and in the end, as after a restart,
// every key has its latest value and every producer its last sequence.
func TestCompactionBesideEverything(t *testing.T) {
	cfg := testConfig()
	cfg.Compact, cfg.DeleteOnRetention = true, true
	cfg.SegmentBytes, cfg.IndexIntervalBytes = 3000, 200
	dir := t.TempDir()
	p := open(t, dir, cfg, Deps{})
	const producers, batches, each, keys = 3, 120, 3, 20
	var mu sync.Mutex
	written := map[record.Offset]string{} // key=value
	batch := func(id int64, i int) (record.Batch, []string) {
		var recs []record.Record
		var kv []string
		for n := range each {
			k, v := fmt.Sprint((i*7+n*3+int(id))%keys), fmt.Sprintf("%d/%d/%d", id, i, n)
			recs = append(recs, record.Record{Timestamp: 1e12 + int64(i), Key: []byte(k), Value: []byte(v)})
			kv = append(kv, k+"="+v)
		}
		return produced(t, record.BatchSpec{ProducerID: id, Codec: record.Codec(i % 5), BaseSequence: int32(i * each)}, recs...), kv
	}
	check := func(recs []record.Record) {
		mu.Lock()
		defer mu.Unlock()
		for _, r := range recs {
			if want, ok := written[r.Offset]; ok && want != string(r.Key)+"="+string(r.Value) {
				t.Errorf("offset %d is %s=%s, was written as %s", r.Offset, r.Key, r.Value, want)
			}
		}
	}
	var writing, rest sync.WaitGroup
	stop := make(chan struct{})
	background := func(f func(i int) error) {
		rest.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := f(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for id := range int64(producers) {
		writing.Go(func() {
			for i := range batches {
				b, kv := batch(id, i)
				mu.Lock() // so that a reader finds what he reads in written
				res, err := p.Append(b, Client)
				for n, s := range kv {
					written[res.BaseOffset+record.Offset(n)] = s
				}
				mu.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	background(func(int) error {
		_, err := p.compact(t.Context(), time.Now(), 600, func(context.Context, int) error { return nil })
		if errors.Is(err, errNotCompacted) || errors.Is(err, commitlog.ErrStale) {
			err = nil
		}
		return err
	})
	background(func(i int) error {
		from := p.LogStart()
		recs, err := readFrom(p, from, 700+i%900)
		if errors.Is(err, kerr.OffsetOutOfRange) && p.LogStart() > from {
			err = nil
		}
		check(recs)
		return err
	})
	background(func(i int) error {
		ts := 1e12 + int64(i%batches)
		found, err := p.OffsetForTimestamp(t.Context(), ts, record.ReadUncommitted)
		if err == nil && found.Offset >= 0 && found.Timestamp < ts {
			err = fmt.Errorf("time %d is said to be at %+v", ts, found)
		}
		if _, merr := p.MaxTimestamp(t.Context()); err == nil {
			err = merr
		}
		return err
	})
	background(func(i int) error {
		c := cfg
		c.Compact = i%5 != 0
		p.SetConfig(c)
		if _, err := p.DeleteRecords(p.LogStart() + record.Offset(i%4)); err != nil && !errors.Is(err, kerr.OffsetOutOfRange) {
			return err
		}
		if _, err := p.RunRetention(time.Now()); err != nil {
			return err
		}
		return p.Roll()
	})
	writing.Wait()
	close(stop)
	rest.Wait()

	p.SetConfig(cfg)
	if err := p.Roll(); err != nil {
		t.Fatal(err)
	}
	latest := map[string]record.Offset{}
	for o, kv := range written {
		k, _, _ := strings.Cut(kv, "=")
		if o >= p.LogStart() {
			latest[k] = max(latest[k], o)
		}
	}
	verify := func(when string) {
		for end := record.Offset(-1); end < p.State().LogEnd; {
			if err := p.Sync(); err != nil {
				t.Fatal(err)
			}
			done, err := p.compact(t.Context(), time.Now(), 1<<20, func(context.Context, int) error { return nil })
			if err != nil {
				t.Fatal(when, err)
			}
			end = done.End
		}
		recs, err := readFrom(p, p.LogStart(), 1<<20)
		if err != nil {
			t.Fatal(when, err)
		}
		check(recs)
		if len(recs) != len(latest) {
			t.Errorf("%s: %d records are left of %d keys", when, len(recs), len(latest))
		}
		for _, r := range recs {
			if latest[string(r.Key)] != r.Offset {
				t.Errorf("%s: key %s is at %d, want %d", when, r.Key, r.Offset, latest[string(r.Key)])
			}
		}
		for id := range int64(producers) {
			b, _ := batch(id, batches-1)
			if res, err := p.Append(b, Client); err != nil || !res.Duplicate {
				t.Errorf("%s: the last batch of producer %d, sent again, gives %+v, %v", when, id, res, err)
			}
		}
	}
	verify("in the end")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open(t, dir, cfg, Deps{})
	defer p.Delete()
	verify("after a restart")
}
