package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// imageName is the file with the image of all architectures.
func (r *release) imageName() string { return "firn-" + r.tag() + "-oci.tar" }

// imageFile writes the image as one file: an OCI layout, which podman, skopeo,
// containerd and Docker with its store load as a whole, and beside it the
// manifest.json by which older Dockers load it, as firn:VERSION-ARCH.
func (r *release) imageFile(dir, stage string) (err error) {
	index, err := r.imageIndex(dir, stage)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(stage, "layout-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	l, err := layout.Write(tmp, empty.Index)
	if err != nil {
		return err
	}
	if err := l.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": r.tag(),
		"io.containerd.image.name":          "docker.io/library/firn:" + r.tag(),
	})); err != nil {
		return err
	}
	manifest, err := r.dockerManifest(index)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "manifest.json"), manifest, 0o644); err != nil {
		return err
	}
	files, err := readFolder(tmp)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, r.imageName()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return writeTar(f, files)
}

// dockerManifest describes the images of index as `docker save` would.
func (r *release) dockerManifest(index v1.ImageIndex) ([]byte, error) {
	list, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	blob := func(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
	var all tarball.Manifest
	for _, m := range list.Manifests {
		img, err := index.Image(m.Digest)
		if err != nil {
			return nil, err
		}
		im, err := img.Manifest()
		if err != nil {
			return nil, err
		}
		d := tarball.Descriptor{Config: blob(im.Config.Digest), RepoTags: []string{"firn:" + r.tag() + "-" + m.Platform.Architecture}}
		for _, layer := range im.Layers {
			d.Layers = append(d.Layers, blob(layer.Digest))
		}
		all = append(all, d)
	}
	return json.Marshal(all)
}

// readFolder reads every file below dir.
func readFolder(dir string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		body, err := os.ReadFile(path)
		files = append(files, file{name: filepath.ToSlash(rel), mode: 0o644, body: body})
		return err
	})
	return files, err
}

// openImage unpacks what imageFile wrote into dir.
func openImage(path, dir string) (v1.ImageIndex, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := unpack(f, dir); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	outer, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	list, err := outer.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(list.Manifests) != 1 {
		return nil, fmt.Errorf("%s has %d images, 1 is wanted", path, len(list.Manifests))
	}
	return outer.ImageIndex(list.Manifests[0].Digest)
}

// unpack writes the files of a tar below dir, and nothing beside it.
func unpack(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // it holds a folder, nothing else
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(h.Name, "/")
		if h.Typeflag == tar.TypeDir {
			if err := root.MkdirAll(name, 0o755); err != nil {
				return err
			}
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return fmt.Errorf("%s is neither a file nor a folder", h.Name)
		}
		w, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(h.Mode).Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(w, tr)
		if err = errors.Join(err, w.Close()); err != nil {
			return err
		}
	}
}

// runPush copies an image into a registry, with the credentials that docker
// login or podman login left.
func runPush(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("push", flag.ContinueOnError)
	from := fs.String("from", "", "the image: firn-VERSION-oci.tar")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *from == "" || fs.NArg() != 1 {
		return errors.New("usage: build push -from FILE REGISTRY/NAME:TAG")
	}
	ref, err := name.ParseReference(fs.Arg(0), name.StrictValidation)
	if err != nil {
		return fmt.Errorf("the image needs a registry, a name and a tag: %w", err)
	}
	tmp, err := os.MkdirTemp("", "firn-image-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	index, err := openImage(*from, tmp)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push of %s: %w", ref, err)
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s@%s\n", ref, digest)
	return nil
}
