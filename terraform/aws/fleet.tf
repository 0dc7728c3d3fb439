# What should be: read by every machine twice a minute (docs/deploy.md, "Turns").

locals {
  binary_sha = var.binary.file == null ? var.binary.sha256 : filesha256(var.binary.file)
  binary_key = "${var.bucket_prefix}/binary/${coalesce(local.binary_sha, "none")}/firn"
  binary_url = var.binary.file == null ? var.binary.url : "s3://${local.bucket_name}/${local.binary_key}"
  fleet_key  = "${var.bucket_prefix}/fleet/fleet.json"
}

resource "aws_s3_object" "binary" {
  for_each    = var.binary.file == null ? toset([]) : toset(["this"])
  bucket      = var.bucket == null ? aws_s3_bucket.this["this"].id : var.bucket
  key         = local.binary_key
  source      = var.binary.file
  source_hash = local.binary_sha
  tags        = local.tags

  # A file that changed while it was planned is another one.
  lifecycle {
    create_before_destroy = true
  }
  depends_on = [aws_s3_bucket_server_side_encryption_configuration.this, aws_s3_bucket_versioning.this]
}

resource "aws_s3_object" "fleet" {
  bucket       = var.bucket == null ? aws_s3_bucket.this["this"].id : var.bucket
  key          = local.fleet_key
  content_type = "application/json"
  content = jsonencode({
    cluster  = var.name
    binary   = { url = local.binary_url, sha256 = local.binary_sha }
    machines = local.machines
  })
  tags = local.tags

  # A machine that powers itself off has to come back from the new template.
  depends_on = [aws_autoscaling_group.broker, aws_s3_bucket_server_side_encryption_configuration.this, aws_s3_bucket_versioning.this]
}
