package systemd_test

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/packaging/systemd"
)

// directives reads a unit: every value of each directive, in order. Sections
// do not matter: no name of ours is in two of them.
func directives(t *testing.T, unit []byte) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for line := range strings.Lines(string(unit)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' || line[0] == '[' {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok || strings.HasSuffix(v, `\`) {
			t.Fatalf("not NAME=VALUE on one line: %q", line)
		}
		all[k] = append(all[k], v)
	}
	return all
}

// TestUnit holds the unit to what a broker and docs/deploy.md ask of it.
func TestUnit(t *testing.T) {
	unit := directives(t, systemd.Broker)
	for name, want := range map[string]string{
		"Type":                     "exec",
		"User":                     "firn",
		"ExecStart":                "firn start --config /etc/firn/firn.yaml",
		"EnvironmentFile":          "-/etc/firn/firn.env",
		"StateDirectory":           "firn",
		"Restart":                  "on-failure",
		"RestartPreventExitStatus": "2", // cmd/firn's exitUsage
		"KillSignal":               "SIGTERM",
		"NoNewPrivileges":          "yes",
		"ProtectSystem":            "strict",
		"CapabilityBoundingSet":    "",
		"WantedBy":                 "multi-user.target",
	} {
		if got := unit[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	stop, err := time.ParseDuration(strings.Join(unit["TimeoutStopSec"], ",") + "s")
	if err != nil || stop <= 3*metastore.DefaultLeaseTTL {
		t.Errorf("TimeoutStopSec is %q (%v): not well above the lease, %v", unit["TimeoutStopSec"], err, metastore.DefaultLeaseTTL)
	}
	for name, values := range unit {
		if strings.HasPrefix(name, "Standard") {
			t.Errorf("%s=%s: logs go to the journal, which is where systemd sends them by itself", name, values)
		}
	}
}

// TestUnitVerified asks systemd whether it understands every line.
func TestUnitVerified(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("MISSING: systemd-analyze (Debian: apt-get install systemd): the unit is not verified")
	}
	// firn need not be installed here: /bin/true stands in for it.
	unit := bytes.Replace(systemd.Broker, []byte("ExecStart=firn"), []byte("ExecStart=/bin/true"), 1)
	path := t.TempDir() + "/" + systemd.BrokerName
	if err := os.WriteFile(path, unit, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", path).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// The exposure level is a tenth of what is printed: 0 is best, 100 worst.
	// A broker needs the network, and that is most of what is left.
	out, err := exec.Command(analyze, "security", "--offline=true", "--threshold=20", "--no-pager", path).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: the exposure is above 2.0: %v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	t.Log(lines[len(lines)-1])
}
