package s3_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	mc "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/s3"
	"github.com/firnlog/firn/objectstore/storetest"
	"github.com/firnlog/firn/objectstore/storetest/servers"
)

var prefixes atomic.Int64

// open gives a store over a fresh prefix of the server's bucket.
func open(t testing.TB, srv servers.S3, addr string) objectstore.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), s3.Config{
		Bucket: srv.Bucket, Prefix: "run=" + string(rune('a'+prefixes.Add(1)%26)) + "/" + strings.ToLower(strings.Map(word, t.Name())),
		Endpoint: "http://" + addr, PathStyle: true, AccessKey: srv.AccessKey, SecretKey: srv.SecretKey,
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

func document(_ int, code string) string {
	return `<?xml version="1.0" encoding="UTF-8"?><Error><Code>` + code + `</Code><Message>no</Message></Error>`
}

func TestAnswers(t *testing.T) {
	storetest.RunAnswers(t, document, func(t testing.TB, addr string) objectstore.Store {
		return open(t, servers.S3{Bucket: "bucket", AccessKey: "a", SecretKey: "s"}, addr)
	})
}

// A missing bucket, or wrong keys, must not look like a missing object.
func TestWrongBucketAndKeys(t *testing.T) {
	srv := servers.MinIO(t)
	for name, tc := range map[string]struct {
		srv  servers.S3
		want error
	}{
		"bucket": {servers.S3{Host: srv.Host, AccessKey: srv.AccessKey, SecretKey: srv.SecretKey, Bucket: "no-such-bucket"}, objectstore.ErrNoBucket},
		"secret": {servers.S3{Host: srv.Host, AccessKey: srv.AccessKey, SecretKey: "wrong-secret", Bucket: srv.Bucket}, objectstore.ErrDenied},
		"access": {servers.S3{Host: srv.Host, AccessKey: "nobody", SecretKey: srv.SecretKey, Bucket: srv.Bucket}, objectstore.ErrDenied},
	} {
		s := open(t, tc.srv, srv.Host)
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
func TestNoUploadsLeft(t *testing.T) {
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
	s := open(t, srv, srv.Host)
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

// Region, endpoint and keys come from where the AWS tools look for them.
func TestConfiguration(t *testing.T) {
	srv := servers.MinIO(t)
	home := t.TempDir()
	for name, value := range map[string]string{"HOME": home, "AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_PROFILE": "", "AWS_ACCESS_KEY_ID": "",
		"AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": filepath.Join(home, "config"),
		"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(home, "credentials")} {
		t.Setenv(name, value)
	}
	if _, err := s3.Open(t.Context(), s3.Config{Bucket: "bucket"}); err == nil || !strings.Contains(err.Error(), "?region=") {
		t.Errorf("without a region: %v", err)
	}
	u, err := objectstore.ParseURL("s3://" + srv.Bucket + "/p?endpoint=" + srv.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	s, err := s3.Open(t.Context(), s3.FromURL(u))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	// Not a refusal: the instance's role may only be out of reach for a moment.
	_, err = s.Put(t.Context(), "k", strings.NewReader("x"), 1)
	want(t, "put without credentials", err, objectstore.ErrUnavailable)
	for path, content := range map[string]string{
		"credentials": "[firn]\naws_access_key_id=" + srv.AccessKey + "\naws_secret_access_key=" + srv.SecretKey + "\n",
		"config":      "[profile firn]\nregion=us-east-1\n",
	} {
		if err := os.WriteFile(filepath.Join(home, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("AWS_PROFILE", "firn")
	p, err := s3.Open(t.Context(), s3.FromURL(u))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if _, err := p.Put(t.Context(), "k", strings.NewReader("x"), 1); err != nil {
		t.Errorf("put with a profile: %v", err)
	}
	if p.String() != u.String() {
		t.Errorf("store is %s, want %s", p, u)
	}
	if _, err := s3.Open(t.Context(), s3.Config{Bucket: "bucket", Region: "x", PartSize: 1 << 20}); err == nil {
		t.Error("parts of 1 MiB were taken")
	}
}
