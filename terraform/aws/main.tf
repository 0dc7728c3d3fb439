# Firn on AWS: docs/deploy.md is the design, docs/terraform.md the way from an
# empty account to the first record. A broker is an auto-scaling group of one
# with a network interface that outlives its machines.

data "aws_region" "here" {}

data "aws_caller_identity" "here" {}

data "aws_partition" "here" {}

data "aws_availability_zones" "here" {
  state = "available"

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required", "opted-in"]
  }
  filter {
    name   = "zone-type"
    values = ["availability-zone"]
  }
}

locals {
  region    = data.aws_region.here.id
  account   = data.aws_caller_identity.here.account_id
  partition = data.aws_partition.here.partition

  tags = merge(var.tags, { "firn-cluster" = var.name })

  machine_type = coalesce(var.machine_type, {
    local   = { amd64 = "i4i.large", arm64 = "i8g.large" }
    network = { amd64 = "m7i.large", arm64 = "m7g.large" }
  }[var.disk.kind][var.arch])

  candidates = var.network == null ? sort(data.aws_availability_zones.here.names) : sort(keys(var.network.subnets))
  zones      = var.zones == null ? slice(local.candidates, 0, min(3, length(local.candidates))) : var.zones

  # By number, as text: what for_each takes.
  brokers = { for n in range(1, var.brokers + 1) : tostring(n) => {
    zone = local.zones[(n - 1) % length(local.zones)]
    host = "broker-${n}.${local.domain}"
  } }
  seeds = [for n in range(1, var.members + 1) : local.brokers[tostring(n)].host]

  domain = "${var.name}.internal"
  ports  = { kafka = 9092, http = 9644, etcd_clients = 2379, etcd_peers = 2380 }

  over_https = startswith(coalesce(var.binary.url, "-"), "https://")
}
