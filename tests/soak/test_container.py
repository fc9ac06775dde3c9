"""The container: built from its file by buildah, started as nobody on a root that is read-only.

The base comes from debootstrap, so no registry is needed. The kernel decides whether buildah can
work here; where it cannot, or with REPLAY=1, the steps of the file are replayed by chroot.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from darkroom_pb.yandex.cloud.compute.v1 import image_service_pb2, image_service_pb2_grpc
from darkroom_pb.yandex.cloud.operation import (
    operation_service_pb2,
    operation_service_pb2_grpc,
)
from installation import PATIENCE_SECONDS, descendants, until
from object_server import ObjectServer
from soak.replayed import replay

ROOT = Path(__file__).resolve().parent.parent.parent
CONTAINERFILE = ROOT / "deploy" / "container" / "Containerfile"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
NOBODY = 10001
MOST_BYTES = 450 * 1024 * 1024
"""A base of debootstrap has about 200 MB, what Docker calls slim 75."""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap must be root"),
    pytest.mark.timeout(1800),
]


def run(*command: str) -> str:
    """Standard output of a command; a failure shows the end of what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr[-3000:], done.stdout[-1000:])
    return done.stdout


@dataclass(frozen=True)
class Image:
    """What was built."""

    root: Path
    """Its files, mounted."""
    config: dict[str, Any]
    size_bytes: int


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    folder = tmp_path_factory.mktemp("container")
    base = folder / "base"
    run("debootstrap", "--variant=minbase", "bookworm", str(base))
    store = ["--root", str(folder / "store"), "--runroot", str(folder / "run")]
    buildah = ["buildah", *store, "--storage-driver", "vfs"]
    try:
        root, config = (
            by_buildah(buildah, folder, base) if buildah_works(buildah) else by_chroot(folder, base)
        )
        files = run("du", "--summarize", "--block-size=1", "--one-file-system", str(root))
        yield Image(root, config, int(files.split()[0]))
    finally:
        subprocess.run([*buildah, "rm", "--all"], capture_output=True, check=False)
        shutil.rmtree(folder)


def buildah_works(buildah: list[str]) -> bool:
    """Whether the kernel lets it."""
    if os.environ.get("REPLAY"):
        return False
    try:
        run(*buildah, "mount", run(*buildah, "from", "scratch").strip())
    except AssertionError as failure:
        print(f"this kernel does not let buildah work: {failure}")
        return False
    return True


def by_buildah(buildah: list[str], folder: Path, base: Path) -> tuple[Path, dict[str, Any]]:
    working = run(*buildah, "from", "scratch").strip()
    run("cp", "--archive", f"{base}/.", run(*buildah, "mount", working).strip())
    shutil.rmtree(base)
    run(*buildah, "commit", "--quiet", "--rm", working, "localhost/base")
    run(
        *(*buildah, "build", "--isolation", "chroot", "--build-arg", "BASE=localhost/base"),
        *(f"--volume={path}:/{place}:ro" for path, place in lent(folder).items()),
        *("--file", str(CONTAINERFILE), "--tag", "localhost/darkroom", str(ROOT)),
    )
    described = json.loads(run(*buildah, "inspect", "--type", "image", "localhost/darkroom"))
    container = run(*buildah, "from", "localhost/darkroom").strip()
    return Path(run(*buildah, "mount", container).strip()), described["OCIv1"]["config"]


def by_chroot(folder: Path, base: Path) -> tuple[Path, dict[str, Any]]:
    return replay(CONTAINERFILE, ROOT, base, folder, lent(folder))


def lent(folder: Path) -> dict[Path, str]:
    """What this machine's pip needs to reach the index, and where the build finds it."""
    lines = ["[global]"]
    files = {folder / "pip.conf": "etc/pip.conf"}
    if CERTIFICATES.exists():
        lines.append(f"cert = /run/{CERTIFICATES.name}")
        files[CERTIFICATES] = f"run/{CERTIFICATES.name}"
    pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    index = subprocess.run(pip, capture_output=True, text=True, check=False).stdout.strip()
    if index:
        lines.append(f"index-url = {index}")
    (folder / "pip.conf").write_text("\n".join(lines) + "\n")
    return files


