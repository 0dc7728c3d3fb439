package objectstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/faults"
	"github.com/firnlog/firn/objectstore/file"
	"github.com/firnlog/firn/objectstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dir(t testing.TB) objectstore.Store {
	t.Helper()
	s, err := file.Open(t.Context(), file.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var quick = objectstore.RetryConfig{Attempts: 4, Base: time.Microsecond, Max: time.Microsecond, Budget: 1e6}

func put(ctx context.Context, s objectstore.Store, key string, data []byte) (objectstore.Object, error) {
	return s.Put(ctx, key, bytes.NewReader(data), int64(len(data)))
}

func get(s objectstore.Store, key string, off, n int64) ([]byte, error) {
	rc, err := s.GetRange(context.Background(), key, off, n)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rc.Close() }()
	return io.ReadAll(rc)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Every decorator, and all of them together, is still a store.
func TestDecoratorsConform(t *testing.T) {
	storetest.Run(t, func(t testing.TB) objectstore.Store {
		flaky := faults.New(dir(t), 1,
			faults.Rule{Chance: 0.1, Effect: faults.Fail},
			faults.Rule{Ops: []faults.Op{faults.Put, faults.Delete}, Chance: 0.1, Effect: faults.FailAfter},
			faults.Rule{Ops: []faults.Op{faults.Get}, Chance: 0.1, Effect: faults.ShortBody, Bytes: 777},
			faults.Rule{Ops: []faults.Op{faults.Get}, Chance: 0.1, Effect: faults.BreakBody, Bytes: 12_345},
			faults.Rule{Ops: []faults.Op{faults.List}, Chance: 0.1, Effect: faults.Fail, Bytes: 7},
		)
		cfg := quick
		cfg.Attempts = 30
		return objectstore.WithMetrics(objectstore.WithRetry(objectstore.WithMetrics(flaky, "attempts"), cfg), "calls")
	})
}

func TestRetryCounts(t *testing.T) {
	for _, tc := range []struct {
		name  string
		rule  faults.Rule
		calls int
		ok    bool
	}{
		{"well", faults.Rule{Ops: []faults.Op{faults.List}}, 1, true},
		{"once", faults.Rule{Times: 1}, 2, true},
		{"three times", faults.Rule{Times: 3}, 4, true},
		{"always", faults.Rule{}, 4, false},
		{"denied", faults.Rule{Err: fmt.Errorf("head: %w", objectstore.ErrDenied)}, 1, false},
		{"short", faults.Rule{Times: 1, Err: io.ErrUnexpectedEOF}, 2, true},
		{"unknown", faults.Rule{Times: 1, Err: errors.New("what?")}, 2, true},
	} {
		inner := dir(t)
		_, err := put(t.Context(), inner, "k", []byte("v"))
		must(t, err)
		f := faults.New(inner, 1, tc.rule)
		_, err = objectstore.WithRetry(f, quick).Head(t.Context(), "k")
		if f.Calls(faults.Head) != tc.calls || (err == nil) != tc.ok {
			t.Errorf("%s: %d calls, %v; want %d", tc.name, f.Calls(faults.Head), err, tc.calls)
		}
		if err != nil && tc.rule.Err == nil && !errors.Is(err, faults.ErrInjected) {
			t.Errorf("%s: %v does not wrap its cause", tc.name, err)
		}
	}
}

func TestRetryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := faults.New(dir(t), 1, faults.Rule{Ops: []faults.Op{faults.Head}})
		s := objectstore.WithRetry(f, objectstore.RetryConfig{Attempts: 3, Base: time.Nanosecond, Max: time.Nanosecond, Budget: 10})
		for range 100 {
			if _, err := s.Head(t.Context(), "k"); err == nil {
				t.Fatal("no error")
			}
		}
		if n := f.Calls(faults.Head); n != 110 {
			t.Errorf("%d calls, want 100 and a budget of 10", n)
		}
		time.Sleep(4 * time.Second) // of the bubble's clock
		for range 100 {
			_, _ = s.Head(t.Context(), "k")
		}
		if n := f.Calls(faults.Head); n != 214 {
			t.Errorf("%d calls, want 100 and 4 seconds' budget more", n)
		}
	})
}

