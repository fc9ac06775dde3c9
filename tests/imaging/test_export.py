"""Export: the size of the row, the bytes of the content, and a whole file or none."""

import hashlib
import io
import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.domain.errors import Failure
from darkroom.imaging import export as exporting
from imaging.images import MIB, converted, disk, qemu_img

GIB = 1 << 30


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return disk(tmp_path / "disk.raw")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "exported"
    made.mkdir()
    return made


def content_of(raw: Path, *flags: str) -> Path:
    """Stored like a content: read-only."""
    path = converted(raw, raw.with_name("content.qcow2"), "qcow2", "", *flags)
    path.chmod(0o400)
    return path


def export(content: Path | None, size_bytes: int, target: Path) -> None:
    if content is None:
        exporting.export(None, "", size_bytes, target)
        return
    digest = hashlib.sha256(content.read_bytes()).hexdigest()
    with content.open("rb") as file:
        exporting.export(file, digest, size_bytes, target)


def virtual_size(path: Path) -> int:
    info = json.loads(qemu_img("info", "--output=json", "-f", "qcow2", path))
    return int(info["virtual-size"])


@pytest.mark.parametrize("flags", [(), ("-c",)], ids=["plain", "compressed"])
@pytest.mark.parametrize("size_bytes", [6 * MIB, 8 * MIB, 3 * 1024 * GIB])
def test_it_has_the_size_of_the_row(
    raw: Path, folder: Path, size_bytes: int, flags: tuple[str, ...]
) -> None:
    content = content_of(raw, *flags)
    before = content.read_bytes()
    export(content, size_bytes, folder / "image.qcow2")
    assert virtual_size(folder / "image.qcow2") == size_bytes
    qemu_img("check", "-q", "-f", "qcow2", folder / "image.qcow2")
    # Compare takes what one of the two lacks at its end for zeros.
    qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, folder / "image.qcow2")
    assert content.read_bytes() == before
    assert os.listdir(folder) == ["image.qcow2"]


@pytest.mark.parametrize("size_bytes", [4 * MIB, 10 * GIB])
def test_no_content_is_zeros(folder: Path, size_bytes: int) -> None:
    path = folder / "empty.qcow2"
    export(None, size_bytes, path)
    assert virtual_size(path) == size_bytes
    assert path.stat().st_size < MIB
    extents = json.loads(qemu_img("map", "--output=json", "-f", "qcow2", path))
    assert sum(extent["length"] for extent in extents) == size_bytes
    assert not any(extent["data"] for extent in extents)


def test_its_owner_may_write_it(raw: Path, folder: Path) -> None:
    export(content_of(raw), 8 * MIB, folder / "image.qcow2")
    assert stat.S_IMODE((folder / "image.qcow2").stat().st_mode) & 0o600 == 0o600


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_nothing_is_overwritten(raw: Path, folder: Path, kind: str) -> None:
    target = folder / "taken"
    match kind:
        case "file":
            target.write_bytes(b"mine")
        case "folder":
            target.mkdir()
        case _:
            target.symlink_to("nowhere")
    before = target.lstat()
    with pytest.raises(FileExistsError):
        export(content_of(raw), 8 * MIB, target)
    assert (target.lstat().st_ino, target.lstat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    assert os.listdir(folder) == ["taken"]


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(
    raw: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = folder / "image.qcow2"
    flush = os.fsync

    def flush_slowly(descriptor: int) -> None:
        flush(descriptor)
        target.write_bytes(b"mine")

    monkeypatch.setattr(os, "fsync", flush_slowly)
    with pytest.raises(FileExistsError):
        export(content_of(raw), 6 * MIB, target)
    assert target.read_bytes() == b"mine"
    assert os.listdir(folder) == ["image.qcow2"]


def test_damaged_bytes_are_not_exported(raw: Path, folder: Path) -> None:
    content = content_of(raw)
    digest = hashlib.sha256(content.read_bytes()).hexdigest()
    damaged = bytearray(content.read_bytes())
    damaged[-1] ^= 1
    with pytest.raises(Failure) as caught:
        exporting.export(io.BytesIO(damaged), digest, 8 * MIB, folder / "image.qcow2")
    assert caught.value.reason == "CONTENT_DAMAGED"
    assert os.listdir(folder) == []


@pytest.mark.parametrize("room_kib", [64, 1024, None], ids=["nothing", "some", "no folder"])
def test_a_disk_that_fills_up_keeps_nothing(raw: Path, folder: Path, room_kib: int | None) -> None:
    """On a real file system of that size, and in a folder that is not there."""
    program = (
        "import hashlib, sys; from pathlib import Path;"
        "from darkroom.imaging.export import export;"
        "content = Path(sys.argv[1]);"
        "file = content.open('rb') if content.exists() else None;"
        "digest = hashlib.sha256(content.read_bytes()).hexdigest() if file else '';"
        "export(file, digest, 1 << 50, Path(sys.argv[2]))"
    )
    content = content_of(raw) if room_kib != 64 else Path("none")
    target = folder / "image.qcow2" if room_kib else folder / "gone" / "image.qcow2"
    command = shlex.join([sys.executable, "-c", program, str(content), str(target)])
    room = ["--size", str(room_kib * 1024), "--tmpfs", str(folder)] if room_kib else []
    result = subprocess.run(
        [
            *("bwrap", "--dev-bind", "/", "/", *room, "--"),
            *("sh", "-c", f"{command}; echo status $?; ls -A {shlex.quote(str(folder))}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "status 1\n", result
    expected = "No space left on device" if room_kib else "No such file or directory"
    assert expected in result.stderr.splitlines()[-1]
