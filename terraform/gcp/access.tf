# Who may reach what. A network without rules lets nobody in; brokers are told
# by their service account, which nobody else runs as.

locals {
  # By name: what it opens, and to whom.
  rules_in = merge(
    length(var.client_cidrs) == 0 ? {} : { "kafka-cidrs" = { port = local.ports.kafka, cidrs = var.client_cidrs, groups = null } },
    length(var.client_groups) == 0 ? {} : { "kafka-groups" = { port = local.ports.kafka, cidrs = null, groups = var.client_groups } },
    length(var.metrics_cidrs) == 0 ? {} : { "http-cidrs" = { port = local.ports.http, cidrs = var.metrics_cidrs, groups = null } },
    length(var.metrics_groups) == 0 ? {} : { "http-groups" = { port = local.ports.http, cidrs = null, groups = var.metrics_groups } },
    # Brokers are told each other's public addresses, and come from their own.
    var.public ? { "kafka-public" = { port = local.ports.kafka, cidrs = [for a in google_compute_address.public : "${a.address}/32"], groups = null } } : {},
  )
}

resource "google_compute_firewall" "among" {
  name                    = "firn-${var.name}-among"
  description             = "Brokers among each other"
  network                 = local.network_id
  direction               = "INGRESS"
  source_service_accounts = [google_service_account.machine.email]
  target_service_accounts = [google_service_account.machine.email]

  allow {
    protocol = "tcp"
    ports    = [local.ports.kafka, local.ports.http, local.ports.etcd_clients, local.ports.etcd_peers]
  }
}

resource "google_compute_firewall" "asked" {
  for_each                = local.rules_in
  name                    = "firn-${var.name}-${each.key}"
  description             = "Brokers' port ${each.value.port}"
  network                 = local.network_id
  direction               = "INGRESS"
  source_ranges           = each.value.cidrs
  source_service_accounts = each.value.groups
  target_service_accounts = [google_service_account.machine.email]

  allow {
    protocol = "tcp"
    ports    = [each.value.port]
  }
}
