# What can only be refused with a look at the cloud, or at what was applied
# before: the bucket remembers the version, the reserved addresses tell how many
# brokers there are.

data "google_storage_buckets" "ours" {
  prefix = local.bucket_name
}

data "google_storage_bucket_objects" "before" {
  for_each = toset(var.bucket != null ? [var.bucket] : [for b in data.google_storage_buckets.ours.buckets : b.name if b.name == local.bucket_name])
  bucket   = each.key
  prefix   = "${var.bucket_prefix}/fleet/version/"
}

data "google_compute_addresses" "before" {
  region = local.region
}

locals {
  # [major, minor, patch]; a suffix does not count.
  version_new = [for p in split(".", regex("^[0-9.]+", var.binary.version)) : tonumber(p)]
  versions_before = distinct(flatten([for d in data.google_storage_bucket_objects.before : [for o in d.bucket_objects :
  trimprefix(o.name, "${var.bucket_prefix}/fleet/version/")]]))
  parts_before   = [for v in local.versions_before : [for p in split(".", regex("^[0-9.]+", v)) : tonumber(p)]]
  order_new      = local.version_new[0] * 1000000 + local.version_new[1]
  too_far_back   = [for v in local.parts_before : join(".", v) if v[0] * 1000000 + v[1] > local.order_new]
  too_far_ahead  = [for v in local.parts_before : join(".", v) if local.version_new[0] > v[0] + 1]
  brokers_before = length([for a in data.google_compute_addresses.before.addresses : a.name if startswith(a.name, "firn-${var.name}-broker-")])
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
      condition     = length(setsubtract(local.zones, data.google_compute_zones.here.names)) == 0
      error_message = "zones: ${join(", ", setsubtract(local.zones, data.google_compute_zones.here.names))} are not available in ${local.region}; there are ${join(", ", sort(data.google_compute_zones.here.names))}."
    }
    precondition {
      condition     = var.network == null ? true : length(setsubtract(local.zones, keys(var.network.subnets))) == 0
      error_message = "network.subnets: there is none for ${join(", ", setsubtract(local.zones, keys(try(var.network.subnets, {}))))}; give one for each of zones."
    }
    precondition {
      condition     = alltrue([for b in data.google_storage_bucket.given : lower(b.location) == local.region])
      error_message = "bucket: ${coalesce(var.bucket, "-")} is in ${lower(join("", [for b in data.google_storage_bucket.given : b.location]))}, the brokers in ${local.region}, and every read would be paid for; give a bucket of ${local.region}, or leave the input out."
    }
    precondition {
      condition     = var.encryption_key == null ? true : split("/", var.encryption_key)[3] == local.region
      error_message = "encryption_key: it is a key of ${try(split("/", var.encryption_key)[3], "-")}, and bucket and disks are in ${local.region}; give a key of ${local.region}."
    }
    precondition {
      condition     = startswith(coalesce(var.binary.url, "-"), "gs://") ? startswith(var.binary.url, "gs://${local.bucket_name}/${var.bucket_prefix}/") : true
      error_message = "binary.url: machines may read below gs://${local.bucket_name}/${var.bucket_prefix}/ only; put the binary there, or give binary.file."
    }
  }
}

check "fewer_brokers" {
  assert {
    condition     = local.brokers_before <= var.brokers
    error_message = "brokers: ${local.brokers_before} before, ${var.brokers} now. Before you apply, empty the last ones, one by one: firn cluster decommission N."
  }
}
