"""Runs in an environment of its own: the official Python SDK where callers must be known.

usage: yandexcloud_iam.py ENDPOINT CA_FILE KEY_FILE STATIC_TOKEN; prints what it saw as JSON.
"""

import json
import sys
from pathlib import Path

import grpc
import yandexcloud
from yandex.cloud.compute.v1 import disk_pb2, disk_service_pb2, disk_service_pb2_grpc

FOLDER = "b1gdefault0000000000"


def outcome(**credentials: object) -> str:
    """How a deletion ends that these credentials begin."""
    sdk = yandexcloud.SDK(endpoint=endpoint, root_certificates=ca, **credentials)
    stub = sdk.client(disk_service_pb2_grpc.DiskServiceStub)
    try:
        stub.Delete(disk_service_pb2.DeleteDiskRequest(disk_id=disk_id))
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"
    return "OK"


endpoint, ca_file, key_file, static_token = sys.argv[1:]
ca = Path(ca_file).read_bytes()
key = json.loads(Path(key_file).read_text())
sdk = yandexcloud.SDK(endpoint=endpoint, root_certificates=ca, service_account_key=key)
disks = sdk.client(disk_service_pb2_grpc.DiskServiceStub)
request = disk_service_pb2.CreateDiskRequest(
    folder_id=FOLDER, name="of-sdk", zone_id="ru-central1-a", size=4 << 20
)
made = sdk.wait_operation_and_get_result(
    disks.Create(request),
    response_type=disk_pb2.Disk,
    meta_type=disk_service_pb2.CreateDiskMetadata,
    timeout=60,
)
disk_id = made.response.id
seen = {
    "by_the_account": made.operation.created_by == key["service_account_id"],
    "user_who_may_look": outcome(token=static_token),
    "unknown_token": outcome(token="y0_unknown"),
    "no_token_of_ours": outcome(iam_token="t1.any.token"),
    "stolen_id": outcome(service_account_key={**key, "id": "ajeunknown"}),
    "account": outcome(service_account_key=key),
}
print(json.dumps({**seen, "disk_id": disk_id}))
