package terraform

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/route53"
	r53types "github.com/aws/aws-sdk-go-v2/service/route53/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// binaryFile makes something to be put into the bucket as a binary.
func binaryFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "firn")
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// logCounts tells what a plan makes, by kind.
func logCounts(t *testing.T, p *plan) {
	n := p.counts()
	total := 0
	for _, k := range slices.Sorted(maps.Keys(n)) {
		t.Logf("%3d %s", n[k], k)
		total += n[k]
	}
	t.Logf("%3d in all", total)
}

func expect[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// settled fails where a plan right after an apply would change something.
func settled(t *testing.T, w *work) {
	t.Helper()
	if c := w.plan().changed(); len(c) != 0 {
		t.Errorf("a plan right after the apply changes %v:\n%s", c, w.run("show", "plan.bin"))
	}
}

func TestAWSMinimal(t *testing.T) {
	c := startCloud(t)
	w := c.aws(t, "aws/examples/minimal")
	a := c.account(t)
	vars := map[string]any{"binary_file": binaryFile(t, "one"), "client_cidrs": []string{"10.1.0.0/16"}}
	w.vars(vars)

	p := w.plan()
	logCounts(t, p)
	for _, v := range checkAWS(p, asked{verbs: s3Verbs(t), prefix: "firn", tags: map[string]string{"project": "firn-trial", "firn-cluster": "trial"}, clients: []string{"10.1.0.0/16"}}) {
		t.Error(v)
	}
	start := time.Now()
	w.apply()
	t.Logf("apply of minimal: %.0f s", time.Since(start).Seconds())
	gone := false
	t.Cleanup(func() {
		if !gone {
			_, _ = w.try("destroy", "-auto-approve")
		}
	})
	const bucket = "firn-trial-123456789012-eu-central-1"
	readBackMinimal(t, a, bucket)
	settled(t, w)
	before := a.groups("trial")
	instance := *before["2"].Instances[0].InstanceId
	machine := a.fleet(bucket).text("machines", "2")

	// Another binary and one more network: the machines stay what they are.
	vars["binary_file"], vars["binary_version"] = binaryFile(t, "two"), "0.1.1"
	vars["client_cidrs"] = []string{"10.1.0.0/16", "192.0.2.0/24"}
	w.vars(vars)
	for address := range w.plan().changed() {
		if strings.Contains(address, "launch_template") || strings.Contains(address, "autoscaling") {
			t.Errorf("another binary changes %s", address)
		}
	}
	w.apply()
	expect(t, "binary of the fleet file", a.fleet(bucket).text("binary", "sha256"), fmt.Sprintf("%x", sha256.Sum256([]byte("two"))))
	expect(t, "machine of broker 2", a.fleet(bucket).text("machines", "2"), machine)
	expect(t, "instance of broker 2", *a.groups("trial")["2"].Instances[0].InstanceId, instance)
	expect(t, "networks at Kafka's port", strings.Join(openTo(a, "trial", 9092), " "), "10.1.0.0/16 192.0.2.0/24")

	// Another machine type: the template is another one, the machine runs on
	// until it is its turn and it powers itself off.
	w.write("type_override.tf", "module \"firn\" {\n  machine_type = \"i4i.xlarge\"\n}\n")
	w.apply()
	after := a.fleet(bucket).text("machines", "2")
	if after == machine {
		t.Error("the fleet file asks for the old machine")
	}
	expect(t, "instance of broker 2 before its turn", *a.groups("trial")["2"].Instances[0].InstanceId, instance)
	tmpl := a.template("firn-trial-broker-2")
	expect(t, "type in the template", string(tmpl.InstanceType), "i4i.xlarge")
	expect(t, "machine in the template's user data", a.machineFile(*tmpl.UserData).text("machine"), after)
	settled(t, w)

	// Its turn: a machine that powers itself off is terminated, and the group
	// makes another one of the newest template.
	must(a.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{instance}}))(a)
	replaced := a.instance(*a.groups("trial")["2"].Instances[0].InstanceId)
	if *replaced.InstanceId == instance {
		t.Error("the group still has the machine that is off")
	}
	expect(t, "type of the new machine", string(replaced.InstanceType), "i4i.xlarge")
	expect(t, "zone of the new machine", *replaced.Placement.AvailabilityZone, before["2"].AvailabilityZones[0])
	expect(t, "machine in its user data", a.machineFile(a.userData(*replaced.InstanceId)).text("machine"), after)
	expect(t, "broker in its user data", fmt.Sprint(a.machineFile(a.userData(*replaced.InstanceId)).at("broker")), "2")
	for _, want := range []string{"firn-broker=2", "firn-cluster=trial", "project=firn-trial"} {
		if !slices.ContainsFunc(replaced.Tags, func(t ec2types.Tag) bool { return *t.Key+"="+*t.Value == want }) {
			t.Errorf("the new machine has no tag %s", want)
		}
	}

	w.destroy()
	gone = true
	if left := a.left(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// openTo gives who may reach a port of the brokers, sorted, others than brokers.
func openTo(a *account, cluster string, port int32) []string {
	a.t.Helper()
	groups := must(a.ec2.DescribeSecurityGroups(a.t.Context(), &ec2.DescribeSecurityGroupsInput{Filters: filter("group-name", "firn-"+cluster+"-brokers")}))(a).SecurityGroups
	if len(groups) != 1 {
		a.t.Fatalf("%d groups of brokers", len(groups))
	}
	var from []string
	for _, p := range groups[0].IpPermissions {
		if aws.ToInt32(p.FromPort) <= port && port <= aws.ToInt32(p.ToPort) {
			for _, r := range p.IpRanges {
				from = append(from, *r.CidrIp)
			}
			for _, r := range p.UserIdGroupPairs {
				if *r.GroupId != *groups[0].GroupId {
					from = append(from, *r.GroupId)
				}
			}
			if len(p.Ipv6Ranges) > 0 || len(p.PrefixListIds) > 0 {
				from = append(from, "another kind of source")
			}
		}
	}
	slices.Sort(from)
	return slices.Compact(from)
}

// readBackMinimal looks at what was made through AWS's own SDK.
func readBackMinimal(t *testing.T, a *account, bucket string) {
	t.Helper()
	ctx := t.Context()
	expect(t, "verbs of the role", strings.Join(a.roleVerbs("firn-trial-eu-central-1"), " "), strings.Join(s3Verbs(t), " "))
	expect(t, "who may reach Kafka", strings.Join(openTo(a, "trial", 9092), " "), "10.1.0.0/16")
	for _, port := range []int32{22, 80, 443, 2379, 2380, 9644} {
		if from := openTo(a, "trial", port); len(from) != 0 {
			t.Errorf("port %d is open to %v", port, from)
		}
	}
	block := must(a.s3.GetPublicAccessBlock(ctx, &s3.GetPublicAccessBlockInput{Bucket: &bucket}))(a).PublicAccessBlockConfiguration
	for what, b := range map[string]*bool{"ACLs": block.BlockPublicAcls, "policies": block.BlockPublicPolicy, "old ACLs": block.IgnorePublicAcls, "old policies": block.RestrictPublicBuckets} {
		expect(t, "public access by "+what+" blocked", aws.ToBool(b), true)
	}
	sse := must(a.s3.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: &bucket}))(a).ServerSideEncryptionConfiguration.Rules
	expect(t, "encryption", string(sse[0].ApplyServerSideEncryptionByDefault.SSEAlgorithm), "AES256")
	rules := must(a.s3.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &bucket}))(a).Rules
	expect(t, "rules of the lifecycle", len(rules), 1)
	expect(t, "days of an incomplete upload", aws.ToInt32(rules[0].AbortIncompleteMultipartUpload.DaysAfterInitiation), 2)
	policy := must(a.s3.GetBucketPolicy(ctx, &s3.GetBucketPolicyInput{Bucket: &bucket}))(a).Policy
	if !strings.Contains(*policy, `"aws:SecureTransport"`) {
		t.Errorf("policy of the bucket: %s", *policy)
	}
	expect(t, "binary in the bucket", string(a.object(bucket, fmt.Sprintf("firn/binary/%x/firn", sha256.Sum256([]byte("one"))))), "one")

	fleet := a.fleet(bucket)
	groups := a.groups("trial")
	expect(t, "scaling groups", len(groups), 3)
	zones := map[string]bool{}
	for n, g := range groups {
		tmpl := a.template("firn-trial-broker-" + n)
		file := a.machineFile(*tmpl.UserData)
		expect(t, "broker's number", fmt.Sprint(file.at("broker")), n)
		expect(t, "machine of broker "+n, file.text("machine"), fleet.text("machines", n))
		expect(t, "seeds", strings.Join(file.texts("seeds"), " "), "broker-1.trial.internal broker-2.trial.internal broker-3.trial.internal")
		expect(t, "store", file.text("store"), "s3://"+bucket+"/firn?region="+region)
		expect(t, "rack", file.text("rack"), g.AvailabilityZones[0])
		zones[file.text("rack")] = true
		expect(t, "type", string(tmpl.InstanceType), "i4i.large")
		expect(t, "metadata tokens", string(tmpl.MetadataOptions.HttpTokens), "required")
		expect(t, "shutdown", string(tmpl.InstanceInitiatedShutdownBehavior), "terminate")
		expect(t, "instances of broker "+n, len(g.Instances), 1)
		eni := must(a.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{Filters: filter("tag:firn-broker", n)}))(a).NetworkInterfaces
		if len(eni) != 1 || *tmpl.NetworkInterfaces[0].NetworkInterfaceId != *eni[0].NetworkInterfaceId {
			t.Fatalf("broker %s has the interfaces %v", n, eni)
		}
		expect(t, "zone of the interface", *eni[0].AvailabilityZone, file.text("rack"))
		if eni[0].Association != nil {
			t.Errorf("broker %s has the public address %s", n, aws.ToString(eni[0].Association.PublicIp))
		}
		expect(t, "address of "+file.text("host"), record(a, file.text("host")), *eni[0].PrivateIpAddress)
	}
	expect(t, "zones", len(zones), 3)
	for _, r := range must(a.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{Filters: filter("tag:Name", "trial-brokers")}))(a).RouteTables {
		for _, route := range r.Routes {
			if aws.ToString(route.DestinationCidrBlock) == "0.0.0.0/0" {
				t.Errorf("the brokers' subnets have a way out: %v", route)
			}
		}
	}
}

