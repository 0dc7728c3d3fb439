# The inputs of docs/deploy.md, with what each of them refuses. What needs to
# look at the cloud (a zone, a machine type, a bucket's region) is refused by
# the preconditions in checks.tf.

variable "name" {
  description = "Name of the cluster, one of a kind in the project."
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
  description = "Machine type; null: n2-standard-4 (arm64: c4a-standard-4-lssd, with a network disk c4a-standard-4)."
  type        = string
  default     = null

  validation {
    condition     = var.machine_type == null || var.disk.kind == "network" ? true : can(regex("^(n1|n2|n2d|c2|c2d)-", var.machine_type)) || endswith(var.machine_type, "-lssd") || startswith(var.machine_type, "z3-")
    error_message = "machine_type: ${coalesce(var.machine_type, "-")} has no local SSD; give one that has (n2, n2d, c2d, c3-…-lssd, c4a-…-lssd, z3 …), or disk = {kind = \"network\", size_gb = N}."
  }
  validation {
    condition     = var.machine_type == null ? true : (var.arch == "arm64") == can(regex("^(c4a|n4a|t2a|a4x)-", var.machine_type))
    error_message = "machine_type: ${coalesce(var.machine_type, "-")} is not ${var.arch}; give arch = \"${var.arch == "amd64" ? "arm64" : "amd64"}\", and a binary for it, or another machine_type."
  }
}

variable "local_ssds" {
  description = "How many local SSDs of 375 GB machines of n1, n2, n2d, c2 and c2d get; the other types have as many as they have."
  type        = number
  default     = 1

  validation {
    condition     = contains([1, 2, 4, 8, 16, 24], var.local_ssds)
    error_message = "local_ssds: ${var.local_ssds} is no number that Compute Engine attaches; give 1, 2, 4, 8, 16 or 24."
  }
}

variable "disk" {
  description = "Where brokers keep what is hot: {kind = \"local\"}, NVMe disks whose data goes with the machine, or {kind = \"network\", size_gb = N}, an SSD persistent disk that outlives it."
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
  description = "Zones, over which brokers are spread in turn; null: the first three of the region, or of network.subnets."
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
  description = "A VPC network that exists, {id, subnets}: its name or self link, and a subnetwork's by zone, the same one for all zones of the region perhaps; null: a new one. Subnetworks need Private Google Access, or NAT."
  type = object({
    id      = string
    subnets = map(string)
  })
  default = null

  validation {
    condition     = var.network == null ? true : length(var.network.id) > 0 && length(var.network.subnets) > 0
    error_message = "network: give a network and its subnetworks by zone, as in {id = \"projects/P/global/networks/N\", subnets = {\"europe-west3-a\" = \"projects/P/regions/europe-west3/subnetworks/S\"}}."
  }
}

variable "cidr" {
  description = "Addresses of a new network."
  type        = string
  default     = "10.64.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.cidr)) && try(tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 20, false)
    error_message = "cidr: \"${var.cidr}\" is no network for brokers; give an IPv4 network from /16 to /20, such as 10.64.0.0/16."
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
  description = "Service accounts whose machines, in the same network, may reach Kafka's port."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for g in var.client_groups : can(regex("^[^@]+@[^@]+\\.gserviceaccount\\.com$", g))]) && length(var.client_groups) <= 10
    error_message = "client_groups: give up to 10 service accounts, NAME@PROJECT.iam.gserviceaccount.com."
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
  description = "Service accounts whose machines, in the same network, may reach the HTTP port."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for g in var.metrics_groups : can(regex("^[^@]+@[^@]+\\.gserviceaccount\\.com$", g))]) && length(var.metrics_groups) <= 10
    error_message = "metrics_groups: give up to 10 service accounts, NAME@PROJECT.iam.gserviceaccount.com."
  }
}

variable "peer_networks" {
  description = "Other VPC networks, by self link, that resolve the brokers' names. Peering is yours; their addresses go into client_cidrs."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for v in var.peer_networks : can(regex("projects/[^/]+/global/networks/[^/]+$", v))])
    error_message = "peer_networks: give self links of networks, projects/PROJECT/global/networks/NAME."
  }
}

variable "bucket" {
  description = "Name of a bucket that exists in the region, whose settings are left as they are; null: a new one."
  type        = string
  default     = null

  validation {
    condition     = var.bucket == null ? true : can(regex("^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket: \"${coalesce(var.bucket, "-")}\" is no name that can be made here; give 3 to 63 of a-z, 0-9, - and _, no dots."
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
  description = "Cloud KMS key of the region, for bucket and disks, which the project's service agents of Cloud Storage and Compute Engine may use; null: Google's own."
  type        = string
  default     = null

  validation {
    condition     = var.encryption_key == null ? true : can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.encryption_key))
    error_message = "encryption_key: give a key as projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY."
  }
}

variable "bucket_versioning" {
  description = "Whether a new bucket keeps what is deleted, for 30 days."
  type        = bool
  default     = false
}

variable "binary" {
  description = "What the brokers run: {version, url, sha256} with url https://… or an object below the bucket's prefix, gs://BUCKET/PREFIX/…; or {version, file}, a local file that is put there."
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
    condition     = var.binary.url == null ? true : can(regex("^(https://[^/@]+/.+|gs://[^/]+/.+)$", var.binary.url))
    error_message = "binary.url: \"${coalesce(var.binary.url, "-")}\" is no place that machines fetch from; give https://HOST/… or gs://BUCKET/PREFIX/…."
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
  description = "Spot machines: cheaper, and taken away with half a minute's notice."
  type        = bool
  default     = false
}

variable "image" {
  description = "Image, of Debian 12 or Ubuntu 24.04 with cloud-init, xfsprogs and mdadm; null: the Ubuntu 24.04 LTS that was the newest when the cluster was made."
  type        = string
  default     = null

  validation {
    condition     = var.image == null ? true : can(regex("projects/[^/]+/global/images/[^/]+$", var.image))
    error_message = "image: \"${coalesce(var.image, "-")}\" is no image; give projects/PROJECT/global/images/NAME, or leave it out."
  }
}

variable "labels" {
  description = "On everything that is made and takes labels."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(var.labels) <= 50 && alltrue([for k, v in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", k)) && can(regex("^[a-z0-9_-]{0,63}$", v))])
    error_message = "labels: Google Cloud takes at most 64, of which 50 are yours, keys and values of up to 63 of a-z, 0-9, _ and -, keys beginning with a letter."
  }
  validation {
    condition     = alltrue([for k in keys(var.labels) : !startswith(k, "firn-")])
    error_message = "labels: what begins with firn- is the module's own; leave it out."
  }
}
