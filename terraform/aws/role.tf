# What a machine may do: what Firn's S3 client calls, on its prefix, and nothing
# else. test/terraform compares the verbs with the calls in objectstore/s3.

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "machine" {
  statement {
    sid       = "Objects"
    actions   = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
    resources = ["${local.bucket_arn}/${var.bucket_prefix}/*"]
  }

  # Who writes these decides what runs as root on all machines.
  statement {
    sid     = "Orders"
    effect  = "Deny"
    actions = ["s3:DeleteObject", "s3:PutObject"]
    resources = concat(
      ["${local.bucket_arn}/${local.fleet_key}", "${local.bucket_arn}/${var.bucket_prefix}/binary/*"],
      startswith(coalesce(var.binary.url, "-"), "s3://") ? ["${local.bucket_arn}/${trimprefix(var.binary.url, "s3://${local.bucket_name}/")}"] : [],
    )
  }

  # HeadBucket sends no prefix, and without the right to list S3 answers for an
  # object that is missing as if credentials were wrong: no condition on
  # s3:prefix. It gives names, not contents.
  statement {
    sid       = "Names"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket_arn]
  }

  dynamic "statement" {
    for_each = var.encryption_key == null ? [] : [var.encryption_key]

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["s3.${local.region}.amazonaws.com"]
      }
    }
  }

  # Network disks: a launch template cannot name a volume that exists.
  dynamic "statement" {
    for_each = var.disk.kind == "network" ? [var.name] : []

    content {
      sid     = "Disk"
      actions = ["ec2:AttachVolume"]
      resources = [
        "arn:${local.partition}:ec2:${local.region}:${local.account}:volume/*",
        "arn:${local.partition}:ec2:${local.region}:${local.account}:instance/*",
      ]

      condition {
        test     = "StringEquals"
        variable = "aws:ResourceTag/firn-cluster"
        values   = [statement.value]
      }
    }
  }

  # EC2 lets who attaches an encrypted volume hand its key on to EC2.
  dynamic "statement" {
    for_each = var.disk.kind == "network" && var.encryption_key != null ? [var.encryption_key] : []

    content {
      sid       = "DiskKey"
      actions   = ["kms:CreateGrant"]
      resources = [statement.value]

      condition {
        test     = "Bool"
        variable = "kms:GrantIsForAWSResource"
        values   = ["true"]
      }
      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["ec2.${local.region}.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role" "machine" {
  name               = "firn-${var.name}-${local.region}"
  description        = "Machines of Firn cluster ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = local.tags
}

resource "aws_iam_role_policy" "machine" {
  name   = "store"
  role   = aws_iam_role.machine.id
  policy = data.aws_iam_policy_document.machine.json
}

resource "aws_iam_instance_profile" "machine" {
  name = aws_iam_role.machine.name
  role = aws_iam_role.machine.name
  tags = local.tags
}
