# Who may reach what. Nothing is open that no input names, but brokers to each
# other. Names and time are asked of the VPC's own addresses, which no group
# stands before.

data "aws_ec2_managed_prefix_list" "s3" {
  name = "com.amazonaws.${local.region}.s3"
}

resource "aws_security_group" "brokers" {
  name        = "firn-${var.name}-brokers"
  description = "Brokers of Firn cluster ${var.name}"
  vpc_id      = local.network_id
  tags        = merge(local.tags, { Name = "${var.name}-brokers" })

  # Interfaces keep a group in use until they have another.
  lifecycle {
    create_before_destroy = true
  }
}

locals {
  rules_among = {
    kafka = [local.ports.kafka, local.ports.kafka]
    http  = [local.ports.http, local.ports.http]
    etcd  = [local.ports.etcd_clients, local.ports.etcd_peers]
  }
  rules_in = merge(
    { for c in var.client_cidrs : "kafka from ${c}" => { port = local.ports.kafka, cidr = c, group = null } },
    # By place in the list: a group's id may be known only when it is made.
    { for i, g in var.client_groups : "kafka from group ${i}" => { port = local.ports.kafka, cidr = null, group = g } },
    { for c in var.metrics_cidrs : "http from ${c}" => { port = local.ports.http, cidr = c, group = null } },
    { for i, g in var.metrics_groups : "http from group ${i}" => { port = local.ports.http, cidr = null, group = g } },
  )
  # A given network's ways to S3 and EC2 are not known: there, https goes where
  # its routes lead.
  https_anywhere = local.over_https || var.network != null || (var.public && var.disk.kind == "network")
}

resource "aws_vpc_security_group_ingress_rule" "among" {
  for_each                     = local.rules_among
  security_group_id            = aws_security_group.brokers.id
  description                  = "${each.key} among brokers"
  referenced_security_group_id = aws_security_group.brokers.id
  ip_protocol                  = "tcp"
  from_port                    = each.value[0]
  to_port                      = each.value[1]
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "among" {
  for_each                     = local.rules_among
  security_group_id            = aws_security_group.brokers.id
  description                  = "${each.key} among brokers"
  referenced_security_group_id = aws_security_group.brokers.id
  ip_protocol                  = "tcp"
  from_port                    = each.value[0]
  to_port                      = each.value[1]
  tags                         = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "asked" {
  for_each                     = local.rules_in
  security_group_id            = aws_security_group.brokers.id
  description                  = each.key
  cidr_ipv4                    = each.value.cidr
  referenced_security_group_id = each.value.group
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "s3" {
  security_group_id = aws_security_group.brokers.id
  description       = "S3"
  prefix_list_id    = data.aws_ec2_managed_prefix_list.s3.id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = local.tags
}

resource "aws_vpc_security_group_egress_rule" "https" {
  for_each          = local.https_anywhere ? toset(["this"]) : toset([])
  security_group_id = aws_security_group.brokers.id
  description       = "https: the binary, or a given network's endpoints"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = local.tags
}

# EC2's endpoint, where machines attach volumes.
resource "aws_security_group" "endpoint" {
  for_each    = local.with_ec2_endpoint
  name        = "firn-${var.name}-endpoint"
  description = "EC2 endpoint of Firn cluster ${var.name}"
  vpc_id      = local.network_id
  tags        = merge(local.tags, { Name = "${var.name}-endpoint" })
}

resource "aws_vpc_security_group_ingress_rule" "endpoint" {
  for_each                     = local.with_ec2_endpoint
  security_group_id            = aws_security_group.endpoint["this"].id
  description                  = "brokers"
  referenced_security_group_id = aws_security_group.brokers.id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "endpoint" {
  for_each                     = local.with_ec2_endpoint
  security_group_id            = aws_security_group.brokers.id
  description                  = "EC2 endpoint"
  referenced_security_group_id = aws_security_group.endpoint["this"].id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  tags                         = local.tags
}
