package main

import (
	"archive/tar"
	"bytes"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// file is a file or, with a slash at the end of its name, a folder in a tar.
type file struct {
	name string // without a leading slash
	mode int64
	uid  int // of user and group
	body []byte
	when time.Time // zero: 1970
}

// writeTar writes files in the order of their names, with the folders that they
// are in. The bytes depend on nothing else.
func writeTar(w io.Writer, files []file) error {
	all := map[string]file{}
	for _, f := range files {
		for dir := path.Dir(path.Clean(f.name)); dir != "."; dir = path.Dir(dir) {
			if _, there := all[dir+"/"]; !there {
				all[dir+"/"] = file{name: dir + "/", mode: 0o755}
			}
		}
		all[f.name] = f
	}
	sorted := []file{}
	for _, f := range all {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b file) int { return strings.Compare(a.name, b.name) })
	tw := tar.NewWriter(w)
	for _, f := range sorted {
		h := &tar.Header{Name: f.name, Mode: f.mode, Uid: f.uid, Gid: f.uid, Size: int64(len(f.body)), ModTime: f.when, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(0, 0)
		}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(f.body); err != nil {
			return err
		}
	}
	return tw.Close()
}

// newLayer makes a layer of an image, compressed with gzip, which every
// registry and engine takes.
func newLayer(files []file) (v1.Layer, error) {
	var b bytes.Buffer
	if err := writeTar(&b, files); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}
