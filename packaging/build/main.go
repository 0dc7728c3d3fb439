// Command build makes what Firn is shipped as, for linux on amd64 and arm64:
// the binaries, deb and rpm packages, one OCI image for both, a list of what is
// inside (SBOM), the licences of that, and checksums of it all.
//
//	build -root DIR -out DIR -version VERSION
//	build push -from FILE REFERENCE
//
// It is a module of its own, so that nothing of what it needs ends up in the
// broker's. What it makes depends on the commit, the version of Go and this
// module's go.sum alone: the same again gives the same bytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "push" {
		return runPush(ctx, args[1:], out)
	}
	fs := flag.NewFlagSet("build", flag.ContinueOnError)
	root := fs.String("root", "../..", "folder of the sources")
	dir := fs.String("out", "bin/packages", "folder for what is made; what is in it goes")
	version := fs.String("version", "dev", "what git describe says of the commit, and firn version will")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%q is too much; see build -help", fs.Args())
	}
	r, err := newRelease(ctx, *root, *version)
	if err != nil {
		return err
	}
	return r.build(ctx, *dir, out)
}

// build makes everything in a folder beside dir, which takes dir's place when
// all of it is there.
func (r *release) build(ctx context.Context, dir string, out io.Writer) error {
	began := time.Now()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := replaceable(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), ".packages-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(made)
	stage, err := os.MkdirTemp("", "firn-packages-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)

	fmt.Fprintf(out, "Firn %s (%s), for linux on amd64 and arm64\n", r.packageVersion, r.version)
	p := progress{out: out, dir: made}
	steps := []struct {
		what string
		do   func() error
	}{
		{"binaries", func() error { return r.binaries(ctx, made) }},
		{"licences and completions", func() error { return r.texts(ctx, made, stage) }},
		{"deb and rpm", func() error { return r.packages(made, stage) }},
		{"OCI image", func() error { return r.imageFile(made, stage) }},
		{"SBOM", func() error { return r.sboms(made) }},
		{"checksums", func() error { return writeSums(made) }},
	}
	for i, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.step(fmt.Sprintf("[%d/%d] %s", i+1, len(steps), s.what), s.do); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	if err := os.Chmod(made, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Rename(made, dir); err != nil {
		return err
	}
	fmt.Fprintf(out, "done in %.0f s: %s\n", time.Since(began).Seconds(), dir)
	return nil
}

// replaceable says whether all that is in dir may go: only what an earlier
// build has left, or nothing.
func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, sumsName)); err != nil {
		return fmt.Errorf("%s has files, and no %s of an earlier build: name another folder with -out", dir, sumsName)
	}
	return nil
}

// progress tells what is being made, and the size of each file that came.
type progress struct {
	out  io.Writer
	dir  string
	seen map[string]bool
}

func (p *progress) step(what string, do func() error) error {
	began := time.Now()
	fmt.Fprintln(p.out, what)
	if err := do(); err != nil {
		return err
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	if p.seen == nil {
		p.seen = map[string]bool{}
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if !p.seen[e.Name()] {
			fmt.Fprintf(p.out, "      %8.2f MB  %s\n", float64(info.Size())/1e6, e.Name())
		}
		p.seen[e.Name()] = true
	}
	fmt.Fprintf(p.out, "      %.1f s\n", time.Since(began).Seconds())
	return nil
}
