# Names of brokers, for clients and for each other. Addresses are reserved, so
# a record is written once.

resource "google_dns_managed_zone" "this" {
  name        = "firn-${var.name}"
  dns_name    = "${local.domain}."
  description = "Firn cluster ${var.name}"
  visibility  = "private"
  labels      = local.labels

  private_visibility_config {
    dynamic "networks" {
      for_each = concat([local.network_id], var.peer_networks)

      content {
        network_url = networks.value
      }
    }
  }
}

resource "google_dns_record_set" "broker" {
  for_each     = local.brokers
  managed_zone = google_dns_managed_zone.this.name
  name         = "${each.value.host}."
  type         = "A"
  ttl          = 60
  rrdatas      = [google_compute_address.broker[each.key].address]
}
