# A new network has private subnets, and a gateway endpoint for S3, which costs
# nothing. Machines need nothing else outside, so there is no way to the
# internet and none back: Ubuntu's image has the tools that a boot needs, names
# and time come from the VPC itself. Only a binary with an https URL needs a NAT
# gateway, one in the first zone: it is used when a machine boots or a version
# is rolled, and costs more than a small machine.

locals {
  new_network = var.network == null ? toset(["this"]) : toset([])
  new_subnets = var.network == null ? toset(local.zones) : toset([])
  with_nat    = var.network == null && local.over_https && !var.public ? toset(["this"]) : toset([])
  with_igw    = var.network == null && (var.public || local.over_https) ? toset(["this"]) : toset([])
  # Machines attach their volumes themselves, by EC2's API.
  with_ec2_endpoint = var.network == null && var.disk.kind == "network" && !local.over_https && !var.public ? toset(["this"]) : toset([])

  network_id = var.network == null ? aws_vpc.this["this"].id : var.network.id
  subnet_ids = var.network == null ? { for z in local.zones : z => aws_subnet.brokers[z].id } : var.network.subnets
  # Of the /16 (or what was given), each zone gets a sixteenth; the last
  # sixteenth is for the NAT gateway.
  subnet_cidrs = { for i, z in local.zones : z => cidrsubnet(var.cidr, 4, i) }
}

resource "aws_vpc" "this" {
  for_each             = local.new_network
  cidr_block           = var.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = merge(local.tags, { Name = var.name })
}

# The group that AWS makes with a VPC lets its members talk: taken over, and
# left without rules.
resource "aws_default_security_group" "this" {
  for_each = local.new_network
  vpc_id   = aws_vpc.this["this"].id
  tags     = merge(local.tags, { Name = "${var.name}-unused" })
}

resource "aws_subnet" "brokers" {
  for_each                = local.new_subnets
  vpc_id                  = aws_vpc.this["this"].id
  availability_zone       = each.key
  cidr_block              = local.subnet_cidrs[each.key]
  map_public_ip_on_launch = false
  tags                    = merge(local.tags, { Name = "${var.name}-${each.key}" })
}

resource "aws_route_table" "brokers" {
  for_each = local.new_network
  vpc_id   = aws_vpc.this["this"].id
  tags     = merge(local.tags, { Name = "${var.name}-brokers" })
}

resource "aws_route_table_association" "brokers" {
  for_each       = local.new_subnets
  subnet_id      = aws_subnet.brokers[each.key].id
  route_table_id = aws_route_table.brokers["this"].id
}

resource "aws_vpc_endpoint" "s3" {
  for_each          = local.new_network
  vpc_id            = aws_vpc.this["this"].id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.brokers["this"].id]
  tags              = merge(local.tags, { Name = "${var.name}-s3" })
}

resource "aws_vpc_endpoint" "ec2" {
  for_each            = local.with_ec2_endpoint
  vpc_id              = aws_vpc.this["this"].id
  service_name        = "com.amazonaws.${local.region}.ec2"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [for s in aws_subnet.brokers : s.id]
  security_group_ids  = [aws_security_group.endpoint["this"].id]
  tags                = merge(local.tags, { Name = "${var.name}-ec2" })
}

resource "aws_internet_gateway" "this" {
  for_each = local.with_igw
  vpc_id   = aws_vpc.this["this"].id
  tags     = merge(local.tags, { Name = var.name })
}

# public: the brokers' own subnets lead to the internet.
resource "aws_route" "public" {
  for_each               = var.public ? local.with_igw : toset([])
  route_table_id         = aws_route_table.brokers["this"].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this["this"].id
}

# A binary over https: by way of a NAT gateway in a subnet of its own.
resource "aws_subnet" "nat" {
  for_each                = local.with_nat
  vpc_id                  = aws_vpc.this["this"].id
  availability_zone       = local.zones[0]
  cidr_block              = cidrsubnet(var.cidr, 4, 15)
  map_public_ip_on_launch = false
  tags                    = merge(local.tags, { Name = "${var.name}-nat" })
}

resource "aws_route_table" "nat" {
  for_each = local.with_nat
  vpc_id   = aws_vpc.this["this"].id
  tags     = merge(local.tags, { Name = "${var.name}-nat" })
}

resource "aws_route" "nat_out" {
  for_each               = local.with_nat
  route_table_id         = aws_route_table.nat["this"].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this["this"].id
}

resource "aws_route_table_association" "nat" {
  for_each       = local.with_nat
  subnet_id      = aws_subnet.nat["this"].id
  route_table_id = aws_route_table.nat["this"].id
}

resource "aws_eip" "nat" {
  for_each = local.with_nat
  domain   = "vpc"
  tags     = merge(local.tags, { Name = "${var.name}-nat" })
}

resource "aws_nat_gateway" "this" {
  for_each      = local.with_nat
  allocation_id = aws_eip.nat["this"].id
  subnet_id     = aws_subnet.nat["this"].id
  tags          = merge(local.tags, { Name = var.name })
  depends_on    = [aws_internet_gateway.this]
}

resource "aws_route" "brokers_out" {
  for_each               = local.with_nat
  route_table_id         = aws_route_table.brokers["this"].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this["this"].id
}
