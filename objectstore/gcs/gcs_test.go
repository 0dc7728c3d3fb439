package gcs_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/gcs"
	"github.com/firnlog/firn/objectstore/storetest"
	"github.com/firnlog/firn/objectstore/storetest/servers"
)

func open(t testing.TB, srv servers.GCS, addr string) objectstore.Store {
	t.Helper()
	s, err := gcs.Open(t.Context(), gcs.Config{Bucket: srv.Bucket, Prefix: "run=1/" + strings.ToLower(strings.ReplaceAll(t.Name(), "#", "-")), Emulator: "http://" + addr})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, storetest.IgnoreLeaks()...) }

func TestFakeGCS(t *testing.T) {
	srv := servers.FakeGCS(t)
	t.Run("Store", func(t *testing.T) {
		storetest.Run(t, func(t testing.TB) objectstore.Store { return open(t, srv, srv.Host) })
	})
	t.Run("Network", func(t *testing.T) {
		storetest.RunNetwork(t, srv.Host, func(t testing.TB, addr string) objectstore.Store { return open(t, srv, addr) })
	})
}

func TestAnswers(t *testing.T) {
	storetest.RunAnswers(t, func(status int, _ string) string {
		return fmt.Sprintf(`{"error":{"code":%d,"message":"no","errors":[{"reason":"no","message":"no"}]}}`, status)
	}, func(t testing.TB, addr string) objectstore.Store { return open(t, servers.GCS{Bucket: "bucket"}, addr) })
}

// The variable that Google's own clients read is enough.
func TestEmulatorVariable(t *testing.T) {
	srv := servers.FakeGCS(t)
	for _, value := range []string{srv.Host, srv.Endpoint} {
		t.Setenv("STORAGE_EMULATOR_HOST", value)
		u, err := objectstore.ParseURL("gs://" + srv.Bucket + "/by-variable")
		if err != nil {
			t.Fatal(err)
		}
		s, err := gcs.Open(t.Context(), gcs.FromURL(u))
		if err != nil {
			t.Fatal(err)
		}
		if s.String() != u.String() {
			t.Errorf("store is %s, want %s", s, u)
		}
		key := strings.ReplaceAll(value, ":", "-")
		key = strings.ReplaceAll(key, "/", "")
		if _, err := s.Put(t.Context(), key, strings.NewReader("x"), 1); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestNoCredentials(t *testing.T) {
	t.Setenv("STORAGE_EMULATOR_HOST", "")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent.json")
	if s, err := gcs.Open(t.Context(), gcs.Config{Bucket: "bucket"}); err == nil {
		t.Errorf("opened %v", s)
	}
}

func TestMissingBucket(t *testing.T) {
	srv := servers.FakeGCS(t)
	srv.Bucket = "no-such-bucket"
	s := open(t, srv, srv.Host)
	defer func() { _ = s.Close() }()
	var err error
	for _, err = range s.List(t.Context(), "", "") {
	}
	if !errors.Is(err, objectstore.ErrNoBucket) {
		t.Errorf("list: %v", err)
	}
}