def contained(image: Image, data: Path, *options: str) -> list[str]:
    """The command before one that runs in the container.

    As an orchestrator runs it: nobody's rights, no capabilities, a root that is read-only, no
    namespaces of its own to make.
    """
    environment = dict(each.split("=", 1) for each in image.config["Env"])
    set_there = [part for pair in environment.items() for part in ("--setenv", *pair)]
    return [
        *("bwrap", "--ro-bind", str(image.root), "/", "--proc", "/proc", "--dev", "/dev"),
        *("--tmpfs", "/tmp", "--bind", str(data), environment["DARKROOM_DATA_DIR"]),
        *("--unshare-user", "--unshare-pid", "--disable-userns", "--cap-drop", "ALL"),
        *("--uid", str(NOBODY), "--gid", str(NOBODY), "--clearenv", *set_there),
        *("--die-with-parent", "--new-session", *options),
    ]


@contextlib.contextmanager
def started(image: Image, data: Path, log: Path, origin: str) -> Iterator[tuple[int, str]]:
    """The container's own entry point and command; gives the pid of its tini and its address."""
    command = [*contained(image, data, "--as-pid-1"), *image.config["Entrypoint"]]
    flags = ["--listen", "127.0.0.1:0", "--source-allow", f"{origin}/"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *image.config["Cmd"], *flags], stderr=output)

    def lines() -> list[dict[str, Any]]:
        assert process.poll() is None, log.read_text()
        whole = [each for each in log.read_text().splitlines(keepends=True) if each[-1] == "\n"]
        return [json.loads(each) for each in whole if each.startswith("{")]

    try:
        (serving,) = until(
            lambda: [each for each in lines() if each["event"] == "serving"], "it to serve"
        )
        (tini,) = [
            pid
            for pid in descendants(process.pid)
            if Path(f"/proc/{pid}/comm").read_text().strip() == "tini"
        ]
        yield tini, serving["listen"]
        os.kill(tini, signal.SIGTERM)
        # A status that the server chose: a signal would have made it another.
        assert process.wait(PATIENCE_SECONDS) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_container_imports_as_nobody_on_a_read_only_root_and_ends_in_order(
    image: Image, tmp_path: Path, disk: Path, source: ObjectServer
) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    data.mkdir()
    assert image.config["User"] == f"{NOBODY}:{NOBODY}"
    with started(image, data, log, source.origin) as (_, address):
        health = [*contained(image, data), "darkroom", "healthcheck", "--listen"]
        for probe in ((), ("--service", "liveness")):
            assert subprocess.run([*health, address, *probe], check=False).returncode == 0
        # What the manifests do before SIGTERM.
        hook = [*contained(image, data), "sleep", "0"]
        assert subprocess.run(hook, check=False).returncode == 0
        with grpc.insecure_channel(address) as channel:
            images = image_service_pb2_grpc.ImageServiceStub(channel)
            operations = operation_service_pb2_grpc.OperationServiceStub(channel)
            request = image_service_pb2.CreateImageRequest(
                folder_id="folder", uri=source.url(disk.name)
            )
            wanted = operation_service_pb2.GetOperationRequest(
                operation_id=images.Create(request).id
            )
            until(lambda: operations.Get(wanted).done, "the import to end")
            assert not operations.Get(wanted).HasField("error"), log.read_text()
    assert subprocess.run([*health, address], check=False, capture_output=True).returncode == 1
    events = [json.loads(each) for each in log.read_text().splitlines() if each.startswith("{")]
    # Containers have no namespaces to give away.
    confinement = [each["confinement"] for each in events if each["event"] == "sandbox"]
    assert confinement == ["landlock"]
    assert events[-1]["event"] == "stopped"


def test_the_image_is_small_and_brings_nothing_that_only_helps_an_intruder(image: Image) -> None:
    print(f"image: {image.size_bytes / 1e6:.0f} MB")
    assert image.size_bytes < MOST_BYTES
    programs = {each.name for each in (image.root / "usr/bin").iterdir()}
    assert not programs & {"curl", "wget", "gcc", "pip", "pip3"}
    # Drivers that open disks over the network.
    assert not list(image.root.glob("usr/lib/*/qemu/block-*.so"))
    assert not list((image.root / "opt/darkroom/bin").glob("pip*"))
