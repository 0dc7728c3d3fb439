# The inputs of docs/deploy.md, with what each of them refuses. What needs to
# look at the cloud (a zone, a machine type, a bucket's region) is refused by
# the preconditions in checks.tf.

variable "name" {
  description = "Name of the cluster, one of a kind in the account and region."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,19}$", var.name)) && !endswith(var.name, "-")
    error_message = "name: \"${var.name}\" would be refused as part of a DNS or bucket name; give 1 to 20 of a-z, 0-9 and -, beginning with a letter and not ending with -."
  }
}

variable "brokers" {
  description = "How many brokers. With fewer than before, first empty the last ones: firn cluster decommission N."
  type        = number
  default     = 3

  validation {
    condition     = var.brokers >= 1 && var.brokers <= 99 && floor(var.brokers) == var.brokers
    error_message = "brokers: ${var.brokers} is no number of brokers; give a whole number from 1 to 99."
  }
}

variable "members" {
  description = "How many of the brokers, from number 1 on, are members of etcd. Never changed once the cluster has formed."
  type        = number
  default     = 3

  validation {
    condition     = contains([1, 3, 5], var.members)
    error_message = "members: ${var.members} members of etcd tolerate no more failures than one fewer, or agree too slowly; give 1, 3 or 5."
  }
  validation {
    condition     = var.members <= var.brokers
    error_message = "members: ${var.members} members of etcd need as many brokers, and brokers is ${var.brokers}; raise brokers or lower members."
  }
}

variable "arch" {
  description = "amd64 or arm64: of the machine type, the image and the binary."
  type        = string
  default     = "amd64"

  validation {
    condition     = contains(["amd64", "arm64"], var.arch)
    error_message = "arch: \"${var.arch}\" is not known; give amd64 or arm64."
  }
}

variable "machine_type" {
  description = "Instance type; null: i4i.large (arm64: i8g.large), or m7i.large (m7g.large) with a network disk."
  type        = string
  default     = null
}

variable "disk" {
  description = "Where brokers keep what is hot: {kind = \"local\"}, NVMe disks whose data goes with the machine, or {kind = \"network\", size_gb = N}, a gp3 volume that outlives it."
  type = object({
    kind    = string
    size_gb = optional(number)
  })
  default = { kind = "local" }

  validation {
    condition     = contains(["local", "network"], var.disk.kind)
    error_message = "disk.kind: \"${var.disk.kind}\" is not known; give local or network."
  }
  validation {
    condition     = var.disk.kind != "network" || try(var.disk.size_gb >= 20 && var.disk.size_gb <= 16384, false)
    error_message = "disk.size_gb: a network disk needs a size from 20 to 16384 GB; give disk = {kind = \"network\", size_gb = 500}, say."
  }
  validation {
    condition     = var.disk.kind != "local" || var.disk.size_gb == null
    error_message = "disk.size_gb: local disks are as large as the machine type makes them; leave size_gb out, or give kind = \"network\"."
  }
}

variable "zones" {
  description = "Availability zones, over which brokers are spread in turn; null: the first three of the region, or of network.subnets."
  type        = list(string)
  default     = null

  validation {
    condition     = var.zones == null ? true : length(distinct(var.zones)) == length(var.zones) && length(var.zones) >= 1
    error_message = "zones: each zone is to be named once, and at least one; or leave the input out."
  }
  validation {
    condition     = var.zones == null ? true : length(var.zones) >= min(3, var.brokers)
    error_message = "zones: fewer zones than replicas (${min(3, var.brokers)}): with one zone away, topics would lose more than one replica; name ${min(3, var.brokers)} zones or more."
  }
}

variable "network" {
  description = "A VPC that exists, {id, subnets}, with a subnet's id by zone; null: a new one. Its subnets need a way to S3: a gateway endpoint, or NAT."
  type = object({
    id      = string
    subnets = map(string)
  })
  default = null

  validation {
    condition     = var.network == null ? true : startswith(var.network.id, "vpc-") && alltrue([for s in values(var.network.subnets) : startswith(s, "subnet-")])
    error_message = "network: give the id of a VPC (vpc-…) and the ids of its subnets (subnet-…) by zone, as in {id = \"vpc-…\", subnets = {\"eu-central-1a\" = \"subnet-…\"}}."
  }
}