// The answer to a write was lost: the retry finds its own object.
func TestLostAnswers(t *testing.T) {
	for _, effect := range []faults.Effect{faults.FailAfter, faults.HangAfter} {
		f := faults.New(dir(t), 1)
		cfg := quick
		cfg.Timeout = 50 * time.Millisecond
		s := objectstore.WithRetry(f, cfg)
		data := storetest.Data(1, 3<<20)
		f.Set(faults.Rule{Ops: []faults.Op{faults.Put}, Times: 1, Effect: effect})
		obj, err := put(t.Context(), s, "k", data)
		must(t, err)
		if f.Calls(faults.Put) != 1 {
			t.Errorf("%d puts: the bytes were sent again", f.Calls(faults.Put))
		}
		if head, err := f.Head(t.Context(), "k"); err != nil || obj.ETag != head.ETag || obj.Size != head.Size {
			t.Errorf("put gave %+v, head %+v, %v", obj, head, err)
		}
		f.Set(faults.Rule{Ops: []faults.Op{faults.Swap}, Times: 1, Effect: effect})
		one, err := s.Swap(t.Context(), "p", []byte("one"), "")
		must(t, err)
		f.Set(faults.Rule{Ops: []faults.Op{faults.Swap}, Times: 1, Effect: effect})
		_, err = s.Swap(t.Context(), "p", []byte("two"), one.ETag)
		must(t, err)
	}
}

// Another's object is never taken for ours, not even one of the same size.
func TestLostRace(t *testing.T) {
	inner := dir(t)
	ours, theirs := storetest.Data(1, 5000), storetest.Data(2, 5000)
	_, err := put(t.Context(), inner, "k", theirs)
	must(t, err)
	f := faults.New(inner, 1)
	s := objectstore.WithRetry(f, quick)
	for _, rule := range []faults.Rule{{Ops: []faults.Op{faults.Put}, Times: 1}, {Ops: []faults.Op{faults.Head}}, {}} {
		rule.Times = 1
		f.Set(rule)
		if _, err := put(t.Context(), s, "k", ours); !errors.Is(err, objectstore.ErrExists) {
			t.Errorf("put: %v", err)
		}
		f.Set(rule)
		if _, err := s.Swap(t.Context(), "k", ours, ""); !errors.Is(err, objectstore.ErrExists) {
			t.Errorf("swap: %v", err)
		}
	}
	// The first attempt's answer counts, without any comparison: the same
	// bytes put twice are still a taken key.
	f.Set()
	if _, err := put(t.Context(), s, "k", theirs); !errors.Is(err, objectstore.ErrExists) {
		t.Errorf("put of the same bytes: %v", err)
	}
	got, err := get(inner, "k", 0, -1)
	must(t, err)
	if !bytes.Equal(got, theirs) {
		t.Error("the object was overwritten")
	}
}

func TestBodyGoesOn(t *testing.T) {
	data := storetest.Data(3, 2<<20)
	rapid.Check(t, func(rt *rapid.T) {
		f := faults.New(dir(t), rapid.Uint64().Draw(rt, "seed"))
		_, err := put(t.Context(), f, "k", data)
		must(t, err)
		size := int64(len(data))
		off := rapid.Int64Range(0, size).Draw(rt, "off")
		n := rapid.Int64Range(-1, size-off).Draw(rt, "n")
		f.Set(faults.Rule{Ops: []faults.Op{faults.Get}, Chance: 0.4, Effect: faults.Fail},
			faults.Rule{Ops: []faults.Op{faults.Get}, Chance: 0.7, Effect: faults.ShortBody, Bytes: rapid.Int64Range(100_000, 1<<20).Draw(rt, "short")})
		cfg := quick
		cfg.Attempts = 100
		got, err := get(objectstore.WithRetry(f, cfg), "k", off, n)
		if err != nil {
			rt.Fatal(err)
		}
		want := data[off:]
		if n >= 0 {
			want = want[:n]
		}
		if !bytes.Equal(got, want) {
			rt.Fatalf("%d+%d gave %d other bytes", off, n, len(got))
		}
	})
}

