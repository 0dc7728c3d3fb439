package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Where there is no cargo Nisshi is left out with a reason, and the others are
// measured.
func TestNisshiIsSkippedWithoutCargo(t *testing.T) {
	r, dir := testRunner(t, options{rounds: 1, foreign: 1000})
	t.Setenv("FIRN_CACHE", t.TempDir())
	t.Setenv("PATH", "")
	w, err := write(t, "name: x\nsystems: [ideal, nisshi]\npartitions: 1\nidle: {batch: {size: 16KiB}, load: 1KB, for: 1ms}\nmust: [{metric: rss, of: ideal, over: nisshi, atMost: 1}, {metric: rss, of: ideal, atMost: 10000}]\n")
	if err != nil {
		t.Fatal(err)
	}
	all := []*Workload{w}
	if err := r.prepareServers(t.Context(), dir, all); err != nil {
		t.Fatal(err)
	}
	if len(w.Systems) != 1 || w.Systems[0] != "ideal" || len(w.Must) != 1 {
		t.Errorf("left are %v and %d bounds", w.Systems, len(w.Must))
	}
	if f := r.results.Failures; len(f) != 1 || f[0].System != "nisshi" || !strings.Contains(f[0].Error, "cargo") {
		t.Errorf("%+v", f)
	}
}

// What is in the cache is not built again, and is started as it wants.
func TestNisshiInTheCache(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("FIRN_CACHE", cache)
	t.Setenv("PATH", "")
	if _, err := newServer(t.Context(), "nisshi", t.TempDir()); !errors.Is(err, errNotHere) {
		t.Errorf("without a binary: %v", err)
	}
	bin := filepath.Join(cache, "tools", "nisshi-"+nisshiVersion, "bin", "nisshi")
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, engine := range map[string]string{"nisshi": "memory://nisshi/", "nisshi-sqlite": "sqlite://nisshi.db"} {
		sv, err := newServer(t.Context(), name, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		args, err := sv.command(t.TempDir())
		if got := strings.Join(args, " "); err != nil || got != bin+" broker --listener-url tcp://"+sv.addr()+" --advertised-listener-url tcp://"+sv.addr()+" --storage-engine "+engine {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}
