package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const sample = `package sample

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestPasses(t *testing.T) { t.Log("fine") }

func TestFails(t *testing.T) {
	t.Log("on the way")
	t.Errorf("got %d", 3)
}

func TestSkips(t *testing.T) { t.Skip("no reason to run") }

func TestElsewhere(t *testing.T) { t.Fatal("skipped: the test needs 3 brokers") }

func TestHangs(t *testing.T) { time.Sleep(time.Hour) }

func TestPanics(t *testing.T) {
	var m map[string]int
	m["a"] = 1
}

func TestSecondTry(t *testing.T) {
	mark := filepath.Join(os.Getenv("SAMPLE_DIR"), "mark")
	if _, err := os.Stat(mark); err != nil {
		os.WriteFile(mark, nil, 0o644)
		t.Fatal("not yet")
	}
}

func TestSubtests(t *testing.T) {
	t.Run("good", func(t *testing.T) {})
	t.Run("bad", func(t *testing.T) { t.Error("bad luck") })
}

func TestParallel(t *testing.T) { t.Parallel() }
`

// A suite with a test that hangs and one that takes the process down still
// has an outcome for every test.
func TestGoTests(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module sample\n\ngo 1.26\n", "sample_test.go": sample} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(dir, "sample.test")
	build := exec.Command("go", "test", "-c", "-o", bin, ".")
	build.Dir, build.Env = dir, append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	g := &goTests{bin: binary{pkg: ".", path: bin, dir: dir}, env: []string{"SAMPLE_DIR=" + dir}, limit: 5 * time.Second, parallel: 2, tries: 2, log: log, oneTry: func(string) bool { return false }}
	results, err := g.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range results {
		got[r.Name] = string(r.Outcome) + ": " + r.Reason
	}
	want := map[string]string{
		"TestPasses":        "passed: ",
		"TestFails":         "failed: got 3",
		"TestSkips":         "skipped: no reason to run",
		"TestElsewhere":     "skipped: the test needs 3 brokers",
		"TestHangs":         "failed: no result after 5s",
		"TestPanics":        "failed: panic: assignment to entry in nil map [recovered, repanicked]",
		"TestSecondTry":     "passed: try 2; first: not yet",
		"TestSubtests/good": "passed: ",
		"TestSubtests/bad":  "failed: bad luck",
		"TestParallel":      "passed: ",
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s: %q, want %q", name, got[name], want[name])
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("further results: %v", got)
	}
}
