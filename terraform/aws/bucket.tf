# The bucket. One that is given is left as it is: a bucket has one lifecycle and
# one encryption, and others may have set them.

locals {
  new_bucket  = var.bucket == null ? toset(["this"]) : toset([])
  bucket_name = var.bucket == null ? "firn-${var.name}-${local.account}-${local.region}" : var.bucket
  bucket_arn  = "arn:${local.partition}:s3:::${local.bucket_name}"
  store       = "s3://${local.bucket_name}/${var.bucket_prefix}?region=${local.region}"
}

data "aws_s3_bucket" "given" {
  for_each = var.bucket == null ? toset([]) : toset([var.bucket])
  bucket   = each.key
}

# A bucket with records in it is not destroyed: terraform destroy fails, and
# says so. Empty it first.
resource "aws_s3_bucket" "this" {
  for_each = local.new_bucket
  bucket   = local.bucket_name
  tags     = merge(local.tags, { Name = local.bucket_name })
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = local.new_bucket
  bucket                  = aws_s3_bucket.this["this"].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = local.new_bucket
  bucket   = aws_s3_bucket.this["this"].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = local.new_bucket
  bucket   = aws_s3_bucket.this["this"].id

  rule {
    # One key for the bucket's objects of a while: fewer calls of KMS.
    bucket_key_enabled = var.encryption_key != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.encryption_key == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.encryption_key
    }
  }
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = local.new_bucket
  bucket   = aws_s3_bucket.this["this"].id

  versioning_configuration {
    status = var.bucket_versioning ? "Enabled" : "Suspended"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = local.new_bucket
  bucket   = aws_s3_bucket.this["this"].id

  # A broker that is killed in the middle of an upload cannot abort it.
  rule {
    id     = "end-incomplete-uploads"
    status = "Enabled"

    filter {
      prefix = ""
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  # Firn deletes what retention no longer keeps; versions would stay for ever.
  dynamic "rule" {
    for_each = var.bucket_versioning ? [30] : []

    content {
      id     = "end-old-versions"
      status = "Enabled"

      filter {
        prefix = ""
      }
      noncurrent_version_expiration {
        noncurrent_days = rule.value
      }
      expiration {
        expired_object_delete_marker = true
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

data "aws_iam_policy_document" "bucket" {
  for_each = local.new_bucket

  statement {
    sid       = "TLSOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [local.bucket_arn, "${local.bucket_arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each = local.new_bucket
  bucket   = aws_s3_bucket.this["this"].id
  policy   = data.aws_iam_policy_document.bucket["this"].json
  # S3 takes one of the two at a time.
  depends_on = [aws_s3_bucket_public_access_block.this]
}
