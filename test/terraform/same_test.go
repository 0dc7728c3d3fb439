package terraform

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// blocks gives the blocks of a kind in a module's file, by name.
func blocks(t *testing.T, cloud, file, kind string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "terraform", cloud, file))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, m := range regexp.MustCompile(`(?ms)^`+kind+` "(\w+)" \{\n(.*?)^\}`).FindAllStringSubmatch(string(data), -1) {
		all[m[1]] = m[2]
	}
	return all
}

// TestSameInputs compares the modules: the same names of inputs and outputs,
// and of the inputs that mean the same in both clouds the same types, defaults
// and refusals, so that a refusal that is tried on one of them holds for both.
func TestSameInputs(t *testing.T) {
	aws, gcp := blocks(t, "aws", "variables.tf", "variable"), blocks(t, "gcp", "variables.tf", "variable")
	differs := map[string]string{"tags": "labels"}
	var want []string
	for name := range aws {
		if other, ok := differs[name]; ok {
			name = other
		}
		want = append(want, name)
	}
	want = append(want, "local_ssds") // AWS's types say how many disks they have
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(gcp)); !slices.Equal(got, want) {
		t.Errorf("inputs: %v, want %v", got, want)
	}
	description := regexp.MustCompile(`(?m)^  description = .*\n`)
	same := func(s string) string { return description.ReplaceAllString(strings.ReplaceAll(s, "gs:", "s3:"), "") }
	for _, name := range []string{"name", "brokers", "members", "arch", "disk", "zones", "public", "allow_world", "client_cidrs", "metrics_cidrs",
		"bucket_prefix", "bucket_versioning", "binary", "broker_config", "spot"} {
		if aws[name] == "" || same(aws[name]) != same(gcp[name]) {
			t.Errorf("input %s is not the same in both modules:\n%s\n%s", name, same(aws[name]), same(gcp[name]))
		}
	}
	if a, g := slices.Sorted(maps.Keys(blocks(t, "aws", "outputs.tf", "output"))), slices.Sorted(maps.Keys(blocks(t, "gcp", "outputs.tf", "output"))); !slices.Equal(a, g) || len(a) < 9 {
		t.Errorf("outputs: %v on AWS, %v on Google Cloud", a, g)
	}
}
