"""Installations that keep their contents in S3-compatible object storage."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from content_storage import BUCKET, Storage
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from darkroom_pb.yandex.cloud.operation import operation_pb2
from installation import Installation, installation, same_content, until
from object_server import ObjectServer


def settings(storage: Storage, prefix: str, port: int | None = None) -> dict[str, str]:
    return {"DARKROOM_CONTENT_URL": f"s3://{BUCKET}/{prefix}", **storage.environment(port)}


@pytest.fixture
def darkroom(
    tmp_path: Path, source: ObjectServer, storage: Storage, prefix: str
) -> Iterator[Installation]:
    with installation(tmp_path, source.origin, **settings(storage, prefix)) as running:
        yield running


def imported(operation: operation_pb2.Operation) -> image_pb2.Image:
    image = image_pb2.Image()
    assert operation.response.Unpack(image), operation
    assert image.status == image_pb2.Image.READY
    return image


def scratch(darkroom: Installation) -> list[Path]:
    return list((darkroom.data / "scratch").iterdir())


def assert_clean(darkroom: Installation, storage: Storage, prefix: str, count: int) -> None:
    """So many contents, and nothing else anywhere."""
    until(lambda: len(storage.keys(prefix)) == count, f"{count} contents")
    until(lambda: not storage.uploads(prefix), "no upload")
    until(lambda: not scratch(darkroom), "an empty scratch folder")
    assert not (darkroom.data / "contents").exists()


def test_an_import_is_kept_in_the_bucket_exported_and_collected(
    darkroom: Installation,
    source: ObjectServer,
    storage: Storage,
    prefix: str,
    disk: Path,
    tmp_path: Path,
) -> None:
    image = imported(darkroom.done(darkroom.create(source.url(disk.name)).id))
    assert_clean(darkroom, storage, prefix, 1)
    (key,) = storage.keys(prefix)
    exported = tmp_path / "exported.qcow2"
    darkroom.export(image.id, exported)
    assert same_content(disk, "qcow2", exported, "qcow2")
    stored = storage.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    assert hashlib.sha256(stored).digest() == hashlib.sha256(exported.read_bytes()).digest()
    for text in (darkroom.log_text(), *map(str, darkroom.log_lines())):
        assert storage.secret_key not in text and storage.access_key not in text

    damaged = bytearray(stored)
    damaged[-1] ^= 1
    storage.client().put_object(Bucket=BUCKET, Key=key, Body=bytes(damaged))
    refused = darkroom.try_export(image.id, tmp_path / "damaged.qcow2")
    assert refused.returncode == 1
    assert "not those that were written" in refused.stderr
    assert not (tmp_path / "damaged.qcow2").exists()

    darkroom.images.Delete(image_service_pb2.DeleteImageRequest(image_id=image.id))
    assert_clean(darkroom, storage, prefix, 0)


@pytest.mark.parametrize("point", ["content.part", "content.complete", "content.completed"])
def test_a_worker_killed_while_it_publishes_leaves_no_upload(
    darkroom: Installation,
    source: ObjectServer,
    storage: Storage,
    prefix: str,
    disk: Path,
    point: str,
) -> None:
    darkroom.arm(point)
    operation_id = darkroom.create(source.url(disk.name)).id
    darkroom.wait_hit(point)
    assert storage.uploads(prefix) or storage.keys(prefix)
    os.kill(darkroom.worker(), signal.SIGKILL)
    imported(darkroom.done(operation_id))
    assert_clean(darkroom, storage, prefix, 1)