variable "cidr" {
  description = "Addresses of a new VPC."
  type        = string
  default     = "10.64.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.cidr)) && try(tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 20, false)
    error_message = "cidr: \"${var.cidr}\" is no network that AWS takes and that is divided into subnets here; give an IPv4 network from /16 to /20, such as 10.64.0.0/16."
  }
}

variable "public" {
  description = "Brokers get public addresses, for trials. They are closed to all but client_cidrs even so."
  type        = bool
  default     = false
}

variable "allow_world" {
  description = "client_cidrs may hold networks wider than /8, such as 0.0.0.0/0. Firn has no passwords and no TLS yet: whoever reaches the port may do everything."
  type        = bool
  default     = false
}

variable "client_cidrs" {
  description = "Networks that may reach Kafka's port."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for c in var.client_cidrs : can(cidrnetmask(c))])
    error_message = "client_cidrs: give IPv4 networks such as 10.0.0.0/8 or 192.0.2.7/32; not so: ${join(", ", [for c in var.client_cidrs : c if !can(cidrnetmask(c))])}."
  }
  validation {
    condition     = var.allow_world || alltrue([for c in var.client_cidrs : try(tonumber(split("/", c)[1]) >= 8, true)])
    error_message = "client_cidrs: ${join(", ", [for c in var.client_cidrs : c if try(tonumber(split("/", c)[1]) < 8, false)])} lets the world in, and Firn asks nobody for a password; name your networks, or set allow_world = true."
  }
}

variable "client_groups" {
  description = "Security groups whose members may reach Kafka's port."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for g in var.client_groups : startswith(g, "sg-")])
    error_message = "client_groups: give ids of security groups, sg-…."
  }
}

variable "metrics_cidrs" {
  description = "Networks that may reach the HTTP port: metrics, health, and calls of the command line."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for c in var.metrics_cidrs : can(cidrnetmask(c))])
    error_message = "metrics_cidrs: give IPv4 networks such as 10.0.0.0/8 or 192.0.2.7/32; not so: ${join(", ", [for c in var.metrics_cidrs : c if !can(cidrnetmask(c))])}."
  }
  validation {
    condition     = alltrue([for c in var.metrics_cidrs : try(tonumber(split("/", c)[1]) >= 8, true)])
    error_message = "metrics_cidrs: the HTTP port is never opened to the world; name the networks of your monitoring, /8 or narrower."
  }
}

variable "metrics_groups" {
  description = "Security groups whose members may reach the HTTP port."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for g in var.metrics_groups : startswith(g, "sg-")])
    error_message = "metrics_groups: give ids of security groups, sg-…."
  }
}

variable "peer_networks" {
  description = "Other VPCs of the account and region that resolve the brokers' names. Peering and routes are yours; their addresses go into client_cidrs."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for v in var.peer_networks : startswith(v, "vpc-")])
    error_message = "peer_networks: give ids of VPCs, vpc-…."
  }
}

variable "bucket" {
  description = "Name of a bucket that exists in the region, whose settings are left as they are; null: a new one."
  type        = string
  default     = null

  validation {
    condition     = var.bucket == null ? true : can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket: \"${coalesce(var.bucket, "-")}\" cannot be reached by TLS under its own name; give 3 to 63 of a-z, 0-9 and -, no dots, no - at its ends."
  }
}

variable "bucket_prefix" {
  description = "Folder in the bucket that holds everything of this cluster."
  type        = string
  default     = "firn"

  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$", var.bucket_prefix)) && length(var.bucket_prefix) <= 200
    error_message = "bucket_prefix: \"${var.bucket_prefix}\" is none; give letters, digits and . _ -, in parts divided by /, none beginning with a dot, at most 200 in all."
  }
}

