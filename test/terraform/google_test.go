package terraform

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/firnlog/firn/machine"
)

// The package that the schemas come from, and the provider that it was made of.
const (
	cdktfGoogle   = "@cdktf/provider-google@16.12.1"
	googleVersion = "6.50.0"
)

// googleMirror makes the stand-in provider, once for each state of its code.
var googleMirror = sync.OnceValues(func() (dir string, err error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	pkg := filepath.Join(cache, "data", "cdktf-provider-google-16.12.1.tgz")
	if _, err := os.Stat(pkg); err != nil {
		npm, err := exec.LookPath("npm")
		if err != nil {
			return "", fmt.Errorf("no npm on the PATH, which gets %s: %w", cdktfGoogle, err)
		}
		if err := os.MkdirAll(filepath.Dir(pkg), 0o755); err != nil {
			return "", err
		}
		fmt.Fprintf(os.Stderr, "fetching %s, once: 32 MB\n", cdktfGoogle)
		if out, err := exec.Command(npm, "pack", "--silent", "--pack-destination", filepath.Dir(pkg), cdktfGoogle).CombinedOutput(); err != nil {
			return "", fmt.Errorf("npm pack %s: %w: %s", cdktfGoogle, err, out)
		}
	}
	dir, err = os.MkdirTemp("", "firn-google-")
	if err != nil {
		return "", err
	}
	standIn.remove = append(standIn.remove, dir)
	platform := filepath.Join(dir, "registry.terraform.io/hashicorp/google", googleVersion, runtime.GOOS+"_"+runtime.GOARCH)
	bin := filepath.Join(platform, "terraform-provider-google_v"+googleVersion)
	for _, args := range [][]string{
		{"go", "build", "-o", bin, "./google"},
		{bin, "schemas", pkg, filepath.Join(dir, "schemas.json")},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return dir, nil
})

// google is a work whose Google Cloud is the stand-in; answers are what its
// data sources say beyond the usual.
func google(t *testing.T, dir string, answers map[string]map[string]any) *work {
	t.Helper()
	mirror, err := googleMirror()
	if err != nil {
		missing(t, "no stand-in for the Google provider: %v", err)
	}
	w := newWork(t, mirror, dir)
	all := map[string]map[string]any{
		"google_client_config":  {"project": "acme-logs", "region": "europe-west3"},
		"google_compute_zones":  {"names": []string{"europe-west3-a", "europe-west3-b", "europe-west3-c"}},
		"google_compute_image":  {"self_link": "projects/ubuntu-os-cloud/global/images/ubuntu-2404-noble-amd64-v20260101"},
		"google_storage_bucket": {"location": "EUROPE-WEST3"},
	}
	for k, v := range answers {
		all[k] = v
	}
	data, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	w.env = append(w.env, "FIRN_STANDIN_SCHEMAS="+filepath.Join(mirror, "schemas.json"), "FIRN_STANDIN_DATA="+string(data))
	w.run("init")
	return w
}

// checkGCP gives everything in a plan that the module promises not to make.
func checkGCP(p *plan, a asked) []string {
	var bad, may []string
	say := func(r resource, format string, args ...any) {
		bad = append(bad, r.Address+": "+fmt.Sprintf(format, args...))
	}
	labelled := []string{"google_compute_address", "google_compute_disk", "google_compute_instance_template", "google_storage_bucket", "google_dns_managed_zone"}
	for _, r := range p.resources() {
		if slices.Contains(labelled, r.Type) {
			for k, v := range a.tags {
				if r.Values.text("labels", k) != v {
					say(r, "it has no label %s=%s", k, v)
				}
			}
		}
		switch r.Type {
		case "google_compute_firewall":
			checkFirewall(r, a, say)
		case "google_compute_address":
			if r.Values.text("address_type") != "INTERNAL" && !a.public {
				say(r, "a public address that nobody asked for")
			}
		case "google_compute_subnetwork":
			if !r.Values.is("private_ip_google_access") {
				say(r, "no way to the bucket without the internet")
			}
		case "google_compute_instance_template":
			checkGCPTemplate(r, a, say)
		case "google_compute_instance_group_manager":
			if r.Values.text("instance_lifecycle_policy", "0", "force_update_on_repair") != "YES" || r.Values.text("update_policy", "0", "type") != "OPPORTUNISTIC" {
				say(r, "machines are replaced otherwise than by turns, or by an old template")
			}
		case "google_compute_disk":
			if a.key && r.Values.text("disk_encryption_key", "0", "kms_key_self_link") == "" {
				say(r, "is not encrypted with the given key")
			}
		case "google_storage_bucket":
			checkGCPBucket(r, a, say)
		case "google_project_iam_custom_role":
			may = append(may, r.Values.texts("permissions")...)
			if writes := slices.Contains(r.Values.texts("permissions"), "storage.objects.create"); writes != strings.HasSuffix(r.Values.text("role_id"), "_write") {
				say(r, "may %v, against its name", r.Values.texts("permissions"))
			}
		case "google_storage_bucket_iam_member":
			e := r.Values.text("condition", "0", "expression")
			if !strings.Contains(e, `/objects/`+a.prefix+`/")`) {
				say(r, "is not bound to the prefix: %s", e)
			}
			orders := strings.Contains(e, ` && resource.name != "`) && strings.Contains(e, `/objects/`+a.prefix+`/fleet/fleet.json"`) && strings.Contains(e, ` && !resource.name.startsWith("`) && strings.Contains(e, `/objects/`+a.prefix+`/binary/")`)
			if strings.HasSuffix(r.Address, `["write"]`) && (!orders || strings.Contains(e, "||")) {
				say(r, "a machine may write what decides what all machines run: %s", e)
			}
		case "google_project_iam_member", "google_project_iam_binding", "google_storage_bucket_iam_binding", "google_storage_bucket_acl":
			say(r, "a right beside the one that is looked at")
		}
	}
	if slices.Sort(may); !slices.Equal(may, a.verbs) {
		bad = append(bad, fmt.Sprintf("machines may %v, and the code needs %v", may, a.verbs))
	}
	managers, configs := len(p.ofType("google_compute_instance_group_manager")), len(p.ofType("google_compute_per_instance_config"))
	if managers != configs {
		bad = append(bad, fmt.Sprintf("%d groups have %d machines", managers, configs))
	}
	slices.Sort(bad)
	return bad
}

func checkFirewall(r resource, a asked, say func(resource, string, ...any)) {
	allow := r.Values.list("allow")
	if len(allow) != 1 || allow[0].text("protocol") != "tcp" || r.Values.text("direction") != "INGRESS" {
		say(r, "allows something else than TCP in")
		return
	}
	ports := allow[0].texts("ports")
	allowed := map[string][]string{"9092": a.clients, "9644": a.monitors}
	for _, source := range append(r.Values.texts("source_ranges"), r.Values.texts("source_service_accounts")...) {
		if r.Name != "among" && (len(ports) != 1 || !slices.Contains(allowed[ports[0]], source)) {
			say(r, "ports %v are open to %s, and no input asks for it", ports, source)
		}
	}
	for _, port := range ports {
		if !slices.Contains([]string{"9092", "9644", "2379", "2380"}, port) {
			say(r, "port %s is none of Firn's", port)
		}
	}
	if len(r.Values.texts("source_tags")) > 0 || r.Values["source_ranges"] == nil && r.Values["source_service_accounts"] == nil && r.Name != "among" {
		say(r, "lets in a source that no input can name")
	}
}

func checkGCPTemplate(r resource, a asked, say func(resource, string, ...any)) {
	v := r.Values
	if !v.is("shielded_instance_config", "0", "enable_secure_boot") || !v.is("shielded_instance_config", "0", "enable_vtpm") {
		say(r, "is no Shielded VM")
	}
	if n := v.list("network_interface"); len(n) != 1 || len(n[0].list("access_config")) > 0 && !a.public {
		say(r, "a public address that nobody asked for")
	}
	if s := v.list("service_account"); len(s) != 1 || strings.Join(s[0].texts("scopes"), " ") != "https://www.googleapis.com/auth/devstorage.read_write" {
		say(r, "its service account reaches further than Cloud Storage")
	}
	if v.text("metadata", "block-project-ssh-keys") != "true" {
		say(r, "the project's SSH keys open it")
	}
	for _, d := range v.list("disk") {
		if a.key && d.text("type") != "SCRATCH" && d.text("disk_encryption_key", "0", "kms_key_self_link") == "" {
			say(r, "a disk is not encrypted with the given key")
		}
	}
}

func checkGCPBucket(r resource, a asked, say func(resource, string, ...any)) {
	v := r.Values
	if v.text("public_access_prevention") != "enforced" || !v.is("uniform_bucket_level_access") {
		say(r, "the bucket's public access is not blocked")
	}
	if v.is("force_destroy") {
		say(r, "the bucket may be destroyed with records in it")
	}
	if a.key && v.text("encryption", "0", "default_kms_key_name") == "" {
		say(r, "is not encrypted with the given key")
	}
	ends := false
	for _, rule := range v.list("lifecycle_rule") {
		ends = ends || rule.text("action", "0", "type") == "AbortIncompleteMultipartUpload"
	}
	if !ends {
		say(r, "the bucket keeps incomplete uploads for ever")
	}
}

func TestGCPMinimal(t *testing.T) {
	w := google(t, "gcp/examples/minimal", nil)
	w.vars(in{"project": "acme-logs", "binary_file": binaryFile(t, "one"), "client_cidrs": []string{"10.1.0.0/16"}})
	p := w.plan()
	logCounts(t, p)
	for _, v := range checkGCP(p, asked{verbs: gcsVerbs(t), prefix: "firn", clients: []string{"10.1.0.0/16"}, tags: map[string]string{"project": "firn-trial", "firn-cluster": "trial"}}) {
		t.Error(v)
	}
	templates := p.ofType("google_compute_instance_template")
	expect(t, "templates", len(templates), 3)
	for _, r := range templates {
		file := cloudConfigFile(t, r.Values.text("metadata", "user-data"))
		expect(t, "store", file.text("store"), "gs://firn-trial-acme-logs/firn")
		expect(t, "cloud", file.text("cloud"), "gcp")
		expect(t, "seeds", len(file.texts("seeds")), 3)
		expect(t, "disks", len(r.Values.list("disk")), 2)
	}
	for _, r := range p.ofType("google_storage_bucket_object") {
		if r.Name == "fleet" {
			if _, err := machine.ParseFleet([]byte(r.Values.text("content"))); err != nil {
				t.Errorf("machines would refuse it: %v", err)
			}
		}
	}
	w.apply()
	settled(t, w)
	// Another type: other templates, and nothing that the broker is known by.
	w.write("type_override.tf", "module \"firn\" {\n  machine_type = \"n2-standard-8\"\n}\n")
	for address, what := range w.plan().changed() {
		for _, kind := range []string{"google_compute_address", "google_compute_per_instance_config", "google_dns_record_set", "google_storage_bucket.", "google_service_account"} {
			if strings.Contains(address, kind) {
				t.Errorf("another type would %s %s", what, address)
			}
		}
	}
	w.destroy()
}

func TestGCPProduction(t *testing.T) {
	w := google(t, "gcp/examples/production", nil)
	subnet := "projects/acme-logs/regions/europe-west3/subnetworks/apps"
	apps, monitor := "apps@acme-logs.iam.gserviceaccount.com", "monitor@acme-logs.iam.gserviceaccount.com"
	w.vars(in{"project": "acme-logs", "region": "europe-west3", "labels": in{"owner": "platform"},
		"network":       in{"id": "projects/acme-logs/global/networks/apps", "subnets": in{"europe-west3-a": subnet, "europe-west3-b": subnet, "europe-west3-c": subnet}},
		"client_groups": []string{apps}, "metrics_groups": []string{monitor},
		"encryption_key": "projects/acme-logs/locations/europe-west3/keyRings/logs/cryptoKeys/firn",
		"binary":         in{"version": "1.4.0", "url": "https://downloads.example.net/firn", "sha256": strings.Repeat("ab", 32)}})
	p := w.plan()
	logCounts(t, p)
	for _, v := range checkGCP(p, asked{verbs: gcsVerbs(t), prefix: "firn", key: true, clients: []string{apps}, monitors: []string{monitor}, tags: map[string]string{"owner": "platform", "firn-cluster": "prod"}}) {
		t.Error(v)
	}
	w.apply()
	settled(t, w)
	w.write("members_override.tf", "module \"firn\" {\n  members = 3\n}\n")
	if _, err := w.try("plan"); err == nil || !strings.Contains(unwrapped(err.Error()), "members: the cluster formed with 5 members of etcd") {
		t.Errorf("other members were not refused: %v", err)
	}
}

func TestGCPRefuses(t *testing.T) {
	w := google(t, "gcp", map[string]map[string]any{
		"google_storage_bucket":         {"location": "US-CENTRAL1"},
		"google_storage_buckets":        {"buckets": []any{map[string]any{"name": "firn-trial-acme-logs"}}},
		"google_storage_bucket_objects": {"bucket_objects": []any{map[string]any{"name": "firn/fleet/version/1.4.0"}}},
	})
	file := binaryFile(t, "one")
	base := in{"name": "trial", "binary": in{"version": "1.5.0", "file": file}}
	w.vars(base)
	w.run("plan") // what is refused below is refused for what it changes
	refuseAll(t, w, base, append(refusals(file), []refusal{
		{in{"machine_type": "e2-standard-4"}, []string{"machine_type: e2-standard-4 has no local SSD", `disk = {kind = "network"`}},
		{in{"machine_type": "c4a-standard-4-lssd"}, []string{"machine_type: c4a-standard-4-lssd is not amd64", `arch = "arm64"`}},
		{in{"local_ssds": 3}, []string{"local_ssds: 3 is no number"}},
		{in{"zones": []string{"europe-west3-a", "europe-west3-b", "us-east1-b"}}, []string{"zones: us-east1-b are not available in europe-west3"}},
		{in{"bucket": "elsewhere"}, []string{"bucket: elsewhere is in us-central1, the brokers in europe-west3"}},
		{in{"bucket": "my.bucket"}, []string{`bucket: "my.bucket" is no name`}},
		{in{"encryption_key": "mine"}, []string{"encryption_key: give a key as projects/"}},
		{in{"encryption_key": "projects/p/locations/us/keyRings/r/cryptoKeys/k"}, []string{"encryption_key: it is a key of us"}},
		{in{"binary": in{"version": "1.3.0", "file": file}}, []string{"binary.version: 1.3.0 cannot be rolled to from 1.4.0"}},
		{in{"binary": in{"version": "3.0.0", "file": file}}, []string{"binary.version: 3.0.0 cannot be rolled to", "roll to the last 2.x first"}},
		{in{"client_groups": []string{"web"}}, []string{"client_groups: give up to 10 service accounts"}},
		{in{"labels": in{"Owner": "x"}}, []string{"labels: Google Cloud takes"}},
		{in{"image": "ubuntu"}, []string{`image: "ubuntu" is no image`}},
	}...))
}

// TestGCPPolicyTestsFail breaks the module, one thing after another, and wants
// the look at the plan to find each.
func TestGCPPolicyTestsFail(t *testing.T) {
	w := google(t, "gcp", nil)
	inputs := in{"name": "trial", "binary": in{"version": "1.0.0", "file": binaryFile(t, "one")},
		"client_cidrs": []string{"10.1.0.0/16"}, "metrics_cidrs": []string{"10.2.0.0/16"}, "labels": in{"owner": "me"},
		"encryption_key": "projects/acme-logs/locations/europe-west3/keyRings/logs/cryptoKeys/firn"}
	a := asked{verbs: gcsVerbs(t), prefix: "firn", key: true, tags: map[string]string{"owner": "me", "firn-cluster": "trial"}, clients: []string{"10.1.0.0/16"}, monitors: []string{"10.2.0.0/16"}}
	w.vars(inputs)
	if bad := checkGCP(w.plan(), a); len(bad) != 0 {
		t.Fatalf("the module as it is: %v", bad)
	}
	for _, m := range []struct{ file, old, with, want string }{
		{"access.tf", "local.ports.etcd_clients, local.ports.etcd_peers]", "local.ports.etcd_clients, local.ports.etcd_peers, 22]", "port 22 is none of Firn's"},
		{"access.tf", "cidrs = var.client_cidrs", `cidrs = ["0.0.0.0/0"]`, "are open to 0.0.0.0/0"},
		{"access.tf", "{ port = local.ports.http, cidrs = var.metrics_cidrs", "{ port = local.ports.http, cidrs = var.client_cidrs", "are open to 10.1.0.0/16"},
		{"bucket.tf", `public_access_prevention    = "enforced"`, `public_access_prevention    = "inherited"`, "public access is not blocked"},
		{"bucket.tf", "uniform_bucket_level_access = true", "uniform_bucket_level_access = false", "public access is not blocked"},
		{"bucket.tf", `type = "AbortIncompleteMultipartUpload"`, `type = "SetStorageClass"`, "keeps incomplete uploads for ever"},
		{"bucket.tf", "force_destroy               = false", "force_destroy               = true", "may be destroyed with records in it"},
		{"brokers.tf", "enable_secure_boot          = true", "enable_secure_boot          = false", "is no Shielded VM"},
		{"brokers.tf", "auth/devstorage.read_write", "auth/cloud-platform", "reaches further than Cloud Storage"},
		{"brokers.tf", `address_type = "INTERNAL"`, `address_type = "EXTERNAL"`, "a public address that nobody asked for"},
		{"brokers.tf", "for_each = var.public ? [google_compute_address.public[each.key].address] : []", `for_each = ["192.0.2.1"]`, "a public address that nobody asked for"},
		{"brokers.tf", `force_update_on_repair    = "YES"`, `force_update_on_repair    = "NO"`, "by an old template"},
		{"role.tf", `"storage.objects.list"]`, `"storage.objects.list", "storage.buckets.get"]`, "and the code needs"},
		{"role.tf", "startsWith(\\\"${local.objects}${var.bucket_prefix}/\\\")", "startsWith(\\\"${local.objects}\\\")", "is not bound to the prefix"},
		{"role.tf", "concat([local.inside], local.orders)", "[local.inside]", "what decides what all machines run"},
		{"main.tf", "labels = merge(var.labels, {", "labels = merge({", "has no label owner=me"},
		{"network.tf", "private_ip_google_access = true", "private_ip_google_access = false", "no way to the bucket"},
	} {
		restore := w.edit("gcp/"+m.file, m.old, m.with)
		bad := checkGCP(w.plan(), a)
		if !slices.ContainsFunc(bad, func(s string) bool { return strings.Contains(s, m.want) }) {
			t.Errorf("with %q in %s nobody said %q: %v", m.with, m.file, m.want, bad)
		}
		restore()
	}
}
