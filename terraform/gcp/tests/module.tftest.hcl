# What the module makes of its inputs, with no cloud behind it: terraform test
# (1.11 or newer). Each run has a state of its own: it is a cluster of its own.

mock_provider "google" {
  mock_data "google_client_config" {
    defaults = { project = "acme-logs", region = "europe-west3" }
  }
  mock_data "google_compute_zones" {
    defaults = { names = ["europe-west3-a", "europe-west3-b", "europe-west3-c", "europe-west3-d"] }
  }
  mock_data "google_storage_buckets" {
    defaults = { buckets = [] }
  }
  mock_data "google_compute_addresses" {
    defaults = { addresses = [] }
  }
}

variables {
  name   = "trial"
  binary = { version = "1.0.0", file = "main.tf" }
}

run "closed_by_default" {
  state_key = "closed_by_default"
  assert {
    condition     = length(google_compute_firewall.asked) == 0 && google_compute_firewall.among.target_service_accounts == google_compute_firewall.among.source_service_accounts
    error_message = "somebody else than brokers is let in"
  }
  assert {
    condition     = length(google_compute_router_nat.this) == 0 && length(google_compute_address.public) == 0
    error_message = "there is a way to the internet"
  }
  assert {
    condition     = output.bootstrap_servers == "broker-1.trial.internal:9092,broker-2.trial.internal:9092,broker-3.trial.internal:9092"
    error_message = "bootstrap_servers: ${output.bootstrap_servers}"
  }
  assert {
    condition     = [for n in ["1", "2", "3"] : google_compute_instance_group_manager.broker[n].zone] == ["europe-west3-a", "europe-west3-b", "europe-west3-c"]
    error_message = "brokers are not spread over the first three zones"
  }
  assert {
    condition     = length(google_compute_instance_template.broker["1"].disk) == 2
    error_message = "not one disk for the system and one local SSD"
  }
}

run "one_broker" {
  state_key = "one_broker"
  variables {
    brokers = 1
    members = 1
    zones   = ["europe-west3-b"]
  }
  assert {
    condition     = output.names == { "1" = "broker-1.trial.internal" }
    error_message = "not one broker"
  }
}

run "arm64" {
  state_key = "arm64"
  variables {
    arch = "arm64"
  }
  assert {
    condition     = local.machine_type == "c4a-standard-4-lssd" && length(google_compute_instance_template.broker["1"].disk) == 1 && google_compute_instance_template.broker["1"].scheduling[0].on_host_maintenance == "TERMINATE"
    error_message = "its SSDs are its own, and it cannot move"
  }
}

run "https_binary_needs_nat" {
  state_key = "https_binary_needs_nat"
  variables {
    binary = { version = "1.0.0", url = "https://downloads.example.net/firn", sha256 = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a" }
  }
  assert {
    condition     = length(google_compute_router_nat.this) == 1 && length(google_storage_bucket_object.binary) == 0
    error_message = "machines have no way to the binary"
  }
}

run "public" {
  state_key = "public"
  variables {
    public       = true
    client_cidrs = ["192.0.2.7/32"]
  }
  assert {
    condition     = length(google_compute_address.public) == 3 && local.identities["1"].advertise == "${google_compute_address.public["1"].address}:9092"
    error_message = "clients outside are told an address that they cannot reach"
  }
  assert {
    condition     = toset(keys(google_compute_firewall.asked)) == toset(["kafka-cidrs", "kafka-public"])
    error_message = "brokers, or clients, do not reach each other"
  }
}

run "network_disk" {
  state_key = "network_disk"
  variables {
    disk = { kind = "network", size_gb = 500 }
  }
  assert {
    condition     = length(google_compute_disk.broker) == 3 && length(google_compute_instance_template.broker["1"].disk) == 1
    error_message = "no disk for each broker, or local SSDs beside it"
  }
  assert {
    condition     = alltrue([for c in google_compute_per_instance_config.broker : one(c.preserved_state[0].disk).device_name == "firn-data"])
    error_message = "the disk does not outlive its machine"
  }
}

run "spot" {
  state_key = "spot"
  variables {
    spot = true
  }
  assert {
    condition     = alltrue([for t in google_compute_instance_template.broker : t.scheduling[0].provisioning_model == "SPOT" && !t.scheduling[0].automatic_restart])
    error_message = "not spot machines"
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

run "fewer_zones_are_refused" {
  state_key = "fewer_zones_are_refused"
  command   = plan
  override_data {
    target = data.google_compute_zones.here
    values = { names = ["europe-west3-a", "europe-west3-b"] }
  }
  expect_failures = [terraform_data.members]
}
