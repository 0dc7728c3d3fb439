# Six arm64 brokers, two in each zone of a network that exists, five of them
# members of etcd: a zone may go, and one machine more. Bucket and disks are
# encrypted with your key, deleted objects stay for 30 days.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80, < 7.0"
    }
  }
}

provider "aws" {
  region = var.region
}

module "firn" {
  source = "../.."

  name         = var.name
  brokers      = 6
  members      = 5
  arch         = "arm64"
  machine_type = "i8g.2xlarge"

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

  tags = var.tags
}

variable "region" {
  description = "AWS region."
  type        = string
}

variable "name" {
  description = "Name of the cluster."
  type        = string
  default     = "prod"
}

variable "network" {
  description = "A VPC and a private subnet of it for each of three zones; they need a gateway endpoint for S3, and NAT where the binary comes from outside."
  type = object({
    id      = string
    subnets = map(string)
  })
}

variable "peer_networks" {
  description = "VPCs that resolve the brokers' names, too."
  type        = list(string)
  default     = []
}

variable "client_cidrs" {
  description = "Networks that may reach Kafka's port."
  type        = list(string)
  default     = []
}

variable "client_groups" {
  description = "Security groups that may reach Kafka's port."
  type        = list(string)
  default     = []
}

variable "metrics_groups" {
  description = "Security groups of your monitoring."
  type        = list(string)
  default     = []
}

variable "encryption_key" {
  description = "ARN of a KMS key of the region, which the service-linked role AWSServiceRoleForAutoScaling may use for the machines' disks."
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

variable "tags" {
  description = "On everything that is made."
  type        = map(string)
  default     = {}
}

output "firn" {
  description = "Everything that the module tells."
  value       = module.firn
}
