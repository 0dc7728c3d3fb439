package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// madeImage builds the image of a test's release, and gives its file and what
// is read back from that.
func madeImage(t *testing.T) (*release, string, v1.ImageIndex) {
	t.Helper()
	r, dir, stage := testRelease(t)
	if err := r.imageFile(dir, stage); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, r.imageName())
	index, err := openImage(path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return r, path, index
}

// images gives the images of index by architecture.
func images(t *testing.T, index v1.ImageIndex) map[string]v1.Image {
	t.Helper()
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]v1.Image{}
	for _, m := range list.Manifests {
		img, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if m.Platform == nil || m.Platform.OS != "linux" {
			t.Errorf("platform %v", m.Platform)
		}
		all[m.Platform.Architecture] = img
	}
	return all
}

// tree reads the files of an image, all layers on each other.
func tree(t *testing.T, img v1.Image) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, bodies := map[string]*tar.Header{}, map[string][]byte{}
	in := mutate.Extract(img)
	defer in.Close()
	for tr := tar.NewReader(in); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return headers, bodies
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		name := "/" + strings.TrimSuffix(h.Name, "/")
		headers[name], bodies[name] = h, body
	}
}

func TestImageIsTheSameTwice(t *testing.T) {
	sum := func() string {
		_, path, _ := madeImage(t)
		s, err := fileSum(path)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", s)
	}
	if a, b := sum(), sum(); a != b {
		t.Errorf("the same sources gave %s and %s", a, b)
	}
}

func TestImage(t *testing.T) {
	r, path, index := madeImage(t)
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	bases := map[string]bool{}
	all := images(t, index)
	if len(all) != len(arches) {
		t.Errorf("%d images", len(all))
	}
	for _, arch := range arches {
		img := all[arch]
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c := config.Config
		if config.OS != "linux" || config.Architecture != arch || !config.Created.Equal(r.when) {
			t.Errorf("%s: %s/%s of %v", arch, config.OS, config.Architecture, config.Created)
		}
		if c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/usr/bin/firn"}) || !slices.Equal(c.Cmd, []string{"start"}) || c.StopSignal != "SIGTERM" {
			t.Errorf("%s: %+v", arch, c)
		}
		if got := c.Labels["org.opencontainers.image.version"]; got != r.packageVersion {
			t.Errorf("%s: the label of the version is %q", arch, got)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 2 {
			t.Fatalf("%s: %d layers (%v)", arch, len(layers), err)
		}
		base, err := layers[0].Digest()
		if err != nil {
			t.Fatal(err)
		}
		bases[base.String()] = true
		checkTree(t, arch, img)

		// What an older Docker loads.
		tag, err := name.NewTag("firn:" + r.tag() + "-" + arch)
		if err != nil {
			t.Fatal(err)
		}
		old, err := tarball.ImageFromPath(path, &tag)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := old.ConfigName(); got != mustHash(t, img.ConfigName) {
			t.Errorf("%s: docker load gives the image %v", arch, got)
		}
	}
	if len(bases) != 1 {
		t.Errorf("the base is not the same for all architectures: %v", bases)
	}
}

func mustHash(t *testing.T, f func() (v1.Hash, error)) v1.Hash {
	t.Helper()
	h, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// checkTree looks for what a broker needs of a system, and for nothing that
// somebody in the container could write to or become.
func checkTree(t *testing.T, arch string, img v1.Image) {
	t.Helper()
	headers, bodies := tree(t, img)
	for name, h := range headers {
		owner := 0
		if name == "/var/lib/firn" {
			owner = imageUID
		}
		if h.Uid != owner || h.Gid != owner {
			t.Errorf("%s: %s belongs to %d:%d", arch, name, h.Uid, h.Gid)
		}
		if h.Mode&0o022 != 0 && name != "/tmp" || h.Mode&0o6000 != 0 {
			t.Errorf("%s: %s has mode %o", arch, name, h.Mode)
		}
	}
	if !bytes.HasPrefix(bodies["/usr/bin/firn"], []byte("not a program of "+arch+"\n")) || headers["/usr/bin/firn"].Mode != 0o755 {
		t.Errorf("the image of %s has another one's binary", arch)
	}
	if headers["/tmp"].Mode != 0o1777 || headers["/var/lib/firn"].Mode != 0o750 {
		t.Errorf("/tmp %o, /var/lib/firn %o", headers["/tmp"].Mode, headers["/var/lib/firn"].Mode)
	}
	if !strings.Contains(string(bodies["/etc/passwd"]), "\nfirn:x:65532:65532:") {
		t.Errorf("/etc/passwd:\n%s", bodies["/etc/passwd"])
	}
	pool := x509.NewCertPool()
	if certs := bodies["/etc/ssl/certs/ca-certificates.crt"]; !pool.AppendCertsFromPEM(certs) || bytes.Count(certs, []byte("BEGIN CERTIFICATE")) < 80 {
		t.Errorf("%s: %d certificates", arch, bytes.Count(certs, []byte("BEGIN CERTIFICATE")))
	}
	berlin, err := time.LoadLocationFromTZData("Europe/Berlin", bodies["/usr/share/zoneinfo/Europe/Berlin"])
	if err != nil {
		t.Fatal(err)
	}
	if _, offset := time.Date(2026, 7, 1, 0, 0, 0, 0, berlin).Zone(); offset != 7200 {
		t.Errorf("July in Berlin is %d s off", offset)
	}
}

// TestPush pushes to a registry and pulls again.
func TestPush(t *testing.T) {
	_, path, index := madeImage(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	to := strings.TrimPrefix(server.URL, "http://") + "/team/firn:1.2.3"
	var out bytes.Buffer
	if err := run(t.Context(), []string{"push", "-from", path, to}, &out); err != nil {
		t.Fatal(err)
	}
	want := mustHash(t, index.Digest)
	if got := out.String(); got != to+"@"+want.String()+"\n" {
		t.Errorf("push printed %q", got)
	}
	ref, err := name.ParseReference(to)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	if got := mustHash(t, pulled.Digest); got != want {
		t.Errorf("pulled %v, pushed %v", got, want)
	}
	if err := validate.Index(pulled); err != nil {
		t.Error(err)
	}
	for _, arch := range arches {
		img, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatal(err)
		}
		if c, err := img.ConfigFile(); err != nil || c.Architecture != arch {
			t.Errorf("asked for %s: %+v (%v)", arch, c, err)
		}
	}
	for _, args := range [][]string{{}, {"-from", path}, {"-from", path, "firn"}, {to}, {"-from", path + ".none", to}} {
		if err := run(t.Context(), append([]string{"push"}, args...), &out); err == nil {
			t.Errorf("push %q did not fail", args)
		}
	}
}
