"""The operations guide's backup of PostgreSQL and S3, followed to the letter under load."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from content_storage import BUCKET, Storage
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2
from database_server import client_programs, database
from installation import installation, same_content, until
from object_server import ObjectServer

GUIDE = Path(__file__).parents[2] / "docs" / "operations.md"

AWS = """#!{python}
# `aws s3 sync`, as far as the guide needs it.
import os, pathlib, sys
import botocore.session

client = botocore.session.Session().create_client("s3")
command, source, target = sys.argv[1:3] == ["s3", "sync"], *sys.argv[3:]
assert command, sys.argv
if source.startswith("s3://"):
    bucket, _, prefix = source[5:].partition("/")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/")
    for found in (found for page in pages for found in page.get("Contents", ())):
        path = pathlib.Path(target, found["Key"].removeprefix(prefix + "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            try:
                body = client.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()
            except client.exceptions.NoSuchKey:
                continue
            path.write_bytes(body)
else:
    bucket, _, prefix = target[5:].partition("/")
    for path in pathlib.Path(source).iterdir():
        client.put_object(Bucket=bucket, Key=prefix + "/" + path.name, Body=path.read_bytes())
"""


def script(name: str) -> str:
    """The commands between the guide's markers."""
    pattern = rf"<!-- {name}:begin -->\n```sh\n(.*?)```\n<!-- {name}:end -->"
    found = re.search(pattern, GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A search path with what the guide calls."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "aws").write_text(AWS.format(python=sys.executable))
    (folder / "aws").chmod(0o755)
    for name in ("pg_dump", "pg_restore"):
        (folder / name).symlink_to(client_programs() / name)
    (folder / "darkroom").symlink_to(Path(sys.executable).with_name("darkroom"))
    return f"{folder}:{os.environ['PATH']}"


def test_the_guide_gives_back_what_was_there(
    postgres_url: str,
    storage: Storage,
    prefix: str,
    source: ObjectServer,
    disk: Path,
    programs: str,
    tmp_path: Path,
) -> None:
    folder, first, second = tmp_path / "backup", tmp_path / "first", tmp_path / "second"
    for each in (folder, first, second):
        each.mkdir(mode=0o700)

    def follow(name: str, url: str, contents: str, key: Path) -> str:
        given = {
            **storage.environment(),
            "AWS_DEFAULT_REGION": "us-east-1",
            "PATH": programs,
            "CONTENTS": contents,
            "DATABASE_URL": url,
            "FOLDER": str(folder),
            "SECRET_KEY_FILE": str(key),
        }
        command = [shutil.which("bash") or "bash", "-c", script(name)]
        done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def settings(url: str, contents: str) -> dict[str, str]:
        places = {"DARKROOM_DATABASE_URL": url, "DARKROOM_CONTENT_URL": contents}
        return {**storage.environment(), **places}

    with database(postgres_url) as url, database(postgres_url) as restored_url:
        contents, restored = f"s3://{BUCKET}/{prefix}", f"s3://{BUCKET}/{prefix}-restored"
        with installation(first, source.origin, **settings(url, contents)) as darkroom:
            kept = darkroom.done(darkroom.create(source.url(disk.name), name="kept").id)
            stop = threading.Event()

            def work() -> None:
                while not stop.is_set():
                    with contextlib.suppress(grpc.RpcError):
                        image = image_pb2.Image()
                        darkroom.done(darkroom.create(source.url(disk.name)).id).response.Unpack(
                            image
                        )
                        request = image_service_pb2.DeleteImageRequest(image_id=image.id)
                        darkroom.images.Delete(request)

            thread = threading.Thread(target=work)
            thread.start()
            try:
                follow("backup", url, contents, darkroom.data / "secret.key")
            finally:
                stop.set()
                thread.join()
        said = follow("restore", restored_url, restored, second / "key")
        assert "0 wrong" in said or "nothing is wrong" in said
        key = {"DARKROOM_SECRET_KEY_FILE": str(second / "key")}
        where = settings(restored_url, restored) | key
        with installation(second, source.origin, **where) as darkroom:
            assert darkroom.operation(kept.id) == kept
            creating = image_pb2.Image.CREATING
            until(lambda: creating not in [each.status for each in darkroom.listed()], "the end")
            (image,) = [each for each in darkroom.listed() if each.name == "kept"]
            darkroom.export(image.id, tmp_path / "exported.qcow2")
    assert same_content(disk, "qcow2", tmp_path / "exported.qcow2", "qcow2")
