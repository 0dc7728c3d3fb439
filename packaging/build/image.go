package main

import (
	"archive/zip"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// imageUID is the user and the group that the broker has in the image: no
// user of a usual machine, and the number that other images without a shell
// have for "nonroot".
const imageUID = 65532

// imageIndex makes the image: for each architecture a layer that only changes
// with Go's time zones and with the certificates, and one with the binary.
func (r *release) imageIndex(dir, stage string) (v1.ImageIndex, error) {
	base, err := baseFiles()
	if err != nil {
		return nil, err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range arches {
		firn, err := r.firnFiles(filepath.Join(dir, r.binaryName(arch)), stage)
		if err != nil {
			return nil, err
		}
		img, err := r.image(arch, base, firn)
		if err != nil {
			return nil, fmt.Errorf("image of %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	annotated, ok := mutate.Annotations(index, r.labels()).(v1.ImageIndex)
	if !ok {
		return nil, errors.New("an index with annotations is no index")
	}
	return annotated, nil
}

// labels are told by registries (https://specs.opencontainers.org/image-spec/annotations/).
func (r *release) labels() map[string]string {
	l := map[string]string{
		"org.opencontainers.image.title":         "firn",
		"org.opencontainers.image.description":   "Kafka-compatible broker with tiered storage",
		"org.opencontainers.image.version":       r.packageVersion,
		"org.opencontainers.image.created":       r.when.Format("2006-01-02T15:04:05Z"),
		"org.opencontainers.image.licenses":      "Apache-2.0",
		"org.opencontainers.image.url":           homepage,
		"org.opencontainers.image.source":        homepage,
		"org.opencontainers.image.documentation": homepage + "/blob/main/docs/deploy.md",
	}
	if r.revision != "" {
		l["org.opencontainers.image.revision"] = r.revision
	}
	return l
}

// image makes the image of one architecture: base below firn.
func (r *release) image(arch string, base, firn []file) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, part := range []struct {
		files []file
		what  string
	}{{base, "user, certificates, time zones"}, {firn, "firn " + r.version}} {
		layer, err := newLayer(part.files)
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{
			Layer:   layer,
			History: v1.History{Created: v1.Time{Time: r.when}, CreatedBy: "packaging/build", Comment: part.what},
		})
		if err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: r.when}
	config.Config = v1.Config{
		User:         fmt.Sprintf("%d:%d", imageUID, imageUID),
		Entrypoint:   []string{"/usr/bin/firn"},
		Cmd:          []string{"start"},
		Env:          []string{"PATH=/usr/bin", "FIRN_CONFIG=/etc/firn/firn.yaml"},
		WorkingDir:   "/var/lib/firn",
		Volumes:      map[string]struct{}{"/var/lib/firn": {}},
		ExposedPorts: map[string]struct{}{"9092/tcp": {}, "9644/tcp": {}},
		StopSignal:   "SIGTERM",
		Labels:       r.labels(),
	}
	return mutate.ConfigFile(img, config)
}

// baseFiles is what a static binary wants of a system: a user, a place to
// write, certificates to trust, time zones. Mozilla's certificates come from a
// module and time zones from the Go that builds, so that both are pinned and
// nothing is taken from the machine that builds.
func baseFiles() ([]file, error) {
	roots, err := certificates()
	if err != nil {
		return nil, err
	}
	files := []file{
		{name: "etc/passwd", mode: 0o644, body: fmt.Appendf(nil, "root:x:0:0:root:/root:/sbin/nologin\nfirn:x:%d:%d:Firn broker:/var/lib/firn:/sbin/nologin\n", imageUID, imageUID)},
		{name: "etc/group", mode: 0o644, body: fmt.Appendf(nil, "root:x:0:\nfirn:x:%d:\n", imageUID)},
		{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, body: roots},
		{name: "tmp/", mode: 0o1777},
		{name: "var/lib/firn/", mode: 0o750, uid: imageUID},
	}
	zones, err := timeZones()
	if err != nil {
		return nil, err
	}
	return append(files, zones...), nil
}

// firnFiles is what changes with each version.
func (r *release) firnFiles(binary, stage string) ([]file, error) {
	files := []file{}
	for _, f := range []struct {
		from, name string
		mode       int64
	}{
		{binary, "usr/bin/firn", 0o755},
		{filepath.Join(r.root, "packaging", "image", "firn.yaml"), "etc/firn/firn.yaml", 0o644},
		{filepath.Join(r.root, "LICENSE"), "usr/share/doc/firn/LICENSE", 0o644},
		{filepath.Join(stage, licencesName), "usr/share/doc/firn/" + licencesName, 0o644},
	} {
		body, err := os.ReadFile(f.from)
		if err != nil {
			return nil, err
		}
		files = append(files, file{name: f.name, mode: f.mode, body: body, when: r.when})
	}
	return files, nil
}

// certificates gives Mozilla's roots for TLS servers. A root that Mozilla
// trusts under a condition is left out: a file of certificates has no place
// for conditions.
func certificates() ([]byte, error) {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		cert, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			return nil, fmt.Errorf("a root certificate: %w", err)
		}
		fmt.Fprintf(&b, "# %s\n", cert.Subject)
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// timeZones gives the time zone database of the Go that builds.
func timeZones() ([]file, error) {
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	path := filepath.Join(strings.TrimSpace(string(goroot)), "lib", "time", "zoneinfo.zip")
	z, err := zip.OpenReader(path)
	if err != nil {
		return nil, fmt.Errorf("time zones: %w", err)
	}
	defer func() { _ = z.Close() }() // only read
	var files []file
	for _, f := range z.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		body, err := readZip(f)
		if err != nil {
			return nil, fmt.Errorf("%s in %s: %w", f.Name, path, err)
		}
		files = append(files, file{name: "usr/share/zoneinfo/" + f.Name, mode: 0o644, body: body})
	}
	return files, nil
}

func readZip(f *zip.File) ([]byte, error) {
	in, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return io.ReadAll(in)
}
