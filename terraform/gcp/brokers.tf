# A broker: an address and perhaps a disk that stay, a template, and a group of
# one that makes a machine of it whenever there is none. A changed template
# touches no machine that runs: machines take turns by the fleet file, and power
# themselves off; the group repairs what is off, by the newest template
# (docs/deploy.md, "Turns").

data "google_compute_image" "ubuntu" {
  for_each = var.image == null ? toset(["this"]) : toset([])
  family   = "ubuntu-2404-lts-${var.arch}"
  project  = "ubuntu-os-cloud"
}

# The newest image of the day the cluster was made; a later one replaces no
# machine before somebody asks: terraform apply -replace=ADDRESS.terraform_data.image["this"]
resource "terraform_data" "image" {
  for_each = data.google_compute_image.ubuntu
  input    = each.value.self_link

  lifecycle {
    ignore_changes = [input]
  }
}

resource "google_compute_address" "broker" {
  for_each     = local.brokers
  name         = "firn-${var.name}-broker-${each.key}"
  description  = "Broker ${each.key} of Firn cluster ${var.name}"
  region       = local.region
  address_type = "INTERNAL"
  purpose      = "GCE_ENDPOINT"
  subnetwork   = local.subnet_ids[each.value.zone]
  labels       = merge(local.labels, { "firn-broker" = each.key })
}

resource "google_compute_address" "public" {
  for_each     = var.public ? local.brokers : {}
  name         = "firn-${var.name}-public-${each.key}"
  region       = local.region
  address_type = "EXTERNAL"
  labels       = merge(local.labels, { "firn-broker" = each.key })
}

resource "google_compute_disk" "broker" {
  for_each = var.disk.kind == "network" ? local.brokers : {}
  name     = "firn-${var.name}-broker-${each.key}"
  zone     = each.value.zone
  type     = local.data_type
  size     = var.disk.size_gb
  labels   = merge(local.labels, { "firn-broker" = each.key })

  dynamic "disk_encryption_key" {
    for_each = var.encryption_key == null ? [] : [var.encryption_key]

    content {
      kms_key_self_link = disk_encryption_key.value
    }
  }
}

locals {
  image = var.image == null ? terraform_data.image["this"].input : var.image
  boot  = "${path.module}/../boot/user-data.yaml.tftpl"

  # Without the fields that a broker has not: a null would be one.
  identities = { for n, b in local.brokers : n => merge(
    {
      cloud   = "gcp"
      cluster = var.name
      broker  = tonumber(n)
      rack    = b.zone
      host    = b.host
      seeds   = local.seeds
      store   = local.store
      disk    = var.disk.kind
    },
    var.public ? { advertise = "${google_compute_address.public[n].address}:${local.ports.kafka}" } : {},
    length(var.broker_config) > 0 ? { config = var.broker_config } : {},
  ) }

  # Everything that only a new machine brings.
  machines = { for n, i in local.identities : n => substr(sha256(jsonencode({
    identity = i
    boot     = filesha256(local.boot)
    type     = local.machine_type
    ssds     = local.chosen_ssds
    image    = local.image
    spot     = var.spot
    key      = var.encryption_key
  })), 0, 12) }

  user_data = { for n, i in local.identities : n => templatefile(local.boot, { machine = merge(i, { machine = local.machines[n] }) }) }
}

resource "google_compute_instance_template" "broker" {
  for_each       = local.brokers
  name_prefix    = "firn-${var.name}-${each.key}-"
  description    = "Machine ${local.machines[each.key]}"
  region         = local.region
  machine_type   = local.machine_type
  can_ip_forward = false
  labels         = merge(local.labels, { "firn-broker" = each.key })

  metadata = {
    user-data              = local.user_data[each.key]
    block-project-ssh-keys = "true"
    enable-oslogin         = "true"
  }

  # The image's own disk: system and journal of the system, nothing of Firn's.
  disk {
    boot         = true
    auto_delete  = true
    source_image = local.image
    disk_type    = local.disk_type
    disk_size_gb = 16
    labels       = merge(local.labels, { "firn-broker" = each.key })

    dynamic "disk_encryption_key" {
      for_each = var.encryption_key == null ? [] : [var.encryption_key]

      content {
        kms_key_self_link = disk_encryption_key.value
      }
    }
  }

  dynamic "disk" {
    for_each = range(local.chosen_ssds)

    content {
      type         = "SCRATCH"
      disk_type    = "local-ssd"
      interface    = "NVME"
      disk_size_gb = 375
      auto_delete  = true
    }
  }

  network_interface {
    subnetwork = local.subnet_ids[each.value.zone]

    dynamic "access_config" {
      for_each = var.public ? [google_compute_address.public[each.key].address] : []

      content {
        nat_ip = access_config.value
      }
    }
  }

  service_account {
    email  = google_service_account.machine.email
    scopes = ["https://www.googleapis.com/auth/devstorage.read_write"]
  }

  shielded_instance_config {
    enable_secure_boot          = true
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  scheduling {
    preemptible         = var.spot
    provisioning_model  = var.spot ? "SPOT" : "STANDARD"
    automatic_restart   = !var.spot
    on_host_maintenance = local.moves ? "MIGRATE" : "TERMINATE"
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_compute_instance_group_manager" "broker" {
  for_each           = local.brokers
  name               = "firn-${var.name}-broker-${each.key}"
  description        = "Broker ${each.key} of Firn cluster ${var.name}"
  zone               = each.value.zone
  base_instance_name = "firn-${var.name}-broker-${each.key}"
  # The one instance is made by its own config, below, which raises the size.
  target_size = 0

  version {
    instance_template = google_compute_instance_template.broker[each.key].self_link_unique
  }

  # Nothing is replaced because the template is another one …
  update_policy {
    type                  = "OPPORTUNISTIC"
    minimal_action        = "REPLACE"
    replacement_method    = "RECREATE"
    max_surge_fixed       = 0
    max_unavailable_fixed = 1
  }

  # … but what is replaced is made by the newest one.
  instance_lifecycle_policy {
    default_action_on_failure = "REPAIR"
    force_update_on_repair    = "YES"
  }

  lifecycle {
    ignore_changes = [target_size]
  }

  # What a machine needs at its first boot.
  depends_on = [
    google_storage_bucket_iam_member.machine,
    google_dns_record_set.broker,
    google_compute_firewall.among,
    google_compute_router_nat.this,
    google_storage_bucket_object.binary,
  ]
}

resource "google_compute_per_instance_config" "broker" {
  for_each                   = local.brokers
  zone                       = each.value.zone
  instance_group_manager     = google_compute_instance_group_manager.broker[each.key].name
  name                       = "firn-${var.name}-broker-${each.key}"
  remove_instance_on_destroy = true

  preserved_state {
    internal_ip {
      interface_name = "nic0"
      auto_delete    = "NEVER"

      ip_address {
        address = google_compute_address.broker[each.key].id
      }
    }

    dynamic "external_ip" {
      for_each = var.public ? [google_compute_address.public[each.key].id] : []

      content {
        interface_name = "nic0"
        auto_delete    = "NEVER"

        ip_address {
          address = external_ip.value
        }
      }
    }

    dynamic "disk" {
      for_each = var.disk.kind == "network" ? [google_compute_disk.broker[each.key].id] : []

      content {
        device_name = "firn-data"
        source      = disk.value
        mode        = "READ_WRITE"
        delete_rule = "NEVER"
      }
    }
  }
}