// record gives the address of a name in the one zone of its domain.
func record(a *account, name string) string {
	a.t.Helper()
	_, domain, _ := strings.Cut(name, ".")
	zones := must(a.dns.ListHostedZonesByName(a.t.Context(), &route53.ListHostedZonesByNameInput{DNSName: &domain}))(a).HostedZones
	if len(zones) != 1 {
		a.t.Fatalf("%d zones of %s", len(zones), domain)
	}
	for _, r := range must(a.dns.ListResourceRecordSets(a.t.Context(), &route53.ListResourceRecordSetsInput{HostedZoneId: zones[0].Id}))(a).ResourceRecordSets {
		if r.Type == r53types.RRTypeA && strings.TrimSuffix(*r.Name, ".") == name {
			return *r.ResourceRecords[0].Value
		}
	}
	return "none"
}

func TestAWSProduction(t *testing.T) {
	c := startCloud(t)
	w := c.aws(t, "aws/examples/production")
	a := c.account(t)
	net := makeNetwork(t, a)
	key := "arn:aws:kms:eu-central-1:123456789012:key/0e8ce1bd-2f67-4a7c-8f9c-3e5c1b1d2a3b"
	sha := strings.Repeat("ab", 32)
	vars := map[string]any{
		"region": region, "network": map[string]any{"id": net.vpc, "subnets": net.subnets},
		"client_groups": []string{net.group}, "metrics_groups": []string{net.group}, "encryption_key": key,
		"binary": map[string]any{"version": "1.4.0", "url": "https://downloads.example.net/firn", "sha256": sha},
		"tags":   map[string]string{"owner": "platform", "cost": "logs"},
	}
	w.vars(vars)
	p := w.plan()
	logCounts(t, p)
	for _, v := range checkAWS(p, asked{verbs: s3Verbs(t), prefix: "firn", key: true, clients: []string{net.group}, monitors: []string{net.group},
		tags: map[string]string{"owner": "platform", "cost": "logs", "firn-cluster": "prod"}}) {
		t.Error(v)
	}
	start := time.Now()
	w.apply()
	t.Logf("apply of production: %.0f s", time.Since(start).Seconds())
	gone := false
	t.Cleanup(func() {
		if !gone {
			_, _ = w.try("destroy", "-auto-approve")
		}
		net.remove(a)
	})
	const bucket = "firn-prod-123456789012-eu-central-1"
	expect(t, "who may reach Kafka", strings.Join(openTo(a, "prod", 9092), " "), net.group)
	expect(t, "who may reach HTTP", strings.Join(openTo(a, "prod", 9644), " "), net.group)
	verbs := append(s3Verbs(t), "kms:Decrypt", "kms:GenerateDataKey")
	slices.Sort(verbs)
	expect(t, "verbs of the role", strings.Join(a.roleVerbs("firn-prod-eu-central-1"), " "), strings.Join(verbs, " "))
	sse := must(a.s3.GetBucketEncryption(t.Context(), &s3.GetBucketEncryptionInput{Bucket: aws.String(bucket)}))(a).ServerSideEncryptionConfiguration.Rules
	expect(t, "key of the bucket", aws.ToString(sse[0].ApplyServerSideEncryptionByDefault.KMSMasterKeyID), key)
	versions := must(a.s3.GetBucketVersioning(t.Context(), &s3.GetBucketVersioningInput{Bucket: aws.String(bucket)}))(a)
	expect(t, "versioning", string(versions.Status), "Enabled")
	groups := a.groups("prod")
	expect(t, "scaling groups", len(groups), 6)
	for n := range groups {
		tmpl := a.template("firn-prod-broker-" + n)
		file := a.machineFile(*tmpl.UserData)
		expect(t, "members", len(file.texts("seeds")), 5)
		expect(t, "min.insync.replicas", file.text("config", "min.insync.replicas"), "2")
		expect(t, "type", string(tmpl.InstanceType), "i8g.2xlarge")
		expect(t, "key of the disk", aws.ToString(tmpl.BlockDeviceMappings[0].Ebs.KmsKeyId), key)
	}
	settled(t, w)

	// What was applied before counts: versions that cannot be rolled to, and
	// the members that the cluster formed with.
	refused(t, w, vars, "binary", map[string]any{"version": "1.3.9", "url": "https://downloads.example.net/firn", "sha256": sha}, "binary.version: 1.3.9 cannot be rolled to from 1.4.0")
	refused(t, w, vars, "binary", map[string]any{"version": "3.0.0", "url": "https://downloads.example.net/firn", "sha256": sha}, "roll to the last 2.x first")
	w.write("members_override.tf", "module \"firn\" {\n  members = 3\n}\n")
	refused(t, w, vars, "", nil, "members: the cluster formed with 5 members of etcd")
	if err := os.Remove(filepath.Join(w.dir, "members_override.tf")); err != nil {
		t.Fatal(err)
	}
	w.vars(vars)
	w.destroy()
	gone = true
	net.remove(a)
	if left := a.left(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// network is one that exists before Terraform comes.
type network struct {
	vpc, group string
	subnets    map[string]string
	removed    bool
}

func makeNetwork(t *testing.T, a *account) *network {
	t.Helper()
	ctx := t.Context()
	vpc := must(a.ec2.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.9.0.0/16")}))(a).Vpc
	n := &network{vpc: *vpc.VpcId, subnets: map[string]string{}}
	for i, z := range []string{"a", "b", "c"} {
		s := must(a.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: vpc.VpcId, AvailabilityZone: aws.String(region + z), CidrBlock: aws.String(fmt.Sprintf("10.9.%d.0/24", i))}))(a)
		n.subnets[region+z] = *s.Subnet.SubnetId
	}
	n.group = *must(a.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{VpcId: vpc.VpcId, GroupName: aws.String("applications"), Description: aws.String("clients")}))(a).GroupId
	return n
}

func (n *network) remove(a *account) {
	if n.removed {
		return
	}
	n.removed = true
	ctx := contextOfCleanup(a.t)
	for _, s := range n.subnets {
		must(a.ec2.DeleteSubnet(ctx, &ec2.DeleteSubnetInput{SubnetId: &s}))(a)
	}
	must(a.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &n.group}))(a)
	must(a.ec2.DeleteVpc(ctx, &ec2.DeleteVpcInput{VpcId: &n.vpc}))(a)
}

// refused plans with one input changed and wants an error that has want.
func refused(t *testing.T, w *work, vars map[string]any, input string, value any, want string) {
	t.Helper()
	v := maps.Clone(vars)
	if input != "" {
		v[input] = value
	}
	w.vars(v)
	_, err := w.try("plan")
	switch {
	case err == nil:
		t.Errorf("%s = %v was not refused", input, value)
	case !strings.Contains(unwrapped(err.Error()), want):
		t.Errorf("%s = %v: %v\nwant %q in it", input, value, err, want)
	}
}

// unwrapped undoes Terraform's breaking of lines in messages.
func unwrapped(s string) string { return strings.Join(strings.Fields(s), " ") }
