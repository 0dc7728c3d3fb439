# What a machine may do: what Firn's client of Cloud Storage calls, on its
# prefix, and nothing else. test/terraform compares the permissions with the
# calls in objectstore/gcs.

resource "google_service_account" "machine" {
  account_id   = "firn-${var.name}"
  display_name = "Firn cluster ${var.name}"
  description  = "Machines of Firn cluster ${var.name}"
}

locals {
  objects = "projects/_/buckets/${local.bucket_name}/objects/"
  inside  = "resource.name.startsWith(\"${local.objects}${var.bucket_prefix}/\")"

  # Who writes these decides what runs as root on all machines.
  orders = concat(
    ["resource.name != \"${local.objects}${local.fleet_key}\"", "!resource.name.startsWith(\"${local.objects}${var.bucket_prefix}/binary/\")"],
    startswith(coalesce(var.binary.url, "-"), "gs://") ? ["resource.name != \"${local.objects}${trimprefix(var.binary.url, "gs://${local.bucket_name}/")}\""] : [],
  )

  # A listing is asked of the bucket, the rest of objects.
  rights = {
    read = {
      permissions = ["storage.objects.get", "storage.objects.list"]
      where       = "resource.name == \"projects/_/buckets/${local.bucket_name}\" || ${local.inside}"
      description = "Objects of ${var.bucket_prefix}, and the bucket's listing"
    }
    write = {
      permissions = ["storage.objects.create", "storage.objects.delete"]
      where       = join(" && ", concat([local.inside], local.orders))
      description = "Objects of ${var.bucket_prefix} but the fleet file and binaries"
    }
  }
}

resource "google_project_iam_custom_role" "machine" {
  for_each    = local.rights
  role_id     = "firn_${replace(var.name, "-", "_")}_${each.key}"
  title       = "Firn cluster ${var.name}, ${each.key}"
  description = "What Firn's machines do with objects"
  permissions = each.value.permissions
}

resource "google_storage_bucket_iam_member" "machine" {
  for_each = local.rights
  bucket   = local.bucket
  role     = google_project_iam_custom_role.machine[each.key].name
  member   = "serviceAccount:${google_service_account.machine.email}"

  condition {
    title       = "firn-${var.name}-${each.key}"
    description = each.value.description
    expression  = each.value.where
  }
}
