package metastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/record"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"pgregory.net/rapid"
)

// Compaction keeps keepRevisions revisions and keepHistory of time, and never
// asks for more than that.
func TestCompactionTarget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := &keeper{}
		now, rev := time.Unix(1000, 0), int64(1)
		type past struct {
			at  time.Time
			rev int64
		}
		var history []past
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now = now.Add(rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 2 * time.Minute, 10 * time.Minute}).Draw(t, "pause"))
			rev += rapid.Int64Range(0, 3000).Draw(t, "writes")
			history = append(history, past{now, rev})
			target := k.target(now, rev)
			if target > rev-keepRevisions && target > 0 {
				t.Fatalf("compacts to %d at revision %d", target, rev)
			}
			for _, h := range history {
				if now.Sub(h.at) < keepHistory && h.rev < target {
					t.Fatalf("revision %d of %v ago goes with %d", h.rev, now.Sub(h.at), target)
				}
			}
			if len(k.samples) > maxSamples+2 {
				t.Fatalf("%d samples are kept", len(k.samples))
			}
		}
		now = now.Add(time.Hour)
		k.target(now, rev+5000)
		if target := k.target(now.Add(keepHistory), rev+5000); target != rev+5000-keepRevisions {
			t.Fatalf("after a quiet time %d may go at revision %d", target, rev+5000)
		}
	})
}

// logged collects log lines.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// When the database reaches its quota, writes fail with ErrNoSpace; looking
// after it makes room and writes work again. Nothing that was answered is lost.
func TestQuota(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) { testQuota(t, restart) })
	}
}

