"""Copied to where a user has their tests: the official SDK against the fixture `darkroom`."""

import functools
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yandexcloud

from darkroom.testing import Darkroom


@pytest.fixture(scope="session")
def darkroom_settings() -> dict[str, object]:
    return {"source_allow": ["http://127.0.0.1:*/"], "folder": ["b1gmine=mine", "b1gother=other"]}


@pytest.fixture
def sdk(darkroom: Darkroom) -> yandexcloud.SDK:
    return yandexcloud.SDK(
        endpoint=darkroom.endpoint,
        root_certificates=darkroom.root_certificates,
        iam_token=darkroom.token,
    )


@pytest.fixture
def disk_url(tmp_path: Path) -> Iterator[str]:
    """A qcow2 on an HTTP server of the test's own."""
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{path.name}"
        server.shutdown()
