package minio_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/minio"
	"github.com/firnlog/firn/objectstore/storetest"
	"github.com/firnlog/firn/objectstore/storetest/servers"
)

var prefixes atomic.Int64

// open gives a store over a fresh prefix of the server's bucket.
func open(t testing.TB, srv servers.S3, addr string) objectstore.Store {
	t.Helper()
	s, err := minio.Open(t.Context(), minio.Config{
		Bucket: srv.Bucket, Prefix: "run=" + string(rune('a'+prefixes.Add(1)%26)) + "/" + strings.ToLower(strings.Map(word, t.Name())),
		Host: addr, AccessKey: srv.AccessKey, SecretKey: srv.SecretKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func word(r rune) rune {
	if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' {
		return r
	}
	return '-'
}

func conformance(t *testing.T, srv servers.S3) {
	t.Run("Store", func(t *testing.T) {
		storetest.Run(t, func(t testing.TB) objectstore.Store { return open(t, srv, srv.Host) })
	})
	t.Run("Network", func(t *testing.T) {
		storetest.RunNetwork(t, srv.Host, func(t testing.TB, addr string) objectstore.Store { return open(t, srv, addr) })
	})
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, storetest.IgnoreLeaks()...) }

func TestMinIO(t *testing.T)     { conformance(t, servers.MinIO(t)) }
func TestVersityGW(t *testing.T) { conformance(t, servers.VersityGW(t)) }
