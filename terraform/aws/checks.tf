# What can only be refused with a look at the cloud, or at what was applied
# before.

data "aws_ec2_instance_type" "broker" {
  instance_type = local.machine_type
}

data "aws_ec2_instance_type_offerings" "broker" {
  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = [local.machine_type]
  }
}

# The interfaces tell which brokers there are, and which version they were given.
data "aws_network_interfaces" "before" {
  filter {
    name   = "tag:firn-cluster"
    values = [var.name]
  }
  filter {
    name   = "tag-key"
    values = ["firn-version"]
  }
}

data "aws_network_interface" "before" {
  for_each = toset(data.aws_network_interfaces.before.ids)
  id       = each.key
}

locals {
  # [major, minor, patch]; a suffix does not count.
  version_new = [for p in split(".", regex("^[0-9.]+", var.binary.version)) : tonumber(p)]
  versions_before = distinct([for i in data.aws_network_interface.before :
  [for p in split(".", regex("^[0-9.]+", lookup(i.tags, "firn-version", var.binary.version))) : tonumber(p)]])
  order_new      = local.version_new[0] * 1000000 + local.version_new[1]
  too_far_back   = [for v in local.versions_before : join(".", v) if v[0] * 1000000 + v[1] > local.order_new]
  too_far_ahead  = [for v in local.versions_before : join(".", v) if local.version_new[0] > v[0] + 1]
  brokers_before = length(data.aws_network_interfaces.before.ids)
}

# members as they were when the cluster formed.
resource "terraform_data" "members" {
  input = var.members

  lifecycle {
    ignore_changes = [input]

    postcondition {
      condition     = self.input == var.members
      error_message = "members: the cluster formed with ${self.input} members of etcd, and its brokers refuse to start with ${var.members}; set it back to ${self.input}."
    }

    precondition {
      condition     = length(local.too_far_back) == 0
      error_message = "binary.version: ${var.binary.version} cannot be rolled to from ${join(", ", local.too_far_back)}: an older minor version may not read what a newer one has written; give that version or a later one."
    }
    precondition {
      condition     = length(local.too_far_ahead) == 0
      error_message = "binary.version: ${var.binary.version} cannot be rolled to from ${join(", ", local.too_far_ahead)}: brokers of versions two majors apart do not work together; roll to the last ${local.version_new[0] - 1}.x first."
    }
    precondition {
      condition     = length(local.zones) >= min(3, var.brokers)
      error_message = "zones: ${length(local.zones)} zones (${join(", ", local.zones)}) are fewer than replicas (${min(3, var.brokers)}); name more zones, or give network.subnets in more of them."
    }
    precondition {
      condition     = length(setsubtract(local.zones, data.aws_availability_zones.here.names)) == 0
      error_message = "zones: ${join(", ", setsubtract(local.zones, data.aws_availability_zones.here.names))} are not available in ${local.region}; there are ${join(", ", sort(data.aws_availability_zones.here.names))}."
    }
    precondition {
      condition     = var.network == null ? true : length(setsubtract(local.zones, keys(var.network.subnets))) == 0
      error_message = "network.subnets: there is none for ${join(", ", setsubtract(local.zones, keys(try(var.network.subnets, {}))))}; give one for each of zones."
    }
    precondition {
      condition     = var.disk.kind == "network" || data.aws_ec2_instance_type.broker.instance_storage_supported
      error_message = "machine_type: ${local.machine_type} has no local disk; give one that has (i4i, i8g, i7ie, im4gn, m6id …), or disk = {kind = \"network\", size_gb = N}."
    }
    precondition {
      condition     = contains(data.aws_ec2_instance_type.broker.supported_architectures, { amd64 = "x86_64", arm64 = "arm64" }[var.arch])
      error_message = "machine_type: ${local.machine_type} is not ${var.arch}; give arch = \"${contains(data.aws_ec2_instance_type.broker.supported_architectures, "arm64") ? "arm64" : "amd64"}\", and a binary for it, or another machine_type."
    }
    precondition {
      condition     = length(setsubtract(local.zones, data.aws_ec2_instance_type_offerings.broker.locations)) == 0
      error_message = "machine_type: ${local.machine_type} is not offered in ${join(", ", setsubtract(local.zones, data.aws_ec2_instance_type_offerings.broker.locations))}; name other zones, or another machine_type."
    }
    precondition {
      condition     = alltrue([for b in data.aws_s3_bucket.given : b.region == local.region])
      error_message = "bucket: ${coalesce(var.bucket, "-")} is in ${join("", [for b in data.aws_s3_bucket.given : b.region])}, the brokers in ${local.region}, and every read would be paid for; give a bucket of ${local.region}, or leave the input out."
    }
    precondition {
      condition     = var.encryption_key == null ? true : split(":", var.encryption_key)[3] == local.region
      error_message = "encryption_key: it is a key of ${try(split(":", var.encryption_key)[3], "-")}, and bucket and disks are in ${local.region}; give a key of ${local.region}."
    }
    precondition {
      condition     = startswith(coalesce(var.binary.url, "-"), "s3://") ? startswith(var.binary.url, "s3://${local.bucket_name}/${var.bucket_prefix}/") : true
      error_message = "binary.url: machines may read below s3://${local.bucket_name}/${var.bucket_prefix}/ only; put the binary there, or give binary.file."
    }
  }
}

check "fewer_brokers" {
  assert {
    condition     = local.brokers_before <= var.brokers
    error_message = "brokers: ${local.brokers_before} before, ${var.brokers} now. Before you apply, empty the last ones, one by one: firn cluster decommission N."
  }
}
