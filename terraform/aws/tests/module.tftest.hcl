# What the module makes of its inputs, with no cloud behind it: terraform test
# (1.11 or newer). Each run has a state of its own: it is a cluster of its own.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { id = "eu-central-1", name = "eu-central-1" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c", "eu-central-1d"] }
  }
  mock_data "aws_ec2_instance_type" {
    defaults = { instance_storage_supported = true, supported_architectures = ["x86_64"] }
  }
  mock_data "aws_ec2_instance_type_offerings" {
    defaults = { locations = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_data "aws_network_interfaces" {
    defaults = { ids = [] }
  }
  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/firn" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/firn" }
  }
}

variables {
  name   = "trial"
  binary = { version = "1.0.0", file = "main.tf" }
}

run "closed_by_default" {
  state_key = "closed_by_default"
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.asked) == 0 && length(aws_vpc_security_group_ingress_rule.among) == 3
    error_message = "somebody else than brokers is let in"
  }
  assert {
    condition     = length(aws_internet_gateway.this) == 0 && length(aws_nat_gateway.this) == 0 && length(aws_eip.broker) == 0
    error_message = "there is a way to the internet"
  }
  assert {
    condition     = output.bootstrap_servers == "broker-1.trial.internal:9092,broker-2.trial.internal:9092,broker-3.trial.internal:9092"
    error_message = "bootstrap_servers: ${output.bootstrap_servers}"
  }
  assert {
    condition     = [for n in ["1", "2", "3"] : one(aws_autoscaling_group.broker[n].availability_zones)] == ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
    error_message = "brokers are not spread over the first three zones"
  }
  assert {
    condition     = jsondecode(aws_s3_object.fleet.content).machines["2"] == local.machines["2"] && length(distinct(values(local.machines))) == 3
    error_message = "the fleet file does not name the machines"
  }
}

run "six_brokers_five_members" {
  state_key = "six_brokers_five_members"
  variables {
    brokers = 6
    members = 5
  }
  assert {
    condition     = length(local.seeds) == 5 && aws_subnet.brokers["eu-central-1c"].cidr_block == "10.64.32.0/20" && local.brokers["6"].zone == "eu-central-1c"
    error_message = "not two brokers in each zone, or not five seeds"
  }
}

run "one_broker" {
  state_key = "one_broker"
  variables {
    brokers = 1
    members = 1
    zones   = ["eu-central-1b"]
  }
  assert {
    condition     = output.names == { "1" = "broker-1.trial.internal" }
    error_message = "not one broker"
  }
}

run "https_binary_needs_nat" {
  state_key = "https_binary_needs_nat"
  variables {
    binary = { version = "1.0.0", url = "https://downloads.example.net/firn", sha256 = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a" }
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_route.brokers_out) == 1 && length(aws_s3_object.binary) == 0
    error_message = "machines have no way to the binary"
  }
  assert {
    condition     = length(aws_vpc_security_group_egress_rule.https) == 1
    error_message = "https does not get out"
  }
}

run "public" {
  state_key = "public"
  variables {
    public       = true
    client_cidrs = ["192.0.2.7/32"]
  }
  assert {
    condition     = length(aws_eip.broker) == 3 && length(aws_route.public) == 1 && length(aws_nat_gateway.this) == 0
    error_message = "brokers have no public addresses, or a NAT gateway beside them"
  }
  assert {
    condition     = local.identities["1"].advertise == "${aws_eip.broker["1"].public_dns}:9092"
    error_message = "clients outside are told a name that they cannot resolve"
  }
  assert {
    condition     = [for r in aws_vpc_security_group_ingress_rule.asked : r.cidr_ipv4] == ["192.0.2.7/32"]
    error_message = "more than the client's address is let in"
  }
}

run "world_only_by_name" {
  state_key = "world_only_by_name"
  variables {
    public       = true
    allow_world  = true
    client_cidrs = ["0.0.0.0/0"]
  }
  assert {
    condition     = [for r in aws_vpc_security_group_ingress_rule.asked : [r.cidr_ipv4, r.from_port, r.to_port]] == [["0.0.0.0/0", 9092, 9092]]
    error_message = "the world is let in at another port than Kafka's"
  }
}

run "network_disk" {
  state_key = "network_disk"
  variables {
    disk = { kind = "network", size_gb = 500 }
  }
  assert {
    condition     = alltrue([for v in aws_ebs_volume.broker : v.encrypted && v.size == 500]) && length(aws_ebs_volume.broker) == 3
    error_message = "no encrypted volume for each broker"
  }
  assert {
    condition     = strcontains(local.user_data["1"], "VolumeId=${aws_ebs_volume.broker["1"].id}") && length(aws_vpc_endpoint.ec2) == 1
    error_message = "machines do not attach their volumes, or cannot reach EC2"
  }
  assert {
    condition     = local.machine_type == "m7i.large"
    error_message = "a machine with a local disk is paid for"
  }
}

run "given_network" {
  state_key = "given_network"
  variables {
    network = {
      id      = "vpc-0123456789abcdef0"
      subnets = { "eu-central-1a" = "subnet-a", "eu-central-1b" = "subnet-b", "eu-central-1c" = "subnet-c" }
    }
    peer_networks = ["vpc-0fedcba9876543210"]
  }
  assert {
    condition     = length(aws_vpc.this) == 0 && length(aws_subnet.brokers) == 0 && aws_network_interface.broker["2"].subnet_id == "subnet-b"
    error_message = "the given network is not used"
  }
  assert {
    condition     = length(aws_route53_zone.this.vpc) == 2
    error_message = "the peer does not resolve the brokers' names"
  }
}

run "spot" {
  state_key = "spot"
  variables {
    spot = true
  }
  assert {
    condition     = alltrue([for t in aws_launch_template.broker : t.instance_market_options[0].market_type == "spot" && t.instance_market_options[0].spot_options[0].spot_instance_type == "one-time"])
    error_message = "not spot machines"
  }
}

run "own_key_and_versions" {
  state_key = "own_key_and_versions"
  variables {
    encryption_key    = "arn:aws:kms:eu-central-1:123456789012:key/0e8ce1bd"
    bucket_versioning = true
  }
  assert {
    condition     = length(aws_s3_bucket_lifecycle_configuration.this["this"].rule) == 2
    error_message = "old versions stay for ever"
  }
  assert {
    condition     = alltrue([for t in aws_launch_template.broker : t.block_device_mappings[0].ebs[0].kms_key_id == var.encryption_key])
    error_message = "disks are not encrypted with the key"
  }
}

run "even_members_are_refused" {
  state_key = "even_members_are_refused"
  command   = plan
  variables {
    members = 2
  }
  expect_failures = [var.members]
}

run "a_type_without_a_disk_is_refused" {
  state_key = "a_type_without_a_disk_is_refused"
  command   = plan
  override_data {
    target = data.aws_ec2_instance_type.broker
    values = { instance_storage_supported = false, supported_architectures = ["x86_64"] }
  }
  expect_failures = [terraform_data.members]
}
