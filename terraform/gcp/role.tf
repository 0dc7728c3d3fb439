# What a machine may do: what Firn's client of Cloud Storage calls, on its
# prefix, and nothing else. test/terraform compares the permissions with the
# calls in objectstore/gcs.

resource "google_service_account" "machine" {
  account_id   = "firn-${var.name}"
  display_name = "Firn cluster ${var.name}"
  description  = "Machines of Firn cluster ${var.name}"
}

resource "google_project_iam_custom_role" "machine" {
  role_id     = "firn_${replace(var.name, "-", "_")}"
  title       = "Firn cluster ${var.name}"
  description = "What Firn's machines do with objects"
  permissions = ["storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list"]
}

# A listing is asked of the bucket, the rest of objects.
resource "google_storage_bucket_iam_member" "machine" {
  bucket = local.bucket
  role   = google_project_iam_custom_role.machine.name
  member = "serviceAccount:${google_service_account.machine.email}"

  condition {
    title       = "firn-${var.name}"
    description = "Objects of ${var.bucket_prefix}, and the bucket's listing"
    expression  = "resource.name == \"projects/_/buckets/${local.bucket_name}\" || resource.name.startsWith(\"projects/_/buckets/${local.bucket_name}/objects/${var.bucket_prefix}/\")"
  }
}
