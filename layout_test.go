package firn_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/firnlog/firn/"

// mayImport is the import direction: each folder and what of ours it may
// import outside of its tests. A folder that is missing here fails the test, so
// that a new package is a decision.
var mayImport = map[string][]string{
	"record":                   {},
	"cache":                    {"broker/disk", "record"},
	"objectstore":              {},
	"objectstore/s3":           {"objectstore", "objectstore/multipart"},
	"objectstore/gcs":          {"objectstore", "objectstore/multipart"},
	"objectstore/minio":        {"objectstore", "objectstore/multipart"},
	"objectstore/file":         {"objectstore"},
	"objectstore/faults":       {"objectstore"},
	"metastore":                {"record"},
	"tiering":                  {"objectstore", "cache", "metastore", "record"},
	"broker/disk":              {},
	"broker/commitlog":         {"broker/commitlog/journal", "broker/disk", "record"},
	"broker/commitlog/journal": {"broker/disk", "record"},
	"broker/replica":           {"record"},
	"broker/partition":         {"broker/commitlog", "broker/commitlog/journal", "broker/disk", "broker/replica", "record"},
	"broker/balance":           {"record"},
	"broker/controller":        {"broker/balance", "broker/replica", "metastore", "record"},
	"broker/throttle":          {},
	"broker/fetcher":           {"broker/replica", "broker/throttle", "record"},
	"broker/health":            {"broker/replica", "record"},
	"broker/group":             {"record"},
	"broker/wire":              {"record"},
	"broker/nearest":           {},
	"broker/topicconfig":       {"broker/nearest", "broker/partition", "record"},
	"broker/brokerconfig":      {"broker/nearest", "broker/topicconfig"},
	"broker/config":            {"broker/brokerconfig", "broker/nearest"},
	"broker/telemetry":         {"record"},
	"broker/api":               {"broker/balance", "broker/brokerconfig", "broker/telemetry", "broker/throttle", "broker/wire", "broker/partition", "broker/replica", "broker/controller", "broker/group", "broker/topicconfig", "metastore", "tiering", "record"},
	"broker":                   {"broker/api", "broker/balance", "broker/commitlog", "broker/commitlog/journal", "broker/disk", "broker/brokerconfig", "broker/wire", "broker/partition", "broker/replica", "broker/controller", "broker/fetcher", "broker/throttle", "broker/group", "broker/health", "broker/topicconfig", "metastore", "tiering", "cache", "objectstore", "record"},
	"objectstore/multipart":    {"objectstore"},
	"machine":                  {"objectstore", "packaging/systemd"},
	"terraform/cost":           {},
	"packaging/systemd":        {},
}

// freeImporters are folders whose job is to tie everything together, or which
// nothing ships: they may import what they need.
var freeImporters = []string{"cmd", "test", "bench", "tools", "objectstore/storetest", "broker/disk/disktest", "broker/wire/gen"}

// bannedNames are package names that say nothing of what is inside.
var bannedNames = []string{"util", "utils", "common", "helpers", "types", "misc", "shared"}

// onlyFrom are packages from outside that only some folders may import.
var onlyFrom = map[string][]string{
	"go.etcd.io/etcd/":                    {"metastore"},
	"github.com/aws/aws-sdk-go-v2":        {"objectstore/s3"},
	"cloud.google.com/go/storage":         {"objectstore/gcs"},
	"github.com/minio/minio-go/v7":        {"objectstore/minio", "objectstore/storetest"},
	"github.com/spf13/cobra":              {"cmd/firn"},
	"github.com/twmb/franz-go/pkg/kgo":    {"cmd/firn", "test", "bench"},
	"github.com/twmb/franz-go/pkg/kadm":   {"cmd/firn", "test", "bench"},
	"github.com/twmb/franz-go/pkg/kfake":  {},
	"github.com/nats-io/nats.go":          {"bench"},
	"github.com/parquet-go/parquet-go":    {"test"},
	"github.com/klauspost/compress/zstd":  {"record", "tiering"},
	"github.com/prometheus/client_golang": {},
	"math/rand":                           {}, // math/rand/v2 is the one
	"io/ioutil":                           {},
	"log":                                 {"broker/wire/gen"}, // log/slog elsewhere
}

type imports struct {
	file  string
	test  bool
	paths []string
}

func within(dir string, of []string) bool {
	return slices.ContainsFunc(of, func(p string) bool { return dir == p || strings.HasPrefix(dir, p+"/") })
}

// goFiles reads the imports of every Go file of the main module by folder.
func goFiles(t *testing.T) map[string][]imports {
	t.Helper()
	all := map[string][]imports{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "firn-data") {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != "." {
				return filepath.SkipDir // a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		in := imports{file: path, test: strings.HasSuffix(path, "_test.go")}
		for _, s := range f.Imports {
			p, _ := strconv.Unquote(s.Path.Value)
			in.paths = append(in.paths, p)
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		all[dir] = append(all[dir], in)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestImportDirection(t *testing.T) {
	seen := 0
	for dir, files := range goFiles(t) {
		if dir == "." || within(dir, freeImporters) {
			continue
		}
		allowed, known := mayImport[dir]
		if !known {
			t.Errorf("%s: no rule for this folder in layout_test.go: say what it may import", dir)
			continue
		}
		for _, f := range files {
			if f.test {
				continue
			}
			for _, p := range f.paths {
				local, ours := strings.CutPrefix(p, module)
				if !ours {
					continue
				}
				seen++
				if !slices.Contains(allowed, local) {
					t.Errorf("%s imports %s; %s may import only %v", f.file, local, dir, allowed)
				}
			}
		}
	}
	if seen == 0 {
		t.Error("no local import was seen: the test looks in the wrong place")
	}
}

func TestForbiddenPackages(t *testing.T) {
	for dir, files := range goFiles(t) {
		if base := filepath.Base(dir); slices.Contains(bannedNames, base) {
			t.Errorf("%s: a package called %q says nothing of what belongs in it", dir, base)
		}
		for _, f := range files {
			for _, p := range f.paths {
				for outside, homes := range onlyFrom {
					match := p == outside
					if strings.Contains(outside, ".") {
						match = match || strings.HasPrefix(p, strings.TrimSuffix(outside, "/")+"/")
					}
					if match && !f.test && !within(dir, homes) {
						t.Errorf("%s imports %s, which belongs to %v only", f.file, p, homes)
					}
				}
				if within(strings.TrimPrefix(p, module), []string{"objectstore/s3", "objectstore/gcs", "objectstore/minio", "objectstore/file"}) &&
					strings.HasPrefix(p, module) && !f.test && !within(dir, []string{"cmd", "test", "bench", strings.TrimPrefix(p, module)}) {
					t.Errorf("%s imports an object-store adapter; only cmd builds one", f.file)
				}
			}
		}
	}
}

// TestTopLevel keeps the top level as docs/architecture.md draws it.
func TestTopLevel(t *testing.T) {
	want := []string{"bench", "broker", "cache", "cmd", "docs", "machine", "metastore", "objectstore", "packaging", "record", "terraform", "test", "tiering", "tools", "spec"}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var extra []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && e.Name() != "bin" && e.Name() != "firn-data" && !slices.Contains(want, e.Name()) {
			extra = append(extra, e.Name())
		}
	}
	sort.Strings(extra)
	if len(extra) > 0 {
		t.Errorf("folders at the top level that docs/architecture.md does not draw: %v", extra)
	}
}
