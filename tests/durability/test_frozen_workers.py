"""Workers that stand still past their lease and then continue: what they do late changes nothing.

Nobody supervises these: who does would kill a worker that is silent for so long.
"""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from darkroom.cli.main import main
from darkroom_pb.yandex.cloud.compute.v1 import image_pb2
from installation import installation, until
from object_server import ObjectServer


@pytest.mark.parametrize("point", ["content.link", "operation.finish"])
def test_what_a_frozen_worker_does_late_changes_nothing(
    tmp_path: Path, source: ObjectServer, disk: Path, point: str
) -> None:
    log = tmp_path / "frozen.log"
    settings = {"DARKROOM_WORKERS": "0", "DARKROOM_LEASE_SECONDS": "1"}
    with contextlib.ExitStack() as stack:
        darkroom = stack.enter_context(installation(tmp_path, source.origin, **settings))
        frozen = stack.enter_context(darkroom.worker_beside(log))
        darkroom.arm(point)
        operation_id = darkroom.create(source.url(disk.name)).id
        darkroom.wait_hit(point)
        darkroom.freeze(frozen.pid)
        stack.enter_context(darkroom.worker_beside(tmp_path / "second.log"))
        operation = darkroom.done(operation_id)
        image = image_pb2.Image()
        assert operation.response.Unpack(image), operation
        content = darkroom.data / "contents" / f"{operation_id}.2.qcow2"
        published = content.stat()

        darkroom.let_go(point)
        os.kill(frozen.pid, signal.SIGCONT)
        until(lambda: b'"outcome":"fenced"' in log.read_bytes(), "the frozen one to notice")
        until(lambda: darkroom.contents() == [content], "nothing but what was published")
        until(lambda: darkroom.scratch() == [], "the scratch folder to be empty")
        found = content.stat()
        assert (found.st_ino, found.st_mtime_ns) == (published.st_ino, published.st_mtime_ns)
        assert darkroom.operation(operation_id) == operation
        assert darkroom.image(image.id) == image
        assert main(["fsck", "--tables", "--data-dir", str(darkroom.data)]) == 0
        # It goes on working.
        assert frozen.poll() is None
