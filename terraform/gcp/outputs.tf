output "bootstrap_servers" {
  description = "What Kafka clients are given: bootstrap.servers."
  value       = local.bootstrap
}

output "bucket" {
  description = "Name of the bucket."
  value       = local.bucket_name
}

output "role" {
  description = "Email of the machines' service account."
  value       = google_service_account.machine.email
}

output "names" {
  description = "Each broker's DNS name, by its number."
  value       = { for n, b in local.brokers : n => b.host }
}

output "addresses" {
  description = "Each broker's internal address, by its number."
  value       = { for n, b in local.brokers : n => google_compute_address.broker[n].address }
}

output "metrics" {
  description = "What a Prometheus of metrics_cidrs or metrics_groups scrapes."
  value       = [for n in range(1, var.brokers + 1) : "http://${local.brokers[tostring(n)].host}:${local.ports.http}/metrics"]
}

output "firn_command" {
  description = "Shows how the cluster is, from a machine of client_cidrs or client_groups."
  value       = "FIRN_BROKERS=${local.bootstrap} firn cluster status"
}

output "kcat_command" {
  description = "Lists topics and brokers, from a machine of client_cidrs or client_groups."
  value       = "kcat -b ${local.bootstrap} -L"
}

output "fleet_file" {
  description = "Which binary and which machine each broker should have."
  value       = "gs://${local.bucket_name}/${local.fleet_key}"
}

output "network" {
  description = "The network and the brokers' subnetworks by zone, in the form of the input network."
  value       = { id = local.network_id, subnets = { for z in local.zones : z => local.subnet_ids[z] } }
}

output "group" {
  description = "The machines' service account, in the form of the inputs client_groups and metrics_groups."
  value       = google_service_account.machine.email
}

locals {
  bootstrap = join(",", [for n in range(1, var.brokers + 1) :
    var.public ? "${google_compute_address.public[tostring(n)].address}:${local.ports.kafka}" : "${local.brokers[tostring(n)].host}:${local.ports.kafka}"
  ])
}
