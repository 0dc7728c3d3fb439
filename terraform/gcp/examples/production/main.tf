# Six brokers, two in each zone of a network that exists, five of them
# members of etcd: a zone may go, and one machine more. Bucket and disks are
# encrypted with your key, deleted objects stay for 30 days.

terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0, < 8.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

module "firn" {
  source = "../.."

  name         = var.name
  brokers      = 6
  members      = 5
  machine_type = "n2-standard-8"
  local_ssds   = 4

  network        = var.network
  peer_networks  = var.peer_networks
  client_cidrs   = var.client_cidrs
  client_groups  = var.client_groups
  metrics_groups = var.metrics_groups

  encryption_key    = var.encryption_key
  bucket_versioning = true

  binary = var.binary
  broker_config = {
    "auto.create.topics.enable"  = "false"
    "default.replication.factor" = "3"
    "min.insync.replicas"        = "2"
  }

  labels = var.labels
}

variable "project" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region."
  type        = string
}

variable "name" {
  description = "Name of the cluster."
  type        = string
  default     = "prod"
}

variable "network" {
  description = "A VPC network and its subnetwork for each of three zones, with Private Google Access, and NAT where the binary comes from outside."
  type = object({
    id      = string
    subnets = map(string)
  })
}

variable "peer_networks" {
  description = "Networks that resolve the brokers' names, too."
  type        = list(string)
  default     = []
}

variable "client_cidrs" {
  description = "Networks that may reach Kafka's port."
  type        = list(string)
  default     = []
}

variable "client_groups" {
  description = "Service accounts whose machines may reach Kafka's port."
  type        = list(string)
  default     = []
}

variable "metrics_groups" {
  description = "Service accounts of your monitoring."
  type        = list(string)
  default     = []
}

variable "encryption_key" {
  description = "Cloud KMS key of the region, which the project's service agents of Cloud Storage and Compute Engine may use."
  type        = string
}

variable "binary" {
  description = "A release: {version, url, sha256}."
  type = object({
    version = string
    url     = string
    sha256  = string
  })
}

variable "labels" {
  description = "On everything that is made and takes labels."
  type        = map(string)
  default     = {}
}

output "firn" {
  description = "Everything that the module tells."
  value       = module.firn
}
