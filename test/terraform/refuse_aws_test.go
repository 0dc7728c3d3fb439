package terraform

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// refusals are inputs that a plan refuses, with what it has to say: the
// input's name, what is wrong, and the remedy. Both clouds have them.
type refusal struct {
	inputs map[string]any
	want   []string
}

type in = map[string]any

// refusals of both modules.
func refusals(binary string) []refusal {
	bin := func(kv ...any) in {
		b := in{"version": "1.0.0"}
		for i := 0; i+1 < len(kv); i += 2 {
			b[kv[i].(string)] = kv[i+1]
		}
		return in{"binary": b}
	}
	sha := strings.Repeat("0a", 32)
	return []refusal{
		{in{"members": 2}, []string{"members: 2 members", "give 1, 3 or 5"}},
		{in{"members": 4, "brokers": 5}, []string{"members: 4 members", "give 1, 3 or 5"}},
		{in{"members": 5}, []string{"members: 5 members of etcd need as many brokers, and brokers is 3"}},
		{in{"brokers": 2.5}, []string{"brokers: 2.5 is no number"}},
		{in{"name": "Prod"}, []string{`name: "Prod" would be refused`, "give 1 to 20 of a-z"}},
		{in{"name": "a-name-that-is-longer-than-20"}, []string{"name:"}},
		{in{"name": "ends-"}, []string{"name:", "not ending with -"}},
		{in{"zones": []string{"z-a", "z-b"}}, []string{"zones: fewer zones than replicas (3)", "name 3 zones or more"}},
		{in{"client_cidrs": []string{"0.0.0.0/0"}}, []string{"client_cidrs: 0.0.0.0/0 lets the world in", "allow_world = true"}},
		{in{"client_cidrs": []string{"0.0.0.0/1", "128.0.0.0/1"}}, []string{"client_cidrs: 0.0.0.0/1, 128.0.0.0/1 lets the world in"}},
		{in{"client_cidrs": []string{"10.0.0.0"}}, []string{"client_cidrs: give IPv4 networks", "10.0.0.0"}},
		{in{"metrics_cidrs": []string{"0.0.0.0/0"}, "allow_world": true}, []string{"metrics_cidrs: the HTTP port is never opened to the world"}},
		{in{"disk": in{"kind": "network"}}, []string{"disk.size_gb: a network disk needs a size"}},
		{in{"disk": in{"kind": "floppy"}}, []string{`disk.kind: "floppy" is not known; give local or network`}},
		{in{"disk": in{"kind": "local", "size_gb": 100}}, []string{"disk.size_gb: local disks are as large as the machine type makes them"}},
		{in{"arch": "riscv64"}, []string{`arch: "riscv64" is not known`}},
		{in{"bucket_prefix": "/x/"}, []string{`bucket_prefix: "/x/" is none`}},
		{bin("version", "v1.0", "file", binary), []string{`binary.version: "v1.0" is none; give it as 1.4.2`}},
		{bin(), []string{"binary: give either url, with sha256, or file"}},
		{bin("url", "https://example.net/firn", "sha256", "abc"), []string{"binary.sha256: give the 64"}},
		{bin("url", "http://example.net/firn", "sha256", sha), []string{"binary.url:", "https://HOST/"}},
		{bin("file", "/no/such/file"), []string{`binary.file: there is no file "/no/such/file"`}},
		{in{"broker_config": in{"node.id": "7"}}, []string{"broker_config: node.id follow from a broker's number"}},
		{in{"broker_config": in{"Num Partitions": "7"}}, []string{"broker_config: give Kafka's names", "Num Partitions"}},
	}
}

// refuseAll plans each of them.
func refuseAll(t *testing.T, w *work, base in, all []refusal) {
	t.Helper()
	for _, r := range all {
		v := in{}
		for _, m := range []in{base, r.inputs} {
			for k, x := range m {
				v[k] = x
			}
		}
		w.vars(v)
		_, err := w.try("plan")
		if err == nil {
			t.Errorf("%v was not refused", r.inputs)
			continue
		}
		for _, want := range r.want {
			if !strings.Contains(unwrapped(err.Error()), want) {
				t.Errorf("%v: %v\nwant %q in it", r.inputs, err, want)
			}
		}
	}
}

func TestAWSRefuses(t *testing.T) {
	c := startCloud(t)
	w := c.aws(t, "aws")
	file := binaryFile(t, "one")
	elsewhere := c.bucketIn(t, "us-west-2")
	base := in{"name": "trial", "binary": in{"version": "1.0.0", "file": file}}
	w.vars(base)
	w.run("plan") // what is refused below is refused for what it changes

	// Those that both modules share are tried on the other one, where a plan
	// takes a tenth of the time; TestSameInputs has them be the same. Two for a
	// look at how this provider's plans tell them.
	refuseAll(t, w, base, append(refusals(file)[:2], []refusal{
		{in{"machine_type": "m7i.large"}, []string{"machine_type: m7i.large has no local disk", `disk = {kind = "network"`}},
		{in{"machine_type": "i8g.large"}, []string{"machine_type: i8g.large is not amd64", `arch = "arm64"`}},
		{in{"zones": []string{"eu-central-1a", "eu-central-1b", "eu-west-1a"}}, []string{"zones: eu-west-1a are not available in eu-central-1", "there are eu-central-1a"}},
		{in{"network": in{"id": "vpc-12345678", "subnets": in{"eu-central-1a": "subnet-12345678", "eu-central-1b": "subnet-12345679"}}}, []string{"zones: 2 zones (eu-central-1a, eu-central-1b) are fewer than replicas (3)"}},
		{in{"network": in{"id": "mine", "subnets": in{}}}, []string{"network: give the id of a VPC"}},
		{in{"cidr": "10.0.0.0/24"}, []string{`cidr: "10.0.0.0/24" is no network`}},
		{in{"bucket": elsewhere}, []string{"bucket: " + elsewhere + " is in us-west-2, the brokers in eu-central-1"}},
		{in{"bucket": "My.Bucket"}, []string{`bucket: "My.Bucket" cannot be reached`}},
		{in{"encryption_key": "alias/mine"}, []string{"encryption_key: give the ARN of a KMS key"}},
		{in{"encryption_key": "arn:aws:kms:us-west-2:123456789012:key/1"}, []string{"encryption_key: it is a key of us-west-2"}},
		{in{"binary": in{"version": "1.0.0", "url": "s3://another/firn", "sha256": strings.Repeat("0a", 32)}}, []string{"binary.url: machines may read below s3://firn-trial-123456789012-eu-central-1/firn/ only"}},
		{in{"image": "ubuntu"}, []string{`image: "ubuntu" is no AMI`}},
		{in{"tags": in{"Name": "x"}}, []string{"tags: Name and what begins with firn- are the module's own"}},
		{in{"client_groups": []string{"web"}}, []string{"client_groups: give ids of security groups"}},
		{in{"peer_networks": []string{"10.0.0.0/8"}}, []string{"peer_networks: give ids of VPCs"}},
	}...))
}

// bucketIn makes a bucket in another region, removed with the test.
func (c *cloud) bucketIn(t *testing.T, region string) string {
	t.Helper()
	client := s3.NewFromConfig(aws.Config{Region: region, BaseEndpoint: aws.String(c.url), Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")},
		func(o *s3.Options) { o.UsePathStyle = true })
	name := "firn-in-" + region
	_, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name,
		CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: s3types.BucketLocationConstraint(region)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = client.DeleteBucket(contextOfCleanup(t), &s3.DeleteBucketInput{Bucket: &name})
	})
	return name
}
