"""Serves S3 on loopback as Amazon does: users with policies, and a bucket with an object lock.

Prints the port and the users' keys as JSON, and serves until its input ends.
"""

import json
import logging
import sys

import boto3
import moto.core
from moto.server import ThreadedMotoServer

policies = {
    "writer": ["s3:PutObject", "s3:GetObject", "s3:ListBucket"],
    "owner": ["s3:*"],
}

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
_, port = server.get_host_and_port()
account = {
    "endpoint_url": f"http://127.0.0.1:{port}",
    "region_name": "us-east-1",
    "aws_access_key_id": "root",
    "aws_secret_access_key": "root",
}
iam = boto3.client("iam", **account)
s3 = boto3.client("s3", **account)

keys = {}
for user, actions in policies.items():
    iam.create_user(UserName=user)
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    document = {"Version": "2012-10-17", "Statement": [statement]}
    iam.put_user_policy(UserName=user, PolicyName=user, PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName=user)["AccessKey"]
    keys[user] = {"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}

s3.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
s3.put_object_lock_configuration(
    Bucket="locked",
    ObjectLockConfiguration={
        "ObjectLockEnabled": "Enabled",
        "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}},
    },
)


@moto.core.set_initial_no_auth_action_count(0)
def serve_authenticated() -> None:
    """Checks the signature of each request, and the policy of its user."""
    print(json.dumps({"port": port, "keys": keys}), flush=True)
    sys.stdin.read()


serve_authenticated()
server.stop()
