"""A control plane opens the server's listener, without any proxy: `--xds`."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from clients.environments import environment
from darkroom.cli.seaweedfs import free_ports
from darkroom.gateway.sidecar import Identity
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from installation import PATIENCE_SECONDS, Installation
from sidecars import CLIENT, SERVER, Authority

REQUIREMENTS = ("grpcio==1.85.1", "xds-protos==1.85.0")
CONTROL_PLANE = Path(__file__).with_name("control_plane.py")


@contextlib.contextmanager
def control_plane(port: int) -> Iterator[str]:
    """One that knows the listener on the port; gives its own address."""
    interpreter = environment("control-plane", REQUIREMENTS)
    process = subprocess.Popen(
        [interpreter, CONTROL_PLANE, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(PATIENCE_SECONDS)
        process.stdout.close()


def bootstrap(folder: Path, plane: str, identity: Identity) -> Path:
    """What GRPC_XDS_BOOTSTRAP names."""
    provider = {
        "plugin_name": "file_watcher",
        "config": {
            "certificate_file": identity.certificate,
            "private_key_file": identity.key,
            "ca_certificate_file": identity.trusted,
            "refresh_interval": "60s",
        },
    }
    document = {
        "xds_servers": [
            {
                "server_uri": plane,
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "darkroom"},
        "certificate_providers": {"files": provider},
        "server_listener_resource_name_template": "server?address=%s",
    }
    path = folder / "bootstrap.json"
    path.write_text(json.dumps(document))
    return path


def test_a_control_plane_gives_the_server_mutual_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    client = authority.identity(CLIENT)
    # A port that nobody is given while the environment is made and the control plane starts.
    with free_ports() as ports, control_plane(port := next(ports)) as plane:
        file = bootstrap(tmp_path, plane, authority.identity(SERVER))
        settings = {
            "DARKROOM_XDS": "true",
            "DARKROOM_WORKERS": "0",
            "GRPC_XDS_BOOTSTRAP": str(file),
            # Or gRPC's core writes a line that is no JSON.
            "GRPC_VERBOSITY": "ERROR",
        }
        darkroom = Installation(tmp_path, "http://127.0.0.1:1", **settings)
        darkroom.listen = f"127.0.0.1:{port}"
        try:
            darkroom.start()
            certificate, key, trusted = (
                Path(each).read_bytes() for each in (client.certificate, client.key, client.trusted)
            )
            known = grpc.ssl_channel_credentials(trusted, key, certificate)
            # It is opened later than the server says that it serves.
            with grpc.secure_channel(f"localhost:{port}", known) as channel:
                listed(channel, PATIENCE_SECONDS, wait_for_ready=True)
            # Neither without a certificate nor without TLS.
            for channel in (
                grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(trusted)),
                grpc.insecure_channel(f"127.0.0.1:{port}"),
            ):
                with channel, pytest.raises(grpc.RpcError):
                    listed(channel, 2.0)
        finally:
            darkroom.stop()


def listed(channel: grpc.Channel, seconds: float, *, wait_for_ready: bool = False) -> None:
    images = image_service_pb2_grpc.ImageServiceStub(channel)
    request = image_service_pb2.ListImagesRequest(folder_id="folder")
    images.List(request, timeout=seconds, wait_for_ready=wait_for_ready)
