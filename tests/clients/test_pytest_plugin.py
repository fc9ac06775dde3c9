"""The pytest plugin, in test runs of their own, as those who have the wheel installed see it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from clients.environments import YANDEXCLOUD
from darkroom.testing import Darkroom, ServerError
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from installation import alive, descendants, until
from log_schema import check_all

ROOT = Path(__file__).resolve().parents[2]
PROJECT = Path(__file__).with_name("plugin")
PYTHON = Path(sys.executable)
OF_THE_SDK = ("-W", "ignore::DeprecationWarning")
"""What it says about parts of its own."""
WITH_STUBS = """\
import grpc
from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc

def images(darkroom):
    channel = grpc.insecure_channel(darkroom.plaintext_endpoint)
    return image_service_pb2_grpc.ImageServiceStub(channel)

"""


def command(python: Path, *arguments: str) -> list[str]:
    return [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-rA", "-W", "error", *arguments]


def run(
    folder: Path, *arguments: str, python: Path = PYTHON, wrap: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """pytest in a folder of tests; variables that are meant for other servers are set."""
    return subprocess.run(
        [*wrap, *command(python, *arguments)],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if "PYTEST" not in name},
            "DARKROOM_DATA_DIR": "/nonexistent",
            "DARKROOM_DATABASE_URL": "sqlite:/nonexistent/metadata.sqlite",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def readme_example() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- plugin:begin -->\s+```python\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.timeout(900)  # the environment is made by the first test that asks for it
@pytest.mark.client(
    "the official Python SDK `yandexcloud`",
    YANDEXCLOUD.partition("==")[2],
    "in tests of its own with the `darkroom` fixture, under pytest-xdist",
    "ran",
)
def test_the_official_sdk_in_a_test_run_of_its_own(shared: Path, tmp_path: Path) -> None:
    """The README's example as it stands, and tests that would see each other's traces."""
    (tmp_path / "test_readme.py").write_text(readme_example())
    shutil.copy(PROJECT / "users_conftest.py", tmp_path / "conftest.py")
    shutil.copy(PROJECT / "users_tests.py", tmp_path / "test_theirs.py")
    result = run(tmp_path, "-n", "2", *OF_THE_SDK, python=shared)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"= 9 passed in", result.stdout), result.stdout


def test_who_reads_a_failed_run_sees_what_the_server_said(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        WITH_STUBS + "import json, os, signal\n"
        "def test_passes(darkroom):\n"
        "    images(darkroom).List(image_service_pb2.ListImagesRequest(folder_id='quiet'))\n"
        "def test_fails(darkroom):\n"
        "    images(darkroom).Get(image_service_pb2.GetImageRequest(image_id='loud'))\n"
        "def test_fails_without_it():\n"
        "    assert False\n"
        "def test_kills_it(darkroom):\n"
        "    lines = map(json.loads, darkroom.output().splitlines())\n"
        "    (pid,) = (line['pid'] for line in lines if line['event'] == 'serving')\n"
        "    os.kill(pid, signal.SIGKILL)\n"
        "def test_needs_it(darkroom):\n"
        "    pass\n"
        "def test_needs_it_no_more():\n"
        "    pass\n"
    )
    result = run(tmp_path)
    assert "3 passed, 1 error" in result.stdout and "2 failed" in result.stdout, result.stdout
    assert result.stdout.count("Output of darkroom during call") == 1
    shown = result.stdout.partition("Output of darkroom during call")[2].partition("____")[0]
    assert "ImageService/Get" in shown
    assert "ImageService/List" not in shown
    assert "the server has ended, status -9" in result.stdout


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"no_such_setting": 1}, "unrecognized arguments: --no-such-setting=1"),
        ({"compression": "lzma"}, "--compression: must be one of none, zstd"),
        ({"database_url": "sqlite:/nonexistent"}, "keeps everything in its data folder"),
        ({"content_url": "file:/nonexistent"}, "keeps everything in its data folder"),
    ],
)
def test_a_setting_that_cannot_be_is_told(
    tmp_path: Path, settings: dict[str, object], told: str
) -> None:
    with pytest.raises(ServerError) as refused:
        Darkroom(tmp_path, settings).start()
    assert str(refused.value).startswith("the server has ended, status 2")
    assert told in str(refused.value)


def test_what_can_be_wiped_is_new(tmp_path: Path) -> None:
    """A test run cannot take hold of a folder that something is in, and leaves it alone."""
    kept = tmp_path / "data" / "metadata.sqlite"
    kept.parent.mkdir()
    kept.touch()
    server = Darkroom(tmp_path)
    with pytest.raises(ServerError, match="exists: somebody else's data are in it"):
        server.start()
    server.stop()
    served = [str(PYTHON), "-m", "darkroom", "serve", "--control-fd", "0"]
    result = subprocess.run(
        [*served, "--data-dir", str(kept.parent)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 2
    assert "needs a data folder that is empty or missing" in result.stderr
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_images_of_a_catalogue_are_there_after_a_reset(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text("images: [{name: scratch, family: scratch, blank: 4 MiB}]")
    with (
        Darkroom(tmp_path / "served", {"catalog": catalog}) as server,
        grpc.insecure_channel(server.plaintext_endpoint) as channel,
    ):
        images = image_service_pb2_grpc.ImageServiceStub(channel)
        request = image_service_pb2.ListImagesRequest(folder_id="standard-images")
        (before,) = images.List(request).images
        history = image_service_pb2.ListImageOperationsRequest(image_id=before.id)
        (made,) = images.ListOperations(history).operations
        server.reset()
        (after,) = images.List(request).images
        (made_anew,) = images.ListOperations(history).operations
    assert (after.id, after.name) == (before.id, "scratch")
    assert made_anew.id != made.id
    assert check_all(server.output()) > 5


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_test_run(tmp_path: Path, number: signal.Signals) -> None:
    """A child that the tests forked has the private line open too and does not keep it alive."""
    (tmp_path / "test_it.py").write_text(
        "import os, pathlib, time\n"
        "def test_it(darkroom):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\n"
        "    pathlib.Path('forked.new').write_text(str(child))\n"
        "    os.rename('forked.new', 'forked')\n"
        "    time.sleep(60)\n"
    )
    started = subprocess.Popen(
        command(PYTHON, "-q"), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    forked, pids = tmp_path / "forked", []
    try:
        until(forked.exists, "the test to run")
        # The server, its worker, the child.
        pids = until(
            lambda: len(pids := descendants(started.pid)) >= 3 and pids, "all of its processes"
        )
        os.kill(started.pid, number)
        started.wait(30)
        left = [pid for pid in pids if pid != int(forked.read_text())]
        until(lambda: not any(alive(pid) for pid in left), "the server to end", 10)
    finally:
        for pid in [started.pid, *pids]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        started.wait()


def without_qemu_img() -> tuple[str, ...]:
    """Runs a command where qemu-img is a file that nobody can execute."""
    hidden = ("bwrap", "--dev-bind", "/", "/", "--ro-bind", "/dev/null", "/usr/bin/qemu-img")
    if subprocess.run([*hidden, "true"], capture_output=True, check=False).returncode:
        pytest.skip("bubblewrap cannot hide a file here")
    return hidden


def test_without_qemu_img_all_is_served_that_moves_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        WITH_STUBS + "import time\n"
        "from darkroom_pb.yandex.cloud.operation import operation_service_pb2 as messages\n"
        "from darkroom_pb.yandex.cloud.operation import operation_service_pb2_grpc as stubs\n"
        "def test_is_told(darkroom):\n"
        "    assert darkroom.import_obstacle.startswith('This server has no qemu-img')\n"
        "def test_needs_imports(darkroom):\n"
        "    darkroom.require_imports()\n"
        "def test_a_create_from_a_url_fails_and_says_why(darkroom):\n"
        "    made = images(darkroom).Create(image_service_pb2.CreateImageRequest(\n"
        "        folder_id='folder', uri='https://storage.yandexcloud.net/b/o'))\n"
        "    channel = grpc.insecure_channel(darkroom.plaintext_endpoint)\n"
        "    get = stubs.OperationServiceStub(channel).Get\n"
        "    deadline = time.monotonic() + 20\n"
        "    while not made.done and time.monotonic() < deadline:\n"
        "        time.sleep(0.05)\n"
        "        made = get(messages.GetOperationRequest(operation_id=made.id))\n"
        "    assert made.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]\n"
        "    assert 'qemu-utils' in made.error.message\n"
    )
    result = run(tmp_path, wrap=without_qemu_img())
    assert "2 passed, 1 skipped" in result.stdout, result.stdout
    assert "This server has no qemu-img" in result.stdout
