package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// licencesName is the file that has the licence of every module in the binary.
const licencesName = "THIRD-PARTY-LICENSES.txt"

// licenceFile are the names that Go modules give to licences and notices, which
// have to go wherever the binary goes.
var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying|notice|patents)([-._].*)?$`)

// module is one that is linked into firn.
type module struct {
	path, version string
	dir           string   // of the module
	packages      []string // folders of the packages that are linked, below dir
}

// licences gives the text of every licence and notice of the modules that firn
// is linked from, and of Go itself. A module without any is an error: what may
// not be passed on is not shipped.
func (r *release) licences(ctx context.Context) ([]byte, error) {
	mods, err := r.modules(ctx)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "Firn's binary contains the software below, each part under the terms that follow its name.\n")
	line := strings.Repeat("=", 80)
	for _, m := range mods {
		texts, err := m.licences()
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", m.path, m.version, err)
		}
		fmt.Fprintf(&b, "\n%s\n%s %s\n%s\n", line, m.path, m.version, line)
		for _, t := range texts {
			fmt.Fprintf(&b, "\n%s\n", bytes.TrimRight(t, "\n \t"))
		}
	}
	return b.Bytes(), nil
}

// modules lists what is linked on any of the architectures, by path, after Go's
// standard library.
func (r *release) modules(ctx context.Context) ([]*module, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	goroot, goversion, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	byPath := map[string]*module{}
	for _, arch := range arches {
		cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-f", "{{$p := .}}{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Version}}\t{{.Dir}}\t{{$p.Dir}}{{end}}{{end}}", "./cmd/firn")
		cmd.Dir, cmd.Env = r.root, goEnv(arch)
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go list for %s: %w", arch, err)
		}
		for line := range strings.Lines(string(out)) {
			f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			if len(f) != 4 {
				continue // of the standard library, or Firn's own
			}
			if byPath[f[0]] == nil {
				byPath[f[0]] = &module{path: f[0], version: f[1], dir: f[2]}
			}
			byPath[f[0]].packages = append(byPath[f[0]].packages, f[3])
		}
	}
	mods := []*module{}
	for _, m := range byPath {
		mods = append(mods, m)
	}
	slices.SortFunc(mods, func(a, b *module) int { return strings.Compare(a.path, b.path) })
	return append([]*module{{path: "Go standard library", version: goversion, dir: goroot}}, mods...), nil
}

// licences reads the licences of a module: those in its folder, and those in
// the folders of the packages that are linked, where code that was copied in
// has its own.
func (m *module) licences() ([][]byte, error) {
	dirs := []string{m.dir}
	for _, p := range m.packages {
		for ; len(p) > len(m.dir); p = filepath.Dir(p) {
			dirs = append(dirs, p)
		}
	}
	slices.Sort(dirs) // the module's own first
	var texts [][]byte
	for _, dir := range slices.Compact(dirs) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() || !licenceFile.MatchString(e.Name()) || filepath.Ext(e.Name()) == ".go" {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				return nil, err
			}
			if !slices.ContainsFunc(texts, func(t []byte) bool { return bytes.Equal(t, text) }) {
				texts = append(texts, text)
			}
		}
	}
	if len(texts) == 0 {
		return nil, fmt.Errorf("no licence in %s: it may not be passed on", m.dir)
	}
	return texts, nil
}
