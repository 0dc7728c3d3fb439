package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sassoftware/go-rpmutils"
)

func TestPackageVersion(t *testing.T) {
	for _, c := range []struct {
		describe string
		commits  int
		want     string // "" for an error
	}{
		{"v1.2.3", 900, "1.2.3"},
		{"1.2.3", 900, "1.2.3"},
		{"v1.2.3-dirty", 900, "1.2.3+dirty"},
		{"v1.2.3-5-gabc1234", 900, "1.2.3+5.gabc1234"},
		{"v1.2.3-5-gabc1234-dirty", 900, "1.2.3+5.gabc1234.dirty"},
		{"v1.2.3-rc.1", 900, "1.2.3-rc.1"},
		{"v1.2.3-rc.1-7-gabc1234", 900, "1.2.3-rc.1+7.gabc1234"},
		{"c1b0423", 457, "0.0.0+457.gc1b0423"},
		{"c1b0423-dirty", 457, "0.0.0+457.gc1b0423.dirty"},
		{"dev", 0, "0.0.0+dev"},
		{"release-7", 457, ""},
		{"v1.2", 457, ""},
		{"", 457, ""},
		{"release-7-3-gabc1234", 457, ""},
	} {
		got, err := packageVersion(c.describe, c.commits)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q with %d commits: %q (%v), want %q", c.describe, c.commits, got, err, c.want)
		}
	}
}

// TestVersionsAscend asks dpkg and rpm's own rule whether a later commit's
// package is an upgrade: nfpm writes -PRE as ~PRE for both.
func TestVersionsAscend(t *testing.T) {
	dpkg, err := exec.LookPath("dpkg")
	if err != nil {
		t.Log("MISSING: dpkg: only rpm's rule is tried")
	}
	last, lastOf := "", ""
	for _, describe := range []string{"c1b0423", "1b0423c", "v0.1.0-rc.1", "v0.1.0-rc.1-3-gffff", "v0.1.0-rc.2", "v0.1.0", "v0.1.0-9-gffff", "v0.1.0-10-gaaaa", "v0.1.1", "v0.10.0", "v1.0.0"} {
		commits := map[string]int{"c1b0423": 99, "1b0423c": 100}[describe]
		v, err := packageVersion(describe, commits)
		if err != nil {
			t.Fatal(err)
		}
		v = strings.Replace(v, "-", "~", 1)
		if last != "" {
			if rpmutils.Vercmp(last, v) >= 0 {
				t.Errorf("rpm: %s (%s) is no upgrade from %s (%s)", v, describe, last, lastOf)
			}
			if dpkg != "" && exec.Command(dpkg, "--compare-versions", last, "lt", v).Run() != nil {
				t.Errorf("dpkg: %s (%s) is no upgrade from %s (%s)", v, describe, last, lastOf)
			}
		}
		last, lastOf = v, describe
	}
}

// testRelease is of these sources, at a fixed time, with binaries that are not
// programs, in a folder with its texts.
func testRelease(t *testing.T) (r *release, dir, stage string) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	r = &release{root: root, version: "v1.2.3-5-gabc1234", packageVersion: "1.2.3+5.gabc1234", revision: strings.Repeat("a", 40), when: time.Unix(1_700_000_000, 0).UTC()}
	dir, stage = t.TempDir(), t.TempDir()
	for _, arch := range arches {
		write(t, filepath.Join(dir, r.binaryName(arch)), strings.Repeat("not a program of "+arch+"\n", 1000))
	}
	for _, name := range []string{"completion.bash", "completion.zsh", "completion.fish", licencesName} {
		write(t, filepath.Join(stage, name), name)
	}
	return r, dir, stage
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestLicences looks for every module of the real binary.
func TestLicences(t *testing.T) {
	r, _, _ := testRelease(t)
	text, err := r.licences(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Go standard library go1.", "go.etcd.io/etcd/server/v3 v3.", "github.com/klauspost/compress v1.", "Apache License", "Redistribution and use in source and binary forms", "Permission is hereby granted"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("nothing of %q in %d bytes of licences", want, len(text))
		}
	}
	if _, err := (&module{path: "example.net/none", dir: t.TempDir()}).licences(); err == nil || !strings.Contains(err.Error(), "no licence") {
		t.Errorf("a module without a licence: %v", err)
	}
}

// TestReplaceable keeps -out from deleting what is not ours.
func TestReplaceable(t *testing.T) {
	dir := t.TempDir()
	if err := replaceable(dir); err != nil {
		t.Errorf("an empty folder: %v", err)
	}
	if err := replaceable(filepath.Join(dir, "none")); err != nil {
		t.Errorf("no folder: %v", err)
	}
	write(t, filepath.Join(dir, "letter.txt"), "dear")
	if err := replaceable(dir); err == nil {
		t.Error("a folder with somebody's files is taken for an earlier build's")
	}
	if err := writeSums(dir); err != nil {
		t.Fatal(err)
	}
	if err := replaceable(dir); err != nil {
		t.Errorf("an earlier build: %v", err)
	}
	sums, err := os.ReadFile(filepath.Join(dir, sumsName))
	if err != nil {
		t.Fatal(err)
	}
	// printf dear | sha256sum
	if want := "5f4d44dfaa1b1ed72a8a3e963500a05d0f55829ac42af044e33f39c9f6f71a3a  letter.txt\n"; string(sums) != want {
		t.Errorf("sums: %q, want %q", sums, want)
	}
}
