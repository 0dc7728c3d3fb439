# Names of brokers, for clients and for each other. Addresses are those of the
# interfaces, so a record is written once.

resource "aws_route53_zone" "this" {
  name    = local.domain
  comment = "Firn cluster ${var.name}"
  tags    = local.tags

  dynamic "vpc" {
    for_each = toset(concat([local.network_id], var.peer_networks))

    content {
      vpc_id = vpc.value
    }
  }
}

resource "aws_route53_record" "broker" {
  for_each = local.brokers
  zone_id  = aws_route53_zone.this.zone_id
  name     = each.value.host
  type     = "A"
  ttl      = 60
  records  = [aws_network_interface.broker[each.key].private_ip]
}