func TestBodyOfAChangedObject(t *testing.T) {
	f := faults.New(dir(t), 1)
	s := objectstore.WithRetry(f, quick)
	obj, err := s.Swap(t.Context(), "k", bytes.Repeat([]byte("a"), 1000), "")
	must(t, err)
	f.Set(faults.Rule{Ops: []faults.Op{faults.Get}, Times: 1, Effect: faults.ShortBody, Bytes: 500})
	rc, err := s.GetRange(t.Context(), "k", 0, -1)
	must(t, err)
	defer func() { _ = rc.Close() }()
	_, err = s.Swap(t.Context(), "k", bytes.Repeat([]byte("b"), 1000), obj.ETag)
	must(t, err)
	got, err := io.ReadAll(rc)
	if !errors.Is(err, objectstore.ErrChanged) || len(got) != 500 || bytes.ContainsRune(got, 'b') {
		t.Errorf("%d bytes %.10q…, %v", len(got), got, err)
	}
	if _, again := rc.Read(make([]byte, 1)); !errors.Is(again, objectstore.ErrChanged) {
		t.Errorf("reading on: %v", again)
	}
}

func TestBodyGivesUp(t *testing.T) {
	f := faults.New(dir(t), 1)
	_, err := put(t.Context(), f, "k", make([]byte, 1000))
	must(t, err)
	f.Set(faults.Rule{Ops: []faults.Op{faults.Get}, Effect: faults.ShortBody, Bytes: 0})
	if got, err := get(objectstore.WithRetry(f, quick), "k", 0, 1000); !errors.Is(err, io.ErrUnexpectedEOF) || len(got) != 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := f.Calls(faults.Get); n != quick.Attempts {
		t.Errorf("%d gets, want %d", n, quick.Attempts)
	}
}

// Hanging calls end by their own deadline; the caller's context still lives.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := faults.New(dir(t), 1)
		_, err := put(t.Context(), f, "k", make([]byte, 1000))
		must(t, err)
		s := objectstore.WithRetry(f, objectstore.RetryConfig{Attempts: 3, Timeout: time.Second, Stall: 2 * time.Second, Total: time.Hour})
		f.Set(faults.Rule{Effect: faults.Hang})
		from := time.Now()
		for name, call := range calls(s) {
			if err := call(t.Context()); !errors.Is(err, objectstore.ErrTimeout) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if d := time.Since(from); d < 6*3*time.Second || d > 6*4*time.Second {
			t.Errorf("6 calls of 3 attempts of a second took %v of the bubble's clock", d)
		}
		f.Set(faults.Rule{Ops: []faults.Op{faults.Get}, Effect: faults.StallBody, Bytes: 10, Times: 1})
		got, err := get(s, "k", 0, -1)
		if err != nil || len(got) != 1000 {
			t.Errorf("after one stall: %d bytes, %v", len(got), err)
		}
		f.Set(faults.Rule{Ops: []faults.Op{faults.Get}, Effect: faults.StallBody})
		if _, err = get(s, "k", 0, -1); !errors.Is(err, objectstore.ErrTimeout) {
			t.Errorf("stalling for ever: %v", err)
		}
		// The caller's own deadline keeps its name.
		f.Set(faults.Rule{Effect: faults.Hang})
		for name, call := range calls(s) {
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s with a deadline: %v", name, err)
			}
			cancel()
		}
	})
}

func calls(s objectstore.Store) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"put":    func(ctx context.Context) error { _, err := put(ctx, s, "n", []byte("x")); return err },
		"swap":   func(ctx context.Context) error { _, err := s.Swap(ctx, "n", nil, ""); return err },
		"get":    func(ctx context.Context) error { _, err := s.GetRange(ctx, "k", 0, 1); return err },
		"head":   func(ctx context.Context) error { _, err := s.Head(ctx, "k"); return err },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, "k") },
		"list": func(ctx context.Context) error {
			for _, err := range s.List(ctx, "", "") {
				return err
			}
			return nil
		},
	}
}

