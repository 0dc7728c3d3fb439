package terraform

import (
	"maps"
	"strings"
	"testing"
)

// variant is something that an input asks for, and what a plan may then have.
type variant struct {
	name   string
	inputs in
	asked  func(a *asked)
	kinds  map[string]int // how many of each the plan has
}

// TestAWSAsked plans with what inputs can ask for: what is asked is there, and
// nothing beside it.
func TestAWSAsked(t *testing.T) {
	c := startCloud(t)
	given := c.bucketIn(t, region)
	key := "arn:aws:kms:eu-central-1:123456789012:key/0e8ce1bd-2f67-4a7c-8f9c-3e5c1b1d2a3b"
	askedFor(t, c.aws(t, "aws"), checkAWS, asked{verbs: s3Verbs(t), prefix: "firn", tags: map[string]string{"owner": "me", "firn-cluster": "trial"}},
		in{"name": "trial", "binary": in{"version": "1.0.0", "file": binaryFile(t, "one")}, "tags": in{"owner": "me"}}, []variant{
			{"public", in{"public": true, "client_cidrs": []string{"192.0.2.7/32"}},
				func(a *asked) { a.public, a.clients = true, []string{"192.0.2.7/32"} },
				map[string]int{"aws_eip": 3, "aws_internet_gateway": 1, "aws_nat_gateway": 0}},
			{"the world", in{"allow_world": true, "client_cidrs": []string{"0.0.0.0/0"}},
				func(a *asked) { a.clients = []string{"0.0.0.0/0"} },
				map[string]int{"aws_eip": 0, "aws_internet_gateway": 0}},
			{"network disks and a key", in{"disk": in{"kind": "network", "size_gb": 100}, "encryption_key": key},
				func(a *asked) { a.disks, a.key = true, true },
				map[string]int{"aws_ebs_volume": 3, "aws_vpc_endpoint": 2}},
			{"a bucket that exists", in{"bucket": given},
				func(a *asked) { a.given = true },
				map[string]int{"aws_s3_bucket": 0, "aws_s3_bucket_lifecycle_configuration": 0, "aws_s3_object": 2}},
			{"a binary from outside", in{"binary": in{"version": "1.0.0+3.g0123abc", "url": "https://downloads.example.net/firn", "sha256": strings.Repeat("0a", 32)}},
				func(*asked) {},
				map[string]int{"aws_nat_gateway": 1, "aws_eip": 1, "aws_s3_object": 1}},
		})
}

// TestGCPAsked does the same for Google Cloud.
func TestGCPAsked(t *testing.T) {
	askedFor(t, google(t, "gcp", nil), checkGCP, asked{verbs: gcsVerbs(t), prefix: "firn", tags: map[string]string{"owner": "me", "firn-cluster": "trial"}},
		in{"name": "trial", "binary": in{"version": "1.0.0", "file": binaryFile(t, "one")}, "labels": in{"owner": "me"}}, []variant{
			{"the world", in{"allow_world": true, "client_cidrs": []string{"0.0.0.0/0"}},
				func(a *asked) { a.clients = []string{"0.0.0.0/0"} },
				map[string]int{"google_compute_address": 3, "google_compute_router_nat": 0}},
			{"network disks and a key", in{"disk": in{"kind": "network", "size_gb": 100}, "encryption_key": "projects/acme-logs/locations/europe-west3/keyRings/logs/cryptoKeys/firn"},
				func(a *asked) { a.disks, a.key = true, true },
				map[string]int{"google_compute_disk": 3}},
			{"a bucket that exists", in{"bucket": "given"},
				func(a *asked) { a.given = true },
				map[string]int{"google_storage_bucket": 0, "google_storage_bucket_object": 3}},
			{"a binary from outside", in{"binary": in{"version": "1.0.0", "url": "https://downloads.example.net/firn", "sha256": strings.Repeat("0a", 32)}},
				func(*asked) {},
				map[string]int{"google_compute_router_nat": 1, "google_compute_address": 3}},
			{"public", in{"public": true, "client_cidrs": []string{"192.0.2.7/32"}},
				func(a *asked) { a.public, a.clients = true, []string{"192.0.2.7/32"} },
				map[string]int{"google_compute_address": 6, "google_compute_router_nat": 0}},
		})
}

func askedFor(t *testing.T, w *work, check func(*plan, asked) []string, closed asked, base in, variants []variant) {
	t.Helper()
	for _, v := range variants {
		inputs := maps.Clone(base)
		maps.Copy(inputs, v.inputs)
		w.vars(inputs)
		a := closed
		v.asked(&a)
		p := w.plan()
		for _, bad := range check(p, a) {
			t.Errorf("%s: %s", v.name, bad)
		}
		counts := p.counts()
		for kind, n := range v.kinds {
			if counts[kind] != n {
				t.Errorf("%s: %d %s, want %d", v.name, counts[kind], kind, n)
			}
		}
		// Without the flag the same plan is found fault with, where the flag
		// stands for something that is open.
		if a.public && len(check(p, closed)) == 0 {
			t.Errorf("%s: the same plan passes for one that nobody asked for", v.name)
		}
	}
}
