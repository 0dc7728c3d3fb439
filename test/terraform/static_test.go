package terraform

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// folders of configuration, with the provider each of them needs.
var folders = []struct{ dir, cloud string }{
	{"aws", "aws"}, {"aws/examples/minimal", "aws"}, {"aws/examples/production", "aws"},
	{"gcp", "gcp"}, {"gcp/examples/minimal", "gcp"}, {"gcp/examples/production", "gcp"},
}

// local gives a work without a cloud behind it.
func local(t *testing.T, dir, cloud string) *work {
	t.Helper()
	if cloud == "gcp" {
		return google(t, dir, nil)
	}
	p := awsMirror()
	if p.err != nil {
		missing(t, "%v", p.err)
	}
	w := newWork(t, p.mirror, dir)
	w.run("init")
	return w
}

func TestFormat(t *testing.T) {
	cmd := exec.Command(terraformPath(t), "fmt", "-check", "-diff", "-recursive", filepath.Join(root, "terraform"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("terraform fmt: %v\n%s", err, out)
	}
}

func TestValidate(t *testing.T) {
	for _, f := range folders {
		t.Run(f.dir, func(t *testing.T) {
			if out := local(t, f.dir, f.cloud).run("validate"); strings.Contains(out, "Warning") {
				t.Errorf("%s", out)
			}
		})
	}
}

// TestModules runs the modules' own tests, with mocked providers.
func TestModules(t *testing.T) {
	for _, cloud := range []string{"aws", "gcp"} {
		t.Run(cloud, func(t *testing.T) {
			out := local(t, cloud, cloud).run("test")
			if !strings.Contains(out, " passed, 0 failed.") || strings.Contains(out, "0 passed") {
				t.Errorf("%s", out)
			}
			t.Log(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:])
		})
	}
}

func TestTFLint(t *testing.T) {
	cmd := exec.Command(filepath.Join(root, "tools", "build"), "tflint")
	cmd.Stderr = os.Stderr
	bin, err := cmd.Output()
	if err != nil {
		missing(t, "no tflint: %v", err)
	}
	conf := filepath.Join(t.TempDir(), "tflint.hcl")
	if err := os.WriteFile(conf, []byte("plugin \"terraform\" {\n  enabled = true\n  preset  = \"recommended\"\n}\nrule \"terraform_documented_variables\" {\n  enabled = true\n}\nrule \"terraform_documented_outputs\" {\n  enabled = true\n}\nrule \"terraform_naming_convention\" {\n  enabled = true\n}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		cmd := exec.Command(strings.TrimSpace(string(bin)), "--config="+conf, "--chdir="+filepath.Join(root, "terraform", f.dir), "--no-color")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("tflint %s: %v\n%s", f.dir, err, out)
		}
	}
}