func testQuota(t *testing.T, restart bool) {
	ctx := testCtx(t)
	var log logged
	cfg := testConfig(t.TempDir())
	cfg.QuotaBytes = minQuotaBytes
	cfg.observeEvery = time.Hour // the test looks after it
	deps := Deps{Log: slog.New(slog.NewTextHandler(&log, nil))}
	s, err := Open(ctx, cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	if err := s.Register(ctx); err != nil {
		t.Fatal(err)
	}
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	value := bytes.Repeat([]byte{1}, MaxTierPointer)
	rev := int64(0)
	full := false
	for range 2 * minQuotaBytes / MaxTierPointer {
		next, err := s.CommitTierPointer(ctx, topic.ID, 0, rev, 0, value)
		if errors.Is(err, ErrNoSpace) {
			full = true
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		rev = next
	}
	if !full {
		t.Fatal("the quota was never reached")
	}
	if restart {
		if err := s.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(ctx, cfg, deps); err != nil {
			t.Fatal(err)
		}
		defer s.Close(ctx)
		if err := s.Register(ctx); err != nil {
			t.Fatal(err)
		}
	} else if err := s.look(ctx, &keeper{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitTierPointer(ctx, topic.ID, 0, rev, 0, []byte("after")); err != nil {
		t.Fatalf("after room was made: %v", err)
	}
	sameAsLoaded(t, s)
	for _, want := range []string{"more than half of its quota", "reached its quota", "can be changed again"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no line with %q:\n%s", want, log.String())
		}
	}
}

// Compaction drops history and keeps the newest values; the image goes on.
func TestCompact(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	rev := int64(0)
	for i := range keepRevisions + 200 {
		var err error
		if rev, err = s.CommitTierPointer(ctx, topic.ID, 0, rev, 0, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	k := &keeper{}
	now := time.Now()
	for _, at := range []time.Duration{0, keepHistory + time.Second} {
		if err := s.compact(ctx, k, now.Add(at)); err != nil {
			t.Fatal(err)
		}
	}
	if k.compacted != rev-keepRevisions {
		t.Fatalf("compacted to %d at %d", k.compacted, rev)
	}
	p, err := s.TierPointer(ctx, topic.ID, 0)
	if err != nil || p.Revision != rev {
		t.Fatalf("%+v, %v", p, err)
	}
	if done, err := s.defragmentOne(ctx, func(*MemberHealth) bool { return true }); err != nil || !done {
		t.Fatal(done, err)
	}
	sameAsLoaded(t, s)
	create(t, s, TopicSpec{Name: "b", Assignment: assign(3)})
	sameAsLoaded(t, s)
}

// A file that is mostly free space is rewritten, and only such a one.
func TestDefragment(t *testing.T) {
	ctx := testCtx(t)
	s := openRegistered(t, t.TempDir())
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	rev := int64(0)
	value := bytes.Repeat([]byte{1}, MaxTierPointer)
	for range 2 * defragFree / MaxTierPointer {
		var err error
		if rev, err = s.CommitTierPointer(ctx, topic.ID, 0, rev, 0, value); err != nil {
			t.Fatal(err)
		}
	}
	size := func() int64 {
		st, err := s.srv.cli.Status(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		return st.DbSize
	}
	k := &keeper{}
	before := metricDefrags.Get()
	if err := s.compact(ctx, k, time.Now()); err != nil {
		t.Fatal(err)
	}
	if metricDefrags.Get() != before {
		t.Fatal("a full file was rewritten")
	}
	if err := s.compactTo(ctx, k, rev); err != nil {
		t.Fatal(err)
	}
	// The next commit writes down what is free.
	if rev, err := s.CommitTierPointer(ctx, topic.ID, 0, rev, 0, value); err != nil {
		t.Fatal(rev, err)
	}
	for size() >= defragFree && ctx.Err() == nil { // etcd commits every 100 ms
		if err := s.compact(ctx, k, time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got := size(); got >= defragFree {
		t.Fatalf("the file still has %d bytes", got)
	}
	sameAsLoaded(t, s)
}

func TestZapBridge(t *testing.T) {
	var log logged
	bridge := zap.New(zapBridge{log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	bridge.Info("not for operators")
	for noise := range notForUs {
		bridge.Warn(noise)
	}
	if log.String() != "" {
		t.Fatalf("logged %q", log.String())
	}
	bridge.With(zap.String("member", "m1")).Warn("slow", zap.Int("ms", 5), zap.Error(errors.New("boom")))
	bridge.Error("broken", zap.Strings("urls", []string{"a", "b"}))
	for _, want := range []string{"level=WARN", "member=m1", "ms=5", "boom", "level=ERROR", "broken", "[a b]"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is missing in %q", want, log.String())
		}
	}
}

// etcd's files are synced, and it listens nowhere.
func TestEtcdConfig(t *testing.T) {
	c := solitary(t.TempDir(), DefaultQuotaBytes, slog.Default())
	if c.UnsafeNoFsync {
		t.Error("etcd does not sync")
	}
	if n := len(c.ListenPeerUrls) + len(c.ListenClientUrls) + len(c.ListenClientHttpUrls) + len(c.ListenMetricsUrls); n != 0 {
		t.Errorf("etcd listens at %d places", n)
	}
	if c.ClusterState != embed.ClusterStateFlagNew || c.MaxTxnOps != MaxTxnOps {
		t.Errorf("state %q, %d operations", c.ClusterState, c.MaxTxnOps)
	}
}

// A start that is cancelled leaves nothing running and no lock.
func TestOpenCancelled(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		ctx, cancel := context.WithTimeout(testCtx(t), time.Duration(i*i)*time.Millisecond/2)
		s, err := Open(ctx, testConfig(dir), Deps{Log: slog.New(slog.DiscardHandler)})
		cancel()
		if err == nil {
			s.Close(testCtx(t)) // it was quick
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	openRegistered(t, dir)
}

// An opened and closed store leaves no goroutine of ours or of etcd behind.
func TestNoGoroutineIsLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s, err := Open(testCtx(t), testConfig(t.TempDir()), quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Register(testCtx(t)); err != nil {
		t.Fatal(err)
	}
	topic := create(t, s, TopicSpec{Name: "a", Assignment: assign(1)})
	waitUnwatched, err := s.CommitTierPointer(testCtx(t), topic.ID, record.PartitionID(0), 0, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, waitUnwatched)
	if err := s.Close(testCtx(t)); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)
}