variable "encryption_key" {
  description = "ARN of a KMS key of the region, for bucket and disks; null: S3's and EBS's own keys."
  type        = string
  default     = null

  validation {
    condition     = var.encryption_key == null ? true : can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/", var.encryption_key))
    error_message = "encryption_key: give the ARN of a KMS key, arn:aws:kms:REGION:ACCOUNT:key/…; an alias cannot be named in a role's policy."
  }
}

variable "bucket_versioning" {
  description = "Whether a new bucket keeps what is deleted, for 30 days."
  type        = bool
  default     = false
}

variable "binary" {
  description = "What the brokers run: {version, url, sha256} with url https://… or an object below the bucket's prefix, s3://BUCKET/PREFIX/…; or {version, file}, a local file that is put there."
  type = object({
    version = string
    url     = optional(string)
    sha256  = optional(string)
    file    = optional(string)
  })

  validation {
    condition     = can(regex("^(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)([-+][0-9A-Za-z.+-]+)?$", var.binary.version))
    error_message = "binary.version: \"${var.binary.version}\" is none; give it as 1.4.2, without a v."
  }
  validation {
    condition     = (var.binary.url == null) != (var.binary.file == null)
    error_message = "binary: give either url, with sha256, or file."
  }
  validation {
    condition     = var.binary.url == null ? true : can(regex("^(https://[^/@]+/.+|s3://[^/]+/.+)$", var.binary.url))
    error_message = "binary.url: \"${coalesce(var.binary.url, "-")}\" is no place that machines fetch from; give https://HOST/… or s3://BUCKET/PREFIX/…."
  }
  validation {
    condition     = var.binary.url == null ? true : can(regex("^[0-9a-f]{64}$", var.binary.sha256))
    error_message = "binary.sha256: give the 64 lower-case hexadecimal digits that sha256sum prints for the binary."
  }
  validation {
    condition     = var.binary.file == null ? true : fileexists(coalesce(var.binary.file, "-"))
    error_message = "binary.file: there is no file \"${coalesce(var.binary.file, "-")}\"; build one (make) or give url and sha256."
  }
}

variable "broker_config" {
  description = "Broker configs under Kafka's names, the same for all brokers. A change replaces the machines one after another; firn config alter changes many of them while brokers run."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for k in keys(var.broker_config) : can(regex("^[a-z][a-z0-9.]*$", k))])
    error_message = "broker_config: give Kafka's names, such as \"num.partitions\"; not so: ${join(", ", [for k in keys(var.broker_config) : k if !can(regex("^[a-z][a-z0-9.]*$", k))])}."
  }
  validation {
    condition     = length(setintersection(keys(var.broker_config), ["node.id", "broker.id", "broker.rack", "listeners", "advertised.listeners", "log.dirs", "log.dir"])) == 0
    error_message = "broker_config: ${join(", ", setintersection(keys(var.broker_config), ["node.id", "broker.id", "broker.rack", "listeners", "advertised.listeners", "log.dirs", "log.dir"]))} follow from a broker's number and zone; leave them out."
  }
}

variable "spot" {
  description = "Spot machines: cheaper, and taken away with two minutes' notice."
  type        = bool
  default     = false
}

variable "image" {
  description = "AMI, of Debian 12 or Ubuntu 24.04 with xfsprogs and mdadm; null: the Ubuntu 24.04 LTS that was the newest when the cluster was made."
  type        = string
  default     = null

  validation {
    condition     = var.image == null ? true : can(regex("^ami-[0-9a-f]{8,17}$", var.image))
    error_message = "image: \"${coalesce(var.image, "-")}\" is no AMI; give ami-…, or leave it out."
  }
}

variable "tags" {
  description = "On everything that is made."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(var.tags) <= 40 && alltrue([for k, v in var.tags : length(k) >= 1 && length(k) <= 128 && length(v) <= 256 && !startswith(lower(k), "aws:")])
    error_message = "tags: AWS takes at most 50, of which 40 are yours, keys of 1 to 128 characters that do not begin with aws:, values of up to 256."
  }
  validation {
    condition     = alltrue([for k in keys(var.tags) : !startswith(k, "firn-") && k != "Name"])
    error_message = "tags: Name and what begins with firn- are the module's own; leave them out."
  }
}
