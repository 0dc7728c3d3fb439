package minio_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/minio"
	"github.com/firnlog/firn/objectstore/storetest"
	"github.com/firnlog/firn/objectstore/storetest/s3suite"
	"github.com/firnlog/firn/objectstore/storetest/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, storetest.IgnoreLeaks()...) }

func TestServers(t *testing.T) {
	s3suite.Run(t, func(t testing.TB, srv servers.S3, addr, folder string) objectstore.Store {
		s, err := minio.Open(t.Context(), minio.Config{Bucket: srv.Bucket, Prefix: folder, Host: addr, AccessKey: srv.AccessKey, SecretKey: srv.SecretKey})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
