package blackbox

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/firnlog/firn/test/firntest"
)

func TestSecondFirnOnTheFolderIsRefused(t *testing.T) {
	b := firntest.Start(t)
	_, stderr, code := firntest.Run(t, "start", "--data", b.Data, "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if code == 0 {
		t.Fatal("a second firn started on the same folder")
	}
	if pid := fmt.Sprint(b.Pid()); !strings.Contains(stderr, pid) || !strings.Contains(stderr, b.Data) {
		t.Errorf("the refusal names neither the holder's pid %s nor the folder %s:\n%s", pid, b.Data, stderr)
	}
	if resp, err := http.Get("http://" + b.HTTP + "/readyz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the first broker is no longer ready: %v", err)
	}
	b.Kill()
	b.Start() // a lock left by a killed process is no lock
}

func TestStopAndStart(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("kept", 3, "retention.ms", "86400000")
	for _, path := range []string{"/healthz", "/metrics"} {
		resp, err := http.Get("http://" + b.HTTP + path)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("GET %s: %v %v", path, resp, err)
		}
		resp.Body.Close()
	}
	b.Stop()
	b.Start()
	out, stderr, code := firntest.Run(t, "topic", "describe", "kept", "--brokers", b.Kafka, "--output", "json")
	if code != 0 || !strings.Contains(out, "86400000") {
		t.Errorf("after a restart: exit code %d, %s %s", code, out, stderr)
	}
}

func TestWrongConfigurationStopsTheStart(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "firn.yaml")
	for name, c := range map[string]struct {
		yaml string
		args []string
		want []string
	}{
		"unknown key":     {"kafkaa: 127.0.0.1:1\n", nil, []string{file, "kafkaa", "kafka"}},
		"bad address":     {"kafka: nowhere\n", nil, []string{file, "kafka", "nowhere"}},
		"unknown store":   {"", []string{"--store", "s4://bucket"}, []string{"--store", "s4", "s3"}},
		"broken YAML":     {"kafka: [\n", nil, []string{file}},
		"file is missing": {"", []string{"--config", filepath.Join(dir, "absent.yaml")}, []string{"absent.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"start", "--data", filepath.Join(t.TempDir(), "d")}
			if c.yaml != "" {
				if err := os.WriteFile(file, []byte(c.yaml), 0o644); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--config", file)
			}
			_, stderr, code := firntest.Run(t, append(args, c.args...)...)
			if code == 0 {
				t.Fatal("it started")
			}
			for _, w := range c.want {
				if !strings.Contains(stderr, w) {
					t.Errorf("the error does not name %q:\n%s", w, stderr)
				}
			}
		})
	}
}

func TestPortInUseIsNamed(t *testing.T) {
	b := firntest.Start(t)
	_, stderr, code := firntest.Run(t, "start", "--data", filepath.Join(t.TempDir(), "d"), "--kafka", b.Kafka, "--http", "127.0.0.1:0")
	if code == 0 || !strings.Contains(stderr, b.Kafka) || !strings.Contains(stderr, "--kafka") {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
}
