# A broker: a network interface and perhaps a volume that stay, a template, and
# a group of one that makes a machine of it whenever there is none. A changed
# template touches no machine that runs: machines take turns by the fleet file,
# and power themselves off to be replaced (docs/deploy.md, "Turns").

data "aws_ssm_parameter" "image" {
  for_each = var.image == null ? toset(["this"]) : toset([])
  name     = "/aws/service/canonical/ubuntu/server/24.04/stable/current/${var.arch}/hvm/ebs-gp3/ami-id"
}

# The newest image of the day the cluster was made; a later one replaces no
# machine before somebody asks: terraform apply -replace=ADDRESS.terraform_data.image["this"]
resource "terraform_data" "image" {
  for_each = data.aws_ssm_parameter.image
  input    = nonsensitive(each.value.value)

  lifecycle {
    ignore_changes = [input]
  }
}

resource "aws_network_interface" "broker" {
  for_each        = local.brokers
  subnet_id       = local.subnet_ids[each.value.zone]
  description     = "Broker ${each.key} of Firn cluster ${var.name}"
  security_groups = [aws_security_group.brokers.id]
  tags            = merge(local.tags, { Name = "${var.name}-broker-${each.key}", "firn-broker" = each.key, "firn-version" = var.binary.version })
}

resource "aws_eip" "broker" {
  for_each          = var.public ? local.brokers : {}
  domain            = "vpc"
  network_interface = aws_network_interface.broker[each.key].id
  tags              = merge(local.tags, { Name = "${var.name}-broker-${each.key}" })
  depends_on        = [aws_internet_gateway.this]
}

resource "aws_ebs_volume" "broker" {
  for_each          = var.disk.kind == "network" ? local.brokers : {}
  availability_zone = each.value.zone
  type              = "gp3"
  size              = var.disk.size_gb
  encrypted         = true
  kms_key_id        = var.encryption_key
  tags              = merge(local.tags, { Name = "${var.name}-broker-${each.key}", "firn-broker" = each.key })
}

locals {
  image = var.image == null ? terraform_data.image["this"].input : var.image
  boot  = "${path.module}/../boot/user-data.yaml.tftpl"

  # Without the fields that a broker has not: a null would be one.
  identities = { for n, b in local.brokers : n => merge(
    {
      cloud   = "aws"
      cluster = var.name
      broker  = tonumber(n)
      rack    = b.zone
      host    = b.host
      seeds   = local.seeds
      store   = local.store
      disk    = var.disk.kind
    },
    # Inside the network this public name is resolved to the private address.
    var.public ? { advertise = "${aws_eip.broker[n].public_dns}:${local.ports.kafka}" } : {},
    length(var.broker_config) > 0 ? { config = var.broker_config } : {},
  ) }

  # Everything that only a new machine brings.
  machines = { for n, i in local.identities : n => substr(sha256(jsonencode({
    identity = i
    boot     = [filesha256(local.boot), filesha256("${path.module}/attach-volume.sh.tftpl")]
    type     = local.machine_type
    image    = local.image
    spot     = var.spot
    key      = var.encryption_key
  })), 0, 12) }

  cloud_config = { for n, i in local.identities : n => templatefile(local.boot, { machine = merge(i, { machine = local.machines[n] }) }) }
  # With a network disk a second part attaches it, before the first looks for it.
  user_data = { for n, c in local.cloud_config : n => var.disk.kind == "local" ? c : join("\n", [
    "MIME-Version: 1.0",
    "Content-Type: multipart/mixed; boundary=\"firn\"",
    "",
    "--firn",
    "Content-Type: text/cloud-boothook; charset=\"utf-8\"",
    "",
    templatefile("${path.module}/attach-volume.sh.tftpl", { volume = aws_ebs_volume.broker[n].id, region = local.region }),
    "--firn",
    "Content-Type: text/cloud-config; charset=\"utf-8\"",
    "",
    c,
    "--firn--",
    "",
  ]) }
}

resource "aws_launch_template" "broker" {
  for_each               = local.brokers
  name                   = "firn-${var.name}-broker-${each.key}"
  description            = "Machine ${local.machines[each.key]}"
  update_default_version = true

  image_id                             = local.image
  instance_type                        = local.machine_type
  user_data                            = base64encode(local.user_data[each.key])
  instance_initiated_shutdown_behavior = "terminate"
  tags                                 = merge(local.tags, { Name = "${var.name}-broker-${each.key}" })

  iam_instance_profile {
    arn = aws_iam_instance_profile.machine.arn
  }

  network_interfaces {
    device_index          = 0
    network_interface_id  = aws_network_interface.broker[each.key].id
    delete_on_termination = false
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  # The image's own disk: system and journal of the system, nothing of Firn's.
  block_device_mappings {
    device_name = "/dev/sda1"

    ebs {
      volume_type           = "gp3"
      volume_size           = 16
      encrypted             = true
      kms_key_id            = var.encryption_key
      delete_on_termination = true
    }
  }

  dynamic "instance_market_options" {
    for_each = var.spot ? ["spot"] : []

    content {
      market_type = instance_market_options.value

      spot_options {
        # The group asks again; a request that lasts would be a second one.
        spot_instance_type             = "one-time"
        instance_interruption_behavior = "terminate"
      }
    }
  }

  dynamic "tag_specifications" {
    for_each = toset(concat(["instance", "volume"], var.spot ? ["spot-instances-request"] : []))

    content {
      resource_type = tag_specifications.value
      tags          = merge(local.tags, { Name = "${var.name}-broker-${each.key}", "firn-broker" = each.key })
    }
  }

  lifecycle {
    precondition {
      condition     = length(local.user_data[each.key]) <= 16384
      error_message = "broker_config: user data of broker ${each.key} has ${length(local.user_data[each.key])} bytes, and EC2 takes 16384; set fewer configs here, and the others with firn config alter."
    }
  }
}

resource "aws_autoscaling_group" "broker" {
  for_each = local.brokers
  name     = "firn-${var.name}-broker-${each.key}"

  # A zone and not a subnet: the template names the interface, which has one.
  availability_zones = [each.value.zone]
  min_size           = 1
  max_size           = 1
  desired_capacity   = 1
  health_check_type  = "EC2"
  default_cooldown   = 30
  # There is one interface: the old machine has to go before the new one comes.
  capacity_rebalance = false

  instance_maintenance_policy {
    min_healthy_percentage = 0
    max_healthy_percentage = 100
  }

  launch_template {
    id      = aws_launch_template.broker[each.key].id
    version = aws_launch_template.broker[each.key].latest_version
  }

  dynamic "tag" {
    for_each = merge(local.tags, { Name = "${var.name}-broker-${each.key}", "firn-broker" = each.key })

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  # What a machine needs at its first boot.
  depends_on = [
    aws_iam_role_policy.machine,
    aws_route53_record.broker,
    aws_route_table_association.brokers,
    aws_vpc_endpoint.s3,
    aws_vpc_endpoint.ec2,
    aws_route.brokers_out,
    aws_route.public,
    aws_vpc_security_group_egress_rule.s3,
    aws_vpc_security_group_egress_rule.https,
    aws_vpc_security_group_egress_rule.among,
    aws_vpc_security_group_ingress_rule.among,
    aws_s3_object.binary,
    aws_s3_bucket_public_access_block.this,
    aws_s3_bucket_server_side_encryption_configuration.this,
  ]
}
