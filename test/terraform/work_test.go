package terraform

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// region is where everything is made.
const region = "eu-central-1"

// work is a copy of terraform/ and a folder in it that Terraform runs in.
type work struct {
	t    *testing.T
	tf   string // the program
	top  string // the copy of terraform/
	dir  string // where it runs
	args []string
	env  []string
}

// newWork copies terraform/ and has dir, below it, initialised with providers
// of mirror only: nothing comes from a registry.
func newWork(t *testing.T, mirror, dir string) *work {
	t.Helper()
	w := &work{t: t, tf: terraformPath(t), top: filepath.Join(t.TempDir(), "terraform")}
	w.dir = filepath.Join(w.top, dir)
	if err := copyTree(w.top, filepath.Join(root, "terraform")); err != nil {
		t.Fatal(err)
	}
	rc := filepath.Join(t.TempDir(), "terraform.rc")
	conf := fmt.Sprintf("disable_checkpoint = true\nprovider_installation {\n  filesystem_mirror {\n    path = %q\n  }\n}\n", mirror)
	if err := os.WriteFile(rc, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); !strings.HasPrefix(name, "TF_") && !strings.HasPrefix(name, "AWS_") && !strings.HasPrefix(name, "GOOGLE_") {
			w.env = append(w.env, e)
		}
	}
	w.env = append(w.env, "TF_CLI_CONFIG_FILE="+rc, "TF_IN_AUTOMATION=1", "TF_INPUT=0", "AWS_EC2_METADATA_DISABLED=true")
	return w
}

// copyTree copies what git would know of: no state, no plugins.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(d.Name(), ".terraform") || strings.HasSuffix(d.Name(), ".tfstate") {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o644)
	})
}

// aws is a work whose AWS is the stand-in.
func (c *cloud) aws(t *testing.T, dir string) *work {
	t.Helper()
	p := awsMirror()
	if p.err != nil {
		missing(t, "%v", p.err)
	}
	w := newWork(t, p.mirror, dir)
	w.write("standin_override.tf", c.override(region))
	w.run("init")
	return w
}

func (c *cloud) override(region string) string {
	services := []string{"autoscaling", "ec2", "iam", "kms", "route53", "s3", "ssm", "sts"}
	var b strings.Builder
	fmt.Fprintf(&b, `provider "aws" {
  region                      = %q
  access_key                  = "test"
  secret_key                  = "test"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  endpoints {
`, region)
	for _, s := range services {
		fmt.Fprintf(&b, "    %s = %q\n", s, c.url)
	}
	b.WriteString("  }\n}\n")
	return b.String()
}

// write makes a file in the working folder.
func (w *work) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// edit replaces text that is there once in a file of the copy, until it is
// restored.
func (w *work) edit(name, old, with string) (restore func()) {
	w.t.Helper()
	path := filepath.Join(w.top, name)
	data, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	if n := strings.Count(string(data), old); n != 1 {
		w.t.Fatalf("%s has %q %d times: the test is behind the module", name, old, n)
	}
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	write(strings.Replace(string(data), old, with, 1))
	return func() { write(string(data)) }
}

// vars sets the inputs of plan, apply and destroy, as JSON.
func (w *work) vars(v map[string]any) {
	w.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("test.auto.tfvars.json", string(data))
}

func (w *work) try(args ...string) (stdout string, err error) {
	w.t.Helper()
	args = append(args, w.args...)
	if args[0] != "show" || args[1] != "-json" {
		args = append(args[:1:1], append([]string{"-no-color"}, args[1:]...)...)
	}
	// A test that is over still destroys what it made.
	ctx, cancel := context.WithTimeout(contextOfCleanup(w.t), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.tf, args...)
	var out, errOut bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = w.dir, w.env, &out, &errOut
	start := time.Now()
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("terraform %s: %w\n%s%s", strings.Join(args, " "), err, errOut.String(), out.String())
	}
	w.t.Logf("terraform %s: %.1f s", args[0], time.Since(start).Seconds())
	return out.String(), err
}

func (w *work) run(args ...string) string {
	w.t.Helper()
	out, err := w.try(args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// plan plans and gives the plan's JSON.
func (w *work) plan() *plan {
	w.t.Helper()
	w.run("plan", "-out=plan.bin")
	var p plan
	if err := json.Unmarshal([]byte(w.run("show", "-json", "plan.bin")), &p); err != nil {
		w.t.Fatal(err)
	}
	return &p
}

func (w *work) apply() { w.t.Helper(); w.run("apply", "-auto-approve") }

func (w *work) destroy() { w.t.Helper(); w.run("destroy", "-auto-approve") }

// contextOfCleanup outlives the test's own context, which ends before its
// clean-ups run.
func contextOfCleanup(t *testing.T) context.Context { return context.WithoutCancel(t.Context()) }