// Total bounds a call however many attempts are left.
func TestTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := faults.New(dir(t), 1, faults.Rule{Effect: faults.Hang})
		s := objectstore.WithRetry(f, objectstore.RetryConfig{Attempts: 1000, Timeout: time.Second, Total: 10 * time.Second, Budget: 1e6})
		from := time.Now()
		if _, err := s.Head(t.Context(), "k"); !errors.Is(err, objectstore.ErrTimeout) {
			t.Errorf("head: %v", err)
		}
		if d := time.Since(from); d > 16*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func TestListGoesOn(t *testing.T) {
	f := faults.New(dir(t), 1)
	var want []string
	for i := range 50 {
		key := fmt.Sprintf("a/%02d", i)
		_, err := put(t.Context(), f, key, nil)
		must(t, err)
		want = append(want, key)
	}
	f.Set(faults.Rule{Ops: []faults.Op{faults.List}, Chance: 0.7, Effect: faults.Fail, Bytes: 5})
	var got []string
	for obj, err := range objectstore.WithRetry(f, quick).List(t.Context(), "a/", "") {
		must(t, err)
		got = append(got, obj.Key)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("listed %q", got)
	}
	if f.Hits() == 0 {
		t.Error("no page failed: the test tried nothing")
	}
}

func TestMetrics(t *testing.T) {
	f := faults.New(dir(t), 1)
	s := objectstore.WithRetry(objectstore.WithMetrics(f, `test"1`), quick)
	_, err := put(t.Context(), s, "k", make([]byte, 1000))
	must(t, err)
	_, err = s.Swap(t.Context(), "p", make([]byte, 10), "")
	must(t, err)
	_, err = get(s, "k", 100, 200)
	must(t, err)
	f.Set(faults.Rule{Ops: []faults.Op{faults.Head}, Times: 1})
	_, err = s.Head(t.Context(), "k")
	must(t, err)
	_, _ = get(s, "none", 0, 1)
	for range s.List(t.Context(), "", "") {
	}
	must(t, s.Delete(t.Context(), "k"))
	got, ok := objectstore.ReadStats(s)
	want := objectstore.Stats{Puts: 1, Swaps: 1, Gets: 2, Heads: 2, Lists: 1, Deletes: 1, Errors: 2, BytesRead: 200, BytesWritten: 1010}
	if !ok || got != want {
		t.Errorf("stats %+v, %v; want %+v", got, ok, want)
	}
	if d := got.Sub(objectstore.Stats{Heads: 1}); d.Heads != 1 || d.Calls() != 7 {
		t.Errorf("difference %+v", d)
	}
	if _, ok := objectstore.ReadStats(f); ok {
		t.Error("stats of a store that is not metered")
	}
	var page strings.Builder
	metrics.WritePrometheus(&page, false)
	for _, line := range []string{
		`firn_objectstore_requests_total{store="test_1",op="head"} 2`,
		`firn_objectstore_errors_total{store="test_1",op="head",kind="unavailable"} 1`,
		`firn_objectstore_errors_total{store="test_1",op="get",kind="not_found"} 1`,
		`firn_objectstore_bytes_total{store="test_1",dir="read"} 200`,
		`firn_objectstore_bytes_total{store="test_1",dir="written"} 1010`,
		`firn_objectstore_inflight{store="test_1"} 0`,
		`firn_objectstore_duration_seconds_count{store="test_1",op="put"} 1`,
	} {
		if !strings.Contains(page.String(), line+"\n") {
			t.Errorf("metrics lack %s", line)
		}
	}
}

func TestFaultsFlipBit(t *testing.T) {
	f := faults.New(dir(t), 1)
	data := storetest.Data(1, 1000)
	_, err := put(t.Context(), f, "k", data)
	must(t, err)
	f.Set(faults.Rule{Ops: []faults.Op{faults.Get}, Effect: faults.FlipBit, Bytes: 700, Skip: 1, Times: 1})
	for i, flipped := range []bool{false, true, false} {
		got, err := get(f, "k", 0, -1)
		must(t, err)
		want := bytes.Clone(data)
		if flipped {
			want[700] ^= 1
		}
		if !bytes.Equal(got, want) {
			t.Errorf("read %d: flipped as wanted: no", i)
		}
	}
}
