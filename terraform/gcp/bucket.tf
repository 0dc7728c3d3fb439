# The bucket. One that is given is left as it is: its lifecycle and encryption
# are its owner's.

locals {
  new_bucket  = var.bucket == null ? toset(["this"]) : toset([])
  bucket_name = var.bucket == null ? "firn-${var.name}-${local.project}" : var.bucket
  bucket      = var.bucket == null ? google_storage_bucket.this["this"].name : var.bucket
  store       = "gs://${local.bucket_name}/${var.bucket_prefix}"
}

data "google_storage_bucket" "given" {
  for_each = var.bucket == null ? toset([]) : toset([var.bucket])
  name     = each.key
}

# A bucket with records in it is not destroyed: terraform destroy fails, and
# says so. Empty it first.
resource "google_storage_bucket" "this" {
  for_each                    = local.new_bucket
  name                        = local.bucket_name
  location                    = upper(local.region)
  storage_class               = "STANDARD"
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false
  labels                      = local.labels

  versioning {
    enabled = var.bucket_versioning
  }

  # What retention deletes would be kept, and paid for, a week longer.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  dynamic "encryption" {
    for_each = var.encryption_key == null ? [] : [var.encryption_key]

    content {
      default_kms_key_name = encryption.value
    }
  }

  # Multipart uploads by other tools; Firn's own end by themselves after a week.
  lifecycle_rule {
    condition {
      age = 2
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  dynamic "lifecycle_rule" {
    for_each = var.bucket_versioning ? [30] : []

    content {
      condition {
        days_since_noncurrent_time = lifecycle_rule.value
        with_state                 = "ARCHIVED"
      }
      action {
        type = "Delete"
      }
    }
  }
}
