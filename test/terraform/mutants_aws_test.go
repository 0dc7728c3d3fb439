package terraform

import (
	"slices"
	"strings"
	"testing"
)

// TestAWSPolicyTestsFail breaks the module, one thing after another, and wants
// the look at the plan to find each: a test of the policy tests.
func TestAWSPolicyTestsFail(t *testing.T) {
	c := startCloud(t)
	w := c.aws(t, "aws")
	verbs := s3Verbs(t)
	inputs := in{"name": "trial", "binary": in{"version": "1.0.0", "file": binaryFile(t, "one")},
		"client_cidrs": []string{"10.1.0.0/16"}, "metrics_cidrs": []string{"10.2.0.0/16"}, "tags": in{"owner": "me"}}
	a := asked{verbs: verbs, prefix: "firn", tags: map[string]string{"owner": "me", "firn-cluster": "trial"},
		clients: []string{"10.1.0.0/16"}, monitors: []string{"10.2.0.0/16"}}
	w.vars(inputs)
	if bad := checkAWS(w.plan(), a); len(bad) != 0 {
		t.Fatalf("the module as it is: %v", bad)
	}
	for _, m := range []struct{ file, old, with, want string }{
		{"access.tf", "    http  = [local.ports.http, local.ports.http]\n", "    http  = [local.ports.http, local.ports.http]\n    ssh   = [22, 22]\n", "ports 22 to 22 are none of Firn's"},
		{"access.tf", `{ port = local.ports.kafka, cidr = c, group = null }`, `{ port = local.ports.kafka, cidr = "0.0.0.0/0", group = null }`, "is open to 0.0.0.0/0"},
		{"access.tf", `{ for c in var.metrics_cidrs : "http from ${c}"`, `{ for c in var.client_cidrs : "http from ${c}"`, "port 9644 is open to 10.1.0.0/16"},
		{"brokers.tf", `http_tokens                 = "required"`, `http_tokens                 = "optional"`, "instance metadata answers without a token"},
		{"brokers.tf", "encrypted             = true", "encrypted             = false", "disk /dev/sda1 is not encrypted"},
		{"brokers.tf", `instance_initiated_shutdown_behavior = "terminate"`, `instance_initiated_shutdown_behavior = "stop"`, "is not replaced"},
		{"brokers.tf", `toset(concat(["instance", "volume"]`, `toset(concat(["instance"]`, "volume has no tag owner=me"},
		{"brokers.tf", "for_each          = var.public ? local.brokers : {}", "for_each          = local.brokers", "a public address that nobody asked for"},
		{"brokers.tf", "  max_size           = 1", "  max_size           = 2", "is not a group of one"},
		{"bucket.tf", "block_public_policy     = true", "block_public_policy     = false", "public access is not blocked"},
		{"bucket.tf", "    abort_incomplete_multipart_upload {\n      days_after_initiation = 2\n    }", "    expiration {\n      days = 9\n    }", "keeps incomplete uploads for ever"},
		{"bucket.tf", "    variable = \"aws:SecureTransport\"", "    variable = \"aws:PrincipalIsAWSService\"", "answers without TLS"},
		{"bucket.tf", "  bucket   = local.bucket_name\n  tags ", "  bucket   = local.bucket_name\n  force_destroy = true\n  tags ", "may be destroyed with records in it"},
		{"network.tf", "  for_each                = local.new_subnets\n  vpc_id                  = aws_vpc.this[\"this\"].id\n  availability_zone       = each.key\n  cidr_block              = local.subnet_cidrs[each.key]\n  map_public_ip_on_launch = false", "  for_each                = local.new_subnets\n  vpc_id                  = aws_vpc.this[\"this\"].id\n  availability_zone       = each.key\n  cidr_block              = local.subnet_cidrs[each.key]\n  map_public_ip_on_launch = true", "machines get public addresses"},
		{"role.tf", `"s3:GetObject", "s3:PutObject"]`, `"s3:GetObject", "s3:PutObject", "s3:PutObjectAcl"]`, "and the code needs"},
		{"role.tf", `"s3:AbortMultipartUpload", "s3:DeleteObject"`, `"s3:DeleteObject"`, "and the code needs"},
		{"role.tf", "resources = [\"${local.bucket_arn}/${var.bucket_prefix}/*\"]", "resources = [\"${local.bucket_arn}/*\"]", "is more than the prefix"},
		{"role.tf", `effect  = "Deny"`, `effect  = "Allow"`, "what decides what all machines run"},
		{"role.tf", `["${local.bucket_arn}/${local.fleet_key}", `, `[`, "what decides what all machines run: /fleet/fleet.json"},
		{"main.tf", `tags = merge(var.tags, {`, `tags = merge({`, "has no tag owner=me"},
	} {
		restore := w.edit("aws/"+m.file, m.old, m.with)
		bad := checkAWS(w.plan(), a)
		if !slices.ContainsFunc(bad, func(s string) bool { return strings.Contains(s, m.want) }) {
			t.Errorf("with %q in %s nobody said %q: %v", m.with, m.file, m.want, bad)
		}
		restore()
	}
}
