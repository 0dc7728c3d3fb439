# A new network has one private subnetwork, from which Private Google Access
# leads to Cloud Storage, at no cost. Machines have no external address and need
# nothing else outside: Ubuntu's image has the tools that a boot needs, names
# and time come from the metadata server. Only a binary with an https URL needs
# Cloud NAT.

locals {
  new_network = var.network == null ? toset(["this"]) : toset([])
  with_nat    = var.network == null && local.over_https && !var.public ? toset(["this"]) : toset([])

  network_id = var.network == null ? google_compute_network.this["this"].id : var.network.id
  subnet_ids = var.network == null ? { for z in local.zones : z => google_compute_subnetwork.brokers["this"].id } : var.network.subnets
}

resource "google_compute_network" "this" {
  for_each                = local.new_network
  name                    = "firn-${var.name}"
  description             = "Firn cluster ${var.name}"
  auto_create_subnetworks = false
  routing_mode            = "REGIONAL"
}

resource "google_compute_subnetwork" "brokers" {
  for_each                 = local.new_network
  name                     = "firn-${var.name}"
  network                  = google_compute_network.this["this"].id
  region                   = local.region
  ip_cidr_range            = var.cidr
  private_ip_google_access = true
}

resource "google_compute_router" "this" {
  for_each = local.with_nat
  name     = "firn-${var.name}"
  network  = google_compute_network.this["this"].id
  region   = local.region
}

resource "google_compute_router_nat" "this" {
  for_each                           = local.with_nat
  name                               = "firn-${var.name}"
  router                             = google_compute_router.this["this"].name
  region                             = local.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
}
