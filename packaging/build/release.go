package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// arches are what is built for, as Go names them.
var arches = []string{"amd64", "arm64"}

// homepage is where people are sent.
const homepage = "https://github.com/firnlog/firn"

// release is what one build is of.
type release struct {
	root           string    // folder of the sources, absolute
	version        string    // what firn version prints
	packageVersion string    // the same as a semantic version: MAJOR.MINOR.PATCH[-PRE][+META]
	revision       string    // of the commit; "" where there is no git
	when           time.Time // of the commit, UTC: the time of every file that is shipped
}

// newRelease asks git for the commit. Sources that are not in git are of
// SOURCE_DATE_EPOCH (seconds since 1970), which wins anyway, or of 1970.
func newRelease(ctx context.Context, root, version string) (*release, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(root, "cmd", "firn")); err != nil {
		return nil, fmt.Errorf("%s is not the folder of Firn's sources: name it with -root", root)
	}
	git := func(args ...string) string {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	epoch := git("log", "-1", "--format=%ct")
	if e := os.Getenv("SOURCE_DATE_EPOCH"); e != "" {
		epoch = e
	}
	sec, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil && epoch != "" {
		return nil, fmt.Errorf("SOURCE_DATE_EPOCH is %q: not a number of seconds", epoch)
	}
	commits, _ := strconv.Atoi(git("rev-list", "--count", "HEAD")) // 0 where there is no git
	pv, err := packageVersion(version, commits)
	if err != nil {
		return nil, err
	}
	return &release{root: root, version: version, packageVersion: pv, revision: git("rev-parse", "HEAD"), when: time.Unix(sec, 0).UTC()}, nil
}

var (
	semantic = regexp.MustCompile(`^v?([0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z][0-9A-Za-z.-]*)?)$`)
	sinceTag = regexp.MustCompile(`-([0-9]+)-g([0-9a-f]+)$`)
	hash     = regexp.MustCompile(`^[0-9a-f]{4,40}$`)
)

// packageVersion makes what `git describe --tags --always --dirty` says into a
// version that dpkg and rpm order as git does: v1.2.3 is 1.2.3, five commits
// later is 1.2.3+5.gHASH. Without any tag it is 0.0.0+COMMITS.gHASH, and 0.0.0+dev
// without git.
func packageVersion(describe string, commits int) (string, error) {
	rest, dirty := strings.CutSuffix(describe, "-dirty")
	base, meta := "0.0.0", []string(nil)
	if m := sinceTag.FindStringSubmatch(rest); m != nil {
		rest, meta = strings.TrimSuffix(rest, m[0]), []string{m[1], "g" + m[2]}
	}
	switch m := semantic.FindStringSubmatch(rest); {
	case m != nil:
		base = m[1]
	case meta == nil && hash.MatchString(rest):
		meta = []string{strconv.Itoa(commits), "g" + rest}
	case describe == "dev":
		meta = []string{"dev"}
	default:
		return "", fmt.Errorf("version %q: a tag has to be vMAJOR.MINOR.PATCH, or MAJOR.MINOR.PATCH, for packages to be ordered by it", describe)
	}
	if dirty {
		meta = append(meta, "dirty")
	}
	if meta != nil {
		base += "+" + strings.Join(meta, ".")
	}
	return base, nil
}

// tag is the version where no + may be: names of images, and of files that are
// fetched by URL.
func (r *release) tag() string { return strings.ReplaceAll(r.packageVersion, "+", "-") }

// binaryName is the file that a machine's fleet file may name.
func (r *release) binaryName(arch string) string { return "firn-" + r.tag() + "-linux-" + arch }

// binaries builds firn as the Makefile does, once for each architecture.
func (r *release) binaries(ctx context.Context, dir string) error {
	for _, arch := range arches {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+r.version,
			"-o", filepath.Join(dir, r.binaryName(arch)), "./cmd/firn")
		cmd.Dir, cmd.Env = r.root, goEnv(arch)
		if err := runQuiet(cmd); err != nil {
			return fmt.Errorf("linux/%s: %w", arch, err)
		}
	}
	return nil
}

// goEnv is what the go command is run with for an architecture.
func goEnv(arch string) []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOWORK=off")
}

// runQuiet runs cmd; what it prints is in the error if it fails.
func runQuiet(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// texts writes what is the same for all architectures into stage: completions
// of three shells, and the licences of what is linked into firn. The latter
// are shipped beside the packages, too.
func (r *release) texts(ctx context.Context, dir, stage string) error {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		cmd := exec.CommandContext(ctx, filepath.Join(dir, r.binaryName(runtime.GOARCH)), "completion", shell)
		if runtime.GOOS != "linux" {
			cmd = exec.CommandContext(ctx, "go", "run", "./cmd/firn", "completion", shell)
			cmd.Dir = r.root
		}
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("completion of %s: %w", shell, err)
		}
		if err := os.WriteFile(filepath.Join(stage, "completion."+shell), out, 0o644); err != nil {
			return err
		}
	}
	text, err := r.licences(ctx)
	if err != nil {
		return err
	}
	for _, d := range []string{dir, stage} {
		if err := os.WriteFile(filepath.Join(d, licencesName), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
