package gcs_test

import (
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
