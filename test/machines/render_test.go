package machines

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/firnlog/firn/machine"
)

const template = "../../terraform/boot/user-data.yaml.tftpl"

// render gives the user data of a machine, as Terraform renders it.
func render(t testing.TB, m machine.File) string {
	t.Helper()
	terraform, err := exec.LookPath("terraform")
	if err != nil {
		t.Skip("MISSING: terraform (https://developer.hashicorp.com/terraform/install): USER DATA IS NOT RENDERED")
	}
	object, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs(template)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(terraform, "console")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+os.DevNull, "CHECKPOINT_DISABLE=1")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("base64encode(templatefile(%q, { machine = jsondecode(base64decode(%q)) }))\n", path, base64.StdEncoding.EncodeToString(object)))
	out, err := cmd.Output()
	if err != nil {
		exit, _ := errors.AsType[*exec.ExitError](err)
		t.Fatalf("terraform console: %v\n%s%s", err, out, exit.Stderr)
	}
	text, err := base64.StdEncoding.DecodeString(strings.Trim(strings.TrimSpace(string(out)), `"`))
	if err != nil {
		t.Fatalf("terraform console says %q: %v", out, err)
	}
	return string(text)
}

// TestUserData renders the user data and looks at what is in it.
func TestUserData(t *testing.T) {
	for _, cloud := range []string{machine.AWS, machine.GCP} {
		t.Run(cloud, func(t *testing.T) {
			m := machineFile(cloud, 2, "m1")
			text := render(t, m)
			if n := len(text); !strings.HasPrefix(text, "#cloud-config\n") || n > 16<<10 {
				t.Errorf("%d bytes, beginning %q: AWS takes 16 KiB", n, text[:20])
			}
			var doc struct {
				WriteFiles []struct{ Path, Permissions, Encoding, Content string } `yaml:"write_files"`
				RunCmd     [][]string                                              `yaml:"runcmd"`
			}
			if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.WriteFiles) != 3 || len(doc.RunCmd) == 0 {
				t.Fatalf("%v in %s", err, text)
			}
			data, err := base64.StdEncoding.DecodeString(doc.WriteFiles[0].Content)
			if err != nil || doc.WriteFiles[0].Path != machine.Path {
				t.Fatalf("%s: %v", doc.WriteFiles[0].Path, err)
			}
			if got, err := machine.ParseFile(data); err != nil || got.Host != m.Host || got.Store != m.Store || got.Config["min.insync.replicas"] != "2" {
				t.Errorf("the machine file is %s: %v", data, err)
			}
			script := doc.WriteFiles[1]
			if strings.Contains(script.Content, "$${") {
				t.Error("an escape of the template is left in the script")
			}
			check := exec.Command("bash", "-n")
			check.Stdin = strings.NewReader(script.Content)
			if out, err := check.CombinedOutput(); err != nil || script.Permissions != "0755" {
				t.Errorf("the script, with permissions %s: %v\n%s", script.Permissions, err, out)
			}
		})
	}
}

// machineFile is what Terraform would write for a broker of the lab.
func machineFile(cloud string, id int, name string) machine.File {
	m := machine.File{
		Cluster: "lab", Cloud: cloud, Broker: int32(id), Machine: name, Rack: fmt.Sprintf("zone-%d", id), Host: hostOf(id),
		Seeds: []string{hostOf(1), hostOf(2), hostOf(3)}, Disk: machine.LocalDisk,
		Config: map[string]string{"min.insync.replicas": "2", "default.replication.factor": "3"},
	}
	m.Store = "gs://firn-test/firn"
	if cloud == machine.AWS {
		m.Store = "s3://firn-test/firn?region=us-east-1&endpoint=http://" + storeTCP
	}
	return m
}
