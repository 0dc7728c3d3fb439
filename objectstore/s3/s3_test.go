package s3_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/s3"
	"github.com/firnlog/firn/objectstore/storetest"
	"github.com/firnlog/firn/objectstore/storetest/s3suite"
	"github.com/firnlog/firn/objectstore/storetest/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, storetest.IgnoreLeaks()...) }

func TestServers(t *testing.T) {
	s3suite.Run(t, func(t testing.TB, srv servers.S3, addr, folder string) objectstore.Store {
		s, err := s3.Open(t.Context(), s3.Config{
			Bucket: srv.Bucket, Prefix: folder,
			Endpoint: "http://" + addr, PathStyle: true, AccessKey: srv.AccessKey, SecretKey: srv.SecretKey,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
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
	if !errors.Is(err, objectstore.ErrUnavailable) {
		t.Errorf("put without credentials: %v", err)
	}
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
