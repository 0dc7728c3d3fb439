"""moto's server, with what the module needs and moto 5.2 lacks:

- A bucket policy's Deny with a condition that moto does not know counts there
  as a Deny without one. Here "not over TLS" does not hold: the stand-in speaks
  http, and is taken for what it stands in for.
- Canonical's public parameters, which name Ubuntu's newest image.
- A hosted zone that is made with a VPC is private; moto waits for a flag that
  AWS does not ask for.
- A launch template's own tags are not those of what it launches, and user data
  of its later versions is user data, too.

Arguments are those of moto_server.
"""

from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.models.launch_templates import LaunchTemplateVersion
from moto.ec2.utils import parse_user_data
from moto.iam import access_control
from moto.route53.responses import Route53
from moto.server import main
from moto.ssm import models as ssm

permitted = access_control.IAMPolicyStatement.is_action_permitted


def is_action_permitted(self, *args, **kwargs):
    if self._statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}:
        return access_control.PermissionResult.NEUTRAL
    return permitted(self, *args, **kwargs)


access_control.IAMPolicyStatement.is_action_permitted = is_action_permitted

CANONICAL = "/aws/service/canonical/ubuntu/server/24.04/stable/current/%s/hvm/ebs-gp3/ami-id"
IMAGES = {CANONICAL % "amd64": "ami-785db401", CANONICAL % "arm64": "ami-785db401"}
load = ssm.ParameterDict._check_loading_status


def check_loading_status(self, key):
    load(self, key)
    if key in IMAGES and not dict.__contains__(self, key):
        dict.__setitem__(self, key, [ssm.Parameter(
            account_id=self.account_id, name=key, value=IMAGES[key], parameter_type="String",
            description=None, allowed_pattern=None, keyid=None, last_modified_date=utcnow(),
            version=1, data_type="aws:ec2:image")])


ssm.ParameterDict._check_loading_status = check_loading_status

new_version = LaunchTemplateVersion.__init__


def version_of_template(self, template, number, data, description):
    if not isinstance(data.get("UserData"), Base64EncodedString):
        data["UserData"] = parse_user_data(data.get("UserData"))
    specs = data.get("TagSpecifications", [])
    data["TagSpecifications"] = [t for t in specs if t.get("ResourceType") != "launch-template"]
    new_version(self, template, number, data, description)


LaunchTemplateVersion.__init__ = version_of_template

get_bool_param = Route53._get_bool_param


def with_vpc_is_private(self, name, *args, **kwargs):
    if name == "HostedZoneConfig.PrivateZone" and self._get_param("VPC.VPCId"):
        return True
    return get_bool_param(self, name, *args, **kwargs)


Route53._get_bool_param = with_vpc_is_private

if __name__ == "__main__":
    main()
