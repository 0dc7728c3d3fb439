package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// edit replaces text in one file of a suite's source: what the suite has
// fixed for an environment that is not ours. Both brokers get the same edits.
type edit struct {
	file     string
	old, new string
	times    int // old must be there exactly that often, so that a new version cannot pass by
}

// source is a Go module whose tests are run, at one version with one sum.
type source struct {
	module, version, sum string
	tags                 string
	edits                []edit
	keep                 string            // only this folder of the module is taken; empty: all
	files                map[string]string // further files by path: text of ours
	require              []string          // MODULE@VERSION in place of older ones that the module's go.mod has
}

// binary is one compiled test binary and the folder it must run in.
type binary struct {
	pkg, path, dir string
}

// cacheDir is where everything lands that is downloaded or built; FIRN_CACHE
// names it.
func cacheDir() (string, error) {
	if dir := os.Getenv("FIRN_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "firn"), err
}

// key names the folder of a source: another version, edit or compiler is
// another folder.
func (s *source) key() string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	if err := enc.Encode([]any{s.module, s.version, s.sum, s.tags, s.keep, s.files, s.require, runtime.Version()}); err != nil {
		panic(err) // strings only
	}
	for _, e := range s.edits {
		fmt.Fprintf(h, "%q %q %q %d\n", e.file, e.old, e.new, e.times)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// build copies the module from Go's module cache, edits the copy and compiles
// the tests of the packages. The copy's own go.mod and go.sum say which
// dependencies, and which bytes of them, are used.
func (s *source) build(ctx context.Context, name string, packages []string) ([]binary, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "suites", name+"-"+s.version+"-"+s.key())
	src := filepath.Join(dir, "src")
	if _, err := os.Stat(src); errors.Is(err, fs.ErrNotExist) {
		if err := s.copyTo(ctx, dir, src); err != nil {
			return nil, fmt.Errorf("source of %s: %w", name, err)
		}
	}
	var bins []binary
	for _, pkg := range packages {
		b := binary{pkg: pkg, dir: filepath.Join(src, pkg), path: filepath.Join(dir, strings.ReplaceAll(strings.Trim(pkg, "./")+".test", "/", "_"))}
		bins = append(bins, b)
		if _, err := os.Stat(b.path); err == nil {
			continue
		}
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", b.path, "-tags", s.tags, "./"+pkg)
		cmd.Dir = src
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("compile the tests of %s/%s: %w\n%s", s.module, pkg, err, out)
		}
	}
	return bins, nil
}

func (s *source) copyTo(ctx context.Context, dir, src string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	part, err := os.MkdirTemp(dir, ".src-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(part)
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", s.module+"@"+s.version)
	cmd.Dir = part // outside of any module
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go mod download: %w\n%s%s", err, out, stderr.Bytes())
	}
	var got struct{ Dir, Sum string }
	if err := json.Unmarshal(out, &got); err != nil {
		return err
	}
	if got.Sum != s.sum {
		return fmt.Errorf("%s@%s has sum %s, pinned is %s", s.module, s.version, got.Sum, s.sum)
	}
	if err := copyTree(got.Dir, part, s.keep); err != nil {
		return err
	}
	for name, text := range s.files {
		if err := os.WriteFile(filepath.Join(part, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, e := range s.edits {
		path := filepath.Join(part, e.file)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n := bytes.Count(text, []byte(e.old)); n != e.times {
			return fmt.Errorf("%s has %q %d times, not %d: look at the edit anew", e.file, e.old, n, e.times)
		}
		if err := os.WriteFile(path, bytes.ReplaceAll(text, []byte(e.old), []byte(e.new)), 0o644); err != nil {
			return err
		}
	}
	if len(s.require) > 0 {
		cmd := exec.CommandContext(ctx, "go", append([]string{"get"}, s.require...)...)
		cmd.Dir, cmd.Env = part, append(os.Environ(), "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go get: %w\n%s", err, out)
		}
	}
	return os.Rename(part, src)
}

// copyTree copies a module, writable; with keep only that folder and the
// module's own go.mod and go.sum.
func copyTree(from, to, keep string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if keep != "" && rel != "." && rel != keep && !strings.HasPrefix(rel, keep+string(filepath.Separator)) && rel != "go.mod" && rel != "go.sum" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, 0o644)
	})
}
