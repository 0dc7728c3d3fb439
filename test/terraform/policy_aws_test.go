package terraform

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strings"
)

// asked is what a plan's inputs ask for beyond the closed default.
type asked struct {
	verbs    []string          // what Firn's client calls
	prefix   string            // of the bucket
	tags     map[string]string // on everything
	public   bool
	key      bool     // a KMS key of one's own
	clients  []string // networks and groups that may reach Kafka's port
	monitors []string // networks and groups that may reach the HTTP port
	given    bool     // a bucket that exists
	disks    bool     // network disks
}

// untagged are kinds that AWS has no tags for, or which Terraform gives none.
var untagged = []string{
	"aws_route", "aws_route_table_association", "aws_route53_record", "aws_iam_role_policy", "terraform_data",
	"aws_s3_bucket_public_access_block", "aws_s3_bucket_ownership_controls", "aws_s3_bucket_policy", "aws_s3_bucket_versioning",
	"aws_s3_bucket_server_side_encryption_configuration", "aws_s3_bucket_lifecycle_configuration",
}

// checkAWS gives everything in a plan that the module promises not to make.
func checkAWS(p *plan, a asked) []string {
	var bad []string
	say := func(r resource, format string, args ...any) {
		bad = append(bad, r.Address+": "+fmt.Sprintf(format, args...))
	}
	for _, r := range p.resources() {
		checkTags(r, a, say)
		switch r.Type {
		case "aws_vpc_security_group_ingress_rule":
			checkIngress(r, a, say)
		case "aws_security_group", "aws_default_security_group":
			for _, k := range []string{"ingress", "egress"} {
				if len(r.Values.list(k)) > 0 {
					say(r, "rules inside of a group are not looked at one by one: make them resources")
				}
			}
		case "aws_security_group_rule":
			say(r, "a rule of the old kind, without tags")
		case "aws_subnet":
			if r.Values.is("map_public_ip_on_launch") {
				say(r, "machines get public addresses")
			}
		case "aws_route53_zone":
			if len(r.Values.list("vpc")) == 0 {
				say(r, "a public zone: no VPC is named")
			}
		case "aws_eip":
			if !a.public && r.Name != "nat" {
				say(r, "a public address that nobody asked for")
			}
		case "aws_launch_template":
			checkTemplate(r, a, say)
		case "aws_autoscaling_group":
			if r.Values.at("max_size") != 1.0 || r.Values.at("min_size") != 1.0 || len(r.Values.texts("availability_zones")) != 1 {
				say(r, "is not a group of one in one zone")
			}
		case "aws_ebs_volume":
			if !r.Values.is("encrypted") {
				say(r, "is not encrypted")
			}
			if a.key && r.Values.text("kms_key_id") == "" {
				say(r, "is not encrypted with the given key")
			}
		case "aws_iam_role_policy":
			checkRole(r, a, say)
		case "aws_iam_role_policy_attachment", "aws_iam_policy", "aws_iam_user", "aws_iam_access_key":
			say(r, "a right beside the one policy that is looked at")
		}
	}
	bad = append(bad, checkBucket(p, a)...)
	sort.Strings(bad)
	return bad
}

func checkTags(r resource, a asked, say func(resource, string, ...any)) {
	if slices.Contains(untagged, r.Type) {
		return
	}
	check := func(where string, has object) {
		for k, v := range a.tags {
			if has.text(k) != v {
				say(r, "%s has no tag %s=%s", where, k, v)
			}
		}
	}
	if r.Type == "aws_autoscaling_group" {
		has := object{}
		for _, t := range r.Values.list("tag") {
			if t.is("propagate_at_launch") {
				has[t.text("key")] = t["value"]
			}
		}
		check("what it launches", has)
		return
	}
	tags, _ := r.Values["tags"].(map[string]any)
	check("it", tags)
	if r.Type == "aws_launch_template" {
		for _, kind := range []string{"instance", "volume"} {
			has := object{}
			for _, s := range r.Values.list("tag_specifications") {
				if m, ok := s["tags"].(map[string]any); ok && s.text("resource_type") == kind {
					has = m
				}
			}
			check(kind, has)
		}
	}
}

// checkIngress lets brokers in from each other, and who was asked for at the
// port that he was asked for.
func checkIngress(r resource, a asked, say func(resource, string, ...any)) {
	from, _ := r.Values["from_port"].(float64)
	to, _ := r.Values["to_port"].(float64)
	if r.Values.text("ip_protocol") != "tcp" {
		say(r, "protocol %q", r.Values.text("ip_protocol"))
	}
	if r.Values.text("cidr_ipv6") != "" || r.Values.text("prefix_list_id") != "" {
		say(r, "lets in a source that no input can name")
	}
	allowed := map[[2]float64][]string{{9092, 9092}: a.clients, {9644, 9644}: a.monitors}[[2]float64{from, to}]
	for _, source := range []string{r.Values.text("cidr_ipv4"), r.Values.text("referenced_security_group_id")} {
		if source == "" { // none, or one of the groups of the same plan, whose id is not known
			continue
		}
		if !slices.Contains(allowed, source) {
			say(r, "port %v is open to %s, and no input asks for it", from, source)
		}
		if n, err := netip.ParsePrefix(source); err == nil && n.Bits() < 8 && !slices.Contains(allowed, source) {
			say(r, "port %v is open to the world", from)
		}
	}
	if r.Name == "among" && !slices.Contains([][2]float64{{9092, 9092}, {9644, 9644}, {2379, 2380}}, [2]float64{from, to}) {
		say(r, "ports %v to %v are none of Firn's", from, to)
	}
}

