package metastore

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/firnlog/firn/record"
)

// testCtx ends before the test binary's own deadline would dump everything.
func testCtx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// quiet logs warnings only.
var quiet = Deps{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}

func testConfig(dir string) Config {
	return Config{Dir: dir, BrokerID: 1, Host: "127.0.0.1", Port: 9092, HTTP: "127.0.0.1:9644", LeaseTTL: 10 * time.Second}
}

func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(testCtx(t), testConfig(dir), quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func openRegistered(t testing.TB, dir string) *Store {
	t.Helper()
	s := openStore(t, dir)
	if err := s.Register(testCtx(t)); err != nil {
		t.Fatal(err)
	}
	return s
}

func assign(n int) [][]record.BrokerID {
	a := make([][]record.BrokerID, n)
	for i := range a {
		a[i] = []record.BrokerID{1}
	}
	return a
}

func TestOpenIsQuick(t *testing.T) {
	dir := t.TempDir()
	for _, what := range []string{"empty folder", "second start"} {
		begin := time.Now()
		s, err := Open(testCtx(t), testConfig(dir), quiet)
		if err != nil {
			t.Fatal(err)
		}
		opened := time.Since(begin)
		if err := s.Register(testCtx(t)); err != nil {
			t.Fatal(err)
		}
		registered := time.Since(begin)
		results, rev, err := s.CreateTopics(testCtx(t), []TopicSpec{{Name: "t-" + what[:1], Assignment: assign(3)}})
		if err != nil || results[0].Err != nil {
			t.Fatal(err, results)
		}
		if err := s.WaitFor(testCtx(t), rev); err != nil {
			t.Fatal(err)
		}
		created := time.Since(begin)
		begin = time.Now()
		if err := s.Close(testCtx(t)); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: open %v, registered %v, first topic %v; close %v", what, opened, registered, created, time.Since(begin))
	}
}
