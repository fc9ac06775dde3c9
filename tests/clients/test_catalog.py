"""A catalogue on a real installation: made once, for everyone, and refused when it is wrong."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from darkroom.operations.catalog import catalog_id
from darkroom_pb.yandex.cloud.access import access_pb2
from darkroom_pb.yandex.cloud.compute.v1 import (
    disk_pb2,
    disk_service_pb2,
    disk_service_pb2_grpc,
    image_pb2,
    image_service_pb2,
)
from installation import Installation, installation, same_content, until
from object_server import ObjectServer

MIB = 1 << 20
FOLDER = "standard-images"


@pytest.fixture
def stocked(tmp_path: Path, disk: Path, source: ObjectServer) -> Iterator[Installation]:
    """An installation with an image of each source, the local file among them raw."""
    raw = tmp_path / "local.raw"
    subprocess.run(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(disk), str(raw)], check=True
    )
    images = [
        {"name": "blank-1", "family": "blank", "blank": "4 MiB"},
        {"name": "blank-2", "family": "blank", "os": "windows", "blank": "8 MiB"},
        {"name": "remote-1", "family": "remote", "url": source.url(disk.name)},
        {"name": "local-1", "family": "local", "labels": {"a": "b"}, "file": raw.name},
    ]
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump({"images": images}))
    with installation(tmp_path, source.origin, DARKROOM_CATALOG=str(path)) as running:
        yield running


def latest(running: Installation, family: str) -> image_pb2.Image:
    request = image_service_pb2.GetImageLatestByFamilyRequest(folder_id=FOLDER, family=family)
    return running.images.GetLatestByFamily(request)


def listed(running: Installation) -> list[image_pb2.Image]:
    request = image_service_pb2.ListImagesRequest(folder_id=FOLDER)
    return list(running.images.List(request).images)


def all_ready(running: Installation) -> list[image_pb2.Image] | None:
    images = listed(running)
    return images if all(each.status == image_pb2.Image.READY for each in images) else None


def test_images_of_every_source_are_made_once_and_for_everyone(
    stocked: Installation, disk: Path, tmp_path: Path
) -> None:
    # Nothing to import: there from the first call on.
    blank = latest(stocked, "blank")
    assert (blank.name, blank.size, blank.os.type) == ("blank-2", 8 * MIB, image_pb2.Os.WINDOWS)

    images = until(lambda: all_ready(stocked), "every image of the catalogue to be READY")
    names = ("blank-1", "blank-2", "remote-1", "local-1")
    assert {each.name: each.id for each in images} == {
        name: catalog_id(FOLDER, name) for name in names
    }
    for family in ("remote", "local"):
        exported = tmp_path / f"{family}.qcow2"
        stocked.export(latest(stocked, family).id, exported)
        assert same_content(disk, "qcow2", exported, "qcow2")
    assert dict(latest(stocked, "local").labels) == {"a": "b"}
    for image in images:
        request = access_pb2.ListAccessBindingsRequest(resource_id=image.id)
        (binding,) = stocked.images.ListAccessBindings(request).access_bindings
        subject = binding.subject
        assert (binding.role_id, subject.type, subject.id) == (
            "compute.images.user",
            "system",
            "allAuthenticatedUsers",
        )

    (tmp_path / "local.raw").unlink()
    stocked.stop()
    stocked.start()
    assert listed(stocked) == images
    for image in images:
        operations = stocked.images.ListOperations(
            image_service_pb2.ListImageOperationsRequest(image_id=image.id)
        ).operations
        assert [each.description for each in operations] == ["Create image"]
    for secret in ("Signature", str(tmp_path / "local.raw")):
        assert secret not in stocked.log_text()


def test_a_disk_is_made_of_a_placeholder(stocked: Installation, tmp_path: Path) -> None:
    assert stocked.channel is not None
    disks = disk_service_pb2_grpc.DiskServiceStub(stocked.channel)
    image = latest(stocked, "blank")
    operation = disks.Create(
        disk_service_pb2.CreateDiskRequest(
            folder_id="home", zone_id="ru-central1-a", size=16 * MIB, image_id=image.id
        )
    )
    made = disk_pb2.Disk()
    assert operation.done and operation.response.Unpack(made)
    assert (made.status, made.size) == (disk_pb2.Disk.READY, 16 * MIB)
    assert made.source_image_id == image.id
    exported, empty = tmp_path / "disk.qcow2", tmp_path / "empty.raw"
    stocked.export(made.id, exported)
    empty.touch()
    os.truncate(empty, 16 * MIB)
    assert same_content(empty, "raw", exported, "qcow2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images: [{name: a, family: B, blank: 1}]", "images[0] (a): family: must match"),
        ("images: [{name: a, file: nowhere.qcow2}]", "images[0] (a): file: "),
        ("images: [", "is not YAML"),
        (None, "No such file"),
    ],
)
def test_a_wrong_catalogue_refuses_to_start(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "catalog.yaml"
    if text is not None:
        path.write_text(text)
    command = [sys.executable, "-m", "darkroom", "serve", "--listen", "127.0.0.1:0"]
    command += ["--tls-listen", "", "--data-dir", str(tmp_path / "data"), "--catalog", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 1
    _, refused, reason = result.stderr.partition("darkroom: cannot start: ")
    assert refused and message in reason
    assert "Traceback" not in result.stderr
