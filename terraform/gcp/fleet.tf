# What should be: read by every machine twice a minute (docs/deploy.md, "Turns").

locals {
  binary_sha = var.binary.file == null ? var.binary.sha256 : filesha256(var.binary.file)
  binary_key = "${var.bucket_prefix}/binary/${coalesce(local.binary_sha, "none")}/firn"
  binary_url = var.binary.file == null ? var.binary.url : "gs://${local.bucket_name}/${local.binary_key}"
  fleet_key  = "${var.bucket_prefix}/fleet/fleet.json"
}

resource "google_storage_bucket_object" "binary" {
  for_each     = var.binary.file == null ? toset([]) : toset(["this"])
  bucket       = local.bucket
  name         = local.binary_key
  source       = var.binary.file
  content_type = "application/octet-stream"

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_storage_bucket_object" "fleet" {
  bucket       = local.bucket
  name         = local.fleet_key
  content_type = "application/json"
  content = jsonencode({
    cluster  = var.name
    binary   = { url = local.binary_url, sha256 = local.binary_sha }
    machines = local.machines
  })

  # A machine that powers itself off has to come back from the new template.
  depends_on = [google_compute_instance_group_manager.broker, google_compute_per_instance_config.broker]
}

# The name tells the version that was applied last: what a later plan compares
# with.
resource "google_storage_bucket_object" "version" {
  bucket       = local.bucket
  name         = "${var.bucket_prefix}/fleet/version/${var.binary.version}"
  content_type = "text/plain"
  content      = local.binary_sha

  depends_on = [google_storage_bucket_object.fleet]
}
