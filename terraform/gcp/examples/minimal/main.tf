# Three brokers in a network of their own, with the firn that you built:
#
#   terraform apply -var project=MINE -var binary_file=../../../../bin/firn -var client_cidrs='["10.0.0.0/8"]'
#
# docs/terraform.md goes from here to the first record.

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

  name          = var.name
  binary        = { version = var.binary_version, file = var.binary_file }
  public        = var.public
  client_cidrs  = var.client_cidrs
  client_groups = var.client_groups
  labels        = { project = "firn-trial" }
}

variable "project" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region."
  type        = string
  default     = "europe-west3"
}

variable "name" {
  description = "Name of the cluster."
  type        = string
  default     = "trial"
}

variable "binary_file" {
  description = "A firn for Linux on amd64: make builds bin/firn."
  type        = string
}

variable "binary_version" {
  description = "Its version."
  type        = string
  default     = "0.1.0"
}

variable "public" {
  description = "Brokers get public addresses, for a trial from outside; closed to all but client_cidrs."
  type        = bool
  default     = false
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

output "firn" {
  description = "Everything that the module tells."
  value       = module.firn
}
