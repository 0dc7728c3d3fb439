# Firn on Google Cloud: docs/deploy.md is the design, docs/terraform.md the way
# from an empty project to the first record. A broker is a managed instance
# group of one, whose machine always gets the same internal address.

data "google_client_config" "here" {}

data "google_compute_zones" "here" {
  status = "UP"
}

locals {
  project = data.google_client_config.here.project
  region  = data.google_client_config.here.region

  labels = merge(var.labels, { "firn-cluster" = var.name })

  machine_type = coalesce(var.machine_type, {
    local   = { amd64 = "n2-standard-4", arm64 = "c4a-standard-4-lssd" }
    network = { amd64 = "n2-standard-4", arm64 = "c4a-standard-4" }
  }[var.disk.kind][var.arch])
  # The newer families take Hyperdisk and nothing older.
  disk_type = can(regex("^(c4|c4a|c4d|n4|n4a|n4d|z4m|h4d)-", local.machine_type)) ? "hyperdisk-balanced" : "pd-balanced"
  data_type = local.disk_type == "pd-balanced" ? "pd-ssd" : "hyperdisk-balanced"
  # These types say how many local SSDs they get; the others have theirs.
  chosen_ssds = var.disk.kind == "local" && can(regex("^(n1|n2|n2d|c2|c2d)-", local.machine_type)) ? var.local_ssds : 0
  # Machines with local SSDs of their own cannot move to another host.
  moves = !var.spot && !endswith(local.machine_type, "-lssd") && !startswith(local.machine_type, "z3-")

  candidates = var.network == null ? sort(data.google_compute_zones.here.names) : sort(keys(var.network.subnets))
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
