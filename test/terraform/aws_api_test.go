package terraform

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	astypes "github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/route53"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/firnlog/firn/machine"
)

// account asks the stand-in as anybody asks AWS: by its SDK.
type account struct {
	t     *testing.T
	ec2   *ec2.Client
	iam   *iam.Client
	s3    *s3.Client
	scale *autoscaling.Client
	dns   *route53.Client
}

func (c *cloud) account(t *testing.T) *account {
	cfg := aws.Config{Region: region, BaseEndpoint: aws.String(c.url), Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")}
	return &account{t: t, ec2: ec2.NewFromConfig(cfg), iam: iam.NewFromConfig(cfg),
		s3:    s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }),
		scale: autoscaling.NewFromConfig(cfg), dns: route53.NewFromConfig(cfg)}
}

// must ends the test with a call's error.
func must[T any](v T, err error) func(a *account) T {
	return func(a *account) T {
		a.t.Helper()
		if err != nil {
			a.t.Fatal(err)
		}
		return v
	}
}

func filter(name, value string) []ec2types.Filter {
	return []ec2types.Filter{{Name: &name, Values: []string{value}}}
}

// template gives the newest version of a broker's launch template.
func (a *account) template(name string) *ec2types.ResponseLaunchTemplateData {
	a.t.Helper()
	out := must(a.ec2.DescribeLaunchTemplateVersions(a.t.Context(), &ec2.DescribeLaunchTemplateVersionsInput{
		LaunchTemplateName: &name, Versions: []string{"$Latest"}}))(a)
	if len(out.LaunchTemplateVersions) != 1 {
		a.t.Fatalf("%s has %d newest versions", name, len(out.LaunchTemplateVersions))
	}
	return out.LaunchTemplateVersions[0].LaunchTemplateData
}

// machineFile gives the machine file in a template's user data.
func (a *account) machineFile(userData string) object {
	a.t.Helper()
	text, err := base64.StdEncoding.DecodeString(userData)
	if err != nil {
		a.t.Fatal(err)
	}
	return cloudConfigFile(a.t, string(text))
}

// cloudConfigFile gives the machine file that cloud-init would write.
func cloudConfigFile(t *testing.T, text string) object {
	t.Helper()
	_, rest, ok := strings.Cut(text, "path: /etc/firn/machine.json")
	_, rest, ok2 := strings.Cut(rest, "content: ")
	line, _, _ := strings.Cut(rest, "\n")
	file, err := base64.StdEncoding.DecodeString(line)
	var o object
	if !ok || !ok2 || err != nil || json.Unmarshal(file, &o) != nil {
		t.Fatalf("no machine file in user data:\n%s", text)
	}
	if _, err := machine.ParseFile(file); err != nil {
		t.Errorf("machines would refuse it: %v", err)
	}
	return o
}

// instance describes a machine.
func (a *account) instance(id string) ec2types.Instance {
	a.t.Helper()
	out := must(a.ec2.DescribeInstances(a.t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}}))(a)
	if len(out.Reservations) != 1 || len(out.Reservations[0].Instances) != 1 {
		a.t.Fatalf("there is no one instance %s", id)
	}
	return out.Reservations[0].Instances[0]
}

// userData gives what a machine was booted with.
func (a *account) userData(id string) string {
	a.t.Helper()
	out := must(a.ec2.DescribeInstanceAttribute(a.t.Context(), &ec2.DescribeInstanceAttributeInput{InstanceId: &id, Attribute: ec2types.InstanceAttributeNameUserData}))(a)
	return *out.UserData.Value
}

// groups gives the auto-scaling groups of a cluster by broker.
func (a *account) groups(cluster string) map[string]astypes.AutoScalingGroup {
	a.t.Helper()
	out := must(a.scale.DescribeAutoScalingGroups(a.t.Context(), &autoscaling.DescribeAutoScalingGroupsInput{}))(a)
	all := map[string]astypes.AutoScalingGroup{}
	for _, g := range out.AutoScalingGroups {
		if n, ok := strings.CutPrefix(*g.AutoScalingGroupName, "firn-"+cluster+"-broker-"); ok {
			all[n] = g
		}
	}
	return all
}

// object reads an object of the bucket.
func (a *account) object(bucket, key string) []byte {
	a.t.Helper()
	out := must(a.s3.GetObject(a.t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &key}))(a)
	defer out.Body.Close()
	data, err := io.ReadAll(out.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return data
}

