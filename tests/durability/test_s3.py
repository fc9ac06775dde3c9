"""Installations that keep their contents in S3-compatible object storage."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from content_storage import BUCKET, FaultyProxy, Storage, first
from darkroom import wiring
from darkroom.config import Settings
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
    stored = storage.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    assert hashlib.sha256(stored).digest() == hashlib.sha256(exported.read_bytes()).digest()
    for text in (darkroom.log_text(), *map(str, darkroom.log_lines())):
        assert storage.running.secret_key not in text
        assert storage.running.access_key not in text

    assert darkroom.command("fsck", "--tables").returncode == 0

    damaged = bytearray(stored)
    damaged[-1] ^= 1
    storage.client.put_object(Bucket=BUCKET, Key=key, Body=bytes(damaged))
    refused = darkroom.command("image", "export", image.id, str(tmp_path / "damaged.qcow2"))
    assert refused.returncode == 1
    assert "not those that were written" in refused.stderr
    assert not (tmp_path / "damaged.qcow2").exists()
    found = darkroom.command("fsck", "--checksums")
    assert found.returncode == 1 and "content-damaged" in found.stdout

    darkroom.images.Delete(image_service_pb2.DeleteImageRequest(image_id=image.id))
    assert_clean(darkroom, storage, prefix, 0)


@pytest.mark.parametrize("point", ["content.part", "content.completed"])
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


def test_a_worker_frozen_past_its_lease_changes_nothing_when_it_continues(
    tmp_path: Path, source: ObjectServer, storage: Storage, prefix: str, disk: Path
) -> None:
    environment = settings(storage, prefix)
    log = tmp_path / "frozen.log"
    with contextlib.ExitStack() as stack:
        serving = installation(tmp_path, source.origin, DARKROOM_WORKERS="0", **environment)
        darkroom = stack.enter_context(serving)
        frozen = stack.enter_context(darkroom.worker_beside(log))
        darkroom.arm("content.complete")
        operation_id = darkroom.create(source.url(disk.name)).id
        darkroom.wait_hit("content.complete")
        os.kill(frozen.pid, signal.SIGSTOP)
        stack.enter_context(darkroom.worker_beside(tmp_path / "second.log"))
        operation = darkroom.done(operation_id)
        imported(operation)
        until(lambda: not storage.uploads(prefix), "the frozen worker's upload to be aborted")
        (key,) = storage.keys(prefix)
        published = storage.client.head_object(Bucket=BUCKET, Key=key)

        darkroom.let_go("content.complete")
        os.kill(frozen.pid, signal.SIGCONT)
        until(lambda: b"operation left" in log.read_bytes(), "the frozen worker's end of it")
        until(lambda: storage.keys(prefix) == [key], "just the published content")
        until(lambda: not scratch(darkroom), "an empty scratch folder")
        assert storage.uploads(prefix) == []
        found = storage.client.head_object(Bucket=BUCKET, Key=key)
        assert (found["ETag"], found["LastModified"]) == (
            published["ETag"],
            published["LastModified"],
        )
        assert darkroom.operation(operation_id) == operation


def test_a_storage_that_is_away_is_waited_for_and_what_it_kept_from_finishing_tried_again(
    tmp_path: Path, source: ObjectServer, storage: Storage, prefix: str, disk: Path
) -> None:
    away = first(lambda request: True, lambda request: request.reset(), times=2)
    slow_down = first(
        lambda request: request.target.endswith("?uploads"),
        lambda request: request.refuse(503, "SlowDown"),
        times=7,
    )
    with FaultyProxy(storage).running() as proxy:
        proxy.begin(lambda request: away(request) or slow_down(request))
        environment = settings(storage, prefix, proxy.port)
        with installation(tmp_path, source.origin, **environment) as darkroom:
            imported(darkroom.done(darkroom.create(source.url(disk.name)).id))
            lines = darkroom.log_lines()
            warned = [line for line in lines if line["event"] == "content storage out of reach"]
            assert warned and warned[0]["reason"] == "CONTENT_STORE_UNAVAILABLE"
            retried = [line for line in lines if line["event"] == "operation will be retried"]
            assert [line["reason"] for line in retried] == ["CONTENT_STORE_UNAVAILABLE"]
            assert_clean(darkroom, storage, prefix, 1)


# --- what is wrong is said at the start -----------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-and-hush"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "hush", "AWS_SECRET_ACCESS_KEY": "hush"}, "InvalidAccessKeyId"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials for it"),
        ({"AWS_PROFILE": "none-of-that-name"}, "none-of-that-name"),
        ({"AWS_ENDPOINT_URL_S3": "no-url"}, "Invalid endpoint"),
    ],
)
def test_settings_that_never_work_are_refused(
    tmp_path: Path,
    storage: Storage,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    problem: str,
) -> None:
    for name, value in {**storage.environment(), **changed}.items():
        monkeypatch.setenv(name, value)
    wanted = Settings(data_dir=tmp_path, content_url=f"s3://{BUCKET}/{prefix}")
    with pytest.raises(ValueError, match=f"content_url: .*{problem}") as refused:
        wiring.open_deployment(wanted)
    assert "hush" not in str(refused.value)


def test_a_bucket_that_is_not_there_is_named(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "darkroom", "serve", "--data-dir", str(tmp_path / "data")]
    refused = subprocess.run(
        [*command, "--content-url", "s3://not-there"],
        env={**os.environ, **storage.environment()},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode == 1
    assert refused.stderr == (
        "darkroom: cannot start: content_url: the storage cannot be used: NoSuchBucket\n"
    )


def test_without_its_packages_the_way_to_them_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("darkroom.imaging.s3_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(ValueError, match=r"pip install darkroom-images\[s3\]"):
        wiring.open_contents(Settings(data_dir=tmp_path, content_url="s3://contents"))