func checkTemplate(r resource, a asked, say func(resource, string, ...any)) {
	v := r.Values
	if v.text("metadata_options", "0", "http_tokens") != "required" || v.at("metadata_options", "0", "http_put_response_hop_limit") != 1.0 {
		say(r, "instance metadata answers without a token, or further than the machine")
	}
	if v.text("instance_initiated_shutdown_behavior") != "terminate" {
		say(r, "a machine that powers itself off is not replaced")
	}
	if n := v.list("network_interfaces"); len(n) != 1 || n[0].text("associate_public_ip_address") == "true" {
		say(r, "not one interface, or one with a public address")
	}
	disks := v.list("block_device_mappings")
	if len(disks) == 0 {
		say(r, "the image's disk is as the image says, so perhaps not encrypted")
	}
	for _, d := range disks {
		if d.text("ebs", "0", "encrypted") != "true" {
			say(r, "disk %s is not encrypted", d.text("device_name"))
		}
		if a.key && d.text("ebs", "0", "kms_key_id") == "" {
			say(r, "disk %s is not encrypted with the given key", d.text("device_name"))
		}
	}
	if v.text("key_name") != "" {
		say(r, "an SSH key")
	}
}

// checkRole compares the policy with the calls of the code.
func checkRole(r resource, a asked, say func(resource, string, ...any)) {
	var doc policyDocument
	if err := json.Unmarshal([]byte(r.Values.text("policy")), &doc); err != nil {
		say(r, "the policy is not known in the plan: %v", err)
		return
	}
	want := slices.Clone(a.verbs)
	if a.key {
		want = append(want, "kms:Decrypt", "kms:GenerateDataKey")
	}
	if a.disks {
		want = append(want, "ec2:AttachVolume")
	}
	if a.disks && a.key {
		want = append(want, "kms:CreateGrant")
	}
	var got, denied []string
	for _, s := range doc.Statement {
		if s.Effect == "Deny" {
			for _, res := range s.Resource {
				for _, action := range s.Action {
					denied = append(denied, action+" "+res[strings.LastIndex(res, ":")+1:])
				}
			}
			continue
		}
		got = append(got, s.Action...)
		for _, action := range s.Action {
			for _, res := range s.Resource {
				ok := map[string]bool{
					"s3":  strings.HasSuffix(res, "/"+a.prefix+"/*") && strings.HasPrefix(res, "arn:aws:s3:::"),
					"kms": strings.Contains(res, ":key/") && s.Condition["StringEquals"]["kms:ViaService"] != nil,
					"ec2": s.Condition["StringEquals"]["aws:ResourceTag/firn-cluster"] != nil,
				}[strings.Split(action, ":")[0]]
				if action == "s3:ListBucket" {
					ok = strings.HasPrefix(res, "arn:aws:s3:::") && !strings.ContainsAny(res, "/*")
				}
				if !ok {
					say(r, "%s on %s is more than the prefix", action, res)
				}
			}
		}
	}
	for _, orders := range []string{"/fleet/fleet.json", "/binary/*"} {
		for _, action := range []string{"s3:PutObject", "s3:DeleteObject"} {
			if !slices.ContainsFunc(denied, func(d string) bool {
				return strings.HasPrefix(d, action+" ") && strings.HasSuffix(d, "/"+a.prefix+orders)
			}) {
				say(r, "a machine may %s what decides what all machines run: %s", action, orders)
			}
		}
	}
	sort.Strings(want)
	sort.Strings(got)
	if !slices.Equal(want, got) {
		say(r, "may %v, and the code needs %v", got, want)
	}
}

// checkBucket asks for everything that a new bucket has around it.
func checkBucket(p *plan, a asked) []string {
	one := func(kind string) object {
		if all := p.ofType(kind); len(all) == 1 {
			return all[0].Values
		}
		return nil
	}
	if a.given {
		if n := len(p.ofType("aws_s3_bucket")); n != 0 {
			return []string{"a bucket beside the given one"}
		}
		return nil
	}
	block, sse, life := one("aws_s3_bucket_public_access_block"), one("aws_s3_bucket_server_side_encryption_configuration"), one("aws_s3_bucket_lifecycle_configuration")
	algorithm := "AES256"
	if a.key {
		algorithm = "aws:kms"
	}
	ends := false
	for _, r := range life.list("rule") {
		ends = ends || r.text("status") == "Enabled" && r.at("abort_incomplete_multipart_upload", "0", "days_after_initiation") != nil && r.text("filter", "0", "prefix") == ""
	}
	wants := map[string]bool{
		"the bucket may be destroyed with records in it":    !one("aws_s3_bucket").is("force_destroy"),
		"the bucket's public access is not blocked":         block.is("block_public_acls") && block.is("block_public_policy") && block.is("ignore_public_acls") && block.is("restrict_public_buckets"),
		"the bucket is not encrypted with " + algorithm:     sse.list("rule") != nil && sse.list("rule")[0].text("apply_server_side_encryption_by_default", "0", "sse_algorithm") == algorithm,
		"the bucket keeps incomplete uploads for ever":      ends,
		"the bucket has ACLs":                               one("aws_s3_bucket_ownership_controls").text("rule", "0", "object_ownership") == "BucketOwnerEnforced",
		"the bucket answers without TLS":                    strings.Contains(one("aws_s3_bucket_policy").text("policy"), "aws:SecureTransport"),
		"the bucket has old versions that stay for ever":    one("aws_s3_bucket_versioning").text("versioning_configuration", "0", "status") != "Enabled" || len(life.list("rule")) > 1,
		"there is not one bucket, but another number of it": len(p.ofType("aws_s3_bucket")) == 1,
	}
	var bad []string
	for _, k := range slices.Sorted(maps.Keys(wants)) {
		if !wants[k] {
			bad = append(bad, k)
		}
	}
	return bad
}