func (a *account) fleet(bucket string) object {
	a.t.Helper()
	var o object
	data := a.object(bucket, "firn/"+machine.FleetKey)
	if _, err := machine.ParseFleet(data); err != nil {
		a.t.Errorf("machines would refuse it: %v", err)
	}
	if err := json.Unmarshal(data, &o); err != nil {
		a.t.Fatal(err)
	}
	return o
}

// rolePolicy gives the verbs of the machines' role as they are in IAM, sorted.
func (a *account) roleVerbs(role string) []string {
	a.t.Helper()
	list := must(a.iam.ListRolePolicies(a.t.Context(), &iam.ListRolePoliciesInput{RoleName: &role}))(a)
	attached := must(a.iam.ListAttachedRolePolicies(a.t.Context(), &iam.ListAttachedRolePoliciesInput{RoleName: &role}))(a)
	if len(list.PolicyNames) != 1 || len(attached.AttachedPolicies) != 0 {
		a.t.Fatalf("role %s has policies %v and %v", role, list.PolicyNames, attached.AttachedPolicies)
	}
	got := must(a.iam.GetRolePolicy(a.t.Context(), &iam.GetRolePolicyInput{RoleName: &role, PolicyName: &list.PolicyNames[0]}))(a)
	text, err := url.QueryUnescape(*got.PolicyDocument)
	if err != nil {
		a.t.Fatal(err)
	}
	var doc policyDocument
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		a.t.Fatal(err)
	}
	var verbs []string
	for _, s := range doc.Statement {
		if s.Effect == "Allow" {
			verbs = append(verbs, s.Action...)
		}
	}
	slices.Sort(verbs)
	return verbs
}

// left gives everything that a cluster could have left behind.
func (a *account) left() []string {
	a.t.Helper()
	ctx := a.t.Context()
	var left []string
	add := func(kind string, ids ...string) {
		for _, id := range ids {
			left = append(left, kind+" "+id)
		}
	}
	for _, v := range must(a.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{Filters: filter("is-default", "false")}))(a).Vpcs {
		add("vpc", *v.VpcId)
	}
	for _, v := range must(a.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{}))(a).SecurityGroups {
		if *v.GroupName != "default" {
			add("group", *v.GroupName)
		}
	}
	// What moto's machines leave, which AWS takes away with them, has none of
	// the module's tags.
	for _, v := range must(a.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{Filters: []ec2types.Filter{{Name: aws.String("tag-key"), Values: []string{"firn-cluster"}}}}))(a).NetworkInterfaces {
		add("interface", *v.NetworkInterfaceId)
	}
	for _, v := range must(a.ec2.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{Filters: []ec2types.Filter{{Name: aws.String("tag-key"), Values: []string{"firn-cluster"}}}}))(a).Volumes {
		add("volume", *v.VolumeId)
	}
	for _, v := range must(a.ec2.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{}))(a).Addresses {
		add("address", *v.AllocationId)
	}
	for _, v := range must(a.ec2.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{}))(a).LaunchTemplates {
		add("template", *v.LaunchTemplateName)
	}
	for _, r := range must(a.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{}))(a).Reservations {
		for _, i := range r.Instances {
			if i.State.Name != ec2types.InstanceStateNameTerminated {
				add("instance", *i.InstanceId)
			}
		}
	}
	for _, v := range must(a.scale.DescribeAutoScalingGroups(ctx, &autoscaling.DescribeAutoScalingGroupsInput{}))(a).AutoScalingGroups {
		add("scaling group", *v.AutoScalingGroupName)
	}
	for _, v := range must(a.iam.ListRoles(ctx, &iam.ListRolesInput{}))(a).Roles {
		if strings.HasPrefix(*v.RoleName, "firn-") { // AWS makes roles of its own for services
			add("role", *v.RoleName)
		}
	}
	for _, v := range must(a.iam.ListInstanceProfiles(ctx, &iam.ListInstanceProfilesInput{}))(a).InstanceProfiles {
		add("profile", *v.InstanceProfileName)
	}
	for _, v := range must(a.dns.ListHostedZones(ctx, &route53.ListHostedZonesInput{}))(a).HostedZones {
		add("zone", *v.Name)
	}
	for _, v := range must(a.s3.ListBuckets(ctx, &s3.ListBucketsInput{}))(a).Buckets {
		add("bucket", *v.Name)
	}
	slices.Sort(left)
	return left
}
