// Package s3suite tries an adapter on servers that speak S3: the conformance
// suite on each, and what only they can get wrong.
package s3suite

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	mc "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/storetest"
	"github.com/firnlog/firn/objectstore/storetest/servers"
)

// Open gives a store of a folder in srv's bucket, reached at addr.
type Open func(t testing.TB, srv servers.S3, addr, folder string) objectstore.Store

// Run tries the adapter.
func Run(t *testing.T, open Open) {
	t.Run("MinIO", func(t *testing.T) { open.conformance(t, servers.MinIO(t)) })
	t.Run("VersityGW", func(t *testing.T) { open.conformance(t, servers.VersityGW(t)) })
	t.Run("Answers", open.answers)
	t.Run("WrongBucketAndKeys", open.wrongBucketAndKeys)
	t.Run("NoUploadsLeft", open.noUploadsLeft)
}

var folders atomic.Int64

// fresh gives a store over a folder that no other test uses.
func (o Open) fresh(t testing.TB, srv servers.S3, addr string) objectstore.Store {
	t.Helper()
	return o(t, srv, addr, "run="+string(rune('a'+folders.Add(1)%26))+"/"+strings.ToLower(strings.Map(word, t.Name())))
}

func word(r rune) rune {
	if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' {
		return r
	}
	return '-'
}

func (o Open) conformance(t *testing.T, srv servers.S3) {
	t.Run("Store", func(t *testing.T) {
		storetest.Run(t, func(t testing.TB) objectstore.Store { return o.fresh(t, srv, srv.Host) })
	})
	t.Run("Network", func(t *testing.T) {
		storetest.RunNetwork(t, srv.Host, func(t testing.TB, addr string) objectstore.Store { return o.fresh(t, srv, addr) })
	})
}

func document(_ int, code string) string {
	return `<?xml version="1.0" encoding="UTF-8"?><Error><Code>` + code + `</Code><Message>no</Message></Error>`
}

func (o Open) answers(t *testing.T) {
	storetest.RunAnswers(t, document, func(t testing.TB, addr string) objectstore.Store {
		return o.fresh(t, servers.S3{Bucket: "bucket", AccessKey: "a", SecretKey: "s"}, addr)
	})
}

// A missing bucket, or wrong keys, must not look like a missing object.
func (o Open) wrongBucketAndKeys(t *testing.T) {
	srv := servers.MinIO(t)
	for name, tc := range map[string]struct {
		srv  servers.S3
		want error
	}{
		"bucket": {servers.S3{Host: srv.Host, AccessKey: srv.AccessKey, SecretKey: srv.SecretKey, Bucket: "no-such-bucket"}, objectstore.ErrNoBucket},
		"secret": {servers.S3{Host: srv.Host, AccessKey: srv.AccessKey, SecretKey: "wrong-secret", Bucket: srv.Bucket}, objectstore.ErrDenied},
		"access": {servers.S3{Host: srv.Host, AccessKey: "nobody", SecretKey: srv.SecretKey, Bucket: srv.Bucket}, objectstore.ErrDenied},
	} {
		s := o.fresh(t, tc.srv, srv.Host)
		_, err := s.Put(t.Context(), "k", strings.NewReader("x"), 1)
		want(t, name+": put", err, tc.want)
		_, err = s.Put(t.Context(), "k", bytes.NewReader(make([]byte, 17<<20)), 17<<20)
		want(t, name+": large put", err, tc.want)
		_, err = s.Swap(t.Context(), "k", nil, "")
		want(t, name+": swap", err, tc.want)
		_, err = s.Swap(t.Context(), "k", nil, "0123")
		want(t, name+": swap over one", err, tc.want)
		_, err = s.GetRange(t.Context(), "k", 0, 1)
		want(t, name+": get", err, tc.want)
		_, err = s.Head(t.Context(), "k")
		want(t, name+": head", err, tc.want)
		want(t, name+": delete", s.Delete(t.Context(), "k"), tc.want)
		for _, err = range s.List(t.Context(), "", "") {
		}
		want(t, name+": list", err, tc.want)
		_ = s.Close()
	}
}

func want(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error is %v, want %v", what, err, want)
	}
}

// A Put in parts that fails leaves no upload behind that would be billed.
func (o Open) noUploadsLeft(t *testing.T) {
	srv := servers.MinIO(t)
	admin, err := mc.New(srv.Host, &mc.Options{Creds: credentials.NewStaticV4(srv.AccessKey, srv.SecretKey, ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	uploads := func() (n int) {
		for u := range admin.ListIncompleteUploads(context.Background(), srv.Bucket, "", true) {
			if u.Err != nil {
				t.Fatal(u.Err)
			}
			n++
		}
		return n
	}
	const size = 40 << 20
	s := o.fresh(t, srv, srv.Host)
	defer func() { _ = s.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := 0
	r := &spy{Reader: bytes.NewReader(make([]byte, size)), second: func() { seen = uploads(); cancel() }}
	_, err = s.Put(ctx, "cancelled", r, size)
	want(t, "put", err, context.Canceled)
	if seen != 1 {
		t.Errorf("%d uploads while the put ran, want 1: the test tried nothing", seen)
	}
	if _, err := s.Put(t.Context(), "taken", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	_, err = s.Put(t.Context(), "taken", bytes.NewReader(make([]byte, size)), size)
	want(t, "put of a taken key", err, objectstore.ErrExists)
	if n := uploads(); n != 0 {
		t.Errorf("%d uploads were left", n)
	}
}

// spy calls second when the beginning is read for the second time: checksums
// come first, then sending.
type spy struct {
	*bytes.Reader
	starts atomic.Int64
	second func()
}

func (r *spy) ReadAt(p []byte, off int64) (int, error) {
	if off == 0 && r.starts.Add(1) == 2 {
		r.second()
	}
	return r.Reader.ReadAt(p, off)
}
